package sim

import (
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/spandb/spand/truetime"
)

// Violation of an invariant, as a story.
type Violation struct {
	Invariant string
	Story     string
}

func (v Violation) String() string { return v.Invariant + ": " + v.Story }

// Version of a key as the stores hold it; Value "" is a tombstone.
type Version struct {
	TS    truetime.Timestamp
	Value string
}

// Versions by key, in order of timestamps.
type Versions map[string][]Version

// at returns the value of k as of t, and the timestamp of its version, 0 if none.
func (v Versions) at(k string, t truetime.Timestamp) Version {
	vs := v[k]
	i := sort.Search(len(vs), func(i int) bool { return vs[i].TS > t })
	if i == 0 {
		return Version{}
	}
	return vs[i-1]
}

// insert adds a version that is not there.
func (v Versions) insert(k string, x Version) {
	vs := v[k]
	i := sort.Search(len(vs), func(i int) bool { return vs[i].TS > x.TS })
	v[k] = slices.Insert(vs, i, x)
}

// exact returns k's version of exactly t.
func (v Versions) exact(k string, t truetime.Timestamp) (Version, bool) {
	x := v.at(k, t)
	return x, x.TS == t && t != 0
}

// checker judges a history by the versions that the stores hold at its end.
type checker struct {
	ops   []*Op
	truth Versions
	keys  []string
	found []Violation
	byID  map[int]*Op
	ts    map[int]truetime.Timestamp // of every operation that committed, by id
}

// Check returns what is wrong with a history. The operations' statuses may be
// Unknown; truth holds all versions ever committed to the keys concerned.
func Check(ops []*Op, truth Versions) []Violation {
	c := &checker{ops: ops, truth: truth, byID: map[int]*Op{}, ts: map[int]truetime.Timestamp{}}
	for _, op := range ops {
		c.byID[op.ID] = op
	}
	for k := range truth {
		c.keys = append(c.keys, k)
	}
	sort.Strings(c.keys)
	c.outcomes()
	c.strays()
	c.reads()
	c.realTime()
	c.registers()
	return c.found
}

func (c *checker) violate(inv, format string, args ...any) {
	c.found = append(c.found, Violation{inv, fmt.Sprintf(format, args...)})
}

func (c *checker) op(id int) *Op { return c.byID[id] }

// outcomes: what was acknowledged is there at its timestamp (R1), what was refused
// is not (X5), and the rest is there as a whole or not at all (X3).
func (c *checker) outcomes() {
	// Where each operation's values are.
	type place struct {
		key string
		ts  truetime.Timestamp
	}
	places := map[int][]place{}
	for _, k := range c.keys {
		for _, v := range c.truth[k] {
			if id := writer(v.Value); id != 0 {
				places[id] = append(places[id], place{k, v.TS})
			}
		}
	}
	for _, op := range c.ops {
		if op.ReadOnly || len(op.Writes) == 0 {
			continue
		}
		var last []Row // the final write of each key
		for i, w := range op.Writes {
			over := false
			for _, later := range op.Writes[i+1:] {
				over = over || later.Key == w.Key
			}
			if !over {
				last = append(last, w)
			}
		}
		ps := places[op.ID]
		switch op.Status {
		case Failed:
			if len(ps) > 0 {
				c.violate("X5", "reported as not committed, but its write of %s is there at %s\n%v", show(ps[0].key), stamp(ps[0].ts), op)
			}
			continue
		case Unknown:
			if len(ps) == 0 {
				continue
			}
			c.ts[op.ID] = ps[0].ts
		case OK:
			c.ts[op.ID] = op.TS
		}
		ts := c.ts[op.ID]
		if op.Bound != 0 && ts > op.Bound {
			c.violate("B2", "committed at %s, above its bound %s\n%v", stamp(ts), stamp(op.Bound), op)
		}
		for _, p := range ps {
			if p.ts != ts {
				c.violate("X5", "committed at %s, and its write of %s is also there at %s\n%v", stamp(ts), show(p.key), stamp(p.ts), op)
			}
		}
		for _, w := range last {
			v, ok := c.truth.exact(w.Key, ts)
			if ok && v.Value == w.Value {
				continue
			}
			inv, what := "X3", "is there in part"
			if len(ps) == 0 {
				inv, what = "R1", "was acknowledged and is lost"
			}
			c.violate(inv, "a transaction of %s %s: its write of %s is missing (found there: %q)\n%v", stamp(ts), what, show(w.Key), v.Value, op)
		}
	}
}

