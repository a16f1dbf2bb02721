package rpc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/tracing"
)

// Frames of the calls stream. All begin with a kind; the rest:
//
//	hello:    (server to client, first: the header was accepted)
//	request:  id uvarint, method byte, time left in microseconds uvarint, trace context, payload
//	cancel:   id uvarint
//	response: id uvarint, payload
//	refusal:  id uvarint (the request was not executed: too many are)
//	oversize: id uvarint (the request was executed, but its answer fits no frame)
//
// Time left travels instead of a deadline, so that no clock has to agree.
const (
	frameHello byte = iota + 1
	frameRequest
	frameCancel
	frameResponse
	frameRefusal
	frameOversize
)

// Admission of a peer's calls: how many may be under way, and how many bytes of
// requests. More are refused rather than left unread, because what would let
// the waiting ones go on (a commit, a release of locks) comes over the same stream.
const (
	maxCalls     = 4096
	maxCallBytes = 64 << 20
)

// longestCall bounds a call whose caller has set no deadline.
const longestCall = time.Minute

var (
	errNotReady   = status.Error(codes.Unavailable, "node is starting")
	errFrame      = status.Error(codes.InvalidArgument, "malformed call frame")
	errNotOpen    = errors.New("no connection")
	errBroke      = errors.New("connection broke")
	errQueueFull  = errors.New("too many bytes queued")
	errOverloaded = errors.New("too many calls under way")
	errOversize   = errors.New("larger than a frame may be")
	errUnread     = status.Error(codes.ResourceExhausted, "answers are not being read")
)

func encodeHello() []byte { return []byte{frameHello} }

// callStream is the calling half of the calls stream to one peer. It outlives
// the gRPC streams that carry it; calls in flight fail when one breaks.
type callStream struct {
	peer *netPeer
	out  *queue
	up   atomic.Bool // the peer has accepted the current stream's header
	next atomic.Uint64

	mu      sync.Mutex
	waiting map[uint64]chan reply // capacity 1; closed: the stream broke
}

// reply to a call.
type reply struct {
	kind    byte // frameResponse, frameRefusal or frameOversize
	payload []byte
}

func newCallStream(p *netPeer) *callStream {
	return &callStream{peer: p, out: newQueue(callBudget), waiting: map[uint64]chan reply{}}
}

// receive takes a packet of answers.
func (c *callStream) receive(data []byte) error {
	var bad error
	err := eachFrame(data, func(f []byte) {
		if len(f) == 1 && f[0] == frameHello {
			c.up.Store(true)
			return
		}
		if len(f) == 0 || f[0] < frameResponse || f[0] > frameOversize {
			bad = errFrame
			return
		}
		id, w := binary.Uvarint(f[1:])
		if w <= 0 {
			bad = errFrame
			return
		}
		c.mu.Lock()
		ch := c.waiting[id]
		delete(c.waiting, id)
		c.mu.Unlock()
		if ch != nil {
			ch <- reply{f[0], f[1+w:]}
		}
	})
	return errors.Join(err, bad)
}

// broken fails every call in flight.
func (c *callStream) broken() {
	c.up.Store(false)
	c.mu.Lock()
	waiting := c.waiting
	c.waiting = map[uint64]chan reply{}
	c.mu.Unlock()
	for _, ch := range waiting {
		close(ch)
	}
}

// Call sends a request to a peer and waits for its answer, which is the
// caller's to keep. Errors: ctx's, or *UnreachableError.
func (n *Network) Call(ctx context.Context, to keys.NodeID, method byte, payload []byte) ([]byte, error) {
	p := n.peers[to]
	if p == nil {
		return nil, &UnreachableError{Node: to, Err: errors.New("not a member of the cluster")}
	}
	return p.call.do(ctx, method, payload)
}

func (c *callStream) do(ctx context.Context, method byte, payload []byte) ([]byte, error) {
	if !c.up.Load() {
		return nil, &UnreachableError{Node: c.peer.id, Err: errNotOpen}
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		var cancel context.CancelFunc
		deadline = time.Now().Add(longestCall)
		ctx, cancel = context.WithDeadline(ctx, deadline)
		defer cancel()
	}
	t := time.Until(deadline)
	if t <= 0 {
		return nil, context.DeadlineExceeded
	}
	left := uint64(t.Microseconds()) + 1
	id := c.next.Add(1)
	frame := make([]byte, 0, len(payload)+48)
	frame = append(frame, frameRequest)
	frame = binary.AppendUvarint(frame, id)
	frame = append(frame, method)
	frame = binary.AppendUvarint(frame, left)
	frame = tracing.Append(frame, ctx)
	frame = append(frame, payload...)
	if len(frame) > maxFrame {
		return nil, &UnreachableError{Node: c.peer.id, Err: fmt.Errorf("a request of %d bytes: %w", len(payload), errOversize)}
	}

	ch := make(chan reply, 1)
	c.mu.Lock()
	c.waiting[id] = ch
	c.mu.Unlock()
	forget := func() {
		c.mu.Lock()
		delete(c.waiting, id)
		c.mu.Unlock()
	}
	if !c.up.Load() { // broke in between: broken() may have missed this call
		forget()
		return nil, &UnreachableError{Node: c.peer.id, Err: errNotOpen}
	}
	if !c.out.put(frame) {
		forget()
		return nil, &UnreachableError{Node: c.peer.id, Err: errQueueFull}
	}
	select {
	case r, ok := <-ch:
		switch {
		case !ok:
			return nil, &UnreachableError{Node: c.peer.id, Sent: true, Err: errBroke}
		case r.kind == frameRefusal:
			return nil, &UnreachableError{Node: c.peer.id, Err: errOverloaded}
		case r.kind == frameOversize:
			return nil, &UnreachableError{Node: c.peer.id, Sent: true, Err: fmt.Errorf("the answer: %w", errOversize)}
		}
		return r.payload, nil
	case <-ctx.Done():
		forget()
		c.out.put(binary.AppendUvarint([]byte{frameCancel}, id))
		return nil, ctx.Err()
	}
}

