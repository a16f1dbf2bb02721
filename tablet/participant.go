package tablet

import (
	"context"
	"errors"
	"time"

	"github.com/spandb/spand/internal/crashpoint"
	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/truetime"
)

// Prepare is phase one at a participant (X3): writes and locks are replicated;
// from then on only the coordinator's outcome ends the transaction here.
func (t *Tablet) Prepare(ctx context.Context, req *PrepareRequest) (*PrepareResponse, error) {
	t.stats.Prepares.Add(1)
	id := req.Txn.ID
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		l, err := t.leading()
		if err != nil {
			return nil, err
		}
		v := t.m.view.Load()
		if err := checkWrites(v, req.Writes, req.AnchorKey); err != nil {
			return nil, err
		}
		t.m.mu.RLock()
		p, ok := t.m.prepared[id]
		t.m.mu.RUnlock()
		if ok {
			if err := t.group.Valid(l.term); err != nil {
				return nil, err
			}
			return &PrepareResponse{TS: p.ts}, nil
		}
		tx, done, err := t.finishing(l, &req.Txn)
		if done != nil {
			// Resolved already: a stray copy.
			return &PrepareResponse{TS: done.TS}, nil
		}
		if err != nil {
			return nil, err
		}
		l.arm()
		r := *req
		if writesSize(r.Writes) > commandRoom/2 { // the rest is for the locks
			var n uint32
			n, err = t.stageWrites(ctx, l, tx, r.Staged, r.Writes)
			r.Writes, r.Staged = nil, r.Staged+n
		}
		if err == nil {
			err = l.lt.lockWrites(ctx, tx, r.Writes, phasePreparing)
		}
		if err == errFinishing {
			if err := l.awaitStep(ctx, tx); err != nil {
				return nil, err
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		if l.splitUnderWay(tx, v) {
			continue
		}
		if l.lt.dividedSince(tx, req.Target) {
			return nil, t.m.view.Load().rangeError()
		}
		data, straddles := l.prepareCommand(v, tx, &r)
		if at := l.splitAt.Load(); data == nil || at != nil && straddles(*at) {
			// Too many locks among those of others to be told in one command; or a split
			// waits for such transactions to go, and must not wait for ever.
			why := &AbortedError{Txn: id, Reason: AbortRefused}
			l.lt.abortFinishing(tx, why)
			return nil, why
		}
		crashpoint.Pass(crashpoint.PrepareReceived)
		var refused *AbortedError
		res, ts, err := l.propose(ctx, &paxosgroup.Proposal{
			Timestamped: true, MinTS: r.MinTS, MaxTS: r.MaxTS, Data: data,
			Assigned: func(s truetime.Timestamp) {
				crashpoint.Pass(crashpoint.PrepareProposed)
				tx.s.Store(int64(s))
			},
		}, func(res *result, s truetime.Timestamp, err error) {
			if err == nil && (res.kind == resOK || res.kind == resDuplicate) {
				crashpoint.Pass(crashpoint.PrepareApplied)
				l.lt.prepared(tx, r.Coordinator, r.Staged > 0)
				return
			}
			refused = l.settle(tx, false, res, err)
		})
		switch {
		case err == errInFlight || errors.Is(err, paxosgroup.ErrAmbiguous):
			return nil, &AmbiguousError{Txn: id}
		case refused != nil:
			return nil, refused
		case err != nil:
			return nil, err
		case res.kind == resStale:
			continue
		case res.kind == resDuplicate:
			return &PrepareResponse{TS: res.outcome.TS}, nil
		}
		return &PrepareResponse{TS: ts}, nil
	}
}

// prepareCommand encodes a prepare with the transaction's locks; data is nil when
// there are too many. straddles tells whether what it holds lies on both sides of a key.
func (l *leader) prepareCommand(v *view, tx *txnState, r *PrepareRequest) (data []byte, straddles func(keys.Key) bool) {
	room := commandRoom - writesSize(r.Writes)
	locks := l.lt.lockSet(tx, r.Writes)
	for locksSize(locks) > room {
		if !l.lt.compact(tx) {
			return nil, nil
		}
		locks = l.lt.lockSet(tx, r.Writes)
	}
	anchor := r.AnchorKey
	switch {
	case len(anchor) > 0:
	case len(r.Writes) > 0:
		anchor = r.Writes[0].Key
	case len(locks) > 0:
		anchor = locks[0].span.Start
	default:
		anchor = v.desc.Span.Start
	}
	return encodePrepare(v.desc.Generation, r, anchor, locks), func(at keys.Key) bool {
		s := keySide(anchor, at)
		for i := range r.Writes {
			s |= keySide(r.Writes[i].Key, at)
		}
		for i := range locks {
			s |= spanSide(locks[i].span, at)
		}
		return s == sideLeft|sideRight
	}
}

// prepared moves tx on once its prepare is applied.
func (lt *lockTable) prepared(tx *txnState, c Anchor, staged bool) {
	lt.mu.Lock()
	defer lt.mu.Unlock()
	if tx.phase == phaseDead {
		return // a split has taken it along
	}
	tx.coordinator = cloneAnchor(c)
	if staged {
		lt.markStagedLocked(tx)
	}
	lt.setPhaseLocked(tx, phasePrepared)
	// Those who were content to wait for the proposal may want to ask now.
	for _, kl := range tx.points {
		lt.dirtyAround(kl.key, "", kl)
	}
	for _, r := range tx.ranges {
		lt.dirtyAround(r.start, r.end, nil)
	}
	lt.settleLocked(true)
}

// Inquire asks for an outcome by a log command (X5).
func (t *Tablet) Inquire(ctx context.Context, req *InquireRequest) (Outcome, error) {
	for {
		if err := ctx.Err(); err != nil {
			return Outcome{}, err
		}
		l, err := t.leading()
		if err != nil {
			return Outcome{}, err
		}
		v := t.m.view.Load()
		if !v.holds(req.AnchorKey) {
			return Outcome{}, v.rangeError()
		}
		res, _, err := l.propose(ctx, &paxosgroup.Proposal{Timestamped: true, Data: encodeInquire(v.desc.Generation, req)}, nil)
		switch {
		case err == errInFlight:
			return Outcome{}, ctx.Err()
		case err != nil:
			return Outcome{}, ambiguous(err, req.Txn)
		case res.kind == resStale:
			continue
		}
		return res.outcome, nil
	}
}

// Resolve ends a prepared transaction with its outcome. A transaction that is not
// prepared here has been resolved before.
func (t *Tablet) Resolve(ctx context.Context, req *ResolveRequest) error {
	t.stats.Resolves.Add(1)
	if req.Outcome.Status != OutcomeCommitted && req.Outcome.Status != OutcomeAborted {
		return errors.New("tablet: resolve without an outcome")
	}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		l, err := t.leading()
		if err != nil {
			return err
		}
		l.lt.mu.Lock()
		tx := l.lt.txns[req.Txn]
		preparing := tx != nil && tx.phase == phasePreparing
		l.lt.mu.Unlock()
		if preparing {
			if err := l.awaitStep(ctx, tx); err != nil {
				return err
			}
			continue
		}
		// Both at one instant: a split moves the prepared part together with the key,
		// and "not here" must not pass for an acknowledgement (X3, X5).
		t.m.mu.RLock()
		v := t.m.view.Load()
		_, ok := t.m.prepared[req.Txn]
		t.m.mu.RUnlock()
		if !v.holds(req.Key) {
			return v.rangeError()
		}
		if !ok {
			return t.group.Valid(l.term)
		}
		crashpoint.Pass(crashpoint.ResolveReceived)
		p := &paxosgroup.Proposal{Timestamped: true, Data: encodeResolve(v.desc.Generation, req.Txn, req.Outcome)}
		if req.Outcome.Status == OutcomeCommitted && !BreakEarlyRelease {
			// Locks go only after After(s), and their release raises the floor above s (X3).
			if err := t.cfg.Clock.AwaitAfter(ctx, req.Outcome.TS); err != nil {
				return err
			}
			p.MinTS = req.Outcome.TS + 1
		}
		res, _, err := l.propose(ctx, p, func(res *result, _ truetime.Timestamp, err error) {
			if err == nil && res.kind == resOK {
				crashpoint.Pass(crashpoint.ResolveApplied)
				l.resolved(req.Txn, res, req.Outcome.Status == OutcomeCommitted)
			}
		})
		switch {
		case err == errInFlight:
			return ctx.Err()
		case err != nil:
			return ambiguous(err, req.Txn)
		case res.kind == resStale:
			continue
		}
		return nil
	}
}

