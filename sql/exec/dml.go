package exec

import (
	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/sql/expr"
	"github.com/spandb/spand/sql/plan"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
	"github.com/spandb/spand/tablet"
)

// Rows is a running query.
type Rows struct {
	it rowIter
	n  int
}

// Open starts a query.
func (c *Context) Open(p *plan.Plan) (*Rows, error) {
	r := &Rows{it: c.query(p.Query), n: len(p.Query.Columns)}
	if err := r.it.Open(); err != nil {
		r.it.Close()
		return nil, err
	}
	return r, nil
}

// Next returns the next row, nil at the end. It is valid until the next call.
func (r *Rows) Next() ([]types.Datum, error) {
	row, err := r.it.Next()
	if err != nil || row == nil {
		return nil, err
	}
	return row[:r.n:r.n], nil
}

// Close releases the query's resources; it may be called again.
func (r *Rows) Close() { r.it.Close() }

// Run executes an INSERT, UPDATE or DELETE and returns how many rows it affected.
// emit receives the rows of RETURNING.
func (c *Context) Run(p *plan.Plan, emit func([]types.Datum) error) (int64, error) {
	if p.Insert != nil {
		return c.insert(p.Insert, emit)
	}
	return c.modify(p.Modify, emit)
}

// returner evaluates RETURNING lists.
type returner struct {
	c     *Context
	exprs []expr.Expr
	out   []types.Datum
	emit  func([]types.Datum) error
}

func (r *returner) row(frame []types.Datum) error {
	if r.exprs == nil {
		return nil
	}
	r.out = r.out[:0]
	for _, e := range r.exprs {
		d, err := e.Eval(&r.c.Eval, frame)
		if err != nil {
			return err
		}
		r.out = append(r.out, d)
	}
	return r.emit(r.out)
}

func (c *Context) insert(p *plan.Insert, emit func([]types.Datum) error) (int64, error) {
	ins := c.NewInserter(p.Table)
	ret := &returner{c: c, exprs: p.Returning, emit: emit}
	add := ins.Add
	mem := budget{c: c}
	defer mem.release()
	var pending [][]types.Datum // rows whose RETURNING waits until they are in
	if p.Returning != nil {
		add = func(row []types.Datum) error {
			kept, err := mem.keep(row)
			if err != nil {
				return err
			}
			pending = append(pending, kept)
			return ins.Add(row)
		}
	}
	var up *upsert
	if p.OnConflict != nil {
		up = c.upsert(p, ins, ret)
		add = up.add
	}
	if err := c.insertRows(p, add); err != nil {
		return 0, err
	}
	if err := ins.Flush(); err != nil {
		return 0, err
	}
	for _, row := range pending {
		if err := ret.row(row); err != nil {
			return 0, err
		}
	}
	if up != nil {
		return up.count, nil
	}
	return ins.Count, nil
}

// insertRows computes the rows to insert.
func (c *Context) insertRows(p *plan.Insert, add func([]types.Datum) error) error {
	row := make([]types.Datum, len(p.Table.Types))
	fill := func(es []expr.Expr, src []types.Datum) error {
		for i, e := range es {
			d, err := e.Eval(&c.Eval, src)
			if err != nil {
				return err
			}
			row[i] = d
		}
		if err := c.step(); err != nil {
			return err
		}
		return add(row)
	}
	if p.Source == nil {
		for _, es := range p.Rows {
			if err := fill(es, nil); err != nil {
				return err
			}
		}
		return nil
	}
	it := c.query(p.Source)
	defer it.Close()
	if err := it.Open(); err != nil {
		return err
	}
	mem := budget{c: c}
	defer mem.release()
	var spool [][]types.Datum
	for {
		src, err := it.Next()
		if err != nil {
			return err
		}
		if src == nil {
			break
		}
		if p.Spool {
			kept, err := mem.keep(src)
			if err != nil {
				return err
			}
			spool = append(spool, kept)
			continue
		}
		if err := fill(p.Cols, src); err != nil {
			return err
		}
	}
	for _, src := range spool {
		if err := fill(p.Cols, src); err != nil {
			return err
		}
	}
	return nil
}

