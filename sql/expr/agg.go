package expr

import (
	"math"
	"math/bits"
	"strconv"
	"strings"

	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

// aggDef is one signature of an aggregate. result maps the argument types to the
// result's; make builds the accumulators.
type aggDef struct {
	args   []types.OID
	result types.OID
	// resultOf, when set, gives the result's type (polymorphic aggregates).
	resultOf func(args []Expr) (types.Type, error)
	make     func(args []types.Type) func() Accumulator
}

func (a *aggDef) argTypes() []types.OID { return a.args }

var aggs = map[string][]*aggDef{}

func defAgg(name string, result types.OID, mk func([]types.Type) func() Accumulator, args ...types.OID) *aggDef {
	d := &aggDef{args: args, result: result, make: mk}
	aggs[name] = append(aggs[name], d)
	return d
}

// IsAggregate reports whether a name is that of an aggregate function.
func IsAggregate(name pgast.Name) bool {
	if len(name) > 1 && name[len(name)-2] != "pg_catalog" {
		return false
	}
	_, ok := aggs[name.Last()]
	return ok
}

type aggregate struct{ new func() Accumulator }

func (a aggregate) New() Accumulator { return a.new() }

// aggEnv binds an aggregate's arguments: another aggregate may not stand in them.
type aggEnv struct{ Env }

func (e aggEnv) Aggregate(*AggCall) (Column, error) {
	return Column{}, sqlstate.Newf(sqlstate.GroupingError, "aggregate function calls cannot be nested")
}

func (e aggEnv) Window(*pgast.Func) (Column, error) {
	return Column{}, sqlstate.Newf(sqlstate.GroupingError, "aggregate function calls cannot contain window function calls")
}

// constAggEnv keeps the constants visible behind aggEnv.
type constAggEnv struct {
	aggEnv
	ConstValues
}

func (b *binder) inner() *binder {
	e := aggEnv{Env: b.env}
	if cv, ok := b.env.(ConstValues); ok {
		return &binder{env: constAggEnv{e, cv}, depth: b.depth}
	}
	return &binder{env: e, depth: b.depth}
}

// BindAggregate binds the call of an aggregate without registering it: for window
// functions over aggregates. Its arguments see env.
func BindAggregate(n *pgast.Func, env Env) (*AggCall, error) {
	b := &binder{env: env}
	return b.aggCall(n.Name.Last(), n)
}

func (b *binder) aggregate(name string, n *pgast.Func) (Expr, error) {
	call, err := b.aggCall(name, n)
	if err != nil {
		return nil, err
	}
	c, err := b.env.Aggregate(call)
	if err != nil {
		return nil, b.at(err, n.Pos)
	}
	return columnExpr(c), nil
}

func (b *binder) aggCall(name string, n *pgast.Func) (*AggCall, error) {
	call := &AggCall{Name: name, Star: n.Star, Distinct: n.Distinct, OrderBy: n.OrderBy}
	in := b.inner()
	if n.WithinGroup {
		return nil, b.errf(n.Pos, sqlstate.FeatureNotSupported, "WITHIN GROUP is not supported")
	}
	if n.Filter != nil {
		f, err := in.boolean(n.Filter, "FILTER")
		if err != nil {
			return nil, err
		}
		call.Filter = ConstantFold(f)
	}
	if n.Star {
		if name != "count" {
			return nil, b.errf(n.Pos, sqlstate.WrongObjectType, "%s(*) specified, but %s does not take no arguments", name, name)
		}
		call.Result = types.T(tInt8)
		call.Agg = aggregate{func() Accumulator { return new(countStar) }}
		call.Key = "count(*)"
	} else if name == "count" && len(n.Args) == 0 {
		return nil, b.errf(n.Pos, sqlstate.WrongObjectType, "count(*) must be used to call a parameterless aggregate function")
	} else {
		args, err := in.binds(n.Args)
		if err != nil {
			return nil, err
		}
		if err := b.resolveAgg(call, name, args); err != nil {
			return nil, b.at(err, n.Pos)
		}
	}
	var k strings.Builder
	if call.Key == "" {
		k.WriteString(name)
		if call.Distinct {
			k.WriteString(" distinct")
		}
		k.WriteByte('(')
		for _, a := range call.Args {
			writeKey(&k, a)
			k.WriteByte(',')
			if Volatile(a) { // never the same twice
				k.WriteString(strconv.Itoa(n.Pos))
			}
		}
		k.WriteByte(')')
	} else {
		k.WriteString(call.Key)
	}
	if call.Filter != nil {
		k.WriteString(" filter ")
		writeKey(&k, call.Filter)
	}
	if len(call.OrderBy) > 0 { // bound by the planner: keep it apart
		k.WriteString(" order at " + strconv.Itoa(n.Pos))
	}
	call.Key = k.String()
	return call, nil
}

func (b *binder) resolveAgg(call *AggCall, name string, args []Expr) error {
	ts := typesOf(args)
	cands := aggs[name]
	var pick *aggDef
	for _, c := range cands {
		same := len(c.args) == len(ts)
		for i := 0; same && i < len(ts); i++ {
			same = c.args[i] == ts[i]
		}
		if same {
			pick = c
		}
	}
	if pick == nil {
		m := matching(ts, cands)
		if len(m) > 1 {
			m = selectCandidate(ts, m)
		}
		switch len(m) {
		case 0:
			return errNoFunction(name, ts, false)
		case 1:
			pick = m[0]
		default:
			return errNoFunction(name, ts, true)
		}
	}
	var at []types.Type
	for i, a := range args {
		to := pick.args[i]
		if to == tAny || to == tElem {
			to = a.Type().OID
			if to == tUnk || to == 0 {
				to = tText
			}
		} else if to == tArr {
			to = a.Type().OID
		}
		x, err := Cast(a, types.T(to), CastImplicit)
		if err != nil {
			return err
		}
		call.Args = append(call.Args, ConstantFold(x))
		at = append(at, x.Type())
	}
	if call.Distinct {
		for _, t := range at {
			if !types.Comparable(t.OID) {
				return sqlstate.Newf(sqlstate.UndefinedFunction, "could not identify an equality operator for type %s", types.BaseName(t.OID))
			}
		}
	}
	call.Result = types.T(pick.result)
	if pick.resultOf != nil {
		t, err := pick.resultOf(call.Args)
		if err != nil {
			return err
		}
		call.Result = t
	}
	call.Agg = aggregate{pick.make(at)}
	return nil
}

func init() {
	simple := func(f func() Accumulator) func([]types.Type) func() Accumulator {
		return func([]types.Type) func() Accumulator { return f }
	}
	defAgg("count", tInt8, simple(func() Accumulator { return new(count) }), tAny)
	sumSmall := simple(func() Accumulator { return new(sumInt) })
	defAgg("sum", tInt8, sumSmall, tInt2)
	defAgg("sum", tInt8, sumSmall, tInt4)
	defAgg("sum", tNum, simple(func() Accumulator { return &sumInt{numeric: true} }), tInt8)
	for _, t := range []types.OID{tInt2, tInt4, tInt8} {
		defAgg("avg", tNum, simple(func() Accumulator { return &sumInt{avg: true} }), t)
	}
	defAgg("sum", tNum, simple(func() Accumulator { return new(sumNumeric) }), tNum)
	defAgg("avg", tNum, simple(func() Accumulator { return &sumNumeric{avg: true} }), tNum)
	defAgg("sum", tFloat4, simple(func() Accumulator { return &sumFloat{single: true} }), tFloat4)
	defAgg("sum", tFloat8, simple(func() Accumulator { return new(sumFloat) }), tFloat8)
	defAgg("avg", tFloat8, simple(func() Accumulator { return &sumFloat{avg: true} }), tFloat4)
	defAgg("avg", tFloat8, simple(func() Accumulator { return &sumFloat{avg: true} }), tFloat8)
	defAgg("sum", tIval, simple(func() Accumulator { return new(sumInterval) }), tIval)
	defAgg("avg", tIval, simple(func() Accumulator { return &sumInterval{avg: true} }), tIval)
	for _, least := range []bool{true, false} {
		least, name := least, "max"
		if least {
			name = "min"
		}
		mk := func(at []types.Type) func() Accumulator {
			t := at[0]
			return func() Accumulator { return &extremum{typ: t, least: least} }
		}
		for _, t := range []types.OID{tInt2, tInt4, tInt8, tFloat4, tFloat8, tNum, tText, tBP, tDate, tTime, tTS, tTSTZ, tIval, tOid} {
			defAgg(name, t, mk, t)
		}
		defAgg(name, tArr, mk, tArr).resultOf = func(args []Expr) (types.Type, error) { return types.T(args[0].Type().OID), nil }
	}
	for _, n := range []string{"bool_and", "every"} {
		defAgg(n, tBool, simple(func() Accumulator { return &boolAgg{and: true} }), tBool)
	}
	defAgg("bool_or", tBool, simple(func() Accumulator { return &boolAgg{} }), tBool)
	for _, t := range []types.OID{tInt2, tInt4, tInt8} {
		for _, op := range []string{"&", "|", "#"} {
			op, f := op, intBits(op)
			name := map[string]string{"&": "bit_and", "|": "bit_or", "#": "bit_xor"}[op]
			defAgg(name, t, simple(func() Accumulator { return &foldAgg{f: f} }), t)
		}
	}
	defAgg("string_agg", tText, simple(func() Accumulator { return &stringAgg{} }), tText, tText)
	defAgg("string_agg", tBytea, simple(func() Accumulator { return &stringAgg{bytes: true} }), tBytea, tBytea)
	defAgg("array_agg", tArr, simple(func() Accumulator { return &arrayAgg{} }), tElem).resultOf = func(args []Expr) (types.Type, error) {
		t := args[0].Type()
		if types.IsArray(t.OID) {
			return types.Type{}, sqlstate.Newf(sqlstate.FeatureNotSupported, "array_agg over arrays is not supported")
		}
		at := types.ArrayOf(t.OID)
		if at == 0 {
			return types.Type{}, sqlstate.Newf(sqlstate.UndefinedObject, "could not find array type for data type %s", types.BaseName(t.OID))
		}
		return types.T(at), nil
	}
	for _, n := range []string{"stddev", "stddev_samp", "stddev_pop", "variance", "var_samp", "var_pop"} {
		sqrt := strings.HasPrefix(n, "stddev")
		pop := strings.HasSuffix(n, "_pop")
		for _, t := range []types.OID{tInt2, tInt4, tInt8, tNum} {
			isInt := t != tNum
			defAgg(n, tNum, simple(func() Accumulator { return &varNumeric{sqrt: sqrt, pop: pop, ints: isInt} }), t)
		}
		for _, t := range []types.OID{tFloat4, tFloat8} {
			defAgg(n, tFloat8, simple(func() Accumulator { return &varFloat{sqrt: sqrt, pop: pop} }), t)
		}
	}
	for _, n := range []string{"json_agg", "jsonb_agg"} {
		binary := n == "jsonb_agg"
		res := types.OID(tJSON)
		if binary {
			res = tJSONB
		}
		defAgg(n, res, func(at []types.Type) func() Accumulator {
			t := at[0]
			return func() Accumulator { return &jsonAgg{typ: t, binary: binary} }
		}, tElem)
		defAgg(strings.Replace(n, "_agg", "_object_agg", 1), res, func(at []types.Type) func() Accumulator {
			return func() Accumulator { return &jsonObjectAgg{key: at[0], val: at[1], binary: binary} }
		}, tAny, tAny)
	}
}

type countStar struct{ n int64 }

func (a *countStar) Add(*EvalContext, []D) error { a.n++; return nil }
func (a *countStar) Result() (D, error)          { return types.Int(a.n), nil }

type count struct{ n int64 }

func (a *count) Add(_ *EvalContext, v []D) error {
	if !v[0].IsNull() {
		a.n++
	}
	return nil
}
func (a *count) Result() (D, error) { return types.Int(a.n), nil }

// sumInt sums integers exactly in 128 bits.
type sumInt struct {
	hi           int64
	lo           uint64
	n            int64
	numeric, avg bool
}

func (a *sumInt) Add(_ *EvalContext, v []D) error {
	if v[0].IsNull() {
		return nil
	}
	x := v[0].Int()
	var c uint64
	a.lo, c = bits.Add64(a.lo, uint64(x), 0)
	a.hi += x>>63 + int64(c)
	a.n++
	return nil
}
func (a *sumInt) Result() (D, error) {
	if a.n == 0 {
		return types.Null, nil
	}
	if a.avg {
		return types.NumericDiv(types.NumericFromInt128(a.hi, a.lo), types.NumericFromInt(a.n))
	}
	if a.numeric {
		return types.NumericFromInt128(a.hi, a.lo), nil
	}
	if a.hi != int64(a.lo)>>63 {
		return types.Null, errOutOfRange(tInt8)
	}
	return types.Int(int64(a.lo)), nil
}

type sumNumeric struct {
	s   types.NumericSum
	avg bool
}

func (a *sumNumeric) Add(_ *EvalContext, v []D) error {
	if !v[0].IsNull() {
		a.s.Add(v[0])
	}
	return nil
}
func (a *sumNumeric) Result() (D, error) {
	switch {
	case a.s.Count() == 0:
		return types.Null, nil
	case a.avg:
		return a.s.Avg()
	}
	return a.s.Sum()
}

type sumFloat struct {
	sum         float64
	n           int64
	avg, single bool
}

func (a *sumFloat) Add(_ *EvalContext, v []D) error {
	if v[0].IsNull() {
		return nil
	}
	x := v[0].Float()
	s := a.sum + x
	if a.single {
		s = float64(float32(s))
	}
	if math.IsInf(s, 0) && !math.IsInf(x, 0) && !math.IsInf(a.sum, 0) {
		return errFloatOverflow()
	}
	a.sum = s
	a.n++
	return nil
}
func (a *sumFloat) Result() (D, error) {
	if a.n == 0 {
		return types.Null, nil
	}
	if a.avg {
		return types.Float(a.sum / float64(a.n)), nil
	}
	return types.Float(a.sum), nil
}

type sumInterval struct {
	sum D
	n   int64
	avg bool
}

func (a *sumInterval) Add(_ *EvalContext, v []D) error {
	if v[0].IsNull() {
		return nil
	}
	if a.n++; a.n == 1 {
		a.sum = Detach(v[0])
		return nil
	}
	s, err := types.IntervalAdd(a.sum, v[0])
	a.sum = s
	return err
}
func (a *sumInterval) Result() (D, error) {
	if a.n == 0 || !a.avg {
		return a.sum, nil
	}
	return intervalDiv(a.sum, float64(a.n))
}

type extremum struct {
	typ   types.Type
	best  D
	least bool
}

func (a *extremum) Add(_ *EvalContext, v []D) error {
	d := v[0]
	if d.IsNull() {
		return nil
	}
	if !a.best.IsNull() {
		if c := types.Compare(d, a.best, a.typ); a.least && c >= 0 || !a.least && c <= 0 {
			return nil
		}
	}
	a.best = Detach(d)
	return nil
}
func (a *extremum) Result() (D, error) { return a.best, nil }

type boolAgg struct {
	and, seen, v bool
}

func (a *boolAgg) Add(_ *EvalContext, v []D) error {
	if v[0].IsNull() {
		return nil
	}
	b := v[0].Bool()
	switch {
	case !a.seen:
		a.v = b
	case a.and:
		a.v = a.v && b
	default:
		a.v = a.v || b
	}
	a.seen = true
	return nil
}
func (a *boolAgg) Result() (D, error) {
	if !a.seen {
		return types.Null, nil
	}
	return types.Bool(a.v), nil
}

type foldAgg struct {
	f fn2
	v D
}

func (a *foldAgg) Add(ec *EvalContext, v []D) error {
	if v[0].IsNull() {
		return nil
	}
	if a.v.IsNull() {
		a.v = v[0]
		return nil
	}
	d, err := a.f(ec, a.v, v[0])
	a.v = d
	return err
}
func (a *foldAgg) Result() (D, error) { return a.v, nil }

type stringAgg struct {
	b     []byte
	seen  bool
	bytes bool
}

func (a *stringAgg) Add(_ *EvalContext, v []D) error {
	if v[0].IsNull() {
		return nil
	}
	if a.seen && !v[1].IsNull() {
		a.b = append(a.b, v[1].Str()...)
	}
	a.seen = true
	if a.b = append(a.b, v[0].Str()...); len(a.b) > 1<<30 {
		return sqlstate.Newf(sqlstate.ProgramLimitExceeded, "string_agg result is too large")
	}
	return nil
}
func (a *stringAgg) Result() (D, error) {
	switch {
	case !a.seen:
		return types.Null, nil
	case a.bytes:
		return types.Bytes(string(a.b)), nil
	}
	return types.Text(string(a.b)), nil
}

type arrayAgg struct{ b types.ArrayBuilder }

func (a *arrayAgg) Add(_ *EvalContext, v []D) error {
	a.b.Append(v[0])
	if a.b.Size() > 1<<30 {
		return sqlstate.Newf(sqlstate.ProgramLimitExceeded, "array size exceeds the maximum allowed")
	}
	return nil
}
func (a *arrayAgg) Result() (D, error) {
	if a.b.Len() == 0 {
		return types.Null, nil
	}
	return a.b.Array(), nil
}

// varNumeric is variance and standard deviation over exact numbers, from sums of
// the values and their squares.
type varNumeric struct {
	s, q            types.NumericSum
	sqrt, pop, ints bool
}

func (a *varNumeric) Add(_ *EvalContext, v []D) error {
	if v[0].IsNull() {
		return nil
	}
	d := v[0]
	if a.ints {
		d = types.NumericFromInt(d.Int())
	}
	a.s.Add(d)
	sq, err := types.NumericMul(d, d)
	a.q.Add(sq)
	return err
}
func (a *varNumeric) Result() (D, error) {
	n := a.s.Count()
	if n == 0 || n == 1 && !a.pop {
		return types.Null, nil
	}
	return types.NumericVariance(&a.s, &a.q, a.pop, a.sqrt)
}

// varFloat uses the Youngs-Cramer algorithm, as PostgreSQL does.
type varFloat struct {
	n, sx, sxx float64
	sqrt, pop  bool
}

func (a *varFloat) Add(_ *EvalContext, v []D) error {
	if v[0].IsNull() {
		return nil
	}
	x := v[0].Float()
	a.n++
	a.sx += x
	if a.n > 1 {
		t := x*a.n - a.sx
		a.sxx += t * t / (a.n * (a.n - 1))
		if math.IsInf(a.sx, 0) || math.IsInf(a.sxx, 0) {
			if !math.IsInf(x, 0) && !math.IsInf(a.sx-x, 0) {
				return errFloatOverflow()
			}
			a.sxx = math.NaN()
		}
	} else if math.IsNaN(x) || math.IsInf(x, 0) {
		a.sxx = math.NaN()
	}
	return nil
}
func (a *varFloat) Result() (D, error) {
	div := a.n - 1
	if a.pop {
		div = a.n
	}
	if div <= 0 {
		return types.Null, nil
	}
	r := a.sxx / div
	if a.sqrt {
		r = math.Sqrt(r)
	}
	return types.Float(r), nil
}
