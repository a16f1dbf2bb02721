package check

import (
	"fmt"
	"slices"
	"sort"
)

// nodeVersion is a file's contents: of two instances the higher is the later one, and so of
// two generations of one. A deleted instance lies above all its generations.
type nodeVersion struct{ instance, generation uint64 }

func (v nodeVersion) less(o nodeVersion) bool {
	return v.instance < o.instance || v.instance == o.instance && v.generation < o.generation
}

func (v nodeVersion) String() string {
	if v.generation == deletedGeneration {
		return fmt.Sprintf("the end of instance %d", v.instance)
	}
	return fmt.Sprintf("generation %d of instance %d", v.generation, v.instance)
}

func (op *LockOp) version() nodeVersion {
	if op.Deleted {
		return nodeVersion{op.Instance, deletedGeneration}
	}
	return nodeVersion{op.Instance, op.Generation}
}

// changes is section 2.6: generations count the changes of a file in their order, and a
// conditional one takes place at most once for each.
func (c *lockChecker) changes(p *lockPath) {
	expected := map[nodeVersion]*LockOp{} // by what it replaced
	made := map[nodeVersion]*LockOp{}
	var done []*LockOp
	for _, op := range p.changed {
		if op.Status != OK {
			continue
		}
		done = append(done, op)
		if op.Conditional {
			v := nodeVersion{op.Instance, op.If}
			if a := expected[v]; a != nil {
				c.violate("compare-and-set succeeded twice", "C2.6", []*LockOp{a, op}, "both replaced %v of %s", v, p.name)
			}
			expected[v] = op
			if !op.Deleted && op.Generation != op.If+1 {
				c.violate("compare-and-set replaced another generation", "C2.6", []*LockOp{op}, "generation %d of %s was to be replaced; what came of it is generation %d",
					op.If, p.name, op.Generation)
			}
		}
		if a := made[op.version()]; a != nil {
			c.violate("generation given twice", "C2.6", []*LockOp{a, op}, "both made %v of %s", op.version(), p.name)
		}
		made[op.version()] = op
	}
	lower := func(a, b *LockOp) bool { return a.version().less(b.version()) }
	againstRealTime(done, done, lower, func(b, high *LockOp) {
		c.violate("changes against real time", "C2.6", []*LockOp{high, b}, "the change of %s that began at %s made %v, although %v had been acknowledged at %s",
			p.name, seconds(b.Begin.At), b.version(), high.version(), seconds(high.End.At))
	})
}

// againstRealTime tells of each of begun that is lower than the highest of ended that had ended
// before it began.
func againstRealTime(begun, ended []*LockOp, lower func(a, b *LockOp) bool, tell func(op, high *LockOp)) {
	begun, ended = slices.Clone(begun), slices.Clone(ended)
	sort.SliceStable(begun, func(i, j int) bool { return begun[i].Begin.Before(begun[j].Begin) })
	sort.SliceStable(ended, func(i, j int) bool { return ended[i].End.Before(ended[j].End) })
	var high *LockOp
	for _, op := range begun {
		for len(ended) > 0 && ended[0].End.Before(op.Begin) {
			if high == nil || lower(high, ended[0]) {
				high = ended[0]
			}
			ended = ended[1:]
		}
		if high != nil && lower(op, high) {
			tell(op, high)
		}
	}
}

// known is a version that somebody knew of at End.
type known struct {
	v  nodeVersion
	op *LockOp
}

// looks is section 2.7: a read, also one from a cache, shows at least what was acknowledged,
// read or told by an event before it began, and nothing of what began after it had ended.
func (c *lockChecker) looks(p *lockPath) {
	made := map[nodeVersion]*LockOp{}
	var facts []known
	for _, op := range p.changed {
		if op.Status == OK {
			facts = append(facts, known{op.version(), op})
			made[op.version()] = op
		}
	}
	for _, op := range p.heard {
		facts = append(facts, known{op.version(), op})
	}
	for _, op := range p.looked {
		if !op.Deleted { // what an absence says depends on what was known
			facts = append(facts, known{op.version(), op})
		}
		if op.Cached {
			c.report.CachedReads++
		}
	}
	sort.SliceStable(facts, func(i, j int) bool { return facts[i].op.End.Before(facts[j].op.End) })
	floor := make([]known, len(facts))
	for i, f := range facts {
		floor[i] = f
		if i > 0 && f.v.less(floor[i-1].v) {
			floor[i] = floor[i-1]
		}
	}
	for _, op := range p.looked {
		n := sort.Search(len(facts), func(i int) bool { return !facts[i].op.End.Before(op.Begin) })
		if n > 0 {
			c.notOlder(p, op, floor[n-1])
		}
		w := made[op.version()]
		if op.Deleted || w == nil {
			continue
		}
		if op.End.Before(w.Begin) {
			c.violate("read of the future", "C2.7", []*LockOp{op, w}, "%v of %s was read before the change that made it began", op.version(), p.name)
		}
		if op.Value != 0 && w.Value != 0 && op.Value != w.Value {
			c.violate("other contents", "C2.7", []*LockOp{op, w}, "%v of %s was written as %d, and read as %d", op.version(), p.name, w.Value, op.Value)
		}
	}
}

// notOlder holds a read against the latest version that was known before it began.
func (c *lockChecker) notOlder(p *lockPath, op *LockOp, f known) {
	old := op.version().less(f.v)
	if op.Deleted { // some deletion must explain it
		old = f.v.generation != deletedGeneration && !slices.ContainsFunc(p.changed, func(d *LockOp) bool {
			return d.Deleted && d.Status != Failed && d.Begin.Before(op.End) && (d.Instance == 0 || d.Instance >= f.v.instance)
		})
	}
	if !old {
		return
	}
	what, saw := "a read", op.version().String()
	if op.Cached {
		what = "a cached read"
	}
	if op.Deleted {
		saw = "no file"
	}
	c.violate("stale read", "C2.7", []*LockOp{f.op, op}, "%s of %s that began at %s saw %s, although %v was known at %s", what, p.name, seconds(op.Begin.At), saw, f.v, seconds(f.op.End.At))
}
