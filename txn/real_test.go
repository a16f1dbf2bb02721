package txn

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/storage"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/tablet"
	"github.com/spandb/spand/tablet/directory"
	"github.com/spandb/spand/truetime"
)

// realWorld is three nodes with real tablets; only the Raft groups are simulated,
// each by a queue that applies entries to all replicas. Nodes talk
// through the wire encoding.
type realWorld struct {
	t     *testing.T
	clock *testClock
	rng   func(n int) int
	nodes map[keys.NodeID]*realNode

	mu     sync.Mutex
	groups map[keys.GroupID]*realGroup
	guess  map[keys.NodeID]map[keys.GroupID]keys.NodeID
	cut    func(from, to keys.NodeID) bool // drops calls
	calls  map[byte]int                    // between nodes, by method
}

type realNode struct {
	w     *realWorld
	id    keys.NodeID
	store *memStore
	g     *gateway
	rec   *Recovery
}

type realGroup struct {
	w     *realWorld
	id    keys.GroupID
	queue chan realEntry
	done  chan struct{}

	mu       sync.Mutex
	leader   keys.NodeID
	term     uint64
	floor    truetime.Timestamp
	lost     uint64 // entries of terms up to here that come now are lost
	replicas map[keys.NodeID]*realReplica
}

type realEntry struct {
	p    *paxosgroup.Proposal
	term uint64
	ts   truetime.Timestamp
	lead bool
}

type realReplica struct {
	*realGroup
	node *realNode
	t    *tablet.Tablet
}

func (r *realReplica) Propose(p *paxosgroup.Proposal) {
	g := r.realGroup
	g.mu.Lock()
	if g.leader != r.node.id || g.term != p.Term {
		leader := g.leader
		g.mu.Unlock()
		p.Done(nil, 0, &paxosgroup.NotLeaderError{Group: g.id, Leader: leader})
		return
	}
	e := realEntry{p: p, term: g.term}
	if p.Timestamped {
		e.ts = max(g.w.clock.Now().Latest, g.floor+1, p.MinTS)
		if p.MaxTS != 0 && e.ts > p.MaxTS {
			g.mu.Unlock()
			p.Done(nil, 0, paxosgroup.ErrTooLate)
			return
		}
		g.floor = e.ts
		if p.Assigned != nil {
			p.Assigned(e.ts)
		}
	}
	g.queue <- e
	g.mu.Unlock()
}

func (r *realReplica) Valid(term uint64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.leader != r.node.id || r.term != term {
		return &paxosgroup.NotLeaderError{Group: r.id, Leader: r.leader}
	}
	return nil
}

func (r *realReplica) Promise(term uint64, t truetime.Timestamp) error {
	if err := r.Valid(term); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.floor = max(r.floor, t)
	return nil
}

func (r *realReplica) SafeTime() truetime.Timestamp { return 0 }
func (r *realReplica) Installs() uint64             { return 0 }

func (r *realReplica) Leader() keys.NodeID {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.leader
}

// lead makes node the leader. What is in flight of the old term commits or is
// lost; its proposers cannot know.
func (g *realGroup) lead(node keys.NodeID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.term++
	g.leader = node
	g.queue <- realEntry{lead: true, term: g.term}
}

