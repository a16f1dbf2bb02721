package sql_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/spandb/spand/sql"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

// ext drives the extended protocol.
type ext struct {
	t *testing.T
	s sql.Session
}

func (x ext) prepare(name, query string, params ...types.OID) error {
	return x.s.Prepare(context.Background(), name, query, params)
}

func (x ext) exec(stmt string, o sql.ExecuteOptions, params ...types.Datum) string {
	w := &textResult{fs: x.s.FormatSettings()}
	if err := x.s.Bind(context.Background(), "", stmt, params); err != nil {
		w.fail(err)
		return strings.TrimSpace(w.String())
	}
	suspended, err := x.s.Execute(context.Background(), "", o, w)
	if err != nil {
		w.fail(err)
	}
	if suspended {
		w.open()
		w.WriteString("suspended")
	}
	return strings.TrimSpace(w.String())
}

func (x ext) sync() {
	x.t.Helper()
	if err := x.s.Sync(context.Background()); err != nil {
		x.t.Fatal(err)
	}
}

func (x ext) want(got, want string) {
	x.t.Helper()
	if got != want {
		x.t.Fatalf("got  %q\nwant %q", got, want)
	}
}

func TestExtendedProtocol(t *testing.T) {
	e, store := newEngine(t)
	s := newSession(t, e)
	x := ext{t, s}
	must(t, s, "create table t (a int primary key, b text, n numeric); insert into t select g, 'r' || g, g from generate_series(1, 10) g")
	single := sql.ExecuteOptions{SyncFollows: true}

	// Types of parameters and columns.
	if err := x.prepare("p", "select b, a + $2 from t where a = $1 and n < $3"); err != nil {
		t.Fatal(err)
	}
	params, cols, err := s.DescribeStatement(context.Background(), "p")
	if err != nil || fmt.Sprint(params) != fmt.Sprint([]types.OID{types.OIDInt4, types.OIDInt4, types.OIDNumeric}) || len(cols) != 2 || cols[0].Name != "b" {
		t.Fatalf("%v %v %v", params, cols, err)
	}
	x.want(x.exec("p", single, types.Int(3), types.Int(100), types.NumericFromInt(50)), "[b|?column?]\nr3|103\nSELECT 1")
	x.sync()
	x.want(x.exec("p", single, types.Int(3)), "ERROR 08P01: bind message supplies 1 parameters, but prepared statement \"p\" requires 3")
	if err := x.prepare("p", "select 1"); sqlstate.CodeOf(err) != sqlstate.DuplicatePreparedStatement {
		t.Fatal(err)
	}
	if err := x.prepare("q", "select $1"); err != nil { // text, as in PostgreSQL
		t.Fatal(err)
	}
	if err := x.prepare("bad", "select 1; select 2"); sqlstate.CodeOf(err) != sqlstate.SyntaxError {
		t.Fatal(err)
	}
	if err := x.prepare("bad", "select * from nosuch"); sqlstate.CodeOf(err) != sqlstate.UndefinedTable {
		t.Fatal(err)
	}

	// Statements up to a Sync are one transaction.
	if err := x.prepare("ins", "insert into t (a, b) values ($1, $2)"); err != nil {
		t.Fatal(err)
	}
	x.want(x.exec("ins", sql.ExecuteOptions{}, types.Int(20), types.Text("x")), "INSERT 0 1")
	x.want(x.exec("ins", sql.ExecuteOptions{}, types.Int(1), types.Text("x")),
		"ERROR 23505: duplicate key value violates unique constraint \"t_pkey\"\nDETAIL: Key (a)=(1) already exists.\nCONSTRAINT: t_pkey")
	x.sync()
	expect(t, s, "select count(*) from t where a = 20", "[count]\n0\nSELECT 1")
	x.want(x.exec("ins", sql.ExecuteOptions{}, types.Int(20), types.Text("x")), "INSERT 0 1")
	x.want(x.exec("ins", sql.ExecuteOptions{}, types.Int(21), types.Text("y")), "INSERT 0 1")
	x.sync()
	expect(t, s, "select count(*) from t where a >= 20", "[count]\n2\nSELECT 1")

	// Row limits.
	if err := x.prepare("", "select a from t where a <= $1 order by a"); err != nil {
		t.Fatal(err)
	}
	two := sql.ExecuteOptions{MaxRows: 2}
	x.want(x.exec("", two, types.Int(5)), "[a]\n1\n2\nsuspended")
	again := func() string {
		w := &textResult{fs: s.FormatSettings()}
		more, err := s.Execute(context.Background(), "", two, w)
		if err != nil {
			w.fail(err)
		}
		return fmt.Sprintf("%s%v", w.String(), more)
	}
	x.want(again(), "[a]\n3\n4\ntrue")
	x.want(again(), "[a]\n5\nSELECT 1\nfalse")
	x.sync()
	noneOpen(t, store)

	// A prepared statement survives a schema change, unless its result changes.
	if err := x.prepare("star", "select * from t where a = $1"); err != nil {
		t.Fatal(err)
	}
	must(t, s, "create index on t (b)")
	x.want(x.exec("star", single, types.Int(2)), "[a|b|n]\n2|r2|2\nSELECT 1")
	x.sync()
	must(t, s, "alter table t add column z int")
	x.want(x.exec("star", single, types.Int(2)), "ERROR 0A000: cached plan must not change result type")
	x.sync()
	x.want(x.exec("p", single, types.Int(4), types.Int(0), types.NumericFromInt(50)), "[b|?column?]\nr4|4\nSELECT 1")
	x.sync()

	// A block.
	for _, q := range []string{"begin", "commit", ""} {
		if err := x.prepare("tx"+q, q); err != nil {
			t.Fatal(err)
		}
	}
	x.want(x.exec("txbegin", sql.ExecuteOptions{SyncFollows: true}), "BEGIN")
	x.sync()
	if s.Status() != sql.TxnOpen {
		t.Fatal("no block is open")
	}
	x.want(x.exec("ins", single, types.Int(30), types.Text("in a block")), "INSERT 0 1")
	x.sync()
	x.want(x.exec("tx", single), "empty")
	x.want(x.exec("txcommit", single), "COMMIT")
	x.sync()
	expect(t, s, "select b from t where a = 30", "[b]\nin a block\nSELECT 1")
	s.CloseStatement("p")
	x.want(x.exec("p", single), "ERROR 26000: prepared statement \"p\" does not exist")
}

