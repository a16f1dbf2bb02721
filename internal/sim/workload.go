package sim

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/tablet"
	"github.com/spandb/spand/truetime"
	"github.com/spandb/spand/txn"
)

// The workloads' keys, of fixed lengths, hence prefix-free.
const (
	accounts  = 10
	opening   = 100 // each account's balance at the beginning
	registers = 6
	mixed     = 12
)

func key(format string, args ...any) string {
	return string(rune(keys.TablePrefix)) + fmt.Sprintf(format, args...)
}

func acct(i int) string    { return key("a%02d", i) }
func reg(i int) string     { return key("r%02d", i) }
func uniq(c, n int) string { return key("u%02d%05d", c, n) }
func mix(i int) string     { return key("x%02d", i) }

// Ends of the workloads' spans.
var (
	acctEnd = key("b")
	mixEnd  = key("y")
)

// client is one client of the cluster: it has one transaction at a time, from a
// node of its choice each.
type client struct {
	w    *World
	id   int
	kind string
	d    draw
	n    int // rows inserted
}

// run works until the faults are over.
func (c *client) run(until time.Time) {
	for time.Now().Before(until) {
		// A nanosecond of its own, so that clients do not meet by their pauses.
		time.Sleep(c.d.between(time.Millisecond, c.w.plan.Think).Truncate(time.Microsecond) + time.Duration(100+c.id))
		l := c.w.nodes[c.d.IntN(len(c.w.nodes))].current()
		if l == nil {
			continue
		}
		ctx, cancel := context.WithTimeout(l.ctx, pick(c.d, 300*time.Millisecond, 2*time.Second, 8*time.Second))
		c.step(ctx, l)
		cancel()
	}
}

func (c *client) step(ctx context.Context, l *Life) {
	switch c.kind {
	case "bank":
		if c.d.IntN(8) == 0 {
			c.lockedAudit(ctx, l)
			return
		}
		c.transfer(ctx, l)
	case "register":
		c.register(ctx, l)
	case "insert":
		c.insert(ctx, l)
	case "mixed":
		c.mixed(ctx, l)
	case "skew":
		c.skew(ctx, l)
	case "blind":
		c.blind(ctx, l)
	case "audit":
		c.audit(ctx, l, 0)
	case "lasting":
		c.lasting(l)
	case "ahead":
		c.audit(ctx, l, l.clock.Now().Latest.Add(c.d.between(0, c.w.plan.Ahead)))
	case "stale":
		back := c.d.between(0, 3*time.Second)
		at := l.clock.Now().Earliest.Add(-back)
		if at > c.w.settled {
			c.audit(ctx, l, at)
		}
	}
}

// rw runs one read-write transaction, and again with its age when it was aborted.
func (c *client) rw(ctx context.Context, l *Life, kind string, body func(context.Context, *txn.Txn, *Op) error) (*Op, error) {
	var age truetime.Timestamp
	for {
		op := c.begin(l, kind)
		t := l.txns.Begin(ctx, txn.TxnOptions{Age: age, Optimistic: c.d.IntN(2) == 0})
		op.Txn = t.ID()
		age = op.Txn.Age
		sent := false
		run := func() (truetime.Timestamp, error) {
			op.Reads, op.Scans, op.Writes, sent = nil, nil, nil, false
			if err := body(ctx, t, op); err != nil {
				return 0, err
			}
			sent = true
			return t.Commit(ctx)
		}
		ts, err := run()
		if err != nil && t.Insist() { // a guess may be to blame
			ts, err = run()
		}
		t.Rollback(ctx)
		var unknown *txn.UnknownOutcomeError
		switch {
		case err == nil:
			c.end(l, op, OK, ts, nil)
			return op, nil
		case errors.As(err, &unknown), sent && l.dead.Load():
			c.end(l, op, Unknown, 0, err)
			return op, err
		default:
			// Commit's contract: it has not committed and never will.
			c.end(l, op, Failed, 0, err)
			if waited := op.EndAt - op.BeganAt; c.w.plan.Prompt && waited >= 2*time.Second {
				c.w.violate("X2", "a transaction ends after %v, and nothing but others like it stood in its way\n%v", waited, op)
			}
		}
		var aborted *tablet.AbortedError
		if !errors.As(err, &aborted) || ctx.Err() != nil || kind != "init" && c.d.IntN(4) == 0 {
			return op, err
		}
		// At once it would only meet what its last attempt has left behind.
		time.Sleep(c.d.between(time.Millisecond, 50*time.Millisecond))
	}
}

// begin and end note an operation of a client that lives in the node's process.
func (c *client) begin(l *Life, kind string) *Op {
	l.n.awaitRunning()
	return c.w.history.begin(c.id, l.n.id, kind)
}

