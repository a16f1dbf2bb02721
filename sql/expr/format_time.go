package expr

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

// dchNode is one element of a date-time picture: a field or literal text.
type dchNode struct {
	key   string // as in dchKeys, "" for literal text
	text  string // the pattern's own spelling, or the literal
	fm    bool   // fill mode: no padding
	th    string // "th" or "TH" behind it
	quote bool   // literal came from quotes
}

// dchKeys are the fields, longest first where one begins another.
var dchKeys = []string{"SSSSS", "SSSS", "MONTH", "Y,YYY", "YYYY", "IYYY", "HH24", "HH12", "IDDD", "A.M.", "P.M.", "A.D.", "B.C.", "MON", "DAY", "DDD", "YYY", "IYY", "TZH", "TZM",
	"FF1", "FF2", "FF3", "FF4", "FF5", "FF6", "HH", "MI", "SS", "MS", "US", "AM", "PM", "AD", "BC", "YY", "IY", "MM", "DY", "DD", "ID", "WW", "IW", "CC", "RM", "TZ", "OF", "Y", "I", "D", "W", "J", "Q"}

func parsePicture(f string) []dchNode {
	var out []dchNode
	fm := false
	lit := func(s string, quoted bool) {
		if n := len(out); n > 0 && out[n-1].key == "" && out[n-1].quote == quoted {
			out[n-1].text += s
			return
		}
		out = append(out, dchNode{text: s, quote: quoted})
	}
next:
	for i := 0; i < len(f); {
		rest := f[i:]
		up := strings.ToUpper(rest[:min(len(rest), 5)])
		switch {
		case strings.HasPrefix(up, "FM"):
			fm = true
			i += 2
			continue
		case strings.HasPrefix(up, "FX"), strings.HasPrefix(up, "TM"):
			i += 2
			continue
		case rest[0] == '"':
			var b strings.Builder
			for i++; i < len(f) && f[i] != '"'; i++ {
				if f[i] == '\\' && i+1 < len(f) {
					i++
				}
				b.WriteByte(f[i])
			}
			i++
			lit(b.String(), true)
			continue
		}
		for _, k := range dchKeys {
			if strings.HasPrefix(up, k) {
				n := dchNode{key: k, text: rest[:len(k)], fm: fm}
				i += len(k)
				if s := f[i:]; len(s) >= 2 && strings.EqualFold(s[:2], "th") {
					n.th = s[:2]
					i += 2
				}
				fm = false
				out = append(out, n)
				continue next
			}
		}
		_, w := utf8.DecodeRuneInString(rest)
		lit(rest[:w], false)
		i += w
	}
	return out
}

var monthNames = [...]string{"January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"}
var dayNames = [...]string{"Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"}
var romanMonths = [...]string{"I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII"}

// sameCase gives word the case in which the pattern is spelled.
func sameCase(pattern, word string) string {
	switch {
	case pattern == strings.ToUpper(pattern):
		return strings.ToUpper(word)
	case unicode.IsLower(rune(pattern[0])):
		return strings.ToLower(word)
	}
	return word
}

func ordinal(n int64, th string) string {
	s := "th"
	if n < 0 {
		n = -n
	}
	if n%100 < 11 || n%100 > 13 {
		switch n % 10 {
		case 1:
			s = "st"
		case 2:
			s = "nd"
		case 3:
			s = "rd"
		}
	}
	if th == "TH" {
		return strings.ToUpper(s)
	}
	return s
}

// picture is what to_char formats: a timestamp, with its zone if it has one, or
// an interval's fields.
type picture struct {
	year, month, day   int64
	hour, min, sec, us int64
	days               int64 // since 2000-01-01, for fields of the week
	interval           bool
	zoned              bool
	off                int
	abbrev             string
}