func (g *realGroup) run() {
	defer close(g.done)
	var index uint64
	for e := range g.queue {
		time.Sleep(200 * time.Microsecond) // replication
		g.mu.Lock()
		leader, term, floor := g.leader, g.term, g.floor
		if !e.lead && e.term != term && e.term > g.lost && g.w.rng(2) == 0 {
			g.lost = e.term
		}
		lost := e.term <= g.lost
		g.mu.Unlock()
		if e.lead {
			if e.term == term {
				for n, r := range g.replicas {
					if n != leader {
						r.t.Follow()
					}
				}
				g.replicas[leader].t.Lead(paxosgroup.Lease{Term: term, Floor: floor})
			}
			continue
		}
		if lost {
			e.p.Done(nil, e.ts, paxosgroup.ErrAmbiguous)
			continue
		}
		index++
		var result any
		for n, r := range g.replicas {
			b := &storage.Batch{Group: g.id, Applied: index}
			res, err := r.t.Apply(b, paxosgroup.Command{Index: index, Term: e.term, TS: e.ts, Data: e.p.Data})
			if err != nil {
				g.w.t.Errorf("group %d on node %d: %v", g.id, n, err)
			}
			r.node.store.apply(b)
			if n == leader {
				result = res
			}
		}
		if e.term != term {
			e.p.Done(nil, e.ts, paxosgroup.ErrAmbiguous)
		} else {
			e.p.Done(result, e.ts, nil)
		}
	}
}

// open adds a replica; the group begins when all are there.
func (n *realNode) open(desc keys.Descriptor, s *tablet.SplitApplied) {
	w := n.w
	cfg := tablet.Config{Group: desc.Group, Node: n.id, Clock: w.clock, Reader: n.store, Hooks: n.rec.Hooks()}
	cfg.Hooks.SplitApplied = func(_ *tablet.Tablet, s tablet.SplitApplied) { n.open(s.Child, &s) }
	t, state := tablet.New(cfg), tablet.InitialState(desc)
	leader, floor := keys.NodeID(1+int(desc.Group)%3), truetime.Timestamp(0)
	if s != nil {
		t, state, leader, floor = tablet.NewChild(cfg, *s), s.State, s.Holder, s.Floor
	}
	if err := t.Restore(state); err != nil {
		w.t.Error(err)
	}
	w.mu.Lock()
	g := w.groups[desc.Group]
	if g == nil {
		g = &realGroup{w: w, id: desc.Group, queue: make(chan realEntry, 10000), done: make(chan struct{}), replicas: map[keys.NodeID]*realReplica{}}
		w.groups[desc.Group] = g
	}
	w.mu.Unlock()
	g.mu.Lock()
	r := &realReplica{g, n, t}
	g.replicas[n.id] = r
	g.floor = max(g.floor, floor)
	complete := len(g.replicas) == 3
	g.mu.Unlock()
	t.Bind(r)
	if complete {
		go g.run()
		g.lead(leader)
	}
}

func (w *realWorld) group(g keys.GroupID) *realGroup {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.groups[g]
}

// Participant, Leader and Learned make a node a Dialer.
func (n *realNode) Participant(node keys.NodeID, g keys.GroupID) (Participant, error) {
	if node != n.id {
		return NewRemote(n, node, g), nil
	}
	return n.Local(g)
}

func (n *realNode) Local(g keys.GroupID) (Participant, error) {
	if grp := n.w.group(g); grp != nil {
		grp.mu.Lock()
		defer grp.mu.Unlock()
		if r := grp.replicas[n.id]; r != nil {
			return r.t, nil
		}
	}
	return nil, &paxosgroup.NotLeaderError{Group: g}
}

func (n *realNode) Leader(g keys.GroupID) keys.NodeID {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	return n.w.guess[n.id][g]
}

func (n *realNode) Learned(g keys.GroupID, leader keys.NodeID) {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	n.w.guess[n.id][g] = leader
}

// Call carries a request over the simulated network, which may lose it or its answer.
func (n *realNode) Call(ctx context.Context, to keys.NodeID, method byte, payload []byte) ([]byte, error) {
	n.w.mu.Lock()
	cut := n.w.cut
	n.w.calls[method]++
	n.w.mu.Unlock()
	time.Sleep(100 * time.Microsecond)
	if cut != nil && cut(n.id, to) {
		return nil, notSentError{}
	}
	answer := Serve(ctx, n.w.nodes[to], method, payload)
	if cut != nil && cut(to, n.id) {
		return nil, errors.New("connection lost")
	}
	return answer, ctx.Err()
}

