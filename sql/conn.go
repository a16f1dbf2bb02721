package sql

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/tracing"
	"github.com/spandb/spand/sql/catalog"
	"github.com/spandb/spand/sql/exec"
	"github.com/spandb/spand/sql/kv"
	"github.com/spandb/spand/sql/plan"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
	"github.com/spandb/spand/tablet"
	"github.com/spandb/spand/truetime"
	"github.com/spandb/spand/txn"
)

// Conn is one client's session. It implements Session, and expr.Session for the
// statements that it runs.
type Conn struct {
	eng    *Engine
	opts   SessionOptions
	dbName string
	db     *catalog.Database
	ctx    context.Context // ends with Close and with the engine
	stop   context.CancelCauseFunc

	set       sessionSettings
	planSpace string     // database and search path, part of plan cache keys
	reported  []*setting // changed and to be told to the client

	txn        txnState
	inherit    truetime.Timestamp // age for the next transaction after a 40001 (X2)
	refusedAt  keys.Key           // where the last one was refused in its commit: the next waits there first (X2)
	lastCommit truetime.Timestamp
	lastRead   truetime.Timestamp // of the last read-only transaction

	commitResult kv.CommitResult // of the last committed read-write transaction

	stmts   map[string]*prepared
	unnamed *prepared
	portals map[string]*portal

	free    *exec.Context // an idle execution context
	memory  *exec.Account // what its statements and cursors collect
	faults  SessionFaults // nil: none
	spare   portal        // the unnamed portal, again and again
	key     []byte        // scratch for plan cache keys
	stmtCtx context.Context
	began   time.Time // of the work under stmtCtx
	closed  bool

	// Method values that every statement needs, made once.
	doneFunc  func()
	isNewPhys func(catalog.ID) bool

	cancelMu struct {
		sync.Mutex
		parent context.Context // that derived was made from
		ctx    context.Context
		cancel context.CancelCauseFunc
		busy   bool
	}
}

var _ Session = (*Conn)(nil)

// Reasons for a statement's context to end, as the client is told.
var (
	errUserCancel = sqlstate.Newf(sqlstate.QueryCanceled, "canceling statement due to user request")
	errTimeout    = sqlstate.Newf(sqlstate.QueryCanceled, "canceling statement due to statement timeout")
	errShutdown   = sqlstate.Newf(sqlstate.AdminShutdown, "terminating connection due to administrator command")
)

// begin makes the context of a statement: it ends with ctx and with Cancel, and bears
// a trace of its own. The front end's ctx bounds it by statement_timeout. done must be
// called.
func (c *Conn) begin(ctx context.Context) (out context.Context, done func()) {
	m := &c.cancelMu
	m.Lock()
	if m.ctx == nil || m.parent != ctx || m.ctx.Err() != nil {
		if m.cancel != nil {
			m.cancel(nil)
		}
		m.parent = ctx
		m.ctx, m.cancel = context.WithCancelCause(ctx)
	}
	m.busy = true
	out = m.ctx
	m.Unlock()
	out = tracing.Start(out)
	c.stmtCtx, c.began = out, time.Now()
	return out, c.doneFunc
}

func (c *Conn) done() {
	c.cancelMu.Lock()
	c.cancelMu.busy = false
	c.cancelMu.Unlock()
	if took := time.Since(c.began); took >= slowStatement {
		c.eng.saySlow(c.stmtCtx, c.opts.BackendPID, took)
	}
}

// slowStatement is how long a message's work may take before the log says so, once
// a second at most: where one waits for a lock, many do.
const slowStatement = time.Second

func (e *Engine) saySlow(ctx context.Context, pid int32, took time.Duration) {
	if onceASecond(&e.slowSaid) {
		e.log.InfoContext(ctx, "slow statement", "pid", pid, "took", took)
	}
}

// onceASecond reports whether nobody has been told so in the last second.
func onceASecond(said *atomic.Int64) bool {
	now := time.Now().UnixNano()
	last := said.Load()
	return now-last > int64(time.Second) && said.CompareAndSwap(last, now)
}

