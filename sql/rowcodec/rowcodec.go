package rowcodec

import (
	"encoding/binary"
	"math"
	"sort"

	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

// RowVersion is the format of row values that this package writes.
const RowVersion = 1

// Wire classes: how long a column's payload is. The low three bits of its tag.
const (
	classZero   = 0 // an integer-like 0, false or an empty string: no payload
	classOne    = 1 // an integer-like 1 or true: no payload
	classInt    = 2 // zigzag varint
	classFixed  = 3 // eight bytes
	classBytes  = 4 // uvarint length and bytes
	classBlanks = 5 // uvarint number of spaces
	classSpan   = 6 // varint and eight bytes: interval
)

// Column names a column of stored rows by its id, which is never reused, and type.
type Column struct {
	ID   uint32
	Type types.Type
}

// AppendRow appends the value of a row. ids ascend; vals[i] belongs to ids[i].
// NULLs take no space.
func AppendRow(dst []byte, ids []uint32, vals []types.Datum) []byte {
	dst = append(dst, RowVersion)
	last := uint32(0)
	for i, d := range vals {
		if d.IsNull() {
			continue
		}
		tag := uint64(ids[i]-last) << 3
		last = ids[i]
		switch d.Kind() {
		case types.KindBool, types.KindInt, types.KindTimestamp, types.KindDate, types.KindTime:
			switch n := d.Int(); n {
			case 0:
				dst = binary.AppendUvarint(dst, tag|classZero)
			case 1:
				dst = binary.AppendUvarint(dst, tag|classOne)
			default:
				dst = binary.AppendUvarint(dst, tag|classInt)
				dst = binary.AppendVarint(dst, n)
			}
		case types.KindFloat:
			dst = binary.AppendUvarint(dst, tag|classFixed)
			dst = binary.BigEndian.AppendUint64(dst, uint64(d.Int()))
		case types.KindInterval:
			m, days, us := d.IntervalParts()
			dst = binary.AppendUvarint(dst, tag|classSpan)
			dst = binary.AppendVarint(dst, us)
			dst = binary.BigEndian.AppendUint32(dst, uint32(m))
			dst = binary.BigEndian.AppendUint32(dst, uint32(days))
		default:
			s := d.Str()
			switch {
			case s == "":
				dst = binary.AppendUvarint(dst, tag|classZero)
			case len(s) > 2 && s[0] == ' ' && allBlank(s):
				// An empty char(84), as pgbench fills its tables with.
				dst = binary.AppendUvarint(dst, tag|classBlanks)
				dst = binary.AppendUvarint(dst, uint64(len(s)))
			default:
				dst = binary.AppendUvarint(dst, tag|classBytes)
				dst = binary.AppendUvarint(dst, uint64(len(s)))
				dst = append(dst, s...)
			}
		}
	}
	return dst
}

func allBlank(s string) bool {
	for len(s) >= 8 {
		if s[:8] != "        " {
			return false
		}
		s = s[8:]
	}
	return s == "        "[:len(s)]
}

// Decoder reads some columns out of row values. Immutable: make it once per plan.
type Decoder struct {
	cols []wanted // ascending ids
	n    int
}

type wanted struct {
	id   uint32
	out  int
	kind types.Kind
}

// NewDecoder makes a decoder that puts columns[i] into out[i]. A column whose ID
// is 0 is left alone (it comes from the key).
func NewDecoder(columns []Column) *Decoder {
	d := &Decoder{n: len(columns)}
	for i, c := range columns {
		if c.ID != 0 {
			d.cols = append(d.cols, wanted{c.ID, i, types.KindOf(c.Type.OID)})
		}
	}
	sort.Slice(d.cols, func(i, j int) bool { return d.cols[i].id < d.cols[j].id })
	return d
}

func corruptRow(what string) error {
	return sqlstate.Newf(sqlstate.DataCorrupted, "damaged row: %s", what)
}

func uvarint(b []byte) (uint64, int) {
	if len(b) > 0 && b[0] < 0x80 {
		return uint64(b[0]), 1
	}
	return binary.Uvarint(b)
}

// Decode fills the wanted columns of out from row; absent ones become NULL. Text
// and bytes alias row and are valid as long as it is unchanged.
func (d *Decoder) Decode(row []byte, out []types.Datum) error {
	want := d.cols
	if len(row) == 0 {
		return corruptRow("empty")
	}
	if row[0] != RowVersion {
		return corruptRow("written by a newer version")
	}
	b := row[1:]
	id := uint32(0)
	for len(want) > 0 {
		if len(b) == 0 {
			for _, w := range want {
				out[w.out] = types.Null
			}
			return nil
		}
		tag, n := uvarint(b)
		if n <= 0 || tag>>3 == 0 || tag>>3 > math.MaxUint32-uint64(id) {
			return corruptRow("column tag")
		}
		b = b[n:]
		id += uint32(tag >> 3)
		for want[0].id < id {
			out[want[0].out] = types.Null
			if want = want[1:]; len(want) == 0 {
				return nil
			}
		}
		take := want[0].id == id
		var w wanted
		if take {
			w, want = want[0], want[1:]
		}
		switch tag & 7 {
		case classZero, classOne:
			if take {
				out[w.out] = types.Raw(w.kind, int64(tag&7), "")
			}
		case classInt:
			u, n := uvarint(b)
			if n <= 0 {
				return corruptRow("integer")
			}
			b = b[n:]
			if take {
				out[w.out] = types.Raw(w.kind, int64(u>>1)^-int64(u&1), "")
			}
		case classFixed:
			if len(b) < 8 {
				return corruptRow("float")
			}
			if take {
				out[w.out] = types.Raw(w.kind, int64(binary.BigEndian.Uint64(b)), "")
			}
			b = b[8:]
		case classBytes:
			u, n := uvarint(b)
			if n <= 0 || u > uint64(len(b)-n) {
				return corruptRow("string")
			}
			if take {
				out[w.out] = types.Raw(w.kind, 0, alias(b[n:n+int(u)]))
			}
			b = b[n+int(u):]
		case classBlanks:
			u, n := uvarint(b)
			if n <= 0 || u > 1<<30 {
				return corruptRow("blanks")
			}
			b = b[n:]
			if take {
				out[w.out] = types.Raw(w.kind, 0, types.Blanks(int(u)))
			}
		case classSpan:
			v, n := binary.Varint(b)
			if n <= 0 || len(b) < n+8 {
				return corruptRow("interval")
			}
			if take {
				out[w.out] = types.Raw(w.kind, v, alias(b[n:n+8]))
			}
			b = b[n+8:]
		default:
			return corruptRow("unknown class")
		}
	}
	return nil
}