type notSentError struct{}

func (notSentError) Error() string { return "not connected" }
func (notSentError) NotSent() bool { return true }

// runReal gives f three nodes with real tablets divided at bounds.
func runReal(t *testing.T, seed uint64, eps time.Duration, bounds []string, f func(t *testing.T, w *realWorld), adjust ...func(*Config)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		rng, rngMu := rand.New(rand.NewPCG(seed, 11)), sync.Mutex{}
		w := &realWorld{
			t: t, clock: &testClock{eps: eps}, nodes: map[keys.NodeID]*realNode{},
			groups: map[keys.GroupID]*realGroup{}, guess: map[keys.NodeID]map[keys.GroupID]keys.NodeID{},
			calls: map[byte]int{}, rng: func(n int) int { rngMu.Lock(); defer rngMu.Unlock(); return rng.IntN(n) },
		}
		descs := tabletsAt(bounds...)
		for id := keys.NodeID(1); id <= 3; id++ {
			n := &realNode{w: w, id: id, store: &memStore{}}
			w.nodes[id], w.guess[id] = n, map[keys.GroupID]keys.NodeID{}
			n.g = gatewayOver(w.clock, n, id, descs, adjust...)
			n.rec = NewRecovery(n.g.Client)
		}
		for _, d := range descs {
			for id := keys.NodeID(1); id <= 3; id++ {
				w.nodes[id].open(d, nil)
			}
		}
		synctest.Wait()
		for range bounds { // their groups have ids already
			must(w.nodes[1].g.dir.AllocateGroupID(context.Background()))(t)
		}
		f(t, w)
		for _, n := range w.nodes {
			n.g.Close()
		}
		for _, g := range w.groups {
			for _, r := range g.replicas {
				r.t.Close()
			}
			close(g.queue)
			<-g.done
		}
	})
}

func TestRealTablets(t *testing.T) {
	runReal(t, 1, time.Millisecond, []string{"h", "p"}, func(t *testing.T, w *realWorld) {
		ctx := context.Background()
		g := w.nodes[1].g
		g.set(t, "a", "1", "i", "2", "q", "3")
		g.set(t, "b", "only here")
		tx := w.nodes[2].g.Begin(ctx, TxnOptions{})
		eq(t, get(t, tx, tablet.LockExclusive, "q", "a", "nothing", "i"), "[3 1 - 2]")
		check(t, tx.Delete(ctx, k("i")))
		check(t, tx.Put(ctx, k("c"), []byte("new")))
		eq(t, scan(t, tx, ScanRequest{Span: all, Lock: tablet.LockShared}), "[a=1 b=only here c=new q=3]")
		eq(t, scan(t, tx, ScanRequest{Span: all, Lock: tablet.LockShared, Reverse: true, Limit: 1}), "[q=3 c=new b=only here a=1]")
		must(tx.Commit(ctx))(t)
		for _, n := range w.nodes {
			n.g.expect(t, "a", "1", "c", "new", "i", "", "q", "3")
			eq(t, scan(t, n.g.ReadOnly(ctx, 0), ScanRequest{Span: all, Reverse: true}), "[q=3 c=new b=only here a=1]")
		}
		// Read-write transactions that only read.
		for _, ks := range [][]string{{"a"}, {"a", "q"}} {
			tx := g.Begin(ctx, TxnOptions{})
			get(t, tx, tablet.LockShared, ks...)
			must(tx.Commit(ctx))(t)
		}
		// A wound, told by the next request.
		old := g.Begin(ctx, TxnOptions{})
		time.Sleep(time.Millisecond)
		young := w.nodes[3].g.Begin(ctx, TxnOptions{})
		get(t, young, tablet.LockExclusive, "a")
		check(t, young.Put(ctx, k("a"), []byte("young")))
		get(t, old, tablet.LockExclusive, "a")
		_, err := young.Commit(ctx)
		var aborted *tablet.AbortedError
		if !errors.As(err, &aborted) || aborted.Reason != tablet.AbortWounded {
			t.Errorf("a wounded transaction's commit: %v", err)
		}
		old.Rollback(ctx)
		w.expectIdle(t)
	})
}

