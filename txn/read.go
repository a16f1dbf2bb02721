package txn

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/tablet"
)

// Get returns the values of ks in their order; a nil element is absent. Own
// writes are seen. Lock is LockNone exactly in read-only transactions.
// With WaitSkip a key that another transaction holds is absent.
func (t *Txn) Get(ctx context.Context, ks []keys.Key, lock tablet.LockStrength, wait tablet.WaitPolicy) ([][]byte, error) {
	if err := t.readable(lock); err != nil {
		return nil, err
	}
	out := make([][]byte, len(ks))
	var missing []int // positions not answered by what is here; nil: all
	own := 0
	if t.buf.len() > 0 || t.stager != nil || t.known != nil {
		missing = make([]int, 0, len(ks))
		for i, k := range ks {
			v, ok := t.buf.get(k)
			if !ok && t.stager != nil {
				v, ok = t.stager.get(k)
			} else if !ok {
				v, ok = t.known[string(k)]
			}
			if ok {
				out[i] = v
				own++
			} else {
				missing = append(missing, i)
			}
		}
		if len(missing) == 0 {
			return out, nil
		}
		if own == 0 {
			missing = nil
		}
	}
	if len(ks) == 0 {
		return out, nil
	}
	if t.optimistic {
		if done, err := t.guess(ctx, ks, missing, out, lock, wait); done || err != nil {
			return out, err
		}
	}
	if err := t.getFrom(ctx, ks, missing, out, lock, wait); err != nil {
		return nil, t.fail(err)
	}
	return out, nil
}

func (t *Txn) readable(lock tablet.LockStrength) error {
	if err := t.usable(); err != nil {
		return err
	}
	if t.ro && lock != tablet.LockNone {
		return ErrReadOnly
	}
	if !t.ro && lock == tablet.LockNone {
		return errors.New("txn: a read-write transaction reads with locks")
	}
	return nil
}

// getGroup is one tablet's share of a Get.
type getGroup struct {
	desc keys.Descriptor
	idx  []int // positions in the whole
	ks   []keys.Key
	part int    // -1 without locks
	sent uint64 // the term that the request carries
	resp *tablet.ReadResponse
	err  error
}

// getFrom reads the keys at positions idx (nil: all) from their tablets, in
// parallel when there are several, and again what a stale map sent astray.
func (t *Txn) getFrom(ctx context.Context, ks []keys.Key, idx []int, out [][]byte, lock tablet.LockStrength, wait tablet.WaitPolicy) error {
	var back backoff
	for {
		desc, err := t.c.cfg.Router.Lookup(ctx, firstKey(ks, idx))
		if err != nil {
			return err
		}
		if allWithin(ks, idx, desc.Span) {
			idx, err = t.getHere(ctx, &desc, ks, idx, out, lock, wait, &back)
		} else {
			idx, err = t.getThere(ctx, ks, idx, out, lock, wait, &back)
		}
		if err != nil || len(idx) == 0 {
			return err
		}
	}
}

// getHere reads keys of one tablet: the usual case, and lean. It returns the
// positions that are left to read.
func (t *Txn) getHere(ctx context.Context, desc *keys.Descriptor, ks []keys.Key, idx []int, out [][]byte, lock tablet.LockStrength, wait tablet.WaitPolicy, back *backoff) ([]int, error) {
	if idx != nil {
		ks = pickKeys(ks, idx)
	}
	t.readReq = tablet.ReadRequest{At: t.at, Lock: lock, Wait: wait, Gets: ks}
	part, sent := -1, uint64(0)
	if lock != tablet.LockNone {
		part, sent = t.part(desc)
		t.readReq.Txn = t.ref(sent)
	}
	resp, err := t.read(ctx, desc, &t.readReq)
	t.readReq.Gets = nil
	return t.takeGets(ctx, desc, part, sent, ks, idx, out, resp, err, back)
}

// getThere reads keys of several tablets in parallel.
func (t *Txn) getThere(ctx context.Context, ks []keys.Key, idx []int, out [][]byte, lock tablet.LockStrength, wait tablet.WaitPolicy, back *backoff) ([]int, error) {
	groups, err := t.groupKeys(ctx, ks, idx)
	if err != nil {
		return nil, err
	}
	t.readGroups(ctx, groups, lock, wait)
	var left []int
	for i := range groups {
		g := &groups[i]
		again, gerr := t.takeGets(ctx, &g.desc, g.part, g.sent, g.ks, g.idx, out, g.resp, g.err, back)
		if gerr != nil && err == nil {
			err = gerr // what the others granted is still recorded
		}
		left = append(left, again...)
	}
	return left, err
}

// takeGets accepts a tablet's answer for the keys ks, which stand at positions
// idx (nil: in order), and returns the positions that must be asked for again.
func (t *Txn) takeGets(ctx context.Context, desc *keys.Descriptor, part int, sent uint64, ks []keys.Key, idx []int, out [][]byte, resp *tablet.ReadResponse, err error, back *backoff) ([]int, error) {
	if err != nil {
		re, ok := err.(*tablet.RangeError)
		if !ok && !errors.As(err, &re) {
			return nil, err
		}
		return positions(idx, 0, len(ks)), t.c.learnRange(ctx, ks[0], desc, re, back)
	}
	n := len(resp.Gets)
	if n == 0 || n > len(ks) {
		return nil, fmt.Errorf("txn: group %d answered %d of %d keys", desc.Group, n, len(ks))
	}
	for i := range resp.Gets {
		v := &resp.Gets[i]
		pos := i
		if idx != nil {
			pos = idx[i]
		}
		out[pos] = rowOf(v)
	}
	t.seen(resp.MaxSeen)
	if part >= 0 {
		if err := t.granted(part, desc, sent, resp.Term, ks[:n], keys.Span{}); err != nil {
			return nil, err
		}
	}
	if n == len(ks) {
		return nil, nil
	}
	return positions(idx, n, len(ks)), nil // the answer's size was bounded
}

