package lockservice

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/spandb/spand/internal/lane"
	"github.com/spandb/spand/lockservice/lockpb"
)

// transport carries a Do stream's messages: a gRPC stream (grpcCalls), or a lane to the same port of
// the node, which spares each end three goroutines and is used where nothing was asked of gRPC.
type transport interface {
	// sendAll sends requests, from one goroutine at a time unless prompt.
	sendAll([]*lockpb.DoRequest) error
	// prompt reports that sendAll never waits, and may be called concurrently.
	prompt() bool
	Recv() (*lockpb.DoResponse, error)
	Context() context.Context
}

type grpcCalls struct{ lockpb.LockService_DoClient }

func (g grpcCalls) prompt() bool { return false }

func (g grpcCalls) sendAll(reqs []*lockpb.DoRequest) error {
	for _, req := range reqs {
		if err := g.Send(req); err != nil {
			return err
		}
	}
	return nil
}

const (
	// A lane pings when it is due; one that has been silent for longer than silentFor is dead.
	pingEvery   = 10 * time.Second
	pingTimeout = 3 * time.Second
	silentFor   = pingEvery + pingTimeout
	// maxAnswer bounds an answer, as gRPC's are bounded.
	maxAnswer = 64 << 20
	// laneReads is a lane's read buffer.
	laneReads = 16 << 10
	// welcomeWithin bounds the wait for a node to welcome a lane, before gRPC is tried.
	welcomeWithin = time.Second
)

// laneCalls is a Do stream on a lane.
type laneCalls struct {
	ctx  context.Context
	conn net.Conn
	out  *lane.Sender
	in   *bufio.Reader
	buf  []byte
	stop func() bool
}

// dialer connects to a node's address.
type dialer = func(ctx context.Context, addr string) (net.Conn, error)

func dialTCP(ctx context.Context, addr string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", addr)
}

// errNoLane says that a node, or what is between, knows nothing of lanes.
var errNoLane = errors.New("the node welcomes no lane")

// openLane opens a lane to addr. It ends with ctx. The error is errNoLane when the connection stood.
func openLane(ctx context.Context, dial dialer, addr string) (*laneCalls, error) {
	conn, err := dial(ctx, addr)
	if err != nil {
		return nil, laneError(err)
	}
	l := &laneCalls{ctx: ctx, conn: conn, out: lane.NewSender(maxAnswer), in: bufio.NewReaderSize(&heardConn{Conn: conn}, laneReads)}
	l.stop = context.AfterFunc(ctx, func() { conn.Close() })
	if err := l.hello(); err != nil {
		l.close()
		return nil, fmt.Errorf("%w: %w", errNoLane, err)
	}
	lane.LimitUnacknowledged(conn, pingTimeout)
	l.out.Open(conn)
	return l, nil
}

func (l *laneCalls) hello() error {
	late := time.AfterFunc(welcomeWithin, func() { l.conn.Close() })
	defer late.Stop()
	if _, err := l.conn.Write(lane.Append([]byte(lane.CallsHello), []byte(lane.CallsMethod))); err != nil {
		return err
	}
	why, err := lane.Read(l.in, laneReads, nil)
	switch {
	case !late.Stop():
		return os.ErrDeadlineExceeded
	case err != nil:
		return err
	case len(why) > 0:
		return errors.New(string(why))
	}
	return nil
}

func (l *laneCalls) close() {
	l.stop()
	l.conn.Close()
}

// run writes what senders leave, and pings, until the lane ends.
func (l *laneCalls) run() {
	l.out.Run(l.ctx, l.conn, pingEvery)
	l.close()
}

func (l *laneCalls) prompt() bool             { return true }
func (l *laneCalls) Context() context.Context { return l.ctx }

func (l *laneCalls) sendAll(reqs []*lockpb.DoRequest) error {
	frames := make([]byte, 0, 256)
	for _, req := range reqs {
		at := len(frames)
		frames = lane.Append(frames, nil)
		var err error
		if frames, err = (proto.MarshalOptions{}).MarshalAppend(frames, req); err != nil {
			l.close() // of which the reader learns
			return err
		}
		lane.SetLength(frames[at:])
	}
	l.out.PutAll(frames)
	return nil
}

// Recv returns the next answer; one goroutine calls it.
func (l *laneCalls) Recv() (*lockpb.DoResponse, error) {
	for {
		frame, err := lane.Read(l.in, maxAnswer, l.buf)
		if err != nil {
			return nil, laneError(err)
		}
		if cap(frame) <= 1<<20 {
			l.buf = frame
		}
		if len(frame) == 0 { // pong
			continue
		}
		resp := new(lockpb.DoResponse)
		if err := proto.Unmarshal(frame, resp); err != nil {
			return nil, err
		}
		return resp, nil
	}
}

// heardConn ends when nothing has come for silentFor.
type heardConn struct {
	net.Conn
	till time.Time // its read deadline: moved once a second, and not for each of thousands of answers
}

func (c *heardConn) Read(b []byte) (int, error) {
	if now := time.Now(); c.till.Sub(now) < silentFor-time.Second {
		c.till = now.Add(silentFor)
		if err := c.SetReadDeadline(c.till); err != nil {
			return 0, err
		}
	}
	return c.Conn.Read(b)
}

// laneError is what becomes of a connection, in gRPC's terms.
func laneError(err error) error {
	what := err.Error()
	switch {
	case errors.Is(err, io.EOF):
		what = "the node closed the connection"
	case errors.Is(err, os.ErrDeadlineExceeded):
		what = "the node is silent"
	}
	return &Error{Code: codes.Unavailable, Message: what}
}
