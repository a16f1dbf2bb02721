//go:build spandbreak

package paxosgroup

// Negative controls of internal/sim; break_off.go says what they break. Set before
// any host is made.
var (
	BreakReceived   bool
	BreakPeerCheck  bool
	BreakLease      bool
	BreakPromise    bool
	BreakAbstention bool
	BreakFloor      bool
	BreakLeaseEnd   bool
	BreakTermStart  bool
	BreakRelease    bool
	BreakStamp      bool
	BreakSafeTime   bool
	BreakBound      bool
)
