package server

import (
	"bufio"
	"context"
	"net"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/spandb/spand/internal/lane"
	"github.com/spandb/spand/lockservice/lockpb"
)

const (
	// maxRequest bounds a request that comes over a lane, as gRPC's of this server are bounded.
	maxRequest = 16 << 20
	// maxUnsent are the bytes of answers that a lane has not sent above which no more are encoded.
	maxUnsent = 1 << 20
	// laneReads is a lane's read buffer: a client has two lanes, and there may be many clients.
	laneReads = 8 << 10
)

// ServeLane carries out the calls of one lock client over a lane (lane.CallsHello, which has been
// welcomed): frames are DoRequests and, back, DoResponses, as on a Do stream; an empty frame asks
// for one in return. Who comes over a lane has no metadata to say who he is. It returns when the
// connection is closed, by either side, or soon after Shutdown, and closes it.
func (s *Server) ServeLane(conn net.Conn) {
	d, end := s.newDoStream(context.Background(), s.cfg.Principal(context.Background()))
	open, cut := context.WithCancel(context.Background())
	defer context.AfterFunc(open, func() { conn.Close() })()
	out := lane.NewSender(unlimited)
	out.Open(conn)
	d.direct = func(resp *lockpb.DoResponse) {
		if b, err := proto.Marshal(resp); err != nil {
			cut()
		} else {
			out.Put(b)
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		out.Run(open, conn, 0) // until it is closed, of which the reader learns too
	})
	more, noMore := context.WithCancel(open)
	sent := make(chan struct{})
	wg.Go(func() {
		if d.sendTo(open, more, out) != nil {
			cut()
		}
		close(sent)
	})
	wg.Go(func() {
		select {
		case <-s.quit.Done():
		case <-open.Done():
			return
		}
		d.giveUp()
		d.finish() // they end now
		noMore()
		patience, enough := context.WithTimeout(open, partingPatience)
		defer enough()
		select {
		case <-sent:
			out.Room(patience, 0)
		case <-patience.Done(): // the client takes nothing
		}
		cut()
	})
	d.receive(laneRequests(open, conn, out))
	cut()
	conn.Close()
	end()
	wg.Wait()
}

// laneRequests reads a lane's requests, and answers pings.
func laneRequests(ctx context.Context, conn net.Conn, out *lane.Sender) func() (*lockpb.DoRequest, error) {
	in := bufio.NewReaderSize(conn, laneReads)
	var buf []byte
	return func() (*lockpb.DoRequest, error) {
		for {
			if err := out.Room(ctx, maxAnswers); err != nil {
				return nil, err
			}
			frame, err := lane.Read(in, maxRequest, buf)
			if err != nil {
				return nil, err
			}
			if cap(frame) <= maxUnsent {
				buf = frame
			}
			if len(frame) == 0 {
				out.Ping()
				continue
			}
			req := new(lockpb.DoRequest)
			if err := proto.Unmarshal(frame, req); err != nil {
				return nil, err
			}
			return req, nil
		}
	}
}

// sendTo sends what is in the outbox, many answers in one write: until ctx ends, or more has ended and
// all is sent (nil).
func (d *doStream) sendTo(ctx, more context.Context, out *lane.Sender) error {
	var frames []byte
	for {
		if err := out.Room(ctx, maxUnsent); err != nil {
			return err
		}
		list, err := d.out.takeMany(more)
		if err != nil {
			return context.Cause(ctx)
		}
		frames = frames[:0]
		for _, resp := range list {
			b, err := proto.Marshal(resp)
			if err != nil {
				return err
			}
			frames = lane.Append(frames, b)
		}
		out.PutAll(frames)
	}
}
