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
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/tablet"
	"github.com/spandb/spand/truetime"
	"github.com/spandb/spand/txn"
)

// run executes a query string and returns what a client would see.
func run(s sql.Session, query string) string {
	w := &textResult{fs: s.FormatSettings()}
	if err := s.Simple(context.Background(), query, w); err != nil {
		w.fail(err)
	}
	return w.String()
}

func must(t testing.TB, s sql.Session, query string) string {
	t.Helper()
	out := run(s, query)
	if strings.Contains(out, "ERROR") {
		t.Fatalf("%s\n%s", query, out)
	}
	return out
}

func expect(t testing.TB, s sql.Session, query, want string) {
	t.Helper()
	if out := strings.TrimSpace(run(s, query)); out != want {
		t.Fatalf("%s\ngot  %q\nwant %q", query, out, want)
	}
}

// Concurrent transfers keep the total and every read sees it (X2, X4).
func TestX2TransfersKeepTheTotal(t *testing.T) {
	e, _ := newEngine(t)
	s := newSession(t, e)
	must(t, s, "create table acc (id int primary key, v int); insert into acc select g, 100 from generate_series(1, 10) g")
	var wg sync.WaitGroup
	var retried atomic.Int64
	for w := range 6 {
		c := newSession(t, e)
		wg.Go(func() {
			for i := range 60 {
				from, to := (w+i)%10+1, (w*3+i*7)%10+1
				if w == 0 {
					if out := run(c, "select sum(v) from acc"); !strings.Contains(out, "1000") {
						t.Errorf("a read saw another total: %s", out)
					}
					continue
				}
				for {
					out := run(c, "begin") + run(c, fmt.Sprintf("select v from acc where id = %d", from)) +
						run(c, fmt.Sprintf("update acc set v = v - 5 where id = %d", from)) +
						run(c, fmt.Sprintf("update acc set v = v + 5 where id = %d", to)) + run(c, "commit")
					if !strings.Contains(out, "ERROR") {
						break
					}
					if !strings.Contains(out, "40001") {
						t.Errorf("unexpected: %s", out)
						return
					}
					retried.Add(1)
					run(c, "rollback")
				}
			}
		})
	}
	wg.Wait()
	expect(t, s, "select sum(v), count(*) from acc", "[sum|count]\n1000|10\nSELECT 1")
	t.Logf("%d transactions were retried", retried.Load())
}

// Autocommit statements never show a conflict: they are tried again unseen (X2).
func TestX2AutocommitIsRetriedUnseen(t *testing.T) {
	e, _ := newEngine(t)
	s := newSession(t, e)
	must(t, s, "create table c (id int primary key, v int); insert into c values (1, 0)")
	var wg sync.WaitGroup
	for range 8 {
		c := newSession(t, e)
		wg.Go(func() {
			for range 40 {
				if out := run(c, "update c set v = v + 1 where id = 1 returning v > 0"); !strings.Contains(out, "UPDATE 1") {
					t.Errorf("%s", out)
				}
			}
		})
	}
	wg.Wait()
	expect(t, s, "select v from c", "[v]\n320\nSELECT 1")
}

// faultyKV makes chosen commits fail, and so many writes.
type faultyKV struct {
	*kvmem.Store
	fail   func(n int64, id keys.TxnID) error
	n      atomic.Int64
	wounds atomic.Int64
	ages   sync.Map // of the transactions begun: id -> age asked for
}

type faultyTxn struct {
	kv.Txn
	s *faultyKV
}

func (s *faultyKV) Begin(ctx context.Context, o kv.TxnOptions) kv.Txn {
	t := s.Store.Begin(ctx, o)
	s.ages.Store(t.ID(), o.Age)
	return faultyTxn{t, s}
}

func (t faultyTxn) Commit(ctx context.Context) (truetime.Timestamp, error) {
	if f := t.s.fail; f != nil {
		if err := f(t.s.n.Add(1), t.ID()); err != nil {
			return 0, err
		}
	}
	return t.Txn.Commit(ctx)
}

func (t faultyTxn) Put(ctx context.Context, k keys.Key, v []byte) error {
	if t.s.wounds.Load() > 0 {
		t.s.wounds.Add(-1)
		return &tablet.AbortedError{Txn: t.ID(), Reason: tablet.AbortWounded}
	}
	return t.Txn.Put(ctx, k, v)
}

