package paxosgroup

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/truetime"
	"go.etcd.io/raft/v3"
)

// Leases per node pair (R2).
//
// F's promise to N is a pair (epoch, T): "in every group where I attested, under
// this epoch, that I follow you in your term, I neither vote for nor campaign as
// anybody else before After(T)". F issues promises in pongs, with
//
//	T = F.Now().Earliest + LeaseDuration,
//
// and attests per group by stamping its epoch on the MsgAppResp and
// MsgHeartbeatResp that it sends in N's term. N counts T for a group only while
// F's current epoch is the one that F stamped there; the lease end L is the
// quorum-th largest T, N itself counting as bound for as long as it ever claims.
//
// Why at most one lease is valid at an instant of true time:
//   - N serves only while N.Now().Latest < L, hence true time < L (T1).
//   - A vote against N by F is cast only when F.Now().Earliest > T, hence true
//     time > T. Every quorum that elects a successor meets the quorum behind L in
//     some F with T >= L (or in N, which waits for its own largest L), so the
//     successor's election is after L.
//   - No later promise revives the lease: before it votes, F ends the epoch, and
//     a stamp under the new epoch is only given in F's current term, which is
//     beyond N's. F's mutex makes promise and vote exclusive (peer.release).
//   - F forgets promises when it restarts; they ended at latest LeaseDuration
//     after the true time of the restart, so it abstains until
//     After(start.Latest + LeaseDuration). T is taken from Earliest, not Latest,
//     for exactly this: no promise, by whomever, reaches further than true time +
//     LeaseDuration, whatever its maker's ε.
//
// In real time a promise is worth LeaseDuration - 2ε(F) - 2ε(N) to N. It costs
// LeaseDuration, as F's clock sees it, when N dies.

// peer is another node as the host sees it, in both roles.
type peer struct {
	node keys.NodeID
	name string // for people

	// granted is the peer's latest promise to us; see heartbeat.go for the order
	// of its publication.
	granted atomic.Pointer[grant]
	// closed is the timestamp closed by the peer for the groups it quiesced.
	closed atomic.Pointer[nodeClosed]
	alive  atomic.Bool // answered our pings lately
	// trip is the smoothed time from a ping to its pong in nanoseconds, 0: none yet.
	trip atomic.Int64
	// changing is set while the groups that rely on granted are being woken.
	changing atomic.Bool

	mu struct {
		sync.Mutex
		inc   uint64    // the peer's incarnation, 0 before its first frame
		since time.Time // when this life replaced another, zero: it is the first we know

		// Our promise to the peer.
		epoch   uint64             // of the promises we make now; from 1
		until   truetime.Timestamp // latest promise under epoch, 0 none
		earlier truetime.Timestamp // latest promise under any earlier epoch
		wakeAt  truetime.Timestamp // earlier, while groups wait for its end; 0 none

		pinged   uint64 // highest ping sequence received from this incarnation
		seq      uint64 // of our last ping
		sent     [16]sentPing
		ponged   uint64 // highest of our pings that was answered
		lastPong time.Time
		back     time.Time // when it answered for the first time since it was last not alive
		clock    PeerClock // what its latest pong told; see clocks.go
		refused  bool      // its latest ping, for an implausible timestamp
		draining bool      // the peer
		farewell uint64    // our first ping that said that we drain, 0: none yet
		// announce holds the notes that ride every ping until one is acknowledged.
		announced map[keys.GroupID]*announcement
	}
}

type sentPing struct {
	seq uint64
	at  truetime.Interval
}

type announcement struct {
	note
	first uint64 // first ping that carried it, 0: none yet
}

// grant is a promise received.
type grant struct {
	inc, epoch uint64
	until      truetime.Timestamp
}

type nodeClosed struct {
	inc uint64
	ts  truetime.Timestamp
}

// fort is a group's record of a peer's attestation.
type fort struct{ inc, epoch uint64 }

func newPeer(n keys.NodeID, name string) *peer {
	p := &peer{node: n, name: name}
	p.mu.epoch = 1
	p.mu.announced = make(map[keys.GroupID]*announcement)
	return p
}

// promise renews our promise to the peer.
func (p *peer) promise(now truetime.Interval, d time.Duration) (epoch uint64, until truetime.Timestamp) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.expireLocked(now)
	p.mu.until = max(p.mu.until, now.Earliest.Add(d))
	return p.mu.epoch, p.mu.until
}

// expireLocked ends the epoch when its promise is over, so that a peer that
// comes back has to be attested anew, group by group.
func (p *peer) expireLocked(now truetime.Interval) (expired bool) {
	if p.mu.until == 0 || now.Earliest <= p.mu.until {
		return false
	}
	p.endEpochLocked()
	return true
}

func (p *peer) endEpochLocked() {
	p.mu.earlier = max(p.mu.earlier, p.mu.until)
	p.mu.until = 0
	p.mu.epoch++
	p.mu.wakeAt = p.mu.earlier
}

