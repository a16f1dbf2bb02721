package txn

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/tablet"
	"github.com/spandb/spand/tablet/directory"
	"github.com/spandb/spand/truetime"
)

// k makes a key of a user's table.
func k(s string) keys.Key { return append(keys.Key{keys.TablePrefix}, s...) }

// tabletsAt describes the directory tablet and tablets divided at bounds.
func tabletsAt(bounds ...string) []keys.Descriptor {
	descs := directory.Bootstrap([]keys.NodeID{1, 2, 3})
	last := descs[1]
	for i, b := range bounds {
		left := last
		left.Span.End = k(b)
		descs[len(descs)-1] = left
		last.Group, last.Span.Start = keys.GroupID(3+i), k(b)
		descs = append(descs, last)
	}
	return descs
}

type directoryDialer struct{ Dialer }

func (d directoryDialer) Replica(n keys.NodeID, g keys.GroupID) (directory.Replica, error) {
	return d.Participant(n, g)
}

// gateway is a client over a world, with its directory and cache.
type gateway struct {
	*Client
	w     *world
	dir   *directory.Directory
	cache *directory.Cache
}

func newGateway(w *world, node keys.NodeID, descs []keys.Descriptor, adjust ...func(*Config)) *gateway {
	g := gatewayOver(w.clock, dialer{w, node}, node, descs, adjust...)
	g.w = w
	return g
}

func gatewayOver(clock truetime.Clock, d Dialer, node keys.NodeID, descs []keys.Descriptor, adjust ...func(*Config)) *gateway {
	boot := directory.Bootstrap([]keys.NodeID{1, 2, 3})
	dir := directory.New(directory.Config{Node: node, Clock: clock, Dialer: directoryDialer{d}, Boot: boot, Logger: quiet})
	cache := directory.NewCache(dir, 0, descs...)
	cfg := Config{Node: node, Clock: clock, Router: cache, Dialer: d, Directory: dir, Logger: quiet}
	for _, f := range adjust {
		f(&cfg)
	}
	return &gateway{Client: NewClient(cfg), dir: dir, cache: cache}
}

// run gives f a world of tablets divided at bounds, led by nodes 1, 2, 3 in
// turn, and a gateway on node 1, all in virtual time.
func run(t *testing.T, eps time.Duration, bounds []string, f func(t *testing.T, w *world, g *gateway)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		descs := tabletsAt(bounds...)
		w := newWorld(eps, descs, 1, 1, 2, 3)
		leaders := newGateway(w, 2, descs) // where recovery runs, whatever happens to g
		defer leaders.Close()
		w.rec = NewRecovery(leaders.Client)
		g := newGateway(w, 1, descs)
		defer g.Close()
		f(t, w, g)
		for id, n := range w.commits {
			if n > 1 {
				t.Errorf("X5: transaction %v committed %d times", id, n)
			}
		}
	})
}

func must[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// set writes keys in one transaction.
func (g *gateway) set(t *testing.T, kv ...string) truetime.Timestamp {
	t.Helper()
	ctx := context.Background()
	tx := g.Begin(ctx, TxnOptions{})
	for i := 0; i < len(kv); i += 2 {
		check(t, tx.Put(ctx, k(kv[i]), []byte(kv[i+1])))
	}
	return must(tx.Commit(ctx))(t)
}

// value reads key in a read-only transaction; "" is absent.
func (g *gateway) value(t *testing.T, key string) string {
	t.Helper()
	ctx := context.Background()
	return string(must(g.ReadOnly(ctx, 0).Get(ctx, []keys.Key{k(key)}, tablet.LockNone, tablet.WaitBlock))(t)[0])
}

func (g *gateway) expect(t *testing.T, kv ...string) {
	t.Helper()
	for i := 0; i < len(kv); i += 2 {
		if v := g.value(t, kv[i]); v != kv[i+1] {
			t.Errorf("%s is %q, want %q", kv[i], v, kv[i+1])
		}
	}
}

func get(t *testing.T, tx *Txn, lock tablet.LockStrength, ks ...string) []string {
	t.Helper()
	var list []keys.Key
	for _, s := range ks {
		list = append(list, k(s))
	}
	vals := must(tx.Get(context.Background(), list, lock, tablet.WaitBlock))(t)
	var out []string
	for _, v := range vals {
		if v == nil {
			out = append(out, "-")
		} else {
			out = append(out, string(v))
		}
	}
	return out
}

func scan(t *testing.T, tx *Txn, req ScanRequest) (out []string) {
	t.Helper()
	it := tx.Scan(context.Background(), req)
	defer it.Close()
	for it.Next() {
		out = append(out, string(it.Key()[1:])+"="+string(it.Value()))
	}
	check(t, it.Err())
	return out
}

func eq(t *testing.T, got, want any) {
	t.Helper()
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		t.Errorf("got %s, want %s", g, w)
	}
}

