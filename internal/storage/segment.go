package storage

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spandb/spand/internal/keys"
)

// segment is one file of the log.
type segment struct {
	number uint64
	name   string // full path
	size   int64
	salt   uint64
	file   File // nil once sealed
	// groups has the highest entry index of every group with a record here (0: hard
	// states only). Guarded by log.segMu.
	groups map[keys.GroupID]uint64
}

func (s *segment) note(g keys.GroupID, last uint64) {
	if old, ok := s.groups[g]; !ok || last > old {
		s.groups[g] = last
	}
}

// prepared is what the preparer hands to the writer.
type prepared struct {
	seg *segment
	err error
}

const (
	firstSegmentBytes = 8 << 20 // segments double from here up to the configured size
	maxSpares         = 4
	zeroChunk         = 1 << 20
	zeroSyncEvery     = 4 << 20
)

// roll goes on to the next segment. The old one's records are all synced.
func (l *log) roll() error {
	l.urgent.Store(true)
	p := <-l.ready
	l.urgent.Store(false)
	if p.err != nil {
		return p.err
	}
	old := l.seg.file
	l.seg, l.pos = p.seg, blockSize
	l.segMu.Lock()
	l.segMu.live[len(l.segMu.live)-1].file = nil
	l.segMu.live = append(l.segMu.live, p.seg)
	n := len(l.segMu.live)
	l.segMu.Unlock()
	l.rolled(n)
	if err := old.Close(); err != nil {
		return l.broken(fmt.Errorf("storage: closing a log segment: %w", err))
	}
	return nil
}

// prepare is the preparer: it keeps one segment ready, numbered next and up,
// until the writer has ended.
func (l *log) prepare(next uint64, have *segment) {
	defer close(l.prepDone)
	for {
		p := prepared{seg: have}
		if have == nil {
			p.seg, p.err = l.makeSegment(next)
		}
		if isNoSpace(p.err) && !l.closingNow() {
			// Nothing was lost: appends wait until there is room again. That is an event
			// outside of this process, so there is nothing to await but time.
			l.full(true)
			l.logger.Error("no space for the next log segment; writes wait", "err", p.err)
			t := time.NewTimer(500 * time.Millisecond)
			select {
			case <-t.C:
			case <-l.quit:
			}
			t.Stop()
			continue
		}
		if p.err != nil && !isNoSpace(p.err) && p.err != errStopped {
			p.err = l.broken(fmt.Errorf("storage: preparing a log segment: %w", p.err))
		}
		if p.err == nil {
			l.segMu.Lock()
			l.segMu.next = p.seg
			l.segMu.Unlock()
		}
		select {
		case l.ready <- p:
			have = nil
			next++
		case <-l.stopped:
			if p.seg != nil {
				p.seg.file.Close()
			}
			return
		}
		if p.err != nil {
			return
		}
	}
}

// errStopped cuts the making of a segment short that nobody waits for.
var errStopped = errors.New("stopped")

// makeSegment makes segment n from a spare, or new and filled with zeros. Its
// name appears only when its contents are durable.
func (l *log) makeSegment(n uint64) (*segment, error) {
	name := filepath.Join(l.dir, segmentName(n))
	var salt [8]byte
	rand.Read(salt[:])
	s := &segment{number: n, name: name, salt: binary.LittleEndian.Uint64(salt[:]), groups: map[keys.GroupID]uint64{}}
	l.segMu.Lock()
	spare := ""
	if k := len(l.segMu.spares); k > 0 {
		spare = l.segMu.spares[k-1]
		l.segMu.spares = l.segMu.spares[:k-1]
	}
	l.segMu.Unlock()
	tmp := spare
	var err error
	if spare != "" {
		if s.file, err = l.fs.Open(spare); err != nil {
			return nil, err
		}
		if s.size, err = s.file.Size(); err == nil && s.size < blockSize*2 {
			// Not worth keeping; a crash cut its making short.
			s.file.Close()
			if err := l.fs.Remove(spare); err != nil {
				return nil, err
			}
			return l.makeSegment(n)
		}
	} else {
		tmp = name + ".tmp"
		s.size = l.sizeFor(n)
		if s.file, err = l.fs.Create(tmp); err == nil {
			err = l.zero(s.file, s.size)
		}
	}
	if err == nil {
		h := segHeader{number: n, size: uint64(s.size), salt: s.salt, cluster: l.identity.Cluster, node: l.identity.Node}
		_, err = s.file.WriteAt(h.encode(), 0)
	}
	if err == nil {
		err = s.file.Sync()
	}
	if err == nil {
		err = l.fs.Rename(tmp, name)
	}
	if err == nil {
		err = l.fs.SyncDir(l.dir)
	}
	if err != nil {
		if s.file != nil {
			s.file.Close()
		}
		if spare == "" {
			l.fs.Remove(tmp) // gives the space back; what a crash leaves, Open removes
		}
		return nil, err
	}
	return s, nil
}

