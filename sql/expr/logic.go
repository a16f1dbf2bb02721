package expr

import (
	"strconv"

	"github.com/spandb/spand/sql/types"
)

var boolType = types.T(types.OIDBool)

// andNode and orNode are three-valued: a NULL is remembered, a deciding value ends it.
type andNode struct{ args []Expr }

func (n *andNode) Type() types.Type { return boolType }
func (n *andNode) Eval(ec *EvalContext, row []types.Datum) (types.Datum, error) {
	null := false
	for _, a := range n.args {
		d, err := a.Eval(ec, row)
		if err != nil {
			return types.Null, err
		}
		if d.IsNull() {
			null = true
		} else if !d.Bool() {
			return d, nil
		}
	}
	if null {
		return types.Null, nil
	}
	return types.Bool(true), nil
}
func (n *andNode) kids() []Expr           { return n.args }
func (n *andNode) with(k []Expr) Expr     { return &andNode{k} }
func (n *andNode) head() string           { return "and" }
func (n *andNode) volatility() Volatility { return Immutable }

type orNode struct{ args []Expr }

func (n *orNode) Type() types.Type { return boolType }
func (n *orNode) Eval(ec *EvalContext, row []types.Datum) (types.Datum, error) {
	null := false
	for _, a := range n.args {
		d, err := a.Eval(ec, row)
		if err != nil {
			return types.Null, err
		}
		if d.IsNull() {
			null = true
		} else if d.Bool() {
			return d, nil
		}
	}
	if null {
		return types.Null, nil
	}
	return types.Bool(false), nil
}
func (n *orNode) kids() []Expr           { return n.args }
func (n *orNode) with(k []Expr) Expr     { return &orNode{k} }
func (n *orNode) head() string           { return "or" }
func (n *orNode) volatility() Volatility { return Immutable }

type notNode struct{ a Expr }

func (n *notNode) Type() types.Type { return boolType }
func (n *notNode) Eval(ec *EvalContext, row []types.Datum) (types.Datum, error) {
	d, err := n.a.Eval(ec, row)
	if err != nil || d.IsNull() {
		return types.Null, err
	}
	return types.Bool(!d.Bool()), nil
}
func (n *notNode) kids() []Expr           { return []Expr{n.a} }
func (n *notNode) with(k []Expr) Expr     { return &notNode{k[0]} }
func (n *notNode) head() string           { return "not" }
func (n *notNode) volatility() Volatility { return Immutable }

// And joins conditions; one is itself, none is true.
func And(args ...Expr) Expr {
	switch len(args) {
	case 0:
		return Literal(types.Bool(true), boolType)
	case 1:
		return args[0]
	}
	return &andNode{args}
}

// Or likewise; none is false.
func Or(args ...Expr) Expr {
	switch len(args) {
	case 0:
		return Literal(types.Bool(false), boolType)
	case 1:
		return args[0]
	}
	return &orNode{args}
}

// Not negates a condition.
func Not(a Expr) Expr { return &notNode{a} }

// isNode is x IS [NOT] NULL | TRUE | FALSE | UNKNOWN.
type isNode struct {
	a    Expr
	test byte // 'n', 't', 'f'
	not  bool
}

func (n *isNode) Type() types.Type { return boolType }
func (n *isNode) Eval(ec *EvalContext, row []types.Datum) (types.Datum, error) {
	d, err := n.a.Eval(ec, row)
	if err != nil {
		return types.Null, err
	}
	var v bool
	switch n.test {
	case 'n':
		v = d.IsNull()
	case 't':
		v = !d.IsNull() && d.Bool()
	case 'f':
		v = !d.IsNull() && !d.Bool()
	}
	return types.Bool(v != n.not), nil
}
func (n *isNode) kids() []Expr           { return []Expr{n.a} }
func (n *isNode) with(k []Expr) Expr     { return &isNode{k[0], n.test, n.not} }
func (n *isNode) head() string           { return "is" + string(n.test) + strconv.FormatBool(n.not) }
func (n *isNode) volatility() Volatility { return Immutable }

// distinctNode is a IS [NOT] DISTINCT FROM b; eq compares its kids' values, which
// stand at 0 and 1 of a scratch row.
type distinctNode struct {
	a, b Expr
	eq   Expr // over columns 0 and 1
	not  bool
}

func (n *distinctNode) Type() types.Type { return boolType }
func (n *distinctNode) Eval(ec *EvalContext, row []types.Datum) (types.Datum, error) {
	a, err := n.a.Eval(ec, row)
	if err != nil {
		return types.Null, err
	}
	b, err := n.b.Eval(ec, row)
	if err != nil {
		return types.Null, err
	}
	if a.IsNull() || b.IsNull() {
		return types.Bool((a.IsNull() != b.IsNull()) != n.not), nil
	}
	e, err := n.eq.Eval(ec, []types.Datum{a, b})
	if err != nil {
		return types.Null, err
	}
	return types.Bool(e.Bool() == n.not), nil
}
func (n *distinctNode) kids() []Expr       { return []Expr{n.a, n.b} }
func (n *distinctNode) with(k []Expr) Expr { return &distinctNode{k[0], k[1], n.eq, n.not} }
func (n *distinctNode) head() string {
	return "distinct" + strconv.FormatBool(n.not) + n.eq.(node).head()
}
func (n *distinctNode) volatility() Volatility { return Immutable }

// caseNode is CASE WHEN …; with an argument, conds compare the value that stands
// in the first column of a scratch row.
type caseNode struct {
	arg     Expr // nil: searched
	conds   []Expr
	results []Expr
	other   Expr // nil: NULL
	typ     types.Type
}

