package txn

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/tablet"
)

// runLarge is run with a gateway that stages after 1 KiB, in chunks of 200 bytes.
func runLarge(t *testing.T, bounds []string, f func(t *testing.T, w *world, g *gateway)) {
	t.Helper()
	run(t, 0, bounds, func(t *testing.T, w *world, _ *gateway) {
		g := newGateway(w, 1, tabletsAt(bounds...), func(c *Config) {
			c.StageAfter, c.ChunkBytes, c.InlineBytes = 1000, 200, 100
		})
		defer g.Close()
		f(t, w, g)
	})
}

func row(i int) string { return fmt.Sprintf("r%04d", i) }

func TestLargeTransactionIsAtomicAndSeesItself(t *testing.T) {
	for _, bounds := range [][]string{nil, {"r0100", "r0200"}} {
		runLarge(t, bounds, func(t *testing.T, w *world, g *gateway) {
			ctx := context.Background()
			g.set(t, row(7), "old", row(150), "old")
			tx := g.Begin(ctx, TxnOptions{})
			for i := range 300 {
				check(t, tx.Put(ctx, k(row(i)), []byte("v"+row(i))))
				if i%50 == 49 { // just written, on its way, or laid down
					eq(t, get(t, tx, tablet.LockExclusive, row(i), row(i-3), row(i-30), row(0)),
						fmt.Sprintf("[v%s v%s v%s v%s]", row(i), row(i-3), row(i-30), row(0)))
				}
			}
			check(t, tx.Delete(ctx, k(row(150))))
			check(t, tx.Put(ctx, k(row(10)), []byte("again")))
			if w.count("Stage") < 10 {
				t.Errorf("only %d chunks were staged", w.count("Stage"))
			}
			g.expect(t, row(7), "old", row(8), "") // invisible so far
			rows := scan(t, tx, ScanRequest{Span: all, Lock: tablet.LockShared})
			eq(t, len(rows), 299)
			eq(t, rows[10], row(10)+"=again")
			must(tx.Commit(ctx))(t)
			time.Sleep(time.Second)
			g.expect(t, row(0), "v"+row(0), row(7), "v"+row(7), row(10), "again", row(150), "", row(299), "v"+row(299))
			eq(t, len(scan(t, g.ReadOnly(ctx, 0), ScanRequest{Span: all})), 299)
			time.Sleep(10 * time.Second)
			w.expectIdle(t)
		})
	}
}

func TestLargeTransactionRollsBack(t *testing.T) {
	runLarge(t, []string{"r0100"}, func(t *testing.T, w *world, g *gateway) {
		ctx := context.Background()
		tx := g.Begin(ctx, TxnOptions{})
		m := tx.Savepoint()
		for i := range 200 {
			check(t, tx.Put(ctx, k(row(i)), []byte("v")))
		}
		if err := tx.RollbackTo(m); !errors.Is(err, errSavepointStaged) {
			t.Errorf("rolling back over staged writes: %v", err)
		}
		m = tx.Savepoint()
		check(t, tx.Put(ctx, k("x"), []byte("v")))
		check(t, tx.RollbackTo(m))
		tx.Rollback(ctx)
		time.Sleep(5 * time.Second)
		eq(t, len(scan(t, g.ReadOnly(ctx, 0), ScanRequest{Span: all})), 0)
		w.expectIdle(t)
	})
}

// A commit that was never told to stage has to fit into one command as well.
func TestCommitStagesWhatDoesNotFit(t *testing.T) {
	runLarge(t, []string{"r0100"}, func(t *testing.T, w *world, g *gateway) {
		ctx := context.Background()
		tx := g.Begin(ctx, TxnOptions{})
		for i := 95; i < 105; i++ {
			check(t, tx.Put(ctx, k(row(i)), []byte("a value of some length")))
		}
		eq(t, w.count("Stage"), 0)
		must(tx.Commit(ctx))(t)
		if w.count("Stage") == 0 {
			t.Error("nothing was staged")
		}
		time.Sleep(time.Second)
		eq(t, len(scan(t, g.ReadOnly(ctx, 0), ScanRequest{Span: all})), 10)
	})
}

