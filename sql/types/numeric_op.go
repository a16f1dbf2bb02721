package types

import (
	"math"
	"math/big"
	"strconv"
)

// NumericCompare orders numerics: -Infinity, finite ones by value, Infinity, NaN.
func NumericCompare(a, b Datum) int {
	if a.s == b.s {
		return 0
	}
	return cmpDec(parseDec(a.s), parseDec(b.s))
}

// NumericAdd returns a+b, exactly.
func NumericAdd(a, b Datum) (Datum, error) {
	return addDec(parseDec(a.s), parseDec(b.s), false).checked()
}

// NumericSub returns a-b, exactly.
func NumericSub(a, b Datum) (Datum, error) {
	return addDec(parseDec(a.s), parseDec(b.s), true).checked()
}

// NumericMul returns a*b, exactly up to 16383 digits behind the point.
func NumericMul(a, b Datum) (Datum, error) {
	return mulDec(parseDec(a.s), parseDec(b.s)).checked()
}

// NumericDiv returns a/b with at least 16 significant digits, rounded half away
// from zero; 22012 for b = 0.
func NumericDiv(a, b Datum) (Datum, error) {
	d, err := divDec(parseDec(a.s), parseDec(b.s))
	if err != nil {
		return Null, err
	}
	return d.checked()
}

// NumericDivTrunc is PostgreSQL's div(): the quotient without its fraction.
func NumericDivTrunc(a, b Datum) (Datum, error) {
	x, y := parseDec(a.s), parseDec(b.s)
	if x.form != finite || y.form != finite {
		d, err := divDec(x, y)
		if err != nil {
			return Null, err
		}
		return d.checked()
	}
	if y.sign() == 0 {
		return Null, errDivZero()
	}
	s := max(x.scale, y.scale)
	x, y = x.rescaled(s), y.rescaled(s)
	return decBig(new(big.Int).Quo(x.coef(), y.coef()), 0).checked()
}

// NumericRem returns the remainder of a/b with a's sign; 22012 for b = 0.
func NumericRem(a, b Datum) (Datum, error) {
	d, err := modDec(parseDec(a.s), parseDec(b.s))
	if err != nil {
		return Null, err
	}
	return d.checked()
}

// NumericNeg returns -a.
func NumericNeg(a Datum) Datum {
	d := parseDec(a.s)
	switch d.form {
	case posInf:
		return numericNegInf
	case negInf:
		return numericInf
	case nan:
		return a
	}
	if d.big != nil {
		return dec{big: new(big.Int).Neg(d.big), scale: d.scale}.datum()
	}
	return dec{small: -d.small, scale: d.scale}.datum()
}

// NumericSign is -1, 0 or 1; NaN counts as 1 (test it with NumericIsNaN).
func NumericSign(a Datum) int { return parseDec(a.s).sign() }

// NumericIsNaN reports whether a is not a number.
func NumericIsNaN(a Datum) bool { return a.s == "NaN" }

// NumericRound rounds half away from zero to scale digits (negative: tens …).
func NumericRound(a Datum, scale int) Datum {
	scale = min(max(scale, -numericMaxResultScale), numericMaxResultScale)
	return parseDec(a.s).round(int32(scale), false).datum()
}

// NumericTrunc cuts off after scale digits.
func NumericTrunc(a Datum, scale int) Datum {
	scale = min(max(scale, -numericMaxResultScale), numericMaxResultScale)
	return parseDec(a.s).round(int32(scale), true).datum()
}

// NumericFloor and NumericCeil round to integers downwards and upwards.
func NumericFloor(a Datum) Datum { return floorCeil(a, -1) }

// NumericCeil rounds up to an integer.
func NumericCeil(a Datum) Datum { return floorCeil(a, 1) }

func floorCeil(a Datum, dir int) Datum {
	d := parseDec(a.s)
	t := d.round(0, true)
	if t.form == finite && cmpDec(t, d)*dir < 0 {
		t = addDec(t, dec{small: int64(dir)}, false)
	}
	return t.datum()
}

// NumericScale is the display scale; ok is false for NaN and infinities.
func NumericScale(a Datum) (scale int, ok bool) {
	d := parseDec(a.s)
	return int(d.scale), d.form == finite
}

// NumericTrim removes trailing zeros behind the point.
func NumericTrim(a Datum) Datum {
	d := parseDec(a.s)
	if d.form != finite || d.scale == 0 {
		return a
	}
	s := a.s
	for s[len(s)-1] == '0' {
		s = s[:len(s)-1]
	}
	if s[len(s)-1] == '.' {
		s = s[:len(s)-1]
	}
	return NumericText(s)
}

// NumericToInt64 rounds half away from zero; ok is false when the result does not
// fit, or a is not finite.
func NumericToInt64(a Datum) (int64, bool) {
	d := parseDec(a.s)
	if d.form != finite {
		return 0, false
	}
	d = d.round(0, false)
	if d.big != nil {
		if !d.big.IsInt64() {
			return 0, false
		}
		return d.big.Int64(), true
	}
	return d.small, true
}

// NumericToFloat64 returns the nearest float; infinity when there is none.
func NumericToFloat64(a Datum) float64 {
	f, _ := strconv.ParseFloat(a.s, 64)
	return f
}

// NumericFromFloat converts as PostgreSQL casts: to 15 (float8) or 6 (float4)
// significant digits.
func NumericFromFloat(f float64, digits int) Datum {
	switch {
	case math.IsNaN(f):
		return numericNaN
	case math.IsInf(f, 1):
		return numericInf
	case math.IsInf(f, -1):
		return numericNegInf
	}
	var tmp [32]byte
	d, err := ParseNumeric(string(strconv.AppendFloat(tmp[:0], f, 'g', digits, 64)))
	if err != nil {
		return numericNaN
	}
	return d
}
