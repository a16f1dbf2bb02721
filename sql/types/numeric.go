package types

import (
	"math"
	"math/big"
	"math/bits"
	"strconv"

	"github.com/spandb/spand/sql/sqlstate"
)

// A numeric Datum holds PostgreSQL's own spelling: an optional minus, digits
// without superfluous leading zeros, and, with a display scale above 0, a point
// and exactly that many digits; or NaN, Infinity, -Infinity. Arithmetic goes
// through dec, which keeps coefficients of up to 18 digits in a machine word.

// Limits of PostgreSQL's format and of what its functions choose to show.
const (
	numericMaxIntDigits    = 131072
	numericMaxScale        = 16383
	numericMinSigDigits    = 16
	numericMaxDisplayScale = 1000
	numericMaxResultScale  = 2000
)

type decForm uint8

const (
	finite decForm = iota
	negInf
	posInf
	nan
)

// dec is coefficient * 10^-scale. big is nil while the coefficient fits small.
type dec struct {
	big   *big.Int
	small int64
	scale int32
	form  decForm
}

var pow10tab = func() (t [19]int64) {
	t[0] = 1
	for i := 1; i < len(t); i++ {
		t[i] = t[i-1] * 10
	}
	return
}()

func bigPow10(n int) *big.Int {
	if n < len(pow10tab) {
		return big.NewInt(pow10tab[n])
	}
	return new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(n)), nil)
}

// NumericText makes a numeric datum of canonical text; s must be what AppendText
// prints.
func NumericText(s string) Datum { return Datum{s: s, k: KindNumeric} }

// NumericFromInt makes the numeric v, of scale 0.
func NumericFromInt(v int64) Datum { return Datum{s: strconv.FormatInt(v, 10), k: KindNumeric} }

var (
	numericNaN    = NumericText("NaN")
	numericInf    = NumericText("Infinity")
	numericNegInf = NumericText("-Infinity")
)

func parseDec(s string) dec {
	if len(s) == 0 {
		return dec{}
	}
	switch s[0] {
	case 'N':
		return dec{form: nan}
	case 'I':
		return dec{form: posInf}
	}
	i, neg := 0, false
	if s[0] == '-' {
		if len(s) > 1 && s[1] == 'I' {
			return dec{form: negInf}
		}
		i, neg = 1, true
	}
	if len(s)-i <= 19 {
		var v int64
		scale, point := int32(0), false
		n := 0
		for ; i < len(s); i++ {
			if s[i] == '.' {
				point = true
				continue
			}
			v = v*10 + int64(s[i]-'0')
			n++
			if point {
				scale++
			}
		}
		if n <= 18 {
			if neg {
				v = -v
			}
			return dec{small: v, scale: scale}
		}
		// 19 digits without a point: may overflow; start again below.
		i = 0
		if neg {
			i = 1
		}
	}
	buf := make([]byte, 0, len(s))
	scale := int32(0)
	for j := i; j < len(s); j++ {
		if s[j] == '.' {
			scale = int32(len(s) - j - 1)
			continue
		}
		buf = append(buf, s[j])
	}
	b, _ := new(big.Int).SetString(string(buf), 10)
	if b == nil {
		return dec{form: nan}
	}
	if neg {
		b.Neg(b)
	}
	return decBig(b, scale)
}

func decBig(b *big.Int, scale int32) dec {
	if b.IsInt64() {
		if v := b.Int64(); v > -1e18 && v < 1e18 {
			return dec{small: v, scale: scale}
		}
	}
	return dec{big: b, scale: scale}
}

func (d dec) coef() *big.Int {
	if d.big != nil {
		return d.big
	}
	return big.NewInt(d.small)
}

func (d dec) sign() int {
	switch d.form {
	case negInf:
		return -1
	case posInf, nan:
		return 1
	}
	if d.big != nil {
		return d.big.Sign()
	}
	switch {
	case d.small < 0:
		return -1
	case d.small > 0:
		return 1
	}
	return 0
}

func (d dec) append(dst []byte) []byte {
	switch d.form {
	case nan:
		return append(dst, "NaN"...)
	case posInf:
		return append(dst, "Infinity"...)
	case negInf:
		return append(dst, "-Infinity"...)
	}
	var tmp [24]byte
	var digits []byte
	if d.big != nil {
		digits = d.big.Append(nil, 10)
	} else {
		digits = strconv.AppendInt(tmp[:0], d.small, 10)
	}
	if digits[0] == '-' {
		dst = append(dst, '-')
		digits = digits[1:]
	}
	sc := int(d.scale)
	if sc <= 0 {
		return append(dst, digits...)
	}
	if len(digits) <= sc {
		dst = append(dst, '0', '.')
		for i := len(digits); i < sc; i++ {
			dst = append(dst, '0')
		}
		return append(dst, digits...)
	}
	dst = append(dst, digits[:len(digits)-sc]...)
	dst = append(dst, '.')
	return append(dst, digits[len(digits)-sc:]...)
}

