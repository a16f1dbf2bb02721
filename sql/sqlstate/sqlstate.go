// Package sqlstate carries errors to SQL clients: a SQLSTATE, a message in
// PostgreSQL's style (lower case, no full stop), and a hint where one helps.
// Codes are those of PostgreSQL 15's appendix A.
package sqlstate

import (
	"errors"
	"fmt"
	"strings"
)

// Code is a five-character SQLSTATE.
type Code string

const (
	SuccessfulCompletion         Code = "00000"
	ConnectionException          Code = "08000"
	ProtocolViolation            Code = "08P01"
	TransactionResolutionUnknown Code = "08007"
	FeatureNotSupported          Code = "0A000"
	CardinalityViolation         Code = "21000"
	DataException                Code = "22000"
	NumericValueOutOfRange       Code = "22003"
	NullValueNotAllowed          Code = "22004"
	StringDataRightTruncation    Code = "22001"
	InvalidDatetimeFormat        Code = "22007"
	DatetimeFieldOverflow        Code = "22008"
	DivisionByZero               Code = "22012"
	InvalidParameterValue        Code = "22023"
	InvalidRowCountInLimit       Code = "2201W"
	InvalidRowCountInOffset      Code = "2201X"
	CharacterNotInRepertoire     Code = "22021"
	InvalidTextRepresentation    Code = "22P02"
	InvalidBinaryRepresentation  Code = "22P03"
	BadCopyFileFormat            Code = "22P04"
	NotNullViolation             Code = "23502"
	ForeignKeyViolation          Code = "23503"
	UniqueViolation              Code = "23505"
	CheckViolation               Code = "23514"
	InvalidTransactionState      Code = "25000"
	ActiveTransaction            Code = "25001"
	ReadOnlyTransaction          Code = "25006"
	NoActiveTransaction          Code = "25P01"
	InFailedTransaction          Code = "25P02"
	IdleInTransactionTimeout     Code = "25P03"
	InvalidStatementName         Code = "26000"
	InvalidAuthorization         Code = "28000"
	InvalidCursorName            Code = "34000"
	InvalidCatalogName           Code = "3D000"
	InvalidSchemaName            Code = "3F000"
	SnapshotTooOld               Code = "72000"
	SerializationFailure         Code = "40001"
	SyntaxError                  Code = "42601"
	InsufficientPrivilege        Code = "42501"
	CannotCoerce                 Code = "42846"
	GroupingError                Code = "42803"
	DatatypeMismatch             Code = "42804"
	IndeterminateDatatype        Code = "42P18"
	WrongObjectType              Code = "42809"
	UndefinedColumn              Code = "42703"
	UndefinedFunction            Code = "42883"
	UndefinedTable               Code = "42P01"
	UndefinedParameter           Code = "42P02"
	UndefinedObject              Code = "42704"
	DuplicateColumn              Code = "42701"
	DuplicateCursor              Code = "42P03"
	DuplicateDatabase            Code = "42P04"
	DuplicatePreparedStatement   Code = "42P05"
	DuplicateSchema              Code = "42P06"
	DuplicateTable               Code = "42P07"
	DuplicateObject              Code = "42710"
	AmbiguousColumn              Code = "42702"
	AmbiguousFunction            Code = "42725"
	InvalidColumnReference       Code = "42P10"
	InvalidTableDefinition       Code = "42P16"
	ReservedName                 Code = "42939"
	DependentObjectsStillExist   Code = "2BP01"
	ProgramLimitExceeded         Code = "54000"
	StatementTooComplex          Code = "54001"
	TooManyColumns               Code = "54011"
	ObjectNotInPrerequisiteState Code = "55000"
	StaleFence                   Code = "55S01" // ours: a lock of spand.fence is not held
	FenceRequired                Code = "55S02" // ours: a write to a table fenced_by a lock
	LockNotAvailable             Code = "55P03"
	DiskFull                     Code = "53100"
	OutOfMemory                  Code = "53200"
	TooManyConnections           Code = "53300"
	ConfigurationLimitExceeded   Code = "53400"
	QueryCanceled                Code = "57014"
	AdminShutdown                Code = "57P01"
	CannotConnectNow             Code = "57P03"
	IOError                      Code = "58030"
	InternalError                Code = "XX000"
	DataCorrupted                Code = "XX001"
)

// Error is what a SQL client gets to see. Position is a 1-based character
// offset into the statement's text, 0 when unknown.
type Error struct {
	Code       Code
	Message    string
	Detail     string
	Hint       string
	Position   int
	Schema     string
	Table      string
	Column     string
	DataType   string
	Constraint string
	Where      string // the context: which line of a COPY
	Cause      error  // for logs; never sent
}

func (e *Error) Error() string { return string(e.Code) + ": " + e.Message }
func (e *Error) Unwrap() error { return e.Cause }

// Newf makes an error. In its format, and in WithHint's and WithDetail's, %q quotes
// as PostgreSQL does: between double quotes, with nothing escaped.
func Newf(code Code, format string, args ...any) *Error {
	if false {
		_ = fmt.Sprintf(format, args...) // has go vet check callers
	}
	return &Error{Code: code, Message: sprintf(format, args)}
}

func sprintf(format string, args []any) string {
	return fmt.Sprintf(strings.ReplaceAll(format, "%q", `"%s"`), args...)
}

// WithHint returns a copy of e with a hint.
func (e *Error) WithHint(format string, args ...any) *Error {
	if false {
		_ = fmt.Sprintf(format, args...)
	}
	c := *e
	c.Hint = sprintf(format, args)
	return &c
}

// WithDetail returns a copy of e with a detail line.
func (e *Error) WithDetail(format string, args ...any) *Error {
	if false {
		_ = fmt.Sprintf(format, args...)
	}
	c := *e
	c.Detail = sprintf(format, args)
	return &c
}

// At returns a copy of e with a position: the character of sql at byte offset
// pos (0-based, as pgast has it). A negative pos leaves e as it is.
func (e *Error) At(sql string, pos int) *Error {
	if pos < 0 || pos > len(sql) {
		return e
	}
	c := *e
	c.Position = 1
	for i := range sql {
		if i >= pos {
			break
		}
		c.Position++
	}
	return &c
}

// CodeOf returns err's SQLSTATE, InternalError when it carries none.
func CodeOf(err error) Code {
	if err == nil {
		return SuccessfulCompletion
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return InternalError
}
