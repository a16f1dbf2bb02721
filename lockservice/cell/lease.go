package cell

import (
	"context"
	"errors"
	"time"

	"github.com/spandb/spand/lockservice/cell/state"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/truetime"
)

// maxLease is the longest lease that load makes of a shorter TTL.
const maxLease = 60 * time.Second

// leaseFor returns the lease that a session gets under a factor.
func leaseFor(ttl time.Duration, factor uint32) time.Duration {
	return max(ttl, min(ttl*time.Duration(max(factor, 1)), maxLease))
}

func (l *leader) leaseOf(ttl time.Duration) time.Duration {
	return leaseFor(ttl, l.giving)
}

// leaseEnd is when a lease that begins at from is over.
func leaseEnd(from truetime.Timestamp, lease time.Duration) truetime.Timestamp {
	if BreakSession {
		lease /= 4
	}
	return from.Add(lease)
}

// leases finds the sessions whose lease is over: a heap by due, which lies at or before
// the end of the session's lease and is put right when it comes up. A beat does not touch it.
type leases struct {
	heap []*session
	// next is what the watcher waits for, wake ends its waiting.
	next  truetime.Timestamp
	wake  context.CancelFunc
	dying dying
}

func (h *leases) push(s *session) {
	if s.index >= 0 {
		return
	}
	s.due = s.end
	s.index = int32(len(h.heap))
	h.heap = append(h.heap, s)
	h.up(int(s.index))
}

func (h *leases) remove(s *session) {
	i := int(s.index)
	if i < 0 {
		return
	}
	last := len(h.heap) - 1
	h.swap(i, last)
	h.heap[last] = nil
	h.heap = h.heap[:last]
	s.index = -1
	if i < last {
		h.down(i)
		h.up(i)
	}
}

func (h *leases) swap(i, j int) {
	h.heap[i], h.heap[j] = h.heap[j], h.heap[i]
	h.heap[i].index, h.heap[j].index = int32(i), int32(j)
}

func (h *leases) up(i int) {
	for i > 0 {
		p := (i - 1) / 2
		if h.heap[p].due <= h.heap[i].due {
			return
		}
		h.swap(i, p)
		i = p
	}
}

func (h *leases) down(i int) {
	for {
		c := 2*i + 1
		if c >= len(h.heap) {
			return
		}
		if c+1 < len(h.heap) && h.heap[c+1].due < h.heap[c].due {
			c++
		}
		if h.heap[i].due <= h.heap[c].due {
			return
		}
		h.swap(i, c)
		i = c
	}
}

// over takes out the sessions whose lease is over at now.
func (h *leases) over(now truetime.Timestamp) (dead []*session) {
	for len(h.heap) > 0 && h.heap[0].due < now {
		s := h.heap[0]
		if s.end < now {
			h.remove(s)
			dead = append(dead, s)
			continue
		}
		s.due = s.end
		h.down(0)
	}
	return dead
}

// wakeLeasesLocked has the watcher look again when a lease ends before what it waits for.
func (l *leader) wakeLeasesLocked() {
	if h := &l.leases; h.wake != nil && len(h.heap) > 0 && h.heap[0].due < h.next {
		h.wake()
	}
}

// Many sessions' entries come up one after the other: from crowd sessions on, those that
// come up within crowdPause are looked at together.
const (
	crowd      = 1000
	crowdPause = 10 * time.Millisecond
	// clockPause separates looks at a clock that does not vouch (T1).
	clockPause = 100 * time.Millisecond
)

// watchLeases ends the sessions whose lease is over. Ends with the term.
func (l *leader) watchLeases() {
	for l.ctx.Err() == nil {
		now := l.clock.Now()
		var fs []*flight
		l.mu.Lock()
		for _, s := range l.leases.over(now.Earliest) {
			fs = append(fs, l.endSessionLocked(s, state.Expired)...)
		}
		next := truetime.Max
		if len(l.leases.heap) > 0 {
			next = l.leases.heap[0].due
			if len(l.leases.heap) > crowd {
				next = max(next, now.Earliest.Add(crowdPause))
			}
		}
		ctx, wake := context.WithCancel(l.ctx)
		l.leases.next, l.leases.wake = next, wake
		l.mu.Unlock()
		l.launch(fs)
		err := l.clock.AwaitAfter(ctx, next)
		woken := ctx.Err() != nil
		wake()
		if err != nil && !woken {
			l.pause(clockPause)
		}
	}
}

// pause waits for d or the end of the term.
func (l *leader) pause(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-l.ctx.Done():
	}
}

// maxReapers bounds how many sessions are being ended at once.
const maxReapers = 256

