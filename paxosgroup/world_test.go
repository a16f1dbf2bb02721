package paxosgroup

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/storage"
	"github.com/spandb/spand/truetime"
	pb "go.etcd.io/raft/v3/raftpb"
)

// world is a cluster in virtual time: hosts over MemNetwork, each on a store
// that keeps what was synced when it crashes.
type world struct {
	t     testing.TB
	net   *MemNetwork
	nodes map[keys.NodeID]*node
	ids   []keys.NodeID
	conf  func(*Config)
	// unhurried are groups whose machines are.
	unhurried map[keys.GroupID]bool
	log       *slog.Logger

	filled int // commands of fill

	mu       sync.Mutex
	promised map[keys.GroupID]truetime.Timestamp // highest promise made by anybody so far
	acked    map[keys.GroupID][]string           // commands acknowledged to a client
}

type node struct {
	w      *world
	id     keys.NodeID
	clock  *truetime.Manual
	store  *fakeStore
	host   *Host
	groups map[keys.GroupID]*Group
	toys   map[keys.GroupID]*toy
	specs  []GroupConfig
	starts uint64
}

func newWorld(t testing.TB, seed uint64, n int) *world {
	w := &world{
		t: t, net: NewMemNetwork(seed), nodes: make(map[keys.NodeID]*node),
		promised: make(map[keys.GroupID]truetime.Timestamp), acked: make(map[keys.GroupID][]string),
	}
	var out io.Writer = io.Discard
	level := slog.LevelError
	if os.Getenv("PAXOSGROUP_LOG") != "" {
		out, level = os.Stderr, slog.LevelDebug
	}
	w.log = slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: level}))
	w.net.SetFaults(MemFaults{MinDelay: 200 * time.Microsecond, MaxDelay: time.Millisecond})
	for i := range n {
		id := keys.NodeID(i + 1)
		w.ids = append(w.ids, id)
		w.nodes[id] = &node{
			w: w, id: id, store: newFakeStore(time.Millisecond),
			clock: truetime.NewManual(truetime.ManualOptions{Epsilon: 4 * time.Millisecond}),
		}
	}
	return w
}

// group returns the replicas of a group on all nodes.
func (w *world) replicas(g keys.GroupID) []keys.Replica {
	var rs []keys.Replica
	for _, id := range w.ids {
		rs = append(rs, keys.Replica{Node: id, ID: keys.ReplicaID(uint64(g)*100 + uint64(id))})
	}
	return rs
}

func (w *world) start(groups ...keys.GroupID) {
	for _, id := range w.ids {
		n := w.nodes[id]
		for _, g := range groups {
			n.specs = append(n.specs, GroupConfig{ID: g, Replica: keys.ReplicaID(uint64(g)*100 + uint64(id)), Replicas: w.replicas(g), Preferred: 1})
		}
		n.start()
	}
}

func (n *node) start() {
	n.starts++
	c := Config{
		Node: n.id, Nodes: n.w.ids, Clock: n.clock, Store: n.store, Transport: n.w.net.Endpoint(n.id),
		Logger: n.w.log.With("node", n.id), Incarnation: n.starts, FirstLife: n.starts == 1, BalanceInterval: -1, Workers: 2,
		GroupFailed: func(g keys.GroupID, err error) { n.w.t.Errorf("node %d: group %d failed: %v", n.id, g, err) },
	}
	if n.w.conf != nil {
		n.w.conf(&c)
	}
	h, err := NewHost(c)
	if err != nil {
		n.w.t.Fatal(err)
	}
	n.host, n.groups, n.toys = h, make(map[keys.GroupID]*Group), make(map[keys.GroupID]*toy)
	for _, s := range n.specs {
		n.open(s)
	}
	h.Start()
}

func (n *node) open(s GroupConfig) *Group {
	m := &toy{n: n, id: s.ID, store: n.store}
	s.Machine, s.Recovered = m, n.store.recovered(s.ID)
	if n.w.unhurried[s.ID] {
		s.Machine = unhurriedToy{m}
	}
	g, err := n.host.Open(s)
	if err != nil {
		n.w.t.Fatal(err)
	}
	n.groups[s.ID], n.toys[s.ID] = g, m
	return g
}

