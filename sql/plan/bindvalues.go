package plan

import (
	"context"

	"github.com/spandb/spand/sql/expr"
	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

// BindValues binds expressions of st that read no table, each converted to the type
// wanted at its place; what names them in messages.
func BindValues(ctx context.Context, cat *Catalog, st *pgast.Statement, es []pgast.Expr, want []types.Type, what string) ([]expr.Expr, error) {
	b := &builder{ctx: ctx, cat: cat, st: st}
	s := b.newScope(nil)
	s.clause = what
	out := make([]expr.Expr, len(es))
	for i, e := range es {
		x, err := expr.Bind(e, s, want[i])
		if err != nil {
			return nil, err
		}
		if expr.HasSubPlan(x) {
			return nil, sqlstate.Newf(sqlstate.FeatureNotSupported, "cannot use subquery in %s", what)
		}
		if out[i], err = expr.CoerceForAssignment(x, want[i], what); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// BuildCopy plans COPY FROM: Insert.Cols holds the defaults of the columns that the
// data does not give, nil for those that it does; ords are the latter in the data's order.
func BuildCopy(ctx context.Context, cat *Catalog, st *pgast.Statement, table pgast.Name, columns []string) (*Plan, []int, error) {
	b := &builder{ctx: ctx, cat: cat, st: st}
	d, err := b.table(table, -1)
	if err != nil {
		return nil, nil, err
	}
	ti := NewTableInfo(d)
	ords, err := b.insertColumns(d, &pgast.Insert{Columns: columns})
	if err != nil {
		return nil, nil, err
	}
	given := make([]bool, len(ti.Types))
	for _, o := range ords {
		given[o] = true
	}
	ins := &Insert{Table: ti, Cols: make([]expr.Expr, len(ti.Types))}
	for o := range ins.Cols {
		if !given[o] {
			if ins.Cols[o], err = b.defaultOf(ti, o); err != nil {
				return nil, nil, err
			}
		}
	}
	return &Plan{Insert: ins, Uses: b.uses, Version: cat.View.Version(), Locks: true}, ords, nil
}
