package sql_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/sql"
	"github.com/spandb/spand/sql/kv"
	"github.com/spandb/spand/sql/kvmem"
	"github.com/spandb/spand/truetime"
)

// peers connects engines over one store; a cut node does not answer.
type peers struct {
	self int
	c    *cluster
}

type cluster struct {
	engines []*sql.Engine
	cut     []atomic.Bool
	revoked atomic.Int64
}

func (p peers) RevokeSchema(ctx context.Context, version uint64) []error {
	var errs []error
	for i, e := range p.c.engines {
		if i == p.self {
			continue
		}
		p.c.revoked.Add(1)
		if p.c.cut[i].Load() {
			errs = append(errs, fmt.Errorf("node %d does not answer", i))
			continue
		}
		if err := e.HandleRevoke(ctx); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// newCluster starts engines over one store, on clocks that differ by up to ε.
func newCluster(t *testing.T, n int, epsilon time.Duration) (*cluster, *kvmem.Store) {
	c := &cluster{cut: make([]atomic.Bool, n)}
	main := truetime.NewManual(truetime.ManualOptions{})
	main.SetEpsilon(epsilon)
	store := kvmem.New(main)
	for i := range n {
		e, err := sql.NewEngine(sql.Config{KV: store, Node: keys.NodeID(i + 1), Peers: peers{i, c}})
		if err != nil {
			t.Fatal(err)
		}
		c.engines = append(c.engines, e)
	}
	for _, e := range c.engines {
		if err := e.Start(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	return c, store
}

func (c *cluster) session(t *testing.T, i int) sql.Session {
	s, err := c.engines[i].NewSession(context.Background(), sql.SessionOptions{User: "root", Database: "spand"})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (c *cluster) close(ss ...sql.Session) {
	for _, s := range ss {
		s.Close()
	}
	for _, e := range c.engines {
		e.Close()
	}
}

// A schema change on one node is seen by the next statement on every other.
func TestB2ChangesAreSeenEverywhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newCluster(t, 3, 2*time.Millisecond)
		a, b, d := c.session(t, 0), c.session(t, 1), c.session(t, 2)
		defer c.close(a, b, d)
		must(t, a, "create table t (x int primary key, y int)")
		must(t, b, "insert into t values (1, 10)")
		expect(t, d, "select * from t", "[x|y]\n1|10\nSELECT 1")
		must(t, d, "alter table t add column z int")
		must(t, a, "update t set z = 5 where x = 1")
		expect(t, b, "select * from t", "[x|y|z]\n1|10|5\nSELECT 1")
		must(t, b, "truncate t")
		expect(t, a, "select count(*) from t", "[count]\n0\nSELECT 1")
		must(t, a, "insert into t values (2)")
		must(t, d, "drop table t")
		if out := run(b, "select * from t"); !strings.Contains(out, "42P01") {
			t.Fatal(out)
		}
		if c.revoked.Load() == 0 {
			t.Fatal("no lease was ever revoked")
		}
	})
}

// A transaction whose table changed under it fails to commit, retryably; an
// autocommit statement does not notice.
func TestB2StaleDescriptorsDoNotCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newCluster(t, 2, 0)
		a, b := c.session(t, 0), c.session(t, 1)
		defer c.close(a, b)
		must(t, a, "create table t (x int primary key, y int); create table other (x int primary key); insert into t values (1, 1)")
		must(t, b, "begin")
		must(t, b, "insert into other values (1)")
		must(t, a, "alter table t add column z int") // concerns b not
		must(t, b, "commit")
		must(t, b, "begin")
		must(t, b, "insert into t values (2, 2)")
		must(t, a, "truncate t")
		if out := run(b, "commit"); !strings.Contains(out, "40001") {
			t.Fatalf("a row went to the storage that TRUNCATE replaced: %s", out)
		}
		expect(t, a, "select count(*) from t", "[count]\n0\nSELECT 1")
		must(t, b, "insert into t values (3, 3)")
		expect(t, a, "select x from t", "[x]\n3\nSELECT 1")
	})
}

