package paxosgroup

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/truetime"
)

// idleWorker takes all that it is signalled for, for as long as the scheduler is open.
type idleWorker struct {
	mu    sync.Mutex
	taken int
}

func (i *idleWorker) run(s *scheduler) {
	var o outbox
	for {
		gs, ok := s.pop(&o, nil)
		if !ok {
			return
		}
		i.mu.Lock()
		i.taken += len(gs)
		i.mu.Unlock()
	}
}

// rest waits until it has nothing more to do, and tells what it has taken since the last time.
func (i *idleWorker) rest() int {
	synctest.Wait()
	i.mu.Lock()
	defer i.mu.Unlock()
	n := i.taken
	i.taken = 0
	return n
}

// What is collected is the helper's if that delays nobody, else a worker is signalled; never both,
// and never neither.
func TestW1_WhoComesForWhatIsCollected(t *testing.T) {
	atWork := func(s *scheduler) *outbox { // a worker begins a round
		o := new(outbox)
		s.collect(new(Group))
		s.pop(o, nil)
		return o
	}
	another := func(s *scheduler) *helper {
		w := &helper{out: new(outbox)}
		s.collect(new(Group))
		s.offer(w)
		return w
	}
	for _, c := range []struct {
		name      string
		scene     func(s *scheduler)
		collected int
		helped    int
		worker    int
	}{
		{"at rest", func(*scheduler) {}, 1, 1, 0},
		{"a few groups", func(*scheduler) {}, helpGroups, helpGroups, 0},
		{"many groups", func(*scheduler) {}, helpGroups + 1, 0, helpGroups + 1},
		{"nothing", func(*scheduler) {}, 0, 0, 0},
		{"a worker at work", func(s *scheduler) { atWork(s) }, 1, 0, 1},
		{"that waits for the disk", func(s *scheduler) { s.lend(atWork(s)) }, 1, 1, 0},
		{"another helper", func(s *scheduler) { another(s) }, 1, 0, 1},
		{"that waits for the disk", func(s *scheduler) { s.lend(another(s).out) }, 1, 0, 1},
		{"that is done", func(s *scheduler) { s.helpOn(another(s), true) }, 1, 1, 0},
		{"closed", func(s *scheduler) { s.close() }, 1, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var s scheduler
				s.init(1, new(sync.WaitGroup))
				defer s.close()
				c.scene(&s)
				var idle idleWorker
				go idle.run(&s)
				synctest.Wait()
				for range c.collected {
					s.collect(new(Group))
				}
				if n := idle.rest(); n != 0 {
					t.Errorf("a worker came for %d groups that were collected", n)
				}
				w := helper{out: new(outbox)}
				if n := len(s.offer(&w)); n != c.helped {
					t.Errorf("the helper has %d groups, not %d", n, c.helped)
				}
				if n := idle.rest(); n != c.worker {
					t.Errorf("a worker has %d groups, not %d", n, c.worker)
				}
			})
		})
	}
}

// After a round the helper comes for the acknowledgements of what he wrote, for which nobody is
// signalled meanwhile; what he does not take a worker does.
func TestW1_HelperComesForItsAcknowledgements(t *testing.T) {
	for _, c := range []struct {
		name    string
		between func(s *scheduler)
		more    bool
		helped  int
		worker  int
	}{
		{"at rest", func(*scheduler) {}, true, 1, 0},
		{"after the last round", func(*scheduler) {}, false, 0, 1},
		{"others came", func(s *scheduler) {
			for range helpGroups {
				s.collect(new(Group))
			}
		}, true, 0, helpGroups + 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var s scheduler
				var wg sync.WaitGroup
				s.init(1, &wg)
				defer s.close()
				var idle idleWorker
				go idle.run(&s)
				synctest.Wait()
				w := helper{out: new(outbox)}
				g := new(Group)
				s.collect(g)
				for _, g := range s.offer(&w) {
					g.sched.Store(schedRunning)
					s.done(g)
				}
				s.lend(w.out)
				s.enqueueFor(g, w.out)
				if n := idle.rest(); n != 0 {
					t.Errorf("a worker came for the acknowledgements of %d groups", n)
				}
				c.between(&s)
				if n := len(s.helpOn(&w, c.more)); n != c.helped {
					t.Errorf("the helper has %d groups, not %d", n, c.helped)
				}
				if n := idle.rest(); n != c.worker {
					t.Errorf("a worker has %d groups, not %d", n, c.worker)
				}
				if c.helped > 0 {
					s.helpOn(&w, false)
				}
				wg.Wait() // no helper is left
				s.enqueueFor(new(Group), w.out)
				if n := idle.rest(); n != 1 {
					t.Errorf("of what is acknowledged after the helper's time a worker has %d groups, not 1", n)
				}
			})
		})
	}
}

