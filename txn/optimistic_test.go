package txn

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/tablet"
	"github.com/spandb/spand/truetime"
)

// statement runs f as a statement of its own, as SQL does: again with locks when a
// guess may be to blame.
func (g *gateway) statement(o TxnOptions, f func(ctx context.Context, tx *Txn) error) error {
	ctx := context.Background()
	tx := g.Begin(ctx, o)
	defer tx.Rollback(ctx)
	for {
		err := f(ctx, tx)
		if err == nil {
			_, err = tx.Commit(ctx)
		}
		if err == nil || !tx.Insist() {
			return err
		}
	}
}

var optimistic = TxnOptions{Optimistic: true}

// add makes f for statement: an UPDATE that adds 1 to rows that exist. seen, if
// set, gets what the last attempt read of the last row.
func add(seen *string, ks ...string) func(context.Context, *Txn) error {
	return func(ctx context.Context, tx *Txn) error {
		for _, key := range ks {
			v, err := tx.Get(ctx, []keys.Key{k(key)}, tablet.LockExclusive, tablet.WaitBlock)
			if err != nil {
				return err
			}
			if seen != nil {
				*seen = string(v[0])
			}
			if v[0] == nil {
				continue
			}
			n, err := strconv.Atoi(string(v[0]))
			if err != nil {
				return err
			}
			if err := tx.Put(ctx, k(key), []byte(strconv.Itoa(n+1))); err != nil {
				return err
			}
		}
		return nil
	}
}

// insert makes f for statement: an INSERT into a table with a secondary index.
func insert(key string) func(context.Context, *Txn) error {
	return func(ctx context.Context, tx *Txn) error {
		v, err := tx.Get(ctx, []keys.Key{k(key)}, tablet.LockExclusive, tablet.WaitBlock)
		if err != nil {
			return err
		}
		if v[0] != nil {
			return errDuplicate
		}
		if err := tx.Put(ctx, k(key+"/index"), []byte("")); err != nil {
			return err
		}
		return tx.Put(ctx, k(key), []byte("1"))
	}
}

var errDuplicate = errors.New("duplicate key")

// trips runs f and returns the calls between nodes that it made.
func (w *realWorld) trips(f func()) string {
	w.mu.Lock()
	w.calls = map[byte]int{}
	w.mu.Unlock()
	f()
	w.mu.Lock()
	defer w.mu.Unlock()
	return fmt.Sprintf("%d reads, %d commits, %d others", w.calls[tablet.MethodRead], w.calls[tablet.MethodCommit],
		len(w.calls)-min(1, w.calls[tablet.MethodRead])-min(1, w.calls[tablet.MethodCommit]))
}

// The leader of the only tablet is node 3: from node 1 each statement is one trip,
// on node 3 none, and never more than without guessing.
func TestOneTrip(t *testing.T) {
	runReal(t, 1, time.Millisecond, nil, func(t *testing.T, w *realWorld) {
		g := w.nodes[1].g
		g.set(t, "a", "1", "b", "1")
		w.nodes[3].g.set(t, "other", "") // from now on it knows that it leads
		for _, c := range []struct {
			name              string
			f                 func(context.Context, *Txn) error
			ordinary, oneTrip string
		}{
			{"update", add(nil, "a"), "1 reads, 1 commits, 0 others", "0 reads, 1 commits, 0 others"},
			{"update of several rows", add(nil, "a", "b", "missing"), "3 reads, 1 commits, 0 others", "0 reads, 1 commits, 0 others"},
			{"update of no row", add(nil, "missing"), "1 reads, 1 commits, 0 others", "0 reads, 1 commits, 0 others"},
			{"delete", func(ctx context.Context, tx *Txn) error {
				if v, err := tx.Get(ctx, []keys.Key{k("b")}, tablet.LockExclusive, tablet.WaitBlock); err != nil || v[0] == nil {
					return err
				}
				return tx.Delete(ctx, k("b"))
			}, "1 reads, 1 commits, 0 others", "0 reads, 1 commits, 0 others"},
			{"blind write", func(ctx context.Context, tx *Txn) error { return tx.Put(ctx, k("c"), nil) },
				"0 reads, 1 commits, 0 others", "0 reads, 1 commits, 0 others"},
		} {
			eq(t, c.name+": "+w.trips(func() { check(t, g.statement(TxnOptions{}, c.f)) }), c.name+": "+c.ordinary)
			eq(t, c.name+": "+w.trips(func() { check(t, g.statement(optimistic, c.f)) }), c.name+": "+c.oneTrip)
			eq(t, c.name+": "+w.trips(func() { check(t, w.nodes[3].g.statement(optimistic, c.f)) }), c.name+": 0 reads, 0 commits, 0 others")
		}
		eq(t, w.trips(func() { check(t, g.statement(optimistic, insert("new"))) }), "0 reads, 1 commits, 0 others")
		eq(t, w.trips(func() { eq(t, g.value(t, "a"), "7") }), "1 reads, 0 commits, 0 others") // a SELECT by key
		g.expect(t, "a", "7", "b", "", "new", "1")
		w.expectIdle(t)
	})
}

