package sql_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/sql"
	"github.com/spandb/spand/sql/kv"
	"github.com/spandb/spand/tablet"
)

// idIn returns the value in the first column of a result's first row.
func idIn(t testing.TB, out string) string {
	t.Helper()
	lines := strings.Split(out, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, "[") && i+1 < len(lines) {
			id, _, _ := strings.Cut(lines[i+1], "|")
			return id
		}
	}
	t.Fatalf("no row in %q", out)
	return ""
}

func expectStatus(t testing.TB, s sql.Session, id, want string) {
	t.Helper()
	expect(t, s, "select pg_xact_status('"+id+"')", "[pg_xact_status]\n"+want+"\nSELECT 1")
}

// TestX5_StatusOfHowItEnded: every way for a transaction to ask for its id and to end,
// as another session sees it before, after, and once more.
func TestX5_StatusOfHowItEnded(t *testing.T) {
	const ask = "select pg_current_xact_id()"
	for _, c := range []struct {
		name  string
		steps []string // the first row of the first result with one has the id
		ends  string   // not yet run when the other session looks
		want  string
	}{
		{"commit", []string{"begin", ask, "insert into t values (1)"}, "commit", "committed"},
		{"nothing written", []string{"begin", ask}, "commit", "committed"},
		{"rows read", []string{"begin", "insert into t values (1)", ask, "select * from t"}, "commit", "committed"},
		{"rollback", []string{"begin", ask, "insert into t values (1)"}, "rollback", "aborted"},
		{"failed", []string{"begin", ask}, "select 1/0; commit", "aborted"},
		{"savepoint first", []string{"begin", "savepoint a", ask, "rollback to a", "insert into t values (1)"}, "commit", "committed"},
		{"savepoint, asked anew", []string{"begin", "savepoint a", ask, "rollback to a", ask}, "commit", "committed"},
		{"savepoint after an error", []string{"begin", "insert into t values (1)", "savepoint a", ask, "select 1/0", "rollback to a"}, "commit", "committed"},
		{"savepoint in vain", []string{"begin", "savepoint a", ask, "select 1/0"}, "commit", "aborted"},
		{"schema changed", []string{"begin", ask, "create table u (a int)"}, "commit", "committed"},
		{"read only", []string{"begin read only", ask}, "commit", "committed"},
		{"read only, rows first", []string{"begin read only", "table t", ask, "table t"}, "commit", "committed"},
		{"read only, rolled back", []string{"begin read only", "table t", ask}, "rollback", "aborted"},
		{"read only, failed", []string{"begin read only", ask}, "select 1/0; commit", "aborted"},
		{"read only at last", []string{"begin", ask, "set transaction read only", "table t"}, "commit", "committed"},
		{"chained", []string{"begin", ask}, "commit and chain; rollback", "committed"},
		{"the connection ends", []string{"begin", ask, "insert into t values (1)"}, "", "aborted"},
		{"read only, the connection ends", []string{"begin read only", ask}, "", "aborted"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, store := newEngine(t)
			a, b := newSession(t, e), newSession(t, e)
			must(t, a, "create table t (a int)")
			id := ""
			for _, step := range c.steps {
				out := run(a, step)
				if strings.Contains(out, "pg_current_xact_id") {
					if again := idIn(t, out); id != "" && again != id {
						t.Fatalf("the id was %s and is %s", id, again)
					}
					id = idIn(t, out)
				}
			}
			if !strings.Contains(c.name, "in vain") { // that has failed already
				expectStatus(t, a, id, "in progress")
			}
			expectStatus(t, b, id, "in progress")
			if c.ends == "" {
				a.Close()
			} else {
				run(a, c.ends)
			}
			for range 2 {
				expectStatus(t, b, id, c.want)
			}
			noneOpen(t, store)
		})
	}
}

// Statements of their own.
func TestX5_StatusOfAStatement(t *testing.T) {
	e, store := newEngine(t)
	a, b := newSession(t, e), newSession(t, e)
	must(t, a, "create table t (a int primary key, id xid8 default pg_current_xact_id())")
	must(t, a, "insert into t values (1)")
	for _, query := range []string{
		"select pg_current_xact_id()",
		"select pg_current_xact_id(), count(*) from t",
		"select pg_current_xact_id() from t for update",
		"insert into t values (2, pg_current_xact_id()) returning id",
		"insert into t values (3) returning id",
		"update t set id = pg_current_xact_id() where a = 1 returning id",
		"select 1; select pg_current_xact_id()",
		"select txid_current()",
	} {
		expectStatus(t, b, idIn(t, strings.TrimPrefix(must(t, a, query), "[?column?]\n1\nSELECT 1\n")), "committed")
	}
	expect(t, b, "select count(distinct id), min(pg_xact_status(id)), max(pg_xact_status(id)) from t",
		"[count|min|max]\n3|committed|committed\nSELECT 1")
	noneOpen(t, store)
}

