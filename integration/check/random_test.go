package check

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// world is a strictly serializable store as its clients see it: each transaction takes
// effect at one instant between its beginning and its end.
type world struct {
	rng   *rand.Rand
	order int64
	clock int64
	value int64
	lists map[string][]int64
	sets  map[string][]int64
	regs  map[string]int64
	sums  map[string]int64
	past  []past // for stale reads
	txns  []*Txn
}

type past struct {
	ts    int64
	lists map[string][]int64
}

// serial makes a history of about n transactions by some clients, at most all of them at
// a time. What it answers is right.
func serial(seed uint64, n, clients, keys int) *world {
	w := &world{
		rng: rand.New(rand.NewPCG(seed, 7)), clock: 1000,
		lists: map[string][]int64{}, sets: map[string][]int64{}, regs: map[string]int64{}, sums: map[string]int64{},
	}
	w.run(-1, func(t *Txn) {
		t.Ops = []Op{{Kind: Add, Key: "a0", Value: 100}, {Kind: Add, Key: "a1", Value: 100}, {Kind: Sum, Key: "bank", Value: 200}}
		w.sums["a0"], w.sums["a1"] = 100, 100
	})
	type running struct {
		t    *Txn
		done bool
	}
	var open []*running
	for len(w.txns) < n || len(open) > 0 {
		i := w.rng.IntN(clients + 1)
		if i >= len(open) {
			if len(w.txns) < n && len(open) < clients {
				w.order++
				t := &Txn{ID: len(w.txns) + 1, Client: len(open), Node: w.rng.IntN(3), Begin: w.order}
				w.txns = append(w.txns, t)
				open = append(open, &running{t: t})
			}
			continue
		}
		r := open[i]
		if !r.done {
			r.done = true
			w.execute(r.t, keys)
			continue
		}
		w.order++
		r.t.End = w.order
		open = slices.Delete(open, i, i+1)
	}
	w.run(-1, func(t *Txn) {
		t.Final = true
		for i := range keys {
			t.Ops = append(t.Ops, w.list(i), w.scan(i), w.read(i))
		}
		t.Ops = append(t.Ops, Op{Kind: Scan, Key: "ledger", Values: slices.Clone(w.sets["ledger"])},
			Op{Kind: Count, Key: "a0", Value: w.sums["a0"]}, Op{Kind: Count, Key: "a1", Value: w.sums["a1"]},
			Op{Kind: Sum, Key: "bank", Value: w.sums["a0"] + w.sums["a1"]})
	})
	for _, t := range w.txns {
		t.BeganAt, t.EndedAt = instant(t.Begin), instant(t.End)
	}
	return w
}

// run makes a transaction that overlaps none.
func (w *world) run(client int, body func(*Txn)) {
	w.order++
	t := &Txn{ID: len(w.txns) + 1, Client: client, Begin: w.order, Status: OK}
	w.txns = append(w.txns, t)
	body(t)
	w.order++
	t.End = w.order
}

func (w *world) history() *History {
	h := NewHistory()
	h.txns = w.txns
	return h
}

func name(kind string, i int) string { return fmt.Sprintf("%s%d", kind, i) }

func (w *world) list(i int) Op {
	return Op{Kind: List, Key: name("l", i), Values: slices.Clone(w.lists[name("l", i)])}
}

func (w *world) scan(i int) Op {
	vs := slices.Clone(w.sets[name("s", i)])
	w.rng.Shuffle(len(vs), func(a, b int) { vs[a], vs[b] = vs[b], vs[a] })
	return Op{Kind: Scan, Key: name("s", i), Values: vs}
}

func (w *world) read(i int) Op {
	v, ok := w.regs[name("r", i)]
	return Op{Kind: Read, Key: name("r", i), Value: v, Null: !ok}
}

