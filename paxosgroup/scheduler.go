package paxosgroup

import (
	"sync"

	"github.com/spandb/spand/internal/crashpoint"
	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/storage"
	pb "go.etcd.io/raft/v3/raftpb"
)

// Scheduling states of a group: one worker at a time has it, and input that
// arrives meanwhile makes it come round again.
const (
	schedIdle int32 = iota
	schedQueued
	schedRunning
	schedAgain
)

// scheduler hands groups with input to the workers, and to helpers.
//
// W1: a queued group is never left with nobody to come for it. Whoever queues one signals a worker,
// unless he comes himself: to pop or helpOn when he has written the log, to offer when he has
// collected. Whoever comes and does not take all signals a worker; one that is busy comes by itself.
type scheduler struct {
	mu struct {
		sync.Mutex
		queue   []*Group
		atWork  int  // workers and helpers in the midst of a round, but for those that wait for the disk
		helping bool // one helper at a time
		closed  bool
	}
	cond    *sync.Cond
	workers int
	wg      *sync.WaitGroup // counts the helper too
}

// maxRound bounds the groups that a worker takes at once: enough to fill frames
// and log records when thousands wake, few enough to share among workers.
const maxRound = 64

func (s *scheduler) init(workers int, wg *sync.WaitGroup) {
	s.cond, s.workers, s.wg = sync.NewCond(&s.mu), workers, wg
}

// enqueue has a worker come for g.
func (s *scheduler) enqueue(g *Group) {
	if g.comesRound() {
		s.push(g, nil)
		s.cond.Signal()
	}
}

// enqueueFor wakes nobody while whoever o belongs to is about to come for more.
func (s *scheduler) enqueueFor(g *Group, o *outbox) {
	if g.comesRound() && s.push(g, o) {
		s.cond.Signal()
	}
}

// collect wakes nobody: the caller calls offer afterwards, whatever happens.
func (s *scheduler) collect(g *Group) {
	if g.comesRound() {
		s.push(g, nil)
	}
}

// comesRound marks that g has input; true when it is to be queued for that.
func (g *Group) comesRound() bool {
	for {
		switch st := g.sched.Load(); st {
		case schedIdle:
			if g.sched.CompareAndSwap(schedIdle, schedQueued) {
				return true
			}
		case schedRunning:
			if g.sched.CompareAndSwap(schedRunning, schedAgain) {
				return false
			}
		default:
			return false
		}
	}
}

// push queues g; false if o's owner will come for it.
func (s *scheduler) push(g *Group, o *outbox) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.queue = append(s.mu.queue, g)
	return o == nil || !o.lending
}

// lend says that o's owner has begun to write the log, and comes for more as soon as it has.
func (s *scheduler) lend(o *outbox) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o.lending = true
	s.restLocked(o)
}

// restLocked notes that o's owner is not in the midst of a round any more.
func (s *scheduler) restLocked(o *outbox) {
	if o.atWork {
		o.atWork = false
		s.mu.atWork--
	}
}

// pop waits for groups; false when the scheduler is closed.
func (s *scheduler) pop(o *outbox, buf []*Group) ([]*Group, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.restLocked(o)
	o.lending = false
	for len(s.mu.queue) == 0 {
		if s.mu.closed {
			return nil, false
		}
		s.cond.Wait()
	}
	if s.mu.closed {
		return nil, false
	}
	buf = s.takeLocked(o, buf, min(maxRound, (len(s.mu.queue)+s.workers-1)/s.workers))
	if len(s.mu.queue) > 0 {
		s.cond.Signal() // not every push did
	}
	return buf, true
}

// takeLocked begins a round with the first n groups of the queue.
func (s *scheduler) takeLocked(o *outbox, buf []*Group, n int) []*Group {
	o.atWork = true
	s.mu.atWork++
	buf = append(buf[:0], s.mu.queue[:n]...)
	rest := copy(s.mu.queue, s.mu.queue[n:])
	clear(s.mu.queue[rest:])
	s.mu.queue = s.mu.queue[:rest]
	return buf
}

func (s *scheduler) done(g *Group) {
	if !g.sched.CompareAndSwap(schedRunning, schedIdle) {
		g.sched.Store(schedQueued)
		s.push(g, nil)
		s.cond.Signal()
	}
}

func (s *scheduler) close() {
	s.mu.Lock()
	s.mu.closed = true
	s.mu.Unlock()
	s.cond.Broadcast()
}

// work is a worker's life; it ends when the scheduler closes.
func (h *Host) work() {
	defer h.wg.Done()
	o := newOutbox(h)
	var buf []*Group
	for {
		gs, ok := h.sched.pop(o, buf)
		if !ok {
			return
		}
		h.round(o, gs, h.sched.workers > 1)
		buf = gs
	}
}

