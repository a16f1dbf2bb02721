package cell

import (
	"context"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/storage"
	"github.com/spandb/spand/lockservice/cell/state"
	"github.com/spandb/spand/lockservice/lockpb"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/truetime"
)

// memEngine is a storage.Reader over a map.
type memEngine struct {
	storage.Reader // no iterators
	mu             sync.Mutex
	m              map[string][]byte
}

func (e *memEngine) Get(key []byte) ([]byte, bool, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	v, ok := e.m[string(key)]
	return v, ok, nil
}

// apply makes a batch visible; its operations are shown to its own room only.
func (e *memEngine) apply(b *storage.Batch) {
	ops := reflect.ValueOf(b).Elem().FieldByName("ops")
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range ops.Len() {
		k, v := ops.Index(i).Field(0).Bytes(), ops.Index(i).Field(1)
		if v.IsNil() {
			delete(e.m, string(k))
		} else {
			e.m[string(k)] = slices.Clone(v.Bytes())
		}
	}
}

// fakeGroup replicates to cells in one process, one serial step per proposal, with leases as
// paxosgroup has them: a successor waits for the end of the lease, or begins at once when it
// was handed over or leads again itself, the floor carrying what was promised.
type fakeGroup struct {
	tb    testing.TB
	clock *truetime.Manual

	machine sync.Mutex // the cells' StateMachine methods are called one at a time; before mu

	mu       sync.Mutex
	term     uint64
	lead     int // -1: none
	leaseEnd truetime.Timestamp
	floor    truetime.Timestamp
	index    uint64
	entries  int
	held     bool
	pumping  bool
	failing  error
	space    storage.Space // on the disk, as the group sees it
	refused  int           // proposals
	queue    []*fakeEntry
	replicas []*fakeReplica
}

type fakeEntry struct {
	p     *paxosgroup.Proposal
	ts    truetime.Timestamp
	index uint64
}

type fakeReplica struct {
	g      *fakeGroup
	n      int
	engine *memEngine
	cell   *Cell
}

// fakeLease is how long a lease is worth.
const fakeLease = 1200 * time.Millisecond

func (r *fakeReplica) Leader() keys.NodeID {
	r.g.mu.Lock()
	defer r.g.mu.Unlock()
	return keys.NodeID(r.g.lead + 1)
}

func (r *fakeReplica) Valid(term uint64) error {
	r.g.mu.Lock()
	defer r.g.mu.Unlock()
	_, err := r.g.serveLocked(r.n, term)
	return err
}

func (r *fakeReplica) LeaseEnd(term uint64) (truetime.Timestamp, error) {
	r.g.mu.Lock()
	defer r.g.mu.Unlock()
	return r.g.serveLocked(r.n, term)
}

func (r *fakeReplica) Tight() bool {
	r.g.mu.Lock()
	defer r.g.mu.Unlock()
	return r.g.space >= storage.SpaceTight
}

func (g *fakeGroup) serveLocked(n int, term uint64) (truetime.Timestamp, error) {
	if g.lead != n || g.term != term {
		return 0, &paxosgroup.NotLeaderError{Group: 7}
	}
	now := g.clock.Now()
	if now.Latest == truetime.Max {
		return 0, &paxosgroup.NotLeaderError{Group: 7}
	}
	g.leaseEnd = max(g.leaseEnd, now.Latest.Add(fakeLease))
	return g.leaseEnd, nil
}

func (r *fakeReplica) Propose(p *paxosgroup.Proposal) {
	g := r.g
	g.mu.Lock()
	_, err := g.serveLocked(r.n, p.Term)
	if err == nil {
		err = g.failing
	}
	if err == nil && g.space != storage.SpaceAmple && (!p.Frees || g.space == storage.SpaceNone) {
		err = paxosgroup.ErrDiskFull
	}
	e := &fakeEntry{p: p, ts: max(p.MinTS, g.clock.Now().Latest, g.floor+1)}
	if err == nil && p.MaxTS != 0 && e.ts > p.MaxTS {
		err = paxosgroup.ErrTooLate
	}
	if err != nil {
		g.refused++
		g.mu.Unlock()
		p.Done(nil, 0, err)
		return
	}
	g.floor = e.ts
	g.index++
	g.entries++
	e.index = g.index
	g.queue = append(g.queue, e)
	g.mu.Unlock()
	g.pump()
}

// pump applies what is queued, on one goroutine at a time.
func (g *fakeGroup) pump() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.pumping {
		return
	}
	g.pumping = true
	for len(g.queue) > 0 && !g.held {
		e := g.queue[0]
		g.queue = g.queue[1:]
		lead, term := g.lead, g.term
		g.mu.Unlock()
		g.apply(e, lead, term, lead < 0)
		g.mu.Lock()
	}
	g.pumping = false
}

