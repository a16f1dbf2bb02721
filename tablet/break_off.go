//go:build !spandbreak

package tablet

// Negative controls of internal/sim: each breaks one invariant. They can only be set in
// a build with the tag spandbreak.
const (
	BreakLostLocks      = false // X2: locks of another term, which are lost, pass for held
	BreakSharedLocks    = false // X2: shared locks keep no writer out
	BreakRangeLocks     = false // X2: range locks keep nobody out
	BreakWounds         = false // X2: a wounded transaction, its locks gone, goes on
	BreakWoundWait      = false // X2: who is older waits for who is younger
	BreakForgetPrepared = false // X3: a participant forgets what it prepared when it begins to lead
	BreakAbortPrepared  = false // X3: a participant aborts by itself what is in doubt
	BreakPreparedLocks  = false // X3: a new leader restores the writes of a prepare, not its other locks
	BreakEarlyRelease   = false // X3: a participant releases before the timestamp has passed, with its floor below
	BreakReadPrepared   = false // X4: reads overlook prepared transactions
	BreakReadInFlight   = false // X4: reads overlook commits and prepares that are proposed, but not applied
	BreakReadFollower   = false // X4: reads at followers overlook undecided transactions
	BreakLowWater       = false // X4: reads below the low-water mark are answered
	BreakOutcomes       = false // X5: outcomes are not remembered
	BreakAbsent         = false // X5: abort-if-absent is answered and not recorded
	BreakFinished       = false // X5: what a gateway has finished with may be committed again
	BreakDecided        = false // X5: a decision is not kept until all participants have acknowledged
	BreakSpans          = false // B1: a tablet answers for keys that a split took elsewhere
	BreakChildPrepared  = false // B1: the child of a split does not inherit prepared transactions
	BreakChildLocks     = false // B1: the child of a split does not inherit locks, but says so to nobody
	BreakChildFloor     = false // R3: the child of a split does not inherit the floor
)

func (l *leader) breakAbort([]InDoubt) {}

func (lt *lockTable) breakWound(*txnState) {}
