package paxosgroup

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/storage"
	"github.com/spandb/spand/truetime"
	pb "go.etcd.io/raft/v3/raftpb"
)

func TestReplicatesAndApplies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 3)
		defer w.close()
		w.start(1, 2)
		for _, g := range []keys.GroupID{1, 2} {
			n := w.leader(g)
			if n.id != 1 {
				t.Errorf("group %d is led by node %d, want the preferred 1", g, n.id)
			}
			for i := range 50 {
				if _, err := n.propose(g, fmt.Sprint("c", i)); err != nil {
					t.Fatal(err)
				}
			}
			w.converged(g)
		}
	})
}

func TestSoloGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 1)
		defer w.close()
		w.nodes[1].clock.SetEpsilon(0)
		w.start(1)
		n := w.leader(1)
		before := n.store.synced()
		for i := range 20 {
			if _, err := n.propose(1, fmt.Sprint("c", i)); err != nil {
				t.Fatal(err)
			}
		}
		if d := n.store.synced() - before; d != 20 {
			t.Errorf("%d syncs for 20 commands one after the other, want one each", d)
		}
		w.converged(1)
	})
}

// A single replica restarts at once: nobody else could lead meanwhile, but what
// its earlier life promised must stay below its timestamps.
func TestR3_SoloRestartKeepsPromises(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 1)
		defer w.close()
		w.start(1)
		n := w.leader(1)
		if _, err := n.propose(1, "a"); err != nil {
			t.Fatal(err)
		}
		g := n.groups[1]
		far := n.clock.Now().Latest.Add(250 * time.Millisecond)
		if err := g.Promise(g.leadTerm.Load(), far); err != nil {
			t.Fatal(err)
		}
		w.promise(1, far)
		n.crash()
		start := time.Now()
		n.start()
		n = w.leader(1)
		if d := time.Since(start); d > 100*time.Millisecond {
			t.Errorf("a single replica needed %v to serve again", d)
		}
		if _, err := n.propose(1, "b"); err != nil {
			t.Fatal(err)
		}
		w.converged(1)
	})
}

func TestR4_StaleTermIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 3)
		defer w.close()
		w.start(1)
		n := w.leader(1)
		term := n.groups[1].leadTerm.Load()
		ctx, cancel := within(5 * time.Second)
		defer cancel()
		if err := n.groups[1].Transfer(ctx, 2); err != nil {
			t.Fatal(err)
		}
		m := w.leader(1)
		if m.id != 2 {
			t.Fatalf("node %d leads, want 2", m.id)
		}
		for _, at := range []*node{n, m} {
			done := make(chan error, 1)
			at.submit(1, term, "stale", func(_ truetime.Timestamp, err error) { done <- err })
			var nl *NotLeaderError
			if err := <-done; !errors.As(err, &nl) {
				t.Errorf("node %d: stale term: %v, want NotLeaderError", at.id, err)
			}
		}
		if _, err := m.propose(1, "fresh"); err != nil {
			t.Fatal(err)
		}
		w.converged(1)
		for _, e := range m.toys[1].history() {
			if e.Data == "stale" {
				t.Error("R4: a command of an earlier lease was applied")
			}
		}
	})
}

// Commands that are in the log behind a release entry, or under another term's
// header, are refused by every replica alike.
func TestR4_ApplyRefusesBehindRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 3)
		defer w.close()
		w.start(1)
		n := w.leader(1)
		g := n.groups[1]
		if _, err := n.propose(1, "before"); err != nil {
			t.Fatal(err)
		}
		term := g.leadTerm.Load()
		// Straight into Raft, as a leader that forgot its own hand-over would.
		refused := make(chan error, 1)
		if err := g.ask(func() {
			g.mu.Lock()
			g.mu.flights = append(g.mu.flights, flight{p: &Proposal{Done: func(_ any, _ truetime.Timestamp, err error) { refused <- err }}})
			g.mu.Unlock()
			if err := g.propose(rawEntries(
				encodeEntry(entryHeader{kindCommand, term - 1, 0}, []byte("other lease")),
				encodeEntry(entryHeader{kindRelease, term, 0}, nil),
				encodeEntry(entryHeader{kindCommand, term, 0}, []byte("behind release")))); err != nil {
				t.Error(err)
			}
		}); err != nil {
			t.Fatal(err)
		}
		var nl *NotLeaderError
		if err := <-refused; !errors.As(err, &nl) {
			t.Errorf("R4: a command behind the release: %v", err)
		}
		time.Sleep(5 * time.Second)
		m := w.leader(1)
		if _, err := m.propose(1, "after"); err != nil {
			t.Fatal(err)
		}
		w.converged(1)
		for _, id := range w.ids {
			if h := w.nodes[id].toys[1].history(); len(h) != 2 || h[0].Data != "before" || h[1].Data != "after" {
				t.Errorf("R4: node %d applied %v", id, h)
			}
		}
	})
}

