//go:build !spandbreak

package lockservice

// Negative controls: each breaks one invariant. They can only be set in a build with the
// tag spandbreak.
const (
	BreakKept     = false // L1: a kept hold is taken over whatever became of the session's lease
	BreakReleased = false // L1: who asks for a lock does not say what it has released
	BreakOrdered  = false // 2.4: a release that was in order is not sent again when its leader fails
)
