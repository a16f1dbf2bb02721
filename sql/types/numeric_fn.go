package types

import (
	"math"
	"math/big"

	"github.com/cockroachdb/apd/v3"

	"github.com/spandb/spand/sql/sqlstate"
)

// Transcendental functions go through apd with enough digits that rounding to the
// scale that PostgreSQL shows is right.

func (d dec) apd() *apd.Decimal {
	var b apd.BigInt
	b.SetMathBigInt(new(big.Int).Abs(d.coef()))
	x := apd.NewWithBigInt(&b, -d.scale)
	x.Negative = d.sign() < 0
	return x
}

func decFromAPD(x *apd.Decimal, scale int32) dec {
	c := new(big.Int).Set(x.Coeff.MathBigInt())
	if x.Negative {
		c.Neg(c)
	}
	d := dec{big: c, scale: -x.Exponent}
	if x.Exponent > 0 {
		d = dec{big: c.Mul(c, bigPow10(int(x.Exponent)))}
	}
	return d.norm().round(scale, false)
}

func apdCtx(digits int) *apd.Context {
	c := apd.BaseContext.WithPrecision(uint32(max(digits, 20)))
	c.MaxExponent, c.MinExponent = apd.MaxExponent, apd.MinExponent
	c.Traps = 0
	return c
}

// errDigits is the honest answer where apd gives up: it bounds exponents and
// iterations, PostgreSQL does not.
func errDigits() error {
	return sqlstate.Newf(sqlstate.FeatureNotSupported, "numeric function needs more digits than are supported")
}

// lnAPD is ln of a positive d: of its significand, plus the exponent times ln 10
// when that is large, because apd's own range is narrower than ours.
func lnAPD(ctx *apd.Context, out *apd.Decimal, d dec) error {
	k := len(d.coef().Text(10)) - 1 - int(d.scale)
	if k > -50 && k < 50 {
		_, err := ctx.Ln(out, d.apd())
		return err
	}
	m := d.apd()
	m.Exponent = -int32(len(d.coef().Text(10)) - 1)
	var ln10 apd.Decimal
	if _, err := ctx.Ln(&ln10, apd.New(10, 0)); err != nil {
		return err
	}
	if _, err := ctx.Mul(&ln10, &ln10, apd.New(int64(k), 0)); err != nil {
		return err
	}
	if _, err := ctx.Ln(out, m); err != nil {
		return err
	}
	_, err := ctx.Add(out, out, &ln10)
	return err
}

// clampScale bounds a result's display scale from below by the argument's.
func clampScale(s int, ds ...int32) int32 {
	for _, d := range ds {
		s = max(s, int(d))
	}
	return int32(min(max(s, 0), numericMaxDisplayScale))
}

// NumericSqrt is the square root; 2201F for negative numbers.
func NumericSqrt(a Datum) (Datum, error) {
	d := parseDec(a.s)
	switch {
	case d.form == nan || d.form == posInf:
		return a, nil
	case d.sign() < 0:
		return Null, sqlstate.Newf("2201F", "cannot take square root of a negative number")
	}
	w, _ := d.lead()
	return d.sqrtTo(clampScale(numericMinSigDigits-(w*2+1), d.scale)).checked()
}

// sqrtTo is the root of a number not below zero, rounded at scale.
func (d dec) sqrtTo(scale int32) dec {
	// sqrt(c * 10^-s) = sqrt(c * 10^(2*scale+2-s)) * 10^-(scale+1)
	n := 2*int(scale) + 2 - int(d.scale)
	c := new(big.Int).Mul(d.coef(), bigPow10(max(n, 0)))
	if n < 0 {
		c.Quo(c, bigPow10(-n))
	}
	return decBig(c.Sqrt(c), scale+1).round(scale, false)
}

// NumericExp is e to the power of a.
func NumericExp(a Datum) (Datum, error) {
	d := parseDec(a.s)
	switch d.form {
	case nan, posInf:
		return a, nil
	case negInf:
		return dec{}.datum(), nil
	}
	v := NumericToFloat64(a) * 0.434294481903252
	if v > numericMaxIntDigits {
		return Null, errNumericOverflow()
	}
	v = min(max(v, -numericMaxResultScale), numericMaxResultScale)
	scale := clampScale(numericMinSigDigits-int(v), d.scale)
	if NumericToFloat64(a) < -2*float64(scale+10) {
		return dec{scale: scale}.datum(), nil
	}
	var r apd.Decimal
	if _, err := apdCtx(int(scale)+int(max(v, 0))+25).Exp(&r, d.apd()); err != nil {
		return Null, errDigits()
	}
	return decFromAPD(&r, scale).checked()
}

