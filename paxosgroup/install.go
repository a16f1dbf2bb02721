package paxosgroup

import (
	"errors"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/storage"
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
)

// Snapshots, the receiver's side. It runs on the transport's goroutine for the
// peer's snapshot class, whose blocking is the backpressure; the group's worker
// is only asked for the steps that concern Raft.
//
// From the first chunk to the last the replica is incomplete, durably so: it
// neither votes (its log is gone, so it would vote for anybody) nor applies nor
// answers reads. At the end it starts over from the snapshot as after a
// restart, with the term and the vote it had.

//
// One frame at a time, whoever sent it: two leaders may send at once, one of them
// deposed. The one of the later term is heard, from its first frame on.

// install is the transfer that a group hears.
type install struct {
	node  keys.NodeID // the sender's
	inc   uint64      // and its incarnation
	id    uint64
	term  uint64
	head  snapHead
	next  uint64 // frame wanted
	sum   uint32 // of the frames taken; see snapFrame.addTo
	state []byte
}

// yieldsTo reports whether f begins a transfer that replaces this one: of a later
// leader, or a later one of the same.
func (in *install) yieldsTo(p *peer, inc uint64, f *snapFrame) bool {
	if f.term != in.term {
		return f.term > in.term
	}
	return in.node == p.node && (in.inc != inc || f.id > in.id)
}

// maxMachineState bounds what a snapshot's machine state may take in memory.
const maxMachineState = 1 << 30

// receiveSnap handles one frame.
func (h *Host) receiveSnap(p *peer, inc uint64, f snapFrame) {
	g := h.Group(f.group)
	if g == nil {
		h.unknown(f.group, f.to, p.node)
		return
	}
	if g.self != f.to {
		h.stats.misaddressed.Add(1)
		return
	}
	answer := func(seq uint64, st snackStatus) {
		a := snack{id: f.id, group: f.group, from: f.to, to: f.from, seq: seq, status: st}
		h.cfg.Transport.Send(p.node, ClassSnapshot, a.append(h.header(frameSnack, p.node).append(nil)))
	}
	h.installs.turn <- struct{}{}
	defer func() { <-h.installs.turn }()
	in := h.installs.m[f.group]
	if in == nil || in.node != p.node || in.inc != inc || in.id != f.id {
		if f.kind != snapBegin || f.seq != 0 || in != nil && !in.yieldsTo(p, inc, &f) {
			answer(0, snackRefused) // of a transfer that this life knows nothing of, or has no ear for
			return
		}
		if st := h.beginInstall(g, p, inc, &f); st != snackNext {
			answer(0, st)
			return
		}
		answer(1, snackNext)
		return
	}
	if f.seq != in.next { // resent, or ahead of one that was lost
		answer(in.next, snackNext)
		return
	}
	if err := h.takeFrame(g, in, &f); err != nil {
		h.failInstall(g, err)
		answer(in.next, snackRefused)
		return
	}
	in.next++
	if f.kind != snapEnd {
		answer(in.next, snackNext)
		return
	}
	delete(h.installs.m, g.id)
	answer(in.next, snackDone)
}

// takeFrame executes the frame that comes next.
func (h *Host) takeFrame(g *Group, in *install, f *snapFrame) error {
	if f.kind == snapEnd {
		// Every frame, each once and in order, or the replica would be complete with
		// rows missing (D1).
		if sum, err := decodeSnapSum(f.payload); err != nil || sum != in.sum {
			return errors.New("frames were lost or repeated")
		}
		return h.finishInstall(g, in)
	}
	in.sum = f.addTo(in.sum)
	switch f.kind {
	case snapKeys:
		kvs, err := decodeKVs(f.payload)
		if err != nil {
			return err
		}
		return h.cfg.Store.InstallChunk(g.id, kvs)
	case snapMachine:
		if len(in.state)+len(f.payload) > maxMachineState {
			return errors.New("machine state too large")
		}
		in.state = append(in.state, f.payload...)
		return nil
	}
	return errFrame
}

// ask runs f on the group's worker and waits for it.
func (g *Group) ask(f func()) error {
	done := make(chan struct{})
	if !g.in.post(func() { f(); close(done) }) {
		return ErrStopped
	}
	g.host.sched.enqueue(g)
	select {
	case <-done:
		return nil
	case <-g.host.quit:
		return ErrStopped
	}
}

// beginInstall asks the worker to empty the replica, and the store to mark it.
func (h *Host) beginInstall(g *Group, p *peer, inc uint64, f *snapFrame) snackStatus {
	head, err := decodeSnapHead(f.payload)
	if err != nil {
		return snackRefused
	}
	cf, err := decodeConf(head.conf)
	if err != nil {
		h.log.Warn("refused a snapshot", "group", g.id, "err", err)
		return snackRefused
	}
	member := false
	for _, m := range cf.members {
		member = member || m.ID == g.self && m.Node == h.node
	}
	st := snackRefused
	err = g.ask(func() {
		switch {
		case !member || g.stopped.Load() || g.w.rn == nil || g.w.state == raft.StateLeader || f.term < g.w.hs.term:
		case !g.w.incomplete && (head.index <= g.w.applied || g.logHas(head.index, head.term)):
			st = snackDone // caught up another way
		case !g.w.incomplete && g.w.hs.commit > g.w.applied:
			// Busy applying what it has; the leader comes back.
		case g.empty(f.id) == nil:
			st = snackNext
		}
	})
	if err != nil {
		return snackRefused
	}
	if st != snackNext {
		return st
	}
	h.installs.m[g.id] = &install{node: p.node, inc: inc, id: f.id, term: f.term, head: head, next: 1, sum: f.addTo(0)}
	if err := h.cfg.Store.BeginInstall(g.id, g.self, head.spans); err != nil {
		h.failInstall(g, err)
		return snackRefused
	}
	if g.ask(func() { g.w.unmarked = false }) != nil {
		return snackRefused
	}
	return snackNext
}

