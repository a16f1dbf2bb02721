package lockservice

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"google.golang.org/protobuf/proto"

	"github.com/spandb/spand/internal/lane"
	"github.com/spandb/spand/lockservice/lockpb"
)

// fakeCluster is a cell as a client sees it over the wire, made for what a real one does not
// do when told to: be silent, lose answers, say what a test wants. It runs in a synctest
// bubble over bufconn. Files, locks and sessions are the tests' affair: answer.
type fakeCluster struct {
	t     *testing.T
	nodes []*fakeNode
	clock *bubbleClock
	plain bool // the nodes know nothing of lanes

	mu        sync.Mutex
	leader    int
	epoch     uint64
	mute      bool // beats and calls are received and not answered
	muteBeats bool // only beats
	ended     bool // sessions have ended

	orphaned bool // the nodes know of no leader, when asked
	beats    []*lockpb.Beat
	calls    []*lockpb.DoRequest
	// answer answers a call; nil: not at all.
	answer  func(*lockpb.DoRequest) *lockpb.DoResponse
	after   func(*lockpb.DoRequest) *lockpb.DoResponse   // what follows what answer said; nil: nothing
	breaks  func(*lockpb.DoRequest) error                // what a call breaks its stream with; nil: nothing
	located func()                                       // is called when a node says who leads
	opens   func(*lockpb.OpenRequest) *lockpb.DoResponse // answers Open; nil: it is open
	paused  map[int]bool                                 // nodes that receive and do nothing
	ttl     map[uint64]time.Duration                     // of a session's leases, if not testTTL
	push    map[uint64]*lockpb.Lease                     // what the next answer to a session's beat carries
	latest  map[uint64]uint64                            // beat of a session: an earlier one is not answered any more
	poked   chan struct{}
}

type fakeNode struct {
	lockpb.UnimplementedLockServiceServer
	c      *fakeCluster
	index  int
	mu     sync.Mutex
	lis    *bufconn.Listener // nil: down
	server *grpc.Server
	lanes  map[net.Conn]struct{}
}

// bubbleClock is virtual time, plus what a test adds: a suspend, in which timers stand still.
type bubbleClock struct {
	start time.Time
	add   atomic.Int64
}

func (c *bubbleClock) Now() time.Duration {
	return time.Since(c.start) + time.Duration(c.add.Load())
}

// overGRPC runs the package's tests against nodes that know nothing of lanes.
var overGRPC = flag.Bool("grpc", false, "calls go over gRPC, not lanes")

const testTTL = 12 * time.Second

func newFakeCluster(t *testing.T, nodes int) *fakeCluster {
	c := &fakeCluster{t: t, plain: *overGRPC, epoch: 1, clock: &bubbleClock{start: time.Now()}, push: map[uint64]*lockpb.Lease{}, latest: map[uint64]uint64{}, poked: make(chan struct{})}
	for i := range nodes {
		n := &fakeNode{c: c, index: i}
		c.nodes = append(c.nodes, n)
		n.boot()
	}
	t.Cleanup(func() {
		for _, n := range c.nodes {
			n.kill()
		}
	})
	return c
}

func (n *fakeNode) addr() string { return fmt.Sprintf("n%d", n.index+1) }

func (n *fakeNode) boot() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lis = bufconn.Listen(1 << 20)
	// As a node's server has it (internal/rpc).
	n.server = grpc.NewServer(grpc.Creds(&fakeDoor{insecure.NewCredentials(), n}), grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}))
	lockpb.RegisterLockServiceServer(n.server, n)
	go n.server.Serve(n.lis)
}

func (n *fakeNode) kill() {
	n.mu.Lock()
	s, lanes := n.server, n.lanes
	n.lis, n.server, n.lanes = nil, nil, nil
	n.mu.Unlock()
	for conn := range lanes {
		conn.Close()
	}
	if s != nil {
		s.Stop()
	}
}

