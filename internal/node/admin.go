package node

import (
	"context"
	"encoding/hex"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/spandb/spand/internal/node/adminpb"
	"github.com/spandb/spand/internal/replicas"
	"github.com/spandb/spand/internal/version"
)

// admin implements spand.admin.v1.Admin.
type admin struct {
	adminpb.UnimplementedAdminServer
	n *Node
}

func (a *admin) Status(context.Context, *adminpb.StatusRequest) (*adminpb.StatusResponse, error) {
	n := a.n
	now := n.clock.Now()
	st := &adminpb.StatusResponse{
		Node: n.cfg.Node, NodeId: uint32(n.self), ClusterId: hex.EncodeToString(n.cluster[:]), Version: Version,
		ClusterVersion: uint32(n.version.Active()),
		Clock:          &adminpb.Clock{EarliestNs: int64(now.Earliest), LatestNs: int64(now.Latest), EpsilonNs: int64(now.Epsilon()), Source: n.source},
	}
	if err := n.clock.Err(); err != nil {
		st.Clock.Error = err.Error()
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
	return st, nil
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
	for _, x := range d.Replicas {
		t.Replicas = append(t.Replicas, &adminpb.Replica{NodeId: uint32(x.Node), ReplicaId: uint64(x.ID)})
	}
	if g.Serving {
		t.LeaseEndNs = int64(g.LeaseEnd)
		for _, x := range d.Replicas {
			if match, ok := g.Match[x.Node]; ok && match < g.Last {
				t.Lag = append(t.Lag, &adminpb.Lag{NodeId: uint32(x.Node), Entries: g.Last - match})
			}
		}
	}
	return t
}
