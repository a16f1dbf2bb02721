package replicas

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/storage"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/tablet"
	"github.com/spandb/spand/truetime"
	"github.com/spandb/spand/txn"
)

// Replica is one tablet on this node and the group that replicates it.
type Replica struct {
	Tablet *tablet.Tablet
	Group  *paxosgroup.Group
}

// Config of a Set.
type Config struct {
	Node   keys.NodeID
	Clock  truetime.Clock
	Caller txn.Caller // carries requests to other nodes
	Logger *slog.Logger
	// Recovered is what the store found of each group.
	Recovered map[keys.GroupID]storage.Recovered
}

// Set is the replicas on a node. It is read on every request and written when a
// tablet is opened. All methods may be called concurrently after Open.
type Set struct {
	cfg     Config
	host    *paxosgroup.Host
	tablets tablet.Config // what all have in common

	mu        sync.RWMutex // guards all below
	open      map[keys.GroupID]Replica
	recovered map[keys.GroupID]storage.Recovered // not opened yet
	leaders   map[keys.GroupID]keys.NodeID       // learned, for groups without a replica here
	highest   truetime.Timestamp                 // of all that was recovered
}

// New returns a Set without replicas.
func New(cfg Config) *Set {
	recovered := cfg.Recovered
	if recovered == nil {
		recovered = map[keys.GroupID]storage.Recovered{}
	}
	return &Set{cfg: cfg, recovered: recovered, open: map[keys.GroupID]Replica{}, leaders: map[keys.GroupID]keys.NodeID{}}
}

// Lost notes, before Open, a replica whose data is gone: it waits for a snapshot in
// the term of hs.
func (s *Set) Lost(g keys.GroupID, r keys.ReplicaID, hs storage.HardState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.recovered[g] = storage.Recovered{State: storage.GroupState{Replica: r, HardState: hs}, Incomplete: true}
}

// Open opens what a node has at its start, in host, as tablets says but for group
// and log. The first tablets are opened from their bootstrap state unless a
// checkpoint knows better; the others that a checkpoint knows, from it. Those of
// which only the log knows are children of splits, and replaying the parent opens
// them.
func (s *Set) Open(host *paxosgroup.Host, tablets tablet.Config, boot []keys.Descriptor) error {
	s.host, s.tablets = host, tablets
	for _, d := range boot {
		if err := s.openReplica(d, nil, false); err != nil {
			return err
		}
	}
	s.mu.RLock()
	var rest []keys.GroupID
	for g, rec := range s.recovered {
		if len(rec.State.Machine) > 0 {
			rest = append(rest, g)
		}
	}
	s.mu.RUnlock()
	slices.Sort(rest)
	for _, g := range rest {
		if err := s.openReplica(keys.Descriptor{Group: g}, nil, false); err != nil {
			return err
		}
	}
	return nil
}

// OpenChild opens the child of a split that is being applied, which every replica's
// hook does.
func (s *Set) OpenChild(sp tablet.SplitApplied) error { return s.openReplica(sp.Child, &sp, false) }

// openReplica opens one replica: of a split's child when split is given, of a
// checkpointed or bootstrap tablet otherwise, incomplete to wait for a snapshot.
// desc need only name the group when a checkpoint has the rest. One that is open,
// or whose host has stopped, is left alone.
func (s *Set) openReplica(desc keys.Descriptor, split *tablet.SplitApplied, incomplete bool) error {
	s.mu.Lock()
	if _, open := s.open[desc.Group]; open {
		s.mu.Unlock()
		return nil // a replayed split whose child a checkpoint already knew
	}
	rec, known := s.recovered[desc.Group]
	delete(s.recovered, desc.Group)
	s.mu.Unlock()

	gc := paxosgroup.GroupConfig{ID: desc.Group, Incomplete: incomplete || rec.Incomplete}
	if known {
		gc.Recovered = &rec
	}
	cfg := s.tablets
	cfg.Group, cfg.Node, cfg.Clock = desc.Group, s.cfg.Node, s.cfg.Clock
	cfg.Logger = s.cfg.Logger.With("room", "tablet", "tablet", uint64(desc.Group))
	t := tablet.New(cfg)
	switch {
	case split != nil:
		t = tablet.NewChild(cfg, *split)
		gc.Initial, gc.InheritedHolder, gc.Floor = split.State, split.Holder, split.Floor
		gc.InheritedUntil = s.host.Group(split.Parent.Group).PromisedUntil()
	case gc.Incomplete: // the snapshot brings its state
	case len(rec.State.Machine) == 0:
		gc.Initial = tablet.InitialState(desc)
	default:
		if err := t.Restore(rec.State.Machine); err != nil {
			return err
		}
		desc = t.Descriptor()
	}
	for _, r := range desc.Replicas {
		if r.Node == s.cfg.Node {
			gc.Replica = r.ID
		}
	}
	if gc.Replica == 0 {
		return fmt.Errorf("group %d has no replica on this node", cfg.Group)
	}
	gc.Replicas, gc.Machine = desc.Replicas, t
	gc.Preferred = desc.Replicas[int(desc.Group)%len(desc.Replicas)].Node
	var high truetime.Timestamp
	if known {
		high = max(paxosgroup.HighestTimestamp(&rec), t.Highest())
	}
	g, err := s.host.Open(gc)
	if errors.Is(err, paxosgroup.ErrStopped) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("opening group %d: %w", cfg.Group, err)
	}
	t.Bind(g)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[desc.Group] = Replica{t, g}
	s.highest = max(s.highest, high)
	return nil
}

// CheckStart refuses to serve on a clock that lies behind what is stored (T2), here or, as
// others says, in groups that are no tablets. A short way behind is waited out: the
// last timestamps before a crash may lie a lease ahead.
func (s *Set) CheckStart(ctx context.Context, others truetime.Timestamp) error {
	const patience = 2 * time.Second
	s.mu.RLock()
	highest := max(s.highest, others)
	s.mu.RUnlock()
	if BreakStart {
		return nil
	}
	err := truetime.CheckStart(s.cfg.Clock, highest)
	var behind *truetime.StartError
	if errors.As(err, &behind) && behind.Gap <= patience {
		return s.cfg.Clock.AwaitAfter(ctx, highest)
	}
	return err
}

// Get returns the replica of a group.
func (s *Set) Get(g keys.GroupID) (Replica, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	r, ok := s.open[g]
	return r, ok
}

// All returns the replicas in the order of their groups.
func (s *Set) All() []Replica {
	s.mu.RLock()
	defer s.mu.RUnlock()
	list := make([]Replica, 0, len(s.open))
	for _, r := range s.open {
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b Replica) int { return cmp.Compare(a.Tablet.Group(), b.Tablet.Group()) })
	return list
}

// Close ends what the tablets have running, after the host has been closed.
func (s *Set) Close() {
	for _, r := range s.All() {
		r.Tablet.Close()
	}
}