// strays: every version was written by somebody who may have written it.
func (c *checker) strays() {
	deletes := map[string]map[truetime.Timestamp]bool{}
	for _, op := range c.ops {
		ts, ok := c.ts[op.ID]
		if !ok {
			continue
		}
		for _, w := range op.Writes {
			if w.Value == "" {
				if deletes[w.Key] == nil {
					deletes[w.Key] = map[truetime.Timestamp]bool{}
				}
				deletes[w.Key][ts] = true
			}
		}
	}
	for _, k := range c.keys {
		for _, v := range c.truth[k] {
			if v.Value == "" {
				if !deletes[k][v.TS] {
					c.violate("X5", "%s was deleted at %s by nobody who committed", show(k), stamp(v.TS))
				}
				continue
			}
			op := c.op(writer(v.Value))
			if op == nil {
				c.violate("X5", "%s holds %q at %s, which nobody wrote", show(k), v.Value, stamp(v.TS))
				continue
			}
			wrote := false
			for _, w := range op.Writes {
				wrote = wrote || w.Key == k && w.Value == v.Value
			}
			if !wrote {
				c.violate("X5", "%s holds %q at %s, which %v did not write there", show(k), v.Value, stamp(v.TS), op)
			}
		}
	}
}

// reads: a read at t saw the versions of t (X4); a transaction that committed at s
// saw those below s (X2).
func (c *checker) reads() {
	for _, op := range c.ops {
		t, ok := op.TS, op.Status == OK
		inv, what := "X4", "a read at"
		if !op.ReadOnly {
			// One that only read has the timestamp at which all its locks were held.
			what = "a locked read at"
			if len(op.Writes) > 0 {
				inv, what = "X2", "a transaction of"
				if t, ok = c.ts[op.ID]; ok {
					t--
				}
			}
		}
		if !ok {
			continue
		}
		for _, r := range op.Reads {
			if v := c.truth.at(r.Key, t); v.Value != r.Value {
				c.violate(inv, "%s %s saw %s=%q, but the version of then is %q of %s%s\n%v", what, stamp(t), show(r.Key), r.Value, v.Value, stamp(v.TS), c.by(r.Value, v.Value), op)
			}
		}
		for _, s := range op.Scans {
			c.scan(op, inv, what, t, s)
		}
	}
}

// by tells who wrote the values of a story.
func (c *checker) by(vs ...string) string {
	var b strings.Builder
	for _, v := range vs {
		if op := c.op(writer(v)); op != nil {
			fmt.Fprintf(&b, "\n    %v", op)
		}
	}
	return b.String()
}

func (c *checker) scan(op *Op, inv, what string, t truetime.Timestamp, s ScanSeen) {
	i := sort.SearchStrings(c.keys, s.Start)
	rows := s.Rows
	for ; i < len(c.keys) && c.keys[i] < s.End; i++ {
		k := c.keys[i]
		v := c.truth.at(k, t)
		for len(rows) > 0 && rows[0].Key < k {
			c.violate(inv, "%s %s scanned %s, which was never there\n%v", what, stamp(t), show(rows[0].Key), op)
			rows = rows[1:]
		}
		seen := ""
		if len(rows) > 0 && rows[0].Key == k {
			seen = rows[0].Value
			rows = rows[1:]
		}
		if seen != v.Value {
			c.violate(inv, "%s %s scanned %s=%q, but the version of then is %q of %s%s\n%v", what, stamp(t), show(k), seen, v.Value, stamp(v.TS), c.by(seen, v.Value), op)
		}
	}
	if len(rows) > 0 {
		c.violate(inv, "%s %s scanned %s, which was never there\n%v", what, stamp(t), show(rows[0].Key), op)
	}
}

