package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/internal/keys"
	"go.etcd.io/bbolt"
)

// fakeGroup stands for a Raft group: its log is what was appended, its state
// machine the keys applied.
type fakeGroup struct {
	replica keys.ReplicaID
	term    uint64
	applied uint64
	hs      HardState
	log     []Entry // from index 1
	machine []byte
	changed bool
	hidden  bool
}

// fakeHost is a Source.
type fakeHost struct {
	mu      sync.Mutex
	store   *Store
	groups  map[keys.GroupID]*fakeGroup
	carried int
	onAsk   func(keys.GroupID)
}

func newHost(s *Store) *fakeHost {
	h := &fakeHost{store: s, groups: map[keys.GroupID]*fakeGroup{}}
	s.SetSource(h)
	return h
}

func (h *fakeHost) Groups() []keys.GroupID {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Sorted(maps.Keys(h.groups))
}

func (h *fakeHost) Capture(g keys.GroupID) (GroupState, bool, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.onAsk != nil {
		h.onAsk(g)
	}
	f := h.groups[g]
	if f == nil || f.hidden {
		return GroupState{}, false, false
	}
	unchanged := !f.changed
	f.changed = false
	return f.state(), unchanged, true
}

func (f *fakeGroup) state() GroupState {
	return GroupState{Replica: f.replica, Applied: f.applied, Term: f.term, HardState: f.hs, Conf: []byte("conf"), Machine: f.machine}
}

func (h *fakeHost) CarryForward(g keys.GroupID, index uint64) error {
	h.mu.Lock()
	f := h.groups[g]
	var es []Entry
	for _, e := range f.log {
		if e.Index > index {
			es = append(es, e)
		}
	}
	hs := f.hs
	rep := f.replica
	h.carried++
	s := h.store
	h.mu.Unlock()
	got := make(chan error, 1)
	s.Append([]GroupRecord{{Group: g, Replica: rep, HardState: &hs, Entries: es}}, func(err error) { got <- err })
	return <-got
}

// appendEntries appends n more entries of about size bytes, durable on return.
func (h *fakeHost) appendEntries(t testing.TB, g keys.GroupID, n, size int) error {
	t.Helper()
	h.mu.Lock()
	f := h.groups[g]
	if f == nil {
		f = &fakeGroup{replica: keys.ReplicaID(g)*10 + 1, term: 1}
		h.groups[g] = f
	}
	var es []Entry
	for range n {
		i := uint64(len(f.log) + 1)
		e := Entry{Index: i, Term: f.term, Type: 0, Data: entryData(g, i, size)}
		f.log = append(f.log, e)
		es = append(es, e)
	}
	f.hs = HardState{Term: f.term, Vote: 1, Commit: uint64(len(f.log))}
	hs := f.hs
	f.changed = true
	s, rep := h.store, f.replica
	h.mu.Unlock()
	got := make(chan error, 1)
	s.Append([]GroupRecord{{Group: g, Replica: rep, HardState: &hs, Entries: es}}, func(err error) { got <- err })
	return <-got
}

func entryData(g keys.GroupID, i uint64, size int) []byte {
	d := fmt.Appendf(nil, "entry %d of group %d ", i, g)
	for len(d) < size {
		d = append(d, byte(i))
	}
	return d
}

// apply applies entries up to index: each is one put, every seventh deletes an
// older one's staged chunk.
func (h *fakeHost) apply(t testing.TB, g keys.GroupID, index uint64) {
	t.Helper()
	h.mu.Lock()
	f := h.groups[g]
	s := h.store
	from := f.applied
	h.mu.Unlock()
	b := s.NewBatch(g)
	for i := from + 1; i <= index; i++ {
		applyEntry(b, g, f.log[i-1])
		b.Applied = i
		if err := s.Apply(b); err != nil {
			t.Fatal(err)
		}
		b.Reset()
		h.mu.Lock()
		f.applied, f.changed = i, true
		f.machine = fmt.Appendf(nil, "machine %d", i)
		h.mu.Unlock()
	}
}

