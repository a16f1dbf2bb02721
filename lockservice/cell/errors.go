package cell

import (
	"context"
	"errors"
	"fmt"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/lockservice/cell/state"
	"github.com/spandb/spand/lockservice/lockpb"
	"github.com/spandb/spand/paxosgroup"
	"google.golang.org/grpc/codes"
)

// NotLeaderError says that this replica does not serve the cell, and which node probably
// does (0: unknown).
type NotLeaderError struct {
	Cell   string
	Leader keys.NodeID
}

func (e *NotLeaderError) Error() string {
	if e.Leader == 0 {
		return fmt.Sprintf("cell %q has no leader now", e.Cell)
	}
	return fmt.Sprintf("cell %q is led by another node", e.Cell)
}

// codeOf are the gRPC codes of ErrorInfo's reasons.
var codeOf = map[string]codes.Code{
	"SESSION_EXPIRED":     codes.Unauthenticated,
	"NODE_NOT_FOUND":      codes.NotFound,
	"NODE_EXISTS":         codes.AlreadyExists,
	"NOT_EMPTY":           codes.FailedPrecondition,
	"IS_DIRECTORY":        codes.FailedPrecondition,
	"NOT_DIRECTORY":       codes.FailedPrecondition,
	"GENERATION_MISMATCH": codes.Aborted,
	"STALE_SEQUENCER":     codes.Aborted,
	"STALE_HANDLE":        codes.FailedPrecondition,
	"LOCK_HELD":           codes.FailedPrecondition,
	"LOCK_DELAYED":        codes.FailedPrecondition,
	"LOCK_NOT_HELD":       codes.FailedPrecondition,
	"QUOTA_EXCEEDED":      codes.ResourceExhausted,
	"TOO_LARGE":           codes.InvalidArgument,
	"PERMISSION":          codes.PermissionDenied,
	"BAD_PATH":            codes.InvalidArgument,
	"BAD_REQUEST":         codes.InvalidArgument,
	"NO_SUCH_CELL":        codes.NotFound,
	"NOT_LEADER":          codes.FailedPrecondition,
	"NO_LEADER":           codes.Unavailable,
	"OVERLOADED":          codes.ResourceExhausted,
	"DISK_FULL":           codes.ResourceExhausted,
	"AMBIGUOUS":           codes.Unknown,
	"CANCELLED":           codes.Canceled,
	"DAMAGED":             codes.DataLoss,
}

// Code returns the gRPC code that goes with a reason of lock.proto's ErrorInfo.
func Code(reason string) codes.Code {
	if c, ok := codeOf[reason]; ok {
		return c
	}
	return codes.Internal
}

func refuse(reason, path, format string, args ...any) *state.Error {
	return &state.Error{Reason: reason, Path: path, Message: fmt.Sprintf(format, args...)}
}

func badRequest(format string, args ...any) *state.Error {
	return refuse("BAD_REQUEST", "", format, args...)
}

func sessionExpired(id state.SessionID) *state.Error {
	return refuse("SESSION_EXPIRED", "", "session %d has ended", id)
}

// gaveUp is the answer to a caller whose context ended, or who gave the call up, before it had
// any effect.
func gaveUp(ctx context.Context) error {
	cause := context.Cause(ctx)
	if cause == nil {
		cause = context.Canceled
	}
	return refuse("CANCELLED", "", "the call was given up before it took effect: %v", cause)
}

// errInFlight: the caller's context ended before its command's outcome was known.
var errInFlight = errors.New("cell: command still in flight")

// retryable reports whether a command that failed so has had no effect, and may have one
// later.
func retryable(err error) bool {
	return errors.Is(err, paxosgroup.ErrOverloaded) || errors.Is(err, paxosgroup.ErrDiskFull)
}

// failure translates an error of this package, of state or of paxosgroup.
func (c *Cell) failure(err error) *lockpb.Failure {
	var refused *state.Error
	var gone *NotLeaderError
	var moved *paxosgroup.NotLeaderError
	reason, message := "", err.Error()
	info := &lockpb.ErrorInfo{}
	switch {
	case errors.As(err, &refused):
		reason, info.Path, info.Until = refused.Reason, refused.Path, int64(refused.Until)
	case errors.As(err, &gone), errors.As(err, &moved):
		leader := keys.NodeID(0)
		if gone != nil {
			leader = gone.Leader
		} else {
			leader = moved.Leader
		}
		if reason = "NOT_LEADER"; leader == 0 || leader == c.cfg.Node {
			reason, leader = "NO_LEADER", 0
		}
		message = (&NotLeaderError{Cell: c.cfg.Name, Leader: leader}).Error()
	case errors.Is(err, paxosgroup.ErrAmbiguous), errors.Is(err, errInFlight):
		reason, message = "AMBIGUOUS", "whether the call took effect is not known; send it again with the same request number"
	case errors.Is(err, paxosgroup.ErrTooLate):
		reason, message = "OVERLOADED", "the cell was too busy to carry the call out while its handle's sequencer was certain to be valid; send it again"
	case errors.Is(err, paxosgroup.ErrOverloaded):
		reason, message = "OVERLOADED", "the cell has too many commands in flight"
	case errors.Is(err, paxosgroup.ErrDiskFull):
		reason, message = "DISK_FULL", "no space is left on the node's disk above its reserve"
	case errors.Is(err, paxosgroup.ErrTooLarge):
		reason, message = "TOO_LARGE", "the request is too large"
	case errors.Is(err, paxosgroup.ErrStopped), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		reason, message = "NO_LEADER", fmt.Sprintf("cell %q is being closed on this node", c.cfg.Name)
	}
	var none *absent
	info.Cacheable = errors.As(err, &none)
	info.Reason = reason
	code := Code(reason)
	if reason == "" {
		info.Reason = "INTERNAL"
	}
	return &lockpb.Failure{Code: int32(code), Message: message, Info: info}
}
