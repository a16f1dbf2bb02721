package expr

import (
	"sort"
	"strings"

	"github.com/spandb/spand/sql/types"
)

// Walk calls f for e and, while f returns true, for what is below, in order.
func Walk(e Expr, f func(Expr) bool) {
	if e == nil || !f(e) {
		return
	}
	if n, ok := e.(node); ok {
		for _, k := range n.kids() {
			Walk(k, f)
		}
	}
}

// Rewrite replaces subtrees from the top: where f returns an expression it stands
// instead, where it returns nil its kids are rewritten.
func Rewrite(e Expr, f func(Expr) Expr) Expr {
	if r := f(e); r != nil {
		return r
	}
	n, ok := e.(node)
	if !ok {
		return e
	}
	kids := n.kids()
	var out []Expr
	for i, k := range kids {
		r := Rewrite(k, f)
		if r != k && out == nil {
			out = append([]Expr(nil), kids...)
		}
		if out != nil {
			out[i] = r
		}
	}
	if out == nil {
		return e
	}
	return n.with(out)
}

// Remap changes the column indexes of the input row.
func Remap(e Expr, f func(int) int) Expr {
	return remapAll(e, func(i int) int {
		if i < 0 { // a CASE argument's place
			return i
		}
		return f(i)
	})
}

func remapAll(e Expr, f func(int) int) Expr {
	return Rewrite(e, func(x Expr) Expr {
		if c, ok := x.(*colNode); ok {
			if i := f(c.idx); i != c.idx {
				n := *c
				n.idx = i
				return &n
			}
			return c
		}
		return nil
	})
}

// Shift moves all column indexes by n: for the right side of a join.
func Shift(e Expr, n int) Expr { return Remap(e, func(i int) int { return i + n }) }

// Columns returns the indexes of the input row's columns that e reads, ascending.
// What a correlated subquery reads is not among them: see SubPlanOf.
func Columns(e Expr) []int {
	seen := map[int]bool{}
	Walk(e, func(x Expr) bool {
		if c, ok := x.(*colNode); ok && c.idx >= 0 {
			seen[c.idx] = true
		}
		return true
	})
	out := make([]int, 0, len(seen))
	for i := range seen {
		out = append(out, i)
	}
	sort.Ints(out)
	return out
}

// HasSubPlan reports whether e contains a subquery.
func HasSubPlan(e Expr) bool {
	found := false
	Walk(e, func(x Expr) bool {
		_, ok := SubPlanOf(x)
		found = found || ok
		return !found
	})
	return found
}

// HasOuter reports whether e reads a row of an enclosing query.
func HasOuter(e Expr) bool {
	found := false
	Walk(e, func(x Expr) bool {
		_, ok := x.(*outerNode)
		found = found || ok
		return !found
	})
	return found
}

// VolatilityOf is the greatest volatility in e.
func VolatilityOf(e Expr) Volatility {
	v := Immutable
	Walk(e, func(x Expr) bool {
		if n, ok := x.(node); ok {
			v = max(v, n.volatility())
		} else {
			v = VolatileFunc
		}
		return true
	})
	return v
}

// Volatile reports whether e may give another value each time it is evaluated.
func Volatile(e Expr) bool { return VolatilityOf(e) == VolatileFunc }

// IsConst reports whether e has one value throughout an execution, for whatever
// row: no columns, nothing volatile, no correlated subquery. It may be evaluated
// with a nil row.
func IsConst(e Expr) bool {
	ok := true
	Walk(e, func(x Expr) bool {
		switch n := x.(type) {
		case *colNode, *outerNode:
			ok = false
		case node:
			if n.volatility() == VolatileFunc {
				ok = false
			}
			if p, is := SubPlanOf(x); is && p.Correlated() {
				ok = false
			}
		default:
			ok = false
		}
		return ok
	})
	return ok
}

// ConstantFold evaluates what depends on nothing now, and arranges for what is
// constant during an execution to be evaluated once in it. It never raises an
// error: what fails stays, to fail if it is reached.
func ConstantFold(e Expr) Expr {
	return Rewrite(e, func(x Expr) Expr {
		switch x.(type) {
		case *onceNode, *constNode, *litNode, *paramNode, *colNode, *outerNode:
			return x
		}
		n, ok := x.(node)
		if !ok || len(n.kids()) == 0 || !IsConst(x) {
			return nil
		}
		// Only literals below and immutable: known now.
		known := VolatilityOf(x) == Immutable && !HasSubPlan(x)
		if known {
			Walk(x, func(y Expr) bool {
				switch y.(type) {
				case *constNode, *paramNode, *onceNode:
					known = false
				}
				return known
			})
		}
		if known {
			if d, err := x.Eval(&EvalContext{}, nil); err == nil {
				return &litNode{d: Detach(d), typ: x.Type()}
			}
			return x
		}
		// A conversion of a single literal is as cheap as remembering it only when
		// it changes nothing.
		if r, ok := x.(*relabelNode); ok {
			if _, leaf := r.a.(*constNode); leaf {
				return x
			}
			if _, leaf := r.a.(*paramNode); leaf {
				return x
			}
		}
		return &onceNode{x}
	})
}

// Unwrap strips conversions that do not change the representation (varchar to
// text) and the marks of ConstantFold.
func Unwrap(e Expr) Expr {
	for {
		switch n := e.(type) {
		case *relabelNode:
			e = n.a
		case *onceNode:
			e = n.a
		default:
			return e
		}
	}
}

// AsColumn returns the input column that e is, seen through relabelings.
func AsColumn(e Expr) (idx int, ok bool) {
	if c, is := Unwrap(e).(*colNode); is && c.idx >= 0 {
		return c.idx, true
	}
	return 0, false
}

