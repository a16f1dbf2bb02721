package plan

import (
	"math/bits"
	"slices"

	"github.com/spandb/spand/sql/expr"
	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/types"
	"github.com/spandb/spand/tablet"
)

// planner chooses access paths and join orders for one FROM clause.
type planner struct {
	s     *scope
	locks map[*rel]lockSpec
	// mod is the relation that an UPDATE or DELETE changes, nil for others.
	mod *rel

	want    []wanted // the order that ORDER BY would like, over one relation
	ordered bool     // the plan yields it
	limited bool     // a LIMIT makes order by index worth more
	first   bool     // Agg.First applies
}

// wanted is one column of the wanted order.
type wanted struct {
	slot             int
	desc, nullsFirst bool
}

// wantedOrder is ORDER BY as frame slots, nil when it is more than plain columns.
func wantedOrder(keys []orderKey, targets []target) []wanted {
	var out []wanted
	for _, k := range keys {
		slot := -1
		if k.target >= 0 {
			slot = targets[k.target].slot
		}
		if slot < 0 {
			i, ok := expr.AsColumn(k.e)
			if !ok {
				return nil
			}
			slot = i
		}
		out = append(out, wanted{slot, k.desc, k.nullsFirst})
	}
	return out
}

// minMax asks for the order in which the first row answers a lone min or max.
func (p *planner) minMax(a *Agg) {
	if a.Grouped || len(a.Calls) != 1 {
		return
	}
	c := a.Calls[0]
	if c.Name != "min" && c.Name != "max" || c.Filter != nil || len(c.Args) != 1 || c.Distinct || a.Orders[0] != nil {
		return
	}
	if slot, ok := expr.AsColumn(c.Args[0]); ok {
		desc := c.Name == "max"
		p.want = []wanted{{slot, desc, desc}}
		p.limited = true
		p.first = true
	}
}

// plan plans the items under the conjuncts.
func (p *planner) plan(items []*fromItem, conds []*cond) (Node, error) {
	if len(items) == 0 {
		return p.filter(nil, conds, ^relSet(0)), nil
	}
	single := len(items) == 1 && items[0].rel != nil
	if !single {
		p.want = nil
	}
	n := p.items(items, conds, 0)
	n = p.filter(n, conds, ^relSet(0))
	p.first = p.first && p.ordered
	return n, nil
}

// filter applies every condition that is ready and not enforced yet.
func (p *planner) filter(n Node, conds []*cond, placed relSet) Node {
	var es []expr.Expr
	var text []pgast.Expr
	for _, c := range conds {
		if c.done || c.rels&^placed != 0 {
			continue
		}
		c.done = true
		es, text = append(es, c.e), append(text, c.ast)
	}
	if len(es) == 0 {
		return n
	}
	if n == nil {
		n = &OneRow{}
	}
	return &Filter{Input: n, Conds: es, Text: text}
}

// flatten lists the operands of a tree of inner joins and collects their conditions.
func flatten(items []*fromItem, conds []*cond) ([]*fromItem, []*cond) {
	var out []*fromItem
	for _, it := range items {
		if it.rel == nil && it.join == InnerJoin {
			inner, c := flatten([]*fromItem{it.left, it.right}, append(conds, it.on...))
			out, conds = append(out, inner...), c
			continue
		}
		out = append(out, it)
	}
	return out, conds
}

// items joins a list of FROM items: greedily, the one with the best access path
// given what is placed already comes next.
func (p *planner) items(list []*fromItem, conds []*cond, placed relSet) Node {
	list, conds = flatten(list, conds)
	var node Node
	left := relSet(0) // placed by this list
	for len(list) > 0 {
		best, bestScore := -1, -1
		for i, it := range list {
			if p.deps(it)&^(placed|left) != 0 {
				continue
			}
			if sc := p.score(it, conds, placed, left); sc > bestScore {
				best, bestScore = i, sc
			}
		}
		if best < 0 {
			best = 0 // a lateral reference that cannot be satisfied was refused when bound
		}
		it := list[best]
		list = slices.Delete(slices.Clone(list), best, best+1)
		node = p.joinItem(node, it, conds, placed, left)
		left |= it.rels
		node = p.filter(node, conds, placed|left)
	}
	return node
}

func (p *planner) deps(it *fromItem) relSet {
	if it.rel != nil {
		return it.rel.deps
	}
	return (p.deps(it.left) | p.deps(it.right)) &^ it.rels
}

// Scores: how much an item wants to be placed next.
const (
	scorePoint    = 1000 // at most one row
	scoreEq       = 100  // per equality on a leading key column
	scoreRange    = 40
	scoreHash     = 20 // an equality with what is placed
	scoreOrder    = 30
	scoreCovered  = 5
	scorePrimary  = 2
	scoreAnything = 1
)

