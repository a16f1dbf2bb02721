package tablet

import (
	"slices"
	"strings"

	"github.com/spandb/spand/internal/keys"
)

// restorePrepared puts a prepared transaction and all its locks into a new
// leader's table (X3). Nobody has been granted anything yet, so no checks.
func (lt *lockTable) restorePrepared(id keys.TxnID, p *preparedTxn, s *stagedTxn) {
	lt.mu.Lock()
	defer lt.mu.Unlock()
	tx := &txnState{id: id, coordinator: p.coordinator, escalateAt: lt.cfg.budget}
	tx.s.Store(int64(p.ts))
	lt.txns[id] = tx
	lt.setPhaseLocked(tx, phasePrepared)
	eachWrite(p.writes, func(k, _ []byte) { lt.forcePoint(tx, k, LockExclusive, true) })
	eachLock(p.locks, func(l lockSpec) {
		if BreakPreparedLocks {
			return
		}
		if l.span.IsPoint() {
			lt.forcePoint(tx, l.span.Start, l.strength, false)
		} else {
			lt.addRangeLocked(tx, string(l.span.Start), string(l.span.End), l.strength, false)
		}
	})
	if s != nil && s.min != nil {
		h := s.hull()
		lt.addRangeLocked(tx, string(h.Start), string(h.End), LockExclusive, true)
	}
}

// restoreCommitted holds the keys of a committed transaction whose chunks are
// still to be materialised.
func (lt *lockTable) restoreCommitted(id keys.TxnID, s *stagedTxn) {
	lt.mu.Lock()
	defer lt.mu.Unlock()
	tx := &txnState{id: id, escalateAt: lt.cfg.budget}
	tx.s.Store(int64(s.ts))
	lt.txns[id] = tx
	lt.setPhaseLocked(tx, phaseCommitting)
	if s.min != nil {
		h := s.hull()
		lt.addRangeLocked(tx, string(h.Start), string(h.End), LockExclusive, true)
	}
}

func (lt *lockTable) forcePoint(tx *txnState, key []byte, st LockStrength, write bool) {
	kl, _ := lt.keys.Get(str(key))
	lt.addPointLocked(tx, key, kl, st, write)
}

// lockSet lists tx's locks for a prepare: all but the exclusive points on its own
// writes, which the writes stand for.
func (lt *lockTable) lockSet(tx *txnState, writes []Write) []lockSpec {
	own := make(map[string]struct{}, len(writes))
	for i := range writes {
		own[str(writes[i].Key)] = struct{}{}
	}
	lt.mu.Lock()
	defer lt.mu.Unlock()
	ls := make([]lockSpec, 0, len(tx.points)+len(tx.ranges))
	for _, kl := range tx.points {
		if _, ok := own[kl.key]; ok {
			continue
		}
		for i := range kl.holders {
			if h := &kl.holders[i]; h.tx == tx {
				ls = append(ls, lockSpec{keys.Span{Start: []byte(kl.key)}, h.strength})
			}
		}
	}
	for _, r := range tx.ranges {
		ls = append(ls, lockSpec{keys.Span{Start: []byte(r.start), End: []byte(r.end)}, r.strength})
	}
	return ls
}

// compactRun is how many neighbouring locks compact joins at once.
const compactRun = 16

// compact exchanges tx's locks, points and ranges, for fewer and wider ones, for a
// prepare that would not fit otherwise: neighbours first, so that little is locked
// that was not before. It reports whether it found any to join.
func (lt *lockTable) compact(tx *txnState) bool {
	lt.mu.Lock()
	defer lt.mu.Unlock()
	all := make([]heldLock, 0, len(tx.points)+len(tx.ranges))
	for _, kl := range tx.points {
		all = append(all, heldLock{kl: kl})
	}
	for _, r := range tx.ranges {
		all = append(all, heldLock{r: r})
	}
	slices.SortFunc(all, func(a, b heldLock) int { return strings.Compare(a.start(), b.start()) })
	before := len(all)
	gone := make(map[heldLock]struct{})
	var wide []lockSpec
	for run := range slices.Chunk(all, compactRun) {
		wide = lt.joinLocked(tx, run, gone, wide)
	}
	tx.points = slices.DeleteFunc(tx.points, func(kl *keyLock) bool { _, ok := gone[heldLock{kl: kl}]; return ok })
	tx.ranges = slices.DeleteFunc(tx.ranges, func(r *rangeLock) bool { _, ok := gone[heldLock{r: r}]; return ok })
	for _, l := range wide {
		// Any key of the run may be one that is written.
		lt.addRangeLocked(tx, string(l.span.Start), string(l.span.End), l.strength, l.strength == LockExclusive)
	}
	lt.settleLocked(false)
	return len(tx.points)+len(tx.ranges) < before
}

// heldLock is a point or a range that a transaction holds.
type heldLock struct {
	kl *keyLock
	r  *rangeLock
}

func (h heldLock) start() string {
	if h.kl != nil {
		return h.kl.key
	}
	return h.r.start
}

func (h heldLock) end() string {
	if h.kl != nil {
		return h.kl.key + "\x00"
	}
	return h.r.end
}

func (h heldLock) strength(tx *txnState) LockStrength {
	if h.kl == nil {
		return h.r.strength
	}
	for i := range h.kl.holders {
		if h.kl.holders[i].tx == tx {
			return h.kl.holders[i].strength
		}
	}
	return LockShared
}

