package paxosgroup

import (
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/truetime"
)

func cpuTime(b *testing.B) time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkIdleGroups reports the CPU that idle groups on three hosts take, as a
// share of a core per host. One iteration is a second.
func BenchmarkIdleGroups(b *testing.B) {
	for _, count := range []int{0, 1000} {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			w := newWorld(b, 1, 3)
			w.net.SetFaults(MemFaults{})
			defer w.close()
			var ids []keys.GroupID
			for g := range count {
				ids = append(ids, keys.GroupID(g+1))
			}
			w.start(ids...)
			for _, g := range ids {
				w.leader(g)
			}
			asleep := func() (n int) {
				for _, id := range w.ids {
					for _, g := range w.nodes[id].groups {
						g.mu.Lock()
						if g.mu.quiesced {
							n++
						}
						g.mu.Unlock()
					}
				}
				return n
			}
			for asleep() < count {
				time.Sleep(100 * time.Millisecond)
			}
			start := cpuTime(b)
			b.ResetTimer()
			for range b.N {
				time.Sleep(time.Second)
			}
			b.ReportMetric(100*float64(cpuTime(b)-start)/float64(b.Elapsed())/3, "%core/host")
			if n := asleep(); n < count {
				b.Errorf("%d of %d groups sleep", n, count)
			}
		})
	}
}

// BenchmarkPropose measures the pipeline without a disk.
func BenchmarkPropose(b *testing.B) {
	for _, voters := range []int{1, 3} {
		for _, clients := range []int{1, 8, 64} {
			b.Run(fmt.Sprintf("voters=%d/clients=%d", voters, clients), func(b *testing.B) {
				w := newWorld(b, 1, voters)
				w.net.SetFaults(MemFaults{})
				defer w.close()
				for _, n := range w.nodes {
					n.store.setDelay(0)
				}
				w.start(1)
				n := w.leader(1)
				for _, m := range w.nodes {
					m.toys[1].mute = true
				}
				g := n.groups[1]
				term := g.leadTerm.Load()
				data := make([]byte, 300)
				b.ReportAllocs()
				b.ResetTimer()
				var wg sync.WaitGroup
				work := make(chan struct{}, b.N)
				for range b.N {
					work <- struct{}{}
				}
				close(work)
				for range clients {
					wg.Go(func() {
						done := make(chan error, 1)
						f := func(_ any, _ truetime.Timestamp, err error) { done <- err }
						for range work {
							g.Propose(&Proposal{Term: term, Timestamped: true, Data: data, Done: f})
							if err := <-done; err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "proposals/s")
			})
		}
	}
}

func BenchmarkValid(b *testing.B) {
	for _, voters := range []int{1, 3} {
		b.Run(fmt.Sprintf("voters=%d", voters), func(b *testing.B) {
			w := newWorld(b, 1, voters)
			defer w.close()
			w.start(1)
			g := w.leader(1).groups[1]
			term := g.leadTerm.Load()
			b.ReportAllocs()
			for b.Loop() {
				if err := g.Valid(term); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
