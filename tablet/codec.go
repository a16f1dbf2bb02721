package tablet

import (
	"encoding/binary"
	"errors"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/truetime"
)

// errMalformed is what every decoder of this package returns for bytes that it
// did not write.
var errMalformed = errors.New("tablet: malformed encoding")

// The primitives shared by commands, captured state and wire messages: varints,
// length-prefixed bytes, timestamps in eight bytes because theirs are large.

func appendUvarint(dst []byte, v uint64) []byte { return binary.AppendUvarint(dst, v) }

func appendBytes(dst, b []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(b)))
	return append(dst, b...)
}

func appendString(dst []byte, s string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

func appendBool(dst []byte, v bool) []byte {
	if v {
		return append(dst, 1)
	}
	return append(dst, 0)
}

func appendTS(dst []byte, ts truetime.Timestamp) []byte {
	return binary.BigEndian.AppendUint64(dst, uint64(ts))
}

func appendTxnID(dst []byte, id keys.TxnID) []byte {
	dst = appendTS(dst, id.Age)
	dst = appendUvarint(dst, uint64(id.Node))
	return appendUvarint(dst, id.Seq)
}

func appendAnchor(dst []byte, a Anchor) []byte {
	dst = appendUvarint(dst, uint64(a.Group))
	return appendBytes(dst, a.Key)
}

func appendSpan(dst []byte, s keys.Span) []byte {
	dst = appendBytes(dst, s.Start)
	return appendBytes(dst, s.End)
}

func appendDescriptor(dst []byte, d keys.Descriptor) []byte {
	dst = appendUvarint(dst, uint64(d.Group))
	dst = appendSpan(dst, d.Span)
	dst = appendUvarint(dst, d.Generation)
	dst = appendUvarint(dst, uint64(len(d.Replicas)))
	for _, r := range d.Replicas {
		dst = appendUvarint(dst, uint64(r.Node))
		dst = appendUvarint(dst, uint64(r.ID))
	}
	return dst
}

// appendWrites encodes writes; a value's length is stored plus one, so that 0
// means delete.
func appendWrites(dst []byte, ws []Write) []byte {
	dst = appendUvarint(dst, uint64(len(ws)))
	for i := range ws {
		dst = appendBytes(dst, ws[i].Key)
		if ws[i].Value == nil {
			dst = append(dst, 0)
			continue
		}
		dst = appendUvarint(dst, uint64(len(ws[i].Value))+1)
		dst = append(dst, ws[i].Value...)
	}
	return dst
}

// writesSize bounds the encoded size of ws from above.
func writesSize(ws []Write) int {
	n := 5
	for i := range ws {
		n += len(ws[i].Key) + len(ws[i].Value) + 10
	}
	return n
}

// decoder reads what the append functions wrote. After the first error every
// method returns zero values; err tells. Byte slices alias the input.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail() {
	d.b, d.err = nil, errMalformed
}

func (d *decoder) u8() byte {
	if len(d.b) == 0 {
		d.fail()
		return 0
	}
	v := d.b[0]
	d.b = d.b[1:]
	return v
}

func (d *decoder) bool() bool {
	v := d.u8()
	if v > 1 {
		d.fail()
	}
	return v == 1
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) u32() uint32 {
	v := d.uvarint()
	if v > 1<<32-1 {
		d.fail()
		return 0
	}
	return uint32(v)
}

func (d *decoder) raw(n uint64) []byte {
	if n > uint64(len(d.b)) {
		d.fail()
		return nil
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) bytes() []byte { return d.raw(d.uvarint()) }

func (d *decoder) ts() truetime.Timestamp {
	b := d.raw(8)
	if b == nil {
		return 0
	}
	return truetime.Timestamp(binary.BigEndian.Uint64(b))
}

func (d *decoder) txnID() keys.TxnID {
	return keys.TxnID{Age: d.ts(), Node: keys.NodeID(d.u32()), Seq: d.uvarint()}
}

func (d *decoder) anchor() Anchor {
	return Anchor{Group: keys.GroupID(d.uvarint()), Key: d.bytes()}
}

func (d *decoder) span() keys.Span { return keys.Span{Start: d.bytes(), End: d.bytes()} }

// count reads a number of elements that take at least min bytes each, so that a
// forged count cannot make the caller allocate more than the input is long.
func (d *decoder) count(min int) int {
	n := d.uvarint()
	if n > uint64(len(d.b)/min) {
		d.fail()
		return 0
	}
	return int(n)
}

func (d *decoder) descriptor() keys.Descriptor {
	ds := keys.Descriptor{Group: keys.GroupID(d.uvarint()), Span: d.span(), Generation: d.uvarint()}
	if n := d.count(2); n > 0 {
		ds.Replicas = make([]keys.Replica, n)
		for i := range ds.Replicas {
			ds.Replicas[i] = keys.Replica{Node: keys.NodeID(d.u32()), ID: keys.ReplicaID(d.uvarint())}
		}
	}
	return ds
}

// write reads one write; ok is false after an error.
func (d *decoder) write() (key, value []byte, ok bool) {
	key = d.bytes()
	if n := d.uvarint(); n > 0 {
		if value = d.raw(n - 1); value == nil {
			value = []byte{}
		}
	}
	return key, value, d.err == nil
}

func (d *decoder) writes() []Write {
	n := d.count(2)
	if n == 0 {
		return nil
	}
	ws := make([]Write, n)
	for i := range ws {
		ws[i].Key, ws[i].Value, _ = d.write()
	}
	if d.err != nil {
		return nil
	}
	return ws
}

// skipWrites returns the encoding of a list of writes without decoding it.
func (d *decoder) skipWrites() []byte {
	start := d.b
	for n := d.count(2); n > 0 && d.err == nil; n-- {
		d.write()
	}
	if d.err != nil {
		return nil
	}
	return start[: len(start)-len(d.b) : len(start)-len(d.b)]
}

// done reports whether everything was read and nothing was wrong.
func (d *decoder) done() error {
	if d.err == nil && len(d.b) != 0 {
		return errMalformed
	}
	return d.err
}

func cloneBytes(b []byte) []byte {
	if b == nil {
		return nil
	}
	return append(make([]byte, 0, len(b)), b...)
}

func cloneSpan(s keys.Span) keys.Span {
	return keys.Span{Start: cloneBytes(s.Start), End: cloneBytes(s.End)}
}

func cloneAnchor(a Anchor) Anchor { return Anchor{Group: a.Group, Key: cloneBytes(a.Key)} }

func cloneDescriptor(d keys.Descriptor) keys.Descriptor {
	d.Span = cloneSpan(d.Span)
	d.Replicas = append([]keys.Replica(nil), d.Replicas...)
	return d
}
