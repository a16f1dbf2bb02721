package sql_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spandb/spand/sql"
	"github.com/spandb/spand/sql/kvmem"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/truetime"
)

// adjustable is a NodeClock over an Adjustable clock that takes at most 250 ms.
type adjustable struct{ *truetime.Adjustable }

func (a adjustable) ErrorAdded() time.Duration { return a.Added() }
func (a adjustable) AddError(d time.Duration) error {
	if d > 250*time.Millisecond {
		return errors.New("leases are too short")
	}
	return a.Adjustable.AddError(d)
}
func (a adjustable) Summary() string { return "epsilon " + a.Now().Epsilon().String() }

// lockedBuffer is a log's destination.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// rowsWriter keeps the rows alone.
type rowsWriter struct{ textResult }

func (w *rowsWriter) Columns(cols []sql.Column) error { w.cols = cols; return nil }
func (w *rowsWriter) Complete(string) error           { return nil }

// clockedSession is a session on a node whose clock can be adjusted.
func clockedSession(t *testing.T) (a adjustable, e *sql.Engine, run func(query string) (string, error), log *lockedBuffer) {
	t.Helper()
	system, err := truetime.NewSystem(truetime.Options{})
	if err != nil {
		t.Fatal(err)
	}
	a = adjustable{truetime.NewAdjustable(system)}
	log = new(lockedBuffer)
	e, err = sql.NewEngine(sql.Config{KV: kvmem.New(a), Node: 1, Version: "test", NodeClock: a,
		Logger: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	s := newSession(t, e)
	return a, e, func(query string) (string, error) {
		w := &rowsWriter{textResult{fs: s.FormatSettings()}}
		err := s.Simple(context.Background(), query, w)
		return w.String(), err
	}, log
}

// settle waits until the interval is as wide as it should be: its earliest instant does
// not retreat when error is added (T1), so at first only the latest moves.
func settle(t *testing.T, c truetime.Clock) {
	t.Helper()
	if err := c.AwaitAfter(t.Context(), c.Now().Latest); err != nil {
		t.Fatal(err)
	}
}

func code(err error) string { return string(sqlstate.CodeOf(err)) }

// spand.clock_error_add is the node's setting: at once, for all, not undone; and it
// only widens.
func TestClockErrorAdd(t *testing.T) {
	a, e, run, _ := clockedSession(t)
	must := func(query, want string) {
		t.Helper()
		if got, err := run(query); err != nil || strings.TrimSpace(got) != want {
			t.Errorf("%s: %q, %v; want %q", query, got, err, want)
		}
	}
	refused := func(query, want string) {
		t.Helper()
		before := a.Added()
		if _, err := run(query); err == nil || code(err) != want || a.Added() != before {
			t.Errorf("%s: %v, added %v; want %s", query, err, a.Added(), want)
		}
	}
	must("SHOW spand.clock_error_add", "0")
	must("SET spand.clock_error_add = '20ms'", "")
	must("SHOW spand.clock_error_add", "20ms")
	must("SELECT current_setting('spand.clock_error_add')", "20ms")
	settle(t, a)
	if a.Now().Epsilon() != 20*time.Millisecond {
		t.Error("ε is", a.Now().Epsilon())
	}
	must("SHOW spand.clock", "epsilon 20ms")
	must("BEGIN; SET spand.clock_error_add = 5; ROLLBACK", "")
	must("SHOW spand.clock_error_add", "5ms")
	must("RESET ALL; DISCARD ALL", "")
	must("SHOW spand.clock_error_add", "5ms")
	must("SELECT set_config('spand.clock_error_add', '1500us', false)", "1.5ms")
	must("SHOW spand.clock_error_add", "1.5ms")
	refused("SET spand.clock_error_add = '-1ms'", "22023")
	refused("SET spand.clock_error_add = '300ms'", "22023")
	refused("SET spand.clock_error_add = 'much'", "22023")
	refused("SET spand.clock_error_add = 'NaN'", "22023")
	refused("BEGIN; SET LOCAL spand.clock_error_add = '1ms'", "0A000")
	must("ROLLBACK", "")
	refused("SELECT set_config('spand.clock_error_add', '1ms', true)", "0A000")
	refused("SET spand.clock = 'x'", "55P02")
	must("RESET spand.clock_error_add", "")
	must("SHOW spand.clock_error_add", "0")
	must("SET spand.clock_error_add = '2ms'; SET spand.clock_error_add TO DEFAULT", "")
	must("SHOW spand.clock_error_add", "0")
	if _, err := e.NewSession(context.Background(), sql.SessionOptions{User: "root", Database: "spand",
		Settings: map[string]string{"spand.clock_error_add": "9ms"}}); code(err) != "55P02" || a.Added() != 0 {
		t.Error("set at connection start:", err)
	}
}

// EXPLAIN ANALYZE of a write tells of its own commit, which has come when the rows are
// sent; inside a block the commit is still to come. The log tells the same.
func TestExplainAnalyzeCommitWait(t *testing.T) {
	a, _, run, log := clockedSession(t)
	if _, err := run("CREATE TABLE t (k int PRIMARY KEY)"); err != nil {
		t.Fatal(err)
	}
	if err := a.AddError(10 * time.Millisecond); err != nil {
		t.Fatal(err)
	}
	settle(t, a)
	for _, q := range []string{"INSERT INTO t VALUES (1), (2)", "UPDATE t SET k = k + 10 WHERE k = 1", "DELETE FROM t WHERE k = 2"} {
		out, err := run("EXPLAIN ANALYZE " + q)
		if err != nil {
			t.Fatal(err)
		}
		var gross, net, epsilon float64
		wait := regexp.MustCompile(`Commit Wait: gross (\S+) ms, net (\S+) ms`).FindStringSubmatch(out)
		head := regexp.MustCompile(`Commit: one phase, 1 tablet, clock uncertainty (\S+) ms`).FindStringSubmatch(out)
		ts := regexp.MustCompile(`Commit Timestamp: (\S+)`).FindStringSubmatch(out)
		if wait == nil || head == nil || ts == nil {
			t.Fatalf("%s:\n%s", q, out)
		}
		fmt.Sscan(wait[1], &gross)
		fmt.Sscan(wait[2], &net)
		fmt.Sscan(head[1], &epsilon)
		if epsilon != 10 || net > gross || gross < 19 {
			t.Errorf("%s: ε %v, gross %v, net %v", q, epsilon, gross, net)
		}
		if shown, err := run("SHOW spand.commit_timestamp"); err != nil || strings.TrimSpace(shown) != ts[1] {
			t.Errorf("%s: commit timestamp %s, SHOW says %s", q, ts[1], shown)
		}
		at, err := time.Parse(time.RFC3339Nano, ts[1])
		if err != nil || !truetime.After(a, truetime.FromTime(at)) {
			t.Errorf("X1: answered before the commit had passed: %v, %v", at, err)
		}
		if want := "timestamp=" + at.Format(time.RFC3339Nano); !strings.Contains(log.String(), "msg=committed") || !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %q", want)
		}
	}
	out, err := run("BEGIN; EXPLAIN ANALYZE INSERT INTO t VALUES (5); ROLLBACK; SELECT count(*) FROM t WHERE k = 5")
	if err != nil || !strings.Contains(out, "Commit: when the transaction ends") || strings.Contains(out, "Commit Wait") || !strings.HasSuffix(strings.TrimSpace(out), "0") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := run("EXPLAIN ANALYZE SELECT * FROM t"); err != nil || strings.Contains(out, "Commit") {
		t.Errorf("a read commits nothing: %v\n%s", err, out)
	}
	if out, err := run("EXPLAIN ANALYZE DELETE FROM t WHERE k = 99"); err != nil || !strings.Contains(out, "Commit") {
		t.Errorf("%v\n%s", err, out)
	}
}

// T2: with a clock that vouches for nothing no statement is answered, running ones are
// interrupted, and the client learns why; settings can be looked at, and a block given up.
func TestT2_UntrustedClockRefusesStatements(t *testing.T) {
	a, e, run, _ := clockedSession(t)
	if _, err := run("CREATE TABLE t (k int PRIMARY KEY); INSERT INTO t VALUES (1)"); err != nil {
		t.Fatal(err)
	}
	if _, err := run("BEGIN; UPDATE t SET k = 2"); err != nil {
		t.Fatal(err)
	}
	other := newSession(t, e) // waits for the lock of the block
	waiting := make(chan error, 1)
	go func() {
		waiting <- other.Simple(context.Background(), "UPDATE t SET k = 3", &rowsWriter{})
	}()
	why := &truetime.OutvotedError{Members: 3, Peers: []*truetime.PeerError{{Peer: "n1", Gap: -2 * time.Second}, {Peer: "n2", Gap: -2 * time.Second}}}
	a.Distrust(why)
	e.ClockFailed(why)
	check := func(what string, err error) {
		t.Helper()
		var se *sqlstate.Error
		if !errors.As(err, &se) || se.Code != sqlstate.CannotConnectNow || !strings.Contains(se.Message, "n1 and n2") || !strings.Contains(se.Detail, "2s") || !strings.Contains(se.Hint, "restart") {
			t.Errorf("T2: %s: %v", what, err)
		}
	}
	check("a waiting statement", <-waiting)
	_, err := run("COMMIT")
	check("COMMIT", err)
	for _, q := range []string{"SELECT 1", "SELECT * FROM t", "INSERT INTO t VALUES (9)", "CREATE TABLE u (k int)"} {
		_, err := run(q)
		check(q, err)
	}
	_, err = e.NewSession(context.Background(), sql.SessionOptions{User: "root", Database: "spand"})
	check("a new session", err)
	for _, q := range []string{"SHOW spand.clock", "SET application_name = 'x'", "ROLLBACK"} {
		if _, err := run(q); err != nil {
			t.Errorf("%s: %v", q, err)
		}
	}
}
