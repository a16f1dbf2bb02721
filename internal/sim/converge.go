package sim

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/storage"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/tablet"
	"github.com/spandb/spand/truetime"
	"github.com/spandb/spand/txn"
)

// convergence is how long a healed cluster may take to settle, in virtual time:
// the longest promise, elections, abstaining, a gateway's silence, and the
// patience of everything that retries.
const convergence = 40 * time.Second

// converge waits until the healed cluster has come to rest.
func (w *World) converge() bool {
	limit := time.Now().Add(convergence)
	for {
		if w.plan.Lies { // whose clock was found out only now
			w.readmit()
			w.restart(nil)
		}
		why := w.unrest()
		if len(why) == 0 {
			w.trace.Addf("AT REST")
			return true
		}
		if time.Now().After(limit) {
			w.violate("liveness", "not at rest %v after everything has healed:\n    %s", convergence, strings.Join(why, "\n    "))
			return false
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// unrest says what keeps the cluster from being at rest.
func (w *World) unrest() (why []string) {
	say := func(format string, args ...any) { why = append(why, fmt.Sprintf(format, args...)) }
	groups := map[keys.GroupID][]paxosgroup.Status{}
	tablets := map[keys.GroupID]bool{}
	var all []keys.GroupID
	for _, n := range w.nodes {
		l := n.current()
		if l == nil {
			say("node %d is down", n.id)
			return why
		}
		if l.store.Full() {
			say("node %d believes its disk to be full", n.id)
		}
		for _, m := range l.members() {
			g := m.id
			if groups[g] == nil {
				all = append(all, g)
			}
			groups[g] = append(groups[g], m.group.Status())
			if m.tablet == nil {
				continue
			}
			tablets[g] = true
			if x := m.tablet.Replicated(); x.Prepared+x.Decided+x.Staged > 0 {
				say("node %d group %d: %d prepared, %d decided, %d staged", n.id, g, x.Prepared, x.Decided, x.Staged)
			}
			for _, k := range m.tablet.Locks(3) {
				say("node %d group %d: lock of %v on %v (%s, waiting %v)", n.id, g, k.Txn, k.Span, k.Phase, k.Waiting)
			}
		}
	}
	slices.Sort(all)
	for _, g := range all {
		ss := groups[g]
		serving := 0
		level := true
		for _, s := range ss {
			if s.Serving {
				serving++
			}
			level = level && s.Applied == ss[0].Applied && s.Applied == s.Last
		}
		for _, s := range ss {
			if !level {
				say("group %d: replica %d, %s of term %d, has applied %d of %d", g, s.Replica, s.Role, s.Term, s.Applied, s.Last)
			}
		}
		if serving != 1 {
			say("group %d: %d replicas serve", g, serving)
		}
		if len(ss) != len(w.nodes) {
			say("group %d: only %d replicas are open", g, len(ss))
		}
	}
	w.stats.Tablets = len(tablets)
	return why
}

// finale uses the healed cluster: every node must be able to read and to write.
func (w *World) finale() {
	c := &client{w: w, id: 99, d: newDraw(w.plan.Seed, streamPlan+400)}
	for _, n := range w.nodes {
		l := n.current()
		ctx, cancel := context.WithTimeout(l.ctx, 10*time.Second)
		before := len(w.history.ops)
		c.audit(ctx, l, 0)
		c.rw(ctx, l, "last write", func(ctx context.Context, t *txn.Txn, op *Op) error {
			return op.put(ctx, t, mix(int(n.id)), "last")
		})
		c.rw(ctx, l, "last write everywhere", func(ctx context.Context, t *txn.Txn, op *Op) error {
			for _, k := range splitKeys[:6] {
				if k == reg(0) || k == reg(3) || strings.HasPrefix(k, key("a")) {
					continue
				}
				if err := op.put(ctx, t, k, "last"); err != nil {
					return err
				}
			}
			return nil
		})
		cancel()
		for _, op := range w.history.ops[before:] {
			if op.Status == OK {
				continue
			}
			var aborted *tablet.AbortedError
			if errors.As(op.Err, &aborted) {
				continue
			}
			w.violate("liveness", "node %d cannot work in a healed cluster: %v", n.id, op)
		}
	}
	w.converge()
}

// compare holds the replicas against each other at their common applied index
// (R4, B1), and takes down the versions.
func (w *World) compare() {
	type side struct {
		applied uint64
		state   []byte
	}
	first := map[keys.GroupID]side{}
	var data []storage.KV
	for i, n := range w.nodes {
		l := n.current()
		for _, m := range l.members() {
			g := m.id
			s := side{m.group.Status().Applied, m.capture()}
			f, seen := first[g]
			if !seen {
				first[g] = s
			} else if f.applied == s.applied && !bytes.Equal(f.state, s.state) {
				w.violate("R4", "group %d: the state machines of nodes 1 and %d differ at index %d", g, n.id, s.applied)
			}
		}
		kvs, err := dump(l.store)
		if err != nil {
			w.violate("D1", "node %d: reading everything: %v", n.id, err)
			continue
		}
		if i == 0 {
			data = kvs
			continue
		}
		if diff := different(data, kvs); diff != "" {
			w.violate("R4", "nodes 1 and %d differ: %s", n.id, diff)
		}
	}
	w.boundaries()
	w.truth = versions(data)
	w.uncollect()
}

// versions decodes a dump: the workloads' keys, each with its versions in order.
func versions(kvs []storage.KV) Versions {
	out := Versions{}
	prefix := []byte{byte(storage.ClassData), keys.TablePrefix}
	for _, kv := range kvs {
		if !bytes.HasPrefix(kv.Key, prefix) || len(kv.Key) < 11 || len(kv.Value) == 0 || kv.Key[2] < 'a' || kv.Key[2] > 'z' {
			continue // not the workloads'; SQL's keys begin with a number
		}
		n := len(kv.Key) - 8
		k := string(kv.Key[1:n])
		v := Version{TS: truetime.Timestamp(^binary.BigEndian.Uint64(kv.Key[n:]))}
		if kv.Value[0] == 1 {
			v.Value = string(kv.Value[1:])
		}
		out[k] = append(out[k], v)
	}
	for _, vs := range out {
		slices.Reverse(vs)
	}
	return out
}

// keep notes the versions of a dump.
func (w *World) keep(kvs []storage.KV) {
	vs := versions(kvs)
	w.mu.Lock()
	defer w.mu.Unlock()
	for k, list := range vs {
		for _, v := range list {
			if _, ok := w.collected.exact(k, v.TS); !ok {
				w.collected.insert(k, v)
			}
		}
	}
}

// uncollect puts back what was collected, after a look at whether it might be: a
// newer version, or its being a delete, must have made it superfluous at or below the
// low-water mark.
func (w *World) uncollect() {
	var mark truetime.Timestamp
	for _, n := range w.nodes {
		for _, r := range n.current().set.All() {
			mark = max(mark, r.Tablet.LowWater())
		}
	}
	for k, list := range w.collected {
		for i, v := range list {
			if _, there := w.truth.exact(k, v.TS); there {
				continue
			}
			newer := i+1 < len(list) && list[i+1].TS <= mark
			if v.TS > mark || v.Value != "" && !newer {
				w.violate("X4", "%s=%q of %s was collected, and could still be read (low-water mark %s)", show(k), v.Value, stamp(v.TS), stamp(mark))
			}
			w.truth.insert(k, v)
		}
	}
}

// boundaries: the tablets partition the keyspace (B1).
func (w *World) boundaries() {
	var ds []keys.Descriptor
	for _, r := range w.nodes[0].current().set.All() {
		ds = append(ds, r.Tablet.Descriptor())
	}
	slices.SortFunc(ds, func(a, b keys.Descriptor) int { return bytes.Compare(a.Span.Start, b.Span.Start) })
	at := keys.MinKey
	for _, d := range ds {
		if !bytes.Equal(d.Span.Start, at) {
			w.violate("B1", "the tablets leave a gap, or overlap, at %x: group %d begins at %x", at, d.Group, d.Span.Start)
		}
		at = d.Span.End
	}
	if !bytes.Equal(at, keys.MaxKey) {
		w.violate("B1", "the tablets end at %x", at)
	}
}

// dump reads all versions and staged chunks of a store.
func dump(s *storage.Store) ([]storage.KV, error) {
	var out []storage.KV
	it := s.NewIter([]byte{byte(storage.ClassData)}, []byte{byte(storage.ClassStage) + 1})
	defer it.Close()
	for ok := it.SeekGE([]byte{byte(storage.ClassData)}); ok; ok = it.Next() {
		out = append(out, storage.KV{Key: bytes.Clone(it.Key()), Value: bytes.Clone(it.Value())})
	}
	return out, it.Err()
}

// different describes the first differences of two dumps, "" when there is none.
func different(a, b []storage.KV) string {
	var out []string
	for len(a) > 0 || len(b) > 0 {
		if len(out) == 5 {
			break
		}
		c := 0
		switch {
		case len(a) == 0:
			c = 1
		case len(b) == 0:
			c = -1
		default:
			c = bytes.Compare(a[0].Key, b[0].Key)
		}
		switch {
		case c < 0:
			out = append(out, fmt.Sprintf("only the first has %s", engineKey(a[0])))
			a = a[1:]
		case c > 0:
			out = append(out, fmt.Sprintf("only the second has %s", engineKey(b[0])))
			b = b[1:]
		default:
			if !bytes.Equal(a[0].Value, b[0].Value) {
				out = append(out, fmt.Sprintf("%s has two values", engineKey(a[0])))
			}
			a, b = a[1:], b[1:]
		}
	}
	return strings.Join(out, "; ")
}

func engineKey(kv storage.KV) string {
	n := len(kv.Key) - 8
	if n < 1 || kv.Key[0] != byte(storage.ClassData) {
		return fmt.Sprintf("%x", kv.Key)
	}
	v := kv.Value
	if len(v) > 0 {
		v = v[1:]
	}
	return fmt.Sprintf("%q@%s=%s", kv.Key[1:n], stamp(truetime.Timestamp(^binary.BigEndian.Uint64(kv.Key[n:]))), brief(string(v)))
}