// realTime is X1: whoever began after a commit was acknowledged, or after a
// version was shown to anybody, has a higher timestamp (a read, at least that one).
func (c *checker) realTime() {
	byBegin := append([]*Op(nil), c.ops...)
	sort.Slice(byBegin, func(i, j int) bool { return byBegin[i].Begin < byBegin[j].Begin })
	var byEnd []*Op
	for _, op := range c.ops {
		if op.Status == OK {
			byEnd = append(byEnd, op)
		}
	}
	sort.Slice(byEnd, func(i, j int) bool { return byEnd[i].End < byEnd[j].End })
	var high truetime.Timestamp
	var who *Op
	next := 0
	for _, op := range byBegin {
		for ; next < len(byEnd) && byEnd[next].End < op.Begin; next++ {
			if ts := c.learned(byEnd[next]); ts > high {
				high, who = ts, byEnd[next]
			}
		}
		ts, committed := c.ts[op.ID]
		switch {
		case op.ReadOnly && op.Status == OK && !op.Stale && op.TS < high:
			c.violate("X1", "a read at %s began after %s was known\n    %v\n%v", stamp(op.TS), stamp(high), who, op)
		case !op.ReadOnly && committed && ts <= high:
			c.violate("X1", "a transaction of %s began after %s was known\n    %v\n%v", stamp(ts), stamp(high), who, op)
		}
	}
}

// learned is the highest timestamp that an operation's answer makes known: its own
// commit's, else that of what it read.
func (c *checker) learned(op *Op) (high truetime.Timestamp) {
	if !op.ReadOnly && len(op.Writes) > 0 {
		high = op.TS
	}
	see := func(k, v string) {
		if id := writer(v); id != 0 {
			high = max(high, c.ts[id])
		}
	}
	for _, r := range op.Reads {
		see(r.Key, r.Value)
	}
	for _, s := range op.Scans {
		for _, r := range s.Rows {
			see(r.Key, r.Value)
		}
	}
	return high
}

// Registers, judged by porcupine: each key a register that is read, written or
// swapped (read, then written).
type regInput struct {
	read, write bool
	value       string
}

var registerModel = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		in := input.(regInput)
		if in.read && output.(string) != state.(string) {
			return false, state
		}
		if in.write {
			return true, in.value
		}
		return true, state
	},
	DescribeOperation: func(input, output any) string {
		in := input.(regInput)
		s := ""
		if in.read {
			s = "read " + output.(string)
		}
		if in.write {
			s += " write " + in.value
		}
		return s
	},
}

// patience is porcupine's, per register and in real time; an undecided register is no
// violation, and is counted by nobody: the versions have judged it already.
const patience = 5 * time.Second

func (c *checker) registers() {
	history := map[string][]porcupine.Operation{}
	for _, op := range c.ops {
		if op.Kind == "init" {
			for _, w := range op.Writes {
				if strings.HasPrefix(w.Key, key("r")) {
					history[w.Key] = append(history[w.Key], porcupine.Operation{Input: regInput{write: true, value: w.Value}, Call: op.Begin, Output: "", Return: op.End})
				}
			}
			continue
		}
		if !strings.HasPrefix(op.Kind, "register") || op.Status == Failed {
			continue
		}
		in := regInput{}
		out, k := "", ""
		if len(op.Reads) > 0 {
			in.read, out, k = true, op.Reads[0].Value, op.Reads[0].Key
		}
		if len(op.Writes) > 0 {
			in.write, in.value, k = true, op.Writes[0].Value, op.Writes[0].Key
		}
		end := op.End
		if op.Status == Unknown {
			if _, there := c.ts[op.ID]; !there || !in.write {
				continue // it never took effect
			}
			end = math.MaxInt64
		}
		history[k] = append(history[k], porcupine.Operation{ClientId: op.Client, Input: in, Call: op.Begin, Output: out, Return: end})
	}
	for i := range registers {
		k := reg(i)
		if porcupine.CheckOperationsTimeout(registerModel, history[k], patience) == porcupine.Illegal {
			c.violate("X1", "the history of register %s is not linearizable", show(k))
		}
	}
}
