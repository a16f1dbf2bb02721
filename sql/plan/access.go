package plan

import (
	"github.com/spandb/spand/sql/expr"
	"github.com/spandb/spand/sql/types"
)

// path is a way to read a table: an index and what narrows it down.
type path struct {
	index   *IndexInfo
	eq      [][]expr.Expr
	arrays  []bool
	nulls   []bool
	lo, hi  *Bound
	used    []*cond
	reads   relSet // relations whose columns the key values come from
	point   bool
	reverse bool
	ordered bool
	score   int
}

// sarg is a condition on one column that an index can enforce.
type sarg struct {
	c     *cond
	ord   int    // table ordinal
	op    string // "=", "<", "<=", ">", ">=", "null"
	vals  []expr.Expr
	array bool
	reads relSet
}

// bestPath finds the best way to read r when the relations in placed are there.
func (p *planner) bestPath(r *rel, conds []*cond, placed relSet) path {
	sargs := p.sargs(r, conds, placed)
	var best path
	best.score = -1
	for _, ix := range r.table.Indexes {
		if c := p.tryIndex(r, ix, sargs); c.score > best.score {
			best = c
		}
	}
	return best
}

// sargs lists the conditions on r's columns whose other side is known beforehand.
func (p *planner) sargs(r *rel, conds []*cond, placed relSet) []sarg {
	var out []sarg
	for _, c := range conds {
		if c.done || c.tied || c.rels&r.bit == 0 || c.rels&^(placed|r.bit) != 0 {
			continue
		}
		if s, ok := p.sarg(r, c); ok {
			out = append(out, s)
		}
	}
	return out
}

