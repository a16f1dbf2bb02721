package tablet

import (
	"bytes"
	"context"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/storage"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/truetime"
	"github.com/tidwall/btree"
)

// memEngine is a storage.Reader over a sorted map that applies recorded batches.
type memEngine struct {
	mu sync.RWMutex
	m  btree.Map[string, []byte]
	// onRead, if set, is called once, by the next iterator.
	onRead atomic.Pointer[func()]
	// afterSeek, if set, is called once, when the next iterator is closed.
	afterSeek func()
}

func (e *memEngine) Get(key []byte) ([]byte, bool, error) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	v, ok := e.m.Get(string(key))
	return v, ok, nil
}

func (e *memEngine) NewIter(lower, upper []byte) storage.Iter {
	if f := e.onRead.Swap(nil); f != nil {
		(*f)()
	}
	return &memIter{e: e, lower: string(lower), upper: string(upper)}
}

func (e *memEngine) put(k, v []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if v == nil {
		e.m.Delete(string(k))
		return
	}
	e.m.Set(string(k), v)
}

type memIter struct {
	e            *memEngine
	lower, upper string
	key          string
	val          []byte
	closed       bool
}

func (i *memIter) at(k string, v []byte, ok bool) bool {
	if !ok || k < i.lower || k >= i.upper {
		return false
	}
	i.key, i.val = k, v
	return true
}

func (i *memIter) ge(k string) bool {
	if i.closed {
		panic("iterator used after Close")
	}
	i.e.mu.RLock()
	defer i.e.mu.RUnlock()
	var fk string
	var fv []byte
	found := false
	i.e.m.Ascend(max(k, i.lower), func(k string, v []byte) bool {
		fk, fv, found = k, v, true
		return false
	})
	return i.at(fk, fv, found)
}

func (i *memIter) lt(k string) bool {
	i.e.mu.RLock()
	defer i.e.mu.RUnlock()
	var fk string
	var fv []byte
	found := false
	i.e.m.Descend(min(k, i.upper), func(x string, v []byte) bool {
		if x >= min(k, i.upper) {
			return true
		}
		fk, fv, found = x, v, true
		return false
	})
	return i.at(fk, fv, found)
}

func (i *memIter) SeekGE(k []byte) bool { return i.ge(string(k)) }
func (i *memIter) SeekLT(k []byte) bool { return i.lt(string(k)) }
func (i *memIter) Next() bool           { return i.ge(i.key + "\x00") }
func (i *memIter) Prev() bool           { return i.lt(i.key) }
func (i *memIter) Key() []byte          { return []byte(i.key) }
func (i *memIter) Value() []byte        { return i.val }
func (i *memIter) Err() error           { return nil }
func (i *memIter) Close() {
	i.closed = true
	if f := i.e.afterSeek; f != nil {
		i.e.afterSeek = nil
		f()
	}
}

// fakeGroup replicates to the state machines of any number of replicas, in one
// process, one serial step per proposal. Commands are applied when proposed, or
// when the test says so.
type fakeGroup struct {
	tb    testing.TB
	clock truetime.Clock

	mu      sync.Mutex
	term    uint64
	lead    int // replica that leads, -1: none
	valid   bool
	floor   truetime.Timestamp
	index   uint64
	held    bool // keep proposals until release
	hidden  bool // apply, but keep the batch from being visible and Done from being called
	queue   []*fakeEntry
	log     []fakeEntry
	failing error // next proposals fail with it
	full    bool  // those that free nothing fail for want of space
	safe    truetime.Timestamp

	applyMu  sync.Mutex
	replicas []*fakeReplica
}

type fakeEntry struct {
	p     *paxosgroup.Proposal
	term  uint64
	ts    truetime.Timestamp
	data  []byte
	index uint64
}

type fakeReplica struct {
	g       *fakeGroup
	n       int
	engine  *memEngine
	sm      *Tablet
	batch   *storage.Batch
	done    []func()
	applied uint64
	onValid func() // if set, called by every Valid

	installs atomic.Uint64
}

