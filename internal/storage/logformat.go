package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"

	"github.com/spandb/spand/internal/keys"
)

// A segment is a header block and batches, each on a block boundary, so that no
// block with acknowledged bytes is ever written again.
const (
	blockSize     = 4096
	logFormat     = 1
	segMagic      = "spandlog"
	batchMagic    = 0x31424c53 // "SLB1"
	batchHeader   = 48
	recordGroup   = 1 // kinds of records
	flagHardState = 1
)

func segmentName(n uint64) string { return fmt.Sprintf("log-%016x", n) }

func parseSegmentName(s string) (uint64, bool) {
	h, ok := strings.CutPrefix(s, "log-")
	if !ok || len(h) != 16 {
		return 0, false
	}
	n, err := strconv.ParseUint(h, 16, 64)
	return n, err == nil
}

func isLogFile(s string) bool { return strings.HasPrefix(s, "log-") || strings.HasPrefix(s, "spare-") }

func alignUp(n int64) int64 { return (n + blockSize - 1) &^ (blockSize - 1) }

// segHeader is the first block of a segment.
type segHeader struct {
	number, size, salt uint64
	cluster            [16]byte
	node               keys.NodeID
}

func (h *segHeader) encode() []byte {
	b := make([]byte, blockSize)
	copy(b, segMagic)
	le := binary.LittleEndian
	le.PutUint32(b[8:], logFormat)
	le.PutUint64(b[16:], h.number)
	le.PutUint64(b[24:], h.size)
	le.PutUint64(b[32:], h.salt)
	copy(b[40:56], h.cluster[:])
	le.PutUint32(b[56:], uint32(h.node))
	le.PutUint32(b[12:], crc32.Checksum(b[16:], castagnoli))
	return b
}

func decodeSegHeader(file string, b []byte) (h segHeader, err error) {
	le := binary.LittleEndian
	if len(b) < blockSize || string(b[:8]) != segMagic {
		return h, &CorruptError{File: file, Offset: 0, Reason: "not a log segment"}
	}
	if v := le.Uint32(b[8:]); v > logFormat {
		return h, &FormatError{File: file, Have: v, Supported: logFormat}
	}
	if le.Uint32(b[12:]) != crc32.Checksum(b[16:blockSize], castagnoli) {
		return h, &CorruptError{File: file, Offset: 0, Reason: "header checksum does not match"}
	}
	h.number, h.size, h.salt = le.Uint64(b[16:]), le.Uint64(b[24:]), le.Uint64(b[32:])
	copy(h.cluster[:], b[40:56])
	h.node = keys.NodeID(le.Uint32(b[56:]))
	return h, nil
}

// batchHead is what stands before a batch's records.
type batchHead struct {
	length  uint32 // of the records
	records uint32
	segment uint64
	pos     uint64
	// prior is where the log ended, synced, when the batch was written: pos, or for
	// the first batch of a segment the end of the one before. It chains segments.
	prior uint64
	seq   uint64 // of the first append in the batch
}

// seal writes the header into the first batchHeader bytes of b, whose rest are
// the records. The checksum covers the segment's salt, number and the position.
func (h *batchHead) seal(b []byte, salt uint64) {
	le := binary.LittleEndian
	le.PutUint32(b[0:], batchMagic)
	le.PutUint32(b[8:], uint32(len(b)-batchHeader))
	le.PutUint32(b[12:], h.records)
	le.PutUint64(b[16:], h.segment)
	le.PutUint64(b[24:], h.pos)
	le.PutUint64(b[32:], h.prior)
	le.PutUint64(b[40:], h.seq)
	le.PutUint32(b[4:], batchSum(b, salt))
}

func batchSum(b []byte, salt uint64) uint32 {
	var s [8]byte
	binary.LittleEndian.PutUint64(s[:], salt)
	return crc32.Update(crc32.Checksum(s[:], castagnoli), castagnoli, b[8:])
}

