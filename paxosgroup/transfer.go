package paxosgroup

import (
	"context"
	"fmt"
	"time"

	"github.com/spandb/spand/internal/keys"
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
)

// Hand-over of leadership. The leader stops serving, for this term for ever, and
// logs a release entry that carries its floor (R3). A replica that has applied
// it is free of its promise as far as this group goes (R2), so the target need
// not wait for the lease to end.

type transfer struct {
	to        keys.NodeID // 0: whoever is best
	target    *peer       // of the last attempt
	attempts  int
	attemptAt time.Time
	waiters   []chan<- error
}

// Transfer hands leadership to the replica on node to and returns when that
// leads, or when it failed. From the moment that it begins, this replica
// serves no more; when the target does not take over, another one is tried.
func (g *Group) Transfer(ctx context.Context, to keys.NodeID) error {
	done := make(chan error, 1)
	if !g.in.post(func() { g.startTransfer(to, done, 0) }) {
		return ErrStopped
	}
	g.host.sched.enqueue(g)
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("paxosgroup: transfer of group %d to node %d: %w", g.id, to, context.Cause(ctx))
	}
}

// maxLag of a transfer's target in entries: it must catch up while nobody serves.
const maxLag = 256

// startTransfer runs on the worker. done may be nil; young leaders are left alone
// unless settled is zero.
func (g *Group) startTransfer(to keys.NodeID, done chan<- error, settled time.Duration) {
	answer := func(err error) {
		if done != nil {
			done <- err
		}
	}
	if tr := g.w.transfer; tr != nil && g.w.rn != nil {
		if done != nil {
			tr.waiters = append(tr.waiters, done)
		}
		return
	}
	if !g.w.led || g.w.rn == nil || time.Since(g.w.leadSince) < settled {
		answer(g.notLeader())
		return
	}
	if to == g.host.node {
		answer(nil)
		return
	}
	if g.bestTarget(to, maxLag, false) == nil {
		answer(fmt.Errorf("paxosgroup: no replica of group %d on node %d is ready to lead", g.id, to))
		return
	}
	g.w.transfer = &transfer{to: to}
	if done != nil {
		g.w.transfer.waiters = append(g.w.transfer.waiters, done)
	}
	g.mu.Lock()
	g.wakeLocked()
	g.keepSafeLocked()
	if !BreakRelease {
		g.leadTerm.Store(0)
		g.mu.releasing = true
	}
	g.keepPromisesLocked()
	floor, term, parked := g.mu.floor, g.mu.term, g.unparkLocked()
	g.mu.Unlock()
	if BreakFloor {
		floor = 0
	}
	for _, k := range parked {
		k.p.fail(g.notLeader())
	}
	if !BreakRelease {
		g.w.led = false
		g.machine.Follow()
	}
	g.stepQueue() // what was assigned goes before the release
	e := &pb.Entry{Data: encodeEntry(entryHeader{kindRelease, term, floor}, nil)}
	if err := g.propose([]*pb.Entry{e}); err != nil {
		// Lost leadership meanwhile; the role change follows.
		g.log.Debug("release entry dropped", "err", err)
	}
}

// bestTarget returns the replica on node to, or for 0 the one that is most up to
// date, if its node answers and it lags at most maxLag entries; one that abstains
// only if abstaining.
func (g *Group) bestTarget(to keys.NodeID, maxLag uint64, abstaining bool) *member {
	var best *member
	var high uint64
	g.progress(func(m *member, match uint64) {
		if m.peer == nil || to != 0 && m.Node != to || match+maxLag < g.w.lastIndex || !g.host.answers(m.peer) || m.peer.isDraining() ||
			!abstaining && g.host.abstains(m.peer) {
			return
		}
		if best == nil || match > high || match == high && m.Node == g.preferred {
			best, high = m, match
		}
	})
	return best
}

// answers reports whether the peer has answered one of the last pings. Nobody
// else serves between a release and the target's election, so a node that died
// a moment ago must not be given one.
func (h *Host) answers(p *peer) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Since(p.mu.lastPong) <= 3*h.cfg.HeartbeatInterval
}

// abstains reports whether the peer's life is so young that it may not campaign yet
// (R2): a hand-over would pass it by.
func (h *Host) abstains(p *peer) bool {
	now := h.clock.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Since(p.mu.since) <= h.cfg.LeaseDuration+now.Latest.Sub(now.Earliest)
}

// backSince returns since when the peer has been alive.
func (p *peer) backSince() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.back
}

func (p *peer) isDraining() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.draining
}

// releaseApplied: from here on the target may campaign.
func (g *Group) releaseApplied() {
	if g.w.state == raft.StateLeader {
		g.tickTransfer(time.Now())
	}
}

// tickTransfer keeps trying until somebody else leads: a leader that has released
// its term cannot serve in it again.
func (g *Group) tickTransfer(now time.Time) {
	if g.w.state != raft.StateLeader || !g.releasedIn(g.w.hs.term) {
		return
	}
	tr := g.w.transfer
	if tr == nil {
		tr = &transfer{}
		g.w.transfer = tr
	}
	if now.Before(tr.attemptAt) && g.host.answers(tr.target) {
		return
	}
	var m *member
	for _, abstaining := range []bool{false, true} {
		if m == nil && tr.attempts == 0 {
			m = g.bestTarget(tr.to, 1<<62, abstaining)
		}
		if m == nil {
			m = g.bestTarget(0, 1<<62, abstaining)
		}
	}
	if m == nil {
		return
	}
	tr.target = m.peer
	tr.attempts++
	// Raft gives up on a transfer after its election timeout.
	tr.attemptAt = now.Add(time.Duration(g.host.cfg.ElectionTicks+1) * g.host.cfg.TickInterval)
	g.w.rn.TransferLeader(uint64(m.ID))
}

