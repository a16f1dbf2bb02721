package workload

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spandb/spand/integration/check"
	"github.com/spandb/spand/lockservice"
)

// lockHandle is an open handle of a lock.
type lockHandle struct {
	*lockservice.Handle
	o      lockservice.OpenOptions
	lock   int
	number uint64        // among its machine's
	held   *check.LockOp // its last hold, over as the client sees it; nil: none yet
	failed error         // why it did not get the lock when it last asked
	closed bool
}

// openLock opens a lock; nil: it could not.
func (m *machine) openLock(ctx context.Context, i int, o lockservice.OpenOptions) *lockHandle {
	h, err := m.s.Open(ctx, lockPath(i), o)
	if err != nil {
		m.note("opening "+lockPath(i), err)
		return nil
	}
	m.handles++
	return &lockHandle{Handle: h, o: o, lock: i, number: m.handles}
}

// take asks for the lock, and begins to follow what it gets; nil: nothing.
func (m *machine) take(ctx context.Context, h *lockHandle, shared, try bool) *tenure {
	op := m.l.History.Begin(check.LockOp{
		Kind: check.Held, Client: m.id, Session: m.s.ID(), Path: lockPath(h.lock), Instance: h.Opened().Instance, Shared: shared,
		Handle: h.number, Delay: h.o.LockDelay, Keep: h.o.KeepLock,
	})
	ask := h.Lock
	switch {
	case shared && try:
		ask = h.TryRLock
	case shared:
		ask = h.RLock
	case try:
		ask = h.TryLock
	}
	var lock *lockservice.Lock
	if lock, h.failed = ask(ctx); h.failed != nil {
		m.note("taking "+lockPath(h.lock), h.failed)
		op.Refused = !try && errors.Is(h.failed, lockservice.ErrLockHeld)
		m.l.History.End(op, check.Failed, h.failed)
		return nil
	}
	return m.tenure(h, lock, op)
}

// unlock ends a hold, and notes since when the lock was given back, if it was.
func (m *machine) unlock(ctx context.Context, t *tenure) error {
	op := t.stop(check.OK)
	err := t.lock.Unlock(ctx)
	switch {
	case err != nil:
		op.Err = err.Error()
	case t.h.o.KeepLock == 0:
		op.Freed, op.Early = m.l.History.Now(), !t.h.o.DurableUnlock
	}
	return err
}

// closeLock closes a handle, unless its session is over: then whatever it held has been given back.
func (m *machine) closeLock(ctx context.Context, h *lockHandle) error {
	if h.closed || m.s == nil {
		return nil
	}
	h.closed = true
	err := m.closeHandle(ctx, h.Handle)
	if op := h.held; op != nil && (op.Freed == check.Instant{} || op.Early) {
		if err == nil {
			op.Freed, op.Early = m.l.History.Now(), false
		} else if !op.Early {
			op.Err = err.Error()
		}
	}
	return err
}

func (m *machine) closeHandle(ctx context.Context, h *lockservice.Handle) error {
	within, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.l.o.Timeout)
	defer cancel()
	return h.Close(within)
}

// holdOnce holds a lock by a handle of its own.
func (m *machine) holdOnce(ctx context.Context, shared, try bool) {
	o := lockservice.OpenOptions{DurableUnlock: m.one(4)}
	if m.one(3) {
		o.LockDelay = m.between(100*time.Millisecond, m.l.o.TTL)
	}
	if m.one(6) {
		o.KeepLock = m.keepTime()
	}
	within, cancel := context.WithTimeout(ctx, m.l.o.Timeout)
	defer cancel()
	h := m.openLock(within, m.rng.IntN(m.l.o.Locks), o)
	if h == nil {
		return
	}
	if m.hold(ctx, h, shared, try, false) && h.o.KeepLock > 0 {
		m.goOn(ctx, h, shared, try)
	}
	m.closeLock(ctx, h)
}

// standing are a session's handles that stay open, so that nothing makes up for what their Unlock leaves
// to be done.
type standing struct {
	lock  int
	keeps bool
}

