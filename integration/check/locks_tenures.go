package check

import "slices"

// tenures is L1 and section 2.7: a hold that is taken again, with the same sequencer, is that of one handle, which
// kept it. One that was released is not found again, even if the release was lost with the leader that had put it in order.
func (c *lockChecker) tenures(p *lockPath) {
	last := map[holdNumber]*LockOp{}
	for _, b := range p.held {
		if b.Early {
			c.report.Early++
		}
		a := last[b.number()]
		last[b.number()] = b
		switch {
		case a == nil || a.Begin == b.Begin: // or jeopardy lay between
		case a.Session != b.Session || a.Handle != b.Handle:
			c.violate("hold of two handles", "L1", []*LockOp{a, b}, "hold %d of %s was granted to handle %d of session %d, and at %s to handle %d of session %d",
				b.Hold, p.name, a.Handle, a.Session, seconds(b.From.At), b.Handle, b.Session)
		case a.Keep == 0 || a.Freed != (Instant{}) && a.Freed.Before(b.Begin):
			c.violate("released hold came back", "L1", []*LockOp{a, b}, "hold %d of %s had ended at %s, and was granted again at %s",
				b.Hold, p.name, seconds(a.End.At), seconds(b.From.At))
		default:
			c.report.Again++
		}
	}
}

// freed reports that the release of a hold counts for all that was asked since, and answered by at. One
// that was in order may be lost with the leader that said so: it counts while that one leads.
func (c *lockChecker) freed(h *LockOp, at Instant) bool {
	return !h.Early || slices.ContainsFunc(c.terms, func(l *LockOp) bool { return l.Begin.Before(h.End) && at.Before(l.End) })
}

// stuck is sections 2.4 and 2.7: what was released, early or not, comes free while its session lives, and
// what is kept does when another asks.
func (c *lockChecker) stuck(p *lockPath) {
	for _, op := range p.stuck {
		holds := p.holds[op.number()]
		if len(holds) == 0 {
			continue
		}
		h := holds[len(holds)-1]
		s := c.session(h.Session)
		ended := func(x *LockOp) bool { return x.Begin.Before(op.End) }
		switch {
		case h.Status != OK, s.silent != nil && ended(s.silent), slices.ContainsFunc(s.closing, ended): // its session has to end: dead judges that
		case h.Keep > 0:
			c.violate("kept lock is not given back", "C2.7", []*LockOp{h, op}, "the handle of session %d that had kept %s since %s did not give it back to one who asked from %s to %s",
				h.Session, p.name, seconds(h.End.At), seconds(op.Begin.At), seconds(op.End.At))
		default:
			c.violate("release is forgotten", "C2.4", []*LockOp{h, op}, "session %d gave %s back at %s, and has it at %s still: nobody else could have it since %s",
				h.Session, p.name, seconds(h.End.At), seconds(op.End.At), seconds(op.Begin.At))
		}
	}
}

// lockDelays is section 2.4: after a hold was lost with its session, nobody else gets the
// lock before the session's lease and then the lock-delay are over.
func (c *lockChecker) lockDelays(p *lockPath) {
	goesOn := map[*LockOp]bool{} // after jeopardy, in another record
	lastOf := map[holdNumber]*LockOp{}
	for _, a := range p.held {
		if before := lastOf[a.number()]; before != nil {
			goesOn[before] = true
		}
		lastOf[a.number()] = a
	}
	for i, a := range p.held {
		s := c.session(a.Session)
		if a.Status == OK || goesOn[a] || s.silent == nil && len(s.gone) == 0 || len(s.closing) > 0 || c.deleted(p, a) {
			continue
		}
		c.report.LostUncleanly++
		if a.Delay == 0 {
			continue
		}
		var last *LockOp // the last beat that was answered
		for _, b := range s.beats {
			if last == nil || last.Begin.Before(b.Begin) {
				last = b
			}
		}
		if last == nil {
			continue
		}
		least := last.Begin.At + c.shortened(last.TTL+a.Delay)
		for _, b := range p.held[i+1:] {
			if b.Session == a.Session || a.Shared && b.Shared {
				continue
			}
			if last.Begin.Before(b.From) && b.From.At < least { // else it was not lost with its session
				c.violate("lock-delay cut short", "C2.4", []*LockOp{a, last, b}, "session %d got %s at %s; the lease of session %d, which held it and never gave it back, and the lock-delay of %v last until %s",
					b.Session, p.name, seconds(b.From.At), a.Session, a.Delay, seconds(least))
			}
			break
		}
	}
}
