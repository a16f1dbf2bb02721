package paxosgroup

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/storage"
	"github.com/spandb/spand/truetime"
	pb "go.etcd.io/raft/v3/raftpb"
)

// shipment is a snapshot that a test sends by hand, frame by frame.
type shipment struct {
	from, to *node
	frames   []snapFrame
}

// snapshot is one of group 1 at n, as it would go to the replica at to in the
// transfer with that id, its data being rows, one a frame.
func (n *node) snapshot(id uint64, to *node, rows ...string) *shipment {
	g := n.groups[1]
	x := &shipment{from: n, to: to}
	var sum uint32
	g.ask(func() {
		head := snapHead{index: g.w.applied, term: g.w.appliedTerm, conf: g.w.conf.encode(), spans: g.machine.Spans()}
		add := func(k snapKind, payload []byte) {
			f := snapFrame{id: id, group: 1, to: to.groups[1].self, from: g.self, term: g.w.hs.term, seq: uint64(len(x.frames)), kind: k, payload: payload}
			sum = f.addTo(sum)
			x.frames = append(x.frames, f)
		}
		add(snapBegin, head.encode())
		for i, v := range rows {
			add(snapKeys, appendKV(nil, n.toys[1].key(uint64(1000+i)), []byte(v)))
		}
		add(snapMachine, g.machine.Capture())
		add(snapEnd, encodeSnapSum(sum))
	})
	return x
}

// send has the receiver take frame i, and returns when it has.
func (x *shipment) send(i int) {
	x.to.host.receiveSnap(x.to.host.peer(x.from.id), x.from.starts, x.frames[i])
}

// wanted returns the frame that the receiver asks for; false when it does not hear
// this one.
func (x *shipment) wanted() (int, bool) {
	h := x.to.host
	h.installs.turn <- struct{}{}
	defer func() { <-h.installs.turn }()
	in := h.installs.m[1]
	if in == nil || in.node != x.from.id || in.id != x.frames[0].id {
		return 0, false
	}
	return int(in.next), true
}

// rows returns how many of its rows the receiver's store holds.
func (x *shipment) rows() (n int) {
	for _, f := range x.frames {
		if f.kind == snapKeys {
			kvs, _ := decodeKVs(f.payload)
			if v, _, _ := x.to.store.Get(kvs[0].Key); string(v) == string(kvs[0].Value) {
				n++
			}
		}
	}
	return n
}

// behind starts a world whose node 2 lacks what the others have applied.
func behind(t *testing.T, conf func(*Config)) (w *world, leader, f *node) {
	w = newWorld(t, 1, 3)
	w.conf = conf
	w.start(1)
	leader, f = w.leader(1), w.nodes[2]
	time.Sleep(500 * time.Millisecond)
	w.net.Isolate(2, true)
	for range 5 {
		if _, err := leader.propose(1, "x"); err != nil {
			t.Fatal(err)
		}
	}
	return w, leader, f
}

// slowInstall is a store that takes its time for one chunk, or for the beginning.
type slowInstall struct {
	Store
	value string // of the chunk; "": the beginning
	gate  chan struct{}
}

func (s *slowInstall) BeginInstall(g keys.GroupID, r keys.ReplicaID, spans [][2][]byte) error {
	if s.value == "" {
		<-s.gate
	}
	return s.Store.BeginInstall(g, r, spans)
}

func (s *slowInstall) InstallChunk(g keys.GroupID, kvs []storage.KV) error {
	if string(kvs[0].Value) == s.value {
		<-s.gate
	}
	return s.Store.InstallChunk(g, kvs)
}

// A frame that is sent again while the receiver still works on it counts once.
func TestD1_ResentSnapshotFrameCountsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		w, n, f := behind(t, func(c *Config) {
			if c.Node == 2 {
				c.Store = &slowInstall{c.Store, "v1", gate}
			}
		})
		defer w.close()
		x := n.snapshot(7, f, "v1", "v2", "v3")
		x.send(0)
		for range 2 {
			go x.send(1)
		}
		synctest.Wait()
		close(gate)
		synctest.Wait()
		for {
			i, ok := x.wanted()
			if !ok {
				break
			}
			x.send(i) // what the receiver asks for is what the sender sends
		}
		if s := f.groups[1].Status(); s.Role != "follower" || x.rows() != 3 {
			t.Errorf("the replica is a %s with %d of 3 rows", s.Role, x.rows())
		}
	})
}

