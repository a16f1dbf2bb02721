package check

import "slices"

// lists infers each list's version order from its longest read, and the dependencies
// from that.
func (c *checker) lists() {
	for _, k := range c.keys {
		if k.class == listKey {
			c.list1(k)
		}
	}
}

func (c *checker) list1(k *keyState) {
	longest := -1
	for i, r := range k.reads {
		if longest < 0 || len(r.values) > len(k.reads[longest].values) {
			longest = i
		}
	}
	if longest < 0 {
		return
	}
	order := k.reads[longest].values
	// A transaction's own appends lie behind what it read, so they may go on from there.
	for _, r := range k.reads {
		if len(r.values) == len(order) && slices.Equal(r.values, order) {
			if own := c.ownAppends(k, r.txn); len(own) > 0 {
				order = append(slices.Clone(order), own...)
				break
			}
		}
	}
	var sound []seen
	for _, r := range k.reads {
		if n := len(r.values); n > len(order) || !slices.Equal(r.values, order[:n]) {
			c.violate("incompatible order", "X2", "T%d and T%d saw %s in different orders: %s and %s%s",
				c.txns[r.txn].ID, c.txns[k.reads[longest].txn].ID, k.name, showList(r.values), showList(order), c.list(int(r.txn), int(k.reads[longest].txn)))
			continue
		}
		sound = append(sound, r)
	}
	c.chain(k, order, sound)
}

// ownAppends are the values that a transaction appended to k.
func (c *checker) ownAppends(k *keyState, txn int32) (vs []int64) {
	for i := range c.txns[txn].Ops {
		if o := &c.txns[txn].Ops[i]; o.Kind == Append && o.Key == k.name && !o.Undone {
			vs = append(vs, o.Value)
		}
	}
	return vs
}

// chain makes the edges of a list whose versions are the prefixes of order.
func (c *checker) chain(k *keyState, order []int64, reads []seen) {
	at := make(map[int64]bool, len(order))
	prev := int32(-1)
	var prevValue int64
	next := make([]int32, len(order)+1) // the first committed writer at or behind a place, -1 if none
	next[len(order)] = -1
	for i := len(order) - 1; i >= 0; i-- {
		if next[i] = c.writerOf(k, order[i]); next[i] < 0 {
			next[i] = next[i+1]
		}
	}
	for _, v := range order {
		at[v] = true
		w := c.writerOf(k, v)
		if w < 0 {
			continue
		}
		if prev >= 0 && prev != w {
			c.edge(prev, w, ww, k, prevValue, v)
		}
		prev, prevValue = w, v
	}
	// What nobody has seen was appended after all that was seen.
	var unseen []change
	for _, w := range k.writes {
		if !at[w.value] {
			unseen = append(unseen, w)
		}
	}
	var final []seen
	var full []seen
	for _, r := range reads {
		n := len(r.values)
		if n > 0 {
			if w := c.writerOf(k, r.values[n-1]); w >= 0 {
				c.edge(w, r.txn, wr, k, r.values[n-1], 0)
			}
		}
		if n < len(order) && next[n] >= 0 {
			c.edge(r.txn, next[n], rw, k, 0, order[n])
		}
		if n == len(order) {
			full = append(full, r)
		}
		if c.txns[r.txn].Final {
			final = append(final, r)
		}
	}
	if len(final) > 0 {
		for _, w := range unseen {
			c.lost(k, w, final[0].txn)
		}
		return
	}
	if prev >= 0 {
		for _, w := range unseen {
			c.edge(prev, w.txn, ww, k, prevValue, w.value)
		}
	}
	c.product(k, rw, full, unseen)
}
