package rowcodec

import (
	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/sql/types"
)

// KeyColumn is one column of an index's key.
type KeyColumn struct {
	Type  types.Type
	Order Order
}

// Index encodes and decodes the keys of one index (the primary key is one).
// Immutable; make it once per descriptor.
type Index struct {
	prefix  []byte
	Columns []KeyColumn
}

// NewIndex makes the codec of an index. system puts it under keys.SystemPrefix.
func NewIndex(system bool, database, table, index uint64, columns []KeyColumn) *Index {
	return &Index{prefix: AppendPrefix(nil, system, database, table, index), Columns: columns}
}

// AppendPrefix appends what all keys of an index begin with.
func AppendPrefix(dst []byte, system bool, database, table, index uint64) []byte {
	return AppendUint(AppendTablePrefix(dst, system, database, table), index)
}

// AppendTablePrefix appends what all keys of a table's indexes begin with.
func AppendTablePrefix(dst []byte, system bool, database, table uint64) []byte {
	p := keys.TablePrefix
	if system {
		p = keys.SystemPrefix
	}
	return AppendUint(AppendUint(append(dst, p), database), table)
}

// TableSpan holds all keys of a table, of every index.
func TableSpan(system bool, database, table uint64) keys.Span {
	p := AppendTablePrefix(nil, system, database, table)
	return keys.Span{Start: p, End: keys.PrefixEnd(p)}
}

// IDs are the ids in front of a key's columns.
type IDs struct {
	System                 bool
	Database, Table, Index uint64
}

// DecodeIDs reads the ids of a key and returns its columns' bytes.
func DecodeIDs(k keys.Key) (ids IDs, rest []byte, err error) {
	if len(k) == 0 || k[0] != keys.TablePrefix && k[0] != keys.SystemPrefix {
		return ids, nil, corrupt("prefix")
	}
	ids.System = k[0] == keys.SystemPrefix
	rest = k[1:]
	for _, p := range []*uint64{&ids.Database, &ids.Table, &ids.Index} {
		if *p, rest, err = DecodeUint(rest); err != nil {
			return ids, nil, err
		}
	}
	return ids, rest, nil
}

// EncodeTableKey appends a whole key: ids, columns and terminator.
func EncodeTableKey(dst []byte, system bool, database, table, index uint64, columns []KeyColumn, vals []types.Datum) []byte {
	dst = AppendPrefix(dst, system, database, table, index)
	for i, c := range columns {
		dst = AppendColumn(dst, vals[i], c.Type, c.Order)
	}
	return append(dst, terminator)
}

// Prefix is what all keys of the index begin with. Not to be changed.
func (x *Index) Prefix() []byte { return x.prefix }

// Key appends the key of a row; vals are the key columns in order.
func (x *Index) Key(dst []byte, vals []types.Datum) keys.Key {
	return append(x.Partial(dst, vals), terminator)
}

// Partial appends the prefix that all keys with these leading columns share.
func (x *Index) Partial(dst []byte, vals []types.Datum) []byte {
	dst = append(dst, x.prefix...)
	for i, v := range vals {
		dst = AppendColumn(dst, v, x.Columns[i].Type, x.Columns[i].Order)
	}
	return dst
}

// Span holds all keys of the index.
func (x *Index) Span() keys.Span {
	return keys.Span{Start: append(keys.Key(nil), x.prefix...), End: keys.PrefixEnd(x.prefix)}
}

// PrefixSpan holds the keys whose first len(vals) columns are vals. With all
// columns given it is the single key.
func (x *Index) PrefixSpan(vals []types.Datum) keys.Span {
	if len(vals) == len(x.Columns) {
		return keys.PointSpan(x.Key(nil, vals))
	}
	p := x.Partial(nil, vals)
	return keys.Span{Start: p, End: keys.PrefixEnd(p)}
}

// Bound is one end of a range of values of a column.
type Bound struct {
	Value     types.Datum // not NULL
	Inclusive bool
}

// RangeSpan holds the keys whose first columns are eq and whose next column lies
// between lo and hi (by types.Compare; nil: open). NULLs of that column are not
// in the range, as no comparison is true of them. empty reports that no key can
// be in it.
func (x *Index) RangeSpan(eq []types.Datum, lo, hi *Bound) (s keys.Span, empty bool) {
	if lo == nil && hi == nil {
		return x.PrefixSpan(eq), false
	}
	c := x.Columns[len(eq)]
	first, last := lo, hi // in stored order
	if c.Order.Desc {
		first, last = hi, lo
	}
	base := x.Partial(nil, eq)
	start := append(keys.Key(nil), base...)
	switch {
	case first != nil:
		start = AppendColumn(start, first.Value, c.Type, c.Order)
		if !first.Inclusive {
			start = keys.PrefixEnd(start)
		}
	case c.Order.NullsFirst:
		start = append(start, tagNullFirst+1) // behind the NULLs
	}
	var end keys.Key
	switch {
	case last != nil:
		end = AppendColumn(append(keys.Key(nil), base...), last.Value, c.Type, c.Order)
		if last.Inclusive {
			end = keys.PrefixEnd(end)
		}
	case !c.Order.NullsFirst:
		end = append(append(keys.Key(nil), base...), tagNullLast)
	default:
		end = keys.PrefixEnd(base)
	}
	if start == nil || string(start) >= string(end) {
		return keys.Span{}, true
	}
	return keys.Span{Start: start, End: end}, false
}

// Decode reads a key's columns into out, as many as out has (at most all). Text
// may alias k. A column that is not Lossless decodes to an equal value.
func (x *Index) Decode(k keys.Key, out []types.Datum) error {
	if len(k) <= len(x.prefix) || string(k[:len(x.prefix)]) != string(x.prefix) {
		return corrupt("of another index")
	}
	rest := []byte(k[len(x.prefix):])
	var err error
	for i := range out {
		c := x.Columns[i]
		if out[i], rest, err = DecodeColumn(rest, c.Type, c.Order); err != nil {
			return err
		}
	}
	if len(out) == len(x.Columns) && (len(rest) != 1 || rest[0] != terminator) {
		return corrupt("terminator")
	}
	return nil
}
