package paxosgroup

import (
	"cmp"
	"math"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
)

// What a tail keeps of what is applied. A replica that lags, or whose node is down,
// catches up from the leader's tail as long as that reaches back to where it is; else
// it needs a snapshot of everything. So a leader keeps what a replica lacks, and all
// the tails of a host share one budget (Config.TailBudget), looked at with every tick.
// When it is used up, what nobody is known to lack goes first, then the longest tail
// gives up: a replica that it can no longer serve makes no claim on it, so the rest of
// it goes as well, and the replicas of all other groups are spared the snapshot.

// tailBytes bounds what a tail keeps that nobody lacks: for carrying forward
// (storage.Source) and, at followers, in case they lead next and find a replica that
// lags.
const tailBytes = 4 << 20

// pin keeps the tail behind a snapshot's index: while it is sent, and then until its
// receiver has caught up with what was written meanwhile. Without the second part a
// replica under load would go from one snapshot to the next.
type pin struct {
	index uint64
	until time.Time // zero while the snapshot is under way
}

func (g *Group) setPin(to uint64, p pin) {
	if g.w.pins == nil {
		g.w.pins = make(map[uint64]pin)
	}
	g.w.pins[to] = p
}

// releasePins drops the pins that have served. Worker only.
func (g *Group) releasePins() {
	now := time.Now()
	for to, p := range g.w.pins {
		if !p.until.IsZero() && (now.After(p.until) || g.caughtUp(to)) {
			delete(g.w.pins, to)
		}
	}
}

// caughtUp reports whether a replica lacks no more than what is on its way.
func (g *Group) caughtUp(id uint64) bool {
	if g.w.rn == nil || g.w.state != raft.StateLeader {
		return true // somebody else's business now
	}
	done := true
	g.progress(func(m *member, match uint64) {
		if uint64(m.ID) == id {
			done = match+maxLag >= g.w.lastIndex
		}
	})
	return done
}

// trimTail lets go of entries that are worth little. Worker only.
func (g *Group) trimTail() {
	if len(g.w.pins) > 0 {
		g.releasePins()
	}
	t := &g.w.tail
	useless := g.claims()
	t.trim(t.had, useless, tailBytes)
}

// claims notes in the tail up to where no replica that it can serve lacks an entry,
// and returns the index up to which entries are of no use to anybody.
func (g *Group) claims() (useless uint64) {
	t := &g.w.tail
	had := g.w.applied
	if g.w.state != raft.StateLeader {
		t.count(had, had)
		return 0
	}
	g.progress(func(m *member, match uint64) {
		if m.peer == nil {
			return
		}
		p, pinned := g.w.pins[uint64(m.ID)]
		at := max(match, p.index)
		switch {
		case g.lacking(m): // whatever Raft believes of it
			if !pinned {
				return
			}
			at = p.index
		case at == 0: // not heard of in this term: it may lack anything, but has nothing of it
			if t.prev > g.w.ledFrom {
				return
			}
			at = t.prev
		}
		if at >= t.prev { // else only a snapshot helps it
			had = min(had, at)
		}
	})
	t.count(g.w.applied, had)
	return min(t.had, t.captured)
}

// shedTail makes room for other groups: all that nobody lacks goes, and of what
// replicas lack the oldest, until no more than most bytes are left. Worker only.
func (g *Group) shedTail(most int64) {
	t := &g.w.tail
	useless := g.claims()
	t.trim(t.had, useless, 0)
	if t.kept.Load() > most {
		t.trim(t.counted, 0, most)
		g.trimTail() // who needs a snapshot now has no claim any more
	}
}

// shedTails brings the tails of all groups back within the budget.
func (h *Host) shedTails() {
	budget := int64(h.cfg.TailBudget)
	over := h.tails.Load() - budget
	if over <= 0 {
		return
	}
	type holder struct {
		g             *Group
		spare, lacked int64
	}
	var hs []holder
	h.eachGroup(func(g *Group) {
		if kept := g.w.tail.kept.Load(); kept > 0 {
			spare := g.w.tail.spare.Load()
			hs = append(hs, holder{g, spare, kept - spare})
		}
	})
	shed := func(g *Group, most int64) {
		if g.in.post(func() { g.shedTail(most) }) {
			h.sched.enqueue(g)
		}
	}
	slices.SortFunc(hs, func(a, b holder) int { return cmp.Compare(b.spare, a.spare) })
	for _, x := range hs {
		if x.spare == 0 || over <= -budget/8 { // a little more than needed, so that it lasts
			break
		}
		shed(x.g, math.MaxInt64)
		over -= x.spare
	}
	slices.SortFunc(hs, func(a, b holder) int { return cmp.Compare(b.lacked, a.lacked) })
	for _, x := range hs {
		share := budget / int64(len(hs))
		if over <= 0 || x.lacked <= share {
			break
		}
		// No more than needed: replicas that are nearly level are served from the rest.
		most := max(x.lacked-over, share)
		shed(x.g, most)
		over -= x.lacked - most
	}
}
