package tablet

import (
	"context"
	"errors"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/truetime"
)

// Stage lays one chunk of a large transaction into the log. Its keys are locked
// like any written ones.
func (t *Tablet) Stage(ctx context.Context, req *StageRequest) (*StageResponse, error) {
	t.stats.Stages.Add(1)
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		l, err := t.leading()
		if err != nil {
			return nil, err
		}
		v := t.m.view.Load()
		if err := checkWrites(v, req.Writes, nil); err != nil {
			return nil, err
		}
		tx, err := l.lt.txn(&req.Txn, true)
		if err != nil {
			return nil, t.lostOrDecided(l, &req.Txn, err)
		}
		l.arm()
		if err := l.lt.lockStaged(ctx, tx, req.Writes); err != nil {
			return nil, err
		}
		stale, err := t.stageChunk(ctx, l, tx, v, req.Seq, req.Writes)
		if err != nil {
			return nil, err
		}
		if stale {
			continue
		}
		return &StageResponse{Term: l.term}, nil
	}
}

// stageChunk proposes one chunk under v; stale says that a split came first.
func (t *Tablet) stageChunk(ctx context.Context, l *leader, tx *txnState, v *view, seq uint32, ws []Write) (stale bool, err error) {
	res, _, err := l.propose(ctx, &paxosgroup.Proposal{Data: encodeStage(v.desc.Generation, tx.id, seq, ws)},
		func(res *result, _ truetime.Timestamp, err error) {
			if err == nil && res.kind == resOK {
				l.lt.noteStaged(tx, seq, ws)
			}
		})
	switch {
	case err == errInFlight:
		return false, ctx.Err()
	case err != nil:
		return false, ambiguous(err, tx.id)
	case res.kind == resAborted:
		why := &AbortedError{Txn: tx.id, Reason: res.reason}
		l.lt.kill(tx, why)
		return false, why
	}
	return res.kind == resStale, nil
}

// stageWrites lays the writes of a commit or prepare that are too many for one
// command into chunks numbered from seq on, and returns how many. The caller has
// checked the keys; a split in between is found by the commit itself, for whose
// command the chunks are then missing.
func (t *Tablet) stageWrites(ctx context.Context, l *leader, tx *txnState, seq uint32, ws []Write) (uint32, error) {
	v := t.m.view.Load()
	if err := checkWrites(v, ws, nil); err != nil {
		return 0, err
	}
	if err := l.lt.lockStaged(ctx, tx, ws); err != nil {
		return 0, err
	}
	n := uint32(0)
	for len(ws) > 0 {
		end, size := 0, 0
		for end < len(ws) && (end == 0 || size+writesSize(ws[end:end+1]) <= chunkBytes) {
			size += writesSize(ws[end : end+1])
			end++
		}
		if size > commandRoom {
			return 0, paxosgroup.ErrTooLarge
		}
		stale, err := t.stageChunk(ctx, l, tx, v, seq+n, ws[:end])
		if err != nil {
			return 0, err
		}
		if stale {
			why := &AbortedError{Txn: tx.id, Reason: AbortLocksLost}
			l.lt.kill(tx, why)
			return 0, why
		}
		ws, n = ws[end:], n+1
	}
	return n, nil
}

// chunkBytes is the size of the chunks that a tablet makes itself.
const chunkBytes = 256 << 10

// lockStaged takes exclusive locks on ws, marked as written: once the transaction
// is prepared or committed, readers must wait for its chunks.
func (lt *lockTable) lockStaged(ctx context.Context, tx *txnState, ws []Write) error {
	lt.mu.Lock()
	for i := range ws {
		if i > 0 && i%releaseChunk == 0 {
			lt.mu.Unlock()
			lt.mu.Lock()
		}
		sp := keys.Span{Start: ws[i].Key}
		ok, err := lt.tryLocked(tx, sp, LockExclusive, true)
		if err == nil && !ok {
			err = lt.waitStagedAndUnlock(ctx, tx, sp)
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

// waitStagedAndUnlock waits for a lock that will be written under, as execution
// does: also for older transactions.
func (lt *lockTable) waitStagedAndUnlock(ctx context.Context, tx *txnState, sp keys.Span) error {
	if err := lt.waitAndUnlock(ctx, tx, sp, LockExclusive, false); err != nil {
		return err
	}
	lt.mu.Lock()
	defer lt.mu.Unlock()
	_, err := lt.tryLocked(tx, sp, LockExclusive, true)
	return err
}

// markStagedLocked turns tx's exclusive ranges into written ones.
func (lt *lockTable) markStagedLocked(tx *txnState) {
	for _, r := range tx.ranges {
		if r.strength == LockExclusive {
			r.write = true
		}
	}
}

// holdStaged keeps a committed transaction's locks until its chunks are versions.
func (lt *lockTable) holdStaged(tx *txnState) {
	lt.mu.Lock()
	defer lt.mu.Unlock()
	lt.markStagedLocked(tx)
	lt.setPhaseLocked(tx, phaseCommitting)
}

// startMaterialise carries a committed transaction's chunks over to versions, in
// a goroutine that ends with the work or with the term.
func (l *leader) startMaterialise(id keys.TxnID) {
	l.t.wg.Go(func() { l.materialise(id) })
}

func (l *leader) materialise(id keys.TxnID) {
	t := l.t
	select {
	case <-t.bound:
	case <-l.done:
		return
	}
	backoff := 10 * time.Millisecond
	for {
		t.m.mu.RLock()
		s := t.m.staged[id]
		var seq uint32
		busy := s != nil && s.status == stageCommitted
		if busy {
			seq = s.next
		}
		gen := t.m.view.Load().desc.Generation
		t.m.mu.RUnlock()
		if !busy {
			break
		}
		_, _, err := l.propose(l.ctx, &paxosgroup.Proposal{Data: encodeMaterialise(gen, id, seq)}, nil)
		switch {
		case err == nil:
			t.stats.Materialised.Add(1)
			backoff = 10 * time.Millisecond
		case err == errInFlight, errors.Is(err, paxosgroup.ErrAmbiguous), errors.Is(err, paxosgroup.ErrStopped):
			return // the next leader goes on
		default:
			// Overloaded, disk full, lease being renewed: chunks keep.
			if !l.pause(backoff) {
				return
			}
			backoff = min(2*backoff, time.Second)
		}
	}
	l.lt.mu.Lock()
	tx := l.lt.txns[id]
	if tx != nil && tx.phase != phaseCommitting {
		tx = nil
	}
	l.lt.mu.Unlock()
	if tx != nil {
		l.lt.finish(tx, true)
	}
	l.noteProgress()
}