func (p *picture) format(f string) (string, error) {
	var b strings.Builder
	for _, n := range parsePicture(f) {
		if n.key == "" {
			b.WriteString(n.text)
			continue
		}
		if p.interval {
			switch n.key {
			case "MONTH", "MON", "DAY", "DY", "D", "ID", "DDD", "IDDD", "WW", "IW", "W", "Q", "J", "CC", "TZ", "TZH", "TZM", "OF", "IYYY", "IYY", "IY", "I", "AD", "BC", "A.D.", "B.C.", "RM":
				if n.key != "RM" && n.key != "Q" && n.key != "DDD" && n.key != "CC" && n.key != "J" {
					return "", sqlstate.Newf(sqlstate.InvalidDatetimeFormat, "invalid format specification for an interval value").
						WithHint("Intervals are not tied to specific calendar dates.")
				}
			}
		}
		num := func(v int64, width int) {
			s := strconv.FormatInt(v, 10)
			if !n.fm {
				neg := strings.HasPrefix(s, "-")
				s = strings.TrimPrefix(s, "-")
				if neg {
					s = "-" + strings.Repeat("0", max(width-len(s), 0)) + s
				} else {
					s = strings.Repeat("0", max(width-len(s), 0)) + s
				}
			}
			b.WriteString(s)
			if n.th != "" {
				b.WriteString(ordinal(v, n.th))
			}
		}
		word := func(w string, width int) {
			b.WriteString(w)
			if !n.fm {
				b.WriteString(strings.Repeat(" ", max(width-len(w), 0)))
			}
		}
		year := p.year
		if !p.interval && year <= 0 {
			year = 1 - year
		}
		isoY, isoW := 0, 0
		if !p.interval {
			isoY, isoW = isoWeek(p.days)
		}
		dow := ((p.days+6)%7 + 7) % 7
		doy := int64(0)
		if !p.interval {
			doy = p.days - types.DaysFromCivil(int(p.year), 1, 1) + 1
		}
		h12 := p.hour % 12
		if h12 == 0 {
			h12 = 12
		}
		if p.interval && p.hour == 0 {
			h12 = 12
		}
		pm := p.hour%24 >= 12
		switch n.key {
		case "HH", "HH12":
			num(h12, 2)
		case "HH24":
			num(p.hour, 2)
		case "MI":
			num(p.min, 2)
		case "SS":
			num(p.sec, 2)
		case "SSSS", "SSSSS":
			num(p.hour*3600+p.min*60+p.sec, 1)
		case "MS":
			num(p.us/1000, 3)
		case "US":
			num(p.us, 6)
		case "FF1", "FF2", "FF3", "FF4", "FF5", "FF6":
			k := int(n.key[2] - '0')
			s := strconv.FormatInt(1000000+p.us, 10)
			b.WriteString(s[1 : 1+k])
		case "AM", "PM":
			b.WriteString(sameCase(n.text, map[bool]string{false: "AM", true: "PM"}[pm]))
		case "A.M.", "P.M.":
			b.WriteString(sameCase(n.text, map[bool]string{false: "A.M.", true: "P.M."}[pm]))
		case "AD", "BC":
			b.WriteString(sameCase(n.text, map[bool]string{false: "AD", true: "BC"}[p.year <= 0]))
		case "A.D.", "B.C.":
			b.WriteString(sameCase(n.text, map[bool]string{false: "A.D.", true: "B.C."}[p.year <= 0]))
		case "MONTH":
			word(sameCase(n.text, monthNames[p.month-1]), 9)
		case "MON":
			b.WriteString(sameCase(n.text, monthNames[p.month-1][:3]))
		case "DAY":
			word(sameCase(n.text, dayNames[dow]), 9)
		case "DY":
			b.WriteString(sameCase(n.text, dayNames[dow][:3]))
		case "MM":
			num(p.month, 2)
		case "DD":
			num(p.day, 2)
		case "DDD":
			if p.interval {
				num(p.year*360+p.month*30+p.day, 3)
			} else {
				num(doy, 3)
			}
		case "IDDD":
			num(int64(isoW-1)*7+(dow+6)%7+1, 3)
		case "D":
			num(dow+1, 1)
		case "ID":
			num((dow+6)%7+1, 1)
		case "WW":
			num((doy-1)/7+1, 2)
		case "IW":
			num(int64(isoW), 2)
		case "W":
			num((p.day-1)/7+1, 1)
		case "Q":
			if p.month > 0 {
				num((p.month-1)/3+1, 1)
			}
		case "CC":
			c := p.year / 100
			if !p.interval {
				if c = (p.year + 99) / 100; p.year <= 0 {
					c = -((99 - (p.year - 1)) / 100)
				}
			}
			num(c, 2)
		case "J":
			num(p.days+2451545, 0)
		case "RM":
			if p.month > 0 {
				word(sameCase(n.text, romanMonths[p.month-1]), 4)
			}
		case "Y,YYY":
			b.WriteString(strconv.FormatInt(year/1000, 10) + "," + strconv.FormatInt(1000+year%1000, 10)[1:])
		case "YYYY":
			num(year, 4)
		case "YYY":
			num(year%1000, 3)
		case "YY":
			num(year%100, 2)
		case "Y":
			num(year%10, 1)
		case "IYYY":
			num(int64(isoY), 4)
		case "IYY":
			num(int64(isoY%1000), 3)
		case "IY":
			num(int64(isoY%100), 2)
		case "I":
			num(int64(isoY%10), 1)
		case "TZ":
			if p.zoned {
				b.WriteString(sameCase(n.text, p.abbrev))
			}
		case "TZH", "TZM", "OF":
			if !p.zoned && n.key != "OF" {
				b.WriteString(map[string]string{"TZH": "+00", "TZM": "00"}[n.key])
				continue
			}
			o, sign := p.off, "+"
			if o < 0 {
				o, sign = -o, "-"
			}
			h, m := 100+o/3600, 100+o/60%60
			switch {
			case n.key == "TZM":
				b.WriteString(strconv.Itoa(m)[1:])
			case n.key == "OF" && m != 100:
				b.WriteString(sign + strconv.Itoa(h)[1:] + ":" + strconv.Itoa(m)[1:])
			default:
				b.WriteString(sign + strconv.Itoa(h)[1:])
			}
		}
	}
	return b.String(), nil
}

