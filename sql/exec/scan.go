package exec

import (
	"bytes"
	"slices"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/sql/expr"
	"github.com/spandb/spand/sql/kv"
	"github.com/spandb/spand/sql/plan"
	"github.com/spandb/spand/sql/rowcodec"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
	"github.com/spandb/spand/tablet"
)

// How many rows a look-up join fetches at a time: it starts small, because a LIMIT
// may end it, and grows.
const (
	firstBatch = 8
	maxBatch   = 256
)

// scanIter reads a table through an index.
type scanIter struct {
	c       *Context
	n       *plan.Scan
	frame   []types.Datum
	row     []types.Datum // the table's part of frame
	scratch []types.Datum
	lock    tablet.LockStrength
	limit   int // rows wanted, a hint; 0: all

	// Points: keys still to get. Ranges: spans still to read.
	points []keys.Key
	spans  []keys.Span
	it     kv.RowIter

	// A batch of entries whose rows were fetched.
	keys  []keys.Key
	vals  [][]byte
	pos   int
	batch int

	eq    [8]types.Datum
	point [1]keys.Key
	spare [2]types.Datum // scratch of short keys
}

func (c *Context) scan(n *plan.Scan, frame []types.Datum) *scanIter {
	s := &scanIter{c: c, n: n, frame: frame, lock: c.Lock, batch: firstBatch}
	s.row = frame[n.Off : n.Off+len(n.Table.Types)]
	if n.Lock > s.lock {
		s.lock = n.Lock
	}
	k := len(n.Index.KeyOrds)
	if n.RowReader != nil {
		k = max(k, len(n.Table.Primary().KeyOrds))
	}
	if s.scratch = s.spare[:]; k > len(s.spare) {
		s.scratch = make([]types.Datum, k)
	}
	return s
}

// Open computes the keys or spans from the frame as it stands.
func (s *scanIter) Open() error {
	s.Close()
	s.points, s.spans, s.keys, s.vals, s.pos = s.points[:0], s.spans[:0], nil, nil, 0
	simple := true
	for i := range s.n.Eq {
		simple = simple && (s.n.Nulls[i] || len(s.n.Eq[i]) == 1 && !s.n.Arrays[i])
	}
	vals := s.eq[:0]
	if simple {
		for i, es := range s.n.Eq {
			d := types.Null
			if !s.n.Nulls[i] {
				var err error
				if d, err = es[0].Eval(&s.c.Eval, s.frame); err != nil {
					return err
				}
				if d.IsNull() {
					return nil // = NULL is never true
				}
			}
			vals = append(vals, d)
		}
		return s.add(vals)
	}
	sets := make([][]types.Datum, len(s.n.Eq))
	for i, es := range s.n.Eq {
		set, err := s.valueSet(i, es)
		if err != nil {
			return err
		}
		if len(set) == 0 {
			return nil
		}
		sets[i] = set
	}
	if err := s.combine(sets, vals); err != nil {
		return err
	}
	if s.n.Point {
		slices.SortFunc(s.points, bytes.Compare)
		s.points = slices.CompactFunc(s.points, bytes.Equal)
		if s.n.Reverse {
			slices.Reverse(s.points)
		}
		return nil
	}
	slices.SortFunc(s.spans, func(a, b keys.Span) int { return bytes.Compare(a.Start, b.Start) })
	if s.n.Reverse {
		slices.Reverse(s.spans)
	}
	return nil
}

// valueSet evaluates the values of one key column, without NULLs and duplicates.
func (s *scanIter) valueSet(i int, es []expr.Expr) ([]types.Datum, error) {
	if s.n.Nulls[i] {
		return []types.Datum{types.Null}, nil
	}
	t := s.n.Table.Types[s.n.Index.KeyOrds[i]]
	var out []types.Datum
	add := func(d types.Datum) {
		if !d.IsNull() {
			out = append(out, d)
		}
	}
	for _, e := range es {
		d, err := e.Eval(&s.c.Eval, s.frame)
		if err != nil {
			return nil, err
		}
		if s.n.Arrays[i] {
			if !d.IsNull() {
				for _, el := range types.ArrayElems(d) {
					add(el)
				}
			}
			continue
		}
		add(d)
	}
	slices.SortFunc(out, func(a, b types.Datum) int { return types.Compare(a, b, t) })
	return slices.CompactFunc(out, func(a, b types.Datum) bool { return types.Compare(a, b, t) == 0 }), nil
}

func (s *scanIter) combine(sets [][]types.Datum, vals []types.Datum) error {
	if len(vals) == len(sets) {
		return s.add(vals)
	}
	for _, d := range sets[len(vals)] {
		if err := s.combine(sets, append(vals, d)); err != nil {
			return err
		}
	}
	return nil
}