// Statements of one shape share a plan: each must still see its own constants.
func TestPlansAreSharedByShape(t *testing.T) {
	e, _ := newEngine(t)
	s := newSession(t, e)
	must(t, s, "create table t (a int primary key, b int, c text); insert into t values (1, 10, 'x'), (2, 20, 'y'), (3, 20, 'z')")
	for _, c := range [][2]string{
		{"select a from t where b = 10", "1"}, {"select a from t where b = 20 limit 1", "2"}, {"select a from t where b = 10 limit 5", "1"},
		{"select 1 + 1", "2"}, {"select 2 + 3", "5"}, {"select 2147483648 + 1", "2147483649"}, {"select 1 + 1", "2"},
		{"select 1.5 + 1", "2.5"}, {"select 'a' || 'b'", "ab"}, {"select 'c' || 'd'", "cd"},
		{"select a from t where a in (1, 7)", "1"}, {"select a from t where a in (8, 2)", "2"},
		{"select sum(a + 1) + sum(a + 1) from t", "18"}, {"select sum(a + 1) + sum(a + 2) from t", "21"},
		{"select b + 1 from t group by b + 1 order by 1 limit 1", "11"},
		{"select count(*) from t where c = 'x'", "1"}, {"select count(*) from t where c = 'q'", "0"},
		{"select a from t order by 1 limit 1", "1"}, {"select -2147483648", "-2147483648"}, {"select -1", "-1"},
		{"select interval '1 day'", "1 day"}, {"select interval '2 hours'", "02:00:00"},
		{"select max(a) from t where b = 20", "3"}, {"select max(a) from t where b = 10", "1"},
	} {
		for range 2 {
			out := strings.Split(run(s, c[0]), "\n")
			if len(out) < 2 || out[1] != c[1] {
				t.Errorf("%s: %q, want %s", c[0], out, c[1])
			}
		}
	}
	if out := run(s, "select b + 1 from t group by b + 2"); !strings.Contains(out, "42803") {
		t.Errorf("the plan of another constant was used: %s", out)
	}
}
