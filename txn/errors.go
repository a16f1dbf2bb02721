package txn

import (
	"errors"
	"fmt"

	"github.com/spandb/spand/internal/keys"
)

var (
	// ErrClosed: the client has been closed.
	ErrClosed = errors.New("txn: client closed")
	// ErrFinished: the transaction has been committed or rolled back.
	ErrFinished = errors.New("txn: transaction is finished")
	// ErrReadOnly: a write or a lock in a read-only transaction.
	ErrReadOnly = errors.New("txn: transaction is read-only")
	// ErrTooLarge: the transaction's unstaged writes exceed Config.MaxBuffer.
	ErrTooLarge = errors.New("txn: transaction too large for the gateway's memory")
	// ErrUnconfirmed: an optimistic transaction cannot go on with what it has read
	// without locks. After Txn.Insist its statement may be run again.
	ErrUnconfirmed = errors.New("txn: what was read without locks is not confirmed")
	// ErrNotSent, wrapped by a Caller's error, says that the request certainly
	// did not leave this node: it can be repeated without asking for its outcome.
	ErrNotSent = errors.New("txn: request not sent")

	errNoReplica = errors.New("txn: no replica is known")
	errDeposed   = errors.New("txn: no answer, and another node leads by now")
	errNoClock   = errors.New("txn: the clock did not vouch for true time when the transaction began")
)

// UnknownOutcomeError: a commit was sent and its outcome could not be learned in
// time (X5). The transaction may have committed, or may yet; its outcome can be
// asked for later under its id.
type UnknownOutcomeError struct {
	Txn   keys.TxnID
	Cause error
}

func (e *UnknownOutcomeError) Error() string {
	return fmt.Sprintf("txn: outcome of transaction %v is not known: %v", e.Txn, e.Cause)
}

func (e *UnknownOutcomeError) Unwrap() error { return e.Cause }

// UnavailableError: no replica of a group could be made to answer in time.
type UnavailableError struct {
	Group keys.GroupID
	Cause error
}

func (e *UnavailableError) Error() string {
	return fmt.Sprintf("txn: group %d is unavailable: %v", e.Group, e.Cause)
}

func (e *UnavailableError) Unwrap() error { return e.Cause }

// UnreachableError: a node could not be asked, or its answer was lost. Unless
// Cause wraps ErrNotSent the request may have been executed.
type UnreachableError struct {
	Node  keys.NodeID
	Cause error
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("txn: node %d cannot be reached: %v", e.Node, e.Cause)
}

func (e *UnreachableError) Unwrap() error { return e.Cause }

// unknownError says that a request may or may not have been executed.
type unknownError struct {
	cause   error
	strange bool // repeating it is not likely to go better
}

func (e *unknownError) Error() string { return "txn: answer lost: " + e.cause.Error() }
func (e *unknownError) Unwrap() error { return e.cause }