// round advances every group (messages out, log records queued) and applies what is committed.
// While there is much to apply the log's writer works in parallel; else o's owner, who has let go
// of the groups, may write the log himself, if mayWait, and finds the acknowledgements when he
// comes for more. The groups are cleared from gs.
func (h *Host) round(o *outbox, gs []*Group, mayWait bool) {
	load := 0
	for _, g := range gs {
		g.sched.Store(schedRunning)
		g.advance(o)
		load += g.applyLoad()
	}
	o.sendFrames()
	lend := load <= lightLoad && mayWait
	written := o.log(lend)
	for _, g := range gs {
		g.applyCommitted()
		h.sched.done(g)
	}
	if written && lend {
		h.cfg.Store.WriteQueued(o.begun)
	}
	clear(gs)
}

// lightLoad, in bytes of commands, may be applied before the log is written: some tens of
// microseconds.
const lightLoad = 16 << 10

// outbox gathers what one round of a worker or helper sends: one log append, one frame per peer.
type outbox struct {
	host   *Host
	recs   []storage.GroupRecord
	acks   []*appendAck
	frames map[*peer][]byte
	begun  func() // for Store.WriteQueued
	// atWork: its owner is in the midst of a round. Guarded by the scheduler's mutex.
	atWork bool
	// lending: the worker writes the log, and comes for more as soon as it has. From the moment
	// that this is set it is the one who runs the callbacks, so one of its own may leave the
	// group to it. Earlier, while the writer may still run one, that group would wait for all of
	// the worker's write. Guarded by the scheduler's mutex.
	lending bool
}

func newOutbox(h *Host) *outbox {
	o := &outbox{host: h, frames: make(map[*peer][]byte)}
	o.begun = func() { h.sched.lend(o) }
	return o
}

// appendAck is delivered to its group when its record is durable.
type appendAck struct {
	g         *Group
	gen       int
	responses []*pb.Message
}

// frameLimit is where a Raft frame is sent and a new one begun.
const frameLimit = 512 << 10

func (o *outbox) message(p *peer, g keys.GroupID, stamp uint64, m *pb.Message) {
	b := o.frames[p]
	if len(b) == 0 {
		b = o.host.header(frameRaft, p.node).append(make([]byte, 0, 512))
	}
	b = appendMessage(b, g, stamp, m)
	if len(b) >= frameLimit {
		o.host.cfg.Transport.Send(p.node, ClassRaft, b)
		b = nil
	}
	o.frames[p] = b
}

func (o *outbox) sendFrames() {
	for p, b := range o.frames {
		if len(b) > 0 {
			o.host.cfg.Transport.Send(p.node, ClassRaft, b)
			o.frames[p] = nil
		}
	}
}

// log queues the round's records, and has them written, unless lend says that the
// worker will; false when there are none.
func (o *outbox) log(lend bool) bool {
	if len(o.recs) == 0 {
		return false
	}
	recs, acks, h := o.recs, o.acks, o.host
	o.recs, o.acks = nil, nil
	done := func(err error) {
		if err != nil {
			return // fatal to the process (R1); nothing is acknowledged meanwhile
		}
		crashpoint.Pass(crashpoint.LogSynced)
		for _, a := range acks {
			a.g.in.ack(a)
			h.sched.enqueueFor(a.g, o)
		}
	}
	if lend {
		h.cfg.Store.Queue(recs, done)
	} else {
		h.cfg.Store.Append(recs, done)
	}
	return true
}

// inbox is a group's input between two rounds.
type inbox struct {
	mu   sync.Mutex
	box  letters
	dead bool
}

type letters struct {
	msgs []inbound
	acks []*appendAck
	reqs []func()
	// tick: a tick is due. lost: a promise to the leader's node has run out.
	// check: a lease may have grown.
	tick, lost, check bool
}

// maxInbox bounds the messages that wait; Raft copes with loss.
const maxInbox = 4096

func (in *inbox) message(m inbound) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.dead || len(in.box.msgs) >= maxInbox {
		return false
	}
	in.box.msgs = append(in.box.msgs, m)
	return true
}

func (in *inbox) ack(a *appendAck) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.box.acks = append(in.box.acks, a)
}

// post has f run by the group's worker between two commands; false when the
// group is closed and f will not run.
func (in *inbox) post(f func()) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.dead {
		return false
	}
	in.box.reqs = append(in.box.reqs, f)
	return true
}

func (in *inbox) flag(set func(*letters)) {
	in.mu.Lock()
	defer in.mu.Unlock()
	set(&in.box)
}

// take exchanges the box for an empty one.
func (in *inbox) take(empty letters) letters {
	clear(empty.msgs)
	clear(empty.acks)
	clear(empty.reqs)
	empty = letters{msgs: empty.msgs[:0], acks: empty.acks[:0], reqs: empty.reqs[:0]}
	in.mu.Lock()
	defer in.mu.Unlock()
	b := in.box
	in.box = empty
	return b
}
