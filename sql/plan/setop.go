package plan

import (
	"github.com/spandb/spand/sql/expr"
	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

// setOp plans UNION, INTERSECT and EXCEPT.
func (s *scope) setOp(q *pgast.Select) (*Query, error) {
	side := func(x *pgast.Select) (*Query, error) {
		inner := s.b.newScope(s.parent)
		inner.ctes, inner.jump, inner.cteScope = s.ctes, s.jump, s.cteScope
		out, err := s.b.selectQuery(inner, x)
		s.outer = s.outer || inner.outer
		return out, err
	}
	left, err := side(q.Left)
	if err != nil {
		return nil, err
	}
	right, err := side(q.Right)
	if err != nil {
		return nil, err
	}
	n := len(left.Columns)
	if n != len(right.Columns) {
		return nil, sqlstate.Newf(sqlstate.SyntaxError, "each %s query must have the same number of columns", upper(q.SetOp))
	}
	op := &SetOp{Kind: q.SetOp, All: q.SetAll, Left: left, Right: right}
	out := &Query{SetOp: op, Width: n}
	for i := 0; i < n; i++ {
		pair := []expr.Expr{
			setColumn(left, q.Left, i), setColumn(right, q.Right, i),
		}
		t, err := expr.CommonType(upper(q.SetOp), pair)
		if err != nil {
			return nil, err
		}
		casts := [2]expr.Expr{}
		for k, e := range pair {
			if e.Type() != t {
				if casts[k], err = expr.CoerceCommon(upper(q.SetOp), e, t); err != nil {
					return nil, err
				}
			}
		}
		op.LeftCasts, op.RightCasts = append(op.LeftCasts, casts[0]), append(op.RightCasts, casts[1])
		op.Types = append(op.Types, t)
		out.Columns = append(out.Columns, Column{Name: left.Columns[i].Name, Type: t})
	}
	return out, nil
}

// setColumn stands for column i of a set operation's side. An untyped literal was
// made text by its query; it still takes the other side's type, as in PostgreSQL.
func setColumn(q *Query, ast *pgast.Select, i int) expr.Expr {
	t := q.Columns[i].Type
	if t.OID == types.OIDText && len(ast.Targets) == len(q.Columns) {
		if c, ok := ast.Targets[i].Expr.(*pgast.Const); ok && (c.Kind == pgast.Unknown || c.Kind == pgast.Null) {
			t = types.T(types.OIDUnknown)
		}
	}
	return expr.ColumnExpr(i, t, q.Columns[i].Name)
}

// orderOutput resolves ORDER BY of a set operation or VALUES: only output columns.
func (s *scope) orderOutput(out *Query, list []pgast.OrderItem) error {
	targets := make([]target, len(out.Columns))
	for i, c := range out.Columns {
		targets[i] = target{col: c, slot: -1}
	}
	for i := range list {
		o := &list[i]
		col := -1
		if t, err := s.ordinal(o.Expr, targets, "ORDER BY"); err != nil {
			return err
		} else if t != nil {
			for j := range targets {
				if &targets[j] == t {
					col = j
				}
			}
		} else if c, ok := o.Expr.(*pgast.ColumnRef); ok && len(c.Name) == 1 && !c.Star {
			for j := range targets {
				if targets[j].col.Name == c.Name[0] {
					col = j
					break
				}
			}
			if col < 0 {
				return sqlstate.Newf(sqlstate.UndefinedColumn, "column %q does not exist", c.Name[0]).At(s.b.st.SQL, c.Pos)
			}
		}
		if col < 0 {
			return sqlstate.Newf(sqlstate.FeatureNotSupported, "invalid UNION/INTERSECT/EXCEPT ORDER BY clause").
				WithDetail("Only result column names can be used, not expressions or functions.")
		}
		desc, nf, err := direction(o)
		if err != nil {
			return err
		}
		out.Sort = append(out.Sort, SortKey{Col: col, Type: out.Columns[col].Type, Desc: desc, NullsFirst: nf, Text: out.Columns[col].Name})
	}
	return nil
}
