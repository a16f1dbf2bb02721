package tablet

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/paxosgroup"
)

// errFinishing answers a request of a transaction that is already committing or
// prepared: a stray copy, nobody waits for its answer.
var errFinishing = errors.New("tablet: the transaction is committing")

// acquire takes a lock for tx, waiting by pol. It reports whether it had to wait.
// With refuse (commit and prepare, X2) it does not wait for an older transaction,
// unless that is about to end, and then not for long: tx is aborted instead.
func (lt *lockTable) acquire(ctx context.Context, tx *txnState, sp keys.Span, st LockStrength, pol WaitPolicy, refuse bool) (waited bool, err error) {
	lt.mu.Lock()
	ok, err := lt.tryLocked(tx, sp, st, refuse)
	if ok || err != nil {
		lt.mu.Unlock()
		return false, err
	}
	if pol != WaitBlock {
		// NOWAIT and SKIP LOCKED do not wound either: workers that skip each other's
		// jobs must not abort each other.
		w := waiter{tx: tx, start: str(sp.Start), end: str(sp.End), strength: st, seq: ^uint64(0)}
		e := &LockUnavailableError{Key: cloneBytes(sp.Start)}
		lt.eachBlocker(&w, func(b *txnState) bool {
			e.Holder = b.id
			return false
		})
		lt.mu.Unlock()
		return false, e
	}
	return true, lt.waitAndUnlock(ctx, tx, sp, st, refuse)
}

// waitAndUnlock queues a request, mu held, and waits for it, mu free.
func (lt *lockTable) waitAndUnlock(ctx context.Context, tx *txnState, sp keys.Span, st LockStrength, refuse bool) error {
	w := lt.returnLocked(tx, sp, st, refuse)
	if w == nil {
		if lt.nwaiting >= lt.cfg.maxWaiting {
			lt.mu.Unlock()
			return paxosgroup.ErrOverloaded
		}
		w = &waiter{tx: tx, start: string(sp.Start), end: string(sp.End), strength: st, write: refuse, refuse: refuse, patient: refuse, ch: make(chan struct{}, 1)}
		lt.enqueueLocked(w)
	}
	lt.stats.LockWaits.Add(1)
	j := lt.judgeLocked(w)
	if j.wound && lt.cfg.grace <= 0 {
		lt.woundLocked(w)
		j = lt.judgeLocked(w)
	}
	if w.done {
		lt.mu.Unlock()
		return w.err
	}
	lt.mu.Unlock()

	// One timer serves the grace before wounding, the pauses between inquiries about
	// prepared blockers, and the end of patience with older ones. It is only ever
	// moved forward, so that a stream of reasons to look again cannot put wounding off.
	var timer *time.Timer
	var fire <-chan time.Time
	var next time.Time  // when it fires, zero: not set
	var limit time.Time // of patience
	arm := func(j judgement, due bool) {
		now := time.Now()
		if j.ending && limit.IsZero() {
			limit = now.Add(lt.cfg.patience)
		}
		var at time.Time
		switch {
		case (j.wound || j.prepared) && due:
			at = now.Add(lt.cfg.inquireEvery)
		case j.wound || j.prepared:
			at = now.Add(max(lt.cfg.grace, 0))
		}
		if j.ending && (at.IsZero() || limit.Before(at)) {
			at = limit
		}
		if at.IsZero() || !next.IsZero() && !at.Before(next) {
			return
		}
		d := at.Sub(now)
		next = at
		if timer == nil {
			timer = time.NewTimer(d)
			fire = timer.C
		} else {
			timer.Reset(d)
		}
	}
	defer func() {
		if timer != nil {
			timer.Stop()
		}
	}()
	arm(j, false)
	for {
		due := false
		var ended error
		select {
		case <-w.ch:
		case <-fire:
			due, next = true, time.Time{}
		case <-ctx.Done():
			ended = ctx.Err()
		}
		lt.mu.Lock()
		if w.done {
			err := w.err
			lt.escalateIfDueLocked(tx, err)
			lt.mu.Unlock()
			return err
		}
		if ended != nil {
			if timedOut(ctx) && !refuse {
				lt.leaveLocked(w, ended)
			} else {
				lt.completeLocked(w, ended)
				lt.settleLocked(false)
			}
			lt.mu.Unlock()
			return ended
		}
		var ask []inquiry
		if due {
			ask = lt.woundLocked(w)
			w.patient = w.patient && (limit.IsZero() || time.Now().Before(limit))
		}
		j = lt.judgeLocked(w) // completes w when it may no longer wait
		if w.done {
			err := w.err
			lt.mu.Unlock()
			return err
		}
		lt.mu.Unlock()
		for _, q := range ask {
			lt.inquire(q.txn, q.coordinator, true)
		}
		arm(j, due)
	}
}

// placeKept is how long a request whose call has timed out keeps its place in the
// queue. Gateways bound their calls to other nodes and ask again: at the tail, an
// older transaction would have to wound the younger ones that it was ahead of.
const placeKept = time.Second

