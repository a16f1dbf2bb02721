package paxosgroup

import (
	"errors"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/storage"
	"github.com/spandb/spand/truetime"
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
)

// This file is the worker's side of a replica: input into Raft, what Raft wants
// done out of it. Nothing here waits.

// advance takes a round of input.
func (g *Group) advance(o *outbox) {
	in := g.in.take(g.w.spare)
	for _, f := range in.reqs {
		f()
	}
	if g.w.rn == nil { // stopped, or being installed
		g.w.spare = in
		return
	}
	for _, a := range in.acks {
		if a.gen == g.w.gen {
			g.w.outstanding = g.w.outstanding[1:] // the log acknowledges in order
			g.deliver(a.responses, o)
		}
	}
	for i := range in.msgs {
		g.receive(in.msgs[i])
	}
	if in.lost {
		g.leaderLost()
	}
	if in.tick {
		g.tick()
	}
	if in.tick || in.check {
		g.retryParked()
	}
	g.stepQueue()
	for g.w.rn != nil && g.w.rn.HasReady() {
		g.ready(o)
	}
	if in.tick || in.check || len(in.msgs) > 0 {
		g.tryLead()
	}
	g.w.spare = in
}

// step gives m to Raft. Raft's errors say that a message was of no use.
func (g *Group) step(m *pb.Message) {
	if err := g.w.rn.Step(m); err != nil && !errors.Is(err, raft.ErrProposalDropped) && !errors.Is(err, raft.ErrStepPeerNotFound) {
		g.log.Debug("raft refused a message", "type", m.GetType(), "err", err)
	}
}

// receive filters a peer's message and gives it to Raft.
func (g *Group) receive(in inbound) {
	m := in.m
	if g.member(m.GetFrom()) == nil || m.GetTo() != uint64(g.self) {
		g.host.stats.misaddressed.Add(1)
		return
	}
	if g.w.incomplete && !g.receiveIncomplete(m) {
		return
	}
	switch m.GetType() {
	case pb.MsgVote, pb.MsgPreVote:
		g.activate() // a leader that sleeps must answer for itself
		if m.GetTerm() > g.w.hs.term || g.w.lead == 0 {
			real := m.GetType() == pb.MsgVote
			if !g.mayVote(in.node, real) {
				g.host.stats.votesRefused.Add(1)
				return
			}
			// Raft itself would stick to a leader that it has not forgotten.
			if m.GetTerm() > g.w.hs.term && g.w.lead != 0 && g.w.lead != uint64(g.self) {
				g.forgetLeader()
			}
			if last, err := g.w.tail.Term(g.w.lastIndex); err == nil &&
				(m.GetLogTerm() > last || m.GetLogTerm() == last && m.GetIndex() >= g.w.lastIndex) {
				g.setCampaign(time.Now().Add(g.campaignPause())) // let a candidate that can win try
			}
		}
	case pb.MsgTimeoutNow:
		if m.GetTerm() != g.w.hs.term || m.GetFrom() != g.w.lead {
			return
		}
		if !g.releasedIn(m.GetTerm()) {
			g.w.timeoutNow = m // the release entry is on its way
			return
		}
		g.timeoutNow(m)
		return
	case pb.MsgApp:
		if !g.plausible(m) {
			return
		}
	}
	g.step(m)
	if in.stamp != 0 && (m.GetType() == pb.MsgAppResp || m.GetType() == pb.MsgHeartbeatResp) {
		g.attested(in)
	}
}

// plausible refuses entries stamped far beyond our clock, so that another node's
// forward step does not poison this log (T2).
func (g *Group) plausible(m *pb.Message) bool {
	var ts truetime.Timestamp
	for _, e := range m.Entries {
		if len(e.Data) == 0 || e.GetType() != pb.EntryNormal {
			continue
		}
		if h, _, err := decodeEntry(e.Data); err == nil {
			ts = max(ts, h.ts)
		}
	}
	if ts == 0 {
		return true
	}
	if err := truetime.CheckReceived(g.host.clock, ts, g.host.cfg.Tolerance); err != nil {
		if g.host.stats.implausible.Add(1)%64 == 1 {
			g.log.Warn("refused entries", "from", m.GetFrom(), "err", err)
		}
		return false
	}
	return true
}

// attested notes that a follower follows us in our term, under its epoch.
func (g *Group) attested(in inbound) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.mu.leader || in.m.GetTerm() != g.mu.term {
		return
	}
	for i := range g.members {
		if uint64(g.members[i].ID) == in.m.GetFrom() {
			g.mu.forts[i] = fort{in.inc, in.stamp}
		}
	}
}

