package expr_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/spandb/spand/sql/expr"
	"github.com/spandb/spand/sql/parse"
	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

// bind binds text over the test row.
func bind(t testing.TB, w *world, text string, want types.Type) (expr.Expr, *testEnv, error) {
	t.Helper()
	stmts, err := parse.Parse("SELECT " + text + " FROM r")
	if err != nil {
		t.Fatal(text, err)
	}
	env := &testEnv{cols: w.cols, stmt: stmts[0]}
	e, err := expr.Bind(stmts[0].Tree.(*pgast.Select).Targets[0].Expr, env, want)
	return e, env, err
}

func mustBind(t testing.TB, w *world, text string) (expr.Expr, *testEnv) {
	t.Helper()
	e, env, err := bind(t, w, text, types.Type{})
	if err != nil {
		t.Fatal(text, err)
	}
	return e, env
}

// TestParamTypes: parameters take the type that PostgreSQL infers.
func TestParamTypes(t *testing.T) {
	w := newWorld(t, "")
	for text, want := range map[string]string{
		"i4 = $1":                          "integer",
		"$1 = i4":                          "integer",
		"i8 = $1":                          "bigint",
		"v = $1":                           "text",
		"bp = $1":                          "character",
		"t like $1":                        "text",
		"i4 + $1":                          "integer",
		"n * $1":                           "numeric",
		"ts > $1":                          "timestamp without time zone",
		"tz - $1":                          "timestamp with time zone",
		"$1":                               "text",
		"$1::int8":                         "bigint",
		"coalesce($1, i4)":                 "integer",
		"case when b then $1 else n end":   "numeric",
		"i4 in ($1, $2)":                   "integer,integer",
		"i4 between $1 and $2":             "integer,integer",
		"i4 = any($1)":                     "integer[]",
		"t = any($1)":                      "text[]",
		"lower($1)":                        "text",
		"substr($1, $2)":                   "text,integer",
		"$1 || 'x'":                        "text",
		"$1 and b":                         "boolean",
		"not $1":                           "boolean",
		"$1 is null":                       "text",
		"$1 = $2":                          "text,text",
		"array[$1, 2]":                     "integer",
		"arr[$1]":                          "integer",
		"i4 = $1 and i8 = $1":              "integer",
		"jb -> $1":                         "text",
		"power($1, 2)":                     "double precision",
		"nullif(i4, $1)":                   "integer",
		"greatest(i8, $1)":                 "bigint",
		"$1 is not distinct from d":        "date",
		"(i4, t) = ($1, $2)":               "integer,text",
		"extract(year from $1::timestamp)": "timestamp without time zone",
	} {
		_, env, err := bind(t, w, text, types.Type{})
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		var got []string
		for i := 1; i <= len(env.params); i++ {
			got = append(got, types.BaseName(env.params[i].OID))
		}
		if s := strings.Join(got, ","); s != want {
			t.Errorf("%s: %s, want %s", text, s, want)
		}
	}
	// The context's type reaches a lone parameter, and unknown stays unknown when asked.
	if _, env, err := bind(t, w, "$1", types.T(types.OIDInt8)); err != nil || env.params[1].OID != types.OIDInt8 {
		t.Error(env.params, err)
	}
	e, env, err := bind(t, w, "$1", types.T(types.OIDUnknown))
	if err != nil || e.Type().OID != types.OIDUnknown {
		t.Fatal(e, err)
	}
	if e, err = expr.CoerceForAssignment(e, types.Type{OID: types.OIDVarchar, Mod: 7}, "c"); err != nil || env.params[1].OID != types.OIDVarchar {
		t.Fatal(env.params, err)
	}
	_, err = e.Eval(&expr.EvalContext{Params: []types.Datum{types.Text("toolong")}}, nil)
	if sqlstate.CodeOf(err) != sqlstate.StringDataRightTruncation {
		t.Error(err)
	}
}

