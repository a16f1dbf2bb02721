package xact

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/sql/kv"
	"github.com/spandb/spand/sql/kvmem"
	"github.com/spandb/spand/tablet"
	"github.com/spandb/spand/truetime"
)

const epsilon = 2 * time.Millisecond

// world is a store and the tables of some nodes, whose clocks differ within epsilon.
type world struct {
	store *kvmem.Store
	nodes []*Table
}

func newWorld(n int, keep time.Duration) *world {
	w := &world{store: kvmem.New(truetime.NewManual(truetime.ManualOptions{Epsilon: epsilon}))}
	for i := range n {
		clock := truetime.NewManual(truetime.ManualOptions{Epsilon: epsilon, Offset: time.Duration(i%3-1) * epsilon})
		w.nodes = append(w.nodes, New(Config{KV: w.store, Clock: clock, Node: keys.NodeID(i + 1), Logger: slog.New(slog.DiscardHandler), Keep: keep}))
	}
	return w
}

func (w *world) begin(t *testing.T, x *Table) (kv.Txn, ID) {
	t.Helper()
	txn := w.store.Begin(t.Context(), kv.TxnOptions{})
	id, err := x.Assign(t.Context(), txn)
	if err != nil {
		t.Fatal(err)
	}
	return txn, id
}

func (w *world) commit(t *testing.T, x *Table, txn kv.Txn, id ID) error {
	t.Helper()
	if err := x.Record(t.Context(), txn, id); err != nil {
		t.Fatal(err)
	}
	_, err := txn.Commit(t.Context())
	txn.Rollback(t.Context())
	return err
}

func (w *world) expect(t *testing.T, id ID, want Status) {
	t.Helper()
	for i, x := range w.nodes {
		if s, err := x.Status(t.Context(), id); s != want || err != nil {
			t.Fatalf("node %d: %v is %v, %v; want %v", i+1, id, s, err, want)
		}
	}
}

// TestIDs: ids of a node grow, name it, have passed when they are shown, and are found
// again from their rows' keys.
func TestIDs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(3, 0)
		for i, x := range w.nodes {
			last := ID(0)
			for range 1000 {
				id, err := x.ids.next(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if id <= last || id.node() != int64(i+1) || !truetime.After(x.cfg.Clock, id.timestamp()) {
					t.Fatalf("%v after %v, of node %d at %v", id, last, id.node(), id.timestamp())
				}
				if back, ok := idOf(id.key()); !ok || back != id {
					t.Fatalf("%v has the key of %v", id, back)
				}
				last = id
			}
			if early := time.Since(last.timestamp().Time()); early > time.Second || early < -epsilon {
				t.Fatalf("the time of an id is %v ago", early)
			}
		}
		if _, ok := idOf(markKey); ok {
			t.Fatal("the mark's key is an id's")
		}
	})
}

func TestNeverHandedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(1, 0)
		x := w.nodes[0]
		late := ID((microsOf(x.cfg.Clock.Now().Latest)+1000)<<nodeBits | 1)
		var future *FutureError
		if s, err := x.Status(t.Context(), late); !errors.As(err, &future) || err.Error() != "transaction ID "+late.String()+" is in the future" {
			t.Fatal(s, err)
		}
		time.Sleep(2 * time.Hour) // this bubble's time begins with the ids'
		w.expect(t, 0, Unknown)
		w.expect(t, 77, Unknown)
	})
}

// TestX5_GuessedID: an id that somebody was told to be aborted before it was handed out
// is not handed out.
func TestX5_GuessedID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(1, 0)
		x := w.nodes[0]
		time.Sleep(time.Second)
		now := microsOf(x.cfg.Clock.Now().Latest)
		for us := now - 3; us <= now; us++ {
			w.expect(t, ID(us<<nodeBits|1), Aborted)
		}
		x.ids.last.Store(now - 4)
		x.ids.clock = slow{x.cfg.Clock, truetime.Timestamp((now - 10 + epoch) * 1000)}
		txn, id := w.begin(t, x)
		if us := id.micros(); us <= now {
			t.Fatalf("id %v was said to be aborted and is handed out", id)
		}
		if err := w.commit(t, x, txn, id); err != nil {
			t.Fatal(err)
		}
		w.expect(t, id, Committed)
		w.expect(t, ID(now<<nodeBits|1), Aborted)
	})
}

