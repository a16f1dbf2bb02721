package expr

import (
	"math"
	"math/bits"

	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

func errDivZero() error { return sqlstate.Newf(sqlstate.DivisionByZero, "division by zero") }

func errOutOfRange(oid types.OID) error {
	switch oid {
	case types.OIDInt2:
		return sqlstate.Newf(sqlstate.NumericValueOutOfRange, "smallint out of range")
	case types.OIDInt8:
		return sqlstate.Newf(sqlstate.NumericValueOutOfRange, "bigint out of range")
	}
	return sqlstate.Newf(sqlstate.NumericValueOutOfRange, "integer out of range")
}

// fitsInt reports whether v is in the range of the integer type oid.
func fitsInt(v int64, oid types.OID) bool {
	switch oid {
	case types.OIDInt2:
		return v == int64(int16(v))
	case types.OIDInt4:
		return v == int64(int32(v))
	}
	return true
}

// arithNode is + - * / % over integers of any width; the result is checked against typ.
type arithNode struct {
	op   byte
	l, r Expr
	lcol int
	typ  types.Type
}

func newArith(op byte, l, r Expr, t types.OID) Expr {
	n := &arithNode{op: op, l: l, r: r, lcol: -1, typ: types.T(t)}
	if c, ok := l.(*colNode); ok && c.idx >= 0 {
		n.lcol = c.idx
	}
	return n
}

func (n *arithNode) Type() types.Type { return n.typ }
func (n *arithNode) Eval(ec *EvalContext, row []types.Datum) (types.Datum, error) {
	var a types.Datum
	var err error
	if n.lcol >= 0 {
		a = row[n.lcol]
	} else if a, err = n.l.Eval(ec, row); err != nil {
		return types.Null, err
	}
	if a.IsNull() {
		return types.Null, nil
	}
	b, err := n.r.Eval(ec, row)
	if err != nil || b.IsNull() {
		return types.Null, err
	}
	v, err := intArith(n.op, a.Int(), b.Int(), n.typ.OID)
	if err != nil {
		return types.Null, err
	}
	return types.Int(v), nil
}
func (n *arithNode) kids() []Expr           { return []Expr{n.l, n.r} }
func (n *arithNode) with(k []Expr) Expr     { return newArith(n.op, k[0], k[1], n.typ.OID) }
func (n *arithNode) head() string           { return string(n.op) + "i" + types.BaseName(n.typ.OID) }
func (n *arithNode) volatility() Volatility { return Immutable }

func intArith(op byte, x, y int64, t types.OID) (int64, error) {
	var v int64
	switch op {
	case '+':
		if v = x + y; (v > x) != (y > 0) && y != 0 {
			return 0, errOutOfRange(t)
		}
	case '-':
		if v = x - y; (v < x) != (y > 0) && y != 0 {
			return 0, errOutOfRange(t)
		}
	case '*':
		hi, lo := bits.Mul64(uint64(x), uint64(y))
		// Signed high word from the unsigned product.
		if x < 0 {
			hi -= uint64(y)
		}
		if y < 0 {
			hi -= uint64(x)
		}
		v = int64(lo)
		if int64(hi) != v>>63 {
			return 0, errOutOfRange(t)
		}
	case '/':
		if y == 0 {
			return 0, errDivZero()
		}
		if y == -1 && x == math.MinInt64 {
			return 0, errOutOfRange(t)
		}
		v = x / y
	case '%':
		if y == 0 {
			return 0, errDivZero()
		}
		if y == -1 {
			return 0, nil
		}
		v = x % y
	}
	if !fitsInt(v, t) {
		return 0, errOutOfRange(t)
	}
	return v, nil
}

func errFloatOverflow() error {
	return sqlstate.Newf(sqlstate.NumericValueOutOfRange, "value out of range: overflow")
}
func errFloatUnderflow() error {
	return sqlstate.Newf(sqlstate.NumericValueOutOfRange, "value out of range: underflow")
}

// floatArith applies PostgreSQL's checks: an infinite result of finite operands is
// an overflow, a zero product or quotient of non-zero ones an underflow.
func floatArith(op byte, single bool) fn2 {
	return func(_ *EvalContext, a, b types.Datum) (types.Datum, error) {
		x, y := a.Float(), b.Float()
		var v float64
		switch op {
		case '+':
			v = x + y
		case '-':
			v = x - y
		case '*':
			v = x * y
		case '/':
			if y == 0 && !math.IsNaN(x) {
				return types.Null, errDivZero()
			}
			v = x / y
		}
		if single {
			v = float64(float32(v))
		}
		if math.IsInf(v, 0) && !math.IsInf(x, 0) && !math.IsInf(y, 0) {
			return types.Null, errFloatOverflow()
		}
		if v == 0 && (op == '*' && x != 0 && y != 0 || op == '/' && x != 0 && !math.IsInf(y, 0)) {
			return types.Null, errFloatUnderflow()
		}
		return types.Float(v), nil
	}
}

func num2(f func(a, b types.Datum) (types.Datum, error)) fn2 {
	return func(_ *EvalContext, a, b types.Datum) (types.Datum, error) { return f(a, b) }
}

func intBits(op string) fn2 {
	return func(_ *EvalContext, a, b types.Datum) (types.Datum, error) {
		x, y := a.Int(), b.Int()
		switch op {
		case "&":
			return types.Int(x & y), nil
		case "|":
			return types.Int(x | y), nil
		}
		return types.Int(x ^ y), nil
	}
}

// shift truncates to the width of t, as C does.
func shift(left bool, t types.OID) fn2 {
	return func(_ *EvalContext, a, b types.Datum) (types.Datum, error) {
		x, n := a.Int(), uint64(b.Int())
		switch t {
		case types.OIDInt2:
			n &= 31
			if left {
				return types.Int(int64(int16(int32(x) << n))), nil
			}
		case types.OIDInt4:
			n &= 31
			if left {
				return types.Int(int64(int32(x) << n)), nil
			}
		default:
			n &= 63
			if left {
				return types.Int(x << n), nil
			}
		}
		return types.Int(x >> n), nil
	}
}