// add notes the key or span for one combination of leading values.
func (s *scanIter) add(vals []types.Datum) error {
	codec := s.n.Index.Codec
	if s.n.Point {
		if len(s.points) == 0 && cap(s.points) == 0 {
			s.points = s.point[:0]
		}
		s.points = append(s.points, codec.Key(make([]byte, 0, 40), vals))
		return nil
	}
	if s.n.Lo == nil && s.n.Hi == nil {
		p := codec.Partial(nil, vals)
		s.spans = append(s.spans, keys.Span{Start: p, End: keys.PrefixEnd(p)})
		return nil
	}
	lo, ok, err := s.bound(s.n.Lo)
	if err != nil || !ok {
		return err
	}
	hi, ok, err := s.bound(s.n.Hi)
	if err != nil || !ok {
		return err
	}
	if sp, empty := codec.RangeSpan(vals, lo, hi); !empty {
		s.spans = append(s.spans, sp)
	}
	return nil
}

// bound evaluates one end; ok is false when it is NULL, so that nothing matches.
func (s *scanIter) bound(b *plan.Bound) (*rowcodec.Bound, bool, error) {
	if b == nil {
		return nil, true, nil
	}
	d, err := b.Value.Eval(&s.c.Eval, s.frame)
	if err != nil || d.IsNull() {
		return nil, false, err
	}
	return &rowcodec.Bound{Value: d, Inclusive: b.Inclusive}, true, nil
}

func (s *scanIter) Close() {
	if s.it != nil {
		s.it.Close()
		s.it = nil
	}
}

func (s *scanIter) Next() (bool, error) {
	for {
		ok, err := s.advance()
		if err != nil || !ok {
			return false, err
		}
		if ok, err = s.c.holds(s.n.Filter, s.frame); ok || err != nil {
			return ok, err
		}
		if err := s.c.step(); err != nil {
			return false, err
		}
	}
}

// advance decodes the next row into the frame.
func (s *scanIter) advance() (bool, error) {
	if s.n.Covered && !s.n.Point {
		ok, err := s.entry()
		if err != nil || !ok {
			return false, err
		}
		return true, s.n.Reader.Read(s.it.Key(), s.it.Value(), s.row, s.scratch)
	}
	for {
		for s.pos < len(s.keys) {
			i := s.pos
			s.pos++
			if s.vals[i] == nil {
				continue
			}
			r := s.n.Reader
			if !s.n.Covered {
				r = s.n.RowReader
			}
			return true, r.Read(s.keys[i], s.vals[i], s.row, s.scratch)
		}
		ok, err := s.fill()
		if err != nil || !ok {
			return false, err
		}
	}
}

// entry moves to the next index entry of the spans.
func (s *scanIter) entry() (bool, error) {
	for {
		if s.it != nil {
			if s.it.Next() {
				return true, nil
			}
			err := s.it.Err()
			s.it.Close()
			s.it = nil
			if err != nil {
				return false, err
			}
		}
		if len(s.spans) == 0 {
			return false, nil
		}
		s.it = s.c.Txn.Scan(s.c.ctx(), kv.ScanRequest{
			Span: s.spans[0], Reverse: s.n.Reverse, Limit: s.limit, Lock: s.lock, Wait: s.n.Wait,
		})
		s.spans = s.spans[1:]
	}
}

// fill fetches the next batch of rows by key.
func (s *scanIter) fill() (bool, error) {
	s.pos = 0
	if s.n.Point {
		if len(s.points) == 0 {
			return false, nil
		}
		n := min(len(s.points), maxBatch)
		s.keys = s.points[:n]
		s.points = s.points[n:]
		var err error
		if s.vals, err = s.get(s.keys); err != nil {
			return false, err
		}
		if s.n.Covered {
			return true, nil
		}
		ks, vs := s.keys, s.vals
		s.keys = make([]keys.Key, 0, n)
		for i := range ks {
			if vs[i] == nil {
				continue
			}
			if err := s.lookup(ks[i], vs[i]); err != nil {
				return false, err
			}
		}
	} else {
		s.keys = make([]keys.Key, 0, s.batch)
		for len(s.keys) < s.batch {
			ok, err := s.entry()
			if err != nil {
				return false, err
			}
			if !ok {
				break
			}
			if err := s.lookup(s.it.Key(), s.it.Value()); err != nil {
				return false, err
			}
		}
		s.batch = min(2*s.batch, maxBatch)
	}
	if len(s.keys) == 0 {
		s.vals = nil
		return s.n.Point && len(s.points) > 0, nil
	}
	var err error
	if s.vals, err = s.get(s.keys); err != nil {
		return false, err
	}
	for _, v := range s.vals {
		if v == nil && s.n.Wait != tablet.WaitSkip {
			return false, sqlstate.Newf(sqlstate.DataCorrupted, "index %q has an entry without a row", s.n.Index.Desc.Name)
		}
	}
	return true, nil
}

// lookup adds the key of the row that an index entry belongs to.
func (s *scanIter) lookup(key, value []byte) error {
	if err := s.n.Reader.Read(key, value, s.row, s.scratch); err != nil {
		return err
	}
	pk := s.n.Table.Primary()
	s.keys = append(s.keys, pk.Codec.Key(make([]byte, 0, 40), plan.Gather(s.scratch, s.row, pk.Ords)))
	return nil
}

func (s *scanIter) get(ks []keys.Key) ([][]byte, error) {
	return s.c.Txn.Get(s.c.ctx(), ks, s.lock, s.n.Wait)
}
