package paxosgroup

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/truetime"
	pb "go.etcd.io/raft/v3/raftpb"
)

func (w *world) quiesced(g keys.GroupID) bool {
	n := w.serving(g)
	return n != nil && n.groups[g].Status().Quiesced
}

func TestQuiescence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 3)
		defer w.close()
		const groups = 20
		var ids []keys.GroupID
		for g := range groups {
			ids = append(ids, keys.GroupID(g+1))
		}
		w.start(ids...)
		for _, g := range ids {
			if _, err := w.leader(g).propose(g, "x"); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(3 * time.Second)
		for _, g := range ids {
			if !w.quiesced(g) {
				t.Fatalf("group %d is not quiesced: %+v", g, w.leader(g).groups[g].Status())
			}
		}
		// Leases live on, nothing is said about the groups, and safe times move.
		raft, beats := w.net.Sent(ClassRaft), w.net.Sent(ClassHeartbeat)
		time.Sleep(10 * time.Second)
		if n := w.net.Sent(ClassRaft) - raft; n != 0 {
			t.Errorf("%d Raft frames while everything sleeps", n)
		}
		if n := w.net.Sent(ClassHeartbeat) - beats; n > 6*2*70 {
			t.Errorf("%d heartbeats in 10 s", n)
		}
		for _, g := range ids {
			n := w.leader(g)
			if err := n.groups[g].Valid(n.groups[g].leadTerm.Load()); err != nil {
				t.Error(err)
			}
			for _, id := range w.ids {
				if lag := n.clock.Now().Latest.Sub(w.nodes[id].groups[g].SafeTime()); lag > time.Second {
					t.Errorf("group %d: safe time at node %d lags %v", g, id, lag)
				}
			}
		}
		// A command wakes its group alone; it is assigned above what was closed.
		before := w.nodes[3].groups[7].SafeTime()
		ts, err := w.leader(7).propose(7, "y")
		if err != nil {
			t.Fatal(err)
		}
		if ts <= before {
			t.Errorf("R3: assigned %d, safe time was %d", ts, before)
		}
		if w.quiesced(7) || !w.quiesced(8) {
			t.Error("7 should be awake, 8 asleep")
		}
		w.converged(7)
		time.Sleep(2 * time.Second)
		if !w.quiesced(7) {
			t.Error("7 should sleep again")
		}
		// The leader's node dies: promises end, everybody wakes.
		w.nodes[1].crash()
		for _, g := range ids {
			if n := w.leader(g); n.id == 1 {
				t.Fatal("the dead lead")
			}
			if _, err := w.leader(g).propose(g, "z"); err != nil {
				t.Fatal(err)
			}
		}
		// With a node dead groups sleep all the same, and its return wakes them.
		time.Sleep(6 * time.Second)
		for _, g := range ids {
			if !w.quiesced(g) {
				t.Fatalf("group %d stays awake for a dead node", g)
			}
		}
		w.nodes[1].start()
		for _, g := range ids {
			w.converged(g)
		}
		time.Sleep(4 * time.Second)
		for _, g := range ids {
			if !w.quiesced(g) {
				t.Errorf("group %d does not sleep again: %+v", g, w.leader(g).groups[g].Status())
			}
		}
	})
}

// A follower whose last commit message was lost still gets to know before the
// group sleeps.
func TestQuiescenceCarriesCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, 3)
		defer w.close()
		w.start(1)
		n := w.leader(1)
		for i := range 30 {
			w.net.SetFaults(MemFaults{Drop: 0.3, MinDelay: time.Millisecond, MaxDelay: 2 * time.Millisecond})
			if m := w.serving(1); m != nil {
				m.submit(1, m.groups[1].leadTerm.Load(), fmt.Sprint("c", i), func(truetime.Timestamp, error) {})
			}
			time.Sleep(time.Second)
		}
		w.net.SetFaults(MemFaults{})
		time.Sleep(5 * time.Second)
		if !w.quiesced(1) {
			t.Fatal("not quiesced")
		}
		w.converged(1)
		lead := w.leader(1).groups[1].SafeTime()
		for _, id := range w.ids {
			if s := w.nodes[id].groups[1].SafeTime(); lead.Sub(s) > time.Second {
				t.Errorf("safe time at node %d lags %v", id, lead.Sub(s))
			}
		}
		_ = n
	})
}