func newFaulty(t *testing.T) (sql.Session, *faultyKV) {
	clock, err := truetime.NewSystem(truetime.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := &faultyKV{Store: kvmem.New(clock)}
	e, err := sql.NewEngine(sql.Config{KV: s, Node: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return newSession(t, e), s
}

func TestX2CommitConflicts(t *testing.T) {
	s, store := newFaulty(t)
	must(t, s, "create table c (id int primary key, v int); insert into c values (1, 0)")
	abort := func(limit int64) {
		store.n.Store(0)
		store.fail = func(n int64, id keys.TxnID) error {
			if n <= limit {
				return &tablet.AbortedError{Txn: id, Reason: tablet.AbortWounded}
			}
			return nil
		}
	}
	// An autocommit statement is tried again and applied once.
	abort(3)
	expect(t, s, "update c set v = v + 1 where id = 1 returning v", "[v]\n1\nUPDATE 1")
	// A block's commit is not: the client saw its statements. Its age is inherited.
	abort(1)
	must(t, s, "begin")
	must(t, s, "update c set v = v + 1 where id = 1")
	if out := run(s, "commit"); !strings.Contains(out, "ERROR 40001") {
		t.Fatalf("%s", out)
	}
	if s.Status() != sql.TxnIdle {
		t.Fatal("a failed commit left a transaction open")
	}
	expect(t, s, "select v from c", "[v]\n1\nSELECT 1")
	inherited := false
	must(t, s, "update c set v = 5 where id = 1")
	store.ages.Range(func(_, age any) bool {
		inherited = inherited || age.(truetime.Timestamp) != 0
		return true
	})
	if !inherited {
		t.Error("the next transaction did not inherit the age")
	}
	// An unknown outcome is never tried again (X5).
	store.n.Store(0)
	store.fail = func(n int64, id keys.TxnID) error {
		return &kv.UnknownOutcomeError{Txn: id, Cause: errors.New("cut off")}
	}
	if out := run(s, "update c set v = 6 where id = 1"); !strings.Contains(out, "ERROR 08007") || store.n.Load() != 1 {
		t.Fatalf("%d commits: %s", store.n.Load(), out)
	}
	store.fail = nil
	noneOpen(t, store.Store)
}

// A tablet for which nobody answers is refused as such, whatever the last attempt failed
// with, unless the statement ran out of its own time.
func TestUnavailable(t *testing.T) {
	s, store := newFaulty(t)
	must(t, s, "create table c (id int primary key)")
	store.fail = func(int64, keys.TxnID) error {
		slow := &txn.UnreachableError{Node: 3, Cause: context.DeadlineExceeded}
		return fmt.Errorf("committing: %w", &txn.UnavailableError{Group: 7, Cause: slow})
	}
	const want = "ERROR 57P03: could not reach the leader of tablet 7 in time\nDETAIL: Node 3 cannot be reached.\nHINT: A majority of the tablet's replicas"
	if out := run(s, "insert into c values (1)"); !strings.HasPrefix(out, want) {
		t.Fatal(out)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	store.fail = func(int64, keys.TxnID) error {
		cancel(sqlstate.Newf(sqlstate.QueryCanceled, "out of time"))
		return errors.Join(context.DeadlineExceeded, &txn.UnavailableError{Group: 7, Cause: txn.ErrNotSent})
	}
	if err := s.Simple(ctx, "insert into c values (1)", &textResult{fs: s.FormatSettings()}); sqlstate.CodeOf(err) != sqlstate.QueryCanceled {
		t.Fatal(err)
	}
	store.fail = nil
	expect(t, s, "select count(*) from c", "[count]\n0\nSELECT 1")
	noneOpen(t, store.Store)
}

// A statement that writes only keys which it need not lock first meets its conflict
// in the commit and is refused there (X2). Its next attempt waits for the older one.
func TestX2RefusedCommitWaitsItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := newEngine(t)
		a, b := newSession(t, e), newSession(t, e)
		must(t, a, "create table h (v int)")
		must(t, a, "begin")
		must(t, a, "select count(*) from h") // locks the range, and is older
		done := make(chan string, 1)
		go func() { done <- run(b, "insert into h values (1)") }()
		synctest.Wait()
		select {
		case out := <-done:
			t.Fatalf("did not wait: %s", out)
		default:
		}
		must(t, a, "commit")
		if out := <-done; !strings.Contains(out, "INSERT 0 1") {
			t.Fatal(out)
		}
		expect(t, a, "select count(*) from h", "[count]\n1\nSELECT 1")
	})
}

// A conflict in the first statement of a block, before the client saw anything of it,
// does not end the block.
func TestX2FirstStatementOfABlock(t *testing.T) {
	e, _ := newEngine(t)
	a, b := newSession(t, e), newSession(t, e)
	must(t, a, "create table c (id int primary key, v int); insert into c values (1, 0), (2, 0)")
	must(t, a, "begin")
	must(t, a, "update c set v = 1 where id = 2") // a is older
	must(t, b, "begin")
	must(t, b, "update c set v = 2 where id = 1")
	must(t, a, "update c set v = 1 where id = 1") // wounds b
	must(t, a, "commit")
	out := run(b, "update c set v = v + 10 where id = 2")
	if !strings.Contains(out, "ERROR 40001") {
		t.Fatalf("b had a statement behind it: %s", out)
	}
	expect(t, b, "select 1", "ERROR 25P02: current transaction is aborted, commands ignored until end of transaction block")
	must(t, b, "rollback")
	expect(t, a, "select * from c order by id", "[id|v]\n1|1\n2|1\nSELECT 2")
}

// Settings are no statement that the client has seen data by: the first one behind them is tried
// again unseen, under the same settings.
func TestX2FirstStatementBehindSettings(t *testing.T) {
	for _, c := range []struct {
		before  string
		retried bool
	}{
		{"set local application_name = 'x'", true},
		{"set application_name = 'x'", true},
		{"set local application_name = 'x'; show application_name", true},
		{"set local application_name = 'y'; set local application_name = 'x'; reset timezone", true},
		{"set local application_name = 'x'; savepoint s", false},
		{"set local application_name = 'x'; select 1", false},
	} {
		s, store := newFaulty(t)
		must(t, s, "create table c (id int primary key, v int); insert into c values (1, 0), (2, 0)")
		must(t, s, "begin; "+c.before)
		store.wounds.Store(1)
		out := run(s, "update c set v = v + 10 returning id, v, current_setting('application_name')")
		switch {
		case store.wounds.Load() != 0:
			t.Error("there was no conflict")
		case !c.retried && !strings.Contains(out, "ERROR 40001"):
			t.Errorf("behind %s it was tried again: %s", c.before, out)
		case c.retried && !strings.Contains(out, "1|10|x\n2|10|x\n"):
			t.Errorf("behind %s: %s", c.before, out)
		}
		must(t, s, "rollback")
		expect(t, s, "show application_name", "[application_name]\n\nSHOW")
		noneOpen(t, store.Store)
	}
}

// What a statement's error tells has been read, so it waits as rows do, and so does
// the end of an empty result: nobody hears of a commit before its timestamp has passed.
func TestX1ErrorsWaitAsRowsDo(t *testing.T) {
	const epsilon = 100 * time.Millisecond
	for _, c := range []struct{ query, want string }{
		{"insert into c values (1, 0)", "23505"},
		{"insert into c values (2, 0), (1, 0)", "23505"},
		{"select 1 / (v - 1) from c", "22012"},
		{"begin; select 1 / (v - 1) from c", "22012"},
		{"update c set v = 1 / (v - 1)", "22012"},
		{"copy (select 1 / (v - 1) from c) to stdout", "22012"},
		{"copy (delete from c where v <> 1 returning v) to stdout", ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			e, _ := newCluster(t, 1, epsilon)
			a, b := e.session(t, 0), e.session(t, 0)
			defer e.close(a, b)
			must(t, a, "create table c (id int primary key, v int)")
			began := time.Now()
			done := make(chan string, 1)
			go func() { done <- run(a, "insert into c values (1, 1)") }()
			time.Sleep(time.Millisecond) // a is in commit wait, and a read at Now().Latest sees its row
			if out := run(b, c.query); c.want != "" && !strings.Contains(out, c.want) {
				t.Errorf("%s: %s", c.query, out)
			}
			if took := time.Since(began); took < 2*epsilon {
				t.Errorf("%s: told %v after a commit began, before its timestamp had passed", c.query, took)
			}
			<-done
		})
	}
}