// crash stops a node; what was not synced is lost.
func (n *node) crash() {
	n.w.net.Crash(n.id)
	old := n.store
	n.store = old.crash()
	n.host.Close()
	n.host = nil
}

func (w *world) close() {
	for _, n := range w.nodes {
		if n.host != nil {
			n.host.Close()
		}
		n.store.close()
	}
	w.net.Close()
}

// leader waits until some replica of g serves, and returns its node.
func (w *world) leader(g keys.GroupID) *node {
	w.t.Helper()
	for range 20000 {
		if n := w.serving(g); n != nil {
			return n
		}
		time.Sleep(time.Millisecond)
	}
	w.t.Fatalf("group %d has no leader after 20 s", g)
	return nil
}

// serving returns the node that leads g and whose machine knows, nil if there is none: whoever
// takes a term from the group itself may be earlier than Lead.
func (w *world) serving(g keys.GroupID) *node {
	for _, id := range w.ids {
		if n := w.nodes[id]; n.host != nil && n.groups[g] != nil && n.groups[g].Valid(n.groups[g].leadTerm.Load()) == nil && n.toys[g].led() {
			return n
		}
	}
	return nil
}

// leaderless watches g for d and returns the longest time without a leader.
func (w *world) leaderless(g keys.GroupID, d time.Duration) (longest time.Duration) {
	since := time.Now()
	for end := since.Add(d); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if w.serving(g) != nil {
			since = time.Now()
		}
		longest = max(longest, time.Since(since))
	}
	return longest
}

// propose replicates a command and waits for its outcome.
func (n *node) propose(g keys.GroupID, data string) (truetime.Timestamp, error) {
	type res struct {
		ts  truetime.Timestamp
		err error
	}
	ch := make(chan res, 1)
	n.submit(g, n.groups[g].leadTerm.Load(), data, func(ts truetime.Timestamp, err error) { ch <- res{ts, err} })
	r := <-ch
	return r.ts, r.err
}

func (n *node) submit(g keys.GroupID, term uint64, data string, done func(truetime.Timestamp, error)) {
	w := n.w
	n.groups[g].Propose(&Proposal{
		Term: term, Timestamped: true, Data: []byte(data),
		Assigned: func(s truetime.Timestamp) { w.assigned(g, s) },
		Done: func(_ any, s truetime.Timestamp, err error) {
			if err == nil {
				w.mu.Lock()
				w.acked[g] = append(w.acked[g], data)
				w.mu.Unlock()
			}
			done(s, err)
		},
	})
}

// assigned checks R3: a timestamp lies above every promise made before.
func (w *world) assigned(g keys.GroupID, s truetime.Timestamp) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s <= w.promised[g] {
		w.t.Errorf("R3: group %d assigned %d, but %d was promised before", g, s, w.promised[g])
	}
	w.promised[g] = s
}

func (w *world) promise(g keys.GroupID, t truetime.Timestamp) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.promised[g] = max(w.promised[g], t)
}

// converged checks that all live replicas applied the same, that it includes
// what was acknowledged, each once (R1), and timestamps in order (R3).
func (w *world) converged(g keys.GroupID) {
	w.t.Helper()
	var hists [][]event
	for range 10000 {
		hists = hists[:0]
		same := true
		for _, id := range w.ids {
			if n := w.nodes[id]; n.host != nil {
				hists = append(hists, n.toys[g].history())
				same = same && len(hists[0]) == len(hists[len(hists)-1])
			}
		}
		if same && len(hists[0]) >= w.ackedLen(g) {
			break
		}
		time.Sleep(time.Millisecond)
	}
	for _, h := range hists[1:] {
		if !slices.Equal(h, hists[0]) {
			w.t.Fatalf("group %d: replicas differ: %d and %d commands", g, len(hists[0]), len(h))
		}
	}
	count := make(map[string]int)
	last := truetime.Timestamp(0)
	for _, e := range hists[0] {
		count[e.Data]++
		if e.TS != 0 && e.TS <= last {
			w.t.Errorf("R3: group %d applied %d behind %d", g, e.TS, last)
		}
		last = max(last, e.TS)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, d := range w.acked[g] {
		if count[d] != 1 {
			w.t.Errorf("R1: acknowledged command %q was applied %d times", d, count[d])
		}
	}
}

func (w *world) ackedLen(g keys.GroupID) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acked[g])
}