func pictureOf(local int64) picture {
	c := types.CivilFromTimestamp(local)
	return picture{year: int64(c.Year), month: int64(c.Month), day: int64(c.Day), hour: int64(c.Hour), min: int64(c.Minute), sec: int64(c.Second), us: int64(c.Micro),
		days: types.TimestampToDate(local)}
}

func init() {
	defFunc("to_char", tText, func(_ *EvalContext, a, f D) (D, error) {
		if infinite(a.Int()) || f.Str() == "" {
			return types.Null, nil
		}
		p := pictureOf(a.Int())
		s, err := p.format(f.Str())
		return types.Text(s), err
	}, tTS, tText).stable()
	defFunc("to_char", tText, func(ec *EvalContext, a, f D) (D, error) {
		if infinite(a.Int()) || f.Str() == "" {
			return types.Null, nil
		}
		loc := ec.location()
		p := pictureOf(types.ToLocal(a.Int(), loc))
		p.zoned = true
		p.abbrev, p.off = types.TimeFromTimestamp(a.Int()).In(loc).Zone()
		s, err := p.format(f.Str())
		return types.Text(s), err
	}, tTSTZ, tText).stable()
	defFunc("to_char", tText, func(_ *EvalContext, a, f D) (D, error) {
		if f.Str() == "" {
			return types.Null, nil
		}
		m, d, us := a.IntervalParts()
		p := picture{interval: true, year: int64(m / 12), month: int64(m % 12), day: int64(d), hour: us / types.Hour, min: us / types.Minute % 60, sec: us / types.Second % 60, us: us % types.Second}
		s, err := p.format(f.Str())
		return types.Text(s), err
	}, tIval, tText).stable()
	defFunc("to_date", tDate, func(_ *EvalContext, s, f D) (D, error) {
		c, _, err := scanPicture(s.Str(), f.Str())
		if err != nil {
			return types.Null, err
		}
		d := types.DaysFromCivil(c.Year, c.Month, c.Day)
		return types.Date(d), nil
	}, tText, tText).stable()
	defFunc("to_timestamp", tTSTZ, func(ec *EvalContext, s, f D) (D, error) {
		c, off, err := scanPicture(s.Str(), f.Str())
		if err != nil {
			return types.Null, err
		}
		us, ok := c.Timestamp()
		if !ok {
			return types.Null, types.ErrTimestampRange()
		}
		if off != nil {
			return types.Timestamp(us - int64(*off)*types.Second), nil
		}
		return types.Timestamp(types.FromLocal(us, ec.location())), nil
	}, tText, tText).stable()
}