// slow is a clock whose Earliest stays behind.
type slow struct {
	truetime.Clock
	earliest truetime.Timestamp
}

func (c slow) Now() truetime.Interval {
	return truetime.Interval{Earliest: c.earliest, Latest: c.Clock.Now().Latest}
}

// TestX5_OutcomesAreFinal: transactions commit, give up, or lose their locks while nodes
// ask about them all the time. Nobody is ever told two outcomes, nor another one than
// what happened, nor that a transaction is in progress after anybody was told better.
func TestX5_OutcomesAreFinal(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { askAndAnswer(t, seed) })
		})
	}
}

func askAndAnswer(t *testing.T, seed uint64) {
	w := newWorld(4, 0)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var mu sync.Mutex
	var shown []ID
	told := map[ID]Status{}    // what some client knows for sure
	present := map[ID]Status{} // what its owner has made of it
	know := func(id ID, s Status, by string) {
		mu.Lock()
		defer mu.Unlock()
		if old, ok := told[id]; ok && old != s {
			t.Errorf("%v is %v to %s and was %v", id, s, by, old)
		}
		told[id] = s
	}
	var owners, askers sync.WaitGroup
	for i, x := range w.nodes {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		owners.Go(func() {
			for range 100 {
				older := w.store.Begin(ctx, kv.TxnOptions{})
				txn, id := w.begin(t, x)
				mu.Lock()
				shown = append(shown, id)
				mu.Unlock()
				time.Sleep(time.Duration(rng.IntN(int(5 * time.Millisecond))))
				switch rng.IntN(4) {
				case 0:
					txn.Rollback(ctx)
					older.Rollback(ctx)
					know(id, Aborted, "its owner, who has given up")
					continue
				case 1: // as an expired lock, or a leader's death: it hears of that in its commit
					older.Get(ctx, []keys.Key{id.key()}, tablet.LockExclusive, tablet.WaitBlock)
				}
				older.Rollback(ctx)
				time.Sleep(time.Duration(rng.IntN(int(2 * time.Millisecond))))
				err := w.commit(t, x, txn, id)
				s := Committed
				if err != nil {
					s = Aborted
				}
				mu.Lock()
				present[id] = s
				mu.Unlock()
				know(id, s, "its owner")
			}
		})
	}
	for i, x := range w.nodes {
		rng := rand.New(rand.NewPCG(seed, uint64(100+i)))
		askers.Go(func() {
			for ctx.Err() == nil {
				time.Sleep(time.Duration(rng.IntN(int(time.Millisecond))))
				mu.Lock()
				if len(shown) == 0 {
					mu.Unlock()
					continue
				}
				id := shown[len(shown)-1-rng.IntN(min(len(shown), 8))]
				before, known := told[id]
				mu.Unlock()
				s, err := x.Status(ctx, id)
				switch {
				case ctx.Err() != nil:
				case err != nil:
					t.Errorf("%v: %v", id, err)
				case s == Unknown || s == InProgress && known:
					t.Errorf("%v is %v to node %d and was %v", id, s, i+1, before)
				case s != InProgress:
					know(id, s, fmt.Sprint("node ", i+1))
				}
			}
		})
	}
	owners.Wait()
	stop()
	askers.Wait()
	counts := map[Status]int{}
	for id, s := range told {
		counts[s]++
		if p, ok := present[id]; ok && p != s {
			t.Errorf("%v is %v to its owner and %v to others", id, p, s)
		}
		w.expect(t, id, s)
	}
	if len(told) != 400 || counts[Committed] < 50 || counts[Aborted] < 50 {
		t.Errorf("the test has tested %v", counts)
	}
}

