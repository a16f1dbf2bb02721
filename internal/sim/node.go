package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spandb/spand/internal/cells"
	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/node"
	"github.com/spandb/spand/internal/replicas"
	"github.com/spandb/spand/internal/storage"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/tablet"
	"github.com/spandb/spand/truetime"
	"github.com/spandb/spand/txn"
)

// Node is a machine: a disk and a clock that outlive crashes, and at most one
// life at a time.
type Node struct {
	w    *World
	id   keys.NodeID
	name string
	temp string        // where its first disk's bbolt files lie
	torn *rand.Rand    // of crashes; for who has the turn
	turn chan struct{} // capacity 1: booting, draining or crashing

	lived atomic.Bool // it has run before

	mu     sync.Mutex // a leaf
	disk   *storage.MemFS
	life   *Life // nil: down
	slow   time.Duration
	fails  bool // every sync fails
	failed bool // one has, in this life
	clock  clockError
	added  time.Duration // to the bound that the clock claims
	paused chan struct{} // closed when the process goes on; nil: it runs
}

// clockError is how far a machine's clock is off.
type clockError struct {
	at  time.Time
	err time.Duration
	ppm float64
}

func (c clockError) now() time.Duration {
	return c.err + time.Duration(float64(time.Since(c.at))*c.ppm/1e6)
}

// Life is a node's process, from boot to death.
type Life struct {
	n     *Node
	clock *truetime.Manual
	end   atomic.Pointer[Endpoint] // nil before the store is open
	sql   *door
	rpc   *door // of the lock service

	// Once open: the rooms of the node.
	opened atomic.Bool
	node   *node.Node
	store  *storage.Store
	txns   *txn.Client
	set    *replicas.Set
	cells  *cells.Set
	trust  truetime.Clock // as the node sees it

	ctx     context.Context // ends with the life
	cancel  context.CancelFunc
	started chan struct{} // closed when node.Start has returned
	dead    atomic.Bool
	wg      sync.WaitGroup // of what runs in the life

	mu    sync.Mutex
	ended bool // nothing is spawned any more
}

// current returns the node's life once its groups run, nil while it is down.
func (n *Node) current() *Life {
	if l := n.process(); l != nil && l.opened.Load() {
		return l
	}
	return nil
}

// process returns the node's life, booting or not, nil while it is down.
func (n *Node) process() *Life {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.life
}

// inject is the disk's speed: every sync and commit takes time. Whether a sync fails
// is decided at its end.
func (n *Node) inject(op storage.Op, _ string) error {
	if op != storage.OpSync && op != storage.OpCommit {
		return nil
	}
	n.mu.Lock()
	d, paused := n.w.plan.DiskLatency+n.slow, n.paused
	n.mu.Unlock()
	time.Sleep(d + time.Duration(n.id)) // a nanosecond of its own
	if paused != nil {
		<-paused
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fails && op == storage.OpSync {
		n.failed = true
		return errors.New("input/output error")
	}
	return nil
}

// failSync makes the disk fail every sync until the node has died of the first one.
func (n *Node) failSync() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fails = n.life != nil
}

// diskFailed reports that a sync has failed in the node's present life.
func (n *Node) diskFailed() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.failed
}

func (n *Node) setSlow(d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.slow = d
}

// diskSpace is what an empty disk of a machine has, reserve what is kept free of it.
const (
	diskSpace = 1 << 40
	reserve   = 8 << 20
)

// setFull fills the disk to below the reserve, or empties it.
func (n *Node) setFull(full bool) {
	n.mu.Lock()
	disk := n.disk
	n.mu.Unlock()
	free := int64(diskSpace)
	if full {
		free = reserve / 2
	}
	disk.SetFree(free)
}

// wipe replaces the disk of a node that is down by an empty one, which makes temp.
func (n *Node) wipe(temp string) {
	disk := storage.NewMemFS(temp)
	disk.Inject(n.inject)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.disk = disk
}

// setPaused stops the process, or lets it go on: its clock stands still for it, disk
// and clients wait. The world stalls its network.
func (n *Node) setPaused(paused bool) {
	n.mu.Lock()
	was, l := n.paused, n.life
	switch {
	case paused && was == nil:
		n.paused = make(chan struct{})
	case !paused && was != nil:
		n.paused = nil
	}
	n.mu.Unlock()
	switch {
	case paused == (was != nil):
	case paused:
		if l != nil {
			l.clock.Hold()
			l.sql.stop()
			l.rpc.stop()
		}
	default:
		if l != nil {
			l.clock.Release()
			l.sql.proceed()
			l.rpc.proceed()
		}
		close(was)
	}
}

