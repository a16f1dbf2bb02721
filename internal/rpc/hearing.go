package rpc

import (
	"context"
	"sync"
	"time"

	"github.com/spandb/spand/internal/lane"
)

// readerPatience is how long the reader of a lane may be at work for paxosgroup before another
// takes its place: far longer than a sync takes on a disk that is well, far less than a peer waits.
const readerPatience = 20 * time.Millisecond

// shift is a goroutine's time as the reader of a lane. While whole frames are at hand it collects
// them; then it does the work that they bring itself (paxosgroup.Receiver), and reads on. When that
// takes long, as on a disk that hangs, the next shift begins on another goroutine: a peer's
// acknowledgements and pings must not wait for this node's disk. The first ends
// when it is done. There are not many of them: as long as it is at work, Work has nothing for others.
type shift struct {
	net  *Network
	h    *hearing
	late *time.Timer // calls relieve when a work takes long; made for the first

	mu       sync.Mutex
	working  bool
	relieved bool // the hearing is another shift's
}

// run reads until the lane ends, or the shift does.
func (s *shift) run() {
	for {
		if s.h.collected && !lane.Whole(s.h.in) && !s.work() {
			return
		}
		if !s.next() {
			s.h.conn.Close()
			s.leave()
			return
		}
	}
}

// next reads a frame and has it collected; false when the lane is over.
func (s *shift) next() bool {
	h := s.h
	frame, err := lane.Read(h.in, maxFrame, h.buf)
	if err != nil {
		return false
	}
	if cap(frame) <= maxSpare {
		h.buf = frame
	}
	if now := time.Now(); len(frame) == 0 || now.Sub(h.said) >= progressEvery {
		h.said = now
		s.leave()
		if _, err := h.conn.Write([]byte{0}); err != nil {
			return false
		}
	}
	return len(frame) == 0 || s.collect(frame)
}

// collect delivers a frame, in the peer's turn; false when the lane is over.
func (s *shift) collect(frame []byte) bool {
	h := s.h
	p := s.net.peers[h.from]
	turn := p.turns[h.class]
	select {
	case turn <- struct{}{}:
	default:
		s.leave()
		select {
		case turn <- struct{}{}:
		case <-h.over: // the later lane waits there too
			return false
		case <-s.net.ctx.Done():
			return false
		}
	}
	defer func() { <-turn }()
	if p.heard.Load() != h { // a later lane may have delivered later frames
		return false
	}
	h.to.Collect(h.from, h.class, frame)
	h.collected = true
	return true
}

// work does what was collected; false if the shift has ended meanwhile, and then the hearing is
// another's.
func (s *shift) work() bool {
	s.h.collected = false
	s.mu.Lock()
	s.working = true
	s.mu.Unlock()
	if s.late == nil {
		s.late = time.AfterFunc(readerPatience, s.relieve)
	} else {
		s.late.Reset(readerPatience)
	}
	s.h.to.Work()
	s.late.Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.working = false
	return !s.relieved
}

// relieve begins the next shift, unless the work is done. One that was called for an earlier work
// may do so early, which is no harm.
func (s *shift) relieve() {
	s.mu.Lock()
	late := s.working && !s.relieved
	if late {
		s.relieved = true
		s.net.wg.Add(1) // this shift is counted until it has seen that it is over
	}
	s.mu.Unlock()
	if late {
		defer s.net.wg.Done()
		defer context.AfterFunc(s.net.ctx, func() { s.h.conn.Close() })() // as Network.admit does
		(&shift{net: s.net, h: s.h}).run()
	}
}

// leave has another goroutine do what was collected, if anything was: this one ends, or may have
// to wait, for which nothing collected may wait.
func (s *shift) leave() {
	if s.h.collected {
		s.h.collected = false
		s.net.wg.Go(s.h.to.Work)
	}
}