func (c *client) end(l *Life, op *Op, s Status, ts truetime.Timestamp, err error) {
	l.n.awaitRunning()
	c.w.history.end(op, s, ts, err)
}

// lasting holds locks at all tablets for seconds, and then writes.
func (c *client) lasting(l *Life) {
	c.rw(l.ctx, l, "lasting", func(ctx context.Context, t *txn.Txn, op *Op) error {
		for i := range accounts {
			if _, err := op.get(ctx, t, pick(c.d, tablet.LockShared, tablet.LockExclusive), acct(i)); err != nil {
				return err
			}
		}
		if _, err := op.scan(ctx, t, tablet.LockShared, mix(0), mixEnd, false); err != nil {
			return err
		}
		time.Sleep(c.d.between(4*time.Second, 8*time.Second))
		if err := op.put(ctx, t, mix(1), "late"); err != nil {
			return err
		}
		_, err := op.get(ctx, t, tablet.LockShared, reg(0))
		return err
	})
}

// get reads keys and records what it saw.
func (op *Op) get(ctx context.Context, t *txn.Txn, lock tablet.LockStrength, ks ...string) ([]string, error) {
	q := make([]keys.Key, len(ks))
	for i, k := range ks {
		q[i] = keys.Key(k)
	}
	vs, err := t.Get(ctx, q, lock, tablet.WaitBlock)
	if err != nil {
		return nil, err
	}
	out := make([]string, len(vs))
	for i, v := range vs {
		out[i] = string(v)
		op.Reads = append(op.Reads, Row{ks[i], out[i]})
	}
	return out, nil
}

func (op *Op) scan(ctx context.Context, t *txn.Txn, lock tablet.LockStrength, start, end string, reverse bool) ([]Row, error) {
	return op.scanSome(ctx, t, lock, start, end, reverse, 0)
}

// scanSome reads at most limit rows, 0 for all.
func (op *Op) scanSome(ctx context.Context, t *txn.Txn, lock tablet.LockStrength, start, end string, reverse bool, limit int) ([]Row, error) {
	it := t.Scan(ctx, txn.ScanRequest{Span: keys.Span{Start: keys.Key(start), End: keys.Key(end)}, Lock: lock, Reverse: reverse, Limit: limit})
	defer it.Close()
	s := ScanSeen{Start: start, End: end}
	for (limit == 0 || len(s.Rows) < limit) && it.Next() {
		s.Rows = append(s.Rows, Row{string(it.Key()), string(it.Value())})
	}
	if err := it.Err(); err != nil {
		return nil, err
	}
	if n := len(s.Rows); limit > 0 && n == limit { // what lies behind was not looked at
		if reverse {
			s.Start = s.Rows[n-1].Key
		} else {
			s.End = s.Rows[n-1].Key + "\x00"
		}
	}
	if reverse {
		for i, j := 0, len(s.Rows)-1; i < j; i, j = i+1, j-1 {
			s.Rows[i], s.Rows[j] = s.Rows[j], s.Rows[i]
		}
	}
	op.Scans = append(op.Scans, s)
	return s.Rows, nil
}

func (op *Op) put(ctx context.Context, t *txn.Txn, k, payload string) error {
	v := op.value(payload)
	op.Writes = append(op.Writes, Row{k, v})
	return t.Put(ctx, keys.Key(k), []byte(v))
}

func (op *Op) remove(ctx context.Context, t *txn.Txn, k string) error {
	op.Writes = append(op.Writes, Row{Key: k})
	return t.Delete(ctx, keys.Key(k))
}

func balance(v string) int {
	n, err := strconv.Atoi(payload(v))
	if err != nil {
		return -1 << 40 // shows in any total
	}
	return n
}

func (c *client) transfer(ctx context.Context, l *Life) {
	a := c.d.IntN(accounts)
	b := (a + 1 + c.d.IntN(accounts-1)) % accounts
	amount := 1 + c.d.IntN(20)
	lock := tablet.LockExclusive
	if c.d.IntN(4) == 0 {
		lock = tablet.LockShared // upgraded by the write
	}
	apart := c.d.IntN(3) == 0
	c.rw(ctx, l, "transfer", func(ctx context.Context, t *txn.Txn, op *Op) error {
		var vs []string
		var err error
		if apart {
			for _, i := range []int{a, b} {
				v, err := op.get(ctx, t, lock, acct(i))
				if err != nil {
					return err
				}
				vs = append(vs, v...)
			}
		} else if vs, err = op.get(ctx, t, lock, acct(a), acct(b)); err != nil {
			return err
		}
		if err := op.put(ctx, t, acct(a), strconv.Itoa(balance(vs[0])-amount)); err != nil {
			return err
		}
		return op.put(ctx, t, acct(b), strconv.Itoa(balance(vs[1])+amount))
	})
}

