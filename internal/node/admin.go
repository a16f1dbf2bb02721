package node

import (
	"context"
	"encoding/hex"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/spandb/spand/internal/cells"
	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/node/adminpb"
	"github.com/spandb/spand/internal/replicas"
	"github.com/spandb/spand/internal/version"
	"github.com/spandb/spand/paxosgroup"
)

// admin implements spand.admin.v1.Admin.
type admin struct {
	adminpb.UnimplementedAdminServer
	n *Node
}

func (a *admin) Status(context.Context, *adminpb.StatusRequest) (*adminpb.StatusResponse, error) {
	n := a.n
	st := &adminpb.StatusResponse{
		Node: n.cfg.Node, NodeId: uint32(n.self), ClusterId: hex.EncodeToString(n.cluster[:]), Version: Version,
		ClusterVersion: uint32(n.version.Active()),
		Clock:          n.clockStatus(),
	}
	for _, m := range n.members {
		p := &adminpb.Peer{NodeId: uint32(m.ID), Name: m.Name, RpcAddr: m.Addr, Self: m.ID == n.self, Connected: n.net.Connected(m.ID)}
		if can, ok := n.net.Versions(m.ID); ok {
			p.Versions = can.String()
		}
		st.Nodes = append(st.Nodes, p)
	}
	for _, r := range n.replicas.All() {
		st.Tablets = append(st.Tablets, tabletStatus(r))
	}
	for _, r := range n.cells.All() {
		st.Cells = append(st.Cells, cellStatus(r))
	}
	return st, nil
}

// Clock implements spand.admin.v1.Admin.
func (a *admin) Clock(context.Context, *adminpb.ClockRequest) (*adminpb.ClockResponse, error) {
	n := a.n
	if !n.opened.Load() {
		return nil, status.Error(codes.Unavailable, "node is starting")
	}
	waits := n.client.Stats()
	r := &adminpb.ClockResponse{
		Node: n.cfg.Node, Clock: n.clockStatus(), AddedNs: int64(n.clock.Added()), MaxEpsilonNs: int64(n.maxEpsilon()),
		CommitWait: &adminpb.CommitWait{Commits: waits.CommitWaits.Load(), GrossNs: int64(waits.WaitGross.Load()), NetNs: int64(waits.WaitNet.Load())},
	}
	known := n.peerClocks()
	for _, m := range n.members {
		if m.ID == n.self {
			continue
		}
		c := known[m.ID]
		p := &adminpb.PeerClock{
			NodeId: uint32(m.ID), Name: m.Name, State: clockState(c),
		}
		if measured(c) {
			p.OffsetNs, p.BoundNs, p.EpsilonNs, p.GapNs = int64(c.Offset), int64(c.Bound), int64(c.Epsilon), int64(c.Gap)
			p.MeasuredNs = c.At.UnixNano()
		}
		r.Peers = append(r.Peers, p)
	}
	return r, nil
}

// AddClockError implements spand.admin.v1.Admin.
func (a *admin) AddClockError(ctx context.Context, req *adminpb.AddClockErrorRequest) (*adminpb.ClockResponse, error) {
	if !a.n.opened.Load() {
		return nil, status.Error(codes.Unavailable, "node is starting")
	}
	if err := (nodeClock{a.n}).AddError(time.Duration(req.ErrorNs)); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	return a.Clock(ctx, &adminpb.ClockRequest{})
}

func (n *Node) clockStatus() *adminpb.Clock {
	now := n.clock.Now()
	c := &adminpb.Clock{EarliestNs: int64(now.Earliest), LatestNs: int64(now.Latest), EpsilonNs: int64(now.Epsilon()), Source: n.source}
	if err := n.clock.Err(); err != nil {
		c.Error = err.Error()
	}
	return c
}

// RaiseVersion implements spand.admin.v1.Admin.
func (a *admin) RaiseVersion(ctx context.Context, req *adminpb.RaiseVersionRequest) (*adminpb.RaiseVersionResponse, error) {
	if !a.n.opened.Load() {
		return nil, status.Error(codes.Unavailable, "node is starting")
	}
	ctx, cancel := context.WithTimeout(ctx, raiseTimeout)
	defer cancel()
	v, err := a.n.raiseVersion(ctx, version.Version(req.Version))
	if err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	return &adminpb.RaiseVersionResponse{Version: uint32(v)}, nil
}

// raiseTimeout bounds RaiseVersion, whatever its caller would wait.
const raiseTimeout = 30 * time.Second

func tabletStatus(r replicas.Replica) *adminpb.Tablet {
	d, g := r.Tablet.Descriptor(), r.Group.Status()
	t := &adminpb.Tablet{
		Group: uint64(d.Group), StartKey: d.Span.Start, EndKey: d.Span.End, Generation: d.Generation,
		Leader: uint32(g.Leader), Term: g.Term, Applied: g.Applied, Committed: g.Commit, Last: g.Last,
		Quiesced: g.Quiesced, SafeTimeNs: int64(r.Group.SafeTime()),
	}
	t.Replicas = adminReplicas(d.Replicas)
	if g.Serving {
		t.LeaseEndNs, t.Lag = int64(g.LeaseEnd), lag(d.Replicas, g)
	}
	return t
}

func cellStatus(r cells.Replica) *adminpb.Cell {
	g := r.Group.Status()
	c := &adminpb.Cell{
		Name: r.Name, Group: uint64(g.Group), Leader: uint32(g.Leader), Term: g.Term,
		Applied: g.Applied, Committed: g.Commit, Last: g.Last, Quiesced: g.Quiesced, Replicas: adminReplicas(r.Replicas),
	}
	if g.Serving {
		c.LeaseEndNs, c.Lag = int64(g.LeaseEnd), lag(r.Replicas, g)
	}
	return c
}

func adminReplicas(rs []keys.Replica) []*adminpb.Replica {
	var out []*adminpb.Replica
	for _, r := range rs {
		out = append(out, &adminpb.Replica{NodeId: uint32(r.Node), ReplicaId: uint64(r.ID)})
	}
	return out
}

// lag lists the followers that the leader, whose status g is, knows to be behind.
func lag(rs []keys.Replica, g paxosgroup.Status) []*adminpb.Lag {
	var out []*adminpb.Lag
	for _, r := range rs {
		if match, ok := g.Match[r.Node]; ok && match < g.Last {
			out = append(out, &adminpb.Lag{NodeId: uint32(r.Node), Entries: g.Last - match})
		}
	}
	return out
}
