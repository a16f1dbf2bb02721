package node

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"sync"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/storage"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/tablet"
	"github.com/spandb/spand/tablet/directory"
	"github.com/spandb/spand/truetime"
	"github.com/spandb/spand/txn"
)

// replica is one tablet on this node and the group that replicates it.
type replica struct {
	tablet *tablet.Tablet
	group  *paxosgroup.Group
}

// replicas are the tablets on this node. It is read on every request and
// written when a tablet is opened.
type replicas struct {
	mu        sync.RWMutex
	byGroup   map[keys.GroupID]replica
	recovered map[keys.GroupID]storage.Recovered // not opened yet
	leaders   map[keys.GroupID]keys.NodeID       // learned, for groups without a replica here
}

func newReplicas(recovered map[keys.GroupID]storage.Recovered) *replicas {
	return &replicas{byGroup: map[keys.GroupID]replica{}, recovered: recovered, leaders: map[keys.GroupID]keys.NodeID{}}
}

func (r *replicas) get(g keys.GroupID) (replica, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	x, ok := r.byGroup[g]
	return x, ok
}

func (r *replicas) all() []replica {
	r.mu.RLock()
	defer r.mu.RUnlock()
	list := make([]replica, 0, len(r.byGroup))
	for _, x := range r.byGroup {
		list = append(list, x)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].tablet.Group() < list[j].tablet.Group() })
	return list
}

func (n *Node) openHost(ctx context.Context) error {
	ids := make([]keys.NodeID, len(n.members))
	for i, m := range n.members {
		ids[i] = m.ID
	}
	boot := directory.Bootstrap(ids)
	host, err := paxosgroup.NewHost(paxosgroup.Config{
		Node: n.self, Incarnation: n.life, Cluster: n.cluster, Nodes: ids,
		Clock: n.clock, Store: n.store, Transport: n.net, Logger: n.log,
		ClockSuspect: func(err error) { n.log.Error("clock disagrees with a peer's", "err", err) },
		GroupFailed: func(g keys.GroupID, err error) {
			n.fail(fmt.Errorf("replica of tablet %d stopped: %w", g, err), "tablet", g)
		},
		UnknownGroup: n.unknownGroup,
	})
	if err != nil {
		return err
	}
	n.host = host
	n.store.SetSource(host)
	n.closers = append(n.closers, func() {
		host.Close()
		for _, r := range n.replicas.all() {
			r.tablet.Close()
		}
	})

	n.dir = directory.New(directory.Config{Node: n.self, Clock: n.clock, Dialer: directoryDialer{n}, Logger: n.log.With("room", "directory"), Boot: boot})
	n.cache = directory.NewCache(n.dir, 0, boot...)
	n.client = txn.NewClient(txn.Config{
		Node: n.self, Clock: n.clock, Router: n.cache, Dialer: n, Directory: n.dir, Logger: n.log.With("room", "txn"),
	})
	n.closers = append(n.closers, n.client.Close)
	n.publisher = directory.NewPublisher(n.dir)
	n.closers = append(n.closers, n.publisher.Close)
	recovery := txn.NewRecovery(n.client)
	n.hooks = recovery.Hooks()
	n.hooks.SplitApplied = n.splitApplied

	// The first tablets are opened from their bootstrap state unless a checkpoint
	// knows better; the others that a checkpoint knows, from it. Those of which only the log
	// knows are children of splits, and replaying the parent opens them.
	for _, d := range boot {
		if err := n.openTablet(d, nil); err != nil {
			return err
		}
	}
	for _, g := range n.replicas.checkpointed() {
		if err := n.openTablet(keys.Descriptor{Group: g}, nil); err != nil {
			return err
		}
	}
	return n.checkStart(ctx)
}

// checkpointed lists the groups not opened yet that a checkpoint knows.
func (r *replicas) checkpointed() []keys.GroupID {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var list []keys.GroupID
	for g, rec := range r.recovered {
		if len(rec.State.Machine) > 0 {
			list = append(list, g)
		}
	}
	return list
}

// checkStart refuses to serve on a clock that lies behind what is stored (T2). A
// short way behind is waited out: the last timestamps before a crash may lie a
// lease ahead.
func (n *Node) checkStart(ctx context.Context) error {
	const patience = 2 * time.Second
	err := truetime.CheckStart(n.clock, n.highest)
	var behind *truetime.StartError
	if errors.As(err, &behind) && behind.Gap <= patience {
		return n.clock.AwaitAfter(ctx, n.highest)
	}
	return err
}

// openTablet opens one replica: of a split's child when split is given, of a
// checkpointed or bootstrap tablet otherwise. desc need only name the group when
// a checkpoint has the rest.
func (n *Node) openTablet(desc keys.Descriptor, split *tablet.SplitApplied) error {
	return n.openReplica(desc, split, false)
}

// openReplica is openTablet, or opens a replica that waits for a snapshot.
func (n *Node) openReplica(desc keys.Descriptor, split *tablet.SplitApplied, incomplete bool) error {
	n.replicas.mu.Lock()
	if _, open := n.replicas.byGroup[desc.Group]; open {
		n.replicas.mu.Unlock()
		return nil // a replayed split whose child a checkpoint already knew
	}
	rec, known := n.replicas.recovered[desc.Group]
	delete(n.replicas.recovered, desc.Group)
	n.replicas.mu.Unlock()

	gc := paxosgroup.GroupConfig{ID: desc.Group, Incomplete: incomplete || rec.Incomplete}
	if known {
		gc.Recovered = &rec
	}
	cfg := tablet.Config{Group: desc.Group, Node: n.self, Clock: n.clock, Reader: n.store, Logger: n.log.With("room", "tablet", "tablet", desc.Group), Hooks: n.hooks, Version: &n.version}
	t := tablet.New(cfg)
	switch {
	case split != nil:
		t = tablet.NewChild(cfg, *split)
		gc.Initial, gc.InheritedHolder, gc.Floor = split.State, split.Holder, split.Floor
	case gc.Incomplete: // the snapshot brings its state
	case len(rec.State.Machine) == 0:
		gc.Initial = tablet.InitialState(desc)
	default:
		if err := t.Restore(rec.State.Machine); err != nil {
			return err
		}
		desc = t.Descriptor()
	}
	if known {
		n.highest = max(n.highest, paxosgroup.HighestTimestamp(&rec), t.Highest())
	}
	for _, r := range desc.Replicas {
		if r.Node == n.self {
			gc.Replica = r.ID
		}
	}
	if gc.Replica == 0 {
		return fmt.Errorf("group %d has no replica on this node", cfg.Group)
	}
	gc.Replicas, gc.Machine = desc.Replicas, t
	gc.Preferred = desc.Replicas[int(desc.Group)%len(desc.Replicas)].Node
	g, err := n.host.Open(gc)
	if err != nil {
		return fmt.Errorf("opening group %d: %w", cfg.Group, err)
	}
	t.Bind(g)
	n.replicas.mu.Lock()
	n.replicas.byGroup[desc.Group] = replica{t, g}
	n.replicas.mu.Unlock()
	return nil
}

// splitApplied opens the child of a split, on every replica, while the split is
// being applied.
func (n *Node) splitApplied(_ *tablet.Tablet, s tablet.SplitApplied) {
	if s.Holder == n.self {
		// Whoever asked for the split publishes it too; but it may die before it has.
		n.publisher.Enqueue(s.Parent, s.Child)
	}
	if err := n.openTablet(s.Child, &s); err != nil {
		n.fail(err)
	}
}
