package paxosgroup

import (
	"testing"
	"testing/synctest"
	"time"
)

// X4: a safe time once reached stays, whatever becomes of who closed it: a new term, a
// leader's node that comes back in another life, no majority at all.
func TestX4_SafeTimeStays(t *testing.T) {
	for _, asleep := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 1, 3)
			defer w.close()
			w.start(1)
			if _, err := w.leader(1).propose(1, "x"); err != nil {
				t.Fatal(err)
			}
			if asleep {
				time.Sleep(3 * time.Second)
			}
			if w.quiesced(1) != asleep {
				t.Fatalf("quiesced: %v", !asleep)
			}
			time.Sleep(200 * time.Millisecond)
			lead := w.leader(1)
			low := map[*node]int64{}
			look := func(when string) {
				for _, id := range w.ids {
					n := w.nodes[id]
					if n.host == nil || n == lead {
						continue
					}
					safe := int64(n.groups[1].SafeTime())
					if safe < low[n] || safe == 0 {
						t.Errorf("X4: %s, node %d's safe time went from %d to %d", when, id, low[n], safe)
					}
					low[n] = safe
				}
			}
			look("at first")
			// A new life of the leader's node, and a new term.
			lead.crash()
			watch := func(when string) {
				for range 1000 {
					time.Sleep(5 * time.Millisecond)
					look(when)
				}
			}
			watch("the leader dead")
			lead.start()
			watch("it is back")
			// One that led, alone: it steps down and keeps what it had closed.
			last := w.leader(1)
			for _, id := range w.ids {
				if n := w.nodes[id]; n != last {
					n.crash()
				}
			}
			lead = nil
			before := last.groups[1].SafeTime()
			for range 200 {
				time.Sleep(50 * time.Millisecond)
				if s := last.groups[1].SafeTime(); s < before {
					t.Fatalf("X4: the last node alive went back from %d to %d", before, s)
				} else {
					before = s
				}
			}
			if last.groups[1].Status().Serving {
				t.Error("it serves without a majority")
			}
		})
	}
}

func TestDistance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 3)
		defer w.close()
		w.net.SetFaults(MemFaults{MinDelay: 5 * time.Millisecond, MaxDelay: 6 * time.Millisecond})
		w.start(1)
		w.leader(1)
		time.Sleep(3 * time.Second)
		h := w.nodes[1].host
		if d := h.Distance(1); d != 0 {
			t.Errorf("distance of itself: %v", d)
		}
		if d := h.Distance(2); d < 9*time.Millisecond || d > 20*time.Millisecond {
			t.Errorf("distance over two hops of 5 to 6 ms: %v", d)
		}
		w.nodes[3].crash()
		time.Sleep(5 * time.Second)
		if d := h.Distance(3); d != Far {
			t.Errorf("distance of a dead node: %v", d)
		}
	})
}