func applyEntry(b *Batch, g keys.GroupID, e Entry) {
	b.Put(dataKey(g, e.Index), slices.Clone(e.Data))
	b.Put(stageKey(g, e.Index), []byte("staged"))
	if e.Index%3 == 0 {
		b.Delete(stageKey(g, e.Index-1))
		b.Delete(stageKey(g, e.Index-2))
	}
	if e.Index%7 == 0 {
		b.Delete(dataKey(g, e.Index-5))
	}
}

func dataKey(g keys.GroupID, i uint64) []byte {
	return fmt.Appendf([]byte{byte(ClassData)}, "%d/%08d", g, i*7919%100000)
}

func stageKey(g keys.GroupID, i uint64) []byte {
	return fmt.Appendf(append([]byte{byte(ClassStage)}, groupKey(g)...), "%08d", i)
}

// model is what the engine must hold after applying entries 1..applied of g.
func model(into map[string]string, g keys.GroupID, f *fakeGroup, applied uint64) {
	b := &Batch{}
	for _, e := range f.log[:applied] {
		applyEntry(b, g, e)
	}
	for _, o := range b.ops {
		if o.value == nil {
			delete(into, string(o.key))
		} else {
			into[string(o.key)] = string(o.value)
		}
	}
}

// verify compares the engine with the model, forward, backward and by Get.
func (h *fakeHost) verify(t testing.TB) {
	t.Helper()
	want := map[string]string{}
	for g, f := range h.groups {
		model(want, g, f, f.applied)
	}
	verifyContents(t, h.store, want)
}

func verifyContents(t testing.TB, s *Store, want map[string]string) {
	t.Helper()
	sorted := slices.Sorted(maps.Keys(want))
	it := s.NewIter([]byte{byte(ClassData)}, []byte{byte(ClassStage) + 1})
	defer it.Close()
	i := 0
	for ok := it.SeekGE(nil); ok; ok = it.Next() {
		if i >= len(sorted) || string(it.Key()) != sorted[i] || string(it.Value()) != want[sorted[i]] {
			t.Fatalf("at %d of %d: got %q=%q", i, len(sorted), it.Key(), it.Value())
		}
		i++
	}
	if it.Err() != nil || i != len(sorted) {
		t.Fatalf("forward: %d of %d, %v", i, len(sorted), it.Err())
	}
	for ok := it.SeekLT(nil); ok; ok = it.Prev() {
		i--
		if i < 0 || string(it.Key()) != sorted[i] || string(it.Value()) != want[sorted[i]] {
			t.Fatalf("backward at %d: got %q", i, it.Key())
		}
	}
	if it.Err() != nil || i != 0 {
		t.Fatalf("backward: %d left, %v", i, it.Err())
	}
	for n, k := range sorted {
		if n%5 != 0 {
			continue
		}
		if v, ok, err := s.Get([]byte(k)); err != nil || !ok || string(v) != want[k] {
			t.Fatalf("get %q: %q %v %v", k, v, ok, err)
		}
		if _, ok, err := s.Get([]byte(k + "x")); ok || err != nil {
			t.Fatalf("get of what is not there: %v %v", ok, err)
		}
	}
}

