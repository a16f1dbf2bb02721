package types

import (
	"encoding/binary"
	"math"
	"math/big"
	"strconv"
	"strings"

	"github.com/spandb/spand/sql/sqlstate"
)

// Interval makes an interval datum.
func Interval(months, days int32, us int64) Datum {
	if months == 0 && days == 0 {
		return Datum{s: zeroMonthsDays, n: us, k: KindInterval}
	}
	var b [8]byte
	binary.BigEndian.PutUint32(b[:], uint32(months))
	binary.BigEndian.PutUint32(b[4:], uint32(days))
	return Datum{s: string(b[:]), n: us, k: KindInterval}
}

const zeroMonthsDays = "\x00\x00\x00\x00\x00\x00\x00\x00"

// IntervalParts splits an interval datum.
func (d Datum) IntervalParts() (months, days int32, us int64) {
	if len(d.s) != 8 {
		return 0, 0, d.n
	}
	be := func(s string) int32 {
		return int32(uint32(s[0])<<24 | uint32(s[1])<<16 | uint32(s[2])<<8 | uint32(s[3]))
	}
	return be(d.s), be(d.s[4:]), d.n
}

// IntervalSpan is the length by which intervals are ordered, months as 30 days:
// whole days and the microseconds above them, 0 <= us < Day.
func IntervalSpan(d Datum) (days int64, us int64) {
	m, dd, u := d.IntervalParts()
	days = int64(m)*30 + int64(dd)
	q := floorDiv64(u, Day)
	return days + q, u - q*Day
}

func appendInterval(dst []byte, d Datum) []byte {
	months, days, us := d.IntervalParts()
	start := len(dst)
	before := false // the part before this one was negative
	part := func(v int64, unit string) {
		if v == 0 {
			return
		}
		if len(dst) > start {
			dst = append(dst, ' ')
		}
		if before && v > 0 {
			dst = append(dst, '+')
		}
		dst = strconv.AppendInt(dst, v, 10)
		dst = append(append(dst, ' '), unit...)
		if v != 1 {
			dst = append(dst, 's')
		}
		before = v < 0
	}
	part(int64(months/12), "year")
	part(int64(months%12), "mon")
	part(int64(days), "day")
	if us == 0 && len(dst) > start {
		return dst
	}
	if len(dst) > start {
		dst = append(dst, ' ')
	}
	u := uint64(us)
	if us < 0 {
		dst = append(dst, '-')
		u = -u
	} else if before {
		dst = append(dst, '+')
	}
	h := u / uint64(Hour)
	if h < 10 {
		dst = append(dst, '0')
	}
	dst = strconv.AppendUint(dst, h, 10)
	dst = append2(append(dst, ':'), int(u/uint64(Minute)%60))
	dst = append2(append(dst, ':'), int(u/uint64(Second)%60))
	return appendFraction(dst, int(u%uint64(Second)))
}

// intervalUnit says how many months, days or microseconds a unit's word means.
type intervalUnit struct {
	months, days int32
	us           int64
	kind         byte // groups spellings of one unit, to refuse it twice
}

func lookupUnit(w string) (intervalUnit, bool) {
	switch strings.TrimSuffix(w, ".") {
	case "microsecond", "microseconds", "us", "usec", "usecs", "useconds":
		return intervalUnit{us: 1, kind: 'u'}, true
	case "millisecond", "milliseconds", "ms", "msec", "msecs", "mseconds":
		return intervalUnit{us: Millisecond, kind: 'l'}, true
	case "s", "sec", "secs", "second", "seconds":
		return intervalUnit{us: Second, kind: 's'}, true
	case "m", "min", "mins", "minute", "minutes":
		return intervalUnit{us: Minute, kind: 'm'}, true
	case "h", "hr", "hrs", "hour", "hours":
		return intervalUnit{us: Hour, kind: 'h'}, true
	case "d", "day", "days":
		return intervalUnit{days: 1, kind: 'd'}, true
	case "w", "week", "weeks":
		return intervalUnit{days: 7, kind: 'w'}, true
	case "mon", "mons", "month", "months":
		return intervalUnit{months: 1, kind: 'M'}, true
	case "qtr", "quarter", "quarters":
		return intervalUnit{months: 3, kind: 'q'}, true
	case "y", "yr", "yrs", "year", "years":
		return intervalUnit{months: 12, kind: 'y'}, true
	case "dec", "decs", "decade", "decades":
		return intervalUnit{months: 120, kind: 'D'}, true
	case "c", "cent", "century", "centuries":
		return intervalUnit{months: 1200, kind: 'c'}, true
	case "mil", "mils", "millennium", "millennia":
		return intervalUnit{months: 12000, kind: 'i'}, true
	}
	return intervalUnit{}, false
}

