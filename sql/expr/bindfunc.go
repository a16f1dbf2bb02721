package expr

import (
	"strings"

	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

// funcDef is a row of pg_proc. fn is one of fn0 … fnN, by the number of args; a
// variadic function's last argument type is its elements', and its fn is fnN.
type funcDef struct {
	name     string
	args     []types.OID
	result   types.OID
	fn       any
	vol      Volatility
	lax      bool // not strict
	variadic bool
}

func (f *funcDef) argTypes() []types.OID { return f.args }

// funcs is the registry of ordinary functions; built is that of functions whose
// types or evaluation no signature describes (coalesce, array functions …).
var (
	funcs = map[string][]*funcDef{}
	built = map[string]func(b *binder, args []Expr) (Expr, error){}
)

func defFunc(name string, result types.OID, fn any, args ...types.OID) *funcDef {
	f := &funcDef{name: name, args: args, result: result, fn: fn}
	funcs[name] = append(funcs[name], f)
	return f
}

func (f *funcDef) stable() *funcDef   { f.vol = Stable; return f }
func (f *funcDef) volatile() *funcDef { f.vol = VolatileFunc; return f }
func (f *funcDef) nullable() *funcDef { f.lax = true; return f }
func (f *funcDef) variable() *funcDef { f.variadic = true; return f }

// expanded is a candidate with its variadic argument repeated to n arguments.
type expanded struct {
	*funcDef
	ts []types.OID
}

func (x expanded) argTypes() []types.OID { return x.ts }

// FuncExists reports whether a built-in function, aggregates and set-returning
// ones included, has this name.
func FuncExists(name string) bool {
	_, agg := aggs[name]
	_, set := setFuncs[name]
	return agg || set || built[name] != nil || len(funcs[name]) > 0
}

func (b *binder) function(n *pgast.Func) (Expr, error) {
	name := n.Name.Last()
	if len(n.Name) > 1 && n.Name[len(n.Name)-2] != "pg_catalog" {
		if n.Name[len(n.Name)-2] != "spand" && n.Name[len(n.Name)-2] != "information_schema" {
			return b.userFunction(n)
		}
		name = n.Name[len(n.Name)-2] + "." + name
	}
	if n.Over != nil {
		c, err := b.env.Window(n)
		if err != nil {
			return nil, b.at(err, n.Pos)
		}
		return columnExpr(c), nil
	}
	for _, an := range n.ArgNames {
		if an != "" && name != "make_interval" {
			return nil, b.errf(n.Pos, sqlstate.FeatureNotSupported, "named arguments are not supported")
		}
	}
	if _, ok := aggs[name]; ok {
		return b.aggregate(name, n)
	}
	if n.Distinct || n.Filter != nil || n.Star || len(n.OrderBy) > 0 || n.WithinGroup {
		what := "DISTINCT"
		switch {
		case n.Star:
			return nil, b.at(errNoFunction(strings.Join(n.Name, "."), nil, false), n.Pos)
		case n.Filter != nil:
			what = "FILTER"
		case n.WithinGroup:
			what = "WITHIN GROUP"
		case len(n.OrderBy) > 0:
			what = "ORDER BY"
		}
		return nil, b.errf(n.Pos, sqlstate.WrongObjectType, "%s specified, but %s is not an aggregate function", what, name)
	}
	if _, ok := setFuncs[name]; ok {
		return nil, b.errf(n.Pos, sqlstate.FeatureNotSupported, "set-returning functions are only supported in FROM and as one item of a plain select list")
	}
	args, err := b.binds(n.Args)
	if err != nil {
		return nil, err
	}
	if n.Variadic {
		return b.variadicCall(n, name, args)
	}
	if name == "make_interval" && n.ArgNames != nil {
		if args, err = namedArgs(makeIntervalArgs, args, n.ArgNames); err != nil {
			return nil, b.at(err, n.Pos)
		}
	}
	if f := built[name]; f != nil {
		x, err := f(b, args)
		return x, b.at(err, n.Pos)
	}
	ts := typesOf(args)
	f, amb := findFunc(name, ts)
	if f == nil && !amb {
		if x, err := b.env.UserFunction(n.Name, args); err != nil || x != nil {
			return x, b.at(err, n.Pos)
		}
		// text(x), int4(x): a cast spelled as a function.
		if len(args) == 1 && len(funcs[name]) == 0 {
			if t, err := types.LookupName(pgast.TypeName{Name: n.Name}); err == nil {
				if x, err := Cast(args[0], t, CastExplicit); err == nil {
					return x, nil
				}
			}
		}
	}
	if f == nil {
		return nil, b.at(errNoFunction(strings.Join(n.Name, "."), ts, amb), n.Pos)
	}
	x, err := f.apply(args)
	return x, b.at(err, n.Pos)
}

func (b *binder) userFunction(n *pgast.Func) (Expr, error) {
	args, err := b.binds(n.Args)
	if err != nil {
		return nil, err
	}
	x, err := b.env.UserFunction(n.Name, args)
	if err != nil {
		return nil, b.at(err, n.Pos)
	}
	if x == nil {
		return nil, b.at(errNoFunction(strings.Join(n.Name, "."), typesOf(args), false), n.Pos)
	}
	return x, nil
}

func errNoFunction(name string, ts []types.OID, ambiguous bool) *sqlstate.Error {
	names := make([]string, len(ts))
	for i, t := range ts {
		names[i] = types.BaseName(t)
	}
	if name == "extract" { // syntax of SQL's: PostgreSQL looks only in pg_catalog
		name = "pg_catalog.extract"
	}
	sig := name + "(" + strings.Join(names, ", ") + ")"
	if ambiguous {
		return sqlstate.Newf(sqlstate.AmbiguousFunction, "function %s is not unique", sig).
			WithHint("Could not choose a best candidate function. You might need to add explicit type casts.")
	}
	return sqlstate.Newf(sqlstate.UndefinedFunction, "function %s does not exist", sig).
		WithHint("No function matches the given name and argument types. You might need to add explicit type casts.")
}

// findFunc resolves a call as PostgreSQL's func_get_detail does.
func findFunc(name string, ts []types.OID) (x *expanded, ambiguous bool) {
	var cands []expanded
	for _, f := range funcs[name] {
		switch {
		case !f.variadic && len(f.args) == len(ts):
			cands = append(cands, expanded{f, f.args})
		case f.variadic && len(ts) >= len(f.args):
			e := append([]types.OID(nil), f.args...)
			for len(e) < len(ts) {
				e = append(e, f.args[len(f.args)-1])
			}
			cands = append(cands, expanded{f, e})
		}
	}
	for i, c := range cands {
		exact := true
		for j, t := range c.ts {
			exact = exact && t == ts[j]
		}
		if exact {
			return &cands[i], false
		}
	}
	m := matching(ts, cands)
	if len(m) > 1 {
		m = selectCandidate(ts, m)
	}
	switch len(m) {
	case 0:
		return nil, false
	case 1:
		return &m[0], false
	}
	return nil, true
}

func (x *expanded) apply(args []Expr) (Expr, error) {
	ks := make([]Expr, len(args))
	for i, a := range args {
		to := x.ts[i]
		if to == tAny || to == tElem {
			to = a.Type().OID
			if to == tUnk || to == 0 {
				to = tText
			}
		}
		k, err := Cast(a, types.T(to), CastImplicit)
		if err != nil {
			return nil, err
		}
		ks[i] = k
	}
	c := call{name: x.name, typ: types.T(x.result), vol: x.vol, lax: x.lax}
	switch fn := x.fn.(type) {
	case fn0:
		return &call0{call: c, fn: fn}, nil
	case fn1:
		return &call1{call: c, fn: fn, a: ks[0]}, nil
	case fn2:
		return &call2{call: c, fn: fn, a: ks[0], b: ks[1]}, nil
	case fn3:
		return &call3{call: c, fn: fn, a: ks[0], b: ks[1], c: ks[2]}, nil
	case fnN:
		return &callN{call: c, fn: fn, args: ks}, nil
	case func(args []Expr) Expr:
		return fn(ks), nil
	}
	return nil, sqlstate.Newf(sqlstate.InternalError, "function %s has no implementation", x.name)
}

// variadicCall is f(…, VARIADIC array).
func (b *binder) variadicCall(n *pgast.Func, name string, args []Expr) (Expr, error) {
	for _, f := range funcs[name] {
		fn, ok := f.fn.(fnN)
		if !f.variadic || !ok || len(f.args) != len(args) {
			continue
		}
		last := args[len(args)-1]
		if et := f.args[len(args)-1]; et != tAny && et != tElem {
			c, err := Cast(last, types.T(types.ArrayOf(et)), CastImplicit)
			if err != nil {
				continue
			}
			last = c
		} else if !types.IsArray(last.Type().OID) {
			return nil, b.errf(n.Pos, sqlstate.DatatypeMismatch, "VARIADIC argument must be an array")
		} else if c, err := Cast(last, types.T(types.OIDTextArray), CastExplicit); err == nil {
			last = c
		}
		fixed := args[:len(args)-1]
		ks := make([]Expr, 0, len(args))
		for i, a := range fixed {
			k, err := Cast(a, types.T(f.args[i]), CastImplicit)
			if err != nil {
				return nil, b.at(err, n.Pos)
			}
			ks = append(ks, k)
		}
		ks = append(ks, last)
		strict := !f.lax
		return &callN{call: call{name: name + " variadic", typ: types.T(f.result), vol: f.vol, lax: true}, args: ks,
			fn: func(ec *EvalContext, v []types.Datum) (types.Datum, error) {
				arr := v[len(v)-1]
				if arr.IsNull() {
					return types.Null, nil
				}
				all := append(append([]types.Datum(nil), v[:len(v)-1]...), types.ArrayElems(arr)...)
				if strict {
					for _, d := range all {
						if d.IsNull() {
							return types.Null, nil
						}
					}
				}
				return fn(ec, all)
			}}, nil
	}
	return nil, b.at(errNoFunction(strings.Join(n.Name, "."), typesOf(args), false), n.Pos)
}

// namedArgs puts named arguments in their places; missing ones are NULL, which
// the functions that take them read as their default.
func namedArgs(names []string, args []Expr, given []string) ([]Expr, error) {
	out := make([]Expr, len(names))
	for i := range out {
		out[i] = &litNode{d: types.Int(0), typ: types.T(tInt4)}
	}
	for i, a := range args {
		at := i
		if g := given[i]; g != "" {
			at = -1
			for j, n := range names {
				if n == g {
					at = j
				}
			}
		}
		if at < 0 || at >= len(out) {
			return nil, sqlstate.Newf(sqlstate.UndefinedFunction, "function make_interval has no argument \"%s\"", given[i])
		}
		out[at] = a
	}
	return out, nil
}

var makeIntervalArgs = []string{"years", "months", "weeks", "days", "hours", "mins", "secs"}

func init() {
	built["coalesce"] = func(_ *binder, args []Expr) (Expr, error) {
		t, err := CommonType("COALESCE", args)
		if err != nil {
			return nil, err
		}
		for i, a := range args {
			if args[i], err = CoerceCommon("COALESCE", a, t); err != nil {
				return nil, err
			}
		}
		return &coalesceNode{args, t}, nil
	}
	extreme := func(name string, least bool) func(*binder, []Expr) (Expr, error) {
		return func(_ *binder, args []Expr) (Expr, error) {
			t, err := CommonType(name, args)
			if err != nil {
				return nil, err
			}
			if !types.Comparable(t.OID) {
				return nil, sqlstate.Newf(sqlstate.UndefinedFunction, "could not identify a comparison function for type %s", types.BaseName(t.OID))
			}
			for i, a := range args {
				if args[i], err = CoerceCommon(name, a, t); err != nil {
					return nil, err
				}
			}
			return &extremeNode{args, t, least}, nil
		}
	}
	built["greatest"] = extreme("GREATEST", false)
	built["least"] = extreme("LEAST", true)
	built["nullif"] = func(_ *binder, args []Expr) (Expr, error) {
		if len(args) != 2 {
			return nil, errNoFunction("nullif", typesOf(args), false)
		}
		eq, err := Binary("=", args[0], args[1])
		if err != nil {
			return nil, err
		}
		c, ok := eq.(*cmpNode)
		if !ok {
			return nil, sqlstate.Newf(sqlstate.FeatureNotSupported, "NULLIF is not supported for these types")
		}
		// The result has the type to which the comparison brought its left side.
		return &nullifNode{c.l, c.r, overScratch(c)}, nil
	}
	built["pg_typeof"] = func(_ *binder, args []Expr) (Expr, error) {
		if len(args) != 1 {
			return nil, errNoFunction("pg_typeof", typesOf(args), false)
		}
		t := args[0].Type().OID
		if t == 0 {
			t = tUnk
		}
		return &litNode{d: types.Int(int64(t)), typ: types.T(tType)}, nil
	}
}
