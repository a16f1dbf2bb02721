package check

import (
	"fmt"
	"strings"
)

// added is what a transaction added to a counter, and what it wrote into sets, by which
// a scan shows whether it had committed.
type added struct {
	txn   int32
	delta int64
	ids   []version
}

// counters holds each counter that a transaction read together with a ledger, a set
// into which whoever adds to the counter inserts an id, to the sum over those ids.
func (c *checker) counters() {
	adds := map[int32][]added{}
	for i, t := range c.txns {
		var ids []version
		sums := map[int32]int64{}
		for j := range t.Ops {
			o := &t.Ops[j]
			switch {
			case o.Undone:
			case o.Kind == Insert:
				ids = append(ids, version{c.key(o).id, o.Value})
			case o.Kind == Add:
				sums[c.key(o).id] += o.Value
			}
		}
		for k, d := range sums {
			adds[k] = append(adds[k], added{int32(i), d, ids})
		}
	}
	for i, t := range c.txns {
		if c.committed[i] && t.Status == OK && !t.Writes() {
			c.countersOf(int32(i), t, adds)
		}
	}
}

func (c *checker) countersOf(i int32, t *Txn, adds map[int32][]added) {
	ledgers := map[int32]bool{}
	shown := map[version]bool{}
	for j := range t.Ops {
		if o := &t.Ops[j]; o.Kind == Scan {
			k := c.key(o).id
			ledgers[k] = true
			for _, v := range o.Values {
				shown[version{k, v}] = true
			}
		}
	}
	if len(ledgers) == 0 {
		return
	}
	for j := range t.Ops {
		o := &t.Ops[j]
		if o.Kind != Count {
			continue
		}
		if want, ok := c.total(t, adds[c.key(o).id], ledgers, shown); ok && want != o.Value {
			c.violate("wrong counter", "X5", "T%d found %d in %s, but the transactions that it sees committed make it %d: some were counted in part, or more than once%s",
				t.ID, o.Value, o.Key, want, c.list(int(i)))
		}
	}
}

// total adds up what t must find in a counter; ok is false when t does not show enough to say.
func (c *checker) total(t *Txn, all []added, ledgers map[int32]bool, shown map[version]bool) (sum int64, ok bool) {
	for _, a := range all {
		told := false // whether the ledgers tell of it
		there := false
		for _, id := range a.ids {
			if ledgers[id.key] {
				told = true
				there = there || shown[id]
			}
		}
		switch {
		case told:
			if there {
				sum += a.delta
			}
		case c.refused(a.txn):
		case c.txns[a.txn].Status == OK && c.end[a.txn] < t.Begin:
			sum += a.delta
		default:
			return 0, false
		}
	}
	return sum, true
}

// sums holds every total to the first that was recorded.
func (c *checker) sums() {
	first := map[string]int64{}
	for i, t := range c.txns {
		if t.Status != OK || t.End == 0 {
			continue
		}
		for j := range t.Ops {
			o := &t.Ops[j]
			if o.Kind != Sum {
				continue
			}
			want, ok := first[o.Key]
			if !ok {
				first[o.Key] = o.Value
				continue
			}
			if o.Value != want {
				c.violate("wrong total", "X4", "T%d saw the total of %s as %d, not %d%s%s", t.ID, o.Key, o.Value, want, c.list(i), countsOf(t))
			}
		}
	}
}

func countsOf(t *Txn) string {
	var b strings.Builder
	for j := range t.Ops {
		if o := &t.Ops[j]; o.Kind == Count {
			fmt.Fprintf(&b, " %s=%d", o.Key, o.Value)
		}
	}
	if b.Len() == 0 {
		return ""
	}
	return "\n  it saw" + b.String()
}