// From the moment that a snapshot begins to replace its data, a follower is safe at
// no timestamp, whatever the leader closes, and readers who looked before can tell (X4).
func TestX4_SafeTimeEndsWhereASnapshotBegins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n, f := behind(t, nil)
		defer w.close()
		g := f.groups[1]
		installs, safe, before := g.Installs(), g.SafeTime(), g.Status()
		if safe == 0 {
			t.Fatal("nothing is closed; nothing is tested")
		}
		x := n.snapshot(7, f, "v1")
		x.send(0)
		g.noteClosed(closing{ts: safe + 1, term: before.Term, index: before.Applied})
		if s := g.SafeTime(); s != 0 {
			t.Errorf("safe up to %d without its data", s)
		}
		if g.Installs() == installs {
			t.Error("a reader could not tell")
		}
		for i := 1; i < len(x.frames); i++ {
			x.send(i)
		}
		w.net.Isolate(2, false)
		time.Sleep(5 * time.Second)
		if s := g.SafeTime(); s <= safe || g.Installs() != installs+1 {
			t.Errorf("with the snapshot: safe up to %d, %d before; %d installs", s, safe, g.Installs()-installs)
		}
	})
}

// A replica without its log has no say, though no promise binds it: it would vote for
// anybody (R2, R1). Neither does a message of an election reach Raft, nor would it pass.
func TestR2_IncompleteReplicaDoesNotVote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n, f := behind(t, nil)
		defer w.close()
		g := f.groups[1]
		time.Sleep(5 * time.Second)
		mayVote := func() (may bool) {
			g.ask(func() { may = g.mayVote(3, false) })
			return may
		}
		if !mayVote() {
			t.Fatal("something else forbids it; nothing is tested")
		}
		n.snapshot(7, f).send(0)
		if mayVote() {
			t.Error("it may vote")
		}
		before := g.Status().Term
		term, index, from, to := before+1, uint64(1000), uint64(n.groups[1].self)+2, uint64(g.self)
		for _, typ := range []pb.MessageType{pb.MsgVote, pb.MsgPreVote, pb.MsgTimeoutNow} {
			m := &pb.Message{Type: &typ, From: &from, To: &to, Term: &term, Index: &index, LogTerm: &before}
			g.ask(func() {
				if g.receiveIncomplete(m) {
					t.Errorf("%v reaches Raft", typ)
				}
				g.receive(inbound{m: m, node: 3, inc: 1})
			})
		}
		time.Sleep(5 * time.Second)
		if s := g.Status(); s.Term != before || s.Role != "incomplete" {
			t.Errorf("after an election it is in term %d, %d before; role %q", s.Term, before, s.Role)
		}
	})
}

// A snapshot whose end does not agree with the frames that came is refused.
func TestD1_SnapshotWithAFrameMissingIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n, f := behind(t, nil)
		defer w.close()
		x := n.snapshot(7, f, "v1", "v2", "v3")
		x.frames = append(x.frames[:2], x.frames[3:]...)
		for i := range x.frames {
			x.frames[i].seq = uint64(i)
			x.send(i)
		}
		if s := f.groups[1].Status(); s.Role != "incomplete" {
			t.Errorf("a snapshot that lacks a frame was installed: role %q", s.Role)
		}
	})
}

// A group hears one transfer at a time: a later leader's replaces a deposed one's,
// of which no frame counts any more, and never the other way round.
func TestSnapshotsOfTwoLeaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n, f := behind(t, nil)
		defer w.close()
		old := n.snapshot(7, f, "old")
		ctx, cancel := within(5 * time.Second)
		defer cancel()
		if err := n.groups[1].Transfer(ctx, 3); err != nil {
			t.Fatal(err)
		}
		late := w.leader(1).snapshot(3, f, "new", "newer")
		old.send(0)
		late.send(0)
		old.send(0)
		for i := 1; i < len(old.frames); i++ {
			old.send(i)
			late.send(i)
		}
		if old.rows() != 0 {
			t.Error("a chunk of the deposed leader's was stored")
		}
		late.send(len(late.frames) - 1)
		if s := f.groups[1].Status(); s.Role != "follower" || late.rows() != 2 {
			t.Errorf("the replica is a %s with %d of 2 rows", s.Role, late.rows())
		}
		if n := len(f.host.installs.m); n != 0 {
			t.Errorf("%d transfers are remembered", n)
		}
	})
}