func (g *Group) member(id uint64) *member {
	for i := range g.members {
		if uint64(g.members[i].ID) == id {
			return &g.members[i]
		}
	}
	return nil
}

func (g *Group) nodeOf(id uint64) keys.NodeID {
	if m := g.member(id); m != nil {
		return m.Node
	}
	return 0
}

func (g *Group) releasedIn(term uint64) bool { return g.w.conf.released && g.w.conf.term == term }

func (g *Group) timeoutNow(m *pb.Message) {
	g.w.timeoutNow = nil
	if g.w.state == raft.StateFollower && m.GetTerm() == g.w.hs.term && !g.host.draining.Load() && g.mayVote(g.host.node, true) {
		g.step(m)
		g.setCampaign(time.Now().Add(g.campaignPause()))
	}
}

func (g *Group) forgetLeader() {
	if err := g.w.rn.ForgetLeader(); err != nil {
		g.log.Debug("forget leader", "err", err)
	}
}

// leaderLost: this node's promise to some node is over, or the leader's has not had one
// for as long as one would last. If nothing binds this replica to its leader, raise a new
// one; else it looks again, when the promise ends or at ticks.
func (g *Group) leaderLost() {
	now := time.Now()
	if g.w.state == raft.StateLeader || g.w.lead == 0 || now.Before(g.w.doubtAt) {
		return
	}
	s := &g.w.support
	node := s.node
	if node == 0 {
		node = g.nodeOf(g.w.lead)
	}
	if node == g.host.node {
		return
	}
	if !g.mayVote(g.host.node, false) {
		g.host.setElecting(g, s.bound != 0 || !g.host.peer(node).promised())
		return
	}
	g.forgetLeader()
	g.setCampaign(now.Add(g.host.jitter(g.host.cfg.CampaignJitter)))
	if g.preferred == g.host.node {
		g.setCampaign(now)
	}
	g.maybeCampaign(now)
}

// maybeCampaign starts an election if there is no leader, it is this replica's
// turn, and no promise forbids. Followers are never ticked: when to campaign
// follows from promises, not from Raft's own timer.
func (g *Group) maybeCampaign(now time.Time) {
	if g.w.lead != 0 || g.w.state == raft.StateLeader {
		return
	}
	barred := g.w.incomplete || g.host.draining.Load()
	if g.w.heir && (barred || g.w.heirTries == 0) {
		g.disclaim()
	}
	if barred || now.Before(g.w.campaignAt) {
		return
	}
	if !g.mayVote(g.host.node, true) {
		return
	}
	g.setCampaign(now.Add(g.campaignPause()))
	if err := g.w.rn.Campaign(); err != nil {
		g.log.Debug("campaign", "err", err)
	}
}

// How often, and how long, the heir of a split's parent tries at short intervals.
const (
	heirTries = 100
	heirPause = 5 * time.Millisecond
)

// disclaim tells the others that they need not wait for the heir, whose node lives on and
// has their promises. It may say so many times: some may not have applied the split yet.
func (g *Group) disclaim() {
	// What an earlier life of this node promised in the parent ended before it could vote.
	g.announceResign(startTerm, max(g.w.ownBound, g.host.abstainUntil))
}

// campaignPause separates two attempts. The preferred node tries more often, so
// that a group settles where it should from the start.
func (g *Group) campaignPause() time.Duration {
	if g.w.heirTries > 0 {
		// Nobody else may be elected, so there is nobody to give way to; the others
		// open the child as soon as they have applied the split.
		g.w.heirTries--
		return heirPause
	}
	d := g.host.cfg.CampaignInterval
	if g.preferred == g.host.node {
		return d/2 + g.host.jitter(d/4)
	}
	return d + g.host.jitter(d)
}

// setCampaign notes when to try next, and has the clockwork look at that instant.
func (g *Group) setCampaign(at time.Time) {
	g.w.campaignAt = at
	g.lookAt(at)
}

// lookAt has the clockwork look at that instant, if the group is electing.
func (g *Group) lookAt(at time.Time) {
	g.due.Store(at.UnixNano())
	select {
	case g.host.kick <- struct{}{}:
	default:
	}
}

