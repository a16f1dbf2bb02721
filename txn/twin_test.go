package txn

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/tablet"
	"github.com/spandb/spand/truetime"
)

// twin is an in-memory tablet of all nodes at once: replicated state (data,
// prepared transactions, outcomes) that survives a change of leader, and the
// leader's own (locks) that does not. It is meant to be obviously right, not fast.
type twin struct {
	w     *world
	group keys.GroupID

	mu       sync.Mutex
	span     keys.Span
	gen      uint64
	children []keys.Descriptor
	leader   keys.NodeID
	term     uint64
	floor    truetime.Timestamp
	data     map[string][]twinVersion
	locks    []twinLock
	known    map[keys.TxnID]bool // holds locks of this term
	wounded  map[keys.TxnID]bool
	prepared map[keys.TxnID]*twinPrepared
	outcomes map[keys.TxnID]tablet.Outcome
	owed     map[keys.TxnID][]tablet.Anchor // committed, participants not yet told
	staged   map[keys.TxnID]map[uint32][]tablet.Write
	finished uint64
	changed  chan struct{} // closed at every change
}

type twinVersion struct {
	ts    truetime.Timestamp
	value []byte // nil: deleted
}

type twinLock struct {
	txn  keys.TxnID
	span keys.Span
	excl bool
}

type twinPrepared struct {
	coord  tablet.Anchor
	own    keys.Key
	ts     truetime.Timestamp
	writes []tablet.Write
}

func newTwin(w *world, d keys.Descriptor, leader keys.NodeID) *twin {
	return &twin{
		w: w, group: d.Group, span: d.Span, gen: d.Generation, leader: leader, term: 1,
		data: map[string][]twinVersion{}, known: map[keys.TxnID]bool{}, wounded: map[keys.TxnID]bool{},
		prepared: map[keys.TxnID]*twinPrepared{}, outcomes: map[keys.TxnID]tablet.Outcome{},
		owed: map[keys.TxnID][]tablet.Anchor{}, staged: map[keys.TxnID]map[uint32][]tablet.Write{},
		changed: make(chan struct{}),
	}
}

func (tw *twin) desc() keys.Descriptor {
	d := keys.Descriptor{Group: tw.group, Span: tw.span, Generation: tw.gen}
	for _, n := range tw.w.nodes {
		d.Replicas = append(d.Replicas, keys.Replica{Node: n, ID: keys.ReplicaID(n)})
	}
	return d
}

func (tw *twin) wake() {
	close(tw.changed)
	tw.changed = make(chan struct{})
}