type intervalSum struct {
	months, days, us int64
	over             bool
}

func (a *intervalSum) add(u intervalUnit, whole int64, frac float64, neg bool) {
	mul := func(p *int64, per int64) {
		v, ok := mulInt64(whole, per)
		if !ok || addOverflows(*p, v) {
			a.over = true
			return
		}
		*p += v
	}
	if u.months != 0 {
		mul(&a.months, int64(u.months))
		// A fraction of a year or more spills to months, of a month to days and time.
		if u.months > 1 {
			a.months += int64(math.Round(frac * float64(u.months)))
		} else if frac != 0 {
			a.spillDays(frac * 30)
		}
		return
	}
	if u.days != 0 {
		mul(&a.days, int64(u.days))
		a.spillDays(frac * float64(u.days))
		return
	}
	mul(&a.us, u.us)
	a.us += int64(math.RoundToEven(frac * float64(u.us)))
}

func (a *intervalSum) spillDays(f float64) {
	whole := math.Trunc(f)
	a.days += int64(whole)
	a.us += int64(math.RoundToEven((f - whole) * float64(Day)))
}

func addOverflows(a, b int64) bool {
	s := a + b
	return (s > a) != (b > 0) && b != 0
}

func (a *intervalSum) datum(in string) (Datum, error) {
	if a.over || a.months != int64(int32(a.months)) || a.days != int64(int32(a.days)) {
		return Null, sqlstate.Newf("22015", "interval field value out of range: \"%s\"", in)
	}
	return Interval(int32(a.months), int32(a.days), a.us), nil
}

func parseInterval(in string, mod int32) (Datum, error) {
	s := strings.ToLower(trimSpace(in))
	bad := func() (Datum, error) { return Null, badDatetime("interval", in) }
	if s == "" || len(s) > 256 {
		return bad()
	}
	if s[0] == 'p' || strings.HasPrefix(s, "-p") {
		return parseISOInterval(in, s)
	}
	s = strings.TrimPrefix(s, "@")
	var a intervalSum
	seen := map[byte]bool{}
	ago := false
	i := 0
	any := false
	skip := func() {
		for i < len(s) && (isSpace(s[i]) || s[i] == ',') {
			i++
		}
	}
	for skip(); i < len(s); skip() {
		start := i
		neg := false
		if s[i] == '-' || s[i] == '+' {
			neg = s[i] == '-'
			i++
		}
		ds := i
		for i < len(s) && (s[i] >= '0' && s[i] <= '9' || s[i] == '.' || s[i] == ':') {
			i++
		}
		tok := s[ds:i]
		if tok == "" {
			if s[start:] == "ago" && any {
				ago = true
				break
			}
			return bad()
		}
		any = true
		if strings.IndexByte(tok, ':') >= 0 {
			if seen['h'] && seen['m'] {
				return bad()
			}
			us, ok := intervalClock(tok)
			if !ok {
				return bad()
			}
			if neg {
				us = -us
			}
			if addOverflows(a.us, us) {
				a.over = true
			}
			a.us += us
			seen['h'], seen['m'], seen['s'] = true, true, true
			continue
		}
		// years-months: 1-2
		if i < len(s) && s[i] == '-' && i+1 < len(s) && s[i+1] >= '0' && s[i+1] <= '9' && allDigits(tok) {
			i++
			ms := i
			for i < len(s) && s[i] >= '0' && s[i] <= '9' {
				i++
			}
			y, m := int64(atoi(tok)), int64(atoi(s[ms:i]))
			if m > 11 {
				return Null, sqlstate.Newf("22015", "interval field value out of range: \"%s\"", in)
			}
			v := y*12 + m
			if neg {
				v = -v
			}
			a.months += v
			continue
		}
		whole, frac, ok := splitNumber(tok)
		if !ok {
			return bad()
		}
		if neg {
			whole, frac = -whole, -frac
		}
		skip()
		ws := i
		for i < len(s) && s[i] >= 'a' && s[i] <= 'z' {
			i++
		}
		word := s[ws:i]
		var u intervalUnit
		if word == "" || word == "ago" {
			if word == "ago" {
				i = ws
			}
			// A bare number before a clock is days, at the end seconds.
			if rest := s[i:]; strings.IndexByte(rest, ':') > 0 {
				u, _ = lookupUnit("day")
			} else if i == len(s) || strings.TrimSpace(rest) == "ago" {
				u, _ = lookupUnit(lowestField(mod))
			} else {
				return bad()
			}
		} else if u, ok = lookupUnit(word); !ok {
			return bad()
		}
		if seen[u.kind] {
			return bad()
		}
		seen[u.kind] = true
		a.add(u, whole, frac, neg)
	}
	if !any {
		return bad()
	}
	if ago {
		a.months, a.days, a.us = -a.months, -a.days, -a.us
	}
	return a.datum(in)
}

