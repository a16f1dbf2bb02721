package paxosgroup

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/truetime"
)

// fillBytes is what fill writes per command.
const fillBytes = 40 << 10

// fill makes the leader write so much that a small tail no longer starts at the
// beginning.
func (n *node) fill(t *testing.T, g keys.GroupID, count int) {
	t.Helper()
	pad := strings.Repeat("x", fillBytes)
	for range count {
		n.w.filled++
		if _, err := n.propose(g, fmt.Sprint("fill", n.w.filled, pad)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSnapshotToAFollowerThatIsTooFarBehind(t *testing.T) {
	for _, mode := range []string{"was down", "lost its disk", "lossy network"} {
		t.Run(mode, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1, 3)
				defer w.close()
				w.conf = func(c *Config) { c.TailBudget = 2 * tailBytes }
				w.start(1)
				n := w.leader(1)
				f := w.nodes[3]
				if _, err := n.propose(1, "first"); err != nil {
					t.Fatal(err)
				}
				f.crash()
				n.fill(t, 1, 250)
				n.store.checkpoint(n.host)
				if s := n.groups[1].Status(); s.TailFirst < 50 || s.TailBytes > tailBytes {
					t.Fatalf("tail: first %d, %d bytes", s.TailFirst, s.TailBytes)
				}
				switch mode {
				case "lost its disk":
					f.store.close()
					f.store = newFakeStore(time.Millisecond)
					f.specs[0].Incomplete = true
				case "lossy network":
					w.net.SetFaults(MemFaults{Drop: 0.1, Duplicate: 0.1, Reorder: true, MinDelay: time.Millisecond, MaxDelay: 20 * time.Millisecond})
				}
				f.start()
				f.specs[0].Incomplete = false
				for i := range 40 { // it goes on meanwhile
					m := w.leader(1)
					m.submit(1, m.groups[1].leadTerm.Load(), fmt.Sprint("more", i), func(_ truetime.Timestamp, err error) {
						if err != nil && mode != "lossy network" {
							t.Error(err)
						}
					})
					time.Sleep(50 * time.Millisecond)
				}
				w.net.SetFaults(MemFaults{})
				time.Sleep(10 * time.Second)
				w.converged(1)
				sameData(t, n, f)
				if w.net.Sent(ClassSnapshot) == 0 {
					t.Error("no snapshot was sent")
				}
				// And it is a full member: durable, and able to lead.
				f.crash()
				f.start()
				time.Sleep(5 * time.Second)
				ctx, cancel := within(5 * time.Second)
				defer cancel()
				if err := w.leader(1).groups[1].Transfer(ctx, 3); err != nil && w.leader(1).id != 3 {
					t.Fatal(err)
				}
				if _, err := w.leader(1).propose(1, "under the new one"); err != nil {
					t.Fatal(err)
				}
				w.converged(1)
				sameData(t, n, f)
			})
		})
	}
}

// What is written while a snapshot travels, more than a tail keeps, is there when it
// has arrived: its receiver catches up from the log and needs no second one.
func TestSnapshotUnderLoadIsEnough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 3)
		defer w.close()
		w.conf = func(c *Config) { c.TailBudget = 3 * tailBytes }
		w.start(1)
		n := w.leader(1)
		f := w.nodes[3]
		f.crash()
		n.fill(t, 1, 350)
		n.store.checkpoint(n.host)
		w.net.SetFaults(MemFaults{MinDelay: 20 * time.Millisecond, MaxDelay: 20 * time.Millisecond})
		before := n.host.snapID.Load()
		f.start()
		for range 500 {
			if n.groups[1].Status().Snapshots != 0 {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		pad := strings.Repeat("y", fillBytes)
		writes := 2 * tailBytes / len(pad)
		done := make(chan error, writes)
		for i := range writes {
			n.submit(1, n.groups[1].leadTerm.Load(), fmt.Sprint("meanwhile", i, pad), func(_ truetime.Timestamp, err error) { done <- err })
		}
		for range writes {
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		if n.groups[1].Status().Snapshots == 0 {
			t.Fatal("the snapshot ended too early for this test to mean something")
		}
		time.Sleep(20 * time.Second)
		w.converged(1)
		sameData(t, n, f)
		if sent := n.host.snapID.Load() - before; sent != 1 {
			t.Errorf("%d snapshots were sent", sent)
		}
		if s := n.groups[1].Status(); s.TailBytes > tailBytes {
			t.Errorf("the tail keeps %d bytes when all have caught up", s.TailBytes)
		}
	})
}

