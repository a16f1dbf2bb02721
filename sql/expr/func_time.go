package expr

import (
	"math"
	"strings"
	"time"

	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

func (ec *EvalContext) txnTime() int64 {
	if ec.TransactionTime.IsZero() {
		return types.TimestampFromTime(time.Now())
	}
	return types.TimestampFromTime(ec.TransactionTime)
}

func (ec *EvalContext) stmtTime() int64 {
	if ec.StatementTime.IsZero() {
		return ec.txnTime()
	}
	return types.TimestampFromTime(ec.StatementTime)
}

func init() {
	now := func(ec *EvalContext) (D, error) { return types.Timestamp(ec.txnTime()), nil }
	for _, n := range []string{"now", "transaction_timestamp", "current_timestamp"} {
		defFunc(n, tTSTZ, now).stable()
	}
	defFunc("statement_timestamp", tTSTZ, func(ec *EvalContext) (D, error) { return types.Timestamp(ec.stmtTime()), nil }).stable()
	defFunc("clock_timestamp", tTSTZ, func(*EvalContext) (D, error) {
		return types.Timestamp(types.TimestampFromTime(time.Now())), nil
	}).volatile()
	local := func(ec *EvalContext) int64 { return types.ToLocal(ec.txnTime(), ec.location()) }
	defFunc("localtimestamp", tTS, func(ec *EvalContext) (D, error) { return types.Timestamp(local(ec)), nil }).stable()
	defFunc("current_date", tDate, func(ec *EvalContext) (D, error) { return types.Date(types.TimestampToDate(local(ec))), nil }).stable()
	for _, n := range []string{"localtime", "current_time"} {
		defFunc(n, tTime, func(ec *EvalContext) (D, error) { return types.Time(modDay(local(ec))), nil }).stable()
	}
	// CURRENT_TIMESTAMP(n), LOCALTIMESTAMP(n).
	prec := func(t types.OID, get func(ec *EvalContext) int64) fn1 {
		return func(ec *EvalContext, p D) (D, error) {
			return types.CoerceMod(types.Timestamp(get(ec)), types.Type{OID: t, Mod: int32(min(max(p.Int(), 0), 6))}, true)
		}
	}
	defFunc("current_timestamp", tTSTZ, prec(tTSTZ, func(ec *EvalContext) int64 { return ec.txnTime() }), tInt4).stable()
	defFunc("localtimestamp", tTS, prec(tTS, local), tInt4).stable()
	defFunc("timeofday", tText, func(ec *EvalContext) (D, error) {
		return types.Text(time.Now().In(ec.location()).Format("Mon Jan 02 15:04:05.000000 2006 MST")), nil
	}).volatile()

	for _, n := range []string{"extract", "date_part"} {
		num := n == "extract"
		res := types.OID(tFloat8)
		if num {
			res = tNum
		}
		part := func(f func(ec *EvalContext, field string, a D) (D, error)) fn2 {
			return func(ec *EvalContext, field, a D) (D, error) {
				d, err := f(ec, strings.ToLower(field.Str()), a)
				if err != nil || num || d.IsNull() {
					return d, err
				}
				return types.ParseText(d.Str(), types.T(tFloat8), nil)
			}
		}
		defFunc(n, res, part(func(_ *EvalContext, f string, a D) (D, error) { return extractTS(f, a.Int(), a.Int(), 0, false) }), tText, tTS)
		defFunc(n, res, part(func(ec *EvalContext, f string, a D) (D, error) {
			l := types.ToLocal(a.Int(), ec.location())
			return extractTS(f, l, a.Int(), types.LocalOffset(a.Int(), ec.location()), true)
		}), tText, tTSTZ).stable()
		defFunc(n, res, part(func(_ *EvalContext, f string, a D) (D, error) { return extractDate(f, a.Int()) }), tText, tDate)
		defFunc(n, res, part(func(_ *EvalContext, f string, a D) (D, error) { return extractTime(f, a.Int()) }), tText, tTime)
		defFunc(n, res, part(func(_ *EvalContext, f string, a D) (D, error) { return extractInterval(f, a) }), tText, tIval)
	}

	defFunc("date_trunc", tTS, func(_ *EvalContext, f, a D) (D, error) {
		us, err := truncTS(strings.ToLower(f.Str()), a.Int(), "timestamp without time zone")
		return types.Timestamp(us), err
	}, tText, tTS)
	truncZone := func(f string, us int64, loc *time.Location) (D, error) {
		if infinite(us) {
			return types.Timestamp(us), nil
		}
		off := int64(types.LocalOffset(us, loc)) * types.Second
		l, err := truncTS(f, us+off, "timestamp with time zone")
		if err != nil {
			return types.Null, err
		}
		switch f {
		case "microsecond", "microseconds", "millisecond", "milliseconds", "second", "minute", "hour":
			// Within the hour the offset stays: a repeated hour is not merged.
			return types.Timestamp(l - off), nil
		}
		return types.Timestamp(types.FromLocal(l, loc)), nil
	}
	defFunc("date_trunc", tTSTZ, func(ec *EvalContext, f, a D) (D, error) {
		return truncZone(strings.ToLower(f.Str()), a.Int(), ec.location())
	}, tText, tTSTZ).stable()
	defFunc("date_trunc", tTSTZ, func(_ *EvalContext, f, a, z D) (D, error) {
		loc, err := zone(z.Str())
		if err != nil {
			return types.Null, err
		}
		return truncZone(strings.ToLower(f.Str()), a.Int(), loc)
	}, tText, tTSTZ, tText).stable()
	defFunc("date_trunc", tIval, func(_ *EvalContext, f, a D) (D, error) { return truncInterval(strings.ToLower(f.Str()), a) }, tText, tIval)
	defFunc("date_bin", tTS, fn3(dateBin), tIval, tTS, tTS)
	defFunc("date_bin", tTSTZ, fn3(dateBin), tIval, tTSTZ, tTSTZ)

	defFunc("age", tIval, func(_ *EvalContext, a, b D) (D, error) { return age(a.Int(), b.Int()) }, tTS, tTS)
	defFunc("age", tIval, func(ec *EvalContext, a, b D) (D, error) {
		return age(types.ToLocal(a.Int(), ec.location()), types.ToLocal(b.Int(), ec.location()))
	}, tTSTZ, tTSTZ).stable()
	midnight := func(ec *EvalContext) int64 { return types.TimestampToDate(local(ec)) * types.Day }
	defFunc("age", tIval, func(ec *EvalContext, a D) (D, error) { return age(midnight(ec), a.Int()) }, tTS).stable()
	defFunc("age", tIval, func(ec *EvalContext, a D) (D, error) { return age(midnight(ec), types.ToLocal(a.Int(), ec.location())) }, tTSTZ).stable()

	// AT TIME ZONE is timezone(zone, x).
	defFunc("timezone", tTS, func(_ *EvalContext, z, a D) (D, error) {
		loc, err := zone(z.Str())
		if err != nil {
			return types.Null, err
		}
		return types.Timestamp(types.ToLocal(a.Int(), loc)), nil
	}, tText, tTSTZ)
	defFunc("timezone", tTSTZ, func(_ *EvalContext, z, a D) (D, error) {
		loc, err := zone(z.Str())
		if err != nil {
			return types.Null, err
		}
		return types.Timestamp(types.FromLocal(a.Int(), loc)), nil
	}, tText, tTS)
	ivalZone := func(sign int64) fn2 {
		return func(_ *EvalContext, z, a D) (D, error) {
			m, d, us := z.IntervalParts()
			if m != 0 || d != 0 {
				return types.Null, sqlstate.Newf(sqlstate.InvalidParameterValue, "interval time zone \"%s\" must not include months or days", types.String(z, types.T(tIval), nil))
			}
			if infinite(a.Int()) {
				return a, nil
			}
			return types.Timestamp(a.Int() + sign*us), nil
		}
	}
	defFunc("timezone", tTS, ivalZone(1), tIval, tTSTZ)
	defFunc("timezone", tTSTZ, ivalZone(-1), tIval, tTS)

	defFunc("make_date", tDate, func(_ *EvalContext, y, m, d D) (D, error) {
		year := y.Int()
		if year < 0 {
			year++
		} else if year == 0 {
			year = -1 << 40
		}
		if m.Int() < 1 || m.Int() > 12 || year < -4712 || year > 5874897 || d.Int() < 1 || d.Int() > int64(types.DaysInMonth(int(year), int(m.Int()))) {
			return types.Null, sqlstate.Newf(sqlstate.DatetimeFieldOverflow, "date field value out of range: %d-%02d-%02d", y.Int(), m.Int(), d.Int())
		}
		return types.Date(types.DaysFromCivil(int(year), int(m.Int()), int(d.Int()))), nil
	}, tInt4, tInt4, tInt4)
	clock := func(h, m int64, s float64) (int64, error) {
		if h < 0 || h > 24 || m < 0 || m > 59 || s < 0 || s > 60 || math.IsNaN(s) || h == 24 && (m > 0 || s > 0) {
			return 0, sqlstate.Newf(sqlstate.DatetimeFieldOverflow, "time field value out of range: %d:%02d:%02g", h, m, s)
		}
		return h*types.Hour + m*types.Minute + int64(math.RoundToEven(s*1e6)), nil
	}
	defFunc("make_time", tTime, func(_ *EvalContext, h, m, s D) (D, error) {
		us, err := clock(h.Int(), m.Int(), s.Float())
		return types.Time(us), err
	}, tInt4, tInt4, tFloat8)
	makeTS := func(v []D) (int64, error) {
		c := types.Civil{Year: int(v[0].Int()), Month: int(v[1].Int()), Day: int(v[2].Int())}
		if c.Month < 1 || c.Month > 12 || c.Year == 0 || c.Day < 1 || c.Day > types.DaysInMonth(c.Year, c.Month) {
			return 0, sqlstate.Newf(sqlstate.DatetimeFieldOverflow, "date field value out of range: %d-%02d-%02d", c.Year, c.Month, c.Day)
		}
		if c.Year < 0 {
			c.Year++
		}
		us, err := clock(v[3].Int(), v[4].Int(), v[5].Float())
		if err != nil {
			return 0, err
		}
		base, ok := c.Timestamp()
		if !ok || !types.ValidTimestamp(base+us) {
			return 0, types.ErrTimestampRange()
		}
		return base + us, nil
	}
	six := []types.OID{tInt4, tInt4, tInt4, tInt4, tInt4, tFloat8}
	defFunc("make_timestamp", tTS, fnN(func(_ *EvalContext, v []D) (D, error) {
		us, err := makeTS(v)
		return types.Timestamp(us), err
	}), six...)
	defFunc("make_timestamptz", tTSTZ, fnN(func(ec *EvalContext, v []D) (D, error) {
		us, err := makeTS(v)
		return types.Timestamp(types.FromLocal(us, ec.location())), err
	}), six...).stable()
	for n := 0; n <= 7; n++ {
		args := []types.OID{tInt4, tInt4, tInt4, tInt4, tInt4, tInt4, tFloat8}[:n]
		mk := func(v []D) (D, error) {
			var p [7]float64
			for i, d := range v {
				if p[i] = float64(d.Int()); i == 6 {
					p[i] = d.Float()
				}
			}
			months, days := p[0]*12+p[1], p[2]*7+p[3]
			if math.Abs(months) > math.MaxInt32 || math.Abs(days) > math.MaxInt32 {
				return types.Null, sqlstate.Newf(sqlstate.DatetimeFieldOverflow, "interval out of range")
			}
			us := p[4]*float64(types.Hour) + p[5]*float64(types.Minute) + math.RoundToEven(p[6]*1e6)
			return types.Interval(int32(months), int32(days), int64(us)), nil
		}
		switch n {
		case 0:
			defFunc("make_interval", tIval, func(*EvalContext) (D, error) { return mk(nil) })
		case 1:
			defFunc("make_interval", tIval, func(_ *EvalContext, a D) (D, error) { return mk([]D{a}) }, args...)
		case 2:
			defFunc("make_interval", tIval, func(_ *EvalContext, a, b D) (D, error) { return mk([]D{a, b}) }, args...)
		case 3:
			defFunc("make_interval", tIval, func(_ *EvalContext, a, b, c D) (D, error) { return mk([]D{a, b, c}) }, args...)
		default:
			defFunc("make_interval", tIval, fnN(func(_ *EvalContext, v []D) (D, error) { return mk(v) }), args...)
		}
	}
	defFunc("justify_hours", tIval, func(_ *EvalContext, a D) (D, error) { return types.IntervalJustify(a, true, false), nil }, tIval)
	defFunc("justify_days", tIval, func(_ *EvalContext, a D) (D, error) { return types.IntervalJustify(a, false, true), nil }, tIval)
	defFunc("justify_interval", tIval, func(_ *EvalContext, a D) (D, error) { return types.IntervalJustify(a, true, true), nil }, tIval)
	defFunc("isfinite", tBool, func(_ *EvalContext, a D) (D, error) { return types.Bool(!infinite(a.Int())), nil }, tTS)
	defFunc("isfinite", tBool, func(_ *EvalContext, a D) (D, error) { return types.Bool(!infinite(a.Int())), nil }, tTSTZ)
	defFunc("isfinite", tBool, func(_ *EvalContext, a D) (D, error) {
		return types.Bool(a.Int() != types.DateInfinity && a.Int() != types.DateNegInfinity), nil
	}, tDate)
	defFunc("isfinite", tBool, func(*EvalContext, D) (D, error) { return types.Bool(true), nil }, tIval)
	defFunc("to_timestamp", tTSTZ, func(_ *EvalContext, a D) (D, error) {
		f := a.Float()
		switch {
		case math.IsNaN(f):
			return types.Null, sqlstate.Newf(sqlstate.DatetimeFieldOverflow, "timestamp cannot be NaN")
		case math.IsInf(f, 1):
			return types.Timestamp(types.TimestampInfinity), nil
		case math.IsInf(f, -1):
			return types.Timestamp(types.TimestampNegInfinity), nil
		}
		us := math.RoundToEven((f - 946684800) * 1e6)
		if us < -211813488000000000 || us >= 9223371331200000000 {
			return types.Null, sqlstate.Newf(sqlstate.DatetimeFieldOverflow, "timestamp out of range: \"%g\"", f)
		}
		return types.Timestamp(int64(us)), nil
	}, tFloat8)
}

func zone(name string) (*time.Location, error) {
	l, ok := types.ParseZone(name)
	if !ok {
		return nil, sqlstate.Newf(sqlstate.InvalidParameterValue, "time zone \"%s\" not recognized", name)
	}
	return l, nil
}

// decimalMicros is us microseconds as a numeric count of seconds (scale 6) or of
// milliseconds (scale 3).
func decimalMicros(us int64, scale int) D {
	d := types.NumericFromInt(us)
	r, _ := types.NumericMul(d, types.NumericText(map[int]string{6: "0.000001", 3: "0.001"}[scale]))
	return r
}

func errUnit(field, typ string) error {
	switch field {
	case "millennium", "century", "decade", "year", "isoyear", "quarter", "month", "week", "day", "dow", "isodow", "doy", "hour", "minute", "second",
		"millisecond", "milliseconds", "microsecond", "microseconds", "epoch", "julian", "timezone", "timezone_hour", "timezone_minute":
		return sqlstate.Newf(sqlstate.FeatureNotSupported, "unit \"%s\" not supported for type %s", field, typ)
	}
	return sqlstate.Newf(sqlstate.InvalidParameterValue, "unit \"%s\" not recognized for type %s", field, typ)
}

// unitName reduces plural and abbreviated spellings.
func unitName(f string) string {
	switch f {
	case "years", "y", "yr", "yrs":
		return "year"
	case "months", "mon", "mons":
		return "month"
	case "days", "d":
		return "day"
	case "hours", "h", "hr", "hrs":
		return "hour"
	case "minutes", "m", "min", "mins":
		return "minute"
	case "seconds", "s", "sec", "secs":
		return "second"
	case "weeks", "w":
		return "week"
	case "quarters", "qtr":
		return "quarter"
	case "decades", "dec", "decs":
		return "decade"
	case "centuries", "c", "cent":
		return "century"
	case "millennia", "mil", "mils":
		return "millennium"
	case "ms", "msec", "msecs", "millisecond":
		return "milliseconds"
	case "us", "usec", "usecs", "microsecond":
		return "microseconds"
	}
	return f
}

func isoWeek(days int64) (year, week int) {
	// The week's Thursday decides its year; 2000-01-01 was a Saturday.
	dow := int((days+5)%7+7) % 7 // Monday 0
	thursday := days - int64(dow) + 3
	y, _, _ := types.CivilFromDays(thursday)
	return y, int((thursday-types.DaysFromCivil(y, 1, 1))/7) + 1
}

func extractTS(field string, local, utc int64, off int, zoned bool) (D, error) {
	typ := "timestamp without time zone"
	if zoned {
		typ = "timestamp with time zone"
	}
	field = unitName(field)
	if infinite(local) {
		switch field {
		case "year", "isoyear", "decade", "century", "millennium", "epoch", "julian":
			if local > 0 {
				return types.NumericText("Infinity"), nil
			}
			return types.NumericText("-Infinity"), nil
		case "month", "day", "hour", "minute", "second", "milliseconds", "microseconds", "week", "quarter", "dow", "isodow", "doy", "timezone", "timezone_hour", "timezone_minute":
			return types.Null, nil
		}
		return types.Null, errUnit(field, typ)
	}
	c := types.CivilFromTimestamp(local)
	num := func(v int) (D, error) { return types.NumericFromInt(int64(v)), nil }
	days := types.TimestampToDate(local)
	switch field {
	case "microseconds":
		return num(c.Second*1000000 + c.Micro)
	case "milliseconds":
		return decimalMicros(int64(c.Second)*types.Second+int64(c.Micro), 3), nil
	case "second":
		return decimalMicros(int64(c.Second)*types.Second+int64(c.Micro), 6), nil
	case "minute":
		return num(c.Minute)
	case "hour":
		return num(c.Hour)
	case "julian":
		r, err := types.NumericDiv(types.NumericFromInt(modDay(local)), types.NumericFromInt(types.Day))
		if err != nil {
			return types.Null, err
		}
		return types.NumericAdd(types.NumericFromInt(days+2451545), r)
	case "epoch":
		return decimalMicros(utc+946684800*types.Second, 6), nil
	case "timezone":
		if zoned {
			return num(off)
		}
	case "timezone_hour":
		if zoned {
			return num(off / 3600)
		}
	case "timezone_minute":
		if zoned {
			return num(off / 60 % 60)
		}
	default:
		if d, ok := extractDay(field, days); ok {
			return d, nil
		}
	}
	return types.Null, errUnit(field, typ)
}

// extractDay gives the fields that a date has.
func extractDay(field string, days int64) (D, bool) {
	y, m, d := types.CivilFromDays(days)
	show := y // 1 BC is -1
	if y <= 0 {
		show = y - 1
	}
	v := 0
	switch field {
	case "year":
		v = show
	case "month":
		v = m
	case "day":
		v = d
	case "quarter":
		v = (m-1)/3 + 1
	case "week":
		_, v = isoWeek(days)
	case "isoyear":
		if v, _ = isoWeek(days); v <= 0 {
			v--
		}
	case "dow":
		v = int((days+6)%7+7) % 7
	case "isodow":
		if v = int((days+6)%7+7) % 7; v == 0 {
			v = 7
		}
	case "doy":
		v = int(days-types.DaysFromCivil(y, 1, 1)) + 1
	case "decade":
		if y >= 0 {
			v = y / 10
		} else {
			v = -((8 - (y - 1)) / 10)
		}
	case "century":
		if y > 0 {
			v = (y + 99) / 100
		} else {
			v = -((99 - (y - 1)) / 100)
		}
	case "millennium":
		if y > 0 {
			v = (y + 999) / 1000
		} else {
			v = -((999 - (y - 1)) / 1000)
		}
	default:
		return types.Null, false
	}
	return types.NumericFromInt(int64(v)), true
}

func extractDate(field string, days int64) (D, error) {
	field = unitName(field)
	if days == types.DateInfinity || days == types.DateNegInfinity {
		us := int64(types.TimestampInfinity)
		if days < 0 {
			us = types.TimestampNegInfinity
		}
		switch field {
		case "hour", "minute", "second", "milliseconds", "microseconds", "timezone", "timezone_hour", "timezone_minute":
			return types.Null, errUnit(field, "date")
		}
		return extractTS(field, us, us, 0, false)
	}
	switch field {
	case "epoch":
		return types.NumericFromInt((days + 10957) * 86400), nil
	case "julian":
		return types.NumericFromInt(days + 2451545), nil
	}
	if d, ok := extractDay(field, days); ok {
		return d, nil
	}
	return types.Null, errUnit(field, "date")
}

func extractTime(field string, us int64) (D, error) {
	field = unitName(field)
	switch field {
	case "microseconds":
		return types.NumericFromInt(us % types.Minute), nil
	case "milliseconds":
		return decimalMicros(us%types.Minute, 3), nil
	case "second":
		return decimalMicros(us%types.Minute, 6), nil
	case "minute":
		return types.NumericFromInt(us / types.Minute % 60), nil
	case "hour":
		return types.NumericFromInt(us / types.Hour), nil
	case "epoch":
		return decimalMicros(us, 6), nil
	}
	return types.Null, errUnit(field, "time without time zone")
}

func extractInterval(field string, iv D) (D, error) {
	m, d, us := iv.IntervalParts()
	field = unitName(field)
	num := func(v int64) (D, error) { return types.NumericFromInt(v), nil }
	switch field {
	case "microseconds":
		return num(us % types.Minute)
	case "milliseconds":
		return decimalMicros(us%types.Minute, 3), nil
	case "second":
		return decimalMicros(us%types.Minute, 6), nil
	case "minute":
		return num(us / types.Minute % 60)
	case "hour":
		return num(us / types.Hour)
	case "day":
		return num(int64(d))
	case "month":
		return num(int64(m % 12))
	case "quarter":
		return num(int64(m%12)/3 + 1)
	case "year":
		return num(int64(m / 12))
	case "decade":
		return num(int64(m / 120))
	case "century":
		return num(int64(m / 1200))
	case "millennium":
		return num(int64(m / 12000))
	case "epoch":
		return types.ParseNumeric(types.IntervalSeconds(iv).FloatString(6))
	}
	return types.Null, errUnit(field, "interval")
}

func truncTS(field string, us int64, typ string) (int64, error) {
	field = unitName(field)
	if infinite(us) {
		return us, nil
	}
	c := types.CivilFromTimestamp(us)
	day := func(y, m, d int) (int64, error) {
		v, ok := types.Civil{Year: y, Month: m, Day: d}.Timestamp()
		if !ok {
			return 0, types.ErrTimestampRange()
		}
		return v, nil
	}
	floor := func(unit int64) (int64, error) { return us - ((us%unit)+unit)%unit, nil }
	switch field {
	case "microseconds":
		return us, nil
	case "milliseconds":
		return floor(types.Millisecond)
	case "second":
		return floor(types.Second)
	case "minute":
		return floor(types.Minute)
	case "hour":
		return floor(types.Hour)
	case "day":
		return floor(types.Day)
	case "week":
		days := types.TimestampToDate(us)
		return (days - ((days+5)%7+7)%7) * types.Day, nil
	case "month":
		return day(c.Year, c.Month, 1)
	case "quarter":
		return day(c.Year, (c.Month-1)/3*3+1, 1)
	case "year":
		return day(c.Year, 1, 1)
	case "decade":
		y := c.Year
		if y > 0 {
			y = y / 10 * 10
		} else {
			y = -((8 - (y - 1)) / 10) * 10
		}
		return day(y, 1, 1)
	case "century":
		y := c.Year
		if y > 0 {
			y = (y+99)/100*100 - 99
		} else {
			y = -((99-(y-1))/100)*100 + 1
		}
		return day(y, 1, 1)
	case "millennium":
		y := c.Year
		if y > 0 {
			y = (y+999)/1000*1000 - 999
		} else {
			y = -((999-(y-1))/1000)*1000 + 1
		}
		return day(y, 1, 1)
	}
	return 0, errUnit(field, typ)
}

func truncInterval(field string, iv D) (D, error) {
	m, d, us := iv.IntervalParts()
	field = unitName(field)
	cut := func(unit int64) D { return types.Interval(m, d, us/unit*unit) }
	switch field {
	case "microseconds":
		return iv, nil
	case "milliseconds":
		return cut(types.Millisecond), nil
	case "second":
		return cut(types.Second), nil
	case "minute":
		return cut(types.Minute), nil
	case "hour":
		return cut(types.Hour), nil
	case "day":
		return types.Interval(m, d, 0), nil
	case "month":
		return types.Interval(m, 0, 0), nil
	case "quarter":
		return types.Interval(m/3*3, 0, 0), nil
	case "year":
		return types.Interval(m/12*12, 0, 0), nil
	case "decade":
		return types.Interval(m/120*120, 0, 0), nil
	case "century":
		return types.Interval(m/1200*1200, 0, 0), nil
	case "millennium":
		return types.Interval(m/12000*12000, 0, 0), nil
	case "week":
		return types.Null, sqlstate.Newf(sqlstate.FeatureNotSupported, "unit \"week\" not supported for type interval").
			WithDetail("Months usually have fractional weeks.")
	}
	return types.Null, errUnit(field, "interval")
}

func dateBin(_ *EvalContext, iv, ts, origin D) (D, error) {
	m, d, us := iv.IntervalParts()
	if m != 0 {
		return types.Null, sqlstate.Newf(sqlstate.FeatureNotSupported, "timestamps cannot be binned into intervals containing months or years")
	}
	stride := int64(d)*types.Day + us
	if stride <= 0 {
		return types.Null, sqlstate.Newf(sqlstate.DatetimeFieldOverflow, "stride must be greater than zero")
	}
	if infinite(ts.Int()) {
		return ts, nil
	}
	diff := ts.Int() - origin.Int()
	return types.Timestamp(ts.Int() - ((diff%stride)+stride)%stride), nil
}

// age subtracts field by field, borrowing as a calendar does.
func age(a, b int64) (D, error) {
	if infinite(a) || infinite(b) {
		return types.Null, types.ErrTimestampRange()
	}
	sign := 1
	x, y := types.CivilFromTimestamp(a), types.CivilFromTimestamp(b)
	if a < b {
		x, y, sign = y, x, -1
	}
	us := int64(x.Hour-y.Hour)*types.Hour + int64(x.Minute-y.Minute)*types.Minute + int64(x.Second-y.Second)*types.Second + int64(x.Micro-y.Micro)
	days, months, years := x.Day-y.Day, x.Month-y.Month, x.Year-y.Year
	if us < 0 {
		us += types.Day
		days--
	}
	for days < 0 {
		// Borrow the month of the earlier date.
		days += types.DaysInMonth(y.Year, y.Month)
		months--
	}
	if months < 0 {
		months += 12
		years--
	}
	return types.Interval(int32(sign*(years*12+months)), int32(sign*days), int64(sign)*us), nil
}
