package expr

import (
	"strconv"

	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

// Volatility is pg_proc.provolatile.
type Volatility uint8

const (
	Immutable    Volatility = iota // depends on the arguments alone
	Stable                         // the same within one statement
	VolatileFunc                   // may differ with every call
)

// node is what every expression of this package is, for the analyses in analyze.go.
type node interface {
	Expr
	// kids are the expressions below; with copies the node with others.
	kids() []Expr
	with(kids []Expr) Expr
	// head identifies the node apart from its kids, for Key.
	head() string
	volatility() Volatility
}

// leaf is embedded by nodes without kids.
type leaf struct{}

func (leaf) kids() []Expr           { return nil }
func (leaf) volatility() Volatility { return Immutable }

// colNode is a column of the input row.
type colNode struct {
	leaf
	idx  int
	typ  types.Type
	name string
}

func (c *colNode) Type() types.Type { return c.typ }
func (c *colNode) Eval(_ *EvalContext, row []types.Datum) (types.Datum, error) {
	return row[c.idx], nil
}
func (c *colNode) with([]Expr) Expr { return c }
func (c *colNode) head() string     { return "c" + strconv.Itoa(c.idx) }

// outerNode is a column of an enclosing query's row.
type outerNode struct {
	leaf
	level, idx int
	typ        types.Type
	name       string
}

func (c *outerNode) Type() types.Type { return c.typ }
func (c *outerNode) Eval(ec *EvalContext, _ []types.Datum) (types.Datum, error) {
	return ec.Outer[len(ec.Outer)-c.level][c.idx], nil
}
func (c *outerNode) with([]Expr) Expr { return c }
func (c *outerNode) head() string {
	return "o" + strconv.Itoa(c.level) + "." + strconv.Itoa(c.idx)
}

// constNode is a constant of the statement's text, converted once per execution.
type constNode struct {
	leaf
	slot  int
	pos   int // in the text of the statement's shape
	typ   types.Type
	kind  pgast.ValueKind
	neg   bool   // a minus sign was folded in
	text  string // the value at binding time when the Env told it, for Key
	known bool
}

func (c *constNode) Type() types.Type { return c.typ }
func (c *constNode) Eval(ec *EvalContext, _ []types.Datum) (types.Datum, error) {
	if c.slot < len(ec.constType) && ec.constType[c.slot] == c.typ.OID {
		return ec.ConstCache[c.slot], nil
	}
	return c.convert(ec)
}

func (c *constNode) convert(ec *EvalContext) (types.Datum, error) {
	if c.slot >= len(ec.Consts) {
		return types.Null, sqlstate.Newf(sqlstate.InternalError, "constant %d of %d", c.slot, len(ec.Consts))
	}
	v := ec.Consts[c.slot]
	if v.Kind == pgast.Null {
		return types.Null, nil
	}
	text := v.Text
	if c.neg {
		text = "-" + text
	}
	var fs *types.FormatSettings
	if readsSettings(c.typ.OID) {
		fs = ec.format()
	}
	d, err := types.ParseText(text, c.typ, fs)
	if err != nil {
		return types.Null, c.refused(err)
	}
	if len(ec.constType) < len(ec.Consts) {
		ec.constType = make([]types.OID, len(ec.Consts))
	}
	if len(ec.ConstCache) < len(ec.Consts) {
		ec.ConstCache = make([]types.Datum, len(ec.Consts))
	}
	ec.ConstCache[c.slot], ec.constType[c.slot] = d, c.typ.OID
	return d, nil
}

// refused says where the quoted literal stands that is not of its type.
func (c *constNode) refused(err error) error {
	if e, ok := err.(*sqlstate.Error); ok && c.kind == pgast.Unknown {
		return &LiteralError{Err: e, Pos: c.pos}
	}
	return err
}

// LiteralError is an error in a quoted literal of a statement, which knows the text
// and thus the position that clients are told.
type LiteralError struct {
	Err *sqlstate.Error
	Pos int // as pgast has it
}

func (e *LiteralError) Error() string { return e.Err.Error() }
func (e *LiteralError) Unwrap() error { return e.Err }

// At is the error with its position in st.
func (e *LiteralError) At(st *pgast.Statement) *sqlstate.Error {
	return e.Err.At(st.SQL, st.Offset(e.Pos))
}

// readsSettings reports whether a type's text input depends on the session; most
// literals are of types where it does not, and need no settings gathered.
func readsSettings(oid types.OID) bool {
	switch types.KindOf(oid) {
	case types.KindTimestamp, types.KindDate, types.KindTime, types.KindArray:
		return true
	}
	return types.IsReg(oid)
}

func (c *constNode) with([]Expr) Expr { return c }
func (c *constNode) head() string {
	if c.known {
		return "k" + strconv.Quote(c.text) + ":" + strconv.Itoa(int(c.typ.OID))
	}
	return "s" + strconv.Itoa(c.slot) + ":" + strconv.Itoa(int(c.typ.OID))
}

// litNode is a value known when binding: NULL, or a result of folding.
type litNode struct {
	leaf
	d   types.Datum
	typ types.Type
}

func (l *litNode) Type() types.Type                                      { return l.typ }
func (l *litNode) Eval(*EvalContext, []types.Datum) (types.Datum, error) { return l.d, nil }
func (l *litNode) with([]Expr) Expr                                      { return l }
func (l *litNode) head() string {
	if l.d.IsNull() {
		return "null"
	}
	return "l" + strconv.Quote(types.String(l.d, l.typ, nil)) + ":" + strconv.Itoa(int(l.typ.OID))
}

// Literal makes an expression of a known value.
func Literal(d types.Datum, t types.Type) Expr { return &litNode{d: d, typ: t} }

// ColumnExpr makes a reference to a column of the input row.
func ColumnExpr(idx int, t types.Type, name string) Expr {
	return &colNode{idx: idx, typ: t, name: name}
}

// paramNode is $n. While its type is unknown it keeps the Env, to tell it the type
// that the context gives.
type paramNode struct {
	leaf
	n   int
	typ types.Type
	env Env
}

func (p *paramNode) Type() types.Type { return p.typ }
func (p *paramNode) Eval(ec *EvalContext, _ []types.Datum) (types.Datum, error) {
	if p.n > len(ec.Params) {
		return types.Null, sqlstate.Newf(sqlstate.UndefinedParameter, "there is no parameter $%d", p.n)
	}
	return ec.Params[p.n-1], nil
}
func (p *paramNode) with([]Expr) Expr { return p }
func (p *paramNode) head() string     { return "$" + strconv.Itoa(p.n) }

// Functions over datums, by number of arguments.
type (
	fn0 = func(ec *EvalContext) (types.Datum, error)
	fn1 = func(ec *EvalContext, a types.Datum) (types.Datum, error)
	fn2 = func(ec *EvalContext, a, b types.Datum) (types.Datum, error)
	fn3 = func(ec *EvalContext, a, b, c types.Datum) (types.Datum, error)
	fnN = func(ec *EvalContext, args []types.Datum) (types.Datum, error)
)

// call is what the call nodes have in common.
type call struct {
	name string
	typ  types.Type
	vol  Volatility
	lax  bool // called with NULLs too
}

func (c *call) Type() types.Type       { return c.typ }
func (c *call) volatility() Volatility { return c.vol }
func (c *call) head() string {
	return c.name + ":" + strconv.Itoa(int(c.typ.OID)) + "." + strconv.Itoa(int(c.typ.Mod))
}

type call0 struct {
	call
	fn fn0
}

func (c *call0) Eval(ec *EvalContext, _ []types.Datum) (types.Datum, error) { return c.fn(ec) }
func (c *call0) kids() []Expr                                               { return nil }
func (c *call0) with([]Expr) Expr                                           { return c }

type call1 struct {
	call
	fn fn1
	a  Expr
}

func (c *call1) Eval(ec *EvalContext, row []types.Datum) (types.Datum, error) {
	a, err := c.a.Eval(ec, row)
	if err != nil || a.IsNull() && !c.lax {
		return types.Null, err
	}
	return c.fn(ec, a)
}
func (c *call1) kids() []Expr { return []Expr{c.a} }
func (c *call1) with(k []Expr) Expr {
	n := *c
	n.a = k[0]
	return &n
}

type call2 struct {
	call
	fn   fn2
	a, b Expr
}

func (c *call2) Eval(ec *EvalContext, row []types.Datum) (types.Datum, error) {
	a, err := c.a.Eval(ec, row)
	if err != nil || a.IsNull() && !c.lax {
		return types.Null, err
	}
	b, err := c.b.Eval(ec, row)
	if err != nil || b.IsNull() && !c.lax {
		return types.Null, err
	}
	return c.fn(ec, a, b)
}
func (c *call2) kids() []Expr { return []Expr{c.a, c.b} }
func (c *call2) with(k []Expr) Expr {
	n := *c
	n.a, n.b = k[0], k[1]
	return &n
}

type call3 struct {
	call
	fn      fn3
	a, b, c Expr
}

func (c *call3) Eval(ec *EvalContext, row []types.Datum) (types.Datum, error) {
	x, err := c.a.Eval(ec, row)
	if err != nil || x.IsNull() && !c.lax {
		return types.Null, err
	}
	y, err := c.b.Eval(ec, row)
	if err != nil || y.IsNull() && !c.lax {
		return types.Null, err
	}
	z, err := c.c.Eval(ec, row)
	if err != nil || z.IsNull() && !c.lax {
		return types.Null, err
	}
	return c.fn(ec, x, y, z)
}
func (c *call3) kids() []Expr { return []Expr{c.a, c.b, c.c} }
func (c *call3) with(k []Expr) Expr {
	n := *c
	n.a, n.b, n.c = k[0], k[1], k[2]
	return &n
}

type callN struct {
	call
	fn   fnN
	args []Expr
}

func (c *callN) Eval(ec *EvalContext, row []types.Datum) (types.Datum, error) {
	vals := make([]types.Datum, len(c.args))
	for i, a := range c.args {
		v, err := a.Eval(ec, row)
		if err != nil || v.IsNull() && !c.lax {
			return types.Null, err
		}
		vals[i] = v
	}
	return c.fn(ec, vals)
}
func (c *callN) kids() []Expr { return c.args }
func (c *callN) with(k []Expr) Expr {
	n := *c
	n.args = k
	return &n
}

// relabelNode gives a value another type of the same representation.
type relabelNode struct {
	a   Expr
	typ types.Type
}

func (r *relabelNode) Type() types.Type { return r.typ }
func (r *relabelNode) Eval(ec *EvalContext, row []types.Datum) (types.Datum, error) {
	return r.a.Eval(ec, row)
}
func (r *relabelNode) kids() []Expr           { return []Expr{r.a} }
func (r *relabelNode) with(k []Expr) Expr     { return &relabelNode{k[0], r.typ} }
func (r *relabelNode) head() string           { return "::" + strconv.Itoa(int(r.typ.OID)) }
func (r *relabelNode) volatility() Volatility { return Immutable }

// onceNode is a subtree that does not depend on the row and is evaluated once per
// execution, when first needed.
type onceNode struct{ a Expr }

func (o *onceNode) Type() types.Type { return o.a.Type() }
func (o *onceNode) Eval(ec *EvalContext, row []types.Datum) (types.Datum, error) {
	if d, ok := ec.once[o]; ok {
		return d, nil
	}
	d, err := o.a.Eval(ec, row)
	if err != nil {
		return types.Null, err
	}
	if ec.once == nil {
		ec.once = make(map[*onceNode]types.Datum)
	}
	ec.once[o] = d
	return d, nil
}
func (o *onceNode) kids() []Expr           { return []Expr{o.a} }
func (o *onceNode) with(k []Expr) Expr     { return &onceNode{k[0]} }
func (o *onceNode) head() string           { return "" } // transparent to Key
func (o *onceNode) volatility() Volatility { return Immutable }
