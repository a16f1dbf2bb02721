package tablet

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/spandb/spand/internal/crashpoint"
	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/storage"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/truetime"
)

// result is what apply tells the proposer. It depends on the log alone.
type result struct {
	kind    resultKind
	reason  AbortReason
	outcome Outcome
	staged  bool // the commit is decided, but its chunks wait to be materialised
	split   *SplitResponse
}

type resultKind uint8

const (
	resOK        resultKind = iota
	resStale                // the descriptor changed since evaluation: evaluate again (B1)
	resDuplicate            // decided before: outcome says how (X5)
	resAborted              // refused, reason says why
	resBlocked              // a split that has to wait for a transaction
)

var (
	okResult       = &result{}
	okStagedResult = &result{staged: true}
	staleResult    = &result{kind: resStale}
	blockedResult  = &result{kind: resBlocked}
)

func aborted(r AbortReason) *result { return &result{kind: resAborted, reason: r} }

// stageKey is the engine key of a staged chunk:
// ClassStage, group, 1, transaction, chunk number.
func stageKey(g keys.GroupID, id keys.TxnID, seq uint32) []byte {
	b := make([]byte, 0, 34)
	b = append(b, byte(storage.ClassStage))
	b = binary.BigEndian.AppendUint64(b, uint64(g))
	b = append(b, 1)
	b = binary.BigEndian.AppendUint64(b, uint64(id.Age))
	b = binary.BigEndian.AppendUint32(b, uint32(id.Node))
	b = binary.BigEndian.AppendUint64(b, id.Seq)
	return binary.BigEndian.AppendUint32(b, seq)
}

// witnessKey is the engine key that a split writes in its own batch: once it can
// be read, everything that the parent applied before the split can be read too.
func witnessKey(parent, child keys.GroupID) []byte {
	b := append(make([]byte, 0, 18), byte(storage.ClassStage))
	b = binary.BigEndian.AppendUint64(b, uint64(parent))
	b = append(b, 2)
	return binary.BigEndian.AppendUint64(b, uint64(child))
}

// chunksKey is the engine key under which a group's replica has the index of the latest
// command that made a transaction's last chunk versions, in that command's own batch.
func chunksKey(g keys.GroupID) []byte {
	return append(binary.BigEndian.AppendUint64([]byte{byte(storage.ClassStage)}, uint64(g)), 3)
}

// settling is a set of versions that apply has written to a batch which may not
// be visible yet, though the transaction no longer stands in a reader's way. A
// follower's reader makes sure by looking for the witness.
type settling struct {
	ts      truetime.Timestamp
	span    keys.Span
	witness []byte
	// index, where there were chunks, of the command that ended them: what chunksKey
	// holds by then. A version would be no witness, for an earlier chunk may have made it.
	index uint64
}

// Apply implements paxosgroup.StateMachine. It is deterministic: the leader's
// lock table is told of some effects, but never asked.
func (t *Tablet) Apply(b *storage.Batch, c paxosgroup.Command) (any, error) {
	var cmd command
	if err := decodeCommand(c.Data, &cmd); err != nil {
		return nil, fmt.Errorf("tablet: group %d, entry %d: %w", t.cfg.Group, c.Index, err)
	}
	t.started.Store(true)
	if b.Len() == 0 {
		// A new batch: the one before has become visible.
		t.batchVisible()
	}
	m := t.m
	m.raise(c.TS)
	if cmd.generation != m.view.Load().desc.Generation {
		return staleResult, nil
	}
	switch cmd.kind {
	case cmdCommit, cmdDecide:
		return t.applyCommit(b, &c, &cmd)
	case cmdPrepare:
		return t.applyPrepare(b, &c, &cmd)
	case cmdInquire:
		return t.applyInquire(&c, &cmd), nil
	case cmdResolve:
		return t.applyResolve(b, &c, &cmd)
	case cmdForget:
		crashpoint.Pass(crashpoint.ForgetCommitted)
		m.mu.Lock()
		for _, id := range cmd.txns {
			delete(m.decided, id)
		}
		m.mu.Unlock()
		return okResult, nil
	case cmdStage:
		return t.applyStage(b, &cmd), nil
	case cmdMaterialise:
		return t.applyMaterialise(b, &c, &cmd)
	case cmdDropStage:
		return t.applyDropStage(b, &cmd), nil
	case cmdSplit:
		return t.applySplit(b, &c, &cmd)
	case cmdCollect:
		return t.applyCollect(b, &cmd), nil
	}
	return nil, fmt.Errorf("tablet: group %d: command kind %d without an apply", t.cfg.Group, cmd.kind)
}