func (c *fakeCluster) dialer(ctx context.Context, addr string) (net.Conn, error) {
	for _, n := range c.nodes {
		if n.addr() == addr {
			n.mu.Lock()
			lis := n.lis
			n.mu.Unlock()
			if lis == nil {
				return nil, errors.New("connection refused")
			}
			return lis.DialContext(ctx)
		}
	}
	return nil, fmt.Errorf("no node %q", addr)
}

// fakeDoor tells lanes from gRPC's connections, as a node does, and serves them, unless the cluster is
// of nodes that do not know them.
type fakeDoor struct {
	credentials.TransportCredentials
	n *fakeNode
}

func (d *fakeDoor) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	hello := make([]byte, lane.HelloBytes)
	if _, err := io.ReadFull(conn, hello); err != nil {
		return nil, nil, err
	}
	if d.n.c.plain || string(hello) != lane.CallsHello {
		return d.TransportCredentials.ServerHandshake(lane.Unread(conn, hello))
	}
	go d.n.serveLane(conn)
	return nil, nil, credentials.ErrConnDispatched
}

func (n *fakeNode) serveLane(conn net.Conn) {
	defer conn.Close()
	n.mu.Lock()
	if n.lis == nil {
		n.mu.Unlock()
		return
	}
	if n.lanes == nil {
		n.lanes = map[net.Conn]struct{}{}
	}
	n.lanes[conn] = struct{}{}
	n.mu.Unlock()
	ctx, cancel := context.WithCancel(n.c.t.Context())
	defer cancel()
	l := &fakeLane{ctx: ctx, conn: conn, in: bufio.NewReader(conn)}
	if hello, err := lane.Read(l.in, 100, nil); err != nil || string(hello) != lane.CallsMethod {
		return
	}
	conn.Write(lane.Append(nil, nil))
	n.Do(l)
}

// fakeLane is a lane as a Do stream.
type fakeLane struct {
	grpc.ServerStream
	ctx  context.Context
	conn net.Conn
	in   *bufio.Reader
}

func (l *fakeLane) Context() context.Context { return l.ctx }

func (l *fakeLane) Recv() (*lockpb.DoRequest, error) {
	for {
		b, err := lane.Read(l.in, 1<<20, nil)
		if err != nil {
			return nil, err
		}
		if len(b) == 0 {
			l.conn.Write(lane.Append(nil, nil))
			continue
		}
		req := new(lockpb.DoRequest)
		return req, proto.Unmarshal(b, req)
	}
}

func (l *fakeLane) Send(resp *lockpb.DoResponse) error {
	b, err := proto.Marshal(resp)
	if err == nil {
		_, err = l.conn.Write(lane.Append(nil, b))
	}
	return err
}

func (c *fakeCluster) client() *Client {
	c.t.Helper()
	addrs := ""
	for _, n := range c.nodes {
		addrs += "," + n.addr()
	}
	client, err := Dial(c.t.Context(), addrs[1:], WithClock(c.clock),
		WithDialer(c.dialer))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { client.Close() })
	return client
}

func (c *fakeCluster) session(o SessionOptions) *Session {
	c.t.Helper()
	s, err := c.client().NewSession(c.t.Context(), o)
	if err != nil {
		c.t.Fatal(err)
	}
	return s
}

func (c *fakeCluster) set(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
	close(c.poked)
	c.poked = make(chan struct{})
}

// lead makes another node the leader, of the next epoch.
func (c *fakeCluster) lead(node int) { c.set(func() { c.leader = node; c.epoch++ }) }

// tell has the answer to the session's beat carry something, at once.
func (c *fakeCluster) tell(s *Session, l *lockpb.Lease) { c.set(func() { c.push[s.id] = l }) }

func (c *fakeCluster) lastBeat() *lockpb.Beat {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.beats) == 0 {
		return nil
	}
	return c.beats[len(c.beats)-1]
}

