package state

import (
	"cmp"
	"container/heap"
	"math"
	"slices"

	"github.com/spandb/spand/truetime"
)

// lock is who holds a node's lock. It belongs to the path, not to the node: the lock-delay
// of a holder that was lost outlives an ephemeral node that went with it.
type lock struct {
	// One exclusive hold or any number of shared ones (L1), by session and handle.
	holds []*Hold
	until truetime.Timestamp // lock-delay: no grant up to this; 0: none
}

func compareHold(h *Hold, o opener) int {
	return compareOpener(opener{h.Session, h.Handle}, o)
}

func (l *lock) find(s SessionID, h HandleID) (int, bool) {
	return slices.BinarySearchFunc(l.holds, opener{s, h}, compareHold)
}

// place is where a hold is, or would be, among its session's.
func (t *things) place(path string, handle HandleID) (int, bool) {
	return slices.BinarySearchFunc(t.holds, path, func(h *Hold, path string) int {
		return cmp.Or(cmp.Compare(h.Path, path), cmp.Compare(h.Handle, handle))
	})
}

// admit says whether a grant would be carried out at ts, and finds what it is about. A hold
// that the handle has already, in that mode, is returned.
func (s *State) admit(g *GrantTo, ts truetime.Timestamp) (sess *session, n *node, l *lock, held *Hold, err *Error) {
	sess, ok := s.sessions.Get(g.Session)
	if !ok {
		return nil, nil, nil, nil, expired(g.Session)
	}
	if g.Mode != Exclusive && g.Mode != Shared {
		return nil, nil, nil, nil, refuse(BadRequest, g.Path, "%d is not a mode of locks", g.Mode)
	}
	if n, err = s.find(g.Path, g.Instance); err != nil {
		return nil, nil, nil, nil, err
	}
	if g.Attempt <= sess.cancelledUpTo(g.Handle) && g.Attempt != 0 {
		return nil, nil, nil, nil, refuse(LockNotHeld, g.Path, "this acquire of the lock of %s was given up", g.Path)
	}
	if err = s.permit(sess.principal.Value(), n, Write); err != nil {
		return nil, nil, nil, nil, err
	}
	l, ok = s.locks.Get(g.Path)
	if !ok {
		return sess, n, nil, nil, nil
	}
	if i, there := l.find(g.Session, g.Handle); there {
		if held = l.holds[i]; held.Mode != g.Mode {
			return nil, nil, nil, nil, refuse(LockHeld, g.Path, "this handle itself holds the lock of %s in the other mode: release it first", g.Path)
		}
		return sess, n, l, held, nil
	}
	if len(l.holds) > 0 && (g.Mode == Exclusive || l.holds[0].Mode == Exclusive) {
		return nil, nil, nil, nil, s.heldBy(l.holds[0])
	}
	if l.until != 0 && ts <= l.until {
		err = refuse(LockDelayed, g.Path, "the lock of %s is delayed until %s UTC: its last holder's session expired", g.Path, l.until.Time().Format("15:04:05.000"))
		err.Until = l.until
		return nil, nil, nil, nil, err
	}
	return sess, n, l, nil, nil
}

func (s *State) heldBy(h *Hold) *Error {
	mode, client := "exclusively", ""
	if h.Mode == Shared {
		mode = "shared"
	}
	if sess, ok := s.sessions.Get(h.Session); ok && sess.client != "" {
		client = " (" + sess.client + ")"
	}
	return refuse(LockHeld, h.Path, "the lock of %s is held %s by session %d%s", h.Path, mode, h.Session, client)
}

// Admits says why a grant would not be carried out at ts, nil if it would.
func (s *State) Admits(g GrantTo, ts truetime.Timestamp) *Error {
	_, _, _, _, err := s.admit(&g, ts)
	return err
}

func (a *change) grant(g *GrantTo) Granted {
	sess, n, l, held, err := a.admit(g, a.ts)
	if err != nil {
		return Granted{Err: err}
	}
	if held != nil {
		if g.Attempt > held.Attempt {
			held = a.reattempt(sess, l, held, g.Attempt)
		}
		return Granted{Hold: *held, Already: true}
	}
	if l == nil {
		l = &lock{}
		a.locks.Set(n.path, l)
	}
	if len(l.holds) == 0 {
		a.generations++
		n.lockGen = a.generations
	}
	a.holdNumbers++
	h := &Hold{
		Path: n.path, Instance: n.instance, Session: g.Session, Handle: g.Handle, Mode: g.Mode,
		Generation: n.lockGen, Number: a.holdNumbers, Attempt: g.Attempt, Since: a.ts,
		Delay: min(max(g.Delay, 0), MaxLockDelay),
	}
	a.enter(sess, l, h)
	if len(l.holds) == 1 {
		a.emit(LockAcquired, n, nil, n.lockGen)
	}
	return Granted{Hold: *h}
}

// enter puts a hold where it belongs.
func (s *State) enter(sess *session, l *lock, h *Hold) {
	i, _ := l.find(h.Session, h.Handle)
	l.holds = slices.Insert(l.holds, i, h)
	t := sess.have()
	i, _ = t.place(h.Path, h.Handle)
	t.holds = slices.Insert(t.holds, i, h)
	s.held++
}