// execute gives t its answers, as of now, and an outcome.
func (w *world) execute(t *Txn, keys int) {
	w.clock += 1 + w.rng.Int64N(5)
	if w.rng.IntN(10) == 0 && len(w.past) > 0 {
		p := w.past[w.rng.IntN(len(w.past))]
		t.Status, t.Stale, t.TS = OK, true, p.ts
		for _, i := range w.rng.Perm(min(keys, 5)) {
			t.Ops = append(t.Ops, Op{Kind: List, Key: name("l", i), Values: p.lists[name("l", i)]})
		}
		return
	}
	t.Status = OK
	committed := true
	switch w.rng.IntN(12) {
	case 0:
		t.Status = Unknown
		committed = w.rng.IntN(2) == 0
	case 1:
		t.Status, committed = Failed, false
	}
	var kept *world
	if !committed {
		kept = w.snapshot()
	}
	for range 1 + w.rng.IntN(4) {
		w.step(t, w.rng.IntN(keys))
	}
	if !committed {
		w.lists, w.sets, w.regs, w.sums = kept.lists, kept.sets, kept.regs, kept.sums
		return
	}
	if t.Status == OK && t.Writes() && w.rng.IntN(4) > 0 {
		t.TS = w.clock
	}
	if len(w.past) < 200 && w.rng.IntN(20) == 0 {
		w.past = append(w.past, past{w.clock, w.snapshot().lists})
	}
}

// snapshot copies the maps; their slices only grow, behind what a copy sees.
func (w *world) snapshot() *world {
	s := &world{lists: map[string][]int64{}, sets: map[string][]int64{}, regs: map[string]int64{}, sums: map[string]int64{}}
	for k, v := range w.lists {
		s.lists[k] = slices.Clip(v)
	}
	for k, v := range w.sets {
		s.sets[k] = slices.Clip(v)
	}
	for k, v := range w.regs {
		s.regs[k] = v
	}
	for k, v := range w.sums {
		s.sums[k] = v
	}
	return s
}

func (w *world) step(t *Txn, i int) {
	w.value++
	v := w.value
	l, s, r := name("l", i), name("s", i), name("r", i)
	switch w.rng.IntN(11) {
	case 0, 1:
		t.Ops = append(t.Ops, w.list(i))
	case 2, 3:
		t.Ops = append(t.Ops, Op{Kind: Append, Key: l, Value: v})
		w.lists[l] = append(slices.Clip(w.lists[l]), v)
	case 4:
		t.Ops = append(t.Ops, w.scan(i))
	case 5:
		t.Ops = append(t.Ops, Op{Kind: Insert, Key: s, Value: v})
		w.sets[s] = append(slices.Clip(w.sets[s]), v)
	case 6:
		t.Ops = append(t.Ops, w.read(i))
	case 7:
		t.Ops = append(t.Ops, w.read(i), Op{Kind: Write, Key: r, Value: v})
		w.regs[r] = v
	case 8:
		t.Ops = append(t.Ops, Op{Kind: Write, Key: r, Value: v})
		w.regs[r] = v
	case 9:
		t.Ops = append(t.Ops, Op{Kind: Append, Key: l, Value: v, Undone: true})
	case 10:
		t.Ops = append(t.Ops, Op{Kind: Insert, Key: "ledger", Value: v}, Op{Kind: Add, Key: "a0", Value: -1}, Op{Kind: Add, Key: "a1", Value: 1})
		w.sums["a0"]--
		w.sums["a1"]++
		w.sets["ledger"] = append(slices.Clip(w.sets["ledger"]), v)
	}
}

func TestSerialHistoriesAreGood(t *testing.T) {
	for seed := range uint64(300) {
		w := serial(seed, 40+int(seed), 1+int(seed%12), 1+int(seed%5))
		r := Judge(w.history(), Options{})
		if len(r.Violations)+len(r.Undecided) > 0 {
			var b strings.Builder
			w.history().WriteTo(&b)
			t.Fatalf("seed %d: %v\n%s", seed, r, &b)
		}
	}
}