// A snapshot that was decided on before entries went out and were acknowledged,
// and that arrives after them, takes none of them away.
func TestR1_LateSnapshotKeepsAcknowledgedEntries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 3)
		defer w.close()
		w.start(1)
		n, f := w.leader(1), w.nodes[2]
		if _, err := n.propose(1, "before"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(500 * time.Millisecond)
		w.net.Isolate(3, true)
		before := f.groups[1].Status()
		done := make(chan error, 2)
		for _, data := range []string{"in the snapshot", "behind it"} {
			n.submit(1, n.groups[1].leadTerm.Load(), data, func(_ truetime.Timestamp, err error) { done <- err })
		}
		for f.groups[1].Status().Last < before.Last+2 {
			time.Sleep(50 * time.Microsecond)
		}
		w.net.Cut(1, 2) // what says "committed" does not arrive any more
		for range 2 {
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		if s := f.groups[1].Status(); s.Applied != before.Applied {
			t.Fatal("the follower has applied already; nothing is tested")
		}
		x := n.snapshot(7, f)
		head, err := decodeSnapHead(x.frames[0].payload)
		if err != nil {
			t.Fatal(err)
		}
		head.index--
		x.frames[0].payload = head.encode()
		x.send(0)
		if _, ok := x.wanted(); ok {
			t.Error("the follower lets go of its log for a snapshot that ends in it")
		}
		n.crash() // for good
		w.ids = w.ids[1:]
		w.net.Isolate(3, false)
		w.leader(1)
		w.converged(1)
	})
}

// Checkpoints while a snapshot begins, and then a crash: before the store has marked
// the replica as incomplete its log stays, whole (R1), and behind that at least term
// and vote do (R2), though the segments that held them are recycled.
func TestR1_CheckpointWhileASnapshotBegins(t *testing.T) {
	for _, marked := range []bool{false, true} {
		t.Run(fmt.Sprint("marked ", marked), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1, 3)
				defer w.net.Close()
				gate := make(chan struct{})
				if marked {
					close(gate)
				}
				w.conf = func(c *Config) {
					if c.Node == 2 {
						c.Store = &slowInstall{Store: c.Store, gate: gate}
					}
				}
				disks := make(map[keys.NodeID]*disk)
				for _, id := range w.ids {
					n := w.nodes[id]
					n.store.close()
					n.store = nil
					disks[id] = &disk{fs: storage.NewMemFS(t.TempDir()), manual: true}
					n.specs = []GroupConfig{{ID: 1, Replica: keys.ReplicaID(100 + uint64(id)), Replicas: w.replicas(1), Preferred: 1}}
					disks[id].boot(n)
				}
				n, f := w.leader(1), w.nodes[2]
				if _, err := n.propose(1, "first"); err != nil {
					t.Fatal(err)
				}
				if err := disks[2].store.Checkpoint(t.Context()); err != nil {
					t.Fatal(err)
				}
				ctx, cancel := within(5 * time.Second)
				defer cancel()
				if err := n.groups[1].Transfer(ctx, 3); err != nil { // a term, and a vote, that only the log has
					t.Fatal(err)
				}
				n = w.leader(1)
				n.fill(t, 1, 100)
				time.Sleep(time.Second)
				acked := f.groups[1].Status()
				var vote uint64
				f.groups[1].ask(func() { vote = f.groups[1].w.hs.vote })
				w.net.Isolate(2, true)
				n.fill(t, 1, 1)

				go n.snapshot(7, f).send(0)
				synctest.Wait()
				if s := f.groups[1].Status(); s.Role != "incomplete" {
					t.Fatalf("role %q", s.Role)
				}
				before := disks[2].store.Stats().Segments
				if err := disks[2].store.Checkpoint(t.Context()); err != nil {
					t.Fatal(err)
				}
				if now := disks[2].store.Stats().Segments; marked && now >= before {
					t.Fatalf("%d segments became %d; nothing is tested", before, now)
				}
				if !marked {
					defer close(gate)
				}
				disks[2].crash(f, rand.New(rand.NewPCG(1, 1)))
				rec := disks[2].boot(f)[1]
				last := rec.State.Applied + uint64(len(rec.Entries))
				if rec.Incomplete != marked || !marked && last < acked.Last {
					t.Errorf("R1: %d entries were acknowledged, %d are left; incomplete: %v", acked.Last, last, rec.Incomplete)
				}
				if hs := rec.State.HardState; hs.Term < acked.Term || hs.Term == acked.Term && hs.Vote != vote {
					t.Errorf("R2: in term %d it voted for %d; it remembers %+v", acked.Term, vote, hs)
				}
				for _, id := range w.ids {
					w.nodes[id].host.Close()
					if err := disks[id].store.Close(); err != nil {
						t.Error(err)
					}
				}
			})
		})
	}
}
