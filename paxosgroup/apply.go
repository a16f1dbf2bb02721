package paxosgroup

import (
	"errors"
	"fmt"
	"time"

	"github.com/spandb/spand/internal/storage"
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
)

// outcome of an applied entry that was proposed here.
type outcome struct {
	f      flight
	result any
	err    error
}

// applyLoad is the size of what applyCommitted will execute. Worker only.
func (g *Group) applyLoad() (bytes int) {
	for _, m := range g.w.apply {
		for _, e := range m.Entries {
			bytes += 64 + len(e.Data)
		}
	}
	return bytes
}

// applyCommitted executes what is committed: all of it into one batch, made
// visible at once, before any proposer hears. Worker only.
func (g *Group) applyCommitted() {
	if len(g.w.apply) == 0 {
		return
	}
	todo := g.w.apply
	for _, m := range todo {
		if g.w.rn == nil {
			break
		}
		if err := g.applyEntries(m.Entries); err != nil {
			g.fatal(err)
			break
		}
		for _, r := range m.Responses {
			g.step(r)
		}
	}
	clear(todo)
	g.w.apply = todo[:0]
	if g.w.rn == nil {
		return
	}
	g.tryLead()
	if m := g.w.timeoutNow; m != nil && g.releasedIn(m.GetTerm()) {
		g.timeoutNow(m)
	}
	g.trimTail()
	if g.w.rn.HasReady() {
		g.host.sched.enqueue(g)
	}
}

func (g *Group) applyEntries(es []*pb.Entry) error {
	g.mu.Lock()
	var local uint64 // the term whose commands have a flight here
	if g.mu.leader {
		local = g.mu.term
	}
	flights := g.mu.flights // only the worker changes them
	g.mu.Unlock()
	reads, _ := g.machine.(EngineReader)
	b := &g.w.batch
	b.Reset()
	b.Group = g.id
	outs := g.w.outcomes[:0]
	released := false
	for _, e := range es {
		g.w.appliedTerm = e.GetTerm()
		index := e.GetIndex()
		if e.GetType() != pb.EntryNormal {
			return fmt.Errorf("%w: configuration change at index %d", errUnknownEntry, index)
		}
		if len(e.Data) == 0 { // Raft's own, at the start of a term
			g.w.applied = index
			continue
		}
		h, payload, err := decodeEntry(e.Data)
		if err != nil {
			return fmt.Errorf("entry %d: %w", index, err)
		}
		c := &g.w.conf
		c.floor = max(c.floor, h.ts)
		switch h.kind {
		case kindTermStart:
			r := reader{b: payload}
			node := r.node()
			if r.bad {
				return fmt.Errorf("entry %d: %w", index, errBadEntry)
			}
			if h.term == e.GetTerm() {
				c.term, c.holder, c.released = h.term, node, false
				if h.term == local {
					g.w.termStarted = true
				}
			}
		case kindRelease:
			if h.term == e.GetTerm() && h.term == c.term {
				c.released, released = true, true
			}
		case kindCommand:
			var o outcome
			mine := e.GetTerm() == local && h.term == local
			if mine {
				o.f, flights = flights[0], flights[1:]
			}
			// R4: only under the lease it was evaluated under, and only while that
			// lease has not been handed over. All replicas decide alike.
			if h.term != e.GetTerm() || h.term != c.term || c.released && !BreakRelease {
				g.host.stats.staleCommands.Add(1)
				o.err = g.notLeader()
			} else {
				if reads != nil && b.Len() > 0 && reads.ReadsEngine(payload) {
					b.Applied = index - 1
					if err := g.host.cfg.Store.Apply(b); err != nil {
						return err
					}
					b.Reset()
				}
				o.result, err = g.machine.Apply(b, Command{Index: index, Term: h.term, TS: h.ts, Data: payload})
				if err != nil {
					return fmt.Errorf("entry %d: %w", index, err)
				}
			}
			if mine {
				outs = append(outs, o)
			}
		}
		g.w.applied = index
	}
	b.Applied = g.w.applied
	if err := g.host.cfg.Store.Apply(b); err != nil {
		return fmt.Errorf("apply up to %d: %w", g.w.applied, err)
	}
	g.w.changed = true

	g.mu.Lock()
	if n := len(outs); n > 0 {
		rest := copy(g.mu.flights, g.mu.flights[n:])
		clear(g.mu.flights[rest:])
		g.mu.flights = g.mu.flights[:rest]
	}
	g.mu.applied = g.w.applied
	g.promoteLocked()
	g.mu.Unlock()
	for i := range outs {
		o := &outs[i]
		g.inflight.Add(-int64(o.f.size))
		if o.f.p.Done != nil {
			o.f.p.Done(o.result, o.f.ts, o.err)
		}
	}
	clear(outs)
	g.w.outcomes = outs
	if released {
		g.releaseApplied()
	}
	return nil
}

