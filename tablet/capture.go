package tablet

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/truetime"
)

// stateVersion is the format of a machine's captured state.
const stateVersion = 1

// InitialState is the machine state of a tablet that begins its life with desc:
// what GroupConfig.Initial wants at bootstrap.
func InitialState(desc keys.Descriptor) []byte {
	m := newMachine()
	m.view.Store(&view{desc: cloneDescriptor(desc)})
	return m.encode()
}

func compareTxn(a, b keys.TxnID) int {
	switch {
	case a == b:
		return 0
	case a.Older(b):
		return -1
	}
	return 1
}

func sortedIDs[V any](m map[keys.TxnID]V) []keys.TxnID {
	ids := make([]keys.TxnID, 0, len(m))
	for id := range m {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, compareTxn)
	return ids
}

// encode captures the state; equal states encode equally. The caller holds mu at
// least shared, or owns m.
func (m *machine) encode() []byte {
	v := m.view.Load()
	n := 256 + 40*len(m.outcomes.m)
	for _, p := range m.prepared {
		n += 64 + len(p.writes) + len(p.locks)
	}
	b := make([]byte, 0, n)
	b = append(b, stateVersion)
	b = appendDescriptor(b, v.desc)
	b = appendUvarint(b, uint64(len(v.children)))
	for _, c := range v.children {
		b = appendDescriptor(b, c)
	}
	b = appendTS(b, v.lowWater)
	b = appendTS(b, m.now)

	b = appendUvarint(b, uint64(len(m.prepared)))
	for _, id := range sortedIDs(m.prepared) {
		p := m.prepared[id]
		b = appendTxnID(b, id)
		b = appendTS(b, p.ts)
		b = appendAnchor(b, p.coordinator)
		b = appendBytes(b, p.anchor)
		b = appendUvarint(b, uint64(p.staged))
		b = appendBytes(b, p.writes)
		b = appendBytes(b, p.locks)
	}

	b = appendUvarint(b, uint64(len(m.decided)))
	for _, id := range sortedIDs(m.decided) {
		d := m.decided[id]
		b = appendTxnID(b, id)
		b = appendTS(b, d.ts)
		b = appendBytes(b, d.anchor)
		b = appendUvarint(b, uint64(len(d.parts)))
		for _, a := range d.parts {
			b = appendAnchor(b, a)
		}
	}

	b = appendUvarint(b, uint64(len(m.staged)))
	for _, id := range sortedIDs(m.staged) {
		s := m.staged[id]
		b = appendTxnID(b, id)
		b = append(b, byte(s.status))
		b = appendTS(b, s.ts)
		b = appendUvarint(b, uint64(s.next))
		b = appendUvarint(b, uint64(s.total))
		have := make([]uint32, 0, len(s.have))
		for seq := range s.have {
			have = append(have, seq)
		}
		slices.Sort(have)
		b = appendUvarint(b, uint64(len(have)))
		for _, seq := range have {
			b = appendUvarint(b, uint64(seq))
		}
		b = appendBytes(b, s.min)
		b = appendBytes(b, s.max)
	}

	o := &m.outcomes
	b = appendUvarint(b, uint64(o.horizon))
	b = appendUvarint(b, uint64(o.max))
	b = appendTS(b, o.prunedThrough)
	b = appendUvarint(b, uint64(len(o.nodes)))
	for _, nd := range o.nodes {
		b = appendUvarint(b, uint64(nd.node))
		b = appendUvarint(b, nd.finished)
		q := nd.queue[nd.head:]
		b = appendUvarint(b, uint64(len(q)))
		for i := range q {
			r := o.m[keys.TxnID{Age: q[i].age, Node: nd.node, Seq: q[i].seq}]
			b = appendUvarint(b, q[i].seq)
			b = appendTS(b, q[i].age)
			b = appendTS(b, q[i].at)
			b = append(b, byte(r.status))
			b = appendTS(b, r.ts)
		}
	}
	return b
}