func TestLockClauses(t *testing.T) {
	e, _ := newEngine(t)
	a, b := newSession(t, e), newSession(t, e)
	must(t, a, "create table c (id int primary key, v int); insert into c values (1, 0), (2, 0), (3, 0)")
	must(t, a, "begin")
	expect(t, a, "select id from c where id = 2 for update", "[id]\n2\nSELECT 1")
	expect(t, b, "select id from c where id = 2 for update nowait", "ERROR 55P03: could not obtain lock on row")
	expect(t, b, "select id from c order by id for update skip locked", "[id]\n1\n3\nSELECT 2")
	expect(t, b, "select id from c where id in (1, 2) for share skip locked", "[id]\n1\nSELECT 1")
	expect(t, b, "select count(*) from c", "[count]\n3\nSELECT 1") // lock-free
	must(t, a, "commit")
	expect(t, b, "select id from c where id = 2 for update nowait", "[id]\n2\nSELECT 1")
}

// Inserting into a range that another transaction has read is a conflict: no phantoms.
func TestX2NoPhantoms(t *testing.T) {
	e, _ := newEngine(t)
	a, b := newSession(t, e), newSession(t, e)
	must(t, a, "create table c (id int primary key, v int); insert into c values (1, 1), (5, 5)")
	must(t, a, "begin")
	expect(t, a, "select count(*) from c where id between 2 and 9", "[count]\n1\nSELECT 1")
	done := make(chan string)
	go func() { done <- run(b, "insert into c values (3, 3)") }()
	expect(t, a, "select count(*) from c where id between 2 and 9", "[count]\n1\nSELECT 1")
	must(t, a, "update c set v = 0 where id = 1")
	must(t, a, "commit")
	if out := <-done; !strings.Contains(out, "INSERT 0 1") {
		t.Fatal(out)
	}
}

