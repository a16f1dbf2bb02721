package paxosgroup

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/storage"
	"github.com/spandb/spand/truetime"
)

// Host runs all the groups of a node. See the package's comment for goroutines
// and lock order.
type Host struct {
	cfg     Config
	node    keys.NodeID
	clock   truetime.Clock
	log     *slog.Logger
	cluster uint64

	started      truetime.Interval  // the clock at NewHost
	abstainUntil truetime.Timestamp // no votes before After of it; 0 in the node's first life
	refresh      time.Duration      // remaining lease below which it is computed anew

	sched    scheduler
	helper   helper
	quit     chan struct{}
	kick     chan struct{} // an election is due earlier than run knows
	wg       sync.WaitGroup
	running  atomic.Bool
	closed   atomic.Bool
	draining atomic.Bool
	beatNow  atomic.Bool   // ping the peers without waiting for the next turn
	ponged   chan struct{} // while draining: a ping was answered
	buf      []*Group      // of run

	groups struct {
		sync.RWMutex
		m map[keys.GroupID]*Group
	}
	peers struct {
		sync.RWMutex
		m map[keys.NodeID]*peer
		l []*peer
	}
	mu struct {
		sync.Mutex
		census
	}
	rand struct {
		sync.Mutex
	}
	// spawning orders goRun against Close.
	spawning struct {
		sync.Mutex
		closed bool
	}
	// after serializes what runs on groups once the workers are gone.
	after sync.Mutex

	tails     atomic.Int64 // bytes kept in all groups' tails
	senders   atomic.Int32
	snapID    atomic.Uint64
	snapshots sync.Map // transfer id -> *sender
	installs  struct {
		turn chan struct{} // capacity 1: a semaphore, held across I/O; it guards m
		m    map[keys.GroupID]*install
	}
	unknowns struct {
		sync.Mutex
		m map[keys.GroupID]time.Time
	}
	stats stats
}

type stats struct {
	badFrames, misaddressed, votesRefused, implausible, staleCommands, clockSuspect, wakes, quiesced atomic.Uint64
}

// Stats counts what a host dropped and refused since its start.
type Stats struct {
	BadFrames     uint64 // malformed, or of another cluster, node or incarnation
	Misaddressed  uint64 // for a replica that is not here
	VotesRefused  uint64 // because of a promise (R2)
	Implausible   uint64 // timestamps too far ahead (T2)
	StaleCommands uint64 // refused at apply (R4)
	ClockSuspect  uint64 // pongs whose interval contradicts ours (T2)
	Wakes         uint64 // ends of quiescence
	Quiesced      uint64 // begins of it
}

// Stats returns the counters.
func (h *Host) Stats() Stats {
	s := &h.stats
	return Stats{s.badFrames.Load(), s.misaddressed.Load(), s.votesRefused.Load(), s.implausible.Load(),
		s.staleCommands.Load(), s.clockSuspect.Load(), s.wakes.Load(), s.quiesced.Load()}
}

// NewHost makes a host. Open its groups, then Start it.
func NewHost(c Config) (*Host, error) {
	if err := c.setDefaults(); err != nil {
		return nil, err
	}
	h := &Host{
		cfg: c, node: c.Node, clock: c.Clock, log: c.Logger.With("room", "paxosgroup"),
		cluster: clusterHash(c.Cluster), started: c.Clock.Now(), refresh: c.LeaseDuration / 2,
		quit: make(chan struct{}), kick: make(chan struct{}, 1), ponged: make(chan struct{}, 1),
	}
	if h.started.Latest == truetime.Max {
		return nil, fmt.Errorf("paxosgroup: cannot start on a clock that does not vouch for the time: %w", c.Clock.Err())
	}
	if !c.FirstLife {
		h.abstainUntil = h.started.Latest.Add(c.LeaseDuration)
	}
	h.sched.init(c.Workers, &h.wg)
	h.helper.out = newOutbox(h)
	h.groups.m = make(map[keys.GroupID]*Group)
	h.peers.m = make(map[keys.NodeID]*peer)
	h.installs.turn = make(chan struct{}, 1)
	h.installs.m = make(map[keys.GroupID]*install)
	h.unknowns.m = make(map[keys.GroupID]time.Time)
	h.mu.active, h.mu.electing = make(map[*Group]struct{}), make(map[*Group]struct{})
	h.mu.awaiting, h.mu.buckets = make(map[*Group]struct{}), make(map[string]*bucket)
	// Growing within this life, and not those of another: acknowledgements to a
	// transfer of an earlier life must find nothing.
	h.snapID.Store(c.Rand.Uint64() >> 1)
	for _, n := range c.Nodes {
		if n != c.Node {
			h.peer(n)
		}
	}
	return h, nil
}

