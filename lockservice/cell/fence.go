package cell

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/spandb/spand/lockservice/cell/state"
	"github.com/spandb/spand/truetime"
)

// Fences (L2). The argument is in doc.go.

// maxPromise bounds how far ahead a check may promise: what a release may have to wait for.
const maxPromise = time.Second

// minPromise is what a check promises at least. Less would be over by the time it is noted, for ever
// again; a promise that is not to come only for want of a lease is worth waiting for.
const minPromise = time.Millisecond

// leasePause separates looks at a hold whose session's lease is too short to promise anything.
const leasePause = 5 * time.Millisecond

// check is a promise: the hold does not end before After(until). Its id is random: an EndCheck
// that comes late, to a later leader, or that guesses, gives up nobody else's.
type check struct {
	id      uint64 // never 0
	session state.SessionID
	handle  state.HandleID
	until   truetime.Timestamp
}

// checks finds the locks on which promises are over.
type checks struct {
	old []oldCheck // in the order of being made
}

type oldCheck struct {
	lock  *lock
	until truetime.Timestamp
}

// pruneLocked forgets promises that are over, a few at a time.
func (l *leader) pruneLocked(now truetime.Timestamp) {
	old := l.checks.old
	for i := 0; i < 4 && len(old) > 0 && old[0].until < now; i++ {
		lk := old[0].lock
		old[0] = oldCheck{}
		old = old[1:]
		lk.checks = slices.DeleteFunc(lk.checks, func(c check) bool { return c.until < now })
		l.tidyLocked(lk)
	}
	if len(old) == 0 {
		old = nil
	}
	l.checks.old = old
}

// ending is a command that may end holds, from its announcement to its outcome. Checks of
// these holds wait for it.
type ending struct {
	session state.SessionID // 0: whoever holds the lock
	handle  state.HandleID
	all     bool               // the session's holds through any handle
	maxTS   truetime.Timestamp // bound of the command's timestamp, 0: none
	locks   []*lock
	told    bool               // its caller knows that it is in order (early.go)
	done    chan struct{}      // closed with the outcome; nil: nobody waits
	wake    context.CancelFunc // ends a wait for promises
}

func (e *ending) covers(session state.SessionID, handle state.HandleID) bool {
	return e.session == 0 || e.session == session && (e.all || e.handle == handle)
}

// fenced is the answer to a check.
type fenced struct {
	hold  state.Hold
	until truetime.Timestamp // 0: no promise
	check uint64
}

// checkSequencer says whether a sequencer is valid, and with ahead above 0 promises that it
// stays so for a while: until is a timestamp that the next holder's commits exceed.
func (l *leader) checkSequencer(ctx context.Context, q state.Sequencer, ahead time.Duration) (fenced, error) {
	if ahead > 0 {
		ahead = max(ahead, minPromise)
	}
	if err := l.awaitOrdered(ctx, q.Path); err != nil {
		return fenced{}, err
	}
	for {
		var end truetime.Timestamp
		if ahead > 0 {
			var err error
			if end, err = l.c.group.LeaseEnd(l.term); err != nil {
				return fenced{}, l.c.notLeader()
			}
		}
		l.mu.Lock()
		l.c.mu.RLock()
		hold, serr := l.c.st.Valid(q)
		l.c.mu.RUnlock()
		s := l.sessions[hold.Session]
		switch {
		case serr != nil:
			l.mu.Unlock()
			if err := l.valid(); err != nil {
				return fenced{}, err
			}
			return fenced{}, serr
		case ahead <= 0:
			l.mu.Unlock()
			return fenced{hold: hold}, l.valid()
		case s == nil:
			l.mu.Unlock()
			return fenced{}, sessionExpired(hold.Session)
		}
		if wait := l.endingLocked(s, &hold); wait != nil {
			l.mu.Unlock()
			if err := l.await(ctx, wait); err != nil {
				return fenced{}, err
			}
			continue
		}
		now := l.clock.Now()
		// Each bound is exclusive.
		until := min(now.Latest.Add(ahead), now.Earliest.Add(maxPromise), s.end, end) - 1
		if until <= now.Earliest || now.Latest == truetime.Max {
			l.mu.Unlock()
			if err := l.valid(); err != nil {
				return fenced{}, err
			}
			// The session's lease is running out: a beat renews it, or its end is logged.
			again := time.NewTimer(leasePause)
			select {
			case <-again.C:
			case <-ctx.Done():
				again.Stop()
				return fenced{}, gaveUp(ctx)
			case <-l.ctx.Done():
				again.Stop()
				return fenced{}, l.c.notLeader()
			}
			continue
		}
		f := fenced{hold: hold, until: until}
		if !BreakFence {
			lk := l.lockLocked(q.Path)
			f.check = l.noteLocked(lk, &hold, until)
			l.pruneLocked(now.Earliest)
		}
		l.mu.Unlock()
		// After the promise is noted: a hand-over that begins now carries it (Promised).
		if err := l.valid(); err != nil {
			return fenced{}, err // what was noted harms nobody
		}
		return f, nil
	}
}

