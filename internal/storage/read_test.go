package storage

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/spandb/spand/internal/keys"
)

// Iterators and First agree with a sorted map under random seeks, turns and bounds, with
// contents spread over table, frozen table and bbolt, tombstones among them.
func TestIterAgainstModel(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	s, _ := mustOpen(t, options(t, OS, t.TempDir()))
	defer s.Close()
	h := newHost(s)
	h.groups[1] = &fakeGroup{replica: 1, term: 1, changed: true}
	want := map[string]string{}
	key := func() []byte { return fmt.Appendf([]byte{byte(ClassData)}, "%04d", r.IntN(3000)) }
	fill := func(n int) {
		b := s.NewBatch(1)
		for i := range n {
			if k := key(); r.IntN(3) == 0 {
				b.Delete(k)
				delete(want, string(k))
			} else {
				v := fmt.Appendf(nil, "v%d", i)
				b.Put(k, v)
				want[string(k)] = string(v)
			}
		}
		if err := s.Apply(b); err != nil {
			t.Fatal(err)
		}
	}
	for round := range 6 {
		fill(2500)
		if err := s.Checkpoint(t.Context()); err != nil {
			t.Fatal(err)
		}
		fill(500)
		// A checkpoint that has begun and not gone on: three layers.
		if round%2 == 0 {
			if err := s.acquire(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := s.beginRun(); err != nil {
				t.Fatal(err)
			}
			s.release()
			fill(500)
		}
		verifyContents(t, s, want)
		sorted := slices.Sorted(maps.Keys(want))
		for range 60 {
			lo, hi := key(), key()
			if bytes.Compare(lo, hi) > 0 {
				lo, hi = hi, lo
			}
			from, _ := slices.BinarySearch(sorted, string(lo))
			to, _ := slices.BinarySearch(sorted, string(hi))
			part := sorted[from:to]
			if fk, fv, found, err := s.First(lo, append(hi, 0)); err != nil || !found {
				if err != nil || len(part) > 0 || want[string(hi)] != "" {
					t.Fatalf("first of [%s, %s]: %v %v", lo, hi, found, err)
				}
			} else if first := append(part[:len(part):len(part)], string(hi))[0]; string(fk) != first || string(fv) != want[first] {
				t.Fatalf("first of [%s, %s]: %s=%s, not %s=%s", lo, hi, fk, fv, first, want[first])
			}
			it := s.NewIter(lo, hi)
			at, ok := 0, false
			for range 400 {
				if !ok || r.IntN(40) == 0 {
					k := key()
					if r.IntN(2) == 0 {
						ok = it.SeekGE(k)
						at, _ = slices.BinarySearch(part, string(k))
					} else {
						ok = it.SeekLT(k)
						at, _ = slices.BinarySearch(part, string(k))
						at--
					}
				} else if r.IntN(3) > 0 {
					ok = it.Next()
					at++
				} else {
					ok = it.Prev()
					at--
				}
				if in := at >= 0 && at < len(part); in != ok || ok && (string(it.Key()) != part[at] || string(it.Value()) != want[part[at]]) {
					t.Fatalf("at %d of %d: %v", at, len(part), ok)
				}
			}
			if it.Err() != nil {
				t.Fatal(it.Err())
			}
			it.Close()
		}
	}
}

// Readers beside writers and checkpoints never miss what was applied before
// they began, and never see half a batch out of one layer.
func TestReadersDuringCheckpoints(t *testing.T) {
	o := options(t, OS, t.TempDir())
	o.CheckpointKeys, o.MapBytes = 300, 1<<30 // far from outgrown: readers stay pooled
	s, _ := mustOpen(t, o)
	defer s.Close()
	h := newHost(s)
	h.groups[1] = &fakeGroup{replica: 1, term: 1, changed: true}
	s.Start()
	const rounds = 3000
	k := func(i, half uint64) []byte {
		return fmt.Appendf([]byte{byte(ClassData)}, "%d/%08d", half, i*7919%rounds)
	}
	var applied atomic.Uint64
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for w := range 3 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 5))
			for {
				select {
				case <-stop:
					return
				default:
				}
				n := applied.Load()
				if n == 0 {
					continue
				}
				i := 1 + r.Uint64N(n)
				for half := range uint64(2) {
					if v, ok, err := s.Get(k(i, half)); !ok || err != nil || string(v) != fmt.Sprint(i) {
						t.Errorf("get %d of %d: %q %v %v", i, n, v, ok, err)
						return
					}
				}
				if _, v, ok, err := s.First(k(i, 0), keys.PrefixEnd(k(i, 0))); !ok || err != nil || string(v) != fmt.Sprint(i) {
					t.Errorf("first %d of %d: %q %v %v", i, n, v, ok, err)
					return
				}
				it := s.NewIter(k(i, 0), keys.PrefixEnd(k(i, 0)))
				if !it.SeekGE(k(i, 0)) || string(it.Value()) != fmt.Sprint(i) {
					t.Errorf("seek %d of %d: %v", i, n, it.Err())
				}
				it.Close()
				if r.IntN(200) == 0 {
					n := applied.Load()
					it := s.NewIter([]byte{byte(ClassData), '1'}, []byte{byte(ClassData), '2'})
					count := uint64(0)
					for ok := it.SeekGE(nil); ok; ok = it.Next() {
						count++
					}
					if it.Err() != nil || count < n {
						t.Errorf("scan saw %d of %d: %v", count, n, it.Err())
					}
					it.Close()
				}
			}
		})
	}
	b := s.NewBatch(1)
	for i := uint64(1); i <= rounds; i++ {
		b.Put(k(i, 0), fmt.Append(nil, i))
		b.Put(k(i, 1), fmt.Append(nil, i))
		b.Applied = i
		if err := s.Apply(b); err != nil {
			t.Fatal(err)
		}
		b.Reset()
		applied.Store(i)
		if s.Applied(1) != i {
			t.Error("applied index")
		}
		if i%(rounds/3) == 0 { // beside those that the table's size triggers, which may come late
			wg.Go(func() {
				if err := s.Checkpoint(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
	}
	if err := s.Checkpoint(t.Context()); err != nil {
		t.Error(err)
	}
	close(stop)
	wg.Wait()
	if s.Stats().Checkpoints < 2 {
		t.Error("no checkpoint in between")
	}
}

// The file outgrows bbolt's map while it is read: nobody waits for ever.
func TestStoreOutgrowsItsMap(t *testing.T) {
	o := options(t, OS, t.TempDir())
	o.MapBytes = 1 << 20
	s, _ := mustOpen(t, o)
	defer s.Close()
	h := newHost(s)
	h.groups[1] = &fakeGroup{replica: 1, term: 1, changed: true}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				it := s.NewIter([]byte{byte(ClassData)}, []byte{byte(ClassData) + 1})
				for ok := it.SeekGE(nil); ok; ok = it.Next() {
				}
				if it.Err() != nil {
					t.Error(it.Err())
				}
				it.Close()
			}
		})
	}
	b := s.NewBatch(1)
	for i := range 6 {
		for j := range 40 {
			b.Put(fmt.Appendf([]byte{byte(ClassData)}, "%d/%d", i, j), make([]byte, 30_000))
		}
		if err := s.Apply(b); err != nil {
			t.Fatal(err)
		}
		b.Reset()
		if err := s.Checkpoint(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
	if got := s.Stats().StoreBytes; got < 4<<20 {
		t.Error("the file did not grow:", got)
	}
}
