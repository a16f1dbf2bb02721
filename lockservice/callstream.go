package lockservice

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/spandb/spand/lockservice/lockpb"
)

// callStream carries calls over one Do stream. Its reader and writer goroutines end when it
// breaks.
type callStream struct {
	stream transport
	cancel context.CancelCauseFunc
	down   chan struct{} // closed when broken, err being set
	err    error
	wake   chan struct{} // something is in out

	mu      sync.Mutex
	pending map[uint64]*pendingCall // nil when broken
	last    uint64
	out     []*lockpb.DoRequest
	sending bool // somebody sends; whoever it is wakes the writer if there is more
	// Bytes of the requests so far, in the order in which they go out, and how many of them the
	// server is known to have received.
	sent, received int
	// watch looks for calls that stall: one timer, while there are calls, for all of them.
	watch    *time.Timer
	watching bool
}

// A caller sends his request himself while few calls are under way, which saves waking the
// writer, and only where gRPC is certain to take it without waiting for the server, so that no
// context is overrun: it takes what comes while less than 64 KiB of the stream is still on its
// way. What a call has sent may be so long after its caller has given up; what is known to have
// arrived is what an answer came to, and all that was sent before.
const (
	maxSelfSent      = 32
	maxSelfSentBytes = 32 << 10
	sentOverhead     = 16 // bytes of a request, at most, beside its own: of gRPC's framing
)

// fewCalls may be under way on a lane for a caller to send his request himself: of more, several come
// together, and one write is cheaper than many.
const fewCalls = 2

type pendingCall struct {
	answer chan *lockpb.DoResponse // has room for it, and for a nil, which says that the call stalls
	cell   *cell
	notices
	// Guarded by the stream's mutex:
	stalls  time.Time // when it will have gone unanswered for stallAfter; zero: it may
	ordered time.Time // a Release is, and its caller gone, since then; zero: not
	end     int       // what the stream's sent was with it
}

func (s *callStream) isBroken() bool {
	select {
	case <-s.down:
		return true
	default:
		return false
	}
}

func (s *callStream) fail(err error) {
	s.mu.Lock()
	if s.pending == nil {
		s.mu.Unlock()
		return
	}
	owed := s.owedLocked(nil)
	s.pending, s.out = nil, nil
	if s.watch != nil {
		s.watch.Stop()
	}
	s.err = err
	close(s.down)
	s.cancel(err)
	s.mu.Unlock()
	for _, p := range owed {
		p.settled(&broken{err})
	}
}

// owedLocked takes out the calls of a cell (nil: of all) whose callers have gone on before their answer.
func (s *callStream) owedLocked(l *cell) (owed []*pendingCall) {
	for id, p := range s.pending {
		if !p.ordered.IsZero() && (l == nil || p.cell == l) {
			owed = append(owed, p)
			delete(s.pending, id)
		}
	}
	return owed
}

// overdue reports that such a call has not been answered for so long.
func (s *callStream) overdue(after time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.pending {
		if !p.ordered.IsZero() && time.Since(p.ordered) >= after {
			return true
		}
	}
	return false
}

// send queues a request, which it numbers.
func (s *callStream) send(req *lockpb.DoRequest, p *pendingCall) (uint64, error) {
	s.mu.Lock()
	if s.pending == nil {
		s.mu.Unlock()
		return 0, s.err
	}
	s.last++
	id := s.last
	req.Id = id
	s.pending[id] = p
	if p.cell != nil && p.waiting == nil {
		p.stalls = time.Now().Add(stallAfter)
		s.watchLocked(stallAfter)
	}
	if s.stream.prompt() {
		if s.sending || len(s.out) > 0 || len(s.pending) > fewCalls {
			s.out = append(s.out, req)
			s.mu.Unlock()
			s.poke()
			return id, nil
		}
		s.mu.Unlock()
		s.stream.sendAll([]*lockpb.DoRequest{req})
		return id, nil
	}
	s.countLocked(req)
	p.end = s.sent
	// A stream of which nothing is known yet is gRPC's to open once more, elsewhere.
	if s.sending || len(s.out) > 0 || len(s.pending) > maxSelfSent || s.received == 0 || s.sent-s.received > maxSelfSentBytes {
		s.out = append(s.out, req)
		s.mu.Unlock()
		s.poke()
		return id, nil
	}
	s.sending = true
	s.mu.Unlock()
	// Its error is the stream's end, of which the reader learns why.
	s.stream.sendAll([]*lockpb.DoRequest{req})
	s.endTurn()
	return id, nil
}

