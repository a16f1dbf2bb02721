package integration

import (
	"context"
	"fmt"
	"net"
	"sync"
	"syscall"
)

// gates stand between the nodes of a cluster in this process, and between them and
// their clients. A path that is cut, or whose node is paused, holds what comes until it
// opens, as TCP's retransmission does; connections stand.
//
// It starts no goroutine. mu is a leaf; nobody waits under it.
type gates struct {
	mu      sync.Mutex // guards all below
	cut     map[[2]int]bool
	paused  map[int]bool
	addr    map[int]string        // where a node that is up accepts its peers
	changed chan struct{}         // closed and replaced when something opens
	conns   map[int]map[*way]bool // by node: connections that end with it
}

// client stands for whoever is not a node, in pairs of nodes.
const client = -1

func newGates() *gates {
	return &gates{cut: map[[2]int]bool{}, paused: map[int]bool{}, addr: map[int]string{}, conns: map[int]map[*way]bool{}, changed: make(chan struct{})}
}

// set changes something and wakes those who wait.
func (g *gates) set(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f()
	close(g.changed)
	g.changed = make(chan struct{})
}

func (g *gates) setCut(from, to int, cut bool) { g.set(func() { g.cut[[2]int{from, to}] = cut }) }
func (g *gates) setPaused(i int, paused bool)  { g.set(func() { g.paused[i] = paused }) }

// up says where node i accepts its peers; down, that it is gone, and breaks its connections.
func (g *gates) up(i int, addr string) { g.set(func() { g.addr[i] = addr }) }

func (g *gates) down(i int) {
	var conns map[*way]bool
	g.set(func() {
		delete(g.addr, i)
		delete(g.paused, i)
		conns = g.conns[i]
		delete(g.conns, i)
	})
	for w := range conns {
		w.reset()
	}
}

// await returns when from's bytes reach to; over ends the waiting.
func (g *gates) await(from, to int, over <-chan struct{}) error {
	for {
		g.mu.Lock()
		open, changed := !g.cut[[2]int{from, to}] && !g.paused[from] && !g.paused[to], g.changed
		g.mu.Unlock()
		if open {
			return nil
		}
		select {
		case <-changed:
		case <-over:
			return net.ErrClosed
		}
	}
}

// dial connects node from to node to, both ways of which must be open for that.
func (g *gates) dial(ctx context.Context, from, to int) (net.Conn, error) {
	for _, d := range [][2]int{{from, to}, {to, from}} {
		if g.await(d[0], d[1], ctx.Done()) != nil {
			return nil, ctx.Err()
		}
	}
	g.mu.Lock()
	addr, up := g.addr[to]
	g.mu.Unlock()
	if !up {
		return nil, fmt.Errorf("node %d: %w", to, syscall.ECONNREFUSED)
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return g.through(conn, from, to)
}

// through has a connection of here pass the gates to there. It ends with either.
func (g *gates) through(conn net.Conn, here, there int) (net.Conn, error) {
	w := &way{Conn: conn, g: g, here: here, there: there, over: make(chan struct{})}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, i := range []int{here, there} {
		if i == client {
			continue
		}
		if _, up := g.addr[i]; !up && i == there {
			conn.Close()
			return nil, fmt.Errorf("node %d: %w", i, syscall.ECONNREFUSED)
		}
		if g.conns[i] == nil {
			g.conns[i] = map[*way]bool{}
		}
		g.conns[i][w] = true
	}
	return w, nil
}

// way is here's end of a connection to there.
type way struct {
	net.Conn
	g           *gates
	here, there int
	once        sync.Once
	over        chan struct{} // closed with the connection
}

// Read implements net.Conn.
func (w *way) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	if n > 0 {
		if w.g.await(w.there, w.here, w.over) != nil {
			return 0, net.ErrClosed
		}
	}
	return n, err
}

// Write implements net.Conn.
func (w *way) Write(b []byte) (int, error) {
	if err := w.g.await(w.here, w.there, w.over); err != nil {
		return 0, err
	}
	return w.Conn.Write(b)
}

// Close implements net.Conn.
func (w *way) Close() error {
	w.once.Do(func() { close(w.over) })
	w.g.mu.Lock()
	delete(w.g.conns[w.here], w)
	delete(w.g.conns[w.there], w)
	w.g.mu.Unlock()
	return w.Conn.Close()
}

// reset breaks the connection as the death of its process does.
func (w *way) reset() {
	if c, ok := w.Conn.(*net.TCPConn); ok {
		c.SetLinger(0)
	}
	w.Close()
}