// A guess that was wrong costs a trip, never the truth.
func TestX4_WrongGuess(t *testing.T) {
	runReal(t, 1, time.Millisecond, nil, func(t *testing.T, w *realWorld) {
		g := w.nodes[1].g
		g.set(t, "a", "1")
		w.nodes[3].g.set(t, "other", "") // from now on it knows that it leads
		var once sync.Once
		// meanwhile makes the first attempt's guess old before it is committed.
		meanwhile := func(f func(context.Context, *Txn) error, kv ...string) func(context.Context, *Txn) error {
			once = sync.Once{}
			return func(ctx context.Context, tx *Txn) error {
				err := f(ctx, tx)
				once.Do(func() { w.nodes[3].g.set(t, kv...) })
				return err
			}
		}
		var seen string
		eq(t, w.trips(func() { check(t, g.statement(optimistic, meanwhile(add(&seen, "a"), "a", "10"))) }), "0 reads, 2 commits, 0 others")
		eq(t, seen, "10")
		check(t, g.statement(optimistic, meanwhile(add(&seen, "new"), "new", "5")))
		eq(t, seen, "5")
		// An error may be a guess's fault: it counts when it happens under locks.
		eq(t, g.statement(optimistic, meanwhile(insert("new2"), "new2", "5")), errDuplicate)
		bad := g.statement(optimistic, meanwhile(add(&seen, "new"), "new", "not a number"))
		if bad == nil || seen != "not a number" {
			t.Errorf("an UPDATE of %q: %v", seen, bad)
		}
		time.Sleep(10 * time.Millisecond) // its rollback is on its way
		g.set(t, "new", "6")
		g.expect(t, "a", "11", "new", "6", "new2", "5", "new2/index", "")

		ctx := context.Background()
		tx := g.Begin(ctx, optimistic)
		get(t, tx, tablet.LockExclusive, "a")
		eq(t, tx.AwaitVisible(ctx), ErrUnconfirmed) // X1: nobody is shown a guess
		if it := tx.Scan(ctx, ScanRequest{Span: all, Lock: tablet.LockShared}); it.Next() || it.Err() != ErrUnconfirmed {
			t.Errorf("a scan beside a guess: %v", it.Err())
		}
		tx.Rollback(ctx)
		w.expectIdle(t)
	})
}

// Several tablets: two phases, under locks, as ever.
func TestOneTripNeedsOneTablet(t *testing.T) {
	runReal(t, 1, time.Millisecond, []string{"m"}, func(t *testing.T, w *realWorld) {
		g := w.nodes[2].g // neither tablet is led here
		g.set(t, "a", "1", "z", "1")
		check(t, g.statement(optimistic, add(nil, "a", "z")))
		check(t, g.statement(optimistic, func(ctx context.Context, tx *Txn) error {
			if err := add(nil, "a")(ctx, tx); err != nil {
				return err
			}
			return tx.Put(ctx, k("zz"), []byte("entry"))
		}))
		g.expect(t, "a", "3", "z", "2", "zz", "entry")
		w.expectIdle(t)
	})
}

