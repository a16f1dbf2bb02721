package types

import (
	"math"
	"strings"
	"time"

	"github.com/spandb/spand/sql/sqlstate"
)

// parsed is what a date-time string said.
type parsed struct {
	year, month, day int
	hasDate          bool
	micros           int64 // of day
	hasTime          bool
	hasZone          bool
	offset           int            // seconds east
	loc              *time.Location // instead of offset
	special          string         // "epoch", "infinity", "-infinity", "now", "today", "tomorrow", "yesterday"
}

func badDatetime(typ, s string) error {
	return sqlstate.Newf(sqlstate.InvalidDatetimeFormat, "invalid input syntax for type %s: \"%s\"", typ, s)
}

func fieldRange(s string) error {
	return sqlstate.Newf(sqlstate.DatetimeFieldOverflow, "date/time field value out of range: \"%s\"", s)
}

var months = [...]string{"january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december"}
var weekdays = [...]string{"sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"}

func monthWord(w string) int {
	if len(w) < 3 {
		return 0
	}
	for i, m := range months {
		if w == m || w == m[:3] || i == 8 && w == "sept" {
			return i + 1
		}
	}
	return 0
}

func weekdayWord(w string) bool {
	for _, d := range weekdays {
		if len(w) >= 3 && strings.HasPrefix(d, w) {
			return true
		}
	}
	return w == "thurs" || w == "thur"
}

// parseISO handles the form that nearly all input has: YYYY-MM-DD[(T| )HH:MM[:SS[.f]][zone offset]].
func parseISO(s string) (p parsed, ok bool) {
	d2 := func(i int) int {
		if i+1 >= len(s) {
			return -1
		}
		a, b := s[i]-'0', s[i+1]-'0'
		if a > 9 || b > 9 {
			return -1
		}
		return int(a)*10 + int(b)
	}
	if len(s) < 10 || s[4] != '-' || s[7] != '-' {
		return p, false
	}
	y1, y2 := d2(0), d2(2)
	p.year, p.month, p.day = y1*100+y2, d2(5), d2(8)
	if y1 < 0 || y2 < 0 || p.year == 0 || p.month < 1 || p.month > 12 || p.day < 1 || p.day > DaysInMonth(p.year, p.month) {
		return p, false
	}
	p.hasDate = true
	if len(s) == 10 {
		return p, true
	}
	if s[10] != ' ' && s[10] != 'T' {
		return p, false
	}
	if len(s) < 16 || s[13] != ':' {
		return p, false
	}
	h, m, sec, i := d2(11), d2(14), 0, 16
	if i < len(s) && s[i] == ':' {
		sec, i = d2(17), 19
	}
	if h < 0 || h > 23 || m < 0 || m > 59 || sec < 0 || sec > 59 {
		return p, false
	}
	p.micros = int64(h)*Hour + int64(m)*Minute + int64(sec)*Second
	p.hasTime = true
	if i < len(s) && s[i] == '.' && i == 19 {
		i++
		n, scale := int64(0), int64(Second)
		start := i
		for i < len(s) && s[i] >= '0' && s[i] <= '9' {
			if i-start >= 6 {
				return p, false // needs rounding
			}
			n = n*10 + int64(s[i]-'0')
			scale /= 10
			i++
		}
		if i == start {
			return p, false
		}
		p.micros += n * scale
	}
	if i == len(s) {
		return p, true
	}
	if s[i] == 'Z' && i+1 == len(s) {
		p.hasZone = true
		return p, true
	}
	off, isOff := parseOffset(s[i:])
	p.offset, p.hasZone = off, isOff
	return p, isOff
}

func parseClockToken(s string) (int64, bool) {
	f := strings.Split(s, ":")
	if len(f) < 2 || len(f) > 3 {
		return 0, false
	}
	num := func(t string, most int) (int64, bool) {
		if t == "" || len(t) > most {
			return 0, false
		}
		var v int64
		for i := 0; i < len(t); i++ {
			if t[i] < '0' || t[i] > '9' {
				return 0, false
			}
			v = v*10 + int64(t[i]-'0')
		}
		return v, true
	}
	h, ok1 := num(f[0], 9)
	m, ok2 := num(f[1], 2)
	if !ok1 || !ok2 {
		return 0, false
	}
	us := h*Hour + m*Minute
	if len(f) == 3 {
		whole, frac, _ := strings.Cut(f[2], ".")
		sec, ok := num(whole, 2)
		if !ok || sec > 60 {
			return 0, false
		}
		fr, ok := fractionMicros(frac)
		if !ok {
			return 0, false
		}
		us += sec*Second + fr
	}
	if m > 59 {
		return 0, false
	}
	return us, true
}

