package replicas

import (
	"context"
	"errors"
	"fmt"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/tablet"
	"github.com/spandb/spand/txn"
)

// OpenMissing opens a replica without data, to which the leader will send a
// snapshot, because node from has sent something for it: this node was brought past
// a split by a snapshot of the parent, so that it never applied the split, or it
// has lost its data. It must not while a replica here still reads, holds or may wipe
// the group's keys, or may yet apply the split that makes the group: one that covers
// them, or whose own bounds are not known because its snapshot is missing.
func (s *Set) OpenMissing(ctx context.Context, g keys.GroupID, r keys.ReplicaID, from keys.NodeID) error {
	desc, err := s.describe(ctx, g, from)
	if err != nil {
		return err
	}
	member := false
	for _, x := range desc.Replicas {
		member = member || x.Node == s.cfg.Node && x.ID == r
	}
	if !member {
		return fmt.Errorf("replica %d of group %d is not on this node", r, g)
	}
	for _, x := range s.All() {
		if d := x.Tablet.Descriptor(); d.Group == 0 || x.Group.Status().Role == "incomplete" || d.Span.Overlaps(desc.Span) {
			return fmt.Errorf("tablet %d may still hold its keys", x.Tablet.Group())
		}
	}
	err = s.openReplica(desc, nil, true)
	if err == nil {
		s.cfg.Logger.Info("opened a missing replica", "tablet", uint64(g), "from", from)
	}
	return err
}

// describe asks a group's replica for its descriptor: a read of a key that it
// does not hold is refused with it (B1).
func (s *Set) describe(ctx context.Context, g keys.GroupID, from keys.NodeID) (keys.Descriptor, error) {
	_, err := txn.NewRemote(s.cfg.Caller, from, g).Read(ctx, &tablet.ReadRequest{Target: tablet.Target{Group: g}, At: 1, Gets: []keys.Key{keys.MinKey}})
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
