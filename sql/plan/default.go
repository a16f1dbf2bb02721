package plan

import (
	"context"
	"errors"

	"github.com/spandb/spand/sql/catalog"
	"github.com/spandb/spand/sql/expr"
	"github.com/spandb/spand/sql/parse"
	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

// rowID yields a fresh hidden row id.
type rowID struct{}

func (rowID) Type() types.Type { return types.T(types.OIDInt8) }

func (rowID) Eval(ec *expr.EvalContext, _ []types.Datum) (types.Datum, error) {
	return types.Int(ec.Session.NextRowID()), nil
}

// foreign is an expression of another text, with that text's constants.
type foreign struct {
	e      expr.Expr
	consts []pgast.Value
}

func (f *foreign) Type() types.Type { return f.e.Type() }

func (f *foreign) Eval(ec *expr.EvalContext, row []types.Datum) (types.Datum, error) {
	own := expr.EvalContext{
		Ctx: ec.Ctx, StatementTime: ec.StatementTime, TransactionTime: ec.TransactionTime,
		Location: ec.Location, Session: ec.Session, Consts: f.consts,
	}
	d, err := f.e.Eval(&own, row)
	return d, unplaced(err)
}

// unplaced takes the position out of an error that is one in another text than the client's.
func unplaced(err error) error {
	var literal *expr.LiteralError
	if errors.As(err, &literal) {
		return literal.Err
	}
	return err
}

// defaultOf is the expression that fills a column nobody gave a value.
func (b *builder) defaultOf(ti *TableInfo, o int) (expr.Expr, error) {
	c := &ti.Desc.Columns[o]
	switch {
	case c.Hidden:
		return rowID{}, nil
	case c.Default == "":
		return expr.Literal(types.Null, c.Type), nil
	}
	return BindText(b, c.Default, c.Type, c.Name)
}

// BindText binds the text of an expression without columns as a value of type t.
func BindText(b *builder, text string, t types.Type, column string) (expr.Expr, error) {
	sts, err := parse.Parse("SELECT " + text)
	if err != nil {
		return nil, err
	}
	q, ok := sts[0].Tree.(*pgast.Select)
	if len(sts) != 1 || !ok || len(q.Targets) != 1 {
		return nil, sqlstate.Newf(sqlstate.SyntaxError, "invalid default expression %q", text)
	}
	own := &builder{ctx: b.ctx, cat: b.cat, st: sts[0]}
	s := own.newScope(nil)
	s.clause = defaultClause
	e, err := expr.Bind(q.Targets[0].Expr, s, t)
	if err != nil {
		return nil, err
	}
	if e, err = expr.CoerceForAssignment(e, t, column); err != nil {
		return nil, err
	}
	if len(own.params) > 0 {
		return nil, sqlstate.Newf(sqlstate.UndefinedParameter, "there is no parameter $1")
	}
	if l, ok := expr.AsLiteral(e); ok {
		return expr.Literal(l, t), nil
	}
	if expr.IsConst(e) && expr.VolatilityOf(e) == expr.Immutable && !expr.HasSubPlan(e) {
		// 'x', 0, now() is not: computed once per plan.
		d, err := e.Eval(&expr.EvalContext{Ctx: b.ctx, Consts: sts[0].Consts}, nil)
		if err != nil {
			return nil, unplaced(err)
		}
		return expr.Literal(d, t), nil
	}
	return &foreign{e: e, consts: sts[0].Consts}, nil
}

// CheckDefault refuses a default expression that cannot be bound to its column.
func (c *Catalog) CheckDefault(ctx context.Context, text string, t types.Type, column string) error {
	_, err := BindText(&builder{ctx: ctx, cat: c}, text, t, column)
	return err
}

// DefaultExpr binds a column's default, NULL when it has none.
func (c *Catalog) DefaultExpr(ctx context.Context, col *catalog.Column) (expr.Expr, error) {
	if col.Default == "" {
		return expr.Literal(types.Null, col.Type), nil
	}
	return BindText(&builder{ctx: ctx, cat: c}, col.Default, col.Type, col.Name)
}
