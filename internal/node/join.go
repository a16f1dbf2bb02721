package node

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/node/adminpb"
	"github.com/spandb/spand/internal/storage"
	"github.com/spandb/spand/internal/version"
	"github.com/spandb/spand/lockservice/cell"
	"github.com/spandb/spand/tablet"
)

// A node whose data directory is new may not simply take part: if it had one
// before and lost it, it has forgotten votes and entries that it acknowledged,
// and a group could elect two leaders in one term or lose a committed write.
//
// So it first asks every other member whether a node of its id has been here,
// showing a token that it drew with the directory. Members remember tokens,
// durably. If nobody has seen another one, the node is new, and begins like
// everybody else from the bootstrap state. If somebody has, the node opens all of
// its replicas as incomplete: they neither vote nor acknowledge until a leader's
// snapshot has arrived, in a term above any that the other replicas know, hence above
// any in which this node can have voted; the new term also makes leaders forget
// what they believed it to hold.
//
// Every other member must answer. That is the price of doing this without an
// external authority: a new cluster forms when all of its first nodes are up.

var (
	tokenKey      = []byte{byte(storage.ClassNode), 't'}
	welcomePrefix = []byte{byte(storage.ClassNode), 'w'} // then the node's id: the token it showed first
)

func welcomeKey(id keys.NodeID) []byte { return fmt.Appendf(welcomePrefix[:2:2], "%08x", id) }

// join returns when it is settled how this node takes part.
func (n *Node) join(ctx context.Context) error {
	token, ok, err := n.store.GetNode(tokenKey)
	if err != nil {
		return err
	}
	if !ok {
		token = make([]byte, 16)
		rand.Read(token)
		if err := n.store.PutNode(tokenKey, token); err != nil {
			return err
		}
	}
	answers, err := n.askAround(ctx, token)
	if err != nil {
		return err
	}
	for _, a := range answers {
		if err := n.store.RaiseVersion(version.Version(a.Version)); err != nil {
			return err
		}
	}
	if err := n.outlive(answers); err != nil {
		return err
	}
	lost, err := n.lostReplicas(answers)
	if err != nil {
		return err
	}
	if len(lost) > 0 {
		n.lived = true
		n.log.Warn("this node has been here with other data, which is gone: waiting for snapshots", "groups", len(lost))
		if err := n.reopenLost(lost); err != nil {
			return err
		}
		// What this node remembered of the others went with its data.
		for _, a := range answers {
			for id, token := range a.Tokens {
				if err := n.remember(keys.NodeID(id), token); err != nil {
					return err
				}
			}
		}
	}
	return n.store.PutNode(membersKey, []byte(n.list))
}

// outlive numbers this life above those whose record went with this node's data. The
// clock alone would not do: an earlier life's may have been ahead.
func (n *Node) outlive(answers map[keys.NodeID]*adminpb.WelcomeResponse) (err error) {
	met := uint64(0)
	for _, a := range answers {
		met = max(met, a.Incarnation)
	}
	if met < n.life {
		return nil
	}
	if n.life, err = n.store.NextIncarnation(met + 1); err != nil {
		return err
	}
	n.net.SetIncarnation(n.life)
	return nil
}

