//go:build !spandbreak

package txn

import "context"

// Negative controls of internal/sim: each breaks one invariant. They can only be set in
// a build with the tag spandbreak.
const (
	BreakCommitWait       = false // X1: commits are acknowledged before their timestamp has passed
	BreakShortWait        = false // X1: commits are acknowledged ε too early
	BreakVisible          = false // X1: reads are answered before what they show has passed
	BreakReadParticipants = false // X3: tablets that were only read do not take part
	BreakFence            = false // L2: commits do not ask for the bound that the lock's cell gives
)

func (t *Txn) breakReads(_ context.Context, shares []share) []share { return shares }