// mutations each turn a right answer into one that cannot be; they report whether they
// found something to change.
var mutations = map[string]func(w *world) bool{
	"drop the newest of a final list": func(w *world) bool {
		return w.change(w.txns[len(w.txns)-1], List, func(o *Op) bool {
			if len(o.Values) == 0 || w.status(Append, o.Key, o.Values[len(o.Values)-1]) != OK {
				return false
			}
			o.Values = o.Values[:len(o.Values)-1]
			return true
		})
	},
	"swap two of a list": func(w *world) bool {
		return w.anyRead(List, func(o *Op) bool {
			n := len(o.Values)
			if n < 2 {
				return false
			}
			o.Values = slices.Clone(o.Values)
			o.Values[n-1], o.Values[n-2] = o.Values[n-2], o.Values[n-1]
			return true
		})
	},
	"a list doubles an element": func(w *world) bool {
		return w.anyRead(List, func(o *Op) bool {
			if len(o.Values) == 0 {
				return false
			}
			o.Values = append(slices.Clone(o.Values), o.Values[0])
			return true
		})
	},
	"an acknowledged transaction was refused": func(w *world) bool {
		seen := map[int64]bool{}
		for _, o := range w.txns[len(w.txns)-1].Ops {
			for _, v := range o.Values {
				seen[v] = true
			}
		}
		for _, t := range w.shuffled() {
			for _, o := range t.Ops {
				if t.Status == OK && (o.Kind == Append || o.Kind == Insert) && !o.Undone && seen[o.Value] {
					t.Status = Failed
					return true
				}
			}
		}
		return false
	},
	"an unknown timestamp in the future": func(w *world) bool {
		for _, t := range w.shuffled() {
			if t.Status == OK && t.Writes() && t.TS != 0 && t.Begin < w.order/2 {
				t.TS = w.clock + 1000
				return w.timed(t.End)
			}
		}
		return false
	},
	"a register goes back": func(w *world) bool {
		last := w.txns[len(w.txns)-1]
		return w.change(last, Read, func(o *Op) bool {
			if o.Null || w.status(Write, o.Key, o.Value) != OK {
				return false
			}
			o.Null, o.Value = true, 0
			return true
		})
	},
	"a set loses an old element": func(w *world) bool {
		return w.change(w.txns[len(w.txns)-1], Scan, func(o *Op) bool {
			if len(o.Values) == 0 || w.status(Insert, o.Key, o.Values[0]) != OK {
				return false
			}
			o.Values = o.Values[1:]
			return true
		})
	},
	"money is made": func(w *world) bool {
		return w.change(w.txns[len(w.txns)-1], Count, func(o *Op) bool { o.Value++; return true })
	},
	"a total is wrong": func(w *world) bool {
		return w.change(w.txns[len(w.txns)-1], Sum, func(o *Op) bool { o.Value--; return true })
	},
	"a stale read has a later timestamp": func(w *world) bool {
		for _, t := range w.shuffled() {
			if t.Stale {
				// To be told from a good one it must lie behind a commit of known timestamp that it lacks.
				for _, u := range w.txns {
					for _, o := range u.Ops {
						if o.Kind == Append && !o.Undone && u.TS > t.TS && u.Status == OK && w.next(t, o) {
							t.TS = u.TS
							return true
						}
					}
				}
			}
		}
		return false
	},
	"an acknowledged append is seen by nobody any more": func(w *world) bool {
		var gone Op
		for _, t := range w.shuffled() {
			for _, o := range t.Ops {
				if t.Status == OK && o.Kind == Append && !o.Undone {
					gone = o
				}
			}
		}
		if gone.Key == "" {
			return false
		}
		for _, t := range w.txns {
			for i := range t.Ops {
				if o := &t.Ops[i]; o.Kind == List && o.Key == gone.Key {
					o.Values = slices.DeleteFunc(slices.Clone(o.Values), func(v int64) bool { return v == gone.Value })
				}
			}
		}
		return true
	},
}

func (w *world) shuffled() []*Txn {
	ts := slices.Clone(w.txns)
	w.rng.Shuffle(len(ts), func(i, j int) { ts[i], ts[j] = ts[j], ts[i] })
	return ts
}

// change applies f to t's operations of a kind until one is changed.
func (w *world) change(t *Txn, kind OpKind, f func(*Op) bool) bool {
	for i := range t.Ops {
		if t.Ops[i].Kind == kind && f(&t.Ops[i]) {
			return true
		}
	}
	return false
}

