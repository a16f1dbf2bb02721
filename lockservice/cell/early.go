package cell

import (
	"context"
	"slices"
	"time"

	"github.com/spandb/spand/lockservice/cell/state"
)

// Releases that are answered early (ReleaseRequest.early). Their callers hear that a release is ordered as
// soon as it stands before all that this leader is asked from then on, and its outcome when it is
// applied. If the leader goes in between, it is lost, and that takes nothing from anybody: the lock is still held,
// by a session that lives and sends the release again, as if it had been about to.
//
// Since nobody waits for its entry, such a release lingers for a moment: the next acquire of its lock
// goes in the same command. Who takes a lock again and again waits for one commit each time, not for two.

// linger is how long a release waits for an acquire.
const linger = 5 * time.Millisecond

// lingerers are the releases that wait, in the order of their times, and some that have gone.
type lingerers struct {
	list  []*flight
	timer *time.Timer
	armed bool
}

func (l *leader) lingerLocked(lk *lock, f *flight) {
	f.since = time.Now()
	f.end.told = true
	lk.lingering = f
	l.lingerers.list = append(l.lingerers.list, f)
	l.armLocked(linger)
}

// armLocked has the timer look at those who wait.
func (l *leader) armLocked(after time.Duration) {
	t := &l.lingerers
	switch {
	case t.armed || l.ended:
		return
	case t.timer == nil:
		t.timer = time.AfterFunc(after, l.departDue)
	default:
		t.timer.Reset(after)
	}
	t.armed = true
}

func (t *lingerers) stop() {
	if t.timer != nil {
		t.timer.Stop()
	}
	t.list = nil
}

// departDue sends those on their way that have waited long enough.
func (l *leader) departDue() {
	var due []*flight
	l.mu.Lock()
	t := &l.lingerers
	t.armed = false
	now, n := time.Now(), 0
	for _, f := range t.list {
		lk := f.locks[0]
		if lk.lingering == f {
			if wait := linger - now.Sub(f.since); wait > 0 {
				l.armLocked(wait)
				break
			}
			due = appendFlight(due, l.departLocked(lk))
		}
		n++
	}
	t.list = slices.Delete(t.list, 0, n)
	l.mu.Unlock()
	l.launch(due)
}

// departLocked ends the waiting of a lock's release, if there is one; those in the queue go with it.
func (l *leader) departLocked(lk *lock) *flight {
	f := lk.lingering
	if f == nil || l.ended {
		return nil
	}
	lk.lingering = nil
	if !l.c.group.Tight() { // see endChanging
		l.boardLocked(f, lk, f.end)
	}
	lk.flights++
	return f
}

// departLater sends a release on its way again that could not be logged: who was told that it is in order finds it
// done, sooner or later, as long as this leader leads. False: it does not any more, and the release is over.
func (l *leader) departLater(f *flight) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		l.concludeLocked(f.end)
		return false
	}
	l.c.wg.Go(func() {
		l.pause(clockPause)
		lk := f.locks[0]
		f.cmd.Grants, f.waiters = nil, nil
		l.mu.Lock()
		ended := l.ended
		if !ended && !l.c.group.Tight() {
			l.boardLocked(f, lk, f.end)
		}
		lk.flights++
		l.mu.Unlock()
		if ended {
			l.arrive(f, nil, l.c.notLeader())
		} else {
			l.fly(f)
		}
	})
	return true
}

// endsLocked reports that a release ends the hold that its handle has.
func (l *leader) endsLocked(cmd *state.Command) bool {
	l.c.mu.RLock()
	defer l.c.mu.RUnlock()
	h, held := l.c.st.HoldOf(cmd.Session, cmd.Handle, cmd.Path)
	return held && cmd.Attempt != 0 && h.Attempt <= cmd.Attempt
}

// spentLocked reports that a release comes late: its handle has the lock by a later attempt, with which
// nothing must interfere.
func (l *leader) spentLocked(cmd *state.Command) bool {
	if lk := l.locks[cmd.Path]; lk != nil && (lk.flying(cmd.Session, cmd.Handle) || len(lk.queuedOf(l.sessions[cmd.Session], cmd.Handle)) > 0) {
		return false
	}
	l.c.mu.RLock()
	defer l.c.mu.RUnlock()
	h, held := l.c.st.HoldOf(cmd.Session, cmd.Handle, cmd.Path)
	return held && cmd.Attempt != 0 && h.Attempt > cmd.Attempt
}

// releaseAgainLocked carries out a release of which its caller was told, by an earlier leader, that it is in order: its
// handle asks for the lock anew. c.mu may be held.
func (l *leader) releaseAgainLocked(h state.Hold, attempt uint64) {
	cmd := &state.Command{
		Kind: state.Release, Session: h.Session, Handle: h.Handle, Path: h.Path, Instance: h.Instance, Cause: state.Released,
		Hold: h.Number, Attempt: attempt,
	}
	l.releaseSoonLocked(cmd, func() bool { return false }, func() {})
}

// strandLocked takes a release that waits out of a leader that has ended.
func (lk *lock) strandLocked() *flight {
	f := lk.lingering
	if f != nil {
		lk.lingering = nil
		lk.flights++
	}
	return f
}

// awaitOrdered returns when the releases at a path whose callers have been told are applied, or have failed.
// What is asked about holds comes after them.
func (l *leader) awaitOrdered(ctx context.Context, path string) error {
	var told []<-chan struct{}
	var fs []*flight
	l.mu.Lock()
	if lk := l.locks[path]; lk != nil {
		told, fs = l.orderedLocked(lk, told, fs)
	}
	l.mu.Unlock()
	return l.awaitLaunched(ctx, told, fs)
}

// awaitAllOrdered is awaitOrdered for every path.
func (l *leader) awaitAllOrdered(ctx context.Context) error {
	var told []<-chan struct{}
	var fs []*flight
	l.mu.Lock()
	for _, lk := range l.locks {
		told, fs = l.orderedLocked(lk, told, fs)
	}
	l.mu.Unlock()
	return l.awaitLaunched(ctx, told, fs)
}

func (l *leader) orderedLocked(lk *lock, told []<-chan struct{}, fs []*flight) ([]<-chan struct{}, []*flight) {
	for _, e := range lk.ends {
		if e.told {
			told = append(told, e.doneLocked())
		}
	}
	return told, appendFlight(fs, l.departLocked(lk))
}

func (l *leader) awaitLaunched(ctx context.Context, told []<-chan struct{}, fs []*flight) error {
	l.launch(fs)
	for _, done := range told {
		if err := l.await(ctx, done); err != nil {
			return err
		}
	}
	return nil
}
