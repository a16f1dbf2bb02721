package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/spandb/spand/internal/keys"
	"golang.org/x/sys/unix"
)

// stored makes a directory with some acknowledged entries and returns its host.
func stored(t *testing.T, dir string, clean bool) (*fakeHost, Options) {
	t.Helper()
	o := options(t, OS, dir)
	s, _ := mustOpen(t, o)
	h := newHost(s)
	for range 10 {
		if err := h.appendEntries(t, 1, 3, 1000); err != nil {
			t.Fatal(err)
		}
	}
	h.apply(t, 1, 20)
	if clean {
		if err := s.Checkpoint(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return h, o
}

func flip(t *testing.T, file string, off int64) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b[off] ^= 0x40
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// D1: any flipped byte of the log's batches is found, because something valid
// stands behind it; in the padding it does not matter.
func TestD1FlippedByteInLog(t *testing.T) {
	dir := t.TempDir()
	h, o := stored(t, filepath.Join(dir, "a"), false)
	seg := filepath.Join(o.Dir, segmentName(1))
	b, err := os.ReadFile(seg)
	if err != nil {
		t.Fatal(err)
	}
	for off := int64(0); off < int64(len(b)); off += 997 {
		block := off &^ (blockSize - 1)
		inBatch := off < blockSize
		if block >= blockSize && binary.LittleEndian.Uint32(b[block:]) == batchMagic {
			n := int64(binary.LittleEndian.Uint32(b[block+8:]))
			inBatch = off-block < batchHeader+n && n > 0 // the seal at the end has no successor
		}
		c := bytes.Clone(b)
		c[off] ^= 1
		if err := os.WriteFile(seg, c, 0o600); err != nil {
			t.Fatal(err)
		}
		s, rec, err := Open(o)
		var ce *CorruptError
		var fe *FormatError
		switch {
		case inBatch && !errors.As(err, &ce) && !errors.As(err, &fe):
			t.Errorf("byte %d: %v", off, err)
		case inBatch && ce != nil && ce.File != seg:
			t.Errorf("byte %d: %v", off, err)
		case !inBatch && err != nil:
			t.Errorf("byte %d, in the padding: %v", off, err)
		}
		if err == nil {
			if n := len(rec[1].Entries); n != len(h.groups[1].log) {
				t.Errorf("byte %d: %d entries", off, n)
			}
			s.Close()
		}
	}
}

// D1: so is one in the last batch of a full segment, though nothing valid stands
// behind it there: the next segment's first batch knows how far the log was synced.
func TestD1FlippedByteAtTheEndOfASegment(t *testing.T) {
	o := options(t, OS, t.TempDir())
	s, _ := mustOpen(t, o)
	h := newHost(s)
	for range 30 {
		if err := h.appendEntries(t, 1, 1, 8000); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.Stats().Segments; n < 3 {
		t.Fatalf("%d segments", n)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	seg := filepath.Join(o.Dir, segmentName(2))
	b, err := os.ReadFile(seg)
	if err != nil {
		t.Fatal(err)
	}
	last := int64(0)
	for block := int64(blockSize); block < int64(len(b)); block += blockSize {
		if binary.LittleEndian.Uint32(b[block:]) == batchMagic {
			last = block
		}
	}
	flip(t, seg, last+batchHeader+10)
	var ce *CorruptError
	if _, _, err := Open(o); !errors.As(err, &ce) || ce.File != seg || ce.Offset != last {
		t.Errorf("the last batch is at %d: %v", last, err)
	}
}

// D1: a torn tail, here the last batch cut anywhere, is cut off and the log goes on.
func TestD1TornTail(t *testing.T) {
	for cut := int64(0); cut < 3000; cut += 613 {
		m := newMachine(t, 1)
		if err := m.boot(); err != nil {
			t.Fatal(err)
		}
		if err := m.append(1, 3, 900); err != nil {
			t.Fatal(err)
		}
		acked := m.acked[1]
		end := m.store.log.pos
		if err := m.append(1, 3, 900); err != nil {
			t.Fatal(err)
		}
		m.disk.Crash(nil)
		m.store.Close()
		// Undo what the last sync wrote from cut on.
		n := m.disk.mu.now["/node/"+segmentName(1)]
		clear(n.now[end+cut : end+blockSize])
		n.synced = bytes.Clone(n.now)
		m.acked[1] = acked
		if err := m.boot(); err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		if got := m.acked[1]; got != acked {
			t.Errorf("cut at %d: recovered %d", cut, got)
		}
		if err := m.append(1, 2, 100); err != nil {
			t.Fatal(err)
		}
		m.disk.Crash(nil)
		m.store.Close()
		if err := m.boot(); err != nil || m.acked[1] != acked+2 {
			t.Errorf("cut at %d: then %v, %d", cut, err, m.acked[1])
		}
		m.store.Close()
	}
}

// D1: the last checkpoint knows how far the log was synced; less is damage,
// not a torn tail.
func TestD1LogShorterThanCheckpointSaw(t *testing.T) {
	dir := t.TempDir()
	_, o := stored(t, dir, true)
	seg := filepath.Join(dir, segmentName(1))
	b, _ := os.ReadFile(seg)
	clear(b[blockSize:])
	os.WriteFile(seg, b, 0o600)
	var ce *CorruptError
	if _, _, err := Open(o); !errors.As(err, &ce) || !strings.Contains(err.Error(), "checkpoint saw synced") {
		t.Error(err)
	}
	os.Remove(seg)
	if _, _, err := Open(o); !errors.As(err, &ce) {
		t.Error(err)
	}
	os.Remove(filepath.Join(dir, boltName))
	if _, _, err := Open(o); !errors.As(err, &ce) || ce.File != filepath.Join(dir, boltName) {
		t.Error(err)
	}
}

// Recycled bytes never look valid: an old batch in its old place, in a segment
// with another number or salt.
func TestD1RecycledBytesAreInvalid(t *testing.T) {
	buf := append(make([]byte, batchHeader), "records"...)
	h := batchHead{records: 1, segment: 3, pos: 8192, prior: 8192, seq: 9}
	h.seal(buf, 77)
	got, ok := decodeBatchHead(buf, 3, 8192, 1<<20)
	if !ok || got.length != 7 || got.seq != 9 || batchSum(buf, 77) != le32(buf[4:]) {
		t.Error(got, ok)
	}
	for _, c := range []struct{ seg, pos, size uint64 }{{4, 8192, 1 << 20}, {3, 4096, 1 << 20}, {3, 8192, 8192 + 50}} {
		if _, ok := decodeBatchHead(buf, c.seg, c.pos, c.size); ok {
			t.Error(c)
		}
	}
	if batchSum(buf, 78) == le32(buf[4:]) {
		t.Error("the salt is not covered")
	}
	// And no two segments have the same salt, of whatever node.
	salts := map[uint64]bool{}
	for range 2 {
		o := options(t, OS, t.TempDir())
		s, _ := mustOpen(t, o)
		h := newHost(s)
		for range 20 {
			if err := h.appendEntries(t, 1, 1, 8000); err != nil {
				t.Fatal(err)
			}
		}
		s.log.segMu.Lock()
		for _, seg := range s.log.segMu.live {
			if salts[seg.salt] {
				t.Errorf("segment %d has another one's salt", seg.number)
			}
			salts[seg.salt] = true
		}
		s.log.segMu.Unlock()
		s.Close()
	}
	if len(salts) < 4 {
		t.Errorf("%d segments", len(salts))
	}
}

// D1: a flipped byte in a value in bbolt is found when it is read, by Get and
// by an iterator, and the rest of the store goes on.
func TestD1FlippedByteInStore(t *testing.T) {
	dir := t.TempDir()
	o := options(t, OS, dir)
	s, _ := mustOpen(t, o)
	h := newHost(s)
	if err := h.appendEntries(t, 1, 1, 10); err != nil {
		t.Fatal(err)
	}
	b := s.NewBatch(1)
	victim, healthy := []byte{byte(ClassData), 'v'}, []byte{byte(ClassData), 'w'}
	b.Put(victim, []byte("the quick brown fox jumps over the lazy dog"))
	b.Put(healthy, []byte("fine"))
	if err := s.Apply(b); err != nil {
		t.Fatal(err)
	}
	if err := s.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.Close()
	file := filepath.Join(dir, boltName)
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	hits := 0
	for at := 0; ; hits++ {
		i := bytes.Index(raw[at:], []byte("quick brown fox"))
		if i < 0 {
			break
		}
		flip(t, file, int64(at+i+3))
		at += i + 1
	}
	if hits == 0 {
		t.Fatal("value not found in the file")
	}
	s, _ = mustOpen(t, o)
	defer s.Close()
	var ce *CorruptError
	if _, _, err := s.Get(victim); !errors.As(err, &ce) || ce.File != file {
		t.Error(err)
	}
	it := s.NewIter([]byte{byte(ClassData)}, []byte{byte(ClassData) + 1})
	defer it.Close()
	if it.SeekGE(victim) || !errors.As(it.Err(), &ce) {
		t.Error(it.Err())
	}
	if v, ok, err := s.Get(healthy); string(v) != "fine" || !ok || err != nil {
		t.Error(v, ok, err)
	}
}

// D1: a damaged key may lead bbolt's search astray, past keys that are whole; but
// whoever looks for those hears of damage, and never that they are not there.
func TestD1FlippedByteInKey(t *testing.T) {
	dir := t.TempDir()
	o := options(t, OS, dir)
	o.Fatal = func(error) {}
	s, _ := mustOpen(t, o)
	h := newHost(s)
	if err := h.appendEntries(t, 1, 1, 10); err != nil {
		t.Fatal(err)
	}
	key := func(i int) []byte { return fmt.Appendf([]byte{byte(ClassData)}, "key%04d", i) }
	value := func(i int) []byte { return fmt.Appendf(bytes.Repeat([]byte{'.'}, 100), "%d", i) }
	const n = 200 // some pages of leaves
	b := s.NewBatch(1)
	for i := range n {
		b.Put(key(2*i), value(2*i))
	}
	if err := s.Apply(b); err != nil {
		t.Fatal(err)
	}
	if err := s.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.Close()
	file := filepath.Join(dir, boltName)
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for victim := 0; victim < n; victim += 7 {
		for _, mask := range []byte{0x01, 0x10, 0x80} {
			c := bytes.Clone(raw)
			at := 0 // every copy of the key, those in branches too
			for i := bytes.Index(c, key(2*victim)); i >= 0; i = bytes.Index(c[at:], key(2*victim)) {
				at += i + 1
				c[at+len("key00")-1] ^= mask
			}
			if err := os.WriteFile(file, c, 0o600); err != nil {
				t.Fatal(err)
			}
			s, _, err := Open(o)
			if err != nil {
				t.Fatal(err)
			}
			var ce *CorruptError
			bad := func(err error) bool {
				if err != nil && !errors.As(err, &ce) {
					t.Fatal(err)
				}
				found += btoi(err != nil)
				return err != nil
			}
			for i := range n {
				if v, ok, err := s.Get(key(2 * i)); !bad(err) && (!ok || !bytes.Equal(v, value(2*i))) {
					t.Errorf("key %d damaged with %#x: Get of key %d finds %q, %v", victim, mask, i, v, ok)
				}
				k, _, ok, err := s.First(key(2*i-1), key(2*n))
				if !bad(err) && (!ok || !bytes.Equal(k, key(2*i))) {
					t.Errorf("key %d damaged with %#x: First from before key %d finds %q", victim, mask, i, k)
				}
				it := s.NewIter(key(0), key(2*i+1))
				j := 0
				for ok := it.SeekGE(key(i)); ok; ok = it.Next() {
					j++
				}
				if want := i + 1 - (i+1)/2; !bad(it.Err()) && j != want {
					t.Errorf("key %d damaged with %#x: %d keys up to key %d, want %d", victim, mask, j, i, want)
				}
				it.Close()
				back := s.NewIter(key(0), key(2*n))
				if ok := back.SeekLT(key(2*i + 1)); !bad(back.Err()) && (!ok || !bytes.Equal(back.Key(), key(2*i))) {
					t.Errorf("key %d damaged with %#x: backwards from behind key %d", victim, mask, i)
				}
				back.Close()
			}
			s.Close()
		}
	}
	if found == 0 {
		t.Error("no damage was found at all")
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// D1: damage in bbolt's own pages is an error at open or a fatal one later,
// never a crash of the test process or a partial answer.
func TestD1DamagedPages(t *testing.T) {
	dir := t.TempDir()
	o := options(t, OS, dir)
	s, _ := mustOpen(t, o)
	h := newHost(s)
	if err := h.appendEntries(t, 1, 400, 200); err != nil {
		t.Fatal(err)
	}
	h.apply(t, 1, 400)
	if err := s.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	model(want, 1, h.groups[1], 400)
	s.Close()
	raw, err := os.ReadFile(filepath.Join(dir, boltName))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, boltName)
	found := 0
	for page := 2; page*blockSize < len(raw) && page < 60; page++ {
		c := bytes.Clone(raw)
		for i := range 40 { // header and first elements
			c[page*blockSize+8+i] ^= 0xa5
		}
		if err := os.WriteFile(file, c, 0o600); err != nil {
			t.Fatal(err)
		}
		o.Fatal = func(error) {}
		s, _, err := Open(o)
		if err == nil {
			it := s.NewIter([]byte{byte(ClassData)}, []byte{byte(ClassStage) + 1})
			n := 0
			for ok := it.SeekGE(nil); ok; ok = it.Next() {
				if want[string(it.Key())] != string(it.Value()) {
					t.Errorf("page %d: wrong value for %q", page, it.Key())
				}
				n++
			}
			err = it.Err()
			it.Close()
			s.Close()
		}
		var ce *CorruptError
		if errors.As(err, &ce) {
			found++
		}
	}
	if found < 20 { // others are free
		t.Error("damage found in only", found, "pages")
	}
}

// R1: a failed sync or write of the log is fatal, its appends are not
// acknowledged, and nothing is tried again.
func TestR1FailedSyncIsFatal(t *testing.T) {
	for _, op := range []Op{OpSync, OpWrite} {
		for _, cause := range []error{unix.EIO, unix.ENOSPC} {
			if op == OpWrite && cause == unix.ENOSPC {
				continue
			}
			disk := NewMemFS(t.TempDir())
			o := options(t, disk.Boot(), "/n")
			o.SegmentBytes = 1 << 20
			var mu sync.Mutex
			var fatal []error
			o.Fatal = func(err error) {
				mu.Lock()
				defer mu.Unlock()
				fatal = append(fatal, err)
			}
			s, _ := mustOpen(t, o)
			h := newHost(s)
			if err := h.appendEntries(t, 1, 1, 10); err != nil {
				t.Fatal(err)
			}
			tries := 0
			disk.Inject(func(p Op, name string) error {
				if p == op && strings.Contains(name, segmentName(1)) {
					mu.Lock()
					defer mu.Unlock()
					if tries++; tries == 1 {
						return cause
					}
				}
				return nil
			})
			if err := h.appendEntries(t, 1, 1, 10); !errors.Is(err, cause) {
				t.Errorf("%s: %v", op, err)
			}
			if err := h.appendEntries(t, 1, 1, 10); !errors.Is(err, cause) {
				t.Errorf("%s, afterwards: %v", op, err)
			}
			s.Close()
			mu.Lock()
			if len(fatal) != 1 || tries != 1 || !errors.Is(fatal[0], cause) {
				t.Errorf("%s %v: fatal %v, %d tries", op, cause, fatal, tries)
			}
			mu.Unlock()
		}
	}
}

// R1: so is a failed commit of bbolt.
func TestR1FailedCommitIsFatal(t *testing.T) {
	disk := NewMemFS(t.TempDir())
	o := options(t, disk.Boot(), "/n")
	var fatal error
	o.Fatal = func(err error) { fatal = err }
	s, _ := mustOpen(t, o)
	defer s.Close()
	disk.Inject(func(op Op, _ string) error {
		if op == OpCommit {
			return unix.EIO
		}
		return nil
	})
	if err := s.PutNode([]byte("a"), nil); !errors.Is(err, unix.EIO) || !errors.Is(fatal, unix.EIO) {
		t.Error(err, fatal)
	}
}

// Below the reserve the store says so; without any space for the next segment
// or a checkpoint it waits, loses nothing and goes on when there is space again.
func TestFullDisk(t *testing.T) {
	m := newMachine(t, 1)
	m.reserve = 1 << 30
	if err := m.boot(); err != nil {
		t.Fatal(err)
	}
	s := m.store
	m.disk.SetFree(1<<30 - 1)
	s.checkSpace()
	if !s.Full() || !s.Stats().Full {
		t.Error("not full")
	}
	m.disk.SetFree(1 << 30)
	s.checkSpace()
	if !s.Full() {
		t.Error("no hysteresis")
	}
	m.disk.SetFree(2 << 30)
	s.checkSpace()
	if s.Full() {
		t.Error("still full")
	}
	m.disk.SetFree(0)
	done := make(chan error, 1)
	go func() {
		for range 30 {
			if err := m.append(1, 1, 8000); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	// The log stands still once the segments that are ready are used up.
	full := make(chan struct{})
	removes := 0 // in the preparer alone
	m.disk.Inject(func(op Op, name string) error {
		if op == OpRemove {
			if removes++; removes == 2 {
				close(full) // it has given up once, and tries again
			}
		}
		return nil
	})
	<-full
	if !s.Full() {
		t.Error("not full without a byte left")
	}
	if v, ok, err := s.Get(dataKey(1, 1)); ok || err != nil {
		t.Error("reads go on:", v, ok, err)
	}
	m.disk.SetFree(2 << 30)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	m.host.apply(t, 1, 30)
	// A checkpoint without space waits for it, too.
	commits := 0
	m.disk.Inject(func(op Op, name string) error {
		if op == OpCommit {
			if commits++; commits == 1 {
				return unix.ENOSPC
			}
		}
		return nil
	})
	if err := s.Checkpoint(t.Context()); err != nil || commits < 2 {
		t.Error(err, commits)
	}
	m.host.verify(t)
	m.disk.Crash(nil)
	s.Close()
	if err := m.boot(); err != nil {
		t.Fatal(err)
	}
	m.store.Close()
}

// On a disk without a byte the log's own files say what may be let in: less and less, and at the end
// there is room for what cannot be refused.
func TestSpaceOfAFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t, 1)
		m.reserve = 1 << 30
		if err := m.boot(); err != nil {
			t.Fatal(err)
		}
		s := m.store
		defer s.Close()
		synctest.Wait() // until the next segment is ready
		if sp := s.Space(); sp != SpaceAmple {
			t.Errorf("space %d with an empty disk", sp)
		}
		m.disk.SetFree(0)
		s.checkSpace()
		written := map[Space]int{} // blocks
		for last := SpaceAmple; ; {
			sp := s.Space()
			if sp < last {
				t.Fatalf("space %d after %d, nothing was freed", sp, last)
			}
			if last = sp; sp == SpaceNone {
				break
			}
			written[sp]++
			if err := m.append(1, 1, 100); err != nil {
				t.Fatal(err)
			}
		}
		segment := int(s.opts.SegmentBytes / blockSize)
		if written[SpaceAmple] != 0 || written[SpaceLetGo] < segment/2 || written[SpaceTight] < segment/4-1 {
			t.Errorf("blocks written: %v, of segments of %d", written, segment)
		}
		for range segment/4 - 1 {
			if err := m.append(1, 1, 100); err != nil {
				t.Fatal(err)
			}
		}
		m.disk.SetFree(2 << 30)
		s.checkSpace()
		if sp := s.Space(); sp != SpaceAmple {
			t.Errorf("space %d with an empty disk", sp)
		}
	})
}

func TestCloseWithFullDisk(t *testing.T) {
	m := newMachine(t, 1)
	if err := m.boot(); err != nil {
		t.Fatal(err)
	}
	if err := m.append(1, 1, 10); err != nil {
		t.Fatal(err)
	}
	m.disk.SetFree(0)
	errs := make(chan error, 40)
	for i := range 40 {
		m.store.Append([]GroupRecord{{Group: 2, Replica: 2, Entries: []Entry{{Index: uint64(i + 1), Term: 1, Data: make([]byte, 10_000)}}}}, func(err error) { errs <- err })
	}
	m.store.Close()
	failed := 0
	for range 40 {
		if err := <-errs; err != nil {
			failed++
			if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, ErrClosed) {
				t.Error(err)
			}
		}
	}
	if failed == 0 {
		t.Error("there was space after all")
	}
}

func TestIdentity(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	me := Identity{Cluster: [16]byte{1, 2}, Node: 3, Name: "n3 with \"quotes\""}
	o := options(t, OS, dir)
	o.Identity = me
	s, _ := mustOpen(t, o)
	var le *LockedError
	if _, _, err := Open(o); !errors.As(err, &le) || le.Dir != dir {
		t.Error("a second process:", err)
	}
	s.Close()
	if id, ok, err := ReadIdentity(OS, dir); id != me || !ok || err != nil {
		t.Error(id, ok, err)
	}
	if _, ok, err := ReadIdentity(OS, t.TempDir()); ok || err != nil {
		t.Error(ok, err)
	}
	before := snapshotDir(t, dir)
	for _, other := range []Identity{
		{Cluster: [16]byte{9}}, {Node: 4}, {Name: "n4"}, {Cluster: me.Cluster, Node: 4, Name: me.Name},
	} {
		o.Identity = other
		var ie *IdentityError
		if _, _, err := Open(o); !errors.As(err, &ie) || ie.Have != me {
			t.Error(other, err)
		}
	}
	file := filepath.Join(dir, identityName)
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	o.Identity = me
	for other, says := range map[uint32]string{dirFormat - 1: "use an older spand", dirFormat + 1: "use a newer spand"} {
		of := bytes.Replace(good, fmt.Appendf(nil, "format %d", dirFormat), fmt.Appendf(nil, "format %d", other), 1)
		os.WriteFile(file, of, 0o600)
		var fe *FormatError
		if _, _, err := Open(o); !errors.As(err, &fe) || fe.Have != other || !strings.Contains(err.Error(), says) {
			t.Error(err)
		}
	}
	var ce *CorruptError
	os.WriteFile(file, bytes.Replace(good, []byte("node 3"), []byte("node 5"), 1), 0o600)
	if _, _, err := Open(o); !errors.As(err, &ce) {
		t.Error(err)
	}
	os.WriteFile(file, good, 0o600)
	if after := snapshotDir(t, dir); after != before {
		t.Errorf("something was touched:\n%s\n%s", before, after)
	}
	s, _ = mustOpen(t, o)
	s.Close()
}

// snapshotDir describes what is in dir.
func snapshotDir(t *testing.T, dir string) string {
	var b strings.Builder
	filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			raw, err := os.ReadFile(p)
			if err != nil {
				t.Error(err)
			}
			fmt.Fprintf(&b, "%s %d %x\n", p, len(raw), sumKV(nil, raw))
		}
		return err
	})
	return b.String()
}

