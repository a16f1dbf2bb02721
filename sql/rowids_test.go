package sql

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/truetime"
)

// TestT1_RowIDs: ids only grow, and run ahead of the clock by rowIDLead and no more.
func TestT1_RowIDs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock := truetime.NewManual(truetime.ManualOptions{})
		var r rowIDs
		r.init(7, clock)
		last := int64(0)
		began := time.Now()
		for range 3 * rowIDLead {
			id := r.next()
			if id <= last {
				t.Fatalf("id %d after %d", id, last)
			}
			if id&maxRowIDNode != 7 {
				t.Fatalf("id %x does not name its node", id)
			}
			if us, now := id>>12, int64(clock.Now().Earliest)/1000-rowIDEpoch; us > now+rowIDLead {
				t.Fatalf("an id is %d µs ahead of the clock", us-now)
			}
			last = id
		}
		// The clock of a bubble moves only while somebody waits: what went beyond the
		// lead had to.
		if waited := time.Since(began); waited < 2*rowIDLead*time.Microsecond-time.Millisecond {
			t.Errorf("waited %v", waited)
		}
	})
}

// TestRowIDsConcurrent: goroutines never get the same id.
func TestRowIDsConcurrent(t *testing.T) {
	clock, err := truetime.NewSystem(truetime.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var r rowIDs
	r.init(1, clock)
	ids := make([][]int64, 8)
	var wg sync.WaitGroup
	for g := range ids {
		wg.Go(func() {
			for range 20_000 {
				ids[g] = append(ids[g], r.next())
			}
		})
	}
	wg.Wait()
	seen := map[int64]bool{}
	for _, part := range ids {
		for _, id := range part {
			if seen[id] {
				t.Fatalf("id %d twice", id)
			}
			seen[id] = true
		}
	}
}

// BenchmarkRowIDs is COPY's pace: a row each microsecond.
func BenchmarkRowIDs(b *testing.B) {
	clock, err := truetime.NewSystem(truetime.Options{})
	if err != nil {
		b.Fatal(err)
	}
	var r rowIDs
	r.init(1, clock)
	for b.Loop() {
		for range 1000 {
			r.next()
		}
		b.StopTimer()
		if err := clock.AwaitAfter(b.Context(), clock.Now().Latest.Add(time.Millisecond)); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(1000*b.N), "ns/row")
}