func (l *leader) noteLocked(lk *lock, hold *state.Hold, until truetime.Timestamp) uint64 {
	id := rand.Uint64() | 1
	lk.checks = append(lk.checks, check{id, hold.Session, hold.Handle, until})
	l.checks.old = append(l.checks.old, oldCheck{lk, until})
	for {
		p := l.promised.Load()
		if p >= int64(until) || l.promised.CompareAndSwap(p, int64(until)) {
			return id
		}
	}
}

// endingLocked returns what a check of hold has to wait for, nil if nothing may be ending it.
func (l *leader) endingLocked(s *session, hold *state.Hold) <-chan struct{} {
	if s.ending {
		return s.goneLocked()
	}
	if lk := l.locks[hold.Path]; lk != nil {
		for _, e := range lk.ends {
			if e.covers(hold.Session, hold.Handle) {
				return e.doneLocked()
			}
		}
	}
	return nil
}

// endCheck gives a promise up.
func (l *leader) endCheck(path string, id uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lk := l.locks[path]
	if lk == nil {
		return
	}
	i := slices.IndexFunc(lk.checks, func(c check) bool { return c.id == id })
	if i < 0 {
		return
	}
	c := lk.checks[i]
	lk.checks = slices.Delete(lk.checks, i, i+1)
	for _, e := range lk.ends {
		if e.wake != nil && e.covers(c.session, c.handle) {
			e.wake()
		}
	}
	l.tidyLocked(lk)
}

// announceLocked says that e may end holds at these paths.
func (l *leader) announceLocked(e *ending, paths []string) {
	for _, p := range paths {
		l.announceAtLocked(e, p)
	}
}

func (l *leader) announceAtLocked(e *ending, path string) *lock {
	lk := l.lockLocked(path)
	lk.ends = append(lk.ends, e)
	e.locks = append(e.locks, lk)
	return lk
}

// concludeLocked: e has been applied, or will never be.
func (l *leader) concludeLocked(e *ending) {
	for _, lk := range e.locks {
		if i := slices.Index(lk.ends, e); i >= 0 {
			lk.ends = slices.Delete(lk.ends, i, i+1)
		}
	}
	if e.done != nil {
		close(e.done)
	}
}

// doneLocked is closed when e, which stands at a lock, is concluded.
func (e *ending) doneLocked() <-chan struct{} {
	if e.done == nil {
		e.done = make(chan struct{})
	}
	return e.done
}

// promisedLocked is the highest instant promised for what e may end.
func (l *leader) promisedLocked(e *ending) truetime.Timestamp {
	until := l.floor
	if BreakFloor {
		until = 0
	}
	for _, lk := range e.locks {
		for i := range lk.checks {
			if c := &lk.checks[i]; e.covers(c.session, c.handle) {
				until = max(until, c.until)
			}
		}
	}
	return until
}

