package check

import (
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"
	"time"
)

// Violation is something that no strictly serializable system that keeps its
// acknowledgements could have answered.
type Violation struct {
	// Anomaly is its name in the field's terms.
	Anomaly string
	// Invariant is the one that it breaks first of all, by the numbers of ARCHITECTURE.md.
	Invariant string
	// Story is the transactions concerned, and why they contradict one another.
	Story string
}

func (v Violation) String() string { return v.Anomaly + " (" + v.Invariant + "): " + v.Story }

// Options of Judge.
type Options struct {
	// Patience bounds, in real time, the judgement of one register by porcupine; 10 s by default.
	Patience time.Duration
	// Limit is the most violations told of each anomaly; 5 by default.
	Limit int
}

// Report is a judgement.
type Report struct {
	Violations []Violation
	// Undecided are registers with which porcupine lost its patience. They are neither
	// right nor wrong.
	Undecided []string
	// Suppressed is how many violations were found beyond the limit.
	Suppressed int

	// Transactions by outcome, dependencies by type (ww, wr, rw), registers that
	// porcupine judged, commits whose timestamp is known: whether there was something to judge.
	OK, Failed, Unknown, Observed int
	Edges                         map[string]int
	Registers                     int
	Timestamps                    int
}

func (r *Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d ok, %d failed, %d unknown (%d of them seen committed); edges ww %d, wr %d, rw %d; %d registers; %d timestamps; %d undecided; %d violations",
		r.OK, r.Failed, r.Unknown, r.Observed, r.Edges["ww"], r.Edges["wr"], r.Edges["rw"], r.Registers, r.Timestamps, len(r.Undecided), len(r.Violations)+r.Suppressed)
	for _, u := range r.Undecided {
		b.WriteString("\nundecided: " + u)
	}
	for _, v := range r.Violations {
		b.WriteString("\n" + v.String())
	}
	return b.String()
}

// Check returns what is wrong with h. A register that porcupine could not decide is
// among it, as the anomaly "undecided"; Judge tells them apart. All of h's clients must
// have ended.
func Check(h *History) []Violation {
	return Judge(h, Options{}).All()
}

// All returns the violations, and each undecided register as one of the anomaly "undecided".
func (r *Report) All() []Violation {
	vs := slices.Clone(r.Violations)
	for _, u := range r.Undecided {
		vs = append(vs, Violation{"undecided", "X1", u})
	}
	return vs
}

// Judge is Check with options, and a report of what there was to judge.
func Judge(h *History, o Options) *Report {
	if o.Patience == 0 {
		o.Patience = 10 * time.Second
	}
	if o.Limit == 0 {
		o.Limit = 5
	}
	c := &checker{
		o: o, txns: h.Txns(), keyIndex: map[keyName]int32{}, writers: map[version]writer{},
		report: &Report{Edges: map[string]int{}}, told: map[string]int{},
	}
	c.graph.txns, c.graph.nodes = int32(len(c.txns)), int32(len(c.txns))
	c.index()
	c.observe()
	c.collect()
	c.lists()
	c.registers()
	c.sets()
	c.counters()
	c.sums()
	c.realTimeEdges()
	c.cycles()
	c.timestamps()
	c.linearizable()
	return c.report
}

// class of a key: keys of different classes have nothing to do with each other.
type class uint8

const (
	listKey class = iota
	registerKey
	setKey
	counterKey
	sumKey
)

func (k OpKind) class() class {
	return [...]class{Append: listKey, List: listKey, Write: registerKey, Read: registerKey, Differs: registerKey,
		Insert: setKey, Scan: setKey, Add: counterKey, Count: counterKey, Sum: sumKey}[k]
}

type keyName struct {
	class class
	name  string
}

type version struct {
	key   int32
	value int64
}

// writer of a version.
type writer struct {
	txn int32
	// last: the transaction writes the key no more after it.
	last   bool
	undone bool
}