// anyRead applies f to the reads of transactions that committed until one is changed.
func (w *world) anyRead(kind OpKind, f func(*Op) bool) bool {
	for _, t := range w.shuffled() {
		if t.Status == OK && w.change(t, kind, f) {
			return true
		}
	}
	return false
}

// status of the transaction that wrote a value.
func (w *world) status(kind OpKind, key string, v int64) Status {
	for _, t := range w.txns {
		for _, o := range t.Ops {
			if o.Kind == kind && o.Key == key && o.Value == v {
				return t.Status
			}
		}
	}
	return Unknown
}

// timed reports whether a commit of known timestamp began after a place.
func (w *world) timed(place int64) bool {
	return slices.ContainsFunc(w.txns, func(t *Txn) bool { return t.Begin > place && t.TS != 0 && !t.Stale && t.Status == OK })
}

// next reports whether o is the first append that a stale read lacks of its list.
func (w *world) next(stale *Txn, o Op) bool {
	final := w.lists[o.Key]
	for _, r := range stale.Ops {
		if r.Kind == List && r.Key == o.Key {
			return len(r.Values) < len(final) && final[len(r.Values)] == o.Value
		}
	}
	return false
}

func TestMutatedHistoriesAreBad(t *testing.T) {
	for what, mutate := range mutations {
		t.Run(what, func(t *testing.T) {
			changed := 0
			for seed := range uint64(60) {
				w := serial(seed, 100, 8, 3)
				if !mutate(w) {
					continue
				}
				changed++
				if len(Check(w.history())) == 0 {
					var b strings.Builder
					w.history().WriteTo(&b)
					t.Fatalf("seed %d: nothing was found in\n%s", seed, &b)
				}
			}
			if changed < 20 {
				t.Errorf("only %d histories were changed", changed)
			}
		})
	}
}

// A register that porcupine cannot decide in time is neither right nor wrong.
func TestUndecidedIsSaid(t *testing.T) {
	h := NewHistory()
	// So many concurrent writes and reads that do not fit that no order is found soon.
	for i := range 60 {
		h.txns = append(h.txns, &Txn{ID: i + 1, Begin: int64(i + 1), End: int64(1000 + i), Status: OK, Ops: []Op{{Kind: Write, Key: "r", Value: int64(i)}}})
	}
	for i := range 30 {
		id := 61 + i
		h.txns = append(h.txns, &Txn{ID: id, Begin: int64(id), End: int64(1000 + id), Status: OK, Ops: []Op{{Kind: Read, Key: "r", Value: int64(i)}, {Kind: Write, Key: "r", Value: int64(100 + i%29)}}})
	}
	r := Judge(h, Options{Patience: 20 * time.Millisecond})
	if len(r.Undecided) != 1 {
		t.Fatalf("%v", r)
	}
	if !slices.ContainsFunc(r.All(), func(v Violation) bool { return v.Anomaly == "undecided" }) {
		t.Error("it is kept to itself")
	}
}

// Judgement must not take quadratic time, nor a search for ever in a broken history.
func TestLargeHistories(t *testing.T) {
	for _, broken := range []bool{false, true} {
		w := serial(1, 5_000, 16, 100)
		if broken {
			for i, t := range w.txns {
				if i%7 == 0 && t.Status == OK {
					w.change(t, List, func(o *Op) bool {
						o.Values = o.Values[:len(o.Values)/2]
						return true
					})
				}
			}
		}
		began := time.Now()
		r := Judge(w.history(), Options{})
		t.Logf("%v: %v", time.Since(began), strings.SplitN(r.String(), "\n", 2)[0])
		if bad := len(r.Violations) > 0; bad != broken {
			t.Errorf("broken %v: %v", broken, r)
		}
	}
}

// BenchmarkJudge judges 20,000 transactions, each with a few operations on 400 keys.
func BenchmarkJudge(b *testing.B) {
	w := serial(1, 20_000, 16, 400)
	for b.Loop() {
		if r := Judge(w.history(), Options{}); len(r.Violations) > 0 {
			b.Fatal(r)
		}
	}
}