// holdAgain holds a lock by one of them, once and briefly, or several times.
func (m *machine) holdAgain(ctx context.Context, keeps, several bool) {
	at := standing{m.rng.IntN(m.l.o.Locks), keeps}
	h := m.standing[at]
	if h == nil {
		o := lockservice.OpenOptions{DurableUnlock: m.one(8)}
		if keeps {
			o.KeepLock = m.keepTime()
		}
		within, cancel := context.WithTimeout(ctx, m.l.o.Timeout)
		defer cancel()
		if h = m.openLock(within, at.lock, o); h == nil {
			return
		}
		m.standing[at] = h
	}
	brief := !several || !m.one(4)
	if shared, try := m.one(5), m.one(5); m.hold(ctx, h, shared, try, brief) && several {
		m.goOn(ctx, h, shared, try)
	}
	if h.closed {
		delete(m.standing, at)
	}
}

// keepTime is how long a handle keeps its lock: mostly as long as holds last, or until somebody wants it.
func (m *machine) keepTime() time.Duration {
	if m.one(3) {
		return time.Hour
	}
	return m.between(m.l.o.TTL/16, m.l.o.TTL)
}

// goOn holds a lock again a few times, each for a moment. One that is kept it goes on to take over when its machine is
// cut off, for as long as it is let.
func (m *machine) goOn(ctx context.Context, h *lockHandle, shared, try bool) {
	var until time.Time
	if h.o.KeepLock > 0 && m.one(5) {
		d := m.away()
		until = time.Now().Add(d + m.l.o.TTL/2)
		m.isolate(ctx, d)
		pause(ctx, m.between(0, d)) // the lease may end while nobody uses the hold
	}
	for n := m.rng.IntN(8); n > 0 || time.Now().Before(until); n-- {
		most := time.Millisecond
		if m.one(3) {
			most = m.l.o.TTL / 16
		}
		if !pause(ctx, m.between(0, most)) || !m.hold(ctx, h, shared, try, true) {
			return
		}
	}
}

// touch is work of a moment.
func (m *machine) touch(ctx context.Context, i int, lock *lockservice.Lock) {
	switch m.rng.IntN(6) {
	case 0:
		m.commit(ctx, i, lock.Sequencer(), nil)
	case 1:
		within, cancel := context.WithTimeout(ctx, m.l.o.TTL/8) // who is cut off does not wait
		defer cancel()
		m.check(within, lock.Sequencer())
	case 2:
		pause(ctx, m.between(0, m.l.o.TTL/16))
	default:
		pause(ctx, m.between(0, time.Millisecond))
	}
}

// lastHold takes a lock when everybody is done with it. The others' sessions live: what they have released must
// be free, and what they keep come free for the asking.
func (m *machine) lastHold(ctx context.Context, i int) error {
	within, cancel := context.WithTimeout(ctx, 4*m.l.o.TTL+10*time.Second)
	defer cancel()
	h := m.openLock(within, i, lockservice.OpenOptions{DurableUnlock: true})
	if h == nil {
		return errors.New("it cannot be opened")
	}
	begun := m.l.History.Now()
	t := m.take(within, h, false, m.one(2))
	for t == nil && pause(within, 50*time.Millisecond) {
		t = m.take(within, h, false, true)
	}
	if t == nil {
		held, _ := m.l.listLocks(ctx)
		by := held[lockPath(i)]
		m.l.History.End(m.l.History.Add(check.LockOp{
			Kind: check.Stuck, Client: m.id, Path: lockPath(i), Begin: begun, Session: by.session, Generation: by.generation, Hold: by.hold,
		}), check.Failed, h.failed)
		return fmt.Errorf("%w: it is held by session %d, and this is session %d", h.failed, by.session, m.s.ID())
	}
	m.commit(ctx, i, t.lock.Sequencer(), nil)
	if err := m.unlock(ctx, t); err != nil {
		return err
	}
	m.made[lockPath(i)] = madeValue{h.held.Instance, h.held.Generation}
	return m.closeLock(ctx, h)
}
