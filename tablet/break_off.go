//go:build !spandbreak

package tablet

// Negative controls of internal/sim. They can only be set in a build with the tag
// spandbreak.
const (
	BreakForgetPrepared = false // X3: a participant forgets what it prepared when it begins to lead
	BreakAbortPrepared  = false // X3: a participant aborts by itself what is in doubt
	BreakLostLocks      = false // X2: locks of another term, which are lost, pass for held
	BreakOutcomes       = false // X5: outcomes are not remembered
	BreakSpans          = false // B1: a tablet answers for keys that a split took elsewhere
)

func (l *leader) breakAbort([]InDoubt) {}
