package check

// registers infers which version of a register follows which from the transactions that
// read one and wrote another. nil comes before all.
func (c *checker) registers() {
	for _, k := range c.keys {
		if k.class == registerKey {
			c.register1(k)
		}
	}
}

// link says that txn replaced a version.
type link struct {
	txn   int32
	value int64
}

func (c *checker) register1(k *keyState) {
	wrote := map[int32]int64{}
	for _, w := range k.writes {
		wrote[w.txn] = w.value
	}
	next := map[int64]link{}   // by version
	var heads []change         // writers of versions that follow nil, or of whose place no more is known
	placed := map[int32]bool{} // writers whose version follows a known one
	var first *link            // the transaction that read nil and wrote
	for _, r := range k.reads {
		v, writes := wrote[r.txn]
		if !writes || r.differs {
			continue
		}
		l := link{r.txn, v}
		if r.null {
			if first != nil {
				c.lostUpdate(k, *first, l, "nil")
				continue
			}
			first = &l
			continue
		}
		if other, ok := next[r.value]; ok {
			c.lostUpdate(k, other, l, show(r.value))
			continue
		}
		next[r.value] = l
		placed[r.txn] = true
		if w := c.writerOf(k, r.value); w >= 0 {
			c.edge(w, r.txn, ww, k, r.value, v)
		}
	}
	for _, w := range k.writes {
		if !placed[w.txn] {
			heads = append(heads, w)
		}
	}
	var nils []seen
	for _, r := range k.reads {
		switch {
		case r.differs:
		case r.null:
			nils = append(nils, r)
		default:
			if w := c.writerOf(k, r.value); w >= 0 {
				c.edge(w, r.txn, wr, k, r.value, 0)
			}
			if l, ok := next[r.value]; ok {
				c.edge(r.txn, l.txn, rw, k, r.value, l.value)
			}
		}
	}
	if first != nil {
		for _, w := range heads {
			c.edge(first.txn, w.txn, ww, k, first.value, w.value)
		}
	}
	c.product(k, rw0, nils, heads)
}

func (c *checker) lostUpdate(k *keyState, a, b link, from string) {
	if a.txn == b.txn {
		return
	}
	c.violate("lost update", "X2", "T%d and T%d both read %s as %s and replaced it, by %d and %d%s",
		c.txns[a.txn].ID, c.txns[b.txn].ID, k.name, from, a.value, b.value, c.list(int(a.txn), int(b.txn)))
}
