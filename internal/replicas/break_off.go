//go:build !spandbreak

package replicas

// Negative controls of internal/sim: each breaks one invariant. They can only be set in
// a build with the tag spandbreak.
const (
	BreakStart = false // T2: a clock behind what is stored is trusted at start
)
