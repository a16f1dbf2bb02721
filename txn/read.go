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
	var missing []int // positions not answered by own writes; nil: all
	own := 0
	if t.buf.len() > 0 || t.stager != nil {
		missing = make([]int, 0, len(ks))
		for i, k := range ks {
			v, ok := t.buf.get(k)
			if !ok && t.stager != nil {
				v, ok = t.stager.get(k)
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
	idx  []int // positions in ks; nil: all of them
	ks   []keys.Key
	part int
	term uint64
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
		groups := []getGroup{{desc: desc}}
		if !allWithin(ks, idx, desc.Span) {
			if groups, err = t.groupKeys(ctx, ks, idx); err != nil {
				return err
			}
		} else if idx == nil {
			groups[0].ks = ks
		} else {
			groups[0].idx, groups[0].ks = idx, pickKeys(ks, idx)
		}
		t.readGroups(ctx, groups, lock, wait)
		idx = nil
		for i := range groups {
			g := &groups[i]
			if g.err != nil {
				var re *tablet.RangeError
				if !errors.As(g.err, &re) {
					return g.err
				}
				if err := t.c.learnRange(ctx, g.ks[0], &g.desc, re, &back); err != nil {
					return err
				}
				idx = appendPositions(idx, g, 0)
				continue
			}
			n := len(g.resp.Gets)
			if n == 0 || n > len(g.ks) {
				return fmt.Errorf("txn: group %d answered %d of %d keys", g.desc.Group, n, len(g.ks))
			}
			for j, v := range g.resp.Gets {
				pos := j
				if g.idx != nil {
					pos = g.idx[j]
				}
				if !v.Exists {
					out[pos] = nil
				} else if out[pos] = v.Bytes; v.Bytes == nil {
					out[pos] = []byte{}
				}
			}
			t.seen(g.resp.MaxSeen)
			if lock != tablet.LockNone {
				t.granted(g.part, &g.desc, g.resp.Term, g.ks[:n], keys.Span{})
			}
			if n < len(g.ks) { // the answer's size was bounded
				idx = appendPositions(idx, g, n)
			}
		}
		if len(idx) == 0 {
			return nil
		}
	}
}

// readGroups fills in every group's resp or err.
func (t *Txn) readGroups(ctx context.Context, groups []getGroup, lock tablet.LockStrength, wait tablet.WaitPolicy) {
	if lock != tablet.LockNone {
		for i := range groups {
			groups[i].part, groups[i].term = t.part(&groups[i].desc)
		}
	}
	request := func(g *getGroup, req *tablet.ReadRequest) {
		*req = tablet.ReadRequest{At: t.at, Lock: lock, Wait: wait, Gets: g.ks}
		if lock != tablet.LockNone {
			req.Txn = t.ref(g.term)
		}
	}
	if len(groups) == 1 {
		g := &groups[0]
		request(g, &t.readReq)
		g.resp, g.err = t.read(ctx, &g.desc, &t.readReq)
		t.readReq.Gets = nil
		return
	}
	var wg sync.WaitGroup
	for i := range groups {
		g := &groups[i]
		req := new(tablet.ReadRequest)
		request(g, req)
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
	} else if t.follower {
		if resp := t.readFollower(ctx, desc, req); resp != nil {
			return resp, nil
		}
	}
	var resp *tablet.ReadResponse
	err := c.do(ctx, desc, true, func(ctx context.Context, p Participant) (err error) {
		resp, err = p.Read(ctx, req)
		return err
	})
	return resp, err
}

// readFollower asks this node's replica for a read in the past (X4); nil when
// there is none, or it has not applied enough.
func (t *Txn) readFollower(ctx context.Context, desc *keys.Descriptor, req *tablet.ReadRequest) *tablet.ReadResponse {
	for _, r := range desc.Replicas {
		if r.Node != t.c.cfg.Node {
			continue
		}
		p, err := t.c.cfg.Dialer.Participant(r.Node, desc.Group)
		if err != nil {
			return nil
		}
		local := *req
		local.Follower = true
		resp, err := p.Read(ctx, &local)
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

// appendPositions appends the positions of g's keys from its n-th on.
func appendPositions(idx []int, g *getGroup, n int) []int {
	for j := n; j < len(g.ks); j++ {
		if g.idx != nil {
			idx = append(idx, g.idx[j])
		} else {
			idx = append(idx, j)
		}
	}
	return idx
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
