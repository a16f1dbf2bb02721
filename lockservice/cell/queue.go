package cell

import (
	"context"
	"slices"
	"time"

	"github.com/spandb/spand/lockservice/cell/state"
	"github.com/spandb/spand/truetime"
)

// lock is what the leader knows of a lock beside the replicated state: who waits, what
// is under way, what was promised. It is made when there is something, and goes with it.
type lock struct {
	path    string
	queue   []*waiter // by ticket; none is flying
	tries   int       // of these do not wait
	flights int       // commands in flight that grant or free it; no other grant meanwhile
	delayed bool      // somebody waits for the lock-delay to pass
	failing bool      // a grant could not be logged: the next is tried after a pause
	// rejoins counts waiters whose handle may have got the lock by an earlier call of
	// theirs; they must not wait behind those who wait for them.
	rejoins int
	flyers  []*waiter // whose grants are under way
	// lingering is a release that waits for the next acquire (early.go); then nobody is in the queue.
	lingering *flight
	// unheard are those who were given the lock when their caller had gone, until the hold has been
	// given back.
	unheard []*waiter
	checks  []check
	ends    []*ending
}

func (l *leader) lockLocked(path string) *lock {
	lk := l.locks[path]
	if lk == nil {
		lk = &lock{path: path}
		l.locks[path] = lk
	}
	return lk
}

func (l *leader) tidyLocked(lk *lock) {
	if len(lk.queue)+lk.flights+len(lk.unheard)+len(lk.checks)+len(lk.ends) == 0 && !lk.delayed && l.locks[lk.path] == lk {
		delete(l.locks, lk.path)
	}
}

// waiter is an Acquire. Guarded by l.mu.
type waiter struct {
	ctx    context.Context // its caller's
	lock   *lock
	s      *session
	grant  state.GrantTo
	ticket int64
	// released: what its handle got by attempts up to this one it has given back.
	released uint64
	waiting  func(int64) // is told the ticket; nil: nobody is
	try      bool
	rejoin   bool
	queued   bool // its caller was told that it waits
	flying   bool // its grant is in the log, or on the way there
	adrift   bool // its caller has gone
	held     bool // it was refused what others hold
	settled  bool // then was called
	// superseded: its handle has asked again. Then the hold is the later call's to give back.
	superseded bool
	// heir: an earlier call of its handle, which it supersedes, was being given the lock, or had
	// been and nobody knew.
	heir bool
	// known: if its handle has the lock already, it has been told so.
	known bool
	// then is told the outcome, once, with l.mu held, and possibly Cell.mu: it must neither block
	// nor take a lock of the cell's.
	then func(granted)
	// giveUp, if set, ends what then has begun to wait for.
	giveUp context.CancelFunc
}

type granted struct {
	hold    state.Hold
	already bool
	err     error
}

// answer is given once: by whoever takes the waiter out of queue or flight, or when its caller goes.
func (w *waiter) answer(g granted) {
	w.settled = true
	w.then(g)
}

func (w *waiter) handle() (state.SessionID, state.HandleID) { return w.grant.Session, w.grant.Handle }

// join puts a waiter into the queue in the order of tickets.
func (lk *lock) join(l *leader, w *waiter) {
	i := len(lk.queue)
	for i > 0 && lk.queue[i-1].ticket > w.ticket {
		i--
	}
	lk.queue = slices.Insert(lk.queue, i, w)
	l.waiting.Add(1)
	if w.rejoin {
		lk.rejoins++
	}
	if w.try {
		lk.tries++
	}
	b := w.s.have()
	if b.waits == nil {
		b.waits = make(map[*waiter]struct{})
	}
	b.waits[w] = struct{}{}
}

func (lk *lock) leave(l *leader, w *waiter) bool {
	if !w.waits() {
		return false
	}
	i := slices.Index(lk.queue, w)
	lk.queue = slices.Delete(lk.queue, i, i+1)
	l.waiting.Add(-1)
	if w.rejoin {
		lk.rejoins--
	}
	if w.try {
		lk.tries--
	}
	delete(w.s.box.waits, w)
	return true
}

