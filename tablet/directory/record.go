package directory

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/spandb/spand/internal/keys"
)

// Kinds of keys below keys.DirectoryPrefix: their second byte.
const (
	kindRecord  byte = 'd' // + escaped end key -> descriptor
	kindCounter byte = 'n' // the highest group id handed out
	kindVersion byte = 'v' // the cluster's version
)

var (
	recordsStart = keys.Key{keys.DirectoryPrefix, kindRecord}
	recordsEnd   = keys.Key{keys.DirectoryPrefix, kindRecord + 1}
	counterKey   = keys.Key{keys.DirectoryPrefix, kindCounter, 0x01}
	versionKey   = keys.Key{keys.DirectoryPrefix, kindVersion, 0x01}
)

// numberFormat is the first byte of the records that are one number.
const numberFormat = 1

func encodeNumber(n uint64) []byte { return binary.AppendUvarint([]byte{numberFormat}, n) }

// decodeNumber reads the record under key, a number that is at least least.
func decodeNumber(key keys.Key, b []byte, least uint64) (uint64, error) {
	if len(b) > 0 && b[0] > numberFormat {
		return 0, fmt.Errorf("directory: record %x has format %d, this program knows %d: use a newer spand", key, b[0], numberFormat)
	}
	if len(b) > 1 && b[0] == numberFormat {
		if n, w := binary.Uvarint(b[1:]); w == len(b)-1 && n >= least {
			return n, nil
		}
	}
	return 0, fmt.Errorf("directory: record %x is damaged: %x", key, b)
}

// recordKey returns the key of the record for the tablet whose span ends at end.
// Zero bytes are escaped as 00 ff and the key ends with 00 01, which keeps the
// order of end keys and makes the stored keys prefix-free.
func recordKey(end keys.Key) keys.Key {
	k := make(keys.Key, 0, len(recordsStart)+len(end)+bytes.Count(end, []byte{0})+2)
	k = append(k, recordsStart...)
	for _, b := range end {
		if b == 0 {
			k = append(k, 0x00, 0xff)
		} else {
			k = append(k, b)
		}
	}
	return append(k, 0x00, 0x01)
}

// descriptorVersion is the first byte of an encoded descriptor.
const descriptorVersion = 1

const (
	maxKeyLen   = 1 << 16
	maxReplicas = 64
)

// AppendDescriptor appends d's durable encoding to b: a version byte, group,
// generation, start, end, replicas; numbers as uvarints, keys with their length.
func AppendDescriptor(b []byte, d *keys.Descriptor) []byte {
	b = append(b, descriptorVersion)
	b = binary.AppendUvarint(b, uint64(d.Group))
	b = binary.AppendUvarint(b, d.Generation)
	b = binary.AppendUvarint(b, uint64(len(d.Span.Start)))
	b = append(b, d.Span.Start...)
	b = binary.AppendUvarint(b, uint64(len(d.Span.End)))
	b = append(b, d.Span.End...)
	b = binary.AppendUvarint(b, uint64(len(d.Replicas)))
	for _, r := range d.Replicas {
		b = binary.AppendUvarint(b, uint64(r.Node))
		b = binary.AppendUvarint(b, uint64(r.ID))
	}
	return b
}

var errDescriptor = errors.New("directory: malformed descriptor")

// DecodeDescriptor decodes what AppendDescriptor wrote, all of b. It copies; b may be reused.
func DecodeDescriptor(b []byte) (keys.Descriptor, error) {
	var d keys.Descriptor
	if len(b) == 0 {
		return d, errDescriptor
	}
	if b[0] != descriptorVersion {
		return d, fmt.Errorf("directory: descriptor of format %d, this program knows %d", b[0], descriptorVersion)
	}
	r := decoder{b: b[1:]}
	d.Group = keys.GroupID(r.uvarint())
	d.Generation = r.uvarint()
	d.Span.Start = r.key()
	d.Span.End = r.key()
	n := r.uvarint()
	if r.bad || n > maxReplicas {
		return keys.Descriptor{}, errDescriptor
	}
	d.Replicas = make([]keys.Replica, 0, n)
	for range n {
		node, id := r.uvarint(), r.uvarint()
		if node > 1<<32-1 {
			r.bad = true
		}
		d.Replicas = append(d.Replicas, keys.Replica{Node: keys.NodeID(node), ID: keys.ReplicaID(id)})
	}
	if r.bad || len(r.b) != 0 || d.Group == 0 || bytes.Compare(d.Span.Start, d.Span.End) >= 0 {
		return keys.Descriptor{}, errDescriptor
	}
	return d, nil
}

type decoder struct {
	b   []byte
	bad bool
}

func (r *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *decoder) key() keys.Key {
	n := r.uvarint()
	if r.bad || n > maxKeyLen || n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return nil
	}
	k := bytes.Clone(r.b[:n])
	r.b = r.b[n:]
	return k
}

// Bootstrap returns the descriptors with which a cluster begins: the directory
// tablet (group 1) and the tablet of everything else (group 2), both replicated
// on nodes. Every first node computes the same ones, whatever the order of nodes.
func Bootstrap(nodes []keys.NodeID) []keys.Descriptor {
	sorted := slices.Clone(nodes)
	slices.Sort(sorted)
	sorted = slices.Compact(sorted)
	return []keys.Descriptor{
		{
			Group:      keys.DirectoryGroup,
			Span:       keys.Span{Start: keys.MinKey, End: keys.DirectoryEnd},
			Generation: 1,
			Replicas:   NewReplicas(sorted),
		},
		{
			Group:      keys.FirstGroup,
			Span:       keys.Span{Start: keys.DirectoryEnd, End: keys.MaxKey},
			Generation: 1,
			Replicas:   NewReplicas(sorted),
		},
	}
}

// NewReplicas returns the replicas of a new group on nodes, with ids from 1 in
// their order. Ids count within a group and group ids are never reused, so
// neither are replica ids.
func NewReplicas(nodes []keys.NodeID) []keys.Replica {
	rs := make([]keys.Replica, len(nodes))
	for i, n := range nodes {
		rs[i] = keys.Replica{Node: n, ID: keys.ReplicaID(i + 1)}
	}
	return rs
}
