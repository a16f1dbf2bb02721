package plan

import (
	"slices"

	"github.com/spandb/spand/sql/expr"
	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/types"
)

// target is a bound output column.
type target struct {
	e    expr.Expr
	ast  pgast.Expr // nil for a column of *
	col  Column
	slot int // frame slot when it is a plain column, else -1
}

func (s *scope) targets(list []pgast.Target) ([]target, error) {
	s.allow, s.clause = true, "SELECT"
	var out []target
	for i := range list {
		t := &list[i]
		if c, ok := t.Expr.(*pgast.ColumnRef); ok && c.Star {
			vs, err := s.star(c.Name)
			if err != nil {
				return nil, at(err, s.b.st.SQL, c.Pos)
			}
			for _, v := range vs {
				e := expr.ColumnExpr(v.idx, v.typ, v.name)
				tg := target{e: e, col: Column{Name: v.name, Type: v.typ}, slot: v.idx}
				if v.rel != nil {
					tg.col.TableOID, tg.col.AttNum = v.rel.cols[v.ord].oid, v.rel.cols[v.ord].attnum
				}
				out = append(out, tg)
			}
			continue
		}
		e, err := expr.Bind(t.Expr, s, types.Type{})
		if err != nil {
			return nil, err
		}
		tg := target{e: e, ast: t.Expr, col: Column{Name: t.Alias, Type: e.Type()}, slot: -1}
		if t.Alias == "" {
			tg.col.Name = outputName(t.Expr)
		}
		if c, ok := t.Expr.(*pgast.ColumnRef); ok {
			if v, _ := s.find(c.Name); v != nil {
				tg.slot = v.idx
				if v.rel != nil {
					tg.col.TableOID, tg.col.AttNum = v.rel.cols[v.ord].oid, v.rel.cols[v.ord].attnum
				}
			}
		}
		out = append(out, tg)
	}
	return out, nil
}

// setFromTarget moves a set-returning function out of the select list into FROM:
// SELECT a, f(b) FROM t is SELECT a, f.x FROM t, LATERAL f(b) AS f(x). It leaves what
// it cannot move for the binder to refuse: several of them, and those beside a star,
// which would show their column, or a GROUP BY.
func setFromTarget(q *pgast.Select) (out *pgast.Select, moved bool) {
	at := -1
	for i, t := range q.Targets {
		switch x := t.Expr.(type) {
		case *pgast.ColumnRef:
			if x.Star {
				return q, false
			}
		case *pgast.Func:
			if expr.YieldsOneColumn(x.Name) {
				if at >= 0 {
					return q, false
				}
				at = i
			}
		}
	}
	if at < 0 || len(q.GroupBy) > 0 || q.Having != nil {
		return q, false
	}
	f := q.Targets[at].Expr.(*pgast.Func)
	const hidden = "\x00set" // no client can write this name
	c := *q
	out = &c
	out.From = append(slices.Clip(q.From), &pgast.FuncTable{Funcs: []*pgast.Func{f}, Lateral: true, Alias: pgast.Alias{Name: hidden, Columns: []string{hidden}}})
	out.Targets = slices.Clone(q.Targets)
	out.Targets[at].Expr = &pgast.ColumnRef{Name: pgast.Name{hidden, hidden}, Pos: f.Pos}
	if out.Targets[at].Alias == "" {
		out.Targets[at].Alias = f.Name.Last()
	}
	return out, true
}

// outputName is the name that PostgreSQL gives an unnamed output column.
func outputName(e pgast.Expr) string {
	if name, _ := nameOf(e); name != "" {
		return name
	}
	return "?column?"
}

// nameOf is the name that an expression suggests. A weak one, a type's, gives way to
// that of a cast around it.
func nameOf(e pgast.Expr) (name string, weak bool) {
	switch x := e.(type) {
	case *pgast.ColumnRef:
		if len(x.Name) > 0 {
			return x.Name.Last(), false
		}
	case *pgast.Func:
		return x.Name.Last(), false
	case *pgast.Cast:
		if n, weak := nameOf(x.Arg); n != "" && !weak {
			return n, false
		}
		return x.Type.Name.Last(), true
	case *pgast.Collate:
		return nameOf(x.Arg)
	case *pgast.Case:
		if x.Else != nil {
			if n, weak := nameOf(x.Else); n != "" && !weak {
				return n, false
			}
		}
		return "case", true
	case *pgast.Subquery:
		if q := x.Query; q != nil && len(q.Targets) == 1 {
			if q.Targets[0].Alias != "" {
				return q.Targets[0].Alias, false
			}
			return nameOf(q.Targets[0].Expr)
		}
	case *pgast.Exists:
		return "exists", false
	case *pgast.Array, *pgast.ArrayQuery:
		return "array", false
	case *pgast.Row:
		return "row", false
	case *pgast.Subscript:
		return nameOf(x.Arg)
	case *pgast.Field:
		return x.Name, false
	}
	return "", false
}
