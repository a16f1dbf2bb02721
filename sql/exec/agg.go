package exec

import (
	"slices"

	"github.com/spandb/spand/sql/expr"
	"github.com/spandb/spand/sql/plan"
	"github.com/spandb/spand/sql/types"
)

// aggIter groups frames. Its output stands in the frame again: the kept slots of the
// group's first row, and the aggregates behind the frame.
type aggIter struct {
	c     *Context
	core  *plan.Core
	agg   *plan.Agg
	frame []types.Datum // with room for the aggregates
	in    frameIter
	mem   budget

	keyTypes []types.Type
	groups   []*aggGroup
	table    map[uint64][]*aggGroup
	pos      int
	args     []types.Datum
}

type aggGroup struct {
	key      []types.Datum
	kept     []types.Datum
	accs     []expr.Accumulator
	distinct []*rowSet         // by call, nil where the call is not DISTINCT
	sorted   [][][]types.Datum // by call: sort keys and arguments, to be folded in order
}

// groupOverhead estimates what a group costs beside its rows and accumulators.
const groupOverhead = 160

func (c *Context) aggregate(core *plan.Core, frame []types.Datum, in frameIter) *aggIter {
	a := &aggIter{c: c, mem: budget{c: c}, core: core, agg: core.Agg, frame: frame, in: in}
	for _, k := range core.Agg.Keys {
		a.keyTypes = append(a.keyTypes, k.Type())
	}
	return a
}

func (a *aggIter) Close() {
	a.mem.release()
	a.in.Close()
}

func (a *aggIter) Open() error {
	a.mem.release()
	a.groups, a.pos = nil, 0
	a.table = make(map[uint64][]*aggGroup)
	if err := a.in.Open(); err != nil {
		return err
	}
	var only *aggGroup
	if !a.agg.Grouped {
		// Without GROUP BY there is one group, also over no rows.
		only = a.newGroup(nil)
		for i := range only.kept {
			only.kept[i] = types.Null
		}
	}
	key := make([]types.Datum, len(a.agg.Keys))
	first := true
	for {
		ok, err := a.in.Next()
		if err != nil {
			return err
		}
		if !ok {
			return nil
		}
		if err := a.c.step(); err != nil {
			return err
		}
		g := only
		if g == nil {
			for i, e := range a.agg.Keys {
				if key[i], err = e.Eval(&a.c.Eval, a.frame); err != nil {
					return err
				}
			}
			if g, err = a.group(key); err != nil {
				return err
			}
		} else if first {
			plan.Gather(g.kept, a.frame, a.agg.Keep)
		}
		first = false
		done, err := a.add(g)
		if err != nil {
			return err
		}
		if done {
			return nil
		}
	}
}

func (a *aggIter) newGroup(key []types.Datum) *aggGroup {
	g := &aggGroup{key: key, accs: make([]expr.Accumulator, len(a.agg.Calls))}
	g.kept = plan.Gather(make([]types.Datum, 0, len(a.agg.Keep)), a.frame, a.agg.Keep)
	for i, call := range a.agg.Calls {
		g.accs[i] = call.Agg.New()
		if call.Distinct {
			if g.distinct == nil {
				g.distinct = make([]*rowSet, len(a.agg.Calls))
			}
			var ts []types.Type
			for _, e := range call.Args {
				ts = append(ts, e.Type())
			}
			g.distinct[i] = newRowSet(&a.mem, ts)
		}
	}
	a.groups = append(a.groups, g)
	return g
}

func (a *aggIter) group(key []types.Datum) (*aggGroup, error) {
	h := hashRow(key, a.keyTypes)
	for _, g := range a.table[h] {
		if sameRow(g.key, key, a.keyTypes) {
			return g, nil
		}
	}
	kept, err := a.mem.keep(key)
	if err != nil {
		return nil, err
	}
	g := a.newGroup(kept)
	if err := a.mem.charge(groupOverhead + rowSize(g.kept) + 64*int64(len(g.accs))); err != nil {
		return nil, err
	}
	a.table[h] = append(a.table[h], g)
	return g, nil
}

// add folds the frame into g. done: min or max by index has its answer.
func (a *aggIter) add(g *aggGroup) (done bool, err error) {
	for i, call := range a.agg.Calls {
		if call.Filter != nil {
			d, err := call.Filter.Eval(&a.c.Eval, a.frame)
			if err != nil {
				return false, err
			}
			if !d.Bool() {
				continue
			}
		}
		a.args = a.args[:0]
		for _, e := range call.Args {
			d, err := e.Eval(&a.c.Eval, a.frame)
			if err != nil {
				return false, err
			}
			a.args = append(a.args, d)
		}
		if a.agg.First {
			if a.args[0].IsNull() {
				continue
			}
			done = true
		}
		if g.distinct != nil && g.distinct[i] != nil {
			e, err := g.distinct[i].entry(a.args, true)
			if err != nil {
				return false, err
			}
			if e.count++; e.count > 1 {
				continue
			}
		}
		if orders := a.agg.Orders[i]; orders != nil {
			if err := a.later(g, i, orders); err != nil {
				return false, err
			}
			continue
		}
		if err := g.accs[i].Add(&a.c.Eval, a.args); err != nil {
			return false, err
		}
	}
	return done, nil
}

// later keeps a row of an aggregate with an ORDER BY of its own.
func (a *aggIter) later(g *aggGroup, i int, orders []plan.AggOrder) error {
	row := make([]types.Datum, 0, len(orders)+len(a.args))
	for _, o := range orders {
		d, err := o.Expr.Eval(&a.c.Eval, a.frame)
		if err != nil {
			return err
		}
		row = append(row, d)
	}
	row = append(row, a.args...)
	if g.sorted == nil {
		g.sorted = make([][][]types.Datum, len(g.accs))
	}
	g.sorted[i] = append(g.sorted[i], row)
	return a.mem.charge(rowSize(row))
}

// fold sorts and folds what later kept.
func (a *aggIter) fold(g *aggGroup) error {
	for i, rows := range g.sorted {
		if rows == nil {
			continue
		}
		orders := a.agg.Orders[i]
		keys := make([]plan.SortKey, len(orders))
		for k, o := range orders {
			keys[k] = plan.SortKey{Col: k, Type: o.Expr.Type(), Desc: o.Desc, NullsFirst: o.NullsFirst}
		}
		slices.SortStableFunc(rows, func(x, y []types.Datum) int { return compareRows(x, y, keys) })
		for _, r := range rows {
			if err := g.accs[i].Add(&a.c.Eval, r[len(orders):]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *aggIter) Next() (bool, error) {
	if a.pos >= len(a.groups) {
		return false, nil
	}
	g := a.groups[a.pos]
	a.groups[a.pos] = nil
	a.pos++
	for i, slot := range a.agg.Keep {
		a.frame[slot] = g.kept[i]
	}
	if err := a.fold(g); err != nil {
		return false, err
	}
	for i, acc := range g.accs {
		d, err := acc.Result()
		if err != nil {
			return false, err
		}
		a.frame[a.core.Width+i] = d
	}
	return true, nil
}
