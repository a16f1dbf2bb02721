//go:build spandbreak

package txn

// BreakCommitWait is a negative control of internal/sim (X1): commits are
// acknowledged before their timestamp has passed. Set before any client is made.
var BreakCommitWait bool
