package sql_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/sql"
	"github.com/spandb/spand/sql/kv"
	"github.com/spandb/spand/sql/kvmem"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/truetime"
)

// fakeFencer is a cell whose locks are held as a test says.
type fakeFencer struct {
	clock truetime.Clock

	mu    sync.Mutex
	locks map[string]string // by sequencer: held, late (already over), away (cannot be asked)
	asked []string          // what Check was asked
	open  int               // promises not given back
	// answered runs after an answer was chosen and before it is given: a pause of the gateway.
	answered func(until truetime.Timestamp)
	// silent, when set, is told of each question, which gets no answer.
	silent chan struct{}
	// done runs when a promise is given back.
	done func()
}

func newFakeFencer() *fakeFencer { return &fakeFencer{locks: make(map[string]string)} }

func (f *fakeFencer) set(sequencer, state string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.locks[sequencer] = state
}

func (f *fakeFencer) promises() (open int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.open
}

func (f *fakeFencer) Check(ctx context.Context, sequencers []string) (truetime.Timestamp, func(), error) {
	if f.silent != nil {
		f.silent <- struct{}{}
		<-ctx.Done()
		return 0, nil, ctx.Err()
	}
	f.mu.Lock()
	f.asked = append(f.asked, strings.Join(sequencers, " and "))
	now := f.clock.Now()
	until := now.Latest.Add(250 * time.Millisecond)
	for _, s := range sequencers {
		switch f.locks[s] {
		case "held":
		case "late":
			until = now.Earliest - 1
		case "away":
			f.mu.Unlock()
			return 0, nil, errors.New("nobody leads cell local")
		default:
			f.mu.Unlock()
			return 0, nil, &sql.StaleFenceError{Sequencer: s, Why: "the lock was released"}
		}
	}
	f.open++
	answered := f.answered
	f.mu.Unlock()
	if answered != nil {
		answered(until)
	}
	var once sync.Once
	return until, func() {
		called := false
		once.Do(func() { called = true })
		if !called {
			panic("done was called twice")
		}
		if f.done != nil {
			f.done()
		}
		f.mu.Lock()
		f.open--
		f.mu.Unlock()
	}, nil
}

// script is the directive "locks": lines "<sequencer> <state>".
func (f *fakeFencer) script(input string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range strings.Split(input, "\n") {
		if s, state, ok := strings.Cut(l, " "); ok {
			f.locks[s] = state
		}
	}
	var b strings.Builder
	for _, a := range slices.Compact(f.asked) {
		fmt.Fprintln(&b, "asked:", a)
	}
	if f.open > 0 {
		fmt.Fprintln(&b, "promises open:", f.open)
	}
	f.asked = nil
	return b.String()
}

const lockA, lockB = "/ls/local/jobs/x:exclusive:7:1", "/ls/local/jobs/x:exclusive:8:2"

// newFenced is an engine in virtual time whose clock is uncertain by 5 ms, and its cell.
func newFenced(t *testing.T, adjust ...func(*sql.Config)) (*sql.Engine, *fakeFencer, *kvmem.Store) {
	t.Helper()
	clock := truetime.NewManual(truetime.ManualOptions{})
	clock.SetEpsilon(5 * time.Millisecond)
	store, f := kvmem.New(clock), newFakeFencer()
	f.clock = clock
	cfg := sql.Config{KV: store, Node: 1, Fencer: f}
	for _, a := range adjust {
		a(&cfg)
	}
	e, err := sql.NewEngine(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	return e, f, store
}

// The holder of generation 7 is paused between the cell's answer and the commit, until its
// lock has passed to the holder of generation 8 and that one has committed. Nothing of
// it commits any more, whatever it was about.
func TestL2_PausedHolderNeverCommitsAfterTheNext(t *testing.T) {
	for _, c := range []struct{ name, query, data, want string }{
		{"autocommit", "update acc set v = v + 100 where id = 1", "", "55S01"}, // asked anew, on the server
		{"block", "begin; update acc set v = v + 100 where id = 1; commit", "", "40001"},
		{"block with a savepoint", "begin; savepoint s; update acc set v = v + 100 where id = 1; release s; commit", "", "40001"},
		{"several statements", "update acc set v = v + 100 where id = 1; insert into acc values (3, 100)", "", "40001"},
		{"copy", "copy acc from stdin", "4\t100\n", "40001"},
		{"schema change", "alter table acc add column w int default 100", "", "55S01"},
		{"create table as", "create table copied as select * from acc", "", "55S01"},
		{"truncate", "truncate acc", "", "55S01"},
		{"explain analyze", "explain analyze delete from acc where id = 1", "", "55S01"},
		{"read under locks", "begin; select v from acc where id = 1; commit", "", "40001"},
		{"id asked for", "begin; select pg_current_xact_id() is null; update acc set v = v + 100 where id = 1; commit", "", "40001"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, f, store := newFenced(t)
				defer e.Close()
				a, b, r := newSession(t, e), newSession(t, e), newSession(t, e)
				defer a.Close()
				defer b.Close()
				defer r.Close()
				must(t, b, "create table acc (id int primary key, v int); insert into acc values (1, 0), (2, 0); create table next (v int)")
				f.set(lockA, "held")
				must(t, a, "set spand.fence = '"+lockA+"'")
				must(t, b, "set spand.fence = '"+lockB+"'")
				before := must(t, r, "select * from acc; select relname from pg_class where relname = 'copied'")
				f.answered = func(until truetime.Timestamp) {
					f.answered = nil
					if err := f.clock.AwaitAfter(context.Background(), until); err != nil {
						t.Error(err)
					}
					f.set(lockA, "lost")
					f.set(lockB, "held")
					must(t, b, "insert into next values (1)")
				}
				w := &textResult{fs: a.FormatSettings(), data: c.data}
				if err := a.Simple(context.Background(), c.query, w); err == nil {
					t.Errorf("committed after the next holder: %s", w.String())
				} else if code(err) != c.want {
					t.Errorf("%v, not %s", err, c.want)
				}
				must(t, a, "rollback")
				if after := must(t, r, "select * from acc; select relname from pg_class where relname = 'copied'"); after != before {
					t.Errorf("something of it committed:\n%s", after)
				}
				if n := f.promises(); n != 0 {
					t.Errorf("%d promises are open", n)
				}
				a.Close()
				b.Close()
				noneOpen(t, store)
			})
		})
	}
}

