package expr_test

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/spandb/spand/sql/expr"
	"github.com/spandb/spand/sql/parse"
	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

// The files in testdata/postgres hold expressions and what PostgreSQL 15 says they
// are: "= value : type", or "! SQLSTATE message". Run with -pg to ask a server
// again and rewrite them; without it nothing but the files is needed.
var pgURL = flag.String("pg", "", "connection string of a PostgreSQL 15 to take expectations from")

// row is the input of every expression.
var rowColumns = []struct {
	name, typ, value string
}{
	{"i2", "int2", "3"}, {"i4", "int4", "7"}, {"i8", "int8", "5000000000"}, {"f4", "float4", "1.5"}, {"f8", "float8", "2.25"},
	{"n", "numeric", "12.345"}, {"n2", "numeric(10,2)", "99.90"}, {"t", "text", "hello"}, {"v", "varchar(10)", "world"}, {"bp", "bpchar(5)", "ab"},
	{"nm", "name", "nam"}, {"b", "bool", "t"}, {"d", "date", "2024-02-29"}, {"tm", "time", "13:14:15.5"}, {"ts", "timestamp", "2024-02-29 13:14:15.123456"},
	{"tz", "timestamptz", "2024-07-01 12:00:00+00"}, {"iv", "interval", "1 year 2 mons 3 days 04:05:06"}, {"arr", "int4[]", "{1,2,3}"},
	{"tarr", "text[]", "{a,b,NULL}"}, {"j", "json", `{"a": 1, "b": [true, null, "x"], "c": {"d": 1.50}}`}, {"jb", "jsonb", `{"a": 1, "b": [true, null, "x"], "c": {"d": 1.50}}`},
	{"u", "uuid", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"}, {"by", "bytea", `\xdeadbeef`}, {"nul", "int4", "NULL"}, {"nt", "text", "NULL"}, {"nb", "bool", "NULL"}, {"o", "oid", "23"},
}

type testEnv struct {
	cols   []expr.Column
	stmt   *pgast.Statement
	params map[int]types.Type
}

func (e *testEnv) Column(n pgast.Name) (expr.Column, error) {
	for _, c := range e.cols {
		if c.Name == n.Last() {
			return c, nil
		}
	}
	return expr.Column{}, sqlstate.Newf(sqlstate.UndefinedColumn, "column \"%s\" does not exist", n.Last())
}
func (e *testEnv) Star(pgast.Name) ([]expr.Column, error) { return e.cols, nil }
func (e *testEnv) Param(n int, want types.Type) (types.Type, error) {
	if e.params == nil {
		e.params = map[int]types.Type{}
	}
	if t, ok := e.params[n]; ok && t.OID != 0 {
		return t, nil
	}
	e.params[n] = want
	return want, nil
}
func (e *testEnv) Subquery(*pgast.Select, string) (expr.SubPlan, error) {
	return nil, sqlstate.Newf(sqlstate.FeatureNotSupported, "no subqueries here")
}
func (e *testEnv) Aggregate(*expr.AggCall) (expr.Column, error) {
	return expr.Column{}, sqlstate.Newf(sqlstate.GroupingError, "aggregate functions are not allowed here")
}
func (e *testEnv) Window(*pgast.Func) (expr.Column, error) {
	return expr.Column{}, sqlstate.Newf(sqlstate.FeatureNotSupported, "no windows here")
}
func (e *testEnv) UserFunction(pgast.Name, []expr.Expr) (expr.Expr, error) { return nil, nil }
func (e *testEnv) SQL() string                                             { return e.stmt.SQL }
func (e *testEnv) Const(slot int) pgast.Value                              { return e.stmt.Consts[slot] }

type testSession struct{ settings map[string]string }

func (s *testSession) Setting(n string) (string, bool)      { v, ok := s.settings[n]; return v, ok }
func (s *testSession) SetSetting(n, v string, _ bool) error { s.settings[n] = v; return nil }
func (s *testSession) User() string                         { return "postgres" }
func (s *testSession) Database() string                     { return "postgres" }
func (s *testSession) SearchPath() []string                 { return []string{"public"} }
func (s *testSession) BackendPID() int32                    { return 42 }
func (s *testSession) NextRowID() int64                     { return 1 }
func (s *testSession) RelationName(oid types.OID) (string, string, bool) {
	if oid == 1259 {
		return "pg_catalog", "pg_class", true
	}
	return "", "", false
}
func (s *testSession) RelationOID(schema, name string) (types.OID, bool) {
	if schema == "pg_catalog" && name == "pg_class" {
		return 1259, true
	}
	return 0, false
}
func (s *testSession) Extra(context.Context, string, []types.Datum) (types.Datum, bool, error) {
	return types.Null, false, nil
}

func parseType(t testing.TB, s string) types.Type {
	t.Helper()
	stmts, err := parse.Parse("SELECT NULL::" + s)
	if err != nil {
		t.Fatal(err)
	}
	c := stmts[0].Tree.(*pgast.Select).Targets[0].Expr.(*pgast.Cast)
	typ, err := types.LookupName(c.Type)
	if err != nil {
		t.Fatal(err)
	}
	return typ
}

// world is what expressions are evaluated against.
type world struct {
	cols []expr.Column
	row  []types.Datum
	loc  *time.Location
}

func newWorld(t testing.TB, zone string) *world {
	w := &world{loc: time.UTC}
	if zone != "" {
		l, err := time.LoadLocation(zone)
		if err != nil {
			t.Fatal(err)
		}
		w.loc = l
	}
	for i, c := range rowColumns {
		typ := parseType(t, c.typ)
		w.cols = append(w.cols, expr.Column{Index: i, Type: typ, Name: c.name})
		d := types.Null
		if c.value != "NULL" {
			var err error
			if d, err = types.ParseText(c.value, typ, nil); err != nil {
				t.Fatal(c.name, err)
			}
		}
		w.row = append(w.row, d)
	}
	return w
}

func (w *world) context(st *pgast.Statement) *expr.EvalContext {
	now := time.Date(2026, 3, 4, 5, 6, 7, 891011000, time.UTC)
	return &expr.EvalContext{Ctx: context.Background(), Consts: st.Consts, Location: w.loc, StatementTime: now, TransactionTime: now,
		Session: &testSession{map[string]string{"search_path": "public", "application_name": "test"}}}
}

// eval is one line's answer in the notation of the files.
func (w *world) eval(text string) (out string) {
	defer func() {
		if p := recover(); p != nil {
			out = fmt.Sprintf("PANIC %v", p)
		}
	}()
	stmts, err := parse.Parse("SELECT " + text + " FROM r")
	if err != nil {
		return failure(err)
	}
	st := stmts[0]
	env := &testEnv{cols: w.cols, stmt: st}
	e, err := expr.Bind(st.Tree.(*pgast.Select).Targets[0].Expr, env, types.Type{})
	if err != nil {
		return failure(err)
	}
	ec := w.context(st)
	d, err := e.Eval(ec, w.row)
	if err != nil {
		return failure(err)
	}
	v := "NULL"
	if !d.IsNull() {
		fs := types.DefaultFormat
		fs.Location = w.loc
		fs.Names = regTestNames{}
		v = strings.ReplaceAll(types.String(d, e.Type(), &fs), "\n", `\n`)
	}
	return "= " + v + " : " + types.BaseName(e.Type().OID)
}

type regTestNames struct{}

func (regTestNames) RegName(t, v types.OID) (string, bool) {
	if t == types.OIDRegclass && v == 1259 {
		return "pg_class", true
	}
	return "", false
}
func (regTestNames) RegOID(types.OID, string) (types.OID, error) { return 0, errors.New("unused") }

func failure(err error) string {
	var e *sqlstate.Error
	if errors.As(err, &e) {
		return "! " + string(e.Code) + " " + e.Message
	}
	return "! " + err.Error()
}

// recorded runs every line of the files under testdata/dir: eval answers it, ask
// gives the query to PostgreSQL that means the same.
func recorded(t *testing.T, dir string, eval func(w *world, line string) string, ask func(line string) string) {
	files, err := filepath.Glob("testdata/" + dir + "/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no testdata", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			zone := ""
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var lines []string
			sc := bufio.NewScanner(strings.NewReader(string(data)))
			for sc.Scan() {
				lines = append(lines, sc.Text())
				if z, ok := strings.CutPrefix(sc.Text(), "# timezone "); ok {
					zone = z
				}
			}
			var conn *pgconn.PgConn
			if *pgURL != "" {
				if conn, err = pgconn.Connect(context.Background(), *pgURL); err != nil {
					t.Fatal(err)
				}
				defer conn.Close(context.Background())
				z := zone
				if z == "" {
					z = "UTC"
				}
				if _, err := conn.Exec(context.Background(), "SET timezone='"+z+"'").ReadAll(); err != nil {
					t.Fatal(err)
				}
			}
			w := newWorld(t, zone)
			var out []string
			for i := 0; i < len(lines); i++ {
				l := lines[i]
				out = append(out, l)
				if l == "" || strings.HasPrefix(l, "# ") {
					continue
				}
				want := ""
				if i+1 < len(lines) && (strings.HasPrefix(lines[i+1], "= ") || strings.HasPrefix(lines[i+1], "! ")) {
					i++
					want = lines[i]
				}
				if conn != nil {
					want = askPostgres(t, conn, ask(l))
				}
				out = append(out, want)
				if got := eval(w, l); got != want {
					t.Errorf("%s\n  got  %s\n  want %s", l, got, want)
				}
			}
			if conn != nil {
				if err := os.WriteFile(file, []byte(strings.Join(out, "\n")+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func askPostgres(t *testing.T, c *pgconn.PgConn, q string) string {
	rs, err := c.Exec(context.Background(), q).ReadAll()
	if err != nil {
		var pe *pgconn.PgError
		if errors.As(err, &pe) {
			return "! " + pe.Code + " " + pe.Message
		}
		t.Fatal(err)
	}
	var rows []string
	for _, r := range rs[0].Rows {
		var cells []string
		for _, d := range r {
			v := "NULL"
			if d != nil {
				v = strings.ReplaceAll(string(d), "\n", `\n`)
			}
			cells = append(cells, v)
		}
		rows = append(rows, strings.Join(cells, ","))
	}
	d, err := c.Prepare(context.Background(), "", q, nil) // no rows: no fields above
	if err != nil {
		t.Fatal(err)
	}
	return "= " + strings.Join(rows, " | ") + " : " + types.BaseName(types.OID(d.Fields[0].DataTypeOID))
}

// TestPostgres checks every recorded expression over one row of all types.
func TestPostgres(t *testing.T) {
	recorded(t, "postgres", (*world).eval, func(l string) string {
		var cols []string
		for _, k := range rowColumns {
			v := "NULL"
			if k.value != "NULL" {
				v = "'" + k.value + "'"
			}
			cols = append(cols, v+"::"+k.typ+" AS "+k.name)
		}
		return "SELECT " + l + " FROM (SELECT " + strings.Join(cols, ", ") + " OFFSET 0) r"
	})
}

// aggRows are what aggregates fold.
var aggColumns = []struct {
	name, typ string
	values    []string
}{
	{"i2", "int2", []string{"1", "2", "NULL", "4", "2", "32767"}},
	{"i4", "int4", []string{"1", "2", "NULL", "4", "2", "2147483647"}},
	{"i8", "int8", []string{"9223372036854775807", "9223372036854775807", "NULL", "-1", "5", "7"}},
	{"n", "numeric", []string{"1.5", "2.25", "NULL", "100", "0.001", "-7"}},
	{"f8", "float8", []string{"1.5", "2.25", "NULL", "100", "0.001", "-7"}},
	{"f4", "float4", []string{"1.5", "2.25", "NULL", "100", "0.5", "-7"}},
	{"t", "text", []string{"b", "a", "NULL", "", "c", "ä"}},
	{"b", "bool", []string{"t", "t", "NULL", "t", "f", "t"}},
	{"d", "date", []string{"2024-01-01", "2023-01-01", "NULL", "2024-02-29", "2020-01-01", "1999-12-31"}},
	{"iv", "interval", []string{"1 day", "2 days 03:00", "NULL", "1 month", "-1 hour", "00:00:01"}},
	{"nul", "int4", []string{"NULL", "NULL", "NULL", "NULL", "NULL", "NULL"}},
	{"one", "int4", []string{"5", "NULL", "NULL", "NULL", "NULL", "NULL"}},
}

type aggTestEnv struct {
	*testEnv
	calls *[]*expr.AggCall
}

func (e aggTestEnv) Aggregate(c *expr.AggCall) (expr.Column, error) {
	for i, have := range *e.calls {
		if have.Key == c.Key {
			return expr.Column{Index: i, Type: c.Result}, nil
		}
	}
	*e.calls = append(*e.calls, c)
	return expr.Column{Index: len(*e.calls) - 1, Type: c.Result}, nil
}

func evalAggregates(w *world, l string) string {
	stmts, err := parse.Parse("SELECT " + l + " FROM r")
	if err != nil {
		return failure(err)
	}
	st := stmts[0]
	var cols []expr.Column
	var vals [][]types.Datum
	for i, c := range aggColumns {
		typ := types.T(map[string]types.OID{"int2": types.OIDInt2, "int4": types.OIDInt4, "int8": types.OIDInt8, "numeric": types.OIDNumeric, "float8": types.OIDFloat8, "float4": types.OIDFloat4,
			"text": types.OIDText, "bool": types.OIDBool, "date": types.OIDDate, "interval": types.OIDInterval}[c.typ])
		cols = append(cols, expr.Column{Index: i, Type: typ, Name: c.name})
		for j, v := range c.values {
			if i == 0 {
				vals = append(vals, make([]types.Datum, len(aggColumns)))
			}
			if v != "NULL" {
				if vals[j][i], err = types.ParseText(v, typ, nil); err != nil {
					return err.Error()
				}
			}
		}
	}
	var calls []*expr.AggCall
	env := aggTestEnv{&testEnv{cols: cols, stmt: st}, &calls}
	e, err := expr.Bind(st.Tree.(*pgast.Select).Targets[0].Expr, env, types.Type{})
	if err != nil {
		return failure(err)
	}
	ec := w.context(st)
	out := make([]types.Datum, len(calls))
	for i, c := range calls {
		acc := c.Agg.New()
	rows:
		for _, r := range vals {
			if c.Filter != nil {
				if d, err := c.Filter.Eval(ec, r); err != nil {
					return failure(err)
				} else if d.IsNull() || !d.Bool() {
					continue
				}
			}
			args := make([]types.Datum, len(c.Args))
			for k, a := range c.Args {
				if args[k], err = a.Eval(ec, r); err != nil {
					return failure(err)
				}
				if args[k].IsNull() && c.Distinct {
					continue rows
				}
			}
			if err := acc.Add(ec, args); err != nil {
				return failure(err)
			}
		}
		if out[i], err = acc.Result(); err != nil {
			return failure(err)
		}
	}
	d, err := e.Eval(ec, out)
	if err != nil {
		return failure(err)
	}
	v := "NULL"
	if !d.IsNull() {
		v = types.String(d, e.Type(), nil)
	}
	return "= " + v + " : " + types.BaseName(e.Type().OID)
}

// TestAggregates folds six rows with each recorded aggregate.
func TestAggregates(t *testing.T) {
	recorded(t, "aggregates", evalAggregates, func(l string) string {
		var rows []string
		for j := range aggColumns[0].values {
			var cells []string
			for _, c := range aggColumns {
				v := c.values[j]
				if v != "NULL" {
					v = "'" + v + "'"
				}
				cells = append(cells, v+"::"+c.typ)
			}
			rows = append(rows, "("+strings.Join(cells, ",")+")")
		}
		var names []string
		for _, c := range aggColumns {
			names = append(names, c.name)
		}
		return "SELECT " + l + " FROM (VALUES " + strings.Join(rows, ",") + ") r(" + strings.Join(names, ",") + ")"
	})
}

func (w *world) evalSet(l string) string {
	stmts, err := parse.Parse("SELECT * FROM " + l + " f")
	if err != nil {
		return failure(err)
	}
	st := stmts[0]
	call := st.Tree.(*pgast.Select).From[0].(*pgast.FuncTable).Funcs[0]
	f, cols, err := expr.BindSetCall(call, &testEnv{stmt: st})
	if err != nil {
		return failure(err)
	}
	fs := types.DefaultFormat
	fs.Location = w.loc
	var rows []string
	err = f.Run(w.context(st), nil, func(r []types.Datum) (bool, error) {
		var cells []string
		for i, d := range r {
			v := "NULL"
			if !d.IsNull() {
				v = types.String(d, cols[i].Type, &fs)
			}
			cells = append(cells, v)
		}
		rows = append(rows, strings.Join(cells, ","))
		return len(rows) < 1000, nil
	})
	if err != nil {
		return failure(err)
	}
	return "= " + strings.Join(rows, " | ") + " : " + types.BaseName(cols[0].Type.OID)
}

// TestSetFunctions runs functions in FROM.
func TestSetFunctions(t *testing.T) {
	recorded(t, "sets", (*world).evalSet, func(l string) string { return "SELECT * FROM " + l + " f" })
}