// X1: that a row is gone may be told only once its deletion has definitely passed.
func TestX1_OptimisticCommitOfNothing(t *testing.T) {
	runReal(t, 1, 20*time.Millisecond, nil, func(t *testing.T, w *realWorld) {
		ctx := context.Background()
		g := w.nodes[1].g
		g.set(t, "a", "1")
		told := make(chan truetime.Timestamp, 1)
		go func() {
			time.Sleep(time.Millisecond)
			ahead := w.group(2) // something was promised ahead of the clock
			ahead.mu.Lock()
			ahead.floor = w.clock.Now().Latest.Add(50 * time.Millisecond)
			ahead.mu.Unlock()
			tx := w.nodes[3].g.Begin(ctx, TxnOptions{})
			get(t, tx, tablet.LockExclusive, "a")
			check(t, tx.Delete(ctx, k("a")))
			told <- must(tx.Commit(ctx))(t)
		}()
		for gone := false; !gone; {
			check(t, g.statement(optimistic, func(ctx context.Context, tx *Txn) error {
				vs, err := tx.Get(ctx, []keys.Key{k("a")}, tablet.LockExclusive, tablet.WaitBlock)
				gone = err == nil && vs[0] == nil
				return err
			}))
		}
		now := w.clock.Now()
		if deleted := <-told; now.Earliest <= deleted {
			t.Errorf("X1: told at %v of a deletion at %v", now, deleted)
		}
	})
}

// Messages and leaders are lost around the one request: what is told is true, and
// nothing is done twice.
func TestX5_OneTripFaults(t *testing.T) {
	for _, c := range []struct {
		name string
		// fault is called before the first request arrives and before its answer does;
		// true loses it.
		fault  func(t *testing.T, w *realWorld, answer bool) bool
		want   string
		before string
	}{
		{"nothing", func(*testing.T, *realWorld, bool) bool { return false }, "committed", "1"},
		{"request not sent", func(_ *testing.T, _ *realWorld, answer bool) bool { return !answer }, "committed", "1"},
		{"answer lost", func(_ *testing.T, _ *realWorld, answer bool) bool { return answer }, "committed", "1"},
		{"leader changed before", func(_ *testing.T, w *realWorld, answer bool) bool {
			if !answer {
				w.group(2).lead(2)
			}
			return false
		}, "committed", "1"},
		{"answer and leader lost", func(_ *testing.T, w *realWorld, answer bool) bool {
			if answer {
				w.group(2).lead(2)
			}
			return answer
		}, "committed", "1"},
		{"split before, stale map", func(t *testing.T, w *realWorld, answer bool) bool {
			if !answer {
				check(t, w.nodes[3].g.Split(context.Background(), k("a")))
			}
			return false
		}, "committed", "1"},
		{"answer to a wrong guess lost", func(t *testing.T, w *realWorld, answer bool) bool {
			if !answer {
				w.nodes[3].g.set(t, "a", "7")
			}
			return answer
		}, "aborted", "7"}, // by the inquiry
		{"leader lost after a wrong guess", func(t *testing.T, w *realWorld, answer bool) bool {
			if answer {
				w.group(2).lead(2)
			} else {
				w.nodes[3].g.set(t, "a", "7")
			}
			return false
		}, "aborted", "7"}, // the locks are lost
	} {
		t.Run(c.name, func(t *testing.T) {
			runReal(t, 1, time.Millisecond, nil, func(t *testing.T, w *realWorld) {
				g := w.nodes[1].g
				g.set(t, "a", "1")
				w.nodes[3].g.set(t, "other", "") // from now on it knows that it leads
				check(t, g.dir.Ensure(context.Background()))
				var calls atomic.Int32
				w.mu.Lock()
				w.cut = func(from, to keys.NodeID) bool {
					if from != 1 && to != 1 {
						return false // the fault's own
					}
					n := calls.Add(1)
					return n <= 2 && c.fault(t, w, n == 2)
				}
				w.mu.Unlock()
				got := outcome(g.statement(optimistic, add(nil, "a")))
				eq(t, got, c.want)
				n, _ := strconv.Atoi(c.before)
				if got == "committed" {
					n++
				}
				g.expect(t, "a", strconv.Itoa(n))
				w.expectIdle(t)
			})
		})
	}
}