func errLog(a dec) error {
	if a.sign() == 0 {
		return sqlstate.Newf("2201E", "cannot take logarithm of zero")
	}
	return sqlstate.Newf("2201E", "cannot take logarithm of a negative number")
}

// lnWeight estimates the decimal exponent of ln(d), as PostgreSQL's
// estimate_ln_dweight.
func lnWeight(d dec) int {
	if d.sign() <= 0 {
		return 0
	}
	if c := addDec(d, dec{small: 1}, true); cmpDec(d, dec{small: 9, scale: 1}) >= 0 && cmpDec(d, dec{small: 11, scale: 1}) <= 0 {
		if c.sign() == 0 {
			return 0
		}
		w, dig := c.lead()
		return w*4 + int(math.Log10(float64(dig)))
	}
	f := d.log10Estimate() * math.Ln10
	if f == 0 {
		return 0
	}
	return int(math.Log10(math.Abs(f)))
}

// log10Estimate is about log10 of a positive d, of any size.
func (d dec) log10Estimate() float64 {
	s := d.coef().Text(10)
	n := min(len(s), 15)
	m := 0.0
	for i := 0; i < n; i++ {
		m = m*10 + float64(s[i]-'0')
	}
	return math.Log10(m) + float64(len(s)-n-int(d.scale))
}

// NumericLn is the natural logarithm; 2201E for numbers not above 0.
func NumericLn(a Datum) (Datum, error) {
	d := parseDec(a.s)
	switch {
	case d.form == nan || d.form == posInf:
		return a, nil
	case d.sign() <= 0:
		return Null, errLog(d)
	}
	scale := clampScale(numericMinSigDigits-lnWeight(d), d.scale)
	var r apd.Decimal
	if err := lnAPD(apdCtx(int(scale)+30), &r, d); err != nil {
		return Null, errDigits()
	}
	return decFromAPD(&r, scale).checked()
}

// NumericLog is the logarithm of x to the given base.
func NumericLog(base, x Datum) (Datum, error) {
	b, d := parseDec(base.s), parseDec(x.s)
	if b.form == nan || d.form == nan {
		return numericNaN, nil
	}
	if b.sign() <= 0 {
		return Null, errLog(b)
	}
	if d.sign() <= 0 {
		return Null, errLog(d)
	}
	if b.form != finite || d.form != finite {
		switch {
		case b.form == finite:
			return numericInf, nil
		case d.form == finite:
			return dec{}.datum(), nil
		}
		return numericNaN, nil
	}
	wb, wd := lnWeight(b), lnWeight(d)
	scale := clampScale(numericMinSigDigits-(wd-wb), b.scale, d.scale)
	var lb, ld, r apd.Decimal
	ctx := apdCtx(int(scale) + 40)
	if lnAPD(ctx, &lb, b) != nil || lnAPD(ctx, &ld, d) != nil {
		return Null, errDigits()
	}
	if lb.IsZero() {
		return Null, errDivZero()
	}
	if _, err := ctx.Quo(&r, &ld, &lb); err != nil {
		return Null, errDigits()
	}
	return decFromAPD(&r, scale).checked()
}

// NumericPower is a to the power of b.
func NumericPower(a, b Datum) (Datum, error) {
	x, y := parseDec(a.s), parseDec(b.s)
	one := dec{small: 1}
	if x.form != finite || y.form != finite {
		return powerSpecial(x, y)
	}
	if x.sign() == 0 && y.sign() < 0 {
		return Null, sqlstate.Newf("2201F", "zero raised to a negative power is undefined")
	}
	yInt := y.round(0, true)
	integral := cmpDec(yInt, y) == 0
	if x.sign() < 0 && !integral {
		return Null, sqlstate.Newf("2201F", "a negative number raised to a non-integer power yields a complex result")
	}
	if integral && yInt.big == nil && yInt.small >= math.MinInt32 && yInt.small <= math.MaxInt32 {
		return powerInt(x, yInt.small)
	}
	if x.sign() == 0 {
		return dec{scale: clampScale(numericMinSigDigits, x.scale, y.scale)}.datum(), nil
	}
	neg := false
	if x.sign() < 0 {
		neg = yInt.coef().Bit(0) == 1
		x = signed(x, true)
	}
	val := x.log10Estimate() * NumericToFloat64(b)
	if val > numericMaxIntDigits {
		return Null, errNumericOverflow()
	}
	if cmpDec(x, one) == 0 {
		val = 0
	}
	v := min(max(val, -numericMaxResultScale), numericMaxResultScale)
	scale := clampScale(numericMinSigDigits-int(v), x.scale, y.scale)
	if val < -float64(numericMaxDisplayScale)-20 {
		return dec{scale: scale}.datum(), nil
	}
	var ln, r apd.Decimal
	ctx := apdCtx(int(scale) + int(max(val, 0)) + len(b.s) + 40)
	if err := lnAPD(ctx, &ln, x); err != nil {
		return Null, errDigits()
	}
	if _, err := ctx.Mul(&ln, &ln, y.apd()); err != nil {
		return Null, errDigits()
	}
	if _, err := ctx.Exp(&r, &ln); err != nil {
		return Null, errDigits()
	}
	return signed(decFromAPD(&r, scale), neg).checked()
}