// Leader etc. implement Group for one replica.
func (r *fakeReplica) Valid(term uint64) error {
	if r.onValid != nil {
		r.onValid()
	}
	r.g.mu.Lock()
	defer r.g.mu.Unlock()
	return r.g.validLocked(r.n, term)
}

func (g *fakeGroup) validLocked(n int, term uint64) error {
	if g.lead != n || !g.valid || g.term != term {
		return &paxosgroup.NotLeaderError{Group: 7}
	}
	return nil
}

func (r *fakeReplica) Promise(term uint64, t truetime.Timestamp) error {
	r.g.mu.Lock()
	defer r.g.mu.Unlock()
	if err := r.g.validLocked(r.n, term); err != nil {
		return err
	}
	r.g.floor = max(r.g.floor, t)
	return nil
}

func (r *fakeReplica) SafeTime() truetime.Timestamp {
	r.g.mu.Lock()
	defer r.g.mu.Unlock()
	return r.g.safe
}

func (r *fakeReplica) Installs() uint64 { return r.installs.Load() }

func (r *fakeReplica) Leader() keys.NodeID {
	r.g.mu.Lock()
	defer r.g.mu.Unlock()
	return keys.NodeID(r.g.lead + 1)
}

func (r *fakeReplica) Propose(p *paxosgroup.Proposal) {
	g := r.g
	g.mu.Lock()
	err := g.validLocked(r.n, p.Term)
	if err == nil && g.failing != nil {
		err = g.failing
	}
	if err == nil && g.full && !p.Frees {
		err = paxosgroup.ErrDiskFull
	}
	if err == nil && len(p.Data) > paxosgroup.MaxCommand {
		err = paxosgroup.ErrTooLarge
	}
	e := &fakeEntry{p: p, term: p.Term, data: p.Data}
	if err == nil && p.Timestamped {
		e.ts = max(p.MinTS, g.clock.Now().Latest, g.floor+1)
		if p.MaxTS != 0 && e.ts > p.MaxTS {
			err = paxosgroup.ErrTooLate
		}
	}
	if err != nil {
		g.mu.Unlock()
		p.Done(nil, 0, err)
		return
	}
	if p.Timestamped {
		g.floor = e.ts
		if p.Assigned != nil {
			p.Assigned(e.ts)
		}
	}
	g.index++
	e.index = g.index
	g.log = append(g.log, fakeEntry{term: e.term, ts: e.ts, data: e.data, index: e.index})
	g.queue = append(g.queue, e)
	held := g.held
	g.mu.Unlock()
	if !held {
		g.pump()
	}
}

// pump applies what is queued, as one batch, everywhere.
func (g *fakeGroup) pump() {
	g.applyMu.Lock()
	g.mu.Lock()
	q := g.queue
	g.queue = nil
	lead, hidden := g.lead, g.hidden
	g.mu.Unlock()
	for _, e := range q {
		for _, r := range g.replicas {
			r.apply(e, r.n == lead)
		}
	}
	var done []func()
	if !hidden {
		for _, r := range g.replicas {
			done = append(done, r.show()...)
		}
	}
	g.applyMu.Unlock()
	for _, f := range done {
		f()
	}
}

func (r *fakeReplica) apply(e *fakeEntry, proposer bool) {
	res, err := r.sm.Apply(r.batch, paxosgroup.Command{Index: e.index, Term: e.term, TS: e.ts, Data: e.data})
	if err != nil {
		r.g.tb.Errorf("replica %d: apply: %v", r.n, err)
	}
	r.applied = e.index
	if proposer && e.p != nil && e.p.Done != nil {
		p, ts := e.p, e.ts
		e.p = nil
		r.done = append(r.done, func() { p.Done(res, ts, err) })
	}
}

// show makes the batch visible and returns the answers due.
func (r *fakeReplica) show() []func() {
	for _, o := range batchOps(r.batch) {
		r.engine.put(o.key, o.value)
	}
	r.batch = &storage.Batch{}
	d := r.done
	r.done = nil
	return d
}

