package expr

import (
	"math"

	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

// arrayNode is ARRAY[…].
type arrayNode struct {
	elems  []Expr
	typ    types.Type // of the array
	nested bool       // elements are arrays themselves
}

func (n *arrayNode) Type() types.Type { return n.typ }
func (n *arrayNode) Eval(ec *EvalContext, row []types.Datum) (types.Datum, error) {
	if !n.nested {
		var b types.ArrayBuilder
		for _, e := range n.elems {
			d, err := e.Eval(ec, row)
			if err != nil {
				return types.Null, err
			}
			b.Append(d)
		}
		return b.Array(), nil
	}
	var dims []types.Dim
	var elems []types.Datum
	for i, e := range n.elems {
		d, err := e.Eval(ec, row)
		if err != nil {
			return types.Null, err
		}
		if d.IsNull() {
			return types.Null, errUnequalDims()
		}
		it := d.Iter()
		sub := it.Dims()
		if i == 0 {
			dims = append([]types.Dim{{Len: len(n.elems), Lower: 1}}, sub...)
		} else if len(sub) != len(dims)-1 {
			return types.Null, errUnequalDims()
		}
		for j, s := range sub {
			if s.Len != dims[j+1].Len {
				return types.Null, errUnequalDims()
			}
		}
		elems = append(elems, types.ArrayElems(d)...)
	}
	if len(dims) > types.MaxDims {
		return types.Null, sqlstate.Newf(sqlstate.ProgramLimitExceeded, "number of array dimensions (%d) exceeds the maximum allowed (%d)", len(dims), types.MaxDims)
	}
	return types.NewArrayDims(dims, elems), nil
}
func (n *arrayNode) kids() []Expr           { return n.elems }
func (n *arrayNode) with(k []Expr) Expr     { return &arrayNode{k, n.typ, n.nested} }
func (n *arrayNode) head() string           { return "array" + types.BaseName(n.typ.OID) }
func (n *arrayNode) volatility() Volatility { return Immutable }

func errUnequalDims() error {
	return sqlstate.Newf("2202E", "multidimensional arrays must have array expressions with matching dimensions")
}

func (b *binder) array(n *pgast.Array) (Expr, error) {
	if len(n.Elems) == 0 {
		return nil, sqlstate.Newf(sqlstate.IndeterminateDatatype, "cannot determine type of empty array").
			WithHint("Explicitly cast to the desired type, for example ARRAY[]::integer[].")
	}
	elems, err := b.binds(n.Elems)
	if err != nil {
		return nil, err
	}
	t, err := CommonType("ARRAY", elems)
	if err != nil {
		return nil, b.at(err, posOf(n.Elems[0]))
	}
	return makeArrayNode(elems, t)
}

func makeArrayNode(elems []Expr, t types.Type) (Expr, error) {
	at, nested := types.Type{OID: types.ArrayOf(t.OID), Mod: -1}, false
	if types.IsArray(t.OID) {
		at, nested = types.T(t.OID), true
	}
	if at.OID == 0 {
		return nil, sqlstate.Newf(sqlstate.UndefinedObject, "could not find array type for data type %s", types.BaseName(t.OID))
	}
	for i, e := range elems {
		c, err := CoerceCommon("ARRAY", e, t)
		if err != nil {
			return nil, err
		}
		elems[i] = c
	}
	return &arrayNode{elems, at, nested}, nil
}

// arrayOf binds ARRAY[…] whose elements are cast to et.
func (b *binder) arrayOf(n *pgast.Array, et types.Type) (Expr, error) {
	at := types.Type{OID: types.ArrayOf(et.OID), Mod: et.Mod}
	elems := make([]Expr, len(n.Elems))
	nested := false
	for i, e := range n.Elems {
		if sub, ok := e.(*pgast.Array); ok {
			x, err := b.arrayOf(sub, et)
			if err != nil {
				return nil, err
			}
			elems[i], nested = x, true
			continue
		}
		x, err := b.bind(e)
		if err != nil {
			return nil, err
		}
		to := et
		if types.IsArray(x.Type().OID) {
			to, nested = at, true
		}
		if elems[i], err = Cast(x, to, CastExplicit); err != nil {
			return nil, err
		}
	}
	return &arrayNode{elems, at, nested}, nil
}

func (b *binder) subscript(n *pgast.Subscript) (Expr, error) {
	// a[i][j] arrives as subscripts of subscripts: gather them.
	var subs []*pgast.Subscript
	var base pgast.Expr = n
	slice := false
	for {
		s, ok := base.(*pgast.Subscript)
		if !ok {
			break
		}
		subs = append([]*pgast.Subscript{s}, subs...)
		slice = slice || s.Slice
		base = s.Arg
	}
	a, err := b.bind(base)
	if err != nil {
		return nil, err
	}
	index := func(e pgast.Expr) (Expr, error) {
		x, err := b.bind(e)
		if err != nil {
			return nil, err
		}
		if !coercible(x.Type().OID, tInt4, CastAssignment) {
			return nil, b.errf(posOf(e), sqlstate.DatatypeMismatch, "array subscript must have type integer")
		}
		return Cast(x, types.T(tInt4), CastAssignment)
	}
	at := a.Type()
	if at.OID == tJSONB && !slice {
		for _, s := range subs {
			x, err := b.bind(s.Lo)
			if err != nil {
				return nil, err
			}
			if x.Type().OID == tUnk {
				if x, err = coerceUnknown(x, types.T(tText), false); err != nil {
					return nil, err
				}
			}
			if a, err = Binary("->", a, x); err != nil {
				return nil, b.at(err, posOf(s.Lo))
			}
		}
		return a, nil
	}
	if !types.IsArray(at.OID) {
		return nil, b.errf(posOf(base), sqlstate.DatatypeMismatch, "cannot subscript type %s because it does not support subscripting", types.BaseName(at.OID))
	}
	c := call{name: "subscript", typ: types.ElemType(at)}
	if !slice {
		if len(subs) == 1 {
			i, err := index(subs[0].Lo)
			if err != nil {
				return nil, err
			}
			return &call2{call: c, a: a, b: i, fn: func(_ *EvalContext, a, i types.Datum) (types.Datum, error) {
				return types.ArrayAt(a, int(i.Int())), nil
			}}, nil
		}
		args := []Expr{a}
		for _, s := range subs {
			i, err := index(s.Lo)
			if err != nil {
				return nil, err
			}
			args = append(args, i)
		}
		return &callN{call: c, args: args, fn: func(_ *EvalContext, v []types.Datum) (types.Datum, error) {
			ix := make([]int, len(v)-1)
			for k := range ix {
				ix[k] = int(v[k+1].Int())
			}
			return types.ArrayAt(v[0], ix...), nil
		}}, nil
	}
	// Slices: a plain subscript i among slices means [1:i]. Open ends are NULL
	// literals that the function tells from real NULLs by open.
	c.name, c.typ, c.lax = "slice", at, true
	args := []Expr{a}
	var open []bool
	bound := func(e pgast.Expr) error {
		if e == nil {
			args, open = append(args, &litNode{typ: types.T(tInt4)}), append(open, true)
			return nil
		}
		x, err := index(e)
		args, open = append(args, x), append(open, false)
		return err
	}
	for _, s := range subs {
		if s.Slice {
			if err := bound(s.Lo); err != nil {
				return nil, err
			}
			if err := bound(s.Hi); err != nil {
				return nil, err
			}
			continue
		}
		args, open = append(args, &litNode{d: types.Int(1), typ: types.T(tInt4)}), append(open, false)
		if err := bound(s.Lo); err != nil {
			return nil, err
		}
	}
	return &callN{call: c, args: args, fn: func(_ *EvalContext, v []types.Datum) (types.Datum, error) {
		return arraySlice(v, open)
	}}, nil
}

func arraySlice(v []types.Datum, open []bool) (types.Datum, error) {
	if v[0].IsNull() {
		return types.Null, nil
	}
	it := v[0].Iter()
	dims := it.Dims()
	nsub := len(open) / 2
	if len(dims) == 0 || nsub > len(dims) {
		return types.EmptyArray, nil
	}
	lo, hi := make([]int, len(dims)), make([]int, len(dims))
	out := make([]types.Dim, len(dims))
	for d, dim := range dims {
		lo[d], hi[d] = dim.Lower, dim.Lower+dim.Len-1
		if d < nsub {
			for k, p := range []*int{&lo[d], &hi[d]} {
				x := v[1+2*d+k]
				if open[2*d+k] {
					continue
				}
				if x.IsNull() {
					return types.Null, nil
				}
				if k == 0 {
					*p = max(*p, int(x.Int()))
				} else {
					*p = min(*p, int(x.Int()))
				}
			}
		}
		if lo[d] > hi[d] {
			return types.EmptyArray, nil
		}
		out[d] = types.Dim{Len: hi[d] - lo[d] + 1, Lower: 1}
	}
	var elems []types.Datum
	pos := make([]int, len(dims))
	for d := range pos {
		pos[d] = dims[d].Lower
	}
	for {
		e, ok := it.Next()
		if !ok {
			return types.NewArrayDims(out, elems), nil
		}
		in := true
		for d := range pos {
			in = in && pos[d] >= lo[d] && pos[d] <= hi[d]
		}
		if in {
			elems = append(elems, e)
		}
		for d := len(pos) - 1; d >= 0; d-- {
			if pos[d]++; pos[d] < dims[d].Lower+dims[d].Len {
				break
			}
			pos[d] = dims[d].Lower
		}
	}
}

// arrayConcat is || with an array on at least one side.
func arrayConcat(l, r Expr) (Expr, error) {
	lt, rt := l.Type().OID, r.Type().OID
	la, ra := types.IsArray(lt), types.IsArray(rt)
	unk := func(t types.OID) bool { return t == tUnk || t == 0 }
	fail := func() (Expr, error) { return nil, errNoOperator("||", typesOf([]Expr{l, r}), false) }
	var err error
	switch {
	case unk(lt):
		l, err = Cast(l, types.T(rt), CastImplicit)
	case unk(rt):
		r, err = Cast(r, types.T(lt), CastImplicit)
	case la && ra:
		if lt != rt {
			t, cerr := CommonType("||", []Expr{&litNode{typ: types.T(types.ElemOf(lt))}, &litNode{typ: types.T(types.ElemOf(rt))}})
			if cerr != nil {
				return fail()
			}
			at := types.T(types.ArrayOf(t.OID))
			if l, err = Cast(l, at, CastImplicit); err == nil {
				r, err = Cast(r, at, CastImplicit)
			}
		}
	case la:
		a, e, err := joinElem(l, r)
		if err != nil {
			return fail()
		}
		l, r = a, e
		return &call2{call: call{name: "array_append", typ: types.T(l.Type().OID), lax: true}, a: l, b: r, fn: arrayAppend}, nil
	default:
		a, e, err := joinElem(r, l)
		if err != nil {
			return fail()
		}
		l, r = e, a
		return &call2{call: call{name: "array_prepend", typ: types.T(r.Type().OID), lax: true}, a: l, b: r, fn: arrayPrepend}, nil
	}
	if err != nil {
		return nil, err
	}
	return &call2{call: call{name: "array_cat", typ: types.T(l.Type().OID), lax: true}, a: l, b: r, fn: arrayCat}, nil
}

// joinElem brings an array and an element to one element type.
func joinElem(arr, e Expr) (Expr, Expr, error) {
	et := types.T(types.ElemOf(arr.Type().OID))
	t, err := CommonType("||", []Expr{&litNode{typ: et}, e})
	if err != nil {
		return nil, nil, err
	}
	at := types.ArrayOf(t.OID)
	if at == 0 {
		return nil, nil, errUnequalDims()
	}
	if arr, err = Cast(arr, types.T(at), CastImplicit); err != nil {
		return nil, nil, err
	}
	e, err = Cast(e, types.T(t.OID), CastImplicit)
	return arr, e, err
}

func arrayAppend(_ *EvalContext, a, e types.Datum) (types.Datum, error) {
	if a.IsNull() {
		return types.NewArray([]types.Datum{e}), nil
	}
	it := a.Iter()
	if len(it.Dims()) > 1 {
		return types.Null, sqlstate.Newf(sqlstate.DataException, "argument must be empty or one-dimensional array")
	}
	lower := 1
	if len(it.Dims()) == 1 {
		lower = it.Dims()[0].Lower
	}
	elems := append(types.ArrayElems(a), e)
	return types.NewArrayDims([]types.Dim{{Len: len(elems), Lower: lower}}, elems), nil
}

func arrayPrepend(_ *EvalContext, e, a types.Datum) (types.Datum, error) {
	if a.IsNull() {
		return types.NewArray([]types.Datum{e}), nil
	}
	it := a.Iter()
	if len(it.Dims()) > 1 {
		return types.Null, sqlstate.Newf(sqlstate.DataException, "argument must be empty or one-dimensional array")
	}
	lower := 1
	if len(it.Dims()) == 1 {
		lower = it.Dims()[0].Lower
	}
	elems := append([]types.Datum{e}, types.ArrayElems(a)...)
	return types.NewArrayDims([]types.Dim{{Len: len(elems), Lower: lower}}, elems), nil
}

func arrayCat(_ *EvalContext, a, b types.Datum) (types.Datum, error) {
	if a.IsNull() {
		return b, nil
	}
	if b.IsNull() {
		return a, nil
	}
	x, y := a.Iter(), b.Iter()
	if y.Len() == 0 {
		return a, nil
	}
	if x.Len() == 0 {
		return b, nil
	}
	dx, dy := x.Dims(), y.Dims()
	bad := func() (types.Datum, error) {
		return types.Null, sqlstate.Newf("2202E", "cannot concatenate incompatible arrays")
	}
	elems := append(types.ArrayElems(a), types.ArrayElems(b)...)
	sameTail := func(p, q []types.Dim) bool {
		for i := range p {
			if p[i].Len != q[i].Len {
				return false
			}
		}
		return true
	}
	out := append([]types.Dim(nil), dx...)
	switch {
	case len(dx) == len(dy):
		if !sameTail(dx[1:], dy[1:]) {
			return bad()
		}
		out[0].Len += dy[0].Len
	case len(dx) == len(dy)+1:
		if !sameTail(dx[1:], dy) {
			return bad()
		}
		out[0].Len++
	case len(dx)+1 == len(dy):
		if !sameTail(dx, dy[1:]) {
			return bad()
		}
		out = append([]types.Dim(nil), dy...)
		out[0].Len++
	default:
		return bad()
	}
	return types.NewArrayDims(out, elems), nil
}

// arraySetOp is @>, <@ or && over arrays of one type.
func arraySetOp(name string, l, r Expr) Expr {
	et := types.ElemType(l.Type())
	contains := func(a, b types.Datum) bool { // a @> b; NULLs match nothing
		have := types.ArrayElems(a)
		for _, x := range types.ArrayElems(b) {
			found := false
			for _, y := range have {
				if !x.IsNull() && !y.IsNull() && types.Compare(x, y, et) == 0 {
					found = true
					break
				}
			}
			if !found {
				return false
			}
		}
		return true
	}
	var fn fn2
	switch name {
	case "@>":
		fn = func(_ *EvalContext, a, b types.Datum) (types.Datum, error) { return types.Bool(contains(a, b)), nil }
	case "<@":
		fn = func(_ *EvalContext, a, b types.Datum) (types.Datum, error) { return types.Bool(contains(b, a)), nil }
	default:
		fn = func(_ *EvalContext, a, b types.Datum) (types.Datum, error) {
			have := types.ArrayElems(a)
			for _, x := range types.ArrayElems(b) {
				for _, y := range have {
					if !x.IsNull() && !y.IsNull() && types.Compare(x, y, et) == 0 {
						return types.Bool(true), nil
					}
				}
			}
			return types.Bool(false), nil
		}
	}
	return &call2{call: call{name: name, typ: boolType}, a: l, b: r, fn: fn}
}

func clampInt(v int64) int {
	return int(min(max(v, math.MinInt32), math.MaxInt32))
}
