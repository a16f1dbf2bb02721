package server

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/spandb/spand/lockservice/lockpb"
)

const (
	// maxLeases bounds the bytes of answers to beats that a stream's reader has not taken.
	maxLeases = 32 << 20
	// beatsAt is the part of maxLeases (one over beatsAt) above which no more beats are taken.
	beatsAt = 8
	// Largest KeepAliveResponse: what a client must be ready to receive stays below gRPC's
	// default bound of 4 MiB.
	messageLeases = 4096
	messageBytes  = 1 << 20
)

// KeepAlive implements LockService: one stream serves sessions of one cell, the one that
// its first message names.
func (v *service) KeepAlive(ss grpc.BidiStreamingServer[lockpb.KeepAliveRequest, lockpb.KeepAliveResponse]) error {
	ctx, done := v.s.until(ss.Context())
	defer done()
	return v.s.bounded(func() error { return v.keepAlive(ctx, ss) })
}

func (v *service) keepAlive(ctx context.Context, ss grpc.BidiStreamingServer[lockpb.KeepAliveRequest, lockpb.KeepAliveResponse]) error {
	first, err := ss.Recv()
	if err != nil {
		return err
	}
	name := first.GetCell()
	if _, f := named(name); f != nil {
		return statusOf(f)
	}
	if v.s.cfg.Cells(First) == nil {
		return statusOf(starting())
	}
	c := v.s.cfg.Cells(name)
	if c == nil {
		return statusOf(v.s.absent(name))
	}
	out := newOutbox[*lockpb.Lease](maxLeases)
	stream, err := c.OpenStream(v.s.cfg.Principal(ss.Context()), func(l *lockpb.Lease) { out.put(l, proto.Size(l)) })
	if err != nil {
		return statusOf(v.s.notLeading(name))
	}
	defer stream.Close()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	go func() { stop(receiveBeats(ctx, ss, stream, out, first)) }() // ends with the stream
	go func() {                                                     // likewise
		select {
		case <-stream.Done():
			stop(errLostLeadership)
		case <-ctx.Done():
		}
	}()
	for {
		leases, err := out.take(ctx)
		if err == nil {
			err = sendLeases(ss, leases)
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, errLostLeadership), errors.Is(err, errShutdown):
			return statusOf(v.s.successor(name))
		default:
			return err
		}
	}
}

var errLostLeadership = errors.New("this node does not lead the cell any more")

// receiveBeats hands beats to the cell, first those of a message received before, and takes
// no more of them while much is unread.
func receiveBeats(ctx context.Context, ss grpc.BidiStreamingServer[lockpb.KeepAliveRequest, lockpb.KeepAliveResponse], stream Stream, out *outbox[*lockpb.Lease], in *lockpb.KeepAliveRequest) error {
	name := in.GetCell()
	for {
		if c := in.GetCell(); c != "" && c != name {
			return statusOf(failure(codes.InvalidArgument, reasonBadRequest, "the stream keeps sessions of cell %s alive; cell %.100q wants a stream of its own", name, c))
		}
		for _, b := range in.GetBeats() {
			stream.Beat(b)
		}
		if err := out.room(ctx, maxLeases/beatsAt); err != nil {
			return err
		}
		var err error
		if in, err = ss.Recv(); err != nil {
			return err
		}
	}
}

// sendLeases sends leases in as few messages as the bounds allow.
func sendLeases(ss grpc.BidiStreamingServer[lockpb.KeepAliveRequest, lockpb.KeepAliveResponse], leases []*lockpb.Lease) error {
	for len(leases) > 0 {
		n, bytes := 0, 0
		for n < len(leases) && n < messageLeases && (n == 0 || bytes < messageBytes) {
			bytes += proto.Size(leases[n])
			n++
		}
		if err := ss.Send(&lockpb.KeepAliveResponse{Leases: leases[:n]}); err != nil {
			return err
		}
		leases = leases[n:]
	}
	return nil
}
