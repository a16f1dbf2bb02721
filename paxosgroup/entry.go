package paxosgroup

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/storage"
	"github.com/spandb/spand/truetime"
	pb "go.etcd.io/raft/v3/raftpb"
)

// The data of a log entry: version, kind, lease term and timestamp as varints,
// payload. Raft's own entry at the start of a term is empty and means nothing.
const entryVersion = 1

type entryKind byte

const (
	kindCommand   entryKind = 1 // payload: the state machine's command
	kindTermStart entryKind = 2 // payload: the lease holder's node; ts: its floor
	kindRelease   entryKind = 3 // hand-over: no payload; ts: the highest promise made (R3)
)

// maxEntryHeader bounds what encodeEntry puts before a command.
const maxEntryHeader = 2 + 2*binary.MaxVarintLen64

type entryHeader struct {
	kind entryKind
	term uint64 // the lease under which the entry was proposed (R4)
	ts   truetime.Timestamp
}

// errUnknownEntry stops a replica: an entry that this version cannot execute
// must never be skipped (design section 9).
var errUnknownEntry = errors.New("paxosgroup: log entry of an unknown version or kind")

var errBadEntry = errors.New("paxosgroup: malformed log entry")

func encodeEntry(h entryHeader, payload []byte) []byte {
	b := make([]byte, 0, 2+uvarintLen(h.term)+uvarintLen(uint64(h.ts))+len(payload))
	b = append(b, entryVersion, byte(h.kind))
	b = binary.AppendUvarint(b, h.term)
	b = binary.AppendUvarint(b, uint64(h.ts))
	return append(b, payload...)
}

// decodeEntry splits data; the payload aliases it.
func decodeEntry(data []byte) (h entryHeader, payload []byte, err error) {
	if len(data) < 2 {
		return h, nil, errBadEntry
	}
	h.kind = entryKind(data[1])
	if data[0] != entryVersion || h.kind < kindCommand || h.kind > kindRelease {
		return h, nil, fmt.Errorf("%w (version %d, kind %d)", errUnknownEntry, data[0], data[1])
	}
	r := reader{b: data[2:]}
	h.term = r.uvarint()
	h.ts = truetime.Timestamp(r.uvarint())
	if r.bad || h.ts < 0 {
		return h, nil, errBadEntry
	}
	return h, r.b, nil
}

func termStartPayload(n keys.NodeID) []byte { return binary.AppendUvarint(nil, uint64(n)) }

// entBox and msgBox hold a protobuf message together with what its pointer
// fields point to, so that each costs one allocation instead of one per field.
type entBox struct {
	e           pb.Entry
	typ         pb.EntryType
	term, index uint64
}

func (b *entBox) set(typ pb.EntryType, term, index uint64, data []byte) *pb.Entry {
	b.typ, b.term, b.index = typ, term, index
	b.e.Type, b.e.Term, b.e.Index, b.e.Data = &b.typ, &b.term, &b.index, data
	return &b.e
}

func uvarintLen(v uint64) int {
	n := 1
	for ; v >= 0x80; v >>= 7 {
		n++
	}
	return n
}

// reader consumes a byte slice; after a short or malformed read bad stays set
// and every further read returns zero.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) fail() { r.bad, r.b = true, nil }

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.fail()
		return 0
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) ts() truetime.Timestamp {
	t := truetime.Timestamp(r.uvarint())
	if t < 0 {
		r.fail()
		return 0
	}
	return t
}

func (r *reader) u64() uint64 {
	if len(r.b) < 8 {
		r.fail()
		return 0
	}
	v := binary.BigEndian.Uint64(r.b)
	r.b = r.b[8:]
	return v
}

func (r *reader) bytes() []byte {
	n := r.uvarint()
	if r.bad || n > uint64(len(r.b)) {
		r.fail()
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func appendBytes(b, v []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(v)))
	return append(b, v...)
}

// conf is what GroupState.Conf carries: the configuration and the facts about
// leases that applied entries established. It is replicated state: every
// replica has the same at the same index.
type conf struct {
	members  []keys.Replica
	term     uint64             // of the last term-start entry applied
	holder   keys.NodeID        // who started it
	released bool               // and has handed over since
	floor    truetime.Timestamp // highest timestamp in any applied entry (R3)
}

const confVersion = 1

func (c *conf) encode() []byte {
	b := []byte{confVersion}
	b = binary.AppendUvarint(b, uint64(len(c.members)))
	for _, m := range c.members {
		b = binary.AppendUvarint(b, uint64(m.Node))
		b = binary.AppendUvarint(b, uint64(m.ID))
	}
	b = binary.AppendUvarint(b, c.term)
	b = binary.AppendUvarint(b, uint64(c.holder))
	rel := byte(0)
	if c.released {
		rel = 1
	}
	b = append(b, rel)
	return binary.AppendUvarint(b, uint64(c.floor))
}

func decodeConf(b []byte) (conf, error) {
	r := reader{b: b}
	if v := r.byte(); v != confVersion {
		return conf{}, fmt.Errorf("paxosgroup: group configuration of unknown version %d", v)
	}
	var c conf
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		return conf{}, errors.New("paxosgroup: malformed group configuration")
	}
	for range n {
		node, id := r.uvarint(), r.uvarint()
		if node > uint64(^keys.NodeID(0)) {
			r.fail()
		}
		c.members = append(c.members, keys.Replica{Node: keys.NodeID(node), ID: keys.ReplicaID(id)})
	}
	c.term = r.uvarint()
	holder := r.uvarint()
	rel := r.byte()
	c.floor = r.ts()
	if r.bad || len(r.b) != 0 || rel > 1 || holder > uint64(^keys.NodeID(0)) {
		return conf{}, errors.New("paxosgroup: malformed group configuration")
	}
	c.holder, c.released = keys.NodeID(holder), rel == 1
	return c, nil
}

// HighestTimestamp returns the highest timestamp in what storage found of a group:
// a clock that lies behind it at start is not to be trusted (T2).
func HighestTimestamp(r *storage.Recovered) truetime.Timestamp {
	var high truetime.Timestamp
	for _, e := range r.Entries {
		if len(e.Data) == 0 || pb.EntryType(e.Type) != pb.EntryNormal {
			continue
		}
		if h, _, err := decodeEntry(e.Data); err == nil {
			high = max(high, h.ts)
		}
	}
	return high
}