// checker judges one history. Transactions are named by their index in txns.
type checker struct {
	o        Options
	report   *Report
	told     map[string]int
	txns     []*Txn
	end      []int64 // of each transaction, MaxInt64 where it is not known to have ended
	keyIndex map[keyName]int32
	keys     []*keyState
	writers  map[version]writer
	// committed: acknowledged, or of unknown outcome and seen by one that committed.
	committed []bool
	graph     graph
}

// keyState is what was done with a key.
type keyState struct {
	keyName
	id      int32
	reads   []seen   // by committed transactions, what others have written
	writes  []change // by committed transactions, in no order
	history []int32  // transactions of any outcome, in order of first use
}

// seen is what a committed transaction read of a key before its own writes.
type seen struct {
	txn    int32
	values []int64 // of lists and sets
	value  int64   // of registers and counters
	null   bool
	// differs: the register did not hold value, nothing else is known.
	differs bool
}

// change is the last of a transaction's writes to a key, for lists and sets each of them.
type change struct {
	txn   int32
	value int64
}

func (c *checker) violate(anomaly, invariant, format string, args ...any) {
	if c.told[anomaly]++; c.told[anomaly] > c.o.Limit {
		c.report.Suppressed++
		return
	}
	c.report.Violations = append(c.report.Violations, Violation{anomaly, invariant, fmt.Sprintf(format, args...)})
}

func (c *checker) key(o *Op) *keyState {
	n := keyName{o.Kind.class(), o.Key}
	i, ok := c.keyIndex[n]
	if !ok {
		i = int32(len(c.keys))
		c.keyIndex[n] = i
		c.keys = append(c.keys, &keyState{keyName: n, id: i})
	}
	return c.keys[i]
}

// index finds out who wrote what.
func (c *checker) index() {
	sort.SliceStable(c.txns, func(i, j int) bool { return c.txns[i].ID < c.txns[j].ID })
	c.end = make([]int64, len(c.txns))
	last := map[int32]version{} // of this transaction's writes, by key
	for i, t := range c.txns {
		c.end[i] = math.MaxInt64
		if t.End != 0 && t.Status != Unknown {
			c.end[i] = t.End
		}
		switch {
		case t.Status == OK && t.End != 0:
			c.report.OK++
		case t.Status == Failed && t.End != 0:
			c.report.Failed++
		default:
			c.report.Unknown++
		}
		if t.TS != 0 {
			c.report.Timestamps++
		}
		clear(last)
		for j := range t.Ops {
			o := &t.Ops[j]
			k := c.key(o)
			if n := len(k.history); n == 0 || k.history[n-1] != int32(i) {
				k.history = append(k.history, int32(i))
			}
			switch o.Kind {
			case Append, Write, Insert:
			default:
				continue
			}
			v := version{k.id, o.Value}
			if w, ok := c.writers[v]; ok {
				if !(k.class == setKey && w.txn == int32(i)) {
					c.violate("malformed history", "none", "%s of %s is written twice, so that a read of it names nobody%s", show(o.Value), k.name, c.list(int(w.txn), i))
				}
				continue
			}
			if o.Undone {
				c.writers[v] = writer{int32(i), false, true}
				continue
			}
			if prev, ok := last[k.id]; ok && k.class != setKey {
				w := c.writers[prev]
				w.last = false
				c.writers[prev] = w
			}
			last[k.id] = v
			c.writers[v] = writer{int32(i), true, false}
		}
	}
}

// observe finds the transactions that committed: what one of them has read is committed,
// whatever its own client heard.
func (c *checker) observe() {
	c.committed = make([]bool, len(c.txns))
	var todo []int32
	for i, t := range c.txns {
		if t.Status == OK && t.End != 0 {
			c.committed[i] = true
			todo = append(todo, int32(i))
		}
	}
	see := func(k int32, v int64) {
		w, ok := c.writers[version{k, v}]
		if !ok || w.undone || c.committed[w.txn] || c.refused(w.txn) {
			return
		}
		c.committed[w.txn] = true
		c.report.Observed++
		todo = append(todo, w.txn)
	}
	for len(todo) > 0 {
		t := c.txns[todo[len(todo)-1]]
		todo = todo[:len(todo)-1]
		for j := range t.Ops {
			switch o := &t.Ops[j]; o.Kind {
			case List, Scan:
				k := c.key(o).id
				for _, v := range o.Values {
					see(k, v)
				}
			case Read:
				if !o.Null {
					see(c.key(o).id, o.Value)
				}
			}
		}
	}
}

