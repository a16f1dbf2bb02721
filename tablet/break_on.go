//go:build spandbreak

package tablet

// Negative controls of internal/sim; break_off.go says what they break. Set before
// any tablet is made.
var (
	BreakLostLocks      bool
	BreakSharedLocks    bool
	BreakRangeLocks     bool
	BreakWounds         bool
	BreakWoundWait      bool
	BreakForgetPrepared bool
	BreakAbortPrepared  bool
	BreakPreparedLocks  bool
	BreakEarlyRelease   bool
	BreakReadPrepared   bool
	BreakReadInFlight   bool
	BreakReadFollower   bool
	BreakLowWater       bool
	BreakOutcomes       bool
	BreakAbsent         bool
	BreakFinished       bool
	BreakDecided        bool
	BreakSpans          bool
	BreakChildPrepared  bool
	BreakChildLocks     bool
	BreakChildFloor     bool
)

func (l *leader) breakAbort(list []InDoubt) {
	for _, d := range list {
		l.t.wg.Go(func() {
			l.t.Resolve(l.ctx, &ResolveRequest{
				Target: Target{Group: l.t.cfg.Group}, Key: d.Anchor, Txn: d.Txn, Outcome: Outcome{Status: OutcomeAborted},
			})
		})
	}
}

// breakWound brings a wounded transaction back, without its locks.
func (lt *lockTable) breakWound(tx *txnState) {
	if tx.phase != phaseDead || tx.dead == nil || tx.dead.Reason != AbortWounded {
		return
	}
	tx.dead = nil
	tx.killed.Store(false)
	lt.setPhaseLocked(tx, phaseActive)
}