// awaitPromises returns when every promise that binds what e may end is over or was given up.
// None is made meanwhile: e is announced.
func (l *leader) awaitPromises(ctx context.Context, e *ending) error {
	for {
		l.mu.Lock()
		until := l.promisedLocked(e)
		if truetime.After(l.clock, until) {
			e.wake = nil
			l.mu.Unlock()
			return nil
		}
		wctx, wake := context.WithCancel(ctx)
		e.wake = wake
		l.mu.Unlock()
		stop := context.AfterFunc(l.ctx, wake)
		err := l.clock.AwaitAfter(wctx, until)
		woken := wctx.Err() != nil
		stop()
		wake()
		switch {
		case l.ctx.Err() != nil:
			return l.c.notLeader()
		case ctx.Err() != nil:
			return gaveUp(ctx)
		case err != nil && !woken:
			l.pause(clockPause)
		}
	}
}

// endHolds carries out a command that may end holds and remove nodes: it waits for the promises
// that stand against it, and for caches, then hands the locks to who waits next in
// the same entry.
func (l *leader) endHolds(ctx context.Context, e *ending, cmd *state.Command) (*state.Result, error) {
	l.mu.Lock()
	l.announceLocked(e, l.endsAt(cmd))
	l.mu.Unlock()
	return l.endAnnounced(ctx, e, cmd)
}

// endAnnounced is endHolds once e is announced.
func (l *leader) endAnnounced(ctx context.Context, e *ending, cmd *state.Command) (*state.Result, error) {
	var out outgoing
	l.mu.Lock()
	ch := l.changeLocked(l.removes(cmd), &out)
	out.sendLocked(l)
	var earlier []*flight // releases that are in order
	for _, lk := range e.locks {
		earlier = appendFlight(earlier, l.departLocked(lk))
	}
	l.mu.Unlock()
	l.launch(earlier)
	return l.endChanging(ctx, e, cmd, ch)
}

// endChanging is endAnnounced once caches have been told.
func (l *leader) endChanging(ctx context.Context, e *ending, cmd *state.Command, ch *change) (*state.Result, error) {
	err := l.awaitPromises(ctx, e)
	if err == nil {
		err = l.awaitChange(ctx, ch)
	}
	if err != nil {
		var next []*flight
		l.mu.Lock()
		l.concludeLocked(e)
		l.settledLocked(ch)
		for _, lk := range e.locks {
			next = appendFlight(next, l.pumpLocked(lk)) // who asked again meanwhile has kept the lock
		}
		l.mu.Unlock()
		l.launch(next)
		return nil, err
	}
	f := &flight{cmd: cmd, locks: e.locks}
	// When the disk is all but full, who waits goes on waiting: a lock that goes from hand to hand would
	// use up what is left, and then no hold could end any more.
	tight := l.c.group.Tight()
	l.mu.Lock()
	cmd.Grants = nil
	for _, lk := range e.locks {
		if !tight {
			l.boardLocked(f, lk, e)
		}
		lk.flights++
	}
	l.mu.Unlock()
	return l.carry(ctx, cmd, e.maxTS, func(res *state.Result, err error) {
		l.land(f, res, err, func() {
			l.concludeLocked(e)
			l.settledLocked(ch)
		})
	})
}

// refusal answers a command that the state refuses as it is now, or has answered before: it is logged
// as a probe, so that the answer is the state's and is remembered, but nobody's cache is dropped
// for it, and no fence waits. nil: it is to be carried out.
func (l *leader) refusal(ctx context.Context, cmd *state.Command, maxTS truetime.Timestamp) (*state.Result, error) {
	l.c.mu.RLock()
	futile := l.c.st.Futile(cmd)
	l.c.mu.RUnlock()
	if !futile {
		return nil, nil
	}
	probe := *cmd
	probe.Probe = true
	res, err := l.carry(ctx, &probe, maxTS, nil)
	if err == nil && res.Spared {
		return nil, nil // another command came between
	}
	return res, err
}