// askAround asks every other member until all have answered, and those that
// know this node from before have said what they hold.
func (n *Node) askAround(ctx context.Context, token []byte) (map[keys.NodeID]*adminpb.WelcomeResponse, error) {
	const pause, talk = 100 * time.Millisecond, 5 * time.Second
	req := &adminpb.WelcomeRequest{NodeId: uint32(n.self), ClusterId: n.cluster[:], Token: token}
	answers := map[keys.NodeID]*adminpb.WelcomeResponse{}
	for said := time.Now(); ; {
		var missing []string
		for _, m := range n.members {
			if m.ID == n.self {
				continue
			}
			if a := answers[m.ID]; a == nil || a.Known && !a.Ready {
				attempt, cancel := context.WithTimeout(ctx, 2*time.Second)
				a, err := n.net.Welcome(attempt, m.ID, req)
				cancel()
				if err != nil {
					missing = append(missing, fmt.Sprintf("%s at %s (%v)", m.Name, m.Dial, err))
					continue
				}
				answers[m.ID] = a
			}
			if a := answers[m.ID]; a.Known && !a.Ready {
				missing = append(missing, m.Name+" (starting)")
			}
		}
		if len(missing) == 0 {
			return answers, nil
		}
		if time.Since(said) > talk {
			said = time.Now()
			n.log.Warn("a node without data waits for every other member", "missing", strings.Join(missing, "; "))
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// lostReplica is what this node once had of a group.
type lostReplica struct {
	group   keys.GroupID
	replica keys.ReplicaID
	term    uint64      // highest that any other replica has seen
	spans   [][2][]byte // of the engine
}

// lostReplicas merges what the others know, nothing if this node is new to them.
func (n *Node) lostReplicas(answers map[keys.NodeID]*adminpb.WelcomeResponse) ([]lostReplica, error) {
	var lost []lostReplica
	for _, t := range lostTablets(answers) {
		if r := replicaOn(t.Replicas, n.self); r != 0 {
			g := keys.GroupID(t.Group)
			scratch := tablet.New(tablet.Config{Group: g, Node: n.self, Clock: n.clock, Reader: n.store})
			if err := scratch.Restore(tablet.InitialState(keys.Descriptor{Group: g, Span: keys.Span{Start: t.StartKey, End: t.EndKey}})); err != nil {
				return nil, err
			}
			lost = append(lost, lostReplica{g, r, t.Term, scratch.Spans()})
		}
	}
	for _, c := range lostCells(answers) {
		if r := replicaOn(c.Replicas, n.self); r != 0 {
			g := keys.GroupID(c.Group)
			lost = append(lost, lostReplica{g, r, c.Term, cell.New(cell.Config{Name: c.Name, Group: g}).Spans()})
		}
	}
	slices.SortFunc(lost, func(a, b lostReplica) int { return cmp.Compare(a.group, b.group) })
	return lost, nil
}

// lostTablets returns of each tablet the newest descriptor, and the highest term.
func lostTablets(answers map[keys.NodeID]*adminpb.WelcomeResponse) map[uint64]*adminpb.Tablet {
	byGroup := map[uint64]*adminpb.Tablet{}
	for _, a := range answers {
		for _, t := range a.Tablets {
			old := byGroup[t.Group]
			if old == nil {
				byGroup[t.Group] = t
				continue
			}
			term := max(old.Term, t.Term)
			if t.Generation > old.Generation {
				byGroup[t.Group] = t
			}
			byGroup[t.Group].Term = term
		}
	}
	return byGroup
}

// lostCells returns each cell with the highest term.
func lostCells(answers map[keys.NodeID]*adminpb.WelcomeResponse) map[uint64]*adminpb.Cell {
	byGroup := map[uint64]*adminpb.Cell{}
	for _, a := range answers {
		for _, c := range a.Cells {
			if old := byGroup[c.Group]; old == nil || old.Term < c.Term {
				byGroup[c.Group] = c
			}
		}
	}
	return byGroup
}

func replicaOn(rs []*adminpb.Replica, id keys.NodeID) keys.ReplicaID {
	for _, r := range rs {
		if keys.NodeID(r.NodeId) == id {
			return keys.ReplicaID(r.ReplicaId)
		}
	}
	return 0
}

// reopenLost marks this node's replicas as incomplete, durably, in a term of their own.
func (n *Node) reopenLost(lost []lostReplica) error {
	var recs []storage.GroupRecord
	for _, l := range lost {
		hs := storage.HardState{Term: l.term + 1}
		if err := n.store.BeginInstall(l.group, l.replica, l.spans); err != nil {
			return err
		}
		recs = append(recs, storage.GroupRecord{Group: l.group, Replica: l.replica, HardState: &hs})
		if l.group.IsCell() {
			n.cells.Lost(l.group, l.replica, hs)
		} else {
			n.replicas.Lost(l.group, l.replica, hs)
		}
	}
	durable := make(chan error, 1)
	n.store.Append(recs, func(err error) { durable <- err })
	return <-durable
}

// Welcome implements spand.admin.v1.Admin.
func (a *admin) Welcome(ctx context.Context, req *adminpb.WelcomeRequest) (*adminpb.WelcomeResponse, error) {
	return a.n.welcomeMember(ctx, req)
}

func (n *Node) welcomeMember(_ context.Context, req *adminpb.WelcomeRequest) (*adminpb.WelcomeResponse, error) {
	id := keys.NodeID(req.NodeId)
	switch {
	case string(req.ClusterId) != string(n.cluster[:]):
		return nil, errors.New("another cluster")
	case len(req.Token) != 16 || id == n.self || n.nameOf(id) == "":
		return nil, fmt.Errorf("node %d is not another member of this cluster", id)
	}
	n.welcome <- struct{}{}
	defer func() { <-n.welcome }()
	if err := n.remember(id, req.Token); err != nil {
		return nil, err
	}
	first, _, err := n.store.GetNode(welcomeKey(id))
	if err != nil {
		return nil, err
	}
	may := uint32(n.store.Identity().Version)
	if string(first) == string(req.Token) {
		return &adminpb.WelcomeResponse{Version: may}, nil
	}
	out := &adminpb.WelcomeResponse{Version: may, Known: true, Ready: n.opened.Load(), Tokens: map[uint32][]byte{}, Incarnation: n.net.Incarnation(id)}
	for _, r := range n.replicas.All() {
		out.Tablets = append(out.Tablets, tabletStatus(r))
	}
	// In this order: a cell that is being opened is in one of the lists.
	for _, k := range n.cells.Unopened() {
		out.Cells = append(out.Cells, &adminpb.Cell{Group: uint64(k.Group), Term: k.Term, Replicas: adminReplicas(k.Replicas)})
	}
	for _, r := range n.cells.All() {
		out.Cells = append(out.Cells, cellStatus(r))
	}
	for _, m := range n.members {
		key := welcomeKey(m.ID)
		if m.ID == n.self {
			key = tokenKey
		}
		token, ok, err := n.store.GetNode(key)
		if err != nil {
			return nil, err
		}
		if ok {
			out.Tokens[uint32(m.ID)] = token
		}
	}
	return out, nil
}

// remember notes the first token that a node showed, durably, for ever.
func (n *Node) remember(id keys.NodeID, token []byte) error {
	if id == n.self {
		return nil
	}
	_, ok, err := n.store.GetNode(welcomeKey(id))
	if err != nil || ok {
		return err
	}
	return n.store.PutNode(welcomeKey(id), token)
}
