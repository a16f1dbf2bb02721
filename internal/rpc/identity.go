package rpc

import (
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"strconv"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/version"
)

// protocolVersion of the streams between nodes; another one is refused.
const protocolVersion = "4"

// What the header of every stream states.
const (
	mdProtocol    = "spand-protocol"
	mdCluster     = "spand-cluster"
	mdFrom        = "spand-from"
	mdTo          = "spand-to"
	mdIncarnation = "spand-incarnation" // of the sender
	mdVersions    = "spand-versions"    // of the cluster that the sender's program can run
	mdVersion     = "spand-version"     // of the cluster, as the sender knows it; 0: not yet
	mdClass       = "spand-class"       // of a lane's frames
)

// outgoing adds this node's identity to a stream to node to.
func (n *Network) outgoing(ctx context.Context, to keys.NodeID) context.Context {
	return metadata.AppendToOutgoingContext(ctx, n.identity(to)...)
}

// identity is what a stream or a lane to node to states: keys and values.
func (n *Network) identity(to keys.NodeID) []string {
	return []string{
		mdProtocol, protocolVersion,
		mdCluster, hex.EncodeToString(n.cfg.Cluster[:]),
		mdFrom, strconv.FormatUint(uint64(n.cfg.Self), 10),
		mdTo, strconv.FormatUint(uint64(to), 10),
		mdIncarnation, strconv.FormatUint(n.cfg.Incarnation, 10),
		mdVersions, n.cfg.Versions.String(),
		mdVersion, strconv.FormatUint(uint64(n.cfg.Version.Known()), 10),
	}
}

// sender checks a stream's identity and returns who opened it.
func (n *Network) sender(ctx context.Context) (keys.NodeID, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	return n.identify(func(key string) string {
		if v := md.Get(key); len(v) == 1 {
			return v[0]
		}
		return ""
	})
}

// identify checks an identity, of which get returns the values, and returns whose it is.
func (n *Network) identify(get func(key string) string) (keys.NodeID, error) {
	if v := get(mdProtocol); v != protocolVersion {
		return 0, status.Errorf(codes.FailedPrecondition, "node protocol version %q, this node speaks %q", v, protocolVersion)
	}
	if c := get(mdCluster); c != hex.EncodeToString(n.cfg.Cluster[:]) {
		return 0, status.Errorf(codes.FailedPrecondition, "this node belongs to another cluster (yours %s, mine %x)", c, n.cfg.Cluster[:])
	}
	if to := get(mdTo); to != strconv.FormatUint(uint64(n.cfg.Self), 10) {
		return 0, status.Errorf(codes.FailedPrecondition, "this is node %d, not node %s: check --cluster", n.cfg.Self, to)
	}
	from, err := strconv.ParseUint(get(mdFrom), 10, 32)
	if err != nil || from == 0 {
		return 0, status.Errorf(codes.InvalidArgument, "no sender in the stream's header")
	}
	p := n.peers[keys.NodeID(from)]
	if p == nil {
		return 0, status.Errorf(codes.FailedPrecondition, "node %d is not another member of this cluster", from)
	}
	inc, err := strconv.ParseUint(get(mdIncarnation), 10, 64)
	if err != nil {
		return 0, status.Errorf(codes.InvalidArgument, "no incarnation in the stream's header")
	}
	can, err := version.Parse(get(mdVersions))
	if err != nil {
		return 0, status.Errorf(codes.InvalidArgument, "versions in the stream's header: %v", err)
	}
	theirs, err := strconv.ParseUint(get(mdVersion), 10, 32)
	if err != nil {
		return 0, status.Errorf(codes.InvalidArgument, "no cluster version in the stream's header")
	}
	// Who does not know the cluster's version yet learns it over these streams.
	if v := n.cfg.Version.Known(); v != 0 {
		if err := can.Check(v); err != nil {
			return 0, status.Errorf(codes.FailedPrecondition, "node %d: %v", from, err)
		}
	}
	if v := version.Version(theirs); v != 0 {
		if err := n.cfg.Versions.Check(v); err != nil {
			return 0, status.Errorf(codes.FailedPrecondition, "node %d: %v", n.cfg.Self, err)
		}
	}
	if !p.met(inc, can) {
		return 0, status.Errorf(codes.FailedPrecondition, "a later life of node %d has been here", from)
	}
	return p.id, nil
}

// meeting is what a peer said of itself when it last connected.
type meeting struct {
	incarnation uint64
	versions    version.Range
}

// met notes a peer's life; false for one that a later one has replaced.
func (p *netPeer) met(inc uint64, can version.Range) bool {
	for {
		old := p.last.Load()
		if old != nil && old.incarnation > inc {
			return false
		}
		if p.last.CompareAndSwap(old, &meeting{inc, can}) {
			return true
		}
	}
}

// Incarnation returns the latest that a peer has connected with, 0 for none yet.
func (n *Network) Incarnation(id keys.NodeID) uint64 {
	if p := n.peers[id]; p != nil {
		if m := p.last.Load(); m != nil {
			return m.incarnation
		}
	}
	return 0
}

// SetIncarnation replaces this node's own. It must not be called after Start.
func (n *Network) SetIncarnation(inc uint64) { n.cfg.Incarnation = inc }

// Versions returns the range of cluster versions that a member's program can run;
// ok is false for a peer that has not connected to this node yet.
func (n *Network) Versions(id keys.NodeID) (can version.Range, ok bool) {
	if id == n.cfg.Self {
		return n.cfg.Versions, true
	}
	if p := n.peers[id]; p != nil {
		if m := p.last.Load(); m != nil {
			return m.versions, true
		}
	}
	return version.Range{}, false
}

// authorize returns the interceptors that guard every RPC of a server: without
// certificates only loopback is trusted, unless insecure.
func authorize(insecure bool) []grpc.ServerOption {
	check := func(ctx context.Context) error {
		p, ok := peer.FromContext(ctx)
		if !ok {
			return status.Error(codes.Unauthenticated, "peer address unknown")
		}
		return trusted(p.Addr, insecure)
	}
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
			if err := check(ctx); err != nil {
				return nil, err
			}
			return h(ctx, req)
		}),
		grpc.ChainStreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) error {
			if err := check(ss.Context()); err != nil {
				return err
			}
			return h(srv, ss)
		}),
	}
}

// trusted refuses who may not speak to this node.
func trusted(a net.Addr, insecure bool) error {
	if !insecure && !loopback(a) {
		return status.Errorf(codes.Unauthenticated,
			"unauthenticated RPC from %v: only loopback is trusted; start the node with --insecure to allow it", a)
	}
	return nil
}

func loopback(a net.Addr) bool {
	switch a := a.(type) {
	case *net.TCPAddr:
		return a.IP.IsLoopback()
	case *net.UnixAddr:
		return true
	}
	return a.Network() == "bufconn" // in-memory connections of tests
}

// UnreachableError says that a call got no answer from a node. The request may
// have been executed when Sent.
type UnreachableError struct {
	Node keys.NodeID
	Sent bool
	Err  error
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("rpc: node %d unreachable: %v", e.Node, e.Err)
}

func (e *UnreachableError) Unwrap() error { return e.Err }

// NotSent reports that the request was certainly not executed.
func (e *UnreachableError) NotSent() bool { return !e.Sent }
