//go:build !spandbreak

package tablet

// Negative controls of internal/sim (X3): a participant forgets what it prepared
// when it begins to lead, or aborts by itself what is in doubt. They can only be set
// in a build with the tag spandbreak.
const (
	BreakForgetPrepared = false
	BreakAbortPrepared  = false
)

func (l *leader) breakAbort([]InDoubt) {}
