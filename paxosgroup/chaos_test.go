package paxosgroup

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/truetime"
)

// TestR1R2R3_Chaos runs clusters through seeded faults and checks, all the while,
// that at most one lease is valid (R2), that timestamps only grow past every
// promise (R3), that safe times tell the truth (X4), and, after healing, that
// replicas agree and hold what was acknowledged, once (R1).
// PAXOSGROUP_SEED=n runs one seed, PAXOSGROUP_SEEDS=n that many.
func TestR1R2R3_Chaos(t *testing.T) {
	first, count := uint64(0), uint64(6)
	if s, err := strconv.ParseUint(os.Getenv("PAXOSGROUP_SEED"), 10, 64); err == nil {
		first, count = s, 1
	}
	if s, err := strconv.ParseUint(os.Getenv("PAXOSGROUP_SEEDS"), 10, 64); err == nil {
		count = s
	}
	for seed := first; seed < first+count; seed++ {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { chaos(t, seed) })
		})
	}
}

type safeClaim struct {
	node  keys.NodeID
	group keys.GroupID
	ts    truetime.Timestamp
	had   int // commands at or below ts that the replica had applied
	at    time.Time
}

func chaos(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 77))
	size := 3
	if seed%4 == 3 {
		size = 5
	}
	w := newWorld(t, seed, size)
	defer w.close()
	if seed%2 == 1 { // replicas that were down need snapshots
		w.conf = func(c *Config) { c.TailBudget = 4 << 10 }
	}
	w.net.SetCollect(seed/2%2 == 1)
	eps := time.Duration(1+r.IntN(60)) * time.Millisecond
	for _, n := range w.nodes {
		n.clock.SetEpsilon(eps)
		n.clock.SetOffset(time.Duration(r.Int64N(int64(2*eps))) - eps)
		n.store.setDelay(time.Duration(r.IntN(8)) * time.Millisecond)
	}
	groups := []keys.GroupID{1, 2}
	w.unhurried = map[keys.GroupID]bool{2: true}
	w.start(groups...)
	down := 0
	seq, valid := 0, 0
	var claims []safeClaim
	holder := make(map[keys.GroupID]keys.NodeID)
	changes := 0
	for range 15000 {
		time.Sleep(time.Millisecond)
		for _, g := range groups {
			var serving *node
			for _, id := range w.ids {
				n := w.nodes[id]
				if n.host == nil || n.groups[g].Valid(n.groups[g].leadTerm.Load()) != nil {
					continue
				}
				if serving != nil {
					t.Fatalf("R2: seed %d: nodes %d and %d both hold the lease of group %d", seed, serving.id, id, g)
				}
				serving = n
			}
			if serving == nil {
				continue
			}
			valid++
			if holder[g] != serving.id {
				holder[g] = serving.id
				changes++
			}
			grp := serving.groups[g]
			term := grp.leadTerm.Load()
			switch r.IntN(10) {
			case 0, 1:
				seq++
				serving.submit(g, term, fmt.Sprint("c", seq), func(truetime.Timestamp, error) {})
			case 2:
				ahead := time.Duration(r.IntN(400)) * time.Millisecond
				at := serving.clock.Now().Latest.Add(ahead)
				if grp.Promise(term, at) == nil {
					w.promise(g, at)
				}
			}
		}
		if r.IntN(20) == 0 {
			n := w.nodes[w.ids[r.IntN(size)]]
			g := groups[r.IntN(len(groups))]
			if n.host != nil {
				c := safeClaim{node: n.id, group: g, ts: n.groups[g].SafeTime(), at: time.Now()}
				for _, e := range n.toys[g].history() {
					if e.TS <= c.ts {
						c.had++
					}
				}
				claims = append(claims, c)
			}
		}
		if r.IntN(150) == 0 {
			n := w.nodes[w.ids[r.IntN(size)]]
			switch r.IntN(9) {
			case 0:
				if n.host != nil && down < size/2 {
					n.crash()
					n.store.setDelay(time.Duration(r.IntN(8)) * time.Millisecond)
					down++
				}
			case 1, 2:
				if n.host == nil {
					n.start()
					down--
				}
			case 3:
				w.net.Isolate(n.id, true)
			case 4, 5:
				for _, id := range w.ids {
					w.net.Isolate(id, false)
				}
				w.net.SetFaults(MemFaults{MinDelay: 200 * time.Microsecond, MaxDelay: time.Duration(1+r.IntN(20)) * time.Millisecond})
			case 6:
				w.net.SetFaults(MemFaults{
					Drop: r.Float64() * 0.3, Duplicate: r.Float64() * 0.2, Reorder: r.IntN(2) == 0,
					MinDelay: 100 * time.Microsecond, MaxDelay: time.Duration(1+r.IntN(300)) * time.Millisecond,
				})
			case 7:
				n.clock.SetOffset(time.Duration(r.Int64N(int64(2*eps))) - eps)
				to := w.ids[r.IntN(size)]
				if n.host != nil {
					g := n.groups[groups[r.IntN(2)]]
					go func() {
						ctx, cancel := within(time.Second)
						defer cancel()
						_ = g.Transfer(ctx, to) // may fail in any way; the checks are elsewhere
					}()
				}
			case 8:
				if n.host != nil {
					n.store.checkpoint(n.host)
				}
			}
		}
	}
	// Heal, and everything must come together again.
	w.net.SetFaults(MemFaults{MinDelay: 200 * time.Microsecond, MaxDelay: time.Millisecond})
	for _, id := range w.ids {
		w.net.Isolate(id, false)
		if w.nodes[id].host == nil {
			w.nodes[id].start()
		}
	}
	for _, g := range groups {
		n := w.leader(g)
		if _, err := n.propose(g, "last"); err != nil {
			n = w.leader(g)
			if _, err := n.propose(g, "last again"); err != nil {
				t.Fatalf("seed %d: no service after healing: %v", seed, err)
			}
		}
		w.converged(g)
		final := w.leader(g).toys[g].history()
		for _, c := range claims {
			if c.group != g {
				continue
			}
			want := 0
			for _, e := range final {
				if e.TS <= c.ts {
					want++
				}
			}
			if want > c.had {
				t.Errorf("X4: seed %d: node %d claimed at %v that group %d was safe up to %d with %d of %d commands", seed, c.node, c.at, g, c.ts, c.had, want)
			}
		}
	}
	if valid < 1000 {
		t.Errorf("seed %d: a lease was valid in only %d of 30000 samples", seed, valid)
	}
	t.Logf("seed %d: ε %v, %d samples with a lease, %d changes of leader, %d acknowledged, %d snapshot frames",
		seed, eps, valid, changes, w.ackedLen(1)+w.ackedLen(2), w.net.Sent(ClassSnapshot))
}