// While a node does not answer, a schema change waits until its lease is over, and
// not longer; what the node still reads in that time is from before the change.
func TestB2UnansweringNodeIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newCluster(t, 2, 0)
		a, b := c.session(t, 0), c.session(t, 1)
		defer c.close(a, b)
		must(t, a, "create table t (x int primary key); insert into t values (1)")
		expect(t, b, "select x from t", "[x]\n1\nSELECT 1")
		c.cut[1].Store(true)
		start := time.Now()
		var done atomic.Bool
		go func() {
			run(a, "truncate t")
			done.Store(true)
		}()
		time.Sleep(time.Second)
		synctest.Wait()
		if done.Load() {
			t.Fatal("the change did not wait for the lease of a silent node")
		}
		expect(t, b, "select x from t", "[x]\n1\nSELECT 1")
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if !done.Load() {
			t.Fatalf("not done after %v", time.Since(start))
		}
		expect(t, b, "select x from t", "[x]\nSELECT 0")
	})
}

// A node confirms that its lease is gone only when no commit under it can be given a
// timestamp any more: neither one whose outcome it has not learnt, nor one of an
// earlier life of the node.
func TestB2RevocationWaitsForStrayCommits(t *testing.T) {
	const lease = 4 * time.Second
	for _, c := range []struct {
		name           string
		lived, unknown bool
		least, most    time.Duration
	}{
		{"first life", false, false, 0, 0},
		{"restarted", true, false, lease, lease},
		{"unknown outcome", false, true, lease / 2, lease},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := &faultyKV{Store: kvmem.New(truetime.NewManual(truetime.ManualOptions{}))}
				e, err := sql.NewEngine(sql.Config{KV: store, Node: 1, Lived: c.lived})
				if err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				if !c.lived { // else the first table would wait
					if err := e.Start(context.Background()); err != nil {
						t.Fatal(err)
					}
					s := newSession(t, e)
					must(t, s, "create table t (x int primary key)")
					began = time.Now()
					store.fail = func(_ int64, id keys.TxnID) error {
						if !c.unknown {
							return nil
						}
						return &kv.UnknownOutcomeError{Txn: id, Cause: errors.New("cut off")}
					}
					run(s, "insert into t values (1)")
					store.fail = nil
					s.Close()
				}
				if err := e.HandleRevoke(context.Background()); err != nil {
					t.Error(err)
				}
				if took := time.Since(began); took < c.least || took > c.most+time.Millisecond {
					t.Errorf("confirmed after %v, want %v to %v", took, c.least, c.most)
				}
				e.Close()
			})
		})
	}
}

// B2: a node whose clock has failed gives up its schema lease: reads under it have passed
// after 2ε at most, an earlier life's commits after its lease, and so have those whose
// outcome is not known, also when a first revocation has given up on them.
func TestB2RevokeOnAFailedClock(t *testing.T) {
	const lease = 4 * time.Second
	for _, c := range []struct {
		name           string
		lived, unknown bool
	}{{"used", false, false}, {"restarted", true, false}, {"unknown outcome", false, true}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				clock := truetime.NewManual(truetime.ManualOptions{})
				store := &faultyKV{Store: kvmem.New(clock)}
				e, err := sql.NewEngine(sql.Config{KV: store, Node: 1, Lived: c.lived})
				if err != nil {
					t.Fatal(err)
				}
				defer e.Close()
				if !c.lived {
					if err := e.Start(context.Background()); err != nil {
						t.Fatal(err)
					}
					s := newSession(t, e)
					defer s.Close()
					must(t, s, "create table t (x int primary key)")
					if c.unknown {
						store.fail = func(_ int64, id keys.TxnID) error {
							return &kv.UnknownOutcomeError{Txn: id, Cause: errors.New("cut off")}
						}
					}
					run(s, "insert into t values (1)")
				}
				clock.Fail(errors.New("wrong"))
				revoke := func(least, most time.Duration, confirmed bool) {
					t.Helper()
					ctx, cancel := context.WithTimeout(context.Background(), lease/2)
					defer cancel()
					began := time.Now()
					err := e.HandleRevoke(ctx)
					if took := time.Since(began); (err == nil) != confirmed || took < least || took > most {
						t.Errorf("B2: %v after %v", err, took)
					}
				}
				switch {
				case c.lived:
					revoke(0, 0, false)
					time.Sleep(2 * lease)
					revoke(lease/8, lease/8, true) // the one before may not be over
				case c.unknown:
					revoke(lease/2, lease/2, false)
					revoke(lease/2, lease/2, false)
					time.Sleep(lease)
					revoke(lease/8, lease/8, true)
				default:
					revoke(lease/8, lease/8, true)
				}
				revoke(0, 0, true)
			})
		})
	}
}

