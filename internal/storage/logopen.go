package storage

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spandb/spand/internal/keys"
)

func newLog(c logConfig) *log {
	l := &log{logConfig: c,
		wake: make(chan struct{}, 1), stopped: make(chan struct{}),
		ready: make(chan prepared), quit: make(chan struct{}), prepDone: make(chan struct{})}
	// Batches fit the smallest segment, which is the first one.
	l.maxBatch = min(maxBatchBytes, l.sizeFor(1)-blockSize)
	return l
}

// create makes the first segment of a new log.
func (l *log) create() error {
	l.urgent.Store(true)
	s, err := l.makeSegment(1)
	if err != nil {
		return err
	}
	return s.file.Close()
}

// logStart is where bbolt's last checkpoint says that the log begins, and how
// far it knew it to be synced.
type logStart struct {
	first   uint64 // oldest segment needed
	durSeg  uint64
	durPos  int64
	nextSeq uint64
}

// open scans the log, hands every record to visit, in order, cuts off a torn
// tail, syncs what is left and starts the writer.
func (l *log) open(start logStart, visit func(seq uint64, rec *GroupRecord)) error {
	names, err := l.fs.List(l.dir)
	if err != nil {
		return err
	}
	var segs []*segment
	for _, n := range names {
		full := filepath.Join(l.dir, n)
		number, ok := parseSegmentName(n)
		switch {
		case strings.HasPrefix(n, "spare-") && len(l.segMu.spares) < maxSpares:
			l.segMu.spares = append(l.segMu.spares, full)
		case strings.HasPrefix(n, "spare-"), strings.HasPrefix(n, "log-") && !ok:
			err = l.fs.Remove(full) // surplus, or a segment in the making
		case ok && number < start.first:
			err = l.fs.Remove(full) // recycling was cut short
		case ok:
			segs = append(segs, &segment{number: number, name: full, groups: map[keys.GroupID]uint64{}})
		}
		if err != nil {
			return err
		}
	}
	defer func() {
		if l.seg == nil {
			for _, s := range segs {
				if s.file != nil {
					s.file.Close()
				}
			}
		}
	}()
	slices.SortFunc(segs, func(a, b *segment) int { return int(int64(a.number - b.number)) })
	for i, s := range segs {
		if s.number != start.first+uint64(i) {
			return &CorruptError{File: filepath.Join(l.dir, segmentName(start.first+uint64(i))), Offset: -1, Reason: "log segment is missing"}
		}
	}
	if len(segs) == 0 {
		return &CorruptError{File: filepath.Join(l.dir, segmentName(start.first)), Offset: -1, Reason: "log segment is missing"}
	}
	sc := logScan{log: l, visit: visit, nextSeq: start.nextSeq}
	for _, s := range segs {
		if err := sc.segment(s); err != nil {
			return err
		}
	}
	// Everything behind the last valid batch must be nothing but a torn tail (D1).
	for _, t := range sc.tails[sc.last:] {
		if at, found, err := sc.validBehind(t.seg, t.end); err != nil {
			return err
		} else if found {
			return &CorruptError{File: t.seg.name, Offset: t.end, Reason: fmt.Sprintf("damaged batch below the synced batch at %d", at)}
		}
	}
	tail := sc.tails[sc.last]
	if tail.seg.number < start.durSeg || tail.seg.number == start.durSeg && tail.end < start.durPos {
		return &CorruptError{File: tail.seg.name, Offset: tail.end,
			Reason: fmt.Sprintf("log ends before segment %d offset %d, which the last checkpoint saw synced", start.durSeg, start.durPos)}
	}
	// Bytes that could be read after a kill are not necessarily durable; Raft must
	// not vouch for them before they are.
	if err := tail.seg.file.Sync(); err != nil {
		return l.broken(fmt.Errorf("storage: syncing the log at open: %w", err))
	}
	l.mu.nextSeq = sc.nextSeq
	var next *segment
	for i, s := range segs {
		switch {
		case i < sc.last:
			s.file.Close()
			s.file = nil
		case i == sc.last+1:
			next = s // was ready when the last life ended
		case i > sc.last+1:
			s.file.Close()
			if err := l.fs.Remove(s.name); err != nil {
				return err
			}
		}
	}
	l.segMu.live = segs[: sc.last+1 : sc.last+1]
	l.seg, l.pos, l.prior = tail.seg, tail.end, tail.end
	l.segMu.durSeg, l.segMu.durPos = tail.seg.number, tail.end
	go l.run()
	go l.prepare(tail.seg.number+1, next)
	return nil
}

// logScan reads segments one after the other.
type logScan struct {
	log     *log
	visit   func(seq uint64, rec *GroupRecord)
	nextSeq uint64
	tails   []segTail // per segment
	last    int       // index of the last segment with a valid batch
	win     window
}

