package expr

import (
	"strings"

	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

// SetFunc is a bound set-returning function. Run streams its rows to f, until it
// returns false; a row is valid during the call.
type SetFunc interface {
	Run(ec *EvalContext, row []types.Datum, f func(row []types.Datum) (bool, error)) error
	// Args are the bound arguments: what the function reads of the row (LATERAL).
	Args() []Expr
}

// SetColumn is an output column of a set-returning function.
type SetColumn struct {
	Name string
	Type types.Type
}

type setDef struct {
	args []types.OID
	// columns of the result; nil: one column named as the function, of type result.
	columns func(args []Expr) []SetColumn
	several bool // columns are more than one
	result  types.OID
	run     func(ec *EvalContext, v []D, args []types.Type, f func([]D) (bool, error)) error
	lax     bool
}

func (s *setDef) argTypes() []types.OID { return s.args }

var setFuncs = map[string][]*setDef{}

func defSet(name string, result types.OID, run func(ec *EvalContext, v []D, at []types.Type, f func([]D) (bool, error)) error, args ...types.OID) *setDef {
	d := &setDef{args: args, result: result, run: run}
	setFuncs[name] = append(setFuncs[name], d)
	return d
}

// IsSetFunc reports whether a name is that of a set-returning function.
func IsSetFunc(name pgast.Name) bool {
	if len(name) > 1 && name[len(name)-2] != "pg_catalog" {
		return false
	}
	_, ok := setFuncs[name.Last()]
	return ok
}

type setFunc struct {
	def  *setDef
	args []Expr
	at   []types.Type
	// scalar: an ordinary function in FROM gives one row.
	scalar Expr
}

func (s *setFunc) Args() []Expr {
	if s.scalar != nil {
		return []Expr{s.scalar}
	}
	return s.args
}

func (s *setFunc) Run(ec *EvalContext, row []types.Datum, f func([]types.Datum) (bool, error)) error {
	if s.scalar != nil {
		d, err := s.scalar.Eval(ec, row)
		if err != nil {
			return err
		}
		_, err = f([]D{d})
		return err
	}
	v := make([]D, len(s.args))
	for i, a := range s.args {
		d, err := a.Eval(ec, row)
		if err != nil {
			return err
		}
		if d.IsNull() && !s.def.lax {
			return nil
		}
		v[i] = d
	}
	return s.def.run(ec, v, s.at, f)
}

// YieldsOneColumn reports a set-returning function whose rows are single values.
func YieldsOneColumn(name pgast.Name) bool {
	if !IsSetFunc(name) {
		return false
	}
	return !setFuncs[name.Last()][0].several
}

// BindSetCall binds f(…) in FROM: a set-returning function, or an ordinary one,
// which yields its value as one row.
func BindSetCall(n *pgast.Func, env Env) (SetFunc, []SetColumn, error) {
	b := &binder{env: env}
	if !IsSetFunc(n.Name) {
		x, err := b.bind(n)
		if err != nil {
			return nil, nil, err
		}
		return &setFunc{scalar: ConstantFold(x)}, []SetColumn{{n.Name.Last(), x.Type()}}, nil
	}
	args, err := b.binds(n.Args)
	if err != nil {
		return nil, nil, err
	}
	f, cols, err := BindSetFunc(n.Name.Last(), args)
	return f, cols, b.at(err, n.Pos)
}

// BindSetFunc resolves a set-returning function over bound arguments.
func BindSetFunc(name string, args []Expr) (SetFunc, []SetColumn, error) {
	ts := typesOf(args)
	cands := setFuncs[name]
	var pick *setDef
	for _, c := range cands {
		same := len(c.args) == len(ts)
		for i := 0; same && i < len(ts); i++ {
			same = c.args[i] == ts[i]
		}
		if same {
			pick = c
			break
		}
	}
	if pick == nil {
		m := matching(ts, cands)
		if len(m) > 1 {
			m = selectCandidate(ts, m)
		}
		if len(m) != 1 {
			return nil, nil, errNoFunction(name, ts, len(m) > 1)
		}
		pick = m[0]
	}
	s := &setFunc{def: pick}
	for i, a := range args {
		to := pick.args[i]
		switch to {
		case tAny, tElem, tArr:
			if to = a.Type().OID; to == tUnk || to == 0 {
				return nil, nil, sqlstate.Newf(sqlstate.IndeterminateDatatype, "could not determine polymorphic type because input has type unknown")
			}
		}
		x, err := Cast(a, types.T(to), CastImplicit)
		if err != nil {
			return nil, nil, err
		}
		s.args = append(s.args, ConstantFold(x))
		s.at = append(s.at, x.Type())
	}
	if pick.columns != nil {
		return s, pick.columns(s.args), nil
	}
	return s, []SetColumn{{name, types.T(pick.result)}}, nil
}

func init() {
	for _, t := range []types.OID{tInt4, tInt8} {
		t := t
		run := func(ec *EvalContext, v []D, _ []types.Type, f func([]D) (bool, error)) error {
			step := int64(1)
			if len(v) == 3 {
				step = v[2].Int()
			}
			return series(ec, v[0].Int(), v[1].Int(), step, t, f)
		}
		defSet("generate_series", t, run, t, t)
		defSet("generate_series", t, run, t, t, t)
	}
	defSet("generate_series", tNum, numericSeries, tNum, tNum)
	defSet("generate_series", tNum, numericSeries, tNum, tNum, tNum)
	defSet("generate_series", tTS, timeSeries(false), tTS, tTS, tIval)
	defSet("generate_series", tTSTZ, timeSeries(true), tTSTZ, tTSTZ, tIval)
	unnest := defSet("unnest", tElem, func(ec *EvalContext, v []D, _ []types.Type, f func([]D) (bool, error)) error {
		it := v[0].Iter()
		row := make([]D, 1)
		for {
			e, ok := it.Next()
			if !ok {
				return nil
			}
			row[0] = e
			if more, err := f(row); err != nil || !more {
				return err
			}
		}
	}, tArr)
	unnest.columns = func(args []Expr) []SetColumn { return []SetColumn{{"unnest", types.ElemType(args[0].Type())}} }
	for _, d := range []int{2, 3} {
		args := []types.OID{tArr, tInt4, tBool}[:d]
		defSet("generate_subscripts", tInt4, func(ec *EvalContext, v []D, _ []types.Type, f func([]D) (bool, error)) error {
			it := v[0].Iter()
			dims := it.Dims()
			n := v[1].Int()
			if n < 1 || n > int64(len(dims)) {
				return nil
			}
			dim := dims[n-1]
			lo, hi, step := int64(dim.Lower), int64(dim.Lower+dim.Len-1), int64(1)
			if len(v) == 3 && v[2].Bool() {
				lo, hi, step = hi, lo, -1
			}
			return series(ec, lo, hi, step, tInt4, f)
		}, args...)
	}
	defSet("regexp_split_to_table", tText, func(_ *EvalContext, v []D, _ []types.Type, f func([]D) (bool, error)) error {
		re, err := compileRegex(v[1].Str(), "")
		if err != nil {
			return err
		}
		return emitStrings(re.Split(v[0].Str(), -1), f)
	}, tText, tText)
	defSet("string_to_table", tText, func(_ *EvalContext, v []D, _ []types.Type, f func([]D) (bool, error)) error {
		if v[0].Str() == "" {
			return nil
		}
		if v[1].Str() == "" {
			return emitStrings([]string{v[0].Str()}, f)
		}
		return emitStrings(strings.Split(v[0].Str(), v[1].Str()), f)
	}, tText, tText)
	for _, flags := range []bool{false, true} {
		args := []types.OID{tText, tText}
		if flags {
			args = append(args, tText)
		}
		defSet("regexp_matches", types.OIDTextArray, func(_ *EvalContext, v []D, _ []types.Type, f func([]D) (bool, error)) error {
			fl := ""
			if len(v) == 3 {
				fl = v[2].Str()
			}
			re, err := compileRegex(v[1].Str(), strings.ReplaceAll(fl, "g", ""))
			if err != nil {
				return err
			}
			n := 1
			if strings.Contains(fl, "g") {
				n = -1
			}
			for _, m := range re.FindAllStringSubmatchIndex(v[0].Str(), n) {
				if more, err := f([]D{regexMatchArray(re, v[0].Str(), m)}); err != nil || !more {
					return err
				}
			}
			return nil
		}, args...)
	}
	initJSONSets()
}

func emitStrings(ss []string, f func([]D) (bool, error)) error {
	row := make([]D, 1)
	for _, s := range ss {
		row[0] = types.Text(s)
		if more, err := f(row); err != nil || !more {
			return err
		}
	}
	return nil
}

func errZeroStep() error {
	return sqlstate.Newf(sqlstate.InvalidParameterValue, "step size cannot equal zero")
}

// series streams integers; it ends instead of overflowing.
func series(ec *EvalContext, lo, hi, step int64, t types.OID, f func([]D) (bool, error)) error {
	if step == 0 {
		return errZeroStep()
	}
	row := make([]D, 1)
	for i, n := lo, 0; step > 0 && i <= hi || step < 0 && i >= hi; n++ {
		if n&1023 == 1023 {
			if err := ec.canceled(); err != nil {
				return err
			}
		}
		row[0] = types.Int(i)
		if more, err := f(row); err != nil || !more {
			return err
		}
		next := i + step
		if step > 0 && next < i || step < 0 && next > i || !fitsInt(next, t) {
			return nil
		}
		i = next
	}
	return nil
}

func numericSeries(ec *EvalContext, v []D, _ []types.Type, f func([]D) (bool, error)) error {
	step := types.NumericFromInt(1)
	if len(v) == 3 {
		step = v[2]
	}
	for i, what := range []string{"start value", "stop value", "step size"} {
		x := step
		if i < 2 {
			x = v[i]
		}
		if types.NumericIsNaN(x) {
			return sqlstate.Newf(sqlstate.InvalidParameterValue, "%s cannot be NaN", what)
		}
		if _, ok := types.NumericScale(x); !ok {
			return sqlstate.Newf(sqlstate.InvalidParameterValue, "%s cannot be infinity", what)
		}
	}
	dir := types.NumericSign(step)
	if dir == 0 {
		return errZeroStep()
	}
	row := make([]D, 1)
	for i := v[0]; types.NumericCompare(i, v[1])*dir <= 0; {
		if err := ec.canceled(); err != nil {
			return err
		}
		row[0] = i
		if more, err := f(row); err != nil || !more {
			return err
		}
		var err error
		if i, err = types.NumericAdd(i, step); err != nil {
			return err
		}
	}
	return nil
}

func timeSeries(zoned bool) func(*EvalContext, []D, []types.Type, func([]D) (bool, error)) error {
	return func(ec *EvalContext, v []D, _ []types.Type, f func([]D) (bool, error)) error {
		days, us := types.IntervalSpan(v[2])
		dir := int64(1)
		switch {
		case days == 0 && us == 0:
			return errZeroStep()
		case days < 0:
			dir = -1
		}
		row := make([]D, 1)
		for i := v[0].Int(); dir > 0 && i <= v[1].Int() || dir < 0 && i >= v[1].Int(); {
			if err := ec.canceled(); err != nil {
				return err
			}
			row[0] = types.Timestamp(i)
			if more, err := f(row); err != nil || !more {
				return err
			}
			if infinite(i) {
				return nil
			}
			var err error
			if zoned {
				i, err = addZoned(i, v[2], ec.location())
			} else {
				i, err = types.TimestampAddInterval(i, v[2])
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
}
