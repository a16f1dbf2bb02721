package xact

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/sql/kv"
	"github.com/spandb/spand/tablet"
	"github.com/spandb/spand/truetime"
)

// cleanBatch bounds how many rows one transaction of the cleaner deletes.
const cleanBatch = 1000

// Start begins to clean up.
func (x *Table) Start() { x.wg.Go(x.cleanLoop) }

// Close ends the cleaner and waits for it.
func (x *Table) Close() {
	x.cancel()
	x.wg.Wait()
}

// cleanLoop deletes this node's rows as they fall due, going on where it has left off,
// because what was deleted stays in a scan's way as long as old versions are kept. Once
// per Keep it looks from the beginning, and at all nodes' rows: for those of nodes that
// are gone, and of transactions that were long under way, behind whose place it was.
func (x *Table) cleanLoop() {
	tick := time.NewTicker(x.cfg.CleanEvery)
	defer tick.Stop()
	node := int64(x.cfg.Node)
	from := int64(0) // this node's rows below are gone, or are a round's of all
	all := time.Now()
	for {
		select {
		case <-x.ctx.Done():
			return
		case <-tick.C:
		}
		due := x.due()
		var err error
		if time.Since(all) >= x.cfg.Keep {
			all = time.Now()
			err = x.clean(x.ctx, due)
		} else {
			err = x.cleanRange(x.ctx, rowKey(node, from), rowKey(node, due), due)
		}
		switch {
		case err == nil:
			from = due
		case x.ctx.Err() == nil:
			x.cfg.Logger.Warn("dropping old outcomes of transactions failed; it will be tried again", "error", err)
		}
	}
}

// due is the time, in microseconds since 2000, before which rows must have been written
// to go now.
func (x *Table) due() int64 { return microsOf(x.cfg.Clock.Now().Earliest.Add(-x.cfg.Keep)) }

// Clean deletes every row that is due, of all nodes.
func (x *Table) Clean(ctx context.Context) error { return x.clean(ctx, x.due()) }

func (x *Table) clean(ctx context.Context, due int64) error {
	for node := int64(0); node <= MaxNode; node++ {
		// The next node that has rows.
		t := x.cfg.KV.ReadOnly(ctx, 0)
		it := t.Scan(ctx, kv.ScanRequest{Span: keys.Span{Start: rowKey(node, 0), End: markKey}, Limit: 1})
		found := it.Next()
		var id ID
		if found {
			id, _ = idOf(it.Key())
		}
		err := it.Err()
		it.Close()
		t.Rollback(ctx)
		if err != nil || !found {
			return err
		}
		node = id.node()
		if err := x.cleanRange(ctx, id.key(), rowKey(node, due), due); err != nil {
			return err
		}
	}
	return nil
}

// cleanRange deletes the rows of [start, end) that were written before due. A row is
// written after its id's time, so none beyond due is due.
func (x *Table) cleanRange(ctx context.Context, start, end keys.Key, due int64) error {
	span := keys.Span{Start: start, End: end}
	raised := false
	for {
		old, rest, err := x.old(ctx, span, due)
		if err != nil {
			return err
		}
		if len(old) > 0 && !raised {
			if err := x.raiseMark(ctx, due); err != nil {
				return err
			}
			raised = true
		}
		if len(old) > 0 {
			// Without looking at them again: a row does not change, and nobody holds a
			// lock for long where there is one.
			err := x.run(ctx, func(t kv.Txn) error {
				for _, k := range old {
					if err := t.Delete(ctx, k); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		if rest.Start == nil {
			return nil
		}
		span = rest
	}
}

// old returns up to cleanBatch keys of span whose rows were written before due, and what
// of span is left to look at.
func (x *Table) old(ctx context.Context, span keys.Span, due int64) (old []keys.Key, rest keys.Span, err error) {
	t := x.cfg.KV.ReadOnly(ctx, 0)
	defer t.Rollback(ctx)
	it := t.Scan(ctx, kv.ScanRequest{Span: span, Limit: cleanBatch + 1})
	defer it.Close()
	for it.Next() {
		if len(old) == cleanBatch {
			return old, keys.Span{Start: bytes.Clone(it.Key()), End: span.End}, nil
		}
		_, at, err := decodeRow(it.Value())
		if err != nil {
			return nil, rest, err
		}
		if microsOf(at) < due {
			old = append(old, bytes.Clone(it.Key()))
		}
	}
	return old, rest, it.Err()
}

// raiseMark makes inquiries answer that they do not know what was written before due.
func (x *Table) raiseMark(ctx context.Context, due int64) error {
	return x.run(ctx, func(t kv.Txn) error {
		vs, err := t.Get(ctx, []keys.Key{markKey}, tablet.LockExclusive, tablet.WaitBlock)
		if err != nil {
			return err
		}
		mark, err := decodeMark(vs[0])
		if err != nil || mark >= due {
			return err
		}
		return t.Put(ctx, markKey, encodeMark(due))
	})
}

// run runs f in a transaction of its own until it commits or fails otherwise than by a
// conflict.
func (x *Table) run(ctx context.Context, f func(kv.Txn) error) error {
	var age truetime.Timestamp
	for {
		t := x.cfg.KV.Begin(ctx, kv.TxnOptions{Age: age})
		age = t.ID().Age
		err := f(t)
		if err == nil {
			_, err = t.Commit(ctx)
		}
		t.Rollback(ctx)
		var aborted *tablet.AbortedError
		if !errors.As(err, &aborted) {
			return err
		}
		if aborted.Reason == tablet.AbortHorizon {
			age = 0
		}
	}
}