// lockedAudit reads all accounts under locks.
func (c *client) lockedAudit(ctx context.Context, l *Life) {
	op, err := c.rw(ctx, l, "locked audit", func(ctx context.Context, t *txn.Txn, op *Op) error {
		_, err := op.scan(ctx, t, tablet.LockShared, acct(0), acctEnd, false)
		return err
	})
	if err == nil {
		c.w.checkTotal(op, op.Scans[0].Rows)
	}
}

// audit reads everything at one timestamp, 0 for a strong read.
func (c *client) audit(ctx context.Context, l *Life, at truetime.Timestamp) {
	kind := "audit"
	if at != 0 {
		kind = "stale audit"
	}
	op := c.begin(l, kind)
	op.ReadOnly, op.Stale = true, at != 0
	t := l.txns.ReadOnly(ctx, at)
	rows, err := c.readAll(ctx, t, op)
	if err == nil {
		err = t.AwaitVisible(ctx)
	}
	if err != nil {
		c.end(l, op, Failed, 0, err)
		return
	}
	c.end(l, op, OK, t.ReadTimestamp(), nil)
	c.w.checkTotal(op, rows)
}

func (c *client) readAll(ctx context.Context, t *txn.Txn, op *Op) (rows []Row, err error) {
	if c.d.IntN(2) == 0 {
		if rows, err = op.scan(ctx, t, tablet.LockNone, acct(0), acctEnd, c.d.IntN(3) == 0); err != nil {
			return nil, err
		}
	} else {
		var ks []string
		for i := range accounts {
			ks = append(ks, acct(i))
		}
		vs, err := op.get(ctx, t, tablet.LockNone, ks...)
		if err != nil {
			return nil, err
		}
		for i, v := range vs {
			rows = append(rows, Row{ks[i], v})
		}
	}
	switch c.d.IntN(4) {
	case 0:
		_, err = op.scan(ctx, t, tablet.LockNone, mix(0), mixEnd, c.d.IntN(2) == 0)
	case 1:
		_, err = op.get(ctx, t, tablet.LockNone, reg(0), reg(1), reg(2), reg(3), reg(4), reg(5))
	}
	return rows, err
}

// checkTotal is the bank's own check; what exactly an audit had to see is judged later.
func (w *World) checkTotal(op *Op, rows []Row) {
	sum := 0
	for _, r := range rows {
		sum += balance(r.Value)
	}
	if len(rows) != accounts || sum != accounts*opening {
		w.violate("X4", "%s at %s saw %d accounts with a total of %d, not %d with %d\n%v\n%v", op.Kind, stamp(op.TS), len(rows), sum, accounts, accounts*opening, op, rows)
	}
}

func (c *client) register(ctx context.Context, l *Life) {
	k := reg(c.d.IntN(registers))
	switch c.d.IntN(5) {
	case 0:
		c.rw(ctx, l, "register write", func(ctx context.Context, t *txn.Txn, op *Op) error { return op.put(ctx, t, k, "w") })
	case 1, 2:
		c.rw(ctx, l, "register swap", func(ctx context.Context, t *txn.Txn, op *Op) error {
			if _, err := op.get(ctx, t, pick(c.d, tablet.LockExclusive, tablet.LockShared), k); err != nil {
				return err
			}
			return op.put(ctx, t, k, "s")
		})
	case 3:
		c.rw(ctx, l, "register locked read", func(ctx context.Context, t *txn.Txn, op *Op) error {
			_, err := op.get(ctx, t, tablet.LockShared, k)
			return err
		})
	default:
		op := c.begin(l, "register read")
		op.ReadOnly = true
		t := l.txns.ReadOnly(ctx, 0)
		_, err := op.get(ctx, t, tablet.LockNone, k)
		if err == nil {
			err = t.AwaitVisible(ctx)
		}
		if err != nil {
			c.end(l, op, Failed, 0, err)
			return
		}
		c.end(l, op, OK, t.ReadTimestamp(), nil)
	}
}

// insert adds a unique row, and asks for the outcome when it did not hear it (X5).
func (c *client) insert(ctx context.Context, l *Life) {
	k := uniq(c.id, c.n)
	c.n++
	op, err := c.rw(ctx, l, "insert", func(ctx context.Context, t *txn.Txn, op *Op) error {
		vs, err := op.get(ctx, t, tablet.LockExclusive, k)
		if err != nil {
			return err
		}
		if vs[0] != "" {
			return errors.New("the key is there already")
		}
		return op.put(ctx, t, k, "row")
	})
	var unknown *txn.UnknownOutcomeError
	if errors.As(err, &unknown) {
		c.ask(op, k)
	}
}