// fractionMicros turns the digits behind a decimal point into microseconds,
// rounding half to even as PostgreSQL's rint does.
func fractionMicros(frac string) (int64, bool) {
	var v int64
	for i := 0; i < 6; i++ {
		v *= 10
		if i < len(frac) {
			if frac[i] < '0' || frac[i] > '9' {
				return 0, false
			}
			v += int64(frac[i] - '0')
		}
	}
	if len(frac) > 6 {
		more := false
		for i := 6; i < len(frac); i++ {
			if frac[i] < '0' || frac[i] > '9' {
				return 0, false
			}
			more = more || i > 6 && frac[i] != '0'
		}
		if frac[6] > '5' || frac[6] == '5' && (more || v%2 == 1) {
			v++
		}
	}
	return v, true
}

// parseDatetime understands dates, times and zones in ISO and the usual American,
// European and spelled-out forms.
func parseDatetime(in, typ string, fs *FormatSettings) (parsed, error) {
	s := trimSpace(in)
	if p, ok := parseISO(s); ok {
		return p, nil
	}
	var p parsed
	bad := func() (parsed, error) { return p, badDatetime(typ, in) }
	if s == "" || len(s) > 128 {
		return bad()
	}
	dmy := fs != nil && strings.Contains(fs.DateStyle, "DMY")
	ymd := fs != nil && strings.Contains(fs.DateStyle, "YMD")
	var nums []string // numbers that make up the date, in order
	month := 0
	bc, pm, am := false, false, false
	fields := strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == ',' || r == '\t' || r == '\n' })
	for fi := 0; fi < len(fields); fi++ {
		f := strings.ToLower(fields[fi])
		switch {
		case f == "epoch", f == "infinity", f == "-infinity", f == "now", f == "today", f == "tomorrow", f == "yesterday":
			if p.special != "" || len(nums) > 0 {
				return bad()
			}
			p.special = f
			continue
		case f == "+infinity":
			p.special = "infinity"
			continue
		case f == "allballs":
			p.hasTime, p.micros, p.hasZone = true, 0, true
			continue
		case f == "ad":
			continue
		case f == "bc":
			bc = true
			continue
		case f == "am":
			am = true
			continue
		case f == "pm":
			pm = true
			continue
		case f == "at", f == "on", f == "t":
			continue
		case weekdayWord(f):
			continue
		}
		if m := monthWord(strings.TrimSuffix(f, ".")); m != 0 {
			if month != 0 {
				return bad()
			}
			month = m
			continue
		}
		// A date and a time joined by T.
		if i := strings.IndexByte(f, 't'); i > 0 && f[i-1] >= '0' && f[i-1] <= '9' && i+1 < len(f) && f[i+1] >= '0' && f[i+1] <= '9' {
			fields = append(fields[:fi+1], append([]string{f[i+1:]}, fields[fi+1:]...)...)
			f = f[:i]
			if len(f) == 6 || len(f) == 8 {
				// the time behind T may be bare digits: hhmmss
				if t := fields[fi+1]; strings.IndexByte(t, ':') < 0 {
					fields[fi+1] = spreadClock(t)
				}
			} else if t := fields[fi+1]; strings.IndexByte(t, ':') < 0 {
				fields[fi+1] = spreadClock(t)
			}
		}
		if f[0] == '+' || f[0] == '-' {
			if off, ok := parseOffset(f); ok && (p.hasTime || len(nums) > 0) && !p.hasZone {
				p.hasZone, p.offset = true, off
				continue
			}
			return bad()
		}
		if f[0] >= '0' && f[0] <= '9' {
			if strings.IndexByte(f, ':') > 0 {
				clock, zone := f, ""
				for _, suffix := range []string{"am", "pm"} {
					if strings.HasSuffix(clock, suffix) {
						am, pm = suffix == "am", suffix == "pm"
						clock = strings.TrimSuffix(clock, suffix)
					}
				}
				if i := strings.IndexAny(clock, "+-z"); i > 0 {
					clock, zone = clock[:i], clock[i:]
				} else if i := strings.IndexFunc(clock, func(r rune) bool { return r >= 'a' && r <= 'z' }); i > 0 {
					clock, zone = clock[:i], clock[i:]
				}
				us, ok := parseClockToken(clock)
				if !ok {
					if looksLikeClock(clock) {
						return p, fieldRange(in)
					}
					return bad()
				}
				if us > Day || p.hasTime {
					return p, fieldRange(in)
				}
				p.hasTime, p.micros = true, us
				if zone != "" {
					if err := p.setZone(zone, fields[fi]); err != nil {
						return bad()
					}
				}
				continue
			}
			if len(nums) == 0 && !p.hasDate {
				if parts := splitDate(f); parts != nil {
					for _, x := range parts {
						if m := monthWord(x); m != 0 {
							month = m
						} else {
							nums = append(nums, x)
						}
					}
					continue
				}
				if allDigits(f) && len(f) == 8 {
					nums = append(nums, f[:4], f[4:6], f[6:])
					ymd = true
					continue
				}
			}
			if !allDigits(f) {
				g := strings.TrimRight(f, "sthndr") // 1st, 2nd
				if !allDigits(g) || g == "" {
					return bad()
				}
				f = g
			}
			nums = append(nums, f)
			continue
		}
		if f[0] == 'j' && allDigits(f[1:]) && len(f) > 3 && len(f) < 10 {
			v := 0
			for _, c := range f[1:] {
				v = v*10 + int(c-'0')
			}
			p.year, p.month, p.day = CivilFromDays(int64(v) - epochJulian)
			p.hasDate = true
			continue
		}
		if p.hasZone && p.loc == nil && p.offset == 0 {
			return bad()
		}
		if err := p.setZone(f, fields[fi]); err != nil {
			if strings.IndexByte(f, '/') > 0 {
				return p, sqlstate.Newf(sqlstate.InvalidParameterValue, "time zone \"%s\" not recognized", f)
			}
			return bad()
		}
	}
	if am || pm {
		if !p.hasTime || p.micros >= 13*Hour {
			return p, fieldRange(in)
		}
		if am && p.micros >= 12*Hour {
			p.micros -= 12 * Hour
		} else if pm && p.micros < 12*Hour {
			p.micros += 12 * Hour
		}
	}
	if p.special != "" || p.hasDate {
		return p, nil
	}
	if len(nums) == 0 && month == 0 {
		if p.hasTime {
			return p, nil
		}
		return bad()
	}
	var y, d string
	switch {
	case month != 0 && len(nums) == 2:
		if len(nums[0]) > 2 || ymd {
			y, d = nums[0], nums[1]
		} else {
			d, y = nums[0], nums[1]
		}
	case month == 0 && len(nums) == 3:
		var m string
		switch {
		case len(nums[0]) > 2 || ymd:
			y, m, d = nums[0], nums[1], nums[2]
		case dmy:
			d, m, y = nums[0], nums[1], nums[2]
		default:
			m, d, y = nums[0], nums[1], nums[2]
		}
		month = atoi(m)
	default:
		return bad()
	}
	p.year, p.month, p.day = atoi(y), month, atoi(d)
	if len(y) <= 2 && !bc {
		if p.year < 70 {
			p.year += 2000
		} else {
			p.year += 1900
		}
	}
	if p.year == 0 || p.year > 9999999 {
		return p, fieldRange(in)
	}
	if bc {
		p.year = 1 - p.year
	}
	if p.month < 1 || p.month > 12 || p.day < 1 || p.day > DaysInMonth(p.year, p.month) {
		e := fieldRange(in).(*sqlstate.Error)
		if p.month > 12 && p.month <= 31 || p.month < 1 {
			return p, e.WithHint("Perhaps you need a different \"datestyle\" setting.")
		}
		if p.day > 31 || p.day < 1 {
			return p, e.WithHint("Perhaps you need a different \"datestyle\" setting.")
		}
		return p, e
	}
	p.hasDate = true
	return p, nil
}

