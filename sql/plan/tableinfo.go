package plan

import (
	"slices"

	"github.com/spandb/spand/sql/catalog"
	"github.com/spandb/spand/sql/rowcodec"
	"github.com/spandb/spand/sql/types"
)

// TableInfo is a table's descriptor with its codecs. Immutable.
type TableInfo struct {
	Desc    *catalog.Table
	Types   []types.Type // by ordinal
	Indexes []*IndexInfo // the primary one first
	Hidden  int          // ordinal of the hidden row id, -1: none
}

// IndexInfo is an index with its codecs. Immutable.
//
// The key of the primary index holds its columns; the value all columns that the
// key does not give back. A secondary index's key holds its columns, then, unless it
// is unique, those of the primary key; so does a unique one's key where a column is
// NULL, since NULLs are distinct. The value holds what the key does not give back,
// in a unique index the whole primary key.
type IndexInfo struct {
	Desc *catalog.Index
	Ords []int // table ordinals of the declared columns

	Codec   *rowcodec.Index
	KeyOrds []int // ordinals of Codec's columns
	// NullCodec encodes entries of a unique secondary index that hold a NULL.
	NullCodec   *rowcodec.Index
	NullKeyOrds []int

	ValueIDs  []uint32 // ascending
	ValueOrds []int
	InKey     []bool // by ordinal: Codec's key gives the very value back
	InValue   []bool // by ordinal
}

// NewTableInfo makes the codecs of a table.
func NewTableInfo(t *catalog.Table) *TableInfo {
	ti := &TableInfo{Desc: t, Hidden: t.HiddenColumn()}
	for i := range t.Columns {
		ti.Types = append(ti.Types, t.Columns[i].Type)
	}
	for i := range t.Indexes {
		ti.Indexes = append(ti.Indexes, newIndexInfo(ti, &t.Indexes[i]))
	}
	return ti
}

// Primary is the index that holds the rows.
func (ti *TableInfo) Primary() *IndexInfo { return ti.Indexes[0] }

func newIndexInfo(ti *TableInfo, d *catalog.Index) *IndexInfo {
	t := ti.Desc
	ix := &IndexInfo{Desc: d, InKey: make([]bool, len(t.Columns)), InValue: make([]bool, len(t.Columns))}
	var cols []rowcodec.KeyColumn
	for _, c := range d.Columns {
		o := t.Ordinal(c.Column)
		ix.Ords = append(ix.Ords, o)
		order := rowcodec.Asc
		if c.Desc {
			order = rowcodec.Desc
		}
		cols = append(cols, rowcodec.KeyColumn{Type: t.Columns[o].Type, Order: order})
	}
	ix.KeyOrds = ix.Ords
	var inValue []int
	if !d.Primary {
		allOrds, all := slices.Clone(ix.Ords), slices.Clone(cols)
		for _, c := range t.Primary().Columns {
			o := t.Ordinal(c.Column)
			if d.Unique {
				inValue = append(inValue, o)
			}
			if !slices.Contains(allOrds, o) {
				allOrds = append(allOrds, o)
				all = append(all, rowcodec.KeyColumn{Type: t.Columns[o].Type, Order: rowcodec.Asc})
			}
		}
		if d.Unique {
			ix.NullCodec = codec(t, d, all)
			ix.NullKeyOrds = allOrds
		} else {
			ix.KeyOrds, cols = allOrds, all
		}
	}
	ix.Codec = codec(t, d, cols)
	for _, o := range ix.KeyOrds {
		if rowcodec.Lossless(t.Columns[o].Type) {
			ix.InKey[o] = true
		} else if !slices.Contains(inValue, o) {
			inValue = append(inValue, o)
		}
	}
	if d.Primary {
		for o := range t.Columns {
			if !ix.InKey[o] && !slices.Contains(inValue, o) {
				inValue = append(inValue, o)
			}
		}
	}
	slices.SortFunc(inValue, func(a, b int) int { return int(int64(t.Columns[a].ID) - int64(t.Columns[b].ID)) })
	ix.ValueOrds = inValue
	for _, o := range inValue {
		ix.ValueIDs = append(ix.ValueIDs, t.Columns[o].ID)
		ix.InValue[o] = true
	}
	return ix
}

func codec(t *catalog.Table, d *catalog.Index, cols []rowcodec.KeyColumn) *rowcodec.Index {
	return rowcodec.NewIndex(false, uint64(t.DB), uint64(t.ID), uint64(d.Phys), cols)
}

// Covers reports whether an entry holds all the columns.
func (ix *IndexInfo) Covers(ords []int) bool {
	for _, o := range ords {
		if !ix.InKey[o] && !ix.InValue[o] {
			return false
		}
	}
	return true
}

// Gather copies the values of ords out of a row (table order) into dst.
func Gather(dst []types.Datum, row []types.Datum, ords []int) []types.Datum {
	dst = slices.Grow(dst[:0], len(ords))
	for _, o := range ords {
		dst = append(dst, row[o])
	}
	return dst
}

// Reader decodes the entries of one index into the slots of a table's row.
type Reader struct {
	Index   *IndexInfo
	keyN    int   // how many key columns to decode, 0: none
	keyOrds []int // where they go, -1: nowhere
	dec     *rowcodec.Decoder
}

// NewReader makes a reader of the ordinals need from entries of ix.
func NewReader(ti *TableInfo, ix *IndexInfo, need []int) *Reader {
	r := &Reader{Index: ix}
	cols := make([]rowcodec.Column, len(ti.Types))
	fromValue := false
	want := make([]bool, len(ti.Types))
	for _, o := range need {
		switch {
		case ix.InValue[o]:
			cols[o] = rowcodec.Column{ID: ti.Desc.Columns[o].ID, Type: ti.Types[o]}
			fromValue = true
		case ix.InKey[o]:
			want[o] = true
		}
	}
	for i, o := range ix.KeyOrds {
		if want[o] {
			r.keyN = i + 1
		}
	}
	for _, o := range ix.KeyOrds[:r.keyN] {
		if !want[o] {
			o = -1
		}
		r.keyOrds = append(r.keyOrds, o)
	}
	if fromValue {
		r.dec = rowcodec.NewDecoder(cols)
	}
	return r
}

// Read decodes an entry into row (table order). scratch has room for the key's columns.
func (r *Reader) Read(key, value []byte, row, scratch []types.Datum) error {
	if r.keyN > 0 {
		s := scratch[:r.keyN]
		// An entry of a unique index with a NULL carries the primary key behind its
		// columns, which Codec takes for damage.
		if err := r.Index.Codec.Decode(key, s); err != nil && (r.Index.NullCodec == nil || r.Index.NullCodec.Decode(key, s) != nil) {
			return err
		}
		for i, o := range r.keyOrds {
			if o >= 0 {
				row[o] = s[i]
			}
		}
	}
	if r.dec != nil {
		return r.dec.Decode(value, row)
	}
	return nil
}
