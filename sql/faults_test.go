package sql_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/spandb/spand/sql"
	"github.com/spandb/spand/sql/kvmem"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
	"github.com/spandb/spand/tablet"
	"github.com/spandb/spand/truetime"
)

// script is Faults that does what a test sets, and notes what it was asked.
type script struct {
	statement func(query string) error
	commit    func(done bool) error
	asked     []string
}

func (f *script) NewSession() sql.SessionFaults { return f }

func (f *script) Statement(query string, first bool) error {
	if first {
		query = "first " + query
	}
	f.asked = append(f.asked, query)
	if f.statement == nil {
		return nil
	}
	return f.statement(query)
}

func (f *script) Commit(done bool) error {
	if f.commit == nil {
		return nil
	}
	return f.commit(done)
}

func (f *script) want(t *testing.T, asked ...string) {
	t.Helper()
	if got := strings.Join(f.asked, "; "); got != strings.Join(asked, "; ") {
		t.Errorf("asked about %q", got)
	}
	f.asked = nil
}

func newFaultyEngine(t *testing.T, f sql.Faults) (*sql.Engine, *kvmem.Store) {
	t.Helper()
	store := kvmem.New(truetime.NewManual(truetime.ManualOptions{}))
	e, err := sql.NewEngine(sql.Config{KV: store, Node: 1, Faults: f})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e, store
}

// A forced conflict is what a real one is: the block is failed, its locks are gone, and
// 40001 with the usual text is what the client reads (X2, F1).
func TestForcedConflict(t *testing.T) {
	f := &script{}
	e, store := newFaultyEngine(t, f)
	s, other := newSession(t, e), newSession(t, e)
	must(t, s, "create table t (k int primary key, v int); insert into t values (1, 0)")
	f.statement = func(query string) error {
		if strings.Contains(query, "v = 7") || query == "commit" || strings.HasPrefix(query, "first update") {
			return &tablet.AbortedError{Reason: tablet.AbortWounded}
		}
		return nil
	}
	const conflict = "ERROR 40001: could not serialize access: wounded by an older transaction\nHINT: The transaction might succeed if retried."
	f.asked = nil
	expect(t, s, "begin", "BEGIN")
	expect(t, s, "update t set v = 1", "UPDATE 1")
	expect(t, s, "update t set v = 7", conflict)
	f.want(t, "first begin", "update t set v = 1", "update t set v = 7")
	if s.Status() != sql.TxnFailed {
		t.Errorf("status %c", s.Status())
	}
	noneOpen(t, store)
	expect(t, other, "select v from t", "[v]\n0\nSELECT 1")
	expect(t, s, "select 1", "ERROR 25P02: current transaction is aborted, commands ignored until end of transaction block")
	expect(t, s, "rollback", "ROLLBACK")

	// At COMMIT the transaction ends.
	expect(t, s, "begin; update t set v = 2", "BEGIN\nUPDATE 1")
	expect(t, s, "commit", conflict)
	if s.Status() != sql.TxnIdle {
		t.Errorf("status %c", s.Status())
	}
	noneOpen(t, store)

	// A statement of its own is not tried again unseen, as after a real conflict.
	expect(t, s, "update t set v = 3", conflict)
	expect(t, other, "select v from t", "[v]\n0\nSELECT 1")
}

// The connection may break on either side of a commit, and nothing is told.
func TestConnectionLostAtCommit(t *testing.T) {
	for _, committed := range []bool{false, true} {
		f := &script{}
		e, store := newFaultyEngine(t, f)
		check := newSession(t, e)
		must(t, check, "create table t (k int primary key, v int); insert into t values (1, 0)")
		f.commit = func(done bool) error {
			if done == committed {
				return sql.ErrConnectionLost
			}
			return nil
		}
		lost := func(what string, err error) {
			t.Helper()
			if !errors.Is(err, sql.ErrConnectionLost) {
				t.Errorf("%s, committed %v: %v", what, committed, err)
			}
		}
		ctx := context.Background()
		s := newSession(t, e)
		w := &textResult{fs: s.FormatSettings()}
		must(t, s, "begin; update t set v = v + 1")
		lost("COMMIT", s.Simple(ctx, "commit", w))
		lost("implicit", s.Simple(ctx, "update t set v = v + 10", w))
		x := ext{t, s}
		if err := x.prepare("u", "update t set v = v + 100 where k = $1", types.OIDInt4); err != nil {
			t.Fatal(err)
		}
		if got := x.exec("u", sql.ExecuteOptions{}, types.Int(1)); got != "UPDATE 1" {
			t.Fatal(got)
		}
		lost("Sync", s.Sync(ctx))
		if out := w.String(); strings.Contains(out, "COMMIT") || strings.Contains(out, "UPDATE") {
			t.Errorf("the client was told: %s", out)
		}
		// Reads have nothing to lose.
		want := map[bool]string{false: "[v]\n0\nSELECT 1", true: "[v]\n111\nSELECT 1"}[committed]
		expect(t, check, "select v from t", want)
		s.Close()
		noneOpen(t, store)
	}
	if sqlstate.CodeOf(sql.ErrConnectionLost) != sqlstate.ConnectionException {
		t.Error("the log names it")
	}
}
