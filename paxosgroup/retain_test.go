package paxosgroup

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/internal/keys"
)

const (
	fillMiB  = 1 << 20 / fillBytes // commands of fill in a MiB
	fillTick = 5 << 19             // bytes that fill writes in a tick, at most
)

// A follower that was down catches up from the log, also across a checkpoint, as long
// as what it lacks is within the budget.
func TestAFollowerThatWasDownCatchesUp(t *testing.T) {
	const budget = 2 << 20
	for _, tc := range []struct {
		name      string
		missed    int // commands
		snapshots int
	}{
		{"within the budget", 40, 0},
		{"beyond the budget", 130, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1, 3)
				defer w.close()
				w.conf = func(c *Config) { c.TailBudget = budget }
				w.start(1)
				n := w.leader(1)
				f := w.nodes[3]
				n.fill(t, 1, 1)
				f.crash()
				time.Sleep(5 * time.Second) // its node counts as dead
				for range tc.missed {
					n.fill(t, 1, 1)
					if kept := n.host.tails.Load(); kept > budget+fillTick {
						t.Fatalf("%d bytes are kept, of %d", kept, budget)
					}
				}
				n.store.checkpoint(n.host)
				n.fill(t, 1, 1)
				f.start()
				time.Sleep(10 * time.Second)
				w.converged(1)
				sameData(t, n, f)
				if got := f.toys[1].snapshots(); got != tc.snapshots {
					t.Errorf("%d snapshots, want %d", got, tc.snapshots)
				}
				if s := n.groups[1].w.tail.spare.Load(); s != n.host.tails.Load() {
					t.Errorf("of %d bytes kept only %d are spare when nobody lacks anything", n.host.tails.Load(), s)
				}
			})
		})
	}
}

// The groups of a host share one budget: those that nobody lacks anything of give way
// first, then the longest tail, so that the replicas of the others are spared a snapshot.
func TestTailsShareOneBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const budget, small = 2 << 20, 10
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
				if h := w.nodes[id].host; h != nil && h.tails.Load() > budget+fillTick {
					t.Fatalf("node %d keeps %d bytes, of %d", id, h.tails.Load(), budget)
				}
			}
		}
		w.leader(idle).fill(t, idle, fillMiB)
		time.Sleep(time.Second) // everybody has it
		f.crash()
		for g := keys.GroupID(1); g <= small; g++ {
			w.leader(g).fill(t, g, 1)
		}
		write := func(count int) {
			for range count {
				n.fill(t, busy, 1)
				within()
			}
			time.Sleep(300 * time.Millisecond) // a few ticks
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
		write(36) // with the idle group's, more than there is room for
		if kept := n.groups[idle].Status().TailBytes; kept != 0 {
			t.Errorf("the idle group keeps %d bytes that nobody lacks", kept)
		}
		came(0)
		f.crash()
		for g := keys.GroupID(1); g <= small; g++ {
			w.leader(g).fill(t, g, 1)
		}
		write(120)
		came(1)
	})
}

// A replica that only a snapshot can help makes no claim: the tail is spare, for others.
func TestNoTailIsKeptForWhoCannotUseIt(t *testing.T) {
	const budget = 2 << 20
	check := func(t *testing.T, n *node) {
		t.Helper()
		time.Sleep(300 * time.Millisecond) // a few ticks
		tail := &n.groups[1].w.tail
		if kept, spare := tail.kept.Load(), tail.spare.Load(); kept == 0 || spare != kept {
			t.Errorf("of %d bytes kept only %d are spare", kept, spare)
		}
	}
	begin := func(t *testing.T) (*world, *node) {
		w := newWorld(t, 1, 3)
		w.conf = func(c *Config) { c.TailBudget = budget }
		w.start(1)
		n := w.leader(1)
		n.fill(t, 1, 1)
		time.Sleep(time.Second)
		return w, n
	}
	t.Run("dead since before the election", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, dead := begin(t)
			defer w.close()
			dead.crash()
			n := w.leader(1)
			n.fill(t, 1, 1)
			time.Sleep(300 * time.Millisecond)
			if tail := &n.groups[1].w.tail; tail.spare.Load() != 0 {
				t.Error("nothing is kept for who was dead when the leader was elected")
			}
			n.fill(t, 1, 3*fillMiB)
			check(t, n)
			dead.start()
			time.Sleep(10 * time.Second)
			w.converged(1)
			sameData(t, n, dead)
		})
	})
	t.Run("waits for its turn", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, n := begin(t)
			defer w.close()
			n.host.senders.Add(maxSenders) // others have it
			f := w.nodes[3]
			f.crash()
			f.store.close()
			f.store = newFakeStore(time.Millisecond)
			f.specs[0].Incomplete = true
			f.start()
			time.Sleep(5 * time.Second)
			n.fill(t, 1, fillMiB)
			check(t, n)
			n.host.senders.Add(-maxSenders)
			time.Sleep(10 * time.Second)
			w.converged(1)
			sameData(t, n, f)
		})
	})
}

// A replica whose node has lost its clock refuses entries (T2), so that a snapshot would
// bring it nothing but the next one. It gets one when the clock vouches again.
func TestNoSnapshotForWhoRefusesEntries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const budget = 2 << 20
		w := newWorld(t, 1, 3)
		defer w.close()
		w.conf = func(c *Config) { c.TailBudget = budget }
		w.start(1)
		n := w.leader(1)
		f := w.nodes[1+n.id%3]
		n.fill(t, 1, 1)
		f.clock.Fail(errors.New("outvoted"))
		time.Sleep(5 * time.Second)
		before := f.toys[1].snapshots()
		for range 4 {
			for range 60 {
				n.fill(t, 1, 1)
			}
			n.store.checkpoint(n.host)
			time.Sleep(5 * time.Second)
		}
		if got := f.toys[1].snapshots() - before; got != 0 {
			t.Errorf("%d snapshots for a replica that refuses what follows them", got)
		}
		f.clock.Fail(nil)
		time.Sleep(10 * time.Second)
		w.converged(1)
		sameData(t, n, f)
	})
}
