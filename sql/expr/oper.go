package expr

import (
	"math"
	"strings"

	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

// operDef is a row of pg_operator. Prefix operators have left 0. Exactly one of
// fn1, fn2 and build makes the node.
type operDef struct {
	name        string
	left, right types.OID
	result      types.OID
	vol         Volatility
	fn1         fn1
	fn2         fn2
	build       func(l, r Expr) Expr
}

func (o *operDef) argTypes() []types.OID {
	if o.left == 0 {
		return []types.OID{o.right}
	}
	return []types.OID{o.left, o.right}
}

var opers = map[string][]*operDef{}

func defOp(name string, l, r, res types.OID, fn fn2) *operDef {
	o := &operDef{name: name, left: l, right: r, result: res, fn2: fn}
	opers[name] = append(opers[name], o)
	return o
}

func defPrefix(name string, r, res types.OID, fn fn1) {
	opers[name] = append(opers[name], &operDef{name: name, right: r, result: res, fn1: fn})
}

func defBuilt(name string, l, r, res types.OID, build func(l, r Expr) Expr) {
	opers[name] = append(opers[name], &operDef{name: name, left: l, right: r, result: res, build: build})
}

// sameKind lists pairs of types whose values compare directly.
func init() {
	self := []types.OID{tBool, tBytea, tChar, tName, tText, tOid, tBP, tNum, tDate, tTime, tTS, tTSTZ, tIval, tUUID, tJSONB, tXid8}
	pair := func(l, r types.OID) {
		for name, op := range cmpOps {
			op := op
			defBuilt(name, l, r, tBool, func(l, r Expr) Expr { return newCmp(op, l, r) })
		}
	}
	for _, t := range self {
		pair(t, t)
	}
	for _, l := range []types.OID{tInt2, tInt4, tInt8} {
		for _, r := range []types.OID{tInt2, tInt4, tInt8} {
			pair(l, r)
		}
	}
	for _, l := range []types.OID{tFloat4, tFloat8} {
		for _, r := range []types.OID{tFloat4, tFloat8} {
			pair(l, r)
		}
	}
	pair(tName, tText)
	pair(tText, tName)
	for _, name := range []string{"=", "<>"} {
		op := cmpOps[name]
		build := func(l, r Expr) Expr { return newCmp(op, l, r) }
		defBuilt(name, tXid, tXid, tBool, build)
		defBuilt(name, tXid, tInt4, tBool, build)
	}
	// Dates compare with timestamps after conversion.
	conv := func(e Expr, to types.OID) Expr {
		c, err := Cast(e, types.T(to), CastImplicit)
		if err != nil {
			return e
		}
		return c
	}
	for name, op := range cmpOps {
		op := op
		for _, p := range [][3]types.OID{{tDate, tTS, tTS}, {tTS, tDate, tTS}, {tDate, tTSTZ, tTSTZ}, {tTSTZ, tDate, tTSTZ}, {tTS, tTSTZ, tTSTZ}, {tTSTZ, tTS, tTSTZ}} {
			p := p
			defBuilt(name, p[0], p[1], tBool, func(l, r Expr) Expr { return newCmp(op, conv(l, p[2]), conv(r, p[2])) })
		}
	}
	initArithOps()
	initTextOps()
	initTimeOps()
	initJSONOps()
}

func initArithOps() {
	ints := []types.OID{tInt2, tInt4, tInt8}
	for i, l := range ints {
		for j, r := range ints {
			res := ints[max(i, j)]
			for _, op := range []byte("+-*/") {
				op := op
				defBuilt(string(op), l, r, res, func(a, b Expr) Expr { return newArith(op, a, b, res) })
			}
		}
		l := l
		defBuilt("%", l, l, l, func(a, b Expr) Expr { return newArith('%', a, b, l) })
		for _, op := range []string{"&", "|", "#"} {
			defOp(op, l, l, l, intBits(op))
		}
		defOp("<<", l, tInt4, l, shift(true, l))
		defOp(">>", l, tInt4, l, shift(false, l))
		defPrefix("~", l, l, func(_ *EvalContext, a types.Datum) (types.Datum, error) { return types.Int(^a.Int()), nil })
		defPrefix("+", l, l, func(_ *EvalContext, a types.Datum) (types.Datum, error) { return a, nil })
		neg := func(_ *EvalContext, a types.Datum) (types.Datum, error) {
			v, err := intArith('-', 0, a.Int(), l)
			return types.Int(v), err
		}
		defPrefix("-", l, l, neg)
		defPrefix("@", l, l, func(ec *EvalContext, a types.Datum) (types.Datum, error) {
			if a.Int() < 0 {
				return neg(ec, a)
			}
			return a, nil
		})
	}
	for _, l := range []types.OID{tFloat4, tFloat8} {
		for _, r := range []types.OID{tFloat4, tFloat8} {
			res := types.OID(tFloat8)
			if l == tFloat4 && r == tFloat4 {
				res = tFloat4
			}
			for _, op := range []byte("+-*/") {
				defOp(string(op), l, r, res, floatArith(op, res == tFloat4))
			}
		}
		defPrefix("-", l, l, func(_ *EvalContext, a types.Datum) (types.Datum, error) { return types.Float(-a.Float()), nil })
		defPrefix("+", l, l, func(_ *EvalContext, a types.Datum) (types.Datum, error) { return a, nil })
		defPrefix("@", l, l, func(_ *EvalContext, a types.Datum) (types.Datum, error) {
			return types.Float(math.Abs(a.Float())), nil
		})
	}
	defOp("^", tFloat8, tFloat8, tFloat8, powFloat)
	defOp("^", tNum, tNum, tNum, num2(types.NumericPower))
	defPrefix("|/", tFloat8, tFloat8, sqrtFloat)
	defPrefix("||/", tFloat8, tFloat8, func(_ *EvalContext, a types.Datum) (types.Datum, error) {
		return types.Float(math.Cbrt(a.Float())), nil
	})
	defOp("+", tNum, tNum, tNum, num2(types.NumericAdd))
	defOp("-", tNum, tNum, tNum, num2(types.NumericSub))
	defOp("*", tNum, tNum, tNum, num2(types.NumericMul))
	defOp("/", tNum, tNum, tNum, num2(types.NumericDiv))
	defOp("%", tNum, tNum, tNum, num2(types.NumericRem))
	defPrefix("-", tNum, tNum, func(_ *EvalContext, a types.Datum) (types.Datum, error) { return types.NumericNeg(a), nil })
	defPrefix("+", tNum, tNum, func(_ *EvalContext, a types.Datum) (types.Datum, error) { return a, nil })
	defPrefix("@", tNum, tNum, absNumeric)
}

func absNumeric(_ *EvalContext, a types.Datum) (types.Datum, error) {
	if types.NumericSign(a) < 0 {
		return types.NumericNeg(a), nil
	}
	return a, nil
}

func sqrtFloat(_ *EvalContext, a types.Datum) (types.Datum, error) {
	f := a.Float()
	if f < 0 {
		return types.Null, sqlstate.Newf("2201F", "cannot take square root of a negative number")
	}
	return types.Float(math.Sqrt(f)), nil
}

func powFloat(_ *EvalContext, a, b types.Datum) (types.Datum, error) {
	x, y := a.Float(), b.Float()
	if x == 0 && y < 0 {
		return types.Null, sqlstate.Newf("2201F", "zero raised to a negative power is undefined")
	}
	if x < 0 && !math.IsInf(y, 0) && math.Floor(y) != y {
		return types.Null, sqlstate.Newf("2201F", "a negative number raised to a non-integer power yields a complex result")
	}
	v := math.Pow(x, y)
	if math.IsInf(v, 0) && !math.IsInf(x, 0) && !math.IsInf(y, 0) {
		return types.Null, errFloatOverflow()
	}
	if v == 0 && x != 0 && !math.IsInf(x, 0) && !math.IsInf(y, 0) {
		return types.Null, errFloatUnderflow()
	}
	return types.Float(v), nil
}

func initTextOps() {
	cat := func(_ *EvalContext, a, b types.Datum) (types.Datum, error) { return types.Text(a.Str() + b.Str()), nil }
	defOp("||", tText, tText, tText, cat)
	defOp("||", tBytea, tBytea, tBytea, func(_ *EvalContext, a, b types.Datum) (types.Datum, error) {
		return types.Bytes(a.Str() + b.Str()), nil
	})
	defOp("^@", tText, tText, tBool, func(_ *EvalContext, a, b types.Datum) (types.Datum, error) {
		return types.Bool(strings.HasPrefix(a.Str(), b.Str())), nil
	})
	for _, l := range []types.OID{tText, tName, tBP} {
		l := l
		like := func(name string, fold, not bool) {
			defBuilt(name, l, tText, tBool, func(a, b Expr) Expr { return newLike(a, b, nil, fold, not) })
		}
		for _, n := range []string{"like", "~~"} {
			like(n, false, false)
		}
		for _, n := range []string{"not like", "!~~"} {
			like(n, false, true)
		}
		for _, n := range []string{"ilike", "~~*"} {
			like(n, true, false)
		}
		for _, n := range []string{"not ilike", "!~~*"} {
			like(n, true, true)
		}
		for _, x := range []struct {
			name      string
			fold, not bool
		}{{"~", false, false}, {"!~", false, true}, {"~*", true, false}, {"!~*", true, true}} {
			x := x
			defBuilt(x.name, l, tText, tBool, func(a, b Expr) Expr { return &regexNode{a: a, pattern: b, fold: x.fold, not: x.not} })
		}
	}
	for _, not := range []bool{false, true} {
		name := "similar to"
		if not {
			name = "not similar to"
		}
		not := not
		defBuilt(name, tText, tText, tBool, func(a, b Expr) Expr {
			p := &call1{call: call{name: "similar_escape", typ: types.T(tText)}, a: b, fn: func(_ *EvalContext, p types.Datum) (types.Datum, error) {
				s, err := similarToRegex(p.Str(), '\\')
				return types.Text(s), err
			}}
			return &regexNode{a: a, pattern: p, not: not}
		})
	}
	for _, t := range []types.OID{tText, tBP} {
		for name, op := range map[string]cmpOp{"~<~": cmpLT, "~<=~": cmpLE, "~>~": cmpGT, "~>=~": cmpGE} {
			op := op
			defBuilt(name, t, t, tBool, func(a, b Expr) Expr { return newCmp(op, a, b) })
		}
	}
}

// operator finds the operator for two operand types as PostgreSQL's oper() does;
// nil: none, ambiguous: more than one fits.
func operator(name string, args []types.OID) (o *operDef, ambiguous bool) {
	cands := opers[name]
	// Exact, with an unknown side taken for the other's type.
	want := args
	if len(args) == 2 && (args[0] == tUnk) != (args[1] == tUnk) {
		t := args[0]
		if t == tUnk {
			t = args[1]
		}
		want = []types.OID{t, t}
	}
	for _, c := range cands {
		if len(want) == 2 && c.left == want[0] && c.right == want[1] || len(want) == 1 && c.left == 0 && c.right == want[0] {
			return c, false
		}
	}
	m := matching(args, cands)
	if len(m) > 1 {
		m = selectCandidate(args, m)
	}
	switch len(m) {
	case 0:
		return nil, false
	case 1:
		return m[0], false
	}
	return nil, true
}

// apply makes the node for operands that have been resolved to o.
func (o *operDef) apply(operands []Expr) (Expr, error) {
	ts := o.argTypes()
	ks := make([]Expr, len(operands))
	for i, e := range operands {
		k, err := Cast(e, types.T(ts[i]), CastImplicit)
		if err != nil {
			return nil, err
		}
		ks[i] = k
	}
	c := call{name: o.name, typ: types.T(o.result), vol: o.vol}
	switch {
	case o.build != nil:
		return o.build(ks[0], ks[1]), nil
	case o.fn1 != nil:
		return &call1{call: c, fn: o.fn1, a: ks[0]}, nil
	}
	return &call2{call: c, fn: o.fn2, a: ks[0], b: ks[1]}, nil
}

// likeNames are the operators behind LIKE's words, as messages have them.
var likeNames = map[string]string{"like": "~~", "not like": "!~~", "ilike": "~~*", "not ilike": "!~~*", "similar to": "~", "not similar to": "!~"}

func errNoOperator(name string, args []types.OID, ambiguous bool) *sqlstate.Error {
	if n, ok := likeNames[name]; ok {
		name = n
	}
	sig := name + " "
	if len(args) == 2 {
		sig = types.BaseName(args[0]) + " " + name + " "
	}
	sig += types.BaseName(args[len(args)-1])
	if ambiguous {
		return sqlstate.Newf(sqlstate.AmbiguousFunction, "operator is not unique: %s", sig).
			WithHint("Could not choose a best candidate operator. You might need to add explicit type casts.")
	}
	e := sqlstate.Newf(sqlstate.UndefinedFunction, "operator does not exist: %s", sig)
	if len(args) == 2 {
		return e.WithHint("No operator matches the given name and argument types. You might need to add explicit type casts.")
	}
	return e.WithHint("No operator matches the given name and argument type. You might need to add an explicit type cast.")
}

// Binary resolves and makes a binary operator over bound operands.
func Binary(name string, l, r Expr) (Expr, error) {
	if e, err := polymorphicOp(name, l, r); e != nil || err != nil {
		return e, err
	}
	args := typesOf([]Expr{l, r})
	o, amb := operator(name, args)
	if o == nil {
		return nil, errNoOperator(name, args, amb)
	}
	return o.apply([]Expr{l, r})
}

// Unary resolves and makes a prefix operator.
func Unary(name string, a Expr) (Expr, error) {
	args := typesOf([]Expr{a})
	o, amb := operator(name, args)
	if o == nil {
		return nil, errNoOperator(name, args, amb)
	}
	return o.apply([]Expr{a})
}

// polymorphicOp handles operators over arrays and ||'s mixed forms; nil: not one.
func polymorphicOp(name string, l, r Expr) (Expr, error) {
	lt, rt := l.Type().OID, r.Type().OID
	la, ra := types.IsArray(lt), types.IsArray(rt)
	unk := func(t types.OID) bool { return t == tUnk || t == 0 }
	arrayPair := func() (Expr, Expr, error) {
		if unk(lt) {
			c, err := Cast(l, types.T(rt), CastImplicit)
			return c, r, err
		}
		if unk(rt) {
			c, err := Cast(r, types.T(lt), CastImplicit)
			return l, c, err
		}
		return l, r, nil
	}
	switch name {
	case "=", "<>", "<", "<=", ">", ">=":
		if !la && !ra || !(la || unk(lt)) || !(ra || unk(rt)) {
			return nil, nil
		}
		a, b, err := arrayPair()
		if err != nil {
			return nil, err
		}
		if a.Type().OID != b.Type().OID || !types.Comparable(a.Type().OID) {
			return nil, nil
		}
		return newCmp(cmpOps[name], a, b), nil
	case "@>", "<@", "&&":
		if !la && !ra || !(la || unk(lt)) || !(ra || unk(rt)) {
			return nil, nil
		}
		a, b, err := arrayPair()
		if err != nil {
			return nil, err
		}
		if a.Type().OID != b.Type().OID || !types.Comparable(a.Type().OID) {
			return nil, nil
		}
		return arraySetOp(name, a, b), nil
	case "||":
		if la || ra {
			return arrayConcat(l, r)
		}
		// Anything but an array joins a string.
		other := func(t types.OID) bool { return !unk(t) && !isString(t) && t != tBytea && t != tJSONB }
		if other(lt) && (isString(rt) || unk(rt)) || other(rt) && (isString(lt) || unk(lt)) {
			a, err := Cast(l, types.T(tText), CastExplicit)
			if err != nil {
				return nil, err
			}
			b, err := Cast(r, types.T(tText), CastExplicit)
			if err != nil {
				return nil, err
			}
			return Binary("||", a, b)
		}
	}
	return nil, nil
}
