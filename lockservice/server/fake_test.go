package server

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/lockservice/cell/state"
	"github.com/spandb/spand/lockservice/lockpb"
)

// fakeCell answers as a replica of a cell would: calls by the function do while it leads.
type fakeCell struct {
	do    func(ctx context.Context, principal string, req *lockpb.DoRequest, waiting func(int64)) *lockpb.DoResponse
	begin func(req *lockpb.DoRequest, ordered func(), answer func(*lockpb.DoResponse)) (giveUp func())

	mu      sync.Mutex
	leads   bool
	streams map[*fakeStream]bool
	beats   int
	cells   []state.Cell
}

func (c *fakeCell) Status() *lockpb.Cell {
	return &lockpb.Cell{Name: First, Group: uint64(keys.FirstCell)}
}

func (c *fakeCell) Leading() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.leads {
		return ErrNotLeader
	}
	return nil
}

func (c *fakeCell) Cells() []state.Cell {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cells
}

// add makes a cell whose replicas are nowhere.
func (c *fakeCell) add(name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.leads {
		return ErrNotLeader
	}
	c.cells = append(c.cells, state.Cell{Name: name, Group: uint64(keys.CellGroup(keys.GroupID(len(c.cells)) + 3))})
	return nil
}

func (c *fakeCell) Do(ctx context.Context, principal string, req *lockpb.DoRequest, waiting func(int64)) *lockpb.DoResponse {
	c.mu.Lock()
	leads := c.leads
	c.mu.Unlock()
	if !leads {
		return failed(req, failure(codes.FailedPrecondition, reasonNotLeader, "not the leader"))
	}
	return c.do(ctx, principal, req, waiting)
}

// Begin leaves calls to Do unless there is a function begin.
func (c *fakeCell) Begin(ctx context.Context, principal string, req *lockpb.DoRequest, waiting func(int64), ordered func(), answer func(*lockpb.DoResponse)) (func(), bool) {
	c.mu.Lock()
	leads := c.leads
	c.mu.Unlock()
	if !leads || c.begin == nil {
		return nil, false
	}
	return c.begin(req, ordered, answer), true
}

// follow makes the replica a follower.
func (c *fakeCell) follow() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leads = false
	for s := range c.streams {
		close(s.done)
	}
	c.streams = nil
}

func (c *fakeCell) lead() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leads = true
}

// fakeStream answers every beat at once.
type fakeStream struct {
	c    *fakeCell
	send func(*lockpb.Lease)
	done chan struct{}
}

func (c *fakeCell) OpenStream(_ string, send func(*lockpb.Lease)) (Stream, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.leads {
		return nil, ErrNotLeader
	}
	s := &fakeStream{c: c, send: send, done: make(chan struct{})}
	if c.streams == nil {
		c.streams = map[*fakeStream]bool{}
	}
	c.streams[s] = true
	return s, nil
}

// Beat answers with as many bytes of paths as the beat's seen says.
func (s *fakeStream) Beat(b *lockpb.Beat) {
	s.c.mu.Lock()
	s.c.beats++
	s.c.mu.Unlock()
	s.send(&lockpb.Lease{Session: b.Session, Number: b.Number, TtlNs: 1e9, Invalidate: []string{string(make([]byte, b.Seen))}})
}

func (s *fakeStream) Done() <-chan struct{} { return s.done }

func (s *fakeStream) Close() {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	delete(s.c.streams, s)
}

// world is servers that reach each other, by node id, and the clients of each.
type world struct {
	cells   map[keys.NodeID]*fakeCell
	servers map[keys.NodeID]*Server
	clients map[keys.NodeID]lockpb.LockServiceClient
	calls   func(to keys.NodeID) error // before each forwarded call; nil: nothing
	// swallow says whether a forwarded call gets no answer before its context ends; nil: none does.
	swallow func(to keys.NodeID) bool

	mu     sync.Mutex
	leader map[keys.NodeID]keys.NodeID // as each node believes
}

// newWorld returns nodes 1 to n, of which node 1 leads the only cell, as all believe.
func newWorld(t *testing.T, n int, do func(context.Context, string, *lockpb.DoRequest, func(int64)) *lockpb.DoResponse) *world {
	w := &world{cells: map[keys.NodeID]*fakeCell{}, servers: map[keys.NodeID]*Server{}, clients: map[keys.NodeID]lockpb.LockServiceClient{}, leader: map[keys.NodeID]keys.NodeID{}}
	for i := 1; i <= n; i++ {
		id := keys.NodeID(i)
		c := &fakeCell{do: do, leads: id == 1}
		w.cells[id], w.leader[id] = c, 1
		s := New(Config{
			Node: id,
			Cells: func(name string) Cell {
				if name != First {
					return nil
				}
				return c
			},
			Leader: func(string) keys.NodeID { // all cells are led alike
				w.mu.Lock()
				defer w.mu.Unlock()
				return w.leader[id]
			},
			Call: func(ctx context.Context, to keys.NodeID, payload []byte) ([]byte, error) {
				if w.calls != nil {
					if err := w.calls(to); err != nil {
						return nil, err
					}
				}
				if w.swallow != nil && w.swallow(to) {
					<-ctx.Done()
					return nil, ctx.Err()
				}
				return w.servers[to].HandleCall(ctx, payload), nil
			},
			Address:   func(n keys.NodeID) (string, string) { return fmt.Sprintf("n%d", n), fmt.Sprintf("host%d:15433", n) },
			Create:    func(_ context.Context, name string) error { return c.add(name) },
			Principal: func(context.Context) string { return fmt.Sprintf("client of n%d", id) },
		})
		w.servers[id] = s
		w.clients[id] = dial(t, s)
	}
	return w
}

func (w *world) believe(at, leader keys.NodeID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.leader[at] = leader
}

// dial serves s over a connection in memory, whose windows are small.
func dial(t *testing.T, s *Server) lockpb.LockServiceClient {
	ln := bufconn.Listen(64 << 10)
	g := grpc.NewServer(grpc.StaticStreamWindowSize(64<<10), grpc.StaticConnWindowSize(64<<10))
	s.Register(g)
	served := make(chan struct{})
	go func() {
		defer close(served)
		g.Serve(ln)
	}()
	conn, err := grpc.NewClient("passthrough:///bufconn", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithStaticStreamWindowSize(64<<10),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return ln.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		g.Stop()
		<-served
	})
	return lockpb.NewLockServiceClient(conn)
}
