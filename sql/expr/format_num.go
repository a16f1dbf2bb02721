package expr

import (
	"strconv"
	"strings"

	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

// numPicture is a parsed template of to_char for numbers.
type numPicture struct {
	nodes      []string // "9", "0", ".", ",", "S", "MI", "PL", "SG", "PR", "L", "TH", "th", "RN", "rn", "V", "EEEE"; anything else is literal behind a NUL
	pre, post  int      // digits before and behind the point
	zeroFrom   int      // index of the first digit position that shows zeros, -1: none
	multi      int      // digits behind V
	fm         bool
	sign       string // "" default, "S", "MI", "SG", "PR"
	signLast   bool   // S stands behind the digits
	point      bool
	roman, sci bool
	romanLower bool
	plus       bool
}

func parseNumPicture(f string) (p numPicture, err error) {
	p.zeroFrom = -1
	bad := func(format string, args ...any) error {
		return sqlstate.Newf(sqlstate.SyntaxError, format, args...)
	}
	for i := 0; i < len(f); {
		up := strings.ToUpper(f[i:min(len(f), i+4)])
		add := func(n string, w int) {
			p.nodes = append(p.nodes, n)
			i += w
		}
		digits := p.pre + p.post
		switch {
		case f[i] == '"':
			var b strings.Builder
			for i++; i < len(f) && f[i] != '"'; i++ {
				if f[i] == '\\' && i+1 < len(f) {
					i++
				}
				b.WriteByte(f[i])
			}
			i++
			p.nodes = append(p.nodes, "\x00"+b.String())
		case strings.HasPrefix(up, "EEEE"):
			p.sci = true
			add("EEEE", 4)
		case strings.HasPrefix(up, "FM"):
			p.fm = true
			i += 2
		case strings.HasPrefix(up, "MI"):
			if p.sign == "S" {
				return p, bad("cannot use \"S\" and \"PL\"/\"MI\"/\"SG\"/\"PR\" together")
			}
			p.sign = "MI"
			add("MI", 2)
		case strings.HasPrefix(up, "PL"):
			p.plus = true
			add("PL", 2)
		case strings.HasPrefix(up, "SG"):
			p.sign = "SG"
			add("SG", 2)
		case strings.HasPrefix(up, "PR"):
			p.sign = "PR"
			add("PR", 2)
		case strings.HasPrefix(up, "RN"):
			p.roman, p.romanLower = true, f[i] == 'r'
			add("RN", 2)
		case strings.HasPrefix(up, "TH"):
			add(f[i:i+2], 2)
		case up[0] == '9' || up[0] == '0':
			if p.sign == "PR" {
				return p, bad("\"9\" must be ahead of \"PR\"")
			}
			if up[0] == '0' && p.zeroFrom < 0 && !p.point {
				p.zeroFrom = p.pre
			}
			if p.point {
				p.post++
			} else {
				p.pre++
				if p.multi >= 0 && p.hasV() {
					p.multi++
				}
			}
			add(up[:1], 1)
		case up[0] == '.' || up[0] == 'D':
			if p.point {
				return p, bad("multiple decimal points")
			}
			p.point = true
			add(".", 1)
		case up[0] == ',' || up[0] == 'G':
			add(",", 1)
		case up[0] == 'S':
			if p.sign == "S" {
				return p, bad("cannot use \"S\" twice")
			}
			p.sign = "S"
			p.signLast = digits > 0
			add("S", 1)
		case up[0] == 'L':
			add("L", 1)
		case up[0] == 'V':
			if p.point {
				return p, bad("cannot use \"V\" and decimal point together")
			}
			add("V", 1)
		default:
			p.nodes = append(p.nodes, "\x00"+f[i:i+1])
			i++
		}
	}
	return p, nil
}

func (p *numPicture) hasV() bool {
	for _, n := range p.nodes {
		if n == "V" {
			return true
		}
	}
	return false
}

// formatNumber is to_char of a numeric.
func formatNumber(d D, f string) (string, error) {
	p, err := parseNumPicture(f)
	if err != nil {
		return "", err
	}
	if p.roman {
		return p.romanText(d), nil
	}
	if p.sci {
		return p.scientific(d)
	}
	if p.multi > 0 {
		m, err := types.NumericMul(d, types.NumericText("1"+strings.Repeat("0", p.multi)))
		if err != nil {
			return "", err
		}
		d = m
	}
	special := false
	if _, ok := types.NumericScale(d); !ok {
		special = true
	}
	d = types.NumericRound(d, p.post)
	s := d.Str()
	neg := strings.HasPrefix(s, "-")
	ip, fp, _ := strings.Cut(strings.TrimPrefix(s, "-"), ".")
	if ip == "0" {
		ip = ""
	}
	overflow := special || len(ip) > p.pre
	// When the number has no digit before the point, a picture without a point, or
	// with nothing behind it, shows one zero.
	if ip == "" && (!p.point || p.post == 0) && p.zeroFrom < 0 && p.pre > 0 {
		ip = "0"
	}
	lead := p.pre - len(ip) // positions before the first digit
	if p.zeroFrom >= 0 && p.zeroFrom < lead {
		ip = strings.Repeat("0", lead-p.zeroFrom) + ip
		lead = p.zeroFrom
	}
	if overflow {
		ip, fp = strings.Repeat("#", p.pre), strings.Repeat("#", p.post)
		lead = 0
		if special {
			neg = false
		}
	}
	// In fill mode zeros behind the point that only 9s stand for are dropped.
	keep := len(fp)
	if p.fm && !overflow {
		k, at := 0, 0
		behind := false
		for _, n := range p.nodes {
			switch {
			case n == ".":
				behind = true
			case behind && (n == "9" || n == "0"):
				k++
				if n == "0" || fp[k-1] != '0' {
					at = k
				}
			}
		}
		keep = at
	}
	var b strings.Builder
	pos, fpos := 0, 0
	behind, signed := false, false
	ownSign := p.sign == ""
	putSign := func() {
		if signed {
			return
		}
		signed = true
		switch {
		case p.sign == "S" && !p.signLast:
			if neg {
				b.WriteByte('-')
			} else {
				b.WriteByte('+')
			}
		case p.sign == "PR":
			if neg {
				b.WriteByte('<')
			} else if !p.fm {
				b.WriteByte(' ')
			}
		case ownSign:
			if neg {
				b.WriteByte('-')
			} else if !p.fm {
				b.WriteByte(' ')
			}
		}
	}
	for _, n := range p.nodes {
		switch n {
		case "9", "0":
			if behind {
				if fpos < keep {
					b.WriteByte(fp[fpos])
				}
				fpos++
				continue
			}
			if pos < lead {
				if !p.fm {
					b.WriteByte(' ')
				}
				pos++
				continue
			}
			putSign()
			b.WriteByte(ip[pos-lead])
			pos++
		case ".":
			behind = true
			putSign()
			if !p.fm || keep > 0 || p.post == 0 {
				b.WriteByte('.')
			} else {
				b.WriteByte('.')
			}
		case ",":
			switch {
			case behind || pos > lead || pos == lead && signed:
				b.WriteByte(',')
			case !p.fm:
				b.WriteByte(' ')
			}
		case "S":
			if p.signLast {
				if neg {
					b.WriteByte('-')
				} else {
					b.WriteByte('+')
				}
			}
		case "MI":
			if neg {
				b.WriteByte('-')
			} else if !p.fm {
				b.WriteByte(' ')
			}
		case "SG":
			if neg {
				b.WriteByte('-')
			} else {
				b.WriteByte('+')
			}
		case "PL":
			if !neg {
				b.WriteByte('+')
			} else if !p.fm {
				b.WriteByte(' ')
			}
		case "PR":
			if neg {
				b.WriteByte('>')
			} else if !p.fm {
				b.WriteByte(' ')
			}
		case "L":
			b.WriteByte(' ')
		case "TH", "th":
			if !neg && !p.point && !overflow {
				v, _ := strconv.ParseInt(ip, 10, 64)
				b.WriteString(ordinal(v, n))
			}
		case "V":
		default:
			b.WriteString(n[1:])
		}
	}
	return b.String(), nil
}

func (p *numPicture) romanText(d D) string {
	v, ok := types.NumericToInt64(d)
	s := strings.Repeat("#", 15)
	if ok && v >= 1 && v <= 3999 {
		var b strings.Builder
		for _, r := range []struct {
			v int64
			s string
		}{{1000, "M"}, {900, "CM"}, {500, "D"}, {400, "CD"}, {100, "C"}, {90, "XC"}, {50, "L"}, {40, "XL"}, {10, "X"}, {9, "IX"}, {5, "V"}, {4, "IV"}, {1, "I"}} {
			for v >= r.v {
				b.WriteString(r.s)
				v -= r.v
			}
		}
		s = b.String()
	}
	if p.romanLower {
		s = strings.ToLower(s)
	}
	if !p.fm {
		s = strings.Repeat(" ", max(15-len(s), 0)) + s
	}
	return s
}

func (p *numPicture) scientific(d D) (string, error) {
	if _, ok := types.NumericScale(d); !ok {
		return " " + strings.Repeat("#", max(p.pre, 1)) + "." + strings.Repeat("#", p.post+4), nil
	}
	s := strings.TrimPrefix(d.Str(), "-")
	neg := s != d.Str()
	ip, fp, _ := strings.Cut(s, ".")
	digits := strings.TrimLeft(ip+fp, "0")
	exp := 0
	if digits != "" {
		exp = len(ip) - 1 - (len(ip+fp) - len(digits))
	}
	if digits == "" {
		digits = "0"
	}
	m, err := types.ParseNumeric(digits[:1] + "." + digits[1:] + "0")
	if err != nil {
		return "", err
	}
	m = types.NumericRound(m, p.post)
	out := m.Str()
	if strings.HasPrefix(out, "10") {
		exp++
		out = "1" + strings.Replace(out[2:], "0", "0", 1)
	}
	sign := "+"
	if exp < 0 {
		sign, exp = "-", -exp
	}
	e := strconv.Itoa(exp)
	if len(e) < 2 {
		e = "0" + e
	}
	lead := " "
	if neg {
		lead = "-"
	} else if p.fm {
		lead = ""
	}
	return lead + out + "e" + sign + e, nil
}

func init() {
	num := func(conv func(d D) D) fn2 {
		return func(_ *EvalContext, a, f D) (D, error) {
			if f.Str() == "" {
				return types.Text(""), nil
			}
			s, err := formatNumber(conv(a), f.Str())
			return types.Text(s), err
		}
	}
	ofInt := num(func(d D) D { return types.NumericFromInt(d.Int()) })
	defFunc("to_char", tText, ofInt, tInt4, tText).stable()
	defFunc("to_char", tText, ofInt, tInt8, tText).stable()
	defFunc("to_char", tText, num(func(d D) D { return d }), tNum, tText).stable()
	defFunc("to_char", tText, num(func(d D) D { return types.NumericFromFloat(d.Float(), 6) }), tFloat4, tText).stable()
	defFunc("to_char", tText, num(func(d D) D { return types.NumericFromFloat(d.Float(), 15) }), tFloat8, tText).stable()
	defFunc("to_number", tNum, func(_ *EvalContext, s, f D) (D, error) { return toNumber(s.Str(), f.Str()) }, tText, tText).stable()
}

// toNumber reads what to_char wrote with the same picture: digits, the point, a sign anywhere.
func toNumber(s, f string) (D, error) {
	p, err := parseNumPicture(f)
	if err != nil {
		return types.Null, err
	}
	if p.roman {
		return types.Null, sqlstate.Newf(sqlstate.FeatureNotSupported, "\"RN\" not supported for input")
	}
	var b strings.Builder
	neg, point, pre, post := false, false, 0, 0
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '-' || c == '<':
			neg = true
		case c >= '0' && c <= '9':
			if point {
				if post++; post > p.post {
					continue
				}
			} else if pre++; pre > p.pre {
				continue
			}
			b.WriteByte(c)
		case c == '.' && p.point && !point:
			point = true
			b.WriteByte('.')
		}
	}
	t := b.String()
	if t == "" || t == "." {
		return types.Null, sqlstate.Newf(sqlstate.InvalidTextRepresentation, "invalid input syntax for type numeric: \"%s\"", s)
	}
	if neg {
		t = "-" + t
	}
	d, err := types.ParseNumeric(t)
	if err == nil && p.multi > 0 {
		d, err = types.NumericDiv(d, types.NumericText("1"+strings.Repeat("0", p.multi)))
	}
	return d, err
}
