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
			each := defSet(p+"_each"+suffix, res, func(_ *EvalContext, v []D, _ []types.Type, f func([]D) (bool, error)) error {
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
			}, t)
			each.several = true
			each.columns = func([]Expr) []SetColumn { return []SetColumn{{"key", types.T(tText)}, {"value", types.T(res)}} }
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