func (g *Group) tick() {
	now := time.Now()
	if g.w.state != raft.StateLeader {
		if g.w.lead != 0 {
			g.leaderLost() // it resigned, or its promise ran out
		}
		g.maybeCampaign(now)
		return
	}
	if !g.solo && g.host.clock.Now().Latest == truetime.Max {
		g.abdicate()
		return
	}
	g.w.rn.Tick()
	g.tickTransfer(now)
	g.trimTail()
	g.supply()
	g.maybeQuiesce()
}

// abdicate steps down for want of a clock (T1). The node no longer renews its promises,
// but Raft's own heartbeats would bind the followers again each time that they give it
// up. Raft's leader steps down at the second of two looks at its quorum between which
// it has heard nobody.
func (g *Group) abdicate() {
	// RawNode takes local messages only from the names of its own threads.
	from, typ := uint64(raft.LocalApplyThread), pb.MsgCheckQuorum
	for range 2 {
		if err := g.w.rn.Step(&pb.Message{Type: &typ, From: &from}); err != nil {
			g.log.Debug("step down", "err", err)
		}
	}
}

// stepQueue gives Raft everything queued, as one message.
func (g *Group) stepQueue() {
	g.mu.Lock()
	q := g.mu.queue
	if len(q) == 0 || !g.mu.leader {
		g.mu.Unlock()
		return
	}
	g.mu.queue, g.w.taken = g.w.taken[:0], q
	for i := range q {
		if q[i].ts != 0 {
			g.mu.takenMin = q[i].ts
			break
		}
	}
	g.mu.flights = append(g.mu.flights, q...)
	term := g.mu.term
	g.mu.Unlock()
	g.w.idle = 0

	boxes := make([]entBox, len(q))
	ents := make([]*pb.Entry, len(q))
	for i := range q {
		e := &boxes[i].e
		e.Data = encodeEntry(entryHeader{kindCommand, term, q[i].ts}, q[i].p.Data)
		ents[i] = e
	}
	if err := g.propose(ents); err == nil {
		return // takenMin is cleared once the last index is known
	}
	g.mu.Lock()
	n := len(g.mu.flights) - len(q)
	clear(g.mu.flights[n:])
	g.mu.flights, g.mu.takenMin = g.mu.flights[:n], 0
	g.mu.Unlock()
	err := error(ErrOverloaded)
	if g.w.rn.BasicStatus().RaftState != raft.StateLeader {
		err = g.notLeader()
	}
	for i := range q {
		g.inflight.Add(-int64(q[i].size))
		q[i].p.fail(err)
	}
	clear(q)
}

func (g *Group) propose(ents []*pb.Entry) error {
	self := uint64(g.self)
	typ := pb.MsgProp
	return g.w.rn.Step(&pb.Message{Type: &typ, From: &self, Entries: ents})
}

// ready does what Raft asks for.
func (g *Group) ready(o *outbox) {
	rd := g.w.rn.Ready()
	if !raft.IsEmptyHardState(rd.HardState) {
		g.w.hs = hardState{rd.HardState.GetTerm(), rd.HardState.GetVote(), rd.HardState.GetCommit()}
		g.w.changed = true
	}
	if n := len(rd.Entries); n > 0 {
		g.w.lastIndex = rd.Entries[n-1].GetIndex()
	}
	if rd.SoftState != nil {
		g.w.state, g.w.lead = rd.SoftState.RaftState, rd.SoftState.Lead
	}
	g.roleChanged()
	for _, m := range rd.Messages {
		switch m.GetType() {
		case pb.MsgStorageAppend:
			g.appendLog(m, o)
		case pb.MsgStorageApply:
			g.w.apply = append(g.w.apply, m)
		case pb.MsgSnap:
			g.sendSnapshot(m)
		default:
			g.send(m, o)
		}
	}
	g.mu.Lock()
	g.mu.last, g.mu.takenMin = g.w.lastIndex, 0
	g.mu.Unlock()
}

// send addresses a message to its replica's node, with our attestation if it is one.
func (g *Group) send(m *pb.Message, o *outbox) {
	to := g.member(m.GetTo())
	if to == nil || to.peer == nil {
		return
	}
	if g.unhurried {
		before, wait := g.tell(m)
		if before != nil {
			o.message(to.peer, g.id, 0, before)
		}
		if wait {
			return
		}
	}
	stamp := uint64(0)
	if t := m.GetType(); t == pb.MsgAppResp || t == pb.MsgHeartbeatResp {
		stamp = g.attest(to.peer, m.GetTo(), m.GetTerm())
	}
	o.message(to.peer, g.id, stamp, m)
}

