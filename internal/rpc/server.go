package rpc

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/paxosgroup"
)

// maxStreams bounds the RPCs under way on one connection.
const maxStreams = 1000

const (
	serviceName = "spand.node.v1.Node"
	methodCalls = "/" + serviceName + "/Calls"
)

var (
	frameMethods = map[paxosgroup.Class]string{paxosgroup.ClassHeartbeat: "Heartbeats", paxosgroup.ClassSnapshot: "Snapshots"}
	streamDesc   = grpc.StreamDesc{ClientStreams: true, ServerStreams: true}
)

func methodOf(c paxosgroup.Class) string { return "/" + serviceName + "/" + frameMethods[c] }

// ServerOptions are what the server of a node's RPC port must be made with: every
// call is authorized; a peer may keep connections alive, and dead ones end.
func ServerOptions(insecure bool) []grpc.ServerOption {
	return append(authorize(insecure),
		grpc.InitialWindowSize(4<<20), grpc.InitialConnWindowSize(16<<20), grpc.MaxRecvMsgSize(16<<20),
		grpc.ConnectionTimeout(pingEvery), grpc.MaxConcurrentStreams(maxStreams),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingEvery / 2, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingEvery, Timeout: pingTimeout}))
}

// Register adds the node service to a gRPC server. Its messages are packets,
// not protocol buffers, so the service description is written here by hand.
func (n *Network) Register(s *grpc.Server) {
	desc := grpc.ServiceDesc{ServiceName: serviceName, HandlerType: (*any)(nil), Metadata: "internal/rpc"}
	for class, name := range frameMethods {
		desc.Streams = append(desc.Streams, grpc.StreamDesc{
			StreamName: name, ClientStreams: true, ServerStreams: true,
			Handler: func(_ any, ss grpc.ServerStream) error { return n.serveFrames(ss, class) },
		})
	}
	desc.Streams = append(desc.Streams, grpc.StreamDesc{
		StreamName: "Calls", ClientStreams: true, ServerStreams: true,
		Handler: func(_ any, ss grpc.ServerStream) error { return n.serveCalls(ss) },
	})
	s.RegisterService(&desc, n)
}

// serveFrames delivers a peer's frames of one class in order, on this goroutine,
// so that a slow receiver pushes back through gRPC's flow control. A stream that
// the peer opens after one that broke is read while the last frames of that one may
// still be with the handler: they take turns, and what a broken stream still has is lost.
func (n *Network) serveFrames(ss grpc.ServerStream, class paxosgroup.Class) error {
	from, err := n.sender(ss.Context())
	if err != nil {
		return err
	}
	n.mu.Lock()
	to := n.frames
	n.mu.Unlock()
	if to == nil {
		return errNotReady
	}
	turn := n.peers[from].turns[class]
	for {
		var in packet
		if err := ss.RecvMsg(&in); err != nil {
			return err
		}
		select {
		case turn <- struct{}{}:
		case <-ss.Context().Done():
			return ss.Context().Err()
		}
		err := eachFrame(in.data, func(f []byte) {
			if ss.Context().Err() == nil {
				to.Receive(from, class, f)
			}
		})
		<-turn
		if err != nil {
			return err
		}
	}
}

// serveCalls runs each call on a goroutine to itself and sends the answers, in
// the order in which they come, through one queue. It ends when either half does:
// only its return breaks the stream, and lets the caller know.
func (n *Network) serveCalls(ss grpc.ServerStream) error {
	from, err := n.sender(ss.Context())
	if err != nil {
		return err
	}
	n.mu.Lock()
	handle := n.calls
	n.mu.Unlock()
	if handle == nil {
		return errNotReady
	}
	ctx, cancel := context.WithCancel(ss.Context())
	srv := &callServer{ctx: ctx, cancel: cancel, refused: &n.refused, from: from, handle: handle, out: newQueue(callBudget),
		work: make(chan call), cancels: map[uint64]context.CancelFunc{}}
	defer srv.end()
	srv.out.put(encodeHello())
	over := make(chan error, 2)
	go func() { // ends with the stream
		for {
			data, err := srv.out.take(ctx)
			if err != nil {
				return
			}
			if err := ss.SendMsg(&packet{data}); err != nil {
				over <- err
				return
			}
		}
	}()
	go func() { over <- srv.receiveAll(ss) }() // likewise
	select {
	case err := <-over:
		return err
	case <-ctx.Done():
		return errUnread
	}
}

var _ paxosgroup.Transport = (*Network)(nil)

// Self returns this node's id.
func (n *Network) Self() keys.NodeID { return n.cfg.Self }