type event struct {
	TS   truetime.Timestamp
	Data string
}

// toy is a state machine that remembers what it applied.
type toy struct {
	n     *node
	id    keys.GroupID
	store *fakeStore // of its life: a dying one applies while the next gets its own; nil on real storage

	mu     sync.Mutex
	events []event
	leases []Lease
	begins int // times restored: when opened, and by each snapshot
	leads  bool
	refuse bool
	mute   bool // keeps nothing, for benchmarks
	busy   atomic.Bool

	promises atomic.Int64 // what Promised answers, until Follow
}

func (m *toy) Apply(b *storage.Batch, c Command) (any, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.refuse || string(c.Data) == "unknown" {
		return nil, errors.New("unknown command")
	}
	if m.mute {
		return c.Index, nil
	}
	m.events = append(m.events, event{c.TS, string(c.Data)})
	k := m.key(c.Index)
	b.Put(k, append([]byte(nil), c.Data...))
	if m.store != nil {
		m.store.put(k, c.Data)
	}
	return c.Index, nil
}

// unhurriedToy is a toy that nobody asks where it does not lead.
type unhurriedToy struct{ *toy }

func (unhurriedToy) Unhurried() {}

func (m *toy) key(index uint64) []byte {
	k := binary.BigEndian.AppendUint64([]byte{byte(storage.ClassData)}, uint64(m.id))
	return binary.BigEndian.AppendUint64(k, index)
}

func (m *toy) Lead(l Lease) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leases = append(m.leases, l)
	m.leads = true
	m.n.w.mu.Lock()
	defer m.n.w.mu.Unlock()
	if l.Floor < m.n.w.promised[m.id] {
		m.n.w.t.Errorf("R3: group %d: new leader's floor %d is below the promise %d", m.id, l.Floor, m.n.w.promised[m.id])
	}
}

// led reports that the machine has been told that it leads.
func (m *toy) led() bool {
	if m == nil {
		return true // not a toy
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.leads
}

func (m *toy) Follow() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leads = false
	m.promises.Store(0)
}

func (m *toy) Busy() bool { return m.busy.Load() }

func (m *toy) Promised() truetime.Timestamp { return truetime.Timestamp(m.promises.Load()) }

func (m *toy) Capture() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, err := json.Marshal(m.events)
	if err != nil {
		panic(err)
	}
	return b
}

func (m *toy) Restore(state []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.events = nil
	m.begins++
	if len(state) == 0 {
		return nil
	}
	return json.Unmarshal(state, &m.events)
}

func (m *toy) Spans() [][2][]byte {
	return [][2][]byte{{m.key(0)[:9], keys.PrefixEnd(m.key(0)[:9])}}
}

// snapshots installed in this life.
func (m *toy) snapshots() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.begins - 1
}

func (m *toy) history() []event {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.events)
}

// fakeStore keeps log records that were synced, and engine keys as of its last
// checkpoint, across crash.
type fakeStore struct {
	delay time.Duration
	wake  chan struct{}
	quit  chan struct{}
	ended chan struct{}
	space storage.Space

	mu      sync.Mutex
	queue   []fakeAppend
	groups  map[keys.GroupID]*fakeGroup // durable
	data    map[string][]byte
	saved   map[string][]byte // data as of the checkpoint
	dead    bool
	syncs   int
	stall   bool
	writing bool
}

type fakeAppend struct {
	recs []storage.GroupRecord
	done func(error)
}

