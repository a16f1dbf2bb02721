package storage

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spandb/spand/internal/keys"
)

func benchStore(b *testing.B) *Store {
	s, _, err := Open(Options{Dir: b.TempDir(), Reserve: -1})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	return s
}

// BenchmarkAppend is a closed loop of writers with records of 300 bytes.
func BenchmarkAppend(b *testing.B) {
	for _, writers := range []int{1, 8, 64} {
		b.Run(fmt.Sprint(writers), func(b *testing.B) {
			s := benchStore(b)
			data := make([]byte, 300)
			var left atomic.Int64
			left.Store(int64(b.N))
			lat := make([][]time.Duration, writers)
			b.ResetTimer()
			var wg sync.WaitGroup
			for w := range writers {
				wg.Go(func() {
					done := make(chan error, 1)
					cb := func(err error) { done <- err }
					recs := []GroupRecord{{Group: keys.GroupID(w + 1), Replica: 1, Entries: []Entry{{Term: 1, Data: data}}}}
					for i := uint64(1); left.Add(-1) >= 0; i++ {
						recs[0].Entries[0].Index = i
						start := time.Now()
						s.Append(recs, cb)
						if err := <-done; err != nil {
							b.Error(err)
							return
						}
						lat[w] = append(lat[w], time.Since(start))
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			all := slices.Concat(lat...)
			slices.Sort(all)
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "appends/s")
			b.ReportMetric(float64(all[len(all)/2].Microseconds()), "p50-us")
			b.ReportMetric(float64(all[len(all)*99/100].Microseconds()), "p99-us")
		})
	}
}

func benchKey(i uint64) []byte {
	k := make([]byte, 0, 25)
	k = append(k, byte(ClassData), 0x10, 0, 0, 0, 7)
	k = binary.BigEndian.AppendUint64(k, i)
	return binary.BigEndian.AppendUint64(k, ^uint64(1000))
}

func load(b testing.TB, s *Store, keys int) {
	h := &fakeHost{store: s, groups: map[keysGroup]*fakeGroup{1: {replica: 1, term: 1, changed: true}}}
	s.SetSource(h)
	batch := s.NewBatch(1)
	for i := range keys {
		batch.Put(benchKey(uint64(i)), make([]byte, 100))
		if batch.Len() == 1000 {
			if err := s.Apply(batch); err != nil {
				b.Fatal(err)
			}
			batch.Reset()
		}
	}
	if err := s.Checkpoint(b.Context()); err != nil {
		b.Fatal(err)
	}
}

type keysGroup = keys.GroupID

// BenchmarkCheckpoint applies 100,000 random keys of 500,000 and checkpoints
// them, with a log writer beside it whose latencies are reported.
func BenchmarkCheckpoint(b *testing.B) {
	const n = 100_000
	for _, mode := range []string{"urgent", "paced"} {
		b.Run(mode, func(b *testing.B) {
			s := benchStore(b)
			load(b, s, 500_000)
			var lat []time.Duration
			stop := make(chan struct{})
			var wg sync.WaitGroup
			wg.Go(func() {
				done := make(chan error, 1)
				for i := uint64(1); ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					start := time.Now()
					s.Append([]GroupRecord{{Group: 2, Replica: 1, Entries: []Entry{{Index: i, Term: 1, Data: make([]byte, 300)}}}}, func(err error) { done <- err })
					<-done
					lat = append(lat, time.Since(start))
				}
			})
			r := rand.New(rand.NewPCG(1, 2))
			var took time.Duration
			for b.Loop() {
				b.StopTimer()
				batch := s.NewBatch(1)
				for i := range n {
					k := benchKey(r.Uint64N(500_000))
					binary.BigEndian.PutUint64(k[len(k)-8:], r.Uint64())
					batch.Put(k, make([]byte, 100))
					if i%100 == 99 {
						if err := s.Apply(batch); err != nil {
							b.Fatal(err)
						}
						batch.Reset()
					}
				}
				b.StartTimer()
				start := time.Now()
				if err := s.checkpointNow(b.Context(), mode == "urgent"); err != nil {
					b.Fatal(err)
				}
				took += time.Since(start)
			}
			close(stop)
			wg.Wait()
			slices.Sort(lat)
			b.ReportMetric(float64(n*b.N)/took.Seconds(), "keys/s")
			b.ReportMetric(float64(lat[len(lat)*99/100].Microseconds()), "log-p99-us")
			b.ReportMetric(float64(lat[len(lat)-1].Microseconds()), "log-max-us")
		})
	}
}

// BenchmarkCheckpointRun writes 200,000 new ascending keys behind all others, as a
// bulk load leaves them.
func BenchmarkCheckpointRun(b *testing.B) {
	const n = 200_000
	s := benchStore(b)
	load(b, s, 1000)
	before, next := s.bolt.size.Load(), uint64(1000)
	var took time.Duration
	for b.Loop() {
		batch := s.NewBatch(1)
		for range n {
			batch.Put(benchKey(next), make([]byte, 100))
			next++
			if batch.Len() == 1000 {
				if err := s.Apply(batch); err != nil {
					b.Fatal(err)
				}
				batch.Reset()
			}
		}
		start := time.Now()
		if err := s.Checkpoint(b.Context()); err != nil {
			b.Fatal(err)
		}
		took += time.Since(start)
	}
	b.ReportMetric(float64(n*b.N)/took.Seconds(), "keys/s")
	b.ReportMetric(float64(s.bolt.size.Load()-before)/float64(n*b.N), "file-bytes/key")
}

// BenchmarkBulkLoad applies 1,000,000 ascending keys in COPY's batches and reports
// how far the table grows while checkpoints try to keep up.
func BenchmarkBulkLoad(b *testing.B) {
	const n, size = 1_000_000, 10_000
	most, next := 0, uint64(0)
	s := benchStore(b)
	load(b, s, 1000)
	s.Start()
	batch := s.NewBatch(1)
	for b.Loop() {
		for range n / size {
			for range size {
				batch.Put(benchKey(next), make([]byte, 40))
				next++
			}
			if err := s.Apply(batch); err != nil {
				b.Fatal(err)
			}
			batch.Reset()
			s.mu.RLock()
			most = max(most, s.mu.table.m.Len())
			s.mu.RUnlock()
		}
	}
	b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "keys/s")
	b.ReportMetric(float64(most), "most-table-keys")
}

func BenchmarkApply(b *testing.B) {
	s := benchStore(b)
	batch := s.NewBatch(1)
	value := make([]byte, 100)
	r := rand.New(rand.NewPCG(1, 2))
	for b.Loop() {
		batch.Put(benchKey(r.Uint64N(1<<40)), value)
		if err := s.Apply(batch); err != nil {
			b.Fatal(err)
		}
		batch.Reset()
	}
}

// BenchmarkRead reads one version, as a tablet does: seek, compare, close.
func BenchmarkRead(b *testing.B) {
	s := benchStore(b)
	load(b, s, 500_000)
	batch := s.NewBatch(1)
	for i := range 1000 {
		batch.Put(benchKey(uint64(500_000+i)), make([]byte, 100))
	}
	if err := s.Apply(batch); err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct {
		name     string
		from, to uint64
	}{{"bbolt", 0, 500_000}, {"table", 500_000, 501_000}} {
		r := rand.New(rand.NewPCG(1, 2))
		b.Run("get/"+c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, ok, err := s.Get(benchKey(c.from + r.Uint64N(c.to-c.from))); !ok || err != nil {
					b.Fatal(ok, err)
				}
			}
		})
		b.Run("seek/"+c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				k := benchKey(c.from + r.Uint64N(c.to-c.from))
				it := s.NewIter(k, keys.PrefixEnd(k))
				if !it.SeekGE(k) {
					b.Fatal(it.Err())
				}
				it.Close()
			}
		})
	}
	b.Run("scan", func(b *testing.B) {
		for b.Loop() {
			it := s.NewIter([]byte{byte(ClassData)}, []byte{byte(ClassData) + 1})
			n := 0
			for ok := it.SeekGE(nil); ok; ok = it.Next() {
				n++
			}
			it.Close()
			if n != 501_000 {
				b.Fatal(n)
			}
		}
		b.ReportMetric(501_000*float64(b.N)/b.Elapsed().Seconds(), "keys/s")
	})
}