// Start begins to serve: workers, heartbeats, the transport's handler.
func (h *Host) Start() {
	if h.running.Swap(true) {
		return
	}
	if h.cfg.Transport != nil {
		h.cfg.Transport.Handle(inlet{h})
	}
	h.wg.Add(h.cfg.Workers + 1)
	for range h.cfg.Workers {
		go h.work()
	}
	go h.run()
	// Whoever may campaign at once does so now rather than at the first tick.
	h.eachGroup(func(g *Group) {
		g.in.flag(func(l *letters) { l.tick = true })
		h.sched.enqueue(g)
	})
}

// Open adds a replica. It may be called before or after Start, and from a state
// machine's Apply (a split). For a group that is open already it returns that
// with ErrOpen.
func (h *Host) Open(c GroupConfig) (*Group, error) {
	if h.closed.Load() {
		return nil, ErrStopped
	}
	if c.ID == 0 || c.Replica == 0 || c.Machine == nil {
		return nil, errors.New("paxosgroup: a group needs an id, a replica id and a machine")
	}
	if g := h.Group(c.ID); g != nil {
		return g, ErrOpen
	}
	if c.Recovered != nil && c.Recovered.Incomplete {
		c.Incomplete = true
	}
	g := &Group{
		host: h, id: c.ID, self: c.Replica, machine: c.Machine, preferred: c.Preferred,
		log: h.log.With("group", uint64(c.ID)), budget: h.cfg.GroupBudget,
	}
	_, g.unhurried = c.Machine.(Unhurried)
	if err := g.open(c); err != nil {
		return nil, err
	}
	g.w.changed = true
	h.groups.Lock()
	if old := h.groups.m[c.ID]; old != nil {
		h.groups.Unlock()
		return old, ErrOpen
	}
	h.groups.m[c.ID] = g
	h.groups.Unlock()
	h.setElecting(g, true)
	if h.running.Load() {
		g.in.flag(func(l *letters) { l.tick = true })
		h.sched.enqueue(g)
	}
	return g, nil
}

// ErrOpen says that the group is open on this node already.
var ErrOpen = errors.New("paxosgroup: group is open already")

// Remove closes a replica and takes it out of the host; its data is the
// caller's to remove (storage's tombstone).
func (h *Host) Remove(id keys.GroupID) error {
	g := h.Group(id)
	if g == nil {
		return errNoGroup
	}
	err := g.ask(func() {
		g.halt(ErrStopped)
		g.w.tail.reset(g.w.applied, g.w.appliedTerm)
	})
	h.groups.Lock()
	delete(h.groups.m, id)
	h.groups.Unlock()
	h.installs.turn <- struct{}{}
	delete(h.installs.m, id)
	<-h.installs.turn
	return err
}

// Group returns an open group, or nil.
func (h *Host) Group(id keys.GroupID) *Group {
	h.groups.RLock()
	defer h.groups.RUnlock()
	return h.groups.m[id]
}

func (h *Host) eachGroup(f func(*Group)) {
	h.groups.RLock()
	gs := make([]*Group, 0, len(h.groups.m))
	for _, g := range h.groups.m {
		gs = append(gs, g)
	}
	h.groups.RUnlock()
	for _, g := range gs {
		f(g)
	}
}

