package node

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"

	"github.com/spandb/spand/internal/cells"
	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/rpc"
	"github.com/spandb/spand/internal/storage"
	"github.com/spandb/spand/lockservice/cell"
	"github.com/spandb/spand/lockservice/cell/state"
	"github.com/spandb/spand/lockservice/lockpb"
	"github.com/spandb/spand/lockservice/server"
)

// newCells makes the set of this node's cells, none of them open.
func (n *Node) newCells(recovered map[keys.GroupID]storage.Recovered) *cells.Set {
	ids := make([]keys.NodeID, len(n.members))
	for i, m := range n.members {
		ids[i] = m.ID
	}
	return cells.New(cells.Config{
		Node: n.self, Nodes: ids, Logger: n.log, Recovered: recovered,
		Cell:   cell.Config{Node: n.self, Clock: n.clock, Reader: n.store},
		Failed: func(err error) { n.fail(err) },
	})
}

// newLocks makes the lock service of this node. It answers from the start, that the node
// is starting until its cells are open.
func (n *Node) newLocks() *server.Server {
	return server.New(server.Config{
		Node: n.self,
		Cells: func(name string) server.Cell {
			if r, ok := n.cells.Get(name); ok {
				return servedCell{r.Cell}
			}
			return nil
		},
		Leader: func(name string) keys.NodeID {
			if r, ok := n.cells.Get(name); ok {
				return r.Group.Leader()
			}
			return 0
		},
		Call: func(ctx context.Context, to keys.NodeID, payload []byte) ([]byte, error) {
			return n.net.Call(ctx, to, callLocks, payload)
		},
		Address: func(id keys.NodeID) (name, addr string) {
			for _, m := range n.members {
				if m.ID == id {
					return m.Name, m.Addr
				}
			}
			return "", ""
		},
		Create: n.createCell, Principal: principal,
	})
}

// servedCell is a cell as the server wants it.
type servedCell struct{ *cell.Cell }

func (c servedCell) OpenStream(principal string, send func(*lockpb.Lease)) (server.Stream, error) {
	if c.Leading() != nil {
		return nil, server.ErrNotLeader
	}
	return c.Cell.OpenStream(principal, send), nil
}

// mdPrincipal is the metadata key by which a client of the lock service says who it is.
const mdPrincipal = "spand-principal"

// principal is who the client says it is, as SQL clients say by their user name: whoever
// reaches the port is trusted (rpc.ServerOptions).
func principal(ctx context.Context) string {
	if v := metadata.ValueFromIncomingContext(ctx, mdPrincipal); len(v) == 1 && v[0] != "" {
		return v[0]
	}
	return "anonymous"
}

// createCell makes a cell, which only the first cell's leader can, on the nodes that the
// first one is on. Its group's number comes from where splits get theirs.
func (n *Node) createCell(ctx context.Context, name string) error {
	first, ok := n.cells.Get(cells.First)
	if !ok || first.Cell.Leading() != nil {
		return server.ErrNotLeader
	}
	id, err := n.dir.AllocateGroupID(ctx)
	if err != nil {
		return err
	}
	c := state.Cell{Name: name, Group: uint64(keys.CellGroup(id))}
	for _, r := range first.Replicas {
		c.Replicas = append(c.Replicas, state.Replica{Node: uint64(r.Node), ID: uint64(r.ID)})
	}
	err = first.Cell.AddCell(ctx, c)
	if gone := (*cell.NotLeaderError)(nil); errors.As(err, &gone) {
		return server.ErrNotLeader
	}
	if err != nil {
		return fmt.Errorf("creating cell %s: %w", name, err)
	}
	return nil
}

// lockGRPC serves LockService alone, for nodes that have another way to their peers
// and a listener for clients.
func (n *Node) lockGRPC() {
	g := grpc.NewServer(rpc.ServerOptions(n.cfg.Insecure)...)
	n.locks.Register(g)
	healthpb.RegisterHealthServer(g, health.NewServer())
	reflection.Register(g)
	n.wg.Go(func() { g.Serve(n.ports.rpc) })
	n.closers = append(n.closers, g.Stop)
}