// decodeBatchHead reads a header that claims to lie at pos of a segment; false
// when it cannot be one. The checksum is not looked at yet.
func decodeBatchHead(b []byte, segment, pos, size uint64) (h batchHead, ok bool) {
	le := binary.LittleEndian
	if len(b) < batchHeader || le.Uint32(b) != batchMagic {
		return h, false
	}
	h = batchHead{length: le.Uint32(b[8:]), records: le.Uint32(b[12:]), segment: le.Uint64(b[16:]),
		pos: le.Uint64(b[24:]), prior: le.Uint64(b[32:]), seq: le.Uint64(b[40:])}
	return h, h.segment == segment && h.pos == pos && pos+batchHeader+uint64(h.length) <= size
}

// appendRecord encodes rec with only the entries given, which are part of
// rec.Entries. delta is its append's distance from the batch's first one.
func appendRecord(b []byte, delta uint64, rec *GroupRecord, hs *HardState, entries []Entry) []byte {
	b = append(b, recordGroup)
	b = binary.AppendUvarint(b, delta)
	b = binary.AppendUvarint(b, uint64(rec.Group))
	b = binary.AppendUvarint(b, uint64(rec.Replica))
	if hs != nil {
		b = append(b, flagHardState)
		b = appendHardState(b, *hs)
	} else {
		b = append(b, 0)
	}
	b = binary.AppendUvarint(b, uint64(len(entries)))
	if len(entries) == 0 {
		return b
	}
	b = binary.AppendUvarint(b, entries[0].Index)
	for i := range entries {
		e := &entries[i]
		b = binary.AppendUvarint(b, e.Term)
		b = append(b, e.Type)
		b = binary.AppendUvarint(b, uint64(len(e.Data)))
		b = append(b, e.Data...)
	}
	return b
}

func appendHardState(b []byte, hs HardState) []byte {
	b = binary.AppendUvarint(b, hs.Term)
	b = binary.AppendUvarint(b, hs.Vote)
	return binary.AppendUvarint(b, hs.Commit)
}

var errMalformed = errors.New("malformed encoding")

// reader decodes; after the first error it returns zeros.
type reader struct {
	b   []byte
	err error
}

func (r *reader) uvarint() uint64 {
	if r.err != nil {
		return 0
	}
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.err = errMalformed
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) byte() byte {
	if r.err != nil || len(r.b) == 0 {
		r.err = errMalformed
		return 0
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c
}

// bytes returns a length-prefixed slice of the input, not a copy.
func (r *reader) bytes() []byte {
	n := r.uvarint()
	if r.err != nil || n > uint64(len(r.b)) {
		r.err = errMalformed
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) hardState() HardState {
	return HardState{Term: r.uvarint(), Vote: r.uvarint(), Commit: r.uvarint()}
}

// decodeRecords decodes a batch's records. Entries handed to visit point into
// b, and the record is valid only during the call.
func decodeRecords(b []byte, count uint32, visit func(delta uint64, rec *GroupRecord)) error {
	r := reader{b: b}
	var rec GroupRecord
	var hs HardState
	for range count {
		if k := r.byte(); r.err == nil && k != recordGroup {
			return fmt.Errorf("unknown record kind %d", k)
		}
		delta := r.uvarint()
		rec = GroupRecord{Group: keys.GroupID(r.uvarint()), Replica: keys.ReplicaID(r.uvarint()), Entries: rec.Entries[:0]}
		flags := r.byte()
		if flags&^flagHardState != 0 {
			return fmt.Errorf("unknown record flags %#x", flags)
		}
		if flags&flagHardState != 0 {
			hs = r.hardState()
			rec.HardState = &hs
		}
		n := r.uvarint()
		if n > uint64(len(r.b)) { // an entry takes more than a byte
			return errMalformed
		}
		if n > 0 {
			index := r.uvarint()
			for range n {
				e := Entry{Index: index, Term: r.uvarint(), Type: r.byte(), Data: r.bytes()}
				if r.err != nil {
					return r.err
				}
				rec.Entries = append(rec.Entries, e)
				index++
			}
		}
		if r.err != nil {
			return r.err
		}
		visit(delta, &rec)
	}
	if r.err == nil && len(r.b) != 0 {
		return errMalformed
	}
	return r.err
}
