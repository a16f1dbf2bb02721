package tablet

import (
	"fmt"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/storage"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/truetime"
)

// Group is what a tablet needs of the Raft group that replicates it;
// *paxosgroup.Group is the real one.
type Group interface {
	// Propose replicates a command; see paxosgroup.Proposal.
	Propose(*paxosgroup.Proposal)
	// Valid returns nil while this replica holds the lease of term right now
	// (Now().Latest < lease end), else a *paxosgroup.NotLeaderError.
	Valid(term uint64) error
	// Promise raises the group's floor to t under the lease of term: no command
	// is assigned a timestamp <= t afterwards (R3). It fails when t is not below
	// the lease end and renewing does not help.
	Promise(term uint64, t truetime.Timestamp) error
	// SafeTime is the highest closed timestamp whose entries this replica has
	// applied (X4); prepared transactions lower it further for the keys they lock.
	SafeTime() truetime.Timestamp
	// Installs counts the snapshots that began to replace this replica's data. From
	// then until one is complete SafeTime is 0; a read that began before, and finds
	// the count changed, saw a mixture (X4).
	Installs() uint64
	// Leader is the node believed to lead, 0 when unknown.
	Leader() keys.NodeID
}

// LockStrength of a read.
type LockStrength uint8

const (
	LockNone      LockStrength = iota // a read-only transaction's read at a timestamp
	LockShared                        // SELECT in a read-write transaction, FOR SHARE
	LockExclusive                     // UPDATE, DELETE, FOR UPDATE, and INSERT's uniqueness check
)

// WaitPolicy says what to do about a conflicting lock that cannot be wounded away.
type WaitPolicy uint8

const (
	WaitBlock  WaitPolicy = iota
	WaitNoWait            // fail with LockUnavailableError
	WaitSkip              // leave the key out (SKIP LOCKED)
)

// Target names the tablet that a request means and the map that the sender
// used. A tablet that does not hold the keys refuses with RangeError (B1).
type Target struct {
	Group      keys.GroupID
	Generation uint64
}

// TxnRef identifies the transaction that a request belongs to.
type TxnRef struct {
	ID keys.TxnID
	// Term is the lease under which the transaction took its first lock at this
	// tablet, 0 on first contact. Under any other the locks are gone (X2) and the
	// request is refused with AbortedError{LocksLost}.
	Term uint64
	// Client is the gateway node, whose heartbeats keep the locks alive.
	Client keys.NodeID
}

// ReadRequest reads keys or ranges, at a timestamp (Lock none) or with locks.
type ReadRequest struct {
	Target Target
	Txn    TxnRef             // zero for a read-only transaction
	At     truetime.Timestamp // for LockNone: the read timestamp; never 0
	Lock   LockStrength
	Wait   WaitPolicy
	// Follower allows any replica with t_safe >= At to answer, not only the leader.
	Follower bool
	// Guess asks a replica that need not lead for the newest versions that it has
	// applied, however old: for an optimistic transaction, whose commit says what
	// it was told (CommitRequest.Expect). Gets only; At and Txn are ignored.
	Guess bool
	Gets  []keys.Key
	Scans []Scan
	// MaxBytes bounds the answer (0: 1 MiB); at least one row is always returned.
	MaxBytes int
}

// Scan reads a span in key order, or backwards.
type Scan struct {
	Span    keys.Span
	Reverse bool
	MaxRows int // 0: no bound but MaxBytes
}

// ReadResponse answers Gets one for one, then Scans. Gets that the bound left out
// are missing at the end: ask for them again.
type ReadResponse struct {
	Gets  []Value // Exists false: no such key at that time
	Scans []ScanResult
	// Term to send with the transaction's later requests to this tablet.
	Term uint64
	// MaxSeen is the highest commit timestamp among the versions returned. The
	// gateway lets no client see the answer before After(MaxSeen) (X1).
	MaxSeen truetime.Timestamp
}

// Value of a key.
type Value struct {
	Exists bool
	Bytes  []byte
	TS     truetime.Timestamp
}

// KV is a row of a scan.
type KV struct {
	Key   keys.Key
	Value []byte
}

// ScanResult holds rows in the order asked for. More says that the bound was
// reached: continue behind the last row (or, with no row, at Resume).
type ScanResult struct {
	Rows   []KV
	More   bool
	Resume keys.Span // what is left to read, when More
}

// Write is one buffered write; a nil Value deletes.
type Write struct {
	Key   keys.Key
	Value []byte
}

