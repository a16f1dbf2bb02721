package workload

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/spandb/spand/integration/check"
	"github.com/spandb/spand/lockservice"
)

// hold takes a lock, works under it or, briefly, touches it, and gives it up in one way or another. It reports whether
// the handle can be used again.
func (m *machine) hold(ctx context.Context, h *lockHandle, shared, try, brief bool) bool {
	patience := min(m.between(0, 4*m.l.o.Timeout), m.l.o.Timeout) // some lose it in the queue
	within, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	t := m.take(within, h, shared, try)
	if t == nil {
		return false
	}
	lock := t.lock
	m.l.publish(lock.Sequencer())
	ends := 12
	if brief {
		m.touch(ctx, h.lock, lock)
		ends = 40
	} else {
		m.work(ctx, h.lock, lock)
	}
	switch m.rng.IntN(ends) {
	case 0:
		m.die()
		t.stop(check.Unknown)
		return false
	case 1:
		t.stop(check.OK)
		m.leave(ctx)
		return false
	case 2: // closing the handle gives the lock up
		t.stop(check.OK)
		m.closeLock(ctx, h)
		return false
	case 3, 4: // it does not wait for its last commit
		early := m.between(0, 3*time.Millisecond)
		committed := make(chan struct{})
		m.l.watching.Go(func() {
			defer close(committed)
			m.commit(ctx, h.lock, lock.Sequencer(), nil)
		})
		pause(ctx, early)
		within, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.l.o.Timeout)
		defer cancel()
		m.unlock(within, t)
		<-committed
		return true
	}
	within, cancel = context.WithTimeout(context.WithoutCancel(ctx), m.l.o.Timeout)
	defer cancel()
	m.unlock(within, t)
	if m.one(4) { // it may not have heard that this is over
		m.commit(within, h.lock, lock.Sequencer(), nil)
	}
	return true
}

// work is what a holder does. It looks at its lock now and then, and as every program may
// be stopped between looking and acting, so is this one.
func (m *machine) work(ctx context.Context, i int, lock *lockservice.Lock) {
	for range 1 + m.rng.IntN(5) {
		if ctx.Err() != nil {
			return
		}
		held := lock.Context().Err() == nil
		if !held && !m.one(3) {
			return
		}
		within, cancel := context.WithTimeout(ctx, m.l.o.Timeout)
		switch m.rng.IntN(8) {
		case 0:
			m.check(within, lock.Sequencer())
		case 1:
			m.bound(within, lock)
		case 2: // stopped, in the middle of a transaction or between two
			var stopped func()
			if m.one(2) {
				stopped = func() { m.freeze(ctx) }
			} else {
				m.freeze(ctx)
			}
			m.commit(ctx, i, lock.Sequencer(), stopped)
		case 3: // cut off from the lock service, but not from the store
			d := m.away()
			m.isolate(ctx, d)
			for until := time.Now().Add(d + m.l.o.TTL/2); time.Now().Before(until) && ctx.Err() == nil; {
				m.commit(ctx, i, lock.Sequencer(), nil)
				pause(ctx, m.between(time.Millisecond, m.l.o.TTL/8))
			}
		case 4:
			pause(ctx, m.between(0, m.l.o.TTL/4))
		default:
			m.commit(within, i, lock.Sequencer(), nil)
		}
		cancel()
	}
}

// bound changes a file through a handle that is bound to the lock's sequencer.
func (m *machine) bound(ctx context.Context, lock *lockservice.Lock) {
	path := filePath(m.rng.IntN(m.l.o.Files))
	h, err := m.s.Open(ctx, path, lockservice.OpenOptions{})
	if err != nil {
		return
	}
	defer m.closeHandle(ctx, h)
	q := lock.Fields()
	begin := func() *check.LockOp {
		return m.l.History.Begin(check.LockOp{Kind: check.Checked, Client: m.id, Path: q.Path, Shared: q.Shared, Generation: q.Generation, Hold: q.Hold})
	}
	if err := h.SetSequencer(ctx, lock.Sequencer()); err != nil {
		m.note("binding a handle", err)
		return
	}
	if m.one(3) {
		m.freeze(ctx)
	}
	op := begin()
	m.checked(op, m.change(ctx, &h.Node, check.LockOp{Path: path}))
}

// tenure follows a hold from the return of Lock on.
type tenure struct {
	m       *machine
	h       *lockHandle
	lock    *lockservice.Lock
	op      *check.LockOp // of the present tenure; the last one, when ended
	stopped chan struct{}
	ended   chan struct{}
}