func (g *fakeGroup) apply(e *fakeEntry, lead int, term uint64, orphan bool) {
	var result any
	g.machine.Lock()
	for _, r := range g.replicas {
		b := &storage.Batch{}
		res, err := r.cell.Apply(b, paxosgroup.Command{Index: e.index, Term: term, TS: e.ts, Data: e.p.Data})
		if err != nil {
			g.tb.Errorf("replica %d: %v", r.n, err)
		}
		r.engine.apply(b)
		if r.n == lead {
			result = res
		}
	}
	g.machine.Unlock()
	if orphan {
		e.p.Done(nil, 0, paxosgroup.ErrAmbiguous)
	} else {
		e.p.Done(result, e.ts, nil)
	}
}

// hold keeps commands in flight until letGo.
func (g *fakeGroup) hold() {
	g.mu.Lock()
	g.held = true
	g.mu.Unlock()
}

// letOne applies the first command that is held.
func (g *fakeGroup) letOne() {
	g.mu.Lock()
	e := g.queue[0]
	g.queue = g.queue[1:]
	lead, term := g.lead, g.term
	g.mu.Unlock()
	g.apply(e, lead, term, false)
}

func (g *fakeGroup) letGo() {
	g.mu.Lock()
	g.held = false
	g.mu.Unlock()
	g.pump()
}

func (g *fakeGroup) fail(err error) {
	g.mu.Lock()
	g.failing = err
	g.mu.Unlock()
}

func (g *fakeGroup) setSpace(s storage.Space) {
	g.mu.Lock()
	g.space = s
	g.mu.Unlock()
}

// depose ends the present leadership. What is in flight is applied (keep) or lost.
func (g *fakeGroup) depose(keep bool) {
	g.mu.Lock()
	old, term, q := g.lead, g.term, g.queue
	g.lead, g.queue, g.held = -1, nil, false
	g.mu.Unlock()
	if old < 0 {
		return
	}
	c := g.replicas[old].cell
	g.machine.Lock()
	promised := c.Promised()
	c.Follow()
	g.machine.Unlock()
	g.mu.Lock()
	g.floor = max(g.floor, promised)
	g.mu.Unlock()
	for _, e := range q {
		if keep {
			g.apply(e, -1, term, true)
		} else {
			e.p.Done(nil, 0, paxosgroup.ErrAmbiguous)
		}
	}
}

// failOver has replica n lead after the lease of its predecessor, who died.
func (g *fakeGroup) failOver(n int, keep bool) {
	g.depose(keep)
	g.mu.Lock()
	end := g.leaseEnd
	g.mu.Unlock()
	if err := g.clock.AwaitAfter(context.Background(), end); err != nil {
		g.tb.Fatal(err)
	}
	g.elect(n)
}

// handOver has replica n lead at once.
func (g *fakeGroup) handOver(n int) {
	g.depose(true)
	g.elect(n)
}

// leadAgain deposes the leader and elects it again, its lease binding only others.
func (g *fakeGroup) leadAgain(keep bool) {
	g.mu.Lock()
	n := g.lead
	g.mu.Unlock()
	g.depose(keep)
	g.elect(n)
}

func (g *fakeGroup) elect(n int) {
	g.mu.Lock()
	g.term++
	g.lead = n
	g.leaseEnd = 0
	if now := g.clock.Now(); now.Latest != truetime.Max { // else it stopped vouching a moment ago
		g.floor = max(g.floor, now.Latest)
	}
	lease := paxosgroup.Lease{Term: g.term, Floor: g.floor}
	g.mu.Unlock()
	g.machine.Lock()
	g.replicas[n].cell.Lead(lease)
	g.machine.Unlock()
}

// world is a cell of some replicas in virtual time.
type world struct {
	t     testing.TB
	clock *truetime.Manual
	g     *fakeGroup
}

const epsilon = time.Millisecond

func newWorld(tb testing.TB, replicas int) *world {
	w := &world{t: tb, clock: truetime.NewManual(truetime.ManualOptions{Epsilon: epsilon})}
	w.g = &fakeGroup{tb: tb, clock: w.clock, lead: -1, term: 4}
	for n := range replicas {
		r := &fakeReplica{g: w.g, n: n, engine: &memEngine{m: make(map[string][]byte)}}
		r.cell = New(Config{Name: "local", Group: 7, Node: keys.NodeID(n + 1), Clock: w.clock, Reader: r.engine})
		if err := r.cell.Restore(nil); err != nil {
			tb.Fatal(err)
		}
		r.cell.Bind(r)
		w.g.replicas = append(w.g.replicas, r)
	}
	w.g.elect(0)
	return w
}

