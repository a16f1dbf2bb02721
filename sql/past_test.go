package sql_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/spandb/spand/sql"
	"github.com/spandb/spand/sql/kvmem"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
	"github.com/spandb/spand/truetime"
)

func simple(t *testing.T, s sql.Session, query string) (string, error) {
	t.Helper()
	w := &textResult{fs: s.FormatSettings()}
	err := s.Simple(context.Background(), query, w)
	return w.String(), err
}

func mustSimple(t *testing.T, s sql.Session, query string) string {
	t.Helper()
	out, err := simple(t, s, query)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return out
}

// Under a setting under which nothing can be read, what reads no table runs, prepared
// too, so that a client can see and set things.
func TestPastNothingCanBeRead(t *testing.T) {
	e, _ := newEngine(t)
	s := newSession(t, e)
	x := ext{t, s}
	must(t, s, "create table t (a int primary key)")
	must(t, s, "set spand.read_only_staleness = 'EXACT_STALENESS 48h'")
	single := sql.ExecuteOptions{SyncFollows: true}
	for q, want := range map[string]string{
		"select 1 as one": "[one]\n1\nSELECT 1",
		"select a from t": "ERROR 72000: snapshot too old",
		"select set_config('spand.read_only_staleness', 'EXACT_STALENESS 49h', false) as v": "[v]\nEXACT_STALENESS 176400s\nSELECT 1",
	} {
		if err := x.prepare("", q); err != nil {
			t.Fatal(q, err)
		}
		if got := x.exec("", single); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %s", q, got)
		}
		x.sync()
	}
	if err := x.prepare("", "select a from t as of timestamp '2020-01-01'"); sqlstate.CodeOf(err) != sqlstate.SnapshotTooOld {
		t.Error(err)
	}
}

// Older than versions are kept is refused, whatever way the timestamp is named, with
// the oldest that is allowed; what only bounds it is not.
func TestPastIsKeptForAWhile(t *testing.T) {
	clock, err := truetime.NewSystem(truetime.Options{})
	if err != nil {
		t.Fatal(err)
	}
	e, err := sql.NewEngine(sql.Config{KV: kvmem.New(clock), Node: 1, GCHorizon: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	s := newSession(t, e)
	mustSimple(t, s, "create table t (a int primary key); insert into t values (1)")
	at := time.Now()
	time.Sleep(5 * time.Millisecond)
	named := at.UTC().Format(time.RFC3339Nano)
	for _, q := range []string{
		"select * from t as of timestamp '" + named + "'",
		"begin read only as of timestamp '" + named + "'",
		"set spand.read_only_staleness = 'READ_TIMESTAMP " + named + "'; select * from t",
		"set spand.read_only_staleness = 'EXACT_STALENESS 5ms'; select * from t",
	} {
		_, err := simple(t, s, q)
		se, ok := err.(*sqlstate.Error)
		if !ok || se.Code != sqlstate.SnapshotTooOld || !strings.HasPrefix(se.Detail, "The oldest timestamp that can be read is 20") {
			t.Errorf("%s: %v", q, err)
		}
		simple(t, s, "rollback")
		mustSimple(t, s, "reset spand.read_only_staleness")
	}
	mustSimple(t, s, "set spand.read_only_staleness = 'MIN_READ_TIMESTAMP "+named+"'")
	if out := mustSimple(t, s, "select * from t"); !strings.Contains(out, "\n1\n") {
		t.Errorf("bounded by what is too old: %s", out)
	}
}

// A timestamp a little ahead is waited for, and what was committed before it is seen.
func TestPastIsWaitedFor(t *testing.T) {
	e, _ := newEngine(t)
	s := newSession(t, e)
	mustSimple(t, s, "create table t (a int primary key)")
	at := time.Now().Add(300 * time.Millisecond)
	mustSimple(t, s, "insert into t values (1)")
	out := mustSimple(t, s, "select * from t as of timestamp '"+at.UTC().Format(time.RFC3339Nano)+"'")
	if !strings.Contains(out, "\n1\n") {
		t.Errorf("it does not see what was committed before: %s", out)
	}
	if early := time.Until(at); early > 0 {
		t.Errorf("it answers %v early", early)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	later := time.Now().Add(5 * time.Second).UTC().Format(time.RFC3339Nano)
	if err := s.Simple(ctx, "select * from t as of timestamp '"+later+"'", &textResult{fs: s.FormatSettings()}); sqlstate.CodeOf(err) != sqlstate.QueryCanceled {
		t.Errorf("waiting ends with its context: %v", err)
	}
}

// In the extended protocol too a statement is described under the schema of its
// timestamp, its parameter is a timestamptz, and now() is a new one each time.
func TestPastIsDescribed(t *testing.T) {
	e, _ := newEngine(t)
	s := newSession(t, e)
	ctx := context.Background()
	mustSimple(t, s, "create table t (a int primary key); insert into t values (1)")
	at, _ := s.Setting("spand.commit_timestamp")
	mustSimple(t, s, "drop table t")
	run := func(name string, params ...types.Datum) string {
		t.Helper()
		w := &textResult{fs: s.FormatSettings()}
		if err := s.Bind(ctx, "", name, params); err != nil {
			t.Fatal(err)
		}
		_, err := s.Execute(ctx, "", sql.ExecuteOptions{SyncFollows: true}, w)
		if serr := s.Sync(ctx); err == nil {
			err = serr
		}
		if err != nil {
			w.fail(err)
		}
		return w.String()
	}
	if err := s.Prepare(ctx, "gone", "select a from t as of timestamp '"+at+"'", nil); err != nil {
		t.Fatal(err)
	}
	if _, cols, err := s.DescribeStatement(ctx, "gone"); err != nil || len(cols) != 1 || cols[0].Name != "a" {
		t.Errorf("described as %v, %v", cols, err)
	}
	if out := run("gone"); !strings.Contains(out, "SELECT 1") {
		t.Errorf("a dropped table: %s", out)
	}
	mustSimple(t, s, "create table u (a int primary key)")
	if err := s.Prepare(ctx, "p", "select a from u as of timestamp $1", nil); err != nil {
		t.Fatal(err)
	}
	if params, _, err := s.DescribeStatement(ctx, "p"); err != nil || len(params) != 1 || params[0] != types.OIDTimestampTZ {
		t.Errorf("parameters %v, %v", params, err)
	}
	mustSimple(t, s, "insert into u values (7)")
	time.Sleep(time.Millisecond)
	if out := run("p", types.Timestamp(time.Now().UnixMicro()-946684800_000_000)); !strings.Contains(out, "SELECT 1") {
		t.Errorf("by parameter: %s", out)
	}
	if err := s.Prepare(ctx, "n", "select a from u as of timestamp now() order by 1", nil); err != nil {
		t.Fatal(err)
	}
	mustSimple(t, s, "insert into u values (8)")
	time.Sleep(time.Millisecond)
	if out := run("n"); !strings.Contains(out, "SELECT 2") {
		t.Errorf("now() of a statement prepared before: %s", out)
	}
}
