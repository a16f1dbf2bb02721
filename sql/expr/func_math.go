package expr

import (
	"math"
	"math/rand/v2"

	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

func float1(f func(float64) float64) fn1 {
	return func(_ *EvalContext, a D) (D, error) {
		x := a.Float()
		v := f(x)
		if math.IsInf(v, 0) && !math.IsInf(x, 0) {
			return types.Null, errFloatOverflow()
		}
		return types.Float(v), nil
	}
}

// inDomain refuses arguments outside [lo, hi].
func inDomain(lo, hi float64, f func(float64) float64) fn1 {
	return func(_ *EvalContext, a D) (D, error) {
		if x := a.Float(); x < lo || x > hi {
			return types.Null, sqlstate.Newf(sqlstate.NumericValueOutOfRange, "input is out of range")
		}
		return types.Float(f(a.Float())), nil
	}
}

func logFloat(f func(float64) float64) fn1 {
	return func(_ *EvalContext, a D) (D, error) {
		switch x := a.Float(); {
		case x == 0:
			return types.Null, sqlstate.Newf("2201E", "cannot take logarithm of zero")
		case x < 0:
			return types.Null, sqlstate.Newf("2201E", "cannot take logarithm of a negative number")
		}
		return types.Float(f(a.Float())), nil
	}
}

func init() {
	inf := math.Inf(1)
	for _, t := range []types.OID{tInt2, tInt4, tInt8} {
		t := t
		defFunc("abs", t, func(_ *EvalContext, a D) (D, error) {
			if a.Int() >= 0 {
				return a, nil
			}
			v, err := intArith('-', 0, a.Int(), t)
			return types.Int(v), err
		}, t)
		defFunc("mod", t, func(_ *EvalContext, a, b D) (D, error) {
			v, err := intArith('%', a.Int(), b.Int(), t)
			return types.Int(v), err
		}, t, t)
		if t == tInt2 {
			continue
		}
		gcd := func(x, y int64) (uint64, error) {
			a, b := absU(x), absU(y)
			for b != 0 {
				a, b = b, a%b
			}
			return a, nil
		}
		defFunc("gcd", t, func(_ *EvalContext, a, b D) (D, error) {
			g, _ := gcd(a.Int(), b.Int())
			if g > math.MaxInt64 || !fitsInt(int64(g), t) {
				return types.Null, errOutOfRange(t)
			}
			return types.Int(int64(g)), nil
		}, t, t)
		defFunc("lcm", t, func(_ *EvalContext, a, b D) (D, error) {
			if a.Int() == 0 || b.Int() == 0 {
				return types.Int(0), nil
			}
			g, _ := gcd(a.Int(), b.Int())
			if g > math.MaxInt64 {
				return types.Null, errOutOfRange(t)
			}
			v, err := intArith('*', a.Int()/int64(g), b.Int(), t)
			if err == nil && v < 0 {
				v, err = intArith('-', 0, v, t)
			}
			return types.Int(v), err
		}, t, t)
	}
	for _, t := range []types.OID{tFloat4, tFloat8} {
		defFunc("abs", t, func(_ *EvalContext, a D) (D, error) { return types.Float(math.Abs(a.Float())), nil }, t)
	}
	defFunc("abs", tNum, absNumeric, tNum)
	defFunc("mod", tNum, num2(types.NumericRem), tNum, tNum)
	defFunc("gcd", tNum, num2(types.NumericGCD), tNum, tNum)
	defFunc("lcm", tNum, num2(types.NumericLCM), tNum, tNum)
	defFunc("div", tNum, num2(types.NumericDivTrunc), tNum, tNum)
	for _, n := range []string{"ceil", "ceiling"} {
		defFunc(n, tFloat8, float1(math.Ceil), tFloat8)
		defFunc(n, tNum, func(_ *EvalContext, a D) (D, error) { return types.NumericCeil(a), nil }, tNum)
	}
	defFunc("floor", tFloat8, float1(math.Floor), tFloat8)
	defFunc("floor", tNum, func(_ *EvalContext, a D) (D, error) { return types.NumericFloor(a), nil }, tNum)
	defFunc("round", tFloat8, float1(math.RoundToEven), tFloat8)
	defFunc("round", tNum, func(_ *EvalContext, a D) (D, error) { return types.NumericRound(a, 0), nil }, tNum)
	defFunc("round", tNum, func(_ *EvalContext, a, n D) (D, error) { return types.NumericRound(a, clampInt(n.Int())), nil }, tNum, tInt4)
	defFunc("trunc", tFloat8, float1(math.Trunc), tFloat8)
	defFunc("trunc", tNum, func(_ *EvalContext, a D) (D, error) { return types.NumericTrunc(a, 0), nil }, tNum)
	defFunc("trunc", tNum, func(_ *EvalContext, a, n D) (D, error) { return types.NumericTrunc(a, clampInt(n.Int())), nil }, tNum, tInt4)
	defFunc("sign", tFloat8, float1(func(f float64) float64 {
		switch {
		case f > 0:
			return 1
		case f < 0:
			return -1
		}
		return f
	}), tFloat8)
	defFunc("sign", tNum, func(_ *EvalContext, a D) (D, error) {
		if types.NumericIsNaN(a) {
			return a, nil
		}
		return types.NumericFromInt(int64(types.NumericSign(a))), nil
	}, tNum)
	defFunc("sqrt", tFloat8, fn1(sqrtFloat), tFloat8)
	defFunc("sqrt", tNum, func(_ *EvalContext, a D) (D, error) { return types.NumericSqrt(a) }, tNum)
	defFunc("cbrt", tFloat8, float1(math.Cbrt), tFloat8)
	for _, n := range []string{"power", "pow"} {
		defFunc(n, tFloat8, fn2(powFloat), tFloat8, tFloat8)
		defFunc(n, tNum, num2(types.NumericPower), tNum, tNum)
	}
	defFunc("exp", tFloat8, float1(math.Exp), tFloat8)
	defFunc("exp", tNum, func(_ *EvalContext, a D) (D, error) { return types.NumericExp(a) }, tNum)
	defFunc("ln", tFloat8, logFloat(math.Log), tFloat8)
	defFunc("ln", tNum, func(_ *EvalContext, a D) (D, error) { return types.NumericLn(a) }, tNum)
	ten := types.NumericFromInt(10)
	for _, n := range []string{"log", "log10"} {
		defFunc(n, tFloat8, logFloat(math.Log10), tFloat8)
		defFunc(n, tNum, func(_ *EvalContext, a D) (D, error) { return types.NumericLog(ten, a) }, tNum)
	}
	defFunc("log", tNum, num2(types.NumericLog), tNum, tNum)
	defFunc("pi", tFloat8, func(*EvalContext) (D, error) { return types.Float(math.Pi), nil })
	defFunc("random", tFloat8, func(*EvalContext) (D, error) { return types.Float(rand.Float64()), nil }).volatile()
	for n, f := range map[string]func(float64) float64{"sin": math.Sin, "cos": math.Cos, "tan": math.Tan, "atan": math.Atan, "sinh": math.Sinh, "cosh": math.Cosh, "tanh": math.Tanh,
		"asinh": math.Asinh, "degrees": func(x float64) float64 { return x * (180 / math.Pi) }, "radians": func(x float64) float64 { return x * (math.Pi / 180) },
		"cot": func(x float64) float64 { return 1 / math.Tan(x) }} {
		defFunc(n, tFloat8, float1(f), tFloat8)
	}
	defFunc("asin", tFloat8, inDomain(-1, 1, math.Asin), tFloat8)
	defFunc("acos", tFloat8, inDomain(-1, 1, math.Acos), tFloat8)
	defFunc("acosh", tFloat8, inDomain(1, inf, math.Acosh), tFloat8)
	defFunc("atanh", tFloat8, inDomain(-1, 1, math.Atanh), tFloat8)
	defFunc("atan2", tFloat8, func(_ *EvalContext, a, b D) (D, error) { return types.Float(math.Atan2(a.Float(), b.Float())), nil }, tFloat8, tFloat8)
	defFunc("factorial", tNum, func(_ *EvalContext, a D) (D, error) { return types.NumericFactorial(a.Int()) }, tInt8)
	defFunc("scale", tInt4, func(_ *EvalContext, a D) (D, error) {
		s, ok := types.NumericScale(a)
		if !ok {
			return types.Null, nil
		}
		return types.Int(int64(s)), nil
	}, tNum)
	defFunc("min_scale", tInt4, func(_ *EvalContext, a D) (D, error) {
		s, ok := types.NumericScale(types.NumericTrim(a))
		if !ok {
			return types.Null, nil
		}
		return types.Int(int64(s)), nil
	}, tNum)
	defFunc("trim_scale", tNum, func(_ *EvalContext, a D) (D, error) { return types.NumericTrim(a), nil }, tNum)
	defFunc("width_bucket", tInt4, fnN(func(_ *EvalContext, v []D) (D, error) {
		x, lo, hi, n := v[0].Float(), v[1].Float(), v[2].Float(), v[3].Int()
		switch {
		case n <= 0:
			return types.Null, sqlstate.Newf("2201G", "count must be greater than zero")
		case math.IsNaN(x) || math.IsNaN(lo) || math.IsNaN(hi):
			return types.Null, sqlstate.Newf("2201G", "operand, lower bound, and upper bound cannot be NaN")
		case math.IsInf(lo, 0) || math.IsInf(hi, 0):
			return types.Null, sqlstate.Newf("2201G", "lower and upper bounds must be finite")
		case lo == hi:
			return types.Null, sqlstate.Newf("2201G", "lower bound cannot equal upper bound")
		}
		before, after := x < lo, x >= hi
		if lo > hi {
			before, after = x > lo, x <= hi
		}
		switch {
		case before:
			return types.Int(0), nil
		case after:
			return types.Int(n + 1), nil
		}
		return types.Int(int64((x-lo)/(hi-lo)*float64(n)) + 1), nil
	}), tFloat8, tFloat8, tFloat8, tInt4)
}

func absU(v int64) uint64 {
	if v < 0 {
		return -uint64(v)
	}
	return uint64(v)
}