var all = keys.Span{Start: keys.Key{keys.TablePrefix}, End: keys.Key{keys.TablePrefix + 1}}

func TestReadsSeeOwnWrites(t *testing.T) {
	run(t, 0, []string{"f", "p"}, func(t *testing.T, w *world, g *gateway) {
		ctx := context.Background()
		g.set(t, "a", "1", "c", "3", "g", "7", "z", "26")
		tx := g.Begin(ctx, TxnOptions{})
		defer tx.Rollback(ctx)
		check(t, tx.Put(ctx, k("b"), []byte("own")))
		check(t, tx.Put(ctx, k("empty"), nil))
		check(t, tx.Delete(ctx, k("g")))
		check(t, tx.Put(ctx, k("z"), []byte("Z")))
		eq(t, get(t, tx, tablet.LockExclusive, "z", "a", "b", "g", "nope", "empty"), "[Z 1 own - - ]")
		want := []string{"a=1", "b=own", "c=3", "empty=", "z=Z"}
		eq(t, scan(t, tx, ScanRequest{Span: all, Lock: tablet.LockShared}), want)
		for i, j := 0, len(want)-1; i < j; i, j = i+1, j-1 {
			want[i], want[j] = want[j], want[i]
		}
		eq(t, scan(t, tx, ScanRequest{Span: all, Reverse: true, Lock: tablet.LockShared}), want)
		eq(t, scan(t, tx, ScanRequest{Span: keys.PointSpan(k("b")), Lock: tablet.LockShared}), "[b=own]")
		// A limit is a hint: reading on gives the rest.
		eq(t, scan(t, tx, ScanRequest{Span: all, Limit: 2, Lock: tablet.LockShared}), "[a=1 b=own c=3 empty= z=Z]")
	})
}

// A statement that inserts ahead of its own scan must not meet its rows.
func TestScanDoesNotSeeLaterWrites(t *testing.T) {
	for _, many := range []bool{false, true} {
		run(t, 0, nil, func(t *testing.T, w *world, g *gateway) {
			ctx := context.Background()
			g.set(t, "a", "1", "b", "2")
			tx := g.Begin(ctx, TxnOptions{})
			defer tx.Rollback(ctx)
			if many { // the buffer is a tree
				for i := range 2 * smallBuffer {
					check(t, tx.Put(ctx, k(fmt.Sprintf("0%04d", i)), []byte("x")))
				}
			}
			it := tx.Scan(ctx, ScanRequest{Span: keys.Span{Start: k("a"), End: k("z")}, Lock: tablet.LockExclusive})
			n := 0
			for it.Next() {
				n++
				check(t, tx.Put(ctx, append(bytes.Clone(it.Key()), 'x'), it.Value()))
			}
			check(t, it.Err())
			eq(t, n, 2)
			eq(t, scan(t, tx, ScanRequest{Span: keys.Span{Start: k("a"), End: k("z")}, Lock: tablet.LockShared}), "[a=1 ax=1 b=2 bx=2]")
		})
	}
}

func TestSavepoints(t *testing.T) {
	run(t, 0, nil, func(t *testing.T, w *world, g *gateway) {
		ctx := context.Background()
		g.set(t, "a", "1")
		tx := g.Begin(ctx, TxnOptions{})
		check(t, tx.Put(ctx, k("a"), []byte("2")))
		m := tx.Savepoint()
		check(t, tx.Put(ctx, k("a"), []byte("3")))
		check(t, tx.Put(ctx, k("b"), []byte("3")))
		inner := tx.Savepoint()
		check(t, tx.Delete(ctx, k("a")))
		check(t, tx.RollbackTo(inner))
		eq(t, get(t, tx, tablet.LockShared, "a", "b"), "[3 3]")
		check(t, tx.RollbackTo(m))
		eq(t, get(t, tx, tablet.LockShared, "a", "b"), "[2 -]")
		check(t, tx.RollbackTo(m))
		if tx.RollbackTo(inner) == nil {
			t.Error("a savepoint that was rolled back over is still there")
		}
		must(tx.Commit(ctx))(t)
		g.expect(t, "a", "2", "b", "")
	})
}