// drain takes everybody out of the queue and answers them.
func (lk *lock) drain(l *leader, g granted) {
	queue := lk.queue
	lk.queue, lk.rejoins, lk.tries = nil, 0, 0
	l.waiting.Add(-int64(len(queue)))
	for _, w := range queue {
		delete(w.s.box.waits, w)
		w.answer(g)
	}
}

// waits reports whether w is in its lock's queue.
func (w *waiter) waits() bool {
	if w.s == nil || w.s.box == nil {
		return false
	}
	_, ok := w.s.box.waits[w]
	return ok
}

// queuedOf lists those in the queue that a handle has there: one as a rule.
func (lk *lock) queuedOf(s *session, handle state.HandleID) (ws []*waiter) {
	if s == nil || s.box == nil {
		return nil
	}
	if len(lk.queue) < len(s.box.waits) {
		for _, o := range lk.queue {
			if o.s == s && o.grant.Handle == handle {
				ws = append(ws, o)
			}
		}
		return ws
	}
	for o := range s.box.waits {
		if o.lock == lk && o.grant.Handle == handle {
			ws = append(ws, o)
		}
	}
	return ws
}

// flight is a command that carries grants.
type flight struct {
	cmd     *state.Command
	locks   []*lock // each counts it
	waiters []*waiter

	// Of a Release that was begun.
	end   *ending
	since time.Time                  // it lingers
	then  func(*state.Result, error) // is told its outcome
}

func appendFlight(fs []*flight, f *flight) []*flight {
	if f == nil {
		return fs
	}
	return append(fs, f)
}

// maxGrants bounds the grants of one command; the rest follows in the next.
const maxGrants = 256

func (f *flight) take(w *waiter) {
	w.flying = true
	w.s.flights++
	w.lock.flyers = append(w.lock.flyers, w)
	f.waiters = append(f.waiters, w)
	f.cmd.Grants = append(f.cmd.Grants, w.grant)
}

// pumpLocked takes out of the queue those who can have the lock now; nil: nobody can.
func (l *leader) pumpLocked(lk *lock) *flight {
	if lk.lingering != nil && len(lk.queue) > 0 {
		return l.departLocked(lk)
	}
	if lk.flights > 0 || l.ended {
		return nil
	}
	if len(lk.queue) == 0 {
		l.tidyLocked(lk)
		return nil
	}
	now := l.clock.Now().Latest
	f := &flight{cmd: &state.Command{Kind: state.Grant}, locks: []*lock{lk}}
	l.c.mu.RLock()
	defer l.c.mu.RUnlock()
	l.rejoinLocked(f, lk)
	for len(lk.queue) > 0 && len(f.waiters) < maxGrants {
		w := lk.queue[0]
		if len(f.waiters) > 0 && w.grant.Mode != state.Shared || l.losesLocked(lk, w) {
			break
		}
		err := l.c.st.Admits(w.grant, now)
		if err == nil {
			lk.leave(l, w)
			w.known = false // its handle gets a hold of its own: see rejoinLocked
			if f.take(w); w.grant.Mode != state.Shared {
				break
			}
			continue
		}
		if l.waitsOn(lk, w, err) {
			break
		}
		lk.leave(l, w)
		w.held = err.Reason == state.LockHeld
		w.answer(granted{err: err})
	}
	if len(f.waiters) == 0 {
		l.refuseTriesLocked(lk, now)
		l.tidyLocked(lk)
		return nil
	}
	lk.flights++
	return f
}

// waitsOn reports whether a waiter that was refused stays where it is.
func (l *leader) waitsOn(lk *lock, w *waiter, err *state.Error) bool {
	switch {
	case w.try:
		return false
	case err.Reason == state.LockDelayed:
		l.awaitDelayLocked(lk, err.Until)
		return true
	}
	return err.Reason == state.LockHeld
}

// losesLocked reports whether w's handle has the lock, but a command is announced that may
// end this hold, or is about to be: w must not be told that it is held. c.mu is held.
func (l *leader) losesLocked(lk *lock, w *waiter) bool {
	if !w.rejoin {
		return false
	}
	session, handle := w.handle()
	h, held := l.c.st.HoldOf(session, handle, lk.path)
	return held && (w.gaveBack(&h) || lk.endingOf(session, handle))
}

