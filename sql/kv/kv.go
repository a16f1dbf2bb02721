// Package kv is the transactional store as SQL needs it: the interface that
// catalog, plan and exec share. Package sql re-exports every name. The real store
// is txn.Client behind sql's adapter, kvmem is the in-memory twin for tests.
//
// Invariants that callers rely on: reads in a read-write transaction lock what
// they read until the outcome is decided (X2), ranges as ranges; a read-only
// transaction reads at one timestamp and locks nothing (X4); AwaitVisible must
// have returned before anything read is shown to a client (X1); BoundCommit
// bounds the commit timestamp (B2, L2); nothing is concluded from what an optimistic
// transaction has read before its Commit has returned.
package kv

import (
	"context"
	"errors"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/tablet"
	"github.com/spandb/spand/truetime"
)

// KV is the transactional store that SQL runs on: *txn.Client, or an in-memory
// twin in tests.
type KV interface {
	// Begin starts a read-write transaction. Age, when not zero, is the age to
	// inherit from an aborted attempt (X2).
	Begin(ctx context.Context, opts TxnOptions) Txn
	// ReadOnly starts a lock-free transaction that reads at one timestamp: at,
	// or, when at is 0, Now().Latest (strong).
	ReadOnly(ctx context.Context, at truetime.Timestamp) Txn
	// Freshest returns the newest timestamp that has certainly passed at which this
	// node answers reads of spans without asking another; 0: it cannot yet.
	Freshest(spans []keys.Span) truetime.Timestamp
	// Split makes key a tablet boundary and returns the tablets on its sides.
	Split(ctx context.Context, key keys.Key) error
	Clock() truetime.Clock
}

// TxnOptions of a read-write transaction.
type TxnOptions struct {
	Age truetime.Timestamp
	// Optimistic lets the transaction guess at what it reads until its commit: for a
	// statement of its own, which can be run again (Txn.Insist).
	Optimistic bool
}

// Txn is one transaction. It belongs to one goroutine, but for Cancel by ctx.
// After an error from any method but Get-like ones with a not-found answer the
// transaction can only be rolled back. Retryable conflicts are
// *tablet.AbortedError; *txn.UnknownOutcomeError only from Commit.
type Txn interface {
	// ID is zero for a read-only transaction.
	ID() keys.TxnID
	ReadOnly() bool
	// ReadTimestamp of a read-only transaction.
	ReadTimestamp() truetime.Timestamp

	// Get returns the values of ks in their order; a nil element is absent. Own
	// buffered writes are seen. lock is LockNone exactly in read-only transactions.
	Get(ctx context.Context, ks []keys.Key, lock tablet.LockStrength, wait tablet.WaitPolicy) ([][]byte, error)
	// Scan reads a span in order (or backwards), own writes merged in. It reads
	// ahead in pages of bounded size.
	Scan(ctx context.Context, req ScanRequest) RowIter

	// Put and Delete buffer a write. The caller has taken the exclusive lock with
	// Get or Scan where others could write the key too; a key that nobody else
	// can know of (a fresh hidden row id) needs none until commit.
	Put(ctx context.Context, k keys.Key, v []byte) error
	Delete(ctx context.Context, k keys.Key) error

	// Load writes rows at once, each batch committed on its own, outside the
	// transaction: only for keys under a physical table id that no committed
	// catalog names yet (bulk loads into new tables). Durable when it returns.
	Load(ctx context.Context, rows []tablet.Write) error

	// Savepoint marks the write buffer; RollbackTo drops what came after. Locks stay.
	Savepoint() int
	RollbackTo(mark int) error

	// BoundCommit demands s <= t at commit (schema lease, fence); the lowest wins.
	BoundCommit(t truetime.Timestamp)
	// AskBound has Commit ask for one more bound immediately before it sends what may
	// have the commit timestamp assigned, again for each time that it sends; an error
	// ends the transaction without a commit.
	AskBound(ask func() (truetime.Timestamp, error))
	// AwaitVisible waits until everything that this transaction has read may be
	// shown to a client: After(highest version seen) (X1). Cheap when it has passed.
	// It fails while there are guesses.
	AwaitVisible(ctx context.Context) error
	// Commit commits and does commit wait. A read-only transaction's is free. After
	// ErrUnconfirmed the transaction is still open.
	Commit(ctx context.Context) (truetime.Timestamp, error)
	// Result tells more about a successful Commit of a read-write transaction.
	Result() CommitResult
	// Insist is asked when a statement of an optimistic transaction, or its Commit,
	// has failed. True: that may be the fault of a guess; its writes are dropped, from
	// now on it reads with locks, and the statement is to be run again.
	Insist() bool
	// Rollback releases everything; safe after Commit or another Rollback.
	Rollback(ctx context.Context)
}

// CommitResult of a transaction.
type CommitResult struct {
	TS           truetime.Timestamp
	Participants int // tablets; 0: nothing was locked or written
	// Epsilon of the clock that chose TS, when it did; 0: not known.
	Epsilon time.Duration
	// Gross is the time from the choice of TS until it had definitely passed (commit
	// wait), Net what of it was left when replication was done.
	Gross, Net time.Duration
	// Asking is how long AskBound's bounds took.
	Asking time.Duration
}

// ScanRequest of Txn.Scan.
type ScanRequest struct {
	Span    keys.Span
	Reverse bool
	Limit   int // rows wanted, a hint that bounds reading ahead and locking; 0: all
	Lock    tablet.LockStrength
	Wait    tablet.WaitPolicy
}

// RowIter streams a scan: for it.Next() { it.Key(); it.Value() }; it.Err().
// Slices stay valid until the transaction ends.
type RowIter interface {
	Next() bool
	Key() keys.Key
	Value() []byte
	Err() error
	Close()
}

// ErrUnconfirmed is returned by Commit when a guess was wrong: see Txn.Insist.
var ErrUnconfirmed = errors.New("what was read without locks is not confirmed")

// UnknownOutcomeError is returned by Commit alone: whether the transaction
// committed could not be learnt.
type UnknownOutcomeError struct {
	Txn   keys.TxnID
	Cause error
}

func (e *UnknownOutcomeError) Error() string {
	return "outcome of transaction " + e.Txn.String() + " is not known"
}
func (e *UnknownOutcomeError) Unwrap() error { return e.Cause }
