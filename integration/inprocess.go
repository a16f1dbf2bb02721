package integration

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/spandb/spand/internal/node"
	"github.com/spandb/spand/internal/storage"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/sql"
	"github.com/spandb/spand/truetime"
)

// inProcess is the backend of mode InProcess: internal/node's nodes, with clocks that can
// be set, behind gates.
//
// Goroutines: one per node that accepts clients, ended by close; per life, one that
// runs node.Start and waits for the node's failure, and what the node has, ended by
// kill. Lock order: inNode.mu, then gates.mu; nobody waits under either.
type inProcess struct {
	t     testing.TB
	gates *gates
	nodes []*inNode
	wg    sync.WaitGroup // of accepting
}

// inNode is a machine: what outlives a kill.
type inNode struct {
	p     *inProcess
	i     int
	cfg   node.Config
	clock *truetime.Manual
	front net.Listener // takes clients, for the present life if there is one
	log   *logTail

	mu      sync.Mutex // guards all below
	life    *life      // nil: down
	paused  bool
	setting clockSetting
}

// life is a node's process, from boot to kill.
type life struct {
	door   *door
	rpc    net.Listener
	cancel context.CancelFunc
	ready  chan struct{} // closed when node.Start has returned: node or err is set
	node   *node.Node
	err    error
	done   chan struct{} // closed when the goroutine is over
}

func startInProcess(t testing.TB, c *Cluster, o Options) (backend, error) {
	p := &inProcess{t: t, gates: newGates()}
	dir := o.Dir
	if dir == "" {
		dir = t.TempDir()
	}
	began := time.Now()
	oneTime := func() time.Time { return began.Add(time.Since(began)) } // the host's clock may be stepped
	var list []string
	for i := range o.Nodes {
		list = append(list, fmt.Sprintf("n%d=%s", i+1, peerAddr(i)))
	}
	for i := range o.Nodes {
		front, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			p.close()
			return nil, err
		}
		n := &inNode{
			p: p, i: i, front: front, log: new(logTail),
			clock: truetime.NewManual(truetime.ManualOptions{Base: oneTime, Epsilon: o.ClockError}),
		}
		n.setting.since = began
		n.cfg = node.Default()
		n.cfg.Node, n.cfg.DataDir = fmt.Sprint("n", i+1), filepath.Join(dir, fmt.Sprint("n", i+1))
		n.cfg.HTTPAddr, n.cfg.MaxClockError = "127.0.0.1:0", o.ClockError.String()
		if o.Nodes > 1 {
			n.cfg.Cluster = strings.Join(list, ",")
		}
		n.cfg.Around = node.Surroundings{
			Clock: n.clock, ClockSource: "integration", Dial: n.dial,
			Exit: func(err error) { t.Errorf("integration: node %d lost its store: %v", i, err) },
			Tune: tuning(c.injector.at(i)),
		}
		n.cfg.Around.Tune.Storage = func(o *storage.Options) {
			o.SegmentBytes, o.MapBytes, o.Reserve = 4<<20, 256<<20, 16<<20
		}
		p.nodes = append(p.nodes, n)
		p.wg.Go(n.accept)
	}
	for _, n := range p.nodes {
		if err := p.boot(n.i); err != nil {
			p.close()
			return nil, err
		}
	}
	return p, nil
}

// tuning is what nodes under test have in common: leaders stay where they are put.
func tuning(f sql.Faults) node.Tuning {
	return node.Tuning{
		Groups: func(c *paxosgroup.Config) { c.BalanceInterval = -1 },
		SQL:    func(c *sql.Config) { c.Faults = f },
	}
}

// peerAddr names node i for its peers; dial finds its listener.
func peerAddr(i int) string { return fmt.Sprintf("n%d:1", i+1) }

func (n *inNode) dial(ctx context.Context, addr string) (net.Conn, error) {
	for i := range n.p.nodes {
		if addr == peerAddr(i) {
			return n.p.gates.dial(ctx, n.i, i)
		}
	}
	return nil, fmt.Errorf("no node is called %s", addr)
}

// accept hands clients to the present life. Whoever comes while there is none is reset,
// which is nearest to a refusal that leaves the address to us.
func (n *inNode) accept() {
	for {
		conn, err := n.front.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of file descriptors: whoever dials tries again
			time.Sleep(10 * time.Millisecond)
			continue
		}
		n.mu.Lock()
		l := n.life
		n.mu.Unlock()
		if l == nil || !l.door.enter(conn) {
			conn.(*net.TCPConn).SetLinger(0)
			conn.Close()
		}
	}
}

func (p *inProcess) boot(i int) error {
	n := p.nodes[i]
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.life != nil {
		return errors.New("it is running; Kill it first")
	}
	rpc, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	l := &life{rpc: rpc, door: newDoor(n), ready: make(chan struct{}), done: make(chan struct{})}
	var ctx context.Context
	ctx, l.cancel = context.WithCancel(context.Background())
	cfg := n.cfg
	cfg.Around.SQL, cfg.Around.RPC = l.door, rpc
	p.gates.up(i, rpc.Addr().String())
	n.life = l
	go func() {
		defer close(l.done)
		l.node, l.err = node.Start(ctx, cfg, slog.New(slog.NewTextHandler(n.log, nil)))
		close(l.ready)
		if l.err != nil {
			return
		}
		select {
		case err := <-l.node.Failed():
			if ctx.Err() == nil {
				p.t.Errorf("integration: node %d failed: %v", i, err)
			}
		case <-ctx.Done():
		}
	}()
	return nil
}

