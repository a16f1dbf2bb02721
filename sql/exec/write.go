package exec

import (
	"bytes"
	"slices"
	"strings"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/sql/catalog"
	"github.com/spandb/spand/sql/plan"
	"github.com/spandb/spand/sql/rowcodec"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
	"github.com/spandb/spand/tablet"
)

// Bulk is what a transaction knows of the tables that it made itself: rows for them
// may go through Txn.Load, and ascending keys need no look-up. One per transaction.
type Bulk struct {
	// IsNew reports whether a physical id was made by this transaction.
	IsNew func(catalog.ID) bool
	// NoLoad forbids Load: a savepoint could ask for loaded rows back.
	NoLoad bool
	states map[catalog.ID]*bulkState
}

// bulkState of one index made by this transaction.
type bulkState struct {
	maxKey  keys.Key // of all rows inserted
	touched bool     // rows were updated or deleted: maxKey means nothing, nothing is loaded
}

// state returns the state of phys, nil when others can know of its rows.
func (b *Bulk) state(phys catalog.ID) *bulkState {
	if b == nil || !b.IsNew(phys) {
		return nil
	}
	st := b.states[phys]
	if st == nil {
		if b.states == nil {
			b.states = make(map[catalog.ID]*bulkState)
		}
		st = new(bulkState)
		b.states[phys] = st
	}
	return st
}

// touch notes that rows of a table were changed otherwise than by inserting.
func (b *Bulk) touch(ti *plan.TableInfo) {
	for _, ix := range ti.Indexes {
		if st := b.state(ix.Desc.Phys); st != nil {
			st.touched = true
		}
	}
}

// Sizes of a batch of inserted rows.
const (
	batchRows  = 256       // rows whose keys are checked with one Get
	batchBytes = 128 << 10 // of an ordinary batch
	loadBytes  = 512 << 10 // of a loaded batch
	chunkBytes = 64 << 10  // keys and values are cut from chunks of this size
)

// Inserter adds rows to a table in batches. Rows are encoded when they are added, so
// the caller may reuse its row at once.
type Inserter struct {
	c      *Context
	ti     *plan.TableInfo
	Count  int64
	writes []tablet.Write
	checks []check
	rows   int
	bytes  int
	chunk  []byte
	vals   []types.Datum // scratch
	states []*bulkState  // by index, nil: not made by this transaction
	load   bool          // Load may be used
	loaded bool          // it was
}

// check is a key whose absence a row relies on.
type check struct {
	write int // in writes
	index *plan.IndexInfo
}

// NewInserter returns an inserter for one statement.
func (c *Context) NewInserter(ti *plan.TableInfo) *Inserter {
	n := &Inserter{c: c, ti: ti}
	if c.Bulk != nil {
		n.states = make([]*bulkState, len(ti.Indexes))
		n.load = !c.Bulk.NoLoad
		for i, ix := range ti.Indexes {
			st := c.Bulk.state(ix.Desc.Phys)
			n.states[i] = st
			n.load = n.load && st != nil && !st.touched
		}
	}
	return n
}

// CheckNotNull refuses NULLs where the table forbids them.
func CheckNotNull(c *Context, ti *plan.TableInfo, row []types.Datum) error {
	for i := range ti.Desc.Columns {
		if col := &ti.Desc.Columns[i]; col.NotNull && row[i].IsNull() {
			return &sqlstate.Error{
				Code:    sqlstate.NotNullViolation,
				Message: "null value in column \"" + col.Name + "\" of relation \"" + ti.Desc.Name + "\" violates not-null constraint",
				Detail:  "Failing row contains (" + rowText(c, ti, row) + ").",
				Table:   ti.Desc.Name, Column: col.Name,
			}
		}
	}
	return nil
}

func rowText(c *Context, ti *plan.TableInfo, row []types.Datum) string {
	var b strings.Builder
	for i := range ti.Desc.Columns {
		if ti.Desc.Columns[i].Hidden {
			continue
		}
		if b.Len() > 0 {
			b.WriteString(", ")
		}
		if row[i].IsNull() {
			b.WriteString("null")
			continue
		}
		s := types.String(row[i], ti.Types[i], c.Eval.Format)
		if len(s) > 64 {
			s = s[:61] + "..."
		}
		b.WriteString(s)
	}
	return b.String()
}