func (d dec) datum() Datum {
	var tmp [48]byte
	return Datum{s: string(d.append(tmp[:0])), k: KindNumeric}
}

// checked refuses what PostgreSQL's format cannot hold.
func (d dec) checked() (Datum, error) {
	if d.form == finite && d.big != nil {
		if bl := d.big.BitLen(); bl > 430000 {
			if len(d.big.Text(10))-int(d.scale) > numericMaxIntDigits {
				return Null, errNumericOverflow()
			}
		}
	}
	return d.datum(), nil
}

func errNumericOverflow() error {
	return sqlstate.Newf(sqlstate.NumericValueOutOfRange, "value overflows numeric format")
}

// rescaled returns d with at least the given scale, exactly (never rounds).
func (d dec) rescaled(scale int32) dec {
	n := int(scale - d.scale)
	if n <= 0 {
		return d
	}
	if d.big == nil && n < len(pow10tab) {
		if v, ok := mulInt64(d.small, pow10tab[n]); ok && v > -1e18 && v < 1e18 {
			return dec{small: v, scale: scale}
		}
	}
	return decBig(new(big.Int).Mul(d.coef(), bigPow10(n)), scale)
}

func mulInt64(a, b int64) (int64, bool) {
	if a == 0 || b == 0 {
		return 0, true
	}
	ua, ub := uint64(a), uint64(b)
	neg := (a < 0) != (b < 0)
	if a < 0 {
		ua = -ua
	}
	if b < 0 {
		ub = -ub
	}
	hi, lo := bits.Mul64(ua, ub)
	if hi != 0 || lo > math.MaxInt64 {
		return 0, false
	}
	if neg {
		return -int64(lo), true
	}
	return int64(lo), true
}

// round rounds half away from zero to scale digits behind the point; a negative
// scale rounds to tens, hundreds … and shows scale 0. trunc cuts off instead.
func (d dec) round(scale int32, trunc bool) dec {
	if d.form != finite {
		return d
	}
	show := max(scale, 0)
	n := int(d.scale - scale)
	if n <= 0 {
		return d.rescaled(show)
	}
	if d.big == nil {
		if n > 18 {
			return dec{scale: show}
		}
		p := pow10tab[n]
		q, r := d.small/p, d.small%p
		if !trunc {
			if r < 0 {
				r = -r
			}
			if r >= p-r {
				if d.small < 0 {
					q--
				} else {
					q++
				}
			}
		}
		out := dec{small: q, scale: scale}
		if scale < 0 {
			out.scale = 0
			return dec{big: new(big.Int).Mul(big.NewInt(q), bigPow10(int(-scale)))}.norm()
		}
		return out
	}
	p := bigPow10(n)
	q, r := new(big.Int).QuoRem(d.big, p, new(big.Int))
	if !trunc {
		r.Abs(r).Lsh(r, 1)
		if r.Cmp(p) >= 0 {
			if d.big.Sign() < 0 {
				q.Sub(q, big.NewInt(1))
			} else {
				q.Add(q, big.NewInt(1))
			}
		}
	}
	if scale < 0 {
		q.Mul(q, bigPow10(int(-scale)))
	}
	return decBig(q, show)
}

func (d dec) norm() dec {
	if d.big == nil {
		return d
	}
	return decBig(d.big, d.scale)
}

func addDec(a, b dec, sub bool) dec {
	if a.form != finite || b.form != finite {
		if sub {
			switch b.form {
			case posInf:
				b.form = negInf
			case negInf:
				b.form = posInf
			}
		}
		switch {
		case a.form == nan || b.form == nan:
			return dec{form: nan}
		case a.form != finite && b.form != finite && a.form != b.form:
			return dec{form: nan}
		case a.form != finite:
			return a
		}
		return b
	}
	s := max(a.scale, b.scale)
	a, b = a.rescaled(s), b.rescaled(s)
	if a.big == nil && b.big == nil { // both below 1e18: no overflow
		v := b.small
		if sub {
			v = -v
		}
		if v += a.small; v > -1e18 && v < 1e18 {
			return dec{small: v, scale: s}
		}
		return dec{big: big.NewInt(v), scale: s}
	}
	r := new(big.Int)
	if sub {
		r.Sub(a.coef(), b.coef())
	} else {
		r.Add(a.coef(), b.coef())
	}
	return decBig(r, s)
}

