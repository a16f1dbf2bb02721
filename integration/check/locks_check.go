package check

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"
	"time"
)

// LockOptions of JudgeLocks.
type LockOptions struct {
	// Margin is how long after a dead session's lease is over the cell may take to end it;
	// 3 s by default: an election, and a fence's promise of 1 s.
	Margin time.Duration
	// Patience is how long an event may take where nothing is wrong; 1 s by default.
	Patience time.Duration
	// Drift is what two honest clocks may drift apart, as a part of the time that passed;
	// 0.001 by default.
	Drift float64
	// Limit is the most violations told of each anomaly; 5 by default.
	Limit int
}

func (o LockOptions) withDefaults() LockOptions {
	if o.Margin == 0 {
		o.Margin = 3 * time.Second
	}
	if o.Patience == 0 {
		o.Patience = time.Second
	}
	if o.Drift == 0 {
		o.Drift = 1e-3
	}
	if o.Limit == 0 {
		o.Limit = 5
	}
	return o
}

// LockReport is a judgement of a LockHistory.
type LockReport struct {
	Violations []Violation
	// Suppressed is how many violations were found beyond the limit.
	Suppressed int
	// What there was to judge: records by kind; of them the sequencers refused, the
	// fenced commits, acknowledged and seen (committed, whatever their client heard), and
	// holds that a later one followed.
	Ops                            [Stuck + 1]int
	Refused, Committed, Handovers  int
	Again, Early                   int // holds that were taken over again; released early
	SharedTogether, LostUncleanly  int
	CachedReads, EventsOwed, Gones int
}

// Add sums up: what o found, beside r.
func (r *LockReport) Add(o *LockReport) {
	r.Violations, r.Suppressed = append(r.Violations, o.Violations...), r.Suppressed+o.Suppressed
	for k, n := range o.Ops {
		r.Ops[k] += n
	}
	r.Refused, r.Committed, r.Handovers = r.Refused+o.Refused, r.Committed+o.Committed, r.Handovers+o.Handovers
	r.Again, r.Early = r.Again+o.Again, r.Early+o.Early
	r.SharedTogether, r.LostUncleanly = r.SharedTogether+o.SharedTogether, r.LostUncleanly+o.LostUncleanly
	r.CachedReads, r.EventsOwed, r.Gones = r.CachedReads+o.CachedReads, r.EventsOwed+o.EventsOwed, r.Gones+o.Gones
}

func (r *LockReport) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d holds (%d handed over, %d taken over again, %d released early, %d lost, %d pairs shared), %d checks and fenced commits refused, %d of %d fenced commits committed, %d changes, %d reads (%d cached), %d events for %d owed, %d beats, %d sessions dead, %d told so, %d terms; %d violations",
		r.Ops[Held], r.Handovers, r.Again, r.Early, r.LostUncleanly, r.SharedTogether, r.Refused, r.Committed, r.Ops[Fenced], r.Ops[Changed], r.Ops[Looked], r.CachedReads,
		r.Ops[Heard], r.EventsOwed, r.Ops[Beat], r.Ops[Silent], r.Gones, r.Ops[Led], len(r.Violations)+r.Suppressed)
	for _, v := range r.Violations {
		b.WriteString("\n" + v.String())
	}
	return b.String()
}

// CheckLocks is JudgeLocks with default options, without the report.
func CheckLocks(h *LockHistory) []Violation { return JudgeLocks(h, LockOptions{}).Violations }

// JudgeLocks returns what no honest lock service could have let its clients see. All of h's
// clients must have ended.
func JudgeLocks(h *LockHistory, o LockOptions) *LockReport {
	c := &lockChecker{
		o: o.withDefaults(), ops: h.Ops(), report: &LockReport{}, told: map[string]int{},
		paths: map[string]*lockPath{}, sessions: map[uint64]*lockSession{},
	}
	c.index()
	for _, name := range sortedKeys(c.paths) {
		p := c.paths[name]
		c.holders(p)
		c.tenures(p)
		c.generations(p)
		c.sequencers(p)
		c.fences(p)
		c.lockDelays(p)
		c.stuck(p)
		c.changes(p)
		c.looks(p)
	}
	for _, id := range sortedKeys(c.sessions) {
		s := c.sessions[id]
		c.events(s)
		c.leases(s)
		c.dead(s)
	}
	return c.report
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	ks := make([]K, 0, len(m))
	for k := range m {
		ks = append(ks, k)
	}
	slices.Sort(ks)
	return ks
}

