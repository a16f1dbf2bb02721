package lockservice

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/spandb/spand/lockservice/lockpb"
)

// LockState of Lock.State.
type LockState int

const (
	// LockHeld: the lease holds, so nobody else has the lock in a conflicting mode.
	LockHeld LockState = iota
	// LockJeopardy: the lease is over by the client's count and not renewed yet. The lock may
	// still be held, or be lost already; also while this session deletes its node. It ends as
	// LockHeld or LockLost.
	LockJeopardy
	// LockLost: the session ended, or the node was deleted. For good.
	LockLost
	// LockReleased: by Unlock or Handle.Close.
	LockReleased
)

func (s LockState) String() string {
	return [...]string{"held", "jeopardy", "lost", "released"}[s]
}

// Lock is a lock that was acquired. Safe for concurrent use.
type Lock struct {
	h *Handle
	*grant
	base context.Context // values for contexts; never ends

	// Guarded by the session's mutex.
	state   LockState
	cause   error
	tenure  *leaseContext // nil: nobody has asked for it
	cancel  context.CancelCauseFunc
	changed chan struct{} // nil: nobody waits
	doomed  int           // Deletes of its node under way
}

// grant is a hold at the cell: of one Lock, or of several in turn (OpenOptions.KeepLock). Immutable.
type grant struct {
	attempt   uint64
	sequencer string
	parsed    Sequencer
}

// Lock takes the node's lock in exclusive mode. It waits in turn, first come first served,
// until the lock is free or ctx ends (the error wraps ctx's cause); whoever gives up leaves
// nothing behind. It returns only when the session is safe.
//
// A handle holds its lock at most once: like a sync.Mutex, a second Lock or RLock on the same
// handle waits for the first one's Unlock. Open the file again to share.
func (h *Handle) Lock(ctx context.Context) (*Lock, error) {
	return h.acquire(ctx, lockpb.Mode_EXCLUSIVE, false)
}

// RLock takes the lock in shared mode: any number of handles may hold it so, and none in
// exclusive mode meanwhile. A shared request waits behind an exclusive one that came before.
func (h *Handle) RLock(ctx context.Context) (*Lock, error) {
	return h.acquire(ctx, lockpb.Mode_SHARED, false)
}

// TryLock takes the lock in exclusive mode if that needs no waiting: ErrLockHeld, ErrLockDelayed.
func (h *Handle) TryLock(ctx context.Context) (*Lock, error) {
	return h.acquire(ctx, lockpb.Mode_EXCLUSIVE, true)
}

// TryRLock is TryLock in shared mode.
func (h *Handle) TryRLock(ctx context.Context) (*Lock, error) {
	return h.acquire(ctx, lockpb.Mode_SHARED, true)
}

func (h *Handle) acquire(ctx context.Context, mode lockpb.Mode, try bool) (*Lock, error) {
	if h.keep.most > 0 && ctx.Err() == nil {
		if l := h.reuse(ctx, mode); l != nil {
			return l, nil
		}
	}
	values := context.WithoutCancel(ctx)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(h.life, func() { cancel(ErrClosed) })()
	if err := h.takeTurn(ctx, try); err != nil {
		return nil, err
	}
	if h.keep.most > 0 {
		if l, err := h.settle(ctx, mode); l != nil || err != nil {
			return l, err
		}
	}
	attempt := h.attempt.Add(1)
	for {
		l, err := h.ask(ctx, values, mode, try, attempt)
		if err != errAskAgain {
			return l, err
		}
	}
}

