package integration

import (
	"context"
	"errors"
	"net"
	"runtime/debug"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/spandb/spand/internal/node"
)

// Mode is how the nodes of a cluster run.
type Mode uint8

const (
	// InProcess nodes run in the test's process, in real time: SQL and the traffic
	// between nodes go over loopback, data to disk.
	InProcess Mode = iota
	// Virtual nodes run in the test's process inside a testing/synctest bubble, where
	// time passes as fast as nobody computes, on a simulated network and simulated disks.
	// See [RunVirtual].
	Virtual
	// Processes are real spand processes, built from this module.
	Processes
)

func (m Mode) String() string { return [...]string{"InProcess", "Virtual", "Processes"}[m] }

// Options of a cluster. The zero value is one node in this process.
type Options struct {
	Nodes int // 1 by default
	Mode  Mode
	// ClockError is ε, the error that every clock claims (--max-clock-error). 0, the
	// default, is honest: the nodes share one clock.
	ClockError time.Duration

	// For Virtual:

	// Seed of what is random in network and disks.
	Seed uint64
	// NetworkDelay is how long a message takes, a third more at most; 200 µs by default.
	NetworkDelay time.Duration
	// DiskLatency is how long a sync takes; 1 ms by default.
	DiskLatency time.Duration

	// For Processes:

	// Binary is the spand to run; by default it is built from this module, once.
	Binary string
	// Proxy has the nodes reach each other through a Proxy, which Partition needs.
	Proxy bool
	// Namespaces has each node run in its own.
	Namespaces *Namespaces
	// Args are further flags for every node.
	Args []string
	// Dir is where the data directories and logs are made; a temporary one by default.
	// InProcess uses it too.
	Dir string
}

// Cluster is a running cluster. It ends with its test, which prints the ends of the
// nodes' logs if it failed. Nodes are counted from 0. Methods may be called from any
// goroutine of the test; what cannot be done fails the test.
type Cluster struct {
	Nodes []*Node // the processes, in mode Processes
	Proxy *Proxy  // if asked for, in mode Processes
	dir   string

	t        testing.TB
	mode     Mode
	size     int
	backend  backend
	injector injector
	clocks   clocks
}

// backend is what a mode makes of a cluster. Nodes that do not exist are not asked for.
type backend interface {
	kill(i int) error
	// boot starts node i and does not wait; awaitReady waits until it serves.
	boot(i int) error
	awaitReady(ctx context.Context, i int) error
	pause(i int, paused bool) error
	Network
	config(i int) (*pgx.ConnConfig, error)
	// lockAddrs are the names under which the lock service's clients know the nodes, and
	// dialLocks connects one of them.
	lockAddrs() []string
	dialLocks(ctx context.Context, i int) (net.Conn, error)
	setClock(i int, c clockSetting) error
	node(i int) (*node.Node, error) // nil while it is down
	logs() string                   // the ends of the nodes' logs
	close()
}

// Start starts a cluster and waits until every node serves SQL.
func Start(t testing.TB, o Options) *Cluster {
	t.Helper()
	if o.Nodes == 0 {
		o.Nodes = 1
	}
	c := &Cluster{t: t, mode: o.Mode, size: o.Nodes, dir: o.Dir}
	switch virtual := inBubble(); {
	case virtual && o.Mode != Virtual:
		t.Fatalf("integration: Mode %v inside a testing/synctest bubble, where real sockets block for ever: use Virtual", o.Mode)
	case !virtual && o.Mode == Virtual:
		t.Fatal("integration: Mode Virtual outside a testing/synctest bubble: use RunVirtual, or call Start within synctest.Test")
	}
	var err error
	switch o.Mode {
	case Processes:
		c.startProcesses(t, o)
		return c
	case Virtual:
		c.backend, err = startVirtual(t, c, o)
	default:
		c.backend, err = startInProcess(t, c, o)
	}
	if err != nil {
		t.Fatalf("integration: %v", err)
	}
	t.Cleanup(c.end)
	if o.Mode == InProcess {
		ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
		defer cancel()
		for i := range c.size {
			c.check(c.backend.awaitReady(ctx, i), "node %d does not start", i)
		}
	}
	return c
}

// inBubble reports whether the caller is in a testing/synctest bubble, which nothing
// but a panic of Wait tells.
func inBubble() (yes bool) {
	defer func() { yes = recover() == nil }()
	synctest.Wait()
	return
}

func (c *Cluster) end() {
	c.backend.close()
	if c.t.Failed() {
		c.t.Logf("ends of the nodes' logs:\n%s", c.backend.logs())
	}
}

// check fails the test for an error.
func (c *Cluster) check(err error, format string, args ...any) {
	c.t.Helper()
	if err != nil {
		c.t.Fatalf("integration: "+format+": %v", append(args, err)...)
	}
}

// checkNodes fails the test for a node that does not exist.
func (c *Cluster) checkNodes(nodes ...int) {
	c.t.Helper()
	for _, i := range nodes {
		if i < 0 || i >= c.size {
			c.t.Fatalf("integration: there is no node %d: %d nodes are counted from 0\n%s", i, c.size, debug.Stack())
		}
	}
}

// Len returns the number of nodes, dead ones included.
func (c *Cluster) Len() int { return c.size }