// A dead leader is replaced within the lease duration, 2ε, and an election.
func TestR2_FailoverBound(t *testing.T) {
	for seed := range uint64(5) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, seed, 3)
			defer w.close()
			w.start(1, 2, 3)
			for g := keys.GroupID(1); g <= 3; g++ {
				w.leader(g)
			}
			if seed%2 == 0 {
				time.Sleep(3 * time.Second) // quiesced
			}
			n := w.leader(1)
			left := n.host.cfg.LeaseDuration
			n.crash()
			died := time.Now()
			for g := keys.GroupID(1); g <= 3; g++ {
				m := w.leader(g)
				if m == n {
					t.Fatal("the dead lead")
				}
				if _, err := m.propose(g, "x"); err != nil {
					t.Fatal(err)
				}
			}
			took := time.Since(died)
			c := w.nodes[2].host.cfg
			eps := 8 * time.Millisecond
			// At worst the first candidate meets a promise that has a moment to go and
			// another campaign is due.
			bound := left + 2*eps + c.CampaignJitter + 2*c.TickInterval + 2*c.CampaignInterval
			if took > bound {
				t.Errorf("seed %d: fail-over took %v, bound %v", seed, took, bound)
			}
			if took < left-c.HeartbeatInterval-50*time.Millisecond-2*eps {
				t.Errorf("seed %d: fail-over took only %v: a promise was broken", seed, took)
			}
			n.start()
			w.converged(1)
		})
	}
}

// mute swallows a node's heartbeats.
type mute struct{ Transport }

func (m mute) Send(to keys.NodeID, c Class, frame []byte) {
	if c != ClassHeartbeat {
		m.Transport.Send(to, c, frame)
	}
}

// A leader whose node dies before it has asked for a promise is replaced too, though
// no promise ends then.
func TestLeaderWithoutPromisesIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 3)
		w.conf = func(c *Config) {
			if c.Node == 1 {
				c.Transport = mute{c.Transport}
			}
		}
		defer w.close()
		w.start(1)
		time.Sleep(100 * time.Millisecond)
		if l := w.nodes[2].groups[1].Leader(); l != 1 {
			t.Fatalf("the scene does not work: node 2 follows %d", l)
		}
		w.nodes[1].crash()
		died := time.Now()
		w.leader(1)
		if d := time.Since(died); d > 3*time.Second {
			t.Errorf("fail-over took %v", d)
		}
	})
}

// Followers that still abstain when their promises to a dead leader end, as they do when
// the leader pinged them within 2ε of their start, have a say later.
func TestLeaderThatDiesWhileOthersAbstainIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 3)
		defer w.close()
		for _, n := range w.nodes {
			n.clock.SetEpsilon(200 * time.Millisecond)
		}
		w.start(1)
		n := w.leader(1)
		time.Sleep(time.Second)
		for _, m := range w.nodes {
			if m != n {
				m.crash()
				m.start()
			}
		}
		for _, m := range w.nodes {
			for m.groups[1].Leader() != n.id || m != n && !m.host.peer(n.id).promised() {
				time.Sleep(time.Millisecond)
			}
		}
		n.crash()
		died := time.Now()
		w.leader(1)
		if d := time.Since(died); d > 4*time.Second {
			t.Errorf("fail-over took %v", d)
		}
	})
}

