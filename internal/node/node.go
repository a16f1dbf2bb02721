package node

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/spandb/spand/internal/cells"
	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/replicas"
	"github.com/spandb/spand/internal/storage"
	"github.com/spandb/spand/internal/version"
	"github.com/spandb/spand/lockservice/server"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/pgwire"
	"github.com/spandb/spand/sql"
	"github.com/spandb/spand/tablet/directory"
	"github.com/spandb/spand/truetime"
	"github.com/spandb/spand/txn"
)

// Node is a running node.
type Node struct {
	cfg     Config
	log     *slog.Logger
	members []Member
	self    keys.NodeID
	life    uint64 // incarnation, above that of every earlier life
	lived   bool   // there was one in which the node took part
	cluster [16]byte
	list    string // --cluster in canonical form, "" for a store of one node

	versions    version.Range // of the cluster that this program can run
	version     version.Gate  // the cluster's
	versionTold chan struct{} // capacity 1: it has risen
	slowSaid    atomic.Int64  // when a slow call was last logged

	ports     ports
	clock     *truetime.Adjustable
	source    string // of the clock, for people
	peaks     clockPeaks
	store     *storage.Store
	net       Network
	grpc      *grpcNetwork // nil in surroundings with another network
	host      *paxosgroup.Host
	replicas  *replicas.Set
	cells     *cells.Set
	locks     *server.Server
	dir       *directory.Directory
	cache     *directory.Cache
	publisher *directory.Publisher
	client    *txn.Client
	engine    *sql.Engine
	wire      *pgwire.Server
	http      *http.Server

	welcome chan struct{} // capacity 1, taken: a member's welcome is looked up and noted
	opened  atomic.Bool   // the replicas that the data directory knows are open

	wg         sync.WaitGroup
	background context.Context // of what Start begins; ends with Close
	failed     chan error
	closers    []func() // in the order of opening
	closed     sync.Once
	serving    serving
	vouching   struct {
		sync.Mutex       // serialises what is told of the clock; taken before no other lock but sessions'
		err        error // told last: why it does not vouch
	}
}

// serving is what /healthz tells.
type serving struct {
	mu  sync.Mutex
	err error // why the node does not serve; nil: it does
}

func (s *serving) set(err error) {
	s.mu.Lock()
	s.err = err
	s.mu.Unlock()
}

func (s *serving) get() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Addrs are the addresses that a node listens on.
type Addrs struct{ SQL, RPC, HTTP string }

type ports struct{ sql, rpc, http net.Listener }