// leaveLocked has w wait for its call's next copy. If its turn comes meanwhile, the
// transaction has the lock, which ends with it.
func (lt *lockTable) leaveLocked(w *waiter, why error) {
	w.left = time.AfterFunc(placeKept, func() {
		lt.mu.Lock()
		defer lt.mu.Unlock()
		if w.left != nil && lt.closed == nil {
			lt.completeLocked(w, why)
			lt.settleLocked(false)
		}
	})
}

// returnLocked finds the place of a request whose earlier copy has left.
func (lt *lockTable) returnLocked(tx *txnState, sp keys.Span, st LockStrength, refuse bool) *waiter {
	for _, w := range tx.waits {
		if w.left != nil && w.start == str(sp.Start) && w.end == str(sp.End) && w.strength == st && w.refuse == refuse {
			w.left.Stop()
			w.left = nil
			return w
		}
	}
	return nil
}

// timedOut reports whether ctx, which has ended, had come to its deadline. The word
// of a gateway that its own has passed may arrive a moment before.
func timedOut(ctx context.Context) bool {
	d, ok := ctx.Deadline()
	return ok && time.Until(d) < 100*time.Millisecond
}

func (lt *lockTable) escalateIfDueLocked(tx *txnState, err error) {
	if err == nil && tx.phase == phaseActive && len(tx.points) >= tx.escalateAt {
		lt.escalateLocked(tx)
	}
}

// judgement of a waiter's blockers.
type judgement struct {
	wound    bool // a younger one that may be wounded
	prepared bool // a younger one that is prepared or about to be
	ending   bool // in commit and prepare: an older one, whose end is near
}

// judgeLocked looks at w's blockers. In commit and prepare an older blocker ends
// the transaction (AbortRefused), so that nobody prepared waits for somebody older
// for long. For three kinds there is patience, within limits: one that is committing;
// one that is prepared, mostly decided already, with its participants being told; and
// an earlier attempt of the same transaction, which is over, its locks on their way out.
func (lt *lockTable) judgeLocked(w *waiter) (j judgement) {
	if w.done {
		return j
	}
	var older *txnState
	lt.eachBlocker(w, func(b *txnState) bool {
		switch {
		case b.id.Older(w.tx.id) && w.patient && (b.phase.writing() || b.id.Age == w.tx.id.Age && b.id.Node == w.tx.id.Node):
			j.ending = true
		case b.id.Older(w.tx.id):
			older = b
			return !w.refuse
		case b.phase == phaseActive:
			j.wound = true
		case b.phase == phasePrepared || b.phase == phasePreparing:
			j.prepared = true
		}
		return true
	})
	if w.refuse && older != nil {
		lt.killLocked(w.tx, &AbortedError{Txn: w.tx.id, Reason: AbortRefused, By: older.id, Key: w.key()})
	}
	return j
}

type inquiry struct {
	txn         keys.TxnID
	coordinator Anchor
}

// woundLocked aborts every younger active transaction in w's way, holder or
// queued ahead, and returns the prepared ones, about which their coordinators
// are to be asked (abort if undecided, X2).
func (lt *lockTable) woundLocked(w *waiter) (ask []inquiry) {
	if BreakWoundWait {
		return nil
	}
	var victims []*txnState
	lt.eachBlocker(w, func(b *txnState) bool {
		if b.id.Older(w.tx.id) {
			return true
		}
		switch b.phase {
		case phaseActive:
			if !slices.Contains(victims, b) {
				victims = append(victims, b)
			}
		case phasePrepared:
			q := inquiry{b.id, b.coordinator}
			if !slices.ContainsFunc(ask, func(o inquiry) bool { return o.txn == q.txn }) {
				ask = append(ask, q)
			}
		}
		return true
	})
	for _, v := range victims {
		lt.stats.Wounds.Add(1)
		lt.killLocked(v, &AbortedError{Txn: v.id, Reason: AbortWounded, By: w.tx.id, Key: w.key()})
	}
	return ask
}

// lockWrites takes what is missing of the exclusive locks on ws and moves tx on
// to phase, from where it is no longer wounded. In refuse mode: see acquire.
func (lt *lockTable) lockWrites(ctx context.Context, tx *txnState, ws []Write, phase txnPhase) error {
	lt.mu.Lock()
	if len(ws) >= bulkWrites && lt.lockHullLocked(tx, ws) {
		ws = nil
	}
	for i := range ws {
		sp := keys.Span{Start: ws[i].Key}
		ok, err := lt.tryLocked(tx, sp, LockExclusive, true)
		if err == nil && !ok {
			err = lt.waitAndUnlock(ctx, tx, sp, LockExclusive, true)
			lt.mu.Lock()
		}
		if err != nil {
			lt.mu.Unlock()
			return err
		}
	}
	err := lt.usableLocked(tx, lt.bounds)
	if err == nil {
		lt.setPhaseLocked(tx, phase)
		tx.s.Store(0)
	}
	lt.mu.Unlock()
	return err
}