func looksLikeClock(s string) bool {
	for i := 0; i < len(s); i++ {
		if (s[i] < '0' || s[i] > '9') && s[i] != ':' && s[i] != '.' {
			return false
		}
	}
	return true
}

func spreadClock(t string) string {
	i := 0
	for i < len(t) && t[i] >= '0' && t[i] <= '9' {
		i++
	}
	switch i {
	case 4:
		return t[:2] + ":" + t[2:]
	case 6:
		return t[:2] + ":" + t[2:4] + ":" + t[4:]
	case 2:
		return t[:2] + ":00" + t[2:]
	}
	return t
}

func (p *parsed) setZone(z, original string) error {
	if off, ok := parseOffset(z); ok {
		p.hasZone, p.offset = true, off
		return nil
	}
	name := z
	if i := len(original) - len(z); i >= 0 {
		name = original[i:]
	}
	l, ok := ParseZone(name)
	if !ok {
		return badDatetime("", z)
	}
	p.hasZone, p.loc = true, l
	return nil
}

// splitDate splits 1999-01-08, 1/8/99, 8-Jan-1999; nil when s is none of these.
func splitDate(s string) []string {
	for _, sep := range []string{"-", "/", "."} {
		if f := strings.Split(s, sep); len(f) == 3 {
			words := 0
			for _, x := range f {
				if x == "" {
					return nil
				}
				if !allDigits(x) {
					if monthWord(x) == 0 {
						return nil
					}
					words++
				}
			}
			if words > 1 {
				return nil
			}
			return f
		}
	}
	return nil
}