// batchVisible forgets what readers had to be careful about.
func (t *Tablet) batchVisible() {
	if len(t.chunks) > 0 {
		clear(t.chunks)
	}
	t.mvcc.collectionVisible()
	if t.nsettling.Load() != 0 {
		t.m.mu.Lock()
		t.settling = nil
		t.nsettling.Store(0)
		t.m.mu.Unlock()
	}
}

// putVersions writes an encoded list of writes as versions at ts: blind puts.
func putVersions(b *storage.Batch, enc []byte, ts truetime.Timestamp) {
	total := 0
	eachWrite(enc, func(k, v []byte) { total += len(k) + len(v) + 2 + tsLen })
	buf := make([]byte, 0, total)
	eachWrite(enc, func(k, v []byte) {
		from := len(buf)
		buf = appendEngineKey(buf, k, ts)
		mid := len(buf)
		if v == nil {
			buf = append(buf, kindTombstone)
		} else {
			buf = append(append(buf, kindValue), v...)
		}
		b.Put(buf[from:mid:mid], buf[mid:len(buf):len(buf)])
	})
}

// applyCommit decides a transaction: committed at c.TS, unless it was decided
// before (X5). With staged chunks its versions follow by materialisation.
func (t *Tablet) applyCommit(b *storage.Batch, c *paxosgroup.Command, cmd *command) (any, error) {
	m := t.m
	if o, ok := m.outcomeLocked(cmd.txn); ok {
		if o.Status == OutcomeCommitted {
			return &result{kind: resDuplicate, outcome: o}, nil
		}
		return aborted(AbortDecided), nil
	}
	if m.outcomes.isFinished(cmd.txn) {
		return aborted(AbortHorizon), nil
	}
	s := m.staged[cmd.txn]
	if cmd.staged > 0 && !s.complete(cmd.staged) {
		return aborted(AbortLocksLost), nil
	}
	res := okResult
	m.mu.Lock()
	defer m.mu.Unlock()
	if cmd.staged > 0 {
		t.closeStage(b, cmd, s, cmd.writes)
		s.status, s.ts = stageCommitted, c.TS
		t.materialising.Add(1)
		res = okStagedResult
	} else {
		putVersions(b, cmd.writes, c.TS)
	}
	if cmd.kind == cmdDecide && len(cmd.parts) > 0 && !BreakDecided {
		crashpoint.Pass(crashpoint.DecideCommitted)
		d := &decidedTxn{ts: c.TS, anchor: cloneBytes(cmd.anchor), parts: make([]Anchor, len(cmd.parts))}
		for i, p := range cmd.parts {
			d.parts[i] = cloneAnchor(p)
		}
		m.decided[cmd.txn] = d
	}
	m.outcomes.record(cmd.txn, outcomeRec{status: OutcomeCommitted, ts: c.TS, at: c.TS})
	m.outcomes.finish(cmd.txn.Node, cmd.finished)
	return res, nil
}

// closeStage makes the last writes the last chunk, so that materialising in order
// gives the transaction's last word on every key. The caller holds mu.
func (t *Tablet) closeStage(b *storage.Batch, cmd *command, s *stagedTxn, writes []byte) {
	s.total, s.next = cmd.staged, 0
	if writeCount(writes) > 0 {
		t.putChunk(b, cmd.txn, s.total, writes)
		s.widen(writes)
		s.total++
	}
	s.have = nil
}