// TraceID names the trace of the last statement.
func (c *Conn) TraceID() string {
	if c.stmtCtx == nil {
		return ""
	}
	return tracing.ID(c.stmtCtx)
}

// Cancel interrupts the running statement, if any.
func (c *Conn) Cancel() {
	c.cancelMu.Lock()
	if c.cancelMu.busy {
		c.cancelMu.cancel(errUserCancel)
	}
	c.cancelMu.Unlock()
}

// Close rolls back and frees everything.
func (c *Conn) Close() {
	if c.closed {
		return
	}
	c.closed = true
	c.Cancel()
	c.closePortals()
	c.rollback()
	c.memory.Close()
	c.cancelMu.Lock()
	if c.cancelMu.cancel != nil {
		c.cancelMu.cancel(nil)
	}
	c.cancelMu.Unlock()
	c.stop(nil)
	c.eng.mu.Lock()
	delete(c.eng.mu.sessions, c)
	c.eng.mu.Unlock()
}

// Status is what ReadyForQuery reports.
func (c *Conn) Status() TxnStatus {
	switch {
	case !c.txn.explicit:
		return TxnIdle
	case c.txn.failed:
		return TxnFailed
	}
	return TxnOpen
}

// Fail makes an open transaction block failed.
func (c *Conn) Fail() { c.failTxn() }

// clientError gives every error the form that clients see.
func (c *Conn) clientError(err error) error {
	if err == nil {
		return nil // before the variables below, which errors.As moves to the heap
	}
	var se *sqlstate.Error
	var aborted *tablet.AbortedError
	var locked *tablet.LockUnavailableError
	var unknown *kv.UnknownOutcomeError
	var corrupt *tablet.CorruptError
	var tooOld *tablet.TooOldError
	var nobody *txn.UnavailableError
	switch {
	case errors.As(err, &unknown):
		return &sqlstate.Error{Code: sqlstate.TransactionResolutionUnknown, Cause: err,
			Message: "the outcome of transaction " + unknown.Txn.String() + " is not known",
			Hint:    "The transaction may or may not have committed." + whereToAsk(err)}
	case errors.As(err, &aborted):
		return &sqlstate.Error{Code: sqlstate.SerializationFailure, Cause: err,
			Message: "could not serialize access: " + aborted.Reason.String(),
			Hint:    "The transaction might succeed if retried."}
	case errors.As(err, &locked):
		return &sqlstate.Error{Code: sqlstate.LockNotAvailable, Message: "could not obtain lock on row", Cause: err}
	case errors.As(err, &se):
		return se
	case errors.Is(err, tablet.ErrDiskFull):
		return &sqlstate.Error{Code: sqlstate.DiskFull, Cause: err, Message: "could not write: no space left on device",
			Hint: "Reads go on; writes are accepted again when there is space."}
	case errors.As(err, &tooOld):
		e := errTooOld(tooOld.At, tooOld.LowWater)
		e.Cause = err
		return e
	case errors.As(err, &corrupt):
		return &sqlstate.Error{Code: sqlstate.DataCorrupted, Cause: err, Message: corrupt.Error(),
			Hint: "Nothing is answered from damaged data; rebuild the node from its peers or a backup."}
	case errors.Is(err, tablet.ErrTooLarge):
		return &sqlstate.Error{Code: sqlstate.ProgramLimitExceeded, Cause: err,
			Message: "row is too large: a row, and each of its index entries, may take up to " + itoa(tablet.MaxWrite>>10) + " KiB"}
	case errors.Is(err, txn.ErrTooLarge):
		return &sqlstate.Error{Code: sqlstate.ProgramLimitExceeded, Cause: err, Message: "transaction is too large for this node's memory"}
	case c.eng.ctx.Err() != nil && errors.Is(err, context.Canceled):
		return errShutdown
	case c.eng.clock.Err() != nil:
		return clockError(c.eng.clock.Err())
	case errors.As(err, &nobody): // before what its cause may wrap: a call that took too long
		return unavailableError(nobody, err)
	case errors.Is(err, context.DeadlineExceeded):
		return errTimeout
	case errors.Is(err, context.Canceled):
		return errUserCancel
	}
	return &sqlstate.Error{Code: sqlstate.InternalError, Message: err.Error(), Cause: err}
}

