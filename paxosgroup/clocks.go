package paxosgroup

import (
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/truetime"
)

// The clocks of the peers (T2). Every pong carries the peer's interval, read between
// our sending of the ping and our receipt of the pong. That says two things: whether
// both clocks can be right, and how far apart their centres are, to within half the
// round trip.

// PeerClock is what the latest pong told of a peer's clock.
type PeerClock struct {
	Node keys.NodeID
	// At is when the pong came, zero while none has.
	At time.Time
	// Vouches is false when the peer said that its clock does not vouch for true
	// time; what follows is then from the pong before.
	Vouches bool
	// Offset of the centre of the peer's interval from the centre of ours, positive
	// when it is ahead, and how far off that can be: half the round trip.
	Offset, Bound time.Duration
	Epsilon       time.Duration // the peer's
	// Gap by which the two intervals miss each other beyond what the round trip
	// allows: not 0 says that one of the two clocks is wrong. Positive when the peer is
	// ahead.
	Gap       time.Duration
	RoundTrip time.Duration
}

// Clocks returns what is known of the peers' clocks, by node.
func (h *Host) Clocks() []PeerClock {
	peers := h.allPeers()
	out := make([]PeerClock, len(peers))
	for i, p := range peers {
		p.mu.Lock()
		out[i] = p.mu.clock
		p.mu.Unlock()
		out[i].Node = p.node
	}
	return out
}

// vouches reports whether the peer's clock vouches for true time, as far as is known.
func (p *peer) vouches() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.clock.At.IsZero() || p.mu.clock.Vouches
}

// compareClocks takes note of a pong's interval. false: the pong proves nothing
// else, because the clocks cannot both be right or the peer's does not vouch.
// Nothing is allocated while the clocks agree.
func (h *Host) compareClocks(p *peer, po *pong, now truetime.Interval) bool {
	if po.interval.Latest == truetime.Max {
		p.mu.Lock()
		p.mu.clock.At, p.mu.clock.Vouches = time.Now(), false
		p.mu.Unlock()
		return false
	}
	p.mu.Lock()
	s := p.mu.sent[po.seq%uint64(len(p.mu.sent))]
	p.mu.Unlock()
	if s.seq != po.seq || now.Latest == truetime.Max || BreakPeerCheck || BreakReceived {
		return true // too late to compare, or nothing to compare with
	}
	c := PeerClock{At: time.Now(), Vouches: true, Epsilon: po.interval.Epsilon(), RoundTrip: centre(now).Sub(centre(s.at))}
	c.Offset, c.Bound = centre(po.interval).Sub(centre(s.at))-c.RoundTrip/2, (c.RoundTrip+1)/2
	err := truetime.CheckPeer(p.name, s.at, now, po.interval)
	if pe, ok := err.(*truetime.PeerError); ok {
		c.Gap = pe.Gap
	}
	p.mu.Lock()
	before := p.mu.clock.Gap
	p.mu.clock = c
	p.mu.Unlock()
	if err == nil {
		if before != 0 {
			h.log.Info("clocks agree again", "peer", p.name)
		}
		return true
	}
	h.stats.clockSuspect.Add(1)
	if before == 0 {
		h.log.Error("clocks disagree", "peer", p.name, "err", err)
	}
	if f := h.cfg.ClockSuspect; f != nil {
		f(err)
	}
	h.judgeClock()
	return false
}

// centre of an interval, which a clock without error would read.
func centre(i truetime.Interval) truetime.Timestamp { return i.Earliest + (i.Latest-i.Earliest)/2 }

// judgeClock looks whether a majority of the members contradict this node's clock.
// If it is right, all of them are wrong; a minority of liars never brings it down.
// Only evidence of the last lease duration counts, so that one liar after the other
// does not add up.
func (h *Host) judgeClock() {
	f := h.cfg.ClockOutvoted
	if f == nil {
		return
	}
	o := &truetime.OutvotedError{Members: len(h.cfg.Nodes)}
	for _, p := range h.allPeers() {
		p.mu.Lock()
		c := p.mu.clock
		p.mu.Unlock()
		if c.Vouches && c.Gap != 0 && time.Since(c.At) <= h.cfg.LeaseDuration {
			o.Peers = append(o.Peers, &truetime.PeerError{Peer: p.name, Gap: c.Gap, RoundTrip: c.RoundTrip})
		}
	}
	if len(o.Peers) > o.Members/2 {
		f(o)
	}
}
