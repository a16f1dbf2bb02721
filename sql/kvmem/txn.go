package kvmem

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/sql/kv"
	"github.com/spandb/spand/tablet"
	"github.com/spandb/spand/truetime"
	"github.com/tidwall/btree"
)

// Txn implements kv.Txn.
type Txn struct {
	store    *Store
	id       keys.TxnID
	readOnly bool
	at       truetime.Timestamp
	finished bool

	optimistic bool // its reads are guesses, and wrong
	guessed    bool

	buf     btree.Map[string, []byte] // own writes; nil deletes
	undo    []undo                    // how to take writes back, from the first savepoint on
	marked  bool                      // a savepoint was taken
	maxSeen truetime.Timestamp
	bound   truetime.Timestamp
	ask     func() (truetime.Timestamp, error)
	result  kv.CommitResult

	// Guarded by store.mu.
	points    map[string]tablet.LockStrength
	ranges    []rangeLock
	wounded   bool
	woundedBy keys.TxnID
	done      chan struct{}
}

type rangeLock struct {
	span     keys.Span
	strength tablet.LockStrength
}

type undo struct {
	key string
	old []byte
	had bool
}

var errReadOnly = errors.New("kvmem: write in a read-only transaction")

func (t *Txn) conflicts(span keys.Span, strength tablet.LockStrength) bool {
	against := func(held tablet.LockStrength) bool {
		return held == tablet.LockExclusive || strength == tablet.LockExclusive
	}
	if span.IsPoint() {
		if held, ok := t.points[string(span.Start)]; ok && against(held) {
			return true
		}
	} else {
		for k, held := range t.points {
			if against(held) && span.Contains([]byte(k)) {
				return true
			}
		}
	}
	for _, r := range t.ranges {
		if against(r.strength) && r.span.Overlaps(span) {
			return true
		}
	}
	return false
}

func (t *Txn) addLock(span keys.Span, strength tablet.LockStrength) {
	if span.IsPoint() {
		if t.points == nil {
			t.points = make(map[string]tablet.LockStrength)
		}
		k := string(span.Start)
		t.points[k] = max(t.points[k], strength)
		return
	}
	for _, r := range t.ranges {
		if r.strength >= strength && r.span.Covers(span) {
			return
		}
	}
	t.ranges = append(t.ranges, rangeLock{span, strength})
}

func (t *Txn) abortedError() error {
	return &tablet.AbortedError{Txn: t.id, Reason: tablet.AbortWounded, By: t.woundedBy}
}

// ID is zero for a read-only transaction.
func (t *Txn) ID() keys.TxnID { return t.id }

// ReadOnly reports the kind.
func (t *Txn) ReadOnly() bool { return t.readOnly }

// ReadTimestamp of a read-only transaction.
func (t *Txn) ReadTimestamp() truetime.Timestamp { return t.at }

