package cell

import (
	"context"
	"errors"
	"slices"

	"github.com/spandb/spand/lockservice/cell/state"
	"github.com/spandb/spand/lockservice/lockpb"
	"github.com/spandb/spand/paxosgroup"
)

// acquire takes a lock for a handle, waiting in turn. waiting, if set, is told the ticket
// when the call begins to wait.
func (l *leader) acquire(ctx context.Context, g state.GrantTo, principal string, ticket int64, try bool, waiting func(int64)) (state.Hold, bool, error) {
	w := &waiter{grant: g, try: try, done: make(chan granted, 1)}
	for {
		s, err := l.live(ctx, g.Session, principal)
		if err != nil {
			return state.Hold{}, false, err
		}
		l.mu.Lock()
		if !s.ending {
			w.s = s
			break
		}
		l.mu.Unlock()
	}
	if l.ended {
		l.mu.Unlock()
		return state.Hold{}, false, l.c.notLeader()
	}
	if l.waiting.Load() >= int64(l.c.cfg.MaxWaiting) {
		l.mu.Unlock()
		return state.Hold{}, false, refuse(state.Overloaded, g.Path, "%d calls wait for locks of this cell", l.c.cfg.MaxWaiting)
	}
	lk := l.lockLocked(g.Path)
	w.lock = lk
	w.ticket = ticket
	if ticket <= 0 {
		l.ticket = max(l.ticket+1, int64(l.clock.Now().Earliest))
		w.ticket = l.ticket
	}
	f, err := l.enterLocked(lk, w)
	if err != nil {
		l.tidyLocked(lk)
		l.mu.Unlock()
		return state.Hold{}, false, err
	}
	queued := !w.flying && len(w.done) == 0 && !try
	w.queued = queued
	if queued || w.held {
		var out outgoing
		l.conflictLocked(w, &out)
		out.sendLocked(l)
	}
	l.mu.Unlock()
	l.launch(appendFlight(nil, f))
	if queued && waiting != nil {
		waiting(w.ticket)
	}
	return l.awaitGrant(ctx, w)
}

// enterLocked puts a waiter where it belongs: at the lock at once, or in the queue.
func (l *leader) enterLocked(lk *lock, w *waiter) (*flight, error) {
	l.takeOverLocked(lk, w)
	session, handle := w.handle()
	l.c.mu.RLock()
	h, held := l.c.st.HoldOf(session, handle, lk.path)
	l.c.mu.RUnlock()
	if held && !lk.endingOf(session, handle) {
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
	for _, o := range slices.Clone(lk.queue) {
		if s, h := o.handle(); s == session && h == handle {
			w.ticket = min(w.ticket, o.ticket)
			w.heir = w.heir || o.heir
			o.superseded = true
			lk.leave(l, o)
			o.answer(granted{err: refuse("CANCELLED", lk.path, "the handle asked for the lock of %s again", lk.path)})
		}
	}
	for _, list := range [...][]*waiter{lk.flyers, lk.landed} {
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

// awaitGrant waits for a waiter's outcome.
func (l *leader) awaitGrant(ctx context.Context, w *waiter) (state.Hold, bool, error) {
	var g granted
	select {
	case g = <-w.done:
	case <-ctx.Done():
		return state.Hold{}, false, l.abandon(ctx, w)
	case <-l.ctx.Done():
		l.mu.Lock()
		if w.lock.leave(l, w) {
			l.mu.Unlock()
			return state.Hold{}, false, l.c.notLeader()
		}
		l.mu.Unlock()
		g = <-w.done // in flight: the group says what became of it
	}
	switch {
	case g.err == errEnding:
		if err := l.awaitGone(ctx, w.s); err != nil {
			return state.Hold{}, false, err
		}
		return state.Hold{}, false, sessionExpired(w.s.id)
	case g.err != nil:
		return state.Hold{}, false, g.err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if ctx.Err() != nil { // nobody hears the answer
		l.giveBackLocked(w, &g)
		return state.Hold{}, false, errInFlight
	}
	l.deliverLocked(w)
	return g.hold, g.already, nil
}

// deliverLocked: w's caller is told that it holds the lock.
func (l *leader) deliverLocked(w *waiter) {
	lk := w.lock
	if w.superseded { // the later calls have inherited nothing that nobody knows of
		for _, list := range [...][]*waiter{lk.queue, lk.flyers} {
			for _, o := range list {
				if o.grant.Session == w.grant.Session && o.grant.Handle == w.grant.Handle {
					o.heir = false
				}
			}
		}
	}
	lk.taken(w)
	l.tidyLocked(lk)
}

func (l *leader) awaitGone(ctx context.Context, s *session) error {
	l.mu.Lock()
	gone := s.goneLocked()
	l.mu.Unlock()
	return l.await(ctx, gone)
}

// abandon: the caller of an Acquire has gone.
func (l *leader) abandon(ctx context.Context, w *waiter) error {
	l.mu.Lock()
	if w.lock.leave(l, w) {
		l.disownLocked(w)
		f := l.pumpLocked(w.lock) // it may have been in the way
		l.mu.Unlock()
		l.launch(appendFlight(nil, f))
		return gaveUp(ctx)
	}
	defer l.mu.Unlock()
	select {
	case g := <-w.done:
		switch {
		case errors.Is(g.err, paxosgroup.ErrAmbiguous):
			return g.err
		case g.err != nil:
			return gaveUp(ctx)
		}
		l.giveBackLocked(w, &g)
	default:
		w.adrift = true
	}
	return errInFlight
}

// release gives a handle's lock back, and cancels acquires of it up to attempt.
func (l *leader) release(ctx context.Context, cmd *state.Command) (bool, error) {
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
	var f *flight
	l.mu.Lock()
	held := false
	if lk := l.locks[cmd.Path]; lk != nil {
		held = lk.flying(cmd.Session, cmd.Handle)
		for _, o := range slices.Clone(lk.queue) {
			if s, h := o.handle(); s == cmd.Session && h == cmd.Handle && (cmd.Attempt == 0 || o.grant.Attempt <= cmd.Attempt) {
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
	l.mu.Unlock()
	l.launch(appendFlight(nil, f))
	return held
}

// conflictLocked tells the holders that somebody wants what they have (paper 2.5).
func (l *leader) conflictLocked(w *waiter, out *outgoing) {
	l.c.mu.RLock()
	holds := l.c.st.Holds(w.lock.path)
	l.c.mu.RUnlock()
	for i := range holds {
		h := &holds[i]
		s := l.sessions[h.Session]
		if s == nil || s == w.s && h.Handle == w.grant.Handle || w.grant.Mode == state.Shared && h.Mode == state.Shared {
			continue
		}
		l.noticeLocked(s, &lockpb.Event{Kind: lockpb.EventKind_CONFLICTING_REQUEST, Path: h.Path, Instance: h.Instance, Generation: h.Generation}, out)
	}
}