// TestPositions: errors found while binding point where PostgreSQL's do.
func TestPositions(t *testing.T) {
	w := newWorld(t, "")
	for text, want := range map[string]string{ // the ^ stands before the place
		"1 + ^nosuch":                   "42703",
		"i4 ^+ t":                       "42883",
		"length(^nosuch(1))":            "42883",
		"^nosuch(1)":                    "42883",
		"1::^foo":                       "42704",
		"b and ^i4":                     "42804",
		"not ^i4":                       "42804",
		"case when ^i4 then 1 end":      "42804",
		"t || ^sum(i4)":                 "42803",
		"^- t":                          "42883",
		"i4 ^between t and 5":           "42883",
		"case when b then 1 else t end": "42804",
	} {
		pos := strings.IndexByte(text, '^')
		src := strings.Replace(text, "^", "", 1)
		_, _, err := bind(t, w, src, types.Type{})
		var e *sqlstate.Error
		if !errors.As(err, &e) || string(e.Code) != want {
			t.Errorf("%s: %v", src, err)
			continue
		}
		if pos >= 0 && e.Position != len("SELECT ")+pos+1 {
			t.Errorf("%s: position %d, want %d (%v)", src, e.Position, len("SELECT ")+pos+1, e)
		}
	}
}

// TestAssignment: what INSERT and UPDATE may convert by themselves.
func TestAssignment(t *testing.T) {
	w := newWorld(t, "")
	for _, c := range []struct{ text, typ, want string }{
		{"i8", "int4", "22003 integer out of range"},
		{"i4", "int8", "7"},
		{"i4", "text", "7"},
		{"f8", "int4", "2"},
		{"n", "numeric(10,1)", "12.3"},
		{"n", "numeric(3,2)", "22003 numeric field overflow"},
		{"t", "varchar(3)", "22001 value too long for type character varying(3)"},
		{"'ab   '", "varchar(3)", "ab "},
		{"t", "char(8)", "hello   "},
		{"'12'", "int4", "12"},
		{"'x'", "int4", "22P02 invalid input syntax for type integer: \"x\""},
		{"t", "int4", "42804 column \"c\" is of type integer but expression is of type text"},
		{"b", "int4", "42804 column \"c\" is of type integer but expression is of type boolean"},
		{"null", "int4", ""},
		{"d", "timestamptz", "2024-02-29 00:00:00+00"},
		{"ts", "date", "2024-02-29"},
		{"current_timestamp", "timestamp", "2026-03-04 05:06:07.891011"},
		{"array[1,2]", "int8[]", "{1,2}"},
		{"1", "bool", "42804 column \"c\" is of type boolean but expression is of type integer"},
	} {
		typ := parseType(t, c.typ)
		e, env, err := bind(t, w, c.text, types.T(types.OIDUnknown))
		if err == nil {
			e, err = expr.CoerceForAssignment(e, typ, "c")
		}
		var d types.Datum
		if err == nil {
			d, err = e.Eval(w.context(env.stmt), w.row)
		}
		got := types.String(d, typ, nil)
		if err != nil {
			got = strings.Replace(err.Error(), ": ", " ", 1)
		}
		if got != c.want {
			t.Errorf("%s -> %s: %q, want %q", c.text, c.typ, got, c.want)
		}
	}
}

// TestSharedPlan: one bound tree serves executions with different constants and
// parameters, at the same time.
func TestSharedPlan(t *testing.T) {
	w := newWorld(t, "")
	e, env := mustBind(t, w, "i4 in (1,2,3,4,5,6,7,8,9,10) and t like 'h%' and i4 + $1 = 10 and t ~ 'ell' and length('abc') = 3")
	var wg sync.WaitGroup
	for g := 0; g < 4; g++ {
		wg.Add(1)
		go func() {
			defer wg.Done()
			ec := w.context(env.stmt)
			for i := 0; i < 200; i++ {
				consts := append([]pgast.Value(nil), env.stmt.Consts...)
				like := -1
				for k, c := range consts {
					if c.Text == "h%" {
						like = k
					}
				}
				want := true
				if i%2 == 1 {
					consts[like].Text, want = "x%", false
				}
				p := int64(3)
				if i%3 == 2 {
					p, want = 4, false
				}
				ec.Reset(consts, []types.Datum{types.Int(p)})
				for k := 0; k < 3; k++ {
					d, err := e.Eval(ec, w.row)
					if err != nil || d.Bool() != want {
						t.Errorf("%d: %v %v", i, d, err)
						return
					}
				}
			}
		}()
	}
	wg.Wait()
}