// expectIdle: after a while nothing is locked, prepared or owed.
func (w *realWorld) expectIdle(t *testing.T) {
	t.Helper()
	time.Sleep(20 * time.Second)
	for id, g := range w.groups {
		tb := g.replicas[g.leader].t
		if locks := tb.Locks(100); len(locks) > 0 {
			t.Errorf("group %d: locks are left: %+v", id, locks)
		}
	}
}

// A rollback reaches the locks that a split took to a tablet which the transaction has
// never asked for anything.
func TestB1_RollbackFollowsASplit(t *testing.T) {
	for _, wounded := range []bool{false, true} {
		for _, node := range []keys.NodeID{1, 2} { // where the leader is, and elsewhere
			runReal(t, 1, 0, nil, func(t *testing.T, w *realWorld) {
				ctx := context.Background()
				check(t, w.nodes[1].g.dir.Ensure(ctx))
				w.nodes[node].g.set(t, "a", "1", "z", "1")
				older := w.nodes[3].g.Begin(ctx, TxnOptions{})
				time.Sleep(time.Millisecond)
				tx := w.nodes[node].g.Begin(ctx, TxnOptions{})
				get(t, tx, tablet.LockExclusive, "a", "z")
				check(t, w.nodes[3].g.Split(ctx, k("m")))
				if wounded {
					get(t, older, tablet.LockExclusive, "a")
					if _, err := tx.Get(ctx, []keys.Key{k("a")}, tablet.LockExclusive, tablet.WaitBlock); outcome(err) != "aborted" {
						t.Errorf("wounded: %v", err)
					}
				}
				tx.Rollback(ctx)
				older.Rollback(ctx)
				time.Sleep(100 * time.Millisecond)
				other := w.nodes[3].g.Begin(ctx, TxnOptions{})
				if _, err := other.Get(ctx, []keys.Key{k("a"), k("z")}, tablet.LockExclusive, tablet.WaitNoWait); err != nil {
					t.Errorf("node %d, wounded %v: a lock is left: %v", node, wounded, err)
				}
				other.Rollback(ctx)
				time.Sleep(100 * time.Millisecond)
				w.expectIdle(t)
			})
		}
	}
}

// What a request that timed out has got afterwards does not outlive the commit.
func TestX2_CommitAfterALockTimeout(t *testing.T) {
	for _, node := range []keys.NodeID{1, 2} { // where the leader is, and elsewhere
		runReal(t, 1, 0, []string{"m"}, func(t *testing.T, w *realWorld) {
			ctx := context.Background()
			older := w.nodes[3].g.Begin(ctx, TxnOptions{})
			get(t, older, tablet.LockExclusive, "z")
			time.Sleep(time.Millisecond)
			tx := w.nodes[node].g.Begin(ctx, TxnOptions{})
			get(t, tx, tablet.LockExclusive, "a")
			bounded, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
			defer cancel()
			if _, err := tx.Get(bounded, []keys.Key{k("z")}, tablet.LockExclusive, tablet.WaitBlock); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("behind an older transaction: %v", err)
			}
			must(older.Commit(ctx))(t)
			time.Sleep(100 * time.Millisecond)
			check(t, tx.Put(ctx, k("a"), []byte("1")))
			must(tx.Commit(ctx))(t)
			time.Sleep(100 * time.Millisecond)
			other := w.nodes[3].g.Begin(ctx, TxnOptions{})
			if _, err := other.Get(ctx, []keys.Key{k("z")}, tablet.LockExclusive, tablet.WaitNoWait); err != nil {
				t.Errorf("node %d: a lock is left: %v", node, err)
			}
			other.Rollback(ctx)
			time.Sleep(100 * time.Millisecond)
			w.expectIdle(t)
		})
	}
}