// ask learns what became of a transaction, from any node that lives, now or later.
func (c *client) ask(op *Op, anchor string) {
	abort := c.d.IntN(2) == 0
	for range 3 {
		time.Sleep(c.d.between(10*time.Millisecond, 2*time.Second))
		l := c.w.nodes[c.d.IntN(len(c.w.nodes))].current()
		if l == nil {
			continue
		}
		ctx, cancel := context.WithTimeout(l.ctx, 5*time.Second)
		out, err := l.txns.Outcome(ctx, op.Txn, keys.Key(anchor), abort)
		cancel()
		if err != nil {
			continue
		}
		c.w.trace.Addf("op%d: asked node %d (abort %v): status %d ts %s", op.ID, l.n.id, abort, out.Status, stamp(out.TS))
		switch out.Status {
		case tablet.OutcomeCommitted:
			c.w.answered(op, OK, out.TS)
			return
		case tablet.OutcomeAborted:
			c.w.answered(op, Failed, 0)
			return
		}
	}
}

// skew reads a row of the first half and writes one of the second; blind writes one of the
// first, which it has not read.
func (c *client) skew(ctx context.Context, l *Life) {
	from, to := mix(c.d.IntN(mixed/2)), mix(mixed/2+c.d.IntN(mixed/2))
	c.rw(ctx, l, "skew", func(ctx context.Context, t *txn.Txn, op *Op) error {
		if _, err := op.get(ctx, t, tablet.LockShared, from); err != nil {
			return err
		}
		return op.put(ctx, t, to, "v")
	})
}

func (c *client) blind(ctx context.Context, l *Life) {
	k := mix(c.d.IntN(mixed / 2))
	c.rw(ctx, l, "blind", func(ctx context.Context, t *txn.Txn, op *Op) error { return op.put(ctx, t, k, "v") })
}

// mixed reads and writes at random, with scans, deletes and, where the plan stages
// early, staged chunks.
func (c *client) mixed(ctx context.Context, l *Life) {
	type step struct {
		kind    int
		i, j    int
		limit   int
		reverse bool
		lock    tablet.LockStrength
	}
	var plan []step
	for range 1 + c.d.IntN(3) {
		i := c.d.IntN(mixed)
		plan = append(plan, step{
			c.d.IntN(4), i, i + 1 + c.d.IntN(mixed-i), pick(c.d, 0, 0, 1, 3), c.d.IntN(3) == 0,
			pick(c.d, tablet.LockShared, tablet.LockShared, tablet.LockExclusive),
		})
	}
	deletes := c.d.IntN(3) == 0
	big := c.d.IntN(6) == 0
	first := c.d.IntN(mixed)
	count := 1 + c.d.IntN(3)
	if big {
		count = mixed
	}
	writeless := !big && c.d.IntN(6) == 0
	pause := c.d.between(0, 30*time.Millisecond)
	if c.d.IntN(40) == 0 {
		pause = c.d.between(time.Second, 7*time.Second) // lives by its heartbeats
	}
	var bound time.Duration
	if c.d.IntN(5) == 0 {
		bound = c.d.between(0, 30*time.Millisecond)
	}
	c.rw(ctx, l, "mixed", func(ctx context.Context, t *txn.Txn, op *Op) error {
		for _, s := range plan {
			var err error
			switch s.kind {
			case 0:
				_, err = op.scanSome(ctx, t, s.lock, mix(s.i), mix(s.j), s.reverse, s.limit)
			case 1:
				_, err = op.get(ctx, t, tablet.LockExclusive, mix(s.i))
			default:
				_, err = op.get(ctx, t, tablet.LockShared, mix(s.i))
			}
			if err != nil {
				return err
			}
		}
		if writeless {
			return nil
		}
		if pause > 20*time.Millisecond {
			select { // locks are held meanwhile
			case <-time.After(pause):
			case <-ctx.Done():
			}
		}
		if bound != 0 {
			op.Bound = l.clock.Now().Latest.Add(bound)
			t.BoundCommit(op.Bound)
		}
		text := "v"
		if big {
			text = strings.Repeat("big ", 20)
		}
		for n := range count {
			if err := op.put(ctx, t, mix((first+n)%mixed), text); err != nil {
				return err
			}
		}
		if deletes && !big {
			return op.remove(ctx, t, mix((first+count)%mixed))
		}
		return nil
	})
}
