package cell

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/spandb/spand/lockservice/cell/state"
	"github.com/spandb/spand/lockservice/lockpb"
	"github.com/spandb/spand/truetime"
)

// Stream carries sessions' beats to a leader, and its answers back. It belongs to the
// leader that served when it was opened; Done closes when that ends.
type Stream struct {
	l         *leader // nil: this replica did not lead
	principal string  // whose sessions it keeps alive
	send      func(*lockpb.Lease)
	closed    atomic.Bool
	once      sync.Once
	done      chan struct{}
}

// OpenStream opens a stream for a principal's sessions. send is called from any goroutine, of one stream one lease after the
// other, in the order in which they are meant, and not after Close; it must put the lease into a
// queue that keeps this order, and neither wait for anything but a leaf mutex, nor call the cell. When
// this replica does not lead, the stream is done from the start.
func (c *Cell) OpenStream(principal string, send func(*lockpb.Lease)) *Stream {
	st := &Stream{principal: principal, send: send, done: make(chan struct{})}
	l, err := c.leading()
	if err != nil {
		st.finish()
		return st
	}
	st.l = l
	l.mu.Lock()
	if !l.ended {
		l.streams[st] = struct{}{}
		l.mu.Unlock()
		return st
	}
	l.mu.Unlock()
	st.finish()
	return st
}

// Done is closed when the stream is closed or this replica leads no more: the client has to go to the
// leader, see Cell.Leading.
func (st *Stream) Done() <-chan struct{} { return st.done }

func (st *Stream) finish() {
	st.once.Do(func() {
		st.closed.Store(true)
		close(st.done)
	})
}

// Close ends the stream. Beats that it brought count; their answers, and whatever was
// told over it but not acknowledged, go over another one.
func (st *Stream) Close() {
	st.finish()
	if l := st.l; l != nil {
		l.mu.Lock()
		delete(l.streams, st)
		l.mu.Unlock()
	}
}

// Beat takes one session's beat. The lease counts from now; when the clock does not vouch (T1) for
// any moment, no lease can be given, and the stream ends. O(1), also among 100,000 sessions.
func (st *Stream) Beat(b *lockpb.Beat) {
	l := st.l
	if l == nil || st.closed.Load() {
		return
	}
	l.beats.Add(1)
	now := l.clock.Now()
	if now.Latest == truetime.Max {
		st.Close()
		return
	}
	var out outgoing
	l.mu.Lock()
	s := l.sessions[state.SessionID(b.Session)]
	switch {
	case l.ended:
	case s == nil, s.principal != st.principal: // a session that is another's is none to who asks
		out.add(st, l.overLease(state.SessionID(b.Session), b.Number))
	case b.Number <= s.beat && s.beat != 0:
		// Late, by another way: a newer one has been received.
	case s.ending:
		s.beat, s.stream = b.Number, st // answered when it has ended
	default:
		s.beat = b.Number
		refused := l.hearLocked(s, st, b)
		if l.overdueLocked(s, now.Earliest) {
			l.wheel.drop(s) // an answer to the beat before would bear this one's number
			break
		}
		s.given = l.leaseOf(s.ttl)
		s.end = max(s.end, leaseEnd(now.Latest, s.given))
		if b.Epoch != l.term || refused != nil || s.box.due() {
			lease := l.answerLocked(s, b.Epoch != l.term)
			if refused != nil {
				lease.Refused = l.c.failure(refused)
			}
			out.add(st, lease)
		} else {
			l.wheel.hold(l, s, s.given/3)
		}
	}
	out.sendLocked(l)
	l.mu.Unlock()
}

// hearLocked takes in what a beat says beside "alive". What is refused are its subscriptions.
func (l *leader) hearLocked(s *session, st *Stream, b *lockpb.Beat) (refused *state.Error) {
	moved := s.stream != st
	s.stream = st
	if b.Epoch == l.term {
		l.knownLocked(s)
	}
	if b.Subscriptions != nil {
		refused = l.subscribeLocked(s, b.Subscriptions.List, moved)
	}
	x := s.box
	if x == nil {
		return refused
	}
	if moved {
		x.restream()
	} else if x.noticed > 0 {
		// The beat before was answered with them, over this stream.
		x.notices = x.notices[x.noticed:]
		x.noticed = 0
	}
	l.seenLocked(s, b.Seen)
	if len(x.stale) > 0 {
		l.ackLocked(s, b.Invalidated)
	}
	return refused
}