// X4: closed timestamps of an active group reach followers, and lie below every
// later command.
func TestX4_FollowerSafeTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, 3)
		defer w.close()
		w.start(1)
		n := w.leader(1)
		f := w.nodes[2].groups[1]
		if n.id == 2 {
			f = w.nodes[3].groups[1]
		}
		var moved int
		last := f.SafeTime()
		for i := range 300 {
			if _, err := n.propose(1, fmt.Sprint("c", i)); err != nil {
				t.Fatal(err)
			}
			s := f.SafeTime()
			if s < last {
				t.Fatalf("safe time went back by %v", last.Sub(s))
			}
			if s > last {
				moved++
			}
			last = s
			time.Sleep(5 * time.Millisecond)
		}
		if moved < 10 {
			t.Errorf("safe time moved %d times in 300 commands", moved)
		}
		if lag := n.clock.Now().Latest.Sub(last); lag > time.Second {
			t.Errorf("safe time lags %v", lag)
		}
	})
}

// R3, X4: what was closed for all quiesced groups at once is a promise of each,
// even when the clock's upper bound has come down since.
func TestR3_WakeKeepsWhatWasClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 4, 3)
		defer w.close()
		for _, n := range w.nodes {
			n.clock.SetEpsilon(100 * time.Millisecond)
		}
		w.start(1)
		n := w.leader(1)
		if _, err := n.propose(1, "x"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3*time.Second + 10*time.Millisecond)
		if !w.quiesced(1) {
			t.Fatal("not quiesced")
		}
		for _, m := range w.nodes {
			m.clock.SetEpsilon(0)
		}
		var safe truetime.Timestamp
		for _, m := range w.nodes {
			safe = max(safe, m.groups[1].SafeTime())
		}
		if now := n.clock.Now().Latest; safe <= now {
			t.Fatalf("the scene does not work: closed %d, now %d", safe, now)
		}
		ts, err := n.propose(1, "y")
		if err != nil {
			t.Fatal(err)
		}
		if ts <= safe {
			t.Errorf("R3: assigned %d, closed was %d", ts, safe)
		}
	})
}

// R3: a group does not fall asleep before its own lease covers what its node has closed
// for others, whose leases may rest on promises of other nodes.
func TestR3_SleepersLeaseCoversWhatIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 3)
		defer w.close()
		w.start(1)
		n := w.leader(1)
		g := n.groups[1]
		n.host.mu.Lock()
		n.host.mu.closed = g.PromisedUntil().Add(time.Second)
		n.host.mu.Unlock()
		asleep := false
		for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
			g.mu.Lock()
			asleep = g.mu.quiesced
			closed, lease := n.host.nodeClosed(), truetime.Timestamp(g.lease.Load())
			g.mu.Unlock()
			if asleep && closed >= lease {
				t.Fatalf("R3: closed %v beyond the lease", closed.Sub(lease))
			}
		}
		if !asleep {
			t.Error("the group stays awake")
		}
	})
}

