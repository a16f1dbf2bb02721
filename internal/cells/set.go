package cells

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/storage"
	"github.com/spandb/spand/lockservice/cell"
	"github.com/spandb/spand/lockservice/cell/state"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/tablet/directory"
	"github.com/spandb/spand/truetime"
)

// First is the name of the first cell.
const First = state.FirstCell

// Replica is this node's replica of one cell and the group that replicates it.
type Replica struct {
	Name     string
	Replicas []keys.Replica // of the cell, where they are
	Cell     *cell.Cell
	Group    *paxosgroup.Group
}

// Config of a Set.
type Config struct {
	Node keys.NodeID
	// Nodes are the members, in the order of their ids: where the first cell is.
	Nodes []keys.NodeID
	// Cell is what all cells have in common; name, group and logger are filled in.
	Cell   cell.Config
	Logger *slog.Logger
	// Recovered is what the store found of each cell's group.
	Recovered map[keys.GroupID]storage.Recovered
	// Failed is told of a cell that exists and cannot be opened here.
	Failed func(error)
}

// Set is the cells on a node. All methods may be called concurrently after Open.
type Set struct {
	cfg  Config
	host *paxosgroup.Host

	mu        sync.RWMutex // guards all below
	open      map[string]Replica
	recovered map[keys.GroupID]storage.Recovered // not opened yet
	highest   truetime.Timestamp                 // of all that was recovered
}

// New returns a Set without replicas.
func New(cfg Config) *Set {
	recovered := cfg.Recovered
	if recovered == nil {
		recovered = map[keys.GroupID]storage.Recovered{}
	}
	s := &Set{cfg: cfg, recovered: recovered, open: map[string]Replica{}}
	for _, rec := range recovered { // also of cells that only the first one's log knows
		s.highest = max(s.highest, paxosgroup.HighestTimestamp(&rec))
	}
	return s
}

// Lost notes, before Open, a replica whose data is gone: it waits for a snapshot in the
// term of hs.
func (s *Set) Lost(g keys.GroupID, r keys.ReplicaID, hs storage.HardState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.recovered[g] = storage.Recovered{State: storage.GroupState{Replica: r, HardState: hs}, Incomplete: true}
}

// Open opens the first cell in host, and with it those that a checkpoint of it knows.
// Later ones follow when the log is replayed.
func (s *Set) Open(host *paxosgroup.Host) error {
	s.host = host
	first := state.Cell{Name: First, Group: uint64(keys.FirstCell)}
	for _, r := range directory.NewReplicas(s.cfg.Nodes) {
		first.Replicas = append(first.Replicas, state.Replica{Node: uint64(r.Node), ID: uint64(r.ID)})
	}
	return s.openReplica(first)
}

// exist opens the cells of a list that are not open yet. It is called by the first
// cell's replica, while it applies or restores what brought them.
func (s *Set) exist(list []state.Cell) {
	for _, c := range list {
		if err := s.openReplica(c); err != nil {
			s.cfg.Failed(err)
		}
	}
}

// openReplica opens this node's replica of a cell. One that is open, is not on this
// node, or whose host has stopped, is left alone.
func (s *Set) openReplica(c state.Cell) error {
	g := keys.GroupID(c.Group)
	s.mu.RLock()
	_, open := s.open[c.Name]
	rec, known := s.recovered[g]
	s.mu.RUnlock()
	if open {
		return nil
	}

	gc := paxosgroup.GroupConfig{ID: g, Incomplete: rec.Incomplete}
	for _, r := range c.Replicas {
		gc.Replicas = append(gc.Replicas, keys.Replica{Node: keys.NodeID(r.Node), ID: keys.ReplicaID(r.ID)})
		if keys.NodeID(r.Node) == s.cfg.Node {
			gc.Replica = keys.ReplicaID(r.ID)
		}
	}
	switch {
	case !g.IsCell():
		return fmt.Errorf("cell %s claims group %d, which is a tablet's", c.Name, g)
	case gc.Replica == 0 && c.Name == First:
		return fmt.Errorf("cell %s has no replica on this node", c.Name)
	case gc.Replica == 0:
		return nil
	}
	if known {
		gc.Recovered = &rec
	}
	gc.Preferred = gc.Replicas[int(g-keys.FirstCell)%len(gc.Replicas)].Node
	cfg := s.cfg.Cell
	cfg.Name, cfg.Group = c.Name, g
	cfg.Logger = s.cfg.Logger.With("room", "cell", "cell", c.Name)
	var m *cell.Cell
	if c.Name == First {
		cfg.CellsChanged = func() { s.exist(m.Cells()) }
	}
	m = cell.New(cfg)
	gc.Machine = m
	group, err := s.host.Open(gc)
	if errors.Is(err, paxosgroup.ErrStopped) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("opening cell %s: %w", c.Name, err)
	}
	m.Bind(group)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[c.Name] = Replica{Name: c.Name, Replicas: gc.Replicas, Cell: m, Group: group}
	delete(s.recovered, g) // only now: a group is at all times open or Unopened
	if known {
		s.highest = max(s.highest, m.Highest())
	}
	return nil
}

// Highest is the highest timestamp that was found at start; a clock that lies behind it is
// not to be trusted (T2).
func (s *Set) Highest() truetime.Timestamp {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.highest
}

// Get returns the replica of a cell.
func (s *Set) Get(name string) (Replica, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	r, ok := s.open[name]
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
	slices.SortFunc(list, func(a, b Replica) int { return cmp.Compare(a.Group.ID(), b.Group.ID()) })
	return list
}

// Known is a group of which the store has records but which is not open yet.
type Known struct {
	Group    keys.GroupID
	Replicas []keys.Replica
	Term     uint64
}

// Unopened returns the groups of which this node has records but no open replica, because
// the command that made the cell has not been replayed. All cells are on all members, and
// their replicas are numbered alike.
func (s *Set) Unopened() []Known {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var list []Known
	for g, rec := range s.recovered {
		k := Known{Group: g, Replicas: directory.NewReplicas(s.cfg.Nodes), Term: rec.State.HardState.Term}
		for _, e := range rec.Entries {
			k.Term = max(k.Term, e.Term)
		}
		list = append(list, k)
	}
	slices.SortFunc(list, func(a, b Known) int { return cmp.Compare(a.Group, b.Group) })
	return list
}

// Close ends what the cells have running, after the host has been closed.
func (s *Set) Close() {
	for _, r := range s.All() {
		r.Cell.Close()
	}
}