// TestAnalysis: what planners ask of expressions.
func TestAnalysis(t *testing.T) {
	w := newWorld(t, "")
	e, _ := mustBind(t, w, "i4 = 5 and t > 'x' and (i8 = $1 or b) and v = 'w' and 3 < i2 and n in (1,2) and nt is null and t like 'abc%' and i4 = any('{1,2}')")
	var got []string
	for _, c := range expr.Conjuncts(e) {
		switch {
		case is(expr.AsComparison(c)):
			op, l, r, _ := expr.AsComparison(c)
			if expr.IsConst(l) {
				op, l, r = expr.Commute(op), r, l
			}
			i, ok := expr.AsColumn(l)
			got = append(got, fmt.Sprintf("%s %s const=%v col=%v index=%v", rowColumns[i].name, op, expr.IsConst(r), ok, expr.IndexCompatible(w.cols[i].Type, r.Type())))
		case is3(expr.AsIn(c)):
			x, items, not, _ := expr.AsIn(c)
			i, _ := expr.AsColumn(x)
			got = append(got, fmt.Sprintf("%s in %d %v", rowColumns[i].name, len(items), not))
		case is2(expr.AsNullTest(c)):
			x, not, _ := expr.AsNullTest(c)
			got = append(got, fmt.Sprintf("%s null %v", expr.ColumnName(x), not))
		case is2(expr.AsLike(c)):
			_, p, _ := expr.AsLike(c)
			slot, ok := expr.AsConst(p)
			got = append(got, fmt.Sprint("like ", slot, ok))
		case is3(expr.AsAny(c)):
			x, op, _, _ := expr.AsAny(c)
			got = append(got, expr.ColumnName(x)+" "+op+" any")
		default:
			got = append(got, fmt.Sprint("columns ", expr.Columns(c), len(expr.Disjuncts(c))))
		}
	}
	want := []string{"i4 = const=true col=true index=true", "t > const=true col=true index=true", "columns [2 11] 2", "v = const=true col=true index=true",
		"i2 > const=true col=true index=true", "n in 2 false", "nt null false", "like 6 true", "i4 = any"}
	if s, w := strings.Join(got, "\n"), strings.Join(want, "\n"); s != w {
		t.Errorf("got\n%s\nwant\n%s", s, w)
	}
	// Remapping moves columns and leaves the meaning.
	f, env := mustBind(t, w, "case i4 when 7 then upper(t) else coalesce(nt, v) end || (arr[1] + i2)::text")
	g := expr.Shift(f, 2)
	shifted := append([]types.Datum{types.Null, types.Null}, w.row...)
	a, err1 := f.Eval(w.context(env.stmt), w.row)
	b, err2 := g.Eval(w.context(env.stmt), shifted)
	if err1 != nil || err2 != nil || a != b || a.Str() != "HELLO4" {
		t.Error(a, b, err1, err2)
	}
	// A CASE over a volatile argument evaluates it once, also after remapping.
	f, env = mustBind(t, w, "case nextval('pg_class') when i4 then 'seven' when i4 + 1 then t else 'none' end")
	for n, want := range map[int64]string{7: "seven", 8: "hello", 9: "none"} {
		for shift := 0; shift < 3; shift++ {
			ec := w.context(env.stmt)
			s := &sequence{testSession: ec.Session.(*testSession), v: n}
			ec.Session = s
			d, err := expr.Shift(f, shift).Eval(ec, append(make([]types.Datum, shift), w.row...))
			if err != nil || d.Str() != want || s.calls != 1 {
				t.Errorf("case %d: %q after %d calls: %v", n, d.Str(), s.calls, err)
			}
		}
	}
	// Keys: equal structure and constants are equal, others are not.
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"i4 + 1", "i4 + 1", true}, {"i4 + 1", "i4 + 2", false}, {"i4 + 1", "i8 + 1", false}, {"lower(t)", "upper(t)", false},
		{"date_trunc('day', ts)", "date_trunc('day', ts)", true}, {"random()", "random()", false}, {"i4::text", "i4::varchar", false},
		{"case when b then 1 end", "case when b then 1 else 2 end", false}, {"t like 'a'", "t ilike 'a'", false}, {"i4 between 1 and 2", "i4 between 1 and 2", true},
		{"v::varchar(3)", "v::varchar(4)", false},
	} {
		x, _ := mustBind(t, w, c.a)
		y, _ := mustBind(t, w, c.b)
		if expr.Equal(x, y) != c.same {
			t.Errorf("%s, %s: %q %q", c.a, c.b, expr.Key(x), expr.Key(y))
		}
	}
	for text, v := range map[string]expr.Volatility{"1": expr.Immutable, "lower(t)": expr.Immutable, "now()": expr.Stable, "tz::date": expr.Stable, "random() + 1": expr.VolatileFunc, "ts::text": expr.Stable} {
		if e, _ := mustBind(t, w, text); expr.VolatilityOf(e) != v {
			t.Errorf("%s: volatility %d", text, expr.VolatilityOf(e))
		}
	}
	for text, c := range map[string]bool{"1 + $1": true, "now() - interval '1 day'": true, "i4": false, "random()": false, "lower('A') || $1": true, "i4 + 1": false} {
		if e, _ := mustBind(t, w, text); expr.IsConst(e) != c {
			t.Errorf("%s: IsConst", text)
		}
	}
	if e, _ := mustBind(t, w, "(2 = 2) is true and null::int is null"); e != nil {
		if d, err := e.Eval(w.context(&pgast.Statement{Consts: []pgast.Value{{Kind: pgast.Integer, Text: "2"}, {Kind: pgast.Integer, Text: "2"}}}), nil); err != nil || !d.Bool() {
			t.Error(d, err)
		}
	}
}