// powerInt is x to an integer power, with the scale that power_var_int chooses.
func powerInt(x dec, n int64) (Datum, error) {
	var f float64
	if x.sign() != 0 {
		f = signed(x, x.sign() < 0).log10Estimate() * float64(n)
	}
	if f > numericMaxIntDigits {
		return Null, errNumericOverflow()
	}
	scale := clampScale(numericMinSigDigits, x.scale)
	switch n {
	case 0:
		return dec{small: 1}.rescaled(scale).datum(), nil
	case 1:
		return x.round(scale, false).datum(), nil
	case 2:
		return mulDec(x, x).round(scale, false).checked()
	}
	if x.sign() == 0 {
		return dec{scale: scale}.datum(), nil
	}
	if f < -float64(numericMaxDisplayScale)-20 {
		return dec{scale: scale}.datum(), nil
	}
	m := n
	if m < 0 {
		m = -m
	}
	// Exact while the number of digits is bounded, else with enough of them.
	if digits := int64(len(x.coef().Text(10))) * m; digits < 20000 {
		p := new(big.Int).Exp(x.coef(), big.NewInt(m), nil)
		r := dec{big: p, scale: int32(int64(x.scale) * m)}.norm()
		if n < 0 {
			r = divTo(dec{small: 1}, r, scale)
		}
		return r.round(scale, false).checked()
	}
	var r apd.Decimal
	ctx := apdCtx(int(scale) + int(max(f, 0)) + 40)
	if _, err := ctx.Pow(&r, x.apd(), apd.New(n, 0)); err != nil {
		return Null, errDigits()
	}
	return decFromAPD(&r, scale).checked()
}

// powerSpecial follows POSIX's pow for NaN and infinities.
func powerSpecial(x, y dec) (Datum, error) {
	one := dec{small: 1}
	switch {
	case y.form == finite && y.sign() == 0, x.form == finite && cmpDec(x, one) == 0:
		return one.datum(), nil
	case x.form == nan || y.form == nan:
		return numericNaN, nil
	case y.form != finite:
		if x.form == finite && x.sign() == 0 {
			if y.form == negInf {
				return Null, sqlstate.Newf("2201F", "zero raised to a negative power is undefined")
			}
			return dec{}.datum(), nil
		}
		big := x.form != finite
		if x.form == finite {
			c := cmpDec(signed(x, x.sign() < 0), one)
			if c == 0 {
				return one.datum(), nil
			}
			big = c > 0
		}
		if big == (y.form == posInf) {
			return numericInf, nil
		}
		return dec{}.datum(), nil
	}
	// x is infinite, y finite and not zero.
	yInt := y.round(0, true)
	if x.form == negInf {
		if cmpDec(yInt, y) != 0 {
			return Null, sqlstate.Newf("2201F", "a negative number raised to a non-integer power yields a complex result")
		}
		if y.sign() > 0 && yInt.coef().Bit(0) == 1 {
			return numericNegInf, nil
		}
	}
	if y.sign() > 0 {
		return numericInf, nil
	}
	return dec{}.datum(), nil
}

// NumericFactorial is n!.
func NumericFactorial(n int64) (Datum, error) {
	if n < 0 {
		return Null, sqlstate.Newf(sqlstate.NumericValueOutOfRange, "factorial of a negative number is undefined")
	}
	if n > 32177 {
		return Null, errNumericOverflow()
	}
	return decBig(new(big.Int).MulRange(1, max(n, 1)), 0).checked()
}

// NumericGCD and NumericLCM of two numbers of any scale.
func NumericGCD(a, b Datum) (Datum, error) {
	x, y := parseDec(a.s), parseDec(b.s)
	if x.form != finite || y.form != finite {
		return numericNaN, nil
	}
	s := max(x.scale, y.scale)
	x, y = x.rescaled(s), y.rescaled(s)
	return decBig(new(big.Int).GCD(nil, nil, new(big.Int).Abs(x.coef()), new(big.Int).Abs(y.coef())), s).datum(), nil
}