// unsettled is a store whose commits happen, and nobody learns of it.
type unsettled struct {
	*kvmem.Store
	on atomic.Bool
}

type unsettledTxn struct {
	kv.Txn
	s *unsettled
}

func (s *unsettled) Begin(ctx context.Context, o kv.TxnOptions) kv.Txn {
	return unsettledTxn{s.Store.Begin(ctx, o), s}
}

func (t unsettledTxn) Commit(ctx context.Context) (truetime.Timestamp, error) {
	ts, err := t.Txn.Commit(ctx)
	if t.s.on.Load() && err == nil {
		return 0, &kv.UnknownOutcomeError{Txn: t.ID(), Cause: errors.New("lost")}
	}
	return ts, err
}

// The cell may let go of the lock when the outcome is known, after commit wait; never
// when it is not.
func TestL2_PromisesEndWithTheOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var odd *unsettled
		e, f, _ := newFenced(t, func(c *sql.Config) {
			odd = &unsettled{Store: c.KV.(*kvmem.Store)}
			c.KV = odd
		})
		defer e.Close()
		s := newSession(t, e)
		defer s.Close()
		must(t, s, "create table acc (id int primary key, v int)")
		f.set(lockA, "held")
		must(t, s, "set spand.fence = '"+lockA+"'")

		var released truetime.Interval
		f.done = func() { released = f.clock.Now() }
		for _, q := range []string{"insert into acc values (1, 0)", "begin; update acc set v = 1; commit", "create index on acc (v)"} {
			released = truetime.Interval{}
			must(t, s, q)
			shown := strings.Split(must(t, s, "show spand.commit_timestamp"), "\n")[1]
			ts, err := time.Parse(time.RFC3339Nano, shown)
			if err != nil {
				t.Fatal(err)
			}
			if released.Earliest <= truetime.FromTime(ts) {
				t.Errorf("%s: the lock was let go at %v, when %v had not certainly passed", q, released, shown)
			}
			if n := f.promises(); n != 0 {
				t.Errorf("%s: %d promises are open", q, n)
			}
		}
		for _, q := range []string{"insert into acc values (1, 0)", "begin; update acc set v = 1 / (v - v); commit", "rollback"} {
			run(s, q)
			if n := f.promises(); n != 0 {
				t.Errorf("%s: %d promises are open", q, n)
			}
		}
		odd.on.Store(true)
		for i, q := range []string{"insert into acc values (2, 0)", "begin; update acc set v = 2; commit", "drop table acc"} {
			before := f.promises()
			if out := run(s, q); !strings.Contains(out, "08007") {
				t.Fatalf("%s: %s", q, out)
			}
			if n := f.promises(); n <= before {
				t.Errorf("%d: the promise was given back although nobody knows the outcome", i)
			}
		}
	})
}