func TestForeignDirectory(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "thesis.tex"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := snapshotDir(t, dir)
	var fe *ForeignDirError
	if _, _, err := Open(options(t, OS, dir)); !errors.As(err, &fe) || fe.Found != "thesis.tex" {
		t.Error(err)
	}
	if snapshotDir(t, dir) != before {
		t.Error("touched")
	}
}

// A new directory is there entirely or made anew.
func TestCrashWhileCreating(t *testing.T) {
	for at := int64(1); ; at++ {
		disk := NewMemFS(t.TempDir())
		n := int64(0)
		disk.Inject(func(Op, string) error {
			if n++; n == at {
				disk.Crash(nil)
				return errCrashed
			}
			return nil
		})
		o := options(t, disk.Boot(), "/node")
		o.Fatal = func(error) {}
		err := newStoreOnly(o)
		done := n < at
		if done != (err == nil) {
			t.Fatalf("step %d of %d: %v", at, n, err)
		}
		disk.Inject(nil)
		if !done {
			o = options(t, disk.Boot(), "/node")
			s, rec := mustOpen(t, o)
			if len(rec) != 0 {
				t.Error(rec)
			}
			h := newHost(s)
			if err := h.appendEntries(t, 1, 1, 1); err != nil {
				t.Error(err)
			}
			s.Close()
			continue
		}
		return
	}
}