func (p *planner) score(it *fromItem, conds []*cond, placed, left relSet) int {
	sc := scoreAnything
	if it.rel != nil && it.rel.table != nil {
		path := p.bestPath(it.rel, conds, placed|left)
		sc += path.score
		if left != 0 && path.reads&left == 0 {
			sc -= path.score / 2 // connected items first, so that joins filter early
		}
	}
	if left != 0 && len(p.equalities(conds, left, it.rels, placed)) > 0 {
		sc += scoreHash
	}
	if it.rel != nil && it.rel.table == nil && it.rel.deps == 0 && left == 0 {
		sc += scoreHash / 2 // VALUES, functions, subqueries drive
	}
	return sc
}

// joinItem adds it to what node yields, as an inner join.
func (p *planner) joinItem(node Node, it *fromItem, conds []*cond, placed, left relSet) Node {
	if node == nil {
		return p.single(it, conds, placed)
	}
	if it.rel != nil {
		if it.rel.deps&left != 0 {
			right := p.leaf(it.rel, conds, placed|left)
			return &NestLoop{Left: node, Right: right, Dependent: true}
		}
		if it.rel.table != nil {
			if path := p.bestPath(it.rel, conds, placed|left); path.reads&left != 0 {
				return &NestLoop{Left: node, Right: p.leaf(it.rel, conds, placed|left), Dependent: true}
			}
		}
	}
	eqs := p.equalities(conds, left, it.rels, placed)
	right := p.single(it, conds, placed)
	right = p.filter(right, conds, placed|it.rels)
	if len(eqs) == 0 {
		return &NestLoop{Left: node, Right: right, RightSlots: p.slots(it.rels)}
	}
	j := &HashJoin{Left: node, Right: right, RightSlots: p.slots(it.rels)}
	for _, q := range eqs {
		if q.c.done {
			continue
		}
		q.c.done = true
		j.LeftKeys, j.RightKeys = append(j.LeftKeys, q.left), append(j.RightKeys, q.right)
		j.Text = append(j.Text, q.c.ast)
	}
	if len(j.LeftKeys) == 0 {
		return &NestLoop{Left: node, Right: right, RightSlots: j.RightSlots}
	}
	return j
}

// single plans one item on its own.
func (p *planner) single(it *fromItem, conds []*cond, placed relSet) Node {
	if it.rel != nil {
		return p.leaf(it.rel, conds, placed)
	}
	return p.outer(it, conds, placed)
}

// outer plans a LEFT or FULL join. Conditions of WHERE may go below it only on the
// side that keeps all its rows.
func (p *planner) outer(it *fromItem, conds []*cond, placed relSet) Node {
	var n Node
	if it.join == FullJoin {
		left := p.items([]*fromItem{it.left}, nil, placed)
		right := p.items([]*fromItem{it.right}, nil, placed)
		j := &HashJoin{Left: left, Right: right, Type: FullJoin,
			LeftSlots: p.slots(it.left.rels), RightSlots: p.slots(it.right.rels)}
		p.hashConds(j, it, placed)
		n = j
	} else {
		n = p.leftJoin(it, conds, placed)
	}
	if len(it.merges) > 0 {
		n = &Merge{Input: n, Cols: it.merges}
	}
	return n
}

func (p *planner) hashConds(j *HashJoin, it *fromItem, placed relSet) {
	for _, q := range p.equalities(it.on, it.left.rels, it.right.rels, placed) {
		q.c.done = true
		j.LeftKeys, j.RightKeys = append(j.LeftKeys, q.left), append(j.RightKeys, q.right)
		j.Text = append(j.Text, q.c.ast)
	}
	for _, c := range it.on {
		if !c.done {
			c.done = true
			j.Conds = append(j.Conds, c.e)
			j.Text = append(j.Text, c.ast)
		}
	}
}

func (p *planner) leftJoin(it *fromItem, conds []*cond, placed relSet) Node {
	var below []*cond
	for _, c := range conds {
		if !c.done && !c.tied && c.rels&^(placed|it.left.rels) == 0 {
			below = append(below, c)
		}
	}
	left := p.items([]*fromItem{it.left}, below, placed)
	slots := p.slots(it.right.rels)
	rest := func(into []expr.Expr, text []pgast.Expr) ([]expr.Expr, []pgast.Expr) {
		for _, c := range it.on {
			if !c.done {
				c.done = true
				into, text = append(into, c.e), append(text, c.ast)
			}
		}
		return into, text
	}
	all := placed | it.left.rels
	if r := it.right.rel; r != nil {
		dependent := r.deps&it.left.rels != 0
		if !dependent && r.table != nil {
			dependent = p.bestPath(r, it.on, all).reads&it.left.rels != 0
		}
		if dependent {
			right := p.leaf(r, it.on, all)
			// What only concerns the right side and the paths filters below the join.
			j := &NestLoop{Left: left, Right: right, Type: LeftJoin, Dependent: true, RightSlots: slots}
			j.Conds, j.Text = rest(nil, nil)
			return j
		}
	}
	var own []*cond
	for _, c := range it.on {
		if !c.tied && c.rels != 0 && c.rels&^(placed|it.right.rels) == 0 {
			own = append(own, c)
		}
	}
	right := p.items([]*fromItem{it.right}, own, placed)
	if len(p.equalities(it.on, it.left.rels, it.right.rels, placed)) > 0 {
		j := &HashJoin{Left: left, Right: right, Type: LeftJoin, RightSlots: slots}
		p.hashConds(j, it, placed)
		return j
	}
	j := &NestLoop{Left: left, Right: right, Type: LeftJoin, RightSlots: slots}
	j.Conds, j.Text = rest(nil, nil)
	return j
}