// hold keeps proposals from being applied; release lets them go.
func (g *fakeGroup) hold() {
	g.mu.Lock()
	g.held = true
	g.mu.Unlock()
}

func (g *fakeGroup) release() {
	g.mu.Lock()
	g.held = false
	g.mu.Unlock()
	g.pump()
}

// setHidden holds back visibility and answers; clearing it shows everything.
func (g *fakeGroup) setHidden(h bool) {
	g.mu.Lock()
	g.hidden = h
	g.mu.Unlock()
	if !h {
		g.pump()
	}
}

// elect makes replica n the leader of a new term. Entries in flight are applied
// first (keep) or lost; either way their proposers hear that it is not known.
func (g *fakeGroup) elect(n int, keep bool) {
	g.mu.Lock()
	old, q := g.lead, g.queue
	g.queue = nil
	g.valid = false
	g.mu.Unlock()
	if old >= 0 {
		g.replicas[old].sm.Follow()
	}
	for _, e := range q {
		p := e.p
		e.p = nil
		if keep {
			g.applyMu.Lock()
			for _, r := range g.replicas {
				r.apply(e, false)
			}
			g.applyMu.Unlock()
		}
		p.Done(nil, 0, paxosgroup.ErrAmbiguous)
	}
	g.pump()
	g.mu.Lock()
	g.term++
	g.lead = n
	g.valid = true // before the replica leads: it may propose at once
	lease := paxosgroup.Lease{Term: g.term, Floor: g.floor}
	g.mu.Unlock()
	g.replicas[n].sm.Lead(lease)
}

// world is a tablet of some replicas, and the hooks' record of what they heard.
type world struct {
	t     testing.TB
	clock *fakeClock
	g     *fakeGroup
	seq   uint64

	mu      sync.Mutex
	indoubt []InDoubt
	decided []Decided
	asked   []string
	splits  []SplitApplied
}

// fakeClock runs on time.Now, so on a bubble's virtual time, with a fixed ε.
type fakeClock struct{ eps time.Duration }

func (c *fakeClock) Now() truetime.Interval {
	t := truetime.FromTime(time.Now())
	return truetime.Interval{Earliest: t.Add(-c.eps), Latest: t.Add(c.eps)}
}

func (c *fakeClock) Err() error { return nil }

func (c *fakeClock) AwaitAfter(ctx context.Context, t truetime.Timestamp) error {
	for {
		d := t.Sub(c.Now().Earliest)
		if d < 0 {
			return nil
		}
		timer := time.NewTimer(d + 1)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

func testDescriptor() keys.Descriptor {
	return keys.Descriptor{Group: 7, Span: keys.Span{Start: []byte("a"), End: []byte("z")}, Generation: 3,
		Replicas: []keys.Replica{{Node: 1, ID: 71}, {Node: 2, ID: 72}, {Node: 3, ID: 73}}}
}

func newWorld(tb testing.TB, replicas int, tune func(*Config)) *world {
	w := &world{t: tb, clock: &fakeClock{eps: time.Millisecond}}
	w.g = &fakeGroup{tb: tb, clock: w.clock, lead: -1, term: 5}
	for n := range replicas {
		w.add(n, InitialState(testDescriptor()), tune)
	}
	w.g.elect(0, false)
	return w
}

func (w *world) add(n int, state []byte, tune func(*Config)) *fakeReplica {
	r := &fakeReplica{g: w.g, n: n, engine: &memEngine{}, batch: &storage.Batch{}}
	cfg := Config{Group: 7, Node: keys.NodeID(n + 1), Clock: w.clock, Reader: r.engine, WoundGrace: -1, Hooks: w.hooks()}
	if tune != nil {
		tune(&cfg)
	}
	r.sm = New(cfg)
	if err := r.sm.Restore(state); err != nil {
		w.t.Fatal(err)
	}
	r.sm.Bind(r)
	w.g.replicas = append(w.g.replicas, r)
	return r
}

func (w *world) hooks() Hooks {
	return Hooks{
		InDoubt: func(t *Tablet, x []InDoubt) { w.mu.Lock(); w.indoubt = append(w.indoubt, x...); w.mu.Unlock() },
		Decided: func(t *Tablet, x []Decided) { w.mu.Lock(); w.decided = append(w.decided, x...); w.mu.Unlock() },
		Inquire: func(t *Tablet, x InDoubt, abort bool) {
			w.mu.Lock()
			w.asked = append(w.asked, fmt.Sprintf("%v abort=%v", x.Txn, abort))
			w.mu.Unlock()
		},
		SplitApplied: func(t *Tablet, s SplitApplied) {
			if !t.Splitting() { // R1: package replicas relies on it
				panic("the child of a split is opened when the split is over")
			}
			w.mu.Lock()
			w.splits = append(w.splits, s)
			w.mu.Unlock()
		},
	}
}

func (w *world) questions() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.asked)
}