// ask asks for the lock, in the turn. errAskAgain: it was granted, but a Delete of ours may have taken it away
// since, and the same attempt is to be sent again, which is never two. After any other error the turn is over.
func (h *Handle) ask(ctx, values context.Context, mode lockpb.Mode, try bool, attempt uint64) (*Lock, error) {
	var ticket atomic.Int64
	var hear notices
	if !try {
		hear.waiting = ticket.Store
	}
	released := attempt - 1
	if BreakReleased {
		released = 0
	}
	h.s.beginAsking(h)
	resp, err := h.cell.call(ctx, h.s, often, func() *lockpb.DoRequest {
		req := &lockpb.AcquireRequest{Handle: h.wire(), Mode: mode, Attempt: attempt, Released: released, LockDelayNs: int64(h.lockDelay), Ticket: ticket.Load()}
		if try {
			return &lockpb.DoRequest{Call: &lockpb.DoRequest_TryAcquire{TryAcquire: req}}
		}
		return &lockpb.DoRequest{Call: &lockpb.DoRequest_Acquire{Acquire: req}}
	}, hear)
	if err != nil {
		h.s.endAsking(h) // in the turn: the next one asks for himself
	}
	var refused *Error
	switch {
	case ctx.Err() == nil && errors.As(err, &refused) && !refused.unsure:
		<-h.turn
		return nil, err
	case err != nil: // it may be granted all the same
		h.release(attempt)
		return nil, err
	}
	got := resp.GetAcquire().GetSequencer()
	l := &Lock{h: h, base: values, grant: &grant{
		attempt: attempt, sequencer: got.GetText(),
		parsed: Sequencer{Path: got.GetPath(), Shared: got.GetMode() == lockpb.Mode_SHARED, Generation: got.GetGeneration(), Hold: got.GetHold()},
	}}
	switch err := h.s.hold(l); {
	case err == errAskAgain:
		return nil, err
	case err != nil:
		h.release(attempt) // the Close may have come to the server before the grant
		return nil, err
	}
	if err := h.s.awaitSafe(ctx); err != nil {
		if was, _, _ := h.s.letGo(l, false); was == LockHeld || was == LockJeopardy {
			h.release(attempt) // else whoever ended it has
		}
		return nil, err
	}
	return l, nil
}

func (h *Handle) takeTurn(ctx context.Context, try bool) error {
	if h.life.Err() != nil {
		return ErrClosed
	}
	if try {
		select {
		case h.turn <- struct{}{}:
			return nil
		default:
			return &Error{Code: codes.FailedPrecondition, Reason: "LOCK_HELD", Path: h.path, Message: "the handle holds the lock already, or asks for it"}
		}
	}
	select {
	case h.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-h.s.done:
		return h.s.why()
	}
}

// release undoes an attempt, in the background, and then ends its turn.
func (h *Handle) release(attempt uint64) {
	h.undo(func() *lockpb.DoRequest { return h.releasing(attempt) }, func() { <-h.turn })
}

func (h *Handle) releasing(attempt uint64) *lockpb.DoRequest {
	return &lockpb.DoRequest{Call: &lockpb.DoRequest_Release{Release: &lockpb.ReleaseRequest{Handle: h.wire(), Attempt: attempt}}}
}

// Sequencer is the text that proves the hold to whoever checks it: SQL (spand.fence),
// Client.CheckSequencer, Handle.SetSequencer.
func (l *Lock) Sequencer() string { return l.sequencer }

// Fields of the sequencer: its Generation is what a store compares that cannot ask.
func (l *Lock) Fields() Sequencer { return l.parsed }

// Handle through which it was taken.
func (l *Lock) Handle() *Handle { return l.h }

// Context ends when the lock may no longer be held: at the local end of the lease (cause
// ErrJeopardy), which comes before the server could give the lock to another; when it is lost
// (cause ErrLockLost and what happened), or by Unlock (cause ErrUnlocked). Its values are
// those of the context that the lock was taken with.
//
// When jeopardy ends well (State is LockHeld again) a context that has ended stays so: call
// Context again for that of the new tenure.
//
// It cannot protect a process that is paused between looking at it and acting: only a store
// that checks the sequencer can. Err asks the clock, Done waits for a timer.
func (l *Lock) Context() context.Context {
	s := l.h.s
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lookLocked()
	if l.tenure == nil {
		ctx, cancel := context.WithCancelCause(l.base)
		l.tenure, l.cancel = &leaseContext{ctx, s}, cancel
		if l.state != LockHeld {
			cancel(l.cause)
		}
	}
	return l.tenure
}

