//go:build spandbreak

package tablet

// Negative controls of internal/sim (X3): a participant forgets what it prepared
// when it begins to lead, or aborts by itself what is in doubt. Set before any
// tablet is made.
var (
	BreakForgetPrepared bool
	BreakAbortPrepared  bool
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
