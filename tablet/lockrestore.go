package tablet

import (
	"slices"

	"github.com/spandb/spand/internal/keys"
)

// restorePrepared puts a prepared transaction and all its locks into a new
// leader's table (X3). Nobody has been granted anything yet, so no checks.
func (lt *lockTable) restorePrepared(id keys.TxnID, p *preparedTxn, s *stagedTxn) {
	lt.mu.Lock()
	defer lt.mu.Unlock()
	tx := &txnState{id: id, term: lt.term, coordinator: p.coordinator, escalateAt: lt.cfg.budget}
	tx.s.Store(int64(p.ts))
	lt.txns[id] = tx
	lt.setPhaseLocked(tx, phasePrepared)
	eachWrite(p.writes, func(k, _ []byte) { lt.forcePoint(tx, k, LockExclusive, true) })
	eachLock(p.locks, func(l lockSpec) {
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
	tx := &txnState{id: id, term: lt.term, escalateAt: lt.cfg.budget}
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

// compact escalates tx's point locks whatever the budget, for a prepare that
// would not fit otherwise.
func (lt *lockTable) compact(tx *txnState) {
	lt.mu.Lock()
	defer lt.mu.Unlock()
	if len(tx.points) > 1 {
		lt.escalateLocked(tx)
	}
}

// Inheritance is the unprepared part of a lock table that a split's child takes
// over when its replica at the same node is the first to lead (B1).
type Inheritance struct {
	term uint64
	txns []inheritedTxn
}

type inheritedTxn struct {
	id     keys.TxnID
	client keys.NodeID
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
// A transaction that loses a part this way remembers where it went: it can commit
// here only together with the child (see movedLocks).
func (lt *lockTable) splitRight(key keys.Key, child keys.GroupID, err error, decided, gone func(keys.TxnID) bool) *Inheritance {
	lt.mu.Lock()
	defer lt.mu.Unlock()
	in := &Inheritance{term: lt.term}
	lt.bounds.End, lt.moved = key, err
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
		if len(moved) == 0 || tx.phase == phasePrepared || decided(id) {
			continue
		}
		tx.movedTo = append(tx.movedTo, child)
		in.txns = append(in.txns, inheritedTxn{id: id, client: tx.client, locks: moved})
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
		tx := &txnState{id: x.id, term: in.term, client: x.client, escalateAt: lt.cfg.budget, tick: lt.tick.Load()}
		lt.txns[x.id] = tx
		for _, l := range x.locks {
			if l.span.IsPoint() {
				lt.forcePoint(tx, l.span.Start, l.strength, false)
			} else {
				lt.addRangeLocked(tx, string(l.span.Start), string(l.span.End), l.strength, false)
			}
		}
	}
}
