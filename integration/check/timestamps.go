package check

import (
	"cmp"
	"slices"
)

// timestamps holds commit and read timestamps to the dependencies, and to real time.
func (c *checker) timestamps() {
	c.dependencies()
	c.realTime()
}

// dependencies: along an edge timestamps grow. Who read at t saw exactly what was
// committed up to t (X4).
func (c *checker) dependencies() {
	for i := range c.graph.edges {
		e := &c.graph.edges[i]
		if e.typ == rt || e.from >= c.graph.txns {
			continue
		}
		if e.to < c.graph.txns {
			c.dependency(*e)
			continue
		}
		for _, f := range c.graph.out(e.to) { // of the hub
			c.dependency(edge{e.from, f.to, e.key, e.typ, e.a, f.b})
		}
	}
}

func (c *checker) dependency(e edge) {
	from, to := c.txns[e.from], c.txns[e.to]
	if from.TS == 0 || to.TS == 0 || from.TS < to.TS {
		return
	}
	if from.TS == to.TS && !to.Writes() {
		return // it reads at the timestamp of the version
	}
	anomaly, inv := "timestamps against dependency", "X2"
	if !from.Writes() || !to.Writes() {
		anomaly, inv = "read not at its timestamp", "X4"
	}
	c.violate(anomaly, inv, "T%d has timestamp %s and T%d %s, but T%d comes before T%d: %s%s",
		from.ID, stamp(from.TS), to.ID, stamp(to.TS), from.ID, to.ID, c.reason(e), c.list(int(e.from), int(e.to)))
}

// realTime is X1: who began after a commit was acknowledged has a higher timestamp. The
// order of events is the clients', which no clock of the system can touch.
func (c *checker) realTime() {
	var begins, ends []int32
	for i, t := range c.txns {
		if !c.committed[i] || t.TS == 0 {
			continue
		}
		if !t.Stale {
			begins = append(begins, int32(i))
		}
		if t.Status == OK && t.Writes() { // a read's timestamp binds only those who write what it read
			ends = append(ends, int32(i))
		}
	}
	slices.SortFunc(begins, func(a, b int32) int { return cmp.Compare(c.txns[a].Begin, c.txns[b].Begin) })
	slices.SortFunc(ends, func(a, b int32) int { return cmp.Compare(c.txns[a].End, c.txns[b].End) })
	high := int32(-1) // of those that have ended, the one with the highest timestamp
	for _, i := range begins {
		t := c.txns[i]
		for len(ends) > 0 && c.txns[ends[0]].End < t.Begin {
			if high < 0 || c.txns[ends[0]].TS > c.txns[high].TS {
				high = ends[0]
			}
			ends = ends[1:]
		}
		if high < 0 {
			continue
		}
		if h := c.txns[high]; t.TS < h.TS || t.TS == h.TS && t.Writes() {
			c.violate("timestamps against real time", "X1", "T%d has timestamp %s, although it began, at %s, after T%d was acknowledged, at %s, with timestamp %s%s",
				t.ID, stamp(t.TS), seconds(t.BeganAt), h.ID, seconds(h.EndedAt), stamp(h.TS), c.list(int(high), int(i)))
		}
	}
}