// NumericLCM is the least common multiple.
func NumericLCM(a, b Datum) (Datum, error) {
	g, err := NumericGCD(a, b)
	if err != nil || g.s == "NaN" {
		return g, err
	}
	x, y := parseDec(a.s), parseDec(b.s)
	s := max(x.scale, y.scale)
	x, y = x.rescaled(s), y.rescaled(s)
	if x.sign() == 0 || y.sign() == 0 {
		return dec{scale: s}.datum(), nil
	}
	r := new(big.Int).Mul(x.coef(), y.coef())
	r.Abs(r).Quo(r, parseDec(g.s).rescaled(s).coef())
	return decBig(r, s).checked()
}

// NumericSum adds up numerics exactly. The zero value is an empty sum.
type NumericSum struct {
	sum   dec
	n     int64
	acc   *big.Int // owned: added to in place
	scale int32
	nans  int64
	pinf  int64
	ninf  int64
}

// Add adds a numeric.
func (s *NumericSum) Add(d Datum) { s.addDec(parseDec(d.s)) }

// AddInt adds an integer.
func (s *NumericSum) AddInt(v int64) { s.addDec(dec{small: v}) }

func (s *NumericSum) addDec(x dec) {
	s.n++
	switch x.form {
	case nan:
		s.nans++
		return
	case posInf:
		s.pinf++
		return
	case negInf:
		s.ninf++
		return
	}
	if s.acc == nil {
		r := addDec(s.sum, x, false)
		if r.big == nil {
			s.sum = r
			return
		}
		s.acc, s.scale = new(big.Int).Set(r.big), r.scale
		return
	}
	if x.scale > s.scale {
		s.acc.Mul(s.acc, bigPow10(int(x.scale-s.scale)))
		s.scale = x.scale
	} else if x.scale < s.scale {
		x = x.rescaled(s.scale)
	}
	s.acc.Add(s.acc, x.coef())
}

// Merge adds another sum.
func (s *NumericSum) Merge(o *NumericSum) {
	n := s.n + o.n
	s.addDec(o.total())
	s.n = n
	s.nans += o.nans
	s.pinf += o.pinf
	s.ninf += o.ninf
}

// Count is how many values were added.
func (s *NumericSum) Count() int64 { return s.n }

func (s *NumericSum) total() dec {
	if s.acc != nil {
		return decBig(s.acc, s.scale)
	}
	return s.sum
}

func (s *NumericSum) special() (Datum, bool) {
	switch {
	case s.nans > 0 || s.pinf > 0 && s.ninf > 0:
		return numericNaN, true
	case s.pinf > 0:
		return numericInf, true
	case s.ninf > 0:
		return numericNegInf, true
	}
	return Null, false
}

// Sum is the total with the largest scale seen.
func (s *NumericSum) Sum() (Datum, error) {
	if d, ok := s.special(); ok {
		return d, nil
	}
	return s.total().checked()
}

// Avg is the total divided by the count, as / divides. The sum must not be empty.
func (s *NumericSum) Avg() (Datum, error) {
	if d, ok := s.special(); ok {
		return d, nil
	}
	d, err := divDec(s.total(), dec{small: s.n})
	if err != nil {
		return Null, err
	}
	return d.checked()
}

// NumericFromInt128 makes a numeric of hi*2^64 + lo.
func NumericFromInt128(hi int64, lo uint64) Datum {
	if hi == 0 && lo <= math.MaxInt64 || hi == -1 && lo > math.MaxInt64 {
		return NumericFromInt(int64(lo))
	}
	b := new(big.Int).Lsh(big.NewInt(hi), 64)
	return decBig(b.Add(b, new(big.Int).SetUint64(lo)), 0).datum()
}

// NumericVariance is the variance, or its root, of the values whose sum is s and
// sum of squares is q, over the population or as an estimate of a sample's.
func NumericVariance(s, q *NumericSum, pop, sqrt bool) (Datum, error) {
	if _, special := s.special(); special {
		return numericNaN, nil
	}
	n := dec{small: s.n}
	sum, sq := s.total(), q.total()
	// n*q - s*s over n*n or n*(n-1).
	num := addDec(mulDec(n, sq), mulDec(sum, sum), true)
	if num.sign() <= 0 {
		return dec{}.datum(), nil
	}
	den := mulDec(n, n)
	if !pop {
		den = mulDec(n, dec{small: s.n - 1})
	}
	scale := divScale(num, den)
	v := divTo(num, den, scale)
	if sqrt { // at the quotient's scale, as PostgreSQL does it
		v = v.sqrtTo(scale)
	}
	return v.checked()
}
