package paxosgroup

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/storage"
	"github.com/spandb/spand/truetime"
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
)

// Group is this node's replica of one Raft group. Its exported methods may be
// called from any goroutine, but not from inside Proposal.Assigned.
type Group struct {
	host      *Host
	id        keys.GroupID
	self      keys.ReplicaID
	machine   StateMachine
	log       *slog.Logger
	members   []member
	solo      bool // the only voter
	unhurried bool // see Unhurried
	preferred keys.NodeID
	bucket    string // names the set of nodes with replicas, for quiescence
	budget    int

	sched atomic.Int32 // see scheduler

	leadTerm atomic.Uint64 // term in which this replica serves, 0 none
	lease    atomic.Int64  // lease end computed last, in the term led; grows
	floor    atomic.Int64  // mirrors mu.floor
	leader   atomic.Uint32 // node believed to lead
	due      atomic.Int64  // when to look for an election, in Unix nanoseconds
	safe     atomic.Int64  // closed timestamp reached as a follower
	installs atomic.Uint64 // snapshots that began to replace the data
	stopped  atomic.Bool
	inflight atomic.Int64 // bytes of commands queued and in flight

	in inbox

	// mu is the serial step (R3): assigning timestamps, closing them, ordering
	// commands. Taken after no other lock; host.mu and peer.mu may be taken under it.
	mu struct {
		sync.Mutex
		leader    bool   // Raft leader of term
		term      uint64 // Raft's, mirrored by the worker
		releasing bool   // leadership is being handed over: nothing new
		floor     truetime.Timestamp
		forts     []fort // per member

		queue    []flight           // assigned, not yet given to Raft
		takenMin truetime.Timestamp // lowest timestamp being given to Raft right now
		flights  []flight           // given to Raft in term, not yet applied
		parked   []parked           // wait for the lease to reach their timestamp
		last     uint64             // index of the last entry given to Raft

		applied  uint64
		quiesced bool // as leader

		// What followers know of the leader's closed timestamps.
		pend  [2]closing // oldest not yet applied, and the latest
		quiet quiet
	}

	w workerState
}

type member struct {
	keys.Replica
	peer *peer // nil for this node
}

// flight is a command between its serial step and its application.
type flight struct {
	p    *Proposal
	ts   truetime.Timestamp
	size int
}

type parked struct {
	p     *Proposal
	until time.Time
}

// closing says: everything at or below ts is at or below index.
type closing struct {
	ts    truetime.Timestamp
	term  uint64
	index uint64
}

// quiet marks a group as quiesced by its leader's node at index.
type quiet struct {
	peer  *peer
	inc   uint64
	term  uint64
	index uint64
}

// workerState belongs to whichever worker has the group at the moment.
type workerState struct {
	rn    *raft.RawNode
	tail  tail
	hs    hardState
	state raft.StateType
	lead  uint64 // replica id

	applied     uint64
	appliedTerm uint64
	conf        conf
	apply       []*pb.Message // MsgStorageApply to execute
	batch       storage.Batch
	lastIndex   uint64
	changed     bool // since the last Capture

	told map[uint64]told // of followers of an unhurried machine, by replica

	spare     letters  // for the next exchange of the inbox
	taken     []flight // likewise of mu.queue
	outcomes  []outcome
	synced    hardState // term and vote last given to the log
	leadSince time.Time
	ledFrom   uint64 // last index of the log when this replica was last elected
	// busySince is when a hand-over for balance was first put off for a machine that has
	// been busy ever since, zero: it was not.
	busySince time.Time

	gen         int // of rn: acknowledgements to an earlier one are void
	outstanding []*appendAck

	support  support
	ownBound truetime.Timestamp // largest lease end this replica claimed as a leader
	ownTerm  uint64

	incomplete bool // data missing or half received
	unmarked   bool // but the store does not know yet
	installing uint64

	campaignAt time.Time
	doubtAt    time.Time   // until then the leader's node has time to ask for a promise
	heir       bool        // holder of a split's parent, and the child has not had a leader yet
	heirTries  int         // attempts left that follow quickly: heir of a split whose voters are still opening
	timeoutNow *pb.Message // hand-over that waits for the release entry

	led         bool // machine.Lead was called, Follow not yet
	termStarted bool // the own term's entry is applied
	idle        int  // ticks without work
	startFloor  truetime.Timestamp
	transfer    *transfer
	sending     map[uint64]*sender  // snapshots under way, by replica
	lacking     map[uint64]struct{} // replicas that asked for a snapshot and do not have it yet
	pins        map[uint64]pin      // what the tail keeps for their receivers, by replica
	snapRetryAt time.Time
}

