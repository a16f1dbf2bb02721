package replicas

import (
	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/tablet/directory"
	"github.com/spandb/spand/txn"
)

var (
	_ txn.Dialer   = (*Set)(nil)
	_ txn.Replicas = (*Set)(nil)
)

// Participant implements txn.Dialer: the tablet itself when it is here, its
// remote twin otherwise.
func (s *Set) Participant(node keys.NodeID, g keys.GroupID) (txn.Participant, error) {
	if node != s.cfg.Node {
		return txn.NewRemote(s.cfg.Caller, node, g), nil
	}
	return s.Local(g)
}

// Local implements txn.Replicas.
func (s *Set) Local(g keys.GroupID) (txn.Participant, error) {
	r, ok := s.Get(g)
	if !ok {
		return nil, &paxosgroup.NotLeaderError{Group: g}
	}
	return r.Tablet, nil
}

// Leader implements txn.Dialer. The replica on this node knows best.
func (s *Set) Leader(g keys.GroupID) keys.NodeID {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if r, ok := s.open[g]; ok {
		if n := r.Group.Leader(); n != 0 {
			return n
		}
	}
	return s.leaders[g]
}

// Learned implements txn.Dialer.
func (s *Set) Learned(g keys.GroupID, leader keys.NodeID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaders[g] = leader
}

// Directory returns the Set as the directory wants it.
func (s *Set) Directory() directory.Dialer { return directoryDialer{s} }

type directoryDialer struct{ *Set }

func (d directoryDialer) Replica(node keys.NodeID, g keys.GroupID) (directory.Replica, error) {
	return d.Participant(node, g)
}