// deleteNode carries out a Delete. Caches are waited for before the end of the holds of the
// node's lock is announced: they may take as long as a lease, and checks wait from then on.
func (l *leader) deleteNode(ctx context.Context, cmd *state.Command, maxTS truetime.Timestamp) (*state.Result, error) {
	if err := l.awaitOrdered(ctx, cmd.Path); err != nil {
		return nil, err
	}
	for {
		if res, err := l.refusal(ctx, cmd, maxTS); res != nil || err != nil {
			return res, err
		}
		var out outgoing
		l.mu.Lock()
		ch := l.changeLocked(l.removes(cmd), &out)
		out.sendLocked(l)
		l.mu.Unlock()
		err := l.awaitChange(ctx, ch)
		l.mu.Lock()
		if err == nil && l.stillDeletesLocked(cmd, ch) {
			e := &ending{maxTS: maxTS}
			l.announceLocked(e, []string{cmd.Path})
			l.mu.Unlock()
			return l.endChanging(ctx, e, cmd, ch)
		}
		l.settledLocked(ch)
		l.mu.Unlock()
		if err != nil {
			return nil, err
		}
	}
}

// stillDeletesLocked reports whether a Delete would, and would change nothing but what ch is about.
func (l *leader) stillDeletesLocked(cmd *state.Command, ch *change) bool {
	for _, p := range l.removes(cmd) {
		if !slices.Contains(ch.paths, p) {
			return false
		}
	}
	l.c.mu.RLock()
	defer l.c.mu.RUnlock()
	return !l.c.st.Futile(cmd)
}

// endsAt lists the locks of which cmd may end a hold.
func (l *leader) endsAt(cmd *state.Command) []string {
	if cmd.Kind != state.EndSession {
		return []string{cmd.Path}
	}
	l.c.mu.RLock()
	defer l.c.mu.RUnlock()
	var paths []string
	for _, h := range l.c.st.HoldsOf(cmd.Session) {
		if n := len(paths); n == 0 || paths[n-1] != h.Path {
			paths = append(paths, h.Path)
		}
	}
	return paths
}

// removes lists what cached answers may be about that cmd makes untrue by removing nodes.
func (l *leader) removes(cmd *state.Command) []string {
	l.c.mu.RLock()
	defer l.c.mu.RUnlock()
	st := l.c.st
	var changed []string
	add := func(path string) {
		// An ephemeral node goes with the last who holds it open or locked, and takes
		// ephemeral directories that this leaves empty with it.
		for {
			info, _, err := st.Info(path, 0)
			if err != nil || !info.Ephemeral && cmd.Kind != state.Delete {
				return
			}
			changed = append(changed, changedBy(path)...)
			if path = parentOf(path); path == "" || cmd.Kind == state.Delete && !info.Ephemeral {
				return
			}
		}
	}
	switch cmd.Kind {
	case state.EndSession:
		for _, h := range st.HoldsOf(cmd.Session) {
			add(h.Path)
		}
		for _, p := range st.EphemeralsOf(cmd.Session) {
			add(p)
		}
	case state.Delete:
		changed = changedBy(cmd.Path) // though it be made only now
		add(cmd.Path)
	default:
		add(cmd.Path)
	}
	slices.Sort(changed)
	return slices.Compact(changed)
}

// promise is a check that a call of ours rests on.
type promise struct {
	path  string
	check uint64
	e     truetime.Timestamp
}

// until bounds the timestamp of the command that rests on p; 0: it does not.
func (p *promise) until() truetime.Timestamp {
	if p == nil {
		return 0
	}
	return p.e
}

// lift gives the promise up, err being what became of its command. One that is still in flight rests
// on it: the promise then ends by itself.
func (l *leader) lift(p *promise, err error) {
	if p != nil && !errors.Is(err, errInFlight) {
		l.endCheck(p.path, p.check)
	}
}

// sequencerOf returns what SetSequencer bound a handle to, or the client says that it did.
func (l *leader) sequencerOf(session state.SessionID, handle state.HandleID, said string) (q state.Sequencer, bound bool, err error) {
	if said != "" {
		q, serr := state.ParseSequencer(said)
		if serr != nil {
			return q, false, serr
		}
		return q, true, nil
	}
	if session == 0 {
		return q, false, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.sessions[session]; s != nil && s.box != nil {
		q, bound = s.box.fences[handle]
	}
	return q, bound, nil
}