func (h *Host) peer(n keys.NodeID) *peer {
	h.peers.RLock()
	p := h.peers.m[n]
	h.peers.RUnlock()
	if p != nil {
		return p
	}
	h.peers.Lock()
	defer h.peers.Unlock()
	if p = h.peers.m[n]; p == nil {
		p = newPeer(n, h.nodeName(n))
		h.peers.m[n] = p
		h.peers.l = append(h.peers.l[:len(h.peers.l):len(h.peers.l)], p)
	}
	return p
}

func (h *Host) allPeers() []*peer {
	h.peers.RLock()
	defer h.peers.RUnlock()
	return h.peers.l
}

func (h *Host) nodeName(n keys.NodeID) string {
	if f := h.cfg.Name; f != nil {
		return f(n)
	}
	return fmt.Sprintf("node %d", n)
}

func (h *Host) header(k frameKind, to keys.NodeID) frameHeader {
	return frameHeader{kind: k, cluster: h.cluster, from: h.node, to: to, inc: h.cfg.Incarnation}
}

// receive takes a frame. Groups for which it brings Raft's messages are given to enqueue.
func (h *Host) receive(from keys.NodeID, class Class, frame []byte, enqueue func(*Group)) {
	if h.closed.Load() {
		return
	}
	hd, r, err := decodeHeader(frame)
	h.peers.RLock()
	p := h.peers.m[from]
	h.peers.RUnlock()
	if err != nil || hd.cluster != h.cluster || hd.from != from || hd.to != h.node || p == nil || !p.meet(hd.inc) {
		h.badFrame(from, class, err)
		return
	}
	switch {
	case class == ClassHeartbeat && hd.kind == framePing:
		var pg ping
		if pg, err = decodePing(r); err == nil {
			h.receivePing(p, hd.inc, pg)
		}
	case class == ClassHeartbeat && hd.kind == framePong:
		var po pong
		if po, err = decodePong(r); err == nil {
			h.receivePong(p, hd.inc, po)
		}
	case class == ClassRaft && hd.kind == frameRaft:
		for len(r.b) > 0 && err == nil {
			err = h.receiveRaft(p, hd.inc, &r, enqueue)
		}
	case class == ClassSnapshot && hd.kind == frameSnap:
		var f snapFrame
		if f, err = decodeSnapFrame(r); err == nil {
			h.receiveSnap(p, hd.inc, f)
		}
	case class == ClassSnapshot && hd.kind == frameSnack:
		var a snack
		if a, err = decodeSnack(r); err == nil {
			h.receiveSnack(p, a)
		}
	default:
		err = errFrame
	}
	if err != nil {
		h.badFrame(from, class, err)
	}
}

func (h *Host) badFrame(from keys.NodeID, class Class, err error) {
	if h.stats.badFrames.Add(1)%256 == 1 {
		h.log.Warn("dropped a frame", "from", from, "class", class, "err", err)
	}
}

func (h *Host) receiveRaft(p *peer, inc uint64, r *reader, enqueue func(*Group)) error {
	gid, stamp, m, err := nextMessage(r)
	if err != nil {
		return err
	}
	g := h.Group(gid)
	if g == nil {
		h.stats.misaddressed.Add(1)
		h.unknown(gid, keys.ReplicaID(m.GetTo()), p.node)
		return nil
	}
	if mem := g.member(m.GetFrom()); mem == nil || mem.Node != p.node {
		h.stats.misaddressed.Add(1)
		return nil
	}
	if g.in.message(inbound{m: m, node: p.node, inc: inc, stamp: stamp}) {
		enqueue(g)
	}
	return nil
}

// meet notes the peer's incarnation; false for a frame of an earlier one. A new
// incarnation leads nothing: what was promised to the one before ends by itself.
func (p *peer) meet(inc uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if inc < p.mu.inc {
		return false
	}
	if inc > p.mu.inc {
		if p.mu.inc != 0 {
			p.endEpochLocked()
			p.mu.since = time.Now()
		}
		p.mu.inc, p.mu.pinged, p.mu.draining = inc, 0, false
	}
	return true
}

