package sql_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/spandb/spand/sql"
	"github.com/spandb/spand/sql/kvmem"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
	"github.com/spandb/spand/truetime"
)

// With -pg the scripts run against a PostgreSQL server instead, which is how their
// expectations were checked: every script whose name does not begin with "spand".
var pgURL = flag.String("pg", "", "run the scripts against this PostgreSQL server")

// newEngine returns an engine of its own over an empty store.
func newEngine(t testing.TB, adjust ...func(*sql.Config)) (*sql.Engine, *kvmem.Store) {
	t.Helper()
	clock, err := truetime.NewSystem(truetime.Options{})
	if err != nil {
		t.Fatal(err)
	}
	store := kvmem.New(clock)
	cfg := sql.Config{KV: store, Node: 1, Version: "test"}
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
	t.Cleanup(e.Close)
	return e, store
}

func newSession(t testing.TB, e *sql.Engine) sql.Session {
	t.Helper()
	s, err := e.NewSession(context.Background(), sql.SessionOptions{User: "root", Database: "spand", BackendPID: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// noneOpen wants every transaction to have ended, or to end by itself.
func noneOpen(t testing.TB, store *kvmem.Store) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := store.AwaitIdle(ctx); err != nil {
		t.Error(err)
	}
}

// TestScripts runs testdata/*.test: "sql" runs a query string, with the data of a
// COPY behind a line "----- data", and prints what a client would see; "locks" says what
// the cell answers from now on (fakeFencer) and prints what it has been asked.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		if !strings.HasSuffix(path, ".test") {
			return
		}
		run, locks := engineRunner(t)
		if *pgURL != "" {
			if strings.Contains(path, "/spand") {
				return
			}
			run = postgresRunner(t)
		}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if d.Cmd == "locks" {
				return locks.script(d.Input)
			}
			session := "main"
			if d.HasArg("session") {
				d.ScanArgs(t, "session", &session)
			}
			query, data, found := strings.Cut(d.Input, "\n----- data\n")
			if found {
				data += "\n" // which the script format cuts off
			}
			return run(session, query, data)
		})
	})
}

func engineRunner(t *testing.T) (run func(session, query, data string) string, locks *fakeFencer) {
	locks = newFakeFencer()
	e, store := newEngine(t, func(c *sql.Config) { locks.clock, c.Fencer = c.KV.Clock(), locks })
	sessions := make(map[string]sql.Session)
	t.Cleanup(func() {
		for _, s := range sessions {
			s.Close()
		}
		noneOpen(t, store)
	})
	return func(name, query, data string) string {
		s := sessions[name]
		if s == nil {
			s = newSession(t, e)
			sessions[name] = s
		}
		w := &textResult{fs: s.FormatSettings(), data: data}
		err := s.Simple(context.Background(), query, w)
		if err != nil {
			w.fail(err)
		}
		return w.String()
	}, locks
}

// textResult prints results for scripts.
type textResult struct {
	strings.Builder
	fs     *types.FormatSettings
	cols   []sql.Column
	data   string
	header string
}

func (r *textResult) Columns(cols []sql.Column) error {
	r.cols = cols
	names := make([]string, len(cols))
	for i, c := range cols {
		names[i] = c.Name
	}
	r.header = fmt.Sprintf("[%s]\n", strings.Join(names, "|"))
	return nil
}

// open prints the header with the first row, or the end: PostgreSQL sends it before it
// finds out about errors, which scripts do not care about.
func (r *textResult) open() {
	r.WriteString(r.header)
	r.header = ""
}

func (r *textResult) Row(row []types.Datum) error {
	r.open()
	for i, d := range row {
		if i > 0 {
			r.WriteByte('|')
		}
		if d.IsNull() {
			r.WriteString("NULL")
			continue
		}
		r.Write(types.AppendText(nil, d, r.cols[i].Type, r.fs))
	}
	r.WriteByte('\n')
	return nil
}

func (r *textResult) Complete(tag string) error {
	r.open()
	fmt.Fprintln(r, tag)
	return nil
}
func (r *textResult) Empty() error { fmt.Fprintln(r, "empty"); return nil }
func (r *textResult) Notice(severity string, e *sqlstate.Error) error {
	fmt.Fprintf(r, "%s: %s\n", severity, e.Message)
	return nil
}
func (r *textResult) ParameterStatus(name, value string) error { return nil }
func (r *textResult) CopyIn(bool, int) (io.Reader, error) {
	return strings.NewReader(r.data), nil
}
func (r *textResult) CopyOut(bool, int) (io.WriteCloser, error) { return copyOut{r}, nil }