// reattempt notes that a hold has answered a later acquire too: a release that gives up the
// earlier one must not take it away.
func (a *change) reattempt(sess *session, l *lock, held *Hold, attempt uint64) *Hold {
	h := *held
	h.Attempt = attempt
	i, _ := l.find(h.Session, h.Handle)
	l.holds[i] = &h
	i, _ = sess.place(h.Path, h.Handle)
	sess.holds[i] = &h
	return &h
}

// releaseHold is the command Release.
func (a *change) releaseHold() (bool, *Error) {
	c := a.c
	sess, err := a.asking()
	if err != nil || sess == nil {
		return false, err
	}
	if c.Attempt != 0 && c.Hold == 0 {
		sess.cancel(c.Handle, c.Attempt, a.index)
	}
	ended := a.release(sess, a.cause(Released))
	if ended {
		a.reap(c.Path)
	}
	return ended, nil
}

// cause is the command's, or usual if it gives none that there is.
func (a *change) cause(usual Cause) Cause {
	if c := a.c.Cause; c >= Released && c <= Deleted {
		return c
	}
	return usual
}

// release ends the hold that the command's handle has, unless it is another than the command
// names, or a later acquire than the command's attempt was answered with it.
func (a *change) release(sess *session, cause Cause) bool {
	c := a.c
	if sess.things == nil {
		return false
	}
	i, there := sess.place(c.Path, c.Handle)
	if !there {
		return false
	}
	h := sess.holds[i]
	if c.Instance != 0 && h.Instance != c.Instance {
		return false
	}
	if c.Kind == Release && (c.Hold != 0 && h.Number != c.Hold || (c.Attempt != 0 || c.Hold != 0) && h.Attempt > c.Attempt) {
		return false
	}
	sess.holds = slices.Delete(sess.holds, i, i+1)
	a.endHold(h, sess.client, cause)
	return true
}

// endHold takes a hold out of its lock; the caller takes it out of its session.
func (a *change) endHold(h *Hold, client string, cause Cause) {
	l, ok := a.locks.Get(h.Path)
	if !ok {
		return
	}
	i, there := l.find(h.Session, h.Handle)
	if !there {
		return
	}
	l.holds = slices.Delete(l.holds, i, i+1)
	a.held--
	if cause == Expired && h.Delay > 0 {
		if until := later(a.ts, h.Delay); until > l.until {
			l.until = until
			heap.Push(&a.delays, delayed{until, h.Path})
		}
	}
	if len(l.holds) == 0 && l.until == 0 {
		a.locks.Delete(h.Path)
	}
	a.history.add(&Ended{Hold: *h, Client: client, Until: a.ts, Cause: cause})
	a.free(h.Path)
}

// heldByOthers refuses to delete a node whose lock another session than the command's holds.
func (a *change) heldByOthers(n *node) *Error {
	if l, ok := a.locks.Get(n.path); ok {
		for _, h := range l.holds {
			if h.Session != a.c.Session {
				return a.heldBy(h)
			}
		}
	}
	return nil
}

// holds reports whether a lock has a hold of this number.
func (s *State) holds(path string, number uint64) bool {
	l, ok := s.locks.Get(path)
	return ok && slices.ContainsFunc(l.holds, func(h *Hold) bool { return h.Number == number })
}

// endHoldsOf ends the holds of a node that is being deleted.
func (a *change) endHoldsOf(path string) {
	l, ok := a.locks.Get(path)
	if !ok {
		return
	}
	for _, h := range slices.Clone(l.holds) {
		client := ""
		if sess, ok := a.sessions.Get(h.Session); ok {
			client = sess.client
			if i, there := sess.place(path, h.Handle); there {
				sess.holds = slices.Delete(sess.holds, i, i+1)
			}
		}
		a.endHold(h, client, Deleted)
	}
}

func later(ts truetime.Timestamp, d int64) truetime.Timestamp {
	if ts > math.MaxInt64-truetime.Timestamp(d) {
		return truetime.Max
	}
	return ts + truetime.Timestamp(d)
}

// delays is a heap of lock-delays by their ends.
type delays []delayed

type delayed struct {
	until truetime.Timestamp
	path  string
}

func (d delays) Len() int           { return len(d) }
func (d delays) Less(i, j int) bool { return d[i].until < d[j].until }
func (d delays) Swap(i, j int)      { d[i], d[j] = d[j], d[i] }
func (d *delays) Push(v any)        { *d = append(*d, v.(delayed)) }
func (d *delays) Pop() any {
	last := len(*d) - 1
	v := (*d)[last]
	(*d)[last] = delayed{}
	*d = (*d)[:last]
	return v
}

// passDelays drops the lock-delays that are over at ts.
func (s *State) passDelays(ts truetime.Timestamp) {
	for len(s.delays) > 0 && s.delays[0].until < ts {
		path := heap.Pop(&s.delays).(delayed).path
		if l, ok := s.locks.Get(path); ok && l.until != 0 && l.until < ts {
			l.until = 0
			if len(l.holds) == 0 {
				s.locks.Delete(path)
			}
		}
	}
}