// gaveBack reports that w's handle has released h, its hold, before it asked.
func (w *waiter) gaveBack(h *state.Hold) bool { return h.Attempt != 0 && h.Attempt <= w.released }

func (lk *lock) endingOf(session state.SessionID, handle state.HandleID) bool {
	return slices.ContainsFunc(lk.ends, func(e *ending) bool { return e.covers(session, handle) })
}

// rejoinLocked serves waiters whose handle has the lock already, and is not about to lose it.
func (l *leader) rejoinLocked(f *flight, lk *lock) {
	for i := 0; lk.rejoins > 0 && i < len(lk.queue); {
		w := lk.queue[i]
		h, ok := state.Hold{}, false
		if w.rejoin && !lk.endingOf(w.grant.Session, w.grant.Handle) {
			h, ok = l.c.st.HoldOf(w.grant.Session, w.grant.Handle, lk.path)
		}
		if ok && w.gaveBack(&h) {
			l.releaseAgainLocked(h, w.released)
			ok = false
		}
		switch {
		case !ok:
			i++
		case h.Mode == w.grant.Mode:
			lk.leave(l, w)
			f.take(w)
		default:
			lk.leave(l, w)
			w.answer(granted{err: otherMode(lk.path)})
		}
	}
}

func otherMode(path string) *state.Error {
	return refuse(state.LockHeld, path, "this handle itself holds the lock of %s in the other mode: release it first", path)
}

// refuseTriesLocked answers those who do not wait and cannot have the lock now.
func (l *leader) refuseTriesLocked(lk *lock, now truetime.Timestamp) {
	if lk.tries == 0 {
		return
	}
	for _, w := range slices.Clone(lk.queue) {
		if !w.try || l.losesLocked(lk, w) {
			continue
		}
		err := l.c.st.Admits(w.grant, now)
		if err == nil {
			err = refuse(state.LockHeld, lk.path, "others wait for the lock of %s", lk.path)
		}
		lk.leave(l, w)
		w.held = err.Reason == state.LockHeld
		w.answer(granted{err: err})
	}
}

// awaitDelayLocked has the queue looked at again when the lock-delay has passed.
func (l *leader) awaitDelayLocked(lk *lock, until truetime.Timestamp) {
	if lk.delayed {
		return
	}
	lk.delayed = true
	l.c.wg.Go(func() {
		for l.clock.AwaitAfter(l.ctx, until) != nil && l.ctx.Err() == nil {
			l.pause(clockPause)
		}
		l.mu.Lock()
		lk.delayed = false
		f := l.pumpLocked(lk)
		l.mu.Unlock()
		l.launch(appendFlight(nil, f))
	})
}

// boardLocked adds to a command that ends holds of lk, as e says, the grants that it makes
// possible: hand-over takes one entry.
func (l *leader) boardLocked(f *flight, lk *lock, e *ending) {
	if lk.flights > 0 || len(lk.queue) == 0 {
		return
	}
	l.c.mu.RLock()
	defer l.c.mu.RUnlock()
	holds := l.c.st.Holds(lk.path)
	shared := false
	for i := range holds {
		h := &holds[i]
		if e.covers(h.Session, h.Handle) {
			if f.cmd.Cause == state.Expired && h.Delay > 0 {
				return // nobody gets it now
			}
			continue
		}
		if shared = true; h.Mode != state.Shared {
			return
		}
	}
	first := true
	for len(lk.queue) > 0 && len(f.waiters) < maxGrants {
		w := lk.queue[0]
		if w.grant.Mode != state.Shared && (shared || !first) || !e.covers(w.handle()) && l.losesLocked(lk, w) {
			return
		}
		lk.leave(l, w)
		w.known = false
		f.take(w)
		if first = false; w.grant.Mode != state.Shared {
			return
		}
	}
}

// launch proposes flights. Never with l.mu held.
func (l *leader) launch(fs []*flight) {
	for _, f := range fs {
		l.fly(f)
	}
}

func (l *leader) fly(f *flight) {
	l.propose(f.cmd, 0, func(res *state.Result, err error) { l.arrive(f, res, err) })
}