func mulDec(a, b dec) dec {
	if a.form != finite || b.form != finite {
		if a.form == nan || b.form == nan || a.sign() == 0 || b.sign() == 0 {
			return dec{form: nan}
		}
		if a.sign() == b.sign() {
			return dec{form: posInf}
		}
		return dec{form: negInf}
	}
	s := a.scale + b.scale
	var r dec
	if a.big == nil && b.big == nil {
		if v, ok := mulInt64(a.small, b.small); ok && v > -1e18 && v < 1e18 {
			r = dec{small: v, scale: s}
			if s > numericMaxScale {
				return r.round(numericMaxScale, false)
			}
			return r
		}
	}
	r = decBig(new(big.Int).Mul(a.coef(), b.coef()), s)
	if s > numericMaxScale {
		return r.round(numericMaxScale, false)
	}
	return r
}

// lead returns the weight and value of the first non-zero digit in base 10000,
// which PostgreSQL's choices of result scales are made of.
func (d dec) lead() (weight, digit int) {
	if d.sign() == 0 || d.form != finite {
		return 0, 0
	}
	var tmp [24]byte
	var ds []byte
	if d.big != nil {
		ds = d.big.Append(nil, 10)
	} else {
		ds = strconv.AppendInt(tmp[:0], d.small, 10)
	}
	if ds[0] == '-' {
		ds = ds[1:]
	}
	e := len(ds) - 1 - int(d.scale) // exponent of the leading decimal digit
	weight = floorDiv(e, 4)
	for i := 0; i <= e-4*weight; i++ {
		digit *= 10
		if i < len(ds) {
			digit += int(ds[i] - '0')
		}
	}
	return weight, digit
}

func floorDiv(a, b int) int {
	q := a / b
	if a%b != 0 && (a < 0) != (b < 0) {
		q--
	}
	return q
}

// divScale is PostgreSQL's select_div_scale.
func divScale(a, b dec) int32 {
	w1, d1 := a.lead()
	w2, d2 := b.lead()
	q := w1 - w2
	if d1 <= d2 {
		q--
	}
	r := numericMinSigDigits - q*4
	return int32(min(max(r, int(a.scale), int(b.scale), 0), numericMaxDisplayScale))
}

func errDivZero() error { return sqlstate.Newf(sqlstate.DivisionByZero, "division by zero") }

func divDec(a, b dec) (dec, error) {
	if a.form != finite || b.form != finite {
		switch {
		case a.form == nan || b.form == nan:
			return dec{form: nan}, nil
		case a.form != finite && b.form != finite:
			return dec{form: nan}, nil
		case a.form != finite:
			if b.sign() == 0 {
				return dec{}, errDivZero()
			}
			if a.sign() == b.sign() {
				return dec{form: posInf}, nil
			}
			return dec{form: negInf}, nil
		}
		return dec{}, nil
	}
	if b.sign() == 0 {
		return dec{}, errDivZero()
	}
	return divTo(a, b, divScale(a, b)), nil
}

// divTo divides finite values, rounding half away from zero at scale.
func divTo(a, b dec, scale int32) dec {
	num, den := a.coef(), b.coef()
	// a/b*10^scale = num*10^(scale - a.scale + b.scale) / den
	if sh := int(scale - a.scale + b.scale); sh >= 0 {
		num = new(big.Int).Mul(num, bigPow10(sh))
	} else {
		den = new(big.Int).Mul(den, bigPow10(-sh))
	}
	q, r := new(big.Int).QuoRem(num, den, new(big.Int))
	r.Abs(r).Lsh(r, 1)
	if r.CmpAbs(den) >= 0 {
		if num.Sign()*den.Sign() < 0 {
			q.Sub(q, big.NewInt(1))
		} else {
			q.Add(q, big.NewInt(1))
		}
	}
	return decBig(q, scale)
}

func modDec(a, b dec) (dec, error) {
	if a.form != finite || b.form != finite {
		switch {
		case a.form == nan || b.form == nan:
			return dec{form: nan}, nil
		case a.form != finite:
			if b.form == finite && b.sign() == 0 {
				return dec{}, errDivZero()
			}
			return dec{form: nan}, nil
		}
		return a, nil // finite mod infinity
	}
	if b.sign() == 0 {
		return dec{}, errDivZero()
	}
	s := max(a.scale, b.scale)
	a, b = a.rescaled(s), b.rescaled(s)
	if a.big == nil && b.big == nil {
		return dec{small: a.small % b.small, scale: s}, nil
	}
	return decBig(new(big.Int).Rem(a.coef(), b.coef()), s), nil
}

func cmpDec(a, b dec) int {
	if a.form != finite || b.form != finite {
		rank := func(d dec) int {
			switch d.form {
			case negInf:
				return 0
			case posInf:
				return 2
			case nan:
				return 3
			}
			return 1
		}
		return rank(a) - rank(b)
	}
	if a.scale != b.scale {
		s := max(a.scale, b.scale)
		a, b = a.rescaled(s), b.rescaled(s)
	}
	if a.big == nil && b.big == nil {
		switch {
		case a.small < b.small:
			return -1
		case a.small > b.small:
			return 1
		}
		return 0
	}
	return a.coef().Cmp(b.coef())
}