// DDL and writes race on several nodes: nothing is lost and nothing is left behind.
func TestB2ChangesUnderLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, store := newCluster(t, 3, time.Millisecond)
		s := c.session(t, 0)
		must(t, s, "create table t (x bigint, y int)")
		var inserted atomic.Int64
		var wg sync.WaitGroup
		for i := range 3 {
			w := c.session(t, i)
			wg.Go(func() {
				defer w.Close()
				for range 40 {
					if out := run(w, "insert into t (x, y) values (1, 1)"); !strings.Contains(out, "INSERT 0 1") {
						t.Errorf("%s", out)
						return
					}
					inserted.Add(1)
					time.Sleep(7 * time.Millisecond)
				}
			})
		}
		for i := range 8 {
			time.Sleep(20 * time.Millisecond)
			for {
				out := run(s, fmt.Sprintf("alter table t add column c%d int default %d", i, i))
				if !strings.Contains(out, "ERROR") {
					break
				}
				if !strings.Contains(out, "40001") {
					t.Fatal(out)
				}
			}
		}
		wg.Wait()
		expect(t, s, "select count(*), sum(x), sum(c0) + sum(c7) from t where c3 = 3",
			fmt.Sprintf("[count|sum|?column?]\n%d|%d|%d\nSELECT 1", inserted.Load(), inserted.Load(), 7*inserted.Load()))
		c.close(s)
		noneOpen(t, store)
	})
}

// Storage of dropped, truncated and never committed tables is cleaned up, not before
// the horizon.
func TestDroppedStorageIsCleaned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock := truetime.NewManual(truetime.ManualOptions{})
		store := kvmem.New(clock)
		e, err := sql.NewEngine(sql.Config{KV: store, Node: 1})
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Start(context.Background()); err != nil {
			t.Fatal(err)
		}
		s, err := e.NewSession(context.Background(), sql.SessionOptions{User: "root", Database: "spand"})
		if err != nil {
			t.Fatal(err)
		}
		rows := func() int {
			return store.Len(keys.Span{Start: keys.Key{keys.TablePrefix}, End: keys.Key{keys.TablePrefix + 1}})
		}
		must(t, s, "create table t (x int primary key, y int unique)")
		must(t, s, "insert into t select g, g from generate_series(1, 2500) g")
		if rows() != 5000 {
			t.Fatalf("%d rows", rows())
		}
		must(t, s, "truncate t; insert into t values (1, 1)")
		must(t, s, "begin; create table u (x int); insert into u select g from generate_series(1, 60000) g")
		if rows() < 30000 {
			t.Fatalf("%d rows: nothing was loaded", rows())
		}
		must(t, s, "rollback")
		time.Sleep(time.Second)
		synctest.Wait()
		if rows() != 5002 {
			t.Fatalf("%d rows after the rollback of a load", rows())
		}
		time.Sleep(59 * time.Minute)
		if rows() != 5002 {
			t.Fatalf("%d rows: cleaned before the horizon", rows())
		}
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		if rows() != 2 {
			t.Fatalf("%d rows after the horizon", rows())
		}
		expect(t, s, "select * from t", "[x|y]\n1|1\nSELECT 1")
		s.Close()
		e.Close()
	})
}

