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

// T1: nothing is read, locked or written on a clock that does not vouch. Its transactions
// would bear the instant at which it failed, and wound everybody who began later.
func TestT1_FailedClockBeginsNothing(t *testing.T) {
	run(t, 4*time.Millisecond, nil, func(t *testing.T, w *world, g *gateway) {
		ctx := context.Background()
		clock := truetime.NewManual(truetime.ManualOptions{Epsilon: 4 * time.Millisecond})
		bad := gatewayOver(clock, dialer{w, 2}, 2, tabletsAt())
		defer bad.Close()
		wrong := errors.New("outvoted")
		clock.Fail(wrong)
		time.Sleep(time.Second)
		tx := g.Begin(ctx, TxnOptions{})
		if _, err := tx.Get(ctx, []keys.Key{k("a")}, tablet.LockExclusive, tablet.WaitBlock); err != nil {
			t.Fatal(err)
		}
		uses := map[string]func(t *Txn) error{
			"Get": func(t *Txn) error {
				lock := tablet.LockShared
				if t.ReadOnly() {
					lock = tablet.LockNone
				}
				_, err := t.Get(ctx, []keys.Key{k("a")}, lock, tablet.WaitBlock)
				return err
			},
			"Scan": func(t *Txn) error {
				it := t.Scan(ctx, ScanRequest{Span: keys.Span{Start: k("a"), End: k("b")}, Lock: tablet.LockShared})
				for it.Next() {
				}
				return it.Err()
			},
			"Put":  func(t *Txn) error { return t.Put(ctx, k("b"), []byte("1")) },
			"Load": func(t *Txn) error { return t.Load(ctx, []tablet.Write{{Key: k("b"), Value: []byte("1")}}) },
			"Commit": func(t *Txn) error {
				_, err := t.Commit(ctx)
				return err
			},
		}
		began := map[string]func() *Txn{
			"Begin":      func() *Txn { return bad.Begin(ctx, TxnOptions{}) },
			"optimistic": func() *Txn { return bad.Begin(ctx, TxnOptions{Optimistic: true}) },
			"ReadOnly":   func() *Txn { return bad.ReadOnly(ctx, 0) },
			"past":       func() *Txn { return bad.ReadOnly(ctx, clock.Now().Earliest.Add(-time.Second)) },
		}
		for begin, f := range began {
			for name, use := range uses {
				tx := f()
				if tx.ReadOnly() && (name == "Put" || name == "Load") {
					continue
				}
				if err := use(tx); !errors.Is(err, wrong) {
					t.Errorf("T1: %s of %s: %v", name, begin, err)
				}
				tx.Rollback(ctx)
			}
		}
		if err := tx.Put(ctx, k("a"), []byte("1")); err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Commit(ctx); err != nil {
			t.Errorf("wounded by a transaction without a clock: %v", err)
		}
		clock.Fail(nil)
		tx = bad.Begin(ctx, TxnOptions{})
		if vs, err := tx.Get(ctx, []keys.Key{k("a")}, tablet.LockShared, tablet.WaitBlock); err != nil || string(vs[0]) != "1" {
			t.Errorf("once the clock vouches again: %q, %v", vs, err)
		}
		tx.Rollback(ctx)
	})
}