// tell finds out whether a message only tells an unhurried machine's follower of commits: then it waits for
// the next one, which is the next entry's or a tick's heartbeat; not during a hand-over, since followers vote
// for the next leader only once they know that its release is committed. before is one that has waited, and
// goes first. To Raft it is a message that the network delays, or loses: a later one has all that it says.
func (g *Group) tell(m *pb.Message) (before *pb.Message, wait bool) {
	t := g.w.told[m.GetTo()]
	if t.term != m.GetTerm() {
		t = told{term: m.GetTerm()}
	}
	switch {
	case m.GetType() != pb.MsgApp:
		if before = t.later; before == nil {
			return nil, false
		}
		t.commit, t.later = before.GetCommit(), nil
	case len(m.Entries) == 0 && m.GetCommit() > t.commit && g.leadTerm.Load() != 0:
		t.later, wait = m, true
	default:
		t.commit, t.later = m.GetCommit(), nil
	}
	if g.w.told == nil {
		g.w.told = make(map[uint64]told)
	}
	g.w.told[m.GetTo()] = t
	return before, wait
}

// deliver hands out the responses of a storage message that is done.
func (g *Group) deliver(ms []*pb.Message, o *outbox) {
	for _, m := range ms {
		if m.GetTo() == uint64(g.self) {
			g.step(m)
		} else {
			g.send(m, o)
		}
	}
}

// appendLog turns Raft's storage message into a log record.
func (g *Group) appendLog(m *pb.Message, o *outbox) {
	rec := storage.GroupRecord{Group: g.id, Replica: g.self, Entries: toStorage(m.Entries)}
	sync := len(m.Entries) > 0
	if m.Term != nil {
		rec.HardState = &storage.HardState{Term: m.GetTerm(), Vote: m.GetVote(), Commit: m.GetCommit()}
		if m.GetTerm() != g.w.synced.term || m.GetVote() != g.w.synced.vote {
			g.w.synced = hardState{term: m.GetTerm(), vote: m.GetVote()}
			sync = true
		}
	}
	g.w.tail.append(m.Entries)
	// A record that only moves the commit index asks for no sync of its own. Raft
	// then waits, if for anything, for records handed over earlier.
	rec.NoSync = !sync
	if sync || rec.HardState != nil {
		o.recs = append(o.recs, rec)
	}
	if sync {
		a := &appendAck{g: g, gen: g.w.gen, responses: m.Responses}
		g.w.outstanding = append(g.w.outstanding, a)
		o.acks = append(o.acks, a)
		return
	}
	if n := len(g.w.outstanding); n > 0 {
		a := g.w.outstanding[n-1]
		a.responses = append(a.responses, m.Responses...)
		return
	}
	g.deliver(m.Responses, o)
}

// roleChanged follows Raft's term and role.
func (g *Group) roleChanged() {
	leads := g.w.state == raft.StateLeader
	g.mu.Lock()
	wasTerm, was := g.mu.term, g.mu.leader
	same := wasTerm == g.w.hs.term && was == leads
	g.mu.Unlock()
	if was && (!leads || wasTerm != g.w.hs.term) {
		g.stepDown()
		was = false
	}
	if !same {
		g.mu.Lock()
		g.keepSafeLocked()
		g.mu.term = g.w.hs.term
		g.mu.Unlock()
		if g.w.timeoutNow != nil && g.w.timeoutNow.GetTerm() != g.w.hs.term {
			g.w.timeoutNow = nil
		}
	}
	node := g.nodeOf(g.w.lead)
	if old := keys.NodeID(g.leader.Swap(uint32(node))); old != node || !same {
		g.leaderChanged(node)
		g.transferProgress()
	}
	if leads && !was {
		g.becomeLeader()
	}
}

// leaderChanged has the clockwork look after a replica without a leader, or with one
// whose node has no promise of this one yet: should it never come to ask for one, no
// promise's end will say that it is dead.
func (g *Group) leaderChanged(node keys.NodeID) {
	h := g.host
	g.w.doubtAt = time.Time{}
	g.w.heir = g.w.heir && node == 0
	switch {
	case node == 0:
		g.lookAt(g.w.campaignAt)
		h.setElecting(g, g.w.state != raft.StateLeader)
	case node == h.node || h.peer(node).promised():
		h.setElecting(g, false)
	default:
		g.w.doubtAt = time.Now().Add(h.cfg.LeaseDuration)
		g.lookAt(g.w.doubtAt)
		h.setElecting(g, true)
	}
}