func newStoreOnly(o Options) error {
	o, err := o.filled()
	if err != nil {
		return err
	}
	return new(Store).create(o)
}

func TestOptions(t *testing.T) {
	for _, o := range []Options{{}, {Dir: "/x", SegmentBytes: 1000}, {Dir: "/x", SegmentBytes: 100_000}} {
		if _, _, err := Open(o); err == nil {
			t.Errorf("%+v accepted", o)
		}
	}
}

func FuzzDecodeRecords(f *testing.F) {
	rec := GroupRecord{Group: 1, Replica: 2, HardState: &HardState{1, 2, 3}, Entries: []Entry{{Index: 9, Term: 1, Data: []byte("x")}, {Index: 10, Term: 2, Type: 3}}}
	f.Add(appendRecord(nil, 5, &rec, rec.HardState, rec.Entries), uint32(1))
	f.Add([]byte{1, 0, 1, 1, 0, 0}, uint32(1))
	f.Fuzz(func(t *testing.T, b []byte, count uint32) {
		var again []byte
		err := decodeRecords(b, count, func(delta uint64, rec *GroupRecord) {
			again = appendRecord(again, delta, rec, rec.HardState, rec.Entries)
		})
		if err != nil {
			return
		}
		// What decodes encodes to something that decodes to the same.
		var third []byte
		if err := decodeRecords(again, count, func(delta uint64, rec *GroupRecord) {
			third = appendRecord(third, delta, rec, rec.HardState, rec.Entries)
		}); err != nil || !bytes.Equal(again, third) {
			t.Errorf("%x: %v", b, err)
		}
	})
}

