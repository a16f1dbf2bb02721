package tablet

import (
	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/truetime"
)

// releaseLocked drops up to limit of tx's locks and reports whether all are gone.
func (lt *lockTable) releaseLocked(tx *txnState, limit int) bool {
	for len(tx.points) > 0 && limit > 0 {
		n := len(tx.points) - 1
		kl := tx.points[n]
		tx.points[n] = nil
		tx.points = tx.points[:n]
		lt.removeHolder(kl, tx)
		limit--
	}
	for len(tx.ranges) > 0 && limit > 0 {
		n := len(tx.ranges) - 1
		r := tx.ranges[n]
		tx.ranges = tx.ranges[:n]
		lt.granted.remove(r.start, r.id)
		lt.stats.LocksHeld.Add(-1)
		lt.dirtyAround(r.start, r.end, nil)
		limit--
	}
	return len(tx.points) == 0 && len(tx.ranges) == 0
}

func (lt *lockTable) removeHolder(kl *keyLock, tx *txnState) {
	for i := range kl.holders {
		if kl.holders[i].tx == tx {
			last := len(kl.holders) - 1
			kl.holders[i] = kl.holders[last]
			kl.holders[last] = holder{}
			kl.holders = kl.holders[:last]
			lt.stats.LocksHeld.Add(-1)
			break
		}
	}
	lt.dirtyAround(kl.key, "", kl)
	lt.dropIfUnused(kl)
}

// releaseChunk bounds how many locks go while mu is held once.
const releaseChunk = 1024

// finish ends tx: its outcome is applied and, if it wrote, visible. Locks go,
// waiters advance, readers are told.
func (lt *lockTable) finish(tx *txnState, wrote bool) {
	if wrote {
		lt.epoch.Add(1)
	}
	for {
		lt.mu.Lock()
		lt.endWaitsLocked(tx)
		all := lt.releaseLocked(tx, releaseChunk)
		lt.settleLocked(false)
		if all {
			lt.dropLocked(tx)
			lt.mu.Unlock()
			return
		}
		lt.mu.Unlock()
	}
}

// endWaitsLocked ends requests that still wait though their transaction has ended:
// their callers have given up, or will. A lock granted now would have no owner to
// release it.
func (lt *lockTable) endWaitsLocked(tx *txnState) {
	if tx.dead == nil {
		tx.dead = &AbortedError{Txn: tx.id, Reason: AbortLocksLost}
	}
	for len(tx.waits) > 0 {
		lt.completeLocked(tx.waits[len(tx.waits)-1], tx.dead)
	}
}

// dropLocked forgets tx, which has ended here and holds nothing any more.
func (lt *lockTable) dropLocked(tx *txnState) {
	lt.endWaitsLocked(tx)
	lt.setPhaseLocked(tx, phaseDead)
	if lt.txns[tx.id] == tx {
		delete(lt.txns, tx.id)
	}
}

func (p txnPhase) writing() bool {
	return p == phaseCommitting || p == phasePreparing || p == phasePrepared
}

func (lt *lockTable) setPhaseLocked(tx *txnState, p txnPhase) {
	if tx.phase == p {
		return
	}
	if tx.phase.writing() != p.writing() {
		if p.writing() {
			lt.writers.Add(1)
		} else {
			lt.writers.Add(-1)
		}
	}
	tx.phase = p
	if tx.event != nil {
		close(tx.event)
		tx.event = nil
	}
}

// setPhase moves tx on. Falling back to active, it may be wounded again, so those
// who wait for it judge it anew.
func (lt *lockTable) setPhase(tx *txnState, p txnPhase) {
	lt.mu.Lock()
	defer lt.mu.Unlock()
	if tx.phase == phaseDead {
		return
	}
	lt.setPhaseLocked(tx, p)
	if p == phaseActive && lt.nwaiting > 0 {
		for _, kl := range tx.points {
			lt.dirtyAround(kl.key, "", kl)
		}
		for _, r := range tx.ranges {
			lt.dirtyAround(r.start, r.end, nil)
		}
		lt.settleLocked(true)
	}
}

// eventLocked returns a channel that is closed at tx's next change of phase.
func (lt *lockTable) eventLocked(tx *txnState) <-chan struct{} {
	if tx.event == nil {
		tx.event = make(chan struct{})
	}
	return tx.event
}