// Start opens a node and returns when it serves SQL, which in a cluster needs a
// majority of the nodes. ctx ends the waiting, not the node. The error is one line for the
// operator.
func Start(ctx context.Context, cfg Config, log *slog.Logger) (*Node, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	n := &Node{cfg: cfg, log: log, failed: make(chan error, 1), versions: version.Binary, versionTold: make(chan struct{}, 1), welcome: make(chan struct{}, 1)}
	if cfg.versions != (version.Range{}) {
		n.versions = cfg.versions
	}
	n.serving.set(errors.New("starting"))
	if err := n.open(ctx); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

func (n *Node) open(ctx context.Context) (err error) {
	if n.members, err = n.cfg.Members(); err != nil {
		return err
	}
	for _, m := range n.members {
		if m.Name == n.cfg.Node {
			n.self = m.ID
		}
	}
	if err := n.openPorts(); err != nil {
		return err
	}
	if n.cfg.Cluster == "" && n.ports.rpc != nil {
		n.members[0].Addr = n.Addrs().RPC // port 0 has become one
	}
	if err := n.openClock(); err != nil {
		return err
	}
	recovered, fresh, err := n.openStore()
	if err != nil {
		return err
	}
	if err := n.openLife(); err != nil {
		return err
	}
	var cancel context.CancelFunc
	n.background, cancel = context.WithCancel(context.Background())
	n.closers = append(n.closers, cancel)
	background := n.background

	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	ofCells := map[keys.GroupID]storage.Recovered{}
	for g, rec := range recovered {
		if g.IsCell() {
			ofCells[g] = rec
			delete(recovered, g)
		}
	}
	n.cells, n.locks = n.newCells(ofCells), n.newLocks()
	n.openNetwork()
	n.replicas = replicas.New(replicas.Config{Node: n.self, Clock: n.clock, Caller: n.net, Logger: n.log, Recovered: recovered})
	n.net.Listen()
	if n.grpc == nil && n.ports.rpc != nil {
		n.lockGRPC()
	}
	n.lived = !fresh
	if fresh {
		if err := n.join(ctx); err != nil {
			return err
		}
	}
	if err := n.openHost(ctx); err != nil {
		return err
	}
	if err := n.openSQL(reg); err != nil {
		return err
	}
	n.net.HandleCalls(n.handleCall)
	n.registerMetrics(reg)
	if n.ports.http != nil {
		n.http = newHTTP(reg, n.healthy)
		n.wg.Go(func() { n.http.Serve(n.ports.http) })
		n.closers = append(n.closers, func() { n.http.Close() })
	}
	n.closers = append(n.closers, func() {
		over, cancel := context.WithCancel(background)
		cancel()
		n.locks.Shutdown(over) // without waiting
	})
	if err := n.net.Start(); err != nil {
		return err
	}
	n.host.Start()
	n.store.Start()
	n.opened.Store(true)
	n.wg.Go(func() { n.watchClock(background) })
	if n.cfg.Around.Opened != nil {
		n.cfg.Around.Opened(n)
	}

	if err := n.awaitCluster(ctx); err != nil {
		return err
	}
	n.wg.Go(func() { n.collectVersions(background) })
	n.wg.Go(func() { n.followVersion(background) })
	n.wg.Go(func() {
		if err := n.dir.Ensure(background); err != nil && background.Err() == nil {
			n.log.Warn("could not publish the first tablets", "err", err)
		}
	})
	n.wg.Go(func() {
		if err := n.wire.Serve(background, n.ports.sql); err != nil && background.Err() == nil {
			n.fail(fmt.Errorf("serving SQL: %w", err))
		}
	})
	n.serve(nil)
	return nil
}

// serve tells those who ask for the node's health: nil, it serves.
func (n *Node) serve(not error) {
	n.serving.set(not)
	n.tellHealth()
}

// openPorts listens before anything else is touched.
func (n *Node) openPorts() error {
	around := &n.cfg.Around
	n.ports.sql, n.ports.rpc = around.SQL, around.RPC
	for _, p := range []struct {
		flag, addr string
		ln         *net.Listener
		unused     bool
	}{
		{"--sql-addr", n.cfg.SQLAddr, &n.ports.sql, around.SQL != nil},
		{"--rpc-addr", n.cfg.RPCAddr, &n.ports.rpc, around.Network != nil || around.RPC != nil},
		{"--http-addr", n.cfg.HTTPAddr, &n.ports.http, around.Network != nil},
	} {
		if p.unused {
			continue
		}
		ln, err := net.Listen("tcp", p.addr)
		if errors.Is(err, syscall.EADDRINUSE) {
			return fmt.Errorf("%s %s: %w; is another spand running? stop it or choose another port", p.flag, p.addr, err)
		}
		if err != nil {
			return fmt.Errorf("%s %s: %w", p.flag, p.addr, err)
		}
		*p.ln = ln
		n.closers = append(n.closers, func() { ln.Close() })
	}
	return nil
}

func (n *Node) openClock() error {
	if c := n.cfg.Around.Clock; c != nil {
		n.clock, n.source = truetime.NewAdjustable(c), n.cfg.Around.ClockSource
		return nil
	}
	bound, kernel, err := n.cfg.ClockBound()
	if err != nil {
		return err
	}
	var clock truetime.Clock
	if kernel {
		k, err := truetime.NewKernel(truetime.KernelOptions{})
		if err != nil {
			return err
		}
		n.closers = append(n.closers, k.Close)
		clock, n.source = k, "kernel"
	} else {
		s, err := truetime.NewSystem(truetime.Options{Bound: bound, Isolated: len(n.members) == 1})
		if err != nil {
			return err
		}
		clock, n.source = s, fmt.Sprintf("vouched %v", bound)
	}
	n.clock = truetime.NewAdjustable(clock)
	return nil
}

// clusterID is the identity that a cluster's first nodes agree on without
// talking: a digest of the list that all of them were given.
func clusterID(members []Member) (id [16]byte) {
	h := sha256.New()
	fmt.Fprintln(h, "spand cluster 1")
	for _, m := range members {
		fmt.Fprintln(h, m.Name, m.Addr)
	}
	copy(id[:], h.Sum(nil))
	return id
}

// membersKey holds, durably, the --cluster list that the data directory was made with.
var membersKey = []byte{byte(storage.ClassNode), 'm'}

// openLife numbers this life of the node. The clock alone would not do: it may err by
// ε one way at one start and the other way at the next, and peers are deaf to an
// incarnation that retreats.
func (n *Node) openLife() (err error) {
	var now uint64
	if t := n.clock.Now().Latest; t != truetime.Max {
		now = uint64(t)
	}
	n.life, err = n.store.NextIncarnation(now)
	return err
}

// openStore opens the data directory. fresh says that this node has not taken part
// in its cluster yet, as far as the directory knows.
func (n *Node) openStore() (recovered map[keys.GroupID]storage.Recovered, fresh bool, err error) {
	id := storage.Identity{Node: n.self, Name: n.cfg.Node}
	var list string
	if n.cfg.Cluster != "" {
		id.Cluster = clusterID(n.members)
		names := make([]string, len(n.members))
		for i, m := range n.members {
			names[i] = m.Name + "=" + m.Addr
		}
		list = strings.Join(names, ",")
	}
	o := storage.Options{
		FS: n.cfg.Around.FS, Dir: n.cfg.DataDir, Identity: id, Versions: n.versions, Logger: n.log.With("room", "storage"),
		Fatal: n.cfg.Around.Exit,
	}
	tune(n.cfg.Around.Tune.Storage, &o)
	n.store, recovered, err = storage.Open(o)
	if err != nil {
		return nil, false, err
	}
	n.closers = append(n.closers, func() { n.store.Close() })
	n.cluster, n.list = n.store.Identity().Cluster, list
	known, ok, err := n.store.GetNode(membersKey)
	if err == nil && ok && string(known) != list {
		err = fmt.Errorf("%s belongs to a node of the cluster %s, not to a store of its own: start it with --cluster as it was made", n.cfg.DataDir, known)
	}
	return recovered, !ok, err
}

func (n *Node) openNetwork() {
	if make := n.cfg.Around.Network; make != nil {
		n.net = make(NetworkConfig{Self: n.self, Incarnation: n.life, Versions: n.versions, Welcome: n.welcomeMember})
	} else {
		n.grpc = n.newGRPC()
		n.net = n.grpc
	}
	n.closers = append(n.closers, n.net.Close)
}

// awaitCluster returns when the directory and the catalog answer: when this node
// reaches leaders for both, wherever they are.
func (n *Node) awaitCluster(ctx context.Context) error {
	const patience = 5 * time.Second
	for {
		attempt, cancel := context.WithTimeout(ctx, patience)
		err := n.engine.Start(attempt)
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if wrong := n.clock.Distrusted(); wrong != nil {
			return wrong
		}
		if !errors.Is(err, context.DeadlineExceeded) && !unavailable(err) {
			return err
		}
		n.log.Warn("waiting for a majority of the cluster", "members", len(n.members), "err", err)
	}
}

// fail ends the node from within; args tell the log more.
func (n *Node) fail(err error, args ...any) {
	n.log.Error("node failed", append(args, "err", err)...)
	n.serving.set(err)
	select {
	case n.failed <- err:
	default:
	}
}

// Failed yields the error that ended the node from within.
func (n *Node) Failed() <-chan error { return n.failed }

// Addrs returns the addresses that the node listens on, "" where it does not.
func (n *Node) Addrs() Addrs {
	addr := func(ln net.Listener) string {
		if ln == nil {
			return ""
		}
		return ln.Addr().String()
	}
	return Addrs{SQL: addr(n.ports.sql), RPC: addr(n.ports.rpc), HTTP: addr(n.ports.http)}
}

// Shutdown drains: statements under way get a moment, leaderships are handed over.
// A single node's checkpoint makes its next start quick; a member of a cluster makes
// none, since what the log holds behind the last one is all that it can serve a
// follower with after its restart: one that lacks an entry more needs a snapshot.
// Shutdown returns ctx's error when that took too long; the node is closed either
// way, and nothing acknowledged is lost.
func (n *Node) Shutdown(ctx context.Context) error {
	n.serve(errors.New("shutting down"))
	// SQL first, while the node can still finish what clients are in the middle
	// of; a third of the time each, so that handing over gets its turn.
	third := func() (context.Context, context.CancelFunc) {
		d, ok := ctx.Deadline()
		if !ok {
			return context.WithCancel(ctx)
		}
		return context.WithTimeout(ctx, time.Until(d)/3)
	}
	sqlCtx, cancel := third()
	err := n.wire.Shutdown(sqlCtx)
	cancel()
	drainCtx, cancel := third()
	err = errors.Join(err, n.host.Drain(drainCtx))
	cancel()
	locksCtx, cancel := third()
	n.locks.Shutdown(locksCtx) // who waited here learns where to go
	cancel()
	if n.grpc != nil {
		n.grpc.part()
	}
	if len(n.members) == 1 && !n.store.Full() {
		ckptCtx, cancel := third()
		err = errors.Join(err, n.store.Checkpoint(ckptCtx))
		cancel()
	}
	n.Close()
	return err
}

// Close stops everything at once, as a crash would but for the exit code.
func (n *Node) Close() {
	n.closed.Do(func() {
		for i := len(n.closers) - 1; i >= 0; i-- {
			n.closers[i]()
		}
		n.wg.Wait()
	})
}

// nameOf returns a member's name, "" for nobody's id.
func (n *Node) nameOf(id keys.NodeID) string {
	for _, m := range n.members {
		if m.ID == id {
			return m.Name
		}
	}
	return ""
}