// unavailableError is what a client hears when nobody answers for a tablet: too few of
// its replicas are alive, or this node is cut off from them. libpq tries its next host
// on 57P03.
func unavailableError(nobody *txn.UnavailableError, cause error) *sqlstate.Error {
	e := &sqlstate.Error{Code: sqlstate.CannotConnectNow, Cause: cause,
		Message: "could not reach the leader of tablet " + strconv.FormatUint(uint64(nobody.Group), 10) + " in time",
		Hint:    "A majority of the tablet's replicas must be alive and reachable from this node; reads in the past need one of them only."}
	var node *txn.UnreachableError
	if errors.As(nobody.Cause, &node) {
		e.Detail = "Node " + strconv.FormatUint(uint64(node.Node), 10) + " cannot be reached."
	}
	return e
}

// unresolved reports a commit that may or may not have happened.
func unresolved(err error) bool {
	var unknown *kv.UnknownOutcomeError
	return errors.As(err, &unknown)
}

// retryable reports a conflict that another attempt may not meet.
func retryable(err error) bool {
	var aborted *tablet.AbortedError
	if errors.As(err, &aborted) {
		return true
	}
	return !unresolved(err) && sqlstate.CodeOf(err) == sqlstate.SerializationFailure
}

// context returns an execution context for a statement; release gives it back.
func (c *Conn) execContext(ctx context.Context) *exec.Context {
	x := c.free
	c.free = nil
	if x == nil {
		x = new(exec.Context)
	}
	x.Init(ctx, c)
	x.Account = c.memory
	x.View, x.DB, x.Txn = c.txn.view, c.db, c.locking()
	x.Bulk = &c.txn.bulk
	x.Lock = tablet.LockShared
	if c.txn.kv != nil && c.txn.kv.ReadOnly() {
		x.Lock = tablet.LockNone
	}
	x.Eval.StatementTime = time.Now()
	if c.txn.start.IsZero() {
		c.txn.start = x.Eval.StatementTime
	}
	x.Eval.TransactionTime = c.txn.start
	x.Eval.Location = c.set.format.Location
	return x
}

func (c *Conn) release(x *exec.Context) {
	x.Txn, x.Stats = nil, nil
	c.free = x
}

// User is the session's user.
func (c *Conn) User() string { return c.opts.User }

// Database is the session's database.
func (c *Conn) Database() string { return c.dbName }

// SearchPath lists the schemas that are searched and exist, in order.
func (c *Conn) SearchPath() []string {
	ctx, usable := c.lookupContext()
	var out []string
	for _, n := range c.set.searchPath {
		if _, system := plan.SystemSchemas[n]; !system && usable {
			if s, err := c.txn.view.Schema(ctx, c.db.ID, n); err == nil && s == nil {
				continue
			}
		}
		out = append(out, n)
	}
	return out
}

// BackendPID is the session's number.
func (c *Conn) BackendPID() int32 { return c.opts.BackendPID }

// NextRowID returns a row id that nobody else has.
func (c *Conn) NextRowID() int64 { return c.eng.rowIDs.next() }

// FormatNames resolves reg* values for output.
var _ types.RegNames = (*Conn)(nil)

// format are the settings for conversions from and to text.
func (c *Conn) format() *types.FormatSettings { return &c.set.format }

// now is the transaction's time, which the words now and today mean.
func (c *Conn) now() time.Time {
	if c.txn.start.IsZero() {
		return time.Now()
	}
	return c.txn.start
}