func (t *Txn) check(ctx context.Context) error {
	if t.finished {
		return errFinished
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

func (t *Txn) see(ts truetime.Timestamp) {
	t.maxSeen = max(t.maxSeen, ts)
}

// Get reads keys.
func (t *Txn) Get(ctx context.Context, ks []keys.Key, lock tablet.LockStrength, wait tablet.WaitPolicy) ([][]byte, error) {
	if err := t.check(ctx); err != nil {
		return nil, err
	}
	if (lock == tablet.LockNone) != t.readOnly {
		return nil, errors.New("kvmem: lock strength does not fit the transaction")
	}
	out := make([][]byte, len(ks))
	for i, k := range ks {
		if t.optimistic {
			t.guessed = true
			out[i], _ = t.buf.Get(string(k)) // no row but its own, it says
			continue
		}
		if !t.readOnly {
			err := t.store.acquire(ctx, t, keys.PointSpan(k), lock, wait, false)
			var unavailable *tablet.LockUnavailableError
			if wait == tablet.WaitSkip && errors.As(err, &unavailable) {
				continue
			}
			if err != nil {
				return nil, err
			}
			if v, ok := t.buf.Get(string(k)); ok {
				out[i] = v
				continue
			}
		}
		at := t.at
		if !t.readOnly {
			at = truetime.Max
		}
		t.store.mu.Lock()
		vs, _ := t.store.mu.data.Get(string(k))
		v, ts := visible(vs, at)
		wounded := t.wounded
		t.store.mu.Unlock()
		if wounded {
			return nil, t.abortedError()
		}
		t.see(ts)
		out[i] = v
	}
	return out, nil
}

// Put buffers a write.
func (t *Txn) Put(ctx context.Context, k keys.Key, v []byte) error {
	if v == nil {
		return errors.New("kvmem: nil value")
	}
	return t.write(ctx, k, v)
}

// Delete buffers a deletion.
func (t *Txn) Delete(ctx context.Context, k keys.Key) error { return t.write(ctx, k, nil) }

func (t *Txn) write(ctx context.Context, k keys.Key, v []byte) error {
	if err := t.check(ctx); err != nil {
		return err
	}
	if t.readOnly {
		return errReadOnly
	}
	old, had := t.buf.Set(string(k), v)
	if t.marked { // like the real store, which records only then
		t.undo = append(t.undo, undo{string(k), old, had})
	}
	return nil
}

// Load writes rows at once, outside the transaction.
func (t *Txn) Load(ctx context.Context, rows []tablet.Write) error {
	if err := t.check(ctx); err != nil {
		return err
	}
	if t.readOnly {
		return errReadOnly
	}
	t.store.mu.Lock()
	ts := t.store.applyLocked(rows)
	t.store.mu.Unlock()
	t.see(ts)
	return nil
}

// Savepoint marks the buffer.
func (t *Txn) Savepoint() int {
	t.marked = true
	return len(t.undo)
}

// RollbackTo drops what came after mark.
func (t *Txn) RollbackTo(mark int) error {
	if !t.marked || mark < 0 || mark > len(t.undo) {
		return errors.New("kvmem: no such savepoint")
	}
	for i := len(t.undo) - 1; i >= mark; i-- {
		if u := t.undo[i]; u.had {
			t.buf.Set(u.key, u.old)
		} else {
			t.buf.Delete(u.key)
		}
	}
	t.undo = t.undo[:mark]
	return nil
}

// BoundCommit demands s <= ts at commit.
func (t *Txn) BoundCommit(ts truetime.Timestamp) {
	if t.bound == 0 || ts < t.bound {
		t.bound = ts
	}
}

// AskBound has Commit ask for a bound at the last moment.
func (t *Txn) AskBound(ask func() (truetime.Timestamp, error)) { t.ask = ask }

// AwaitVisible waits until all that was read may be shown (X1).
func (t *Txn) AwaitVisible(ctx context.Context) error {
	if t.guessed {
		return kv.ErrUnconfirmed
	}
	t.optimistic = false // what is shown stays shown
	if t.maxSeen == 0 || truetime.After(t.store.clock, t.maxSeen) {
		return nil
	}
	return t.store.clock.AwaitAfter(ctx, t.maxSeen)
}

// Commit applies the writes at one timestamp and does commit wait.
func (t *Txn) Commit(ctx context.Context) (truetime.Timestamp, error) {
	if t.readOnly {
		t.finished = true
		return t.at, nil
	}
	if err := t.check(ctx); err != nil {
		return 0, err
	}
	if t.guessed {
		return 0, kv.ErrUnconfirmed
	}
	if f := t.store.BeforeCommit; f != nil {
		if err := f(t.id); err != nil {
			return 0, err
		}
	}
	var ws []tablet.Write
	var err error
	t.buf.Scan(func(k string, v []byte) bool {
		ws = append(ws, tablet.Write{Key: []byte(k), Value: v})
		err = t.store.acquire(ctx, t, keys.PointSpan([]byte(k)), tablet.LockExclusive, tablet.WaitBlock, true)
		return err == nil
	})
	if err != nil {
		return 0, err
	}
	bound := t.bound
	var asking time.Duration
	if t.ask != nil {
		began := time.Now()
		asked, err := t.ask()
		if err != nil {
			return 0, err
		}
		if bound == 0 || asked < bound {
			bound = asked
		}
		asking = time.Since(began)
	}
	t.store.mu.Lock()
	if t.wounded {
		t.store.mu.Unlock()
		return 0, t.abortedError()
	}
	if bound != 0 && max(t.store.clock.Now().Latest, t.store.mu.last+1) > bound {
		t.store.mu.Unlock()
		return 0, &tablet.AbortedError{Txn: t.id, Reason: tablet.AbortTooLate}
	}
	ts := t.store.applyLocked(ws)
	t.store.finishLocked(t)
	t.store.mu.Unlock()
	t.finished = true
	t.result = kv.CommitResult{TS: ts, Participants: 1, Epsilon: t.store.clock.Now().Epsilon(), Asking: asking}
	began := time.Now()
	err = t.store.clock.AwaitAfter(ctx, ts)
	t.result.Net = time.Since(began)
	t.result.Gross = t.result.Net
	return ts, err
}

// Result tells more about a successful Commit.
func (t *Txn) Result() kv.CommitResult { return t.result }

// Insist makes an ordinary transaction of one that has guessed.
func (t *Txn) Insist() bool {
	if t.finished || !t.guessed {
		return false
	}
	t.optimistic, t.guessed = false, false
	t.buf.Clear()
	return true
}

// Rollback releases everything.
func (t *Txn) Rollback(context.Context) {
	if t.finished {
		return
	}
	t.finished = true
	if t.readOnly {
		return
	}
	t.store.mu.Lock()
	t.store.finishLocked(t)
	t.store.mu.Unlock()
}

// scanPage is how many rows a scan locks and reads at a time.
const scanPage = 256

// Scan reads a span in order, own writes merged in, page by page.
func (t *Txn) Scan(ctx context.Context, req kv.ScanRequest) kv.RowIter {
	it := &iter{t: t, ctx: ctx, req: req, rest: req.Span}
	if t.guessed {
		it.err = kv.ErrUnconfirmed
	}
	t.optimistic = t.guessed
	if req.Span.IsPoint() {
		it.rest = keys.Span{Start: req.Span.Start, End: append(append(keys.Key(nil), req.Span.Start...), 0)}
	}
	return it
}

type iter struct {
	t    *Txn
	ctx  context.Context
	req  kv.ScanRequest
	rest keys.Span
	rows []tablet.KV
	pos  int
	read int
	end  bool
	err  error
}

func (it *iter) Next() bool {
	it.pos++
	for it.pos >= len(it.rows) {
		if it.end || it.err != nil {
			return false
		}
		it.err = it.page()
		it.pos = 0
	}
	it.read++
	return true
}

func (it *iter) Key() keys.Key { return it.rows[it.pos].Key }
func (it *iter) Value() []byte { return it.rows[it.pos].Value }
func (it *iter) Err() error    { return it.err }
func (it *iter) Close()        {}

// page finds where the page ends, locks it, and reads again under the lock.
func (it *iter) page() error {
	if err := it.t.check(it.ctx); err != nil {
		return err
	}
	n := scanPage
	if it.req.Limit > 0 {
		n = min(n, max(1, it.req.Limit-it.read))
	}
	rows, more := it.collect(n)
	for !it.t.readOnly {
		span := it.rest
		if more {
			last := rows[len(rows)-1].Key
			if it.req.Reverse {
				span.Start = last
			} else {
				span.End = append(append(keys.Key(nil), last...), 0)
			}
		}
		if it.req.Wait == tablet.WaitSkip {
			// Row by row; what is locked is left out. Gaps stay unlocked.
			free := rows[:0]
			for _, r := range rows {
				err := it.t.store.acquire(it.ctx, it.t, keys.PointSpan(r.Key), it.req.Lock, it.req.Wait, false)
				var locked *tablet.LockUnavailableError
				if errors.As(err, &locked) {
					continue
				}
				if err != nil {
					return err
				}
				free = append(free, r)
			}
			it.advance(rows, more)
			it.rows = free
			return nil
		}
		err := it.t.store.acquire(it.ctx, it.t, span, it.req.Lock, it.req.Wait, false)
		if err != nil {
			return err
		}
		again, moreAgain := it.collect(n)
		same := moreAgain == more && len(again) == len(rows)
		if same && more {
			same = bytes.Equal(again[len(again)-1].Key, rows[len(rows)-1].Key)
		}
		rows, more = again, moreAgain
		if same {
			break
		}
	}
	it.advance(rows, more)
	return nil
}

// advance notes that rows were read.
func (it *iter) advance(rows []tablet.KV, more bool) {
	it.rows, it.end = rows, !more
	if more {
		last := rows[len(rows)-1].Key
		if it.req.Reverse {
			it.rest.End = last
		} else {
			it.rest.Start = append(append(keys.Key(nil), last...), 0)
		}
	}
}

// collect reads up to n rows of the rest without locking.
func (it *iter) collect(n int) (rows []tablet.KV, more bool) {
	t := it.t
	at := t.at
	if !t.readOnly {
		at = truetime.Max
	}
	t.store.mu.Lock()
	defer t.store.mu.Unlock()
	start, end := string(it.rest.Start), string(it.rest.End)
	if start >= end {
		return nil, false
	}
	merged := merge(t, start, end, it.req.Reverse)
	for {
		k, v, ts, ok := merged(at)
		if !ok {
			return rows, false
		}
		if v == nil {
			continue
		}
		if len(rows) == n {
			return rows, true
		}
		t.see(ts)
		rows = append(rows, tablet.KV{Key: []byte(k), Value: v})
	}
}

// merge yields the store's newest versions and t's buffered writes in key order.
func merge(t *Txn, start, end string, reverse bool) func(at truetime.Timestamp) (string, []byte, truetime.Timestamp, bool) {
	data, buf := t.store.mu.data.Iter(), t.buf.Iter()
	in := func(k string) bool { return k >= start && k < end }
	var haveD, haveB bool
	if !reverse {
		haveD, haveB = data.Seek(start), buf.Seek(start)
	} else {
		if haveD = data.Seek(end); haveD {
			haveD = data.Prev()
		} else {
			haveD = data.Last()
		}
		if haveB = buf.Seek(end); haveB {
			haveB = buf.Prev()
		} else {
			haveB = buf.Last()
		}
	}
	step := func(d, b bool) {
		if d {
			if reverse {
				haveD = data.Prev()
			} else {
				haveD = data.Next()
			}
		}
		if b {
			if reverse {
				haveB = buf.Prev()
			} else {
				haveB = buf.Next()
			}
		}
	}
	return func(at truetime.Timestamp) (string, []byte, truetime.Timestamp, bool) {
		d, b := haveD && in(data.Key()), haveB && in(buf.Key())
		switch {
		case !d && !b:
			return "", nil, 0, false
		case b && (!d || data.Key() == buf.Key() || (buf.Key() < data.Key()) != reverse):
			k, v := buf.Key(), buf.Value()
			step(d && data.Key() == k, true)
			return k, v, 0, true
		}
		k := data.Key()
		v, ts := visible(data.Value(), at)
		step(true, false)
		return k, v, ts, true
	}
}