// putChunk writes a chunk, and keeps it at hand while its batch is not visible.
func (t *Tablet) putChunk(b *storage.Batch, id keys.TxnID, seq uint32, writes []byte) {
	v := cloneBytes(writes)
	b.Put(stageKey(t.cfg.Group, id, seq), v)
	if t.chunks == nil {
		t.chunks = make(map[chunkID][]byte)
	}
	t.chunks[chunkID{id, seq}] = v
}

type chunkID struct {
	txn keys.TxnID
	seq uint32
}

// chunk reads a staged chunk.
func (t *Tablet) chunk(id keys.TxnID, seq uint32) ([]byte, error) {
	v, ok, err := t.cfg.Reader.Get(stageKey(t.cfg.Group, id, seq))
	if err == nil && !ok {
		err = fmt.Errorf("tablet: group %d: staged chunk %d of transaction %v is missing", t.cfg.Group, seq, id)
	}
	if err != nil {
		return nil, err
	}
	d := decoder{b: v}
	d.skipWrites()
	if err := d.done(); err != nil {
		return nil, fmt.Errorf("tablet: group %d: staged chunk %d of transaction %v: %w", t.cfg.Group, seq, id, err)
	}
	return v, nil
}

// applyPrepare replicates a participant's writes and locks (X3).
func (t *Tablet) applyPrepare(b *storage.Batch, c *paxosgroup.Command, cmd *command) (any, error) {
	m := t.m
	if p, ok := m.prepared[cmd.txn]; ok {
		return &result{kind: resDuplicate, outcome: Outcome{TS: p.ts}}, nil
	}
	if _, ok := m.outcomeLocked(cmd.txn); ok || m.outcomes.isFinished(cmd.txn) {
		return aborted(AbortDecided), nil
	}
	s := m.staged[cmd.txn]
	if cmd.staged > 0 && !s.complete(cmd.staged) {
		return aborted(AbortLocksLost), nil
	}
	crashpoint.Pass(crashpoint.PrepareCommitted)
	p := &preparedTxn{
		ts: c.TS, coordinator: cloneAnchor(cmd.coordinator), anchor: cloneBytes(cmd.anchor),
		locks: cloneBytes(cmd.locks), since: time.Now(),
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if cmd.staged > 0 {
		t.closeStage(b, cmd, s, cmd.writes)
		s.status, s.ts = stagePrepared, c.TS
		p.staged = s.total
	} else {
		p.writes = cloneBytes(cmd.writes)
	}
	m.prepared[cmd.txn] = p
	return okResult, nil
}

// applyInquire answers for an outcome, and makes one when asked to (X5).
func (t *Tablet) applyInquire(c *paxosgroup.Command, cmd *command) *result {
	crashpoint.Pass(crashpoint.InquireCommitted)
	m := t.m
	if o, ok := m.outcomeLocked(cmd.txn); ok {
		return &result{outcome: o}
	}
	// A committed record outlives every prepared part, so to one of these absence
	// says: not committed. Nor will it be: a Decide is refused below by the record,
	// or, once that is pruned, because the id is finished or may be pruned.
	switch {
	case m.outcomes.isFinished(cmd.txn) && cmd.prepared:
		return &result{outcome: Outcome{Status: OutcomeAborted}}
	case m.outcomes.isFinished(cmd.txn), m.outcomes.mayBePruned(cmd.txn) && !cmd.prepared && !t.openStage(cmd.txn):
		return &result{outcome: Outcome{Status: OutcomeUnknown}}
	case !cmd.abort:
		return &result{outcome: Outcome{Status: OutcomePending}}
	case BreakAbsent:
		return &result{outcome: Outcome{Status: OutcomeAborted}}
	}
	m.mu.Lock()
	m.outcomes.record(cmd.txn, outcomeRec{status: OutcomeAborted, at: c.TS})
	m.mu.Unlock()
	// The leader's record of the transaction dies with it, so that no later request
	// under its locks can succeed, even after the outcome has been pruned.
	if l := t.leader.Load(); l != nil && l.term == c.Term {
		l.killByID(cmd.txn, &AbortedError{Txn: cmd.txn, Reason: AbortDecided})
	}
	return &result{outcome: Outcome{Status: OutcomeAborted}}
}

// openStage reports whether id has undecided chunks here: then it was not decided.
func (t *Tablet) openStage(id keys.TxnID) bool {
	s := t.m.staged[id]
	return s != nil && s.status == stageOpen
}

// applyResolve ends a prepared transaction. Another copy finds nothing to do.
func (t *Tablet) applyResolve(b *storage.Batch, c *paxosgroup.Command, cmd *command) (any, error) {
	m := t.m
	p, ok := m.prepared[cmd.txn]
	if !ok {
		return okResult, nil
	}
	crashpoint.Pass(crashpoint.ResolveCommitted)
	res := okResult
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.prepared, cmd.txn)
	s := m.staged[cmd.txn]
	switch {
	case cmd.status == OutcomeAborted:
		if s != nil {
			t.dropChunks(b, cmd.txn, s)
		}
	case p.staged > 0:
		s.status, s.ts = stageCommitted, cmd.ts
		t.materialising.Add(1)
		res = okStagedResult
	default:
		putVersions(b, p.writes, cmd.ts)
		t.settleWrites(p.writes, cmd.ts)
	}
	if _, ok := m.outcomes.m[cmd.txn]; !ok {
		m.outcomes.record(cmd.txn, outcomeRec{status: cmd.status, ts: cmd.ts, at: c.TS})
	}
	return res, nil
}

