//go:build !spandbreak

package txn

// BreakCommitWait is a negative control of internal/sim (X1): commits are
// acknowledged before their timestamp has passed. It can only be set in a build
// with the tag spandbreak.
const BreakCommitWait = false