// R3: a leader that is woken only to be deposed binds itself, and everybody else, to what
// was closed for it while it slept; its own lease was computed when it fell asleep.
func TestR3_DeposedSleeperKeepsWhatWasClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 3)
		defer w.close()
		w.start(1, 2)
		n := w.leader(1)
		w.leader(2)
		for _, id := range w.ids { // as far apart as right clocks may be
			w.nodes[id].clock.SetEpsilon(250 * time.Millisecond)
			w.nodes[id].clock.SetOffset(-249 * time.Millisecond)
		}
		n.clock.SetOffset(249 * time.Millisecond)
		time.Sleep(2 * time.Second)
		w.net.Isolate(3, true)
		time.Sleep(30 * time.Second)
		// Of the two, the one whose lease nobody has looked at since.
		id := keys.GroupID(1)
		n.host.mu.Lock()
		b := n.host.mu.buckets[n.groups[1].bucket]
		if b == nil || len(b.groups) != 2 {
			t.Fatal("not quiesced")
		}
		if b.any == n.groups[1] {
			id = 2
		}
		n.host.mu.Unlock()
		g := n.groups[id]
		closed := w.nodes[2].groups[id].SafeTime()
		w.promise(id, closed)
		// Node 3, back in a later term than the leader's, asks for votes, and answers
		// the heartbeat that this provokes.
		n.host.draining.Store(true) // so that node 2 it is
		from, to, term := uint64(id)*100+3, uint64(g.self), g.w.hs.term
		for _, m := range []struct {
			typ  pb.MessageType
			term uint64
		}{{pb.MsgPreVote, term + 2}, {pb.MsgAppResp, term + 1}} {
			g.in.message(inbound{m: &pb.Message{Type: &m.typ, From: &from, To: &to, Term: &m.term, Index: new(uint64), LogTerm: new(uint64)}, node: 3, inc: 1})
		}
		n.host.sched.enqueue(g)
		synctest.Wait()
		if g.w.ownBound < closed {
			t.Errorf("R3: binds itself to an end %v below what it closed", closed.Sub(g.w.ownBound))
		}
		if m := w.leader(id); m.id != 2 {
			t.Fatalf("the scene does not work: node %d leads", m.id)
		}
		if _, err := w.nodes[2].propose(id, "new"); err != nil { // assigned above closed, see promise
			t.Fatal(err)
		}
	})
}

// X4: a group that wakes is not covered by its node's closed timestamp any more,
// however long a follower takes to get the new entries.
func TestX4_AwakeGroupIsNotCoveredByItsNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 5, 3)
		defer w.close()
		w.start(1, 2)
		n := w.leader(1)
		w.leader(2)
		if _, err := n.propose(1, "x"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		f := w.nodes[3]
		if f == n {
			f = w.nodes[2]
		}
		f.store.setDelay(5 * time.Second) // its disk is stuck, its network is not
		ts, err := n.propose(1, "y")
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if len(f.toys[1].history()) != 1 {
			t.Fatal("the scene does not work: the follower has applied it")
		}
		if s := f.groups[1].SafeTime(); s >= ts {
			t.Errorf("X4: safe up to %d without the command at %d", s, ts)
		}
		if lag := n.clock.Now().Latest.Sub(f.groups[2].SafeTime()); lag > time.Second {
			t.Errorf("the group that sleeps on lags %v", lag)
		}
		f.store.setDelay(0)
		time.Sleep(8 * time.Second)
		w.converged(1)
	})
}

// A pong that comes late, under an epoch that is over, does not count as the return
// of a peer: the one that does wakes the groups that sleep without it.
func TestLatePongIsNoReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 3)
		defer w.close()
		w.start(1)
		n := w.leader(1)
		if _, err := n.propose(1, "x"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		w.net.Cut(3, n.id) // it goes on promising
		p := n.host.peer(3)
		for p.alive.Load() {
			time.Sleep(100 * time.Millisecond)
		}
		n.groups[1].activate()
		time.Sleep(2 * time.Second)
		if !w.quiesced(1) {
			t.Fatal("the group stays awake for a silent peer")
		}
		g := p.granted.Load()
		pong := func(epoch uint64) {
			now := n.clock.Now()
			n.host.receivePong(p, g.inc, pong{inc: n.starts, interval: now, epoch: epoch, until: now.Latest})
		}
		pong(g.epoch - 1)
		if p.alive.Load() || !w.quiesced(1) {
			t.Error("a late pong was taken for its return")
		}
		pong(g.epoch)
		if w.quiesced(1) {
			t.Error("its return does not wake the group")
		}
	})
}
