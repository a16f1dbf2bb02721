//go:build !spandbreak

package storage

// Negative controls of internal/sim: each breaks one invariant. They can only be set in
// a build with the tag spandbreak.
const (
	BreakSync      = false // R1: the log is not synced
	BreakSyncError = false // R1: a failed sync passes for one that succeeded
	BreakChecksum  = false // D1: checksums of the log are not compared, so a torn tail is not cut off
)
