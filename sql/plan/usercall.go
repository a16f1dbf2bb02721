package plan

import (
	"github.com/spandb/spand/sql/expr"
	"github.com/spandb/spand/sql/types"
)

// UserCall is a call of a function that package expr does not know: those that need
// the engine or the catalog.
type UserCall struct {
	Name   string
	Args   []expr.Expr
	Result types.Type
	Fn     func(ec *expr.EvalContext, args []types.Datum) (types.Datum, error)
	Strict bool // NULL for a NULL argument
}

// Type of the result.
func (u *UserCall) Type() types.Type { return u.Result }

// Eval calls the function.
func (u *UserCall) Eval(ec *expr.EvalContext, row []types.Datum) (types.Datum, error) {
	args := make([]types.Datum, len(u.Args))
	for i, a := range u.Args {
		d, err := a.Eval(ec, row)
		if err != nil || u.Strict && d.IsNull() {
			return types.Null, err
		}
		args[i] = d
	}
	return u.Fn(ec, args)
}

// columnsOf is expr.Columns that looks into UserCalls too.
func columnsOf(e expr.Expr) []int {
	out := expr.Columns(e)
	expr.Walk(e, func(x expr.Expr) bool {
		if u, ok := x.(*UserCall); ok {
			for _, a := range u.Args {
				out = append(out, columnsOf(a)...)
			}
		}
		return true
	})
	return out
}
