//go:build pgoracle

package parse

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/spandb/spand/sql/parse/pgast"
)

// deparse spells an expression with every parenthesis, so that no precedence is
// left to the reader.
func deparse(t testing.TB, s *pgast.Statement, e pgast.Expr) string {
	d := func(e pgast.Expr) string { return deparse(t, s, e) }
	list := func(es []pgast.Expr, sep string) string {
		out := make([]string, len(es))
		for i, e := range es {
			out[i] = d(e)
		}
		return strings.Join(out, sep)
	}
	not := func(n bool) string {
		if n {
			return "NOT "
		}
		return ""
	}
	switch e := e.(type) {
	case *pgast.Const:
		v := s.Consts[e.Slot]
		switch v.Kind {
		case pgast.Null:
			return "NULL"
		case pgast.Unknown:
			return "'" + strings.ReplaceAll(v.Text, "'", "''") + "'"
		}
		return "(" + v.Text + ")"
	case *pgast.Op:
		if e.Left == nil {
			return "(" + e.Name + " " + d(e.Right) + ")"
		}
		if e.Escape != nil {
			return "(" + d(e.Left) + " " + e.Name + " " + d(e.Right) + " escape " + d(e.Escape) + ")"
		}
		return "(" + d(e.Left) + " " + e.Name + " " + d(e.Right) + ")"
	case *pgast.And:
		return "(" + list(e.Args, " AND ") + ")"
	case *pgast.Or:
		return "(" + list(e.Args, " OR ") + ")"
	case *pgast.Not:
		return "(NOT " + d(e.Arg) + ")"
	case *pgast.IsTest:
		return "(" + d(e.Arg) + " IS " + not(e.Not) + e.Test + ")"
	case *pgast.Distinct:
		return "(" + d(e.Left) + " IS " + not(e.Not) + "DISTINCT FROM " + d(e.Right) + ")"
	case *pgast.Between:
		sym := ""
		if e.Symmetric {
			sym = "SYMMETRIC "
		}
		return "(" + d(e.Arg) + " " + not(e.Not) + "BETWEEN " + sym + d(e.Lo) + " AND " + d(e.Hi) + ")"
	case *pgast.In:
		return "(" + d(e.Arg) + " " + not(e.Not) + "IN (" + list(e.List, ", ") + "))"
	case *pgast.Quantified:
		q := " ANY ("
		if e.All {
			q = " ALL ("
		}
		return "(" + d(e.Left) + " " + e.Op + q + d(e.Array) + "))"
	case *pgast.Cast:
		return "CAST(" + d(e.Arg) + " AS " + e.Type.String() + ")"
	case *pgast.Collate:
		return "(" + d(e.Arg) + ` COLLATE "` + e.Name.Last() + `")`
	case *pgast.Func:
		return "pg_catalog." + e.Name.Last() + "(" + list(e.Args, ", ") + ")"
	case *pgast.Case:
		out := "CASE "
		if e.Arg != nil {
			out += d(e.Arg) + " "
		}
		for _, w := range e.Whens {
			out += "WHEN " + d(w.Cond) + " THEN " + d(w.Result) + " "
		}
		if e.Else != nil {
			out += "ELSE " + d(e.Else) + " "
		}
		return "(" + out + "END)"
	case *pgast.Array:
		return "ARRAY[" + list(e.Elems, ", ") + "]"
	case *pgast.Subscript:
		return "(" + d(e.Arg) + ")[" + d(e.Lo) + "]"
	case *pgast.Row:
		return "ROW(" + list(e.Elems, ", ") + ")"
	}
	t.Fatalf("deparse %T", e)
	return ""
}

func randomExpr(r *rand.Rand, depth int) string {
	atoms := []string{"1", "2", "3", "0", "-1", "true", "false", "null", "'a'", "'1'", "1.5", "null::int", "array[1,2]", "'t'"}
	pick := func(s ...string) string { return s[r.Intn(len(s))] }
	var operand func(d int) string
	operand = func(d int) string {
		switch n := r.Intn(14); {
		case n == 0 && d > 0:
			return "(" + randomExpr(r, d-1) + ")"
		case n == 1:
			return "- " + operand(d)
		case n == 2:
			return "not " + operand(d)
		case n == 3:
			return pick("@", "~", "|/") + " " + operand(d)
		case n == 4 && d > 0:
			return "case when " + randomExpr(r, d-1) + " then " + randomExpr(r, d-1) + " end"
		case n == 5:
			return operand(d) + pick("::int", "::text", "::bool", "::numeric")
		}
		return atoms[r.Intn(len(atoms))]
	}
	out := operand(depth)
	for n := r.Intn(5); n > 0; n-- {
		switch r.Intn(12) {
		case 0:
			out += pick(" is null", " is not null", " is true", " is not false", " is unknown", " isnull", " notnull")
		case 1:
			out += pick(" and ", " or ") + operand(depth)
		case 2:
			out += pick(" between ", " not between ", " between symmetric ") + operand(depth) + pick("", " + 1", " < 2", " || 'x'") + " and " + operand(depth)
		case 3:
			out += pick(" in (", " not in (") + operand(depth) + ", " + operand(depth) + ")"
		case 4:
			out += pick(" like ", " not like ", " ilike ", " similar to ") + operand(depth)
		case 5:
			out += pick(" is distinct from ", " is not distinct from ") + operand(depth)
		case 6:
			out += pick(" = any (array[1,2])", " < all (array[2,3])", ` collate "C"`, " escape '!'")
		case 7, 8:
			out += " " + pick("=", "<", ">", "<=", ">=", "<>") + " " + operand(depth)
		default:
			out += " " + pick("+", "-", "*", "/", "%", "^", "||", "&", "|", "#", "<<", ">>", "~", "~*", "@>") + " " + operand(depth)
		}
	}
	return out
}

// TestMeaning evaluates random expressions in PostgreSQL as written and as we
// understood them: value or error must be the same.
func TestMeaning(t *testing.T) {
	o := newOracle(t)
	eval := func(sql string) string {
		res, err := o.c.Exec(context.Background(), "SELECT ("+sql+")").ReadAll()
		var pe *pgconn.PgError
		if errors.As(err, &pe) {
			return pe.Code + " " + pe.Message
		}
		if err != nil {
			t.Fatal(err)
		}
		if res[0].Rows[0][0] == nil {
			return "null"
		}
		return fmt.Sprintf("%d %s", res[0].FieldDescriptions[0].DataTypeOID, res[0].Rows[0][0])
	}
	r := rand.New(rand.NewSource(1))
	values, bad := 0, 0
	for i := 0; i < 40000; i++ {
		sql := randomExpr(r, 2)
		want := eval(sql)
		sts, err := Parse("select (" + sql + ")")
		if err != nil {
			if !strings.HasPrefix(want, "42601") {
				t.Errorf("%s\nwe say %v, PostgreSQL %s", sql, err, want)
			}
			continue
		}
		if strings.HasPrefix(want, "42601") {
			t.Errorf("%s\naccepted, PostgreSQL says %s", sql, want)
			continue
		}
		text := deparse(t, sts[0], sts[0].Tree.(*pgast.Select).Targets[0].Expr)
		got := eval(text)
		if want[0] != '4' {
			values++
		}
		if got != want {
			if bad++; bad < 20 {
				t.Errorf("%s\nas %s\ngives %s instead of %s", sql, text, got, want)
			}
		}
	}
	t.Logf("%d values, %d differ", values, bad)
}
