package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/tablet"
	"github.com/spandb/spand/tablet/directory"
	"github.com/spandb/spand/txn"
)

// openHost opens the groups of this node and what runs transactions over them.
func (n *Node) openHost(ctx context.Context) error {
	ids := make([]keys.NodeID, len(n.members))
	for i, m := range n.members {
		ids[i] = m.ID
	}
	boot := directory.Bootstrap(ids)
	groups := paxosgroup.Config{
		Node: n.self, Incarnation: n.life, FirstLife: !n.lived, Cluster: n.cluster, Nodes: ids,
		Clock: n.clock, Store: n.store, Transport: n.net, Logger: n.log,
		Name: n.nameOf, ClockOutvoted: n.clockOutvoted,
		GroupFailed: func(g keys.GroupID, err error) {
			if g.IsCell() {
				n.fail(fmt.Errorf("replica of a lock service's cell stopped: %w", err), "group", g)
				return
			}
			n.fail(fmt.Errorf("replica of tablet %d stopped: %w", g, err), "tablet", g)
		},
		UnknownGroup: n.unknownGroup,
	}
	tuning := &n.cfg.Around.Tune
	tune(tuning.Groups, &groups)
	host, err := paxosgroup.NewHost(groups)
	if err != nil {
		return err
	}
	n.host = host
	n.store.SetSource(host)
	n.closers = append(n.closers, func() {
		host.Close()
		n.replicas.Close()
		n.cells.Close()
	})

	n.dir = directory.New(directory.Config{Node: n.self, Clock: n.clock, Dialer: n.replicas.Directory(), Logger: n.log.With("room", "directory"), Boot: boot})
	n.cache = directory.NewCache(n.dir, 0, boot...)
	n.cache.UseLocal(n.replicas.Holding)
	client := txn.Config{
		Node: n.self, Clock: n.clock, Router: n.cache, Dialer: n.replicas, Directory: n.dir, Logger: n.log.With("room", "txn"),
		Fresh: n.replicas.Freshest, Distance: host.Distance,
	}
	tune(tuning.Txn, &client)
	n.client = txn.NewClient(client)
	n.closers = append(n.closers, n.client.Close)
	n.publisher = directory.NewPublisher(n.dir)
	n.closers = append(n.closers, n.publisher.Close)
	recovery := txn.NewRecovery(n.client)
	hooks := recovery.Hooks()
	hooks.SplitApplied = n.splitApplied
	tablets := tablet.Config{Reader: n.store, Hooks: hooks, Version: &n.version}
	tune(tuning.Tablets, &tablets)
	if err := n.replicas.Open(host, tablets, boot); err != nil {
		return err
	}
	if err := n.cells.Open(host); err != nil {
		return err
	}
	return n.replicas.CheckStart(ctx, n.cells.Highest())
}

// splitApplied opens the child of a split, on every replica, while the split is
// being applied.
func (n *Node) splitApplied(_ *tablet.Tablet, s tablet.SplitApplied) {
	if s.Holder == n.self {
		// Whoever asked for the split publishes it too; but it may die before it has.
		n.publisher.Enqueue(s.Parent, s.Child)
	}
	if err := n.replicas.OpenChild(s); err != nil {
		n.fail(err, "tablet", s.Child.Group)
	}
}

// unknownGroup is told of messages for a replica that is not open here: this node
// was brought past a split by a snapshot of the parent, so that it never applied
// the split, or it has lost its data. A cell needs nothing: the first cell's replica
// here opens it when it has caught up.
func (n *Node) unknownGroup(g keys.GroupID, r keys.ReplicaID, from keys.NodeID) {
	if g.IsCell() {
		return
	}
	n.wg.Go(func() {
		ctx, cancel := context.WithTimeout(n.background, 2*time.Second)
		defer cancel()
		if err := n.replicas.OpenMissing(ctx, g, r, from); err != nil {
			n.log.Debug("missing replica not opened", "tablet", g, "err", err)
		}
	})
}

// collectEvery separates collections of old versions. A tablet that this node does
// not lead refuses, which is no error.
const collectEvery = 5 * time.Minute

func (n *Node) collectVersions(ctx context.Context) {
	every := n.cfg.Around.Tune.CollectEvery
	switch {
	case every < 0:
		return
	case every == 0:
		every = collectEvery
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, r := range n.replicas.All() {
			dropped, err := r.Tablet.Collect(ctx)
			var notLeader *paxosgroup.NotLeaderError
			if err != nil && ctx.Err() == nil && !errors.As(err, &notLeader) {
				n.log.Warn("collecting old versions", "tablet", r.Tablet.Group(), "err", err)
			} else if dropped > 0 {
				n.log.Debug("collected old versions", "tablet", r.Tablet.Group(), "versions", dropped)
			}
		}
	}
}