type lockChecker struct {
	o        LockOptions
	report   *LockReport
	told     map[string]int
	ops      []*LockOp
	paths    map[string]*lockPath
	sessions map[uint64]*lockSession
	terms    []*LockOp // Led, by Begin
}

// lockPath is what was done with one path.
type lockPath struct {
	name    string
	held    []*LockOp                // granted ones, by From
	holds   map[holdNumber][]*LockOp // the same, by hold
	stuck   []*LockOp
	checked []*LockOp // answered
	fenced  []*LockOp
	changed []*LockOp
	looked  []*LockOp // answered
	heard   []*LockOp // of contents
	ledger  *LockOp   // it was read
}

// lockSession is what became of one session.
type lockSession struct {
	id                                         uint64
	watched, heard, beats, gone, seen, closing []*LockOp
	silent                                     *LockOp
}

func (c *lockChecker) violate(anomaly, invariant string, who []*LockOp, format string, args ...any) {
	if c.told[anomaly]++; c.told[anomaly] > c.o.Limit {
		c.report.Suppressed++
		return
	}
	story := fmt.Sprintf(format, args...)
	who = slices.Clone(who)
	slices.SortFunc(who, func(a, b *LockOp) int { return cmp.Compare(a.ID, b.ID) })
	for _, op := range slices.Compact(who) {
		story += "\n    " + op.brief()
	}
	c.report.Violations = append(c.report.Violations, Violation{anomaly, invariant, story})
}

// index sorts the records by what they are about.
func (c *lockChecker) index() {
	for _, op := range c.ops {
		c.report.Ops[op.Kind]++
		p, s := c.path(op.Path), c.session(op.Session)
		answered := op.Status == OK && op.End != Instant{}
		switch op.Kind {
		case Held:
			if op.From != (Instant{}) {
				p.held = append(p.held, op)
			} else if op.Refused {
				c.violate("does not wait", "C2.4", []*LockOp{op}, "Lock of %s was to wait for its turn, and was refused at %s because the lock is held", op.Path, seconds(op.End.At))
			}
		case Checked:
			if answered {
				p.checked = append(p.checked, op)
			}
		case Fenced:
			p.fenced = append(p.fenced, op)
		case Changed:
			p.changed = append(p.changed, op)
		case Looked:
			if answered {
				p.looked = append(p.looked, op)
			}
		case Watched:
			s.watched = append(s.watched, op)
		case Heard:
			s.heard = append(s.heard, op)
			if op.Event == EventContents {
				p.heard = append(p.heard, op)
			}
		case Beat:
			if answered {
				s.beats = append(s.beats, op)
			}
		case Closed:
			s.closing = append(s.closing, op)
		case Gone:
			s.gone = append(s.gone, op)
			c.report.Gones++
		case Seen:
			if answered {
				s.seen = append(s.seen, op)
			}
		case Silent:
			s.silent = op
		case Led:
			c.terms = append(c.terms, op)
		case Ledger:
			p.ledger = op
		case Stuck:
			p.stuck = append(p.stuck, op)
		}
	}
	for _, p := range c.paths {
		sort.SliceStable(p.held, func(i, j int) bool { return p.held[i].From.Before(p.held[j].From) })
		p.holds = map[holdNumber][]*LockOp{}
		for _, h := range p.held {
			p.holds[h.number()] = append(p.holds[h.number()], h)
		}
	}
	sort.SliceStable(c.terms, func(i, j int) bool { return c.terms[i].Begin.Before(c.terms[j].Begin) })
}

func (c *lockChecker) path(name string) *lockPath {
	p := c.paths[name]
	if p == nil {
		p = &lockPath{name: name}
		c.paths[name] = p
	}
	return p
}

func (c *lockChecker) session(id uint64) *lockSession {
	s := c.sessions[id]
	if s == nil {
		s = &lockSession{id: id}
		c.sessions[id] = s
	}
	return s
}

// holders is L1: no instant at which one holds the lock exclusively and another at all.
func (c *lockChecker) holders(p *lockPath) {
	var live []*LockOp
	for _, b := range p.held {
		live = slices.DeleteFunc(live, func(a *LockOp) bool { return !b.From.Before(a.End.orNever()) })
		for _, a := range live {
			if a.Shared && b.Shared && a.number() != b.number() {
				c.report.SharedTogether++
				continue
			}
			if !b.From.Before(b.End.orNever()) {
				continue // lost before Lock had returned
			}
			c.violate("two holders", "L1", []*LockOp{a, b}, "at %s session %d got %s in %s mode while session %d held it in %s mode, until %s",
				seconds(b.From.At), b.Session, p.name, b.mode(), a.Session, a.mode(), until(a.End))
		}
		live = append(live, b)
	}
}

