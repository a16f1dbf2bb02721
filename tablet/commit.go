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

// Commit commits a transaction that touched this tablet alone.
func (t *Tablet) Commit(ctx context.Context, req *CommitRequest) (*CommitResponse, error) {
	t.stats.Commits.Add(1)
	if len(req.Expect) > 0 {
		resp, confirmed, err := t.confirm(ctx, req)
		if confirmed == nil {
			return resp, err
		}
		req = confirmed
	}
	return t.answer(ctx, &decision{
		target: req.Target, txn: req.Txn, writes: req.Writes, staged: req.Staged, min: req.MinTS, max: req.MaxTS, private: req.Private,
		encode: func(gen uint64, ws []Write, staged uint32) []byte {
			r := *req
			r.Writes, r.Staged = ws, staged
			return encodeCommit(gen, &r)
		},
	})
}

// Decide commits a transaction whose other participants have prepared.
func (t *Tablet) Decide(ctx context.Context, req *DecideRequest) (*CommitResponse, error) {
	t.stats.Decides.Add(1)
	return t.answer(ctx, &decision{
		target: req.Target, txn: req.Txn, writes: req.Writes, staged: req.Staged, min: req.MinTS, max: req.MaxTS,
		anchor: req.AnchorKey, parts: req.Participants, twoPhase: true,
		encode: func(gen uint64, ws []Write, staged uint32) []byte {
			r := *req
			r.Writes, r.Staged = ws, staged
			return encodeDecide(gen, &r)
		},
	})
}

// decision is what Commit and Decide have in common.
type decision struct {
	target   Target
	txn      TxnRef
	writes   []Write
	staged   uint32
	min, max truetime.Timestamp
	anchor   keys.Key
	parts    []Anchor
	twoPhase bool
	private  bool // writes need no locks
	encode   func(gen uint64, ws []Write, staged uint32) []byte

	// When the timestamp was chosen, and by how uncertain a clock.
	chosen  time.Time
	epsilon time.Duration
}

// answer carries a decision through and tells what became of it.
func (t *Tablet) answer(ctx context.Context, d *decision) (*CommitResponse, error) {
	ts, err := t.decide(ctx, d)
	if err != nil {
		return nil, err
	}
	r := &CommitResponse{TS: ts}
	if !d.chosen.IsZero() {
		r.Epsilon, r.Since = d.epsilon, time.Since(d.chosen)
	}
	return r, nil
}

// pass passes a point of two-phase commit.
func (d *decision) pass(p crashpoint.Point) {
	if len(d.parts) > 0 {
		crashpoint.Pass(p)
	}
}

// decide carries a commit through: locks, one command, release. It begins again
// when a split overtook the command, and joins another copy of the same request.
func (t *Tablet) decide(ctx context.Context, d *decision) (truetime.Timestamp, error) {
	id := d.txn.ID
	for {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		l, err := t.leading()
		if err != nil {
			return 0, err
		}
		v := t.m.view.Load()
		if err := checkWrites(v, d.writes, d.anchor); err != nil {
			return 0, err
		}
		tx, done, err := t.finishing(l, &d.txn)
		if done != nil {
			return done.TS, nil
		}
		if err != nil {
			return 0, err
		}
		l.arm()
		writes, staged := d.writes, d.staged
		if writesSize(writes) > commandRoom {
			// More than a command can hold: laid down in chunks first.
			var n uint32
			n, err = t.stageWrites(ctx, l, tx, staged, writes)
			writes, staged = nil, staged+n
		}
		if err == nil {
			locked := writes
			if d.private {
				locked = nil
			}
			err = l.lt.lockWrites(ctx, tx, locked, phaseCommitting)
		}
		if err == errFinishing {
			// Another copy of the request is at work, or was.
			if o, ok := t.m.outcome(id); ok && o.Status == OutcomeCommitted {
				return o.TS, nil
			}
			if err := l.awaitStep(ctx, tx); err != nil {
				return 0, err
			}
			continue
		}
		if err != nil {
			return 0, err
		}
		if l.splitUnderWay(tx, v) {
			continue
		}
		if l.lt.dividedSince(tx, d.target) {
			return 0, t.m.view.Load().rangeError()
		}
		wrote := len(writes) > 0 || staged > 0
		if !wrote && !d.twoPhase {
			return l.commitReads(d, tx)
		}
		d.pass(crashpoint.DecideReceived)
		var refused *AbortedError
		p := &paxosgroup.Proposal{
			Timestamped: true, MinTS: d.min, MaxTS: d.max,
			Data: d.encode(v.desc.Generation, writes, staged),
			Assigned: func(s truetime.Timestamp) {
				d.pass(crashpoint.DecideProposed)
				tx.s.Store(int64(s))
				d.chosen, d.epsilon = time.Now(), t.cfg.Clock.Now().Epsilon()
			},
		}
		res, ts, err := l.propose(ctx, p, func(res *result, s truetime.Timestamp, err error) {
			if err == nil && res.kind == resOK && len(d.parts) > 0 {
				crashpoint.Pass(crashpoint.DecideApplied)
				t.announce(Decided{Txn: id, TS: s, Participants: d.parts})
			}
			refused = l.settle(tx, wrote, res, err)
		})
		switch {
		case err == errInFlight || errors.Is(err, paxosgroup.ErrAmbiguous):
			return 0, &AmbiguousError{Txn: id}
		case refused != nil:
			return 0, refused
		case err != nil:
			return 0, err
		case res.kind == resStale:
			continue
		case res.kind == resDuplicate:
			return res.outcome.TS, nil
		}
		return ts, nil
	}
}