func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, store := newEngine(t)
		s := newSession(t, e)
		ctx, cancel := context.WithCancelCause(context.Background())
		cancel(sqlstate.Newf(sqlstate.QueryCanceled, "canceling statement due to statement timeout"))
		err := s.Simple(ctx, "select count(*) from generate_series(1, 100000000)", &textResult{fs: s.FormatSettings()})
		if sqlstate.CodeOf(err) != sqlstate.QueryCanceled || !strings.Contains(err.Error(), "timeout") {
			t.Fatalf("%v", err)
		}
		must(t, s, "create table l (a int primary key); insert into l values (1)")
		must(t, s, "begin; update l set a = 1 where a = 1")
		b := newSession(t, e)
		b.Cancel() // nothing runs: nothing happens
		done := make(chan string)
		go func() { done <- run(b, "update l set a = 1 where a = 1") }()
		synctest.Wait() // it waits for the lock
		b.Cancel()
		if out := <-done; !strings.Contains(out, "ERROR 57014: canceling statement due to user request") {
			t.Fatal(out)
		}
		must(t, s, "commit")
		must(t, b, "update l set a = 1 where a = 1")
		noneOpen(t, store)
	})
}

// lock_timeout bounds each wait for a lock, not the statement.
func TestLockTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, store := newEngine(t)
		a, b := newSession(t, e), newSession(t, e)
		const timedOut = "ERROR 55P03: canceling statement due to lock timeout"
		must(t, a, "create table l (a int primary key, b int, unique (b)); insert into l select g, g from generate_series(1, 20) g")
		must(t, b, "set lock_timeout = '2s'")
		must(t, a, "begin; update l set b = 10 where a = 10")
		for _, q := range []string{
			"update l set b = 0 where a = 10",
			"delete from l",
			"select * from l where b = 10 for update",
			"insert into l values (10, 30)",
			"insert into l values (10, 30) on conflict do nothing",
			"copy l from stdin",
			"create table l2 as select * from l",
			"alter table l alter column b set not null",
		} {
			start := time.Now()
			w := &textResult{fs: b.FormatSettings(), data: "10\t30\n"}
			if err := b.Simple(context.Background(), q, w); err != nil {
				w.fail(err)
			}
			if out := w.String(); !strings.Contains(out, timedOut) {
				t.Fatalf("%s\n%s", q, out)
			}
			if took := time.Since(start); took < 2*time.Second || took > 3*time.Second {
				t.Errorf("%s gave up after %v", q, took)
			}
		}
		// It is not the time of the statement, and no reader waits.
		expect(t, b, "select pg_sleep(30)", "[pg_sleep]\n\nSELECT 1")
		expect(t, b, "select count(*) from l", "[count]\n20\nSELECT 1")

		// Behind a savepoint the block goes on, under another limit.
		must(t, b, "begin; update l set b = 1 where a = 1; savepoint s")
		expect(t, b, "update l set b = 0 where a = 10", timedOut)
		must(t, b, "rollback to s; set local lock_timeout = 0")
		done := make(chan string)
		go func() { done <- run(b, "update l set b = 100 where a = 10") }()
		time.Sleep(time.Hour)
		must(t, a, "commit")
		if out := <-done; !strings.Contains(out, "UPDATE 1") {
			t.Fatal(out)
		}
		must(t, b, "commit")
		expect(t, b, "select sum(b) from l", "[sum]\n300\nSELECT 1")
		expect(t, b, "show lock_timeout", "[lock_timeout]\n2s\nSHOW")
		noneOpen(t, store)
	})
}

// The engine's timers run in virtual time.
func TestLeaseRenewalInVirtualTime(t *testing.T) {
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
		must(t, s, "create table a (x int primary key); insert into a values (1)")
		must(t, s, "select pg_sleep(3600)") // the lease lapses
		expect(t, s, "select x from a", "[x]\n1\nSELECT 1")
		must(t, s, "begin; insert into a values (2)")
		must(t, s, "select pg_sleep(30)")
		must(t, s, "commit")
		expect(t, s, "select count(*) from a", "[count]\n2\nSELECT 1")
		s.Close()
		e.Close()
	})
}
