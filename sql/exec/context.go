package exec

import (
	"context"
	"hash/maphash"

	"github.com/spandb/spand/sql/catalog"
	"github.com/spandb/spand/sql/expr"
	"github.com/spandb/spand/sql/kv"
	"github.com/spandb/spand/sql/plan"
	"github.com/spandb/spand/sql/types"
	"github.com/spandb/spand/tablet"
)

// Context is one execution of a statement.
type Context struct {
	Eval expr.EvalContext
	Txn  kv.Txn
	View *catalog.View
	DB   *catalog.Database
	// Lock is what plain reads take: LockNone in a read-only transaction, else LockShared.
	Lock tablet.LockStrength
	// Memory left for what collects rows; Account, if set, bounds it together with
	// what others collect.
	Memory  int64
	Account *Account
	// Bulk says how rows get into tables made by this transaction; nil: ordinarily.
	Bulk *Bulk
	// Stats, when not nil, counts rows per operator (EXPLAIN ANALYZE).
	Stats map[plan.Node]*NodeStats

	hook  hook
	steps uint
}

// NodeStats is what EXPLAIN ANALYZE shows of an operator.
type NodeStats struct {
	Rows, Loops int64
}

// hook is what expressions see as their session; it runs subplans too.
type hook struct {
	expr.Session
	c *Context
}

// Init makes c ready: session answers the expressions' questions.
func (c *Context) Init(ctx context.Context, session expr.Session) {
	c.hook = hook{session, c}
	c.Eval.Ctx, c.Eval.Session = ctx, &c.hook
	c.Memory = DefaultMemory
	c.Stats = nil
}

func (c *Context) ctx() context.Context { return c.Eval.Ctx }

var hashSeed = maphash.MakeSeed()

// step is called once per row of a loop that may not touch the store: it notices
// that the statement was cancelled.
func (c *Context) step() error {
	if c.steps++; c.steps&1023 == 0 && c.ctx().Err() != nil {
		return context.Cause(c.ctx())
	}
	return nil
}

const datumSize = 32

// rowSize estimates what keeping a row costs.
func rowSize(row []types.Datum) int64 {
	n := int64(24 + datumSize*len(row))
	for i := range row {
		n += int64(len(row[i].Str()))
	}
	return n
}

// keep copies a row and charges for it.
func (b *budget) keep(row []types.Datum) ([]types.Datum, error) {
	if err := b.charge(rowSize(row)); err != nil {
		return nil, err
	}
	return append(make([]types.Datum, 0, len(row)), row...), nil
}

// holds reports whether all conditions are true of the frame.
func (c *Context) holds(conds []expr.Expr, frame []types.Datum) (bool, error) {
	for _, e := range conds {
		d, err := e.Eval(&c.Eval, frame)
		if err != nil || !d.Bool() {
			return false, err // NULL's Bool is false
		}
	}
	return true, nil
}

// RunSubPlan implements plan.Runner.
func (h *hook) RunSubPlan(p *plan.SubPlan, ec *expr.EvalContext, outer []types.Datum, f func([]types.Datum) (bool, error)) error {
	c := h.c
	ec.Outer = append(ec.Outer, outer)
	defer func() { ec.Outer = ec.Outer[:len(ec.Outer)-1] }()
	it := c.query(p.Query)
	defer it.Close()
	if err := it.Open(); err != nil {
		return err
	}
	n := len(p.Query.Columns)
	for {
		row, err := it.Next()
		if err != nil || row == nil {
			return err
		}
		more, err := f(row[:n])
		if err != nil || !more {
			return err
		}
	}
}

// rowIter yields output rows; nil ends. A row is valid until the next call.
type rowIter interface {
	Open() error
	Next() ([]types.Datum, error)
	Close()
}

// frameIter fills slots of the frame. Open may be called again to start anew.
type frameIter interface {
	Open() error
	Next() (bool, error)
	Close()
}

// hashRow hashes datums of the given types.
func hashRow(row []types.Datum, ts []types.Type) uint64 {
	var h uint64 = 14695981039346656037
	for i := range ts {
		h = (h ^ types.Hash(hashSeed, row[i], ts[i])) * 1099511628211
	}
	return h
}

// sameRow compares as DISTINCT and GROUP BY do: NULLs are equal.
func sameRow(a, b []types.Datum, ts []types.Type) bool {
	for i := range ts {
		if a[i].IsNull() || b[i].IsNull() {
			if a[i].IsNull() != b[i].IsNull() {
				return false
			}
			continue
		}
		if types.Compare(a[i], b[i], ts[i]) != 0 {
			return false
		}
	}
	return true
}

// rowSet is a set of rows.
type rowSet struct {
	mem   *budget
	types []types.Type
	rows  map[uint64][]setEntry
}

type setEntry struct {
	row   []types.Datum
	count int
}

func newRowSet(mem *budget, ts []types.Type) *rowSet {
	return &rowSet{mem: mem, types: ts, rows: make(map[uint64][]setEntry)}
}

// entry finds row's entry, making one with count 0 when add is set.
func (s *rowSet) entry(row []types.Datum, add bool) (*setEntry, error) {
	h := hashRow(row, s.types)
	bucket := s.rows[h]
	for i := range bucket {
		if sameRow(bucket[i].row, row, s.types) {
			return &bucket[i], nil
		}
	}
	if !add {
		return nil, nil
	}
	kept, err := s.mem.keep(row[:len(s.types)])
	if err != nil {
		return nil, err
	}
	s.rows[h] = append(bucket, setEntry{row: kept})
	return &s.rows[h][len(bucket)], nil
}
