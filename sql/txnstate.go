package sql

import (
	"context"
	"errors"
	"maps"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/tracing"
	"github.com/spandb/spand/sql/catalog"
	"github.com/spandb/spand/sql/exec"
	"github.com/spandb/spand/sql/kv"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/tablet"
	"github.com/spandb/spand/truetime"
)

// txnState is the session's transaction.
type txnState struct {
	open     bool // a transaction is open: explicit or implicit
	explicit bool // a block: BEGIN … COMMIT
	failed   bool // only its end is accepted
	readOnly bool
	wrote    bool // a statement changed data
	past     bool // kv reads in the past, and the view is pinned to its schema
	ran      bool // a statement has run in it that may have seen data: it cannot be started anew unseen
	kv       Txn  // nil until the first statement that needs the store
	view     *catalog.View
	asOf     truetime.Timestamp // of BEGIN READ ONLY AS OF TIMESTAMP, else 0
	start    time.Time          // of the first statement: now()
	bulk     exec.Bulk
	marks    []savepoint
	fence    fence     // what its writes stand under, beside the setting's value at commit (L2)
	xact     xactState // zero: nobody has asked for its id

	settings map[string]string  // as they were before the first SET, for rollback
	locals   map[string]*string // what SET LOCAL changed: old values
}

type savepoint struct {
	name string
	mark int // of the store's transaction; -1: it had not begun
	view any

	fence  fence
	vals   map[string]string // the session's settings then
	locals map[string]*string
}

// open starts a transaction; the store's begins with the first statement that needs it.
func (c *Conn) openTxn(explicit bool) {
	t := &c.txn
	t.open, t.explicit = true, t.explicit || explicit
	t.readOnly = c.set.vals["default_transaction_read_only"] == "on" || c.set.defaults["default_transaction_read_only"] == "on"
	t.view.Reset()
	t.bulk = exec.Bulk{IsNew: c.isNewPhys}
}

// access is how a statement goes about its transaction.
type access uint8

const (
	withLocks  access = iota
	optimistic        // guesses first, unless it follows a conflict; run again by dispatch
	readOnly          // at a timestamp, without locks
)

// needKV begins the store's transaction. For readOnly the view must have begun, and
// begins anew when its lease does not cover the timestamp: then changed reports that
// plans must be looked up again.
func (c *Conn) needKV(ctx context.Context, how access) (changed bool, err error) {
	t := &c.txn
	if t.kv != nil {
		return false, nil
	}
	if how != readOnly {
		if c.inherit != 0 && c.eng.clock.Now().Latest.Sub(c.inherit) > maxInherit {
			c.inherit, c.refusedAt = 0, nil
		}
		t.kv = c.eng.kv.Begin(c.ctx, TxnOptions{Age: c.inherit, Optimistic: how == optimistic && c.inherit == 0})
		// The store remembers what writes replace only from its first savepoint on.
		for i := range t.marks {
			if t.marks[i].mark < 0 {
				t.marks[i].mark = t.kv.Savepoint()
			}
		}
		if at := c.refusedAt; at != nil {
			// The last attempt was refused there in its commit, where nobody waits for
			// an older transaction; here it may (X2).
			c.refusedAt = nil
			if _, err := c.locking().Get(ctx, []keys.Key{at}, tablet.LockExclusive, tablet.WaitBlock); err != nil {
				return false, err
			}
		}
		return false, nil
	}
	ro := c.eng.kv.ReadOnly(c.ctx, 0)
	if t.view.Pin(ro.ReadTimestamp()) {
		t.kv, c.lastRead = ro, ro.ReadTimestamp()
		return false, nil
	}
	ro.Rollback(c.ctx)
	version := t.view.Version()
	for {
		if err := t.view.Begin(ctx); err != nil {
			return false, err
		}
		ro := c.eng.kv.ReadOnly(c.ctx, 0)
		if t.view.Pin(ro.ReadTimestamp()) {
			t.kv, c.lastRead = ro, ro.ReadTimestamp()
			return t.view.Version() != version, nil
		}
		ro.Rollback(c.ctx)
	}
}

// commit ends the transaction. Whatever the result, none is open afterwards, except
// after kv.ErrUnconfirmed. The commit itself is not interrupted by a cancelled
// statement: its outcome counts.
func (c *Conn) commit(ctx context.Context) error {
	t := &c.txn
	asked := t.xact.id
	var err error
	if asked != 0 {
		err = c.recordXact(ctx)
	}
	if t.kv == nil {
		t.view.Abandon()
		c.endTxn(err == nil)
		return askedFor(asked, err)
	}
	faulty := c.faults != nil && !t.kv.ReadOnly()
	if faulty {
		if err := c.faults.Commit(false); err != nil {
			c.noteAbort(err)
			c.rollback()
			return err
		}
	}
	if err == nil {
		err = c.commitKV(ctx)
	}
	if err == kv.ErrUnconfirmed {
		return err
	}
	if err != nil {
		c.noteAbort(err)
		t.kv.Rollback(c.ctx)
		if sqlstate.CodeOf(c.clientError(err)) != sqlstate.TransactionResolutionUnknown {
			t.view.Abandon()
		}
	} else {
		t.view.Committed()
		if !t.kv.ReadOnly() {
			c.inherit = 0
		}
	}
	c.endTxn(err == nil)
	if faulty && err == nil {
		return c.faults.Commit(true)
	}
	return askedFor(asked, err)
}