// Rows for a table made in the same transaction are loaded in batches, and still
// checked for duplicates, whatever their order.
func TestBulkLoad(t *testing.T) {
	e, store := newEngine(t)
	s := newSession(t, e)
	must(t, s, "create table t (x int primary key, y text, unique (y))")
	must(t, s, "begin; truncate t; insert into t select g, 'row ' || g from generate_series(1, 30000) g; commit")
	expect(t, s, "select count(*), min(x), max(x), max(y) from t", "[count|min|max|max]\n30000|1|30000|row 9999\nSELECT 1")
	expect(t, s, "select x from t where y = 'row 12345'", "[x]\n12345\nSELECT 1")
	for _, dup := range []string{
		"select 30001 - g, 'r' || g from generate_series(1, 30000) g union all select 5, 'dup'",
		"select g, 'r' || (g % 29999) from generate_series(1, 30000) g",
	} {
		must(t, s, "begin; truncate t")
		if out := run(s, "insert into t "+dup); !strings.Contains(out, "ERROR 23505") {
			t.Fatalf("a duplicate was loaded: %.200s", out)
		}
		must(t, s, "rollback")
	}
	must(t, s, "begin; truncate t; insert into t select 20001 - g, 'r' || g from generate_series(1, 20000) g; commit")
	expect(t, s, "select count(*), min(x), max(x) from t", "[count|min|max]\n20000|1|20000\nSELECT 1")
	// Deleted rows do not come back, and loading is over once rows were changed.
	must(t, s, "begin; truncate t; insert into t select g, 'r' || g from generate_series(1, 20000) g")
	must(t, s, "delete from t where x > 100; insert into t select g, 's' || g from generate_series(101, 20000) g; commit")
	expect(t, s, "select count(*), count(*) filter (where y like 's%') from t", "[count|count]\n20000|19900\nSELECT 1")
	// Not behind a savepoint, which could ask for them back.
	must(t, s, "begin; truncate t; savepoint a; insert into t select g, 'r' || g from generate_series(1, 20000) g; rollback to a; commit")
	expect(t, s, "select count(*) from t", "[count]\n0\nSELECT 1")
	noneOpen(t, store)
}

// A store that fails makes clear errors and leaves nothing open.
func TestF1StoreErrors(t *testing.T) {
	s, store := newFaulty(t)
	must(t, s, "create table c (id int primary key)")
	store.fail = func(int64, keys.TxnID) error { return errors.New("disk on fire") }
	if out := run(s, "insert into c values (1)"); !strings.Contains(out, "ERROR XX000: disk on fire") {
		t.Fatal(out)
	}
	store.fail = nil
	expect(t, s, "select count(*) from c", "[count]\n0\nSELECT 1")
	noneOpen(t, store.Store)
}

// What all statements of a node collect has one bound; a cursor holds its share until
// it ends, however it ends.
func TestStatementsShareMemory(t *testing.T) {
	clock := truetime.NewManual(truetime.ManualOptions{})
	e, err := sql.NewEngine(sql.Config{KV: kvmem.New(clock), Node: 1, Memory: 16 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	const collect = "select g from generate_series(1, 100000) g order by -g"
	b := newSession(t, e)
	for name, end := range map[string]func(a sql.Session){
		"close":    func(a sql.Session) { must(t, a, "close c") },
		"rollback": func(a sql.Session) { must(t, a, "rollback") },
		"error":    func(a sql.Session) { run(a, "select 1/0"); run(a, "rollback") },
		"gone":     func(a sql.Session) { a.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			a := newSession(t, e)
			must(t, a, "begin; declare c cursor for "+collect+"; fetch 1 from c")
			if out := run(b, collect); !strings.Contains(out, "ERROR 53200: out of memory") || !strings.Contains(out, "of this node together") {
				t.Errorf("beside a cursor that holds most of the memory: %.100s", out)
			}
			end(a)
			must(t, b, collect)
		})
	}
}