// digitsOf is how many digits a field takes when another field follows at once.
var digitsOf = map[string]int{"YYYY": 4, "IYYY": 4, "YYY": 3, "YY": 2, "Y": 1, "MM": 2, "DD": 2, "DDD": 3, "HH": 2, "HH12": 2, "HH24": 2, "MI": 2, "SS": 2, "MS": 3, "US": 6,
	"FF1": 1, "FF2": 2, "FF3": 3, "FF4": 4, "FF5": 5, "FF6": 6, "D": 1, "ID": 1, "J": 9, "Q": 1, "WW": 2, "IW": 2, "W": 1, "CC": 2, "SSSS": 5, "SSSSS": 5, "TZH": 2, "TZM": 2}

// scanPicture reads s by the picture f, as to_date and to_timestamp do; off is the
// zone's offset when the picture has one.
func scanPicture(s, f string) (c types.Civil, off *int, err error) {
	nodes := parsePicture(f)
	year, month, day, doy, julian := 0, 1, 1, 0, int64(-1)
	hasYear, h12, pm, am, bc := false, false, false, false, false
	var hour, minute, sec, us int
	tzSign, tzh, tzm := 1, 0, 0
	i := 0
	space := func() {
		for i < len(s) && (s[i] == ' ' || s[i] == '\t' || s[i] == '\n') {
			i++
		}
	}
	bad := func(n dchNode) error {
		end := min(len(s), i+max(digitsOf[n.key], len(n.text)))
		return sqlstate.Newf(sqlstate.InvalidDatetimeFormat, "invalid value \"%s\" for \"%s\"", s[i:end], n.text).
			WithDetail("Value must be an integer.")
	}
	wordOf := func(names []string, n dchNode) (int, error) {
		best, at := 0, -1
		for k, w := range names {
			for _, cand := range []string{w, w[:min(3, len(w))]} {
				if (n.key == "MON" || n.key == "DY") && len(cand) > 3 {
					continue
				}
				if (n.key == "MONTH" || n.key == "DAY") && len(cand) <= 3 && len(w) > 3 {
					continue
				}
				if len(cand) > best && len(s)-i >= len(cand) && strings.EqualFold(s[i:i+len(cand)], cand) {
					best, at = len(cand), k
				}
			}
		}
		if at < 0 {
			end := i
			for end < len(s) && s[end] != ' ' {
				end++
			}
			return 0, sqlstate.Newf(sqlstate.InvalidDatetimeFormat, "invalid value \"%s\" for \"%s\"", s[i:end], n.text).
				WithDetail("The given value did not match any of the allowed values for this field.")
		}
		i += best
		return at, nil
	}
	for k, n := range nodes {
		if n.key == "" {
			// Literal characters and separators skip as many of the input.
			for _, r := range n.text {
				if i >= len(s) {
					break
				}
				c, w := utf8.DecodeRuneInString(s[i:])
				switch {
				case unicode.IsSpace(r) || r < 128 && !unicode.IsLetter(r) && !unicode.IsDigit(r):
					if !unicode.IsLetter(c) && !unicode.IsDigit(c) && (c != '-' && c != '+' || c == r || k+1 >= len(nodes) || nodes[k+1].key != "TZH") {
						i += w
					}
				default:
					i += w
				}
			}
			continue
		}
		space()
		if i >= len(s) {
			break // what is missing keeps its default
		}
		num := func() (int, error) {
			most := 9
			if k+1 < len(nodes) && nodes[k+1].key != "" && digitsOf[nodes[k+1].key] > 0 {
				most = digitsOf[n.key]
			}
			if n.key == "US" || n.key == "MS" || strings.HasPrefix(n.key, "FF") || n.key == "YY" || n.key == "Y" || n.key == "YYY" {
				most = min(most, max(digitsOf[n.key], 6))
			}
			st, v := i, 0
			neg := false
			if s[i] == '-' || s[i] == '+' {
				neg = s[i] == '-'
				i++
			}
			ds := i
			for i < len(s) && i-ds < most && s[i] >= '0' && s[i] <= '9' {
				v = v*10 + int(s[i]-'0')
				i++
			}
			if i == ds {
				i = st
				return 0, bad(n)
			}
			if neg {
				v = -v
			}
			if n.th != "" && len(s)-i >= 2 {
				i += 2
			}
			return v, nil
		}
		frac := func(width int) (int, error) {
			st := i
			v, err := num()
			for d := i - st; d < width; d++ {
				v *= 10
			}
			for d := i - st; d > width; d-- {
				v /= 10
			}
			return v, err
		}
		var v int
		switch n.key {
		case "YYYY", "IYYY":
			year, err = num()
			hasYear = true
		case "YYY", "YY", "Y":
			st := i
			year, err = num()
			hasYear = true
			switch i - st {
			case 1, 2:
				if year < 70 {
					year += 2000
				} else {
					year += 1900
				}
			case 3:
				if year < 520 {
					year += 2000
				} else {
					year += 1000
				}
			}
		case "Y,YYY":
			var hi int
			if hi, err = num(); err == nil && i < len(s) && s[i] == ',' {
				i++
				v, err = num()
			}
			year, hasYear = hi*1000+v, true
		case "MM":
			month, err = num()
		case "DD":
			day, err = num()
		case "DDD":
			doy, err = num()
		case "J":
			v, err = num()
			julian = int64(v)
		case "HH", "HH12":
			hour, err = num()
			h12 = true
			if err == nil && (hour < 1 || hour > 12) {
				return c, nil, sqlstate.Newf(sqlstate.InvalidDatetimeFormat, "hour \"%d\" is invalid for the 12-hour clock", hour).
					WithHint("Use the 24-hour clock, or give an hour between 1 and 12.")
			}
		case "HH24":
			hour, err = num()
		case "MI":
			minute, err = num()
		case "SS":
			sec, err = num()
		case "SSSS", "SSSSS":
			v, err = num()
			hour, minute, sec = v/3600, v/60%60, v%60
		case "MS":
			v, err = frac(3)
			us += v * 1000
		case "US":
			v, err = frac(6)
			us += v
		case "FF1", "FF2", "FF3", "FF4", "FF5", "FF6":
			v, err = frac(6)
			us += v
		case "MONTH", "MON":
			month, err = wordOf(monthNames[:], n)
			month++
		case "RM":
			month, err = wordOf(romanMonths[:], n)
			month++
		case "DAY", "DY":
			_, err = wordOf(dayNames[:], n)
		case "AM", "PM", "A.M.", "P.M.":
			v, err = wordOf([]string{"a.m.", "p.m.", "am", "pm"}, dchNode{text: n.text})
			am, pm = v%2 == 0, v%2 == 1
		case "AD", "BC", "A.D.", "B.C.":
			v, err = wordOf([]string{"a.d.", "b.c.", "ad", "bc"}, dchNode{text: n.text})
			bc = v%2 == 1
		case "TZH":
			if s[i] == '-' || s[i] == '+' {
				if s[i] == '-' {
					tzSign = -1
				}
				i++
			}
			if tzh, err = num(); err == nil {
				off = new(int)
			}
		case "TZM":
			tzm, err = num()
		case "D", "ID", "W", "WW", "IW", "Q", "CC":
			_, err = num()
		case "TZ", "OF":
			return c, nil, sqlstate.Newf(sqlstate.FeatureNotSupported, "formatting field \"%s\" is only supported in to_char", n.text)
		}
		if err != nil {
			return c, nil, err
		}
	}
	if h12 {
		if pm && hour < 12 {
			hour += 12
		} else if am && hour == 12 || !am && !pm && hour == 12 {
			hour = 0
		}
	}
	if off != nil {
		*off = tzSign * (tzh*3600 + tzm*60)
	}
	if julian >= 0 {
		year, month, day = types.CivilFromDays(julian - 2451545)
	} else {
		if !hasYear {
			year = 1
			bc = true
		} else if year == 0 {
			bc = true
			year = 1
		}
		if bc {
			year = 1 - year
		}
		if doy > 0 {
			year, month, day = types.CivilFromDays(types.DaysFromCivil(year, 1, 1) + int64(doy) - 1)
		}
	}
	if month < 1 || month > 12 || day < 1 || day > types.DaysInMonth(year, month) || hour < 0 || hour > 24 || minute < 0 || minute > 59 || sec < 0 || sec > 59 {
		return c, nil, sqlstate.Newf(sqlstate.DatetimeFieldOverflow, "date/time field value out of range: \"%s\"", s)
	}
	return types.Civil{Year: year, Month: month, Day: day, Hour: hour, Minute: minute, Second: sec, Micro: us}, off, nil
}
