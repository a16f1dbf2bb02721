//go:build spandbreak

package tablet

// Negative controls of internal/sim; break_off.go says what they break. Set before
// any tablet is made.
var (
	BreakForgetPrepared bool
	BreakAbortPrepared  bool
	BreakLostLocks      bool
	BreakOutcomes       bool
	BreakSpans          bool
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
