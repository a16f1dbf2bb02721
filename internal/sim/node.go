package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/replicas"
	"github.com/spandb/spand/internal/storage"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/tablet"
	"github.com/spandb/spand/tablet/directory"
	"github.com/spandb/spand/truetime"
	"github.com/spandb/spand/txn"
)

// Node is a machine: a disk and a clock that outlive crashes, and at most one
// life at a time.
type Node struct {
	w    *World
	id   keys.NodeID
	disk *storage.MemFS
	torn *rand.Rand    // of crashes; for who has the turn
	turn chan struct{} // capacity 1: starting, draining or crashing

	lived bool // it has run before; for who has the turn

	mu     sync.Mutex // a leaf
	life   *Life      // nil: down
	slow   time.Duration
	fails  bool // every sync fails
	failed bool // one has, in this life
	clock  clockError
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

// Life is a node between a start and a crash, assembled like internal/node.Node,
// its replicas by the same code (internal/replicas).
type Life struct {
	n     *Node
	log   *slog.Logger
	clock *truetime.Manual
	store *storage.Store
	end   *Endpoint
	host  *paxosgroup.Host
	dir   *directory.Directory
	cache *directory.Cache
	txns  *txn.Client
	pub   *directory.Publisher
	set   *replicas.Set

	ctx    context.Context // ends with the life
	cancel context.CancelFunc
	wg     sync.WaitGroup
	dead   atomic.Bool

	mu    sync.RWMutex
	ended bool // nothing is spawned any more
}

// current returns the node's life, nil while it is down.
func (n *Node) current() *Life {
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
	d := n.w.plan.DiskLatency + n.slow
	n.mu.Unlock()
	time.Sleep(d + time.Duration(n.id)) // a nanosecond of its own
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

func (n *Node) setSlow(d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.slow = d
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

// start boots the node.
func (n *Node) start() error {
	n.turn <- struct{}{}
	defer func() { <-n.turn }()
	if n.current() != nil {
		return nil
	}
	w := n.w
	l := &Life{n: n, log: w.trace.logger(w.opts.logLevel()).With("node", n.id)}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	n.mu.Lock()
	n.fails, n.failed = false, false // it was not the disk's last life
	e := n.clock.now()
	ppm := n.clock.ppm
	n.mu.Unlock()
	l.clock = truetime.NewManual(truetime.ManualOptions{Offset: e, Epsilon: w.plan.Epsilon})
	l.clock.SetDrift(ppm)
	p := &w.plan
	store, recovered, err := storage.Open(storage.Options{
		FS: n.disk.Boot(), Dir: "/data", Logger: l.log.With("room", "storage"),
		Identity:       storage.Identity{Node: n.id, Name: fmt.Sprint("n", n.id), Cluster: clusterID},
		CheckpointKeys: p.CheckpointKeys, CheckpointInterval: p.CheckpointInterval, CheckpointSegments: 2,
		SegmentBytes: p.SegmentBytes, Gather: -1, MapBytes: 64 << 20, Reserve: -1,
		Fatal: func(err error) {
			n.mu.Lock()
			expected := n.failed
			n.mu.Unlock()
			switch {
			case l.dead.Load():
			case expected:
				// What the process would do at once; it cannot wait for itself.
				w.trace.Addf("node %d exits: %v", n.id, err)
				w.exits.Go(func() { n.crash(true) })
			default:
				w.violate("R1", "node %d: the store failed: %v", n.id, err)
			}
		},
	})
	if err != nil {
		return fmt.Errorf("opening the store: %w", err)
	}
	l.store, l.end = store, w.net.Attach(n.id)
	l.set = replicas.New(replicas.Config{Node: n.id, Clock: l.clock, Caller: l.end, Logger: l.log, Recovered: recovered})
	l.end.HandleCalls(func(ctx context.Context, _ keys.NodeID, method byte, payload []byte) []byte {
		return txn.Serve(ctx, l.set, method, payload)
	})
	if err := l.openHost(); err != nil {
		l.end.Detach()
		l.stop()
		return err
	}
	n.lived = true
	l.host.Start()
	l.store.Start()
	l.wg.Go(func() {
		if err := l.dir.Ensure(l.ctx); err != nil && l.ctx.Err() == nil {
			l.log.Warn("could not publish the first tablets", "err", err)
		}
	})
	if p.VersionHorizon > 0 {
		l.wg.Go(l.collect)
	}
	n.mu.Lock()
	n.life = l
	n.mu.Unlock()
	return nil
}

var clusterID = [16]byte{'s', 'i', 'm'}

func (l *Life) openHost() error {
	w, self := l.n.w, l.n.id
	boot := directory.Bootstrap(w.ids)
	inc, err := l.store.NextIncarnation(uint64(l.clock.Now().Latest))
	if err != nil {
		return err
	}
	host, err := paxosgroup.NewHost(paxosgroup.Config{
		Node: self, Incarnation: inc, FirstLife: !l.n.lived, Cluster: clusterID, Nodes: w.ids, Clock: l.clock, Store: l.store, Transport: l.end,
		Logger: l.log, Workers: w.plan.Workers, TailBudget: w.plan.TailBudget, Rand: rand.New(rand.NewPCG(w.plan.Seed, uint64(self))),
		ClockSuspect: func(err error) {
			if !w.opts.LyingClocks {
				w.violate("T2", "node %d suspects an honest clock: %v", self, err)
			}
		},
		GroupFailed: func(g keys.GroupID, err error) {
			if !l.dead.Load() {
				w.violate("R4", "node %d: replica of group %d stopped: %v", self, g, err)
			}
		},
		UnknownGroup: l.unknownGroup,
	})
	if err != nil {
		return err
	}
	l.host = host
	l.store.SetSource(host)
	l.dir = directory.New(directory.Config{Node: self, Clock: l.clock, Dialer: l.set.Directory(), Logger: l.log.With("room", "directory"), Boot: boot})
	l.cache = directory.NewCache(l.dir, 0, boot...)
	p := &w.plan
	l.txns = txn.NewClient(txn.Config{
		Node: self, Clock: l.clock, Router: l.cache, Dialer: l.set, Directory: l.dir, Logger: l.log.With("room", "txn"),
		StageAfter: p.StageAfter, ChunkBytes: p.ChunkBytes, InlineBytes: p.InlineBytes,
	})
	hooks := txn.NewRecovery(l.txns).Hooks()
	l.pub = directory.NewPublisher(l.dir)
	hooks.SplitApplied = func(_ *tablet.Tablet, s tablet.SplitApplied) {
		if s.Holder == self {
			l.pub.Enqueue(s.Parent, s.Child)
		}
		if err := l.set.OpenChild(s); err != nil && !l.dead.Load() {
			w.violate("B1", "node %d: opening the child of a split: %v", self, err)
		}
	}
	tablets := tablet.Config{Reader: l.store, Hooks: hooks, InDoubtAfter: p.InDoubtAfter, VersionHorizon: p.VersionHorizon}
	if err := l.set.Open(host, tablets, boot); err != nil {
		return err
	}
	return l.set.CheckStart(l.ctx)
}

// unknownGroup is told that node from has sent something for a replica that is not
// open here.
func (l *Life) unknownGroup(g keys.GroupID, r keys.ReplicaID, from keys.NodeID) {
	l.n.w.spawn(l, func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if err := l.set.OpenMissing(ctx, g, r, from); err != nil {
			l.log.Debug("missing replica not opened", "group", uint64(g), "err", err)
		}
	})
}

// collect drops old versions now and then, as internal/node does. What is there
// before is noted for the judgement.
func (l *Life) collect() {
	tick := time.NewTicker(700*time.Millisecond + time.Duration(l.n.id))
	defer tick.Stop()
	for {
		select {
		case <-l.ctx.Done():
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
			if _, err := r.Tablet.Collect(l.ctx); err != nil {
				l.log.Debug("collecting", "group", uint64(r.Tablet.Group()), "err", err)
			}
		}
	}
}

// crash ends the life; what the disk had not synced is lost, or torn.
func (n *Node) crash(torn bool) {
	n.turn <- struct{}{}
	defer func() { <-n.turn }()
	n.mu.Lock()
	l := n.life
	n.life, n.fails = nil, false
	n.mu.Unlock()
	if l == nil {
		return
	}
	l.dead.Store(true)
	l.end.Detach()
	var r *rand.Rand
	if torn {
		r = n.torn
	}
	if err := n.disk.Crash(r); err != nil {
		n.w.violate("R1", "node %d: the simulated disk failed: %v", n.id, err)
	}
	l.stop()
}

// drain shuts the node down cleanly: it hands its leaderships over and takes a
// checkpoint, as far as a moment allows.
func (n *Node) drain() error {
	n.turn <- struct{}{}
	defer func() { <-n.turn }()
	l := n.current()
	if l == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(l.ctx, time.Second)
	defer cancel()
	err := l.host.Drain(ctx)
	err = errors.Join(err, l.store.Checkpoint(ctx))
	n.mu.Lock()
	n.life = nil
	n.mu.Unlock()
	l.dead.Store(true)
	l.end.Detach()
	l.stop()
	return err
}

// stop ends the goroutines of a detached life.
func (l *Life) stop() {
	l.mu.Lock()
	l.ended = true
	l.mu.Unlock()
	l.cancel()
	if l.pub != nil {
		l.pub.Close()
	}
	if l.txns != nil {
		l.txns.Close()
		st, w := l.txns.Stats(), l.n.w
		w.mu.Lock()
		w.stats.TwoPhase += st.TwoPhase.Load()
		w.stats.Inquired += st.Inquired.Load()
		w.stats.Staged += st.Staged.Load()
		w.mu.Unlock()
	}
	if l.host != nil {
		l.host.Close()
		l.set.Close()
	}
	l.end.Wait()
	l.wg.Wait()
	if err := l.store.Close(); err != nil {
		l.log.Debug("closing the store", "err", err)
	}
}
