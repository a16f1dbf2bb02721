//go:build !spandbreak

package cell

// Negative controls: each breaks one invariant. They can only be set in a build with the
// tag spandbreak.
const (
	BreakFence      = false // L2: checks leave no promise behind
	BreakFloor      = false // L2: a new leader ends holds before earlier leaders' promises are over
	BreakSession    = false // L1: sessions expire long before their leases end
	BreakRenew      = false // L1: beats are answered without looking at the lease
	BreakInvalidate = false // 2.7: writers do not wait for caches
)
