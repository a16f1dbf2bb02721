package tablet

import (
	"bytes"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/truetime"
)

// machine is a replica's replicated state without versions: everything that
// apply decides by. Only apply (one goroutine) and Restore change it, under mu;
// requests read it under mu, or the view without.
type machine struct {
	mu       sync.RWMutex
	view     atomic.Pointer[view]
	prepared map[keys.TxnID]*preparedTxn
	decided  map[keys.TxnID]*decidedTxn
	staged   map[keys.TxnID]*stagedTxn
	outcomes outcomeTable
	now      truetime.Timestamp // highest timestamp of a command applied
}

// view is the immutable part that every request checks first.
type view struct {
	desc keys.Descriptor
	// children are the descriptors split off, newest last, for senders whose map is
	// stale (B1).
	children []keys.Descriptor
	// lowWater: versions that only reads below it need may be gone.
	lowWater truetime.Timestamp
}

// maxChildren bounds view.children: the directory knows them all soon enough.
const maxChildren = 32

func (v *view) rangeError() *RangeError {
	ds := make([]keys.Descriptor, 0, 1+len(v.children))
	ds = append(ds, v.desc)
	return &RangeError{Descriptors: append(ds, v.children...)}
}

func (v *view) holds(k keys.Key) bool {
	return bytes.Compare(v.desc.Span.Start, k) <= 0 && bytes.Compare(k, v.desc.Span.End) < 0
}

func (v *view) covers(s keys.Span) bool {
	if s.IsPoint() {
		return v.holds(s.Start)
	}
	return bytes.Compare(v.desc.Span.Start, s.Start) <= 0 && bytes.Compare(s.End, v.desc.Span.End) <= 0
}

// preparedTxn is a prepared participant (X3): its writes and locks as encoded in
// the prepare.
type preparedTxn struct {
	ts          truetime.Timestamp
	coordinator Anchor
	anchor      keys.Key
	staged      uint32 // chunks, the writes of the prepare itself among them
	writes      []byte
	locks       []byte
	since       time.Time // when this replica learned of it; not replicated
}

// decidedTxn is a committed two-phase transaction of which not every participant
// is known to have learned (X5).
type decidedTxn struct {
	ts     truetime.Timestamp
	anchor keys.Key
	parts  []Anchor
}

type stageStatus uint8

const (
	stageOpen stageStatus = iota
	stagePrepared
	stageCommitted // waits to be materialised at ts, chunk next being the next
)

// stagedTxn is a large transaction's chunks at this tablet.
type stagedTxn struct {
	status   stageStatus
	ts       truetime.Timestamp
	next     uint32
	total    uint32              // once prepared or committed
	have     map[uint32]struct{} // while open: the chunks that are there
	min, max keys.Key            // hull of the keys written
}

func (s *stagedTxn) widen(writes []byte) {
	eachWrite(writes, func(k, _ []byte) {
		if s.min == nil || bytes.Compare(k, s.min) < 0 {
			s.min = cloneBytes(k)
		}
		if s.max == nil || bytes.Compare(k, s.max) > 0 {
			s.max = cloneBytes(k)
		}
	})
}

// hull returns the span of the keys written.
func (s *stagedTxn) hull() keys.Span { return keys.Span{Start: s.min, End: successor(s.max)} }

// complete reports whether the chunks 0..n-1, and no others, are there.
func (s *stagedTxn) complete(n uint32) bool {
	if s == nil || s.status != stageOpen || uint32(len(s.have)) != n {
		return false
	}
	for seq := range s.have {
		if seq >= n {
			return false
		}
	}
	return true
}

// outcomeTable remembers recent outcomes (X5), deterministically: an outcome
// goes when its gateway declared it finished, when it is older than the horizon,
// or when there are too many. Only the last two lose knowledge; prunedThrough
// says up to which time.
type outcomeTable struct {
	horizon time.Duration
	max     int
	m       map[keys.TxnID]outcomeRec
	nodes   []*nodeOutcomes // few, in order of first appearance
	// prunedThrough is the latest time at which an outcome was recorded that has
	// been dropped without its gateway's word.
	prunedThrough truetime.Timestamp
}

type outcomeRec struct {
	status OutcomeStatus
	ts     truetime.Timestamp // commit timestamp
	at     truetime.Timestamp // when recorded
}

type nodeOutcomes struct {
	node     keys.NodeID
	finished uint64
	queue    []queuedOutcome // in order of recording
	head     int
}

type queuedOutcome struct {
	seq uint64
	age truetime.Timestamp
	at  truetime.Timestamp
}

// Defaults of the outcome table; fixed when a tablet is made, because replicas
// must prune alike.
const (
	defaultHorizon     = 60 * time.Second
	defaultMaxOutcomes = 50_000
	// ageSlack covers the clocks' disagreement between a gateway that chose an age
	// and a leader that recorded an outcome.
	ageSlack = time.Second
)

func (o *outcomeTable) node(n keys.NodeID) *nodeOutcomes {
	for _, x := range o.nodes {
		if x.node == n {
			return x
		}
	}
	x := &nodeOutcomes{node: n}
	o.nodes = append(o.nodes, x)
	return x
}

func (o *outcomeTable) finishedBelow(n keys.NodeID) uint64 {
	for _, x := range o.nodes {
		if x.node == n {
			return x.finished
		}
	}
	return 0
}

