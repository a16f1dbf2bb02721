package cell

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/storage"
	"github.com/spandb/spand/lockservice/lockpb"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/truetime"
)

// hosts is a cell on real hosts and stores, over paxosgroup's in-memory transport.
type hosts struct {
	tb    testing.TB
	net   *paxosgroup.MemNetwork
	nodes []*hostNode
}

type hostNode struct {
	id    keys.NodeID
	dir   string
	store *storage.Store
	host  *paxosgroup.Host
	cell  *Cell
	lives uint64
}

const hostGroup = keys.GroupID(9)

func newHosts(tb testing.TB, n int) *hosts {
	hs := &hosts{tb: tb, net: paxosgroup.NewMemNetwork(1)}
	for i := range n {
		hs.nodes = append(hs.nodes, &hostNode{id: keys.NodeID(i + 1), dir: tb.TempDir()})
	}
	for _, n := range hs.nodes {
		hs.start(n)
	}
	return hs
}

func (hs *hosts) start(n *hostNode) {
	n.lives++
	clock := truetime.NewManual(truetime.ManualOptions{Epsilon: 500 * time.Microsecond})
	store, recovered, err := storage.Open(storage.Options{
		Dir: n.dir, Identity: storage.Identity{Node: n.id, Cluster: [16]byte{1}}, SegmentBytes: 4 << 20, MapBytes: 64 << 20, Reserve: -1,
		Fatal: func(err error) { hs.tb.Error(err) },
	})
	if err != nil {
		hs.tb.Fatal(err)
	}
	cfg := paxosgroup.Config{
		Node: n.id, Cluster: [16]byte{1}, Clock: clock, Store: store, Logger: slog.New(slog.DiscardHandler), Incarnation: n.lives, FirstLife: n.lives == 1,
		BalanceInterval: -1,
	}
	gc := paxosgroup.GroupConfig{ID: hostGroup, Replica: keys.ReplicaID(n.id)}
	for _, m := range hs.nodes {
		cfg.Nodes = append(cfg.Nodes, m.id)
		gc.Replicas = append(gc.Replicas, keys.Replica{Node: m.id, ID: keys.ReplicaID(m.id)})
	}
	if len(hs.nodes) > 1 {
		cfg.Transport = hs.net.Endpoint(n.id)
	}
	n.store = store
	if n.host, err = paxosgroup.NewHost(cfg); err != nil {
		hs.tb.Fatal(err)
	}
	store.SetSource(n.host)
	n.cell = New(Config{Name: "local", Group: hostGroup, Node: n.id, Clock: clock, Reader: store})
	gc.Machine = n.cell
	if r, ok := recovered[hostGroup]; ok {
		gc.Recovered = &r
	}
	g, err := n.host.Open(gc)
	if err != nil {
		hs.tb.Fatal(err)
	}
	n.cell.Bind(g)
	n.host.Start()
	store.Start()
}

// kill ends a node without a hand-over.
func (hs *hosts) kill(n *hostNode) {
	hs.net.Crash(n.id)
	n.host.Close()
	n.cell.Close()
	if err := n.store.Close(); err != nil {
		hs.tb.Error(err)
	}
	n.host = nil
}

func (hs *hosts) close() {
	for _, n := range hs.nodes {
		if n.host != nil {
			hs.kill(n)
		}
	}
	hs.net.Close()
}

// leader waits for a node that serves the cell.
func (hs *hosts) leader() *hostNode {
	deadline := time.After(20 * time.Second)
	for {
		for _, n := range hs.nodes {
			if n.host != nil && n.cell.Leading() == nil {
				return n
			}
		}
		select {
		case <-deadline:
			hs.tb.Fatal("no leader after 20 s")
		case <-time.After(time.Millisecond): // nothing tells of an election
		}
	}
}