type sequence struct {
	*testSession
	v     int64
	calls int
}

func (s *sequence) Extra(_ context.Context, name string, _ []types.Datum) (types.Datum, bool, error) {
	s.calls++
	return types.Int(s.v), name == "nextval", nil
}

func is(_ string, _, _ expr.Expr, ok bool) bool { return ok }
func is2(_ expr.Expr, _ any, ok bool) bool      { return ok }
func is3(_ expr.Expr, _, _ any, ok bool) bool   { return ok }

func TestConstClass(t *testing.T) {
	for text, want := range map[string]uint8{"1": 0, "2147483647": 0, "0000000000002147483647": 0, "2147483648": 1, "-2147483648": 0, "-2147483649": 2, "4294967296": 2, "9223372036854775807": 2,
		"9223372036854775808": 3, "-9223372036854775808": 2, "9223372036854775809": 4, "99999999999999999999": 4} {
		if got := expr.ConstClass(pgast.Value{Kind: pgast.Integer, Text: text}); got != want {
			t.Errorf("%s: %d, want %d", text, got, want)
		}
	}
	if expr.ConstClass(pgast.Value{Kind: pgast.Numeric, Text: "1.5"}) != 0 {
		t.Error("only integers have classes")
	}
}

func TestCommonType(t *testing.T) {
	lit := func(oid types.OID) expr.Expr { return expr.Literal(types.Null, types.T(oid)) }
	for _, c := range []struct {
		in   []types.OID
		want string
	}{
		{[]types.OID{types.OIDInt4, types.OIDInt8}, "bigint"},
		{[]types.OID{types.OIDInt4, types.OIDNumeric}, "numeric"},
		{[]types.OID{types.OIDNumeric, types.OIDFloat8, types.OIDInt4}, "double precision"},
		{[]types.OID{types.OIDUnknown, types.OIDDate}, "date"},
		{[]types.OID{types.OIDUnknown, types.OIDUnknown}, "text"},
		{[]types.OID{types.OIDVarchar, types.OIDText}, "character varying"},
		{[]types.OID{types.OIDText, types.OIDVarchar}, "text"},
		{[]types.OID{types.OIDDate, types.OIDTimestampTZ}, "timestamp with time zone"},
		{[]types.OID{types.OIDInt4, types.OIDText}, "UNION types integer and text cannot be matched"},
	} {
		var in []expr.Expr
		for _, o := range c.in {
			in = append(in, lit(o))
		}
		typ, err := expr.CommonType("UNION", in)
		got := types.BaseName(typ.OID)
		var e *sqlstate.Error
		if errors.As(err, &e) {
			got = e.Message
		}
		if got != c.want {
			t.Errorf("%v: %s, want %s", c.in, got, c.want)
		}
	}
}