// AsOuter returns the column of an enclosing query's row that e is.
func AsOuter(e Expr) (level, idx int, ok bool) {
	if c, is := Unwrap(e).(*outerNode); is {
		return c.level, c.idx, true
	}
	return 0, 0, false
}

// ColumnName is the name of the column that e is, "" for others.
func ColumnName(e Expr) string {
	switch c := Unwrap(e).(type) {
	case *colNode:
		return c.name
	case *outerNode:
		return c.name
	}
	return ""
}

// AsConst returns a literal's slot, or its value when it is known.
func AsConst(e Expr) (slot int, ok bool) {
	if c, is := Unwrap(e).(*constNode); is {
		return c.slot, true
	}
	return 0, false
}

// AsLiteral returns the value of an expression that is known without executing.
func AsLiteral(e Expr) (types.Datum, bool) {
	if l, is := Unwrap(e).(*litNode); is {
		return l.d, true
	}
	return types.Null, false
}

// AsParam returns n of $n.
func AsParam(e Expr) (n int, ok bool) {
	if p, is := Unwrap(e).(*paramNode); is {
		return p.n, true
	}
	return 0, false
}

// ConstSlots are the slots of the constants in e, ascending. A plan that rests on
// equality of constants (Key: GROUP BY a + 1) is valid for their values only.
func ConstSlots(e Expr) []int {
	var out []int
	Walk(e, func(x Expr) bool {
		if c, ok := x.(*constNode); ok {
			out = append(out, c.slot)
		}
		return true
	})
	sort.Ints(out)
	return out
}

// Conjuncts splits a condition at its ANDs.
func Conjuncts(e Expr) []Expr {
	if e == nil {
		return nil
	}
	if a, ok := e.(*andNode); ok {
		var out []Expr
		for _, k := range a.args {
			out = append(out, Conjuncts(k)...)
		}
		return out
	}
	return []Expr{e}
}

// Disjuncts splits a condition at its ORs.
func Disjuncts(e Expr) []Expr {
	if o, ok := e.(*orNode); ok {
		var out []Expr
		for _, k := range o.args {
			out = append(out, Disjuncts(k)...)
		}
		return out
	}
	return []Expr{e}
}

// AsComparison takes a comparison apart: op is =, <>, <, <=, > or >=. Both sides
// have the same kind and compare by types.Compare under their type, so that either
// may be looked up in an index over the other, if IndexCompatible says so.
func AsComparison(e Expr) (op string, l, r Expr, ok bool) {
	if c, is := e.(*cmpNode); is {
		return c.op.String(), c.l, c.r, true
	}
	return "", nil, nil, false
}

// Commute is the comparison operator with its sides exchanged.
func Commute(op string) string { return cmpOps[op].commuted().String() }

// IndexCompatible reports whether a value of type val, compared with a column of
// type col by a comparison node, may be encoded as the column's key: the order of
// the comparison is the order of the column's keys.
func IndexCompatible(col, val types.Type) bool {
	if types.KindOf(col.OID) != types.KindOf(val.OID) {
		return false
	}
	if (col.OID == types.OIDBPChar) != (val.OID == types.OIDBPChar) {
		return false
	}
	return col.OID != tFloat4 || val.OID == tFloat4
}

// AsIn takes x IN (items) apart; not tells NOT IN. Items have x's type.
func AsIn(e Expr) (x Expr, items []Expr, not, ok bool) {
	if n, is := e.(*inNode); is {
		return n.a, n.items, n.not, true
	}
	return nil, nil, false, false
}

// AsAny takes x = ANY (array) apart (op as spelled by AsComparison).
func AsAny(e Expr) (x Expr, op string, array Expr, ok bool) {
	n, is := e.(*quantNode)
	if !is || n.all {
		return nil, "", nil, false
	}
	c, is := n.cmp.(*cmpNode)
	if !is {
		return nil, "", nil, false
	}
	if _, plain := Unwrap(c.l).(*colNode); !plain {
		return nil, "", nil, false
	}
	if _, plain := Unwrap(c.r).(*colNode); !plain {
		return nil, "", nil, false
	}
	return n.a, c.op.String(), n.arr, true
}

// AsNullTest takes x IS [NOT] NULL apart.
func AsNullTest(e Expr) (x Expr, not, ok bool) {
	if n, is := e.(*isNode); is && n.test == 'n' {
		return n.a, n.not, true
	}
	return nil, false, false
}

// AsLike takes x LIKE pattern (case-sensitive, default escape) apart.
func AsLike(e Expr) (x, pattern Expr, ok bool) {
	if n, is := e.(*likeNode); is && !n.fold && !n.not && n.escape == nil {
		return n.a, n.pattern, true
	}
	return nil, nil, false
}

// AsNot returns the negated condition.
func AsNot(e Expr) (Expr, bool) {
	if n, is := e.(*notNode); is {
		return n.a, true
	}
	return nil, false
}

// Key is a string that equal expressions share: same structure, columns,
// parameters and, when the Env told the constants' values, same constants.
func Key(e Expr) string {
	var b strings.Builder
	writeKey(&b, e)
	return b.String()
}

func writeKey(b *strings.Builder, e Expr) {
	n, ok := e.(node)
	if !ok {
		b.WriteString("?")
		return
	}
	if o, is := e.(*onceNode); is {
		writeKey(b, o.a)
		return
	}
	b.WriteString(n.head())
	kids := n.kids()
	if len(kids) == 0 {
		return
	}
	b.WriteByte('(')
	for i, k := range kids {
		if i > 0 {
			b.WriteByte(',')
		}
		writeKey(b, k)
	}
	b.WriteByte(')')
}

// Equal reports whether two expressions are the same (Key) and not volatile.
func Equal(a, b Expr) bool { return Key(a) == Key(b) && !Volatile(a) }