// CommitRequest commits a transaction that touched this tablet alone: locks are
// checked, missing write locks taken, s assigned, one command replicated (one
// Raft round). Answered when the command is applied, before After(TS): the
// gateway does commit wait, overlapped. Resending it is harmless (X5).
type CommitRequest struct {
	Target Target
	Txn    TxnRef
	Writes []Write
	Staged uint32             // number of chunks staged before, 0 for none
	MinTS  truetime.Timestamp // s >= MinTS: the highest timestamp the client has seen
	MaxTS  truetime.Timestamp // s <= MaxTS: schema lease, fence (B2, L2); 0: none
	// Finished: every transaction of Txn.ID.Node with a lower Seq has ended and
	// its gateway will ask no more about it, so its outcome may be forgotten and
	// stray copies of its commit are refused for ever (X5). 0: says nothing.
	Finished uint64
	// Expect is what an optimistic transaction read without locks. The tablet takes
	// their exclusive locks, waiting as a read does, and commits if all are as
	// expected; else it answers with Found and the transaction goes on with the
	// locks. Sent only by transactions that hold no lock yet.
	Expect []Expectation
	// Private: of the keys written nobody knows but the transaction that loads them
	// (Txn.Load), so no locks are taken. That transaction may hold some of them
	// itself, and would be in its own way.
	Private bool
}

// Expectation is a key that an optimistic transaction has read, and the timestamp
// of the version that it saw, 0 when there was no row.
type Expectation struct {
	Key keys.Key
	TS  truetime.Timestamp
}

// CommitResponse carries the commit timestamp. With Term set nothing was committed:
// under it the transaction now holds exclusive locks on what it expected, and Found
// are the newest versions there, in order, as many as the answer has room for. With
// none some locks could not be had in time, and the transaction has to ask for all.
type CommitResponse struct {
	TS    truetime.Timestamp
	Term  uint64
	Found []Value
	// Epsilon of the leader's clock when it chose TS, and how long ago that was when it
	// answered: replication, which commit wait overlaps. 0 where another copy of the
	// request chose.
	Epsilon, Since time.Duration
}

// PrepareRequest is phase one at a participant that is not the coordinator.
// Writes may be empty: a tablet that was only read replicates its locks too (X3).
type PrepareRequest struct {
	Target      Target
	Txn         TxnRef
	Writes      []Write
	Staged      uint32
	Coordinator Anchor
	// AnchorKey is this participant's own anchor, a key of this tablet: the one
	// that DecideRequest.Participants names and ResolveRequest.Key repeats. Empty:
	// the first write's key, else the first locked key.
	AnchorKey keys.Key
	MinTS     truetime.Timestamp
	MaxTS     truetime.Timestamp
}

// Anchor says where a transaction's outcome lives: in the tablet that holds
// Key, whichever group that is after splits (X3).
type Anchor struct {
	Group keys.GroupID
	Key   keys.Key
}

// PrepareResponse carries the prepare timestamp.
type PrepareResponse struct {
	TS truetime.Timestamp
}

// DecideRequest asks the coordinator's tablet to commit: one command applies
// its own writes and records the outcome. s >= MinTS, which the gateway sets to
// the highest prepare timestamp.
type DecideRequest struct {
	Target       Target
	Txn          TxnRef
	AnchorKey    keys.Key
	Writes       []Write
	Staged       uint32
	Participants []Anchor // every prepared participant, the coordinator not among them
	MinTS        truetime.Timestamp
	MaxTS        truetime.Timestamp
	Finished     uint64 // see CommitRequest
}

// OutcomeStatus of a transaction.
type OutcomeStatus uint8

const (
	OutcomeUnknown OutcomeStatus = iota // no record and too old to say (X5's horizon)
	OutcomeCommitted
	OutcomeAborted
	OutcomePending // undecided; only without Abort
)

// Outcome is what became of a transaction.
type Outcome struct {
	Status OutcomeStatus
	TS     truetime.Timestamp // commit timestamp when committed
}

// InquireRequest asks the coordinator's tablet for an outcome. It is a log
// command, never a read; with Abort, a transaction that has no outcome yet gets
// one: aborted (X5).
type InquireRequest struct {
	Target    Target
	Txn       keys.TxnID
	AnchorKey keys.Key
	Abort     bool
	// Prepared says that the asker holds a prepared part of the transaction. A
	// commit would then still be on record, because it stays until every
	// participant has acknowledged, so an absent one is aborted whatever its age.
	Prepared bool
}