type copyOut struct{ *textResult }

func (copyOut) Close() error { return nil }

func (r *textResult) fail(err error) {
	var e *sqlstate.Error
	if !errors.As(err, &e) {
		fmt.Fprintf(r, "ERROR (no SQLSTATE): %v\n", err)
		return
	}
	r.failed(string(e.Code), e.Message, e.Detail, e.Hint, e.Constraint, e.Where)
}

func (r *textResult) failed(code, msg, detail, hint, constraint, where string) {
	r.header = ""
	fmt.Fprintf(r, "ERROR %s: %s\n", code, msg)
	if detail != "" {
		fmt.Fprintf(r, "DETAIL: %s\n", detail)
	}
	if hint != "" {
		fmt.Fprintf(r, "HINT: %s\n", hint)
	}
	if constraint != "" {
		fmt.Fprintf(r, "CONSTRAINT: %s\n", constraint)
	}
	if strings.Contains(where, ", column ") { // else PostgreSQL quotes the line too
		fmt.Fprintf(r, "CONTEXT: %s\n", where)
	}
}

// postgresRunner runs scripts in a database of their own on a real server.
func postgresRunner(t *testing.T) func(session, query, data string) string {
	ctx := context.Background()
	admin, err := pgconn.Connect(ctx, *pgURL)
	if err != nil {
		t.Fatal(err)
	}
	db := "script" + strings.ToLower(strings.ReplaceAll(strings.ReplaceAll(t.Name(), "/", "_"), ".", "_"))
	for _, q := range []string{"drop database if exists " + db, "create database " + db} {
		if _, err := admin.Exec(ctx, q).ReadAll(); err != nil {
			t.Fatal(err)
		}
	}
	admin.Close(ctx)
	conns := make(map[string]*pgconn.PgConn)
	var out *textResult
	return func(name, query, data string) string {
		out = &textResult{}
		c := conns[name]
		if c == nil {
			cfg, err := pgconn.ParseConfig(*pgURL)
			if err != nil {
				t.Fatal(err)
			}
			cfg.Database = db
			cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { fmt.Fprintf(out, "%s: %s\n", n.Severity, n.Message) }
			if c, err = pgconn.ConnectConfig(ctx, cfg); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Exec(ctx, "set timezone='UTC'; set default_transaction_isolation='serializable'").ReadAll(); err != nil {
				t.Fatal(err)
			}
			conns[name] = c
			t.Cleanup(func() { c.Close(ctx) })
		}
		out.postgres(ctx, c, query, data)
		return out.String()
	}
}

func (r *textResult) postgres(ctx context.Context, c *pgconn.PgConn, query, data string) {
	var err error
	lower := strings.ToLower(query)
	switch {
	case strings.HasPrefix(lower, "copy") && strings.Contains(lower, "from stdin"):
		var tag pgconn.CommandTag
		if tag, err = c.CopyFrom(ctx, strings.NewReader(data), query); err == nil {
			fmt.Fprintln(r, tag)
		}
	case strings.HasPrefix(lower, "copy"):
		var b bytes.Buffer
		var tag pgconn.CommandTag
		if tag, err = c.CopyTo(ctx, &b, query); err == nil {
			r.Write(b.Bytes())
			fmt.Fprintln(r, tag)
		}
	default:
		m := c.Exec(ctx, query)
		for m.NextResult() {
			rr := m.ResultReader()
			if fds := rr.FieldDescriptions(); fds != nil {
				var names []string
				for _, f := range fds {
					names = append(names, f.Name)
				}
				r.header = fmt.Sprintf("[%s]\n", strings.Join(names, "|"))
			}
			for rr.NextRow() {
				r.open()
				for i, v := range rr.Values() {
					if i > 0 {
						r.WriteByte('|')
					}
					if v == nil {
						r.WriteString("NULL")
					} else {
						r.Write(v)
					}
				}
				r.WriteByte('\n')
			}
			tag, rerr := rr.Close()
			if rerr == nil {
				r.open()
				fmt.Fprintln(r, tag)
			}
		}
		err = m.Close()
	}
	if err != nil {
		var pe *pgconn.PgError
		if !errors.As(err, &pe) {
			fmt.Fprintf(r, "ERROR (no SQLSTATE): %v\n", err)
			return
		}
		r.failed(pe.Code, pe.Message, pe.Detail, pe.Hint, pe.ConstraintName, pe.Where)
	}
}