// told is what an unhurried machine's follower has been sent of its leader's commit index.
type told struct {
	term, commit uint64
	later        *pb.Message // says more, and waits for the next message to the follower; nil: nothing does
}

type hardState struct{ term, vote, commit uint64 }

// ID returns the group's id.
func (g *Group) ID() keys.GroupID { return g.id }

// Leader returns the node believed to lead, 0 when unknown.
func (g *Group) Leader() keys.NodeID { return keys.NodeID(g.leader.Load()) }

func (g *Group) notLeader() error {
	l := g.Leader()
	if l == g.host.node { // believed once, but not now
		l = 0
	}
	return &NotLeaderError{Group: g.id, Leader: l}
}

// Valid returns nil while this replica holds the lease of term right now
// (Now().Latest < lease end), else a *NotLeaderError.
func (g *Group) Valid(term uint64) error {
	if term == 0 || g.leadTerm.Load() != term {
		return g.notLeader()
	}
	now := g.host.clock.Now()
	if now.Latest == truetime.Max {
		return g.notLeader()
	}
	end := truetime.Timestamp(g.lease.Load())
	switch {
	case g.solo:
		end = now.Earliest.Add(g.host.cfg.SoloLease)
	case now.Latest >= end || end.Sub(now.Latest) < g.host.refresh:
		g.mu.Lock()
		end = g.extendLeaseLocked(now)
		g.mu.Unlock()
	}
	// The term once more: between the two loads the lease may have become that
	// of a later term.
	if now.Latest >= end && !BreakLease || g.leadTerm.Load() != term {
		return g.notLeader()
	}
	return nil
}

// LeaseEnd returns the end of term's lease: no other replica serves, or promises
// anything, before After(it). It lies above Now().Latest, and may move on. Like Valid it
// fails with a *NotLeaderError without the lease, and from the moment that a hand-over
// has begun.
func (g *Group) LeaseEnd(term uint64) (truetime.Timestamp, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.host.clock.Now()
	if now.Latest == truetime.Max {
		return 0, g.notLeader()
	}
	if _, err := g.serveLocked(term, now); err != nil {
		return 0, err
	}
	return g.extendLeaseLocked(now), nil
}

// PromisedUntil is the end of all that this replica has claimed and promised as a leader
// in this life of its node; what it hands down to the child of a split as
// GroupConfig.InheritedUntil.
func (g *Group) PromisedUntil() truetime.Timestamp {
	return truetime.Timestamp(max(g.lease.Load(), g.floor.Load()))
}

