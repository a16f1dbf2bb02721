package paxosgroup

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/internal/keys"
)

const fillMiB = 1 << 20 / fillBytes // commands of fill in a MiB, about

// A follower that was down catches up from the log, whatever checkpoints were taken
// meanwhile, as long as what it lacks is within the budget.
func TestAFollowerThatWasDownCatchesUp(t *testing.T) {
	const budget = 16 << 20
	for _, tc := range []struct {
		name      string
		missed    int // MiB
		snapshots int
	}{
		{"within the budget", 14, 0},
		{"beyond the budget", 20, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1, 3)
				defer w.close()
				w.conf = func(c *Config) { c.TailBudget = budget }
				w.start(1)
				n := w.leader(1)
				f := w.nodes[3]
				n.fill(t, 1, 10)
				f.crash()
				time.Sleep(5 * time.Second) // its node counts as dead
				for range tc.missed {
					n.fill(t, 1, fillMiB)
					n.store.checkpoint(n.host)
					if kept := n.host.tails.Load(); kept > budget+3<<20 {
						t.Fatalf("%d bytes are kept, of %d", kept, budget)
					}
				}
				f.start()
				time.Sleep(10 * time.Second)
				w.converged(1)
				sameData(t, n, f)
				if got := f.toys[1].snapshots(); got != tc.snapshots {
					t.Errorf("%d snapshots, want %d", got, tc.snapshots)
				}
				if kept := n.host.tails.Load(); kept > tailBytes {
					t.Errorf("%d bytes are kept when nobody lacks anything", kept)
				}
			})
		})
	}
}

// The groups of a host share one budget: those that nobody lacks anything of give way
// first, then the longest tail, so that the replicas of the others are spared a snapshot.
func TestTailsShareOneBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const budget, tick, small = 16 << 20, 3 << 20, 30 // tick: what is written in one
		const idle, busy = keys.GroupID(small + 1), keys.GroupID(small + 2)
		w := newWorld(t, 1, 3)
		defer w.close()
		w.conf = func(c *Config) { c.TailBudget = budget }
		var ids []keys.GroupID
		for g := keys.GroupID(1); g <= busy; g++ {
			ids = append(ids, g)
		}
		w.start(ids...)
		n := w.leader(busy)
		f := w.nodes[3]
		within := func() {
			t.Helper()
			for _, id := range w.ids {
				if h := w.nodes[id].host; h != nil && h.tails.Load() > budget+tick {
					t.Fatalf("node %d keeps %d bytes, of %d", id, h.tails.Load(), budget)
				}
			}
		}
		w.leader(idle).fill(t, idle, 3*fillMiB)
		time.Sleep(time.Second) // everybody has it
		f.crash()
		for g := keys.GroupID(1); g <= small; g++ {
			w.leader(g).fill(t, g, 2)
		}
		rounds := func(mib int) {
			for range 4 * mib {
				n.fill(t, busy, fillMiB/4)
				within()
			}
		}
		came := func(snapshots int) {
			t.Helper()
			f.start()
			time.Sleep(10 * time.Second)
			for _, g := range ids {
				w.converged(g)
				want := 0
				if g == busy {
					want = snapshots
				}
				if got := f.toys[g].snapshots(); got != want {
					t.Errorf("group %d: %d snapshots, want %d", g, got, want)
				}
			}
			within()
		}
		rounds(14) // with the idle group's, more than there is room for
		if kept := n.groups[idle].Status().TailBytes; kept > 1<<20 {
			t.Errorf("the idle group keeps %d bytes that nobody lacks", kept)
		}
		came(0)
		f.crash()
		for g := keys.GroupID(1); g <= small; g++ {
			w.leader(g).fill(t, g, 2)
		}
		rounds(18)
		came(1)
	})
}