func TestR2_RestartedNodeAbstains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, 3)
		defer w.close()
		w.start(1)
		n := w.leader(1)
		if _, err := n.propose(1, "x"); err != nil {
			t.Fatal(err)
		}
		// All go down and come back at once: nobody remembers a promise.
		for _, m := range w.nodes {
			m.crash()
		}
		back := time.Now()
		for _, m := range w.nodes {
			m.start()
		}
		w.leader(1)
		took := time.Since(back)
		if took < 1500*time.Millisecond {
			t.Errorf("a leader %v after the restart: the promises of the earlier life were forgotten", took)
		}
		if took > 3*time.Second {
			t.Errorf("no leader until %v after the restart", took)
		}
		w.converged(1)
	})
}

// A promise may rest on an attestation that was sent before the replica's first record
// was durable. When its node comes back without one, it abstains all the same.
func TestR2_AbstainsWithoutARecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 3)
		defer w.close()
		w.nodes[3].store.setDelay(20 * time.Second)
		w.start(1)
		n := w.leader(1)
		if n.id != 1 {
			t.Fatalf("the scene does not work: node %d leads", n.id)
		}
		time.Sleep(500 * time.Millisecond)
		w.net.Cut(1, 2)
		w.net.Cut(2, 1)
		time.Sleep(3 * time.Second)
		if w.serving(1) != n {
			t.Fatal("the scene does not work: node 3's promise should suffice")
		}
		w.net.Cut(1, 3)
		w.net.Cut(3, 1)
		w.nodes[3].crash()
		if w.nodes[3].store.recovered(1) != nil {
			t.Fatal("the scene does not work: node 3 has a record")
		}
		w.nodes[3].store.setDelay(0)
		w.nodes[3].start()
		for took := false; !took; time.Sleep(time.Millisecond) {
			serve := 0
			for _, m := range w.nodes {
				if m.groups[1].Valid(m.groups[1].leadTerm.Load()) == nil {
					serve++
					took = took || m != n
				}
			}
			if serve > 1 {
				t.Fatal("R2: two leases at once")
			}
		}
	})
}

// X4: whoever is let past because the floor has reached a timestamp can know that it
// was assigned.
func TestX4_AssignedIsToldBeforeTheFloorIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 3)
		defer w.close()
		w.start(1)
		g := w.leader(1).groups[1]
		done := make(chan error, 1)
		g.Propose(&Proposal{
			Term: g.leadTerm.Load(), Timestamped: true, Data: []byte("x"),
			Assigned: func(s truetime.Timestamp) {
				if floor := truetime.Timestamp(g.floor.Load()); floor >= s {
					t.Errorf("X4: the floor %d lets readers at %d pass", floor, s)
				}
			},
			Done: func(_ any, _ truetime.Timestamp, err error) { done <- err },
		})
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
}

// A leader that loses touch stops serving before anybody else starts.
func TestR2_IsolatedLeaderStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 4, 3)
		defer w.close()
		w.start(1)
		n := w.leader(1)
		g := n.groups[1]
		term := g.leadTerm.Load()
		w.net.Isolate(n.id, true)
		var lost, won time.Time
		for range 5000 {
			time.Sleep(time.Millisecond)
			if lost.IsZero() && g.Valid(term) != nil {
				lost = time.Now()
			}
			if m := w.serving(1); m != nil && m != n {
				won = time.Now()
				break
			}
		}
		if lost.IsZero() || won.IsZero() || !lost.Before(won) {
			t.Fatalf("R2: lease lost at %v, taken at %v", lost, won)
		}
		w.net.Isolate(n.id, false)
		if _, err := w.leader(1).propose(1, "x"); err != nil {
			t.Fatal(err)
		}
		w.converged(1)
	})
}