// killLocked aborts tx at this tablet: requests that wait fail, locks go, and a
// record of why stays until the transaction has heard.
func (lt *lockTable) killLocked(tx *txnState, why *AbortedError) {
	if tx.phase == phaseDead {
		return
	}
	tx.dead = why
	tx.killed.Store(true)
	lt.setPhaseLocked(tx, phaseDead)
	tx.tick = lt.tick.Load()
	lt.endWaitsLocked(tx)
	lt.releaseLocked(tx, int(^uint(0)>>1))
	lt.settleLocked(false)
}

// whyDead returns why tx was aborted, nil if it was not.
func (lt *lockTable) whyDead(tx *txnState) *AbortedError {
	if !tx.killed.Load() {
		return nil
	}
	lt.mu.Lock()
	defer lt.mu.Unlock()
	return tx.dead
}

// kill aborts tx unless its outcome is no longer this tablet's to decide; it
// reports whether tx is dead.
func (lt *lockTable) kill(tx *txnState, why *AbortedError) bool {
	lt.mu.Lock()
	defer lt.mu.Unlock()
	if tx.phase == phaseActive {
		lt.killLocked(tx, why)
	}
	return tx.phase == phaseDead
}

// close ends the table with its term: every waiter gets err, every listener wakes.
func (lt *lockTable) close(err error) {
	lt.mu.Lock()
	defer lt.mu.Unlock()
	if lt.closed != nil {
		return
	}
	lt.closed = err
	lt.stats.LocksHeld.Add(-int64(lt.heldLocked()))
	for _, tx := range lt.txns {
		for _, w := range tx.waits {
			w.queued, w.done, w.err = false, true, err
			w.signal()
		}
		tx.waits = nil
		if tx.event != nil {
			close(tx.event)
			tx.event = nil
		}
	}
	lt.nwaiting = 0
	lt.stats = &Stats{} // what is released from now on has been accounted for
}

// anyUnprepared reports whether there are transactions whose locks end with the
// term. One without locks counts: its gateway may take it for one with.
func (lt *lockTable) anyUnprepared() bool {
	lt.mu.Lock()
	defer lt.mu.Unlock()
	for _, tx := range lt.txns {
		if tx.phase == phaseActive {
			return true
		}
	}
	return false
}

func (lt *lockTable) heldLocked() int {
	n := lt.granted.len()
	lt.keys.Scan(func(_ string, kl *keyLock) bool {
		n += len(kl.holders)
		return true
	})
	return n
}

// readBlocker finds a transaction whose commit or prepare at a timestamp <= t may
// write a key of sp (X4), and a channel that tells of its next step.
func (lt *lockTable) readBlocker(sp keys.Span, t truetime.Timestamp) (b blocker, found bool, err error) {
	if lt.writers.Load() == 0 {
		return blocker{}, false, nil
	}
	lt.mu.Lock()
	defer lt.mu.Unlock()
	if lt.closed != nil {
		return blocker{}, false, lt.closed
	}
	start, end := str(sp.Start), str(sp.End)
	var hit *txnState
	see := func(tx *txnState, write bool) bool {
		if BreakReadPrepared && tx.phase == phasePrepared || BreakReadInFlight && tx.phase != phasePrepared {
			return true
		}
		if s := tx.s.Load(); write && s != 0 && truetime.Timestamp(s) <= t && tx.phase.writing() {
			hit = tx
		}
		return hit == nil
	}
	keyed := func(kl *keyLock) bool {
		for i := range kl.holders {
			if !see(kl.holders[i].tx, kl.holders[i].write) {
				return false
			}
		}
		return true
	}
	if sp.IsPoint() {
		if kl, ok := lt.keys.Get(start); ok {
			keyed(kl)
		}
	} else {
		lt.keys.Ascend(start, func(k string, kl *keyLock) bool { return k < end && keyed(kl) })
	}
	if hit == nil {
		lt.granted.visit(start, end, func(r *rangeLock) bool { return see(r.tx, r.write) })
	}
	if hit == nil {
		return blocker{}, false, nil
	}
	return blocker{id: hit.id, ts: truetime.Timestamp(hit.s.Load()), phase: hit.phase, coordinator: hit.coordinator, event: lt.eventLocked(hit)}, true, nil
}

// blocker is what a reader waits for.
type blocker struct {
	id          keys.TxnID
	ts          truetime.Timestamp // of its write or prepare
	phase       txnPhase
	coordinator Anchor
	event       <-chan struct{}
}