type segTail struct {
	seg *segment
	end int64 // behind its last valid batch
}

// segment reads the valid batches of s.
func (sc *logScan) segment(s *segment) error {
	l := sc.log
	var err error
	if s.file, err = l.fs.Open(s.name); err != nil {
		return fmt.Errorf("storage: opening the log: %w", err)
	}
	size, err := s.file.Size()
	if err != nil {
		return fmt.Errorf("storage: opening the log: %w", err)
	}
	sc.win = window{f: s.file, name: s.name, size: size, buf: sc.win.buf}
	b, err := sc.win.at(0, blockSize)
	if err != nil {
		return err
	}
	h, err := decodeSegHeader(s.name, b)
	if err != nil {
		return err
	}
	if h.number != s.number || int64(h.size) != size {
		return &CorruptError{File: s.name, Offset: 0, Reason: fmt.Sprintf("header says segment %d with %d bytes", h.number, h.size)}
	}
	if h.cluster != l.identity.Cluster || h.node != l.identity.Node {
		return &CorruptError{File: s.name, Offset: 0, Reason: "log segment of another node"}
	}
	s.size, s.salt = size, h.salt
	i := len(sc.tails)
	end := int64(blockSize)
	for {
		head, recs, ok, err := sc.batch(s, end)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		want := uint64(end)
		if end == blockSize && i > 0 {
			want = uint64(sc.tails[i-1].end)
		}
		if head.prior != want && (end != blockSize || i > 0) { // the oldest segment's predecessor is gone
			p := sc.tails[max(0, i-1)]
			return &CorruptError{File: p.seg.name, Offset: p.end,
				Reason: fmt.Sprintf("log was synced up to %d, but valid batches end here", head.prior)}
		}
		var maxDelta uint64
		err = decodeRecords(recs, head.records, func(delta uint64, rec *GroupRecord) {
			maxDelta = max(maxDelta, delta+1)
			last := uint64(0)
			if n := len(rec.Entries); n > 0 {
				last = rec.Entries[n-1].Index
			}
			s.note(rec.Group, last)
			sc.visit(head.seq+delta, rec)
		})
		if err != nil {
			// The checksum was right: written by something we do not know.
			return &CorruptError{File: s.name, Offset: end, Reason: "undecodable batch", Err: err}
		}
		sc.nextSeq = max(sc.nextSeq, head.seq+maxDelta)
		sc.last = i
		end = alignUp(end + batchHeader + int64(head.length))
	}
	sc.tails = append(sc.tails, segTail{s, end})
	return nil
}

// batch reads the batch at pos of s; false when there is no valid one.
func (sc *logScan) batch(s *segment, pos int64) (h batchHead, recs []byte, ok bool, err error) {
	if pos+batchHeader > s.size {
		return h, nil, false, nil
	}
	b, err := sc.win.at(pos, batchHeader)
	if err != nil {
		return h, nil, false, err
	}
	h, ok = decodeBatchHead(b, s.number, uint64(pos), uint64(s.size))
	if !ok {
		return h, nil, false, nil
	}
	if b, err = sc.win.at(pos, batchHeader+int64(h.length)); err != nil {
		return h, nil, false, err
	}
	if batchSum(b, s.salt) != le32(b[4:]) && !BreakChecksum {
		return h, nil, false, nil
	}
	return h, b[batchHeader:], true, nil
}

func le32(b []byte) uint32 {
	return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
}

// validBehind looks for a valid batch behind pos.
func (sc *logScan) validBehind(s *segment, pos int64) (at int64, found bool, err error) {
	sc.win = window{f: s.file, name: s.name, size: s.size, buf: sc.win.buf}
	for at = pos + blockSize; at < s.size; at += blockSize {
		if _, _, ok, err := sc.batch(s, at); err != nil || ok {
			return at, ok, err
		}
	}
	return 0, false, nil
}

// window reads a file ahead in large pieces.
type window struct {
	f    File
	name string
	size int64
	buf  []byte
	off  int64
	n    int
}

const windowBytes = 1 << 20

// at returns n bytes at off, which lie inside the file; valid until the next call.
func (w *window) at(off, n int64) ([]byte, error) {
	if off+n > w.size {
		return nil, &CorruptError{File: w.name, Offset: off, Reason: "file is too short"}
	}
	if off < w.off || off+n > w.off+int64(w.n) {
		want := min(max(n, windowBytes), w.size-off)
		if int64(cap(w.buf)) < want {
			w.buf = make([]byte, want)
		}
		w.buf = w.buf[:want]
		k, err := w.f.ReadAt(w.buf, off)
		if err != nil && !(errors.Is(err, io.EOF) && int64(k) >= n) {
			return nil, fmt.Errorf("storage: reading the log: %w", err)
		}
		w.off, w.n = off, k
	}
	return w.buf[off-w.off : off-w.off+n], nil
}
