package check

import (
	"cmp"
	"slices"
)

// sets orders the scans of each set by inclusion: what one lacks and another has was
// inserted in between.
func (c *checker) sets() {
	for _, k := range c.keys {
		if k.class == setKey {
			c.set1(k)
		}
	}
}

func (c *checker) set1(k *keyState) {
	if len(k.reads) == 0 {
		return
	}
	scans := slices.Clone(k.reads)
	slices.SortStableFunc(scans, func(a, b seen) int { return cmp.Compare(len(a.values), len(b.values)) })
	firstIn := map[int64]int{} // the first level whose scans have a value
	var levels [][]seen        // scans that are equal
	for _, s := range scans {
		if len(levels) > 0 {
			top := levels[len(levels)-1]
			base := top[0]
			if missing, ok := lacks(s.values, base.values); ok {
				c.fork(k, base, s, missing)
				continue
			}
			if len(s.values) == len(base.values) {
				levels[len(levels)-1] = append(top, s)
				continue
			}
		}
		for _, v := range s.values {
			if _, ok := firstIn[v]; !ok {
				firstIn[v] = len(levels)
			}
		}
		levels = append(levels, []seen{s})
	}
	c.setEdges(k, levels, firstIn)
}

// lacks returns a value of want that have lacks.
func lacks(have, want []int64) (int64, bool) {
	if len(want) == 0 {
		return 0, false
	}
	m := make(map[int64]bool, len(have))
	for _, v := range have {
		m[v] = true
	}
	for _, v := range want {
		if !m[v] {
			return v, true
		}
	}
	return 0, false
}

// fork tells of two scans each of which has what the other lacks.
func (c *checker) fork(k *keyState, a, b seen, inA int64) {
	inB, _ := lacks(a.values, b.values)
	who := []int{int(a.txn), int(b.txn)}
	for _, v := range []int64{inA, inB} {
		if w := c.writerOf(k, v); w >= 0 {
			who = append(who, int(w))
		}
	}
	c.violate("G2 (long fork)", "X4", "T%d saw %d in %s and not %d, T%d saw %d and not %d: each came before the other%s",
		c.txns[a.txn].ID, inA, k.name, inB, c.txns[b.txn].ID, inB, inA, c.list(who...))
}

func (c *checker) setEdges(k *keyState, levels [][]seen, firstIn map[int64]int) {
	var final *seen
	inserted := make([][]change, len(levels)+1) // by the first level that shows them
	for i := range levels {
		for j := range levels[i] {
			s := &levels[i][j]
			if c.txns[s.txn].Final {
				final = s
			}
			for _, v := range s.values {
				if w := c.writerOf(k, v); w >= 0 {
					c.edge(w, s.txn, wr, k, v, 0)
				}
			}
		}
	}
	for _, w := range k.writes {
		level, ok := firstIn[w.value]
		if !ok {
			if final != nil && c.txns[w.txn].Begin < c.txns[final.txn].Begin {
				c.lost(k, w, final.txn)
				continue
			}
			level = len(levels)
		}
		inserted[level] = append(inserted[level], w)
	}
	// Of what a scan lacks, the edge to what the next ones show is enough: the rest
	// follows from those.
	for i := range levels {
		c.product(k, prw, levels[i], inserted[i+1])
	}
}

// product makes edges from each reader to each writer, through a node of its own where
// they would be too many.
func (c *checker) product(k *keyState, typ edgeType, from []seen, to []change) {
	if len(from) == 0 || len(to) == 0 {
		return
	}
	const few = 256
	if len(from)*len(to) <= few {
		for _, r := range from {
			for _, w := range to {
				c.edge(r.txn, w.txn, typ, k, 0, w.value)
			}
		}
		return
	}
	writes := make(map[int32]bool, len(to))
	for _, w := range to {
		writes[w.txn] = true
	}
	hub := c.graph.newHub()
	var first *seen
	both := 0
	for i := range from {
		r := &from[i]
		if !writes[r.txn] {
			c.edgeToHub(r.txn, hub, typ, k)
			first = r
			continue
		}
		// Through the hub it would come before itself. Two such contradict each other,
		// so that a few are enough.
		if both++; both <= 3 {
			for _, w := range to {
				c.edge(r.txn, w.txn, typ, k, 0, w.value)
			}
		}
	}
	if first == nil {
		return
	}
	for _, w := range to {
		c.edgeFromHub(hub, w.txn, typ, k, w.value)
	}
}
