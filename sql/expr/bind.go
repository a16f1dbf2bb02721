package expr

import (
	"errors"

	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

// binder carries what binding one expression needs. depth bounds recursion: trees
// may be built by programs.
type binder struct {
	env   Env
	depth int
}

const maxDepth = 4000

// Bind gives e types and compiles it. want is the type that the context would
// like for a literal or parameter of unknown type: {0} makes it text, as a result
// column does; T(OIDUnknown) leaves it unknown, for the caller to unify (VALUES,
// UNION, assignment). It is a hint only: the result's type may differ, and
// conversion is the caller's (CoerceForAssignment, Cast, CoerceCommon).
func Bind(e pgast.Expr, env Env, want types.Type) (Expr, error) {
	b := &binder{env: env}
	x, err := b.bind(e)
	if err != nil {
		return nil, err
	}
	if t := x.Type().OID; t == tUnk || t == 0 {
		if want.OID == 0 {
			want = types.T(tText)
		}
		if want.OID != tUnk {
			if x, err = coerceUnknown(x, want, false); err != nil {
				return nil, b.at(err, posOf(e))
			}
		}
	}
	return ConstantFold(x), nil
}

// BindBool binds a condition (WHERE, ON, HAVING …); construct names it in the error.
func BindBool(e pgast.Expr, env Env, construct string) (Expr, error) {
	b := &binder{env: env}
	x, err := b.boolean(e, construct)
	if err != nil {
		return nil, err
	}
	return ConstantFold(x), nil
}

// at adds the position of pos to an error that has none.
func (b *binder) at(err error, pos int) error {
	var e *sqlstate.Error
	if !errors.As(err, &e) || e.Position != 0 || pos < 0 {
		return err
	}
	return e.At(b.env.SQL(), pos)
}

func (b *binder) errf(pos int, code sqlstate.Code, format string, args ...any) error {
	return b.at(sqlstate.Newf(code, format, args...), pos)
}

// posOf is where e begins, as far as the tree knows.
func posOf(e pgast.Expr) int {
	switch n := e.(type) {
	case *pgast.Const:
		return n.Pos
	case *pgast.Param:
		return n.Pos
	case *pgast.ColumnRef:
		return n.Pos
	case *pgast.Op:
		if n.Left != nil {
			if p := posOf(n.Left); p >= 0 {
				return p
			}
		}
		return n.Pos
	case *pgast.Func:
		return n.Pos
	case *pgast.Cast:
		if p := posOf(n.Arg); p >= 0 {
			return p
		}
		return n.Pos
	case *pgast.And:
		return posOf(n.Args[0])
	case *pgast.Or:
		return posOf(n.Args[0])
	case *pgast.IsTest:
		return posOf(n.Arg)
	case *pgast.Between:
		return posOf(n.Arg)
	case *pgast.In:
		return posOf(n.Arg)
	case *pgast.Quantified:
		return posOf(n.Left)
	case *pgast.Distinct:
		return posOf(n.Left)
	case *pgast.Subscript:
		return posOf(n.Arg)
	}
	return -1
}

func (b *binder) binds(es []pgast.Expr) ([]Expr, error) {
	out := make([]Expr, len(es))
	for i, e := range es {
		x, err := b.bind(e)
		if err != nil {
			return nil, err
		}
		out[i] = x
	}
	return out, nil
}

func (b *binder) boolean(e pgast.Expr, construct string) (Expr, error) {
	x, err := b.bind(e)
	if err != nil {
		return nil, err
	}
	switch x.Type().OID {
	case tBool:
		return x, nil
	case tUnk, 0:
		x, err = coerceUnknown(x, boolType, false)
		return x, b.at(err, posOf(e))
	}
	return nil, b.errf(posOf(e), sqlstate.DatatypeMismatch, "argument of %s must be type boolean, not type %s", construct, types.BaseName(x.Type().OID))
}

func (b *binder) bind(e pgast.Expr) (Expr, error) {
	if b.depth++; b.depth > maxDepth {
		return nil, sqlstate.Newf(sqlstate.StatementTooComplex, "stack depth limit exceeded")
	}
	defer func() { b.depth-- }()
	switch n := e.(type) {
	case *pgast.Const:
		return b.constant(n, false)
	case *pgast.Param:
		t, err := b.env.Param(n.N, types.Type{})
		if err != nil {
			return nil, b.at(err, n.Pos)
		}
		if t.OID == 0 || t.OID == tUnk {
			return &paramNode{n: n.N, typ: types.T(tUnk), env: b.env}, nil
		}
		return &paramNode{n: n.N, typ: types.T(t.OID)}, nil
	case *pgast.ColumnRef:
		return b.column(n)
	case *pgast.Op:
		return b.op(n)
	case *pgast.And:
		args := make([]Expr, len(n.Args))
		for i, a := range n.Args {
			x, err := b.boolean(a, "AND")
			if err != nil {
				return nil, err
			}
			args[i] = x
		}
		return And(args...), nil
	case *pgast.Or:
		args := make([]Expr, len(n.Args))
		for i, a := range n.Args {
			x, err := b.boolean(a, "OR")
			if err != nil {
				return nil, err
			}
			args[i] = x
		}
		return Or(args...), nil
	case *pgast.Not:
		x, err := b.boolean(n.Arg, "NOT")
		if err != nil {
			return nil, err
		}
		return &notNode{x}, nil
	case *pgast.IsTest:
		return b.isTest(n)
	case *pgast.Distinct:
		return b.distinct(n)
	case *pgast.Between:
		return b.between(n)
	case *pgast.In:
		return b.in(n)
	case *pgast.Quantified:
		return b.quantified(n)
	case *pgast.Func:
		return b.function(n)
	case *pgast.Case:
		return b.caseExpr(n)
	case *pgast.Cast:
		return b.cast(n)
	case *pgast.Collate:
		return b.collate(n)
	case *pgast.Subquery:
		return b.scalarSubquery(n.Query)
	case *pgast.Exists:
		return b.exists(n.Query)
	case *pgast.ArrayQuery:
		return b.arraySubquery(n.Query)
	case *pgast.Array:
		return b.array(n)
	case *pgast.Subscript:
		return b.subscript(n)
	case *pgast.Row:
		return nil, sqlstate.Newf(sqlstate.FeatureNotSupported, "row values are only supported in comparisons and IN")
	case *pgast.Field:
		return nil, sqlstate.Newf(sqlstate.FeatureNotSupported, "selecting a field of a composite value is not supported")
	case *pgast.Default:
		return nil, b.errf(n.Pos, sqlstate.SyntaxError, "DEFAULT is not allowed in this context")
	case nil:
		return nil, sqlstate.Newf(sqlstate.InternalError, "no expression")
	}
	return nil, sqlstate.Newf(sqlstate.FeatureNotSupported, "expression %T is not supported", e)
}

// constant types a literal; neg folds a minus sign in, so that -2147483648 is an
// integer.
func (b *binder) constant(n *pgast.Const, neg bool) (Expr, error) {
	c := &constNode{slot: n.Slot, pos: n.Pos, kind: n.Kind, neg: neg, typ: types.T(tUnk)}
	var v pgast.Value
	if cv, ok := b.env.(ConstValues); ok {
		v = cv.Const(n.Slot)
		c.known, c.text = true, v.Text
		if neg {
			c.text = "-" + c.text
		}
	}
	switch n.Kind {
	case pgast.Null:
		return &litNode{d: types.Null, typ: types.T(tUnk)}, nil
	case pgast.Unknown:
	case pgast.Integer:
		c.typ = types.T(tInt4)
		if c.known {
			switch cl := ConstClass(v); {
			case cl == classInt4, cl == classMinInt4 && neg:
			case cl <= classInt8, cl == classMinInt8 && neg:
				c.typ = types.T(tInt8)
			default:
				c.typ = types.T(tNum)
			}
		}
	case pgast.Numeric:
		c.typ = types.T(tNum)
	case pgast.Bool:
		c.typ = boolType
	default:
		return nil, b.errf(n.Pos, sqlstate.FeatureNotSupported, "bit strings are not supported")
	}
	return c, nil
}

func (b *binder) column(n *pgast.ColumnRef) (Expr, error) {
	if n.Star {
		return nil, b.errf(n.Pos, sqlstate.FeatureNotSupported, "row expansion via \"*\" is not supported here")
	}
	c, err := b.env.Column(n.Name)
	if err != nil {
		return nil, b.at(err, n.Pos)
	}
	return columnExpr(c), nil
}

func columnExpr(c Column) Expr {
	if c.Level > 0 {
		return &outerNode{level: c.Level, idx: c.Index, typ: c.Type, name: c.Name}
	}
	return &colNode{idx: c.Index, typ: c.Type, name: c.Name}
}

func (b *binder) op(n *pgast.Op) (Expr, error) {
	if n.Left == nil {
		if c, ok := n.Right.(*pgast.Const); ok && n.Name == "-" && (c.Kind == pgast.Integer || c.Kind == pgast.Numeric) {
			return b.constant(c, true)
		}
		x, err := b.bind(n.Right)
		if err != nil {
			return nil, err
		}
		x, err = Unary(n.Name, x)
		return x, b.at(err, n.Pos)
	}
	if cmpOps[n.Name] != 0 {
		if lr, rr := rowElems(n.Left), rowElems(n.Right); lr != nil || rr != nil {
			return b.rowCompare(n, lr, rr)
		}
	}
	l, err := b.bind(n.Left)
	if err != nil {
		return nil, err
	}
	r, err := b.bind(n.Right)
	if err != nil {
		return nil, err
	}
	if n.Escape != nil {
		return b.likeEscape(n, l, r)
	}
	x, err := Binary(n.Name, l, r)
	return x, b.at(err, n.Pos)
}

func (b *binder) likeEscape(n *pgast.Op, l, r Expr) (Expr, error) {
	esc, err := b.bind(n.Escape)
	if err != nil {
		return nil, err
	}
	if esc, err = Cast(esc, types.T(tText), CastImplicit); err != nil {
		return nil, b.at(err, n.Pos)
	}
	x, err := Binary(n.Name, l, r)
	if err != nil {
		return nil, b.at(err, n.Pos)
	}
	switch k := x.(type) {
	case *likeNode:
		c := *k
		c.escape = esc
		return &c, nil
	case *regexNode:
		c := *k
		p := k.pattern.(*call1).a
		c.pattern = &call2{call: call{name: "similar_escape", typ: types.T(tText)}, a: p, b: esc, fn: func(_ *EvalContext, p, e types.Datum) (types.Datum, error) {
			es := []rune(e.Str())
			switch len(es) {
			case 0:
				es = []rune{-2}
			case 1:
			default:
				return types.Null, sqlstate.Newf("22019", "invalid escape string").WithHint("Escape string must be empty or one character.")
			}
			s, err := similarToRegex(p.Str(), es[0])
			return types.Text(s), err
		}}
		return &c, nil
	}
	return x, nil
}

func rowElems(e pgast.Expr) []pgast.Expr {
	if r, ok := e.(*pgast.Row); ok {
		return r.Elems
	}
	return nil
}

// rowCompare expands (a, b) op (c, d) into comparisons of the columns: PostgreSQL
// compares from left to right until two differ.
func (b *binder) rowCompare(n *pgast.Op, lr, rr []pgast.Expr) (Expr, error) {
	if sub, ok := n.Right.(*pgast.Subquery); ok && lr != nil {
		return b.rowSubquery(n.Name, lr, sub.Query, n.Pos)
	}
	if lr == nil || rr == nil {
		return nil, b.errf(n.Pos, sqlstate.FeatureNotSupported, "comparing a row with a value that is not a row is not supported")
	}
	ls, err := b.binds(lr)
	if err != nil {
		return nil, err
	}
	rs, err := b.binds(rr)
	if err != nil {
		return nil, err
	}
	x, err := compareRows(n.Name, ls, rs)
	return x, b.at(err, n.Pos)
}

func compareRows(op string, ls, rs []Expr) (Expr, error) {
	if len(ls) != len(rs) {
		return nil, sqlstate.Newf(sqlstate.SyntaxError, "unequal number of entries in row expressions")
	}
	if len(ls) == 0 {
		return nil, sqlstate.Newf(sqlstate.FeatureNotSupported, "cannot compare rows of zero length")
	}
	switch op {
	case "=", "<>":
		parts := make([]Expr, len(ls))
		for i := range ls {
			c, err := Binary(op, ls[i], rs[i])
			if err != nil {
				return nil, err
			}
			parts[i] = c
		}
		if op == "=" {
			return And(parts...), nil
		}
		return Or(parts...), nil
	}
	strict := op
	if len(ls) > 1 {
		strict = op[:1]
	}
	first, err := Binary(strict, ls[0], rs[0])
	if err != nil || len(ls) == 1 {
		return first, err
	}
	eq, err := Binary("=", ls[0], rs[0])
	if err != nil {
		return nil, err
	}
	rest, err := compareRows(op, ls[1:], rs[1:])
	if err != nil {
		return nil, err
	}
	return Or(first, And(eq, rest)), nil
}

func (b *binder) isTest(n *pgast.IsTest) (Expr, error) {
	switch n.Test {
	case "null":
		if elems := rowElems(n.Arg); elems != nil {
			// A row IS NULL when all its fields are, IS NOT NULL when none is.
			parts := make([]Expr, len(elems))
			for i, e := range elems {
				x, err := b.bind(e)
				if err != nil {
					return nil, err
				}
				parts[i] = &isNode{a: x, test: 'n', not: n.Not}
			}
			return And(parts...), nil
		}
		x, err := b.bind(n.Arg)
		if err != nil {
			return nil, err
		}
		if x.Type().OID == tUnk {
			if x, err = coerceUnknown(x, types.T(tText), false); err != nil {
				return nil, b.at(err, posOf(n.Arg))
			}
		}
		return &isNode{a: x, test: 'n', not: n.Not}, nil
	}
	word := map[string]string{"true": "TRUE", "false": "FALSE", "unknown": "UNKNOWN"}[n.Test]
	if n.Not {
		word = "NOT " + word
	}
	x, err := b.boolean(n.Arg, "IS "+word)
	if err != nil {
		return nil, err
	}
	return &isNode{a: x, test: map[string]byte{"true": 't', "false": 'f', "unknown": 'n'}[n.Test], not: n.Not}, nil
}

func (b *binder) distinct(n *pgast.Distinct) (Expr, error) {
	ls, rs := rowElems(n.Left), rowElems(n.Right)
	if ls == nil && rs == nil {
		ls, rs = []pgast.Expr{n.Left}, []pgast.Expr{n.Right}
	}
	if len(ls) != len(rs) {
		return nil, b.errf(n.Pos, sqlstate.SyntaxError, "unequal number of entries in row expressions")
	}
	parts := make([]Expr, len(ls))
	for i := range ls {
		l, err := b.bind(ls[i])
		if err != nil {
			return nil, err
		}
		r, err := b.bind(rs[i])
		if err != nil {
			return nil, err
		}
		eq, err := Binary("=", l, r)
		if err != nil {
			return nil, b.at(err, n.Pos)
		}
		c, ok := eq.(*cmpNode)
		if !ok {
			return nil, b.errf(n.Pos, sqlstate.FeatureNotSupported, "IS DISTINCT FROM is not supported for these types")
		}
		parts[i] = &distinctNode{a: c.l, b: c.r, eq: overScratch(c), not: n.Not}
	}
	if n.Not {
		return And(parts...), nil
	}
	return Or(parts...), nil
}

// overScratch is the comparison c over columns 0 and 1 of a scratch row.
func overScratch(c *cmpNode) Expr {
	return newCmp(c.op, &colNode{idx: 0, typ: c.l.Type()}, &colNode{idx: 1, typ: c.r.Type()})
}

func (b *binder) between(n *pgast.Between) (Expr, error) {
	x, err := b.bind(n.Arg)
	if err != nil {
		return nil, err
	}
	lo, err := b.bind(n.Lo)
	if err != nil {
		return nil, err
	}
	hi, err := b.bind(n.Hi)
	if err != nil {
		return nil, err
	}
	rng := func(lo, hi Expr) (Expr, error) {
		g, err := Binary(">=", x, lo)
		if err != nil {
			return nil, b.at(err, n.Pos)
		}
		l, err := Binary("<=", x, hi)
		if err != nil {
			return nil, b.at(err, n.Pos)
		}
		return And(g, l), nil
	}
	e, err := rng(lo, hi)
	if err != nil {
		return nil, err
	}
	if n.Symmetric {
		e2, err := rng(hi, lo)
		if err != nil {
			return nil, err
		}
		e = Or(e, e2)
	}
	if n.Not {
		e = &notNode{e}
	}
	return e, nil
}

func (b *binder) caseExpr(n *pgast.Case) (Expr, error) {
	c := &caseNode{}
	var arg Expr
	if n.Arg != nil {
		x, err := b.bind(n.Arg)
		if err != nil {
			return nil, err
		}
		if x.Type().OID == tUnk {
			if x, err = coerceUnknown(x, types.T(tText), false); err != nil {
				return nil, b.at(err, posOf(n.Arg))
			}
		}
		arg = x
		if Volatile(x) { // evaluated once, whatever the number of conditions
			c.arg = x
			arg = &colNode{idx: caseArg, typ: x.Type()}
		}
	}
	for _, w := range n.Whens {
		var cond Expr
		var err error
		if arg == nil {
			cond, err = b.boolean(w.Cond, "CASE/WHEN")
		} else {
			var v Expr
			if v, err = b.bind(w.Cond); err == nil {
				if cond, err = Binary("=", arg, v); err != nil {
					err = b.at(err, posOf(w.Cond))
				} else if c.arg != nil {
					cond = shiftCase(cond)
				}
			}
		}
		if err != nil {
			return nil, err
		}
		c.conds = append(c.conds, cond)
		r, err := b.bind(w.Result)
		if err != nil {
			return nil, err
		}
		c.results = append(c.results, r)
	}
	all := c.results
	if n.Else != nil {
		x, err := b.bind(n.Else)
		if err != nil {
			return nil, err
		}
		c.other = x
		// PostgreSQL looks at ELSE first.
		all = append([]Expr{x}, all...)
	}
	t, err := CommonType("CASE", all)
	if err != nil {
		return nil, b.at(err, posOf(n.Whens[0].Result))
	}
	c.typ = t
	for i, r := range c.results {
		if c.results[i], err = CoerceCommon("CASE/WHEN", r, t); err != nil {
			return nil, err
		}
	}
	if c.other != nil {
		if c.other, err = CoerceCommon("CASE/ELSE", c.other, t); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (b *binder) cast(n *pgast.Cast) (Expr, error) {
	t, err := types.LookupName(n.Type)
	if err != nil {
		p := n.Type.Pos
		if p <= 0 {
			p = n.Pos
		}
		return nil, b.at(err, p)
	}
	if arr, ok := n.Arg.(*pgast.Array); ok && types.IsArray(t.OID) {
		// ARRAY[…]::t[] types its elements by the cast.
		x, err := b.arrayOf(arr, types.ElemType(t))
		return x, b.at(err, n.Pos)
	}
	x, err := b.bind(n.Arg)
	if err != nil {
		return nil, err
	}
	x, err = Cast(x, t, CastExplicit)
	return x, b.at(err, n.Pos)
}

func (b *binder) collate(n *pgast.Collate) (Expr, error) {
	x, err := b.bind(n.Arg)
	if err != nil {
		return nil, err
	}
	switch name := n.Name.Last(); name {
	case "default", "C", "POSIX", "ucs_basic", "c", "posix":
	default:
		return nil, sqlstate.Newf(sqlstate.UndefinedObject, "collation \"%s\" for encoding \"UTF8\" does not exist", name)
	}
	if t := x.Type().OID; !isString(t) && t != tUnk {
		return nil, sqlstate.Newf(sqlstate.DatatypeMismatch, "collations are not supported by type %s", types.BaseName(t))
	}
	return x, nil
}