// callServer is the answering half, one per stream that a peer opened.
type callServer struct {
	ctx     context.Context
	cancel  context.CancelFunc // breaks the stream
	refused *atomic.Uint64
	from    keys.NodeID
	handle  CallHandler
	out     *queue
	wg      sync.WaitGroup
	work    chan call    // to idle goroutines
	idle    atomic.Int32 // how many wait there

	mu      sync.Mutex
	cancels map[uint64]context.CancelFunc // of the calls under way
	bytes   int                           // of their payloads
	ended   bool                          // no more are started
}

// call is a request on its way to a goroutine.
type call struct {
	ctx     context.Context
	cancel  context.CancelFunc
	id      uint64
	method  byte
	payload []byte
}

// maxIdle bounds the goroutines that wait for calls. They are kept because of
// their stacks: a fresh one grows its own, copying, in every call.
const maxIdle = 64

// receiveAll takes the peer's frames until the stream ends.
func (s *callServer) receiveAll(ss grpc.ServerStream) error {
	for {
		var in packet
		if err := ss.RecvMsg(&in); err != nil {
			return err
		}
		var bad error
		err := eachFrame(in.data, func(f []byte) {
			if e := s.receive(f); e != nil {
				bad = e
			}
		})
		if err = errors.Join(err, bad); err != nil {
			return err
		}
	}
}

func (s *callServer) receive(f []byte) error {
	if len(f) == 0 {
		return errFrame
	}
	kind, f := f[0], f[1:]
	id, w := binary.Uvarint(f)
	if w <= 0 {
		return errFrame
	}
	f = f[w:]
	switch kind {
	case frameCancel:
		s.mu.Lock()
		cancel := s.cancels[id]
		s.mu.Unlock()
		if cancel != nil {
			cancel()
		}
		return nil
	case frameRequest:
		if len(f) == 0 {
			return errFrame
		}
		method := f[0]
		left, w := binary.Uvarint(f[1:])
		if w <= 0 {
			return errFrame
		}
		trace, payload, ok := tracing.Take(f[1+w:])
		if !ok {
			return errFrame
		}
		s.start(id, method, left, trace, payload)
		return nil
	}
	return errFrame
}

func (s *callServer) start(id uint64, method byte, left uint64, trace tracing.Remote, payload []byte) {
	left = min(left, uint64(longestCall/time.Microsecond))
	ctx, cancel := context.WithTimeout(trace.Join(s.ctx), time.Duration(left)*time.Microsecond)
	if !s.admit(call{ctx, cancel, id, method, payload}) {
		cancel()
		s.refused.Add(1)
		s.send(binary.AppendUvarint([]byte{frameRefusal}, id))
	}
}

// admit gives c to a goroutine; false when there are too many, or the stream ends.
func (s *callServer) admit(c call) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || len(s.cancels) >= maxCalls || s.bytes > 0 && s.bytes+len(c.payload) > maxCallBytes {
		return false
	}
	s.cancels[c.id] = c.cancel
	s.bytes += len(c.payload)
	select {
	case s.work <- c:
	default: // nobody idle
		s.wg.Go(func() { s.run(c) })
	}
	return true
}

// end cancels what is under way and waits for it.
func (s *callServer) end() {
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.cancel()
	s.wg.Wait()
}

// run answers c, then calls to come; it ends with the stream.
func (s *callServer) run(c call) {
	for {
		s.answer(c)
		if s.idle.Add(1) > maxIdle {
			s.idle.Add(-1)
			return
		}
		select {
		case c = <-s.work:
			s.idle.Add(-1)
		case <-s.ctx.Done():
			return
		}
	}
}

func (s *callServer) answer(c call) {
	answer := s.handle(c.ctx, s.from, c.method, c.payload)
	s.mu.Lock()
	delete(s.cancels, c.id)
	s.bytes -= len(c.payload)
	s.mu.Unlock()
	c.cancel()
	frame := make([]byte, 0, len(answer)+11)
	frame = append(frame, frameResponse)
	frame = binary.AppendUvarint(frame, c.id)
	if len(frame)+len(answer) > maxFrame {
		frame[0], answer = frameOversize, nil
	}
	s.send(append(frame, answer...))
}

// send queues a frame for the peer. One that does not read its answers loses the
// stream, and with it all the calls that wait for one.
func (s *callServer) send(frame []byte) {
	if !s.out.put(frame) {
		s.cancel()
	}
}