func TestR3_HandOverCarriesFloor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 5, 3)
		defer w.close()
		w.start(1)
		ctx, cancel := within(time.Minute)
		defer cancel()
		for i := range 12 {
			n := w.leader(1)
			g := n.groups[1]
			// Promised far ahead of any clock, but below the lease end.
			far := n.clock.Now().Latest.Add(700 * time.Millisecond)
			if err := g.Promise(g.leadTerm.Load(), far); err != nil {
				t.Fatal(err)
			}
			w.promise(1, far)
			to := w.ids[(i+1)%3]
			start := time.Now()
			if err := g.Transfer(ctx, to); err != nil {
				t.Fatal(err)
			}
			m := w.leader(1)
			if m.id != to && to != n.id {
				t.Fatalf("node %d leads, want %d", m.id, to)
			}
			if d := time.Since(start); d > 100*time.Millisecond {
				t.Errorf("hand-over took %v", d)
			}
			if _, err := m.propose(1, fmt.Sprint("c", i)); err != nil {
				t.Fatal(err)
			}
		}
		w.converged(1)
	})
}

// L2: what a machine promised below its LeaseEnd binds whoever leads next, whether the
// lease was handed over or ran out.
func TestL2_FloorCoversWhatTheMachinePromised(t *testing.T) {
	for _, crash := range []bool{false, true} {
		t.Run(fmt.Sprintf("crash=%v", crash), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 5, 3)
				defer w.close()
				w.start(1)
				ctx, cancel := within(time.Minute)
				defer cancel()
				n := w.leader(1)
				g, term := n.groups[1], n.groups[1].leadTerm.Load()
				end, err := g.LeaseEnd(term)
				if err != nil || end <= n.clock.Now().Latest {
					t.Fatalf("lease end %v, %v at %v", end, err, n.clock.Now())
				}
				if _, err := g.LeaseEnd(term - 1); err == nil {
					t.Error("R4: a term that is over has a lease end")
				}
				n.toys[1].promises.Store(int64(end - 1))
				if err := g.Valid(term); err != nil {
					t.Fatal(err)
				}
				w.promise(1, end-1) // Lead finds a lower floor
				if crash {
					n.crash()
				} else if err := g.Transfer(ctx, 2); err != nil {
					t.Fatal(err)
				} else if _, err := g.LeaseEnd(term); err == nil {
					t.Error("R2: a lease that was handed over has an end")
				}
				if m := w.leader(1); !crash && m.id != 2 {
					t.Errorf("node %d leads", m.id)
				} else if _, err := m.propose(1, "next"); err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}

// L2: a leader that is deposed may be elected again while its lease is not over. What the machine
// promised in the first term binds it in the second, and whoever takes over from there.
func TestL2_FloorCoversWhatWasPromisedBeforeBeingDeposed(t *testing.T) {
	for _, handOver := range []bool{false, true} {
		t.Run(fmt.Sprintf("handOver=%v", handOver), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 5, 3)
				defer w.close()
				w.start(1)
				ctx, cancel := within(time.Minute)
				defer cancel()
				n := w.leader(1)
				g, term := n.groups[1], n.groups[1].leadTerm.Load()
				end, err := g.LeaseEnd(term)
				if err != nil {
					t.Fatal(err)
				}
				n.toys[1].promises.Store(int64(end - 1))
				if err := g.Valid(term); err != nil {
					t.Fatal(err)
				}
				w.promise(1, end-1) // Lead finds a lower floor
				g.in.post(g.abdicate)
				n.host.sched.enqueue(g)
				synctest.Wait()
				if m := w.leader(1); m != n || g.leadTerm.Load() == term {
					t.Fatalf("node %d leads in term %d, want node %d again, in another than %d", m.id, m.groups[1].leadTerm.Load(), n.id, term)
				}
				if now := n.clock.Now(); now.Latest >= end-1 {
					t.Fatal("the promise was over before the second election")
				}
				if handOver {
					if err := g.Transfer(ctx, n.id%3+1); err != nil {
						t.Fatal(err)
					}
				}
				m := w.leader(1)
				if s, err := m.propose(1, "next"); err != nil {
					t.Fatal(err)
				} else if s < end {
					t.Errorf("L2: a command at %d, promised was %d", s, end-1)
				}
			})
		})
	}
}