// transferProgress follows a change of leader.
func (g *Group) transferProgress() {
	tr := g.w.transfer
	if tr == nil || g.w.state == raft.StateLeader {
		return
	}
	switch node := g.Leader(); {
	case node == 0: // not decided yet
	case tr.to == 0 || node == tr.to:
		g.finishTransfer(nil)
	default:
		g.finishTransfer(fmt.Errorf("paxosgroup: leadership of group %d went to node %d instead of %d", g.id, node, tr.to))
	}
}

func (g *Group) finishTransfer(err error) {
	if g.w.transfer == nil {
		return
	}
	for _, w := range g.w.transfer.waiters {
		w <- err
	}
	g.w.transfer = nil
}

// maxBalance bounds the hand-overs begun at once.
const maxBalance = 32

// balance hands groups to their preferred node when that is ready.
func (h *Host) balance(time.Time) {
	n := 0
	h.eachGroup(func(g *Group) {
		if n >= maxBalance || g.preferred == 0 || g.preferred == h.node || g.leadTerm.Load() == 0 {
			return
		}
		p := h.peer(g.preferred)
		if !h.answers(p) || p.isDraining() {
			return
		}
		n++
		g.in.post(g.balance)
		h.sched.enqueue(g)
	})
}

// balance, on the worker, hands the group to its preferred node unless the machine
// is busy: looked at again by the next round, with patience that ends.
func (g *Group) balance() {
	if !g.w.led || !g.machine.Busy() {
		g.w.busySince = time.Time{}
	} else {
		now := time.Now()
		if s := g.w.busySince; s.IsZero() || s.Before(g.host.peer(g.preferred).backSince()) {
			g.w.busySince = now
		}
		if now.Sub(g.w.busySince) < g.host.cfg.BalancePatience {
			return
		}
	}
	g.startTransfer(g.preferred, nil, g.host.cfg.BalanceInterval)
}

// Drain hands over every leadership for which another replica is ready and takes
// none from then on. It returns when this node leads no shared group any more that
// anybody could take, and the peers know that it drains, or with ctx's error.
func (h *Host) Drain(ctx context.Context) error {
	h.draining.Store(true)
	h.beatNow.Store(true)
	select {
	case h.kick <- struct{}{}:
	default:
	}
again:
	for {
		left, deserted := h.led()
		if len(left) == 0 {
			if deserted > 0 {
				h.log.Info("all who could take over drain too", "groups", deserted)
			}
			h.awaitHeard(ctx)
			return nil
		}
		// A group that has just been elected, no follower ready yet, or one that was to
		// take over drains by now: look again soon.
		soon := time.After(h.cfg.HeartbeatInterval)
		done := make(chan error, len(left))
		started, failed := 0, 0
		for _, g := range left {
			if g.in.post(func() { g.startTransfer(0, done, 0) }) {
				started++
				h.sched.enqueue(g)
			} else {
				failed++
			}
		}
		for started > 0 || failed > 0 {
			select {
			case err := <-done:
				started--
				if err != nil {
					failed++
				}
			case <-soon:
				continue again
			case <-ctx.Done():
				return fmt.Errorf("paxosgroup: drain: %d groups still led here: %w", len(left), context.Cause(ctx))
			case <-h.quit:
				return ErrStopped
			}
		}
	}
}

// led returns the shared groups that this node leads and somebody could take over,
// and counts those that nobody can.
func (h *Host) led() (left []*Group, deserted int) {
	h.eachGroup(func(g *Group) {
		g.mu.Lock()
		leads := g.mu.leader && !g.solo
		g.mu.Unlock()
		switch {
		case !leads:
		case g.deserted():
			deserted++
		default:
			left = append(left, g)
		}
	})
	return left, deserted
}

// deserted reports that nobody could take the group over because nodes drain:
// each of the others does, or is dead.
func (g *Group) deserted() bool {
	drains := false
	for i := range g.members {
		if p := g.members[i].peer; p != nil {
			d := p.isDraining()
			if !d && p.alive.Load() {
				return false
			}
			drains = drains || d
		}
	}
	return drains
}

// awaitHeard returns when every peer has answered a ping that said that this node
// drains, so that none hands it anything, or waits for it; a silent one is not
// waited for longer than a ping may take.
func (h *Host) awaitHeard(ctx context.Context) {
	patience := time.After(2 * h.cfg.HeartbeatInterval)
	for {
		heard := true
		for _, p := range h.allPeers() {
			p.mu.Lock()
			heard = heard && p.mu.farewell != 0 && p.mu.ponged >= p.mu.farewell
			p.mu.Unlock()
		}
		if heard {
			return
		}
		select {
		case <-h.ponged:
		case <-patience:
			return
		case <-ctx.Done():
			return
		case <-h.quit:
			return
		}
	}
}