// TestX5_StatusOfALostLock: a transaction without its locks is aborted for whoever
// asks, and cannot commit afterwards (X2).
func TestX5_StatusOfALostLock(t *testing.T) {
	e, store := newEngine(t)
	ctx := context.Background()
	older := store.Begin(ctx, kv.TxnOptions{})
	a, b := newSession(t, e), newSession(t, e)
	must(t, a, "create table t (a int)")
	must(t, a, "begin")
	id := idIn(t, must(t, a, "select pg_current_xact_id()"))
	must(t, a, "insert into t values (1)")
	must(t, a, "select * from t for update")
	all := keys.Span{Start: keys.MinKey, End: keys.MaxKey}
	rows := older.Scan(ctx, kv.ScanRequest{Span: all, Lock: tablet.LockExclusive})
	for rows.Next() {
	}
	older.Rollback(ctx)
	expectStatus(t, b, id, "aborted")
	if out := run(a, "commit"); !strings.Contains(out, "40001") {
		t.Fatal(out)
	}
	expectStatus(t, a, id, "aborted")
	expect(t, b, "select count(*) from t", "[count]\n0\nSELECT 1")
}

// TestX5_StatusOfARetriedStatement: an attempt that nobody has seen anything of is made
// again, and the id that is shown is that of the attempt which committed.
func TestX5_StatusOfARetriedStatement(t *testing.T) {
	for _, query := range []string{
		"select pg_current_xact_id()",
		"insert into t values (pg_current_xact_id()) returning id",
		"select pg_current_xact_id(), count(*) from t",
	} {
		e, store := newEngine(t)
		a := newSession(t, e)
		must(t, a, "create table t (id xid8)")
		var refuse atomic.Int32
		store.BeforeCommit = func(id keys.TxnID) error {
			if refuse.Add(-1) >= 0 {
				return &tablet.AbortedError{Txn: id, Reason: tablet.AbortLocksLost}
			}
			return nil
		}
		refuse.Store(2)
		out := run(a, query)
		if strings.Contains(query, "count") {
			// Its rows have left already: the client hears of the failure.
			if !strings.Contains(out, "40001") {
				t.Fatalf("%s: %s", query, out)
			}
			refuse.Store(0)
			expectStatus(t, a, idIn(t, out), "aborted")
			continue
		}
		if refuse.Load() >= 0 || strings.Contains(out, "ERROR") {
			t.Fatalf("%s: %s", query, out)
		}
		expectStatus(t, a, idIn(t, out), "committed")
		expect(t, a, "select count(*) from t where pg_xact_status(id) <> 'committed'", "[count]\n0\nSELECT 1")
	}
}

// TestX5_UnknownOutcomeSaysWhereToAsk: the hint of 08007 names the id, if one was asked
// for, and what it tells to do gives the answer.
func TestX5_UnknownOutcomeSaysWhereToAsk(t *testing.T) {
	e, store := newEngine(t)
	a, b := newSession(t, e), newSession(t, e)
	must(t, a, "create table t (a int)")
	lose := func(id keys.TxnID) error { return &kv.UnknownOutcomeError{Txn: id} }
	for _, begin := range []string{"begin; table t", "begin read only; table t"} {
		must(t, a, begin)
		id := idIn(t, must(t, a, "select pg_current_xact_id()"))
		store.BeforeCommit = lose
		out := run(a, "commit")
		store.BeforeCommit = nil
		ask := "SELECT pg_xact_status('" + id + "')"
		if !strings.Contains(out, "ERROR 08007") || !strings.Contains(out, ask) {
			t.Fatalf("%s: %s", begin, out)
		}
		expect(t, b, ask, "[pg_xact_status]\naborted\nSELECT 1") // this store's lost commits never happened
	}
	must(t, a, "begin; insert into t values (1)")
	store.BeforeCommit = lose
	out := run(a, "commit")
	store.BeforeCommit = nil
	if !strings.Contains(out, "ERROR 08007") || strings.Contains(out, "pg_xact_status") {
		t.Fatal(out)
	}
}

// TestOutcomesAreKeptForAWhile: the engine drops them in the background.
func TestOutcomesAreKeptForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := newEngine(t)
		defer e.Close()
		s := newSession(t, e)
		defer s.Close()
		id := idIn(t, must(t, s, "select pg_current_xact_id()"))
		time.Sleep(59 * time.Minute)
		expectStatus(t, s, id, "committed")
		time.Sleep(3 * time.Minute)
		expectStatus(t, s, id, "NULL")
	})
}