// close ends the world and compares the replicas.
func (w *world) close() {
	w.g.depose(true)
	for _, r := range w.g.replicas {
		if a, b := w.g.replicas[0].cell.Checksum(), r.cell.Checksum(); a != b {
			w.t.Errorf("replica %d has diverged", r.n)
		}
		r.cell.Close()
	}
}

// lead is the leading cell, any when there is none.
func (w *world) lead() *Cell {
	w.g.mu.Lock()
	defer w.g.mu.Unlock()
	return w.g.replicas[max(w.g.lead, 0)].cell
}

// do sends one call to the leader.
func (w *world) do(call any) *lockpb.DoResponse {
	return w.doCtx(context.Background(), call, nil)
}

func (w *world) doCtx(ctx context.Context, call any, waiting func(int64)) *lockpb.DoResponse {
	if viaBegin {
		if resp := w.begin(ctx, request1(call), waiting); resp != nil {
			return resp
		}
	}
	return w.lead().Do(ctx, "", request1(call), waiting)
}

// viaBegin has worlds begin the calls that can be begun.
var viaBegin bool

// begin carries a call out as a server does that keeps no goroutine waiting; nil: it is one for Do.
func (w *world) begin(ctx context.Context, q *lockpb.DoRequest, waiting func(int64)) *lockpb.DoResponse {
	answers := make(chan *lockpb.DoResponse, 2)
	giveUp, begun := w.lead().Begin(ctx, "", q, waiting, func() {}, func(resp *lockpb.DoResponse) {
		select {
		case answers <- resp:
		default:
			panic("a call was answered thrice")
		}
	})
	if !begun {
		return nil
	}
	var resp *lockpb.DoResponse
	select {
	case resp = <-answers:
	case <-ctx.Done():
		giveUp()
		resp = <-answers
	}
	giveUp() // of no effect
	if len(answers) > 0 {
		w.t.Errorf("%v was answered twice", q)
	}
	return resp
}

func request1(call any) *lockpb.DoRequest {
	q := &lockpb.DoRequest{Id: 1}
	switch c := call.(type) {
	case *lockpb.CreateSessionRequest:
		q.Call = &lockpb.DoRequest_CreateSession{CreateSession: c}
	case *lockpb.CloseSessionRequest:
		q.Call = &lockpb.DoRequest_CloseSession{CloseSession: c}
	case *lockpb.OpenRequest:
		q.Call = &lockpb.DoRequest_Open{Open: c}
	case *lockpb.CloseRequest:
		q.Call = &lockpb.DoRequest_Close{Close: c}
	case *lockpb.GetRequest:
		q.Call = &lockpb.DoRequest_GetContentsAndStat{GetContentsAndStat: c}
	case *lockpb.ReadDirRequest:
		q.Call = &lockpb.DoRequest_ReadDir{ReadDir: c}
	case *lockpb.SetContentsRequest:
		q.Call = &lockpb.DoRequest_SetContents{SetContents: c}
	case *lockpb.SetACLRequest:
		q.Call = &lockpb.DoRequest_SetAcl{SetAcl: c}
	case *lockpb.DeleteRequest:
		q.Call = &lockpb.DoRequest_Delete{Delete: c}
	case *lockpb.AcquireRequest:
		q.Call = &lockpb.DoRequest_Acquire{Acquire: c}
	case *lockpb.ReleaseRequest:
		q.Call = &lockpb.DoRequest_Release{Release: c}
	case *lockpb.GetSequencerRequest:
		q.Call = &lockpb.DoRequest_GetSequencer{GetSequencer: c}
	case *lockpb.SetSequencerRequest:
		q.Call = &lockpb.DoRequest_SetSequencer{SetSequencer: c}
	case *lockpb.CheckSequencerRequest:
		q.Call = &lockpb.DoRequest_CheckSequencer{CheckSequencer: c}
	case *lockpb.EndCheckRequest:
		q.Call = &lockpb.DoRequest_EndCheck{EndCheck: c}
	case *lockpb.ListLocksRequest:
		q.Call = &lockpb.DoRequest_ListLocks{ListLocks: c}
	case *lockpb.ListSessionsRequest:
		q.Call = &lockpb.DoRequest_ListSessions{ListSessions: c}
	case *lockpb.LockHistoryRequest:
		q.Call = &lockpb.DoRequest_LockHistory{LockHistory: c}
	}
	return q
}

// why is a response's reason to fail, "" if it did not.
func why(r *lockpb.DoResponse) string { return r.GetFailure().GetInfo().GetReason() }

// must fails the test when a call failed.
func (w *world) must(r *lockpb.DoResponse) *lockpb.DoResponse {
	w.t.Helper()
	if f := r.GetFailure(); f != nil {
		w.t.Fatalf("%s: %s", f.Info.Reason, f.Message)
	}
	return r
}