// logHas reports whether the log has the entry that a snapshot ends with, and
// hence all before it. Then it may have more, acknowledged, that the snapshot,
// decided on earlier, would take away (R1).
func (g *Group) logHas(index, term uint64) bool {
	t, err := g.w.tail.Term(index)
	return err == nil && t == term
}

// empty makes the replica forget its log and data, keeping term and vote.
func (g *Group) empty(id uint64) error {
	g.w.unmarked = g.w.unmarked || !g.w.incomplete
	g.w.incomplete, g.w.installing = true, id
	g.mu.Lock()
	// In one step, as nothing that the leader closes may raise the safe time before
	// the snapshot is complete; the count last, as readers look at it first.
	g.mu.applied = 0
	g.mu.quiet, g.mu.pend = quiet{}, [2]closing{}
	g.safe.Store(0)
	g.installs.Add(1)
	g.mu.Unlock()
	return g.restartRaft(0, 0, hardState{term: g.w.hs.term, vote: g.w.hs.vote})
}

// restartRaft replaces the RawNode by one that starts behind index.
func (g *Group) restartRaft(index, term uint64, hs hardState) error {
	g.w.gen++
	g.w.outstanding = nil
	g.w.apply = nil
	g.w.tail.reset(index, term)
	g.w.tail.captured = index
	g.w.applied, g.w.appliedTerm, g.w.lastIndex = index, term, index
	g.w.timeoutNow = nil
	err := g.startRaft(hs)
	if err != nil {
		g.fatal(err)
		return err
	}
	g.leader.Store(0)
	g.host.setElecting(g, true)
	return nil
}

// receiveIncomplete says what an incomplete replica may hear: that there is a
// leader. It tells that what it lacks.
func (g *Group) receiveIncomplete(m *pb.Message) bool {
	switch m.GetType() {
	case pb.MsgHeartbeat:
		// What the leader believes to be here may be gone.
		m.Commit = new(uint64)
		g.needSnapshot(m)
		return true
	case pb.MsgApp:
		g.needSnapshot(m)
		return false
	}
	return false
}

func (g *Group) needSnapshot(m *pb.Message) {
	now := time.Now()
	from := g.member(m.GetFrom())
	if from == nil || from.peer == nil || now.Before(g.w.snapRetryAt) {
		return
	}
	g.w.snapRetryAt = now.Add(time.Second)
	a := snack{group: g.id, from: g.self, to: from.ID, status: snackNeed}
	g.host.cfg.Transport.Send(from.Node, ClassSnapshot, a.append(g.host.header(frameSnack, from.Node).append(nil)))
}

// finishInstall makes the snapshot the replica's state.
func (h *Host) finishInstall(g *Group, in *install) error {
	cf, err := decodeConf(in.head.conf)
	if err != nil {
		return err
	}
	var hs hardState
	frozen := false
	err = g.ask(func() {
		if g.w.rn == nil || !g.w.incomplete || g.w.installing != in.id {
			return
		}
		// Raft stands still, so that term and vote do not move under the store's feet.
		frozen, hs = true, g.w.hs
		g.w.rn = nil
	})
	if err != nil {
		return err
	}
	if !frozen {
		return errors.New("overtaken by another snapshot")
	}
	if in.head.term > hs.term {
		hs = hardState{term: in.head.term}
	}
	hs.commit = in.head.index
	ferr := h.cfg.Store.FinishInstall(g.id, storage.GroupState{
		Replica: g.self, Applied: in.head.index, Term: in.head.term,
		HardState: storage.HardState{Term: hs.term, Vote: hs.vote, Commit: hs.commit},
		Conf:      in.head.conf, Machine: in.state,
	})
	err = g.ask(func() {
		g.w.installing = 0
		if ferr != nil {
			ferr = errors.Join(ferr, g.restartRaft(0, 0, hardState{term: hs.term, vote: hs.vote}))
			return
		}
		if rerr := g.machine.Restore(in.state); rerr != nil {
			ferr = rerr
			g.fatal(rerr)
			return
		}
		g.w.conf, g.w.incomplete, g.w.changed = cf, false, true
		ferr = g.restartRaft(in.head.index, in.head.term, hs)
	})
	if err != nil {
		return err
	}
	if ferr == nil {
		h.log.Info("installed a snapshot", "group", g.id, "index", in.head.index)
	}
	return ferr
}

func (h *Host) failInstall(g *Group, err error) {
	h.log.Warn("snapshot not installed", "group", g.id, "err", err)
	delete(h.installs.m, g.id)
}
