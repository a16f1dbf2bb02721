package paxosgroup

import (
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/truetime"
	"go.etcd.io/raft/v3"
)

// Status of a replica, for views and metrics.
type Status struct {
	Group      keys.GroupID
	Replica    keys.ReplicaID
	Role       string // leader, follower, candidate, stopped, incomplete
	Term       uint64
	Leader     keys.NodeID
	Serving    bool // leader with a valid lease
	LeaseEnd   truetime.Timestamp
	LeaseLeft  time.Duration
	Floor      truetime.Timestamp // highest promise made (leader)
	SafeTime   truetime.Timestamp
	Applied    uint64
	Commit     uint64
	Last       uint64
	Match      map[keys.NodeID]uint64 // leader's knowledge of the replicas
	Quiesced   bool
	Releasing  bool
	TailBytes  int64 // of applied entries kept in memory
	TailFirst  uint64
	QueueBytes int64
	Snapshots  int // being sent
}

// Status describes the replica between two commands.
func (g *Group) Status() Status {
	s := Status{Group: g.id, Replica: g.self, Role: "stopped"}
	g.host.between(g, func() { g.status(&s) })
	return s
}

func (g *Group) status(s *Status) {
	s.Term, s.Leader = g.w.hs.term, g.Leader()
	s.Applied, s.Commit, s.Last = g.w.applied, g.w.hs.commit, g.w.lastIndex
	s.TailBytes, s.TailFirst = g.w.tail.kept.Load(), g.w.tail.prev+1
	s.QueueBytes = g.inflight.Load()
	s.Snapshots = len(g.w.sending)
	now := g.host.clock.Now()
	g.mu.Lock()
	s.Quiesced, s.Releasing = g.mu.quiesced, g.mu.releasing
	s.Floor, s.SafeTime = g.mu.floor, g.safeLocked()
	if g.mu.leader {
		if s.LeaseEnd = g.extendLeaseLocked(now); g.solo {
			s.LeaseEnd = now.Earliest.Add(g.host.cfg.SoloLease)
		}
		s.LeaseLeft = s.LeaseEnd.Sub(now.Latest)
	}
	g.mu.Unlock()
	switch {
	case g.stopped.Load() || g.w.rn == nil && !g.w.incomplete:
		return
	case g.w.incomplete:
		s.Role = "incomplete"
		return
	case g.w.state == raft.StateLeader:
		s.Role = "leader"
		s.Serving = g.Valid(g.leadTerm.Load()) == nil
		s.Match = make(map[keys.NodeID]uint64, len(g.members))
		g.progress(func(m *member, match uint64) { s.Match[m.Node] = match })
	case g.w.state == raft.StateFollower:
		s.Role = "follower"
	default:
		s.Role = "candidate"
	}
}