// INSERT INTO t SELECT FROM t: what is inserted ahead of the scan must not be
// laid down where the scan would meet it.
func TestStagingKeepsClearOfOpenScans(t *testing.T) {
	runLarge(t, nil, func(t *testing.T, w *world, g *gateway) {
		ctx := context.Background()
		var kv []string
		for i := range 3000 {
			kv = append(kv, row(i), "a value long enough for several pages of the scan")
		}
		for i := 0; i < len(kv); i += 500 {
			g.set(t, kv[i:i+500]...)
		}
		before := w.count("Stage")
		tx := g.Begin(ctx, TxnOptions{})
		it := tx.Scan(ctx, ScanRequest{Span: all, Lock: tablet.LockShared})
		n := 0
		for it.Next() {
			n++
			check(t, tx.Put(ctx, k("z"+string(it.Key()[1:])), []byte("copy")))
			check(t, tx.Put(ctx, k(string(it.Key()[1:])), []byte("seen")))
		}
		check(t, it.Err())
		eq(t, n, 3000)
		if w.count("Stage") == before {
			t.Error("nothing was staged meanwhile")
		}
		must(tx.Commit(ctx))(t)
		eq(t, len(scan(t, g.ReadOnly(ctx, 0), ScanRequest{Span: all})), 6000)
	})
}

func TestStagedTransactionAbortsWhenItsTabletSplits(t *testing.T) {
	for _, late := range []bool{false, true} {
		runLarge(t, nil, func(t *testing.T, w *world, g *gateway) {
			ctx := context.Background()
			other := newGateway(w, 2, tabletsAt())
			defer other.Close()
			tx := g.Begin(ctx, TxnOptions{})
			var err error
			for i := 0; i < 200 && err == nil; i++ {
				if i == 100 {
					synctest.Wait()
					check(t, other.Split(ctx, k(row(50))))
					if late { // the gateway knows before it goes on
						g.cache.Evict(k(row(0)))
						g.value(t, row(0))
					}
				}
				err = tx.Put(ctx, k(row(i)), []byte("v"))
			}
			if err == nil {
				_, err = tx.Commit(ctx)
			}
			if outcome(err) != "aborted" {
				t.Errorf("staged across a split: %v", err)
			}
			tx.Rollback(ctx)
			time.Sleep(5 * time.Second)
			eq(t, len(scan(t, g.ReadOnly(ctx, 0), ScanRequest{Span: all})), 0)
		})
	}
}

// A chunk and a read are the first to meet the tablet, at once, and the leader
// changes between them: whichever answer comes first, the term of the second one
// must not stand for the locks of the first.
func TestX2_TwoFirstContacts(t *testing.T) {
	for _, readFirst := range []bool{true, false} {
		run(t, 0, nil, func(t *testing.T, w *world, _ *gateway) {
			g := newGateway(w, 1, tabletsAt(), func(c *Config) { c.StageAfter = 1000 }) // one chunk
			defer g.Close()
			ctx := context.Background()
			g.set(t, "z", "old")
			chunk, answer := make(chan struct{}), make(chan struct{})
			var chunks, answers atomic.Int32
			w.setFault(func(c call) error {
				if c.method == "Stage" && !c.after && chunks.Add(1) == 1 {
					<-chunk
				}
				if c.method == "Read" && c.after && answers.Add(1) == 1 {
					<-answer
				}
				return nil
			})
			tx := g.Begin(ctx, TxnOptions{})
			defer tx.Rollback(ctx)
			for i := range 9 {
				check(t, tx.Put(ctx, k(row(i)), make([]byte, 100)))
			}
			read := make(chan error, 1)
			go func() {
				_, err := tx.Get(ctx, []keys.Key{k("z")}, tablet.LockShared, tablet.WaitBlock)
				read <- err
			}()
			synctest.Wait() // the read is granted, the chunk on its way
			var err error
			if readFirst {
				close(answer)
				check(t, <-read)
			}
			w.twin(2).lead(3)
			g.set(t, "z", "new")
			close(chunk)
			synctest.Wait()
			if !readFirst {
				close(answer)
				err = <-read
			}
			if err == nil {
				_, err = tx.Commit(ctx)
			}
			eq(t, outcome(err), "aborted")
			g.expect(t, row(0), "", "z", "new")
		})
	}
}

