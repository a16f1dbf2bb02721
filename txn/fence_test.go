package txn

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/tablet"
	"github.com/spandb/spand/truetime"
)

// fencedPaths are the ways in which a transaction comes to a commit timestamp. Rows a, b, y
// exist with value 1; key "done" tells whether it committed, but where nothing is written.
var fencedPaths = []struct {
	name  string
	opts  TxnOptions
	node  keys.NodeID
	reads bool // writes nothing
	f     func(context.Context, *Txn) error
}{
	{name: "one phase, leader elsewhere", node: 1, f: puts("done")},
	{name: "one phase, leader here", node: 2, f: puts("done")},
	{name: "one phase, rows locked", node: 1, f: both(locks("a", "b"), puts("done"))},
	{name: "two phases", node: 1, f: both(locks("a", "y"), puts("done", "z"))},
	{name: "two phases, one tablet read only", node: 1, f: both(locks("y"), puts("done"))},
	{name: "one trip", opts: optimistic, node: 1, f: both(add(nil, "a"), puts("done"))},
	{name: "one trip, wrong guess", opts: optimistic, node: 1, f: both(wrongGuess, puts("done"))},
	{name: "staged, one tablet", node: 1, f: both(many("c"), puts("done"))},
	{name: "staged, two tablets", node: 1, f: both(many("c"), many("z"), puts("done"))},
	{name: "nothing written", node: 1, reads: true, f: locks("a", "y")},
	{name: "nothing written, one tablet", node: 1, reads: true, f: locks("a")},
}

func both(fs ...func(context.Context, *Txn) error) func(context.Context, *Txn) error {
	return func(ctx context.Context, tx *Txn) error {
		for _, f := range fs {
			if err := f(ctx, tx); err != nil {
				return err
			}
		}
		return nil
	}
}

func puts(ks ...string) func(context.Context, *Txn) error {
	return func(ctx context.Context, tx *Txn) error {
		for _, key := range ks {
			if err := tx.Put(ctx, k(key), []byte("new")); err != nil {
				return err
			}
		}
		return nil
	}
}

func locks(ks ...string) func(context.Context, *Txn) error {
	return func(ctx context.Context, tx *Txn) error {
		for _, key := range ks {
			if _, err := tx.Get(ctx, []keys.Key{k(key)}, tablet.LockShared, tablet.WaitBlock); err != nil {
				return err
			}
		}
		return nil
	}
}

func many(prefix string) func(context.Context, *Txn) error {
	return func(ctx context.Context, tx *Txn) error {
		for i := range 100 {
			if err := tx.Put(ctx, k(prefix+row(i)), []byte("many")); err != nil {
				return err
			}
		}
		return nil
	}
}

// wrongGuess reads what somebody else changes before the commit confirms it.
func wrongGuess(ctx context.Context, tx *Txn) error {
	_, err := tx.Get(ctx, []keys.Key{k("b")}, tablet.LockExclusive, tablet.WaitBlock)
	if err != nil || len(tx.expect) == 0 {
		return err // the second attempt, with the lock
	}
	other := tx.c.Begin(ctx, TxnOptions{})
	if err := other.Put(ctx, k("b"), []byte(time.Now().String())); err != nil {
		return err
	}
	_, err = other.Commit(ctx)
	return err
}

// Every commit timestamp obeys the bound that was asked for last (L2): asked after
// everything else was done, and a commit that comes too late for it is refused.
func TestL2_EveryPathHonoursTheBoundAskedLast(t *testing.T) {
	for _, p := range fencedPaths {
		t.Run(p.name, func(t *testing.T) {
			runReal(t, 1, time.Millisecond, []string{"m"}, func(t *testing.T, w *realWorld) {
				g := w.nodes[p.node].g
				g.set(t, "a", "1", "b", "1", "y", "1")
				w.nodes[2].g.set(t, "other", "")
				w.nodes[3].g.set(t, "z-other", "") // the leaders know that they lead
				before := len(scan(t, g.ReadOnly(context.Background(), 0), ScanRequest{Span: all}))
				// try commits with bounds of a fence and tells how often it asked.
				try := func(ask func() (truetime.Timestamp, error)) (ts truetime.Timestamp, asked int, err error) {
					ctx := context.Background()
					tx := g.Begin(ctx, p.opts)
					defer tx.Rollback(ctx)
					tx.AskBound(func() (truetime.Timestamp, error) {
						asked++
						return ask()
					})
					for {
						if err = p.f(ctx, tx); err == nil {
							ts, err = tx.Commit(ctx)
						}
						if err == nil || !tx.Insist() {
							return ts, asked, err
						}
					}
				}
				unchanged := func(what string) {
					t.Helper()
					time.Sleep(10 * time.Second) // virtual: whatever was left behind is resolved
					if n := len(scan(t, g.ReadOnly(context.Background(), 0), ScanRequest{Span: all})); n != before {
						t.Errorf("%s: %d rows came of it", what, n-before)
					}
				}

				// The lock is held for another moment, in which the gateway is paused.
				_, asked, err := try(func() (truetime.Timestamp, error) {
					until := w.clock.Now().Latest.Add(250 * time.Millisecond)
					time.Sleep(time.Second)
					return until, nil
				})
				var aborted *tablet.AbortedError
				if !errors.As(err, &aborted) || aborted.Reason != tablet.AbortTooLate {
					t.Errorf("paused beyond the bound: %v", err)
				}
				if asked == 0 {
					t.Error("nobody asked for a bound")
				}
				unchanged("paused beyond the bound")

				stale := errors.New("stale")
				if _, _, err := try(func() (truetime.Timestamp, error) { return 0, stale }); err != stale {
					t.Errorf("no bound to be had: %v", err)
				}
				unchanged("no bound to be had")

				// What takes long comes before the question: staging, and here a lock.
				var until truetime.Timestamp
				ts, asked, err := try(func() (truetime.Timestamp, error) {
					until = w.clock.Now().Latest.Add(250 * time.Millisecond)
					return until, nil
				})
				check(t, err)
				if ts > until {
					t.Errorf("committed at %v, beyond the bound %v", ts, until)
				}
				if want := map[bool]int{true: 2, false: 1}[p.name == "one trip, wrong guess"]; asked != want {
					t.Errorf("asked %d times, not %d", asked, want)
				}
				if !p.reads {
					eq(t, g.value(t, "done"), "new")
				}
				time.Sleep(10 * time.Second)
				w.expectIdle(t)
			}, func(c *Config) { c.StageAfter, c.ChunkBytes, c.InlineBytes = 1000, 200, 100 })
		})
	}
}

// A later answer replaces an earlier one: each holds by itself. BoundCommit's stays.
func TestL2_TheNewestAnswerCounts(t *testing.T) {
	tx := new(Txn)
	answers := []truetime.Timestamp{10, 30}
	tx.AskBound(func() (truetime.Timestamp, error) {
		a := answers[0]
		answers = answers[1:]
		return a, nil
	})
	check(t, tx.lastBound())
	eq(t, tx.maxTS(), truetime.Timestamp(10))
	tx.BoundCommit(20)
	eq(t, tx.maxTS(), truetime.Timestamp(10))
	check(t, tx.lastBound())
	eq(t, tx.maxTS(), truetime.Timestamp(20))
}