// rowOf returns a value as Get does: nil when there is none.
func rowOf(v *tablet.Value) []byte {
	switch {
	case !v.Exists:
		return nil
	case v.Bytes == nil:
		return []byte{}
	}
	return v.Bytes
}

// positions returns idx[from:to], where a nil idx is 0, 1, 2, …
func positions(idx []int, from, to int) []int {
	if idx != nil {
		return idx[from:to]
	}
	out := make([]int, 0, to-from)
	for i := from; i < to; i++ {
		out = append(out, i)
	}
	return out
}

// readGroups fills in every group's resp or err.
func (t *Txn) readGroups(ctx context.Context, groups []getGroup, lock tablet.LockStrength, wait tablet.WaitPolicy) {
	var wg sync.WaitGroup
	for i := range groups {
		g := &groups[i]
		req := &tablet.ReadRequest{At: t.at, Lock: lock, Wait: wait, Gets: g.ks}
		g.part = -1
		if lock != tablet.LockNone {
			g.part, g.sent = t.part(&g.desc)
			req.Txn = t.ref(g.sent)
		}
		if i == len(groups)-1 {
			g.resp, g.err = t.read(ctx, &g.desc, req)
			break
		}
		wg.Go(func() { g.resp, g.err = t.read(ctx, &g.desc, req) })
	}
	wg.Wait()
}

// read sends one request to desc's tablet. It touches nothing of t that changes.
func (t *Txn) read(ctx context.Context, desc *keys.Descriptor, req *tablet.ReadRequest) (*tablet.ReadResponse, error) {
	c := t.c
	req.Target = tablet.Target{Group: desc.Group, Generation: desc.Generation}
	if t.past {
		return t.readPast(ctx, desc, req)
	}
	// The usual case without a closure: the leader is here.
	if c.cfg.Dialer.Leader(desc.Group) == c.cfg.Node {
		if p, err := c.cfg.Dialer.Participant(c.cfg.Node, desc.Group); err == nil {
			resp, err := p.Read(ctx, req)
			if err == nil {
				return resp, nil
			}
			var a attempt
			a.node = c.cfg.Node
			switch v := c.judge(ctx, desc.Group, &a, err); {
			case v == final || v == remap || v == strange:
				return nil, err
			case ctx.Err() != nil:
				return nil, ctx.Err()
			}
		}
	}
	return c.readElsewhere(ctx, *desc, req)
}

// readElsewhere follows the leader wherever it is. A copy of the descriptor
// escapes to the heap here, so that it need not in the usual case.
func (c *Client) readElsewhere(ctx context.Context, desc keys.Descriptor, req *tablet.ReadRequest) (*tablet.ReadResponse, error) {
	var resp *tablet.ReadResponse
	err := c.do(ctx, &desc, true, func(ctx context.Context, p Participant) (err error) {
		resp, err = p.Read(ctx, req)
		return err
	})
	return resp, err
}

// readReplica asks this node's replica, nil when there is none or it refuses.
func (t *Txn) readReplica(ctx context.Context, desc *keys.Descriptor, req *tablet.ReadRequest) *tablet.ReadResponse {
	for _, r := range desc.Replicas {
		if r.Node != t.c.cfg.Node {
			continue
		}
		p, err := t.c.cfg.Dialer.Participant(r.Node, desc.Group)
		if err != nil {
			return nil
		}
		resp, err := p.Read(ctx, req)
		if err != nil {
			return nil // the leader will say the same, or better
		}
		return resp
	}
	return nil
}

func firstKey(ks []keys.Key, idx []int) keys.Key {
	if idx != nil {
		return ks[idx[0]]
	}
	return ks[0]
}

func allWithin(ks []keys.Key, idx []int, span keys.Span) bool {
	in := func(k keys.Key) bool {
		return bytes.Compare(span.Start, k) <= 0 && bytes.Compare(k, span.End) < 0
	}
	if idx == nil {
		if len(ks) == 1 {
			return true // the map was asked for this very key
		}
		for _, k := range ks {
			if !in(k) {
				return false
			}
		}
		return true
	}
	for _, i := range idx {
		if !in(ks[i]) {
			return false
		}
	}
	return true
}

func pickKeys(ks []keys.Key, idx []int) []keys.Key {
	out := make([]keys.Key, len(idx))
	for i, j := range idx {
		out[i] = ks[j]
	}
	return out
}

// groupKeys divides keys by tablet.
func (t *Txn) groupKeys(ctx context.Context, ks []keys.Key, idx []int) ([]getGroup, error) {
	n := len(ks)
	if idx != nil {
		n = len(idx)
	}
	var groups []getGroup
	last := -1 // neighbours in ks are often neighbours in the keyspace
	for j := range n {
		i := j
		if idx != nil {
			i = idx[j]
		}
		if last < 0 || !groups[last].desc.Span.Contains(ks[i]) {
			last = -1
			for g := range groups {
				if groups[g].desc.Span.Contains(ks[i]) {
					last = g
					break
				}
			}
		}
		if last < 0 {
			desc, err := t.c.cfg.Router.Lookup(ctx, ks[i])
			if err != nil {
				return nil, err
			}
			for g := range groups { // the map may have changed meanwhile
				if groups[g].desc.Group == desc.Group {
					last = g
				}
			}
			if last < 0 {
				groups = append(groups, getGroup{desc: desc})
				last = len(groups) - 1
			}
		}
		groups[last].idx = append(groups[last].idx, i)
		groups[last].ks = append(groups[last].ks, ks[i])
	}
	return groups, nil
}
