package sql

import (
	"context"
	"errors"

	"github.com/spandb/spand/internal/tracing"
	"github.com/spandb/spand/sql/kv"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
	"github.com/spandb/spand/sql/xact"
	"github.com/spandb/spand/txn"
)

// xactState is the id of a transaction that asked for it, and whose commit is its
// commit: the transaction itself, or, since one that reads at a timestamp writes
// nothing, a transaction beside it.
type xactState struct {
	id     xact.ID
	beside Txn // nil: the transaction itself
}

// currentXact is pg_current_xact_id(): the id of the open transaction, the same until its
// end, whatever it is rolled back to. It is assigned by the first call, not by the
// first write, and only what has been given one can be asked about. A transaction that
// is read only gets one, too.
//
// The client is told nothing of an attempt that is made again (restart), so the new
// attempt gets an id of its own and the old one's outcome is that of the old attempt.
func (c *Conn) currentXact(ctx context.Context) (types.Datum, error) {
	t := &c.txn
	if t.xact.id != 0 {
		return types.Int(int64(t.xact.id)), nil
	}
	kv := t.kv
	if kv == nil && !t.readOnly {
		if _, err := c.needKV(ctx, withLocks); err != nil {
			return types.Null, err
		}
		kv = t.kv
	}
	var beside Txn
	if kv == nil || kv.ReadOnly() {
		beside = c.eng.kv.Begin(c.ctx, TxnOptions{})
		kv = beside
	}
	id, err := c.eng.xacts.Assign(ctx, c.patient(kv))
	if err != nil {
		if beside != nil {
			beside.Rollback(c.ctx)
		}
		return types.Null, err
	}
	t.xact = xactState{id, beside}
	return types.Int(int64(id)), nil
}

// recordXact makes the outcome of the open transaction, which commits next, known. What
// is beside it commits here: reading at a timestamp cannot fail to commit.
func (c *Conn) recordXact(ctx context.Context) error {
	x := &c.txn.xact
	if x.beside == nil {
		err := c.eng.xacts.Record(ctx, c.txn.kv, x.id)
		if err == txn.ErrUnconfirmed {
			err = kv.ErrUnconfirmed // the row is what was too much for one trip
		}
		return err
	}
	err := c.eng.xacts.Record(ctx, x.beside, x.id)
	if err == nil {
		_, err = x.beside.Commit(tracing.Continue(c.ctx, ctx))
	}
	c.dropXact()
	return err
}

// dropXact forgets the id of a transaction, or an attempt at it, that is over.
func (c *Conn) dropXact() {
	if b := c.txn.xact.beside; b != nil {
		b.Rollback(c.ctx)
	}
	c.txn.xact = xactState{}
}

// askedError is the error of a commit whose client has asked for the transaction's id.
type askedError struct {
	id  xact.ID
	err error
}

func (e *askedError) Error() string { return e.err.Error() }
func (e *askedError) Unwrap() error { return e.err }

func askedFor(id xact.ID, err error) error {
	if id == 0 || err == nil || !unresolved(err) {
		return err
	}
	return &askedError{id, err}
}

// whereToAsk is what a client is told that may find out about an unknown outcome.
func whereToAsk(err error) string {
	var asked *askedError
	if !errors.As(err, &asked) {
		return ""
	}
	return " SELECT pg_xact_status('" + asked.id.String() + "') tells, on any node."
}

// xactStatus is pg_xact_status(id): committed or aborted, which never changes; in
// progress; NULL for an id older than what is kept, an hour (Config.KeepOutcomes). See
// package xact for why it can be relied on. It tells of other transactions as they are
// now, not as of this transaction's snapshot, as PostgreSQL's does. A transaction that
// nobody can commit any more is aborted by the call, but while its gateway may live,
// for some seconds after that has died, it is in progress.
func (c *Conn) xactStatus(ctx context.Context, id xact.ID) (types.Datum, error) {
	if id == c.txn.xact.id && id != 0 {
		return types.Text(xact.InProgress.String()), nil
	}
	s, err := c.eng.xacts.Status(ctx, id)
	var future *xact.FutureError
	switch {
	case errors.As(err, &future):
		return types.Null, &sqlstate.Error{Code: sqlstate.InvalidParameterValue, Message: future.Error(), Cause: err}
	case err != nil:
		return types.Null, err
	case s == xact.Unknown:
		return types.Null, nil
	}
	return types.Text(s.String()), nil
}
