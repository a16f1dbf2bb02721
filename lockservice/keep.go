package lockservice

import (
	"context"
	"math"
	"slices"
	"time"

	"github.com/spandb/spand/lockservice/lockpb"
)

// Handles that cache their lock (paper 2.7). After Unlock the hold stays at the cell, as the handle's,
// until the next Lock takes it over here, somebody else wants it, or it was kept long enough.
//
// Who wants it the cell tells the holder: by an event when the other one asks, when a hold is
// granted that others wait for, and when a session lists its subscriptions on another stream or
// to another leader. A notice can be lost all the same: that of a TryLock which meets the moment
// between two leaders, or that of more than 1,024 locks of a session at the same time. Then the hold
// stays for what is left of the keep time, or until they ask again. A session that watches as many nodes as it may
// (4,096) keeps no lock of a further one, of which it would hear nothing.

// keeping is what a handle knows of the hold that it keeps. Guarded by the session's mutex, but for most.
type keeping struct {
	most time.Duration // OpenOptions.KeepLock
	// idle is the hold that is kept and that nobody uses. Whoever is in the turn may take it; it is
	// given back in a turn, too, so that no attempt meets it.
	idle  *grant
	until time.Time   // of idle
	timer *time.Timer // looks at until; nil: nothing was kept yet
	armed bool        // it will
	// wanted is the highest generation of the lock of which the cell said that others want it, since
	// the handle last asked for the lock.
	wanted uint64
	group  *group // by which that is heard; nil: it is not, and nothing is kept
}

// everyGeneration is wanted when a hold must not be kept, whichever it is.
const everyGeneration = math.MaxUint64

// reuse takes the kept hold over if that needs no waiting; nil: it is to be asked for.
func (h *Handle) reuse(ctx context.Context, mode lockpb.Mode) *Lock {
	select {
	case h.turn <- struct{}{}:
	default:
		return nil
	}
	l, _, _ := h.s.takeOver(h, ctx, mode, false)
	if l == nil {
		h.endTurn()
	}
	return l
}

// settle takes the kept hold over, or gives it back if it does not serve, in the turn. Both nil: nothing is
// kept, and the lock is to be asked for. After an error the turn is over.
func (h *Handle) settle(ctx context.Context, mode lockpb.Mode) (*Lock, error) {
	for {
		err := h.s.awaitSafe(ctx)
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			h.endTurn()
			return nil, err
		}
		l, old, jeopardy := h.s.takeOver(h, ctx, mode, true)
		switch {
		case l != nil:
			return l, nil
		case jeopardy:
			continue
		case old != nil:
			if over, err := h.giveBack(ctx, old.attempt); err != nil {
				if over {
					<-h.turn
				}
				return nil, err
			}
		}
		h.s.asks(h)
		return nil, nil
	}
}

// takeOver makes a Lock of the hold that h keeps, if the session is safe, the mode is the same and nobody
// else wants it. Else the hold is returned as dropped, if that is allowed; in jeopardy it stays.
func (s *Session) takeOver(h *Handle, ctx context.Context, mode lockpb.Mode, drop bool) (l *Lock, dropped *grant, jeopardy bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lookLocked()
	k := &h.keep
	g := k.idle
	if g == nil { // also when the session is over, or the handle closed
		return nil, nil, false
	}
	if g.parsed.Shared != (mode == lockpb.Mode_SHARED) || k.wanted >= g.parsed.Generation {
		if !drop {
			return nil, nil, false
		}
		k.idle = nil
		return nil, g, false
	}
	if s.state != Safe && !BreakKept {
		return nil, nil, true
	}
	k.idle = nil
	l = &Lock{h: h, grant: g, base: context.WithoutCancel(ctx)}
	s.locks[l] = struct{}{}
	return l, nil, false
}

// asks begins to listen for what others want, before the lock is asked for: a notice that comes before the grant
// is about it. One about an earlier hold may come as late; its generation tells.
func (s *Session) asks(h *Handle) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := &h.keep
	k.wanted = 0
	if k.group != nil || s.state == Expired || h.life.Err() != nil {
		return
	}
	id := nodeID{h.path, h.instance}
	g := s.events.groups[id]
	if g == nil {
		if len(s.events.groups) >= maxSubscriptions {
			return
		}
		g = &group{node: id}
		s.events.groups[id] = g
	}
	g.keepers = append(g.keepers, h)
	k.group = g
	s.subscribeLocked()
}

// keepLocked keeps a hold that its user gives back, and ends his turn; false: it is not to be kept.
func (h *Handle) keepLocked(g *grant) bool {
	k := &h.keep
	if k.group == nil || k.wanted >= g.parsed.Generation {
		return false
	}
	k.idle, k.until = g, time.Now().Add(k.most)
	if !k.armed {
		k.armed = true
		if k.timer == nil {
			k.timer = time.AfterFunc(k.most, h.keptLongEnough)
		} else {
			k.timer.Reset(k.most)
		}
	}
	<-h.turn
	return true
}

// keptLongEnough is the timer's. It runs at most once per keep time however often the hold is
// taken over meanwhile.
func (h *Handle) keptLongEnough() {
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	k := &h.keep
	k.armed = false
	if k.idle == nil {
		return
	}
	if left := time.Until(k.until); left > 0 {
		k.armed = true
		k.timer.Reset(left)
		return
	}
	h.returnLocked()
}

// wantedLocked: others want the hold of a generation, and earlier ones.
func (h *Handle) wantedLocked(generation uint64) {
	h.keep.wanted = max(h.keep.wanted, generation)
	h.returnLocked()
}

// returnLocked gives the kept hold back, in the background, if that is due. Whoever is in the turn does
// it himself.
func (h *Handle) returnLocked() {
	if !h.dueLocked() {
		return
	}
	select {
	case h.turn <- struct{}{}:
		h.giveUpLocked()
	default:
	}
}

func (h *Handle) dueLocked() bool {
	k := &h.keep
	return k.idle != nil && (k.wanted >= k.idle.parsed.Generation || !time.Now().Before(k.until))
}

// giveUpLocked gives the kept hold back in the background, where the turn ends.
func (h *Handle) giveUpLocked() {
	g := h.keep.idle
	h.keep.idle = nil
	h.release(g.attempt)
}

// endTurn ends the turn of one who leaves what is kept.
func (h *Handle) endTurn() {
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	if h.dueLocked() {
		h.giveUpLocked()
		return
	}
	<-h.turn
}

// forgetLocked ends keeping with the handle or its session, whose end at the cell ends the hold.
func (h *Handle) forgetLocked() {
	k := &h.keep
	k.idle = nil
	if k.timer != nil {
		k.timer.Stop()
	}
	if g := k.group; g != nil {
		k.group = nil
		g.keepers = slices.DeleteFunc(g.keepers, func(o *Handle) bool { return o == h })
		h.s.events.leftLocked(g)
	}
}

// unkeptLocked: holds of the node are not kept any longer, for the session deletes it.
func (u *subscriptions) unkeptLocked(n *Node) {
	for id, g := range u.groups {
		if id.path == n.path && (n.instance == 0 || n.instance == id.instance) {
			for _, h := range g.keepers {
				h.wantedLocked(everyGeneration)
			}
		}
	}
}