func (s *callStream) countLocked(req *lockpb.DoRequest) { s.sent += proto.Size(req) + sentOverhead }

func (s *callStream) watchLocked(after time.Duration) {
	switch {
	case s.watching:
		return
	case s.watch == nil:
		s.watch = time.AfterFunc(after, s.tellStalled)
	default:
		s.watch.Reset(after)
	}
	s.watching = true
}

// tellStalled lets calls know that have gone unanswered for stallAfter, and looks again when the next will have.
func (s *callStream) tellStalled() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watching = false
	now := time.Now()
	var next time.Time
	for _, p := range s.pending {
		if p.stalls.IsZero() || !p.ordered.IsZero() {
			continue
		}
		if !now.Before(p.stalls) {
			if len(p.answer) == 0 {
				p.answer <- nil
			}
			p.stalls = now.Add(stallAfter)
		}
		if next.IsZero() || p.stalls.Before(next) {
			next = p.stalls
		}
	}
	if !next.IsZero() {
		s.watchLocked(next.Sub(now))
	}
}

// endTurn ends a turn of sending.
func (s *callStream) endTurn() {
	s.mu.Lock()
	s.sending = false
	more := len(s.out) > 0
	s.mu.Unlock()
	if more {
		s.poke()
	}
}

func (s *callStream) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// giveUp forgets a call whose caller is gone, and tells the server if it waits there.
func (s *callStream) giveUp(id uint64, tell bool) {
	s.mu.Lock()
	delete(s.pending, id)
	if tell && s.pending != nil {
		req := &lockpb.DoRequest{Call: &lockpb.DoRequest_Cancel{Cancel: id}}
		s.countLocked(req)
		s.out = append(s.out, req)
	}
	s.mu.Unlock()
	s.poke()
}

func (s *callStream) write() {
	for {
		select {
		case <-s.wake:
		case <-s.down:
			return
		}
		if s.stream.prompt() {
			runtime.Gosched() // others are about to call too, and one write is cheaper than many
		}
		s.mu.Lock()
		var out []*lockpb.DoRequest
		if !s.sending {
			out, s.out = s.out, nil
			s.sending = len(out) > 0
		}
		s.mu.Unlock()
		if len(out) > 0 {
			if err := s.stream.sendAll(out); err != nil {
				return // the reader learns why
			}
			s.endTurn()
		}
	}
}

func (s *callStream) read() {
	for {
		resp, err := s.stream.Recv()
		if err != nil {
			if cause := context.Cause(s.stream.Context()); cause != nil && !errors.Is(cause, context.Canceled) {
				err = cause
			}
			s.fail(err)
			return
		}
		s.hear(resp)
	}
}

// hear gives an answer, or a notice, to its call.
func (s *callStream) hear(resp *lockpb.DoResponse) {
	var settled bool
	s.mu.Lock()
	p := s.pending[resp.Id]
	if p == nil {
		s.mu.Unlock()
		return
	}
	s.received = max(s.received, p.end)
	switch resp.Answer.(type) {
	case *lockpb.DoResponse_Waiting:
	case *lockpb.DoResponse_Ordered:
		if p.settled == nil || !p.ordered.IsZero() { // not asked for
			s.mu.Unlock()
			return
		}
		p.ordered = time.Now()
	default:
		delete(s.pending, resp.Id)
		settled = !p.ordered.IsZero()
	}
	s.mu.Unlock()
	switch ticket, isWaiting := resp.Answer.(*lockpb.DoResponse_Waiting); {
	case settled:
		_, err := answerOf(resp)
		p.settled(err)
	case !isWaiting:
		p.answer <- resp
	case p.waiting != nil:
		p.waiting(ticket.Waiting)
	}
}