// The leader is killed in the middle of acquires, again and again: no lock has two holders, sequencers
// only grow, promises to fences are kept, clients that ask again get on, and in the end all replicas
// agree (2.9, L1, L2, R1).
func TestHosts_LeaderKilledDuringAcquires(t *testing.T) {
	hs := newHosts(t, 3)
	defer hs.close()
	var mu sync.Mutex // guards nodes' lives and what follows
	current := func() *Cell {
		mu.Lock()
		defer mu.Unlock()
		for _, n := range hs.nodes {
			if n.host != nil && n.cell.Leading() == nil {
				return n.cell
			}
		}
		return nil
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	stop := make(chan struct{})
	// call asks until somebody answers; every call of this test may be repeated.
	call := func(c any) *lockpb.DoResponse {
		for {
			if leader := current(); leader != nil {
				r := leader.Do(ctx, "", request1(c), nil)
				switch why(r) {
				case "NOT_LEADER", "NO_LEADER", "AMBIGUOUS", "OVERLOADED":
				default:
					return r
				}
			}
			select {
			case <-ctx.Done():
				return &lockpb.DoResponse{Answer: &lockpb.DoResponse_Failure{Failure: &lockpb.Failure{Message: "gave up"}}}
			case <-time.After(2 * time.Millisecond):
			}
		}
	}
	const locks, clients = 3, 6
	for i := range locks {
		if r := call(&lockpb.SetContentsRequest{Handle: h(0, fmt.Sprint(x, i)), Create: true}); r.GetFailure() != nil {
			t.Fatal(r)
		}
	}
	type held struct {
		holder     uint64
		generation uint64
		promised   truetime.Timestamp
	}
	state := make([]held, locks)
	grants, checks := 0, 0
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(7, uint64(c)))
			id, attempt := uint64(c+1), uint64(0)
			if f := call(&lockpb.CreateSessionRequest{Session: id, TtlNs: int64(time.Minute)}).GetFailure(); f != nil {
				t.Error(f)
				return
			}
			clock := truetime.NewManual(truetime.ManualOptions{Epsilon: 500 * time.Microsecond})
			for {
				select {
				case <-stop:
					return
				default:
				}
				n := r.IntN(locks)
				path := fmt.Sprint(x, n)
				attempt++
				a := call(&lockpb.AcquireRequest{Handle: h(id, path), Attempt: attempt}).GetAcquire()
				if a == nil {
					return
				}
				mu.Lock()
				s := &state[n]
				grants++
				if s.holder != 0 {
					t.Errorf("L1: %s is held by %d and %d", path, s.holder, id)
				}
				if a.Sequencer.Generation <= s.generation {
					t.Errorf("L1: generation %d of %s after %d", a.Sequencer.Generation, path, s.generation)
				}
				if s.promised != 0 && clock.Now().Latest <= s.promised {
					t.Errorf("L2: %s is held before its last holder's promise is over", path)
				}
				s.holder, s.generation = id, a.Sequencer.Generation
				mu.Unlock()
				if r.IntN(4) == 0 {
					k := call(checkFor(a.Sequencer.Text, 20*time.Millisecond)).GetCheckSequencer()
					if k != nil && !k.Valid {
						t.Errorf("L1: a live session's lock is not valid: %s", k.Why)
					}
					mu.Lock()
					s.promised = max(s.promised, truetime.Timestamp(k.GetValidUntil()))
					checks++
					mu.Unlock()
				}
				mu.Lock()
				s.holder = 0 // from the sending of the release on another may have it
				mu.Unlock()
				call(&lockpb.ReleaseRequest{Handle: h(id, path), Attempt: attempt})
			}
		})
	}
	for range 3 {
		time.Sleep(300 * time.Millisecond) // of work, not for anything to happen
		n := hs.leader()
		mu.Lock()
		hs.kill(n)
		mu.Unlock()
		began := time.Now()
		hs.leader()
		if d := time.Since(began); d > 3*time.Second {
			t.Errorf("the cell was without a leader for %v", d)
		}
		mu.Lock()
		hs.start(n)
		mu.Unlock()
	}
	close(stop)
	wg.Wait()
	if grants < 30 || checks < 5 {
		t.Errorf("only %d grants and %d checks", grants, checks)
	}
	t.Logf("%d grants, %d checks", grants, checks)
	sums := func() (list []uint64) {
		for _, n := range hs.nodes {
			list = append(list, n.cell.Checksum())
		}
		return list
	}
	for s := sums(); s[0] != s[1] || s[0] != s[2]; s = sums() {
		if ctx.Err() != nil {
			t.Fatalf("R1: the replicas disagree: %x", s)
		}
		time.Sleep(5 * time.Millisecond) // nothing tells what a follower has applied
	}
}

// A restart from checkpoint and log brings everything back, contents too.
func TestHosts_Restart(t *testing.T) {
	hs := newHosts(t, 1)
	defer hs.close()
	n := hs.leader()
	do := func(c any) *lockpb.DoResponse { return n.cell.Do(t.Context(), "", request1(c), nil) }
	for i := range 20 {
		r := do(&lockpb.SetContentsRequest{Handle: h(0, fmt.Sprint(x, i)), Create: true, Contents: slices.Repeat([]byte{byte(i)}, 1000*i)})
		if r.GetFailure() != nil {
			t.Fatal(r)
		}
	}
	do(&lockpb.CreateSessionRequest{Session: 1, TtlNs: int64(time.Minute)})
	seq := do(acquire(1, x+"3")).GetAcquire().GetSequencer().GetText()
	sum := n.cell.Checksum()
	hs.kill(n)
	hs.start(n)
	n = hs.leader()
	if n.cell.Checksum() != sum {
		t.Error("the state is another after a restart")
	}
	for i := range 20 {
		r := do(&lockpb.GetRequest{Handle: h(0, fmt.Sprint(x, i))}).GetGetContentsAndStat()
		if len(r.GetContents()) != 1000*i {
			t.Errorf("file %d has %d bytes", i, len(r.GetContents()))
		}
	}
	if c := do(checkFor(seq, 0)).GetCheckSequencer(); !c.GetValid() {
		t.Errorf("the lock is not held any more: %v", c)
	}
}