// generations is L1: of two holds of which the first had ended when the second was granted,
// the second has the higher generation; if both are shared, not a lower one.
func (c *lockChecker) generations(p *lockPath) {
	ends := slices.Clone(p.held)
	ends = slices.DeleteFunc(ends, func(op *LockOp) bool { return op.End == Instant{} })
	sort.SliceStable(ends, func(i, j int) bool { return ends[i].End.Before(ends[j].End) })
	var high, highExclusive *LockOp // of those that have ended
	for _, b := range p.held {
		for len(ends) > 0 && !b.From.Before(ends[0].End) {
			a := ends[0]
			ends = ends[1:]
			if a == b {
				continue
			}
			if a.number() != b.number() {
				c.report.Handovers++
			}
			if high == nil || a.Generation > high.Generation {
				high = a
			}
			if !a.Shared && (highExclusive == nil || a.Generation > highExclusive.Generation) {
				highExclusive = a
			}
		}
		a := high
		if a != nil && a.number() == b.number() {
			continue // the hold goes on: tenures judges that
		}
		bad := a != nil && a.Generation > b.Generation
		if !bad && !b.Shared {
			bad = a != nil && a.Generation == b.Generation
		} else if !bad {
			a = highExclusive
			bad = a != nil && a.Generation == b.Generation
		}
		if bad {
			c.violate("generation does not grow", "L1", []*LockOp{a, b}, "the hold of %s granted at %s has generation %d, the one that had ended at %s generation %d",
				p.name, seconds(b.From.At), b.Generation, seconds(a.End.At), a.Generation)
		}
	}
}

// later returns the hold with the highest generation of those granted before an instant.
func (p *lockPath) later() func(Instant) *LockOp {
	best := make([]*LockOp, len(p.held))
	for i, h := range p.held {
		best[i] = h
		if i > 0 && best[i-1].Generation > h.Generation {
			best[i] = best[i-1]
		}
	}
	return func(at Instant) *LockOp {
		n := sort.Search(len(p.held), func(i int) bool { return !p.held[i].From.Before(at) })
		if n == 0 {
			return nil
		}
		return best[n-1]
	}
}

// holdNumber names a hold.
type holdNumber struct{ generation, hold uint64 }

func (op *LockOp) number() holdNumber { return holdNumber{op.Generation, op.Hold} }

// sequencers is L1: a sequencer is refused once another hold has been granted, its own has
// been given back, or its session is known to have ended; and not while it is held.
func (c *lockChecker) sequencers(p *lockPath) {
	later := p.later()
	judge := func(op *LockOp, invariant, what string, accepted bool) {
		mine := p.holds[op.number()]
		if !accepted {
			if !op.Refused {
				return
			}
			c.report.Refused++
			for _, h := range mine {
				if h.From.Before(op.Begin) && op.End.Before(h.End.orNever()) && !c.deleted(p, h) {
					c.violate("valid sequencer refused", invariant, []*LockOp{h, op}, "%s of generation %d of %s was refused between %s and %s, while session %d held the lock",
						what, op.Generation, p.name, seconds(op.Begin.At), seconds(op.End.At), h.Session)
				}
			}
			return
		}
		if l := later(op.Begin); l != nil && l.Generation > op.Generation {
			c.violate("stale sequencer accepted", invariant, append([]*LockOp{l, op}, mine...), "%s of generation %d of %s, begun at %s, was accepted, although session %d had been granted generation %d at %s",
				what, op.Generation, p.name, seconds(op.Begin.At), l.Session, l.Generation, seconds(l.From.At))
			return
		}
		if len(mine) == 0 {
			return
		}
		for _, h := range mine {
			if h.Freed != (Instant{}) && h.Freed.Before(op.Begin) && c.freed(h, op.End) {
				c.violate("stale sequencer accepted", invariant, []*LockOp{h, op}, "%s of generation %d of %s, begun at %s, was accepted, although it had been given back at %s",
					what, op.Generation, p.name, seconds(op.Begin.At), seconds(h.Freed.At))
				return
			}
		}
		h := mine[len(mine)-1]
		for _, g := range c.session(h.Session).gone {
			if g.End.Before(op.Begin) && h.Session != 0 {
				c.violate("stale sequencer accepted", invariant, []*LockOp{h, g, op}, "%s of generation %d of %s, begun at %s, was accepted, although session %d had been called ended at %s",
					what, op.Generation, p.name, seconds(op.Begin.At), h.Session, seconds(g.End.At))
				return
			}
		}
	}
	for _, op := range p.checked {
		judge(op, "L1", "a check", !op.Refused)
	}
	for _, op := range p.fenced {
		if op.Status != Unknown || op.There {
			judge(op, "L2", "a commit under the fence", op.committed())
		}
	}
}