// EngineReader is implemented by state machines some of whose commands read
// the engine when they are applied. Before such a command the writes of earlier
// ones are made visible; otherwise many commands share one batch, and what
// they wrote is visible after the last.
type EngineReader interface {
	ReadsEngine(command []byte) bool
}

// fatal stops the replica: it can no longer follow the log. Its node goes on.
func (g *Group) fatal(err error) {
	g.log.Error("replica stopped", "err", err)
	g.halt(ErrStopped)
	if f := g.host.cfg.GroupFailed; f != nil {
		f(g.id, err)
	}
}

// halt ends all activity of the replica. Worker only (or after the workers).
func (g *Group) halt(err error) {
	if g.w.rn == nil && g.stopped.Load() {
		return
	}
	g.stopped.Store(true)
	g.w.state, g.w.lead = raft.StateFollower, 0
	g.mu.Lock()
	was := g.mu.leader
	queue, parked := g.mu.queue, g.unparkLocked()
	g.mu.queue = nil
	g.mu.Unlock()
	if was {
		g.stepDown()
	}
	for _, f := range queue {
		g.inflight.Add(-int64(f.size))
		f.p.fail(err)
	}
	for _, k := range parked {
		k.p.fail(err)
	}
	for _, s := range g.w.sending {
		s.cancel()
	}
	g.finishTransfer(err)
	g.w.rn = nil
	g.leader.Store(0)
	g.host.forget(g)
}

// capture answers storage.Source.
func (g *Group) capture() (s storage.GroupState, unchanged, ok bool) {
	switch {
	case g.w.incomplete, g.w.rn == nil:
		return s, false, false // what the store's mark does not say is carried forward
	case !g.w.changed:
		return s, true, true
	}
	g.w.changed = false
	g.w.tail.captured = g.w.applied
	return storage.GroupState{
		Replica:   g.self,
		Applied:   g.w.applied,
		Term:      g.w.appliedTerm,
		HardState: storage.HardState{Term: g.w.hs.term, Vote: g.w.hs.vote, Commit: max(g.w.hs.commit, g.w.applied)},
		Conf:      g.w.conf.encode(),
		Machine:   g.machine.Capture(),
	}, false, true
}

// carryForward appends the entries behind index and the hard state once more. Of an
// incomplete replica that is term and vote, once the store's mark stands: before
// that, a restart finds the log that it had, whole.
func (g *Group) carryForward(index uint64, done func(error)) {
	if g.w.unmarked {
		done(fmt.Errorf("group %d: %w", g.id, errUnmarked))
		return
	}
	es, ok := g.w.tail.after(index)
	if !ok {
		done(fmt.Errorf("group %d, index %d: %w", g.id, index, ErrSuperseded))
		return
	}
	g.host.cfg.Store.Append([]storage.GroupRecord{{
		Group: g.id, Replica: g.self, Entries: toStorage(es),
		HardState: &storage.HardState{Term: g.w.hs.term, Vote: g.w.hs.vote, Commit: g.w.hs.commit},
	}}, done)
}

var errUnmarked = errors.New("paxosgroup: the replica was emptied and is not marked as incomplete yet")

var errNoGroup = errors.New("paxosgroup: no such group")

