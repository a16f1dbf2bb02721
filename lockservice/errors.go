package lockservice

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/spandb/spand/lockservice/lockpb"
)

// What errors.Is finds in the errors of this package.
var (
	// ErrSessionExpired: the session has ended, its locks are lost and its ephemeral files gone
	// or about to go. It never comes back: make a new one.
	ErrSessionExpired error = &sentinel{"SESSION_EXPIRED", "session expired"}
	// ErrNotFound: there is no node of that path.
	ErrNotFound error = &sentinel{"NODE_NOT_FOUND", "no such node"}
	// ErrExists: there is one, and CreateExclusive was asked for.
	ErrExists error = &sentinel{"NODE_EXISTS", "node exists"}
	// ErrNotEmpty: a directory with children is not deleted.
	ErrNotEmpty     error = &sentinel{"NOT_EMPTY", "directory is not empty"}
	ErrIsDirectory  error = &sentinel{"IS_DIRECTORY", "is a directory"}
	ErrNotDirectory error = &sentinel{"NOT_DIRECTORY", "is not a directory"}
	// ErrGenerationMismatch: the contents are not of the generation that the write was for.
	ErrGenerationMismatch error = &sentinel{"GENERATION_MISMATCH", "content generation differs"}
	// ErrStaleSequencer: the lock is no longer held as the sequencer says.
	ErrStaleSequencer error = &sentinel{"STALE_SEQUENCER", "sequencer is no longer valid"}
	// ErrStaleHandle: the node that was opened is gone; another may be there.
	ErrStaleHandle error = &sentinel{"STALE_HANDLE", "handle's node is gone"}
	// ErrLockHeld: another holds the lock (TryLock, or Delete of a node that is locked).
	ErrLockHeld error = &sentinel{"LOCK_HELD", "lock is held"}
	// ErrLockDelayed: nobody holds the lock, but its last holder vanished and its
	// lock-delay is not over; see Error.Until.
	ErrLockDelayed error = &sentinel{"LOCK_DELAYED", "lock is delayed"}
	ErrLockNotHeld error = &sentinel{"LOCK_NOT_HELD", "lock is not held"}
	// ErrQuotaExceeded: a directory's or the cell's quota does not admit it.
	ErrQuotaExceeded error = &sentinel{"QUOTA_EXCEEDED", "quota exceeded"}
	// ErrTooLarge: contents of more than 256 KiB.
	ErrTooLarge   error = &sentinel{"TOO_LARGE", "contents too large"}
	ErrPermission error = &sentinel{"PERMISSION", "permission denied"}
	ErrBadPath    error = &sentinel{"BAD_PATH", "bad path"}
	ErrBadRequest error = &sentinel{"BAD_REQUEST", "bad request"}
	ErrNoSuchCell error = &sentinel{"NO_SUCH_CELL", "no such cell"}
	// ErrDiskFull: the cell takes no writes, because its nodes' disks are full.
	ErrDiskFull error = &sentinel{"DISK_FULL", "disk full"}
	// ErrAmbiguous: the connection broke before the answer to a change that cannot be
	// repeated (one without a session). Whether it took effect is not known.
	ErrAmbiguous error = &sentinel{"AMBIGUOUS", "whether the change took effect is not known"}

	// ErrLockLost is why a Lock's context ended for good: the session ended, or the node was
	// deleted. The cause wraps what happened.
	ErrLockLost = errors.New("lockservice: lock lost")
	// ErrJeopardy is why a Lock's context ended when the local lease was over and the server's
	// may not be: nobody knows whether the lock is held. See Lock.State.
	ErrJeopardy = errors.New("lockservice: lease is over here and not renewed yet (jeopardy)")
	errAskAgain = errors.New("lock service: the hold may be gone")
	errDeleting = fmt.Errorf("%w: its node is being deleted", ErrJeopardy)
	errDeleted  = fmt.Errorf("%w: its node was deleted", ErrLockLost)
	// ErrUnlocked is why a Lock's context ended by Unlock.
	ErrUnlocked = errors.New("lockservice: unlocked")
	// ErrClosed: the Client, Session, Handle or Subscription was closed here.
	ErrClosed = errors.New("lockservice: closed")
)

// sentinel stands for a reason of lock.proto's ErrorInfo.
type sentinel struct{ reason, text string }

func (s *sentinel) Error() string { return "lockservice: " + s.text }

// Error is a refusal by the service. errors.Is finds the Err… of its Reason in it, and
// status.FromError the gRPC status.
type Error struct {
	Code    codes.Code
	Reason  string // of lock.proto's ErrorInfo; empty if the server gave none
	Path    string
	Message string
	Until   time.Time // of LOCK_DELAYED

	leader    *lockpb.NotLeader
	cacheable bool // that there is no such node
	unsure    bool // an attempt before the one that was refused may have been carried out
}

func (e *Error) Error() string { return "lockservice: " + e.Message }

func (e *Error) Is(target error) bool {
	s, ok := target.(*sentinel)
	return ok && s.reason == e.Reason
}

// GRPCStatus is for status.FromError.
func (e *Error) GRPCStatus() *status.Status {
	st := status.New(e.Code, e.Message)
	if e.Reason == "" {
		return st
	}
	info := &lockpb.ErrorInfo{Reason: e.Reason, Path: e.Path}
	if !e.Until.IsZero() {
		info.Until = e.Until.UnixNano()
	}
	if with, err := st.WithDetails(info); err == nil {
		return with
	}
	return st
}

func newError(code codes.Code, message string, info *lockpb.ErrorInfo) *Error {
	e := &Error{Code: code, Message: message, Reason: info.GetReason(), Path: info.GetPath(), leader: info.GetLeader(), cacheable: info.GetCacheable()}
	if u := info.GetUntil(); u != 0 {
		e.Until = time.Unix(0, u)
	}
	return e
}

func errorOfFailure(f *lockpb.Failure) *Error {
	return newError(codes.Code(f.Code), f.Message, f.Info)
}

// errorOf makes an Error of the status of a broken stream or call.
func errorOf(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	st := status.Convert(err)
	var info *lockpb.ErrorInfo
	for _, d := range st.Details() {
		if i, ok := d.(*lockpb.ErrorInfo); ok {
			info = i
		}
	}
	return newError(st.Code(), st.Message(), info)
}

func badPath(path, why string) *Error {
	return &Error{Code: codes.InvalidArgument, Reason: "BAD_PATH", Path: path, Message: fmt.Sprintf("path %q %s", path, why)}
}

// fate says what a failed attempt means for the call.
type fate int

const (
	final     fate = iota // the caller's to know
	redirect              // e.leader knows better
	again                 // not executed: try again
	uncertain             // may have been executed: try again only what takes effect once
)

func (e *Error) fate() fate {
	switch e.Reason {
	case "NOT_LEADER":
		if e.leader.GetAddr() != "" {
			return redirect
		}
		return again
	case "NO_LEADER", "OVERLOADED":
		return again
	case "AMBIGUOUS":
		return uncertain
	case "":
		switch e.Code {
		case codes.Unavailable, codes.Canceled, codes.DeadlineExceeded, codes.Aborted, codes.Internal, codes.Unknown:
			return uncertain // a connection's or a proxy's words, not the cell's
		}
	}
	return final
}