// resolved releases what a prepared transaction held, once its versions are
// visible; with chunks, once they are materialised.
func (l *leader) resolved(id keys.TxnID, res *result, committed bool) {
	l.lt.mu.Lock()
	tx := l.lt.txns[id]
	if tx != nil && tx.phase != phasePrepared {
		tx = nil
	}
	l.lt.mu.Unlock()
	if tx != nil {
		if res.staged {
			l.lt.holdStaged(tx)
			l.startMaterialise(id)
			return
		}
		l.lt.finish(tx, committed)
	}
	l.noteProgress()
}

// Forget drops the records of committed transactions whose participants have all
// acknowledged (X5). Unknown ids are ignored.
func (t *Tablet) Forget(ctx context.Context, ids []keys.TxnID) error {
	for len(ids) > 0 {
		n := min(len(ids), 4096)
		l, err := t.leading()
		if err != nil {
			return err
		}
		gen := t.m.view.Load().desc.Generation
		res, _, err := l.propose(ctx, &paxosgroup.Proposal{Data: encodeForget(gen, ids[:n])}, nil)
		switch {
		case err == errInFlight:
			return ctx.Err()
		case err != nil:
			return err
		case res.kind == resStale:
			continue
		}
		ids = ids[n:]
	}
	return nil
}