// awaitRunning waits until the process is not stopped: clients that live in it neither
// begin nor hear anything meanwhile.
func (n *Node) awaitRunning() {
	for {
		n.mu.Lock()
		paused := n.paused
		n.mu.Unlock()
		if paused == nil {
			return
		}
		<-paused
	}
}

// stopped reports that the process is paused.
func (n *Node) stopped() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.paused != nil
}

// setClock moves the machine's clock to an error of e that drifts by ppm.
func (n *Node) setClock(e time.Duration, ppm float64) {
	n.mu.Lock()
	old := n.clock.now()
	n.clock = clockError{time.Now(), e, ppm}
	l := n.life
	n.mu.Unlock()
	if l != nil {
		l.clock.SetDrift(ppm)
		l.clock.Step(e - old)
	}
}

// setAdded has the machine's clock claim d more than the plan's bound.
func (n *Node) setAdded(d time.Duration) {
	n.mu.Lock()
	n.added = d
	l := n.life
	n.mu.Unlock()
	if l != nil {
		l.clock.SetEpsilon(n.w.plan.Epsilon + d)
	}
}

// boot starts the node's process and does not wait.
func (n *Node) boot() {
	n.turn <- struct{}{}
	defer func() { <-n.turn }()
	if n.process() != nil {
		return
	}
	l := &Life{n: n, sql: newDoor(), rpc: newDoor(), started: make(chan struct{})}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	n.mu.Lock()
	n.fails, n.failed = false, false // it was not the disk's last life
	e := n.clock.now()
	ppm := n.clock.ppm
	epsilon := n.w.plan.Epsilon + n.added
	l.clock = truetime.NewManual(truetime.ManualOptions{Offset: e, Epsilon: epsilon})
	l.clock.SetDrift(ppm)
	if n.paused != nil {
		l.clock.Hold()
		l.sql.stop()
		l.rpc.stop()
	}
	n.life = l
	disk := n.disk
	n.mu.Unlock()
	cfg := l.config(disk)
	log := n.w.opts.Logger
	if log == nil {
		log = n.w.trace.logger(n.w.opts.logLevel())
	}
	log = log.With("node", n.name)
	l.wg.Go(func() { l.run(cfg, log) })
}

// run is the process's main: it returns when the node serves or has given up, and then
// reports what ends the node from within.
func (l *Life) run(cfg node.Config, log *slog.Logger) {
	nd, err := node.Start(l.ctx, cfg, log)
	w := l.n.w
	if err != nil {
		if !l.dead.Load() && l.ctx.Err() == nil {
			if w.plan.Lies || l.n.diskFailed() {
				w.trace.Addf("node %d does not start: %v", l.n.id, err)
			} else {
				inv := "F1"
				if l.n.lived.Load() { // what it needs was there once
					inv = "R1"
				}
				w.violate(inv, "node %d does not start: %v", l.n.id, err)
			}
			w.exits.Go(func() { l.n.crash(false) })
		}
		close(l.started)
		return
	}
	l.node = nd
	close(l.started)
	select {
	case err := <-nd.Failed():
		if !l.dead.Load() {
			w.violate("R4", "node %d failed: %v", l.n.id, err)
		}
	case <-l.ctx.Done():
	}
}

// config is the node as the plan wants it, in the world's surroundings.
func (l *Life) config(disk *storage.MemFS) node.Config {
	n, w := l.n, l.n.w
	p := &w.plan
	var list []string
	for _, o := range w.nodes {
		list = append(list, fmt.Sprintf("%s=%s:1", o.name, o.name))
	}
	cfg := node.Default()
	cfg.Node, cfg.DataDir, cfg.Cluster, cfg.Insecure = n.name, "/data", strings.Join(list, ","), true
	cfg.Around = node.Surroundings{
		Clock: l.clock, ClockSource: "simulated", FS: disk.Boot(), SQL: l.sql, RPC: l.rpc, Exit: l.exit, Opened: l.open,
		Network: func(c node.NetworkConfig) node.Network {
			e := w.net.Attach(c)
			l.end.Store(e)
			return e
		},
		Tune: node.Tuning{
			CollectEvery: -1, // the world does it, and takes notes
			Storage: func(o *storage.Options) {
				o.CheckpointKeys, o.CheckpointInterval, o.CheckpointSegments = p.CheckpointKeys, p.CheckpointInterval, 2
				o.SegmentBytes, o.Gather, o.MapBytes, o.Reserve = p.SegmentBytes, -1, 64<<20, reserve
			},
			Groups: func(c *paxosgroup.Config) {
				c.Workers, c.TailBudget = p.Workers, p.TailBudget
				c.Rand = rand.New(rand.NewPCG(p.Seed, uint64(n.id)))
				c.ClockSuspect = func(err error) {
					if !w.plan.Lies {
						w.violate("T2", "node %d suspects an honest clock: %v", n.id, err)
					}
				}
			},
			Txn: func(c *txn.Config) {
				c.StageAfter, c.ChunkBytes, c.InlineBytes = p.StageAfter, p.ChunkBytes, p.InlineBytes
			},
			Tablets: func(c *tablet.Config) { c.InDoubtAfter, c.VersionHorizon = p.InDoubtAfter, p.VersionHorizon },
		},
	}
	if w.opts.Tune != nil {
		w.opts.Tune(int(n.id)-1, &cfg.Around.Tune)
	}
	return cfg
}