// release reports whether a group attested under epoch is free of promises to
// the peer. With commit, the caller is about to vote or campaign: the epoch ends
// in the same step, so that no promise made afterwards can cover the group.
func (p *peer) release(epoch uint64, now truetime.Interval, commit bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.expireLocked(now)
	bound := p.mu.earlier
	if epoch == p.mu.epoch {
		bound = p.mu.until
	}
	if now.Earliest <= bound {
		return false
	}
	if commit && epoch == p.mu.epoch {
		p.endEpochLocked()
	}
	return true
}

// promised reports whether the end of a promise to the peer is still to come, which
// tells the groups that follow it; see expirePromises.
func (p *peer) promised() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.until != 0 || p.mu.wakeAt != 0
}

func (p *peer) currentEpoch() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.epoch
}

// support is what a replica attested: that it follows node in term.
type support struct {
	node  keys.NodeID
	peer  *peer // nil when node is this node or unknown
	term  uint64
	epoch uint64
	// bound, if set, replaces the pair's promise: the node resigned and promises
	// nothing beyond it.
	bound truetime.Timestamp
	// also binds in addition to the pair's promise (a split's child).
	also truetime.Timestamp
}

// mayVote decides whether this replica may vote for a replica on node cand, or
// campaign (cand is this node), as far as leases go. With commit it is about
// to. Worker only.
func (g *Group) mayVote(cand keys.NodeID, commit bool) bool {
	h := g.host
	now := h.clock.Now()
	if now.Latest == truetime.Max || g.w.incomplete {
		return false // T1; and a replica without its log has no say
	}
	if BreakPromise {
		return true
	}
	// Not only where the store has a record of the group: a promise may rest on an
	// attestation that left before this replica's first record was durable. A group of one
	// replica has promised nobody anything.
	if !g.solo && now.Earliest <= h.abstainUntil && !BreakAbstention {
		return false
	}
	if g.w.state == raft.StateLeader && cand != h.node && !g.releasedIn(g.w.hs.term) &&
		now.Earliest <= g.PromisedUntil() {
		return false // this replica holds the lease itself
	}
	s := &g.w.support
	released := g.w.conf.released && g.w.conf.term == s.term && s.node == g.w.conf.holder
	if own := g.w.ownBound; own != 0 && cand != h.node && now.Earliest <= own {
		// This replica led and promised up to its lease end itself.
		// A release of that term, or of a later one of its own, lifts that: its floor
		// covers everything before.
		if !(g.w.conf.released && g.w.conf.term >= g.w.ownTerm && g.w.conf.holder == h.node) {
			return false
		}
	}
	if s.node == 0 || s.node == cand || s.node == h.node || released {
		return true
	}
	if now.Earliest <= s.also {
		return false
	}
	if s.bound != 0 {
		return now.Earliest > s.bound
	}
	return s.peer == nil || s.peer.release(s.epoch, now, commit)
}

// attest returns the stamp for a message of term to the replica on p's node, 0
// unless it says that this replica follows that node in its current term.
// Worker only, right after a Ready or before anything is stepped.
func (g *Group) attest(p *peer, to, term uint64) uint64 {
	if p == nil || term != g.w.hs.term || to != g.w.lead {
		return 0
	}
	e := p.currentEpoch()
	s := &g.w.support
	if s.node == p.node && s.term == term && s.bound != 0 {
		return 0 // a straggler from a leader that has resigned since
	}
	if s.node != p.node || s.term != term || s.epoch != e {
		also := truetime.Timestamp(0)
		if s.node == p.node {
			also = s.also
		}
		*s = support{node: p.node, peer: p, term: term, epoch: e, also: also}
	}
	return e
}

// leaseEndLocked computes the lease end from what peers promise right now. It
// may be lower than one computed before, which stays true: promises are not
// taken back.
func (g *Group) leaseEndLocked(now truetime.Interval) truetime.Timestamp {
	if now.Latest == truetime.Max {
		return 0
	}
	if g.solo {
		return now.Earliest.Add(g.host.cfg.SoloLease)
	}
	var buf [8]truetime.Timestamp
	ends := buf[:0]
	for i, m := range g.members {
		if m.peer == nil {
			continue
		}
		f, p := g.mu.forts[i], m.peer.granted.Load()
		if p == nil || f.epoch == 0 || f.inc != p.inc || f.epoch != p.epoch {
			ends = append(ends, 0)
		} else {
			ends = append(ends, p.until)
		}
	}
	slices.Sort(ends)
	// With the own vote, quorum-1 others must have promised.
	need := len(g.members) / 2
	return ends[len(ends)-need]
}

// extendLeaseLocked refreshes the cached lease end and returns it.
func (g *Group) extendLeaseLocked(now truetime.Interval) truetime.Timestamp {
	end := truetime.Timestamp(g.lease.Load())
	if !g.mu.leader {
		return end
	}
	if e := g.leaseEndLocked(now); e > end {
		end = e
		g.lease.Store(int64(end))
	}
	return end
}