// tellLocked answers the session's beat if it is held: there is something to tell.
func (l *leader) tellLocked(s *session, out *outgoing) {
	if s.slot >= 0 {
		out.add(s.stream, l.answerLocked(s, false))
	}
}

// answerLocked makes the answer to the session's beat.
func (l *leader) answerLocked(s *session, newEpoch bool) *lockpb.Lease {
	l.wheel.drop(s)
	lease := &lockpb.Lease{Session: uint64(s.id), Number: s.beat, TtlNs: int64(s.given), Epoch: l.term}
	if newEpoch {
		lease.Events = []*lockpb.Event{{Kind: lockpb.EventKind_CELL_FAILED_OVER}}
	}
	l.duesLocked(s, lease)
	return lease
}

// overLease tells that a session has ended.
func (l *leader) overLease(id state.SessionID, number uint64) *lockpb.Lease {
	return &lockpb.Lease{Session: uint64(id), Number: number, Epoch: l.term}
}

// wheel holds beats until they are due to be answered: lists of sessions by time, so that to hold
// one and to answer one costs the same however many there are.
type wheel struct {
	start time.Time
	slots [slots]*session
	held  int
	timer *time.Timer
	at    int64 // tick that the timer is set to, -1: none
	done  int64 // ticks whose lists have been answered
}

// A beat is held for 20 s at most, a third of maxLease.
const (
	slots = 2048
	tick  = 16 * time.Millisecond
)

func (w *wheel) init() {
	w.start, w.at, w.done = time.Now(), -1, -1
}

func (w *wheel) stop() {
	if w.timer != nil {
		w.timer.Stop()
	}
}

// hold keeps the session's beat for d, rounded down.
func (w *wheel) hold(l *leader, s *session, d time.Duration) {
	w.drop(s)
	at := max(int64((time.Since(w.start)+d)/tick), w.done+1)
	at = min(at, w.done+slots)
	i := at % slots
	s.slot = int16(i)
	if s.next = w.slots[i]; s.next != nil {
		s.next.prev = s
	}
	w.slots[i] = s
	w.held++
	if w.at < 0 || at < w.at {
		w.set(l, at)
	}
}

// drop takes a session out of its list.
func (w *wheel) drop(s *session) {
	if s.slot < 0 {
		return
	}
	if s.prev != nil {
		s.prev.next = s.next
	} else {
		w.slots[s.slot] = s.next
	}
	if s.next != nil {
		s.next.prev = s.prev
	}
	s.prev, s.next, s.slot = nil, nil, -1
	w.held--
}

// set has the list of tick at answered when its time has come.
func (w *wheel) set(l *leader, at int64) {
	w.at = at
	d := max(0, time.Until(w.start.Add(time.Duration(at)*tick)))
	if w.timer == nil {
		w.timer = time.AfterFunc(d, l.turn)
	} else {
		w.timer.Reset(d)
	}
}

// turn answers the beats that have been held long enough.
func (l *leader) turn() {
	var out outgoing
	l.mu.Lock()
	w := &l.wheel
	if l.ended {
		l.mu.Unlock()
		return
	}
	now := int64(time.Since(w.start) / tick)
	for t := max(w.done+1, now-slots+1); t <= now; t++ {
		for s := w.slots[t%slots]; s != nil; s = w.slots[t%slots] {
			out.add(s.stream, l.answerLocked(s, false))
		}
	}
	w.done, w.at = max(w.done, now), -1
	if w.held > 0 {
		for t := w.done + 1; ; t++ {
			if w.slots[t%slots] != nil {
				w.set(l, t)
				break
			}
		}
	}
	out.sendLocked(l)
	l.mu.Unlock()
}
