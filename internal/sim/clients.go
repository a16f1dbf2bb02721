package sim

import (
	"context"
	"net"
	"sync"

	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc/test/bufconn"
)

// clientBuffer is what a connection holds in flight, either way.
const clientBuffer = 64 << 10

// door is where one life of a node takes clients, of SQL or of the lock service: a listener
// whose connections can be stopped (with the process) and cut (with it, too).
type door struct {
	*bufconn.Listener

	mu    sync.Mutex // a leaf
	conns map[*clientConn]struct{}
	shut  bool
	open  chan struct{} // closed while the process runs
}

func newDoor() *door {
	d := &door{Listener: bufconn.Listen(clientBuffer), conns: map[*clientConn]struct{}{}, open: make(chan struct{})}
	close(d.open)
	return d
}

// clientConn is the server's half of a connection.
type clientConn struct {
	net.Conn
	d *door
}

// Accept implements net.Listener.
func (d *door) Accept() (net.Conn, error) {
	nc, err := d.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &clientConn{nc, d}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.shut {
		nc.Close()
		return nil, net.ErrClosed
	}
	d.conns[c] = struct{}{}
	return c, nil
}

// Close implements net.Conn.
func (c *clientConn) Close() error {
	c.d.mu.Lock()
	delete(c.d.conns, c)
	c.d.mu.Unlock()
	return c.Conn.Close()
}

// Read implements net.Conn.
func (c *clientConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	<-c.d.running() // what arrives while the process is stopped is read when it runs again
	return n, err
}

// Write implements net.Conn.
func (c *clientConn) Write(b []byte) (int, error) {
	<-c.d.running()
	return c.Conn.Write(b)
}

func (d *door) running() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.open
}

// stop and proceed are the process's.
func (d *door) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	select {
	case <-d.open:
		d.open = make(chan struct{})
	default:
	}
}

func (d *door) proceed() {
	d.mu.Lock()
	defer d.mu.Unlock()
	select {
	case <-d.open:
	default:
		close(d.open)
	}
}

// cut ends the door and all connections at once, as the death of the process does.
func (d *door) cut() {
	d.Listener.Close()
	d.mu.Lock()
	d.shut = true
	conns := d.conns
	d.conns = map[*clientConn]struct{}{}
	d.mu.Unlock()
	for c := range conns {
		c.Conn.Close()
	}
	d.proceed()
}

// Nodes and Connect implement workload.Target.

// Nodes returns how many nodes the world has.
func (w *World) Nodes() int { return len(w.nodes) }

// Connect opens a SQL connection to node i, from 0.
func (w *World) Connect(ctx context.Context, i int) (*pgx.Conn, error) {
	return pgx.ConnectConfig(ctx, w.Config(i))
}

// Config is how pgx connects to node i, from 0, inside the bubble.
func (w *World) Config(i int) *pgx.ConnConfig {
	cfg, err := pgx.ParseConfig("postgres://root@" + w.nodes[i].name + "/spand?sslmode=disable")
	if err != nil {
		panic(err) // of a constant
	}
	cfg.LookupFunc = func(_ context.Context, host string) ([]string, error) { return []string{host}, nil }
	cfg.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) {
		l := w.nodes[i].current()
		if l == nil {
			return nil, unreachable(w.nodes[i].id, false, "connection refused")
		}
		return l.sql.DialContext(ctx)
	}
	return cfg
}