// endSessionLocked begins to end a session: from now on it is neither renewed nor
// answered. Whoever waits for its end waits for s.gone. The flights that are returned are to
// be launched: its waiters may have been in others' way.
func (l *leader) endSessionLocked(s *session, cause state.Cause) (fs []*flight) {
	if s.ending || l.ended {
		return nil
	}
	s.ending, s.expired = true, cause == state.Expired
	l.leases.remove(s)
	l.wheel.drop(s)
	if s.flights > 0 {
		s.landed = make(chan struct{})
	}
	if b := s.box; b != nil {
		for w := range b.waits {
			w.lock.leave(l, w)
			w.answer(granted{err: errEnding})
			fs = appendFlight(fs, l.pumpLocked(w.lock))
		}
		l.ackLocked(s, ^uint64(0)) // its cache went with its lease, or its client has closed it
	}
	l.knownLocked(s)
	q := &l.leases.dying
	q.list = append(q.list, s)
	if q.reapers < maxReapers {
		q.reapers++
		l.c.wg.Go(l.reap)
	}
	return fs
}

// errEnding tells a waiter that its session is about to end.
var errEnding = errors.New("cell: the session is ending")

// dying are sessions to be ended.
type dying struct {
	list    []*session
	reapers int
}

// reap ends sessions until there are none to be ended.
func (l *leader) reap() {
	for {
		l.mu.Lock()
		q := &l.leases.dying
		if len(q.list) == 0 || l.ended {
			q.reapers--
			l.mu.Unlock()
			return
		}
		s := q.list[0]
		if q.list[0] = nil; len(q.list) == 1 {
			q.list = nil
		} else {
			q.list = q.list[1:]
		}
		l.mu.Unlock()
		l.bury(s)
	}
}

// bury ends one session: everything that it has goes in one entry.
func (l *leader) bury(s *session) {
	cause := state.Closed
	if s.expired {
		cause = state.Expired
	}
	for l.ctx.Err() == nil {
		if s.landed != nil {
			select {
			case <-s.landed:
			case <-l.ctx.Done():
				return
			}
		}
		_, err := l.endHolds(l.ctx, &ending{session: s.id, all: true}, &state.Command{Kind: state.EndSession, Session: s.id, Cause: cause})
		if err == nil || errors.Is(err, paxosgroup.ErrAmbiguous) {
			return
		}
		l.pause(clockPause) // overloaded, or the disk is full
	}
}

// closeSession ends a session at its client's wish.
func (l *leader) closeSession(ctx context.Context, id state.SessionID, principal string) error {
	l.mu.Lock()
	s := l.sessions[id]
	if s == nil {
		l.mu.Unlock()
		return l.valid() // it has ended
	}
	if s.principal != principal {
		l.mu.Unlock()
		return refuse("PERMISSION", "", "session %d is another's", id)
	}
	fs := l.endSessionLocked(s, state.Closed)
	gone := s.goneLocked()
	l.mu.Unlock()
	l.launch(fs)
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
		return errInFlight
	case <-l.ctx.Done():
		return paxosgroup.ErrAmbiguous
	}
}

// goneLocked forgets a session that has ended.
func (l *leader) goneLocked(id state.SessionID, out *outgoing) {
	s := l.sessions[id]
	if s == nil {
		return
	}
	delete(l.sessions, id)
	l.leases.remove(s)
	l.wheel.drop(s)
	if s.stream != nil {
		out.add(s.stream, l.overLease(s.id, s.beat))
		s.stream = nil
	}
	l.knownLocked(s)
	if s.box != nil {
		l.ackLocked(s, ^uint64(0))
		l.unsubscribeLocked(s)
		l.cache.forget(s)
	}
	s.ending = true
	if s.gone != nil {
		close(s.gone)
	} else {
		s.gone = closed
	}
}

var closed = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// createSession opens a session, or renews one that is there as a beat would: its client
// counts the lease from the sending of this call.
func (l *leader) createSession(ctx context.Context, cmd *state.Command) (time.Duration, error) {
	res, err := l.carry(ctx, cmd, 0, nil)
	if err != nil {
		return 0, err
	}
	if res.Err != nil {
		return 0, res.Err
	}
	l.mu.Lock()
	s := l.sessions[cmd.Session]
	if s == nil {
		l.mu.Unlock()
		return 0, sessionExpired(cmd.Session)
	}
	if s.ending {
		gone := s.goneLocked()
		l.mu.Unlock()
		if err := l.await(ctx, gone); err != nil {
			return 0, err
		}
		return 0, sessionExpired(cmd.Session)
	}
	now := l.clock.Now()
	if now.Latest == truetime.Max {
		l.mu.Unlock()
		return 0, l.c.notLeader() // T1: no lease can be given
	}
	s.given = l.leaseOf(s.ttl)
	s.end = max(s.end, leaseEnd(now.Latest, s.given))
	given := s.given
	l.mu.Unlock()
	return given, l.valid()
}