// seeEvery is how often a hold is seen, where that counts.
const seeEvery = 2 * time.Millisecond

func (m *machine) tenure(h *lockHandle, lock *lockservice.Lock, op *check.LockOp) *tenure {
	t := &tenure{m: m, h: h, lock: lock, op: op, stopped: make(chan struct{}), ended: make(chan struct{})}
	q := lock.Fields()
	op.Generation, op.Hold = q.Generation, q.Hold
	ctx := lock.Context()
	op.From = m.l.History.Now()
	m.l.watching.Go(func() { t.follow(ctx) })
	return t
}

// stop ends the hold as the client sees it, and returns its record.
func (t *tenure) stop(s check.Status) *check.LockOp {
	close(t.stopped)
	<-t.ended
	t.op.Status, t.h.held = s, t.op
	return t.op
}

func (t *tenure) follow(ctx context.Context) {
	defer close(t.ended)
	for {
		end, lost := t.until(ctx, t.op.From)
		t.op.End = end
		if !lost || !t.regained() {
			return
		}
		// The same hold goes on.
		again := *t.op
		again.End = check.Instant{}
		ctx = t.lock.Context()
		again.From = t.m.l.History.Now()
		t.op = t.m.l.History.Add(again)
	}
}

// until returns when the tenure ended, and whether it was not by stop.
func (t *tenure) until(ctx context.Context, seen check.Instant) (check.Instant, bool) {
	var tick <-chan time.Time
	if !t.m.l.o.Exact {
		ticker := time.NewTicker(seeEvery)
		defer ticker.Stop()
		tick = ticker.C
	}
	look := func() {
		now := t.m.l.History.Now()
		if ctx.Err() == nil { // asks the clock, later than now
			seen = now
		}
	}
	for {
		select {
		case <-ctx.Done():
			if t.m.l.o.Exact {
				seen = t.m.l.History.Now()
			}
			return seen, true
		case <-tick:
			look()
		case <-t.stopped:
			look()
			return seen, false
		}
	}
}

// regained waits until jeopardy is over, and reports whether the lock is held then.
func (t *tenure) regained() bool {
	for {
		changed := t.lock.Changed()
		switch t.lock.State() {
		case lockservice.LockHeld:
			return true
		case lockservice.LockLost, lockservice.LockReleased:
			return false
		}
		select {
		case <-changed:
		case <-t.stopped:
			return false
		}
	}
}

// commit adds a row to the table of the lock, under its sequencer. Without one it must be
// refused, if the table is fenced by the lock. stopped, if given, is called when all but
// COMMIT has been sent.
func (m *machine) commit(ctx context.Context, i int, sequencer string, stopped func()) {
	if q, _ := lockservice.ParseSequencer(sequencer); q.Shared && fencedBy(i) { // which admits no shared hold
		m.check(ctx, sequencer)
		return
	}
	x := m.write(ctx, i, sequencer, m.one(2))
	if x == nil {
		return
	}
	if stopped != nil {
		stopped()
	}
	x.commit(ctx, sequencer)
}

// row is a transaction that adds one.
type row struct {
	m     *machine
	i     int
	n     int64
	blind bool
	err   error // it has failed
}

// write begins a transaction that adds a row: behind those that it finds or, blind, in a
// place of its own, so that it conflicts with nobody. nil: there was no connection.
func (m *machine) write(ctx context.Context, i int, sequencer string, blind bool) *row {
	within, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.l.o.Timeout)
	defer cancel()
	if !m.connect(within) {
		return nil
	}
	x := &row{m: m, i: i, n: m.next(), blind: blind}
	x.err = func() error {
		if _, err := m.conn.Exec(within, "begin"); err != nil {
			return err
		}
		if err := m.setFence(within, sequencer); err != nil {
			return err
		}
		place := -x.n
		if !blind {
			if err := m.conn.QueryRow(within, "select coalesce(max(place), 0) + 1 from "+fencedTable(i)+" where place > 0").Scan(&place); err != nil {
				return err
			}
		}
		q, _ := lockservice.ParseSequencer(sequencer)
		_, err := m.conn.Exec(within, fmt.Sprintf("insert into %s values ($1, $2, $3)", fencedTable(i)), place, int64(q.Generation), x.n)
		return err
	}()
	return x
}

