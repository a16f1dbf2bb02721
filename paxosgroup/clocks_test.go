package paxosgroup

import (
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/truetime"
)

// outvoting makes every node's clock obey the verdict of the others, and records it.
func (w *world) outvoting() (verdicts *[8]atomic.Pointer[truetime.OutvotedError]) {
	verdicts = new([8]atomic.Pointer[truetime.OutvotedError])
	w.conf = func(c *Config) {
		id := c.Node
		c.ClockOutvoted = func(err error) {
			verdicts[id].CompareAndSwap(nil, err.(*truetime.OutvotedError))
			w.nodes[id].clock.Fail(err)
		}
	}
	return verdicts
}

// T2: the node whose clock a majority contradicts stops vouching, be it the leader or
// a follower, ahead or behind, by little or by more than any timestamp may lie ahead; the
// others do not, and one of them serves.
func TestT2_OutvotedClockStopsVouching(t *testing.T) {
	for _, nodes := range []int{3, 5} {
		for _, offset := range []time.Duration{50 * time.Millisecond, -50 * time.Millisecond, 2 * time.Second, -2 * time.Second, 5 * time.Second, -5 * time.Second} {
			for _, leads := range []bool{true, false} {
				t.Run(fmt.Sprintf("%d nodes, %v, leader %v", nodes, offset, leads), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						w := newWorld(t, 7, nodes)
						defer w.close()
						verdicts := w.outvoting()
						w.start(1)
						n := w.leader(1)
						time.Sleep(time.Second)
						liar := n
						if !leads {
							liar = w.nodes[n.id%keys.NodeID(nodes)+1]
						}
						liar.clock.SetOffset(offset) // ε is 4 ms
						// One heartbeat and its answer are enough.
						time.Sleep(w.nodes[1].host.cfg.HeartbeatInterval + 10*time.Millisecond)
						v := verdicts[liar.id].Load()
						if v == nil {
							t.Fatal("T2: the liar goes on vouching")
						}
						if v.Members != nodes || len(v.Peers) <= nodes/2 {
							t.Errorf("%+v", v)
						}
						for _, p := range v.Peers {
							// Opposite to the offset and no larger. A clock set back shows less, because
							// its earliest instant stands still (T1) until the others have passed it.
							if p.Gap*offset > 0 || p.Gap.Abs() > offset.Abs() || offset > 0 && (offset+p.Gap).Abs() > 20*time.Millisecond {
								t.Errorf("the gap to %s is %v", p.Peer, p.Gap)
							}
						}
						m := w.leader(1)
						if m == liar {
							t.Error("T2: a liar serves")
						}
						if _, err := m.propose(1, "y"); err != nil {
							t.Error(err)
						}
						time.Sleep(3 * time.Second)
						for id := range verdicts {
							if keys.NodeID(id) != liar.id && verdicts[id].Load() != nil {
								t.Errorf("T2: node %d, which is right, stops: %v", id, verdicts[id].Load())
							}
						}
					})
				})
			}
		}
	}
}

// T2: where no majority contradicts anybody, nobody is called a liar; between two
// clocks that disagree no promise counts, so neither serves.
func TestT2_OneAgainstOneProvesNobodyWrong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, 2)
		defer w.close()
		verdicts := w.outvoting()
		w.start(1)
		w.leader(1)
		w.nodes[2].clock.SetOffset(time.Second)
		time.Sleep(4 * time.Second)
		if verdicts[1].Load() != nil || verdicts[2].Load() != nil {
			t.Error("T2: one peer is a majority of two")
		}
		if n := w.serving(1); n != nil {
			t.Errorf("T2: node %d serves on promises of a clock that disagrees", n.id)
		}
		w.nodes[2].clock.SetOffset(0)
		if _, err := w.leader(1).propose(1, "x"); err != nil {
			t.Error(err)
		}
	})
}

// The estimate of a peer's offset is right to within its bound, and taking it
// allocates nothing.
func TestPeerOffsetEstimate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 5, 3)
		defer w.close()
		offsets := map[keys.NodeID]time.Duration{1: -time.Millisecond, 2: 2 * time.Millisecond, 3: 0}
		for id, d := range offsets {
			w.nodes[id].clock.SetOffset(d)
		}
		w.nodes[2].clock.SetEpsilon(9 * time.Millisecond)
		w.start(1)
		w.leader(1)
		for range 20 {
			time.Sleep(time.Second)
			for _, id := range w.ids {
				for _, c := range w.nodes[id].host.Clocks() {
					want := offsets[c.Node] - offsets[id]
					if (c.Offset-want).Abs() > c.Bound || c.Bound <= 0 || c.Bound > time.Millisecond || !c.Vouches || c.Gap != 0 {
						t.Errorf("node %d of %d: %+v, want %v", id, c.Node, c, want)
					}
					if since := time.Since(c.At); since > 2*w.nodes[id].host.cfg.HeartbeatInterval {
						t.Errorf("measured %v ago", since)
					}
					if c.Node == 2 && c.Epsilon != 9*time.Millisecond {
						t.Errorf("ε %v", c.Epsilon)
					}
				}
			}
		}
		w.nodes[2].clock.Fail(truetime.CheckReceived(w.nodes[1].clock, truetime.Max, 0))
		time.Sleep(time.Second)
		if c := w.nodes[1].host.Clocks()[0]; c.Node != 2 || c.Vouches {
			t.Errorf("%+v", c)
		}

		h := w.nodes[1].host
		p := h.peer(3)
		po := pong{seq: p.mu.seq, interval: w.nodes[3].clock.Now()}
		now := h.clock.Now()
		if n := testing.AllocsPerRun(100, func() { h.compareClocks(p, &po, now) }); n != 0 {
			t.Errorf("%v allocations per pong", n)
		}
	})
}
