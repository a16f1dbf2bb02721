package exec

import (
	"iter"

	"github.com/spandb/spand/sql/plan"
	"github.com/spandb/spand/sql/types"
)

// node makes the operator of a FROM node.
func (c *Context) node(n plan.Node, frame []types.Datum) frameIter {
	it := c.operator(n, frame)
	if c.Stats != nil {
		st := c.Stats[n]
		if st == nil {
			st = new(NodeStats)
			c.Stats[n] = st
		}
		return &countIter{it, st}
	}
	return it
}

func (c *Context) operator(n plan.Node, frame []types.Datum) frameIter {
	switch x := n.(type) {
	case *plan.Scan:
		return c.scan(x, frame)
	case *plan.FuncScan:
		return &funcIter{c: c, n: x, frame: frame}
	case *plan.SubqueryScan:
		return &subqueryIter{c: c, n: x, frame: frame}
	case *plan.VirtualScan:
		return &virtualIter{c: c, n: x, frame: frame, mem: budget{c: c}}
	case *plan.Filter:
		return &filterIter{c: c, n: x, frame: frame, in: c.node(x.Input, frame)}
	case *plan.NestLoop:
		return &loopIter{c: c, mem: budget{c: c}, n: x, frame: frame, left: c.node(x.Left, frame), right: c.node(x.Right, frame)}
	case *plan.HashJoin:
		return c.hashJoin(x, frame)
	case *plan.Merge:
		return &mergeIter{n: x, frame: frame, in: c.node(x.Input, frame)}
	case *plan.NoRows:
		return &onceIter{done: true}
	}
	return &onceIter{}
}

type countIter struct {
	frameIter
	st *NodeStats
}

func (i *countIter) Open() error {
	i.st.Loops++
	return i.frameIter.Open()
}

func (i *countIter) Next() (bool, error) {
	ok, err := i.frameIter.Next()
	if ok {
		i.st.Rows++
	}
	return ok, err
}

// onceIter yields the frame once, or never.
type onceIter struct{ done, yielded bool }

func (i *onceIter) Open() error { i.yielded = false; return nil }
func (i *onceIter) Close()      {}
func (i *onceIter) Next() (bool, error) {
	ok := !i.done && !i.yielded
	i.yielded = true
	return ok, nil
}

// filterIter passes what satisfies its conditions.
type filterIter struct {
	c     *Context
	n     *plan.Filter
	frame []types.Datum
	in    frameIter
}

func (i *filterIter) Open() error { return i.in.Open() }
func (i *filterIter) Close()      { i.in.Close() }
func (i *filterIter) Next() (bool, error) {
	for {
		ok, err := i.in.Next()
		if err != nil || !ok {
			return false, err
		}
		if ok, err = i.c.holds(i.n.Conds, i.frame); ok || err != nil {
			return ok, err
		}
		if err := i.c.step(); err != nil {
			return false, err
		}
	}
}

// mergeIter computes the merged columns of FULL JOIN USING.
type mergeIter struct {
	n     *plan.Merge
	frame []types.Datum
	in    frameIter
}

func (i *mergeIter) Open() error { return i.in.Open() }
func (i *mergeIter) Close()      { i.in.Close() }
func (i *mergeIter) Next() (bool, error) {
	ok, err := i.in.Next()
	for _, m := range i.n.Cols {
		i.frame[m.Slot] = i.frame[m.Left]
		if i.frame[m.Slot].IsNull() {
			i.frame[m.Slot] = i.frame[m.Right]
		}
	}
	return ok, err
}

// subqueryIter reads a query in FROM. While that runs, this frame is the innermost
// enclosing row.
type subqueryIter struct {
	c     *Context
	n     *plan.SubqueryScan
	frame []types.Datum
	in    rowIter
}

func (i *subqueryIter) Open() error {
	i.Close()
	ec := &i.c.Eval
	ec.Outer = append(ec.Outer, i.frame)
	i.in = i.c.query(i.n.Query)
	err := i.in.Open()
	ec.Outer = ec.Outer[:len(ec.Outer)-1]
	return err
}

func (i *subqueryIter) Close() {
	if i.in != nil {
		i.in.Close()
		i.in = nil
	}
}