// decode fills an empty machine from what encode wrote.
func (m *machine) decode(state []byte) error {
	d := decoder{b: bytes.Clone(state)}
	if v := d.u8(); d.err == nil && v != stateVersion {
		return fmt.Errorf("tablet: unknown state version %d", v)
	}
	v := &view{desc: d.descriptor()}
	for n := d.count(5); n > 0 && d.err == nil; n-- {
		v.children = append(v.children, d.descriptor())
	}
	v.lowWater = d.ts()
	m.now = d.ts()
	now := time.Now()
	for n := d.count(20); n > 0 && d.err == nil; n-- {
		id := d.txnID()
		p := &preparedTxn{ts: d.ts(), coordinator: d.anchor(), anchor: d.bytes(), staged: d.u32(), since: now}
		p.writes, p.locks = d.bytes(), d.bytes()
		if d.err == nil && !validParts(p.writes, p.locks) {
			d.fail()
		}
		m.prepared[id] = p
	}
	for n := d.count(12); n > 0 && d.err == nil; n-- {
		id := d.txnID()
		x := &decidedTxn{ts: d.ts(), anchor: d.bytes()}
		x.parts = make([]Anchor, d.count(2))
		for i := range x.parts {
			x.parts[i] = d.anchor()
		}
		m.decided[id] = x
	}
	for n := d.count(15); n > 0 && d.err == nil; n-- {
		id := d.txnID()
		s := &stagedTxn{status: stageStatus(d.u8()), ts: d.ts(), next: d.u32(), total: d.u32(), have: make(map[uint32]struct{})}
		if s.status > stageCommitted {
			d.fail()
		}
		for k := d.count(1); k > 0 && d.err == nil; k-- {
			s.have[d.u32()] = struct{}{}
		}
		s.min, s.max = d.bytes(), d.bytes()
		if len(s.min) == 0 {
			s.min = nil
		}
		if len(s.max) == 0 {
			s.max = nil
		}
		m.staged[id] = s
	}
	o := &m.outcomes
	o.horizon = time.Duration(d.uvarint())
	o.max = int(d.uvarint())
	if o.horizon < 0 || o.max < 0 {
		d.fail()
	}
	o.prunedThrough = d.ts()
	for n := d.count(3); n > 0 && d.err == nil; n-- {
		nd := &nodeOutcomes{node: keys.NodeID(d.u32()), finished: d.uvarint()}
		q := d.count(26)
		nd.queue = make([]queuedOutcome, 0, q)
		for ; q > 0 && d.err == nil; q-- {
			e := queuedOutcome{seq: d.uvarint(), age: d.ts(), at: d.ts()}
			r := outcomeRec{status: OutcomeStatus(d.u8()), ts: d.ts(), at: e.at}
			id := keys.TxnID{Age: e.age, Node: nd.node, Seq: e.seq}
			if _, dup := o.m[id]; dup || r.status != OutcomeCommitted && r.status != OutcomeAborted {
				d.fail()
				break
			}
			o.m[id] = r
			nd.queue = append(nd.queue, e)
		}
		o.nodes = append(o.nodes, nd)
	}
	if err := d.done(); err != nil {
		return fmt.Errorf("tablet: captured state: %w", err)
	}
	m.view.Store(v)
	return nil
}

// validParts checks the encoded parts of a prepared transaction once, so that
// eachWrite and eachLock may trust them.
func validParts(writes, locks []byte) bool {
	if len(writes) > 0 {
		d := decoder{b: writes}
		d.skipWrites()
		if d.done() != nil {
			return false
		}
	}
	if len(locks) > 0 {
		d := decoder{b: locks}
		for n := d.count(3); n > 0 && d.err == nil; n-- {
			d.lock()
		}
		if d.done() != nil {
			return false
		}
	}
	return true
}

// splitChild takes the right side of a split at key out of m and returns it as a
// machine of its own (B1): prepared and decided transactions by their anchors;
// outcomes are copied, because one-phase commits before the split may have had
// keys on both sides. The caller holds mu and has ruled out obstacles.
func (m *machine) splitChild(key keys.Key, left, right keys.Descriptor) *machine {
	v := m.view.Load()
	c := newMachine()
	c.view.Store(&view{desc: right, lowWater: v.lowWater})
	c.now = m.now
	for id, p := range m.prepared {
		if p.sides(key)&sideRight != 0 {
			if !BreakChildPrepared {
				c.prepared[id] = p
			}
			delete(m.prepared, id)
		}
	}
	for id, d := range m.decided {
		if keySide(d.anchor, key) == sideRight {
			c.decided[id] = d
			delete(m.decided, id)
		}
	}
	o, co := &m.outcomes, &c.outcomes
	co.horizon, co.max, co.prunedThrough = o.horizon, o.max, o.prunedThrough
	for id, r := range o.m {
		co.m[id] = r
	}
	for _, n := range o.nodes {
		co.nodes = append(co.nodes, &nodeOutcomes{node: n.node, finished: n.finished, queue: slices.Clone(n.queue[n.head:])})
	}
	children := append(slices.Clone(v.children), right)
	if len(children) > maxChildren {
		children = children[len(children)-maxChildren:]
	}
	m.view.Store(&view{desc: left, children: children, lowWater: v.lowWater})
	return c
}

// raise keeps m.now the highest timestamp applied.
func (m *machine) raise(ts truetime.Timestamp) {
	if ts > m.now {
		m.now = ts
	}
}