func TestX2_RealLocksLostWithTheLeader(t *testing.T) {
	for _, write := range []string{"a", "z", ""} {
		runReal(t, 1, 0, []string{"m"}, func(t *testing.T, w *realWorld) {
			ctx := context.Background()
			g := w.nodes[1].g
			g.set(t, "a", "1")
			tx := g.Begin(ctx, TxnOptions{})
			get(t, tx, tablet.LockShared, "a")
			w.group(2).lead(2)
			if write != "" {
				check(t, tx.Put(ctx, k(write), []byte("lost")))
			}
			if _, err := tx.Commit(ctx); outcome(err) != "aborted" {
				t.Errorf("commit without its locks: %v", err)
			}
			g.expect(t, "a", "1", "z", "")
			w.expectIdle(t)
		})
	}
}

// A transaction that does nothing for long keeps its node from saying which ones have
// ended, so that a busy tablet runs out of room for outcomes. That does not make the
// outcome of an older one unknown.
func TestX5_IdleTransactionHoldsUpNobody(t *testing.T) {
	runReal(t, 1, 0, nil, func(t *testing.T, w *realWorld) {
		ctx := context.Background()
		idle := w.nodes[1].g.Begin(ctx, TxnOptions{})
		defer idle.Rollback(ctx)
		blind := w.nodes[2].g.Begin(ctx, TxnOptions{})
		check(t, blind.Put(ctx, k("blind"), []byte("1")))
		time.Sleep(3 * time.Second)
		for range 50_001 {
			check(t, w.nodes[1].g.tryCommit("a", "1"))
		}
		must(blind.Commit(ctx))(t)
		w.nodes[1].g.expect(t, "blind", "1")
	})
}

// A commit whose blind write is in the way of an older transaction that does nothing
// ends by itself: it cannot be cancelled.
func TestX2_BlindCommitDoesNotWaitForTheIdle(t *testing.T) {
	runReal(t, 1, 0, nil, func(t *testing.T, w *realWorld) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		for _, node := range []keys.NodeID{1, 2} {
			idle := w.nodes[1].g.Begin(ctx, TxnOptions{})
			get(t, idle, tablet.LockShared, "blind")
			time.Sleep(time.Millisecond)
			blind := w.nodes[node].g.Begin(ctx, TxnOptions{})
			check(t, blind.Put(ctx, k("blind"), []byte("1")))
			time.Sleep(2 * elderlyAfter)
			start := time.Now()
			_, err := blind.Commit(ctx)
			var aborted *tablet.AbortedError
			if !errors.As(err, &aborted) || aborted.Reason != tablet.AbortRefused || string(aborted.Key) != string(k("blind")) || time.Since(start) > 2*time.Second {
				t.Errorf("after %v behind an idle transaction: %v", time.Since(start), err)
			}
			must(idle.Commit(ctx))(t)
		}
		w.expectIdle(t)
	})
}