// A commit of nothing that is cut off has no outcome to be asked for.
func TestX5_OptimisticCommitOfNothingIsCancelled(t *testing.T) {
	runReal(t, 1, 0, nil, func(t *testing.T, w *realWorld) {
		g, other := w.nodes[1].g, w.nodes[3].g
		other.set(t, "a", "1")
		w.group(2).lead(2)
		other.set(t, "a", "1")
		ctx, cancel := context.WithCancel(context.Background())
		older := other.Begin(ctx, TxnOptions{})
		time.Sleep(time.Millisecond)
		tx := g.Begin(ctx, optimistic)
		get(t, tx, tablet.LockExclusive, "none")
		w.group(2).lead(1)
		g.expect(t, "a", "1")
		get(t, older, tablet.LockExclusive, "none")
		time.AfterFunc(100*time.Millisecond, cancel)
		start := time.Now()
		if _, err := tx.Commit(ctx); !errors.Is(err, context.Canceled) || outcome(err) == "unknown" || time.Since(start) > time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		older.Rollback(ctx)
		time.Sleep(time.Second)
		w.expectIdle(t)
	})
}

// The commit waits for locks as a read would: for older transactions, for long only
// in the statement that is run again, which has kept its place; younger ones are wounded.
func TestX2_OneTripWaitsForLocks(t *testing.T) {
	runReal(t, 1, time.Millisecond, nil, func(t *testing.T, w *realWorld) {
		ctx := context.Background()
		g, other := w.nodes[1].g, w.nodes[3].g
		g.set(t, "a", "1")
		other.set(t, "other", "") // from now on it knows that it leads

		older := other.Begin(ctx, TxnOptions{})
		get(t, older, tablet.LockExclusive, "a")
		check(t, older.Put(ctx, k("a"), []byte("5")))
		time.Sleep(time.Millisecond)
		time.AfterFunc(100*time.Millisecond, func() { must(older.Commit(ctx))(t) })
		check(t, g.statement(optimistic, add(nil, "a")))
		g.expect(t, "a", "6")

		older = other.Begin(ctx, TxnOptions{})
		get(t, older, tablet.LockExclusive, "a")
		time.Sleep(time.Millisecond)
		time.AfterFunc(3*time.Second, func() { must(older.Commit(ctx))(t) })
		var behind error
		var wg sync.WaitGroup
		time.AfterFunc(100*time.Millisecond, func() {
			wg.Go(func() {
				tx := other.Begin(ctx, TxnOptions{})
				get(t, tx, tablet.LockExclusive, "a")
				_, behind = tx.Commit(ctx)
			})
		})
		check(t, g.statement(optimistic, add(nil, "a")))
		wg.Wait()
		check(t, behind)
		g.expect(t, "a", "7")

		old := optimistic
		old.Age = w.clock.Now().Earliest
		time.Sleep(5 * time.Millisecond)
		younger := other.Begin(ctx, TxnOptions{})
		get(t, younger, tablet.LockExclusive, "a")
		check(t, g.statement(old, add(nil, "a")))
		if _, err := younger.Commit(ctx); outcome(err) != "aborted" {
			t.Errorf("the younger transaction: %v", err)
		}
		g.expect(t, "a", "8")
		w.expectIdle(t)
	})
}

