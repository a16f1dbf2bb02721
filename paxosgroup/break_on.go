//go:build spandbreak

package paxosgroup

// BreakLease is a negative control of internal/sim (R2): leaders serve without
// looking at their lease. Set before any host is made.
var BreakLease bool