// open takes the rooms of a node whose groups run.
func (l *Life) open(nd *node.Node) {
	r := nd.Rooms()
	l.store, l.txns, l.set, l.cells, l.trust = r.Store, r.Client, r.Replicas, r.Cells, r.Clock
	if l.n.w.plan.VersionHorizon > 0 {
		l.n.w.spawn(l, l.collect)
	}
	l.opened.Store(true)
	l.n.lived.Store(true)
}

// exit is what the process would do at once; it cannot wait for itself.
func (l *Life) exit(err error) {
	n, w := l.n, l.n.w
	switch {
	case l.dead.Load():
	case n.diskFailed():
		w.trace.Addf("node %d exits: %v", n.id, err)
		w.exits.Go(func() { n.crash(true) })
	default:
		w.violate("R1", "node %d: the store failed: %v", n.id, err)
	}
}

// collect drops old versions now and then, as internal/node does. What is there
// before is noted for the judgement.
func (l *Life) collect(ctx context.Context) {
	tick := time.NewTicker(700*time.Millisecond + time.Duration(l.n.id))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, r := range l.set.All() {
			if r.Group.Leader() != l.n.id {
				continue
			}
			kvs, err := dump(l.store)
			if err != nil {
				return // the store is closed
			}
			l.n.w.keep(kvs)
			if _, err := r.Tablet.Collect(ctx); err != nil {
				l.n.w.trace.Addf("    collecting at group %d: %v", r.Tablet.Group(), err)
			}
		}
	}
}

// crash ends the life; what the disk had not synced is lost, or torn.
func (n *Node) crash(torn bool) {
	n.turn <- struct{}{}
	defer func() { <-n.turn }()
	n.mu.Lock()
	l, disk := n.life, n.disk
	n.life, n.fails = nil, false
	n.mu.Unlock()
	if l == nil {
		return
	}
	l.dead.Store(true)
	l.cancel()
	if e := l.end.Load(); e != nil {
		e.Detach()
	}
	l.sql.cut()
	l.rpc.cut()
	n.setPaused(false) // a commit that is under way must come to its end
	var r *rand.Rand
	if torn {
		r = n.torn
	}
	if err := disk.Crash(r); err != nil {
		n.w.violate("R1", "node %d: the simulated disk failed: %v", n.id, err)
	}
	l.stop()
}

// drainTime is how long a clean shutdown may take.
const drainTime = 3 * time.Second

// drain shuts the node down cleanly, as SIGTERM does.
func (n *Node) drain() error {
	n.turn <- struct{}{}
	defer func() { <-n.turn }()
	l := n.current()
	if l == nil {
		return nil
	}
	select {
	case <-l.started:
	default:
		return errors.New("it has not started yet")
	}
	n.setPaused(false)
	ctx, cancel := context.WithTimeout(l.ctx, drainTime)
	defer cancel()
	l.dead.Store(true) // what clients are told from now on is an exit's doing
	var err error
	began := time.Now()
	if l.node != nil {
		err = l.node.Shutdown(ctx)
	}
	if took := time.Since(began); took > drainTime+time.Second {
		n.w.violate("liveness", "node %d takes %v to shut down, with %v allowed", n.id, took, drainTime)
	}
	n.mu.Lock()
	n.life = nil
	n.mu.Unlock()
	l.cancel()
	l.sql.cut()
	l.rpc.cut()
	l.stop()
	return err
}

// stop ends the goroutines of a dead life.
func (l *Life) stop() {
	l.mu.Lock()
	l.ended = true
	l.mu.Unlock()
	<-l.started
	if l.node != nil {
		l.node.Close()
	}
	l.wg.Wait()
	if !l.opened.Load() {
		return
	}
	st, w := l.txns.Stats(), l.n.w
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stats.TwoPhase += st.TwoPhase.Load()
	w.stats.Inquired += st.Inquired.Load()
	w.stats.Staged += st.Staged.Load()
}