var flipped = map[string]string{"=": "=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}

func (p *planner) sarg(r *rel, c *cond) (sarg, bool) {
	if x, not, ok := expr.AsNullTest(c.e); ok {
		ord, col := p.columnOf(r, x)
		return sarg{c: c, ord: ord, op: "null"}, col && !not
	}
	if x, items, not, ok := expr.AsIn(c.e); ok {
		s := sarg{c: c, op: "=", vals: items}
		ord, col := p.columnOf(r, x)
		if !col || not {
			return s, false
		}
		s.ord = ord
		for _, v := range items {
			s.reads |= p.relsOf(v)
			if !expr.IndexCompatible(r.cols[ord].typ, v.Type()) || expr.Volatile(v) {
				return s, false
			}
		}
		return s, s.reads&r.bit == 0
	}
	if x, op, array, ok := expr.AsAny(c.e); ok && op == "=" {
		s := sarg{c: c, op: "=", vals: []expr.Expr{array}, array: true, reads: p.relsOf(array)}
		ord, col := p.columnOf(r, x)
		s.ord = ord
		return s, col && s.reads&r.bit == 0 && !expr.Volatile(array) &&
			expr.IndexCompatible(r.cols[ord].typ, types.ElemType(array.Type()))
	}
	op, a, b, ok := expr.AsComparison(c.e)
	if !ok {
		return sarg{}, false
	}
	s, ok := p.sides(r, op, a, b)
	s.c = c
	return s, ok
}

// columnOf reports whether e is a column of r, and which.
func (p *planner) columnOf(r *rel, e expr.Expr) (ord int, ok bool) {
	slot, ok := expr.AsColumn(e)
	if !ok || slot < r.off || slot >= r.off+len(r.cols) {
		return 0, false
	}
	return slot - r.off, true
}

func (p *planner) sides(r *rel, op string, a, b expr.Expr) (sarg, bool) {
	if _, ok := flipped[op]; !ok {
		return sarg{}, false
	}
	try := func(op string, col, val expr.Expr) (sarg, bool) {
		ord, ok := p.columnOf(r, col)
		if !ok {
			return sarg{}, false
		}
		reads := p.relsOf(val)
		if reads&r.bit != 0 || !expr.IndexCompatible(r.cols[ord].typ, val.Type()) || expr.Volatile(val) {
			return sarg{}, false
		}
		return sarg{ord: ord, op: op, vals: []expr.Expr{val}, reads: reads}, true
	}
	if s, ok := try(op, a, b); ok {
		return s, true
	}
	return try(flipped[op], b, a)
}

// maxPoints bounds the key combinations that IN lists may multiply to.
const maxPoints = 4096

func (p *planner) tryIndex(r *rel, ix *IndexInfo, sargs []sarg) path {
	out := path{index: ix}
	points := 1
	single := make(map[int]bool) // ordinals held at one value
	i := 0
	for ; i < len(ix.Ords); i++ {
		found := -1
		for k := range sargs {
			s := &sargs[k]
			if s.ord != ix.Ords[i] || s.op != "=" && s.op != "null" {
				continue
			}
			if s.op == "=" && points*len(s.vals) > maxPoints {
				continue
			}
			// One value beats several.
			if found < 0 || len(s.vals) < len(sargs[found].vals) || sargs[found].array && !s.array {
				found = k
			}
		}
		if found < 0 {
			break
		}
		s := &sargs[found]
		out.eq = append(out.eq, s.vals)
		out.arrays = append(out.arrays, s.array)
		out.nulls = append(out.nulls, s.op == "null")
		out.used = append(out.used, s.c)
		out.reads |= s.reads
		if s.op == "=" {
			points *= len(s.vals)
		}
		if len(s.vals) <= 1 && !s.array {
			single[s.ord] = true
		}
		out.score += scoreEq
	}
	if i == len(ix.Ords) && ix.Desc.Unique {
		out.point = true
		for _, n := range out.nulls {
			out.point = out.point && !n
		}
	}
	if out.point {
		out.score += scorePoint
	} else if i < len(ix.Ords) {
		for k := range sargs {
			s := &sargs[k]
			if s.ord != ix.Ords[i] {
				continue
			}
			switch s.op {
			case ">", ">=":
				if out.lo == nil {
					out.lo = &Bound{s.vals[0], s.op == ">="}
					out.used, out.reads = append(out.used, s.c), out.reads|s.reads
					out.score += scoreRange
				}
			case "<", "<=":
				if out.hi == nil {
					out.hi = &Bound{s.vals[0], s.op == "<="}
					out.used, out.reads = append(out.used, s.c), out.reads|s.reads
					out.score += scoreRange
				}
			}
		}
	}
	if len(p.want) > 0 && p.s.relOf(p.want[0].slot) == r && len(p.s.rels) == 1 {
		if ok, reverse := p.gives(r, ix, single, out.point && points == 1 && !anyTrue(out.arrays), len(single) == len(out.eq)); ok {
			out.ordered, out.reverse = true, reverse
			if p.limited {
				out.score += scoreOrder
			} else if len(out.used) > 0 || ix.Desc.Primary {
				out.score += scoreCovered
			}
		}
	}
	var need []int
	for o, n := range r.need {
		if n {
			need = append(need, o)
		}
	}
	switch {
	case ix.Desc.Primary:
		out.score += scorePrimary + scoreCovered
	case ix.Covers(need):
		out.score += scoreCovered
	case len(out.used) == 0 && !(out.ordered && p.limited):
		out.score = 0 // the whole index plus a look-up per row: never
	}
	return out
}

func anyTrue(bs []bool) bool {
	for _, b := range bs {
		if b {
			return true
		}
	}
	return false
}

// gives reports whether reading ix yields the wanted order, forwards or backwards.
// Columns held at one value do not matter. allSingle says that every leading
// equality is, without which runs of different values would alternate.
func (p *planner) gives(r *rel, ix *IndexInfo, single map[int]bool, oneRow, allSingle bool) (ok, reverse bool) {
	if oneRow {
		return true, false
	}
	if !allSingle {
		return false, false
	}
	pos, decided := 0, false
	for _, w := range p.want {
		if w.slot < r.off || w.slot >= r.off+len(r.cols) {
			return false, false
		}
		ord := w.slot - r.off
		if single[ord] {
			continue
		}
		for pos < len(ix.KeyOrds) && single[ix.KeyOrds[pos]] && ix.KeyOrds[pos] != ord {
			pos++
		}
		if pos == len(ix.KeyOrds) {
			// All of a unique key is used up: rows are ordered beyond it trivially.
			return ix.Desc.Unique && !p.nullable(r, ix), reverse
		}
		if ix.KeyOrds[pos] != ord {
			return false, false
		}
		o := ix.Codec.Columns[pos].Order
		same := o.Desc == w.desc
		if !decided {
			reverse, decided = !same, true
		} else if reverse == same {
			return false, false
		}
		if nullsFirst := o.NullsFirst != reverse; nullsFirst != w.nullsFirst && !r.table.Desc.Columns[ord].NotNull {
			return false, false
		}
		pos++
	}
	return true, reverse
}

func (p *planner) nullable(r *rel, ix *IndexInfo) bool {
	for _, o := range ix.Ords {
		if !r.table.Desc.Columns[o].NotNull {
			return true
		}
	}
	return false
}

// scan makes the node of a path.
func (pt path) scan(r *rel) *Scan {
	return &Scan{Table: r.table, Index: pt.index, Off: r.off,
		Eq: pt.eq, Arrays: pt.arrays, Nulls: pt.nulls, Lo: pt.lo, Hi: pt.hi,
		Point: pt.point, Reverse: pt.reverse}
}
