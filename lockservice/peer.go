package lockservice

import (
	"context"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/spandb/spand/lockservice/lockpb"
)

// openWithin bounds the wait for a stream to stand, and stallAfter the silence of a
// node over a call that does not wait for a lock, before another node is asked who leads.
const (
	openWithin = 3 * time.Second
	stallAfter = time.Second
)

// peer is a node of the cluster as this client uses it: one gRPC connection, and at most two
// Do streams, on it or on lanes beside it, each opened at the first call and again at the first
// call after it broke. One
// is for calls that wait for locks: a server bounds the calls under way on a stream, and
// what frees a lock must not queue behind those who wait for it.
type peer struct {
	c       *Client
	addr    string
	plain   atomic.Int64 // until when, in Unix nanoseconds, it is not asked to welcome a lane
	doubted atomic.Bool  // other nodes are being asked about it

	mu      sync.Mutex
	conn    *grpc.ClientConn
	closed  bool
	calls   [2]*callStream // nil or broken: to be opened
	opening [2]*opening
	renewal context.CancelCauseFunc // of the KeepAlive streams over it
	streams context.Context
}

// opening is an attempt to open the Do stream that callers share.
type opening struct {
	done  chan struct{}
	calls *callStream
	err   error
}

func newPeer(c *Client, addr string) *peer { return &peer{c: c, addr: addr} }

// broken is what a call meets when its stream ends before its answer.
type broken struct{ cause error }

func (b *broken) Error() string { return errorOf(b.cause).Message }

// unsent is what it meets when it had no stream to go out on.
type unsent struct{ cause error }

func (u *unsent) Error() string { return errorOf(u.cause).Message }

var errSilent = &Error{Code: codes.Unavailable, Message: "the node is silent"}

// connectLocked returns the connection and the context of its streams.
func (n *peer) connectLocked() (*grpc.ClientConn, context.Context, error) {
	if n.closed {
		return nil, nil, ErrClosed
	}
	if n.conn == nil {
		conn, err := grpc.NewClient("passthrough:///"+n.addr, n.c.dial...)
		if err != nil {
			return nil, nil, err
		}
		n.conn = conn
		n.streams, n.renewal = context.WithCancelCause(n.c.ctx)
	}
	return n.conn, n.streams, nil
}

// forsake breaks every stream over the node: their calls go on elsewhere.
func (n *peer) forsake(why error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.renewal != nil {
		n.renewal(why)
		n.streams, n.renewal = context.WithCancelCause(n.c.ctx)
	}
	n.calls = [2]*callStream{}
}

// Kinds of Do streams.
const (
	promptCalls  = 0
	waitingCalls = 1
)

func (n *peer) close() {
	n.mu.Lock()
	n.closed = true
	conn, cancel := n.conn, n.renewal
	n.mu.Unlock()
	if conn != nil {
		cancel(ErrClosed)
		conn.Close()
	}
}

// open opens a stream, giving up after openWithin. The stream ends with the returned cancel,
// with forsake and with the client.
func open[S any](n *peer, open func(context.Context, lockpb.LockServiceClient) (S, error)) (S, context.CancelCauseFunc, error) {
	var none S
	n.mu.Lock()
	conn, streams, err := n.connectLocked()
	n.mu.Unlock()
	if err != nil {
		return none, nil, err
	}
	ctx, cancel := context.WithCancelCause(streams)
	late := time.AfterFunc(openWithin, func() { cancel(errSilent) })
	stream, err := open(ctx, lockpb.NewLockServiceClient(conn))
	if !late.Stop() && err == nil {
		err = errSilent
	}
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		cancel(err)
		return none, nil, err
	}
	return stream, cancel, nil
}

