//go:build spandbreak

package lockservice

// Negative controls; break_off.go says what they break. Set before any client is made.
var (
	BreakKept     bool
	BreakReleased bool
	BreakOrdered  bool
)