// fakePlan yields rows of integers; correlated ones add the outer row's i4.
type fakePlan struct {
	typs  []types.Type
	rows  [][]types.Datum
	corr  bool
	runs  int
	outer int
}

func (p *fakePlan) Types() []types.Type { return p.typs }
func (p *fakePlan) Correlated() bool    { return p.corr }
func (p *fakePlan) Run(_ *expr.EvalContext, outer []types.Datum, f func([]types.Datum) (bool, error)) error {
	p.runs++
	for _, r := range p.rows {
		out := append([]types.Datum(nil), r...)
		if p.corr {
			out[0] = types.Int(out[0].Int() + outer[p.outer].Int())
		}
		if more, err := f(out); err != nil || !more {
			return err
		}
	}
	return nil
}

type subEnv struct {
	*testEnv
	plan *fakePlan
}

func (e subEnv) Subquery(*pgast.Select, string) (expr.SubPlan, error) { return e.plan, nil }

func TestSubqueries(t *testing.T) {
	w := newWorld(t, "")
	i4 := types.T(types.OIDInt4)
	ints := func(vs ...any) (rows [][]types.Datum) {
		for _, v := range vs {
			if n, ok := v.(int); ok {
				rows = append(rows, []types.Datum{types.Int(int64(n))})
			} else {
				rows = append(rows, []types.Datum{types.Null})
			}
		}
		return
	}
	for _, c := range []struct {
		text string
		rows [][]types.Datum
		corr bool
		want string
	}{
		{"(select 1)", ints(5), false, "5"},
		{"(select 1)", ints(), false, "NULL"},
		{"(select 1)", ints(1, 2), false, "21000"},
		{"(select 1) + i4", ints(5), false, "12"},
		{"(select 1)", ints(5), true, "12"},
		{"exists (select 1)", ints(5), false, "t"},
		{"not exists (select 1)", ints(), false, "t"},
		{"i4 in (select 1)", ints(1, 7), false, "t"},
		{"i4 in (select 1)", ints(1, 2), false, "f"},
		{"i4 in (select 1)", ints(1, nil), false, "NULL"},
		{"i4 not in (select 1)", ints(1, nil), false, "NULL"},
		{"i4 not in (select 1)", ints(), false, "t"},
		{"nul in (select 1)", ints(1), false, "NULL"},
		{"nul in (select 1)", ints(), false, "f"},
		{"i8 in (select 1)", ints(1), false, "f"},
		{"n in (select 1)", ints(1), false, "f"},
		{"'7' in (select 1)", ints(7), false, "t"},
		{"i4 in (select 1)", ints(0, 3), true, "t"},
		{"i4 > any (select 1)", ints(9, 3), false, "t"},
		{"i4 > all (select 1)", ints(9, 3), false, "f"},
		{"i4 > all (select 1)", ints(), false, "t"},
		{"i4 > all (select 1)", ints(3, nil), false, "NULL"},
		{"array(select 1)", ints(3, nil, 4), false, "{3,NULL,4}"},
		{"array(select 1)", ints(), false, "{}"},
		{"t in (select 1)", ints(1), false, "42883"},
	} {
		stmts, err := parse.Parse("SELECT " + c.text + " FROM r")
		if err != nil {
			t.Fatal(err)
		}
		plan := &fakePlan{typs: []types.Type{i4}, rows: c.rows, corr: c.corr, outer: 1}
		env := subEnv{&testEnv{cols: w.cols, stmt: stmts[0]}, plan}
		e, err := expr.Bind(stmts[0].Tree.(*pgast.Select).Targets[0].Expr, env, types.Type{})
		got := ""
		if err == nil {
			ec := w.context(stmts[0])
			for i := 0; i < 3 && err == nil; i++ {
				var d types.Datum
				if d, err = e.Eval(ec, w.row); err == nil {
					if got = "NULL"; !d.IsNull() {
						got = types.String(d, e.Type(), nil)
					}
				}
			}
			if err == nil && (plan.runs == 1) == c.corr {
				t.Errorf("%s: ran %d times", c.text, plan.runs)
			}
		}
		if err != nil {
			got = string(sqlstate.CodeOf(err))
		}
		if got != c.want {
			t.Errorf("%s over %v: %s, want %s (%v)", c.text, c.rows, got, c.want, err)
		}
	}
	// Rows.
	stmts, _ := parse.Parse("SELECT (i4, t) IN (SELECT 1, 2) FROM r")
	plan := &fakePlan{typs: []types.Type{i4, types.T(types.OIDText)}, rows: [][]types.Datum{{types.Int(7), types.Text("x")}, {types.Int(7), types.Text("hello")}}}
	e, err := expr.Bind(stmts[0].Tree.(*pgast.Select).Targets[0].Expr, subEnv{&testEnv{cols: w.cols, stmt: stmts[0]}, plan}, types.Type{})
	if err != nil {
		t.Fatal(err)
	}
	if d, err := e.Eval(w.context(stmts[0]), w.row); err != nil || !d.Bool() {
		t.Error(d, err)
	}
}

