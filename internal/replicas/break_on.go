//go:build spandbreak

package replicas

// Negative controls of internal/sim; break_off.go says what they break. Set before
// any set is made.
var (
	BreakStart bool
)
