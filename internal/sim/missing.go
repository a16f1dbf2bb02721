package sim

import (
	"context"
	"errors"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/tablet"
	"github.com/spandb/spand/truetime"
	"github.com/spandb/spand/txn"
)

// unknownGroup mirrors internal/node's:  node from has sent something for a replica
// that is not open here. A node that was brought past a split by a snapshot of the
// parent has never applied the split, so nobody has opened the child's replica.
func (l *Life) unknownGroup(g keys.GroupID, r keys.ReplicaID, from keys.NodeID) {
	l.n.w.spawn(l, func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if err := l.openMissing(ctx, g, r, from); err != nil {
			l.log.Debug("missing replica not opened", "group", uint64(g), "err", err)
		}
	})
}

var errNotYet = errors.New("sim: a replica here may still hold the group's keys")

// openMissing opens a replica without data; the leader sends it a snapshot. It must
// not while a local replica may yet bring the group about by applying the split, or
// still reads or may wipe the keys: one that covers them, or whose own bounds are not
// known because its own snapshot is missing.
func (l *Life) openMissing(ctx context.Context, g keys.GroupID, r keys.ReplicaID, from keys.NodeID) error {
	desc, err := l.describe(ctx, g, from)
	if err != nil {
		return err
	}
	member := false
	for _, x := range desc.Replicas {
		member = member || x.Node == l.n.id && x.ID == r
	}
	if !member {
		return errors.New("sim: not a member")
	}
	for _, x := range l.all() {
		d := x.tablet.Descriptor()
		if d.Group == 0 || x.group.Status().Role == "incomplete" || d.Span.Overlaps(desc.Span) {
			return errNotYet
		}
	}
	if err = l.openReplica(desc, nil, true); err == nil {
		l.log.Info("opened a missing replica", "group", uint64(g), "from", from)
	}
	return err
}

// describe asks the group's leader for its descriptor: a read of a key that it does
// not hold is refused with it (B1).
func (l *Life) describe(ctx context.Context, g keys.GroupID, from keys.NodeID) (keys.Descriptor, error) {
	_, err := txn.NewRemote(l.end, from, g).Read(ctx, &tablet.ReadRequest{
		Target: tablet.Target{Group: g}, At: truetime.Timestamp(1), Gets: []keys.Key{keys.MinKey},
	})
	var re *tablet.RangeError
	if errors.As(err, &re) {
		for _, d := range re.Descriptors {
			if d.Group == g {
				return d, nil
			}
		}
	}
	return keys.Descriptor{}, errors.Join(errors.New("sim: no descriptor"), err)
}
