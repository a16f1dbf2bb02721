package cell

import (
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/spandb/spand/lockservice/lockpb"
)

// benchHosts returns a cell with n sessions, and a file for each.
func benchHosts(b *testing.B, replicas, n int) (*hosts, *Cell) {
	hs := newHosts(b, replicas)
	c := hs.leader().cell
	for i := range n {
		for _, call := range []any{
			&lockpb.CreateSessionRequest{Session: uint64(i + 1), TtlNs: int64(time.Minute)},
			&lockpb.SetContentsRequest{Handle: h(0, fmt.Sprint(x, i)), Create: true},
		} {
			if r := c.Do(b.Context(), "", request1(call), nil); r.GetFailure() != nil {
				b.Fatal(r)
			}
		}
	}
	return hs, c
}

// BenchmarkAcquireRelease takes and releases locks, each client its own.
func BenchmarkAcquireRelease(b *testing.B) {
	for _, replicas := range []int{1, 3} {
		for _, clients := range []int{1, 8, 64} {
			b.Run(fmt.Sprintf("replicas=%d/clients=%d", replicas, clients), func(b *testing.B) {
				hs, c := benchHosts(b, replicas, clients)
				defer hs.close()
				b.ResetTimer()
				runClients(b, clients, func(i int) {
					id, path := uint64(i+1), fmt.Sprint(x, i)
					if r := c.Do(b.Context(), "", request1(acquire(id, path)), nil); r.GetFailure() != nil {
						b.Error(r)
					}
					if r := c.Do(b.Context(), "", request1(release(id, path)), nil); r.GetFailure() != nil {
						b.Error(r)
					}
				})
			})
		}
	}
}

// BenchmarkHandOver has clients take the same lock in turn.
func BenchmarkHandOver(b *testing.B) {
	for _, clients := range []int{2, 16, 64} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			hs, c := benchHosts(b, 3, clients)
			defer hs.close()
			b.ResetTimer()
			runClients(b, clients, func(i int) {
				id, path := uint64(i+1), x+"0"
				if r := c.Do(b.Context(), "", request1(acquire(id, path)), nil); r.GetFailure() != nil {
					b.Error(r)
				}
				if r := c.Do(b.Context(), "", request1(release(id, path)), nil); r.GetFailure() != nil {
					b.Error(r)
				}
			})
		})
	}
}

func runClients(b *testing.B, clients int, f func(i int)) {
	b.ReportAllocs()
	var wg sync.WaitGroup
	for i := range clients {
		n := b.N / clients
		if i < b.N%clients {
			n++
		}
		wg.Go(func() {
			for range n {
				f(i)
			}
		})
	}
	wg.Wait()
}

// BenchmarkBeat is one beat of one of 100,000 sessions; it also tells what they cost.
func BenchmarkBeat(b *testing.B) {
	const sessions = 100_000
	w := newWorld(b, 1)
	defer w.close()
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	for i := range sessions {
		w.session(uint64(i+1), time.Minute)
	}
	after := heap()
	st := w.lead().OpenStream("", func(*lockpb.Lease) {})
	defer st.Close()
	b.ReportAllocs()
	beat := &lockpb.Beat{Epoch: w.g.term}
	i := 0
	b.ResetTimer()
	for b.Loop() {
		beat.Session = uint64(i%sessions + 1)
		beat.Number = uint64(i + 1)
		st.Beat(beat)
		i++
	}
	b.ReportMetric(float64(after-before)/sessions, "B/session")
}