// sizeFor starts small, so that a small store is small.
func (l *log) sizeFor(n uint64) int64 {
	size := min(l.segmentBytes, firstSegmentBytes)
	for ; n > 1 && size < l.segmentBytes; n-- {
		size *= 2
	}
	return min(size, l.segmentBytes)
}

// zero fills f: writing over existing blocks is what makes a sync cheap. It
// goes slowly, so as not to stand in the way of the writer's syncs, unless the
// writer waits.
func (l *log) zero(f File, size int64) error {
	zeros := make([]byte, zeroChunk)
	for at := int64(0); at < size; {
		select {
		case <-l.stopped:
			return errStopped
		default:
		}
		n := min(size-at, zeroChunk)
		if _, err := f.WriteAt(zeros[:n], at); err != nil {
			return err
		}
		at += n
		if at%zeroSyncEvery == 0 && at < size {
			if err := f.Sync(); err != nil {
				return err
			}
			if !l.urgent.Load() {
				time.Sleep(2 * time.Millisecond)
			}
		}
	}
	return nil
}

// room returns how many bytes the log can take in the files that it has, at least, and the size of
// the one being written.
func (l *log) room() (room, segment int64) {
	l.segMu.Lock()
	defer l.segMu.Unlock()
	seg, pos := l.segMu.live[len(l.segMu.live)-1], int64(blockSize)
	if l.segMu.durSeg == seg.number {
		pos = l.segMu.durPos
	}
	room = seg.size - pos
	if next := l.segMu.next; next != nil && next.number > seg.number {
		room += next.size
	}
	return room, seg.size
}

// active returns the number of the segment being written.
func (l *log) active() uint64 {
	l.segMu.Lock()
	defer l.segMu.Unlock()
	return l.segMu.live[len(l.segMu.live)-1].number
}

// segments returns how many live segments there are.
func (l *log) segments() int {
	l.segMu.Lock()
	defer l.segMu.Unlock()
	return len(l.segMu.live)
}

// below calls visit for every group with a record in a segment below number
// limit, with the highest index there.
func (l *log) below(limit uint64) map[keys.GroupID]uint64 {
	l.segMu.Lock()
	defer l.segMu.Unlock()
	groups := map[keys.GroupID]uint64{}
	for _, s := range l.segMu.live {
		if s.number >= limit {
			break
		}
		for g, last := range s.groups {
			if old, ok := groups[g]; !ok || last > old {
				groups[g] = last
			}
		}
	}
	return groups
}

// recycle drops the segments below number limit, which nothing needs any more
// and which bbolt no longer names as the log's start.
func (l *log) recycle(limit uint64) error {
	var gone []*segment
	l.segMu.Lock()
	for len(l.segMu.live) > 1 && l.segMu.live[0].number < limit {
		gone = append(gone, l.segMu.live[0])
		l.segMu.live = l.segMu.live[1:]
	}
	l.segMu.Unlock()
	for _, s := range gone {
		if err := l.retire(s.name, s.number, s.size); err != nil {
			return err
		}
	}
	return nil
}

// retire makes a spare of a segment file, or removes it when there are enough
// or it is smaller than new ones.
func (l *log) retire(name string, number uint64, size int64) error {
	l.segMu.Lock()
	keep := len(l.segMu.spares) < maxSpares && size >= l.segmentBytes
	l.segMu.Unlock()
	if !keep {
		return l.fs.Remove(name)
	}
	spare := filepath.Join(l.dir, fmt.Sprintf("spare-%016x", number))
	if err := l.fs.Rename(name, spare); err != nil {
		return err
	}
	l.segMu.Lock()
	l.segMu.spares = append(l.segMu.spares, spare)
	l.segMu.Unlock()
	return nil
}

// firstWith returns the number of the first segment below limit with a record
// of a group in keep, limit if there is none.
func (l *log) firstWith(keep map[keys.GroupID]bool, limit uint64) uint64 {
	l.segMu.Lock()
	defer l.segMu.Unlock()
	for _, s := range l.segMu.live {
		if s.number >= limit {
			break
		}
		for g := range s.groups {
			if keep[g] {
				return s.number
			}
		}
	}
	return limit
}