func (w *world) session(id uint64, ttl time.Duration) {
	w.t.Helper()
	w.must(w.do(&lockpb.CreateSessionRequest{Session: id, TtlNs: int64(ttl)}))
}

func (w *world) caching(id uint64, ttl time.Duration) {
	w.t.Helper()
	w.must(w.do(&lockpb.CreateSessionRequest{Session: id, TtlNs: int64(ttl), Caches: true}))
}

func h(session uint64, path string) *lockpb.Handle {
	return &lockpb.Handle{Session: session, Handle: 1, Path: path}
}

const jobs = "/ls/local/jobs"

func (w *world) file(path, contents string) {
	w.t.Helper()
	w.must(w.do(&lockpb.SetContentsRequest{Handle: h(0, path), Create: true, Contents: []byte(contents)}))
}

func acquire(session uint64, path string) *lockpb.AcquireRequest {
	return &lockpb.AcquireRequest{Handle: h(session, path)}
}

func shared(session uint64, path string) *lockpb.AcquireRequest {
	return &lockpb.AcquireRequest{Handle: h(session, path), Mode: lockpb.Mode_SHARED}
}

func release(session uint64, path string) *lockpb.ReleaseRequest {
	return &lockpb.ReleaseRequest{Handle: h(session, path)}
}

// holders are the sessions that hold a lock, as replicated.
func (w *world) holders(path string) (ids []uint64) {
	c := w.g.replicas[max(w.g.lead, 0)].cell
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, h := range c.st.Holds(path) {
		ids = append(ids, uint64(h.Session))
	}
	return ids
}

// peer is the beating half of a client.
type peer struct {
	w       *world
	id      uint64
	mu      sync.Mutex
	st      *Stream
	number  uint64
	epoch   uint64
	seen    uint64
	invalid uint64
	deaf    bool // does not acknowledge
	got     []*lockpb.Lease
	events  []*lockpb.Event
	stale   []string
	ttl     time.Duration // of the latest lease
	over    bool
}

// keep beats for a session until the test, or stop, ends it.
func (w *world) keep(id uint64) *peer {
	p := &peer{w: w, id: id, epoch: w.g.term}
	p.connect()
	p.beat(nil)
	return p
}

func (p *peer) connect() {
	c := p.w.lead()
	in := make(chan *lockpb.Lease, 4096)
	st := c.OpenStream(p.owner(c), func(l *lockpb.Lease) {
		if l.Session == p.id {
			in <- l
		}
	})
	p.mu.Lock()
	p.st = st
	p.mu.Unlock()
	go func() {
		for {
			select {
			case <-st.Done():
				return
			case l := <-in:
				p.receive(st, l)
			}
		}
	}()
}

// owner is the principal of the peer's session.
func (p *peer) owner(c *Cell) string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	s, ok := c.st.Session(state.SessionID(p.id))
	if !ok {
		return ""
	}
	return s.Principal
}

func (p *peer) receive(st *Stream, l *lockpb.Lease) {
	p.mu.Lock()
	p.got = append(p.got, l)
	p.ttl = time.Duration(l.TtlNs)
	p.over = l.TtlNs <= 0
	p.events = append(p.events, l.Events...)
	if !p.deaf {
		p.epoch = l.Epoch
		for _, e := range l.Events {
			p.seen = max(p.seen, e.Revision)
		}
		p.invalid = max(p.invalid, l.Invalidation)
	}
	p.stale = append(p.stale, l.Invalidate...)
	mine := p.st == st && !p.over
	p.mu.Unlock()
	if mine {
		p.beat(nil)
	}
}

// beat sends the next beat.
func (p *peer) beat(subs []*lockpb.Subscription) {
	p.mu.Lock()
	p.number++
	b := &lockpb.Beat{Session: p.id, Number: p.number, Epoch: p.epoch, Seen: p.seen, Invalidated: p.invalid}
	if subs != nil {
		b.Subscriptions = &lockpb.Subscriptions{List: subs}
	}
	st := p.st
	p.mu.Unlock()
	st.Beat(b)
}

// stop falls silent.
func (p *peer) stop() { p.st.Close() }

func (p *peer) answers() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.got)
}

// told are the paths that the session was told to forget, and forgets them.
func (p *peer) told() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.stale
	p.stale = nil
	return s
}

// setDeaf keeps the peer from acknowledging anything but that it lives.
func (p *peer) setDeaf(deaf bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deaf = deaf
}

func (p *peer) kinds() (list []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.events {
		list = append(list, e.Kind.String()+" "+e.Path+e.Child)
	}
	return list
}
