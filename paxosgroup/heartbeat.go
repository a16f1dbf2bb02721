package paxosgroup

import (
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/truetime"
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
)

// run is the host's clockwork: ticks for the groups that need them, pings to
// the peers, and the end of promises to the dead. It ends when the host closes.
func (h *Host) run() {
	defer h.wg.Done()
	now := time.Now()
	tick, beat, balance := now.Add(h.cfg.TickInterval), now, now.Add(h.cfg.BalanceInterval)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-h.quit:
			return
		case <-timer.C:
		case <-h.kick:
		}
		now = time.Now()
		next := h.expirePromises(now)
		next = h.callElections(now, next)
		if h.beatNow.Swap(false) || !now.Before(beat) {
			h.beat(now)
			beat = now.Add(h.cfg.HeartbeatInterval)
		}
		if !now.Before(tick) {
			h.tick()
			tick = now.Add(h.cfg.TickInterval)
		}
		if h.cfg.BalanceInterval > 0 && !now.Before(balance) {
			h.balance(now)
			balance = now.Add(h.cfg.BalanceInterval)
		}
		for _, t := range []time.Time{tick, beat} {
			if next.IsZero() || t.Before(next) {
				next = t
			}
		}
		timer.Reset(time.Until(next))
	}
}

func (h *Host) tick() {
	h.mu.Lock()
	gs := h.buf[:0]
	for g := range h.mu.active {
		gs = append(gs, g)
	}
	h.mu.Unlock()
	for _, g := range gs {
		g.in.flag(func(l *letters) { l.tick = true })
		h.sched.enqueue(g)
	}
	clear(gs)
	h.buf = gs
	h.checkAwaiting()
	h.shedTails()
}