// Config returns how pgx reaches node i; it is the caller's own. In mode Virtual it must
// be used as it is, for its DialFunc leads into the simulation:
//
//	pgx.ConnectConfig(ctx, c.Config(0))
//	stdlib.OpenDB(*c.Config(0))
//	pool, _ := pgxpool.ParseConfig(c.URL(0)); pool.ConnConfig = c.Config(0)
func (c *Cluster) Config(i int) *pgx.ConnConfig {
	c.t.Helper()
	c.checkNodes(i)
	cfg, err := c.backend.config(i)
	c.check(err, "configuring pgx for node %d", i)
	return cfg
}

// URL returns the connection string of node i, for what does not use pgx. In mode
// Virtual only [Cluster.Config] connects.
func (c *Cluster) URL(i int) string { return c.Config(i).ConnString() }

// closeTimeout bounds the farewell to a node that may be dead or paused.
const closeTimeout = 2 * time.Second

// Connect returns a connection to node i, which is closed with the test.
func (c *Cluster) Connect(i int) *pgx.Conn {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, c.Config(i))
	c.check(err, "connecting to node %d", i)
	c.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		conn.Close(ctx)
	})
	return conn
}

// Exec runs a statement at node i, over a connection of its own.
func (c *Cluster) Exec(i int, sql string, args ...any) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, c.Config(i))
	c.check(err, "connecting to node %d", i)
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, sql, args...)
	c.check(err, "%s", sql)
}

// Kill ends nodes at once, as kill -9 does: connections break, nothing is handed over.
// In mode Virtual the disks also lose what was not synced.
func (c *Cluster) Kill(nodes ...int) {
	c.t.Helper()
	c.checkNodes(nodes...)
	for _, i := range nodes {
		c.check(c.backend.kill(i), "killing node %d", i)
	}
}

// Restart starts nodes that were killed, at their old addresses, and waits until they
// serve, which takes a majority of the cluster: nodes that need each other are to be
// restarted in one call.
func (c *Cluster) Restart(nodes ...int) {
	c.t.Helper()
	c.checkNodes(nodes...)
	for _, i := range nodes {
		c.check(c.backend.boot(i), "starting node %d", i)
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for _, i := range nodes {
		c.check(c.backend.awaitReady(ctx, i), "node %d does not start", i)
	}
}

// Pause stops nodes as SIGSTOP does, until Resume: they say nothing and hear nothing,
// their connections stand, and time passes without them. In modes InProcess and Virtual
// what a node was computing goes on, on the time of its clock at that moment; nobody
// hears of it before Resume.
func (c *Cluster) Pause(nodes ...int) { c.t.Helper(); c.setPaused(true, nodes) }

// Resume ends Pause.
func (c *Cluster) Resume(nodes ...int) { c.t.Helper(); c.setPaused(false, nodes) }

func (c *Cluster) setPaused(paused bool, nodes []int) {
	c.t.Helper()
	c.checkNodes(nodes...)
	for _, i := range nodes {
		c.check(c.backend.pause(i, paused), "node %d", i)
	}
}

// Partition cuts the network between nodes of different sides, both ways; nodes of no
// side keep their links. Clients reach every node all the same. Connections stand and
// carry nothing until Heal.
//
//	c.Partition([]int{0}, []int{1, 2})
func (c *Cluster) Partition(sides ...[]int) {
	c.t.Helper()
	for _, s := range sides {
		c.checkNodes(s...)
	}
	for a := range sides {
		for b := range a {
			c.check(Partition(c.backend, sides[a], sides[b]), "partition")
		}
	}
}

// Cut loses what node from sends to node to, and nothing else, until Heal.
func (c *Cluster) Cut(from, to int) {
	c.t.Helper()
	c.checkNodes(from, to)
	c.check(c.backend.Cut(from, to), "cutting %d off %d", to, from)
}

// Heal ends every Partition and Cut.
func (c *Cluster) Heal() {
	c.t.Helper()
	for from := range c.size {
		for to := range c.size {
			if from != to {
				c.check(c.backend.Heal(from, to), "healing the network")
			}
		}
	}
}

// errElsewhere is what a handle answers that needs the node in this process.
var errElsewhere = errors.New("not in mode Processes: the node is in another process; use InProcess or Virtual")

// SplitAt divides a table into tablets at values of its primary key, each the first of
// its tablet. A key of several columns is a []any; a prefix of it will do.
//
//	c.SplitAt("account", 1000, 2000)
//	c.SplitAt("line", []any{"2026-11", 1})
//
// All leaders are then where the leader was: see [Cluster.TransferLeader].
func (c *Cluster) SplitAt(table string, values ...any) {
	c.t.Helper()
	by := make([]string, len(values))
	for i, v := range values {
		by[i] = c.row(v)
	}
	c.Exec(c.someNode(), "SPLIT TABLE "+table+" BY "+strings.Join(by, ", "))
}

// someNode returns a node that runs.
func (c *Cluster) someNode() int {
	c.t.Helper()
	for i := range c.size {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		conn, err := pgx.ConnectConfig(ctx, c.Config(i))
		if err == nil {
			conn.Close(ctx)
		}
		cancel()
		if err == nil {
			return i
		}
	}
	c.t.Fatal("integration: no node answers")
	return 0
}
