package lane

import (
	"context"
	"net"
	"sync"
	"time"
)

// Sender sends frames over a connection, one after the other if it breaks. All methods may be called
// concurrently, but for Open, Broken and Run, which are of the goroutine that has the connection.
type Sender struct {
	budget int           // bytes that may be queued
	wake   chan struct{} // capacity 1: there is something for Run to write

	mu      sync.Mutex
	way     *way   // nil: no connection
	queue   []byte // frames, each with its length before it
	rest    []byte // what the kernel did not take of frames before those
	spare   []byte
	flight  int // bytes that are being written
	writer  writer
	waiters int
	less    chan struct{} // closed when something was written, if anybody waits for room
}

// writer is who writes.
type writer int

const (
	nobody writer = iota
	aSender
	itself // Run
)

const (
	// maxSpare bounds the memory that an idle sender keeps for its next frames.
	maxSpare = 1 << 20
	// maxUnopened bounds what waits for a connection. The other end may be down for hours, and is
	// then in need of what is new.
	maxUnopened = 1 << 20
	// littleMore is what a sender writes of others beside his own.
	littleMore = 64 << 10
)

// NewSender returns a sender that queues at most budget bytes.
func NewSender(budget int) *Sender {
	return &Sender{budget: budget, wake: make(chan struct{}, 1), less: make(chan struct{})}
}

// Put sends a frame or queues it. It is dropped beyond the budget (false), or, while there is no
// connection, in favour of later ones. It never waits.
func (s *Sender) Put(frame []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.queuedLocked()+lengthBytes+len(frame) > s.budget {
		return false
	}
	if s.way == nil && len(s.queue)+lengthBytes+len(frame) > maxUnopened {
		s.queue = nil
	}
	s.queue = Append(s.queue, frame)
	s.sendLocked()
	return true
}

// PutAll sends or queues frames that have their lengths before them, whatever the budget. It never
// waits.
func (s *Sender) PutAll(frames []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue = append(s.queue, frames...)
	s.sendLocked()
}

// Ping sends or queues an empty frame, whatever the budget.
func (s *Sender) Ping() { s.PutAll(make([]byte, lengthBytes)) }

// Room waits until at most most bytes are queued; the error is why ctx ended.
func (s *Sender) Room(ctx context.Context, most int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.queuedLocked() > most {
		less := s.less
		s.waiters++
		s.mu.Unlock()
		var err error
		select {
		case <-less:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		s.mu.Lock()
		s.waiters--
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Sender) queuedLocked() int { return len(s.queue) + len(s.rest) + s.flight }

func (s *Sender) sendLocked() {
	if s.writer == nobody && s.way != nil {
		s.writeNowLocked()
	}
}

// writeNowLocked writes what is queued and, if it is little, what comes while it does; what the
// kernel does not take at once, and what keeps coming, is left to Run. The mutex is not held while
// it writes.
func (s *Sender) writeNowLocked() {
	w := s.way
	s.writer = aSender
	for turn := 0; len(s.queue) > 0 && (turn == 0 || turn == 1 && len(s.queue) <= littleMore); turn++ {
		buf := s.queue
		s.queue = s.spare[:0]
		s.spare, s.flight = nil, len(buf)
		s.mu.Unlock()
		n := w.tryWrite(buf)
		s.mu.Lock()
		if s.way != w {
			return // broken meanwhile, and what was queued for it is gone
		}
		s.flight = 0
		if n < len(buf) {
			s.rest = buf[n:]
			break
		}
		s.keepLocked(buf)
	}
	s.tellLocked()
	if len(s.rest)+len(s.queue) == 0 {
		s.writer = nobody
		return
	}
	s.writer = itself
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *Sender) keepLocked(buf []byte) {
	if cap(buf) <= maxSpare {
		s.spare = buf
	}
}

// take returns what Run is to write next; nil when there is nothing, and then senders write by
// themselves again.
func (s *Sender) take(written []byte) (buf []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writer != itself {
		return nil
	}
	if written != nil {
		s.keepLocked(written)
	}
	switch {
	case len(s.rest) > 0:
		buf, s.rest = s.rest, nil
	case len(s.queue) > 0:
		buf = s.queue
		s.queue, s.spare = s.spare[:0], nil
	default:
		s.writer = nobody
	}
	s.flight = len(buf)
	s.tellLocked()
	return buf
}

// tellLocked lets those look again who wait for room.
func (s *Sender) tellLocked() {
	if s.waiters > 0 {
		close(s.less)
		s.less = make(chan struct{})
	}
}

// Open makes a connection known to senders. What was queued before goes first.
func (s *Sender) Open(conn net.Conn) { s.open(newWay(conn)) }

func (s *Sender) open(w *way) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.way = w
	s.writeNowLocked()
}

// Broken lets go of the connection, and drops everything.
func (s *Sender) Broken() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.way, s.queue, s.rest, s.spare, s.flight, s.writer = nil, nil, nil, nil, 0, nobody
	s.tellLocked()
}

// Run writes what senders could not write themselves without waiting, and a ping each pingEvery (0:
// none), until conn, which was given to Open, takes no more (its error) or ctx ends (nil).
func (s *Sender) Run(ctx context.Context, conn net.Conn, pingEvery time.Duration) error {
	var pings <-chan time.Time
	if pingEvery > 0 {
		t := time.NewTicker(pingEvery)
		defer t.Stop()
		pings = t.C
	}
	for {
		select {
		case <-s.wake:
			for buf := s.take(nil); buf != nil; buf = s.take(buf) {
				if _, err := conn.Write(buf); err != nil {
					return err
				}
			}
		case <-pings:
			s.Ping()
		case <-ctx.Done():
			return nil
		}
	}
}
