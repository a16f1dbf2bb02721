package paxosgroup

import (
	"slices"
	"strings"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/truetime"
)

// Quiescence. A leader's group in which nothing is under way leaves the active
// set: no ticks, no Raft heartbeats, no line of its own in pings. What keeps it
// alive is between the nodes: promises keep its lease, and the ping's closed
// timestamp is its closed timestamp.
//
// A ping states the truth about every group of the sender by itself: active
// groups are listed in each one, quiesced and resigned groups until a ping that
// listed them is acknowledged. A group not listed is as the receiver last heard.

// census says which groups need attention. Its mutex is taken under Group.mu and
// taken before none.
type census struct {
	active   map[*Group]struct{} // led here and awake
	electing map[*Group]struct{} // no leader known, or one that no promise's end will tell of
	awaiting map[*Group]struct{} // wait for a lease to grow
	buckets  map[string]*bucket  // led here and quiesced, by nodes with replicas
	closed   truetime.Timestamp  // closed for all quiesced groups
}

type bucket struct {
	any    *Group // any member: the lease of one is the lease of all
	groups map[*Group]struct{}
}

func bucketName(ms []member) string {
	var b strings.Builder
	ns := make([]keys.NodeID, 0, len(ms))
	for _, m := range ms {
		ns = append(ns, m.Node)
	}
	slices.Sort(ns)
	for _, n := range ns {
		b.Write([]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
	}
	return b.String()
}

func (h *Host) setElecting(g *Group, on bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if on {
		h.mu.electing[g] = struct{}{}
	} else {
		delete(h.mu.electing, g)
	}
}

// await has g looked at whenever a promise arrives, and at ticks.
func (h *Host) await(g *Group) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mu.awaiting[g] = struct{}{}
}

func (h *Host) activate(g *Group) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.activateLocked(g)
}

func (h *Host) activateLocked(g *Group) {
	h.mu.active[g] = struct{}{}
	h.leaveBucketLocked(g)
}

func (h *Host) leaveBucketLocked(g *Group) {
	b := h.mu.buckets[g.bucket]
	if b == nil {
		return
	}
	delete(b.groups, g)
	if b.any != g {
		return
	}
	b.any = nil
	for o := range b.groups {
		b.any = o
		break
	}
	if b.any == nil {
		delete(h.mu.buckets, g.bucket)
	}
}

func (h *Host) deactivate(g *Group) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.mu.active, g)
	h.leaveBucketLocked(g)
}

// forget takes g out of everything.
func (h *Host) forget(g *Group) {
	h.deactivate(g)
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.mu.electing, g)
	delete(h.mu.awaiting, g)
}

func (h *Host) nodeClosed() truetime.Timestamp {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.mu.closed
}

// wakeLocked ends g's quiescence. From the moment that the group is out of its
// bucket no further timestamp is closed for it; what was closed becomes its floor.
func (g *Group) wakeLocked() {
	if !g.mu.quiesced {
		return
	}
	g.mu.quiesced = false
	h := g.host
	h.mu.Lock()
	h.activateLocked(g)
	closed := h.mu.closed
	h.mu.Unlock()
	g.raiseLocked(closed)
	for _, m := range g.members {
		if m.peer != nil {
			m.peer.retract(g.id, noteQuiesce)
		}
	}
	h.stats.wakes.Add(1)
}

// activate wakes g if it sleeps.
func (g *Group) activate() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.wakeLocked()
}

// quiesceTicks without anything to do put a group to sleep.
const quiesceTicks = 3

