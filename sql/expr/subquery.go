package expr

import (
	"fmt"

	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

// subNode is what the nodes over subqueries share. Two of them are never equal.
type subNode struct{ plan SubPlan }

func (s *subNode) head() string           { return fmt.Sprintf("sub%p", s.plan) }
func (s *subNode) volatility() Volatility { return Stable }

// SubPlanOf returns the subplan of a node over a subquery, for EXPLAIN and for
// planners that look into expressions.
func SubPlanOf(e Expr) (SubPlan, bool) {
	if s, ok := e.(interface{ subPlan() SubPlan }); ok {
		return s.subPlan(), true
	}
	return nil, false
}

func (s *subNode) subPlan() SubPlan { return s.plan }

func (b *binder) subquery(q *pgast.Select, kind string, columns int) (SubPlan, error) {
	p, err := b.env.Subquery(q, kind)
	if err != nil {
		return nil, err
	}
	if n := len(p.Types()); columns > 0 && n != columns {
		if n > columns {
			if columns == 1 && kind == "scalar" {
				return nil, sqlstate.Newf(sqlstate.SyntaxError, "subquery must return only one column")
			}
			return nil, sqlstate.Newf(sqlstate.SyntaxError, "subquery has too many columns")
		}
		return nil, sqlstate.Newf(sqlstate.SyntaxError, "subquery has too few columns")
	}
	return p, nil
}

// memoResult is an uncorrelated subquery's result in one execution.
type memoResult struct {
	done bool
	d    types.Datum
}

// scalarNode is (SELECT …): NULL without a row, an error with two.
type scalarNode struct{ subNode }

func (n *scalarNode) Type() types.Type { return n.plan.Types()[0] }
func (n *scalarNode) Eval(ec *EvalContext, row []types.Datum) (types.Datum, error) {
	var memo *memoResult
	if !n.plan.Correlated() {
		if memo = remember(ec, n, func() *memoResult { return new(memoResult) }); memo.done {
			return memo.d, nil
		}
	}
	count := 0
	out := types.Null
	err := n.plan.Run(ec, row, func(r []types.Datum) (bool, error) {
		if count++; count > 1 {
			return false, sqlstate.Newf(sqlstate.CardinalityViolation, "more than one row returned by a subquery used as an expression")
		}
		out = Detach(r[0])
		return true, nil
	})
	if err != nil {
		return types.Null, err
	}
	if memo != nil {
		*memo = memoResult{true, out}
	}
	return out, nil
}
func (n *scalarNode) kids() []Expr     { return nil }
func (n *scalarNode) with([]Expr) Expr { return n }

func (b *binder) scalarSubquery(q *pgast.Select) (Expr, error) {
	p, err := b.subquery(q, "scalar", 1)
	if err != nil {
		return nil, err
	}
	return &scalarNode{subNode{p}}, nil
}

// existsNode is EXISTS (SELECT …).
type existsNode struct{ subNode }

func (n *existsNode) Type() types.Type { return boolType }
func (n *existsNode) Eval(ec *EvalContext, row []types.Datum) (types.Datum, error) {
	var memo *memoResult
	if !n.plan.Correlated() {
		if memo = remember(ec, n, func() *memoResult { return new(memoResult) }); memo.done {
			return memo.d, nil
		}
	}
	found := false
	if err := n.plan.Run(ec, row, func([]types.Datum) (bool, error) { found = true; return false, nil }); err != nil {
		return types.Null, err
	}
	if memo != nil {
		*memo = memoResult{true, types.Bool(found)}
	}
	return types.Bool(found), nil
}
func (n *existsNode) kids() []Expr     { return nil }
func (n *existsNode) with([]Expr) Expr { return n }

func (b *binder) exists(q *pgast.Select) (Expr, error) {
	p, err := b.subquery(q, "exists", 0)
	if err != nil {
		return nil, err
	}
	return &existsNode{subNode{p}}, nil
}

// arraySubNode is ARRAY(SELECT …).
type arraySubNode struct {
	subNode
	typ types.Type
}

func (n *arraySubNode) Type() types.Type { return n.typ }
func (n *arraySubNode) Eval(ec *EvalContext, row []types.Datum) (types.Datum, error) {
	var memo *memoResult
	if !n.plan.Correlated() {
		if memo = remember(ec, n, func() *memoResult { return new(memoResult) }); memo.done {
			return memo.d, nil
		}
	}
	var ab types.ArrayBuilder
	if err := n.plan.Run(ec, row, func(r []types.Datum) (bool, error) { ab.Append(r[0]); return true, nil }); err != nil {
		return types.Null, err
	}
	d := ab.Array()
	if memo != nil {
		*memo = memoResult{true, d}
	}
	return d, nil
}
func (n *arraySubNode) kids() []Expr     { return nil }
func (n *arraySubNode) with([]Expr) Expr { return n }

func (b *binder) arraySubquery(q *pgast.Select) (Expr, error) {
	p, err := b.subquery(q, "array", 1)
	if err != nil {
		return nil, err
	}
	et := p.Types()[0]
	at := types.ArrayOf(et.OID)
	if at == 0 {
		return nil, sqlstate.Newf(sqlstate.UndefinedObject, "could not find array type for data type %s", types.BaseName(et.OID))
	}
	return &arraySubNode{subNode{p}, types.Type{OID: at, Mod: et.Mod}}, nil
}

// quantSubNode is (a, …) op ANY|ALL (SELECT …), IN included. cmp compares columns
// 0 … n-1 (left) with n … 2n-1 (a subquery's row) of a scratch row.
type quantSubNode struct {
	subNode
	left []Expr
	cmp  Expr
	all  bool
	// one: a row comparison with a subquery of at most one row.
	one bool
	// eq is the type to hash by when cmp is a plain = of one column, {0} otherwise.
	eq types.Type
}

type subRows struct {
	done bool
	null bool
	rows [][]types.Datum
	m    map[uint64][]types.Datum
}

func (n *quantSubNode) Type() types.Type { return boolType }
func (n *quantSubNode) Eval(ec *EvalContext, row []types.Datum) (types.Datum, error) {
	k := len(n.left)
	scratch := make([]types.Datum, 2*k)
	for i, l := range n.left {
		d, err := l.Eval(ec, row)
		if err != nil {
			return types.Null, err
		}
		scratch[i] = d
	}
	null, decided := false, false
	count := 0
	test := func(r []types.Datum) (bool, error) {
		if count++; n.one && count > 1 {
			return false, sqlstate.Newf(sqlstate.CardinalityViolation, "more than one row returned by a subquery used as an expression")
		}
		copy(scratch[k:], r[:k])
		d, err := n.cmp.Eval(ec, scratch)
		if err != nil {
			return false, err
		}
		switch {
		case d.IsNull():
			null = true
		case d.Bool() != n.all:
			decided = true
			return n.one, nil
		}
		return true, nil
	}
	if n.plan.Correlated() || n.one {
		if err := n.plan.Run(ec, row, test); err != nil {
			return types.Null, err
		}
	} else {
		memo := remember(ec, n, func() *subRows { return new(subRows) })
		if !memo.done {
			if err := n.collect(ec, row, memo); err != nil {
				return types.Null, err
			}
		}
		if memo.m != nil {
			return n.probe(scratch[0], memo), nil
		}
		for _, r := range memo.rows {
			if more, err := test(r); err != nil {
				return types.Null, err
			} else if !more {
				break
			}
		}
	}
	switch {
	case n.one && count == 0:
		return types.Null, nil
	case decided:
		return types.Bool(!n.all), nil
	case null:
		return types.Null, nil
	}
	return types.Bool(n.all), nil
}

// collect keeps the rows of an uncorrelated subquery for the execution, hashed for
// a plain =.
func (n *quantSubNode) collect(ec *EvalContext, row []types.Datum, memo *subRows) error {
	if n.eq.OID != 0 && !n.all {
		memo.m = map[uint64][]types.Datum{}
	}
	k := len(n.left)
	err := n.plan.Run(ec, row, func(r []types.Datum) (bool, error) {
		if memo.m == nil {
			c := make([]types.Datum, k)
			for i := range c {
				c[i] = Detach(r[i])
			}
			memo.rows = append(memo.rows, c)
			return true, nil
		}
		if r[0].IsNull() {
			memo.null = true
			return true, nil
		}
		h := types.Hash(seed, r[0], n.eq)
		for _, d := range memo.m[h] {
			if types.Compare(d, r[0], n.eq) == 0 {
				return true, nil
			}
		}
		memo.m[h] = append(memo.m[h], Detach(r[0]))
		return true, nil
	})
	memo.done = err == nil
	return err
}

func (n *quantSubNode) probe(a types.Datum, memo *subRows) types.Datum {
	if a.IsNull() {
		if len(memo.m) == 0 && !memo.null {
			return types.Bool(false)
		}
		return types.Null
	}
	for _, d := range memo.m[types.Hash(seed, a, n.eq)] {
		if types.Compare(a, d, n.eq) == 0 {
			return types.Bool(true)
		}
	}
	if memo.null {
		return types.Null
	}
	return types.Bool(false)
}

func (n *quantSubNode) kids() []Expr { return n.left }
func (n *quantSubNode) with(k []Expr) Expr {
	c := *n
	c.left = k
	return &c
}

func (b *binder) inSubquery(n *pgast.In) (Expr, error) {
	left := rowElems(n.Arg)
	if left == nil {
		left = []pgast.Expr{n.Arg}
	}
	e, err := b.quantSub("=", left, n.Query, "in", false, n.Pos)
	if err != nil {
		return nil, err
	}
	if n.Not {
		e = &notNode{e}
	}
	return e, nil
}

func (b *binder) quantifiedSubquery(n *pgast.Quantified) (Expr, error) {
	left := rowElems(n.Left)
	if left == nil {
		left = []pgast.Expr{n.Left}
	}
	kind := "any"
	if n.All {
		kind = "all"
	}
	return b.quantSub(n.Op, left, n.Query, kind, n.All, n.Pos)
}

func (b *binder) rowSubquery(op string, left []pgast.Expr, q *pgast.Select, pos int) (Expr, error) {
	e, err := b.quantSub(op, left, q, "any", false, pos)
	if err != nil {
		return nil, err
	}
	e.(*quantSubNode).one = true
	return e, nil
}

func (b *binder) quantSub(op string, left []pgast.Expr, q *pgast.Select, kind string, all bool, pos int) (Expr, error) {
	ls, err := b.binds(left)
	if err != nil {
		return nil, err
	}
	p, err := b.subquery(q, kind, len(ls))
	if err != nil {
		return nil, b.at(err, pos)
	}
	ts := p.Types()
	n := &quantSubNode{subNode: subNode{p}, left: ls, all: all}
	lcols, rcols := make([]Expr, len(ls)), make([]Expr, len(ls))
	for i := range ls {
		l, _, _, err := scratchOp(op, ls[i], ts[i])
		if err != nil {
			return nil, b.at(err, pos)
		}
		ls[i] = l
		lcols[i] = &colNode{idx: i, typ: l.Type()}
		rcols[i] = &colNode{idx: len(ls) + i, typ: ts[i]}
	}
	if len(ls) == 1 {
		n.cmp, err = Binary(op, lcols[0], rcols[0])
	} else {
		n.cmp, err = compareRows(op, lcols, rcols)
	}
	if err != nil {
		return nil, b.at(err, pos)
	}
	if n.cmp.Type().OID != tBool {
		return nil, b.errf(pos, sqlstate.WrongObjectType, "op ANY/ALL (subquery) requires operator to yield boolean")
	}
	if c, ok := n.cmp.(*cmpNode); ok && c.op == cmpEQ && len(ls) == 1 {
		// Hash when neither side is converted by the comparison.
		_, l := Unwrap(c.l).(*colNode)
		_, r := Unwrap(c.r).(*colNode)
		if l && r && types.KindOf(c.l.Type().OID) == types.KindOf(c.r.Type().OID) {
			n.eq = c.typ
		}
	}
	return n, nil
}

// Detach copies what d may alias, for values kept longer than their row.
func Detach(d types.Datum) types.Datum {
	if s := d.Str(); s != "" {
		return types.Raw(d.Kind(), d.Int(), string(append([]byte(nil), s...)))
	}
	return d
}
