package expr

import (
	"strconv"
	"strings"

	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

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
