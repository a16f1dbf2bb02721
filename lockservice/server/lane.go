package server

import (
	"bufio"
	"context"
	"net"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/spandb/spand/internal/lane"
	"github.com/spandb/spand/lockservice/lockpb"
)

const (
	// maxRequest bounds a request that comes over a lane, as gRPC's of this server are bounded.
	maxRequest = 16 << 20
	// maxUnsent are the bytes of answers that a lane has not sent above which no more are encoded.
	maxUnsent = 1 << 20
	// maxWrite is how many bytes of answers are put together.
	maxWrite = 256 << 10
	// progressEvery is how often a client that sends much hears that it arrives.
	progressEvery = time.Second
	// laneReads is a lane's read buffer: a client has two lanes, and there may be many clients.
	laneReads = 8 << 10
)

// ServeLane carries out the calls of one lock client over a lane (lane.CallsHello, which has been
// welcomed): frames are DoRequests and, back, DoResponses, as on a Do stream; an empty frame asks
// for one in return. Who comes over a lane has no metadata to say who he is. It returns when the
// connection is closed, by either side, or soon after Shutdown, and closes it.
func (s *Server) ServeLane(conn net.Conn) {
	open, cut := context.WithCancel(context.Background())
	d, end := s.newDoStream(open, s.cfg.Principal(open))
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
		out.Run(open, conn, 0)
		cut() // the reader may wait for room, and not read
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
	d.receive(open, laneRequests(open, conn, out))
	cut()
	conn.Close()
	end()
	wg.Wait()
}

// laneRequests reads a lane's requests, and answers pings; and a request once in progressEvery, for a
// ping may be long behind what is queued before it.
func laneRequests(ctx context.Context, conn net.Conn, out *lane.Sender) func() (*lockpb.DoRequest, error) {
	in := bufio.NewReaderSize(conn, laneReads)
	var buf []byte
	said := time.Now()
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
			if now := time.Now(); len(frame) == 0 || now.Sub(said) >= progressEvery {
				said = now
				out.Ping()
			}
			if len(frame) == 0 {
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
		for _, resp := range list {
			b, err := proto.Marshal(resp)
			if err != nil {
				return err
			}
			if frames = lane.Append(frames, b); len(frames) >= maxWrite {
				out.PutAll(frames)
				frames = nil
				if err := out.Room(ctx, maxUnsent); err != nil {
					return err
				}
			}
		}
		out.PutAll(frames)
		frames = frames[:0]
	}
}