// equality is a condition l = r between two sides.
type equality struct {
	c           *cond
	left, right expr.Expr
}

func (p *planner) equalities(conds []*cond, left, right, placed relSet) []equality {
	var out []equality
	for _, c := range conds {
		if c.done || c.tied || c.rels&left == 0 || c.rels&right == 0 || c.rels&^(left|right|placed) != 0 {
			continue
		}
		op, a, b, ok := expr.AsComparison(c.e)
		if !ok || op != "=" || a.Type().OID != b.Type().OID && types.KindOf(a.Type().OID) != types.KindInt {
			continue
		}
		ra, rb := p.relsOf(a), p.relsOf(b)
		switch {
		case ra&^(left|placed) == 0 && rb&^(right|placed) == 0 && ra&left != 0 && rb&right != 0:
			out = append(out, equality{c, a, b})
		case rb&^(left|placed) == 0 && ra&^(right|placed) == 0 && rb&left != 0 && ra&right != 0:
			out = append(out, equality{c, b, a})
		}
	}
	return out
}

// relsOf lists the relations that a part of a condition reads.
func (p *planner) relsOf(e expr.Expr) relSet {
	var set relSet
	for _, i := range columnsOf(e) {
		if r := p.s.relOf(i); r != nil {
			set |= r.bit
		} else {
			set |= ^relSet(0) // a merged column of a full join
		}
	}
	return set
}

// slots are the frame slots of rels that somebody reads.
func (p *planner) slots(set relSet) []int {
	var out []int
	for ; set != 0; set &= set - 1 {
		r := p.s.rels[bits.TrailingZeros64(uint64(set))]
		for i, need := range r.need {
			if need {
				out = append(out, r.off+i)
			}
		}
	}
	return out
}

// leaf plans one relation, with every condition that can be enforced there.
func (p *planner) leaf(r *rel, conds []*cond, placed relSet) Node {
	all := placed | r.bit
	take := func() (es []expr.Expr, text []pgast.Expr) {
		for _, c := range conds {
			if !c.done && !c.tied && c.rels&r.bit != 0 && c.rels&^all == 0 {
				c.done = true
				es, text = append(es, c.e), append(text, c.ast)
			}
		}
		return es, text
	}
	var need []int
	for i, n := range r.need {
		if n {
			need = append(need, i)
		}
	}
	switch {
	case r.table != nil:
		path := p.bestPath(r, conds, placed)
		n := path.scan(r)
		p.ordered = p.ordered || path.ordered
		for _, c := range path.used {
			c.done = true
			n.CondText = append(n.CondText, c.ast)
		}
		n.Filter, n.FilterText = take()
		n.Name, n.Need = r.alias, need
		n.Covered = n.Index == n.Table.Primary() || n.Index.Covers(need) && p.mod != r
		if l, ok := p.locks[r]; ok {
			n.Lock, n.Wait = l.strength, l.wait
			n.Covered = n.Index == n.Table.Primary() // FOR UPDATE locks the row itself
		}
		if p.mod == r {
			n.Lock = tablet.LockExclusive
		}
		if n.Covered {
			n.Reader = NewReader(r.table, n.Index, need)
		} else {
			n.Reader = NewReader(r.table, n.Index, r.table.Primary().Ords)
			n.RowReader = NewReader(r.table, r.table.Primary(), need)
		}
		return n
	case r.virt != nil:
		n := &VirtualScan{Table: r.virt, Name: r.alias, Off: r.off, Need: need}
		n.Filter, n.FilterText = take()
		return n
	case r.query != nil:
		n := &SubqueryScan{Name: r.alias, Query: r.query, Off: r.off}
		n.Filter, n.FilterText = take()
		return n
	}
	n := &FuncScan{Name: r.alias, Off: r.off, Funcs: r.funcs, Ordinality: -1}
	if r.ord >= 0 {
		n.Ordinality = r.off + r.ord
	}
	n.Filter, n.FilterText = take()
	return n
}