type fakeGroup struct {
	state      storage.GroupState // of the checkpoint
	hs         storage.HardState
	log        []storage.Entry
	replica    keys.ReplicaID
	incomplete bool
}

func newFakeStore(delay time.Duration) *fakeStore {
	s := &fakeStore{
		delay: delay, wake: make(chan struct{}, 1), quit: make(chan struct{}), ended: make(chan struct{}),
		groups: make(map[keys.GroupID]*fakeGroup), data: make(map[string][]byte), saved: make(map[string][]byte),
	}
	go s.run()
	return s
}

func (s *fakeStore) close() {
	s.mu.Lock()
	s.dead = true
	s.mu.Unlock()
	select {
	case <-s.quit:
	default:
		close(s.quit)
	}
	<-s.ended
}

func (s *fakeStore) crash() *fakeStore {
	s.close()
	n := newFakeStore(s.delay)
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, g := range s.groups {
		c := *g
		c.log = slices.Clone(g.log)
		n.groups[id] = &c
	}
	for k, v := range s.saved {
		n.saved[k], n.data[k] = v, v
	}
	return n
}

func (s *fakeStore) Append(recs []storage.GroupRecord, done func(error)) {
	s.Queue(recs, done)
	s.wakeWriter()
}

func (s *fakeStore) Queue(recs []storage.GroupRecord, done func(error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue = append(s.queue, fakeAppend{recs, done})
}

// WriteQueued lends, as the real store does, whenever nobody writes.
func (s *fakeStore) WriteQueued(begun func()) { s.write(begun) }

func (s *fakeStore) run() {
	defer close(s.ended)
	for {
		select {
		case <-s.wake:
			s.write(func() {})
		case <-s.quit:
			return
		}
	}
}

// write writes what is queued, unless it is another's turn, who wakes run afterwards.
func (s *fakeStore) write(begun func()) {
	s.mu.Lock()
	batch := s.queue
	need := false
	for _, a := range batch {
		for _, r := range a.recs {
			need = need || !r.NoSync
		}
	}
	if s.writing || s.dead || !need { // what needs none rides along with the next
		s.mu.Unlock()
		return
	}
	s.writing, s.queue = true, nil
	delay := s.delay
	s.mu.Unlock()
	begun()
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-s.quit:
			return
		}
	}
	s.mu.Lock()
	if s.dead {
		s.mu.Unlock()
		return
	}
	s.syncs++
	for _, a := range batch {
		for _, r := range a.recs {
			s.durable(r)
		}
	}
	s.mu.Unlock()
	for _, a := range batch {
		if a.done != nil {
			a.done(nil)
		}
	}
	s.mu.Lock()
	s.writing = false
	more := len(s.queue) > 0
	s.mu.Unlock()
	if more {
		s.wakeWriter()
	}
}

func (s *fakeStore) wakeWriter() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *fakeStore) group(id keys.GroupID) *fakeGroup {
	g := s.groups[id]
	if g == nil {
		g = &fakeGroup{}
		s.groups[id] = g
	}
	return g
}

func (s *fakeStore) durable(r storage.GroupRecord) {
	g := s.group(r.Group)
	g.replica = r.Replica
	if r.HardState != nil {
		g.hs = *r.HardState
	}
	for _, e := range r.Entries {
		for len(g.log) > 0 && g.log[len(g.log)-1].Index >= e.Index {
			g.log = g.log[:len(g.log)-1]
		}
		if n := len(g.log); n > 0 && g.log[n-1].Index+1 != e.Index {
			panic(fmt.Sprintf("gap in the log of group %d: %d behind %d", r.Group, e.Index, g.log[n-1].Index))
		}
		g.log = append(g.log, e)
	}
}