// finished reports whether id's gateway has declared it ended.
func (o *outcomeTable) isFinished(id keys.TxnID) bool {
	return !BreakFinished && id.Seq < o.finishedBelow(id.Node)
}

// mayBePruned reports whether an outcome of id may have been recorded and
// dropped for its age or for want of room.
func (o *outcomeTable) mayBePruned(id keys.TxnID) bool {
	return o.prunedThrough != 0 && id.Age <= o.prunedThrough.Add(ageSlack)
}

// record adds an outcome and prunes.
func (o *outcomeTable) record(id keys.TxnID, r outcomeRec) {
	if BreakOutcomes {
		return
	}
	if _, ok := o.m[id]; !ok {
		n := o.node(id.Node)
		n.queue = append(n.queue, queuedOutcome{id.Seq, id.Age, r.at})
	}
	o.m[id] = r
	o.prune(r.at)
}

// finish learns that every transaction of node with a seq below has ended.
func (o *outcomeTable) finish(node keys.NodeID, below uint64) {
	if below == 0 {
		return
	}
	n := o.node(node)
	if below <= n.finished {
		return
	}
	n.finished = below
	o.pruneFinished(n)
}

func (o *outcomeTable) pop(n *nodeOutcomes) queuedOutcome {
	q := n.queue[n.head]
	n.head++
	if n.head > 64 && n.head*2 > len(n.queue) {
		n.queue = append(n.queue[:0], n.queue[n.head:]...)
		n.head = 0
	}
	delete(o.m, keys.TxnID{Age: q.age, Node: n.node, Seq: q.seq})
	return q
}

func (o *outcomeTable) pruneFinished(n *nodeOutcomes) {
	for n.head < len(n.queue) && n.queue[n.head].seq < n.finished {
		o.pop(n)
	}
}

func (o *outcomeTable) prune(now truetime.Timestamp) {
	for _, n := range o.nodes {
		for n.head < len(n.queue) && n.queue[n.head].at.Add(o.horizon) < now {
			o.drop(n)
		}
	}
	for len(o.m) > o.max {
		longest := o.nodes[0]
		for _, n := range o.nodes[1:] {
			if len(n.queue)-n.head > len(longest.queue)-longest.head {
				longest = n
			}
		}
		o.drop(longest)
	}
}

// drop loses the oldest outcome of n, unless its gateway had finished with it.
func (o *outcomeTable) drop(n *nodeOutcomes) {
	q := o.pop(n)
	if q.seq >= n.finished && q.at > o.prunedThrough {
		o.prunedThrough = q.at
	}
}

// outcome looks a transaction up: a decided one, then the recent ones.
func (m *machine) outcome(id keys.TxnID) (Outcome, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.outcomeLocked(id)
}

func (m *machine) outcomeLocked(id keys.TxnID) (Outcome, bool) {
	if r, ok := m.outcomes.m[id]; ok {
		return Outcome{Status: r.status, TS: r.ts}, true
	}
	if d, ok := m.decided[id]; ok {
		return Outcome{Status: OutcomeCommitted, TS: d.ts}, true
	}
	return Outcome{}, false
}

func newMachine() *machine {
	m := &machine{
		prepared: make(map[keys.TxnID]*preparedTxn),
		decided:  make(map[keys.TxnID]*decidedTxn),
		staged:   make(map[keys.TxnID]*stagedTxn),
		outcomes: outcomeTable{horizon: defaultHorizon, max: defaultMaxOutcomes, m: make(map[keys.TxnID]outcomeRec)},
	}
	m.view.Store(&view{})
	return m
}

// side says where a prepared transaction's keys lie relative to a split key.
type side uint8

const (
	sideLeft side = 1 << iota
	sideRight
)

func keySide(k, split keys.Key) side {
	if bytes.Compare(k, split) < 0 {
		return sideLeft
	}
	return sideRight
}

func spanSide(s keys.Span, split keys.Key) side {
	if s.IsPoint() || bytes.Compare(s.Start, split) >= 0 {
		return keySide(s.Start, split)
	}
	if bytes.Compare(s.End, split) > 0 {
		return sideLeft | sideRight
	}
	return sideLeft
}

// sides of everything that a prepared transaction has here. One with both cannot
// be divided: it has one anchor, which finds one of the halves.
func (p *preparedTxn) sides(split keys.Key) side {
	var s side
	if len(p.anchor) > 0 {
		s = keySide(p.anchor, split)
	}
	eachWrite(p.writes, func(k, _ []byte) { s |= keySide(k, split) })
	eachLock(p.locks, func(l lockSpec) { s |= spanSide(l.span, split) })
	return s
}

// splitObstacle returns a transaction that a split at key must wait for: a
// prepared one with parts on both sides, or staged chunks that are prepared or
// committed and reach to the right (chunks do not move).
func (m *machine) splitObstacle(key keys.Key) (keys.TxnID, bool) {
	for id, p := range m.prepared {
		if p.sides(key) == sideLeft|sideRight {
			return id, true
		}
	}
	for id, s := range m.staged {
		if s.status != stageOpen && s.max != nil && bytes.Compare(s.max, key) >= 0 {
			return id, true
		}
	}
	return keys.TxnID{}, false
}