func TestRealLargeTransactionAndLoad(t *testing.T) {
	runReal(t, 1, 0, []string{"r0100"}, func(t *testing.T, w *realWorld) {
		ctx := context.Background()
		g := w.nodes[1].g
		g.set(t, row(7), "old")
		tx := g.Begin(ctx, TxnOptions{})
		for i := range 300 {
			check(t, tx.Put(ctx, k(row(i)), []byte("v"+row(i))))
			if i%100 == 99 {
				eq(t, get(t, tx, tablet.LockExclusive, row(i), row(i-50), row(0)), fmt.Sprintf("[v%s v%s v%s]", row(i), row(i-50), row(0)))
			}
		}
		eq(t, len(scan(t, tx, ScanRequest{Span: all, Lock: tablet.LockShared})), 300)
		w.nodes[2].g.expect(t, row(7), "old", row(8), "")
		must(tx.Commit(ctx))(t)
		w.nodes[2].g.expect(t, row(0), "v"+row(0), row(299), "v"+row(299))
		eq(t, len(scan(t, w.nodes[3].g.ReadOnly(ctx, 0), ScanRequest{Span: all})), 300)
		tx = g.Begin(ctx, TxnOptions{})
		for i := range 300 {
			check(t, tx.Put(ctx, k("x"+row(i)), []byte("v")))
		}
		tx.Rollback(ctx)
		// What loads has looked for duplicates under locks, and is not in its own way.
		tx = g.Begin(ctx, TxnOptions{})
		var rows []tablet.Write
		for i := range 300 {
			rows = append(rows, tablet.Write{Key: k("r00" + row(i)), Value: []byte("loaded")})
			get(t, tx, tablet.LockExclusive, "r00"+row(i))
		}
		scan(t, tx, ScanRequest{Span: keys.Span{Start: k("r00r"), End: k("r00s")}, Lock: tablet.LockShared})
		check(t, tx.Load(ctx, rows))
		eq(t, get(t, tx, tablet.LockExclusive, "r00"+row(7)), "[loaded]")
		must(tx.Commit(ctx))(t)
		w.expectIdle(t)
		eq(t, len(scan(t, w.nodes[3].g.ReadOnly(ctx, 0), ScanRequest{Span: all})), 600)
	}, func(c *Config) { c.StageAfter, c.ChunkBytes, c.InlineBytes = 1000, 200, 100 })
}

func TestB1_RealSplit(t *testing.T) {
	runReal(t, 1, time.Millisecond, nil, func(t *testing.T, w *realWorld) {
		ctx := context.Background()
		check(t, w.nodes[1].g.dir.Ensure(ctx))
		w.nodes[1].g.set(t, "a", "1", "m", "2", "z", "3")
		left := w.nodes[2].g.Begin(ctx, TxnOptions{})
		get(t, left, tablet.LockExclusive, "a")
		right := w.nodes[2].g.Begin(ctx, TxnOptions{})
		get(t, right, tablet.LockExclusive, "z")
		check(t, w.nodes[1].g.Split(ctx, k("m")))
		check(t, w.nodes[3].g.Split(ctx, k("m")))
		for _, n := range w.nodes {
			n.g.expect(t, "a", "1", "m", "2", "z", "3")
		}
		check(t, left.Put(ctx, k("a"), []byte("left")))
		must(left.Commit(ctx))(t)
		check(t, right.Put(ctx, k("z"), []byte("right"))) // its locks have moved
		must(right.Commit(ctx))(t)
		w.nodes[3].g.set(t, "a", "x", "z", "y")
		for _, n := range w.nodes {
			n.g.expect(t, "a", "x", "m", "2", "z", "y")
		}
		eq(t, len(must(w.nodes[2].g.dir.List(ctx))(t)), 3)
		w.expectIdle(t)
	})
}

// Transfers between tablets led by different nodes while leaders change, splits
// happen and messages are lost: every full read finds the total, nothing stays
// locked, and what was told is true.
func TestX3_X4_X5_RealBank(t *testing.T) {
	for seed := range uint64(15) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			runReal(t, seed, time.Millisecond, []string{"acct3", "acct6"}, func(t *testing.T, w *realWorld) { realBank(t, w, seed) })
		})
	}
}