// made returns the calls so far that want finds.
func (c *fakeCluster) made(want func(*lockpb.DoRequest) bool) []*lockpb.DoRequest {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(c.calls), func(r *lockpb.DoRequest) bool { return !want(r) })
}

// KeepAlive holds a beat for a third of the TTL, or until there is something to tell.
func (n *fakeNode) KeepAlive(stream lockpb.LockService_KeepAliveServer) error {
	c := n.c
	var send sync.Mutex
	for {
		req, err := stream.Recv()
		if err != nil {
			return err
		}
		c.mu.Lock()
		if c.paused[n.index] {
			c.mu.Unlock()
			<-stream.Context().Done()
			return nil
		}
		leads := c.leader == n.index
		c.beats = append(c.beats, req.Beats...)
		for _, b := range req.Beats {
			c.latest[b.Session] = b.Number
		}
		c.mu.Unlock()
		if !leads {
			return c.notLeader()
		}
		for _, b := range req.Beats {
			go func() {
				held := time.After(testTTL / 3)
				for {
					c.mu.Lock()
					if c.latest[b.Session] != b.Number {
						c.mu.Unlock()
						return
					}
					l := &lockpb.Lease{Session: b.Session, Number: b.Number, TtlNs: int64(testTTL), Epoch: c.epoch}
					tell := b.Epoch != c.epoch || c.ended
					if p := c.push[b.Session]; p != nil && !c.mute && !c.muteBeats && !c.paused[n.index] {
						delete(c.push, b.Session)
						l.Events, l.Invalidation, l.Invalidate, l.Refused, tell = p.Events, p.Invalidation, p.Invalidate, p.Refused, true
					}
					if ttl := c.ttl[b.Session]; ttl != 0 {
						l.TtlNs = int64(ttl)
					}
					if c.ended {
						l.TtlNs = 0
					}
					mute, poked := c.mute || c.muteBeats || c.paused[n.index], c.poked
					c.mu.Unlock()
					if tell && !mute {
						send.Lock()
						stream.Send(&lockpb.KeepAliveResponse{Leases: []*lockpb.Lease{l}})
						send.Unlock()
						return
					}
					select {
					case <-held:
						held = nil
						if !mute {
							send.Lock()
							stream.Send(&lockpb.KeepAliveResponse{Leases: []*lockpb.Lease{l}})
							send.Unlock()
							return
						}
					case <-poked:
					case <-stream.Context().Done():
						return
					}
				}
			}()
		}
	}
}

func (c *fakeCluster) notLeader() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	st, err := status.New(codes.FailedPrecondition, "not the leader").WithDetails(&lockpb.ErrorInfo{
		Reason: "NOT_LEADER", Leader: &lockpb.NotLeader{Addr: c.nodes[c.leader].addr()}})
	if err != nil {
		c.t.Error(err)
	}
	return st.Err()
}

func (n *fakeNode) Do(stream lockpb.LockService_DoServer) error {
	var send sync.Mutex
	for {
		req, err := stream.Recv()
		if err != nil {
			return err
		}
		n.c.mu.Lock()
		breaks := n.c.breaks
		n.c.mu.Unlock()
		if breaks != nil {
			if err := breaks(req); err != nil {
				return err
			}
		}
		go func() {
			resp := n.answer(req)
			if resp == nil {
				return
			}
			n.c.mu.Lock()
			after := n.c.after
			n.c.mu.Unlock()
			for resp != nil {
				resp.Id = req.Id
				send.Lock()
				stream.Send(resp)
				send.Unlock()
				if resp = nil; after != nil {
					resp, after = after(req), nil
				}
			}
		}()
	}
}