func (g *Group) becomeLeader() {
	g.mu.Lock()
	g.mu.leader, g.mu.releasing, g.mu.quiesced = true, false, false
	clear(g.mu.forts)
	g.lease.Store(0)
	g.mu.quiet, g.mu.pend = quiet{}, [2]closing{}
	floor, term := g.mu.floor, g.mu.term
	g.mu.Unlock()
	g.w.termStarted, g.w.idle, g.w.leadSince, g.w.busySince = false, 0, time.Now(), time.Time{}
	g.w.ledFrom = g.w.lastIndex
	g.w.support = support{} // its own leadership supersedes what it attested to others
	g.host.activate(g)
	g.finishTransfer(g.notLeader()) // it came back
	// The entry of the own term that R4 asks for. By the time of the election true
	// time is beyond every earlier lease, so Now().Latest is a floor; in the log it
	// outlives this replica.
	ts := max(floor, g.w.conf.floor, g.w.startFloor)
	if now := g.host.clock.Now(); now.Latest != truetime.Max {
		ts = max(ts, now.Latest)
	}
	e := &pb.Entry{Data: encodeEntry(entryHeader{kindTermStart, term, ts}, termStartPayload(g.host.node))}
	if err := g.propose([]*pb.Entry{e}); err != nil {
		g.log.Warn("term-start entry dropped", "err", err)
	}
	g.log.Debug("became leader", "term", term)
}

// keepPromisesLocked makes what the machine promised under the lease that was just given up
// part of the floor, which outlives the term. Only now: a promise that is confirmed after
// this finds the lease given up.
func (g *Group) keepPromisesLocked() {
	if p, ok := g.machine.(Promiser); ok && !BreakFloor {
		g.raiseLocked(p.Promised())
	}
}

// stepDown ends this replica's leadership; what was in flight may yet commit.
func (g *Group) stepDown() {
	g.mu.Lock()
	g.wakeLocked() // what was closed for it while it slept becomes its floor
	term := g.mu.term
	g.keepSafeLocked()
	g.leadTerm.Store(0)
	g.keepPromisesLocked() // it may be elected again before its lease is over
	queue, flights, parked := g.mu.queue, g.mu.flights, g.unparkLocked()
	g.mu.queue, g.mu.flights, g.mu.takenMin = nil, nil, 0
	g.mu.leader, g.mu.releasing = false, false
	// All that was promised lies at or below. A sleeper's lease alone would not do: other
	// groups of its bucket computed theirs while its own stayed as it was.
	end := max(truetime.Timestamp(g.lease.Load()), g.mu.floor)
	// Announced before anything else can be: a ping that closes a timestamp without this
	// group says so.
	g.announceResign(term, end)
	g.mu.Unlock()
	if !g.releasedIn(term) {
		g.w.ownBound, g.w.ownTerm = max(g.w.ownBound, end), term
	}
	g.w.termStarted = false
	g.w.told = nil
	g.host.deactivate(g)
	for _, s := range g.w.sending {
		s.cancel()
	}
	clear(g.w.lacking)
	lead := g.notLeader()
	for _, f := range queue {
		g.inflight.Add(-int64(f.size))
		f.p.fail(lead)
	}
	for _, k := range parked {
		k.p.fail(lead)
	}
	for _, f := range flights {
		g.inflight.Add(-int64(f.size))
		f.p.fail(ErrAmbiguous)
	}
	if g.w.led {
		g.w.led = false
		g.machine.Follow()
	}
	g.log.Debug("stepped down", "term", term)
}

// tryLead tells the machine that it leads, once an entry of the own term is
// applied and the lease is valid (R2, R4).
func (g *Group) tryLead() {
	if g.w.led || !g.w.termStarted && !BreakTermStart || g.w.state != raft.StateLeader {
		return
	}
	now := g.host.clock.Now()
	g.mu.Lock()
	if !g.mu.leader || g.mu.releasing {
		g.mu.Unlock()
		return
	}
	if now.Latest == truetime.Max || now.Latest >= g.extendLeaseLocked(now) {
		g.mu.Unlock()
		g.host.await(g)
		return
	}
	floor := max(g.mu.floor, g.w.conf.floor, g.w.startFloor, now.Latest)
	g.raiseLocked(floor)
	term := g.mu.term
	g.leadTerm.Store(term)
	g.mu.Unlock()
	g.w.led = true
	g.log.Info("leading", "term", term)
	g.machine.Lead(Lease{Term: term, Floor: floor})
}
