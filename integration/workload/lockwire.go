package workload

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/spandb/spand/integration/check"
	"github.com/spandb/spand/lockservice/lockpb"
)

// gate is the network of a client's machine.
type gate struct {
	dialer func(ctx context.Context, addr string) (net.Conn, error)

	mu      sync.Mutex    // a leaf
	opened  chan struct{} // closed while what comes and goes is let through
	refuses bool          // connections are refused
	conns   map[*gatedConn]struct{}
}

func newGate(dialer func(context.Context, string) (net.Conn, error)) *gate {
	g := &gate{dialer: dialer, opened: make(chan struct{}), conns: map[*gatedConn]struct{}{}}
	close(g.opened)
	return g
}

// freeze has everything wait until open.
func (g *gate) freeze() {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.opened:
		g.opened = make(chan struct{})
	default:
	}
}

// cut breaks all connections, and refuses new ones until open.
func (g *gate) cut() {
	g.mu.Lock()
	g.refuses = true
	conns := g.conns
	g.conns = map[*gatedConn]struct{}{}
	g.mu.Unlock()
	for c := range conns {
		c.Close()
	}
}

// open lets everything through.
func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.refuses = false
	select {
	case <-g.opened:
	default:
		close(g.opened)
	}
}

func (g *gate) state() (opened chan struct{}, refuses bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.opened, g.refuses
}

func (g *gate) dial(ctx context.Context, addr string) (net.Conn, error) {
	opened, refuses := g.state()
	if refuses {
		return nil, errUnreachable
	}
	select {
	case <-opened:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	conn, err := g.dialer(ctx, addr)
	if err != nil {
		return nil, err
	}
	c := &gatedConn{Conn: conn, g: g, closed: make(chan struct{}), broken: make(chan struct{})}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.refuses {
		conn.Close()
		return nil, errUnreachable
	}
	g.conns[c] = struct{}{}
	return c, nil
}

var errUnreachable = errors.New("network is unreachable")

// gatedConn is a connection through a gate.
type gatedConn struct {
	net.Conn
	g      *gate
	once   sync.Once
	closed chan struct{}
	// broken: a write has failed. Then the reader may know, too, whatever the gate: gRPC opens streams
	// on such a connection again and again, at one and the same instant, until its reader sees the end.
	fail   sync.Once
	broken chan struct{}
}

func (c *gatedConn) Close() error {
	var err error
	c.once.Do(func() {
		close(c.closed)
		c.g.mu.Lock()
		delete(c.g.conns, c)
		c.g.mu.Unlock()
		err = c.Conn.Close()
	})
	return err
}

// pass waits until the gate is open, and reports whether the connection is, too.
func (c *gatedConn) pass() bool {
	opened, _ := c.g.state()
	select {
	case <-opened:
		return true
	case <-c.closed:
		return false
	case <-c.broken:
		return false
	}
}

func (c *gatedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if !c.pass() { // what arrives while the gate is closed is read when it opens
		return 0, net.ErrClosed
	}
	return n, err
}

func (c *gatedConn) Write(b []byte) (int, error) {
	if !c.pass() {
		return 0, net.ErrClosed
	}
	n, err := c.Conn.Write(b)
	if err != nil {
		c.fail.Do(func() { close(c.broken) })
	}
	return n, err
}

// recorder sees what a client sends and receives.
type recorder struct {
	l      *Locks
	client int
}

func (r *recorder) stream(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := open(ctx, desc, conn, method, opts...)
	if err != nil {
		return nil, err
	}
	return &recordedStream{ClientStream: s, r: r, beats: map[beatName]*check.LockOp{}}, nil
}

type beatName struct{ session, number uint64 }

type recordedStream struct {
	grpc.ClientStream
	r *recorder

	mu    sync.Mutex                 // a leaf
	beats map[beatName]*check.LockOp // not answered yet
}

func (s *recordedStream) SendMsg(m any) error {
	switch m := m.(type) {
	case *lockpb.KeepAliveRequest:
		s.mu.Lock()
		for _, b := range m.Beats {
			s.beats[beatName{b.Session, b.Number}] = s.r.l.History.Begin(check.LockOp{Kind: check.Beat, Client: s.r.client, Session: b.Session})
		}
		s.mu.Unlock()
		s.r.l.o.Sent("beat")
	case *lockpb.DoRequest:
		s.r.l.o.Sent(callName(m))
	}
	return s.ClientStream.SendMsg(m)
}

// callName is what a call is called in lock.proto.
func callName(m *lockpb.DoRequest) string {
	r := m.ProtoReflect()
	if f := r.WhichOneof(r.Descriptor().Oneofs().ByName("call")); f != nil {
		return string(f.Name())
	}
	return ""
}

func (s *recordedStream) RecvMsg(m any) error {
	if err := s.ClientStream.RecvMsg(m); err != nil {
		return err
	}
	if m, ok := m.(*lockpb.KeepAliveResponse); ok {
		for _, lease := range m.Leases {
			s.answered(lease)
		}
	}
	return nil
}

func (s *recordedStream) answered(lease *lockpb.Lease) {
	name := beatName{lease.Session, lease.Number}
	s.mu.Lock()
	op := s.beats[name]
	delete(s.beats, name)
	s.mu.Unlock()
	h := s.r.l.History
	if lease.TtlNs <= 0 {
		now := h.Now()
		h.Add(check.LockOp{Kind: check.Gone, Client: s.r.client, Session: lease.Session, Begin: now, End: h.Now(), Status: check.OK})
		return
	}
	var asked check.Instant
	if op != nil {
		op.TTL, asked = time.Duration(lease.TtlNs), op.Begin
		h.End(op, check.OK, nil)
	}
	s.r.l.led(s.r.client, lease.Epoch, asked)
}
