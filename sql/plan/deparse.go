package plan

import (
	"strconv"
	"strings"

	"github.com/spandb/spand/sql/parse/pgast"
)

// deparse prints an expression as EXPLAIN shows it: operators in parentheses,
// constants by value. It is for people; nothing parses it again.
func deparse(e pgast.Expr, st *pgast.Statement) string {
	var b strings.Builder
	printExpr(&b, e, st)
	return b.String()
}

func printList(b *strings.Builder, es []pgast.Expr, st *pgast.Statement) {
	for i, e := range es {
		if i > 0 {
			b.WriteString(", ")
		}
		printExpr(b, e, st)
	}
}

func printConst(b *strings.Builder, v pgast.Value) {
	switch v.Kind {
	case pgast.Null:
		b.WriteString("NULL")
	case pgast.Unknown, pgast.BitString:
		b.WriteString("'" + strings.ReplaceAll(v.Text, "'", "''") + "'")
	default:
		b.WriteString(v.Text)
	}
}

func printExpr(b *strings.Builder, e pgast.Expr, st *pgast.Statement) {
	join := func(args []pgast.Expr, sep string) {
		b.WriteByte('(')
		for i, a := range args {
			if i > 0 {
				b.WriteString(sep)
			}
			printExpr(b, a, st)
		}
		b.WriteByte(')')
	}
	not := func(n bool) string {
		if n {
			return "NOT "
		}
		return ""
	}
	switch x := e.(type) {
	case nil:
	case *pgast.Const:
		printConst(b, st.Consts[x.Slot])
	case *pgast.Param:
		b.WriteString("$")
		b.WriteString(strconv.Itoa(x.N))
	case *pgast.ColumnRef:
		b.WriteString(strings.Join(x.Name, "."))
		if x.Star {
			if len(x.Name) > 0 {
				b.WriteByte('.')
			}
			b.WriteByte('*')
		}
	case *pgast.Op:
		b.WriteByte('(')
		if x.Left != nil {
			printExpr(b, x.Left, st)
			b.WriteByte(' ')
		}
		b.WriteString(operatorText(x.Name))
		if x.Left != nil {
			b.WriteByte(' ')
		}
		printExpr(b, x.Right, st)
		b.WriteByte(')')
	case *pgast.And:
		join(x.Args, " AND ")
	case *pgast.Or:
		join(x.Args, " OR ")
	case *pgast.Not:
		b.WriteString("(NOT ")
		printExpr(b, x.Arg, st)
		b.WriteByte(')')
	case *pgast.IsTest:
		b.WriteByte('(')
		printExpr(b, x.Arg, st)
		b.WriteString(" IS " + not(x.Not) + upper(x.Test) + ")")
	case *pgast.Distinct:
		b.WriteByte('(')
		printExpr(b, x.Left, st)
		b.WriteString(" IS " + not(x.Not) + "DISTINCT FROM ")
		printExpr(b, x.Right, st)
		b.WriteByte(')')
	case *pgast.Between:
		b.WriteByte('(')
		printExpr(b, x.Arg, st)
		b.WriteString(" " + not(x.Not) + "BETWEEN ")
		printExpr(b, x.Lo, st)
		b.WriteString(" AND ")
		printExpr(b, x.Hi, st)
		b.WriteByte(')')
	case *pgast.In:
		b.WriteByte('(')
		printExpr(b, x.Arg, st)
		b.WriteString(" " + not(x.Not) + "IN (")
		if x.Query != nil {
			b.WriteString("SubPlan")
		}
		printList(b, x.List, st)
		b.WriteString("))")
	case *pgast.Quantified:
		b.WriteByte('(')
		printExpr(b, x.Left, st)
		b.WriteString(" " + x.Op + " ")
		if x.All {
			b.WriteString("ALL (")
		} else {
			b.WriteString("ANY (")
		}
		if x.Query != nil {
			b.WriteString("SubPlan")
		}
		printExpr(b, x.Array, st)
		b.WriteString("))")
	case *pgast.Func:
		b.WriteString(x.Name.Last())
		if x.NoParens {
			return
		}
		b.WriteByte('(')
		if x.Star {
			b.WriteByte('*')
		}
		if x.Distinct {
			b.WriteString("DISTINCT ")
		}
		printList(b, x.Args, st)
		b.WriteByte(')')
	case *pgast.Case:
		b.WriteString("CASE")
		if x.Arg != nil {
			b.WriteByte(' ')
			printExpr(b, x.Arg, st)
		}
		for _, w := range x.Whens {
			b.WriteString(" WHEN ")
			printExpr(b, w.Cond, st)
			b.WriteString(" THEN ")
			printExpr(b, w.Result, st)
		}
		if x.Else != nil {
			b.WriteString(" ELSE ")
			printExpr(b, x.Else, st)
		}
		b.WriteString(" END")
	case *pgast.Cast:
		b.WriteByte('(')
		printExpr(b, x.Arg, st)
		b.WriteString(")::" + x.Type.Name.Last() + strings.Repeat("[]", x.Type.Array))
	case *pgast.Collate:
		printExpr(b, x.Arg, st)
		b.WriteString(" COLLATE \"" + x.Name.Last() + "\"")
	case *pgast.Subquery, *pgast.Exists, *pgast.ArrayQuery:
		b.WriteString("(SubPlan)")
	case *pgast.Array:
		b.WriteString("ARRAY[")
		printList(b, x.Elems, st)
		b.WriteByte(']')
	case *pgast.Row:
		b.WriteString("ROW(")
		printList(b, x.Elems, st)
		b.WriteByte(')')
	case *pgast.Subscript:
		printExpr(b, x.Arg, st)
		b.WriteByte('[')
		printExpr(b, x.Lo, st)
		if x.Slice {
			b.WriteByte(':')
			printExpr(b, x.Hi, st)
		}
		b.WriteByte(']')
	case *pgast.Field:
		b.WriteByte('(')
		printExpr(b, x.Arg, st)
		b.WriteString(")." + x.Name)
	case *pgast.Default:
		b.WriteString("DEFAULT")
	}
}

// operatorText is how PostgreSQL's EXPLAIN writes an operator.
func operatorText(name string) string {
	switch name {
	case "like":
		return "~~"
	case "ilike":
		return "~~*"
	case "not like":
		return "!~~"
	case "not ilike":
		return "!~~*"
	}
	return name
}