func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 6, 3)
		defer w.close()
		w.start(1, 2, 3, 4, 5)
		for g := keys.GroupID(1); g <= 5; g++ {
			w.leader(g)
		}
		time.Sleep(2 * time.Second)
		ctx, cancel := within(5 * time.Second)
		defer cancel()
		start := time.Now()
		if err := w.nodes[1].host.Drain(ctx); err != nil {
			t.Fatal(err)
		}
		for g := keys.GroupID(1); g <= 5; g++ {
			if n := w.leader(g); n.id == 1 {
				t.Errorf("group %d is still led by the drained node", g)
			}
		}
		if d := time.Since(start); d > 500*time.Millisecond {
			t.Errorf("drain took %v", d)
		}
	})
}

// Nodes that all drain at once do not wait for each other to take over, and those
// that lead nothing do not leave before the others know why.
func TestDrainOfAllNodes(t *testing.T) {
	for late := range 4 {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 6, 3)
			defer w.close()
			w.start(1, 2, 3, 4, 5)
			for g := keys.GroupID(1); g <= 5; g++ {
				w.leader(g)
			}
			time.Sleep(2 * time.Second)
			start := time.Now()
			var wg sync.WaitGroup
			for i, n := range []keys.NodeID{1, 2, 3} {
				wg.Go(func() {
					time.Sleep(time.Duration(i*late*40) * time.Millisecond)
					ctx, cancel := within(5 * time.Second)
					defer cancel()
					if err := w.nodes[n].host.Drain(ctx); err != nil {
						t.Errorf("node %d: %v", n, err)
					}
					w.nodes[n].crash()
				})
			}
			wg.Wait()
			if d := time.Since(start); d > time.Second {
				t.Errorf("drain took %v", d)
			}
		})
	}
}

func TestPreferredNodeGetsLeadershipBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 7, 3)
		w.conf = func(c *Config) { c.BalanceInterval = time.Second }
		defer w.close()
		w.start(1)
		n := w.leader(1)
		if _, err := n.propose(1, "x"); err != nil {
			t.Fatal(err)
		}
		n.crash()
		if m := w.leader(1); m.id == 1 {
			t.Fatal("the dead lead")
		}
		n.start()
		time.Sleep(8 * time.Second)
		if m := w.leader(1); m.id != 1 {
			t.Errorf("node %d leads, the preferred one is back for long", m.id)
		}
		w.converged(1)
	})
}

// A node that has just come back may not campaign yet: neither balance nor a node that
// leaves hands it anything before it may, so that somebody serves all the time.
func TestNothingIsHandedToWhoAbstains(t *testing.T) {
	for _, drain := range []bool{false, true} {
		t.Run(fmt.Sprintf("drain=%v", drain), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 7, 3)
				w.conf = func(c *Config) {
					if !drain {
						c.BalanceInterval = 200 * time.Millisecond
					}
				}
				defer w.close()
				w.start(1)
				w.leader(1).crash()
				n := w.leader(1)
				time.Sleep(4 * time.Second)
				w.nodes[1].start()
				time.Sleep(500 * time.Millisecond) // heard of, level, and preferred
				if drain {
					w.nodes[5-n.id].store.setDelay(5 * time.Millisecond) // so that node 1 is ahead of it
					go n.host.Drain(context.Background())
				}
				if gap := w.leaderless(1, 4*time.Second); gap > 100*time.Millisecond {
					t.Errorf("nobody led for %v", gap)
				}
				if m := w.leader(1); m == n || m.id != 1 && !drain {
					t.Errorf("node %d leads", m.id)
				}
			})
		})
	}
}

// A preferred node that has just died is not handed anything: the group would
// be without a leader until Raft gives the hand-over up.
func TestNothingIsHandedToTheDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10, 3)
		w.conf = func(c *Config) { c.BalanceInterval = time.Second }
		defer w.close()
		w.start(1)
		w.leader(1).crash()
		died := 0
		for round := range 30 {
			time.Sleep(4 * time.Second) // another one leads and is settled
			w.nodes[1].start()
			time.Sleep(1500*time.Millisecond + time.Duration(40*round)*time.Millisecond) // it abstains before
			n := w.serving(1)
			w.nodes[1].crash()
			if n == nil || n.id == 1 {
				continue // handed over, or just being so
			}
			died++
			gap := w.leaderless(1, 3*time.Second)
			if gap > 3*150*time.Millisecond+100*time.Millisecond {
				t.Errorf("round %d: nobody led for %v after the death of a node that did not lead", round, gap)
			}
		}
		if died < 5 {
			t.Fatalf("only %d deaths before the hand-over: nothing is tested", died)
		}
	})
}