// upsert is INSERT … ON CONFLICT: rows go one by one, since each may meet the last.
type upsert struct {
	c       *Context
	p       *plan.Insert
	ins     *Inserter
	ret     *returner
	w       *rowWriter
	reader  *plan.Reader
	count   int64
	touched map[string]bool // primary keys inserted or updated by this statement
	changed []bool
}

func (c *Context) upsert(p *plan.Insert, ins *Inserter, ret *returner) *upsert {
	u := &upsert{c: c, p: p, ins: ins, ret: ret, touched: make(map[string]bool), changed: make([]bool, len(p.Table.Types))}
	ins.load = false
	all := make([]int, len(p.Table.Types))
	for i := range all {
		all[i] = i
	}
	u.reader = plan.NewReader(p.Table, p.Table.Primary(), all)
	for _, s := range p.OnConflict.Set {
		u.changed[s.Ord] = true
	}
	if p.OnConflict.Set != nil {
		u.w = c.rowWriter(p.Table)
		ins.states = nil // updates may move keys: no short cut
	}
	return u
}

func (u *upsert) add(row []types.Datum) error {
	c, ti := u.c, u.p.Table
	var ks []keys.Key
	var on []*plan.IndexInfo
	var pk keys.Key
	for i, ix := range ti.Indexes {
		w, unique := u.ins.encode(ix, row)
		if i == 0 {
			pk = w.Key
		}
		if unique && (i > 0 || ti.Hidden < 0) {
			ks, on = append(ks, w.Key), append(on, ix)
		}
	}
	var hit *plan.IndexInfo
	var entry []byte
	var hitKey keys.Key
	if len(ks) > 0 {
		if err := CheckNotNull(c, ti, row); err != nil {
			return err
		}
		vs, err := c.Txn.Get(c.ctx(), ks, tablet.LockExclusive, tablet.WaitBlock)
		if err != nil {
			return err
		}
		// The arbiter decides first; only a row that it lets in must satisfy the others.
		arbiter := u.p.OnConflict.Index
		var other *plan.IndexInfo
		for i, v := range vs {
			switch {
			case v == nil:
			case arbiter == nil || on[i] == arbiter:
				if hit == nil {
					hit, entry, hitKey = on[i], v, ks[i]
				}
			case other == nil:
				other = on[i]
			}
		}
		if hit == nil && other != nil {
			return UniqueViolation(c, ti, other, row)
		}
	}
	if hit == nil {
		if err := u.ins.Add(row); err != nil {
			return err
		}
		if err := u.ins.Flush(); err != nil {
			return err
		}
		u.touched[string(pk)] = true
		u.count++
		return u.ret.row(row)
	}
	if u.p.OnConflict.Set == nil {
		return nil
	}
	return u.update(hit, hitKey, entry, row)
}

// update changes the row that the proposed one conflicts with.
func (u *upsert) update(ix *plan.IndexInfo, key keys.Key, entry []byte, proposed []types.Datum) error {
	c, ti := u.c, u.p.Table
	n := len(ti.Types)
	frame := make([]types.Datum, 2*n)
	copy(frame[n:], proposed)
	old := frame[:n:n]
	scratch := make([]types.Datum, n)
	if ix != ti.Primary() {
		pk := ti.Primary()
		if err := plan.NewReader(ti, ix, pk.Ords).Read(key, entry, old, scratch); err != nil {
			return err
		}
		key = pk.Codec.Key(nil, plan.Gather(scratch, old, pk.Ords))
		vs, err := c.Txn.Get(c.ctx(), []keys.Key{key}, tablet.LockExclusive, tablet.WaitBlock)
		if err != nil {
			return err
		}
		if entry = vs[0]; entry == nil {
			return sqlstate.Newf(sqlstate.DataCorrupted, "index %q has an entry without a row", ix.Desc.Name)
		}
	}
	if err := u.reader.Read(key, entry, old, scratch); err != nil {
		return err
	}
	if u.touched[string(key)] {
		return sqlstate.Newf(sqlstate.CardinalityViolation, "ON CONFLICT DO UPDATE command cannot affect row a second time").
			WithHint("Ensure that no rows proposed for insertion within the same command have duplicate constrained values.")
	}
	if u.p.OnConflict.Where != nil {
		d, err := u.p.OnConflict.Where.Eval(&c.Eval, frame)
		if err != nil || !d.Bool() {
			return err
		}
	}
	new := append([]types.Datum(nil), old...)
	for _, s := range u.p.OnConflict.Set {
		d, err := s.Expr.Eval(&c.Eval, frame)
		if err != nil {
			return err
		}
		new[s.Ord] = d
	}
	if err := u.w.update(old, new, u.changed); err != nil {
		return err
	}
	pk := ti.Primary()
	u.touched[string(pk.Codec.Key(nil, plan.Gather(scratch, new, pk.Ords)))] = true
	u.count++
	return u.ret.row(new)
}