// restart checks what Open recovered against what the groups were and goes on
// with it: acknowledged entries must be there.
func (h *fakeHost) restart(t testing.TB, s *Store, rec map[keys.GroupID]Recovered, acked map[keys.GroupID]uint64) {
	t.Helper()
	h.store = s
	s.SetSource(h)
	for g, f := range h.groups {
		r, ok := rec[g]
		if !ok {
			if acked[g] > 0 {
				t.Fatalf("group %d is gone", g)
			}
			delete(h.groups, g)
			continue
		}
		if r.State.Replica != f.replica {
			t.Fatalf("group %d: replica %d", g, r.State.Replica)
		}
		last := r.State.Applied
		for i, e := range r.Entries {
			if e.Index != last+1 {
				t.Fatalf("group %d: entry %d after %d", g, e.Index, last)
			}
			last = e.Index
			if want := f.log[e.Index-1]; e.Term != want.Term || string(e.Data) != string(want.Data) {
				t.Fatalf("group %d: entry %d (%d) differs", g, e.Index, i)
			}
		}
		if last < acked[g] {
			t.Fatalf("group %d: acknowledged up to %d, recovered up to %d", g, acked[g], last)
		}
		if hs := r.State.HardState; hs.Commit < r.State.Applied || hs.Commit > last || hs.Term != f.term {
			t.Fatalf("group %d: %+v at %d..%d", g, hs, r.State.Applied, last)
		}
		if r.State.Applied > 0 && string(r.State.Machine) != fmt.Sprintf("machine %d", r.State.Applied) {
			t.Fatalf("group %d: machine %q at %d", g, r.State.Machine, r.State.Applied)
		}
		f.log = f.log[:last]
		f.applied = r.State.Applied
		f.changed = true
		h.apply(t, g, last)
	}
	h.verify(t)
}

func testLogger(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelError}))
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) { return len(b), nil }

// options of a small store, whose fatal errors fail the test.
func options(t testing.TB, f FS, dir string) Options {
	return Options{FS: f, Dir: dir, Logger: testLogger(t), SegmentBytes: 64 << 10, MapBytes: 16 << 20, Gather: -1, Reserve: -1,
		Fatal: func(err error) { t.Errorf("fatal: %v", err) }}
}

func mustOpen(t testing.TB, o Options) (*Store, map[keys.GroupID]Recovered) {
	t.Helper()
	s, rec, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return s, rec
}

func TestOpenEmptyAndAgain(t *testing.T) {
	dir := t.TempDir() + "/data"
	o := options(t, OS, dir)
	s, rec := mustOpen(t, o)
	if len(rec) != 0 {
		t.Error(rec)
	}
	id := s.Identity()
	if id.Node != 1 || id.Name != "n1" || id.Cluster == [16]byte{} {
		t.Error(id)
	}
	h := newHost(s)
	if err := h.appendEntries(t, 1, 10, 100); err != nil {
		t.Fatal(err)
	}
	h.apply(t, 1, 7)
	h.verify(t)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error("closing twice:", err)
	}
	if _, _, err := s.Get([]byte{2}); err != ErrClosed {
		t.Error(err)
	}
	if err := s.Apply(s.NewBatch(1)); err != ErrClosed {
		t.Error(err)
	}
	if err := s.PutNode([]byte("k"), nil); err != ErrClosed {
		t.Error(err)
	}
	if err := s.Checkpoint(t.Context()); err != ErrClosed {
		t.Error(err)
	}
	got := make(chan error)
	s.Append([]GroupRecord{{Group: 1}}, func(err error) { got <- err })
	if err := <-got; err != ErrClosed {
		t.Error(err)
	}
	s, rec = mustOpen(t, o)
	if s.Identity() != id {
		t.Error(s.Identity())
	}
	h.restart(t, s, rec, map[keys.GroupID]uint64{1: 10})
	if err := s.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := s.Stats(); st.TableKeys != 0 || st.FrozenKeys != 0 || st.Checkpoints != 1 {
		t.Errorf("%+v", st)
	}
	h.verify(t)
	s.Close()
	s, rec = mustOpen(t, o)
	if len(rec[1].Entries) != 0 || rec[1].State.Applied != 10 {
		t.Error(rec)
	}
	h.restart(t, s, rec, map[keys.GroupID]uint64{1: 10})
	s.Close()
}