// alloc cuts room for an encoding of unknown length: append to it, then commit it.
func (n *Inserter) alloc() []byte {
	if cap(n.chunk)-len(n.chunk) < 64 {
		size := chunkBytes
		if n.rows == 0 && !n.loaded {
			size = 256 // a statement of one row does not deserve a chunk
		}
		n.chunk = make([]byte, 0, size)
	}
	return n.chunk[len(n.chunk):]
}

func (n *Inserter) commit(b []byte) []byte {
	if len(b) <= cap(n.chunk)-len(n.chunk) {
		n.chunk = n.chunk[:len(n.chunk)+len(b)]
	} else {
		n.chunk = nil // too little was left, and would be for the next one
	}
	return b[:len(b):len(b)]
}

// encode appends the entry of row in ix. unique reports that its key must be new.
func (n *Inserter) encode(ix *plan.IndexInfo, row []types.Datum) (w tablet.Write, unique bool) {
	codec, ords := ix.Codec, ix.KeyOrds
	unique = ix.Desc.Unique
	if ix.NullCodec != nil && hasNull(row, ix.Ords) {
		codec, ords, unique = ix.NullCodec, ix.NullKeyOrds, false
	}
	n.vals = plan.Gather(n.vals, row, ords)
	w.Key = n.commit(codec.Key(n.alloc(), n.vals))
	n.vals = plan.Gather(n.vals, row, ix.ValueOrds)
	w.Value = n.commit(rowcodec.AppendRow(n.alloc(), ix.ValueIDs, n.vals))
	return w, unique
}

func hasNull(row []types.Datum, ords []int) bool {
	for _, o := range ords {
		if row[o].IsNull() {
			return true
		}
	}
	return false
}

// Add takes a row in table order.
func (n *Inserter) Add(row []types.Datum) error {
	if err := CheckNotNull(n.c, n.ti, row); err != nil {
		return err
	}
	for i, ix := range n.ti.Indexes {
		w, unique := n.encode(ix, row)
		if st := n.state(i); st != nil && !st.touched {
			if st.maxKey == nil || bytes.Compare(w.Key, st.maxKey) > 0 {
				st.maxKey, unique = w.Key, false
			}
		}
		if unique && !ix.Desc.Primary || unique && n.ti.Hidden < 0 {
			n.checks = append(n.checks, check{len(n.writes), ix})
		}
		n.bytes += len(w.Key) + len(w.Value)
		n.writes = append(n.writes, w)
	}
	n.rows++
	switch {
	case n.load:
		if n.bytes >= loadBytes {
			return n.flush(true)
		}
	case n.rows >= batchRows || n.bytes >= batchBytes:
		return n.flush(false)
	}
	return nil
}

func (n *Inserter) state(i int) *bulkState {
	if n.states == nil {
		return nil
	}
	return n.states[i]
}

// Flush writes what is left. Rows count once they are flushed.
func (n *Inserter) Flush() error { return n.flush(n.loaded) }

func (n *Inserter) flush(load bool) error {
	if n.rows == 0 {
		return nil
	}
	dup, err := n.duplicate()
	if err != nil {
		return err
	}
	if dup != nil {
		return dup
	}
	ctx := n.c.ctx()
	if load {
		n.loaded = true
		if err := n.c.Txn.Load(ctx, n.writes); err != nil {
			return err
		}
		n.writes, n.chunk = make([]tablet.Write, 0, len(n.writes)), nil
	} else {
		for i := range n.writes {
			if err := n.c.Txn.Put(ctx, n.writes[i].Key, n.writes[i].Value); err != nil {
				return err
			}
		}
		n.writes = n.writes[:0]
	}
	n.Count += int64(n.rows)
	n.checks, n.rows, n.bytes = n.checks[:0], 0, 0
	return nil
}

// duplicate looks for a key of the batch that exists already, in the batch or in the store.
func (n *Inserter) duplicate() (error, error) {
	if len(n.checks) == 0 {
		return nil, nil
	}
	ks := make([]keys.Key, len(n.checks))
	for i, c := range n.checks {
		ks[i] = n.writes[c.write].Key
	}
	vs, err := n.c.Txn.Get(n.c.ctx(), ks, tablet.LockExclusive, tablet.WaitBlock)
	if err != nil {
		return nil, err
	}
	for i, v := range vs {
		if v != nil {
			return n.violation(n.checks[i]), nil
		}
	}
	if len(ks) == 1 && n.rows == 1 {
		return nil, nil
	}
	// Within the batch: against every other key, the unchecked ascending ones too.
	seen := make(map[string]struct{}, len(n.writes))
	checked := make(map[int]check, len(n.checks))
	for _, c := range n.checks {
		checked[c.write] = c
	}
	for i := range n.writes {
		k := string(n.writes[i].Key)
		if _, ok := seen[k]; ok {
			c, ok := checked[i]
			if !ok {
				c = check{i, n.indexOf(i)}
			}
			return n.violation(c), nil
		}
		seen[k] = struct{}{}
	}
	return nil, nil
}