// settleWrites notes versions just written for a transaction that no longer
// blocks readers. The caller holds mu.
func (t *Tablet) settleWrites(writes []byte, ts truetime.Timestamp) {
	var s settling
	eachWrite(writes, func(k, _ []byte) {
		if s.witness == nil {
			s.witness = appendEngineKey(nil, k, ts)
		}
		if s.span.Start == nil || bytes.Compare(k, s.span.Start) < 0 {
			s.span.Start = cloneBytes(k)
		}
		if s.span.End == nil || bytes.Compare(k, s.span.End) > 0 {
			s.span.End = cloneBytes(k)
		}
	})
	if s.witness == nil {
		return
	}
	s.ts, s.span.End = ts, successor(s.span.End)
	t.settling = append(t.settling, s)
	t.nsettling.Add(1)
}

func (t *Tablet) applyStage(b *storage.Batch, cmd *command) *result {
	m := t.m
	if _, ok := m.outcomeLocked(cmd.txn); ok || m.outcomes.isFinished(cmd.txn) {
		return aborted(AbortDecided)
	}
	s := m.staged[cmd.txn]
	if s != nil && s.status != stageOpen {
		return okResult // a stray copy: prepared or committed with all its chunks
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if s == nil {
		s = &stagedTxn{have: make(map[uint32]struct{})}
		m.staged[cmd.txn] = s
	}
	if _, ok := s.have[cmd.seq]; ok {
		return okResult
	}
	t.putChunk(b, cmd.txn, cmd.seq, cmd.writes)
	s.have[cmd.seq] = struct{}{}
	s.widen(cmd.writes)
	return okResult
}

// applyMaterialise turns the next chunk of a committed transaction into versions.
func (t *Tablet) applyMaterialise(b *storage.Batch, c *paxosgroup.Command, cmd *command) (any, error) {
	m := t.m
	s := m.staged[cmd.txn]
	if s == nil || s.status != stageCommitted || s.next != cmd.seq {
		return okResult, nil // a stray copy
	}
	v, ok := t.chunks[chunkID{cmd.txn, cmd.seq}]
	if !ok {
		var err error
		if v, err = t.chunk(cmd.txn, cmd.seq); err != nil {
			return nil, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	putVersions(b, v, s.ts)
	b.Delete(stageKey(t.cfg.Group, cmd.txn, cmd.seq))
	s.next++
	if s.next < s.total {
		return okStagedResult, nil
	}
	delete(m.staged, cmd.txn)
	t.settleWrites(v, s.ts)
	if n := len(t.settling); n > 0 && s.min != nil {
		b.Put(chunksKey(t.cfg.Group), binary.BigEndian.AppendUint64(nil, c.Index))
		last := &t.settling[n-1]
		last.span, last.index = s.hull(), c.Index // earlier chunks may sit in the same batch
	}
	return okResult, nil
}

func (t *Tablet) applyDropStage(b *storage.Batch, cmd *command) *result {
	m := t.m
	s := m.staged[cmd.txn]
	if s == nil || s.status != stageOpen {
		return okResult
	}
	m.mu.Lock()
	t.dropChunks(b, cmd.txn, s)
	m.mu.Unlock()
	return okResult
}

// dropChunks deletes a transaction's chunks. The caller holds mu.
func (t *Tablet) dropChunks(b *storage.Batch, id keys.TxnID, s *stagedTxn) {
	if s.status == stageOpen {
		for seq := range s.have {
			b.Delete(stageKey(t.cfg.Group, id, seq))
		}
	} else {
		for seq := s.next; seq < s.total; seq++ {
			b.Delete(stageKey(t.cfg.Group, id, seq))
		}
	}
	delete(t.m.staged, id)
}

// applySplit divides the tablet (B1): the left side stays, the right one becomes
// a machine of its own, handed to the node within this very entry.
func (t *Tablet) applySplit(b *storage.Batch, c *paxosgroup.Command, cmd *command) (any, error) {
	m := t.m
	v := m.view.Load()
	if bytes.Compare(v.desc.Span.Start, cmd.anchor) >= 0 || bytes.Compare(cmd.anchor, v.desc.Span.End) >= 0 {
		return staleResult, nil
	}
	if _, blocked := m.splitObstacle(cmd.anchor); blocked {
		return blockedResult, nil
	}
	key := keys.Key(cloneBytes(cmd.anchor))
	left, right := v.desc, keys.Descriptor{Group: cmd.child, Replicas: append([]keys.Replica(nil), cmd.replicas...)}
	left.Span.End, left.Generation = key, v.desc.Generation+1
	right.Span, right.Generation = keys.Span{Start: key, End: v.desc.Span.End}, left.Generation
	t.splitting.Store(true)
	defer t.splitting.Store(false)
	m.mu.Lock()
	for id, s := range m.staged {
		// Only open ones can reach to the right. Chunks do not move: the transaction
		// will find them missing, and is retried.
		if s.max != nil && bytes.Compare(s.max, key) >= 0 {
			t.dropChunks(b, id, s)
		}
	}
	child := m.splitChild(key, left, right)
	m.mu.Unlock()
	b.Put(witnessKey(t.cfg.Group, cmd.child), []byte{1})

	ev := SplitApplied{
		Parent: left, Child: right, State: child.encode(), Holder: cmd.holder, Floor: c.TS,
		Witness: witnessKey(t.cfg.Group, cmd.child),
	}
	if l := t.leader.Load(); l != nil && l.term == c.Term {
		// After the new view is in place: a reader that still saw the old one has
		// noted its timestamp before, so the child's floor covers it (R3).
		ev.Inherit = l.splitLocks(key, m, child)
		if !BreakChildFloor {
			ev.Floor = max(ev.Floor, truetime.Timestamp(l.promised.Load()))
		}
	}
	if t.cfg.Hooks.SplitApplied != nil {
		t.cfg.Hooks.SplitApplied(t, ev)
	}
	return &result{split: &SplitResponse{Left: left, Right: right}}, nil
}

// applyCollect drops versions that only reads below the new low-water mark could
// want; the leader listed them.
func (t *Tablet) applyCollect(b *storage.Batch, cmd *command) *result {
	m := t.m
	v := *m.view.Load()
	if cmd.ts > v.lowWater {
		v.lowWater = cmd.ts
		m.mu.Lock()
		m.view.Store(&v)
		m.mu.Unlock()
	}
	if n := t.mvcc.collected.Load(); n%2 == 0 {
		t.mvcc.collected.Store(n + 1)
	}
	d := decoder{b: cmd.versions}
	for n := d.count(9); n > 0; n-- {
		k, ts := d.bytes(), d.ts()
		b.Delete(appendEngineKey(make([]byte, 0, len(k)+1+tsLen), k, ts))
	}
	return okResult
}
