//go:build !spandbreak

package paxosgroup

// BreakLease is a negative control of internal/sim (R2): leaders serve without
// looking at their lease. It can only be set in a build with the tag spandbreak.
const BreakLease = false
