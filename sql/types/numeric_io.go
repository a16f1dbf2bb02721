package types

import (
	"encoding/binary"
	"math/big"
	"strings"

	"github.com/spandb/spand/sql/sqlstate"
)

// ParseNumeric reads a number in any of PostgreSQL's spellings into canonical
// form, with the display scale it was written with.
func ParseNumeric(in string) (Datum, error) {
	s := trimSpace(in)
	bad := func() (Datum, error) {
		return Null, sqlstate.Newf(sqlstate.InvalidTextRepresentation, "invalid input syntax for type numeric: \"%s\"", in)
	}
	if s == "" {
		return bad()
	}
	if canonicalNumeric(s) {
		return NumericText(s), nil
	}
	neg := false
	rest := s
	switch rest[0] {
	case '-':
		neg = true
		fallthrough
	case '+':
		rest = rest[1:]
	}
	switch {
	case strings.EqualFold(s, "nan"):
		return numericNaN, nil
	case strings.EqualFold(rest, "infinity"), strings.EqualFold(rest, "inf"):
		if neg {
			return numericNegInf, nil
		}
		return numericInf, nil
	}
	digits := make([]byte, 0, len(rest))
	scale, point, i := 0, false, 0
	for ; i < len(rest); i++ {
		c := rest[i]
		if c >= '0' && c <= '9' {
			digits = append(digits, c)
			if point {
				scale++
			}
		} else if c == '.' && !point {
			point = true
		} else {
			break
		}
	}
	if len(digits) == 0 {
		return bad()
	}
	exp := 0
	if i < len(rest) {
		if rest[i] != 'e' && rest[i] != 'E' {
			return bad()
		}
		i++
		eneg := false
		if i < len(rest) && (rest[i] == '+' || rest[i] == '-') {
			eneg = rest[i] == '-'
			i++
		}
		if i == len(rest) {
			return bad()
		}
		for ; i < len(rest); i++ {
			if rest[i] < '0' || rest[i] > '9' {
				return bad()
			}
			if exp = exp*10 + int(rest[i]-'0'); exp > 1<<30 {
				exp = 1 << 30
			}
		}
		if eneg {
			exp = -exp
		}
	}
	lead := 0
	for lead < len(digits) && digits[lead] == '0' {
		lead++
	}
	digits = digits[lead:]
	scale -= exp
	if len(digits) == 0 {
		scale = min(max(scale, 0), numericMaxScale)
		return dec{scale: int32(scale)}.datum(), nil
	}
	if len(digits)-scale > numericMaxIntDigits {
		return Null, errNumericOverflow()
	}
	if scale < 0 { // exponent beyond the digits: zeros follow
		digits = append(digits, strings.Repeat("0", -scale)...)
		scale = 0
	}
	if scale > numericMaxScale {
		cut := scale - numericMaxScale
		if cut > len(digits) {
			return dec{scale: numericMaxScale}.datum(), nil
		}
		b, _ := new(big.Int).SetString(string(digits), 10)
		return signed(dec{big: b, scale: int32(scale)}.norm().round(numericMaxScale, false), neg).datum(), nil
	}
	out := make([]byte, 0, len(digits)+scale+3)
	if neg {
		out = append(out, '-')
	}
	switch {
	case scale == 0:
		out = append(out, digits...)
	case len(digits) <= scale:
		out = append(out, '0', '.')
		for j := len(digits); j < scale; j++ {
			out = append(out, '0')
		}
		out = append(out, digits...)
	default:
		out = append(out, digits[:len(digits)-scale]...)
		out = append(out, '.')
		out = append(out, digits[len(digits)-scale:]...)
	}
	return NumericText(string(out)), nil
}

func signed(d dec, neg bool) dec {
	if !neg {
		return d
	}
	if d.big != nil {
		return dec{big: new(big.Int).Neg(d.big), scale: d.scale}
	}
	d.small = -d.small
	return d
}

// canonicalNumeric reports whether s is already what we would print, which is
// the usual case on the way in.
func canonicalNumeric(s string) bool {
	i := 0
	if s[0] == '-' {
		i = 1
	}
	start, nonzero := i, false
	for i < len(s) && s[i] >= '0' && s[i] <= '9' {
		nonzero = nonzero || s[i] != '0'
		i++
	}
	n := i - start
	if n == 0 || n > 1 && s[start] == '0' || n > 1000 {
		return false
	}
	if i < len(s) {
		if s[i] != '.' || i+1 == len(s) || len(s)-i > 1000 {
			return false
		}
		for i++; i < len(s); i++ {
			if s[i] < '0' || s[i] > '9' {
				return false
			}
			nonzero = nonzero || s[i] != '0'
		}
	}
	return nonzero || s[0] != '-'
}