// Promise raises the group's floor to t under the lease of term: no command is
// assigned a timestamp <= t afterwards (R3).
func (g *Group) Promise(term uint64, t truetime.Timestamp) error {
	if t <= truetime.Timestamp(g.floor.Load()) {
		return g.Valid(term)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	end, err := g.serveLocked(term, g.host.clock.Now())
	if err != nil {
		return err
	}
	if t >= end && !BreakLease && !BreakLeaseEnd {
		return &AheadError{Group: g.id, TS: t, LeaseEnd: end}
	}
	g.raiseLocked(t)
	return nil
}

// serveLocked returns the lease end if the replica may serve under term.
func (g *Group) serveLocked(term uint64, now truetime.Interval) (truetime.Timestamp, error) {
	if term == 0 || g.leadTerm.Load() != term {
		return 0, g.notLeader()
	}
	end := truetime.Timestamp(g.lease.Load())
	if now.Latest >= end || end.Sub(now.Latest) < g.host.refresh {
		end = g.extendLeaseLocked(now)
	}
	if now.Latest >= end && !BreakLease {
		return 0, g.notLeader()
	}
	return end, nil
}

func (g *Group) raiseLocked(t truetime.Timestamp) {
	if t > g.mu.floor {
		g.mu.floor = t
		g.floor.Store(int64(t))
	}
}

// Propose asks the group to replicate a command; see Proposal. It does not block.
func (g *Group) Propose(p *Proposal) {
	if len(p.Data) > MaxCommand {
		p.fail(ErrTooLarge)
		return
	}
	if g.stopped.Load() {
		p.fail(ErrStopped)
		return
	}
	if sp := g.host.cfg.Store.Space(); sp != storage.SpaceAmple && (!p.Frees || sp == storage.SpaceNone) {
		p.fail(ErrDiskFull)
		return
	}
	g.mu.Lock()
	err, wait := g.assignLocked(p, g.host.clock.Now())
	if wait {
		g.parkLocked(parked{p, time.Now().Add(g.host.cfg.LeaseDuration)})
	}
	wake := err == nil && g.mu.quiesced
	if wake {
		g.wakeLocked()
	}
	g.mu.Unlock()
	switch {
	case err != nil:
		p.fail(err)
	case wait:
		g.host.await(g)
	default:
		g.host.sched.enqueue(g)
	}
}

// Tight reports that the disk is so full that even commands which free something (Proposal.Frees)
// should take nothing on the way.
func (g *Group) Tight() bool { return g.host.cfg.Store.Space() >= storage.SpaceTight }

// assignLocked is the serial step for one command. wait means that its timestamp
// lies beyond the lease end, which will move.
func (g *Group) assignLocked(p *Proposal, now truetime.Interval) (err error, wait bool) {
	end, err := g.serveLocked(p.Term, now)
	if err != nil {
		return err, false
	}
	size := p.size()
	if n := g.inflight.Load(); n > 0 && n+int64(size) > int64(g.budget) {
		return ErrOverloaded, false
	}
	var s truetime.Timestamp
	if p.Timestamped {
		if g.mu.quiesced { // the floor must clear what was closed meanwhile
			g.wakeLocked()
		}
		latest := now.Latest
		if BreakStamp {
			latest = now.Earliest
		}
		s = max(p.MinTS, latest, g.mu.floor+1)
		if p.MaxTS != 0 && s > p.MaxTS && !BreakBound {
			return ErrTooLate, false
		}
		if s >= end && !BreakLeaseEnd {
			if end = g.extendLeaseLocked(now); s >= end {
				return nil, true
			}
		}
		// Told first: Promise lets a reader at s pass without the lock once the floor is
		// there, and the reader must find out that s is taken.
		if p.Assigned != nil {
			p.Assigned(s)
		}
		g.raiseLocked(s)
	}
	g.inflight.Add(int64(size))
	g.mu.queue = append(g.mu.queue, flight{p, s, size})
	return nil, false
}

// parkLocked has a command wait for the lease; it counts as queued.
func (g *Group) parkLocked(k parked) {
	g.inflight.Add(int64(k.p.size()))
	g.mu.parked = append(g.mu.parked, k)
}

// unparkLocked takes out all that wait.
func (g *Group) unparkLocked() []parked {
	ks := g.mu.parked
	g.mu.parked = nil
	for _, k := range ks {
		g.inflight.Add(-int64(k.p.size()))
	}
	return ks
}

// retryParked takes up commands whose timestamp the lease may have reached.
func (g *Group) retryParked() {
	g.mu.Lock()
	waiting := g.unparkLocked()
	if len(waiting) == 0 {
		g.mu.Unlock()
		return
	}
	now, iv := time.Now(), g.host.clock.Now()
	type failed struct {
		p   *Proposal
		err error
	}
	var fails []failed
	for _, k := range waiting {
		err, wait := g.assignLocked(k.p, iv)
		switch {
		case err != nil:
			fails = append(fails, failed{k.p, err})
		case wait && now.After(k.until):
			fails = append(fails, failed{k.p, g.notLeader()})
		case wait:
			g.parkLocked(k)
		}
	}
	again := len(g.mu.parked) > 0
	g.mu.Unlock()
	for _, f := range fails {
		f.p.fail(f.err)
	}
	if again {
		g.host.await(g)
	}
}

// size is what the command counts for in the group's budget.
func (p *Proposal) size() int { return len(p.Data) + 64 }

func (p *Proposal) fail(err error) {
	if p.Done != nil {
		p.Done(nil, 0, err)
	}
}

// Installs counts the snapshots that began to replace this replica's data. Read
// before SafeTime and again after the data: when it has changed, what was read may
// have been removed under the reader's eyes (X4).
func (g *Group) Installs() uint64 { return g.installs.Load() }

// SafeTime is the highest timestamp such that every command at or below it is
// applied here and no command will ever be assigned one at or below it (X4).
func (g *Group) SafeTime() truetime.Timestamp {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.safeLocked()
}

func (g *Group) safeLocked() truetime.Timestamp {
	safe := truetime.Timestamp(g.safe.Load())
	if g.stopped.Load() {
		return safe
	}
	if g.leadTerm.Load() != 0 {
		return max(safe, g.leaderSafeLocked())
	}
	if q := g.mu.quiet; q.peer != nil && q.term == g.mu.term && g.mu.applied >= q.index {
		if c := q.peer.closed.Load(); c != nil && c.inc == q.inc {
			safe = max(safe, c.ts)
		}
	}
	return safe
}

// keepSafeLocked makes the safe time outlive what it rests on now: a quiesced leader's
// word, a term. What is closed and applied stays so, whoever leads next (R3), and the
// last replica alive can answer from it.
func (g *Group) keepSafeLocked() {
	if s := int64(g.safeLocked()); s > g.safe.Load() {
		g.safe.Store(s)
	}
}

// leaderSafeLocked: below the floor nothing is assigned any more, and what is in
// flight below it is the oldest flight and its followers, in timestamp order.
func (g *Group) leaderSafeLocked() truetime.Timestamp {
	t := g.mu.floor
	if g.mu.quiesced {
		t = max(t, g.host.nodeClosed())
	}
	if g.mu.takenMin != 0 {
		t = min(t, g.mu.takenMin-1)
	}
	for _, fs := range [2][]flight{g.mu.flights, g.mu.queue} {
		for i := range fs {
			if fs[i].ts != 0 {
				t = min(t, fs[i].ts-1)
				break
			}
		}
	}
	return t
}

// closeLocked closes the highest timestamp that it can as a leader and returns it
// with the index behind which it is usable; 0 when the lease does not allow it.
func (g *Group) closeLocked(now truetime.Interval) closing {
	if g.leadTerm.Load() == 0 || !g.mu.leader {
		return closing{}
	}
	// Commands get timestamps >= Now().Latest anyway, so closing up to it costs
	// writers nothing: there is no reason to trail.
	t := now.Latest
	if now.Latest == truetime.Max || t >= g.extendLeaseLocked(now) {
		return closing{}
	}
	g.raiseLocked(t)
	t = g.mu.floor
	if g.mu.takenMin != 0 {
		t = min(t, g.mu.takenMin-1)
	}
	for i := range g.mu.queue {
		if ts := g.mu.queue[i].ts; ts != 0 {
			t = min(t, ts-1)
			break
		}
	}
	return closing{ts: t, term: g.mu.term, index: g.mu.last}
}

// noteClosed records a closed timestamp received from the leader.
func (g *Group) noteClosed(c closing) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.keepSafeLocked()
	g.mu.quiet = quiet{}
	if c.ts == 0 || c.term != g.mu.term || g.mu.leader {
		return
	}
	if g.mu.pend[0].ts == 0 {
		g.mu.pend[0] = c
	} else if c.ts > g.mu.pend[1].ts {
		g.mu.pend[1] = c
	}
	g.promoteLocked()
}

// promoteLocked raises the follower's safe time to what application has reached.
func (g *Group) promoteLocked() {
	for g.mu.pend[0].ts != 0 {
		c := g.mu.pend[0]
		if c.term == g.mu.term {
			if g.mu.applied < c.index && !BreakSafeTime {
				return
			}
			if int64(c.ts) > g.safe.Load() {
				g.safe.Store(int64(c.ts))
			}
		}
		g.mu.pend[0], g.mu.pend[1] = g.mu.pend[1], closing{}
	}
}

// AheadError refuses a promise beyond the lease end: a reader whose clock runs
// far ahead of the leader's.
type AheadError struct {
	Group        keys.GroupID
	TS, LeaseEnd truetime.Timestamp
}

func (e *AheadError) Error() string {
	return "paxosgroup: timestamp " + e.TS.Time().Format(time.RFC3339Nano) + " lies beyond the lease end " + e.LeaseEnd.Time().Format(time.RFC3339Nano)
}