// Without an answer nothing commits, and nobody waits for ever.
func TestL2_NoAnswerNoCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, f, _ := newFenced(t)
		defer e.Close()
		s := newSession(t, e)
		defer s.Close()
		must(t, s, "create table acc (id int primary key)")
		must(t, s, "set spand.fence = '"+lockA+"'")
		f.silent = make(chan struct{}, 1)
		asked := func() {
			select {
			case <-f.silent:
			case <-time.After(time.Minute):
				t.Error("nobody asked")
			}
		}
		start := time.Now()
		if out := run(s, "insert into acc values (1)"); !strings.Contains(out, "57P03") || time.Since(start) != 10*time.Second {
			t.Errorf("after %v: %s", time.Since(start), out)
		}
		asked()
		start = time.Now()
		ctx, cancel := context.WithTimeoutCause(context.Background(), time.Second, sqlstate.Newf(sqlstate.QueryCanceled, "canceling statement due to statement timeout"))
		defer cancel()
		if err := s.Simple(ctx, "insert into acc values (1)", &textResult{fs: s.FormatSettings()}); code(err) != "57014" || time.Since(start) != time.Second {
			t.Errorf("statement_timeout, after %v: %v", time.Since(start), err)
		}
		asked()
		go func() {
			asked()
			s.Cancel()
		}()
		if out := run(s, "insert into acc values (1)"); !strings.Contains(out, "57014") {
			t.Errorf("cancelled: %s", out)
		}
		f.silent = nil
		f.set(lockA, "held")
		expect(t, s, "select count(*) from acc", "[count]\n0\nSELECT 1")
		must(t, s, "insert into acc values (1)")

		bare, _, _ := newFenced(t, func(c *sql.Config) { c.Fencer = nil })
		defer bare.Close()
		n := newSession(t, bare)
		defer n.Close()
		if out := run(n, "create table acc (id int); begin; set local spand.fence = '"+lockA+"'; insert into acc values (2); commit"); !strings.Contains(out, "0A000") {
			t.Errorf("no lock service: %s", out)
		}
	})
}

// B2: once ALTER TABLE has returned, no write commits that was planned without the fence.
func TestB2_FencedByTakesEffectEverywhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, store := newCluster(t, 3, time.Millisecond)
		s := c.session(t, 0)
		must(t, s, "create table t (x int)")
		committedAt := func(s sql.Session) string { return strings.Split(must(t, s, "show spand.commit_timestamp"), "\n")[1] }

		open := c.session(t, 1)
		must(t, open, "begin; insert into t values (1)")
		var last [3]string // of each writer
		var wrote atomic.Int64
		var wg sync.WaitGroup
		for i := range 3 {
			w := c.session(t, i)
			wg.Go(func() {
				defer w.Close()
				for {
					switch out := run(w, "insert into t values (2)"); {
					case strings.Contains(out, "INSERT 0 1"):
						last[i] = committedAt(w)
						wrote.Add(1)
					case strings.Contains(out, "55S02"):
						return
					case !strings.Contains(out, "40001"):
						t.Error(out)
						return
					}
					time.Sleep(3 * time.Millisecond)
				}
			})
		}
		time.Sleep(100 * time.Millisecond)
		for {
			out := run(s, "alter table t set (fenced_by = '/ls/local/jobs/x')")
			if !strings.Contains(out, "ERROR") {
				break
			}
			if !strings.Contains(out, "40001") {
				t.Fatal(out)
			}
		}
		altered := committedAt(s)
		if out := run(open, "commit"); !strings.Contains(out, "40001") {
			t.Errorf("a write from before: %s", out)
		}
		wg.Wait()
		for i := range last {
			if last[i] > altered {
				t.Errorf("node %d wrote without a fence at %s, after %s", i, last[i], altered)
			}
		}
		if wrote.Load() < 10 {
			t.Errorf("only %d writes", wrote.Load())
		}
		expect(t, s, "select count(*) from t", fmt.Sprintf("[count]\n%d\nSELECT 1", wrote.Load()))
		c.close(s, open)
		noneOpen(t, store)
	})
}

// EXPLAIN ANALYZE and the log tell how long the fence took to check.
func TestFenceCheckIsShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := new(lockedBuffer)
		e, f, _ := newFenced(t, func(c *sql.Config) {
			c.Logger = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		})
		defer e.Close()
		s := newSession(t, e)
		defer s.Close()
		must(t, s, "create table acc (id int primary key)")
		if out := must(t, s, "explain analyze insert into acc values (1)"); strings.Contains(out, "Fence") || strings.Contains(log.String(), "fence") {
			t.Errorf("there is no fence:\n%s\n%s", out, log.String())
		}
		f.set(lockA, "held")
		f.answered = func(truetime.Timestamp) { time.Sleep(7 * time.Millisecond) }
		out := must(t, s, "begin; set local spand.fence = '"+lockA+"'; commit; set spand.fence = '"+lockA+"'; explain analyze insert into acc values (2)")
		if !regexp.MustCompile(`(?s)Execution Time: .*Fence Check: 7\.0\d\d ms\nCommit Timestamp: `).MatchString(out) {
			t.Error(out)
		}
		if !strings.Contains(log.String(), "fence_check=7ms") {
			t.Error(log.String())
		}
	})
}