func (m *machine) setFence(ctx context.Context, sequencer string) error {
	if sequencer == "" {
		return nil
	}
	_, err := m.conn.Exec(ctx, "set local spand.fence = '"+sequencer+"'", pgx.QueryExecModeSimpleProtocol)
	return err
}

// commit ends the transaction, whose fence is sequencer, and records it.
func (x *row) commit(ctx context.Context, sequencer string) {
	m := x.m
	within, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.l.o.Timeout)
	defer cancel()
	q, _ := lockservice.ParseSequencer(sequencer)
	op := m.l.History.Begin(check.LockOp{Kind: check.Fenced, Client: m.id, Path: lockPath(x.i), Shared: q.Shared, Generation: q.Generation, Hold: q.Hold, Value: x.n})
	err, sent := x.err, false
	if err == nil {
		sent = true
		var tag pgconn.CommandTag
		if tag, err = m.conn.Exec(within, "commit"); err == nil && tag.String() != "COMMIT" {
			err = errRolledBack
		}
	}
	var pgErr *pgconn.PgError
	op.Refused = errors.As(err, &pgErr) && (pgErr.Code == staleFence || pgErr.Code == noFence)
	status := check.OK
	if err != nil {
		status = check.Failed
		if sent && !final(err) {
			status = check.Unknown
		}
	}
	m.l.History.End(op, status, err)
	if err != nil {
		if pgErr != nil && !ordinary[pgErr.Code] && !op.Refused {
			m.l.o.Log("workload: lock client %d at node %d: %v", m.id, m.node, err)
		}
		m.recover(within)
		return
	}
	if x.blind || m.one(2) {
		op.TS = m.commitTimestamp(within)
	}
}

// eager has its transaction ready when it gets the lock, and gives the lock back without
// waiting for the commit.
func (m *machine) eager(ctx context.Context) {
	i := m.rng.IntN(m.l.o.Locks)
	if fencedBy(i) { // which wants to hear of the lock first
		i = max(1, i-1)
	}
	within, cancel := context.WithTimeout(ctx, m.l.o.Timeout)
	defer cancel()
	h := m.openLock(within, i, lockservice.OpenOptions{})
	if h == nil {
		return
	}
	defer m.closeLock(ctx, h)
	x := m.write(within, i, "", true)
	if x == nil {
		return
	}
	t := m.take(within, h, false, false)
	if t == nil {
		m.recover(ctx)
		return
	}
	lock := t.lock
	m.l.publish(lock.Sequencer())
	pause(ctx, m.between(0, 10*time.Millisecond))
	early := m.between(0, 2*time.Millisecond)
	committed := make(chan struct{})
	m.l.watching.Go(func() {
		defer close(committed)
		if x.err == nil {
			x.err = m.setFence(within, lock.Sequencer())
		}
		x.commit(ctx, lock.Sequencer())
	})
	pause(ctx, early)
	m.unlock(within, t)
	<-committed
}

// SQLSTATEs of fences.
const (
	staleFence = "55S01"
	noFence    = "55S02"
)

func (m *machine) connect(ctx context.Context) bool {
	if m.conn != nil && (m.conn.IsClosed() || m.one(20)) {
		m.disconnect(ctx)
	}
	if m.conn != nil {
		return true
	}
	m.node = m.rng.IntN(m.l.target.Nodes())
	conn, err := m.l.target.Connect(ctx, m.node)
	if err != nil {
		pause(ctx, 20*time.Millisecond)
		return false
	}
	m.conn = conn
	return true
}

func (m *machine) disconnect(ctx context.Context) {
	if m.conn != nil {
		closeConn(ctx, m.conn)
		m.conn = nil
	}
}

// recover brings the connection back to rest after an error, or gives it up.
func (m *machine) recover(ctx context.Context) {
	if m.conn == nil {
		return
	}
	if !m.conn.IsClosed() && m.conn.PgConn().TxStatus() != 'I' {
		if _, err := m.conn.Exec(ctx, "rollback", pgx.QueryExecModeSimpleProtocol); err != nil {
			m.disconnect(ctx)
		}
	}
	if m.conn != nil && m.conn.IsClosed() {
		m.disconnect(ctx)
	}
}

func (m *machine) commitTimestamp(ctx context.Context) int64 {
	var s string
	if err := m.conn.QueryRow(ctx, "show spand.commit_timestamp").Scan(&s); err != nil {
		m.recover(ctx)
		return 0
	}
	ts, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		m.l.o.Log("workload: spand.commit_timestamp is %q: %v", s, err)
		return 0
	}
	return ts.UnixNano()
}