func splitNumber(tok string) (whole int64, frac float64, ok bool) {
	w, f, point := strings.Cut(tok, ".")
	if w == "" && f == "" {
		return 0, 0, false
	}
	if w != "" {
		v, err := strconv.ParseInt(w, 10, 64)
		if err != nil {
			return 0, 0, false
		}
		whole = v
	}
	if point && f != "" {
		v, err := strconv.ParseFloat("0."+f, 64)
		if err != nil {
			return 0, 0, false
		}
		frac = v
	}
	return whole, frac, true
}

// intervalClock reads hours:minutes[:seconds[.f]] with any number of hours.
func intervalClock(s string) (int64, bool) {
	f := strings.Split(s, ":")
	if len(f) == 2 && strings.IndexByte(f[1], '.') >= 0 { // mm:ss.f
		f = []string{"0", f[0], f[1]}
	}
	if len(f) == 2 {
		f = append(f, "0")
	}
	if len(f) != 3 || !allDigits(f[0]) || !allDigits(f[1]) {
		return 0, false
	}
	h, err := strconv.ParseInt(f[0], 10, 40)
	if err != nil {
		return 0, false
	}
	m := int64(atoi(f[1]))
	whole, fr, _ := strings.Cut(f[2], ".")
	if whole == "" {
		whole = "0"
	}
	us, ok := fractionMicros(fr)
	if !ok || !allDigits(whole) || m > 59 || atoi(whole) > 60 || h > math.MaxInt64/Hour-1 {
		return 0, false
	}
	return h*Hour + m*Minute + int64(atoi(whole))*Second + us, true
}

// parseISOInterval reads P1Y2M3DT4H5M6S, and P0001-02-03T04:05:06.
func parseISOInterval(in, s string) (Datum, error) {
	bad := func() (Datum, error) { return Null, badDatetime("interval", in) }
	all := false
	if s[0] == '-' {
		all, s = true, s[1:]
	}
	s = s[1:]
	if s == "" {
		return bad()
	}
	var a intervalSum
	inTime := false
	if strings.Count(s, "-") == 2 && s[0] != '-' && strings.IndexByte(s, 'y') < 0 {
		date, clock, has := strings.Cut(s, "t")
		f := strings.Split(date, "-")
		if len(f) != 3 || !allDigits(f[0]) || !allDigits(f[1]) || !allDigits(f[2]) {
			return bad()
		}
		a.months, a.days = int64(atoi(f[0]))*12+int64(atoi(f[1])), int64(atoi(f[2]))
		if has {
			us, ok := intervalClock(clock)
			if !ok {
				return bad()
			}
			a.us = us
		}
		return a.datum(in)
	}
	for i := 0; i < len(s); {
		if s[i] == 't' {
			if inTime || i+1 == len(s) {
				return bad()
			}
			inTime = true
			i++
			continue
		}
		neg := s[i] == '-'
		if neg || s[i] == '+' {
			i++
		}
		st := i
		for i < len(s) && (s[i] >= '0' && s[i] <= '9' || s[i] == '.') {
			i++
		}
		whole, frac, ok := splitNumber(s[st:i])
		if !ok || i == len(s) {
			return bad()
		}
		if neg != all {
			whole, frac = -whole, -frac
		}
		var u intervalUnit
		switch {
		case !inTime && s[i] == 'y':
			u.months = 12
		case !inTime && s[i] == 'm':
			u.months = 1
		case !inTime && s[i] == 'w':
			u.days = 7
		case !inTime && s[i] == 'd':
			u.days = 1
		case inTime && s[i] == 'h':
			u.us = Hour
		case inTime && s[i] == 'm':
			u.us = Minute
		case inTime && s[i] == 's':
			u.us = Second
		default:
			return bad()
		}
		a.add(u, whole, frac, neg)
		i++
	}
	return a.datum(in)
}

func errInterval() error {
	return sqlstate.Newf(sqlstate.DatetimeFieldOverflow, "interval out of range")
}

