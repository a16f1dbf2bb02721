package exec

import (
	"container/heap"
	"slices"

	"github.com/spandb/spand/sql/expr"
	"github.com/spandb/spand/sql/plan"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

// query makes the iterator of a query: body, DISTINCT, ORDER BY, LIMIT.
func (c *Context) query(q *plan.Query) rowIter {
	var it rowIter
	switch {
	case q.Core != nil:
		it = c.core(q)
	case q.SetOp != nil:
		it = &setIter{c: c, mem: budget{c: c}, op: q.SetOp}
	default:
		it = &valuesIter{c: c, rows: q.Values}
	}
	var lim *limitIter
	if q.Limit != nil || q.Offset != nil {
		lim = &limitIter{c: c, q: q}
	}
	if q.Distinct {
		ts := make([]types.Type, len(q.Columns))
		for i := range ts {
			ts[i] = q.Columns[i].Type
		}
		it = &distinctIter{c: c, mem: budget{c: c}, in: it, types: ts}
	}
	if len(q.Sort) > 0 {
		s := &sortIter{c: c, mem: budget{c: c}, in: it, keys: q.Sort, on: q.DistinctOn}
		if q.DistinctOn == 0 {
			s.lim = lim
		}
		it = s
	}
	if lim != nil {
		lim.in = it
		if ci, ok := it.(*coreIter); ok && q.Streams {
			lim.hint = ci.hint()
		}
		it = lim
	}
	return it
}

// coreIter projects frames.
type coreIter struct {
	c     *Context
	core  *plan.Core
	frame []types.Datum
	in    frameIter // nil: one row
	out   []types.Datum
	once  bool
}

func (c *Context) core(q *plan.Query) *coreIter {
	k := q.Core
	n := k.Width
	if k.Agg != nil {
		n += len(k.Agg.Calls)
	}
	buf := make([]types.Datum, n+q.Width)
	i := &coreIter{c: c, core: k, frame: buf[:n:n], out: buf[n:]}
	if k.From != nil {
		i.in = c.node(k.From, i.frame)
	} else if k.Agg != nil {
		i.in = &onceIter{}
	}
	if k.Agg != nil {
		if s, ok := i.in.(*scanIter); ok && k.Agg.FirstRow && len(s.n.Filter) == 0 {
			s.limit = 1
		}
		i.in = c.aggregate(k, i.frame, i.in)
	}
	return i
}

// hint is the scan that a LIMIT bounds, nil when there is something in between.
func (i *coreIter) hint() *scanIter {
	in := i.in
	if ci, ok := in.(*countIter); ok {
		in = ci.frameIter
	}
	if s, ok := in.(*scanIter); ok && len(s.n.Filter) == 0 && i.core.Having == nil {
		return s
	}
	return nil
}

func (i *coreIter) Open() error {
	i.once = false
	if i.in != nil {
		return i.in.Open()
	}
	return nil
}

func (i *coreIter) Close() {
	if i.in != nil {
		i.in.Close()
	}
}

func (i *coreIter) Next() ([]types.Datum, error) {
	for {
		if i.in != nil {
			ok, err := i.in.Next()
			if err != nil || !ok {
				return nil, err
			}
		} else if i.once {
			return nil, nil
		}
		i.once = true
		if i.core.Having != nil {
			d, err := i.core.Having.Eval(&i.c.Eval, i.frame)
			if err != nil {
				return nil, err
			}
			if !d.Bool() {
				continue
			}
		}
		for k, e := range i.core.Targets {
			d, err := e.Eval(&i.c.Eval, i.frame)
			if err != nil {
				return nil, err
			}
			i.out[k] = d
		}
		return i.out, nil
	}
}

// valuesIter yields VALUES lists.
type valuesIter struct {
	c    *Context
	rows [][]expr.Expr
	pos  int
	out  []types.Datum
}

func (i *valuesIter) Open() error { i.pos = 0; return nil }
func (i *valuesIter) Close()      {}
func (i *valuesIter) Next() ([]types.Datum, error) {
	if i.pos == len(i.rows) {
		return nil, nil
	}
	i.out = i.out[:0]
	for _, e := range i.rows[i.pos] {
		d, err := e.Eval(&i.c.Eval, nil)
		if err != nil {
			return nil, err
		}
		i.out = append(i.out, d)
	}
	i.pos++
	return i.out, i.c.step()
}

// distinctIter drops repeated rows.
type distinctIter struct {
	c     *Context
	in    rowIter
	mem   budget
	types []types.Type
	seen  *rowSet
}

func (i *distinctIter) Open() error {
	i.mem.release()
	i.seen = newRowSet(&i.mem, i.types)
	return i.in.Open()
}
func (i *distinctIter) Close() {
	i.mem.release()
	i.in.Close()
}
func (i *distinctIter) Next() ([]types.Datum, error) {
	for {
		row, err := i.in.Next()
		if err != nil || row == nil {
			return nil, err
		}
		e, err := i.seen.entry(row, true)
		if err != nil {
			return nil, err
		}
		if e.count++; e.count == 1 {
			return row, nil
		}
		if err := i.c.step(); err != nil {
			return nil, err
		}
	}
}

// sortIter sorts; below a small LIMIT it keeps only the rows that can be wanted.
type sortIter struct {
	c    *Context
	in   rowIter
	mem  budget
	keys []plan.SortKey
	on   int        // DISTINCT ON: so many leading keys
	lim  *limitIter // nil: every row is wanted
	rows [][]types.Datum
	pos  int
}

// topRows is up to how many rows LIMIT makes the sort keep a heap.
const topRows = 10000

func (i *sortIter) Close() {
	i.mem.release()
	i.in.Close()
}

// compareRows orders rows by sort keys.
func compareRows(a, b []types.Datum, keys []plan.SortKey) int {
	for k := range keys {
		s := &keys[k]
		x, y := a[s.Col], b[s.Col]
		c := 0
		switch xn, yn := x.IsNull(), y.IsNull(); {
		case xn && yn:
			continue
		case xn || yn:
			c = 1
			if xn == s.NullsFirst {
				c = -1
			}
		default:
			if c = types.Compare(x, y, s.Type); s.Desc {
				c = -c
			}
		}
		if c != 0 {
			return c
		}
	}
	return 0
}

// topHeap has the last of the wanted rows on top.
type topHeap struct{ *sortIter }

func (h topHeap) Len() int           { return len(h.rows) }
func (h topHeap) Less(a, b int) bool { return compareRows(h.rows[a], h.rows[b], h.keys) > 0 }
func (h topHeap) Swap(a, b int)      { h.rows[a], h.rows[b] = h.rows[b], h.rows[a] }
func (h topHeap) Push(any)           {}
func (h topHeap) Pop() any           { return nil }

func (i *sortIter) Open() error {
	i.mem.release()
	i.rows, i.pos = nil, 0
	if err := i.in.Open(); err != nil {
		return err
	}
	want := int64(-1)
	if i.lim != nil {
		if err := i.lim.evaluate(); err != nil {
			return err
		}
		if i.lim.limit >= 0 && i.lim.limit+i.lim.offset <= topRows {
			want = i.lim.limit + i.lim.offset
		}
	}
	heaped := false
	for {
		row, err := i.in.Next()
		if err != nil {
			return err
		}
		if row == nil {
			break
		}
		if err := i.c.step(); err != nil {
			return err
		}
		if want >= 0 && int64(len(i.rows)) == want {
			if want == 0 {
				continue
			}
			if !heaped {
				heap.Init(topHeap{i})
				heaped = true
			}
			if compareRows(row, i.rows[0], i.keys) < 0 {
				copy(i.rows[0], row)
				heap.Fix(topHeap{i}, 0)
			}
			continue
		}
		kept, err := i.mem.keep(row)
		if err != nil {
			return err
		}
		i.rows = append(i.rows, kept)
	}
	slices.SortStableFunc(i.rows, func(a, b []types.Datum) int { return compareRows(a, b, i.keys) })
	return nil
}

func (i *sortIter) Next() ([]types.Datum, error) {
	for i.pos < len(i.rows) {
		row := i.rows[i.pos]
		i.pos++
		if i.on > 0 && i.pos > 1 && compareRows(row, i.rows[i.pos-2], i.keys[:i.on]) == 0 {
			continue
		}
		return row, nil
	}
	return nil, nil
}

// limitIter applies OFFSET and LIMIT.
type limitIter struct {
	c    *Context
	q    *plan.Query
	in   rowIter
	hint *scanIter

	limit, offset int64 // limit -1: none
	known         bool
	passed        int64
}

// evaluate computes limit and offset once per opening.
func (i *limitIter) evaluate() error {
	if i.known {
		return nil
	}
	i.limit, i.offset = -1, 0
	if i.q.Limit != nil {
		d, err := i.q.Limit.Eval(&i.c.Eval, nil)
		if err != nil {
			return err
		}
		if !d.IsNull() {
			if i.limit = d.Int(); i.limit < 0 {
				return sqlstate.Newf(sqlstate.InvalidRowCountInLimit, "LIMIT must not be negative")
			}
		}
	}
	if i.q.Offset != nil {
		d, err := i.q.Offset.Eval(&i.c.Eval, nil)
		if err != nil {
			return err
		}
		if i.offset = d.Int(); i.offset < 0 {
			return sqlstate.Newf(sqlstate.InvalidRowCountInOffset, "OFFSET must not be negative")
		}
	}
	i.known = true
	return nil
}

func (i *limitIter) Open() error {
	i.known, i.passed = false, 0
	if err := i.evaluate(); err != nil {
		return err
	}
	if i.limit == 0 {
		return nil // nothing is read, nothing is locked
	}
	if i.hint != nil && i.limit > 0 && i.limit+i.offset < 1<<30 {
		i.hint.limit = int(i.limit + i.offset)
	}
	if err := i.in.Open(); err != nil {
		return err
	}
	for n := int64(0); n < i.offset; n++ {
		row, err := i.in.Next()
		if err != nil {
			return err
		}
		if row == nil {
			i.limit = 0
			return nil
		}
	}
	return nil
}

func (i *limitIter) Close() { i.in.Close() }

func (i *limitIter) Next() ([]types.Datum, error) {
	if i.limit >= 0 && i.passed >= i.limit {
		return nil, nil
	}
	i.passed++
	return i.in.Next()
}

// setIter runs UNION, INTERSECT and EXCEPT.
type setIter struct {
	c           *Context
	op          *plan.SetOp
	mem         budget
	left, right rowIter
	onRight     bool
	set         *rowSet
	out         []types.Datum
}

func (i *setIter) Close() {
	i.mem.release()
	if i.left != nil {
		i.left.Close()
	}
	if i.right != nil {
		i.right.Close()
	}
}

func (i *setIter) Open() error {
	i.Close()
	i.left, i.right, i.onRight = i.c.query(i.op.Left), i.c.query(i.op.Right), false
	i.out = make([]types.Datum, len(i.op.Types))
	if i.op.Kind == "union" {
		if !i.op.All {
			i.set = newRowSet(&i.mem, i.op.Types)
		}
		return i.left.Open()
	}
	// INTERSECT and EXCEPT first count the right side's rows.
	i.set = newRowSet(&i.mem, i.op.Types)
	if err := i.right.Open(); err != nil {
		return err
	}
	for {
		ok, err := i.read(i.right, i.op.RightCasts)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		e, err := i.set.entry(i.out, true)
		if err != nil {
			return err
		}
		e.count++
	}
	return i.left.Open()
}

// read casts the next row of a side into out.
func (i *setIter) read(in rowIter, casts []expr.Expr) (bool, error) {
	row, err := in.Next()
	if err != nil || row == nil {
		return false, err
	}
	for k := range i.out {
		if casts[k] == nil {
			i.out[k] = row[k]
			continue
		}
		if i.out[k], err = casts[k].Eval(&i.c.Eval, row); err != nil {
			return false, err
		}
	}
	return true, i.c.step()
}

// Counts of a set entry: how many right rows are left; doneRow marks a row that the
// distinct form has answered already.
const doneRow = -1

func (i *setIter) Next() ([]types.Datum, error) {
	for {
		var ok bool
		var err error
		if !i.onRight {
			ok, err = i.read(i.left, i.op.LeftCasts)
			if err == nil && !ok && i.op.Kind == "union" {
				i.onRight = true
				if err = i.right.Open(); err != nil {
					return nil, err
				}
				continue
			}
		} else {
			ok, err = i.read(i.right, i.op.RightCasts)
		}
		if err != nil || !ok {
			return nil, err
		}
		switch {
		case i.op.Kind == "union" && i.op.All:
			return i.out, nil
		case i.op.Kind == "union":
			e, err := i.set.entry(i.out, true)
			if err != nil {
				return nil, err
			}
			if e.count++; e.count == 1 {
				return i.out, nil
			}
		case i.op.Kind == "intersect":
			e, err := i.set.entry(i.out, false)
			if err != nil {
				return nil, err
			}
			if e != nil && e.count > 0 {
				if e.count--; !i.op.All {
					e.count = doneRow
				}
				return i.out, nil
			}
		default: // except
			e, err := i.set.entry(i.out, true)
			if err != nil {
				return nil, err
			}
			switch {
			case e.count > 0 && i.op.All:
				e.count--
			case e.count == 0:
				if !i.op.All {
					e.count = doneRow
				}
				return i.out, nil
			}
		}
	}
}