func TestX1_CommitWait(t *testing.T) {
	const eps = 4 * time.Millisecond
	run(t, eps, []string{"m"}, func(t *testing.T, w *world, g *gateway) {
		ctx := context.Background()
		for _, kv := range [][]string{{"a", "1"}, {"a", "1", "z", "2"}} {
			before := w.clock.Now().Latest
			ts := g.set(t, kv...)
			if ts < before {
				t.Errorf("%v: s = %d below Now().Latest %d at the request", kv, ts, before)
			}
			if !truetime.After(w.clock, ts) {
				t.Errorf("%v: acknowledged before After(s)", kv)
			}
		}
		// A version read while its own commit wait is still on holds its reader up.
		tw := w.twin(2)
		tw.mu.Lock()
		s, _ := tw.assign(0, 0)
		tw.put([]tablet.Write{{Key: k("a"), Value: []byte("new")}}, s)
		tw.mu.Unlock()
		tx := g.Begin(ctx, TxnOptions{})
		eq(t, get(t, tx, tablet.LockShared, "a"), "[new]")
		if truetime.After(w.clock, s) {
			t.Fatal("the version is too old for this test")
		}
		check(t, tx.AwaitVisible(ctx))
		if !truetime.After(w.clock, s) {
			t.Error("X1: the client is shown a version before After(s)")
		}
		must(tx.Commit(ctx))(t)
		// Commit alone does the same, before it lets go of the locks.
		tw.mu.Lock()
		s, _ = tw.assign(0, 0)
		tw.put([]tablet.Write{{Key: k("a"), Value: []byte("newer")}}, s)
		tw.mu.Unlock()
		tx = g.Begin(ctx, TxnOptions{})
		eq(t, get(t, tx, tablet.LockShared, "a"), "[newer]")
		must(tx.Commit(ctx))(t)
		if !truetime.After(w.clock, s) {
			t.Error("X1: a commit that only read returned before After(s)")
		}
	})
}

func TestX1_CommitAboveWhatWasRead(t *testing.T) {
	run(t, time.Millisecond, []string{"m"}, func(t *testing.T, w *world, g *gateway) {
		ctx := context.Background()
		tw := w.twin(3)
		tw.mu.Lock()
		s := w.clock.Now().Latest.Add(time.Second)
		tw.floor = s
		tw.put([]tablet.Write{{Key: k("z"), Value: []byte("1")}}, s)
		tw.mu.Unlock()
		tx := g.Begin(ctx, TxnOptions{})
		get(t, tx, tablet.LockShared, "z")
		check(t, tx.Put(ctx, k("a"), []byte("after z")))
		if ts := must(tx.Commit(ctx))(t); ts <= s {
			t.Errorf("commit at %d, read a version of %d", ts, s)
		}
	})
}

func TestX2_LostLocksFailTheCommit(t *testing.T) {
	for _, write := range []string{"a", "z", ""} { // one phase, two phases, none
		run(t, 0, []string{"m"}, func(t *testing.T, w *world, g *gateway) {
			ctx := context.Background()
			g.set(t, "a", "1")
			tx := g.Begin(ctx, TxnOptions{})
			get(t, tx, tablet.LockShared, "a")
			w.twin(2).lead(2)
			if write != "" {
				check(t, tx.Put(ctx, k(write), []byte("lost")))
			}
			_, err := tx.Commit(ctx)
			var aborted *tablet.AbortedError
			if !errors.As(err, &aborted) || aborted.Reason != tablet.AbortLocksLost {
				t.Fatalf("commit without its locks: %v", err)
			}
			time.Sleep(time.Second) // virtual: the participants are told
			g.expect(t, "a", "1", "z", "")
		})
	}
}

func TestX2_WoundedTransactionIsTold(t *testing.T) {
	run(t, 0, []string{"m"}, func(t *testing.T, w *world, g *gateway) {
		ctx := context.Background()
		old := g.Begin(ctx, TxnOptions{})
		time.Sleep(time.Millisecond)
		young := g.Begin(ctx, TxnOptions{})
		get(t, young, tablet.LockExclusive, "a")
		check(t, young.Put(ctx, k("a"), []byte("young")))
		get(t, old, tablet.LockExclusive, "a") // wounds
		time.Sleep(3 * time.Second)            // the heartbeat finds out
		if _, err := young.Get(ctx, []keys.Key{k("z")}, tablet.LockShared, tablet.WaitBlock); err == nil {
			t.Error("a wounded transaction goes on")
		}
		young.Rollback(ctx)
		check(t, old.Put(ctx, k("a"), []byte("old")))
		must(old.Commit(ctx))(t)
		// A retry keeps its age, hence wins the next time.
		retry := g.Begin(ctx, TxnOptions{Age: young.ID().Age})
		if fresh := g.Begin(ctx, TxnOptions{}); !retry.ID().Older(fresh.ID()) || retry.ID() == young.ID() {
			t.Error("the retry did not inherit the age")
		}
		g.expect(t, "a", "old")
	})
}