// A busy machine keeps its leadership for a while, then it goes all the same.
func TestBalanceHasPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 7, 3)
		w.conf = func(c *Config) { c.BalanceInterval, c.BalancePatience = time.Second, 20*time.Second }
		defer w.close()
		w.start(1, 2)
		n := w.leader(1)
		for g := keys.GroupID(1); g <= 2; g++ {
			w.leader(g)
			if _, err := n.propose(g, "x"); err != nil {
				t.Fatal(err)
			}
		}
		n.crash()
		for g := keys.GroupID(1); g <= 2; g++ {
			if m := w.leader(g); m.id == 1 {
				t.Fatal("the dead lead")
			}
		}
		w.leader(2).toys[2].busy.Store(true)
		n.start()
		time.Sleep(8 * time.Second)
		if m := w.leader(1); m.id != 1 {
			t.Errorf("node %d leads the idle group", m.id)
		}
		if m := w.leader(2); m.id == 1 {
			t.Error("a busy group was handed over at once")
		}
		time.Sleep(20 * time.Second)
		if m := w.leader(2); m.id != 1 {
			t.Errorf("node %d still leads the busy group", m.id)
		}
	})
}

// The patience with a busy machine begins anew after it was not busy, and after its
// preferred node was away.
func TestBalancePatienceBeginsAnew(t *testing.T) {
	for _, away := range []bool{false, true} {
		t.Run(fmt.Sprintf("away=%v", away), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 7, 3)
				w.conf = func(c *Config) { c.BalanceInterval, c.BalancePatience = time.Second, 20*time.Second }
				defer w.close()
				w.start(1)
				w.leader(1).crash()
				n := w.leader(1)
				n.toys[1].busy.Store(true)
				w.nodes[1].start()
				time.Sleep(8 * time.Second)
				if away {
					w.nodes[1].crash()
				} else { // nor does it go then
					n.groups[1].ask(func() { n.groups[1].w.leadSince = time.Now().Add(5 * time.Second) })
					n.toys[1].busy.Store(false)
				}
				time.Sleep(4 * time.Second)
				n.toys[1].busy.Store(true)
				if away {
					w.nodes[1].start()
				}
				time.Sleep(16 * time.Second)
				if m := w.leader(1); m != n {
					t.Fatal("a busy group was handed over without patience")
				}
				time.Sleep(8 * time.Second)
				if m := w.leader(1); m.id != 1 {
					t.Errorf("node %d still leads the busy group", m.id)
				}
			})
		})
	}
}

// When the target of a hand-over is gone, or leaves, by the time that the release is
// applied, another replica takes over.
func TestHandOverToALostTarget(t *testing.T) {
	for name, lose := range map[string]func(*node){
		"dies":   func(n *node) { n.crash() },
		"drains": func(n *node) { n.host.draining.Store(true) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1, 3)
				defer w.close()
				w.start(1)
				n := w.leader(1)
				time.Sleep(time.Second)
				for _, m := range w.nodes { // longer than it takes to notice
					m.store.setDelay(4 * time.Second)
				}
				go n.groups[1].Transfer(context.Background(), 3)
				time.Sleep(10 * time.Millisecond)
				lose(w.nodes[3])
				time.Sleep(2 * time.Second)
				w.nodes[1].store.setDelay(0)
				w.nodes[2].store.setDelay(0)
				at := time.Now()
				w.leader(1)
				if d := time.Since(at); d > 5*time.Second {
					t.Errorf("nobody led for %v", d)
				}
			})
		})
	}
}