func (n *fakeNode) answer(req *lockpb.DoRequest) *lockpb.DoResponse {
	c := n.c
	c.mu.Lock()
	leads, mute, epoch, leader, answer := c.leader == n.index, c.mute, c.epoch, c.nodes[c.leader].addr(), c.answer
	orphaned, located, opens, paused := c.orphaned, c.located, c.opens, c.paused[n.index]
	if req.GetGetCell() == nil {
		c.calls = append(c.calls, req)
	}
	c.mu.Unlock()
	if paused {
		return nil
	}
	switch r := req.Call.(type) {
	case *lockpb.DoRequest_GetCell:
		if mute && leads {
			return nil
		}
		if located != nil {
			located()
		}
		info := &lockpb.Cell{Name: r.GetCell.Cell, Leader: &lockpb.NotLeader{Addr: leader}, Revision: 100}
		if leads {
			info.Epoch, info.Leader.Addr = epoch, "[::]:15433" // what it was told to listen on
		}
		if orphaned { // asked where nobody is known to lead
			info.Leader, info.Epoch, info.Revision = nil, 0, 0
		}
		return &lockpb.DoResponse{Answer: &lockpb.DoResponse_GetCell{GetCell: &lockpb.GetCellResponse{Cell: info}}}
	}
	if mute && leads {
		return nil
	}
	if !leads {
		return failure(codes.FailedPrecondition, &lockpb.ErrorInfo{Reason: "NOT_LEADER", Leader: &lockpb.NotLeader{Addr: leader}})
	}
	switch r := req.Call.(type) {
	case *lockpb.DoRequest_ListCells:
		return &lockpb.DoResponse{Answer: &lockpb.DoResponse_ListCells{ListCells: &lockpb.ListCellsResponse{}}}
	case *lockpb.DoRequest_CreateSession:
		return &lockpb.DoResponse{Answer: &lockpb.DoResponse_CreateSession{CreateSession: &lockpb.CreateSessionResponse{
			Session: r.CreateSession.Session, TtlNs: int64(testTTL), Epoch: epoch}}}
	case *lockpb.DoRequest_Open:
		if opens != nil {
			if resp := opens(r.Open); resp != nil {
				return resp
			}
		}
		return &lockpb.DoResponse{Answer: &lockpb.DoResponse_Open{Open: &lockpb.OpenResponse{Stat: &lockpb.Stat{Path: r.Open.Handle.Path, Instance: 7}}}}
	}
	if answer != nil {
		if resp := answer(req); resp != nil || req.GetCancel() != 0 {
			return resp
		}
	}
	switch r := req.Call.(type) {
	case *lockpb.DoRequest_Acquire:
		return granted(r.Acquire)
	case *lockpb.DoRequest_TryAcquire:
		return granted(r.TryAcquire)
	case *lockpb.DoRequest_Release:
		return &lockpb.DoResponse{Answer: &lockpb.DoResponse_Release{Release: &lockpb.ReleaseResponse{Released: true}}}
	}
	return nil
}

func granted(r *lockpb.AcquireRequest) *lockpb.DoResponse {
	return &lockpb.DoResponse{Answer: &lockpb.DoResponse_Acquire{Acquire: &lockpb.AcquireResponse{
		Sequencer: &lockpb.Sequencer{Path: r.Handle.Path, Mode: r.Mode, Generation: 5, Hold: 9, Text: r.Handle.Path + ":exclusive:5:9"}}}}
}

func failure(code codes.Code, info *lockpb.ErrorInfo) *lockpb.DoResponse {
	return &lockpb.DoResponse{Answer: &lockpb.DoResponse_Failure{Failure: &lockpb.Failure{Code: int32(code), Message: info.Reason, Info: info}}}
}

func contents(text string, generation uint64, cacheable bool) *lockpb.DoResponse {
	return &lockpb.DoResponse{Answer: &lockpb.DoResponse_GetContentsAndStat{GetContentsAndStat: &lockpb.GetContentsAndStatResponse{
		Contents: []byte(text), Stat: &lockpb.Stat{Instance: 7, ContentGeneration: generation}, Cacheable: cacheable}}}
}