func TestR1CallbacksComeInOrder(t *testing.T) {
	s, _ := mustOpen(t, options(t, OS, t.TempDir()))
	defer s.Close()
	const writers, each = 8, 200
	var mu sync.Mutex
	order := map[int][]int{}
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			var all sync.WaitGroup
			all.Add(each)
			for i := range each {
				s.Append([]GroupRecord{{Group: keys.GroupID(w + 1), Replica: 1, Entries: []Entry{{Index: uint64(i + 1), Term: 1, Data: make([]byte, 300)}}}}, func(err error) {
					if err != nil {
						t.Error(err)
					}
					mu.Lock()
					order[w] = append(order[w], i)
					mu.Unlock()
					all.Done()
				})
			}
			all.Wait()
		})
	}
	wg.Wait()
	for w := range writers {
		if len(order[w]) != each || !slices.IsSorted(order[w]) {
			t.Errorf("writer %d: %v", w, order[w])
		}
	}
	if st := s.Stats(); st.LogBatches >= writers*each {
		t.Errorf("no group commit: %+v", st)
	}
}

// A hard state that only moved Commit does not cost a sync, and goes with the next.
func TestNoSyncRidesAlong(t *testing.T) {
	m := NewMemFS(t.TempDir())
	o := options(t, m.Boot(), "/n")
	s, _ := mustOpen(t, o)
	before := s.Stats().LogBatches
	lazy := make(chan error, 1)
	s.Append([]GroupRecord{{Group: 1, Replica: 1, HardState: &HardState{Term: 1, Commit: 1}, NoSync: true}}, func(err error) { lazy <- err })
	select {
	case <-lazy:
		t.Error("synced by itself")
	default:
	}
	if got := s.Stats().LogBatches; got != before {
		t.Error("wrote by itself")
	}
	eager := make(chan error, 1)
	s.Append([]GroupRecord{{Group: 2, Replica: 2, HardState: &HardState{Term: 1}}}, func(err error) { eager <- err })
	if err := <-eager; err != nil || len(lazy) != 1 {
		t.Error(err, len(lazy))
	}
	s.Append([]GroupRecord{{Group: 1, Replica: 1, HardState: &HardState{Term: 2, Commit: 1}, NoSync: true}}, nil)
	s.Close() // writes what waits
	o.FS = m.Boot()
	s, rec := mustOpen(t, o)
	defer s.Close()
	if rec[1].State.HardState.Term != 2 {
		t.Errorf("%+v", rec)
	}
}

func TestLargeAppendsSpanBatches(t *testing.T) {
	dir := t.TempDir()
	o := options(t, OS, dir)
	s, _ := mustOpen(t, o)
	h := newHost(s)
	if err := h.appendEntries(t, 1, 50, 10_000); err != nil { // eight times a segment
		t.Fatal(err)
	}
	if got := s.Stats().Segments; got < 8 {
		t.Error("segments:", got)
	}
	got := make(chan error, 1)
	s.Append([]GroupRecord{{Group: 9, Replica: 9, Entries: []Entry{{Index: 1, Term: 1, Data: make([]byte, 70<<10)}}}}, func(err error) { got <- err })
	if err := <-got; !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	s.Append([]GroupRecord{{Group: 9, Replica: 9, Entries: []Entry{{Index: 1, Term: 1}, {Index: 3, Term: 1}}}}, func(err error) { got <- err })
	if err := <-got; err == nil {
		t.Error("a hole was accepted")
	}
	if err := h.appendEntries(t, 1, 1, 10); err != nil {
		t.Error("a refused append stopped the log:", err)
	}
	s.Close()
	s, rec := mustOpen(t, o)
	defer s.Close()
	h.restart(t, s, rec, map[keys.GroupID]uint64{1: 51})
	if _, ok := rec[9]; ok {
		t.Error("refused entries were logged")
	}
}