// TestSession: functions that ask and change the session.
func TestSession(t *testing.T) {
	w := newWorld(t, "")
	e, env := mustBind(t, w, "set_config('application_name', 'x', false) || current_setting('application_name') || lower('Ä') || pg_backend_pid() || version()")
	ec := w.context(env.stmt)
	d, err := e.Eval(ec, w.row)
	if err != nil || d.Str() != "xxä42PostgreSQL 15.0 (spand)" {
		t.Error(d.Str(), err)
	}
	e, env = mustBind(t, w, "pg_sleep(100)")
	ec = w.context(env.stmt)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	ec.Ctx = ctx
	if _, err := e.Eval(ec, w.row); sqlstate.CodeOf(err) != sqlstate.QueryCanceled {
		t.Error(err)
	}
	e, env = mustBind(t, w, "pg_cancel_backend(1)")
	if _, err := e.Eval(w.context(env.stmt), w.row); sqlstate.CodeOf(err) != sqlstate.FeatureNotSupported {
		t.Error(err)
	}
}

func BenchmarkFilterInt(b *testing.B)  { benchmark(b, "i4 = 7") }
func BenchmarkFilterAnd(b *testing.B)  { benchmark(b, "i4 > 3 and i4 < 100") }
func BenchmarkFilterText(b *testing.B) { benchmark(b, "t = 'hello'") }
func BenchmarkAddInt(b *testing.B)     { benchmark(b, "i4 + 3708") }
func BenchmarkAddNumeric(b *testing.B) { benchmark(b, "n + 1.5") }
func BenchmarkLike(b *testing.B)       { benchmark(b, "t like '%ll%'") }
func BenchmarkIn(b *testing.B)         { benchmark(b, "i4 in (11,12,13,14,15,16,17,18,19,20)") }

func benchmark(b *testing.B, text string) {
	w := newWorld(b, "")
	e, env := mustBind(b, w, text)
	ec := w.context(env.stmt)
	if _, err := e.Eval(ec, w.row); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := e.Eval(ec, w.row); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkExecuteConst is the expressions' part of a cached point query: reset,
// convert the constants, evaluate.
func BenchmarkExecuteConst(b *testing.B) {
	w := newWorld(b, "")
	e, env := mustBind(b, w, "i4 = 56093")
	ec := w.context(env.stmt)
	b.ReportAllocs()
	for b.Loop() {
		ec.Reset(env.stmt.Consts, nil)
		if _, err := e.Eval(ec, w.row); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBind(b *testing.B) {
	w := newWorld(b, "")
	stmts, err := parse.Parse("SELECT i4 = 5 AND t = 'x' FROM r")
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := expr.Bind(stmts[0].Tree.(*pgast.Select).Targets[0].Expr, &testEnv{cols: w.cols, stmt: stmts[0]}, types.Type{}); err != nil {
			b.Fatal(err)
		}
	}
}
