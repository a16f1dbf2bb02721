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
//
// Nor while a split is being applied. The parent has let go of the child's keys then, and
// the child is about to be opened, maybe with a log from an earlier life: opened
// empty instead, it would have forgotten votes and entries that it acknowledged (R1).
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
	holders := func() []holder {
		var list []holder
		for _, x := range s.All() {
			list = append(list, holding{x})
		}
		return list
	}
	if err := nobodyHolds(holders, desc.Span); err != nil {
		return err
	}
	if _, open := s.Get(g); open {
		return nil // a split has brought it meanwhile
	}
	err = s.openReplica(desc, nil, true)
	if err == nil {
		s.cfg.Logger.Info("opened a missing replica", "tablet", uint64(g), "from", from)
	}
	return err
}

// holder is what nobodyHolds asks of a replica.
type holder interface {
	Descriptor() keys.Descriptor
	Splitting() bool
	Incomplete() bool
}

type holding struct{ Replica }

func (h holding) Descriptor() keys.Descriptor { return h.Tablet.Descriptor() }
func (h holding) Splitting() bool             { return h.Tablet.Splitting() }
func (h holding) Incomplete() bool            { return h.Group.Status().Role == "incomplete" }

// nobodyHolds returns an error unless it is certain that no replica here covers span or
// will open one that does. The order of its looks matters: a split lets go of keys, opens
// the child, and only then ends; so if no replica covers span, none is in the middle of
// a split after that, and none has been opened since the list was made, then nobody
// has the keys, in whichever instants these looks fell.
func nobodyHolds(holders func() []holder, span keys.Span) error {
	list := holders()
	for _, h := range list {
		if d := h.Descriptor(); d.Group == 0 || h.Incomplete() || d.Span.Overlaps(span) {
			return fmt.Errorf("tablet %d may still hold its keys", d.Group)
		}
	}
	for _, h := range list {
		if h.Splitting() {
			return fmt.Errorf("tablet %d is being split", h.Descriptor().Group)
		}
	}
	if len(holders()) != len(list) { // replicas are never closed while the node runs
		return errors.New("a tablet has just been opened")
	}
	return nil
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
