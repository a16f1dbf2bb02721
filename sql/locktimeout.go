package sql

import (
	"context"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/tablet"
)

var errLockTimeout = sqlstate.Newf(sqlstate.LockNotAvailable, "canceling statement due to lock timeout")

// locking returns the store's transaction as statements use it: under lock_timeout
// none of its waits takes longer.
func (c *Conn) locking() Txn { return c.patient(c.txn.kv) }

// patient puts t, which may be nil, under lock_timeout.
func (c *Conn) patient(t Txn) Txn {
	if c.set.lockMS == 0 || t == nil || t.ReadOnly() {
		return t
	}
	return patientTxn{t, time.Duration(c.set.lockMS) * time.Millisecond}
}

// patientTxn bounds each wait for locks. A request to a tablet waits for nothing else
// as long as its leader answers, so the time of the request is what is measured.
type patientTxn struct {
	Txn
	patience time.Duration
}

func (t patientTxn) Get(ctx context.Context, ks []keys.Key, lock tablet.LockStrength, wait tablet.WaitPolicy) ([][]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, t.patience, errLockTimeout)
	defer cancel()
	vs, err := t.Txn.Get(ctx, ks, lock, wait)
	return vs, lockTimedOut(ctx, err)
}

func (t patientTxn) Scan(ctx context.Context, req ScanRequest) RowIter {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(t.patience, func() { cancel(errLockTimeout) })
	timer.Stop()
	return &patientIter{RowIter: t.Txn.Scan(ctx, req), patience: t.patience, ctx: ctx, cancel: cancel, timer: timer}
}

// patientIter bounds each step of a scan, not the scan: the time that its reader
// takes between two steps is not the store's.
type patientIter struct {
	RowIter
	patience time.Duration
	ctx      context.Context
	cancel   context.CancelCauseFunc
	timer    *time.Timer
}

func (it *patientIter) Next() bool {
	it.timer.Reset(it.patience)
	ok := it.RowIter.Next()
	it.timer.Stop()
	return ok
}

func (it *patientIter) Err() error { return lockTimedOut(it.ctx, it.RowIter.Err()) }

func (it *patientIter) Close() {
	it.RowIter.Close()
	it.timer.Stop()
	it.cancel(nil)
}

// lockTimedOut turns what the end of patience made fail into the client's error. A
// conflict that came first counts as what it is.
func lockTimedOut(ctx context.Context, err error) error {
	if err != nil && context.Cause(ctx) == errLockTimeout && !retryable(err) {
		return errLockTimeout
	}
	return err
}
