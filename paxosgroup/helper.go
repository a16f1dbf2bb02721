package paxosgroup

import "github.com/spandb/spand/internal/keys"

// A helper is a goroutine of the transport that runs the rounds of the groups for which it has
// brought messages, instead of waking a worker for them: to wake another thread for work that the
// one which has it could do next costs about as much as the work.
//
// It helps where that delays nobody. Workers in the midst of a round come for what is queued
// themselves; many groups are the workers' to share; and of several helpers one is enough.
// Rounds are few: the second is typically for the acknowledgements of what the first one wrote.
const (
	helpGroups = 4
	helpRounds = 3
)

// helper is what its rounds need: whoever has been offered groups owns it until helpOn returns
// nil, before that the scheduler's mutex guards it.
type helper struct {
	out *outbox
	buf []*Group
}

// offer begins a helper's first round: nil if there is nothing for him, and then a worker has been
// signalled for whatever is queued. Else he calls helpOn after every round, until that is nil.
func (s *scheduler) offer(w *helper) []*Group {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch n := len(s.mu.queue); {
	case n == 0 || s.mu.closed:
		return nil
	case s.mu.helping || s.mu.atWork > 0 || n > helpGroups:
		s.cond.Signal()
		return nil
	default:
		s.mu.helping = true
		s.wg.Add(1) // the workers are counted until closed is set: the first Wait is not over yet
		w.buf = s.takeLocked(w.out, w.buf, n)
		return w.buf
	}
}

// helpOn ends a helper's round and begins the next: nil unless more says so, and where offer would
// not have begun one; a worker has then been signalled for what is left.
func (s *scheduler) helpOn(w *helper, more bool) []*Group {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.restLocked(w.out)
	w.out.lending = false
	n := len(s.mu.queue)
	if more && n > 0 && n <= helpGroups && s.mu.atWork == 0 && !s.mu.closed {
		w.buf = s.takeLocked(w.out, w.buf, n)
		return w.buf
	}
	if n > 0 {
		s.cond.Signal()
	}
	s.mu.helping = false
	s.wg.Done()
	return nil
}

// help runs what is queued for at most helpRounds, or leaves it to the workers. It may wait for the
// disk, also where there is one worker: that is there for all else.
func (h *Host) help() {
	gs := h.sched.offer(&h.helper)
	for round := 1; gs != nil; round++ {
		h.round(h.helper.out, gs, true)
		gs = h.sched.helpOn(&h.helper, round < helpRounds)
	}
}

// inlet is the host as its transport sees it.
type inlet struct{ h *Host }

func (i inlet) Receive(from keys.NodeID, class Class, frame []byte) {
	i.h.receive(from, class, frame, i.h.sched.enqueue)
}

func (i inlet) Collect(from keys.NodeID, class Class, frame []byte) {
	i.h.receive(from, class, frame, i.h.sched.collect)
}

func (i inlet) Work() { i.h.help() }