// applyNumericMod rounds to a numeric(p,s) column and checks that it fits.
func applyNumericMod(d Datum, mod int32) (Datum, error) {
	p, s := NumericMod(mod)
	x := parseDec(d.s)
	switch x.form {
	case nan:
		return d, nil
	case posInf, negInf:
		return Null, numericFieldOverflow(p, s).WithDetail("A field with precision %d, scale %d cannot hold an infinite value.", p, s)
	}
	if int(x.scale) != s {
		x = x.round(int32(s), false)
		d = x.datum()
	}
	if x.sign() != 0 {
		n := 0 // digits before the point after shifting by the scale
		if x.big != nil {
			n = len(x.big.Text(10))
			if x.sign() < 0 {
				n--
			}
		} else {
			v := x.small
			for ; v != 0; v /= 10 {
				n++
			}
		}
		if n-int(x.scale) > p-s {
			e := numericFieldOverflow(p, s)
			if p == s {
				return Null, e.WithDetail("A field with precision %d, scale %d must round to an absolute value less than 1.", p, s)
			}
			return Null, e.WithDetail("A field with precision %d, scale %d must round to an absolute value less than 10^%d.", p, s, p-s)
		}
	}
	return d, nil
}

func numericFieldOverflow(p, s int) *sqlstate.Error {
	return sqlstate.Newf(sqlstate.NumericValueOutOfRange, "numeric field overflow")
}

// Signs of the binary form.
const (
	numericBinNeg  = 0x4000
	numericBinNaN  = 0xC000
	numericBinPInf = 0xD000
	numericBinNInf = 0xF000
)

// appendNumericBinary writes numeric_send's form straight from the text: digits in
// base 10000, weight, sign, display scale.
func appendNumericBinary(dst []byte, s string) []byte {
	head := func(n, weight, sign, scale int) {
		dst = binary.BigEndian.AppendUint16(dst, uint16(n))
		dst = binary.BigEndian.AppendUint16(dst, uint16(int16(weight)))
		dst = binary.BigEndian.AppendUint16(dst, uint16(sign))
		dst = binary.BigEndian.AppendUint16(dst, uint16(scale))
	}
	switch s {
	case "NaN":
		head(0, 0, numericBinNaN, 0)
		return dst
	case "Infinity":
		head(0, 0, numericBinPInf, 0x20)
		return dst
	case "-Infinity":
		head(0, 0, numericBinNInf, 0x20)
		return dst
	}
	sign := 0
	if s[0] == '-' {
		sign, s = numericBinNeg, s[1:]
	}
	point := strings.IndexByte(s, '.')
	scale := 0
	ip := s
	fp := ""
	if point >= 0 {
		ip, fp = s[:point], s[point+1:]
		scale = len(fp)
	}
	groupsInt := (len(ip) + 3) / 4
	groups := groupsInt + (len(fp)+3)/4
	digit := func(g int) int {
		v := 0
		for j := 0; j < 4; j++ {
			c := byte('0')
			if g < groupsInt {
				if k := len(ip) - 4*(groupsInt-g) + j; k >= 0 {
					c = ip[k]
				}
			} else if k := 4*(g-groupsInt) + j; k < len(fp) {
				c = fp[k]
			}
			v = v*10 + int(c-'0')
		}
		return v
	}
	first, last := 0, groups
	for first < last && digit(first) == 0 {
		first++
	}
	for last > first && digit(last-1) == 0 {
		last--
	}
	if first == last {
		head(0, 0, 0, scale)
		return dst
	}
	head(last-first, groupsInt-1-first, sign, scale)
	for g := first; g < last; g++ {
		dst = binary.BigEndian.AppendUint16(dst, uint16(digit(g)))
	}
	return dst
}

func parseNumericBinary(b []byte) (Datum, error) {
	bad := func(what string) (Datum, error) {
		return Null, sqlstate.Newf(sqlstate.InvalidBinaryRepresentation, "invalid %s in external \"numeric\" value", what)
	}
	if len(b) < 8 {
		return bad("length")
	}
	n := int(binary.BigEndian.Uint16(b))
	weight := int(int16(binary.BigEndian.Uint16(b[2:])))
	sign := int(binary.BigEndian.Uint16(b[4:]))
	scale := int(binary.BigEndian.Uint16(b[6:]))
	if len(b) != 8+2*n {
		return bad("length")
	}
	switch sign {
	case numericBinNaN:
		return numericNaN, nil
	case numericBinPInf:
		return numericInf, nil
	case numericBinNInf:
		return numericNegInf, nil
	case 0, numericBinNeg:
	default:
		return bad("sign")
	}
	if scale > numericMaxScale {
		return bad("scale")
	}
	group := func(w int) int { // of weight w
		i := weight - w
		if i < 0 || i >= n {
			return 0
		}
		return int(binary.BigEndian.Uint16(b[8+2*i:]))
	}
	for i := 0; i < n; i++ {
		if binary.BigEndian.Uint16(b[8+2*i:]) > 9999 {
			return bad("digit")
		}
	}
	out := make([]byte, 0, max(weight+1, 1)*4+scale+3)
	if sign != 0 {
		out = append(out, '-')
	}
	put := func(v int) {
		out = append(out, byte('0'+v/1000), byte('0'+v/100%10), byte('0'+v/10%10), byte('0'+v%10))
	}
	for w := max(weight, 0); w >= 0; w-- {
		put(group(w))
	}
	if scale > 0 {
		out = append(out, '.')
		for w := -1; -4*(w+1) < scale; w-- {
			put(group(w))
		}
		// The last group may show more digits than the scale: cut them.
		if over := (4 - scale%4) % 4; over > 0 {
			out = out[:len(out)-over]
		}
	}
	return ParseNumeric(string(out)) // normalises zeros and sign
}
