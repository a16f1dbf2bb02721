package state

import (
	"fmt"

	"github.com/spandb/spand/truetime"
)

// Reasons for which a State refuses, as lock.proto's ErrorInfo spells them.
const (
	SessionExpired     = "SESSION_EXPIRED"
	NodeNotFound       = "NODE_NOT_FOUND"
	NodeExists         = "NODE_EXISTS"
	NotEmpty           = "NOT_EMPTY"
	IsDirectory        = "IS_DIRECTORY"
	NotDirectory       = "NOT_DIRECTORY"
	GenerationMismatch = "GENERATION_MISMATCH"
	StaleSequencer     = "STALE_SEQUENCER"
	StaleHandle        = "STALE_HANDLE"
	LockHeld           = "LOCK_HELD"
	LockDelayed        = "LOCK_DELAYED"
	LockNotHeld        = "LOCK_NOT_HELD"
	QuotaExceeded      = "QUOTA_EXCEEDED"
	TooLarge           = "TOO_LARGE"
	Permission         = "PERMISSION"
	BadPath            = "BAD_PATH"
	BadRequest         = "BAD_REQUEST"
	Overloaded         = "OVERLOADED"
)

// Error refuses a request. Reason is one of lock.proto's ErrorInfo.
type Error struct {
	Reason  string
	Path    string
	Message string
	Until   truetime.Timestamp // LOCK_DELAYED
}

func (e *Error) Error() string { return e.Message }

func refuse(reason, path, format string, args ...any) *Error {
	return &Error{Reason: reason, Path: path, Message: fmt.Sprintf(format, args...)}
}

func expired(id SessionID) *Error {
	return refuse(SessionExpired, "", "session %d has ended", id)
}