// ResolveRequest tells a participant the outcome; it applies or drops the
// prepared writes and releases the locks. Answered when applied. Idempotent.
type ResolveRequest struct {
	Target  Target
	Key     keys.Key // the participant's anchor: finds the right child after a split
	Txn     keys.TxnID
	Outcome Outcome
}

// AbortRequest drops an unprepared transaction's locks and staged chunks.
type AbortRequest struct {
	Target Target
	Txn    TxnRef
}

// StageRequest lays one chunk of a large transaction's writes into the log,
// invisible until its outcome (design section 6). Seq counts from 0.
type StageRequest struct {
	Target Target
	Txn    TxnRef
	Seq    uint32
	Writes []Write
}

// StageResponse acknowledges the chunk.
type StageResponse struct {
	Term uint64
}

// HeartbeatRequest keeps the locks of Txns alive at one tablet; the answer
// names those that the tablet does not know (any more): wounded or lost.
type HeartbeatRequest struct {
	Target Target
	Client keys.NodeID
	Txns   []keys.TxnID
}

type HeartbeatResponse struct {
	Lost []keys.TxnID
}

// SplitRequest divides the tablet at Key; Child is the new group's id, its
// replicas' ids are fixed by the request so that every replica agrees.
type SplitRequest struct {
	Target   Target
	Key      keys.Key
	Child    keys.GroupID
	Replicas []keys.Replica
}

type SplitResponse struct {
	Left, Right keys.Descriptor
}

// RangeError: the sender's map is stale. Descriptors are what the tablet knows
// to be newer: its own, and its children's (B1).
type RangeError struct {
	Descriptors []keys.Descriptor
}

func (e *RangeError) Error() string { return "tablet: keys are not in this tablet" }

// AbortReason says why a transaction cannot go on.
type AbortReason uint8

const (
	AbortWounded   AbortReason = iota + 1 // an older transaction needed its locks
	AbortLocksLost                        // leader changed, or heartbeats stopped
	AbortRefused                          // in prepare nobody waits for an older one
	AbortTooLate                          // no timestamp <= MaxTS left
	AbortHorizon                          // the commit request is older than the horizon
	AbortDecided                          // an inquiry aborted it first
)

func (r AbortReason) String() string {
	switch r {
	case AbortWounded:
		return "wounded by an older transaction"
	case AbortLocksLost:
		return "locks lost"
	case AbortRefused:
		return "conflict with an older transaction during prepare"
	case AbortTooLate:
		return "commit timestamp bound passed"
	case AbortHorizon:
		return "transaction too old"
	case AbortDecided:
		return "aborted by recovery"
	}
	return "unknown"
}

// AbortedError: the transaction is aborted at this tablet and will never
// commit. Retryable as a new transaction with the old age.
type AbortedError struct {
	Txn    keys.TxnID
	Reason AbortReason
	By     keys.TxnID // the winner, when wounded or refused
	Key    keys.Key   // where
}

func (e *AbortedError) Error() string {
	return fmt.Sprintf("tablet: transaction %v aborted: %v", e.Txn, e.Reason)
}

// Refusals of the group below, by their names here for callers above.
var (
	ErrDiskFull = paxosgroup.ErrDiskFull // writes are refused until there is space; reads go on
	ErrTooLarge = paxosgroup.ErrTooLarge // one write is larger than MaxWrite
)

// CorruptError: stored bytes are damaged (D1); nothing is answered from them.
type CorruptError = storage.CorruptError

// MaxWrite is what one write, key and value, may take in bytes.
const MaxWrite = commandRoom

// AmbiguousError: whether the command took effect is not known; inquire.
type AmbiguousError struct{ Txn keys.TxnID }

func (e *AmbiguousError) Error() string {
	return fmt.Sprintf("tablet: outcome of transaction %v is not known", e.Txn)
}

// TooOldError: the read timestamp lies below the tablet's low-water mark; the
// versions of that time may have been collected.
type TooOldError struct {
	At, LowWater truetime.Timestamp
}

func (e *TooOldError) Error() string {
	return fmt.Sprintf("tablet: read timestamp %d is older than the oldest version kept (%d)", e.At, e.LowWater)
}

// LockUnavailableError answers WaitNoWait.
type LockUnavailableError struct {
	Key    keys.Key
	Holder keys.TxnID
}

func (e *LockUnavailableError) Error() string { return "tablet: lock not available" }
