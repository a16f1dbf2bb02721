package expr

import (
	"hash/maphash"
	"strconv"

	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

var seed = maphash.MakeSeed()

// inNode is x [NOT] IN (list), all of one type. Lists of row-independent items are
// hashed once per execution when they are long.
type inNode struct {
	a     Expr
	items []Expr
	typ   types.Type
	not   bool
	hash  bool
}

// hashFrom is the number of items from which a hash table beats a linear search.
const hashFrom = 9

type inSet struct {
	built bool
	null  bool
	m     map[uint64][]types.Datum
}

func newIn(a Expr, items []Expr, t types.Type, not bool) Expr {
	n := &inNode{a: a, items: items, typ: t, not: not, hash: len(items) >= hashFrom}
	for _, it := range items {
		n.hash = n.hash && IsConst(it)
	}
	return n
}

func (n *inNode) Type() types.Type { return boolType }
func (n *inNode) Eval(ec *EvalContext, row []types.Datum) (types.Datum, error) {
	a, err := n.a.Eval(ec, row)
	if err != nil || a.IsNull() {
		return types.Null, err
	}
	if n.hash {
		s := remember(ec, n, func() *inSet { return new(inSet) })
		if !s.built {
			s.m = make(map[uint64][]types.Datum, len(n.items))
			for _, it := range n.items {
				d, err := it.Eval(ec, nil)
				if err != nil {
					return types.Null, err
				}
				if d.IsNull() {
					s.null = true
					continue
				}
				h := types.Hash(seed, d, n.typ)
				s.m[h] = append(s.m[h], d)
			}
			s.built = true
		}
		for _, d := range s.m[types.Hash(seed, a, n.typ)] {
			if types.Compare(a, d, n.typ) == 0 {
				return types.Bool(!n.not), nil
			}
		}
		if s.null {
			return types.Null, nil
		}
		return types.Bool(n.not), nil
	}
	null := false
	for _, it := range n.items {
		d, err := it.Eval(ec, row)
		if err != nil {
			return types.Null, err
		}
		if d.IsNull() {
			null = true
		} else if types.Compare(a, d, n.typ) == 0 {
			return types.Bool(!n.not), nil
		}
	}
	if null {
		return types.Null, nil
	}
	return types.Bool(n.not), nil
}
func (n *inNode) kids() []Expr           { return append([]Expr{n.a}, n.items...) }
func (n *inNode) with(k []Expr) Expr     { return newIn(k[0], k[1:], n.typ, n.not) }
func (n *inNode) head() string           { return "in" + strconv.FormatBool(n.not) }
func (n *inNode) volatility() Volatility { return Immutable }

func (b *binder) in(n *pgast.In) (Expr, error) {
	if n.Query != nil {
		return b.inSubquery(n)
	}
	if lr := rowElems(n.Arg); lr != nil {
		var parts []Expr
		for _, it := range n.List {
			rr := rowElems(it)
			if rr == nil {
				return nil, b.errf(n.Pos, sqlstate.SyntaxError, "unequal number of entries in row expressions")
			}
			ls, err := b.binds(lr)
			if err != nil {
				return nil, err
			}
			rs, err := b.binds(rr)
			if err != nil {
				return nil, err
			}
			e, err := compareRows("=", ls, rs)
			if err != nil {
				return nil, b.at(err, n.Pos)
			}
			parts = append(parts, e)
		}
		e := Or(parts...)
		if n.Not {
			e = &notNode{e}
		}
		return e, nil
	}
	a, err := b.bind(n.Arg)
	if err != nil {
		return nil, err
	}
	items, err := b.binds(n.List)
	if err != nil {
		return nil, err
	}
	// One type for all when there is one and it compares; else a chain of =.
	if t, err := CommonType("IN", append([]Expr{a}, items...)); err == nil && types.Comparable(t.OID) {
		ok := true
		conv := make([]Expr, len(items))
		x, err := Cast(a, types.T(t.OID), CastImplicit)
		if err != nil {
			ok = false
		}
		if t.OID == tVar { // there is no operator for varchar itself
			t = types.T(tText)
			x, _ = Cast(x, t, CastImplicit)
		}
		// An integer column stays itself next to literals of a wider integer type, so
		// that an index over it can be used.
		for i := range items {
			if !ok {
				break
			}
			if conv[i], err = Cast(items[i], types.T(t.OID), CastImplicit); err != nil {
				ok = false
			}
		}
		if ok {
			return newIn(x, conv, types.T(t.OID), n.Not), nil
		}
	}
	parts := make([]Expr, len(items))
	for i, it := range items {
		e, err := Binary("=", a, it)
		if err != nil {
			return nil, b.at(err, n.Pos)
		}
		parts[i] = e
	}
	e := Or(parts...)
	if n.Not {
		e = &notNode{e}
	}
	return e, nil
}

// quantNode is a op ANY|ALL (array): cmp compares columns 0 and 1 of a scratch row.
type quantNode struct {
	a, arr Expr
	cmp    Expr
	all    bool
}

func (n *quantNode) Type() types.Type { return boolType }
func (n *quantNode) Eval(ec *EvalContext, row []types.Datum) (types.Datum, error) {
	arr, err := n.arr.Eval(ec, row)
	if err != nil || arr.IsNull() {
		return types.Null, err
	}
	a, err := n.a.Eval(ec, row)
	if err != nil {
		return types.Null, err
	}
	it := arr.Iter()
	null := false
	scratch := []types.Datum{a, types.Null}
	for {
		e, ok := it.Next()
		if !ok {
			break
		}
		scratch[1] = e
		r, err := n.cmp.Eval(ec, scratch)
		if err != nil {
			return types.Null, err
		}
		if r.IsNull() {
			null = true
		} else if r.Bool() != n.all {
			return r, nil
		}
	}
	if null {
		return types.Null, nil
	}
	return types.Bool(n.all), nil
}
func (n *quantNode) kids() []Expr           { return []Expr{n.a, n.arr} }
func (n *quantNode) with(k []Expr) Expr     { return &quantNode{k[0], k[1], n.cmp, n.all} }
func (n *quantNode) head() string           { return "quant" + strconv.FormatBool(n.all) + Key(n.cmp) }
func (n *quantNode) volatility() Volatility { return Immutable }

func (b *binder) quantified(n *pgast.Quantified) (Expr, error) {
	if n.Query != nil {
		return b.quantifiedSubquery(n)
	}
	a, err := b.bind(n.Left)
	if err != nil {
		return nil, err
	}
	arr, err := b.bind(n.Array)
	if err != nil {
		return nil, err
	}
	if t := arr.Type().OID; t == tUnk {
		et := a.Type().OID
		if et == tUnk || et == tVar || et == 0 {
			et = tText
		}
		at := types.ArrayOf(et)
		if at == 0 {
			return nil, b.errf(n.Pos, sqlstate.UndefinedObject, "could not find array type for data type %s", types.BaseName(et))
		}
		if arr, err = Cast(arr, types.T(at), CastImplicit); err != nil {
			return nil, b.at(err, n.Pos)
		}
	} else if !types.IsArray(t) {
		return nil, b.errf(n.Pos, sqlstate.WrongObjectType, "op ANY/ALL (array) requires array on right side")
	}
	et := types.ElemType(arr.Type())
	left, right, cmp, err := scratchOp(n.Op, a, et)
	if err != nil {
		return nil, b.at(err, n.Pos)
	}
	_ = right
	if cmp.Type().OID != tBool {
		return nil, b.errf(n.Pos, sqlstate.WrongObjectType, "op ANY/ALL (array) requires operator to yield boolean")
	}
	return &quantNode{a: left, arr: arr, cmp: cmp, all: n.All}, nil
}

// scratchOp resolves op between the value of a and a value of type rt, both taken
// from columns 0 and 1 of a scratch row. left is a with its type settled.
func scratchOp(op string, a Expr, rt types.Type) (left Expr, right types.Type, cmp Expr, err error) {
	left = a
	if t := a.Type().OID; t == tUnk || t == 0 {
		// Let the operator settle the unknown side first.
		probe, err := Binary(op, a, &colNode{idx: 1, typ: rt})
		if err != nil {
			return nil, rt, nil, err
		}
		if k := probe.(node).kids(); len(k) >= 1 {
			left = k[0]
		}
		if left.Type().OID == tUnk {
			if left, err = coerceUnknown(left, types.T(tText), false); err != nil {
				return nil, rt, nil, err
			}
		}
	}
	cmp, err = Binary(op, &colNode{idx: 0, typ: left.Type()}, &colNode{idx: 1, typ: rt})
	return left, rt, cmp, err
}
