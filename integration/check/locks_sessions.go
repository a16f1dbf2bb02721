package check

import (
	"slices"
)

// events is section 2.5: who was subscribed has heard of every change, or that there were
// some that it should look for.
func (c *lockChecker) events(s *lockSession) {
	if len(s.watched) == 0 {
		return
	}
	type heard struct {
		path, event          string
		instance, generation uint64
	}
	got := map[heard]bool{}
	for _, op := range s.heard {
		got[heard{op.Path, op.Event, op.Instance, op.Generation}] = true
	}
	// excused: what happened before the cell said that it had forgotten some.
	excused := func(path string, at Instant) bool {
		return slices.ContainsFunc(s.heard, func(op *LockOp) bool {
			return op.Path == path && op.Event == EventLost && at.Before(op.End)
		})
	}
	for _, w := range s.watched {
		p := c.path(w.Path)
		owed := func(op *LockOp, began, ended Instant, event string, instance, generation uint64) {
			if ended == (Instant{}) || !w.Begin.Before(began) || ended.At+c.o.Patience > w.End.At {
				return
			}
			c.report.EventsOwed++
			if !got[heard{w.Path, event, instance, generation}] && !excused(w.Path, began) {
				c.violate("missed event", "C2.5", []*LockOp{w, op}, "session %d watched %s from %s to %s, and did not hear of what happened between %s and %s (%s, generation %d)",
					s.id, w.Path, seconds(w.Begin.At), seconds(w.End.At), seconds(began.At), seconds(ended.At), event, generation)
			}
		}
		switch w.Event {
		case EventContents:
			for _, op := range p.changed {
				switch {
				case op.Status != OK:
				case op.Deleted:
					owed(op, op.Begin, op.End, EventInvalid, op.Instance, 0)
				default:
					owed(op, op.Begin, op.End, EventContents, op.Instance, op.Generation)
				}
			}
		case EventLock:
			for _, op := range p.held {
				if op.Shared || p.holds[op.number()][0] != op {
					continue // it may have joined others, or goes on
				}
				owed(op, op.Begin, op.From, EventLock, op.Instance, op.Generation)
			}
		}
	}
}

// leases is section 2.8: a session lives at least as long as the answers to its beats say,
// counted from their sending, and does not come back.
func (c *lockChecker) leases(s *lockSession) {
	for _, g := range s.gone {
		if slices.ContainsFunc(s.closing, func(op *LockOp) bool { return op.Begin.Before(g.End) }) {
			continue
		}
		for _, b := range slices.Concat(s.beats, s.seen) {
			if g.End.Before(b.Begin) {
				c.violate("session came back", "C2.8", []*LockOp{g, b}, "session %d was called ended at %s, and lives for who asked at %s", s.id, seconds(g.End.At), seconds(b.Begin.At))
				break
			}
			if least := b.Begin.At + c.shortened(b.TTL); g.End.At < least {
				c.violate("session ended within its lease", "C2.8", []*LockOp{b, g}, "session %d was called ended at %s; its beat of %s was answered with a lease of %v, until %s at least",
					s.id, seconds(g.End.At), seconds(b.Begin.At), b.TTL, seconds(least))
				break
			}
		}
	}
}

// dead is sections 2.8 and 2.9: the session of a client that fell silent ends when its lease
// does, and after a fail-over at most one TTL later.
func (c *lockChecker) dead(s *lockSession) {
	if s.silent == nil {
		return
	}
	told := false
	for _, op := range s.seen {
		from, reason := s.silent, "its client fell silent"
		for _, l := range c.terms {
			if from.Begin.Before(l.Begin) && l.Begin.Before(op.Begin) {
				from, reason = l, "the cell's leader changed"
			}
		}
		// A clock that is slow by the drift counts the lease longer.
		if most := from.Begin.At + s.silent.TTL + (s.silent.TTL - c.shortened(s.silent.TTL)) + c.o.Margin; op.Begin.At > most && !told {
			told = true
			c.violate("dead session lives on", "C2.8", []*LockOp{s.silent, from, op}, "session %d is there at %s, although %s at %s: its lease of %v and a margin of %v were over at %s",
				s.id, seconds(op.Begin.At), reason, seconds(from.Begin.At), s.silent.TTL, c.o.Margin, seconds(most))
		}
	}
}
