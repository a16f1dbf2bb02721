package cell

import (
	"context"
	"slices"

	"github.com/spandb/spand/lockservice/cell/state"
)

// acquire takes a lock for w's handle, waiting in turn. waiting, if set, is told the ticket
// when the call begins to wait; it must not block.
func (l *leader) acquire(w *waiter, principal string, waiting func(int64)) (state.Hold, bool, error) {
	ctx, done := w.ctx, make(chan granted, 1)
	w.then = func(g granted) { done <- g }
	for {
		err := l.enter(w, principal, waiting)
		if err == nil {
			break
		}
		if err == errEnding {
			_, err = l.live(ctx, w.grant.Session, principal)
		}
		if err != nil {
			return state.Hold{}, false, err
		}
	}
	var got granted
	select {
	case got = <-done:
	case <-ctx.Done():
		l.abandon(w)
		got = <-done
	}
	if got.err == errEnding {
		if got.err = l.awaitGone(ctx, w.s); got.err == nil {
			got.err = sessionExpired(w.s.id)
		}
	}
	return got.hold, got.already, got.err
}

// enter begins an Acquire: w.then will be told its outcome. After an error it will not, and
// nothing has happened; errEnding: the session's end must be waited for.
func (l *leader) enter(w *waiter, principal string, waiting func(int64)) error {
	l.mu.Lock()
	s, err := l.presentLocked(w.grant.Session, principal)
	switch {
	case err != nil:
	case l.ended:
		err = l.c.notLeader()
	case l.waiting.Load() >= int64(l.c.cfg.MaxWaiting):
		err = refuse(state.Overloaded, w.grant.Path, "%d calls wait for locks of this cell", l.c.cfg.MaxWaiting)
	}
	if err != nil {
		l.mu.Unlock()
		return err
	}
	lk := l.lockLocked(w.grant.Path)
	w.s, w.lock, w.waiting = s, lk, waiting
	if w.ticket <= 0 {
		l.ticket = max(l.ticket+1, int64(l.clock.Now().Earliest))
		w.ticket = l.ticket
	}
	f, err := l.enterLocked(lk, w)
	if err != nil {
		l.tidyLocked(lk)
		l.mu.Unlock()
		return err
	}
	w.queued = !w.flying && !w.settled && !w.try
	if w.queued || w.held {
		l.conflictLocked(lk.path, w.conflicts)
	}
	if w.queued && waiting != nil {
		waiting(w.ticket)
	}
	l.mu.Unlock()
	if f != nil {
		l.fly(f)
	}
	return nil
}

// enterLocked puts a waiter where it belongs: at the lock at once, or in the queue.
func (l *leader) enterLocked(lk *lock, w *waiter) (*flight, error) {
	l.takeOverLocked(lk, w)
	session, handle := w.handle()
	l.c.mu.RLock()
	h, held := l.c.st.HoldOf(session, handle, lk.path)
	l.c.mu.RUnlock()
	if held && !w.gaveBack(&h) && !lk.endingOf(session, handle) {
		if h.Mode != w.grant.Mode {
			return nil, otherMode(lk.path)
		}
		// Asked again. The hold learns the attempt, so that a release that gave up an earlier
		// one, and is late, does not end it.
		w.known = !w.heir
		f := &flight{cmd: &state.Command{Kind: state.Grant}, locks: []*lock{lk}}
		f.take(w)
		lk.flights++
		return f, nil
	}
	if held {
		w.rejoin = true // or it may fail to be released
	}
	lk.join(l, w)
	return l.pumpLocked(lk), nil
}

// takeOverLocked: a handle that asks again takes the place of its earlier call, so that a
// retried Acquire is never two.
func (l *leader) takeOverLocked(lk *lock, w *waiter) {
	session, handle := w.handle()
	for _, o := range lk.queuedOf(w.s, handle) {
		w.ticket = min(w.ticket, o.ticket)
		w.heir = w.heir || o.heir
		o.superseded = true
		lk.leave(l, o)
		o.answer(granted{err: refuse("CANCELLED", lk.path, "the handle asked for the lock of %s again", lk.path)})
	}
	for _, list := range [...][]*waiter{lk.flyers, lk.unheard} {
		for _, o := range list {
			if s, h := o.handle(); s == session && h == handle {
				o.superseded = true
				w.heir = w.heir || !o.known
			}
		}
	}
	w.rejoin = lk.flying(session, handle)
}

// flying reports whether a grant for the handle is under way.
func (lk *lock) flying(session state.SessionID, handle state.HandleID) bool {
	return slices.ContainsFunc(lk.flyers, func(o *waiter) bool {
		s, h := o.handle()
		return s == session && h == handle
	})
}

func (l *leader) awaitGone(ctx context.Context, s *session) error {
	l.mu.Lock()
	gone := s.goneLocked()
	l.mu.Unlock()
	return l.await(ctx, gone)
}

// abandon: the caller of an Acquire has gone.
func (l *leader) abandon(w *waiter) {
	l.mu.Lock()
	var f *flight
	switch {
	case w.settled:
		if w.giveUp != nil {
			w.giveUp()
		}
	case w.lock.leave(l, w):
		w.answer(granted{err: gaveUp(w.ctx)})
		l.disownLocked(w)
		f = l.pumpLocked(w.lock) // it may have been in the way
	default:
		w.adrift = true
		w.answer(granted{err: errInFlight})
	}
	l.mu.Unlock()
	if f != nil {
		l.fly(f)
	}
}

// release gives a handle's lock back, and cancels acquires of it up to attempt.
func (l *leader) release(ctx context.Context, cmd *state.Command) (bool, error) {
	l.mu.Lock()
	spent := l.spentLocked(cmd)
	l.mu.Unlock()
	if spent {
		return false, l.valid()
	}
	held := l.cancelQueued(cmd)
	if !held && cmd.Attempt == 0 {
		return false, l.valid()
	}
	res, err := l.endHolds(ctx, &ending{session: cmd.Session, handle: cmd.Handle}, cmd)
	if err != nil {
		return false, err
	}
	if res.Err != nil {
		return false, res.Err
	}
	return res.Ended, nil
}

// cancelQueued ends the waiting of a handle's acquires up to cmd's attempt (0: all), and
// reports whether the handle holds the lock or is being given it.
func (l *leader) cancelQueued(cmd *state.Command) bool {
	l.mu.Lock()
	held, f := l.cancelQueuedLocked(cmd)
	l.mu.Unlock()
	l.launch(appendFlight(nil, f))
	return held
}

// cancelQueuedLocked is cancelQueued but for the launch.
func (l *leader) cancelQueuedLocked(cmd *state.Command) (held bool, f *flight) {
	if lk := l.locks[cmd.Path]; lk != nil {
		held = lk.flying(cmd.Session, cmd.Handle)
		for _, o := range lk.queuedOf(l.sessions[cmd.Session], cmd.Handle) {
			if cmd.Attempt == 0 || o.grant.Attempt <= cmd.Attempt {
				lk.leave(l, o)
				o.answer(granted{err: refuse("CANCELLED", cmd.Path, "the acquire of the lock of %s was given up", cmd.Path)})
			}
		}
		f = l.pumpLocked(lk)
	}
	if !held {
		l.c.mu.RLock()
		_, held = l.c.st.HoldOf(cmd.Session, cmd.Handle, cmd.Path)
		l.c.mu.RUnlock()
	}
	return held, f
}