func (w *world) close() {
	for _, r := range w.g.replicas {
		r.sm.Close()
	}
}

// lead is the leading tablet.
func (w *world) lead() *Tablet { return w.g.replicas[w.g.lead].sm }

// txn makes a new transaction; a smaller age is older.
func (w *world) txn(age int64) TxnRef {
	w.seq++
	return TxnRef{ID: keys.TxnID{Age: truetime.FromTime(time.Now()) - 1_000_000 + truetime.Timestamp(age), Node: 1, Seq: w.seq}, Client: 1}
}

func put(k, v string) Write { return Write{Key: []byte(k), Value: []byte(v)} }
func del(k string) Write    { return Write{Key: []byte(k)} }

func (w *world) commit(ref TxnRef, ws ...Write) truetime.Timestamp {
	w.t.Helper()
	r, err := w.lead().Commit(context.Background(), &CommitRequest{Txn: ref, Writes: ws})
	if err != nil {
		w.t.Fatalf("commit: %v", err)
	}
	return r.TS
}

func (w *world) read(ref TxnRef, lock LockStrength, ks ...string) (*ReadResponse, error) {
	req := &ReadRequest{Txn: ref, Lock: lock}
	for _, k := range ks {
		req.Gets = append(req.Gets, []byte(k))
	}
	return w.lead().Read(context.Background(), req)
}

// get reads a key at a time, "-" for absent.
func get(tb testing.TB, t *Tablet, at truetime.Timestamp, k string) string {
	tb.Helper()
	r, err := t.Read(context.Background(), &ReadRequest{At: at, Gets: []keys.Key{[]byte(k)}})
	if err != nil {
		tb.Fatalf("read %s: %v", k, err)
	}
	if !r.Gets[0].Exists {
		return "-"
	}
	return string(r.Gets[0].Bytes)
}

// now is a timestamp at which everything committed so far is to be seen (virtual
// time stands still while commits do not wait).
func (w *world) now() truetime.Timestamp {
	w.g.mu.Lock()
	defer w.g.mu.Unlock()
	return max(w.clock.Now().Latest, w.g.floor)
}

// sameState fails unless all replicas that applied as much are in the same state.
func (w *world) sameState() {
	w.t.Helper()
	for _, r := range w.g.replicas[1:] {
		if a, b := w.g.replicas[0].sm.Capture(), r.sm.Capture(); !bytes.Equal(a, b) {
			w.t.Fatalf("replica %d has diverged:\n%x\n%x", r.n, a, b)
		}
	}
}

type batchOp struct{ key, value []byte }

// batchOps looks into a batch, which shows its operations to its own room only.
func batchOps(b *storage.Batch) []batchOp {
	ops := reflect.ValueOf(b).Elem().FieldByName("ops")
	out := make([]batchOp, ops.Len())
	for i := range out {
		o := ops.Index(i)
		out[i].key = o.Field(0).Bytes()
		if v := o.Field(1); !v.IsNil() {
			out[i].value = append([]byte{}, v.Bytes()...)
		}
	}
	return out
}

func tsOf(n int64) truetime.Timestamp { return truetime.Timestamp(n) }