// unknown tells the node of messages for a group that is not open here.
func (h *Host) unknown(g keys.GroupID, r keys.ReplicaID, from keys.NodeID) {
	f := h.cfg.UnknownGroup
	if f == nil {
		return
	}
	now := time.Now()
	h.unknowns.Lock()
	last, seen := h.unknowns.m[g]
	fresh := !seen || now.Sub(last) >= time.Second
	if fresh {
		if len(h.unknowns.m) > 1024 {
			clear(h.unknowns.m)
		}
		h.unknowns.m[g] = now
	}
	h.unknowns.Unlock()
	if fresh {
		f(g, r, from)
	}
}

func (h *Host) jitter(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	h.rand.Lock()
	defer h.rand.Unlock()
	return time.Duration(h.cfg.Rand.Int64N(int64(d)))
}

func (h *Host) acquireSender() bool {
	for {
		n := h.senders.Load()
		if n >= maxSenders {
			return false
		}
		if h.senders.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (h *Host) releaseSender() { h.senders.Add(-1) }

// goRun runs f as a goroutine that Close waits for; f must end when quit closes.
func (h *Host) goRun(f func()) {
	h.spawning.Lock()
	defer h.spawning.Unlock()
	if h.spawning.closed {
		f() // quit is closed: it ends at once
		return
	}
	h.wg.Add(1)
	go func() {
		defer h.wg.Done()
		f()
	}()
}

// Close stops the host without handing anything over (Drain does) and fails what
// is in flight. Groups, Capture and CarryForward go on working, for a last
// checkpoint.
func (h *Host) Close() {
	if h.closed.Swap(true) {
		return
	}
	close(h.quit)
	h.sched.close()
	h.spawning.Lock()
	h.spawning.closed = true
	h.spawning.Unlock()
	h.wg.Wait()
	h.after.Lock()
	defer h.after.Unlock()
	h.eachGroup(func(g *Group) {
		g.in.mu.Lock()
		g.in.dead = true
		reqs := g.in.box.reqs
		g.in.box = letters{}
		g.in.mu.Unlock()
		for _, f := range reqs {
			f()
		}
		g.shut()
	})
}

// shut fails everything under way; the replica's state stays readable.
func (g *Group) shut() {
	g.stopped.Store(true)
	g.mu.Lock()
	was := g.mu.leader
	g.mu.Unlock()
	if was {
		g.stepDown()
	}
	g.finishTransfer(ErrStopped)
	g.leader.Store(0)
}

// Groups implements storage.Source.
func (h *Host) Groups() []keys.GroupID {
	h.groups.RLock()
	defer h.groups.RUnlock()
	ids := make([]keys.GroupID, 0, len(h.groups.m))
	for id := range h.groups.m {
		ids = append(ids, id)
	}
	return ids
}

// between runs f on g between two commands, whether or not workers run.
func (h *Host) between(g *Group, do func()) bool {
	var once sync.Once // a request that Close overtakes may be executed by either side
	f := func() { once.Do(do) }
	if h.running.Load() && g.ask(f) == nil {
		return true
	}
	if h.running.Load() && !h.closed.Load() {
		return false
	}
	h.wg.Wait() // the workers are gone, or never were
	h.after.Lock()
	defer h.after.Unlock()
	f()
	return true
}

// Capture implements storage.Source.
func (h *Host) Capture(id keys.GroupID) (s storage.GroupState, unchanged, ok bool) {
	g := h.Group(id)
	if g == nil {
		return s, false, false
	}
	if !h.between(g, func() { s, unchanged, ok = g.capture() }) {
		return storage.GroupState{}, false, false
	}
	return s, unchanged, ok
}

// CarryForward implements storage.Source.
func (h *Host) CarryForward(id keys.GroupID, index uint64) error {
	g := h.Group(id)
	if g == nil {
		return errNoGroup
	}
	done := make(chan error, 1)
	if !h.between(g, func() { g.carryForward(index, func(err error) { done <- err }) }) {
		return ErrStopped
	}
	return <-done
}

var _ storage.Source = (*Host)(nil)