// joinLocked lets go of run, or of parts of it, where nobody is in the way of one
// range around it. It notes the locks that are gone, and adds the ranges to wide.
func (lt *lockTable) joinLocked(tx *txnState, run []heldLock, gone map[heldLock]struct{}, wide []lockSpec) []lockSpec {
	if len(run) < 2 {
		return wide
	}
	start, end, st := run[0].start(), run[0].end(), LockShared
	for _, h := range run {
		start, end, st = min(start, h.start()), max(end, h.end()), max(st, h.strength(tx))
	}
	if lt.othersIn(tx, start, end, st) {
		wide = lt.joinLocked(tx, run[:len(run)/2], gone, wide)
		return lt.joinLocked(tx, run[len(run)/2:], gone, wide)
	}
	for _, h := range run {
		gone[h] = struct{}{}
		if h.kl != nil {
			lt.removeHolder(h.kl, tx) // nobody else waits here: othersIn
		} else {
			lt.granted.remove(h.r.start, h.r.id)
			lt.stats.LocksHeld.Add(-1)
		}
	}
	return append(wide, lockSpec{keys.Span{Start: []byte(start), End: []byte(end)}, st})
}

// Inheritance is the unprepared part of a lock table that a split's child takes
// over when its replica at the same node is the first to lead (B1).
type Inheritance struct {
	txns []inheritedTxn
}

type inheritedTxn struct {
	id     keys.TxnID
	client keys.NodeID
	terms  []uint64 // under which its gateway may know the locks
	locks  []lockSpec
}

// Len returns the number of transactions handed over.
func (h *Inheritance) Len() int {
	if h == nil {
		return 0
	}
	return len(h.txns)
}

// splitRight takes everything at or right of key out of the table. Requests
// queued there get err. Locks of unprepared transactions are handed over; those
// that decided lists are committed already and only need to go; those that gone
// lists are prepared and the child's altogether.
//
// A transaction that loses a part this way remembers the split, which made
// generation: it can commit here only together with the child (see dividedSince).
func (lt *lockTable) splitRight(key keys.Key, generation uint64, err error, decided, gone func(keys.TxnID) bool) *Inheritance {
	lt.mu.Lock()
	defer lt.mu.Unlock()
	in := &Inheritance{}
	lt.bounds.End, lt.gen, lt.moved = key, generation, err
	at := string(key)

	var late []*waiter
	lt.keys.Ascend(at, func(_ string, kl *keyLock) bool {
		late = append(late, kl.waiters...)
		return true
	})
	lt.waiting.visit(at, maxString, func(w *waiter) bool {
		late = append(late, w)
		return true
	})
	for _, w := range late {
		lt.completeLocked(w, err)
	}

	for id, tx := range lt.txns {
		var moved []lockSpec
		left := tx.points[:0:0]
		var off []*keyLock
		for _, kl := range tx.points {
			if kl.key < at {
				left = append(left, kl)
				continue
			}
			off = append(off, kl)
			for i := range kl.holders {
				if h := &kl.holders[i]; h.tx == tx {
					moved = append(moved, lockSpec{keys.Span{Start: []byte(kl.key)}, h.strength})
				}
			}
		}
		if len(off) > 0 {
			tx.points = left
			for _, kl := range off {
				lt.removeHolder(kl, tx)
			}
		}
		for _, r := range slices.Clone(tx.ranges) {
			if r.end <= at {
				continue
			}
			moved = append(moved, lockSpec{keys.Span{Start: []byte(max(r.start, at)), End: []byte(r.end)}, r.strength})
			lt.granted.remove(r.start, r.id)
			if r.start < at {
				r.end = at
				lt.granted.insert(r.start, r.end, r.id, r)
				continue
			}
			tx.ranges = slices.DeleteFunc(tx.ranges, func(o *rangeLock) bool { return o == r })
			lt.stats.LocksHeld.Add(-1)
		}
		if gone(id) {
			lt.dropLocked(tx)
			continue
		}
		// Also a transaction that has no locks there is handed over: its gateway knows
		// them by a range, of which the child may become the middle.
		if tx.phase == phasePrepared || len(moved) == 0 && tx.phase != phaseActive || decided(id) {
			continue
		}
		if len(moved) > 0 {
			tx.movedAt = generation
		}
		in.txns = append(in.txns, inheritedTxn{id: id, client: tx.client, terms: append(slices.Clone(tx.terms), lt.term), locks: moved})
	}
	lt.settleLocked(false)
	return in
}

// maxString sorts above every key.
const maxString = "\xff\xff\xff\xff\xff\xff\xff\xff"

// adopt takes over a parent's locks in a new leader's table.
func (lt *lockTable) adopt(in *Inheritance) {
	lt.mu.Lock()
	defer lt.mu.Unlock()
	for _, x := range in.txns {
		if lt.txns[x.id] != nil {
			continue
		}
		tx := &txnState{id: x.id, terms: x.terms, client: x.client, escalateAt: lt.cfg.budget, tick: lt.tick.Load()}
		lt.txns[x.id] = tx
		if BreakChildLocks {
			continue
		}
		for _, l := range x.locks {
			if l.span.IsPoint() {
				lt.forcePoint(tx, l.span.Start, l.strength, false)
			} else {
				lt.addRangeLocked(tx, string(l.span.Start), string(l.span.End), l.strength, false)
			}
		}
	}
}
