package state

import (
	"encoding/binary"
	"errors"

	"github.com/spandb/spand/truetime"
)

// Both encodings, of commands and of states, begin with their version. They are canonical: what
// decodes encodes to the same bytes again, if it is of the newest version.
//
// States of version 1 do not say what was forgotten of each node's events, nor which of a session's
// answers and cancellations is the oldest: there it is the lowest. Those of version 2 and below do not say who might read
// what an event is about: everybody.
const (
	commandVersion = 1
	stateVersion   = 3
)

var (
	errMalformed = errors.New("lock service: malformed encoding")
	errNewer     = errors.New("lock service: encoding of a newer version")
)

func appendString(dst []byte, s string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

func appendTS(dst []byte, ts truetime.Timestamp) []byte {
	return binary.BigEndian.AppendUint64(dst, uint64(ts))
}

// appendInt is for durations, which are seldom negative.
func appendInt(dst []byte, v int64) []byte { return binary.AppendVarint(dst, v) }

func appendACL(dst []byte, a *ACL) []byte {
	dst = appendString(dst, a.Read)
	dst = appendString(dst, a.Write)
	return appendString(dst, a.Change)
}

func appendQuota(dst []byte, q Quota) []byte {
	dst = binary.AppendUvarint(dst, q.Bytes)
	return binary.AppendUvarint(dst, q.Nodes)
}

func appendCell(dst []byte, c *Cell) []byte {
	dst = appendString(dst, c.Name)
	dst = binary.AppendUvarint(dst, c.Group)
	dst = binary.AppendUvarint(dst, uint64(len(c.Replicas)))
	for _, r := range c.Replicas {
		dst = binary.AppendUvarint(dst, r.Node)
		dst = binary.AppendUvarint(dst, r.ID)
	}
	return dst
}

// decoder reads what the append functions wrote. After the first error every method returns
// zero values; err tells.
type decoder struct {
	b   []byte
	v   byte // version
	err error
}

func (d *decoder) fail() { d.failWith(errMalformed) }

func (d *decoder) failWith(err error) {
	if d.err == nil {
		d.b, d.err = nil, err
	}
}

// require fails unless ok.
func (d *decoder) require(ok bool) {
	if !ok {
		d.fail()
	}
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

// version reads the first byte and refuses a newer one as such.
func (d *decoder) version(known byte) {
	v := d.u8()
	d.v = v
	if v > known {
		d.failWith(errNewer)
	}
	d.require(v != 0)
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 || n > 1 && d.b[n-1] == 0 { // only the shortest spelling is ours
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) int() int64 {
	v := d.uvarint()
	return int64(v>>1) ^ -int64(v&1)
}

func (d *decoder) u32() uint32 {
	v := d.uvarint()
	d.require(v < 1<<32)
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

func (d *decoder) string() string { return string(d.raw(d.uvarint())) }

func (d *decoder) ts() truetime.Timestamp {
	b := d.raw(8)
	if b == nil {
		return 0
	}
	return truetime.Timestamp(binary.BigEndian.Uint64(b))
}

// count reads a number of elements that take at least min bytes each, so that a forged
// count cannot make the caller allocate more than the input is long.
func (d *decoder) count(min int) int {
	n := d.uvarint()
	if n > uint64(len(d.b)/min) {
		d.fail()
		return 0
	}
	return int(n)
}

func (d *decoder) acl() ACL { return ACL{Read: d.string(), Write: d.string(), Change: d.string()} }

func (d *decoder) quota() Quota { return Quota{Bytes: d.uvarint(), Nodes: d.uvarint()} }

func (d *decoder) cell() Cell {
	c := Cell{Name: d.string(), Group: d.uvarint()}
	if n := d.count(2); n > 0 {
		c.Replicas = make([]Replica, n)
		for i := range c.Replicas {
			c.Replicas[i] = Replica{Node: d.uvarint(), ID: d.uvarint()}
		}
	}
	return c
}

// done reports whether everything was read and nothing was wrong.
func (d *decoder) done() error {
	if d.err == nil && len(d.b) != 0 {
		return errMalformed
	}
	return d.err
}