// arrive ends a flight that was launched.
func (l *leader) arrive(f *flight, res *state.Result, err error) {
	if f.end == nil {
		l.land(f, res, err, nil)
		return
	}
	if f.end.told && retryable(err) {
		l.land(f, res, err, nil)
		if l.departLater(f) {
			return
		}
	} else {
		l.land(f, res, err, func() { l.concludeLocked(f.end) })
	}
	f.then(res, err)
}

// land answers those whom a command was to give the lock, and sends the next on their way.
// also, if set, runs with l.mu held, before.
func (l *leader) land(f *flight, res *state.Result, err error, also func()) {
	var next []*flight
	var failed []*waiter
	l.mu.Lock()
	if also != nil {
		also()
	}
	for i, w := range f.waiters {
		w.flying = false
		if i := slices.Index(w.lock.flyers, w); i >= 0 {
			w.lock.flyers = slices.Delete(w.lock.flyers, i, i+1)
		}
		l.arrivedLocked(w.s)
		g := granted{err: err}
		if retryable(err) && (f.cmd.Kind != state.Grant || w.queued) && !w.adrift && !w.s.ending && !l.ended {
			l.backLocked(w) // unless its own call came too early
			continue
		}
		if err == nil {
			r := &res.Grants[i]
			if g = (granted{hold: r.Hold, already: r.Already}); r.Err != nil {
				g.err = r.Err
			}
			if r.Err != nil && !w.adrift && !w.s.ending && (r.Err.Reason == state.LockHeld || r.Err.Reason == state.LockDelayed) && !l.ended {
				l.backLocked(w)
				continue
			}
		}
		switch {
		case g.err != nil:
			failed = append(failed, w)
			if w.s.ending {
				g.err = errEnding
			}
		case w.adrift, w.ctx.Err() != nil:
			w.lock.unheard = append(w.lock.unheard, w)
			l.giveBackLocked(w, &g)
			g = granted{err: errInFlight}
		default:
			l.toldLocked(w)
		}
		if !w.settled {
			w.answer(g)
		}
	}
	for _, lk := range f.locks {
		lk.flights--
	}
	for _, w := range failed {
		l.disownLocked(w)
	}
	for _, lk := range f.locks {
		if err != nil && f.cmd.Kind == state.Grant {
			// The next would fail likewise, and at once, in here.
			l.pumpLaterLocked(lk)
			continue
		}
		var tries []*waiter
		if lk.tries > 0 {
			tries = slices.DeleteFunc(slices.Clone(lk.queue), func(w *waiter) bool { return !w.try })
		}
		next = appendFlight(next, l.pumpLocked(lk))
		for _, w := range tries {
			if w.held { // by one whose grant was under way when it asked
				l.conflictLocked(lk.path, w.conflicts)
			}
		}
	}
	if err == nil {
		l.heirsLocked(f.waiters)
	}
	l.mu.Unlock()
	l.launch(next)
}

// backLocked puts a waiter that was not given the lock back into its place in the queue.
func (l *leader) backLocked(w *waiter) {
	w.lock.join(l, w)
	if w.queued || w.try {
		return
	}
	w.queued = true
	if w.waiting != nil {
		w.waiting(w.ticket)
	}
	l.conflictLocked(w.lock.path, w.conflicts)
}

// pumpLaterLocked has a lock's queue looked at again after a pause: its grants could not be logged.
func (l *leader) pumpLaterLocked(lk *lock) {
	if len(lk.queue) == 0 {
		l.tidyLocked(lk)
		return
	}
	if lk.failing || l.ended {
		return
	}
	lk.failing = true
	l.c.wg.Go(func() {
		l.pause(clockPause)
		l.mu.Lock()
		lk.failing = false
		f := l.pumpLocked(lk)
		l.mu.Unlock()
		l.launch(appendFlight(nil, f))
	})
}

// arrivedLocked: a command that could have given s something has been applied or failed.
func (l *leader) arrivedLocked(s *session) {
	if s.flights--; s.flights == 0 && s.landed != nil {
		close(s.landed)
	}
}