// open builds the Raft state of a replica: from what storage recovered, or from
// the virtual snapshot that all start with.
func (g *Group) open(c GroupConfig) error {
	t := &g.w.tail
	t.total = &g.host.tails
	index, term := uint64(startIndex), uint64(startTerm)
	hs := hardState{term: startTerm, commit: startIndex}
	g.w.conf = conf{members: c.Replicas, floor: c.Floor}
	state := c.Initial
	var entries []storage.Entry
	if r := c.Recovered; r != nil {
		if r.State.Replica != 0 && r.State.Replica != c.Replica {
			return fmt.Errorf("paxosgroup: group %d: the store holds replica %d, not %d", c.ID, r.State.Replica, c.Replica)
		}
		if r.State.Applied != 0 {
			index, term, state = r.State.Applied, r.State.Term, r.State.Machine
			cf, err := decodeConf(r.State.Conf)
			if err != nil {
				return fmt.Errorf("group %d: %w", c.ID, err)
			}
			g.w.conf = cf
		}
		entries = r.Entries
		if h := r.State.HardState; h.Term != 0 {
			hs = hardState{h.Term, h.Vote, h.Commit}
		}
	}
	if c.Incomplete {
		// Term and vote survive; the rest comes from a leader.
		index, term, entries, hs.commit, state = 0, 0, nil, 0, nil
		g.w.incomplete = true
		g.w.conf = conf{members: c.Replicas}
	}
	if len(g.w.conf.members) == 0 {
		return fmt.Errorf("paxosgroup: group %d has no replicas", c.ID)
	}
	for _, m := range g.w.conf.members {
		mem := member{Replica: m}
		if m.Node != g.host.node {
			mem.peer = g.host.peer(m.Node)
		}
		g.members = append(g.members, mem)
	}
	if m := g.member(uint64(c.Replica)); m == nil || m.Node != g.host.node {
		return fmt.Errorf("paxosgroup: replica %d of group %d does not belong on node %d", c.Replica, c.ID, g.host.node)
	}
	g.solo = len(g.members) == 1
	g.mu.forts = make([]fort, len(g.members))
	g.bucket = bucketName(g.members)
	t.reset(index, term)
	t.voters = voterIDs(g.w.conf.members)
	for i, e := range entries {
		last := t.last()
		if e.Index != last+1 {
			return fmt.Errorf("paxosgroup: group %d: entry %d recovered behind %d", c.ID, e.Index, last)
		}
		// What follows an installed snapshot must not be of an older term: that is
		// the tail of the log which the snapshot replaced.
		if lt, _ := t.Term(last); e.Term < lt {
			g.log.Warn("dropped a log tail that a snapshot replaced", "index", e.Index)
			break
		}
		t.append(fromStorage(entries[i : i+1]))
	}
	hs.term = max(hs.term, term)
	hs.commit = min(max(hs.commit, index), t.last())
	g.w.applied, g.w.appliedTerm = index, term
	g.w.lastIndex = t.last()
	t.captured = index
	if !g.w.incomplete {
		if err := g.machine.Restore(state); err != nil {
			return fmt.Errorf("paxosgroup: group %d: restore: %w", c.ID, err)
		}
	}
	if g.solo && !g.host.cfg.FirstLife {
		// What an earlier life promised lies below its lease end, hence below this.
		g.w.startFloor = g.host.started.Latest.Add(g.host.cfg.SoloLease)
	}
	g.inherit(c)
	at := time.Now()
	if first := c.InheritedHolder; first != g.host.node && (first != 0 || c.Preferred != g.host.node) && !g.solo {
		at = at.Add(g.campaignPause())
	}
	g.setCampaign(at)
	return g.startRaft(hs)
}

// inherit binds a child to its parent's lease holder (B1): as if it had attested
// to it already, under this node's present promise.
func (g *Group) inherit(c GroupConfig) {
	switch {
	case c.InheritedHolder == 0:
	case c.InheritedHolder == g.host.node:
		g.w.ownBound = c.InheritedUntil
		g.w.heir, g.w.heirTries = true, heirTries
	default:
		p := g.host.peer(c.InheritedHolder)
		g.w.support = support{node: p.node, peer: p, term: startTerm, epoch: p.currentEpoch(), also: c.InheritedUntil}
		if c.Recovered != nil {
			g.w.support.epoch = 0 // of an earlier life; abstention covers it
		}
	}
}

// startRaft makes a RawNode over the tail.
func (g *Group) startRaft(hs hardState) error {
	t := &g.w.tail
	t.hs = &pb.HardState{Term: &hs.term, Vote: &hs.vote, Commit: &hs.commit}
	t.applied = func() (uint64, uint64) { return g.w.applied, g.w.appliedTerm }
	rn, err := raft.NewRawNode(&raft.Config{
		ID:                        uint64(g.self),
		ElectionTick:              g.host.cfg.ElectionTicks,
		HeartbeatTick:             1,
		Storage:                   t,
		Applied:                   g.w.applied,
		AsyncStorageWrites:        true,
		MaxSizePerMsg:             256 << 10,
		MaxCommittedSizePerReady:  2 << 20,
		MaxUncommittedEntriesSize: uint64(4 * g.budget),
		MaxInflightMsgs:           128,
		MaxInflightBytes:          8 << 20,
		CheckQuorum:               true,
		PreVote:                   true,
		Logger:                    raftLogger{g.log},
		DisableProposalForwarding: true,
	})
	if err != nil {
		return fmt.Errorf("paxosgroup: group %d: %w", g.id, err)
	}
	g.w.rn = rn
	g.w.hs = hs
	g.w.synced = hardState{term: hs.term, vote: hs.vote}
	g.w.state, g.w.lead = raft.StateFollower, 0
	g.mu.Lock()
	g.mu.term, g.mu.last, g.mu.applied = hs.term, g.w.lastIndex, g.w.applied
	g.mu.Unlock()
	return nil
}

// progress visits the replicas as Raft's leader sees them.
func (g *Group) progress(f func(m *member, match uint64)) {
	g.w.rn.WithProgress(func(id uint64, _ raft.ProgressType, pr tracker.Progress) {
		if m := g.member(id); m != nil {
			f(m, pr.Match)
		}
	})
}