func (c *Conn) commitKV(ctx context.Context) error {
	t := &c.txn
	if t.kv.ReadOnly() {
		_, err := t.kv.Commit(c.ctx)
		return err
	}
	fenced := c.enterFence(ctx)
	if t.view.Changed() {
		if fenced != nil {
			// Asked once more than L2 needs: no schema lease is to be had from anybody while
			// CommitChanges' lock is held, which is no time to find out that a cell is away.
			if _, err := fenced.ask(); err != nil {
				return err
			}
		}
		err := t.view.CommitChanges(ctx, c.locking())
		if err == nil {
			var ts truetime.Timestamp
			ts, err = t.kv.Commit(tracing.Continue(c.ctx, ctx))
			err = c.committed(ctx, ts, err)
		}
		fenced.leave(err)
		return err
	}
	lease, err := t.view.EnterCommit(ctx, c.locking())
	if err != nil {
		return err
	}
	ts, err := t.kv.Commit(tracing.Continue(c.ctx, ctx))
	err = c.committed(ctx, ts, err)
	fenced.leave(err)
	if lease != nil {
		c.eng.catalog.LeaveCommit(lease, err != nil && unresolved(err))
	}
	return err
}

// rollback ends the transaction without effect.
func (c *Conn) rollback() {
	t := &c.txn
	if !t.open {
		return
	}
	if t.kv != nil {
		t.kv.Rollback(c.ctx)
	}
	c.dropXact()
	t.view.Abandon()
	c.endTxn(false)
}

// maxInherit bounds how old an inherited age may be: below every horizon at which
// commit requests are refused for their age (X5).
const maxInherit = time.Minute

// noteAbort remembers the age of a transaction that lost a conflict, so that the
// connection's next one does not starve (X2).
func (c *Conn) noteAbort(err error) {
	if t := c.txn.kv; t != nil && !t.ReadOnly() && retryable(err) {
		c.inherit = t.ID().Age
		var aborted *tablet.AbortedError
		if errors.As(err, &aborted) {
			switch aborted.Reason {
			case tablet.AbortHorizon:
				c.inherit = 0
			case tablet.AbortRefused:
				c.refusedAt = aborted.Key
			}
		}
	}
}

func (c *Conn) endTxn(committed bool) {
	t := &c.txn
	c.closePortals()
	if t.settings != nil && !committed {
		c.restoreSettings(t.settings)
	} else if len(t.locals) > 0 {
		vals := c.set.vals
		for k, old := range t.locals {
			if old == nil {
				delete(vals, k)
			} else {
				vals[k] = *old
			}
		}
		c.restoreSettings(vals)
	}
	view := t.view
	view.Reset()
	marks := t.marks[:0]
	*t = txnState{view: view, marks: marks}
}

// restoreSettings installs a set of values and reports what clients track.
func (c *Conn) restoreSettings(vals map[string]string) {
	old := c.set.vals
	c.set.vals = vals
	c.settingsChanged()
	for k, d := range settingDefs {
		if d.report && old[k] != vals[k] {
			c.reported = append(c.reported, d)
		}
	}
}

// failTxn notes an error: a block waits for its end, an implicit transaction is over.
// Locks are released at once: nothing of it can commit any more.
func (c *Conn) failTxn() {
	t := &c.txn
	if !t.open {
		return
	}
	if !t.explicit {
		c.rollback()
		return
	}
	if t.failed {
		return
	}
	t.failed = true
	c.closeSQLCursors()
	if len(t.marks) == 0 {
		if t.kv != nil {
			t.kv.Rollback(c.ctx)
		}
		c.dropXact()
	}
}

var errInFailed = sqlstate.Newf(sqlstate.InFailedTransaction, "current transaction is aborted, commands ignored until end of transaction block")

// savepoint starts a subtransaction.
func (c *Conn) savepoint(name string) {
	t := &c.txn
	sp := savepoint{
		name: name, mark: -1, view: t.view.Mark(), fence: t.fence,
		vals: maps.Clone(c.set.vals), locals: maps.Clone(t.locals),
	}
	if t.kv != nil && !t.kv.ReadOnly() {
		sp.mark = t.kv.Savepoint()
	}
	t.marks = append(t.marks, sp)
	t.bulk.NoLoad = true
}

func (c *Conn) findSavepoint(name string) (int, error) {
	for i := len(c.txn.marks) - 1; i >= 0; i-- {
		if c.txn.marks[i].name == name {
			return i, nil
		}
	}
	return 0, sqlstate.Newf("3B001", "savepoint %q does not exist", name)
}

// rollbackTo drops what came after a savepoint, which stays.
func (c *Conn) rollbackTo(name string) error {
	t := &c.txn
	i, err := c.findSavepoint(name)
	if err != nil {
		return err
	}
	sp := t.marks[i]
	t.marks = t.marks[:i+1]
	c.closeSQLCursors()
	if t.kv != nil && !t.kv.ReadOnly() {
		if err := t.kv.RollbackTo(sp.mark); err != nil {
			return err
		}
	}
	t.view.Restore(sp.view)
	if !maps.Equal(c.set.vals, sp.vals) {
		c.restoreSettings(maps.Clone(sp.vals))
	}
	t.locals = maps.Clone(sp.locals)
	t.fence = sp.fence
	t.failed = false
	return nil
}

// release forgets a savepoint and those after it.
func (c *Conn) releaseSavepoint(name string) error {
	i, err := c.findSavepoint(name)
	if err != nil {
		return err
	}
	c.txn.marks = c.txn.marks[:i]
	c.txn.bulk.NoLoad = i > 0
	return nil
}
