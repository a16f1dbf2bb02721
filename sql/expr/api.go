// Package expr binds scalar expressions: it gives pgast expressions types by
// PostgreSQL's rules (operator and function resolution, implicit casts, unknown
// literals, NULL rules) and compiles them once into trees that evaluate rows of
// datums without reflection or boxing. It knows no tables, no plans and no
// storage; whatever an expression needs from outside comes through Env.
package expr

import (
	"context"
	"time"

	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/types"
)

// Expr is a compiled expression. Immutable and shared by executions.
type Expr interface {
	Type() types.Type
	// Eval computes the value for one input row. Text results may alias the row.
	Eval(ec *EvalContext, row []types.Datum) (types.Datum, error)
}

// EvalContext is what one execution of a statement offers to its expressions.
type EvalContext struct {
	Ctx    context.Context
	Params []types.Datum // $1 is Params[0]
	Consts []pgast.Value // the statement's constants, by slot
	// ConstCache holds converted constants by slot for this execution; filled lazily.
	ConstCache []types.Datum
	// Outer holds the rows of enclosing queries, innermost last (correlated subqueries).
	Outer [][]types.Datum

	StatementTime   time.Time // statement_timestamp()
	TransactionTime time.Time // now(), CURRENT_TIMESTAMP
	Location        *time.Location
	Session         Session
	// Format is used for conversions to and from text; nil: made of Location and
	// the session's settings when first needed.
	Format *types.FormatSettings

	// What expressions remember during one execution; see eval.go.
	constType []types.OID
	once      map[*onceNode]types.Datum
	scratch   map[Expr]any
}

// Session answers what session functions ask (current_user, current_setting,
// pg_backend_pid, version …) and changes settings (set_config).
type Session interface {
	Setting(name string) (string, bool)
	SetSetting(name, value string, local bool) error
	User() string
	Database() string
	SearchPath() []string
	BackendPID() int32
	// Catalog look-ups that text <-> reg* conversions and pg_* functions need.
	RelationName(oid types.OID) (schema, name string, ok bool)
	RelationOID(schema, name string) (types.OID, bool)
	NextRowID() int64
	// Extra dispatches functions that need the engine (pg_cancel_backend …); ok false: no such function.
	Extra(ctx context.Context, name string, args []types.Datum) (d types.Datum, ok bool, err error)
}

// Column is what a name in scope resolves to.
type Column struct {
	Index int // in the input row
	Level int // 0: this query; 1: the enclosing one; …
	Type  types.Type
	Name  string
}

// Env resolves what an expression refers to while it is bound. Its methods
// return *sqlstate.Error without position; Bind adds it.
type Env interface {
	// Column resolves a (qualified) name.
	Column(name pgast.Name) (Column, error)
	// Star expands t.* or * (for count(t.*), row comparisons); targets are expanded by the planner.
	Star(name pgast.Name) ([]Column, error)
	// Param returns $n's type, or records want when it has none yet (want.OID 0: nothing known).
	Param(n int, want types.Type) (types.Type, error)
	// Subquery plans q in this scope. kind: "scalar", "exists", "in", "any", "all", "array".
	// The returned SubPlan runs per Eval.
	Subquery(q *pgast.Select, kind string) (SubPlan, error)
	// Aggregate registers an aggregate call and returns the column of the row in which
	// its result will stand; an error where aggregates are not allowed (WHERE, …).
	Aggregate(call *AggCall) (Column, error)
	// Window likewise for f(…) OVER (…).
	Window(call *pgast.Func) (Column, error)
	// UserFunction resolves what is not built in; nil, nil: no such function.
	UserFunction(name pgast.Name, args []Expr) (Expr, error)
	// Statement text, for error positions, and constants by slot (kinds are in the tree).
	SQL() string
}

// ConstValues is what an Env may offer besides: the values of the statement's
// constants. Then integer literals that need bigint or numeric are typed as
// PostgreSQL types them, and Key tells equal constants. A plan that was bound
// so is valid for statements whose constants have the same ConstClass.
type ConstValues interface {
	Const(slot int) pgast.Value
}

// SubPlan is a planned subquery.
type SubPlan interface {
	Types() []types.Type
	// Run streams rows to f, which returns false to stop. Rows are valid during the call.
	Run(ec *EvalContext, outer []types.Datum, f func(row []types.Datum) (bool, error)) error
	// Correlated reports whether the rows depend on the outer row; if not the result is cached per execution.
	Correlated() bool
}

// AggCall is a bound aggregate call.
type AggCall struct {
	Name     string
	Args     []Expr
	Star     bool
	Distinct bool
	Filter   Expr // nil: none
	OrderBy  []pgast.OrderItem
	Result   types.Type
	Agg      Aggregate
	Key      string // equal keys are the same aggregate: compute once
}

// Aggregate makes accumulators for one bound aggregate. Size of states is
// bounded except for collecting ones (array_agg, string_agg).
type Aggregate interface {
	New() Accumulator
}

// Accumulator folds one group.
type Accumulator interface {
	Add(ec *EvalContext, args []types.Datum) error
	Result() (types.Datum, error)
}
