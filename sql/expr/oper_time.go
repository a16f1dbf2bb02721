package expr

import (
	"math"
	"time"

	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

func infinite(us int64) bool {
	return us == types.TimestampInfinity || us == types.TimestampNegInfinity
}

func errDateRange() error {
	return sqlstate.Newf(sqlstate.DatetimeFieldOverflow, "date out of range")
}

// addZoned adds an interval to an instant by the clock on loc's walls for months
// and days, and by elapsed time below.
func addZoned(us int64, iv types.Datum, loc *time.Location) (int64, error) {
	if infinite(us) {
		return us, nil
	}
	m, d, u := iv.IntervalParts()
	if m != 0 || d != 0 {
		local, err := types.TimestampAddInterval(types.ToLocal(us, loc), types.Interval(m, d, 0))
		if err != nil {
			return 0, err
		}
		us = types.FromLocal(local, loc)
	}
	return types.TimestampAddInterval(us, types.Interval(0, 0, u))
}

// tsDiff is timestamp - timestamp: days and time.
func tsDiff(a, b int64) (types.Datum, error) {
	if infinite(a) || infinite(b) {
		return types.Null, sqlstate.Newf(sqlstate.DatetimeFieldOverflow, "cannot subtract infinite timestamps")
	}
	d := a - b
	if (a >= 0) != (b >= 0) && (d >= 0) != (a >= 0) {
		return types.Null, sqlstate.Newf(sqlstate.DatetimeFieldOverflow, "interval out of range")
	}
	return types.Interval(0, int32(d/types.Day), d%types.Day), nil
}

func initTimeOps() {
	type D = types.Datum
	addDays := func(d, n int64) (D, error) {
		if d == types.DateInfinity || d == types.DateNegInfinity {
			return types.Date(d), nil
		}
		v := d + n
		if v < -2451545 || v >= 2145031949 {
			return types.Null, errDateRange()
		}
		return types.Date(v), nil
	}
	neg := func(b D) D { n, _ := types.IntervalNeg(b); return n }
	defOp("+", tDate, tInt4, tDate, func(_ *EvalContext, a, b D) (D, error) { return addDays(a.Int(), b.Int()) })
	defOp("+", tInt4, tDate, tDate, func(_ *EvalContext, a, b D) (D, error) { return addDays(b.Int(), a.Int()) })
	defOp("-", tDate, tInt4, tDate, func(_ *EvalContext, a, b D) (D, error) { return addDays(a.Int(), -b.Int()) })
	defOp("-", tDate, tDate, tInt4, func(_ *EvalContext, a, b D) (D, error) {
		if a.Int() == types.DateInfinity || a.Int() == types.DateNegInfinity || b.Int() == types.DateInfinity || b.Int() == types.DateNegInfinity {
			return types.Null, sqlstate.Newf(sqlstate.DatetimeFieldOverflow, "cannot subtract infinite dates")
		}
		return types.Int(a.Int() - b.Int()), nil
	})
	dateIval := func(d int64, iv D) (D, error) {
		us, err := types.DateToTimestamp(d)
		if err != nil {
			return types.Null, err
		}
		us, err = types.TimestampAddInterval(us, iv)
		return types.Timestamp(us), err
	}
	defOp("+", tDate, tIval, tTS, func(_ *EvalContext, a, b D) (D, error) { return dateIval(a.Int(), b) })
	defOp("+", tIval, tDate, tTS, func(_ *EvalContext, a, b D) (D, error) { return dateIval(b.Int(), a) })
	defOp("-", tDate, tIval, tTS, func(_ *EvalContext, a, b D) (D, error) { return dateIval(a.Int(), neg(b)) })
	dateTime := func(d, t int64) (D, error) {
		us, err := types.DateToTimestamp(d)
		if err == nil && !infinite(us) {
			us += t
		}
		return types.Timestamp(us), err
	}
	defOp("+", tDate, tTime, tTS, func(_ *EvalContext, a, b D) (D, error) { return dateTime(a.Int(), b.Int()) })
	defOp("+", tTime, tDate, tTS, func(_ *EvalContext, a, b D) (D, error) { return dateTime(b.Int(), a.Int()) })

	ts := func(us int64, iv D) (D, error) {
		v, err := types.TimestampAddInterval(us, iv)
		return types.Timestamp(v), err
	}
	defOp("+", tTS, tIval, tTS, func(_ *EvalContext, a, b D) (D, error) { return ts(a.Int(), b) })
	defOp("+", tIval, tTS, tTS, func(_ *EvalContext, a, b D) (D, error) { return ts(b.Int(), a) })
	defOp("-", tTS, tIval, tTS, func(_ *EvalContext, a, b D) (D, error) { return ts(a.Int(), neg(b)) })
	tz := func(ec *EvalContext, us int64, iv D) (D, error) {
		v, err := addZoned(us, iv, ec.location())
		return types.Timestamp(v), err
	}
	defOp("+", tTSTZ, tIval, tTSTZ, func(ec *EvalContext, a, b D) (D, error) { return tz(ec, a.Int(), b) }).vol = Stable
	defOp("+", tIval, tTSTZ, tTSTZ, func(ec *EvalContext, a, b D) (D, error) { return tz(ec, b.Int(), a) }).vol = Stable
	defOp("-", tTSTZ, tIval, tTSTZ, func(ec *EvalContext, a, b D) (D, error) { return tz(ec, a.Int(), neg(b)) }).vol = Stable
	defOp("-", tTS, tTS, tIval, func(_ *EvalContext, a, b D) (D, error) { return tsDiff(a.Int(), b.Int()) })
	defOp("-", tTSTZ, tTSTZ, tIval, func(_ *EvalContext, a, b D) (D, error) { return tsDiff(a.Int(), b.Int()) })

	clock := func(t int64, iv D, sign int64) (D, error) {
		_, _, us := iv.IntervalParts()
		return types.Time(modDay(t + sign*(us%types.Day))), nil
	}
	defOp("+", tTime, tIval, tTime, func(_ *EvalContext, a, b D) (D, error) { return clock(a.Int(), b, 1) })
	defOp("+", tIval, tTime, tTime, func(_ *EvalContext, a, b D) (D, error) { return clock(b.Int(), a, 1) })
	defOp("-", tTime, tIval, tTime, func(_ *EvalContext, a, b D) (D, error) { return clock(a.Int(), b, -1) })
	defOp("-", tTime, tTime, tIval, func(_ *EvalContext, a, b D) (D, error) {
		return types.Interval(0, 0, a.Int()-b.Int()), nil
	})

	defOp("+", tIval, tIval, tIval, num2(types.IntervalAdd))
	defOp("-", tIval, tIval, tIval, func(_ *EvalContext, a, b D) (D, error) {
		n, err := types.IntervalNeg(b)
		if err != nil {
			return types.Null, err
		}
		return types.IntervalAdd(a, n)
	})
	defPrefix("-", tIval, tIval, func(_ *EvalContext, a D) (D, error) { return types.IntervalNeg(a) })
	defOp("*", tIval, tFloat8, tIval, func(_ *EvalContext, a, b D) (D, error) { return types.IntervalMul(a, b.Float()) })
	defOp("*", tFloat8, tIval, tIval, func(_ *EvalContext, a, b D) (D, error) { return types.IntervalMul(b, a.Float()) })
	defOp("/", tIval, tFloat8, tIval, func(_ *EvalContext, a, b D) (D, error) {
		if b.Float() == 0 {
			return types.Null, errDivZero()
		}
		return intervalDiv(a, b.Float())
	})
}

// intervalDiv divides field by field, spilling fractions downwards.
func intervalDiv(a types.Datum, f float64) (types.Datum, error) {
	m, d, u := a.IntervalParts()
	rm, rd := float64(m)/f, float64(d)/f
	if math.Abs(rm) > math.MaxInt32 || math.Abs(rd) > math.MaxInt32 || math.IsNaN(rm) || math.IsNaN(rd) {
		return types.Null, sqlstate.Newf(sqlstate.DatetimeFieldOverflow, "interval out of range")
	}
	months, days := int64(rm), int64(rd)
	round := func(x float64) float64 { return math.RoundToEven(x*1e6) / 1e6 }
	monthDays := round((rm - float64(months)) * 30)
	secs := round((rd - float64(days) + monthDays - math.Trunc(monthDays)) * 86400)
	if math.Abs(secs) >= 86400 {
		days += int64(secs / 86400)
		secs -= math.Trunc(secs/86400) * 86400
	}
	days += int64(monthDays)
	us := math.RoundToEven(float64(u)/f + secs*1e6)
	if math.Abs(us) >= math.MaxInt64 || days != int64(int32(days)) {
		return types.Null, sqlstate.Newf(sqlstate.DatetimeFieldOverflow, "interval out of range")
	}
	return types.Interval(int32(months), int32(days), int64(us)), nil
}
