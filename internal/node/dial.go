package node

import (
	"context"
	"errors"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/rpc"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/tablet/directory"
	"github.com/spandb/spand/txn"
)

// Participant implements txn.Dialer: the tablet itself when it is here, its
// remote twin otherwise.
func (n *Node) Participant(node keys.NodeID, g keys.GroupID) (txn.Participant, error) {
	if node != n.self {
		return txn.NewRemote(n.net, node, g), nil
	}
	r, ok := n.replicas.get(g)
	if !ok {
		return nil, &paxosgroup.NotLeaderError{Group: g}
	}
	return r.tablet, nil
}

// Leader implements txn.Dialer. The replica on this node knows best.
func (n *Node) Leader(g keys.GroupID) keys.NodeID {
	n.replicas.mu.RLock()
	defer n.replicas.mu.RUnlock()
	if r, ok := n.replicas.byGroup[g]; ok {
		if l := r.group.Leader(); l != 0 {
			return l
		}
	}
	return n.replicas.leaders[g]
}

// Learned implements txn.Dialer.
func (n *Node) Learned(g keys.GroupID, leader keys.NodeID) {
	n.replicas.mu.Lock()
	n.replicas.leaders[g] = leader
	n.replicas.mu.Unlock()
}

// directoryDialer is the node as the directory wants it.
type directoryDialer struct{ n *Node }

func (d directoryDialer) Replica(node keys.NodeID, g keys.GroupID) (directory.Replica, error) {
	return d.n.Participant(node, g)
}
func (d directoryDialer) Leader(g keys.GroupID) keys.NodeID          { return d.n.Leader(g) }
func (d directoryDialer) Learned(g keys.GroupID, leader keys.NodeID) { d.n.Learned(g, leader) }

// Calls between nodes: txn's methods, and from callRevokeSchema on the node's own.
const callRevokeSchema byte = 0x80

func (n *Node) handleCall(ctx context.Context, from keys.NodeID, method byte, payload []byte) []byte {
	switch method {
	case callRevokeSchema:
		if err := n.engine.HandleRevoke(ctx); err != nil {
			return []byte(err.Error())
		}
		return nil
	}
	return txn.Serve(ctx, localTablets{n}, method, payload)
}

type localTablets struct{ n *Node }

func (l localTablets) Local(g keys.GroupID) (txn.Participant, error) {
	return l.n.Participant(l.n.self, g)
}

// schemaPeers asks the other nodes to let go of their schema leases (B2).
type schemaPeers struct{ n *Node }

// RevokeSchema returns one error per node that did not acknowledge.
func (s schemaPeers) RevokeSchema(ctx context.Context, version uint64) []error {
	answers := make(chan error)
	asked := 0
	for _, m := range s.n.members {
		if m.ID == s.n.self {
			continue
		}
		asked++
		go func() {
			answer, err := s.n.net.Call(ctx, m.ID, callRevokeSchema, nil)
			if err == nil && len(answer) > 0 {
				err = errors.New(string(answer))
			}
			answers <- err
		}()
	}
	var errs []error
	for range asked {
		if err := <-answers; err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// unavailable reports that an operation failed because nobody leads or answers.
func unavailable(err error) bool {
	var notLeader *paxosgroup.NotLeaderError
	var unreachable *rpc.UnreachableError
	return errors.As(err, &notLeader) || errors.As(err, &unreachable)
}