// State tells how the lock stands at this moment, by the clock.
func (l *Lock) State() LockState {
	l.h.s.mu.Lock()
	defer l.h.s.mu.Unlock()
	l.h.s.lookLocked()
	return l.state
}

// Err says why the lock is not held: what State names; nil while it is held.
func (l *Lock) Err() error {
	l.h.s.mu.Lock()
	defer l.h.s.mu.Unlock()
	l.h.s.lookLocked()
	return l.cause
}

// Changed returns a channel that is closed when the state is another than now.
func (l *Lock) Changed() <-chan struct{} {
	l.h.s.mu.Lock()
	defer l.h.s.mu.Unlock()
	if l.changed == nil {
		l.changed = make(chan struct{})
	}
	return l.changed
}

// Remaining is what is left of the local lease if it is not renewed: for that long the lock
// is held for certain. Not above 0 in jeopardy; 0 when the lock is lost or released.
func (l *Lock) Remaining() time.Duration {
	switch l.State() {
	case LockLost, LockReleased:
		return 0
	case LockJeopardy:
		return min(l.h.s.remaining(), 0)
	}
	return l.h.s.remaining()
}

// Unlock gives the lock back. Its Context ends at once; Unlock returns when the release is in order: whatever the
// cell is asked from then on finds the lock released. It is on disk at a majority a few milliseconds later;
// if the cell has another leader before, the client sends it again, in the background. Of a handle with
// OpenOptions.DurableUnlock it returns when it is on disk. When ctx ends first, or with ErrDiskFull, the
// client goes on trying while the session lives. The error is ErrLockLost if the lock was lost before. Of a handle with
// OpenOptions.KeepLock it returns at once, without a call, if nobody else is known to want the lock.
func (l *Lock) Unlock(ctx context.Context) error {
	was, cause, kept := l.h.s.letGo(l, true)
	switch {
	case kept || was == LockReleased:
		return nil
	case was == LockLost:
		return cause
	}
	over, err := l.h.giveBack(ctx, l.attempt)
	if over {
		<-l.h.turn
	}
	return err
}

// giveBack releases what an attempt was granted. Not over: it goes on in the background, which ends the turn.
func (h *Handle) giveBack(ctx context.Context, attempt uint64) (over bool, err error) {
	var hear notices
	if !h.durable {
		hear.settled = func(err error) { h.settled(attempt, err) }
	}
	_, err = h.cell.call(ctx, h.s, often, func() *lockpb.DoRequest {
		req := h.releasing(attempt)
		req.GetRelease().Early = !h.durable
		return req
	}, hear)
	if unfinished(ctx, err) {
		h.release(attempt)
		return false, err
	}
	if errors.Is(err, ErrStaleHandle) || errors.Is(err, ErrNotFound) {
		return true, nil // the node is gone, and the lock with it
	}
	return true, err
}

// settled is told what became of a release that was ordered. If it may have been lost it is sent again; the
// handle's next attempt is not kept waiting, as a release ends no hold that a later one was answered with.
func (h *Handle) settled(attempt uint64, err error) {
	if err == nil || BreakOrdered {
		return
	}
	if _, f := judge(err); f != final || errors.Is(err, ErrDiskFull) {
		h.undo(func() *lockpb.DoRequest { return h.releasing(attempt) }, nil)
	}
}

func (s *Session) beginAsking(h *Handle) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asking[h] = false
}

func (s *Session) endAsking(h *Handle) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.asking, h)
}

// hold ends the asking for a lock that was granted, and enters it. The error is errAskAgain, why the session
// ended, or ErrClosed when the handle was closed before.
func (s *Session) hold(l *Lock) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	doubted := s.asking[l.h]
	delete(s.asking, l.h)
	s.lookLocked()
	if s.state == Expired {
		return s.cause
	}
	if l.h.life.Err() != nil {
		return ErrClosed
	}
	if doubted {
		return errAskAgain
	}
	if s.state == Jeopardy {
		l.state, l.cause = LockJeopardy, ErrJeopardy
	}
	for _, d := range s.deletions {
		if d.covers(l.h) {
			d.doomLocked(l)
		}
	}
	s.locks[l] = struct{}{}
	return nil
}

