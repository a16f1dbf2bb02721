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
)

// protocolVersion of the streams between nodes; another one is refused.
const protocolVersion = "1"

const (
	mdVersion = "spand-protocol"
	mdCluster = "spand-cluster"
	mdFrom    = "spand-from"
	mdTo      = "spand-to"
)

// outgoing adds this node's identity to a stream to node to.
func (n *Network) outgoing(ctx context.Context, to keys.NodeID) context.Context {
	return metadata.AppendToOutgoingContext(ctx,
		mdVersion, protocolVersion,
		mdCluster, hex.EncodeToString(n.cfg.Cluster[:]),
		mdFrom, strconv.FormatUint(uint64(n.cfg.Self), 10),
		mdTo, strconv.FormatUint(uint64(to), 10))
}

// sender checks a stream's identity and returns who opened it.
func (n *Network) sender(ctx context.Context) (keys.NodeID, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	get := func(key string) string {
		if v := md.Get(key); len(v) == 1 {
			return v[0]
		}
		return ""
	}
	if v := get(mdVersion); v != protocolVersion {
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
	if _, ok := n.cfg.Addrs[keys.NodeID(from)]; !ok {
		return 0, status.Errorf(codes.FailedPrecondition, "node %d is not a member of this cluster", from)
	}
	return keys.NodeID(from), nil
}

// Authorize returns the interceptors that guard every RPC of a server: without
// certificates only loopback is trusted, unless insecure.
func Authorize(insecure bool) []grpc.ServerOption {
	check := func(ctx context.Context) error {
		if insecure {
			return nil
		}
		p, ok := peer.FromContext(ctx)
		if !ok {
			return status.Error(codes.Unauthenticated, "peer address unknown")
		}
		if !loopback(p.Addr) {
			return status.Errorf(codes.Unauthenticated,
				"unauthenticated RPC from %v: only loopback is trusted; start the node with --insecure to allow it", p.Addr)
		}
		return nil
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