// callElections has the groups that may lack a leader look whose turn it is, and
// returns the earlier of next and the next such instant.
func (h *Host) callElections(now, next time.Time) time.Time {
	var gs []*Group
	h.mu.Lock()
	for g := range h.mu.electing {
		at := time.Unix(0, g.due.Load())
		if !at.After(now) {
			at = now.Add(h.cfg.TickInterval)
			g.due.Store(at.UnixNano())
			gs = append(gs, g)
		}
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	h.mu.Unlock()
	for _, g := range gs {
		g.in.flag(func(l *letters) { l.tick = true })
		h.sched.enqueue(g)
	}
	// Thousands of groups must not make this a busy loop.
	if soon := now.Add(time.Millisecond); !next.IsZero() && next.Before(soon) {
		next = soon
	}
	return next
}

// checkAwaiting lets the groups that wait for a lease look again.
func (h *Host) checkAwaiting() {
	h.mu.Lock()
	gs := make([]*Group, 0, len(h.mu.awaiting))
	for g := range h.mu.awaiting {
		gs = append(gs, g)
	}
	clear(h.mu.awaiting)
	h.mu.Unlock()
	for _, g := range gs {
		g.in.flag(func(l *letters) { l.check = true })
		h.sched.enqueue(g)
	}
}

// expirePromises ends the epochs whose promise is over and wakes the groups that
// were bound by it; it returns when to look again, zero if nothing is pending.
func (h *Host) expirePromises(now time.Time) (next time.Time) {
	iv := h.clock.Now()
	for _, p := range h.allPeers() {
		p.mu.Lock()
		due := p.mu.until
		if p.expireLocked(iv) {
			due = 0
		}
		wake := p.mu.wakeAt != 0 && iv.Earliest > p.mu.wakeAt
		if wake {
			p.mu.wakeAt = 0
		} else if p.mu.wakeAt != 0 {
			due = p.mu.wakeAt
		}
		if p.alive.Load() && now.Sub(p.mu.lastPong) > 2*h.cfg.LeaseDuration {
			p.alive.Store(false)
		}
		p.mu.Unlock()
		if wake {
			h.log.Info("promise to a silent node ended", "peer", p.node)
			h.eachGroup(func(g *Group) {
				if g.hasPeer(p) {
					g.in.flag(func(l *letters) { l.lost = true })
					h.sched.enqueue(g)
				}
			})
		}
		if due != 0 && iv.Latest != truetime.Max {
			if t := now.Add(max(due.Sub(iv.Earliest)+1, time.Millisecond)); next.IsZero() || t.Before(next) {
				next = t
			}
		}
	}
	return next
}

func (g *Group) hasPeer(p *peer) bool {
	for _, m := range g.members {
		if m.peer == p {
			return true
		}
	}
	return false
}

// beat pings every peer.
func (h *Host) beat(now time.Time) {
	peers := h.allPeers()
	if len(peers) == 0 {
		return
	}
	iv := h.clock.Now()
	if iv.Latest == truetime.Max {
		return // T1: silent, so that promises to this node end and others take over
	}
	// The closed timestamp of the quiesced groups must lie below the lease end of
	// each; where it does not, the group is looked after singly again.
	var broken []*Group
	h.mu.Lock()
	anyQuiesced := make([]*Group, 0, len(h.mu.buckets))
	for _, b := range h.mu.buckets {
		anyQuiesced = append(anyQuiesced, b.any)
	}
	h.mu.Unlock()
	healthy := make(map[string]bool, len(anyQuiesced))
	for _, g := range anyQuiesced {
		g.mu.Lock()
		healthy[g.bucket] = iv.Latest < g.extendLeaseLocked(iv)
		g.mu.Unlock()
	}
	h.mu.Lock()
	closable := true
	for name, b := range h.mu.buckets {
		ok, known := healthy[name]
		if known && !ok {
			for g := range b.groups {
				broken = append(broken, g)
			}
		}
		closable = closable && known && ok
	}
	if closable {
		h.mu.closed = max(h.mu.closed, iv.Latest)
	}
	closed := h.mu.closed
	active := make([]*Group, 0, len(h.mu.active))
	for g := range h.mu.active {
		active = append(active, g)
	}
	h.mu.Unlock()
	for _, g := range broken {
		g.activate()
	}

	notes := make(map[*peer][]note)
	for _, g := range active {
		g.mu.Lock()
		if g.mu.quiesced || !g.mu.leader { // since the list was made; announced
			g.mu.Unlock()
			continue
		}
		c := g.closeLocked(iv)
		term := g.mu.term
		g.mu.Unlock()
		for _, m := range g.members {
			if m.peer != nil {
				notes[m.peer] = append(notes[m.peer], note{kind: noteActive, group: g.id, replica: m.ID, term: term, index: c.index, until: c.ts})
			}
		}
	}
	for _, p := range peers {
		pg := ping{interval: h.clock.Now(), closed: closed, draining: h.draining.Load(), notes: notes[p]}
		p.mu.Lock()
		p.mu.seq++
		pg.seq = p.mu.seq
		if pg.draining && p.mu.farewell == 0 {
			p.mu.farewell = pg.seq
		}
		p.mu.sent[pg.seq%uint64(len(p.mu.sent))] = sentPing{pg.seq, pg.interval}
		for _, a := range p.mu.announced {
			if a.first == 0 {
				a.first = pg.seq
			}
			pg.notes = append(pg.notes, a.note)
		}
		p.mu.Unlock()
		h.cfg.Transport.Send(p.node, ClassHeartbeat, pg.append(h.header(framePing, p.node).append(nil)))
	}
}

// receivePing answers with a promise. A ping of an earlier incarnation or
// sequence is dropped: its notes are out of date. One with an implausible timestamp is
// answered with nothing but the time (epoch 0), which tells the sender how far apart
// the clocks are.
func (h *Host) receivePing(p *peer, inc uint64, pg ping) {
	if err := truetime.CheckReceived(h.clock, pg.closed, h.cfg.Tolerance); err != nil {
		h.stats.implausible.Add(1)
		p.mu.Lock()
		said := p.mu.refused
		p.mu.refused = true
		p.mu.Unlock()
		if !said {
			h.log.Warn("refuse heartbeats", "peer", p.name, "err", err)
		}
		answer := pong{seq: pg.seq, inc: inc, interval: h.clock.Now()}
		h.cfg.Transport.Send(p.node, ClassHeartbeat, answer.append(h.header(framePong, p.node).append(nil)))
		return
	}
	p.mu.Lock()
	p.mu.refused = false
	if pg.seq <= p.mu.pinged {
		p.mu.Unlock()
		return
	}
	p.mu.pinged, p.mu.draining = pg.seq, pg.draining
	p.mu.Unlock()
	var wake []keys.GroupID
	for _, n := range pg.notes {
		g := h.Group(n.group)
		if g == nil || g.self != n.replica || g.stopped.Load() {
			continue
		}
		switch n.kind {
		case noteActive:
			g.noteClosed(closing{ts: n.until, term: n.term, index: n.index})
		case noteQuiesce:
			if !g.heardQuiesce(p, inc, n) {
				wake = append(wake, n.group)
			}
		case noteResign:
			g.mu.Lock()
			if g.mu.quiet.peer == p {
				g.keepSafeLocked()
				g.mu.quiet = quiet{}
			}
			g.mu.Unlock()
			g.in.post(func() { g.heardResign(p, n) })
			h.sched.enqueue(g)
		}
	}
	if c := p.closed.Load(); c != nil && c.inc != inc {
		// What its earlier life has closed stays closed.
		h.eachGroup(func(g *Group) {
			g.mu.Lock()
			if g.mu.quiet.peer == p {
				g.keepSafeLocked()
			}
			g.mu.Unlock()
		})
	}
	// After the notes: it is for the groups that are quiesced according to them.
	p.closed.Store(&nodeClosed{inc, pg.closed})

	now := h.clock.Now()
	answer := pong{seq: pg.seq, inc: inc, interval: now, wake: wake}
	if now.Latest != truetime.Max {
		answer.epoch, answer.until = p.promise(now, h.cfg.LeaseDuration)
	}
	h.cfg.Transport.Send(p.node, ClassHeartbeat, answer.append(h.header(framePong, p.node).append(nil)))
}

// receivePong takes a promise.
func (h *Host) receivePong(p *peer, inc uint64, po pong) {
	if po.inc != h.cfg.Incarnation {
		return // an answer to an earlier life of this node
	}
	now := h.clock.Now()
	// Promises between two clocks of which one is wrong prove nothing.
	if !h.compareClocks(p, &po, now) || po.epoch == 0 {
		return
	}
	p.mu.Lock()
	s := p.mu.sent[po.seq%uint64(len(p.mu.sent))]
	for id, a := range p.mu.announced {
		if a.first != 0 && po.seq >= a.first {
			delete(p.mu.announced, id)
		}
	}
	if s.seq == po.seq && now.Latest != truetime.Max {
		p.measure(now.Latest.Sub(s.at.Latest))
	}
	p.mu.lastPong, p.mu.ponged = time.Now(), max(p.mu.ponged, po.seq)
	if !p.alive.Load() {
		p.mu.back = p.mu.lastPong
	}
	p.mu.Unlock()
	if h.draining.Load() {
		select {
		case h.ponged <- struct{}{}:
		default:
		}
	}
	old := p.granted.Load()
	if old != nil && old.inc == inc && po.epoch < old.epoch {
		return // overtaken
	}
	changed := old == nil || old.inc != inc || old.epoch != po.epoch
	back := !p.alive.Swap(true)
	if changed || back {
		// Before the new epoch counts: quiesced groups must not be served by a
		// promise that does not cover them, and none goes to sleep meanwhile.
		p.changing.Store(true)
		defer p.changing.Store(false)
		h.eachGroup(func(g *Group) {
			if g.hasPeer(p) {
				g.activate()
			}
		})
	}
	for _, id := range po.wake {
		if g := h.Group(id); g != nil {
			g.activate()
		}
	}
	if po.until != 0 {
		g := &grant{inc: inc, epoch: po.epoch, until: po.until}
		if !changed {
			g.until = max(g.until, old.until)
		}
		p.granted.Store(g)
		h.checkAwaiting()
	}
}

// commitTo lets Raft hear from the leader what it must know before it sleeps.
func (g *Group) commitTo(p *peer, n note) {
	if g.w.rn == nil || g.w.hs.term != n.term || g.nodeOf(g.w.lead) != p.node || g.w.lastIndex < n.index || g.w.hs.commit >= n.index {
		return
	}
	typ := pb.MsgHeartbeat
	self := uint64(g.self)
	from := g.w.lead
	g.step(&pb.Message{Type: &typ, To: &self, From: &from, Term: &n.term, Commit: &n.index})
}

// heardResign: the node that this replica follows does not lead any more and
// promises nothing beyond n.until. Once that has passed, anybody may campaign.
func (g *Group) heardResign(p *peer, n note) {
	s := &g.w.support
	if g.w.rn == nil || s.node != p.node || s.term != n.term || g.w.state == raft.StateLeader {
		return
	}
	if s.bound == 0 || n.until < s.bound {
		s.bound = n.until
	}
	g.w.doubtAt = time.Time{}
	if g.w.hs.term == n.term {
		g.host.setElecting(g, true)
		g.setCampaign(time.Now().Add(g.host.jitter(g.host.cfg.CampaignJitter)))
	}
}