// Counters at tablets that change leaders and split, over a network that loses
// messages: every acknowledged statement counts once, and read what it added to.
func TestX2_X5_OptimisticCounters(t *testing.T) {
	for seed := range uint64(10) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			runReal(t, seed, time.Millisecond, nil, func(t *testing.T, w *realWorld) { optimisticCounters(t, w) })
		})
	}
}

func optimisticCounters(t *testing.T, w *realWorld) {
	const counters = 3
	name := func(i int) string { return "c" + strconv.Itoa(i) }
	for i := range counters {
		w.nodes[1].g.set(t, name(i), "0")
	}
	check(t, w.nodes[1].g.dir.Ensure(context.Background()))
	w.mu.Lock()
	w.cut = func(from, to keys.NodeID) bool { return w.rng(100) < 2 }
	w.mu.Unlock()
	done := make(chan struct{})
	var others, workers sync.WaitGroup
	others.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			case <-time.After(time.Duration(5+w.rng(20)) * time.Millisecond):
			}
			if i == 3 {
				check(t, w.nodes[2].g.Split(context.Background(), k(name(1))))
			}
			w.group(2).lead(keys.NodeID(1 + w.rng(3)))
		}
	})
	var mu sync.Mutex
	seen := map[string]bool{}
	told := map[string]int{}
	for worker := range 6 {
		workers.Go(func() {
			g := w.nodes[keys.NodeID(1+worker%3)].g
			for range 40 {
				c := name(w.rng(counters))
				var before string
				err := g.statement(optimistic, add(&before, c))
				mu.Lock()
				switch o := outcome(err); o {
				case "committed":
					if seen[c+"="+before] {
						t.Errorf("X2: two statements added to %s = %s", c, before)
					}
					seen[c+"="+before] = true
					told[c]++
				case "aborted":
				default:
					t.Errorf("told %s", o)
				}
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	close(done)
	others.Wait()
	w.mu.Lock()
	w.cut = nil
	w.mu.Unlock()
	total := 0
	for i := range counters {
		w.nodes[2].g.expect(t, name(i), strconv.Itoa(told[name(i)]))
		total += told[name(i)]
	}
	if total < 60 {
		t.Errorf("%d of 240 statements committed", total)
	}
	w.expectIdle(t)
}

// What cannot be taken back ends the guessing: a statement that has staged chunks, or
// has shown a row, is not run again.
func TestNoGuessAfterWhatStays(t *testing.T) {
	for name, stay := range map[string]func(context.Context, *Txn, int) error{
		"staged": func(ctx context.Context, tx *Txn, run int) error {
			for i := range 100 {
				if err := tx.Put(ctx, k(fmt.Sprint("run", run, "/", row(i))), make([]byte, 50)); err != nil {
					return err
				}
			}
			return nil
		},
		"shown": func(ctx context.Context, tx *Txn, run int) error {
			if err := tx.Put(ctx, k(fmt.Sprint("run", run)), nil); err != nil {
				return err
			}
			return tx.AwaitVisible(ctx)
		},
	} {
		t.Run(name, func(t *testing.T) {
			runReal(t, 1, time.Millisecond, nil, func(t *testing.T, w *realWorld) {
				w.nodes[3].g.set(t, "a", "1") // node 3 leads
				runs := 0
				check(t, w.nodes[1].g.statement(optimistic, func(ctx context.Context, tx *Txn) error {
					runs++
					if err := stay(ctx, tx, runs); err != nil {
						return err
					}
					w.nodes[3].g.set(t, "a", fmt.Sprint(runs)) // so that every guess is wrong
					return add(nil, "a", "missing")(ctx, tx)
				}))
				eq(t, runs, 1)
			}, func(c *Config) { c.StageAfter, c.ChunkBytes, c.InlineBytes = 1000, 200, 100 })
		})
	}
}