func TestR1_AllCrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 8, 3)
		defer w.close()
		w.start(1)
		for round := range 4 {
			n := w.leader(1)
			for i := range 20 {
				if _, err := n.propose(1, fmt.Sprint(round, ".", i)); err != nil {
					t.Fatal(err)
				}
			}
			if round == 1 {
				n.store.checkpoint(n.host)
			}
			for _, m := range w.nodes {
				m.crash()
			}
			for _, m := range w.nodes {
				m.start()
			}
		}
		w.leader(1)
		w.converged(1)
		if got := len(w.nodes[1].toys[1].history()); got < 80 {
			t.Errorf("%d commands survived, want 80", got)
		}
	})
}

func TestProposalBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 9, 3)
		w.conf = func(c *Config) { c.GroupBudget = 4 << 10 }
		defer w.close()
		w.start(1)
		n := w.leader(1)
		g := n.groups[1]
		term := g.leadTerm.Load()
		errs := make(chan error, 100)
		done := func(_ any, _ truetime.Timestamp, err error) { errs <- err }
		g.Propose(&Proposal{Term: term, Data: make([]byte, MaxCommand+1), Done: done})
		if err := <-errs; !errors.Is(err, ErrTooLarge) {
			t.Errorf("too large: %v", err)
		}
		now := n.clock.Now()
		g.Propose(&Proposal{Term: term, Timestamped: true, MaxTS: now.Earliest, Done: done})
		if err := <-errs; !errors.Is(err, ErrTooLate) {
			t.Errorf("too late: %v", err)
		}
		for _, full := range []struct {
			space        storage.Space
			frees, tight bool // carried, Group.Tight
		}{{storage.SpaceLetGo, true, false}, {storage.SpaceTight, true, true}, {storage.SpaceNone, false, true}} {
			n.store.space = full.space
			g.Propose(&Proposal{Term: term, Done: done})
			if err := <-errs; !errors.Is(err, ErrDiskFull) {
				t.Errorf("disk full (%d): %v", full.space, err)
			}
			g.Propose(&Proposal{Term: term, Frees: true, Data: append([]byte{'a'}, "frees"...), Done: done})
			if err := <-errs; full.frees && err != nil || !full.frees && !errors.Is(err, ErrDiskFull) {
				t.Errorf("disk full (%d), a command that frees: %v", full.space, err)
			}
			if g.Tight() != full.tight {
				t.Errorf("disk full (%d): tight %v", full.space, g.Tight())
			}
		}
		n.store.space = storage.SpaceAmple
		over := 0
		for range 20 {
			g.Propose(&Proposal{Term: term, Data: make([]byte, 1000), Done: done})
		}
		for range 20 {
			switch err := <-errs; {
			case errors.Is(err, ErrOverloaded):
				over++
			case err != nil:
				t.Error(err)
			}
		}
		if over == 0 || over == 20 {
			t.Errorf("%d of 20 refused by a budget for about three", over)
		}
		// Commands that wait for the lease count as well, until they are through.
		refused := 0
		ahead := n.clock.Now().Latest.Add(2 * time.Second)
		for range 20 {
			g.Propose(&Proposal{Term: term, Timestamped: true, MinTS: ahead, Data: make([]byte, 1000), Done: done})
		}
		if len(errs) == 0 {
			t.Error("nothing that had to wait was refused at once")
		}
		for range 20 {
			switch err := <-errs; {
			case errors.Is(err, ErrOverloaded):
				refused++
			case err != nil:
				t.Error(err)
			}
		}
		if refused == 0 || refused == 20 {
			t.Errorf("%d of 20 that had to wait refused by a budget for about three", refused)
		}
		if n := g.inflight.Load(); n != 0 {
			t.Errorf("%d bytes in flight when nothing is", n)
		}
		// A timestamp beyond the lease end waits for the lease to get there.
		min := n.clock.Now().Latest.Add(2 * time.Second)
		start := time.Now()
		g.Propose(&Proposal{Term: term, Timestamped: true, MinTS: min, Done: func(_ any, s truetime.Timestamp, err error) {
			if err == nil && s < min {
				err = fmt.Errorf("assigned %d, below %d", s, min)
			}
			errs <- err
		}})
		if err := <-errs; err != nil {
			t.Error(err)
		}
		if d := time.Since(start); d < 400*time.Millisecond {
			t.Errorf("a timestamp 2 s ahead was assigned after %v, beyond the lease end", d)
		}
	})
}