func (n *Inserter) indexOf(write int) *plan.IndexInfo {
	return n.ti.Indexes[write%len(n.ti.Indexes)]
}

// violation is the error for the row that write belongs to.
func (n *Inserter) violation(ck check) error {
	row := make([]types.Datum, len(n.ti.Types))
	scratch := make([]types.Datum, len(n.ti.Types))
	w := n.writes[ck.write]
	if err := plan.NewReader(n.ti, ck.index, ck.index.Ords).Read(w.Key, w.Value, row, scratch); err != nil {
		return err
	}
	return UniqueViolation(n.c, n.ti, ck.index, row)
}

// UniqueViolation is PostgreSQL's error for a duplicate key.
func UniqueViolation(c *Context, ti *plan.TableInfo, ix *plan.IndexInfo, row []types.Datum) error {
	var names, vals []string
	for _, o := range ix.Ords {
		names = append(names, ti.Desc.Columns[o].Name)
		vals = append(vals, types.String(row[o], ti.Types[o], c.Eval.Format))
	}
	return &sqlstate.Error{
		Code:    sqlstate.UniqueViolation,
		Message: "duplicate key value violates unique constraint \"" + ix.Desc.Name + "\"",
		Detail:  "Key (" + strings.Join(names, ", ") + ")=(" + strings.Join(vals, ", ") + ") already exists.",
		Table:   ti.Desc.Name, Constraint: ix.Desc.Name,
	}
}

// rowWriter changes rows one by one: UPDATE, DELETE, ON CONFLICT DO UPDATE.
type rowWriter struct {
	enc Inserter // for its encoder
}

func (c *Context) rowWriter(ti *plan.TableInfo) *rowWriter {
	c.Bulk.touch(ti)
	return &rowWriter{enc: Inserter{c: c, ti: ti}}
}

// delete removes a row and its index entries. The row's lock is held.
func (w *rowWriter) delete(row []types.Datum) error {
	for _, ix := range w.enc.ti.Indexes {
		e, _ := w.enc.encode(ix, row)
		if err := w.enc.c.Txn.Delete(w.enc.c.ctx(), e.Key); err != nil {
			return err
		}
	}
	return nil
}

// update replaces old by new. changed says by ordinal what the statement assigns.
func (w *rowWriter) update(old, new []types.Datum, changed []bool) error {
	c, ti := w.enc.c, w.enc.ti
	if err := CheckNotNull(c, ti, new); err != nil {
		return err
	}
	type step struct {
		old, new tablet.Write
		moved    bool
	}
	var arr [4]step
	steps := arr[:0]
	var ks []keys.Key
	var on []*plan.IndexInfo
	moved := affects(ti.Primary().KeyOrds, changed)
	for i, ix := range ti.Indexes {
		if i > 0 && !moved && !affects(ix.KeyOrds, changed) && !affects(ix.ValueOrds, changed) {
			continue
		}
		s := step{}
		var unique bool
		s.new, unique = w.enc.encode(ix, new)
		if i > 0 || moved {
			s.old, _ = w.enc.encode(ix, old)
			s.moved = !bytes.Equal(s.old.Key, s.new.Key)
		}
		if s.moved && unique {
			ks, on = append(ks, s.new.Key), append(on, ix)
		}
		steps = append(steps, s)
	}
	if len(ks) > 0 {
		vs, err := c.Txn.Get(c.ctx(), ks, tablet.LockExclusive, tablet.WaitBlock)
		if err != nil {
			return err
		}
		for i, v := range vs {
			if v != nil {
				return UniqueViolation(c, ti, on[i], new)
			}
		}
	}
	for i := range steps {
		s := &steps[i]
		if s.moved {
			if err := c.Txn.Delete(c.ctx(), s.old.Key); err != nil {
				return err
			}
		}
		if err := c.Txn.Put(c.ctx(), s.new.Key, s.new.Value); err != nil {
			return err
		}
	}
	return nil
}

func affects(ords []int, changed []bool) bool {
	return slices.ContainsFunc(ords, func(o int) bool { return changed[o] })
}
