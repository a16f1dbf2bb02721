package expr

import (
	"strconv"
	"strings"

	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

// JSON values are parsed where they are used: json keeps its text, jsonb its
// canonical text.

func parseJSON(d D) (types.JSONValue, error) {
	if d.Kind() == types.KindText {
		return types.ParseJSONText(d.Str())
	}
	return types.ParseJSON(d.Str())
}

// jsonGet is the member key or the element i of v; ok is false when there is none.
func jsonKey(v types.JSONValue, key string) (types.JSONValue, bool) {
	if v.Kind != types.JSONObject {
		return v, false
	}
	for i := len(v.Keys) - 1; i >= 0; i-- { // the last of equal keys counts
		if v.Keys[i] == key {
			return v.Elems[i], true
		}
	}
	return v, false
}

func jsonIndex(v types.JSONValue, i int64) (types.JSONValue, bool) {
	if v.Kind != types.JSONArray {
		return v, false
	}
	if i < 0 {
		i += int64(len(v.Elems))
	}
	if i < 0 || i >= int64(len(v.Elems)) {
		return v, false
	}
	return v.Elems[i], true
}

func jsonPath(v types.JSONValue, path D) (types.JSONValue, bool) {
	it := path.Iter()
	for {
		e, ok := it.Next()
		if !ok {
			return v, true
		}
		if e.IsNull() {
			return v, false
		}
		if v.Kind == types.JSONArray {
			i, err := strconv.Atoi(strings.TrimSpace(e.Str()))
			if err != nil {
				return v, false
			}
			v, ok = jsonIndex(v, int64(i))
		} else {
			v, ok = jsonKey(v, e.Str())
		}
		if !ok {
			return v, false
		}
	}
}

// jsonText is a value as ->> gives it.
func jsonText(v types.JSONValue) D {
	switch v.Kind {
	case types.JSONNull:
		return types.Null
	case types.JSONString:
		return types.Text(v.Str)
	}
	if v.Raw != "" {
		return types.Text(v.Raw)
	}
	return types.Text(string(v.Append(nil)))
}

func jsonDatum(v types.JSONValue, binary bool) D {
	if binary {
		return v.Datum()
	}
	if v.Raw != "" {
		return types.Text(v.Raw)
	}
	return types.Text(string(v.Append(nil)))
}

func initJSONOps() {
	for _, t := range []types.OID{tJSON, tJSONB} {
		binary := t == tJSONB
		get := func(find func(v types.JSONValue, b D) (types.JSONValue, bool), text bool) fn2 {
			return func(_ *EvalContext, a, b D) (D, error) {
				v, err := parseJSON(a)
				if err != nil {
					return types.Null, err
				}
				r, ok := find(v, b)
				if !ok {
					return types.Null, nil
				}
				if text {
					return jsonText(r), nil
				}
				return jsonDatum(r, binary), nil
			}
		}
		key := func(v types.JSONValue, b D) (types.JSONValue, bool) { return jsonKey(v, b.Str()) }
		index := func(v types.JSONValue, b D) (types.JSONValue, bool) { return jsonIndex(v, b.Int()) }
		defOp("->", t, tText, t, get(key, false))
		defOp("->", t, tInt4, t, get(index, false))
		defOp("->>", t, tText, tText, get(key, true))
		defOp("->>", t, tInt4, tText, get(index, true))
		defOp("#>", t, types.OIDTextArray, t, get(jsonPath, false))
		defOp("#>>", t, types.OIDTextArray, tText, get(jsonPath, true))
	}
	two := func(f func(a, b types.JSONValue) (D, error)) fn2 {
		return func(_ *EvalContext, x, y D) (D, error) {
			a, err := parseJSON(x)
			if err != nil {
				return types.Null, err
			}
			b, err := parseJSON(y)
			if err != nil {
				return types.Null, err
			}
			return f(a, b)
		}
	}
	defOp("@>", tJSONB, tJSONB, tBool, two(func(a, b types.JSONValue) (D, error) { return types.Bool(jsonContains(a, b, true)), nil }))
	defOp("<@", tJSONB, tJSONB, tBool, two(func(a, b types.JSONValue) (D, error) { return types.Bool(jsonContains(b, a, true)), nil }))
	defOp("||", tJSONB, tJSONB, tJSONB, two(jsonConcat))
	has := func(v types.JSONValue, k string) bool {
		if _, ok := jsonKey(v, k); ok {
			return true
		}
		if v.Kind == types.JSONArray {
			for _, e := range v.Elems {
				if e.Kind == types.JSONString && e.Str == k {
					return true
				}
			}
		}
		return v.Kind == types.JSONString && v.Str == k
	}
	defOp("?", tJSONB, tText, tBool, func(_ *EvalContext, a, b D) (D, error) {
		v, err := parseJSON(a)
		return types.Bool(err == nil && has(v, b.Str())), err
	})
	for _, all := range []bool{false, true} {
		all, name := all, "?|"
		if all {
			name = "?&"
		}
		defOp(name, tJSONB, types.OIDTextArray, tBool, func(_ *EvalContext, a, b D) (D, error) {
			v, err := parseJSON(a)
			if err != nil {
				return types.Null, err
			}
			for _, k := range types.ArrayElems(b) {
				if !k.IsNull() && has(v, k.Str()) != all {
					return types.Bool(!all), nil
				}
			}
			return types.Bool(all), nil
		})
	}
	drop := func(f func(v *types.JSONValue, b D) error) fn2 {
		return func(_ *EvalContext, a, b D) (D, error) {
			v, err := parseJSON(a)
			if err != nil {
				return types.Null, err
			}
			if err := f(&v, b); err != nil {
				return types.Null, err
			}
			return v.Datum(), nil
		}
	}
	removeAt := func(v *types.JSONValue, i int) {
		v.Elems = append(v.Elems[:i:i], v.Elems[i+1:]...)
		if v.Kind == types.JSONObject {
			v.Keys = append(v.Keys[:i:i], v.Keys[i+1:]...)
		}
	}
	scalar := func(v *types.JSONValue) error {
		if v.Kind != types.JSONArray && v.Kind != types.JSONObject {
			return sqlstate.Newf(sqlstate.InvalidParameterValue, "cannot delete from scalar")
		}
		return nil
	}
	removeKey := func(v *types.JSONValue, k string) {
		for i := len(v.Elems) - 1; i >= 0; i-- {
			if v.Kind == types.JSONObject && v.Keys[i] == k || v.Kind == types.JSONArray && v.Elems[i].Kind == types.JSONString && v.Elems[i].Str == k {
				removeAt(v, i)
			}
		}
	}
	defOp("-", tJSONB, tText, tJSONB, drop(func(v *types.JSONValue, b D) error {
		removeKey(v, b.Str())
		return scalar(v)
	}))
	defOp("-", tJSONB, types.OIDTextArray, tJSONB, drop(func(v *types.JSONValue, b D) error {
		for _, k := range types.ArrayElems(b) {
			if !k.IsNull() {
				removeKey(v, k.Str())
			}
		}
		return scalar(v)
	}))
	defOp("-", tJSONB, tInt4, tJSONB, drop(func(v *types.JSONValue, b D) error {
		if v.Kind == types.JSONObject {
			return sqlstate.Newf(sqlstate.InvalidParameterValue, "cannot delete from object using integer index")
		}
		i := b.Int()
		if i < 0 {
			i += int64(len(v.Elems))
		}
		if i >= 0 && i < int64(len(v.Elems)) {
			removeAt(v, int(i))
		}
		return scalar(v)
	}))
	initJSONFuncs()
}

func jsonContains(a, b types.JSONValue, top bool) bool {
	if a.Kind != b.Kind {
		// An array contains a scalar, at the top only.
		if top && a.Kind == types.JSONArray && b.Kind != types.JSONObject {
			for _, e := range a.Elems {
				if types.CompareJSON(e, b) == 0 {
					return true
				}
			}
		}
		return false
	}
	switch a.Kind {
	case types.JSONObject:
		for i, k := range b.Keys {
			v, ok := jsonKey(a, k)
			if !ok || !jsonContains(v, b.Elems[i], false) {
				return false
			}
		}
		return true
	case types.JSONArray:
		for _, x := range b.Elems {
			found := false
			for _, y := range a.Elems {
				if jsonContains(y, x, false) {
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
	return types.CompareJSON(a, b) == 0
}

func jsonConcat(a, b types.JSONValue) (D, error) {
	if a.Kind == types.JSONObject && b.Kind == types.JSONObject {
		return jsonObject(append(append([]string(nil), a.Keys...), b.Keys...), append(append([]types.JSONValue(nil), a.Elems...), b.Elems...)).Datum(), nil
	}
	wrap := func(v types.JSONValue) []types.JSONValue {
		if v.Kind == types.JSONArray {
			return v.Elems
		}
		return []types.JSONValue{v}
	}
	return types.JSONValue{Kind: types.JSONArray, Elems: append(append([]types.JSONValue(nil), wrap(a)...), wrap(b)...)}.Datum(), nil
}

// jsonObject makes a jsonb object: sorted, the last of equal keys wins.
func jsonObject(keys []string, elems []types.JSONValue) types.JSONValue {
	v := types.JSONValue{Kind: types.JSONObject, Keys: keys, Elems: elems}
	v.SortKeys()
	return v
}

// toJSON converts any value as to_jsonb does.
func toJSON(ec *EvalContext, d D, t types.Type) (types.JSONValue, error) {
	if d.IsNull() {
		return types.JSONValue{}, nil
	}
	switch t.OID {
	case tBool:
		return types.JSONValue{Kind: types.JSONBool, Bool: d.Bool()}, nil
	case tInt2, tInt4, tInt8:
		return types.JSONValue{Kind: types.JSONNumber, Str: strconv.FormatInt(d.Int(), 10)}, nil
	case tFloat4, tFloat8, tNum:
		s := types.String(d, t, ec.format())
		switch s {
		case "NaN", "Infinity", "-Infinity":
			return types.JSONValue{Kind: types.JSONString, Str: s}, nil
		}
		n, err := types.ParseNumeric(s)
		return types.JSONValue{Kind: types.JSONNumber, Str: n.Str()}, err
	case tJSON, tJSONB:
		return parseJSON(d)
	case tDate, tTS, tTSTZ:
		s := types.String(d, t, ec.format())
		if t.OID != tDate {
			s = strings.Replace(s, " ", "T", 1)
		}
		if t.OID == tTSTZ && len(s) > 3 && (s[len(s)-3] == '+' || s[len(s)-3] == '-') {
			s += ":00"
		}
		return types.JSONValue{Kind: types.JSONString, Str: s}, nil
	}
	if types.IsArray(t.OID) {
		it := d.Iter()
		dims := append([]types.Dim(nil), it.Dims()...)
		return jsonArrayDim(ec, &it, dims, types.ElemType(t))
	}
	return types.JSONValue{Kind: types.JSONString, Str: types.String(d, t, ec.format())}, nil
}

func jsonArrayDim(ec *EvalContext, it *types.ArrayIter, dims []types.Dim, et types.Type) (types.JSONValue, error) {
	v := types.JSONValue{Kind: types.JSONArray}
	if len(dims) == 0 {
		return v, nil
	}
	for i := 0; i < dims[0].Len; i++ {
		var e types.JSONValue
		var err error
		if len(dims) > 1 {
			e, err = jsonArrayDim(ec, it, dims[1:], et)
		} else {
			d, _ := it.Next()
			e, err = toJSON(ec, d, et)
		}
		if err != nil {
			return v, err
		}
		v.Elems = append(v.Elems, e)
	}
	return v, nil
}

func initJSONFuncs() {
	kinds := [...]string{types.JSONNull: "null", types.JSONString: "string", types.JSONNumber: "number", types.JSONBool: "boolean", types.JSONArray: "array", types.JSONObject: "object"}
	for _, t := range []types.OID{tJSON, tJSONB} {
		p := "json"
		if t == tJSONB {
			p = "jsonb"
		}
		binary := t == tJSONB
		defFunc(p+"_typeof", tText, func(_ *EvalContext, a D) (D, error) {
			v, err := parseJSON(a)
			return types.Text(kinds[v.Kind]), err
		}, t)
		defFunc(p+"_array_length", tInt4, func(_ *EvalContext, a D) (D, error) {
			v, err := parseJSON(a)
			if err == nil && v.Kind == types.JSONObject {
				err = sqlstate.Newf(sqlstate.InvalidParameterValue, "cannot get array length of a non-array")
			} else if err == nil && v.Kind != types.JSONArray {
				err = sqlstate.Newf(sqlstate.InvalidParameterValue, "cannot get array length of a scalar")
			}
			return types.Int(int64(len(v.Elems))), err
		}, t)
		defFunc(p+"_strip_nulls", t, func(_ *EvalContext, a D) (D, error) {
			v, err := parseJSON(a)
			if err != nil {
				return types.Null, err
			}
			return jsonOut(stripNulls(v), binary), nil
		}, t)
		for _, text := range []bool{false, true} {
			text, name, res := text, p+"_extract_path", t
			if text {
				name, res = name+"_text", tText
			}
			defFunc(name, res, fnN(func(_ *EvalContext, v []D) (D, error) {
				j, err := parseJSON(v[0])
				if err != nil {
					return types.Null, err
				}
				r, ok := jsonPath(j, types.NewArray(v[1:]))
				switch {
				case !ok:
					return types.Null, nil
				case text:
					return jsonText(r), nil
				}
				return jsonDatum(r, binary), nil
			}), t, tText).variable()
		}
		built["to_"+p] = func(_ *binder, args []Expr) (Expr, error) {
			if len(args) != 1 {
				return nil, errNoFunction("to_"+p, typesOf(args), false)
			}
			a := args[0]
			if a.Type().OID == tUnk {
				return nil, sqlstate.Newf(sqlstate.IndeterminateDatatype, "could not determine polymorphic type because input has type unknown")
			}
			at := a.Type()
			return &call1{call: call{name: "to_" + p, typ: types.T(t), vol: Stable}, a: a, fn: func(ec *EvalContext, d D) (D, error) {
				v, err := toJSON(ec, d, at)
				if err != nil {
					return types.Null, err
				}
				return jsonOut(v, binary), nil
			}}, nil
		}
		build := func(name string, object bool) {
			built[name] = func(_ *binder, args []Expr) (Expr, error) {
				at := make([]types.Type, len(args))
				for i, a := range args {
					if a.Type().OID == tUnk {
						x, err := coerceUnknown(a, types.T(tText), false)
						if err != nil {
							return nil, err
						}
						args[i], a = x, x
					}
					at[i] = a.Type()
				}
				return &callN{call: call{name: name, typ: types.T(t), vol: Stable, lax: true}, args: args, fn: func(ec *EvalContext, v []D) (D, error) {
					return buildJSON(ec, v, at, object, binary)
				}}, nil
			}
		}
		build(p+"_build_object", true)
		build(p+"_build_array", false)
	}
	defFunc("jsonb_pretty", tText, func(_ *EvalContext, a D) (D, error) {
		v, err := parseJSON(a)
		return types.Text(string(jsonPretty(nil, v, 0))), err
	}, tJSONB)
	defFunc("jsonb_set", tJSONB, func(_ *EvalContext, a, p, n D) (D, error) { return jsonbSet(a, p, n, true) }, tJSONB, types.OIDTextArray, tJSONB)
	defFunc("jsonb_set", tJSONB, fnN(func(_ *EvalContext, v []D) (D, error) { return jsonbSet(v[0], v[1], v[2], v[3].Bool()) }), tJSONB, types.OIDTextArray, tJSONB, tBool)
}

// jsonOut prints a constructed value: json without blanks behind separators.
func jsonOut(v types.JSONValue, binary bool) D {
	if binary {
		if v.Kind == types.JSONObject || v.Kind == types.JSONArray {
			return sortDeep(v).Datum()
		}
		return v.Datum()
	}
	return types.Text(string(jsonCompact(nil, v)))
}

func sortDeep(v types.JSONValue) types.JSONValue {
	for i := range v.Elems {
		v.Elems[i] = sortDeep(v.Elems[i])
	}
	if v.Kind == types.JSONObject {
		v.SortKeys()
	}
	return v
}

func jsonCompact(dst []byte, v types.JSONValue) []byte {
	if v.Raw != "" {
		return append(dst, v.Raw...)
	}
	switch v.Kind {
	case types.JSONArray:
		dst = append(dst, '[')
		for i, e := range v.Elems {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = jsonCompact(dst, e)
		}
		return append(dst, ']')
	case types.JSONObject:
		dst = append(dst, '{')
		for i, e := range v.Elems {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(types.AppendJSONString(dst, v.Keys[i]), ':')
			dst = jsonCompact(dst, e)
		}
		return append(dst, '}')
	}
	return v.Append(dst)
}

func buildJSON(ec *EvalContext, v []D, at []types.Type, object, binary bool) (D, error) {
	var out types.JSONValue
	if object {
		if len(v)%2 != 0 {
			return types.Null, sqlstate.Newf(sqlstate.InvalidParameterValue, "argument list must have even number of elements").
				WithHint("The arguments of %s must consist of alternating keys and values.", map[bool]string{true: "jsonb_build_object()", false: "json_build_object()"}[binary])
		}
		out.Kind = types.JSONObject
		for i := 0; i < len(v); i += 2 {
			if v[i].IsNull() {
				if binary {
					return types.Null, sqlstate.Newf(sqlstate.InvalidParameterValue, "argument %d: key must not be null", i+1)
				}
				return types.Null, sqlstate.Newf(sqlstate.InvalidParameterValue, "argument %d cannot be null", i+1).WithHint("Object keys should be text.")
			}
			e, err := toJSON(ec, v[i+1], at[i+1])
			if err != nil {
				return types.Null, err
			}
			out.Keys = append(out.Keys, types.String(v[i], at[i], ec.format()))
			out.Elems = append(out.Elems, e)
		}
	} else {
		out.Kind = types.JSONArray
		for i := range v {
			e, err := toJSON(ec, v[i], at[i])
			if err != nil {
				return types.Null, err
			}
			out.Elems = append(out.Elems, e)
		}
	}
	if binary {
		return sortDeep(out).Datum(), nil
	}
	// json_build_* puts blanks around its own separators: {"a" : 1, "b" : 2}.
	b := []byte{}
	if object {
		b = append(b, '{')
		for i, e := range out.Elems {
			if i > 0 {
				b = append(b, ", "...)
			}
			b = append(types.AppendJSONString(b, out.Keys[i]), " : "...)
			b = jsonCompact(b, e)
		}
		return types.Text(string(append(b, '}'))), nil
	}
	b = append(b, '[')
	for i, e := range out.Elems {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = jsonCompact(b, e)
	}
	return types.Text(string(append(b, ']'))), nil
}

func stripNulls(v types.JSONValue) types.JSONValue {
	out := v
	out.Elems, out.Keys = nil, nil
	if v.Kind == types.JSONObject || v.Kind == types.JSONArray {
		out.Raw = ""
	}
	for i, e := range v.Elems {
		if v.Kind == types.JSONObject {
			if e.Kind == types.JSONNull {
				continue
			}
			out.Keys = append(out.Keys, v.Keys[i])
		}
		out.Elems = append(out.Elems, stripNulls(e))
	}
	return out
}

func jsonPretty(dst []byte, v types.JSONValue, depth int) []byte {
	open, end := byte('['), byte(']')
	switch v.Kind {
	case types.JSONObject:
		open, end = '{', '}'
	case types.JSONArray:
	default:
		return v.Append(dst)
	}
	dst = append(dst, open)
	for i, e := range v.Elems {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(append(dst, '\n'), strings.Repeat("    ", depth+1)...)
		if v.Kind == types.JSONObject {
			dst = append(types.AppendJSONString(dst, v.Keys[i]), ": "...)
		}
		dst = jsonPretty(dst, e, depth+1)
	}
	dst = append(append(dst, '\n'), strings.Repeat("    ", depth)...)
	return append(dst, end)
}

func jsonbSet(a, path, val D, create bool) (D, error) {
	v, err := parseJSON(a)
	if err != nil {
		return types.Null, err
	}
	if v.Kind != types.JSONArray && v.Kind != types.JSONObject {
		return types.Null, sqlstate.Newf(sqlstate.InvalidParameterValue, "cannot set path in scalar")
	}
	n, err := parseJSON(val)
	if err != nil {
		return types.Null, err
	}
	keys := types.ArrayElems(path)
	if len(keys) == 0 {
		return a, nil
	}
	r, err := setPath(v, keys, n, create, 1)
	if err != nil {
		return types.Null, err
	}
	return r.Datum(), nil
}

func setPath(v types.JSONValue, path []D, n types.JSONValue, create bool, level int) (types.JSONValue, error) {
	if path[0].IsNull() {
		return v, sqlstate.Newf(sqlstate.NullValueNotAllowed, "path element at position %d is null", level)
	}
	k := path[0].Str()
	switch v.Kind {
	case types.JSONObject:
		for i, have := range v.Keys {
			if have != k {
				continue
			}
			e := n
			if len(path) > 1 {
				var err error
				if e, err = setPath(v.Elems[i], path[1:], n, create, level+1); err != nil {
					return v, err
				}
			}
			v.Elems = append([]types.JSONValue(nil), v.Elems...)
			v.Elems[i] = e
			return v, nil
		}
		if create && len(path) == 1 {
			return jsonObject(append(append([]string(nil), v.Keys...), k), append(append([]types.JSONValue(nil), v.Elems...), n)), nil
		}
	case types.JSONArray:
		i, err := strconv.Atoi(k)
		if err != nil {
			return v, sqlstate.Newf(sqlstate.InvalidTextRepresentation, "path element at position %d is not an integer: \"%s\"", level, k)
		}
		at := i
		if at < 0 {
			at += len(v.Elems)
		}
		if at >= 0 && at < len(v.Elems) {
			e := n
			if len(path) > 1 {
				if e, err = setPath(v.Elems[at], path[1:], n, create, level+1); err != nil {
					return v, err
				}
			}
			v.Elems = append([]types.JSONValue(nil), v.Elems...)
			v.Elems[at] = e
			return v, nil
		}
		if create && len(path) == 1 {
			if i < 0 {
				v.Elems = append([]types.JSONValue{n}, v.Elems...)
			} else {
				v.Elems = append(append([]types.JSONValue(nil), v.Elems...), n)
			}
		}
	}
	return v, nil
}

// jsonAgg is json_agg and jsonb_agg.
type jsonAgg struct {
	typ    types.Type
	binary bool
	b      []byte
	n      int
}

func (a *jsonAgg) Add(ec *EvalContext, v []D) error {
	j, err := toJSON(ec, v[0], a.typ)
	if err != nil {
		return err
	}
	if a.n++; a.n > 1 {
		a.b = append(a.b, ", "...)
	}
	if a.binary {
		a.b = sortDeep(j).Append(a.b)
	} else if a.typ.OID == tJSON && !v[0].IsNull() {
		a.b = append(a.b, v[0].Str()...)
	} else if a.typ.OID == tJSONB {
		a.b = j.Append(a.b)
	} else {
		a.b = jsonCompact(a.b, j)
	}
	if len(a.b) > 1<<30 {
		return sqlstate.Newf(sqlstate.ProgramLimitExceeded, "aggregate result is too large")
	}
	return nil
}
func (a *jsonAgg) Result() (D, error) {
	if a.n == 0 {
		return types.Null, nil
	}
	s := "[" + string(a.b) + "]"
	if a.binary {
		return types.Bytes(s), nil
	}
	return types.Text(s), nil
}

// jsonObjectAgg is json_object_agg and jsonb_object_agg.
type jsonObjectAgg struct {
	key, val types.Type
	binary   bool
	b        []byte
	keys     []string
	elems    []types.JSONValue
	n, size  int
}

func (a *jsonObjectAgg) Add(ec *EvalContext, v []D) error {
	if v[0].IsNull() {
		return sqlstate.Newf(sqlstate.InvalidParameterValue, "field name must not be null")
	}
	j, err := toJSON(ec, v[1], a.val)
	if err != nil {
		return err
	}
	k := types.String(v[0], a.key, ec.format())
	a.n++
	if a.binary {
		j = sortDeep(j)
		a.keys, a.elems = append(a.keys, strings.Clone(k)), append(a.elems, detachJSON(j))
		a.size += len(k) + len(v[1].Str()) + 64
	} else {
		if a.n > 1 {
			a.b = append(a.b, ", "...)
		}
		a.b = append(types.AppendJSONString(a.b, k), " : "...)
		a.b = jsonCompact(a.b, j)
		a.size = len(a.b)
	}
	if a.size > 1<<30 {
		return sqlstate.Newf(sqlstate.ProgramLimitExceeded, "aggregate result is too large")
	}
	return nil
}
func (a *jsonObjectAgg) Result() (D, error) {
	switch {
	case a.n == 0:
		return types.Null, nil
	case a.binary:
		return jsonObject(a.keys, a.elems).Datum(), nil
	}
	return types.Text("{ " + string(a.b) + " }"), nil
}

// detachJSON copies the strings of v, which may alias a row.
func detachJSON(v types.JSONValue) types.JSONValue {
	v.Str, v.Raw = strings.Clone(v.Str), ""
	v.Keys = append([]string(nil), v.Keys...)
	for i, k := range v.Keys {
		v.Keys[i] = strings.Clone(k)
	}
	v.Elems = append([]types.JSONValue(nil), v.Elems...)
	for i, e := range v.Elems {
		v.Elems[i] = detachJSON(e)
	}
	return v
}

func initJSONSets() {
	for _, t := range []types.OID{tJSON, tJSONB} {
		p, binary := "json", t == tJSONB
		if binary {
			p = "jsonb"
		}
		for _, text := range []bool{false, true} {
			text, suffix, res := text, "", t
			if text {
				suffix, res = "_text", tText
			}
			val := func(v types.JSONValue) D {
				if text {
					return jsonText(v)
				}
				return jsonDatum(v, binary)
			}
			defSet(p+"_array_elements"+suffix, res, func(_ *EvalContext, v []D, _ []types.Type, f func([]D) (bool, error)) error {
				j, err := parseJSON(v[0])
				if err != nil {
					return err
				}
				if j.Kind != types.JSONArray {
					what := "a scalar"
					if j.Kind == types.JSONObject {
						what = "an object"
					}
					return sqlstate.Newf(sqlstate.InvalidParameterValue, "cannot extract elements from %s", what)
				}
				for _, e := range j.Elems {
					if more, err := f([]D{val(e)}); err != nil || !more {
						return err
					}
				}
				return nil
			}, t).columns = func([]Expr) []SetColumn { return []SetColumn{{"value", types.T(res)}} }
			defSet(p+"_each"+suffix, res, func(_ *EvalContext, v []D, _ []types.Type, f func([]D) (bool, error)) error {
				j, err := parseJSON(v[0])
				if err != nil {
					return err
				}
				if j.Kind != types.JSONObject {
					return sqlstate.Newf(sqlstate.InvalidParameterValue, "cannot call %s%s on a non-object", p+"_each", suffix)
				}
				for i, e := range j.Elems {
					if more, err := f([]D{types.Text(j.Keys[i]), val(e)}); err != nil || !more {
						return err
					}
				}
				return nil
			}, t).columns = func([]Expr) []SetColumn { return []SetColumn{{"key", types.T(tText)}, {"value", types.T(res)}} }
		}
		defSet(p+"_object_keys", tText, func(_ *EvalContext, v []D, _ []types.Type, f func([]D) (bool, error)) error {
			j, err := parseJSON(v[0])
			if err != nil {
				return err
			}
			if j.Kind != types.JSONObject {
				what := "a scalar"
				if j.Kind == types.JSONArray {
					what = "an array"
				}
				return sqlstate.Newf(sqlstate.InvalidParameterValue, "cannot call %s_object_keys on %s", p, what)
			}
			return emitStrings(j.Keys, f)
		}, t)
	}
}
