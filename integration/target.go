package integration

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/spandb/spand/integration/workload"
)

// Target returns the cluster as package workload's clients see it.
func (c *Cluster) Target() workload.Target { return target{c} }

type target struct{ c *Cluster }

func (t target) Nodes() int { return len(t.c.Nodes) }

func (t target) Connect(ctx context.Context, node int) (*pgx.Conn, error) {
	return pgx.Connect(ctx, t.c.Nodes[node].URL())
}