func (i *subqueryIter) Next() (bool, error) {
	for {
		ec := &i.c.Eval
		ec.Outer = append(ec.Outer, i.frame)
		row, err := i.in.Next()
		ec.Outer = ec.Outer[:len(ec.Outer)-1]
		if err != nil || row == nil {
			return false, err
		}
		copy(i.frame[i.n.Off:], row[:len(i.n.Query.Columns)])
		if ok, err := i.c.holds(i.n.Filter, i.frame); ok || err != nil {
			return ok, err
		}
		if err := i.c.step(); err != nil {
			return false, err
		}
	}
}

// virtualIter reads a system relation: it is computed when opened first.
type virtualIter struct {
	c     *Context
	n     *plan.VirtualScan
	frame []types.Datum
	mem   budget
	rows  [][]types.Datum
	read  bool
	pos   int
}

func (i *virtualIter) Close() { i.mem.release() }
func (i *virtualIter) Open() error {
	i.pos = 0
	if i.read {
		return nil
	}
	i.read = true
	rc := &plan.RowsContext{Context: i.c.ctx(), View: i.c.View, DB: i.c.DB, Session: &i.c.hook}
	return i.n.Table.Rows(rc, func(row []types.Datum) error {
		kept, err := i.mem.keep(row)
		i.rows = append(i.rows, kept)
		return err
	})
}

func (i *virtualIter) Next() (bool, error) {
	for i.pos < len(i.rows) {
		copy(i.frame[i.n.Off:], i.rows[i.pos])
		i.pos++
		if ok, err := i.c.holds(i.n.Filter, i.frame); ok || err != nil {
			return ok, err
		}
	}
	return false, i.c.step()
}

// funcIter reads set-returning functions, side by side when there are several.
type funcIter struct {
	c     *Context
	n     *plan.FuncScan
	frame []types.Datum
	its   []*setPuller
	count int64
}

func (i *funcIter) Close() {
	for _, p := range i.its {
		p.stop()
	}
	i.its = i.its[:0]
}

func (i *funcIter) Open() error {
	i.Close()
	i.count = 0
	for k := range i.n.Funcs {
		i.its = append(i.its, i.c.pull(&i.n.Funcs[k], i.frame))
	}
	return nil
}

func (i *funcIter) Next() (bool, error) {
	for {
		any := false
		for k := range i.n.Funcs {
			f := &i.n.Funcs[k]
			out := i.frame[i.n.Off+f.Off : i.n.Off+f.Off+f.Width]
			ok, err := i.its[k].next(out)
			if err != nil {
				return false, err
			}
			if !ok {
				clear(out)
			}
			any = any || ok
		}
		if !any {
			return false, nil
		}
		i.count++
		if i.n.Ordinality >= 0 {
			i.frame[i.n.Ordinality] = types.Int(i.count)
		}
		if ok, err := i.c.holds(i.n.Filter, i.frame); ok || err != nil {
			return ok, err
		}
		if err := i.c.step(); err != nil {
			return false, err
		}
	}
}

// setPuller turns a set function's pushed rows into pulled ones: the function runs
// as a coroutine and hands over batches, so that a long series streams.
type setPuller struct {
	nextBatch func() ([]types.Datum, bool)
	stopFunc  func()
	batch     []types.Datum // rows of width datums, one after the other
	err       error
}

// pullRows is how many rows a batch holds.
const pullRows = 128

func (c *Context) pull(f *plan.FuncCall, frame []types.Datum) *setPuller {
	p := &setPuller{}
	seq := func(yield func([]types.Datum) bool) {
		buf := make([]types.Datum, 0, f.Width*4)
		p.err = f.Set.Run(&c.Eval, frame, func(row []types.Datum) (bool, error) {
			buf = append(buf, row...)
			if len(buf) < pullRows*f.Width {
				return true, nil
			}
			more := yield(buf)
			buf = buf[:0]
			return more, nil
		})
		if p.err == nil && len(buf) > 0 {
			yield(buf)
		}
	}
	p.nextBatch, p.stopFunc = iter.Pull(seq)
	return p
}

func (p *setPuller) stop() { p.stopFunc() }

// next copies the next row into out.
func (p *setPuller) next(out []types.Datum) (bool, error) {
	if len(p.batch) == 0 {
		var ok bool
		if p.batch, ok = p.nextBatch(); !ok {
			return false, p.err
		}
	}
	n := copy(out, p.batch)
	p.batch = p.batch[n:]
	return true, nil
}
