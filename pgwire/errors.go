package pgwire

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/spandb/spand/sql/sqlstate"
)

const (
	sevError = "ERROR"
	sevFatal = "FATAL"
)

// Errors that come from outside a statement. They are compared by identity.
var (
	errUserCancel = sqlstate.Newf(sqlstate.QueryCanceled, "canceling statement due to user request")
	errTimeout    = sqlstate.Newf(sqlstate.QueryCanceled, "canceling statement due to statement timeout")
	errIdleInTxn  = sqlstate.Newf(sqlstate.IdleInTransactionTimeout, "terminating connection due to idle-in-transaction timeout")
	errShutdown   = sqlstate.Newf(sqlstate.AdminShutdown, "terminating connection due to administrator command")
	errClientGone = sqlstate.Newf(sqlstate.ConnectionException, "connection to client lost")
)

// closeError ends a connection. A nil fatal ends it without a word: the client
// said goodbye or is gone.
type closeError struct {
	fatal *sqlstate.Error
	cause error
}

func (e *closeError) Error() string {
	if e.fatal != nil {
		return e.fatal.Error()
	}
	if e.cause != nil {
		return "connection closed: " + e.cause.Error()
	}
	return "connection closed"
}

func (e *closeError) Unwrap() error { return e.cause }

func fatal(e *sqlstate.Error) error { return &closeError{fatal: e} }

func protocolf(format string, args ...any) *sqlstate.Error {
	return sqlstate.Newf(sqlstate.ProtocolViolation, format, args...)
}

// sqlError makes of any error what a client gets to see.
func sqlError(err error) *sqlstate.Error {
	var e *sqlstate.Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return errUserCancel
	}
	return &sqlstate.Error{Code: sqlstate.InternalError, Message: err.Error(), Cause: err}
}

// appendError encodes e as ErrorResponse or NoticeResponse.
func appendError(dst []byte, typ byte, severity string, e *sqlstate.Error) []byte {
	m := pgproto3.ErrorResponse{
		Severity:            severity,
		SeverityUnlocalized: severity,
		Code:                string(e.Code),
		Message:             clean(e.Message),
		Detail:              clean(e.Detail),
		Hint:                clean(e.Hint),
		Position:            int32(e.Position),
		Where:               clean(e.Where),
		SchemaName:          clean(e.Schema),
		TableName:           clean(e.Table),
		ColumnName:          clean(e.Column),
		DataTypeName:        clean(e.DataType),
		ConstraintName:      clean(e.Constraint),
	}
	var out []byte
	var err error
	if typ == 'N' {
		out, err = (*pgproto3.NoticeResponse)(&m).Encode(dst)
	} else {
		out, err = m.Encode(dst)
	}
	if err != nil { // only a message of more than 2 GiB
		return appendError(dst, typ, severity, &sqlstate.Error{Code: e.Code, Message: "error message too long"})
	}
	return out
}

// clean makes a string fit for the wire: fields end at a NUL, and clients decode
// them as UTF-8.
func clean(s string) string {
	if strings.IndexByte(s, 0) >= 0 {
		s = strings.ReplaceAll(s, "\x00", `\0`)
	}
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	return s
}

// checkText refuses text that is not UTF-8 or holds a NUL, which no text value
// may (22021), in PostgreSQL's words.
func checkText(b []byte) error {
	ascii := true
	for _, c := range b {
		if c >= utf8.RuneSelf || c == 0 {
			ascii = false
			break
		}
	}
	if ascii {
		return nil
	}
	for i := 0; i < len(b); {
		r, n := utf8.DecodeRune(b[i:])
		if b[i] == 0 || (r == utf8.RuneError && n == 1) {
			return badText(b[i:])
		}
		i += n
	}
	return nil
}

// badText names the bytes of the first, broken, character of b: as many as its
// first byte announces.
func badText(b []byte) error {
	n := 1
	switch c := b[0]; {
	case c >= 0xf8:
	case c >= 0xf0:
		n = 4
	case c >= 0xe0:
		n = 3
	case c >= 0xc0:
		n = 2
	}
	var s strings.Builder
	for i, c := range b[:min(n, len(b))] {
		if i > 0 {
			s.WriteByte(' ')
		}
		fmt.Fprintf(&s, "0x%02x", c)
	}
	return sqlstate.Newf(sqlstate.CharacterNotInRepertoire, `invalid byte sequence for encoding "UTF8": %s`, s.String())
}