// deleted reports that somebody may have deleted the node during a hold, which ends it.
func (c *lockChecker) deleted(p *lockPath, h *LockOp) bool {
	return slices.ContainsFunc(p.changed, func(op *LockOp) bool {
		return op.Deleted && op.Status != Failed && h.Begin.Before(op.End.orNever()) && op.Begin.Before(h.End.orNever())
	})
}

// committed: acknowledged, or there in the end.
func (op *LockOp) committed() bool { return op.Status == OK || op.There }

// fences is L2: commits are in the order of their generations, by their timestamps, by the
// places in which the store shows them, and in the true order of events.
func (c *lockChecker) fences(p *lockPath) {
	var done []*LockOp
	for _, op := range p.fenced {
		if op.committed() {
			done = append(done, op)
		}
	}
	c.report.Committed += len(done)
	for _, op := range p.fenced {
		switch {
		case op.Status == OK && !op.There && p.ledger != nil && op.End.Before(p.ledger.Begin):
			c.violate("lost fenced commit", "R1", []*LockOp{op, p.ledger}, "a commit under %s was acknowledged at %s, and is not there", p.name, seconds(op.End.At))
		case op.Status == Failed && op.There:
			c.violate("refused commit is there", "X5", []*LockOp{op}, "a commit under %s was refused at %s, and is there", p.name, seconds(op.End.At))
		}
	}
	sort.SliceStable(done, func(i, j int) bool { return done[i].Generation < done[j].Generation })
	c.fenceOrder(p, done, func(op *LockOp) int64 { return op.TS }, func(a, b *LockOp) string {
		return fmt.Sprintf("its timestamp %s lies above %s", stamp(a.TS), stamp(b.TS))
	})
	c.fenceOrder(p, done, func(op *LockOp) int64 { return int64(op.Place) }, func(a, b *LockOp) string {
		return fmt.Sprintf("the store shows it as number %d, and the other as number %d", a.Place, b.Place)
	})
	// A commit begun after one of a higher generation was acknowledged.
	acked := slices.DeleteFunc(slices.Clone(done), func(op *LockOp) bool { return op.Status != OK || op.End == Instant{} })
	lower := func(a, b *LockOp) bool { return a.Generation < b.Generation }
	againstRealTime(done, acked, lower, func(a, high *LockOp) {
		c.violate("fenced commits out of order", "L2", []*LockOp{a, high}, "a commit fenced by generation %d of %s began at %s, after one of generation %d was acknowledged at %s, and committed",
			a.Generation, p.name, seconds(a.Begin.At), high.Generation, seconds(high.End.At))
	})
}

// fenceOrder tells of commits, sorted by generation, that lie above one of a higher
// generation by some measure, which is 0 where it is not known.
func (c *lockChecker) fenceOrder(p *lockPath, done []*LockOp, by func(*LockOp) int64, why func(a, b *LockOp) string) {
	var low *LockOp // the lowest of a higher generation than the present group's
	for end := len(done); end > 0; {
		first := end
		for first > 0 && done[first-1].Generation == done[end-1].Generation {
			first--
		}
		for _, a := range done[first:end] {
			if low != nil && by(a) != 0 && by(a) >= by(low) {
				c.violate("fenced commits out of order", "L2", []*LockOp{a, low}, "a commit fenced by generation %d of %s comes after one of generation %d: %s",
					a.Generation, p.name, low.Generation, why(a, low))
			}
		}
		for _, a := range done[first:end] {
			if by(a) != 0 && (low == nil || by(a) < by(low)) {
				low = a
			}
		}
		end = first
	}
}

// shortened is what of d is certain on another clock.
func (c *lockChecker) shortened(d time.Duration) time.Duration {
	return d - time.Duration(float64(d)*c.o.Drift)
}

// until shows the end of a hold.
func until(i Instant) string {
	if i == (Instant{}) {
		return "the end"
	}
	return seconds(i.At)
}

func (op *LockOp) mode() string {
	if op.Shared {
		return "shared"
	}
	return "exclusive"
}

const deletedGeneration = math.MaxUint64