func FuzzDecodeStates(f *testing.F) {
	r := groupRecord{GroupState: GroupState{Replica: 1, Applied: 2, Term: 3, Conf: []byte("c"), Machine: []byte("m")}, fromSeq: 4}
	f.Add(r.encode(nil))
	m := mark{kind: markInstall, replica: 1, spans: [][2][]byte{{{1}, {2}}}}
	f.Add(m.encode())
	sm := storeMeta{logStart{1, 2, 3, 4}}
	f.Add(sm.encode())
	f.Add(encodeIdentity(Identity{Node: 1, Name: "x"}))
	h := segHeader{number: 1, size: 2, salt: 3, node: keys.NodeID(4)}
	f.Add(h.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := decodeGroupRecord(b); err == nil {
			if again, err := decodeGroupRecord(r.encode(nil)); err != nil || again.Applied != r.Applied || !bytes.Equal(again.Machine, r.Machine) {
				t.Errorf("%x", b)
			}
		}
		if m, err := decodeMark(b); err == nil {
			if again, err := decodeMark(m.encode()); err != nil || len(again.spans) != len(m.spans) {
				t.Errorf("%x", b)
			}
		}
		if m, err := decodeMeta(b); err == nil {
			if again, err := decodeMeta(m.encode()); err != nil || again != m {
				t.Errorf("%x", b)
			}
		}
		if id, err := decodeIdentity("f", b); err == nil {
			if again, err := decodeIdentity("f", encodeIdentity(id)); err != nil || again != id {
				t.Errorf("%q", b)
			}
		}
		decodeSegHeader("f", b)
		decodeBatchHead(b, 1, 4096, 1<<20)
	})
}