// Abort drops an unprepared transaction's locks; its chunks follow. A prepared
// one is not this request's to end (X3). A sender that does not know of a split which
// took some of the locks to a child hears of it.
func (t *Tablet) Abort(ctx context.Context, req *AbortRequest) error {
	l, err := t.leading()
	if err != nil {
		return err
	}
	tx, err := l.lt.txn(&req.Txn, false) // else nothing is here (any more)
	if err == nil && l.lt.kill(tx, &AbortedError{Txn: req.Txn.ID, Reason: AbortLocksLost}) {
		t.m.mu.RLock()
		open := t.openStage(req.Txn.ID)
		gen := t.m.view.Load().desc.Generation
		t.m.mu.RUnlock()
		if open {
			l.start(&paxosgroup.Proposal{Data: encodeDropStage(gen, req.Txn.ID)}, nil)
		}
	}
	l.lt.mu.Lock()
	tx = l.lt.txns[req.Txn.ID] // also one that was dead before, by a wound
	divided := tx != nil && tx.phase == phaseDead && req.Target.Generation < tx.movedAt
	l.lt.mu.Unlock()
	if divided {
		return t.m.view.Load().rangeError()
	}
	return nil
}

// Heartbeat keeps transactions alive and names those that are lost.
func (t *Tablet) Heartbeat(ctx context.Context, req *HeartbeatRequest) (*HeartbeatResponse, error) {
	l, err := t.leading()
	if err != nil {
		return nil, err
	}
	resp := &HeartbeatResponse{}
	lt := l.lt
	lt.mu.Lock()
	for _, id := range req.Txns {
		tx := lt.txns[id]
		if tx == nil || tx.phase == phaseDead {
			resp.Lost = append(resp.Lost, id)
			continue
		}
		tx.tick = lt.tick.Load()
	}
	lt.mu.Unlock()
	if v := t.m.view.Load(); req.Target.Generation < v.desc.Generation {
		return nil, v.rangeError() // what a split took to a child must be kept alive there
	}
	if err := t.group.Valid(l.term); err != nil {
		return nil, err
	}
	return resp, nil
}

// pause waits d or until the term ends.
func (l *leader) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-l.done:
		return false
	}
}