// refused reports whether a transaction's client was told that it will never commit.
func (c *checker) refused(txn int32) bool {
	t := c.txns[txn]
	return t.Status == Failed && t.End != 0
}

// collect sorts what committed transactions did by key, and judges each value read by itself.
func (c *checker) collect() {
	for i, t := range c.txns {
		if c.committed[i] {
			c.collectTxn(int32(i), t)
		}
	}
}

func (c *checker) collectTxn(i int32, t *Txn) {
	own := map[int32][]*Op{}    // its writes so far, by key
	var wrote []int32           // the keys of own, in order
	before := map[int32]*seen{} // what it has read of others so far, by key
	for j := range t.Ops {
		o := &t.Ops[j]
		k := c.key(o)
		switch o.Kind {
		case Append, Write, Insert, Add:
			if o.Undone {
				continue
			}
			if own[k.id] == nil {
				wrote = append(wrote, k.id)
			}
			own[k.id] = append(own[k.id], o)
			continue
		case Sum:
			continue
		}
		s, ok := c.withoutOwn(i, k, o, own[k.id])
		if !ok {
			continue
		}
		c.judgeRead(i, k, s)
		prev := before[k.id]
		if prev != nil && !prev.differs && !s.differs {
			if k.class != counterKey && !sameSeen(prev, s) {
				c.violate("internal", "X2", "T%d read %s twice, and differently: %s, then %s%s", t.ID, k.name, c.showSeen(k, prev), c.showSeen(k, s), c.list(int(i)))
			}
			continue
		}
		before[k.id] = s
		k.reads = append(k.reads, *s)
	}
	for _, id := range wrote {
		k, ops := c.keys[id], own[id]
		if k.class == registerKey {
			ops = ops[len(ops)-1:]
		}
		for _, o := range ops {
			k.writes = append(k.writes, change{i, o.Value})
		}
	}
}

// withoutOwn returns what o read of others' writes; ok is false when it shows nothing of
// them, or contradicts its own transaction.
func (c *checker) withoutOwn(i int32, k *keyState, o *Op, own []*Op) (s *seen, ok bool) {
	s = &seen{txn: i, value: o.Value, null: o.Null, differs: o.Kind == Differs}
	switch k.class {
	case listKey:
		n := len(o.Values) - len(own)
		for j, w := range own {
			if n < 0 || o.Values[n+j] != w.Value {
				c.violate("internal", "X2", "T%d read %s as %s, which does not end in what it had appended itself%s", c.txns[i].ID, k.name, showList(o.Values), c.list(int(i)))
				return nil, false
			}
		}
		s.values = o.Values[:n]
	case setKey:
		s.values = o.Values
		if len(own) > 0 {
			mine := map[int64]bool{}
			for _, w := range own {
				mine[w.Value] = true
			}
			s.values = nil
			for _, v := range o.Values {
				if mine[v] {
					delete(mine, v)
				} else {
					s.values = append(s.values, v)
				}
			}
			if len(mine) > 0 {
				c.violate("internal", "X2", "T%d scanned %s as %s, without what it had inserted itself%s", c.txns[i].ID, k.name, showList(o.Values), c.list(int(i)))
				return nil, false
			}
		}
	case registerKey:
		if len(own) > 0 {
			if w := own[len(own)-1]; !s.differs && (o.Null || o.Value != w.Value) || s.differs && o.Value == w.Value {
				c.violate("internal", "X2", "T%d wrote %d to %s, and then: %v%s", c.txns[i].ID, w.Value, k.name, o, c.list(int(i)))
			}
			return nil, false
		}
	case counterKey:
		for _, w := range own {
			s.value -= w.Value
		}
	}
	return s, true
}