// commitReads ends a transaction that has read at this tablet alone. Nothing has
// to be replicated: under a valid lease its locks held until now, and with s
// promised every later write lies above it. A copy that comes afterwards finds
// the locks gone and is retried, which harms nobody, since nothing was written.
func (l *leader) commitReads(d *decision, tx *txnState) (truetime.Timestamp, error) {
	s := max(l.t.cfg.Clock.Now().Latest, d.min)
	if d.max != 0 && s > d.max {
		why := &AbortedError{Txn: tx.id, Reason: AbortTooLate}
		l.lt.abortFinishing(tx, why)
		return 0, why
	}
	err := l.note(s)
	if err == nil {
		err = l.t.group.Promise(l.term, s)
	}
	if err == nil {
		err = l.t.group.Valid(l.term)
	}
	if err != nil {
		l.lt.setPhase(tx, phaseActive)
		return 0, err
	}
	// A split during the promise has left some of the locks to the child.
	if l.lt.dividedSince(tx, d.target) {
		return 0, l.t.m.view.Load().rangeError()
	}
	l.lt.finish(tx, false)
	return s, nil
}

// settle does what the end of a commit's or decide's proposal demands, on the
// applying goroutine. It returns the abort if the transaction ends by it.
func (l *leader) settle(tx *txnState, wrote bool, res *result, err error) *AbortedError {
	switch {
	case errors.Is(err, paxosgroup.ErrTooLate):
		why := &AbortedError{Txn: tx.id, Reason: AbortTooLate}
		l.lt.abortFinishing(tx, why)
		return why
	case errors.Is(err, paxosgroup.ErrAmbiguous):
		// It may yet commit under this term: the locks stay until the term has ended.
		return nil
	case err != nil:
		// It never entered the log: as if it had not been tried.
		l.lt.setPhase(tx, phaseActive)
		return nil
	}
	switch res.kind {
	case resStale:
		l.lt.setPhase(tx, phaseActive)
	case resAborted:
		why := &AbortedError{Txn: tx.id, Reason: res.reason}
		l.lt.abortFinishing(tx, why)
		return why
	default:
		if res.staged {
			l.lt.holdStaged(tx)
			l.startMaterialise(tx.id)
			return nil
		}
		if len(tx.points) > 4*releaseChunk {
			// Too much for the applying goroutine.
			l.t.wg.Go(func() { l.lt.finish(tx, wrote) })
		} else {
			l.lt.finish(tx, wrote)
		}
	}
	return nil
}