func TestStageSurvivesLostAnswers(t *testing.T) {
	runLarge(t, nil, func(t *testing.T, w *world, g *gateway) {
		ctx := context.Background()
		rng := rand.New(rand.NewPCG(1, 1)) // one tablet: one chunk at a time
		w.setFault(func(c call) error {
			if c.method == "Stage" && rng.IntN(3) == 0 {
				return errLinkDown
			}
			return nil
		})
		tx := g.Begin(ctx, TxnOptions{})
		for i := range 200 {
			check(t, tx.Put(ctx, k(row(i)), []byte("v")))
		}
		must(tx.Commit(ctx))(t)
		w.setFault(nil)
		eq(t, len(scan(t, g.ReadOnly(ctx, 0), ScanRequest{Span: all})), 200)
	})
}

// The network keeps the first copy of a loaded batch until the transaction has
// committed and a user has changed the row.
func TestX5_LateBatchIsRefused(t *testing.T) {
	for _, given := range []bool{true, false} { // the load goes on, or is given up
		runLarge(t, nil, func(t *testing.T, w *world, g *gateway) {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			late := make(chan struct{})
			var landed error
			var copies atomic.Int32
			w.setFault(func(c call) error {
				if c.method != "Commit" || c.after || copies.Add(1) > 1 {
					return nil
				}
				// It arrives, but not while anybody waits for it.
				req := w.lastCommit.Load()
				go func() {
					<-late
					_, landed = twinAt{w.twin(2), 1}.Commit(context.Background(), req)
				}()
				if !given {
					cancel()
				}
				return lost()
			})
			idle := g.Begin(ctx, TxnOptions{}) // keeps the node's ended transactions unknown
			defer idle.Rollback(ctx)
			tx := g.Begin(ctx, TxnOptions{})
			defer tx.Rollback(ctx)
			err := tx.Load(ctx, []tablet.Write{{Key: k("a"), Value: []byte("loaded")}})
			if given {
				check(t, err)
				check(t, tx.Put(ctx, k("catalog"), []byte("names it")))
				must(tx.Commit(ctx))(t)
			} else if !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			g.set(t, "a", "changed by a user")
			close(late)
			synctest.Wait()
			eq(t, outcome(landed), "aborted")
			g.expect(t, "a", "changed by a user")
		})
	}
}

func TestLoad(t *testing.T) {
	runLarge(t, []string{"r0100", "r0250"}, func(t *testing.T, w *world, g *gateway) {
		ctx := context.Background()
		w.setFault(once("Commit", 0, true, lost))
		last := w.twin(4) // whose clock is ahead of the others'
		last.mu.Lock()
		last.floor = w.clock.Now().Latest.Add(time.Second)
		last.mu.Unlock()
		tx := g.Begin(ctx, TxnOptions{})
		rows := make([]tablet.Write, 0, 500)
		for i := range 500 {
			rows = append(rows, tablet.Write{Key: k(row((i * 7) % 500)), Value: []byte(fmt.Sprint("v", i))})
		}
		rows = append(rows, tablet.Write{Key: k(row(3)), Value: []byte("the last word")})
		check(t, tx.Load(ctx, rows))
		check(t, tx.Load(ctx, nil))
		check(t, tx.Put(ctx, k("catalog"), []byte("names it")))
		s := must(tx.Commit(ctx))(t)
		if tx.loaded == 0 || s <= tx.loaded {
			t.Errorf("the commit at %d does not lie above the rows loaded at %d", s, tx.loaded)
		}
		eq(t, len(scan(t, g.ReadOnly(ctx, 0), ScanRequest{Span: all})), 501)
		g.expect(t, row(3), "the last word")
		w.expectIdle(t)
	})
}

func TestLoadFails(t *testing.T) {
	runLarge(t, nil, func(t *testing.T, w *world, g *gateway) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		w.setDown(1, true)
		w.setDown(2, true)
		w.setDown(3, true)
		tx := g.Begin(ctx, TxnOptions{})
		defer tx.Rollback(ctx)
		if err := tx.Load(ctx, []tablet.Write{{Key: k("a"), Value: []byte("1")}}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("loading into nothing: %v", err)
		}
	})
}