func realBank(t *testing.T, w *realWorld, seed uint64) {
	const accounts, total = 9, 9 * 100
	ctx := context.Background()
	name := func(i int) string { return "acct" + strconv.Itoa(i) }
	for i := range accounts {
		w.nodes[1].g.set(t, name(i), "100")
	}
	w.mu.Lock()
	w.cut = func(from, to keys.NodeID) bool { return w.rng(100) < 2 }
	w.mu.Unlock()
	done := make(chan struct{})
	var others, workers sync.WaitGroup
	others.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(time.Duration(5+w.rng(20)) * time.Millisecond):
			}
			w.mu.Lock()
			g := w.groups[keys.GroupID(2+w.rng(len(w.groups)-1))]
			w.mu.Unlock()
			if g != nil {
				g.lead(keys.NodeID(1 + w.rng(3)))
			}
		}
	})
	others.Go(func() {
		for _, at := range []int{1, 4, 8} {
			select {
			case <-done:
				return
			case <-time.After(30 * time.Millisecond):
			}
			if err := w.nodes[2].g.Split(ctx, k(name(at))); err != nil {
				t.Errorf("split: %v", err)
			}
		}
	})
	for _, n := range w.nodes {
		others.Go(func() {
			for {
				select {
				case <-done:
					return
				case <-time.After(200 * time.Microsecond):
				}
				sum, rows := 0, 0
				it := n.g.ReadOnly(ctx, 0).Scan(ctx, ScanRequest{Span: all})
				for it.Next() {
					v, _ := strconv.Atoi(string(it.Value()))
					sum += v
					rows++
				}
				if it.Err() != nil || sum != total || rows != accounts {
					t.Errorf("X4: %d accounts hold %d (%v)", rows, sum, it.Err())
				}
			}
		})
	}
	var mu sync.Mutex
	committed := 0
	unknown := 0
	for worker := range 6 {
		workers.Go(func() {
			g := w.nodes[keys.NodeID(1+worker%3)].g
			var age truetime.Timestamp
			for range 25 {
				tx := g.Begin(ctx, TxnOptions{Age: age})
				age = tx.ID().Age
				a, b := w.rng(accounts), w.rng(accounts-1)
				if b >= a {
					b++
				}
				vals, err := tx.Get(ctx, []keys.Key{k(name(a)), k(name(b))}, tablet.LockExclusive, tablet.WaitBlock)
				if err == nil {
					av, _ := strconv.Atoi(string(vals[0]))
					bv, _ := strconv.Atoi(string(vals[1]))
					check(t, tx.Put(ctx, k(name(a)), []byte(strconv.Itoa(av-1))))
					check(t, tx.Put(ctx, k(name(b)), []byte(strconv.Itoa(bv+1))))
					_, err = tx.Commit(ctx)
				}
				tx.Rollback(ctx)
				mu.Lock()
				switch o := outcome(err); o {
				case "committed":
					committed++
					age = 0
				case "aborted":
				case "unknown":
					unknown++
				default:
					t.Errorf("told %s", o)
				}
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	close(done)
	others.Wait()
	w.mu.Lock()
	w.cut = nil
	w.mu.Unlock()
	if committed < 20 || unknown > 0 {
		t.Errorf("%d transfers committed, %d unknown", committed, unknown)
	}
	w.expectIdle(t)
}

var _ directory.Dialer = directoryDialer{}

// What a client's last transaction leaves behind does not abort its next one: its
// participants have not been told yet, or its locks are on their way out.
func TestX2_RealNoVictimOfOneself(t *testing.T) {
	runReal(t, 1, 2*time.Millisecond, []string{"h", "p"}, func(t *testing.T, w *realWorld) {
		ctx := context.Background()
		g := w.nodes[1].g
		for i := range 20 {
			g.set(t, "a", strconv.Itoa(i), "i", strconv.Itoa(i), "q", strconv.Itoa(i)) // two phases
		}
		var age truetime.Timestamp
		for i := range 20 {
			tx := g.Begin(ctx, TxnOptions{Age: age})
			age = tx.ID().Age
			if i%2 == 0 {
				get(t, tx, tablet.LockExclusive, "a", "i", "q")
				tx.Rollback(ctx) // as after a 40001
				continue
			}
			for _, key := range []string{"a", "i", "q"} {
				check(t, tx.Put(ctx, k(key), []byte("again")))
			}
			must(tx.Commit(ctx))(t)
			age = 0
		}
		w.expectIdle(t)
	})
}
