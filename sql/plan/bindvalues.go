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

// BindAsOf binds the timestamp of an AS OF TIMESTAMP clause of st: to text, where that
// is its type, else to a timestamptz. params are the types of st's parameters.
func BindAsOf(ctx context.Context, cat *Catalog, st *pgast.Statement, e pgast.Expr, params []types.OID) (expr.Expr, error) {
	b := &builder{ctx: ctx, cat: cat, st: st}
	for _, p := range params {
		b.params = append(b.params, types.T(p))
	}
	return b.asOf(e)
}

func (b *builder) asOf(e pgast.Expr) (expr.Expr, error) {
	const what = "AS OF TIMESTAMP"
	s := b.newScope(nil)
	s.clause = what
	want := types.T(types.OIDTimestampTZ)
	x, err := expr.Bind(e, s, want)
	switch {
	case err != nil:
		return nil, err
	case expr.HasSubPlan(x):
		return nil, sqlstate.Newf(sqlstate.FeatureNotSupported, "cannot use subquery in %s", what)
	case types.KindOf(x.Type().OID) == types.KindText:
		return x, nil
	}
	y, err := expr.Cast(x, want, expr.CastAssignment)
	if err != nil {
		return nil, sqlstate.Newf(sqlstate.DatatypeMismatch, "%s must be a timestamp, not of type %s", what, types.Name(x.Type()))
	}
	return y, nil
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
