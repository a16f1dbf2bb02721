//go:build spandbreak

package storage

// Negative controls of internal/sim; break_off.go says what they break. Set before
// any store is opened.
var (
	BreakSync      bool
	BreakSyncError bool
	BreakChecksum  bool
)
