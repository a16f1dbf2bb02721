package xact

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/sql/kv"
	"github.com/spandb/spand/tablet"
)

// FutureError: an id that was never handed out.
type FutureError struct{ ID ID }

func (e *FutureError) Error() string { return "transaction ID " + e.ID.String() + " is in the future" }

// patience bounds how long an inquiry waits for a transaction that has not begun to
// commit: a moment, because one that was just rolled back may be about to let go.
const patience = 100 * time.Millisecond

// Status tells what became of a transaction; one that can commit no more it aborts.
// Committed and Aborted are final. Status waits for a commit that is on its way, at most
// patience for a transaction in whose commit nothing has happened yet, and else
// for the store alone. The error is a *FutureError, the store's, or ctx's.
func (x *Table) Status(ctx context.Context, id ID) (Status, error) {
	if id < 0 || id.timestamp() > x.cfg.Clock.Now().Latest {
		return Unknown, &FutureError{id}
	}
	for {
		// A strong read: whatever anybody has been told before is in it, because it waits
		// for commits at or below its timestamp, prepared ones of which only the
		// coordinator knows the outcome among them (X4).
		row, err := x.read(ctx, id.key())
		if err != nil {
			return Unknown, err
		}
		if row != nil {
			s, _, err := decodeRow(row)
			return s, err
		}
		s, err := x.settle(ctx, id)
		var aborted *tablet.AbortedError
		var unknown *kv.UnknownOutcomeError
		switch {
		case err == nil:
			return s, nil
		case ctx.Err() != nil:
			return Unknown, context.Cause(ctx)
		case !errors.As(err, &aborted) && !errors.As(err, &unknown):
			return Unknown, err
		}
		// Another inquiry was in the way, or a leader has gone. If a row was written
		// all the same, it is read now.
	}
}

// read returns the value of a key as it is now, nil when there is none.
func (x *Table) read(ctx context.Context, k keys.Key) ([]byte, error) {
	t := x.cfg.KV.ReadOnly(ctx, 0)
	defer t.Rollback(ctx)
	vs, err := t.Get(ctx, []keys.Key{k}, tablet.LockNone, tablet.WaitBlock)
	if err != nil {
		return nil, err
	}
	return vs[0], t.AwaitVisible(ctx)
}

// settle finds out about an id that had no row a moment ago, and aborts its transaction
// if that does not hold its lock.
func (x *Table) settle(ctx context.Context, id ID) (Status, error) {
	t, row, err := x.lock(ctx, id)
	if t == nil {
		return InProgress, err
	}
	defer t.Rollback(ctx)
	if row != nil {
		s, _, err := decodeRow(row)
		if err == nil {
			err = t.AwaitVisible(ctx)
		}
		return s, err
	}
	// There is no row, and while the lock is held none comes. Was there one? The mark
	// was raised before it went, so it is read after the row was found missing.
	mark, err := x.mark(ctx)
	if err != nil {
		return Unknown, err
	}
	if id.micros() < max(mark, microsOf(x.cfg.Clock.Now().Earliest.Add(-x.cfg.Keep))) {
		return Unknown, nil
	}
	if err := t.Put(ctx, id.key(), encodeRow(Aborted, x.cfg.Clock.Now().Latest)); err != nil {
		return Unknown, err
	}
	if _, err := t.Commit(ctx); err != nil {
		return Unknown, err
	}
	return Aborted, nil
}

// lock returns a transaction with a shared lock on the row of id, so that inquiries do not
// take each other for the one they ask about, and the row. No transaction and no error:
// another one holds the lock, and has done so for the time of patience.
func (x *Table) lock(ctx context.Context, id ID) (kv.Txn, []byte, error) {
	try := func(get context.Context, wait tablet.WaitPolicy) (kv.Txn, []byte, error) {
		// Younger than whatever it asks about, wherever that began: it wounds nobody.
		t := x.cfg.KV.Begin(ctx, kv.TxnOptions{Age: x.cfg.Clock.Now().Latest.Add(time.Second)})
		vs, err := t.Get(get, []keys.Key{id.key()}, tablet.LockShared, wait)
		if err != nil {
			t.Rollback(ctx)
			return nil, nil, err
		}
		return t, vs[0], nil
	}
	// Without waiting first: an answer says that what takes long then is the lock.
	t, row, err := try(ctx, tablet.WaitNoWait)
	var locked *tablet.LockUnavailableError
	if !errors.As(err, &locked) {
		return t, row, err
	}
	short, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	t, row, err = try(short, tablet.WaitBlock)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return nil, nil, nil
	}
	return t, row, err
}

// The low-water mark: a format version, microseconds since 2000.
const markFormat = 1

func encodeMark(micros int64) []byte {
	return binary.BigEndian.AppendUint64([]byte{markFormat}, uint64(micros))
}

func decodeMark(b []byte) (int64, error) {
	if b == nil {
		return 0, nil
	}
	if len(b) != 9 || b[0] != markFormat {
		return 0, fmt.Errorf("xact: the low-water mark is damaged or of a newer format: %x", b)
	}
	return int64(binary.BigEndian.Uint64(b[1:])), nil
}

// mark reads the low-water mark.
func (x *Table) mark(ctx context.Context) (int64, error) {
	b, err := x.read(ctx, markKey)
	if err != nil {
		return 0, err
	}
	return decodeMark(b)
}
