package expr

import (
	"strings"

	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

// Functions over arrays of any element type.

// anyArray checks that args[i] is an array and returns its element type.
func anyArray(name string, args []Expr, i int) (types.Type, error) {
	if i >= len(args) || !types.IsArray(args[i].Type().OID) {
		if i < len(args) && args[i].Type().OID == tUnk {
			return types.Type{}, sqlstate.Newf(sqlstate.IndeterminateDatatype, "could not determine polymorphic type because input has type unknown")
		}
		return types.Type{}, errNoFunction(name, typesOf(args), false)
	}
	return types.ElemType(types.T(args[i].Type().OID)), nil
}

func init() {
	dim := func(name string, f func(d types.Dim) int) {
		built[name] = func(_ *binder, args []Expr) (Expr, error) {
			if len(args) != 2 {
				return nil, errNoFunction(name, typesOf(args), false)
			}
			if _, err := anyArray(name, args, 0); err != nil {
				return nil, err
			}
			n, err := Cast(args[1], types.T(tInt4), CastImplicit)
			if err != nil {
				return nil, errNoFunction(name, typesOf(args), false)
			}
			return &call2{call: call{name: name, typ: types.T(tInt4)}, a: args[0], b: n, fn: func(_ *EvalContext, a, n D) (D, error) {
				it := a.Iter()
				if k := n.Int(); k >= 1 && k <= int64(len(it.Dims())) {
					return types.Int(int64(f(it.Dims()[k-1]))), nil
				}
				return types.Null, nil
			}}, nil
		}
	}
	dim("array_length", func(d types.Dim) int { return d.Len })
	dim("array_lower", func(d types.Dim) int { return d.Lower })
	dim("array_upper", func(d types.Dim) int { return d.Lower + d.Len - 1 })
	one := func(name string, res types.OID, f fn1) {
		built[name] = func(_ *binder, args []Expr) (Expr, error) {
			if len(args) != 1 {
				return nil, errNoFunction(name, typesOf(args), false)
			}
			if _, err := anyArray(name, args, 0); err != nil {
				return nil, err
			}
			return &call1{call: call{name: name, typ: types.T(res)}, a: args[0], fn: f}, nil
		}
	}
	one("cardinality", tInt4, func(_ *EvalContext, a D) (D, error) {
		it := a.Iter()
		return types.Int(int64(it.Len())), nil
	})
	one("array_ndims", tInt4, func(_ *EvalContext, a D) (D, error) {
		it := a.Iter()
		if n := len(it.Dims()); n > 0 {
			return types.Int(int64(n)), nil
		}
		return types.Null, nil
	})
	one("array_dims", tText, func(_ *EvalContext, a D) (D, error) {
		it := a.Iter()
		if it.Len() == 0 {
			return types.Null, nil
		}
		var b strings.Builder
		for _, d := range it.Dims() {
			b.WriteString("[" + itoa(d.Lower) + ":" + itoa(d.Lower+d.Len-1) + "]")
		}
		return types.Text(b.String()), nil
	})
	built["array_append"] = func(_ *binder, args []Expr) (Expr, error) { return arrayElemCall("array_append", args, true) }
	built["array_prepend"] = func(_ *binder, args []Expr) (Expr, error) { return arrayElemCall("array_prepend", args, false) }
	built["array_cat"] = func(_ *binder, args []Expr) (Expr, error) {
		if len(args) != 2 {
			return nil, errNoFunction("array_cat", typesOf(args), false)
		}
		return arrayConcat(args[0], args[1])
	}
	search := func(name string, res func(at types.Type) types.Type, n int, f func(et types.Type, v []D) (D, error)) {
		prev := built[name]
		built[name] = func(b *binder, args []Expr) (Expr, error) {
			if len(args) != n {
				if prev != nil {
					return prev(b, args)
				}
				return nil, errNoFunction(name, typesOf(args), false)
			}
			ks := append([]Expr(nil), args...)
			if ks[0].Type().OID == tUnk {
				if _, err := anyArray(name, args, 0); err != nil {
					return nil, err
				}
			}
			arr, e, err := joinElem(ks[0], ks[1])
			if err != nil || !types.IsArray(ks[0].Type().OID) {
				return nil, errNoFunction(name, typesOf(args), false)
			}
			ks[0], ks[1] = arr, e
			et := types.ElemType(types.T(arr.Type().OID))
			switch {
			case n == 3 && name == "array_position":
				ks[2], err = Cast(ks[2], types.T(tInt4), CastImplicit)
			case n == 3:
				ks[2], err = Cast(ks[2], et, CastImplicit)
			}
			if err != nil {
				return nil, errNoFunction(name, typesOf(args), false)
			}
			return &callN{call: call{name: name, typ: res(types.T(arr.Type().OID)), lax: true}, args: ks, fn: func(_ *EvalContext, v []D) (D, error) {
				if v[0].IsNull() {
					return types.Null, nil
				}
				return f(et, v)
			}}, nil
		}
	}
	same := func(a, b D, et types.Type) bool {
		if a.IsNull() || b.IsNull() {
			return a.IsNull() && b.IsNull()
		}
		return types.Compare(a, b, et) == 0
	}
	intType := func(types.Type) types.Type { return types.T(tInt4) }
	self := func(at types.Type) types.Type { return at }
	position := func(et types.Type, v []D) (D, error) {
		it := v[0].Iter()
		if len(it.Dims()) > 1 {
			return types.Null, sqlstate.Newf(sqlstate.FeatureNotSupported, "searching for elements in multidimensional arrays is not supported")
		}
		if it.Len() == 0 {
			return types.Null, nil
		}
		from := int64(it.Dims()[0].Lower)
		if len(v) == 3 {
			if v[2].IsNull() {
				return types.Null, sqlstate.Newf(sqlstate.NullValueNotAllowed, "initial position must not be null")
			}
			from = v[2].Int()
		}
		for i := int64(it.Dims()[0].Lower); ; i++ {
			e, ok := it.Next()
			if !ok {
				return types.Null, nil
			}
			if i >= from && same(e, v[1], et) {
				return types.Int(i), nil
			}
		}
	}
	search("array_position", intType, 2, position)
	search("array_position", intType, 3, position)
	search("array_positions", func(types.Type) types.Type { return types.T(types.OIDInt4Array) }, 2, func(et types.Type, v []D) (D, error) {
		it := v[0].Iter()
		var b types.ArrayBuilder
		for i := int64(1); ; i++ {
			e, ok := it.Next()
			if !ok {
				return b.Array(), nil
			}
			if same(e, v[1], et) {
				b.Append(types.Int(i))
			}
		}
	})
	search("array_remove", self, 2, func(et types.Type, v []D) (D, error) {
		it := v[0].Iter()
		if len(it.Dims()) > 1 {
			return types.Null, sqlstate.Newf(sqlstate.FeatureNotSupported, "removing elements from multidimensional arrays is not supported")
		}
		var b types.ArrayBuilder
		for {
			e, ok := it.Next()
			if !ok {
				return b.Array(), nil
			}
			if !same(e, v[1], et) {
				b.Append(e)
			}
		}
	})
	search("array_replace", self, 3, func(et types.Type, v []D) (D, error) {
		it := v[0].Iter()
		dims := append([]types.Dim(nil), it.Dims()...)
		var out []D
		for {
			e, ok := it.Next()
			if !ok {
				return types.NewArrayDims(dims, out), nil
			}
			if same(e, v[1], et) {
				e = v[2]
			}
			out = append(out, e)
		}
	})
	built["array_to_string"] = func(_ *binder, args []Expr) (Expr, error) {
		if len(args) != 2 && len(args) != 3 {
			return nil, errNoFunction("array_to_string", typesOf(args), false)
		}
		et, err := anyArray("array_to_string", args, 0)
		if err != nil {
			return nil, err
		}
		ks := append([]Expr(nil), args...)
		for i := 1; i < len(ks); i++ {
			if ks[i], err = Cast(ks[i], types.T(tText), CastImplicit); err != nil {
				return nil, errNoFunction("array_to_string", typesOf(args), false)
			}
		}
		return &callN{call: call{name: "array_to_string", typ: types.T(tText), vol: Stable, lax: true}, args: ks, fn: func(ec *EvalContext, v []D) (D, error) {
			if v[0].IsNull() || v[1].IsNull() {
				return types.Null, nil
			}
			it := v[0].Iter()
			var b []byte
			first := true
			for {
				e, ok := it.Next()
				if !ok {
					return types.Text(string(b)), nil
				}
				if e.IsNull() && (len(v) < 3 || v[2].IsNull()) {
					continue
				}
				if !first {
					b = append(b, v[1].Str()...)
				}
				first = false
				if e.IsNull() {
					b = append(b, v[2].Str()...)
				} else {
					b = types.AppendText(b, e, et, ec.format())
				}
			}
		}}, nil
	}
	split := func(_ *EvalContext, v []D) (D, error) {
		if v[0].IsNull() {
			return types.Null, nil
		}
		s := v[0].Str()
		var parts []string
		switch {
		case s == "":
		case v[1].IsNull():
			for _, r := range s {
				parts = append(parts, string(r))
			}
		case v[1].Str() == "":
			parts = []string{s}
		default:
			parts = strings.Split(s, v[1].Str())
		}
		var b types.ArrayBuilder
		for _, p := range parts {
			if len(v) == 3 && !v[2].IsNull() && p == v[2].Str() {
				b.Append(types.Null)
			} else {
				b.Append(types.Text(p))
			}
		}
		return b.Array(), nil
	}
	defFunc("string_to_array", types.OIDTextArray, func(ec *EvalContext, a, b D) (D, error) { return split(ec, []D{a, b}) }, tText, tText).nullable()
	defFunc("string_to_array", types.OIDTextArray, func(ec *EvalContext, a, b, c D) (D, error) { return split(ec, []D{a, b, c}) }, tText, tText, tText).nullable()
	built["array_fill"] = func(_ *binder, args []Expr) (Expr, error) {
		if len(args) != 2 {
			return nil, errNoFunction("array_fill", typesOf(args), false)
		}
		at := types.ArrayOf(args[0].Type().OID)
		if at == 0 {
			return nil, sqlstate.Newf(sqlstate.IndeterminateDatatype, "could not determine polymorphic type because input has type unknown")
		}
		dims, err := Cast(args[1], types.T(types.OIDInt4Array), CastImplicit)
		if err != nil {
			return nil, errNoFunction("array_fill", typesOf(args), false)
		}
		return &call2{call: call{name: "array_fill", typ: types.T(at), lax: true}, a: args[0], b: dims, fn: func(_ *EvalContext, e, n D) (D, error) {
			if n.IsNull() {
				return types.Null, sqlstate.Newf(sqlstate.NullValueNotAllowed, "dimension array or low bound array cannot be null")
			}
			var ds []types.Dim
			total := int64(1)
			for _, x := range types.ArrayElems(n) {
				if x.IsNull() {
					return types.Null, sqlstate.Newf(sqlstate.NullValueNotAllowed, "dimension values cannot be null")
				}
				if total *= x.Int(); x.Int() < 0 || total > 1<<24 || len(ds) == types.MaxDims {
					return types.Null, sqlstate.Newf(sqlstate.ProgramLimitExceeded, "array size exceeds the maximum allowed (%d)", 1<<24)
				}
				ds = append(ds, types.Dim{Len: int(x.Int()), Lower: 1})
			}
			if len(ds) == 0 || total == 0 {
				return types.EmptyArray, nil
			}
			elems := make([]D, total)
			for i := range elems {
				elems[i] = e
			}
			return types.NewArrayDims(ds, elems), nil
		}}, nil
	}
}

// arrayElemCall is array_append(array, element) or array_prepend(element, array).
func arrayElemCall(name string, args []Expr, app bool) (Expr, error) {
	if len(args) != 2 {
		return nil, errNoFunction(name, typesOf(args), false)
	}
	arr, e := args[0], args[1]
	if !app {
		arr, e = e, arr
	}
	if t := arr.Type().OID; !types.IsArray(t) {
		at := types.ArrayOf(e.Type().OID)
		if t != tUnk || at == 0 {
			return nil, errNoFunction(name, typesOf(args), false)
		}
		var err error
		if arr, err = Cast(arr, types.T(at), CastImplicit); err != nil {
			return nil, err
		}
	}
	arr, e, err := joinElem(arr, e)
	if err != nil {
		return nil, errNoFunction(name, typesOf(args), false)
	}
	c := call{name: name, typ: types.T(arr.Type().OID), lax: true}
	if app {
		return &call2{call: c, a: arr, b: e, fn: arrayAppend}, nil
	}
	return &call2{call: c, a: e, b: arr, fn: arrayPrepend}, nil
}

// itoa is v in decimal.
func itoa(v int) string { return types.String(types.Int(int64(v)), types.T(tInt8), nil) }