// finishing finds the transaction that a commit, decide or prepare is about. done
// is its outcome, if it committed before (X5). A transaction without locks here
// (blind writes) gets a record now, unless it may have been decided and forgotten,
// or is so old that its gateway would have taken the locks first.
func (t *Tablet) finishing(l *leader, ref *TxnRef) (tx *txnState, done *Outcome, err error) {
	tx, err = l.lt.txn(ref, false)
	if err == nil {
		return tx, nil, nil
	}
	var lost *AbortedError
	if !errors.As(err, &lost) || lost.Reason != AbortLocksLost {
		return nil, nil, err
	}
	if o, ok := t.m.outcome(ref.ID); ok {
		if o.Status == OutcomeCommitted {
			return nil, &o, nil
		}
		return nil, nil, &AbortedError{Txn: ref.ID, Reason: AbortDecided}
	}
	t.m.mu.RLock()
	finished, pruned := t.m.outcomes.isFinished(ref.ID), t.m.outcomes.mayBePruned(ref.ID)
	old := t.cfg.Clock.Now().Earliest > ref.ID.Age.Add(t.m.outcomes.horizon)
	t.m.mu.RUnlock()
	switch {
	case finished:
		return nil, nil, &AbortedError{Txn: ref.ID, Reason: AbortHorizon}
	case pruned:
		// Older than what is remembered. An earlier copy may have committed, so this
		// is neither done (again) nor called aborted.
		return nil, nil, &AmbiguousError{Txn: ref.ID}
	case ref.Term != 0:
		return nil, nil, lost
	case old:
		// A copy that the network has kept for long; nobody waits for it (X5).
		return nil, nil, &AbortedError{Txn: ref.ID, Reason: AbortHorizon}
	}
	tx, err = l.lt.txn(ref, true)
	return tx, nil, err
}

// lostOrDecided sharpens what a request after the end of its transaction hears.
func (t *Tablet) lostOrDecided(l *leader, ref *TxnRef, err error) error {
	if o, ok := t.m.outcome(ref.ID); ok && o.Status == OutcomeAborted {
		return &AbortedError{Txn: ref.ID, Reason: AbortDecided}
	}
	return err
}

func checkWrites(v *view, ws []Write, anchor keys.Key) error {
	if BreakSpans {
		return nil
	}
	for i := range ws {
		if !v.holds(ws[i].Key) {
			return v.rangeError()
		}
	}
	if len(anchor) > 0 && !v.holds(anchor) {
		return v.rangeError()
	}
	return nil
}

// awaitStep waits for the next change of tx's phase: another copy of the request
// is at work.
func (l *leader) awaitStep(ctx context.Context, tx *txnState) error {
	l.lt.mu.Lock()
	if l.lt.closed != nil {
		err := l.lt.closed
		l.lt.mu.Unlock()
		return err
	}
	if tx.phase == phaseActive || tx.phase == phaseDead {
		l.lt.mu.Unlock()
		return nil
	}
	ev := l.lt.eventLocked(tx)
	l.lt.mu.Unlock()
	select {
	case <-ev:
		return nil
	case <-ctx.Done():
		return &AmbiguousError{Txn: tx.id}
	}
}

// abortFinishing kills a transaction whose own commit or prepare was refused.
func (lt *lockTable) abortFinishing(tx *txnState, why *AbortedError) {
	lt.mu.Lock()
	defer lt.mu.Unlock()
	if tx.phase == phaseDead {
		return
	}
	lt.killLocked(tx, why)
}

// dividedSince reports whether a split took some of tx's locks to a child and the
// request's map is from before: such locks count only when the child takes part too,
// and only a sender who knows of the split can see to that (X2). tx is then as if
// the request had not come.
func (lt *lockTable) dividedSince(tx *txnState, target Target) bool {
	lt.mu.Lock()
	divided := target.Generation < tx.movedAt
	lt.mu.Unlock()
	if divided {
		lt.setPhase(tx, phaseActive)
	}
	return divided
}

// splitUnderWay reports whether the lock table is of another generation than v: a
// split that v shows has yet to divide it, or has done so since. A command evaluated
// under v would lie behind the split, without a word of the locks that go to the child.
// tx is then as if the request had not come.
func (l *leader) splitUnderWay(tx *txnState, v *view) bool {
	l.lt.mu.Lock()
	settled := l.lt.gen == v.desc.Generation
	l.lt.mu.Unlock()
	if settled {
		return false
	}
	l.lt.setPhase(tx, phaseActive)
	l.pause(time.Millisecond)
	return true
}

// announce tells the hook of a decision.
func (t *Tablet) announce(d Decided) {
	if t.cfg.Hooks.Decided != nil {
		t.cfg.Hooks.Decided(t, []Decided{d})
	}
}
