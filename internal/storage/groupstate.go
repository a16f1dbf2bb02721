package storage

import (
	"encoding/binary"

	"github.com/spandb/spand/internal/keys"
)

// groupRecord is what bbolt keeps of a group.
type groupRecord struct {
	GroupState
	// fromSeq: appends numbered below it belong to a log that this state replaced
	// (a snapshot, a wipe), and are not replayed.
	fromSeq uint64
}

const groupFormat = 1

func (r *groupRecord) encode(b []byte) []byte {
	b = append(b, groupFormat)
	b = binary.AppendUvarint(b, uint64(r.Replica))
	b = binary.AppendUvarint(b, r.Applied)
	b = binary.AppendUvarint(b, r.Term)
	b = appendHardState(b, r.HardState)
	b = binary.AppendUvarint(b, r.fromSeq)
	b = binary.AppendUvarint(b, uint64(len(r.Conf)))
	b = append(b, r.Conf...)
	b = binary.AppendUvarint(b, uint64(len(r.Machine)))
	return append(b, r.Machine...)
}

// decodeGroupRecord copies what it keeps.
func decodeGroupRecord(b []byte) (rec groupRecord, err error) {
	r := reader{b: b}
	if v := r.byte(); v != groupFormat {
		return rec, unknownFormat("group record", b, groupFormat)
	}
	rec.Replica, rec.Applied, rec.Term = keys.ReplicaID(r.uvarint()), r.uvarint(), r.uvarint()
	rec.HardState = r.hardState()
	rec.fromSeq = r.uvarint()
	rec.Conf = append([]byte(nil), r.bytes()...)
	rec.Machine = append([]byte(nil), r.bytes()...)
	if r.err == nil && len(r.b) != 0 {
		r.err = errMalformed
	}
	return rec, r.err
}

// mark says durably that a group's data is not to be trusted.
type mark struct {
	kind    byte
	replica keys.ReplicaID
	spans   [][2][]byte
}

const (
	markInstall byte = 1 // a snapshot is being installed: wipe, keep term and vote
	markRemove  byte = 2 // the replica is being removed: wipe
)

const markFormat = 1

func (m *mark) encode() []byte {
	b := []byte{markFormat, m.kind}
	b = binary.AppendUvarint(b, uint64(m.replica))
	b = binary.AppendUvarint(b, uint64(len(m.spans)))
	for _, s := range m.spans {
		for _, k := range s {
			b = binary.AppendUvarint(b, uint64(len(k)))
			b = append(b, k...)
		}
	}
	return b
}

func decodeMark(b []byte) (m mark, err error) {
	r := reader{b: b}
	if v := r.byte(); v != markFormat {
		return m, unknownFormat("mark", b, markFormat)
	}
	m.kind = r.byte()
	m.replica = keys.ReplicaID(r.uvarint())
	n := r.uvarint()
	for range n {
		if r.err != nil {
			return m, r.err
		}
		lo := append([]byte(nil), r.bytes()...)
		m.spans = append(m.spans, [2][]byte{lo, append([]byte(nil), r.bytes()...)})
	}
	if r.err == nil && (len(r.b) != 0 || m.kind != markInstall && m.kind != markRemove) {
		r.err = errMalformed
	}
	return m, r.err
}

// storeMeta is where the log stood at the last checkpoint.
type storeMeta struct {
	logStart
}

const metaFormat = 1

var metaKey = []byte("state")

func (m *storeMeta) encode() []byte {
	b := []byte{metaFormat}
	b = binary.AppendUvarint(b, m.first)
	b = binary.AppendUvarint(b, m.durSeg)
	b = binary.AppendUvarint(b, uint64(m.durPos))
	return binary.AppendUvarint(b, m.nextSeq)
}

func decodeMeta(b []byte) (m storeMeta, err error) {
	r := reader{b: b}
	if v := r.byte(); v != metaFormat {
		return m, unknownFormat("store state", b, metaFormat)
	}
	m.first, m.durSeg, m.durPos, m.nextSeq = r.uvarint(), r.uvarint(), int64(r.uvarint()), r.uvarint()
	if r.err == nil && len(r.b) != 0 {
		r.err = errMalformed
	}
	return m, r.err
}

// Keys of the groups and meta buckets.
func groupKey(g keys.GroupID) []byte { return binary.BigEndian.AppendUint64(nil, uint64(g)) }

func markKey(g keys.GroupID) []byte { return append([]byte("mark/"), groupKey(g)...) }

// tombFormat is the value of a tombstone.
const tombFormat = 1

func tombstoneKey(g keys.GroupID, r keys.ReplicaID) []byte {
	return binary.BigEndian.AppendUint64(append([]byte("tomb/"), groupKey(g)...), uint64(r))
}
