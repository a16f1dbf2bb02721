package expr

import (
	"strings"

	"github.com/spandb/spand/sql/types"
)

// cmpOp is a comparison as a bit set of the outcomes that make it true, so that
// testing is one shift.
type cmpOp uint8

const (
	cmpLT cmpOp = 1
	cmpEQ cmpOp = 2
	cmpGT cmpOp = 4
	cmpLE       = cmpLT | cmpEQ
	cmpGE       = cmpGT | cmpEQ
	cmpNE       = cmpLT | cmpGT
)

var cmpOps = map[string]cmpOp{"=": cmpEQ, "<>": cmpNE, "<": cmpLT, "<=": cmpLE, ">": cmpGT, ">=": cmpGE}

func (o cmpOp) String() string {
	for s, x := range cmpOps {
		if x == o {
			return s
		}
	}
	return "?"
}

// holds reports whether the outcome c (<0, 0, >0) makes the comparison true.
func (o cmpOp) holds(c int) bool {
	switch {
	case c < 0:
		return o&cmpLT != 0
	case c > 0:
		return o&cmpGT != 0
	}
	return o&cmpEQ != 0
}

// commuted is the comparison with its sides exchanged.
func (o cmpOp) commuted() cmpOp {
	r := o & cmpEQ
	if o&cmpLT != 0 {
		r |= cmpGT
	}
	if o&cmpGT != 0 {
		r |= cmpLT
	}
	return r
}

// cmpNode compares two values of one kind. col and colR are the sides' column
// indexes when they are plain columns, -1 otherwise: the commonest case skips an
// indirect call.
type cmpNode struct {
	op   cmpOp
	l, r Expr
	lcol int
	typ  types.Type // of both sides
	fast uint8
}

const (
	cmpSlow uint8 = iota
	cmpInts       // compare n
	cmpStrings
)

func newCmp(op cmpOp, l, r Expr) Expr {
	n := &cmpNode{op: op, l: l, r: r, lcol: -1, typ: l.Type()}
	if c, ok := Unwrap(l).(*colNode); ok && c.idx >= 0 {
		n.lcol = c.idx
	}
	switch types.KindOf(n.typ.OID) {
	case types.KindBool, types.KindInt, types.KindTimestamp, types.KindDate, types.KindTime:
		if n.typ.OID != types.OIDXid8 {
			n.fast = cmpInts
		}
	case types.KindText:
		if n.typ.OID != types.OIDBPChar {
			n.fast = cmpStrings
		}
	case types.KindUUID:
		n.fast = cmpStrings
	case types.KindBytes:
		if n.typ.OID == types.OIDBytea {
			n.fast = cmpStrings
		}
	}
	return n
}

func (n *cmpNode) Type() types.Type { return boolType }
func (n *cmpNode) Eval(ec *EvalContext, row []types.Datum) (types.Datum, error) {
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
	switch n.fast {
	case cmpInts:
		x, y := a.Int(), b.Int()
		switch {
		case x < y:
			return types.Bool(n.op&cmpLT != 0), nil
		case x > y:
			return types.Bool(n.op&cmpGT != 0), nil
		}
		return types.Bool(n.op&cmpEQ != 0), nil
	case cmpStrings:
		if n.op == cmpEQ {
			return types.Bool(a.Str() == b.Str()), nil
		}
		return types.Bool(n.op.holds(strings.Compare(a.Str(), b.Str()))), nil
	}
	return types.Bool(n.op.holds(types.Compare(a, b, n.typ))), nil
}
func (n *cmpNode) kids() []Expr           { return []Expr{n.l, n.r} }
func (n *cmpNode) with(k []Expr) Expr     { return newCmp(n.op, k[0], k[1]) }
func (n *cmpNode) head() string           { return n.op.String() }
func (n *cmpNode) volatility() Volatility { return Immutable }