// However much comes, the helper goes back to his lane after helpRounds, and a worker goes on.
func TestHelpIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := new(Host)
		h.sched.init(1, &h.wg)
		h.helper.out = newOutbox(h)
		h.wg.Add(1)
		go h.work()
		synctest.Wait()
		var groups [2]Group
		var helpers []bool
		var round func()
		next := func() {
			g := &groups[len(helpers)%2]
			g.in.post(round)
			h.sched.collect(g)
		}
		round = func() {
			h.sched.mu.Lock()
			helpers = append(helpers, h.sched.mu.helping)
			h.sched.mu.Unlock()
			if len(helpers) < 2*helpRounds {
				next()
			}
		}
		next()
		h.help()
		// A worker's round queues the next for itself: there is nobody else to collect.
		synctest.Wait()
		h.sched.close()
		h.wg.Wait()
		want := slices.Concat(slices.Repeat([]bool{true}, helpRounds), slices.Repeat([]bool{false}, helpRounds))
		if !slices.Equal(helpers, want) {
			t.Errorf("rounds by the helper: %v", helpers)
		}
	})
}

// A helper that waits for a disk which hangs is not missed: with the only worker that there is the
// node goes on leading its own group: that commits by its followers' disks.
func TestHelperMayWaitForTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 7, 3)
		defer w.close()
		w.net.SetCollect(true)
		w.conf = func(c *Config) { c.Workers = 1 }
		for _, n := range w.nodes {
			for g := keys.GroupID(1); g <= 2; g++ {
				n.specs = append(n.specs, GroupConfig{
					ID: g, Replica: keys.ReplicaID(uint64(g)*100 + uint64(n.id)), Replicas: w.replicas(g), Preferred: keys.NodeID(g),
				})
			}
			n.start()
		}
		one, two := w.nodes[1], w.nodes[2]
		time.Sleep(5 * time.Second)
		if w.leader(1) != one || w.leader(2) != two {
			t.Fatal("the scene does not work: others lead")
		}
		one.store.setDelay(10 * time.Second)
		if _, err := two.propose(2, "x"); err != nil { // which node 1's helper writes
			t.Fatal(err)
		}
		synctest.Wait()
		one.host.sched.mu.Lock()
		helping, atWork := one.host.sched.mu.helping, one.host.sched.mu.atWork
		one.host.sched.mu.Unlock()
		if !helping || atWork != 0 {
			t.Fatalf("the scene does not work: a helper waits: %v, at work: %d", helping, atWork)
		}
		for i := range 5 {
			one.submit(1, one.groups[1].leadTerm.Load(), fmt.Sprint("y", i), func(truetime.Timestamp, error) {})
			time.Sleep(100 * time.Millisecond)
			if n := len(two.toys[1].history()); n != i+1 {
				t.Errorf("a follower was told of %d commits, not %d", n, i+1)
			}
		}
		one.store.setDelay(0)
		time.Sleep(15 * time.Second)
		w.converged(1)
		w.converged(2)
	})
}