func sameData(t *testing.T, a, b *node) {
	t.Helper()
	a.store.mu.Lock()
	defer a.store.mu.Unlock()
	b.store.mu.Lock()
	defer b.store.mu.Unlock()
	if !maps.EqualFunc(a.store.data, b.store.data, func(x, y []byte) bool { return string(x) == string(y) }) {
		t.Errorf("nodes %d and %d hold %d and %d keys, or different ones", a.id, b.id, len(a.store.data), len(b.store.data))
	}
}

// A crash in the midst of a snapshot leaves a replica that knows it is
// incomplete: it does not vote, and gets another snapshot.
func TestSnapshotInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, 3)
		defer w.close()
		w.conf = func(c *Config) { c.TailBudget = 2 * tailBytes }
		w.start(1)
		n := w.leader(1)
		f := w.nodes[3]
		f.crash()
		n.fill(t, 1, 300)
		n.store.checkpoint(n.host)
		w.net.SetFaults(MemFaults{MinDelay: 20 * time.Millisecond, MaxDelay: 21 * time.Millisecond})
		f.start()
		for range 5000 {
			time.Sleep(time.Millisecond)
			f.store.mu.Lock()
			half := len(f.store.data) > 20 && f.store.groups[1].incomplete
			f.store.mu.Unlock()
			if half {
				break
			}
		}
		if s := f.groups[1].Status(); s.Role != "incomplete" {
			t.Fatalf("role %q in the midst of a snapshot", s.Role)
		}
		if s := f.groups[1].SafeTime(); s != 0 {
			t.Errorf("an incomplete replica claims to be safe up to %d", s)
		}
		f.crash()
		// The leader goes too: the half replica must not help to elect, nor be elected.
		n.crash()
		f.start()
		time.Sleep(10 * time.Second)
		if m := w.serving(1); m != nil {
			t.Fatalf("node %d leads with the vote of an incomplete replica", m.id)
		}
		n.start()
		if _, err := w.leader(1).propose(1, "again"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		w.converged(1)
		sameData(t, n, f)
		if s := f.groups[1].Status(); s.Role == "incomplete" {
			t.Error("still incomplete")
		}
	})
}

// A receiver that cannot write refuses; the leader tries again later.
func TestSnapshotRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, 3)
		defer w.close()
		w.conf = func(c *Config) { c.TailBudget = 2 * tailBytes }
		w.start(1)
		n := w.leader(1)
		f := w.nodes[3]
		f.crash()
		n.fill(t, 1, 250)
		n.store.checkpoint(n.host)
		f.store.stall = true
		f.start()
		time.Sleep(5 * time.Second)
		if s := f.groups[1].Status(); s.Role != "incomplete" {
			t.Errorf("role %q while chunks fail", s.Role)
		}
		f.store.mu.Lock()
		f.store.stall = false
		f.store.mu.Unlock()
		time.Sleep(10 * time.Second)
		w.converged(1)
		sameData(t, n, f)
	})
}

// A node that lost its data gets all of it back, however many groups there are, idle ones
// included: their leaders believe that it has everything.
func TestLostDataComesBackInEveryGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 3)
		defer w.close()
		var ids []keys.GroupID
		for g := range 30 {
			ids = append(ids, keys.GroupID(g+1))
		}
		w.start(ids...)
		for _, g := range ids {
			if _, err := w.leader(g).propose(g, "x"); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(5 * time.Second)
		n := w.nodes[3]
		n.crash()
		n.store.close()
		n.store = newFakeStore(time.Millisecond)
		for i := range n.specs {
			n.specs[i].Incomplete = true
		}
		n.start()
		time.Sleep(30 * time.Second)
		for _, g := range ids {
			if s := n.groups[g].Status(); s.Role == "incomplete" {
				t.Errorf("the replica of group %d is incomplete after 30 s", g)
			}
			if !w.quiesced(g) {
				t.Errorf("group %d does not sleep again", g)
			}
		}
	})
}

// A snapshot whose receiver dies makes room for others before its time is up.
func TestSnapshotToTheDeadEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 3)
		w.conf = func(c *Config) { c.TailBudget = 4 << 10 }
		defer w.close()
		w.start(1)
		n := w.leader(1)
		f := w.nodes[3]
		f.crash()
		n.fill(t, 1, 2*fillMiB)
		n.store.checkpoint(n.host)
		f.start()
		for n.host.senders.Load() == 0 {
			time.Sleep(100 * time.Microsecond)
		}
		f.crash()
		time.Sleep(5 * time.Second)
		if n.host.senders.Load() != 0 {
			t.Error("a snapshot is still being sent")
		}
	})
}