// maybeQuiesce puts a leader's group to sleep when every replica has, durably,
// all there is, except on nodes that are dead: their return wakes it.
func (g *Group) maybeQuiesce() {
	idle := g.w.led && g.w.transfer == nil && len(g.w.sending) == 0 && len(g.w.outstanding) == 0 &&
		g.w.applied == g.w.lastIndex && g.w.hs.commit == g.w.lastIndex
	if !idle {
		g.w.idle = 0
		return
	}
	if g.w.idle++; g.w.idle < quiesceTicks {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.mu.leader || g.mu.releasing || g.mu.quiesced ||
		len(g.mu.queue) > 0 || len(g.mu.flights) > 0 || len(g.mu.parked) > 0 {
		return
	}
	// Under mu: a peer that comes to life from here on finds the group quiesced,
	// and wakes it.
	ready := true
	matched := make([]*member, 0, len(g.members))
	g.progress(func(m *member, match uint64) {
		if m.peer == nil {
			return
		}
		if match == g.w.lastIndex {
			matched = append(matched, m)
		}
		alive, p := m.peer.alive.Load(), m.peer.granted.Load()
		switch {
		case m.peer.changing.Load():
			ready = false
		case !alive:
		case match != g.w.lastIndex:
			ready = false
		case g.lacking(m):
			ready = false // Raft only believes that it has everything
		case p == nil || g.fortLocked(m) != (fort{p.inc, p.epoch}):
			ready = false // its promise would not cover the group
		}
	})
	if !ready {
		return
	}
	h := g.host
	// What its node has closed and closes next becomes what this group has closed (R3).
	// Other leases, of other nodes' promises, may reach further.
	now := h.clock.Now()
	if end := g.extendLeaseLocked(now); now.Latest >= end || h.nodeClosed() >= end {
		return
	}
	g.mu.quiesced = true
	// Announced first: a ping that no longer lists the group as active must list
	// it as quiesced. Only to replicas whose logs are known to match: one that was
	// dead may hold entries of an earlier term at the same indexes, which it would
	// commit on our word (see commitTo). Its return wakes the group.
	for _, m := range matched {
		m.peer.announce(note{kind: noteQuiesce, group: g.id, replica: m.ID, term: g.mu.term, index: g.w.lastIndex})
	}
	h.mu.Lock()
	delete(h.mu.active, g)
	b := h.mu.buckets[g.bucket]
	if b == nil {
		b = &bucket{any: g, groups: make(map[*Group]struct{})}
		h.mu.buckets[g.bucket] = b
	}
	b.groups[g] = struct{}{}
	h.mu.Unlock()
	h.stats.quiesced.Add(1)
}

func (g *Group) lacking(m *member) bool {
	_, lacks := g.w.lacking[uint64(m.ID)]
	return lacks
}

func (g *Group) fortLocked(m *member) fort {
	for i := range g.members {
		if &g.members[i] == m {
			return g.mu.forts[i]
		}
	}
	return fort{}
}

// announceResign tells everybody that this replica's leadership of term is over.
func (g *Group) announceResign(term uint64, end truetime.Timestamp) {
	for _, m := range g.members {
		if m.peer != nil {
			m.peer.announce(note{kind: noteResign, group: g.id, replica: m.ID, term: term, until: max(end, 1)})
		}
	}
}

// announce has n ride every ping until one is acknowledged.
func (p *peer) announce(n note) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.announced[n.group] = &announcement{note: n}
}

// retract withdraws an announcement of the given kind.
func (p *peer) retract(g keys.GroupID, kind noteKind) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if a := p.mu.announced[g]; a != nil && a.kind == kind {
		delete(p.mu.announced, g)
	}
}

// heardQuiesce is the follower's side of noteQuiesce: false when this replica
// cannot take it, so that the leader must wake the group.
func (g *Group) heardQuiesce(p *peer, inc uint64, n note) bool {
	g.mu.Lock()
	ok := g.mu.term == n.term && !g.mu.leader && g.Leader() == p.node &&
		g.mu.applied > 0 // nothing is applied by an incomplete replica, which has to ask for a snapshot
	if ok {
		g.keepSafeLocked()
		g.mu.quiet = quiet{peer: p, inc: inc, term: n.term, index: n.index}
	}
	behind := g.mu.applied < n.index
	g.mu.Unlock()
	if ok && behind {
		// The leader knows that this log matches its own up to index, all of it
		// committed: only the message that says so was lost.
		g.in.post(func() { g.commitTo(p, n) })
		g.host.sched.enqueue(g)
	}
	return ok
}