// modifier runs UPDATE and DELETE.
type modifier struct {
	c       *Context
	p       *plan.Modify
	frame   []types.Datum
	row     []types.Datum // the target's slots
	new     []types.Datum
	w       *rowWriter
	ret     returner
	changed []bool
	count   int64
}

func (c *Context) modify(p *plan.Modify, emit func([]types.Datum) error) (int64, error) {
	n := len(p.Table.Types)
	buf := make([]types.Datum, p.Width+n)
	m := &modifier{c: c, p: p, frame: buf[:p.Width:p.Width], new: buf[p.Width:], w: c.rowWriter(p.Table)}
	m.row = m.frame[p.Off : p.Off+n]
	m.ret = returner{c: c, exprs: p.Returning, emit: emit}
	m.changed = make([]bool, n)
	for _, s := range p.Set {
		m.changed[s.Ord] = true
	}
	for _, s := range p.Multi {
		for _, o := range s.Ords {
			m.changed[o] = true
		}
	}
	it := c.node(p.From, m.frame)
	defer it.Close()
	if err := it.Open(); err != nil {
		return 0, err
	}
	mem := budget{c: c}
	defer mem.release()
	var spool [][]types.Datum
	var seen map[string]bool
	if p.Once {
		seen = make(map[string]bool)
	}
	pk := p.Table.Primary()
	var vals []types.Datum
	var key []byte
	for {
		ok, err := it.Next()
		if err != nil {
			return 0, err
		}
		if !ok {
			break
		}
		if seen != nil {
			vals = plan.Gather(vals, m.row, pk.Ords)
			key = pk.Codec.Key(key[:0], vals)
			if seen[string(key)] {
				continue
			}
			if err := mem.charge(int64(len(key)) + 48); err != nil {
				return 0, err
			}
			seen[string(key)] = true
		}
		if p.Spool {
			kept, err := mem.keep(m.frame)
			if err != nil {
				return 0, err
			}
			spool = append(spool, kept)
			continue
		}
		if err := m.apply(); err != nil {
			return 0, err
		}
	}
	for _, f := range spool {
		copy(m.frame, f)
		if err := m.apply(); err != nil {
			return 0, err
		}
	}
	return m.count, nil
}

// apply changes the row that stands in the frame.
func (m *modifier) apply() error {
	m.count++
	if m.p.Set == nil {
		if err := m.w.delete(m.row); err != nil {
			return err
		}
		return m.ret.row(m.frame)
	}
	copy(m.new, m.row)
	for _, s := range m.p.Set {
		d, err := s.Expr.Eval(&m.c.Eval, m.frame)
		if err != nil {
			return err
		}
		m.new[s.Ord] = d
	}
	for i := range m.p.Multi {
		if err := m.multi(&m.p.Multi[i]); err != nil {
			return err
		}
	}
	if err := m.w.update(m.row, m.new, m.changed); err != nil {
		return err
	}
	copy(m.row, m.new)
	return m.ret.row(m.frame)
}

// multi assigns several columns from a subquery's row, NULLs when there is none.
func (m *modifier) multi(s *plan.MultiSet) error {
	rows := 0
	for _, o := range s.Ords {
		m.new[o] = types.Null
	}
	return s.Query.Run(&m.c.Eval, m.frame, func(row []types.Datum) (bool, error) {
		if rows++; rows > 1 {
			return false, sqlstate.Newf(sqlstate.CardinalityViolation, "more than one row returned by a subquery used as an expression")
		}
		for i, o := range s.Ords {
			d, err := s.Casts[i].Eval(&m.c.Eval, row)
			if err != nil {
				return false, err
			}
			m.new[o] = d
		}
		return true, nil
	})
}