// stream returns the Do stream of a kind, opening it if need be.
func (n *peer) stream(ctx context.Context, kind int) (*callStream, error) {
	n.mu.Lock()
	if s := n.calls[kind]; s != nil && !s.isBroken() {
		n.mu.Unlock()
		return s, nil
	}
	o := n.opening[kind]
	if o == nil {
		o = &opening{done: make(chan struct{})}
		n.opening[kind] = o
		n.mu.Unlock()
		if !n.c.start(func() { n.openCalls(kind, o) }) {
			o.err = ErrClosed
			close(o.done)
		}
	} else {
		n.mu.Unlock()
	}
	select {
	case <-o.done:
		return o.calls, o.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (n *peer) openCalls(kind int, o *opening) {
	stream, cancel, err := open(n, n.openTransport)
	n.mu.Lock()
	n.opening[kind] = nil
	if err != nil {
		o.err = err
	} else {
		o.calls = &callStream{
			stream: stream, cancel: cancel, pending: map[uint64]*pendingCall{},
			wake: make(chan struct{}, 1), down: make(chan struct{}),
		}
		n.calls[kind] = o.calls
	}
	n.mu.Unlock()
	if s := o.calls; s != nil && !(n.c.start(s.read) && n.c.start(s.write)) {
		s.fail(ErrClosed)
	}
	close(o.done)
}

// plainFor is how long a node that welcomes no lane is not asked again: it may be of an older build,
// or it was about to end.
const plainFor = time.Minute

// openTransport opens a lane, or a gRPC stream where lanes are not known or not wanted.
func (n *peer) openTransport(ctx context.Context, c lockpb.LockServiceClient) (transport, error) {
	if n.c.lanes && time.Now().UnixNano() >= n.plain.Load() {
		l, err := openLane(ctx, n.c.dialer, n.addr)
		if err == nil {
			if !n.c.start(l.run) {
				l.close()
				return nil, ErrClosed
			}
			return l, nil
		}
		if !errors.Is(err, errNoLane) || ctx.Err() != nil {
			return nil, err
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) { // who was only slow is asked again
			n.plain.Store(time.Now().Add(plainFor).UnixNano())
		}
	}
	stream, err := c.Do(ctx)
	if err != nil {
		return nil, err
	}
	return grpcCalls{stream}, nil
}

// notices are what a call hears beside its answer, on the stream's goroutine: they must not block.
type notices struct {
	// waiting is told the ticket of an Acquire that waits.
	waiting func(ticket int64)
	// settled, if set, has the call end as soon as its Release is ordered, and is told what becomes of that then: nil,
	// what the service answered, or a *broken if it is not known.
	settled func(error)
}

// do makes one attempt of a call at this node, of a cell (nil: of none). The error is an *Error that the service
// answered, a *broken when the stream ended first, an *unsent, or the cause of ctx's or the
// session's end.
func (n *peer) do(ctx context.Context, l *cell, s *Session, req *lockpb.DoRequest, hear notices) (*lockpb.DoResponse, error) {
	kind, waits := promptCalls, hear.waiting != nil
	if waits {
		kind = waitingCalls
	}
	stream, err := n.stream(ctx, kind)
	if err != nil {
		return nil, &unsent{err}
	}
	p := &pendingCall{answer: make(chan *lockpb.DoResponse, 2), cell: l, notices: hear}
	id, err := stream.send(req, p)
	if err != nil {
		return nil, &unsent{err}
	}
	for {
		select {
		case resp := <-p.answer:
			if resp != nil {
				return answerOf(resp)
			}
			if now := l.leader.Load(); now != nil && now != n {
				stream.giveUp(id, false)
				return nil, &broken{errSilent}
			}
			n.c.start(func() { n.c.doubt(n) })
		case <-stream.down:
			for len(p.answer) > 0 { // it came before
				if resp := <-p.answer; resp != nil {
					return answerOf(resp)
				}
			}
			return nil, &broken{stream.err}
		case <-ctx.Done():
			stream.giveUp(id, waits)
			return nil, context.Cause(ctx)
		case <-s.ended():
			stream.giveUp(id, waits)
			return nil, s.why()
		}
	}
}

func answerOf(resp *lockpb.DoResponse) (*lockpb.DoResponse, error) {
	if f := resp.GetFailure(); f != nil {
		return nil, errorOfFailure(f)
	}
	return resp, nil
}

// prompt is the stream of prompt calls, nil if there is none.
func (n *peer) prompt() *callStream {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.calls[promptCalls]
}

// owedAfter is when the outcome of a release that was ordered is overdue: it takes milliseconds.
const owedAfter = stallAfter / 4

// owes reports that the node has ordered a release and said no more for too long.
func (n *peer) owes() bool {
	s := n.prompt()
	return s != nil && s.overdue(owedAfter)
}

// dismiss has the node's answers to releases of a cell that it has ordered awaited no longer.
func (n *peer) dismiss(l *cell) {
	s := n.prompt()
	if s == nil {
		return
	}
	s.mu.Lock()
	owed := s.owedLocked(l)
	s.mu.Unlock()
	for _, p := range owed {
		p.settled(&broken{errSilent})
	}
}
