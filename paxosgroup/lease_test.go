package paxosgroup

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/truetime"
	"go.etcd.io/raft/v3"
)

// R2: what followers attested to an earlier term counts for nothing in a later one of the
// same leader. Meanwhile they may have voted for somebody else.
func TestR2_ElectionForgetsAttestations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 3)
		defer w.close()
		w.start(1)
		n := w.leader(1)
		g := n.groups[1]
		ctx, cancel := within(5 * time.Second)
		defer cancel()
		if err := g.Transfer(ctx, 2); err != nil {
			t.Fatal(err)
		}
		other := w.leader(1)
		go other.groups[1].Transfer(ctx, n.id)
		var forts []fort
		for elected := false; !elected; time.Sleep(10 * time.Microsecond) { // a message takes 200
			g.mu.Lock()
			elected, forts = g.mu.leader, append(forts[:0], g.mu.forts...)
			g.mu.Unlock()
		}
		for i, f := range forts {
			if f != (fort{}) {
				t.Errorf("R2: elected a moment ago, and replica %d has attested %+v", i, f)
			}
		}
		w.leader(1)
	})
}

// R2: a follower attests only to the leader of its own term: not to one before, in
// a message that was held up on its disk, and to nobody else.
func TestR2_AttestsToTheLeaderOfItsTerm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 3)
		defer w.close()
		w.start(1)
		n := w.leader(1)
		f, other := w.nodes[2], w.nodes[3]
		g := f.groups[1]
		if err := g.ask(func() {
			lead, term := f.host.peer(n.id), g.w.hs.term
			if g.attest(lead, g.w.lead, term) == 0 {
				t.Error("the leader is not attested to")
			}
			if g.attest(lead, g.w.lead, term-1) != 0 {
				t.Error("R2: attests in an earlier term")
			}
			if g.attest(f.host.peer(other.id), uint64(other.groups[1].self), term) != 0 {
				t.Error("R2: attests to a follower")
			}
		}); err != nil {
			t.Fatal(err)
		}
	})
}

// R3: commands that have a timestamp, but no index yet, are not below what a leader closes.
func TestR3_ClosesBelowWhatIsOnItsWayToTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 3)
		defer w.close()
		w.start(1)
		n := w.leader(1)
		g := n.groups[1]
		if err := g.ask(func() { // the worker, which gives commands to Raft, is busy here
			n.submit(1, g.leadTerm.Load(), "x", func(truetime.Timestamp, error) {})
			g.mu.Lock()
			defer g.mu.Unlock()
			ts := g.mu.queue[0].ts
			if c := g.closeLocked(n.clock.Now()); c.ts == 0 || c.ts >= ts {
				t.Errorf("closed %d with %d in the queue", c.ts, ts)
			}
			var queue []flight
			queue, g.mu.queue, g.mu.takenMin = g.mu.queue, nil, ts // as stepQueue does
			if c := g.closeLocked(n.clock.Now()); c.ts == 0 || c.ts >= ts {
				t.Errorf("closed %d with %d being given to Raft", c.ts, ts)
			}
			g.mu.queue, g.mu.takenMin = queue, 0
		}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		w.converged(1)
	})
}

// R4: a follower does not forward what is proposed to it; its leader would stamp it with
// a term in which it was not evaluated.
func TestR4_ProposalsAreNotForwarded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 3)
		defer w.close()
		w.start(1)
		w.leader(1)
		g := w.nodes[2].groups[1]
		if err := g.ask(func() {
			err := g.propose(rawEntries(encodeEntry(entryHeader{kindCommand, g.w.hs.term, 0}, []byte("forwarded"))))
			if !errors.Is(err, raft.ErrProposalDropped) {
				t.Errorf("R4: a follower takes a proposal: %v", err)
			}
		}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		for _, m := range w.nodes {
			if h := m.toys[1].history(); len(h) != 0 {
				t.Errorf("R4: node %d applied %v", m.id, h)
			}
		}
	})
}