// lockPoints takes locks on several keys, one after the other.
func (lt *lockTable) lockPoints(ctx context.Context, tx *txnState, ks []keys.Key, st LockStrength) error {
	lt.mu.Lock()
	for i, k := range ks {
		if i > 0 && i%releaseChunk == 0 {
			lt.mu.Unlock() // let others in
			lt.mu.Lock()
		}
		sp := keys.Span{Start: k}
		ok, err := lt.tryLocked(tx, sp, st, false)
		if err == nil && !ok {
			err = lt.waitAndUnlock(ctx, tx, sp, st, false)
			lt.mu.Lock()
		}
		if err != nil {
			lt.mu.Unlock()
			return err
		}
	}
	lt.mu.Unlock()
	return nil
}

// bulkWrites is the size from which a commit's writes are worth one range lock.
const bulkWrites = 32

// lockHullLocked locks the range from the first to the last of ws in one go, for
// bulk loads: the writes are sorted, close together, and nobody else has or wants
// a lock in between. Otherwise it does nothing.
func (lt *lockTable) lockHullLocked(tx *txnState, ws []Write) bool {
	first, last := ws[0].Key, ws[len(ws)-1].Key
	if len(tx.points) != 0 || len(tx.ranges) != 0 || commonPrefix(str(first), str(last))*2 < len(first) {
		return false
	}
	for i := 1; i < len(ws); i++ {
		if bytes.Compare(ws[i-1].Key, ws[i].Key) >= 0 {
			return false
		}
	}
	start, end := string(first), string(last)+"\x00"
	if lt.usableLocked(tx, keys.Span{Start: first, End: keys.Key(end)}) != nil || lt.othersIn(tx, start, end, LockExclusive) {
		return false
	}
	lt.addRangeLocked(tx, start, end, LockExclusive, true)
	return true
}

// othersIn reports whether anybody else holds a lock in [start, end) that
// conflicts with st, or waits for one there at all: taking the range would give
// such a waiter a blocker that it has not judged.
func (lt *lockTable) othersIn(tx *txnState, start, end string, st LockStrength) bool {
	free := true
	lt.keys.Ascend(start, func(k string, kl *keyLock) bool {
		if k >= end {
			return false
		}
		for i := range kl.holders {
			if h := &kl.holders[i]; h.tx != tx && conflict(h.strength, st) {
				free = false
			}
		}
		for _, w := range kl.waiters {
			if w.tx != tx {
				free = false
			}
		}
		return free
	})
	free = free && lt.granted.visit(start, end, func(r *rangeLock) bool { return r.tx == tx || !conflict(r.strength, st) })
	return !free || !lt.waiting.visit(start, end, func(w *waiter) bool { return w.tx == tx })
}

func commonPrefix(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// escalateLocked exchanges tx's many point locks for ranges around runs of them,
// where nobody else is in the way. Runs end where neighbouring keys part earliest
// (another table, another index), so that little is locked that is not its own.
func (lt *lockTable) escalateLocked(tx *txnState) {
	pts := slices.Clone(tx.points)
	slices.SortFunc(pts, func(a, b *keyLock) int {
		if a.key < b.key {
			return -1
		}
		return 1
	})
	shared := commonPrefix(pts[0].key, pts[len(pts)-1].key)
	var cuts []int
	for i := 1; i < len(pts); i++ {
		if commonPrefix(pts[i-1].key, pts[i].key) == shared {
			cuts = append(cuts, i)
		}
	}
	if len(cuts) > 16 {
		cuts = nil // evenly spread: one run
	}
	gone := make(map[*keyLock]struct{})
	from := 0
	for _, to := range append(cuts, len(pts)) {
		run := pts[from:to]
		from = to
		if len(run) < 4 {
			continue
		}
		st, write := LockShared, false
		for _, kl := range run {
			for i := range kl.holders {
				if h := &kl.holders[i]; h.tx == tx && h.strength == LockExclusive {
					// Any key of the run may be written later under the range alone.
					st, write = LockExclusive, true
				}
			}
		}
		start, end := run[0].key, run[len(run)-1].key+"\x00"
		if lt.othersIn(tx, start, end, st) {
			continue
		}
		lt.addRangeLocked(tx, start, end, st, write)
		for _, kl := range run {
			gone[kl] = struct{}{}
		}
		lt.stats.Escalations.Add(1)
	}
	if len(gone) > 0 {
		tx.points = slices.DeleteFunc(tx.points, func(kl *keyLock) bool {
			_, ok := gone[kl]
			return ok
		})
		for kl := range gone {
			lt.removeHolder(kl, tx) // nobody else waits here: othersIn
		}
		lt.settleLocked(false)
	}
	// What could not be escalated is not tried again before it has doubled.
	tx.escalateAt = max(lt.cfg.budget, 2*len(tx.points))
}