func TestUnknownCommandStopsTheReplica(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10, 3)
		failed := make(chan keys.NodeID, 3)
		w.conf = func(c *Config) {
			id := c.Node
			c.GroupFailed = func(keys.GroupID, error) { failed <- id }
		}
		defer w.close()
		w.start(1)
		n := w.leader(1)
		w.nodes[3].toys[1].mu.Lock()
		w.nodes[3].toys[1].refuse = true
		w.nodes[3].toys[1].mu.Unlock()
		if _, err := n.propose(1, "x"); err != nil {
			t.Fatal(err)
		}
		if id := <-failed; id != 3 {
			t.Errorf("replica on node %d stopped, want 3", id)
		}
		if _, err := n.propose(1, "y"); err != nil {
			t.Errorf("the group of the two others: %v", err)
		}
		if s := w.nodes[3].groups[1].Status(); s.Role != "stopped" {
			t.Errorf("role %s", s.Role)
		}
		// A leader that stops itself gives its lease up; the third cannot help.
		n.submit(1, n.groups[1].leadTerm.Load(), "unknown", func(truetime.Timestamp, error) {})
		<-failed
		<-failed
	})
}

// A leader that steps down before its lease is over waits for its own promises
// before it votes for somebody else.
func TestR3_DeposedLeaderHonoursItsOwnLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 11, 3)
		defer w.close()
		w.start(1)
		n := w.leader(1)
		g := n.groups[1]
		a, b := w.nodes[2], w.nodes[3]
		if _, err := n.propose(1, "x"); err != nil {
			t.Fatal(err)
		}
		// b forgets its promise for want of heartbeats; a goes on renewing it.
		w.net.Isolate(b.id, true)
		time.Sleep(2 * time.Second)
		far := n.clock.Now().Latest.Add(1200 * time.Millisecond)
		if err := g.Promise(g.leadTerm.Load(), far); err != nil {
			t.Fatal(err)
		}
		w.promise(1, far)
		w.net.Isolate(b.id, false)
		w.net.Isolate(a.id, true)
		// A stray message of a higher term deposes the leader, which does not want to
		// lead again itself.
		n.host.draining.Store(true)
		if err := g.ask(func() {
			typ, from, to, term := pb.MsgAppResp, uint64(b.groups[1].self), uint64(g.self), g.w.hs.term+1
			g.step(&pb.Message{Type: &typ, From: &from, To: &to, Term: &term})
		}); err != nil {
			t.Fatal(err)
		}
		at := time.Now()
		// b must not learn of it from the notice, which would make it wait by itself.
		time.Sleep(2 * time.Millisecond)
		n.host.peer(b.id).retract(1, noteResign)
		m := w.leader(1)
		if m == b && time.Since(at) < time.Second {
			t.Errorf("R2: node %d leads %v after the deposition, with the deposed leader's vote", b.id, time.Since(at))
		}
		if _, err := m.propose(1, "y"); err != nil {
			t.Fatal(err)
		}
		w.net.Isolate(a.id, false)
		w.converged(1)
	})
}

// A replica that stops itself while its node lives on resigns: its followers must
// not wait for a lease that the node's heartbeats keep alive.
func TestFailedLeaderResigns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 12, 3)
		w.conf = func(c *Config) { c.GroupFailed = nil }
		defer w.close()
		w.start(1, 2)
		n := w.leader(1)
		w.leader(2)
		n.toys[1].mu.Lock()
		n.toys[1].refuse = true
		n.toys[1].mu.Unlock()
		if _, err := n.propose(1, "x"); !errors.Is(err, ErrAmbiguous) {
			t.Errorf("a command on which the leader fails: %v, want ErrAmbiguous", err)
		}
		at := time.Now()
		m := w.leader(1)
		if _, err := m.propose(1, "y"); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(at); d > 4*time.Second {
			t.Errorf("took %v", d)
		}
		if h := m.toys[1].history(); len(h) != 2 {
			t.Errorf("applied %v", h)
		}
		if w.leader(2) != n {
			t.Error("the node's other group moved")
		}
	})
}
