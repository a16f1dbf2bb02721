//go:build spandbreak

package cell

// Negative controls; break_off.go says what they break. Set before any cell is made.
var (
	BreakFence      bool
	BreakFloor      bool
	BreakSession    bool
	BreakRenew      bool
	BreakInvalidate bool
)