func allDigits(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

func atoi(s string) int {
	v := 0
	for i := 0; i < len(s); i++ {
		if v = v*10 + int(s[i]-'0'); v > 100000000 {
			return 100000000
		}
	}
	return v
}

// today is midnight of the session's current day as days since 2000-01-01.
func today(fs *FormatSettings) int64 {
	return floorDiv64(ToLocal(TimestampFromTime(fs.now()), fs.location()), Day)
}

func parseDate(s string, fs *FormatSettings) (Datum, error) {
	p, err := parseDatetime(s, "date", fs)
	if err != nil {
		return Null, err
	}
	switch p.special {
	case "epoch":
		return Date(DaysFromCivil(1970, 1, 1)), nil
	case "infinity":
		return Date(DateInfinity), nil
	case "-infinity":
		return Date(DateNegInfinity), nil
	case "now", "today":
		return Date(today(fs)), nil
	case "tomorrow":
		return Date(today(fs) + 1), nil
	case "yesterday":
		return Date(today(fs) - 1), nil
	}
	if !p.hasDate {
		return Null, badDatetime("date", s)
	}
	d := DaysFromCivil(p.year, p.month, p.day)
	if d < minDate || d >= endDate {
		return Null, sqlstate.Newf(sqlstate.DatetimeFieldOverflow, "date out of range: \"%s\"", s)
	}
	return Date(d), nil
}

func parseTime(s string, fs *FormatSettings) (Datum, error) {
	p, err := parseDatetime(s, "time", fs)
	if err != nil {
		// Bare digits are a time here: 040506.
		if t := trimSpace(s); allDigits(t) && (len(t) == 6 || len(t) == 4) {
			if us, ok := parseClockToken(spreadClock(t)); ok {
				return Time(us), nil
			}
		}
		return Null, err
	}
	if p.special == "now" {
		l := ToLocal(TimestampFromTime(fs.now()), fs.location())
		return Time(l - floorDiv64(l, Day)*Day), nil
	}
	if !p.hasTime || p.special != "" {
		return Null, badDatetime("time", s)
	}
	return Time(p.micros), nil
}

func parseTimestamp(s string, tz bool, fs *FormatSettings) (Datum, error) {
	typ := "timestamp"
	if tz {
		typ = "timestamp with time zone"
	}
	p, err := parseDatetime(s, typ, fs)
	if err != nil {
		return Null, err
	}
	loc := fs.location()
	var local int64
	switch p.special {
	case "infinity":
		return Timestamp(TimestampInfinity), nil
	case "-infinity":
		return Timestamp(TimestampNegInfinity), nil
	case "epoch":
		return Timestamp((0 - epochUnix) * Second), nil
	case "now":
		us := TimestampFromTime(fs.now())
		if !tz {
			us = ToLocal(us, loc)
		}
		return Timestamp(us), nil
	case "today":
		local = today(fs)*Day + p.micros
	case "tomorrow":
		local = (today(fs)+1)*Day + p.micros
	case "yesterday":
		local = (today(fs)-1)*Day + p.micros
	default:
		if !p.hasDate {
			return Null, badDatetime(typ, s)
		}
		days := DaysFromCivil(p.year, p.month, p.day)
		if days < -106751992 || days > 106751990 {
			return Null, sqlstate.Newf(sqlstate.DatetimeFieldOverflow, "timestamp out of range: \"%s\"", s)
		}
		local = days*Day + p.micros
	}
	us := local
	if tz {
		switch {
		case p.loc != nil:
			us = FromLocal(local, p.loc)
		case p.hasZone:
			us = local - int64(p.offset)*Second
		default:
			us = FromLocal(local, loc)
		}
	}
	if !ValidTimestamp(us) || us == math.MinInt64 {
		return Null, sqlstate.Newf(sqlstate.DatetimeFieldOverflow, "timestamp out of range: \"%s\"", s)
	}
	return Timestamp(us), nil
}