func (p *inProcess) awaitReady(ctx context.Context, i int) error {
	n := p.nodes[i]
	n.mu.Lock()
	l := n.life
	n.mu.Unlock()
	if l == nil {
		return errors.New("it was killed")
	}
	select {
	case <-l.ready:
		return l.err
	case <-ctx.Done():
		return fmt.Errorf("%w\n%s", ctx.Err(), n.log.String())
	}
}

func (p *inProcess) kill(i int) error {
	n := p.nodes[i]
	n.mu.Lock()
	l := n.life
	n.life = nil
	n.mu.Unlock()
	if l == nil {
		return errors.New("it is down already")
	}
	p.gates.down(i) // its last words reach nobody
	l.cancel()
	l.door.shut()
	if err := p.pause(i, false); err != nil {
		return err
	}
	<-l.ready
	if l.node != nil {
		l.node.Close()
	}
	l.rpc.Close()
	<-l.done
	return nil
}

func (p *inProcess) pause(i int, paused bool) error {
	n := p.nodes[i]
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.life == nil && paused {
		return errors.New("it is down")
	}
	switch {
	case paused == n.paused:
	case paused: // what the node computes on a stopped clock must not get out
		p.gates.setPaused(i, true)
		n.clock.Hold()
	default:
		n.clock.Release()
		p.gates.setPaused(i, false)
	}
	n.paused = paused
	return nil
}

func (p *inProcess) Cut(from, to int) error  { p.gates.setCut(from, to, true); return nil }
func (p *inProcess) Heal(from, to int) error { p.gates.setCut(from, to, false); return nil }

func (p *inProcess) config(i int) (*pgx.ConnConfig, error) {
	return pgx.ParseConfig("postgres://root@" + p.nodes[i].front.Addr().String() + "/spand?sslmode=disable")
}

func (p *inProcess) lockAddrs() (addrs []string) {
	for i := range p.nodes {
		addrs = append(addrs, peerAddr(i))
	}
	return addrs
}

func (p *inProcess) dialLocks(ctx context.Context, i int) (net.Conn, error) {
	return p.gates.dial(ctx, client, i)
}

func (p *inProcess) setClock(i int, s clockSetting) error {
	n := p.nodes[i]
	epsilon, err := time.ParseDuration(n.cfg.MaxClockError)
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	n.clock.SetEpsilon(epsilon + s.added)
	n.clock.SetDrift(s.ppm)
	n.clock.Step(s.offset(now) - n.setting.offset(now))
	n.setting = s
	return nil
}

func (p *inProcess) node(i int) (*node.Node, error) {
	n := p.nodes[i]
	n.mu.Lock()
	l := n.life
	n.mu.Unlock()
	if l == nil {
		return nil, nil
	}
	select {
	case <-l.ready:
		return l.node, nil
	default:
		return nil, nil // not up yet
	}
}

func (p *inProcess) logs() string {
	var out strings.Builder
	for _, n := range p.nodes {
		fmt.Fprintf(&out, "node %d:\n%s", n.i, n.log)
	}
	return out.String()
}

func (p *inProcess) close() {
	for _, n := range p.nodes {
		n.front.Close()
		n.mu.Lock()
		up := n.life != nil
		n.mu.Unlock()
		if up {
			if err := p.kill(n.i); err != nil {
				p.t.Errorf("integration: stopping node %d: %v", n.i, err)
			}
		}
	}
	p.wg.Wait()
}

// door is where one life of a node takes clients.
type door struct {
	n         *inNode
	conns     chan net.Conn
	killed    chan struct{} // closed when nobody may enter any more
	over      chan struct{} // closed when the node accepts nobody any more
	kill, end sync.Once
}

func newDoor(n *inNode) *door {
	return &door{n: n, conns: make(chan net.Conn), killed: make(chan struct{}), over: make(chan struct{})}
}

// shut lets nobody in; the node does not hear of it.
func (d *door) shut() { d.kill.Do(func() { close(d.killed) }) }

// enter hands a client in, unless the door is closed.
func (d *door) enter(conn net.Conn) bool {
	select {
	case d.conns <- conn:
		return true
	case <-d.killed:
	case <-d.over:
	}
	return false
}

// Accept implements net.Listener.
func (d *door) Accept() (net.Conn, error) {
	select {
	case conn := <-d.conns:
		return d.n.p.gates.through(conn, d.n.i, client)
	case <-d.over:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (d *door) Close() error {
	d.end.Do(func() { close(d.over) })
	return nil
}

// Addr implements net.Listener.
func (d *door) Addr() net.Addr { return d.n.front.Addr() }