func TestB1_Split(t *testing.T) {
	run(t, time.Millisecond, nil, func(t *testing.T, w *world, g *gateway) {
		ctx := context.Background()
		check(t, g.dir.Ensure(ctx))
		stale := newGateway(w, 3, tabletsAt())
		defer stale.Close()
		g.set(t, "a", "1", "m", "2", "z", "3")
		// A transaction that holds locks on both sides of what is to be split.
		tx := stale.Begin(ctx, TxnOptions{})
		get(t, tx, tablet.LockShared, "a", "z")
		eq(t, len(scan(t, tx, ScanRequest{Span: keys.Span{Start: k("l"), End: k("n")}, Lock: tablet.LockShared})), 1)
		check(t, g.Split(ctx, k("m")))
		check(t, g.Split(ctx, k("m"))) // is one already
		check(t, g.Split(ctx, k("p")))
		for _, gw := range []*gateway{g, stale} {
			gw.expect(t, "a", "1", "m", "2", "z", "3")
		}
		check(t, tx.Put(ctx, k("m"), []byte("moved")))
		must(tx.Commit(ctx))(t)
		if n := tx.Result().Participants; n != 3 {
			t.Errorf("%d participants, want all three tablets where locks are", n)
		}
		time.Sleep(time.Second)
		stale.expect(t, "m", "moved")
		eq(t, scan(t, stale.ReadOnly(ctx, 0), ScanRequest{Span: all, Reverse: true}), "[z=3 m=moved a=1]")
		var got []string
		for _, d := range must(g.dir.List(ctx))(t) {
			got = append(got, fmt.Sprintf("%d:%x@%d", d.Group, d.Span.End, d.Generation))
		}
		eq(t, got, fmt.Sprintf("[1:02@1 2:%x@2 3:%x@3 4:ffff@3]", k("m"), k("p")))
		w.expectIdle(t)
		for _, bad := range []keys.Key{{}, {1, 'd'}, keys.MaxKey} {
			if g.Split(ctx, bad) == nil {
				t.Errorf("split at %x", bad)
			}
		}
	})
}

// The locks that a split handed to the child are lost there: the commit must not
// be satisfied with the parent's.
func TestB1_X2_LocksLostAtTheChild(t *testing.T) {
	for _, touch := range []bool{false, true} {
		run(t, 0, nil, func(t *testing.T, w *world, g *gateway) {
			ctx := context.Background()
			g.set(t, "a", "1", "z", "1")
			stale := newGateway(w, 3, tabletsAt())
			defer stale.Close()
			tx := stale.Begin(ctx, TxnOptions{})
			get(t, tx, tablet.LockShared, "a", "z")
			check(t, g.Split(ctx, k("m")))
			w.twin(3).lead(2)
			g.set(t, "z", "2")
			var err error
			if touch { // first contact with the child, elsewhere
				_, err = tx.Get(ctx, []keys.Key{k("x")}, tablet.LockShared, tablet.WaitBlock)
			}
			if err == nil {
				check(t, tx.Put(ctx, k("a"), []byte("computed from z=1")))
				_, err = tx.Commit(ctx)
			}
			if outcome(err) != "aborted" {
				t.Errorf("X2: committed on a lost lock: %v", err)
			}
			tx.Rollback(ctx)
			time.Sleep(5 * time.Second)
			g.expect(t, "a", "1", "z", "2")
		})
	}
}

func TestSplitWithLostAnswers(t *testing.T) {
	for _, after := range []bool{false, true} {
		run(t, 0, nil, func(t *testing.T, w *world, g *gateway) {
			ctx := context.Background()
			g.set(t, "a", "1", "z", "2")
			w.setFault(once("Split", 0, after, lost))
			check(t, g.Split(ctx, k("m")))
			w.setFault(nil)
			g.expect(t, "a", "1", "z", "2")
			eq(t, len(must(g.dir.List(ctx))(t)), 2)
			fresh := newGateway(w, 2, tabletsAt()[:1])
			defer fresh.Close()
			fresh.expect(t, "a", "1", "z", "2")
			eq(t, len(fresh.cache.Cached()), 3)
		})
	}
}

func TestUnavailableTabletIsSaidSo(t *testing.T) {
	run(t, 0, nil, func(t *testing.T, w *world, g *gateway) {
		for n := keys.NodeID(1); n <= 3; n++ {
			w.setDown(n, true)
		}
		start := time.Now()
		_, err := g.ReadOnly(context.Background(), 0).Get(context.Background(), []keys.Key{k("a")}, tablet.LockNone, tablet.WaitBlock)
		var u *UnavailableError
		if !errors.As(err, &u) || u.Group != 2 || time.Since(start) < 30*time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		g.Close()
		tx := g.Begin(context.Background(), TxnOptions{})
		tx.Rollback(context.Background())
	})
}