// letGo ends a lock locally, once, and returns what it was. keep says whether its handle may keep the
// hold; kept, that it does, and that the turn is over.
func (s *Session) letGo(l *Lock, keep bool) (was LockState, why error, kept bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lookLocked()
	was, why = l.state, l.cause
	if was == LockLost || was == LockReleased {
		return was, why, false
	}
	delete(s.locks, l)
	l.turnLocked(LockReleased, ErrUnlocked)
	return was, why, keep && was == LockHeld && l.h.keepLocked(l.grant)
}

// released closes a handle and ends its lock; false if it was closed before.
func (s *Session) released(h *Handle) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h.life.Err() != nil {
		return false
	}
	h.end(ErrClosed)
	h.forgetLocked()
	for l := range s.locks {
		if l.h == h {
			delete(s.locks, l)
			l.turnLocked(LockReleased, ErrUnlocked)
			<-h.turn
		}
	}
	return true
}

// deletion is a Delete under way, and the locks that may go with its node.
type deletion struct {
	node  *Node
	locks []*Lock
}

func (d *deletion) covers(h *Handle) bool {
	return h.path == d.node.path && (d.node.instance == 0 || d.node.instance == h.instance)
}

// doomLocked puts a lock into jeopardy: from now on the cell may give the path's next lock to another.
func (d *deletion) doomLocked(l *Lock) {
	l.doomed++
	if l.state == LockHeld {
		l.turnLocked(LockJeopardy, errDeleting)
	}
	d.locks = append(d.locks, l)
}

// deleting begins a Delete, before it is sent.
func (s *Session) deleting(n *Node) *deletion {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lookLocked()
	d := &deletion{node: n}
	for l := range s.locks {
		if d.covers(l.h) {
			d.doomLocked(l)
		}
	}
	s.deletions = append(s.deletions, d)
	s.events.unkeptLocked(n)
	return d
}

// deleted says what became of a Delete. Where that is not known the locks are given up.
func (s *Session) deleted(d *deletion, ctx context.Context, err error) {
	if d == nil {
		return
	}
	gone := err == nil || errors.Is(err, ErrNotFound) || errors.Is(err, ErrStaleHandle)
	var refused *Error
	kept := !gone && ctx.Err() == nil && errors.As(err, &refused) && !refused.unsure
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deletions = slices.DeleteFunc(s.deletions, func(o *deletion) bool { return o == d })
	if !kept { // what was granted meanwhile, or still is, may be gone with the node
		for h := range s.asking {
			if d.covers(h) {
				s.asking[h] = true
			}
		}
		s.events.unkeptLocked(d.node)
	}
	for _, l := range d.locks {
		l.doomed--
		if _, mine := s.locks[l]; !mine {
			continue // unlocked meanwhile, or lost with the session
		}
		switch {
		case !kept:
			delete(s.locks, l)
			l.turnLocked(LockLost, errDeleted)
			if gone {
				<-l.h.turn
			} else {
				l.h.release(l.attempt)
			}
		case l.doomed == 0 && s.state == Safe:
			l.turnLocked(LockHeld, nil)
		}
	}
}

// turnLocked changes the state. The session's mutex is held.
func (l *Lock) turnLocked(to LockState, cause error) {
	l.state, l.cause = to, cause
	if to == LockHeld {
		l.tenure, l.cancel = nil, nil // ended by jeopardy
	} else if l.cancel != nil {
		l.cancel(cause)
	}
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

// leaseContext is a lock's context. Its Err asks the clock, so that a process that was
// stopped does not find its lock held until its timers have run.
type leaseContext struct {
	context.Context
	s *Session
}

func (c *leaseContext) Err() error {
	if err := c.Context.Err(); err != nil {
		return err
	}
	if c.s.remaining() <= 0 {
		c.s.look()
	}
	return c.Context.Err()
}
