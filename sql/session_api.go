package sql

import (
	"context"
	"io"

	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

// TxnStatus is what ReadyForQuery reports.
type TxnStatus byte

const (
	TxnIdle   TxnStatus = 'I'
	TxnOpen   TxnStatus = 'T'
	TxnFailed TxnStatus = 'E'
)

// Column describes one result column.
type Column struct {
	Name     string
	Type     types.Type
	TableOID types.OID // 0 when computed
	AttNum   int16
}

// ResultWriter receives what one statement yields, in order: Columns (for
// statements that return rows), then rows, then Complete; or an error is
// returned by the session instead. Implementations encode a row at once: datums
// are valid during the call only. An error from any method ends the statement.
type ResultWriter interface {
	Columns([]Column) error
	Row([]types.Datum) error
	// Complete ends one statement with its command tag, "INSERT 0 1".
	Complete(tag string) error
	// Empty answers an empty query string.
	Empty() error
	// Notice sends a NOTICE or WARNING (severity in upper case).
	Notice(severity string, e *sqlstate.Error) error
	// ParameterStatus reports a changed setting that clients track.
	ParameterStatus(name, value string) error
	// CopyIn asks the client for COPY data of n columns and returns its raw bytes
	// as a stream; io.EOF after CopyDone; CopyFail is an error.
	CopyIn(binary bool, columns int) (io.Reader, error)
	// CopyOut starts COPY TO STDOUT; Write to it sends CopyData, Close ends it.
	CopyOut(binary bool, columns int) (io.WriteCloser, error)
}

// SessionOptions are what a client says at start-up.
type SessionOptions struct {
	User, Database, ApplicationName string
	Settings                        map[string]string // other start-up parameters
	RemoteAddr                      string
	BackendPID                      int32
}

// Session is one client's connection to SQL. All methods but Cancel and Kill
// belong to one goroutine. *Conn is the implementation; pgwire drives it.
type Session interface {
	// Simple runs a query string: its statements in order, those outside an
	// explicit block in one implicit transaction, as PostgreSQL does. Each
	// statement's results go to w. It stops at the first error and returns it.
	Simple(ctx context.Context, query string, w ResultWriter) error

	// Prepare parses and plans one statement under name ("" replaces the unnamed
	// one). paramTypes may be shorter than the parameters or hold 0 for unknown.
	Prepare(ctx context.Context, name, query string, paramTypes []types.OID) error
	// DescribeStatement returns parameter types and result columns (nil: no rows).
	DescribeStatement(ctx context.Context, name string) (params []types.OID, columns []Column, err error)
	// Bind makes a portal. Datums are of the statement's parameter types.
	Bind(ctx context.Context, portal, statement string, params []types.Datum) error
	DescribePortal(ctx context.Context, portal string) (columns []Column, err error)
	// Execute runs a portal. suspended reports that the row limit was reached;
	// then Complete has not been called.
	Execute(ctx context.Context, portal string, o ExecuteOptions, w ResultWriter) (suspended bool, err error)
	CloseStatement(name string)
	ClosePortal(name string)
	// Sync ends an extended-protocol batch: commits or rolls back the implicit
	// transaction. Its error (a failed commit) is to be sent before ReadyForQuery.
	Sync(ctx context.Context) error
	// Fail tells the session that the front end met an error (a bad message):
	// an open transaction block becomes failed.
	Fail()

	Status() TxnStatus
	// Setting returns a run-time setting's current value (client_encoding,
	// DateStyle, TimeZone …), for start-up ParameterStatus and encodings.
	Setting(name string) (string, bool)
	// FormatSettings are what text output of datums depends on.
	FormatSettings() *types.FormatSettings
	// IdleInTransactionTimeout and StatementTimeout in milliseconds, 0: none. The
	// front end, which knows when one begins, keeps both.
	IdleInTransactionTimeout() int
	StatementTimeout() int
	// TraceID names the trace of the last statement, for the log; "" if there is none.
	TraceID() string

	// Cancel interrupts the running statement, if any (another goroutine calls it).
	Cancel()
	// Close rolls back and frees everything.
	Close()
}

// ExecuteOptions of Session.Execute.
type ExecuteOptions struct {
	MaxRows int // 0: all
	// SyncFollows says that the front end has already received the Sync behind
	// this Execute, and nothing between. If nothing ran since the last Sync, the
	// statement is then an implicit transaction of its own: a SELECT may read
	// without locks, a write may commit at once.
	SyncFollows bool
}

// Server makes sessions; *Engine is the implementation.
type Server interface {
	NewSession(ctx context.Context, o SessionOptions) (Session, error)
}
