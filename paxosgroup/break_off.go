//go:build !spandbreak

package paxosgroup

// Negative controls of internal/sim: each breaks one invariant. They can only be set in
// a build with the tag spandbreak.
const (
	BreakReceived   = false // T2: timestamps far beyond the clock are accepted, and no clock is found to lie
	BreakPeerCheck  = false // T2: a clock that contradicts ours goes unnoticed
	BreakLease      = false // R2: leaders serve without looking at their lease
	BreakPromise    = false // R2: promises bind nobody who votes or campaigns
	BreakAbstention = false // R2: a node that restarts forgets its promises
	BreakFloor      = false // R3: a hand-over does not carry the floor
	BreakLeaseEnd   = false // R3: timestamps beyond the lease end are promised
	BreakTermStart  = false // R4: a leader serves before an entry of its own term is applied
	BreakRelease    = false // R4: a leader goes on after its release, and its commands are applied
	BreakStamp      = false // X1: s is the earliest, not the latest, that the time may be
	BreakSafeTime   = false // X4: closed timestamps count before their entry is applied
	BreakBound      = false // B2: a commit may lie above its bound
)