func sameSeen(a, b *seen) bool {
	if a.values == nil && b.values == nil {
		return a.null == b.null && (a.null || a.value == b.value)
	}
	if len(a.values) != len(b.values) {
		return false
	}
	if slices.Equal(a.values, b.values) {
		return true
	}
	x, y := slices.Clone(a.values), slices.Clone(b.values)
	slices.Sort(x)
	slices.Sort(y)
	return slices.Equal(x, y)
}

// judgeRead asks of each value that was read whether it could be there at all.
func (c *checker) judgeRead(i int32, k *keyState, s *seen) {
	switch k.class {
	case listKey, setKey:
		if d, ok := duplicate(s.values); ok {
			c.violate("duplicate", "X5", "T%d found %d more than once in %s: %s%s", c.txns[i].ID, d, k.name, showList(s.values), c.withWriter(k, d, i))
		}
		for j, v := range s.values {
			c.judgeValue(i, k, v, k.class == listKey && j == len(s.values)-1)
		}
	case registerKey:
		if !s.null && !s.differs {
			c.judgeValue(i, k, s.value, true)
		}
	}
}

func (c *checker) judgeValue(i int32, k *keyState, v int64, newest bool) {
	w, ok := c.writers[version{k.id, v}]
	switch {
	case !ok:
		c.violate("garbage read", "X4", "T%d found %d in %s, which nobody wrote%s", c.txns[i].ID, v, k.name, c.list(int(i)))
	case w.txn == i && !w.undone:
		c.violate("internal", "X2", "T%d found %d in %s before it wrote that itself%s", c.txns[i].ID, v, k.name, c.list(int(i)))
	case w.undone:
		c.violate("G1a (aborted read)", "X3", "T%d found %d in %s, which T%d had undone by going back to a savepoint%s", c.txns[i].ID, v, k.name, c.txns[w.txn].ID, c.list(int(w.txn), int(i)))
	case c.refused(w.txn):
		c.violate("G1a (aborted read)", "X5", "T%d found %d in %s, of T%d, whose client was told that it had not committed%s", c.txns[i].ID, v, k.name, c.txns[w.txn].ID, c.list(int(w.txn), int(i)))
	case newest && !w.last:
		c.violate("G1b (intermediate read)", "X4", "T%d saw %s as T%d had left it for a moment, with %d as the newest value%s", c.txns[i].ID, k.name, c.txns[w.txn].ID, v, c.list(int(w.txn), int(i)))
	}
}

func duplicate(vs []int64) (int64, bool) {
	if slices.IsSorted(vs) {
		for i := 1; i < len(vs); i++ {
			if vs[i] == vs[i-1] {
				return vs[i], true
			}
		}
		return 0, false
	}
	there := make(map[int64]bool, len(vs))
	for _, v := range vs {
		if there[v] {
			return v, true
		}
		there[v] = true
	}
	return 0, false
}

// lost tells of a write of a committed transaction that is not there at the end.
func (c *checker) lost(k *keyState, w change, reader int32) {
	t := c.txns[w.txn]
	if t.Status == OK {
		c.violate("lost write", "R1", "%d in %s, of T%d, was acknowledged and is not there at the end%s", w.value, k.name, t.ID, c.list(int(w.txn), int(reader)))
		return
	}
	c.violate("partial commit", "X3", "%d in %s, of T%d, is not there at the end, although others of its writes were seen%s", w.value, k.name, t.ID, c.list(int(w.txn), int(reader)))
}

// writerOf returns the committed transaction that wrote a value, -1 if there is none.
func (c *checker) writerOf(k *keyState, v int64) int32 {
	w, ok := c.writers[version{k.id, v}]
	if !ok || w.undone || !c.committed[w.txn] {
		return -1
	}
	return w.txn
}