func (n *caseNode) Type() types.Type { return n.typ }
func (n *caseNode) Eval(ec *EvalContext, row []types.Datum) (types.Datum, error) {
	crow := row
	if n.arg != nil {
		v, err := n.arg.Eval(ec, row)
		if err != nil {
			return types.Null, err
		}
		// The conditions see the row shifted by the argument's value.
		crow = make([]types.Datum, len(row)+1)
		crow[0] = v
		copy(crow[1:], row)
	}
	for i, c := range n.conds {
		d, err := c.Eval(ec, crow)
		if err != nil {
			return types.Null, err
		}
		if !d.IsNull() && d.Bool() {
			return n.results[i].Eval(ec, row)
		}
	}
	if n.other == nil {
		return types.Null, nil
	}
	return n.other.Eval(ec, row)
}

// kids of a CASE with an argument give the conditions in terms of the row, so
// that analyses need not know of the shift.
func (n *caseNode) kids() []Expr {
	k := make([]Expr, 0, 2*len(n.conds)+2)
	if n.arg != nil {
		k = append(k, n.arg)
		for _, c := range n.conds {
			k = append(k, unshiftCase(c))
		}
	} else {
		k = append(k, n.conds...)
	}
	k = append(k, n.results...)
	if n.other != nil {
		k = append(k, n.other)
	}
	return k
}
func (n *caseNode) with(k []Expr) Expr {
	c := *n
	if n.arg != nil {
		c.arg, k = k[0], k[1:]
		c.conds = make([]Expr, len(n.conds))
		for i := range c.conds {
			c.conds[i] = shiftCase(k[i])
		}
	} else {
		c.conds = k[:len(n.conds)]
	}
	k = k[len(n.conds):]
	c.results = k[:len(n.results)]
	if k = k[len(n.results):]; len(k) > 0 {
		c.other = k[0]
	}
	return &c
}
func (n *caseNode) head() string {
	return "case" + strconv.Itoa(len(n.conds)) + strconv.FormatBool(n.arg != nil) + strconv.Itoa(int(n.typ.OID))
}
func (n *caseNode) volatility() Volatility { return Immutable }

// caseArg stands for the CASE argument's value in a condition: column -1 outside
// the caseNode, column 0 of the shifted row inside.
const caseArg = -1

func shiftCase(e Expr) Expr   { return remapAll(e, func(i int) int { return i + 1 }) }
func unshiftCase(e Expr) Expr { return remapAll(e, func(i int) int { return i - 1 }) }

// coalesceNode returns the first value that is not NULL.
type coalesceNode struct {
	args []Expr
	typ  types.Type
}

func (n *coalesceNode) Type() types.Type { return n.typ }
func (n *coalesceNode) Eval(ec *EvalContext, row []types.Datum) (types.Datum, error) {
	for _, a := range n.args {
		if d, err := a.Eval(ec, row); err != nil || !d.IsNull() {
			return d, err
		}
	}
	return types.Null, nil
}
func (n *coalesceNode) kids() []Expr           { return n.args }
func (n *coalesceNode) with(k []Expr) Expr     { return &coalesceNode{k, n.typ} }
func (n *coalesceNode) head() string           { return "coalesce" }
func (n *coalesceNode) volatility() Volatility { return Immutable }

// extremeNode is GREATEST or LEAST: NULLs are ignored.
type extremeNode struct {
	args  []Expr
	typ   types.Type
	least bool
}

func (n *extremeNode) Type() types.Type { return n.typ }
func (n *extremeNode) Eval(ec *EvalContext, row []types.Datum) (types.Datum, error) {
	best := types.Null
	for _, a := range n.args {
		d, err := a.Eval(ec, row)
		if err != nil {
			return types.Null, err
		}
		if d.IsNull() {
			continue
		}
		if best.IsNull() {
			best = d
			continue
		}
		if c := types.Compare(d, best, n.typ); n.least && c < 0 || !n.least && c > 0 {
			best = d
		}
	}
	return best, nil
}
func (n *extremeNode) kids() []Expr           { return n.args }
func (n *extremeNode) with(k []Expr) Expr     { return &extremeNode{k, n.typ, n.least} }
func (n *extremeNode) head() string           { return "extreme" + strconv.FormatBool(n.least) }
func (n *extremeNode) volatility() Volatility { return Immutable }

// nullifNode is NULLIF(a, b); eq compares columns 0 and 1 of a scratch row.
type nullifNode struct{ a, b, eq Expr }

func (n *nullifNode) Type() types.Type { return n.a.Type() }
func (n *nullifNode) Eval(ec *EvalContext, row []types.Datum) (types.Datum, error) {
	a, err := n.a.Eval(ec, row)
	if err != nil || a.IsNull() {
		return a, err
	}
	b, err := n.b.Eval(ec, row)
	if err != nil || b.IsNull() {
		return a, err
	}
	e, err := n.eq.Eval(ec, []types.Datum{a, b})
	if err != nil {
		return types.Null, err
	}
	if !e.IsNull() && e.Bool() {
		return types.Null, nil
	}
	return a, nil
}
func (n *nullifNode) kids() []Expr           { return []Expr{n.a, n.b} }
func (n *nullifNode) with(k []Expr) Expr     { return &nullifNode{k[0], k[1], n.eq} }
func (n *nullifNode) head() string           { return "nullif" }
func (n *nullifNode) volatility() Volatility { return Immutable }
