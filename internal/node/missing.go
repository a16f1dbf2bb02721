package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/tablet"
	"github.com/spandb/spand/txn"
)

// unknownGroup is told of messages for a replica that is not open here: this node
// was brought past a split by a snapshot of the parent, so that it never applied
// the split, or it has lost its data.
func (n *Node) unknownGroup(g keys.GroupID, r keys.ReplicaID, from keys.NodeID) {
	n.wg.Go(func() {
		ctx, cancel := context.WithTimeout(n.background, 2*time.Second)
		defer cancel()
		if err := n.openMissing(ctx, g, r, from); err != nil {
			n.log.Debug("missing replica not opened", "group", g, "err", err)
		}
	})
}

// openMissing opens a replica without data, to which the leader will send a
// snapshot. It must not while a replica here still holds the group's keys, or may
// yet apply the split that makes the group.
func (n *Node) openMissing(ctx context.Context, g keys.GroupID, r keys.ReplicaID, from keys.NodeID) error {
	desc, err := n.describe(ctx, g, from)
	if err != nil {
		return err
	}
	member := false
	for _, x := range desc.Replicas {
		member = member || x.Node == n.self && x.ID == r
	}
	if !member {
		return fmt.Errorf("replica %d of group %d is not on this node", r, g)
	}
	for _, x := range n.replicas.all() {
		if d := x.tablet.Descriptor(); d.Group == 0 || x.group.Status().Role == "incomplete" || d.Span.Overlaps(desc.Span) {
			return fmt.Errorf("tablet %d may still hold its keys", x.tablet.Group())
		}
	}
	err = n.openReplica(desc, nil, true)
	if err == nil {
		n.log.Info("opened a missing replica", "group", g, "from", from)
	}
	return err
}

// describe asks a group's replica for its descriptor: a read of a key that it
// does not hold is refused with it (B1).
func (n *Node) describe(ctx context.Context, g keys.GroupID, from keys.NodeID) (keys.Descriptor, error) {
	_, err := txn.NewRemote(n.net, from, g).Read(ctx, &tablet.ReadRequest{Target: tablet.Target{Group: g}, At: 1, Gets: []keys.Key{keys.MinKey}})
	var re *tablet.RangeError
	if errors.As(err, &re) {
		for _, d := range re.Descriptors {
			if d.Group == g {
				return d, nil
			}
		}
	}
	return keys.Descriptor{}, fmt.Errorf("node %d does not describe group %d: %w", from, g, err)
}

// collectEvery separates collections of old versions. A tablet that this node does
// not lead refuses, which is no error.
const collectEvery = 5 * time.Minute

func (n *Node) collectVersions(ctx context.Context) {
	tick := time.NewTicker(collectEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, r := range n.replicas.all() {
			dropped, err := r.tablet.Collect(ctx)
			var notLeader *paxosgroup.NotLeaderError
			if err != nil && ctx.Err() == nil && !errors.As(err, &notLeader) {
				n.log.Warn("collecting old versions", "tablet", r.tablet.Group(), "err", err)
			} else if dropped > 0 {
				n.log.Debug("collected old versions", "tablet", r.tablet.Group(), "versions", dropped)
			}
		}
	}
}