func TestNodeKeys(t *testing.T) {
	o := options(t, OS, t.TempDir())
	s, _ := mustOpen(t, o)
	for i := range 10 {
		if err := s.PutNode(fmt.Appendf(nil, "a/%d", i), fmt.Appendf(nil, "v%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.PutNode([]byte("b"), []byte{}); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteNode([]byte("a/3")); err != nil {
		t.Fatal(err)
	}
	if err := s.PutNode(nil, nil); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	s.Close()
	s, _ = mustOpen(t, o)
	defer s.Close()
	n := 0
	if err := s.ScanNode([]byte("a/"), func(k, v []byte) bool { n++; return n < 5 }); err != nil || n != 5 {
		t.Error(n, err)
	}
	if v, ok, err := s.GetNode([]byte("a/4")); string(v) != "v4" || !ok || err != nil {
		t.Error(v, ok, err)
	}
	if _, ok, err := s.GetNode([]byte("a/3")); ok || err != nil {
		t.Error(ok, err)
	}
	if v, ok, err := s.GetNode([]byte("b")); len(v) != 0 || !ok || err != nil {
		t.Error(v, ok, err)
	}
}

func TestApplyRefuses(t *testing.T) {
	s, _ := mustOpen(t, options(t, OS, t.TempDir()))
	defer s.Close()
	for _, k := range [][]byte{nil, {}, {byte(ClassNode), 1}, {0}, append([]byte{byte(ClassData)}, make([]byte, MaxKeyBytes)...)} {
		b := s.NewBatch(1)
		b.Put([]byte{byte(ClassData), 1}, nil)
		b.Put(k, nil)
		if err := s.Apply(b); err == nil {
			t.Errorf("key %x accepted", k[:min(len(k), 4)])
		}
	}
	if _, ok, _ := s.Get([]byte{byte(ClassData), 1}); ok {
		t.Error("a refused batch left something behind")
	}
}

// TestCheckpointFillsPagesOfRuns: bulk-loaded keys take little more room in the store
// than their bytes; bbolt by itself leaves every page half empty.
func TestCheckpointFillsPagesOfRuns(t *testing.T) {
	s, _ := mustOpen(t, Options{Dir: t.TempDir(), Reserve: -1})
	defer s.Close()
	const n = 20_000
	load(t, s, n)
	var used int
	err := s.bolt.db.View(func(tx *bbolt.Tx) error {
		used = tx.Bucket(bucketData).Stats().LeafAlloc
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	const entry = 16 + 22 + 100 + 4 // bbolt's header, benchKey, the value, its checksum
	if used > n*entry*5/4 {
		t.Errorf("%d bytes of leaves for %d bytes of entries", used, n*entry)
	}
}

// TestDelay: a batch pays for its keys, so that a bulk load cannot outrun the
// checkpoints; a row pays what it always did.
func TestDelay(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		load float64
		keys int
		want time.Duration
	}{
		{2, 1, 0}, {2, 10_000, 0},
		{3, 1, 5 * ms}, {3, 1000, 5 * ms}, {3, 10_000, 50 * ms},
		{10, 1, 20 * ms}, {10, 2000, 40 * ms}, {10, 1_000_000, 100 * ms},
	} {
		if got := delay(c.load, c.keys); got != c.want {
			t.Errorf("%d keys at load %v: %v, want %v", c.keys, c.load, got, c.want)
		}
	}
}

// TestSleeps: the goroutines that apply for all groups are never all in a long sleep.
func TestSleeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s Store
		const long = 100 * time.Millisecond
		for range 2 { // the second time as the first
			began := time.Now()
			var short atomic.Int32
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					s.sleep(long)
					if time.Since(began) == shortSleep {
						short.Add(1)
					}
				})
			}
			wg.Wait()
			if n := short.Load(); n != 4-longSleeps || time.Since(began) != long {
				t.Errorf("%d of 4 sleeps were short, the longest took %v", n, time.Since(began))
			}
		}
	})
}

func TestCheckpointWithoutSource(t *testing.T) {
	s, _ := mustOpen(t, options(t, OS, t.TempDir()))
	defer s.Close()
	if err := s.Checkpoint(context.Background()); err == nil {
		t.Error("a checkpoint without applied indexes would lose deletes")
	}
}