// TestX5_ForgottenIsNotAborted: what was dropped is not known any more, to nodes that
// keep outcomes for longer, too, and what was written late is kept as long as the rest.
func TestX5_ForgottenIsNotAborted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(2, time.Hour)
		short, long := w.nodes[0], w.nodes[1]
		long.cfg.Keep = 100 * time.Hour
		var old []ID
		for i := range 2*cleanBatch + 10 {
			x := w.nodes[i%2]
			txn, id := w.begin(t, x)
			if err := w.commit(t, x, txn, id); err != nil {
				t.Fatal(err)
			}
			old = append(old, id)
		}
		lasting, late := w.begin(t, short)
		open, pending := w.begin(t, short)
		idle, silent := w.begin(t, long)
		time.Sleep(30 * time.Minute)
		if err := w.commit(t, short, lasting, late); err != nil {
			t.Fatal(err)
		}
		_, young := w.begin(t, long)
		if err := short.Clean(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.expect(t, old[0], Committed)
		time.Sleep(31 * time.Minute)
		if err := short.Clean(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, id := range []ID{old[0], old[1], old[len(old)-1]} {
			w.expect(t, id, Unknown)
		}
		w.expect(t, late, Committed)
		w.expect(t, pending, InProgress)
		w.expect(t, young, InProgress)
		idle.Rollback(t.Context())
		w.expect(t, silent, Unknown) // it may have been dropped, for all that is known
		if err := w.commit(t, short, open, pending); err != nil {
			t.Fatal(err)
		}
		w.expect(t, pending, Committed)
		time.Sleep(61 * time.Minute)
		if err := short.Clean(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.expect(t, late, Unknown)
		w.expect(t, pending, Unknown)
		if n := w.store.Len(keys.Span{Start: prefix, End: markKey}); n != 0 {
			t.Fatalf("%d rows are left", n)
		}
	})
}

// TestX5_DroppedWhileAskedAbout: rows go from under inquiries, which never say aborted
// of what has committed.
func TestX5_DroppedWhileAskedAbout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(3, 5*time.Millisecond) // hardly longer than the clocks are uncertain
		w.nodes[2].cfg.Keep = time.Hour
		var wg sync.WaitGroup
		ctx, stop := context.WithCancel(t.Context())
		for _, x := range w.nodes[:2] {
			wg.Go(func() {
				for ctx.Err() == nil {
					time.Sleep(time.Millisecond)
					if err := x.Clean(t.Context()); err != nil {
						t.Error(err)
					}
				}
			})
		}
		seen := map[Status]int{}
		for range 300 {
			txn, id := w.begin(t, w.nodes[0])
			if err := w.commit(t, w.nodes[0], txn, id); err != nil {
				t.Fatal(err)
			}
			for last := Committed; last == Committed; time.Sleep(100 * time.Microsecond) {
				s, err := w.nodes[2].Status(t.Context(), id)
				if err != nil || s != Committed && s != Unknown {
					t.Fatalf("%v has committed and is %v, %v", id, s, err)
				}
				last = s
				seen[s]++
			}
		}
		stop()
		wg.Wait()
		if seen[Committed] == 0 || seen[Unknown] == 0 {
			t.Fatalf("the test has seen %v", seen)
		}
	})
}

// TestCleanerGoesOn: it deletes as rows fall due, and in the end those that were written
// behind its place or are of a node that is gone.
func TestCleanerGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(2, time.Hour)
		x, gone := w.nodes[0], w.nodes[1]
		rows := func() int { return w.store.Len(keys.Span{Start: prefix, End: markKey}) }
		x.Start()
		defer x.Close()
		commit := func(x *Table) {
			txn, id := w.begin(t, x)
			if err := w.commit(t, x, txn, id); err != nil {
				t.Fatal(err)
			}
		}
		commit(gone)
		lasting, late := w.begin(t, x)
		for range 10 {
			commit(x)
			time.Sleep(10 * time.Minute)
		}
		if n := rows(); n < 6 || n > 8 { // ten minutes apart, and the other node's at most
			t.Fatalf("%d rows are there", n)
		}
		if err := w.commit(t, x, lasting, late); err != nil {
			t.Fatal(err)
		}
		w.expect(t, late, Committed)
		time.Sleep(2*time.Hour + 2*time.Minute)
		if n := rows(); n != 0 {
			t.Fatalf("%d rows are left", n)
		}
	})
}