// checkpoint captures all groups, as storage does, and drops the log before.
func (s *fakeStore) checkpoint(h *Host) {
	for _, id := range h.Groups() {
		st, unchanged, ok := h.Capture(id)
		if !ok || unchanged {
			continue
		}
		s.mu.Lock()
		g := s.group(id)
		g.state = st
		g.replica = st.Replica
		i := sort.Search(len(g.log), func(i int) bool { return g.log[i].Index > st.Applied })
		g.log = slices.Clone(g.log[i:])
		s.mu.Unlock()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, v := range s.data {
		s.saved[k] = v
	}
}

func (s *fakeStore) recovered(id keys.GroupID) *storage.Recovered {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.groups[id]
	if g == nil {
		return nil
	}
	st := g.state
	st.Replica, st.HardState = g.replica, g.hs
	if g.state.HardState.Term > st.HardState.Term {
		st.HardState = g.state.HardState
	}
	r := &storage.Recovered{State: st, Incomplete: g.incomplete}
	if g.incomplete {
		r.State = storage.GroupState{Replica: g.replica, HardState: storage.HardState{Term: st.HardState.Term, Vote: st.HardState.Vote}}
		return r
	}
	for _, e := range g.log {
		if e.Index > st.Applied {
			r.Entries = append(r.Entries, e)
		}
	}
	return r
}

func (s *fakeStore) put(k, v []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.data[string(k)] = append([]byte(nil), v...)
}

func (s *fakeStore) setDelay(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delay = d
}

func (s *fakeStore) synced() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.syncs
}

func (s *fakeStore) Apply(*storage.Batch) error { return nil }
func (s *fakeStore) Space() storage.Space       { return s.space }

func (s *fakeStore) Get(key []byte) ([]byte, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.data[string(key)]
	return v, ok, nil
}

func (s *fakeStore) BeginInstall(g keys.GroupID, r keys.ReplicaID, spans [][2][]byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	fg := s.group(g)
	fg.incomplete, fg.replica = true, r
	for _, m := range []map[string][]byte{s.data, s.saved} {
		for k := range m {
			for _, sp := range spans {
				if k >= string(sp[0]) && k < string(sp[1]) {
					delete(m, k)
				}
			}
		}
	}
	return nil
}

func (s *fakeStore) InstallChunk(_ keys.GroupID, kvs []storage.KV) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stall {
		return errors.New("disk on fire")
	}
	for _, kv := range kvs {
		s.data[string(kv.Key)], s.saved[string(kv.Key)] = kv.Value, kv.Value
	}
	return nil
}

func (s *fakeStore) FinishInstall(id keys.GroupID, st storage.GroupState) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.group(id)
	*g = fakeGroup{state: st, hs: st.HardState, replica: st.Replica}
	return nil
}

func (s *fakeStore) NewIter(lower, upper []byte) storage.Iter {
	s.mu.Lock()
	defer s.mu.Unlock()
	it := &fakeIter{i: -1}
	for k, v := range s.data {
		if k >= string(lower) && k < string(upper) {
			it.kvs = append(it.kvs, storage.KV{Key: []byte(k), Value: v})
		}
	}
	sort.Slice(it.kvs, func(i, j int) bool { return string(it.kvs[i].Key) < string(it.kvs[j].Key) })
	return it
}

type fakeIter struct {
	kvs []storage.KV
	i   int
}

func (it *fakeIter) SeekGE(k []byte) bool {
	it.i = sort.Search(len(it.kvs), func(i int) bool { return string(it.kvs[i].Key) >= string(k) })
	return it.i < len(it.kvs)
}
func (it *fakeIter) SeekLT(k []byte) bool { it.SeekGE(k); it.i--; return it.i >= 0 }
func (it *fakeIter) Next() bool           { it.i++; return it.i < len(it.kvs) }
func (it *fakeIter) Prev() bool           { it.i--; return it.i >= 0 }
func (it *fakeIter) Key() []byte          { return it.kvs[it.i].Key }
func (it *fakeIter) Value() []byte        { return it.kvs[it.i].Value }
func (it *fakeIter) Err() error           { return nil }
func (it *fakeIter) Close()               {}

func within(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), d)
}

func rawEntries(datas ...[]byte) []*pb.Entry {
	var es []*pb.Entry
	for _, d := range datas {
		es = append(es, &pb.Entry{Data: d})
	}
	return es
}
