package cell

import (
	"slices"

	"github.com/spandb/spand/lockservice/cell/state"
)

// What becomes of holds whose callers have gone (2.4): they are given back, unless their handle has asked again.

// toldLocked: w's caller is told that it holds the lock. So the later calls of its handle, if it has
// asked again, have inherited nothing that nobody knows of.
func (l *leader) toldLocked(w *waiter) {
	if !w.superseded {
		return
	}
	session, handle := w.handle()
	for _, list := range [...][]*waiter{w.lock.queue, w.lock.flyers} {
		for _, o := range list {
			if s, h := o.handle(); s == session && h == handle {
				o.heir, o.known = false, true
			}
		}
	}
}

// taken: somebody knows of the hold that w was given, or it has been given back.
func (lk *lock) taken(w *waiter) {
	if i := slices.Index(lk.unheard, w); i >= 0 {
		lk.unheard = slices.Delete(lk.unheard, i, i+1)
	}
}

// giveBackLocked releases a hold that nobody knows of, which w, among the unheard, was given. When
// its handle asks again meanwhile, it is that call's.
func (l *leader) giveBackLocked(w *waiter, g *granted) {
	hold := g.hold
	if w.superseded || w.known && g.already || l.ended {
		w.lock.taken(w)
		l.tidyLocked(w.lock)
		return
	}
	// Of this hold only, and not if a later attempt was answered with it: the client may have released
	// it itself, and asked again, before this is applied.
	cmd := &state.Command{
		Kind: state.Release, Session: hold.Session, Handle: hold.Handle, Path: hold.Path, Instance: hold.Instance, Cause: state.Released,
		Hold: hold.Number, Attempt: w.grant.Attempt,
	}
	l.releaseSoonLocked(cmd, func() bool { return w.superseded }, func() {
		w.lock.taken(w)
		l.tidyLocked(w.lock)
	})
}

// releaseSoonLocked carries out a release for nobody who waits, trying again while it cannot be logged and is not
// moot. after runs with l.mu held, as moot does.
func (l *leader) releaseSoonLocked(cmd *state.Command, moot func() bool, after func()) {
	announce := func() *ending {
		e := &ending{session: cmd.Session, handle: cmd.Handle}
		l.announceLocked(e, []string{cmd.Path})
		return e
	}
	// Announced in this same step, so that the handle's next Acquire does not count on the hold.
	e := announce()
	l.c.wg.Go(func() {
		for {
			_, err := l.endAnnounced(l.ctx, e, cmd)
			again := err != nil && retryable(err)
			if again {
				l.pause(clockPause)
			}
			l.mu.Lock()
			if !again || moot() || l.ended {
				after()
				l.mu.Unlock()
				return
			}
			e = announce()
			l.mu.Unlock()
		}
	})
}

// disownLocked: w, which has left, or failed, was not given what it inherited. If its
// handle has the lock then, nobody knows.
func (l *leader) disownLocked(w *waiter) {
	if w.superseded || l.ended {
		return
	}
	lk := w.lock
	session, handle := w.handle()
	for _, list := range [...][]*waiter{lk.flyers, lk.unheard} {
		for _, o := range slices.Backward(list) {
			if s, h := o.handle(); s == session && h == handle && o != w {
				o.superseded = false // it comes back to the latest
				return
			}
		}
	}
	if !w.heir {
		return
	}
	l.c.mu.RLock()
	hold, held := l.c.st.HoldOf(session, handle, lk.path)
	l.c.mu.RUnlock()
	if held && !lk.endingOf(session, handle) {
		lk.unheard = append(lk.unheard, w)
		l.giveBackLocked(w, &granted{hold: hold})
	}
}
