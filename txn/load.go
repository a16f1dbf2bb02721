package txn

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/tablet"
	"github.com/spandb/spand/truetime"
)

// Load writes rows at once, outside the transaction: in batches of
// Config.ChunkBytes, each committed on its own in one phase, several at a time.
// Only for keys that no committed catalog names yet: nobody else reads or writes
// them, so no locks are taken, and the transaction's own are not in the way. A batch is
// written again after an abort; one whose answer was lost is aborted first, lest a late
// copy undo what users write afterwards (X5).
// Durable when it returns. Of several rows with one key the last one counts.
// The transaction's own commit timestamp will lie above the rows'. Several
// goroutines may call Load of one transaction, beside nothing else.
func (t *Txn) Load(ctx context.Context, rows []tablet.Write) error {
	if t.ro {
		return ErrReadOnly
	}
	if t.finished {
		return ErrFinished
	}
	if t.failed != nil {
		return t.failed
	}
	if len(rows) == 0 {
		return nil
	}
	ts, err := t.c.load(ctx, rows)
	if err != nil {
		return err
	}
	t.mu.Lock()
	t.loaded = max(t.loaded, ts)
	t.mu.Unlock()
	return nil
}

// load returns the highest commit timestamp of the batches.
func (c *Client) load(ctx context.Context, rows []tablet.Write) (truetime.Timestamp, error) {
	rows = sortedUnique(rows)
	lctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex // guards high
		high truetime.Timestamp
	)
	for len(rows) > 0 && lctx.Err() == nil {
		n := chunkLen(rows, c.cfg.ChunkBytes)
		batch := rows[:n:n]
		rows = rows[n:]
		run := func() {
			ts, err := c.loadBatch(lctx, batch)
			if err != nil {
				cancel(err)
				return
			}
			mu.Lock()
			high = max(high, ts)
			mu.Unlock()
		}
		select {
		case c.loadWindow <- struct{}{}:
		case <-lctx.Done():
			continue
		}
		if len(rows) == 0 { // the last batch needs no goroutine
			run()
			<-c.loadWindow
			break
		}
		wg.Go(func() {
			defer func() { <-c.loadWindow }()
			run()
		})
	}
	wg.Wait()
	if err := context.Cause(lctx); err != nil {
		return 0, err
	}
	return high, nil
}

// sortedUnique returns rows in key order, the last one of each key; rows itself
// when they are so already, which bulk loads usually are.
func sortedUnique(rows []tablet.Write) []tablet.Write {
	sorted := true
	for i := 1; i < len(rows); i++ {
		if bytes.Compare(rows[i-1].Key, rows[i].Key) >= 0 {
			sorted = false
			break
		}
	}
	if sorted {
		return rows
	}
	rows = slices.Clone(rows)
	slices.SortStableFunc(rows, func(a, b tablet.Write) int { return bytes.Compare(a.Key, b.Key) })
	out := rows[:0]
	for i := range rows {
		if i+1 < len(rows) && bytes.Equal(rows[i].Key, rows[i+1].Key) {
			continue
		}
		out = append(out, rows[i])
	}
	return out
}

// loadBatch writes one batch, by tablets one after the other.
func (c *Client) loadBatch(ctx context.Context, ws []tablet.Write) (high truetime.Timestamp, err error) {
	var back backoff
	for len(ws) > 0 {
		desc, err := c.cfg.Router.Lookup(ctx, ws[0].Key)
		if err != nil {
			return 0, err
		}
		here := writesBefore(ws, desc.Span.End)
		if len(here) == 0 {
			return 0, errors.New("txn: the map answers a key with another tablet's span")
		}
		ts, err := c.loadCommit(ctx, &desc, here)
		var (
			re      *tablet.RangeError
			aborted *tablet.AbortedError
		)
		switch {
		case err == nil:
			high = max(high, ts)
			ws = ws[len(here):]
		case errors.As(err, &re):
			if err := c.learnRange(ctx, here[0].Key, &desc, re, &back); err != nil {
				return 0, err
			}
		case errors.As(err, &aborted):
			// A new transaction writes the same once more.
			if werr := back.wait(ctx); werr != nil {
				return 0, errors.Join(werr, err)
			}
		default:
			return 0, err
		}
	}
	return high, nil
}

func (c *Client) loadCommit(ctx context.Context, desc *keys.Descriptor, ws []tablet.Write) (truetime.Timestamp, error) {
	var t Txn
	c.begin(&t, 0)
	defer c.end(&t)
	req := &tablet.CommitRequest{
		Target: tablet.Target{Group: desc.Group, Generation: desc.Generation},
		Txn:    t.ref(0), Writes: ws, Private: true, Finished: c.ended(),
	}
	var resp *tablet.CommitResponse
	err := c.do(ctx, desc, false, func(ctx context.Context, p Participant) (err error) {
		resp, err = p.Commit(ctx, req)
		return err
	})
	var unknown *unknownError
	var ts truetime.Timestamp
	if errors.As(err, &unknown) {
		ts, err = t.learn(ctx, ws[0].Key, unknown)
	} else if err == nil {
		ts = resp.TS
	}
	if err != nil {
		return 0, err
	}
	n := 0
	for i := range ws {
		n += len(ws[i].Key) + len(ws[i].Value)
	}
	c.stats.Loaded.Add(uint64(n))
	return ts, nil
}