// IntervalAdd adds field by field.
func IntervalAdd(a, b Datum) (Datum, error) {
	m1, d1, u1 := a.IntervalParts()
	m2, d2, u2 := b.IntervalParts()
	m, d := int64(m1)+int64(m2), int64(d1)+int64(d2)
	if m != int64(int32(m)) || d != int64(int32(d)) || addOverflows(u1, u2) {
		return Null, errInterval()
	}
	return Interval(int32(m), int32(d), u1+u2), nil
}

// IntervalNeg negates every field.
func IntervalNeg(a Datum) (Datum, error) {
	m, d, u := a.IntervalParts()
	if m == math.MinInt32 || d == math.MinInt32 || u == math.MinInt64 {
		return Null, errInterval()
	}
	return Interval(-m, -d, -u), nil
}

// IntervalMul scales by f; fractions of months become days, of days time.
func IntervalMul(a Datum, f float64) (Datum, error) {
	m, d, u := a.IntervalParts()
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return Null, errInterval()
	}
	rm := float64(m) * f
	rd := float64(d) * f
	if math.Abs(rm) > math.MaxInt32 || math.Abs(rd) > math.MaxInt32 {
		return Null, errInterval()
	}
	months, days := int64(rm), int64(rd)
	// As PostgreSQL: round the day part of the month's fraction to microseconds.
	monthDays := (rm - float64(months)) * 30
	monthDays = math.RoundToEven(monthDays*1e6) / 1e6
	secs := (rd - float64(days) + monthDays - math.Trunc(monthDays)) * 86400
	secs = math.RoundToEven(secs*1e6) / 1e6
	if math.Abs(secs) >= 86400 {
		days += int64(secs / 86400)
		secs -= float64(int64(secs/86400)) * 86400
	}
	days += int64(monthDays)
	us := math.RoundToEven(float64(u)*f + secs*1e6)
	if math.Abs(us) >= math.MaxInt64 || days != int64(int32(days)) {
		return Null, errInterval()
	}
	return Interval(int32(months), int32(days), int64(us)), nil
}

// IntervalJustify moves time into days (hours) and days into months (days).
func IntervalJustify(a Datum, hours, days bool) Datum {
	m, d, u := a.IntervalParts()
	mm, dd := int64(m), int64(d)
	if hours {
		dd += u / Day
		u %= Day
	}
	if days {
		mm += dd / 30
		dd %= 30
	}
	if days && mm > 0 && (dd < 0 || dd == 0 && u < 0) {
		dd += 30
		mm--
	} else if days && mm < 0 && (dd > 0 || dd == 0 && u > 0) {
		dd -= 30
		mm++
	}
	if hours && dd > 0 && u < 0 {
		u += Day
		dd--
	} else if hours && dd < 0 && u > 0 {
		u -= Day
		dd++
	}
	return Interval(int32(mm), int32(dd), u)
}

// TimestampAddInterval adds to a wall clock reading: months first (the day
// clipped to the month's length), then days, then time. 22008 beyond the range.
func TimestampAddInterval(us int64, iv Datum) (int64, error) {
	if us == TimestampInfinity || us == TimestampNegInfinity {
		return us, nil
	}
	m, d, u := iv.IntervalParts()
	if m != 0 {
		c := CivilFromTimestamp(us)
		n := int64(c.Year)*12 + int64(c.Month-1) + int64(m)
		c.Year = int(floorDiv64(n, 12))
		c.Month = int(n-int64(c.Year)*12) + 1
		c.Day = min(c.Day, DaysInMonth(c.Year, c.Month))
		v, ok := c.Timestamp()
		if !ok {
			return 0, ErrTimestampRange()
		}
		us = v
	}
	if d != 0 {
		v := int64(d) * Day
		if int64(d) > math.MaxInt64/Day || int64(d) < math.MinInt64/Day || addOverflows(us, v) {
			return 0, ErrTimestampRange()
		}
		us += v
	}
	if addOverflows(us, u) || !ValidTimestamp(us+u) {
		return 0, ErrTimestampRange()
	}
	return us + u, nil
}

// IntervalSeconds is extract(epoch from interval): a year is 365.25 days.
func IntervalSeconds(d Datum) *big.Rat {
	m, dd, u := d.IntervalParts()
	r := new(big.Rat).SetInt64(int64(m/12) * 31557600)
	r.Add(r, new(big.Rat).SetInt64(int64(m%12)*30*86400+int64(dd)*86400))
	return r.Add(r, big.NewRat(u, Second))
}