func TestHeartbeatKeepsToLastingTransactions(t *testing.T) {
	run(t, 0, []string{"m"}, func(t *testing.T, w *world, g *gateway) {
		ctx := context.Background()
		time.Sleep(900 * time.Millisecond)
		tx := g.Begin(ctx, TxnOptions{})
		get(t, tx, tablet.LockShared, "a", "z")
		time.Sleep(200 * time.Millisecond)
		eq(t, w.count("Heartbeat"), 0)
		time.Sleep(2 * time.Second)
		eq(t, w.count("Heartbeat"), 4) // two rounds, two tablets
		must(tx.Commit(ctx))(t)
		time.Sleep(5 * time.Second)
		eq(t, w.count("Heartbeat"), 4)
	})
}

func (w *world) count(method string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.calls[method]
}

func TestX4_ReadOnlyIsASnapshot(t *testing.T) {
	run(t, time.Millisecond, []string{"m"}, func(t *testing.T, w *world, g *gateway) {
		ctx := context.Background()
		s1 := g.set(t, "a", "1", "z", "1")
		ro := g.ReadOnly(ctx, 0)
		past := g.ReadOnly(ctx, s1)
		time.Sleep(3 * time.Millisecond) // virtual: what begins now is certainly later
		g.set(t, "a", "2", "z", "2")
		eq(t, get(t, ro, tablet.LockNone, "a", "z"), "[1 1]")
		eq(t, get(t, past, tablet.LockNone, "z", "a"), "[1 1]")
		eq(t, scan(t, ro, ScanRequest{Span: all}), "[a=1 z=1]")
		g.expect(t, "a", "2", "z", "2")
		if err := ro.Put(ctx, k("a"), nil); !errors.Is(err, ErrReadOnly) {
			t.Errorf("write in a read-only transaction: %v", err)
		}
		if _, err := ro.Get(ctx, []keys.Key{k("a")}, tablet.LockShared, tablet.WaitBlock); !errors.Is(err, ErrReadOnly) {
			t.Errorf("lock in a read-only transaction: %v", err)
		}
		eq(t, must(ro.Commit(ctx))(t), ro.ReadTimestamp())
	})
}

func TestLockPolicies(t *testing.T) {
	run(t, 0, nil, func(t *testing.T, w *world, g *gateway) {
		ctx := context.Background()
		a := g.Begin(ctx, TxnOptions{})
		get(t, a, tablet.LockExclusive, "a")
		b := g.Begin(ctx, TxnOptions{})
		_, err := b.Get(ctx, []keys.Key{k("a")}, tablet.LockExclusive, tablet.WaitNoWait)
		var unavailable *tablet.LockUnavailableError
		if !errors.As(err, &unavailable) || unavailable.Holder != a.ID() {
			t.Errorf("NOWAIT: %v", err)
		}
		b.Rollback(ctx)
		// A younger transaction waits until the older one is done, or its context.
		c := g.Begin(ctx, TxnOptions{})
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if _, err := c.Get(short, []keys.Key{k("a")}, tablet.LockExclusive, tablet.WaitBlock); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("waiting for a lock: %v", err)
		}
		c.Rollback(ctx)
		a.Rollback(ctx)
		a.Rollback(ctx)
		if _, err := a.Commit(ctx); !errors.Is(err, ErrFinished) {
			t.Errorf("commit after rollback: %v", err)
		}
		time.Sleep(time.Second) // virtual: rollbacks are told
		g.set(t, "a", "free")
	})
}

func TestB2_BoundCommit(t *testing.T) {
	run(t, 0, []string{"m"}, func(t *testing.T, w *world, g *gateway) {
		ctx := context.Background()
		for _, ks := range [][]string{{"a"}, {"a", "z"}, {}} {
			bound := func(d time.Duration) error {
				tx := g.Begin(ctx, TxnOptions{})
				get(t, tx, tablet.LockShared, "b")
				for _, key := range ks {
					check(t, tx.Put(ctx, k(key), []byte("x")))
				}
				tx.BoundCommit(w.clock.Now().Latest.Add(time.Hour))
				tx.BoundCommit(w.clock.Now().Latest.Add(d))
				time.Sleep(time.Second)
				_, err := tx.Commit(ctx)
				time.Sleep(time.Second)
				return err
			}
			var aborted *tablet.AbortedError
			if err := bound(time.Millisecond); !errors.As(err, &aborted) || aborted.Reason != tablet.AbortTooLate {
				t.Errorf("%v: a commit after its bound: %v", ks, err)
			}
			check(t, bound(time.Minute))
		}
	})
}