// await waits for a change, mu held before and after.
func (tw *twin) await(ctx context.Context) error {
	ch := tw.changed
	tw.mu.Unlock()
	defer tw.mu.Lock()
	select {
	case <-ch:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// lead makes node the leader; locks of unprepared transactions are gone (X2).
func (tw *twin) lead(node keys.NodeID) {
	tw.mu.Lock()
	tw.leader, tw.term = node, tw.term+1
	tw.known = map[keys.TxnID]bool{}
	tw.locks = slices.DeleteFunc(tw.locks, func(l twinLock) bool { return tw.prepared[l.txn] == nil })
	tw.wake()
	tw.mu.Unlock()
}

// assign gives a timestamp, mu held.
func (tw *twin) assign(lo, hi truetime.Timestamp) (truetime.Timestamp, bool) {
	s := max(tw.w.clock.Now().Latest, tw.floor+1, lo)
	if hi != 0 && s > hi {
		return 0, false
	}
	tw.floor = s
	return s, true
}

func (tw *twin) lost(id keys.TxnID, r tablet.AbortReason) error {
	return &tablet.AbortedError{Txn: id, Reason: r}
}

// check refuses requests of a stale map, or to another node than the leader.
func (tw *twin) check(node keys.NodeID, t tablet.Target, generation bool, spans ...keys.Span) error {
	if tw.leader != node {
		return &paxosgroup.NotLeaderError{Group: tw.group, Leader: tw.leader}
	}
	bad := generation && t.Generation != tw.gen
	for _, s := range spans {
		bad = bad || !tw.span.Covers(s)
	}
	if bad {
		return &tablet.RangeError{Descriptors: append([]keys.Descriptor{tw.desc()}, tw.children...)}
	}
	return nil
}

// lock takes a lock by wound-wait; mu is released while it waits.
func (tw *twin) lock(ctx context.Context, node keys.NodeID, ref tablet.TxnRef, span keys.Span, excl bool, wait tablet.WaitPolicy, preparing bool) error {
	term := tw.term
	for {
		if tw.leader != node || tw.term != term {
			return &paxosgroup.NotLeaderError{Group: tw.group, Leader: tw.leader}
		}
		if ref.Term != 0 && (ref.Term != tw.term || !tw.known[ref.ID]) {
			return tw.lost(ref.ID, tablet.AbortLocksLost)
		}
		if tw.wounded[ref.ID] {
			return tw.lost(ref.ID, tablet.AbortWounded)
		}
		var holder *twinLock
		for i := range tw.locks {
			l := &tw.locks[i]
			if l.txn != ref.ID && (l.excl || excl) && l.span.Overlaps(span) {
				holder = l
				break
			}
		}
		if holder == nil {
			tw.known[ref.ID] = true
			tw.locks = append(tw.locks, twinLock{ref.ID, span, excl})
			return nil
		}
		switch {
		case wait == tablet.WaitNoWait:
			return &tablet.LockUnavailableError{Key: span.Start, Holder: holder.txn}
		case ref.ID.Older(holder.txn) && tw.prepared[holder.txn] == nil:
			tw.wounded[holder.txn] = true
			tw.drop(holder.txn)
			continue
		case preparing && holder.txn.Older(ref.ID):
			return &tablet.AbortedError{Txn: ref.ID, Reason: tablet.AbortRefused, By: holder.txn}
		}
		if err := tw.await(ctx); err != nil {
			return err
		}
	}
}

func (tw *twin) drop(id keys.TxnID) {
	delete(tw.known, id)
	tw.locks = slices.DeleteFunc(tw.locks, func(l twinLock) bool { return l.txn == id })
	tw.wake()
}

func (tw *twin) put(ws []tablet.Write, s truetime.Timestamp) {
	for _, w := range ws {
		tw.data[string(w.Key)] = append(tw.data[string(w.Key)], twinVersion{s, w.Value})
	}
}

func (tw *twin) get(k string, at truetime.Timestamp) (v twinVersion) {
	for _, x := range tw.data[k] {
		if x.ts <= at && x.ts >= v.ts {
			v = x
		}
	}
	return v
}

func (tw *twin) stagedWrites(id keys.TxnID) map[string][]byte {
	out := map[string][]byte{}
	for seq := uint32(0); ; seq++ {
		ws, ok := tw.staged[id][seq]
		if !ok {
			return out
		}
		for _, w := range ws {
			out[string(w.Key)] = w.Value
		}
	}
}

// twinAt is the replica of a twin on one node.
type twinAt struct {
	*twin
	node keys.NodeID
}

func (r twinAt) Read(ctx context.Context, req *tablet.ReadRequest) (*tablet.ReadResponse, error) {
	tw := r.twin
	tw.mu.Lock()
	defer tw.mu.Unlock()
	var spans []keys.Span
	for _, k := range req.Gets {
		spans = append(spans, keys.PointSpan(k))
	}
	for _, s := range req.Scans {
		spans = append(spans, s.Span)
	}
	if req.Follower && tw.floor >= req.At {
		// Everything up to At is applied here: the twin's replicas are one.
	} else if err := tw.check(r.node, req.Target, false, spans...); err != nil {
		return nil, err
	}
	at := req.At
	if req.Lock != tablet.LockNone {
		for i, s := range spans {
			if i >= len(req.Gets) && req.Scans[i-len(req.Gets)].MaxRows > 0 {
				// The span covered by the rows, found by reading first; nobody else
				// gets in between, because mu is held when no one has to be waited for.
				rows, more := tw.scan(req.Scans[i-len(req.Gets)], truetime.Max, req.Txn.ID, req.MaxBytes, nil)
				if more {
					last := rows[len(rows)-1].Key
					if req.Scans[i-len(req.Gets)].Reverse {
						s.Start = last
					} else {
						s.End = append(bytes.Clone(last), 0)
					}
				}
			}
			if err := tw.lock(ctx, r.node, req.Txn, s, req.Lock == tablet.LockExclusive, req.Wait, false); err != nil {
				return nil, err
			}
		}
		at = truetime.Max
	} else {
		for tw.blocked(spans, at) {
			if err := tw.await(ctx); err != nil {
				return nil, err
			}
		}
		tw.floor = max(tw.floor, at)
	}
	resp := &tablet.ReadResponse{Term: tw.term}
	own := tw.stagedWrites(req.Txn.ID)
	for _, k := range req.Gets {
		v := tw.get(string(k), at)
		if o, ok := own[string(k)]; ok {
			v = twinVersion{value: o}
		}
		resp.MaxSeen = max(resp.MaxSeen, v.ts)
		resp.Gets = append(resp.Gets, tablet.Value{Exists: v.value != nil, Bytes: v.value, TS: v.ts})
	}
	for _, s := range req.Scans {
		rows, more := tw.scan(s, at, req.Txn.ID, req.MaxBytes, &resp.MaxSeen)
		resp.Scans = append(resp.Scans, tablet.ScanResult{Rows: rows, More: more})
	}
	return resp, nil
}

func (tw *twin) blocked(spans []keys.Span, at truetime.Timestamp) bool {
	for id, p := range tw.prepared {
		for _, w := range p.writes {
			for _, s := range spans {
				if p.ts <= at && s.Contains(w.Key) {
					tw.settle(id, p, 10*time.Millisecond)
					return true
				}
			}
		}
	}
	return false
}

func (tw *twin) scan(s tablet.Scan, at truetime.Timestamp, id keys.TxnID, maxBytes int, seen *truetime.Timestamp) (rows []tablet.KV, more bool) {
	own := tw.stagedWrites(id)
	all := map[string]bool{}
	for k := range tw.data {
		all[k] = true
	}
	for k := range own {
		all[k] = true
	}
	var ks []string
	for k := range all {
		if s.Span.Contains(keys.Key(k)) {
			ks = append(ks, k)
		}
	}
	sort.Strings(ks)
	if s.Reverse {
		slices.Reverse(ks)
	}
	size := 0
	for _, k := range ks {
		v := tw.get(k, at)
		if o, ok := own[k]; ok {
			v = twinVersion{value: o}
		}
		if seen != nil {
			*seen = max(*seen, v.ts)
		}
		if v.value == nil {
			continue
		}
		if s.MaxRows > 0 && len(rows) == s.MaxRows || maxBytes > 0 && size > maxBytes {
			return rows, true
		}
		rows = append(rows, tablet.KV{Key: keys.Key(k), Value: v.value})
		size += len(k) + len(v.value)
	}
	return rows, false
}

// settled answers a repeated commit (X5).
func (tw *twin) settled(id keys.TxnID) (ts truetime.Timestamp, err error, ok bool) {
	o, ok := tw.outcomes[id]
	if !ok {
		if id.Seq < tw.finished {
			return 0, tw.lost(id, tablet.AbortHorizon), true
		}
		return 0, nil, false
	}
	if o.Status == tablet.OutcomeCommitted {
		return o.TS, nil, true
	}
	return 0, tw.lost(id, tablet.AbortDecided), true
}

func writeSpans(ws []tablet.Write) (out []keys.Span) {
	for _, w := range ws {
		out = append(out, keys.PointSpan(w.Key))
	}
	return out
}

// commitLocked checks locks, takes missing ones, and returns all writes.
func (tw *twin) commitLocked(ctx context.Context, node keys.NodeID, ref tablet.TxnRef, ws []tablet.Write, staged uint32) ([]tablet.Write, error) {
	if ref.Term != 0 && (ref.Term != tw.term || !tw.known[ref.ID]) {
		return nil, tw.lost(ref.ID, tablet.AbortLocksLost)
	}
	for _, s := range writeSpans(ws) {
		if err := tw.lock(ctx, node, ref, s, true, tablet.WaitBlock, true); err != nil {
			return nil, err
		}
	}
	if len(tw.staged[ref.ID]) != int(staged) {
		return nil, tw.lost(ref.ID, tablet.AbortLocksLost)
	}
	if staged == 0 {
		return ws, nil
	}
	var all []tablet.Write
	for k, v := range tw.stagedWrites(ref.ID) {
		if _, over := searchWrites(ws, keys.Key(k)); !over {
			all = append(all, tablet.Write{Key: keys.Key(k), Value: v})
		}
	}
	delete(tw.staged, ref.ID)
	return append(all, ws...), nil
}

func (r twinAt) Commit(ctx context.Context, req *tablet.CommitRequest) (*tablet.CommitResponse, error) {
	tw := r.twin
	tw.mu.Lock()
	defer tw.mu.Unlock()
	if err := tw.check(r.node, req.Target, false); err != nil {
		return nil, err
	}
	if ts, err, ok := tw.settled(req.Txn.ID); ok {
		return &tablet.CommitResponse{TS: ts}, err
	}
	if err := tw.check(r.node, req.Target, true, writeSpans(req.Writes)...); err != nil {
		return nil, err
	}
	ws, err := tw.commitLocked(ctx, r.node, req.Txn, req.Writes, req.Staged)
	if err != nil {
		return nil, err
	}
	s, ok := tw.assign(req.MinTS, req.MaxTS)
	if !ok {
		tw.drop(req.Txn.ID)
		return nil, tw.lost(req.Txn.ID, tablet.AbortTooLate)
	}
	if len(ws) > 0 {
		tw.outcomes[req.Txn.ID] = tablet.Outcome{Status: tablet.OutcomeCommitted, TS: s}
		tw.put(ws, s)
		tw.w.committed(req.Txn.ID)
	}
	tw.finished = max(tw.finished, req.Finished)
	tw.drop(req.Txn.ID)
	return &tablet.CommitResponse{TS: s}, nil
}

func (r twinAt) Prepare(ctx context.Context, req *tablet.PrepareRequest) (*tablet.PrepareResponse, error) {
	tw := r.twin
	tw.mu.Lock()
	defer tw.mu.Unlock()
	if err := tw.check(r.node, req.Target, true, writeSpans(req.Writes)...); err != nil {
		return nil, err
	}
	if p := tw.prepared[req.Txn.ID]; p != nil {
		return &tablet.PrepareResponse{TS: p.ts}, nil
	}
	ws, err := tw.commitLocked(ctx, r.node, req.Txn, req.Writes, req.Staged)
	if err != nil {
		return nil, err
	}
	s, ok := tw.assign(req.MinTS, req.MaxTS)
	if !ok {
		return nil, tw.lost(req.Txn.ID, tablet.AbortTooLate)
	}
	p := &twinPrepared{coord: req.Coordinator, own: req.AnchorKey, ts: s, writes: ws}
	tw.prepared[req.Txn.ID] = p
	tw.settle(req.Txn.ID, p, inDoubtAfter)
	tw.wake()
	return &tablet.PrepareResponse{TS: s}, nil
}

func (r twinAt) Decide(ctx context.Context, req *tablet.DecideRequest) (*tablet.CommitResponse, error) {
	tw := r.twin
	tw.mu.Lock()
	defer tw.mu.Unlock()
	if err := tw.check(r.node, req.Target, false, keys.PointSpan(req.AnchorKey)); err != nil {
		return nil, err
	}
	if ts, err, ok := tw.settled(req.Txn.ID); ok {
		return &tablet.CommitResponse{TS: ts}, err
	}
	if err := tw.check(r.node, req.Target, true, writeSpans(req.Writes)...); err != nil {
		return nil, err
	}
	ws, err := tw.commitLocked(ctx, r.node, req.Txn, req.Writes, req.Staged)
	if err != nil {
		return nil, err
	}
	s, ok := tw.assign(req.MinTS, req.MaxTS)
	if !ok {
		return nil, tw.lost(req.Txn.ID, tablet.AbortTooLate)
	}
	tw.outcomes[req.Txn.ID] = tablet.Outcome{Status: tablet.OutcomeCommitted, TS: s}
	tw.owed[req.Txn.ID] = req.Participants
	tw.put(ws, s)
	tw.drop(req.Txn.ID)
	tw.w.committed(req.Txn.ID)
	tw.deliver(req.Txn.ID)
	return &tablet.CommitResponse{TS: s}, nil
}

const inDoubtAfter = 3 * time.Second

// settle has a prepared transaction settled when it is still there after d.
func (tw *twin) settle(id keys.TxnID, p *twinPrepared, d time.Duration) {
	time.AfterFunc(d, func() {
		tw.mu.Lock()
		still := tw.prepared[id] == p
		tw.mu.Unlock()
		if still {
			tw.w.rec.Settle(tablet.InDoubt{Txn: id, Coordinator: p.coord, Anchor: p.own})
		}
	})
}

// deliver has the participants of a commit on record told, mu held.
func (tw *twin) deliver(id keys.TxnID) {
	tw.w.rec.Deliver(tw, tablet.Decided{Txn: id, TS: tw.outcomes[id].TS, Participants: tw.owed[id]})
}

func (tw *twin) Forget(_ context.Context, ids []keys.TxnID) error {
	tw.mu.Lock()
	defer tw.mu.Unlock()
	for _, id := range ids {
		delete(tw.owed, id)
	}
	return nil
}

func (r twinAt) Inquire(ctx context.Context, req *tablet.InquireRequest) (tablet.Outcome, error) {
	tw := r.twin
	tw.mu.Lock()
	defer tw.mu.Unlock()
	if err := tw.check(r.node, req.Target, false, keys.PointSpan(req.AnchorKey)); err != nil {
		return tablet.Outcome{}, err
	}
	o, ok := tw.outcomes[req.Txn]
	if !ok && req.Abort {
		o = tablet.Outcome{Status: tablet.OutcomeAborted}
		tw.outcomes[req.Txn] = o
		tw.drop(req.Txn)
	} else if !ok {
		o.Status = tablet.OutcomePending
	}
	return o, nil
}

func (r twinAt) Resolve(_ context.Context, req *tablet.ResolveRequest) error {
	tw := r.twin
	tw.mu.Lock()
	defer tw.mu.Unlock()
	if err := tw.check(r.node, req.Target, false, keys.PointSpan(req.Key)); err != nil {
		return err
	}
	p := tw.prepared[req.Txn]
	if p == nil {
		return nil
	}
	if req.Outcome.Status == tablet.OutcomeCommitted {
		tw.put(p.writes, req.Outcome.TS)
		tw.floor = max(tw.floor, req.Outcome.TS)
	}
	delete(tw.prepared, req.Txn)
	tw.drop(req.Txn)
	return nil
}

func (r twinAt) Abort(_ context.Context, req *tablet.AbortRequest) error {
	tw := r.twin
	tw.mu.Lock()
	defer tw.mu.Unlock()
	if err := tw.check(r.node, req.Target, false); err != nil {
		return err
	}
	if tw.prepared[req.Txn.ID] == nil {
		delete(tw.staged, req.Txn.ID)
		tw.drop(req.Txn.ID)
	}
	return nil
}

func (r twinAt) Stage(ctx context.Context, req *tablet.StageRequest) (*tablet.StageResponse, error) {
	tw := r.twin
	tw.mu.Lock()
	defer tw.mu.Unlock()
	if err := tw.check(r.node, req.Target, true, writeSpans(req.Writes)...); err != nil {
		return nil, err
	}
	for _, s := range writeSpans(req.Writes) {
		if err := tw.lock(ctx, r.node, req.Txn, s, true, tablet.WaitBlock, false); err != nil {
			return nil, err
		}
	}
	if tw.staged[req.Txn.ID] == nil {
		tw.staged[req.Txn.ID] = map[uint32][]tablet.Write{}
	}
	tw.staged[req.Txn.ID][req.Seq] = req.Writes
	return &tablet.StageResponse{Term: tw.term}, nil
}

func (r twinAt) Heartbeat(_ context.Context, req *tablet.HeartbeatRequest) (*tablet.HeartbeatResponse, error) {
	tw := r.twin
	tw.mu.Lock()
	defer tw.mu.Unlock()
	if err := tw.check(r.node, req.Target, true); err != nil {
		return nil, err
	}
	resp := &tablet.HeartbeatResponse{}
	for _, id := range req.Txns {
		if !tw.known[id] && tw.prepared[id] == nil {
			resp.Lost = append(resp.Lost, id)
		}
	}
	return resp, nil
}

func (r twinAt) Split(_ context.Context, req *tablet.SplitRequest) (*tablet.SplitResponse, error) {
	tw := r.twin
	tw.mu.Lock()
	defer tw.mu.Unlock()
	if err := tw.check(r.node, req.Target, true, keys.PointSpan(req.Key)); err != nil {
		return nil, err
	}
	tw.gen++
	right := keys.Descriptor{Group: req.Child, Span: keys.Span{Start: req.Key, End: tw.span.End}, Generation: tw.gen, Replicas: req.Replicas}
	child := newTwin(tw.w, right, tw.leader)
	child.term, child.floor = tw.term, tw.floor
	tw.span.End = req.Key
	for k, vs := range tw.data {
		if right.Span.Contains(keys.Key(k)) {
			child.data[k] = vs
			delete(tw.data, k)
		}
	}
	var left []twinLock
	for _, l := range tw.locks {
		if l.span.Overlaps(right.Span) {
			child.locks = append(child.locks, l)
			child.known[l.txn] = true
		}
		if l.span.Overlaps(tw.span) {
			left = append(left, l)
		}
	}
	tw.locks = left
	tw.children = append(tw.children, right)
	tw.w.open(child)
	tw.wake()
	return &tablet.SplitResponse{Left: tw.desc(), Right: right}, nil
}

// world is a cluster of twins with one clock and a fault injector.
type world struct {
	nodes []keys.NodeID
	clock *testClock
	rec   *Recovery // of all leaders

	mu      sync.Mutex
	twins   map[keys.GroupID]*twin
	guess   map[keys.GroupID]keys.NodeID
	commits map[keys.TxnID]int
	calls   map[string]int
	down    map[keys.NodeID]bool
	// fault, when set, may fail a call before it is made or lose its answer.
	fault func(call) error
	// lastCommit is the latest commit that was sent.
	lastCommit atomic.Pointer[tablet.CommitRequest]
}

// call is what the injector sees, before it is made and after.
type call struct {
	from, to keys.NodeID
	group    keys.GroupID
	method   string
	after    bool
}

func newWorld(eps time.Duration, descs []keys.Descriptor, leaders ...keys.NodeID) *world {
	w := &world{
		nodes: []keys.NodeID{1, 2, 3}, clock: &testClock{eps: eps},
		twins: map[keys.GroupID]*twin{}, guess: map[keys.GroupID]keys.NodeID{},
		commits: map[keys.TxnID]int{}, calls: map[string]int{}, down: map[keys.NodeID]bool{},
	}
	for i, d := range descs {
		w.twins[d.Group] = newTwin(w, d, leaders[i%len(leaders)])
	}
	return w
}

func (w *world) open(tw *twin) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.twins[tw.group] = tw
}

func (w *world) twin(g keys.GroupID) *twin {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.twins[g]
}

// committed counts commits by id: more than one is X5 broken.
func (w *world) committed(id keys.TxnID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.commits[id]++
}

func (w *world) setFault(f func(call) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fault = f
}

func (w *world) setDown(n keys.NodeID, down bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down[n] = down
}

// dialer is a node's Dialer over a world.
type dialer struct {
	w    *world
	node keys.NodeID
}

func (d dialer) Participant(node keys.NodeID, group keys.GroupID) (Participant, error) {
	tw := d.w.twin(group)
	if tw == nil {
		return nil, fmt.Errorf("group %d is not open", group)
	}
	return &faulty{d, node, group, twinAt{tw, node}}, nil
}

func (d dialer) Leader(group keys.GroupID) keys.NodeID {
	d.w.mu.Lock()
	defer d.w.mu.Unlock()
	return d.w.guess[group]
}

func (d dialer) Learned(group keys.GroupID, leader keys.NodeID) {
	d.w.mu.Lock()
	defer d.w.mu.Unlock()
	d.w.guess[group] = leader
}

// faulty passes calls on unless the world's injector has them fail.
type faulty struct {
	d     dialer
	node  keys.NodeID
	group keys.GroupID
	p     Participant
}

func pass[R any](f *faulty, method string, make func() (R, error)) (R, error) {
	var zero R
	w := f.d.w
	w.mu.Lock()
	fault := w.fault
	if w.down[f.node] {
		fault = func(call) error { return errLinkDown }
	}
	w.calls[method]++
	w.mu.Unlock()
	if fault != nil {
		if err := fault(call{f.d.node, f.node, f.group, method, false}); err != nil {
			return zero, err
		}
	}
	r, err := make()
	if fault != nil {
		if ferr := fault(call{f.d.node, f.node, f.group, method, true}); ferr != nil {
			return zero, ferr
		}
	}
	return r, err
}

var errLinkDown = &UnreachableError{Cause: fmt.Errorf("link down")}

func (f *faulty) Read(ctx context.Context, r *tablet.ReadRequest) (*tablet.ReadResponse, error) {
	return pass(f, "Read", func() (*tablet.ReadResponse, error) { return f.p.Read(ctx, r) })
}
func (f *faulty) Commit(ctx context.Context, r *tablet.CommitRequest) (*tablet.CommitResponse, error) {
	f.d.w.lastCommit.Store(r)
	return pass(f, "Commit", func() (*tablet.CommitResponse, error) { return f.p.Commit(ctx, r) })
}
func (f *faulty) Prepare(ctx context.Context, r *tablet.PrepareRequest) (*tablet.PrepareResponse, error) {
	return pass(f, "Prepare", func() (*tablet.PrepareResponse, error) { return f.p.Prepare(ctx, r) })
}
func (f *faulty) Decide(ctx context.Context, r *tablet.DecideRequest) (*tablet.CommitResponse, error) {
	return pass(f, "Decide", func() (*tablet.CommitResponse, error) { return f.p.Decide(ctx, r) })
}
func (f *faulty) Inquire(ctx context.Context, r *tablet.InquireRequest) (tablet.Outcome, error) {
	return pass(f, "Inquire", func() (tablet.Outcome, error) { return f.p.Inquire(ctx, r) })
}
func (f *faulty) Resolve(ctx context.Context, r *tablet.ResolveRequest) error {
	_, err := pass(f, "Resolve", func() (struct{}, error) { return struct{}{}, f.p.Resolve(ctx, r) })
	return err
}
func (f *faulty) Abort(ctx context.Context, r *tablet.AbortRequest) error {
	_, err := pass(f, "Abort", func() (struct{}, error) { return struct{}{}, f.p.Abort(ctx, r) })
	return err
}
func (f *faulty) Stage(ctx context.Context, r *tablet.StageRequest) (*tablet.StageResponse, error) {
	return pass(f, "Stage", func() (*tablet.StageResponse, error) { return f.p.Stage(ctx, r) })
}
func (f *faulty) Heartbeat(ctx context.Context, r *tablet.HeartbeatRequest) (*tablet.HeartbeatResponse, error) {
	return pass(f, "Heartbeat", func() (*tablet.HeartbeatResponse, error) { return f.p.Heartbeat(ctx, r) })
}
func (f *faulty) Split(ctx context.Context, r *tablet.SplitRequest) (*tablet.SplitResponse, error) {
	return pass(f, "Split", func() (*tablet.SplitResponse, error) { return f.p.Split(ctx, r) })
}

// testClock is TrueTime of half-width eps around Go's clock, virtual in synctest.
type testClock struct{ eps time.Duration }

func (c *testClock) Now() truetime.Interval {
	now := truetime.FromTime(time.Now())
	return truetime.Interval{Earliest: now.Add(-c.eps), Latest: now.Add(c.eps)}
}

func (c *testClock) AwaitAfter(ctx context.Context, t truetime.Timestamp) error {
	for {
		d := t.Sub(c.Now().Earliest) + 1
		if d <= 0 {
			return nil
		}
		timer := time.NewTimer(d)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

func (c *testClock) Err() error { return nil }
