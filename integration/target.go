package integration

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/spandb/spand/integration/workload"
)

// Target returns the cluster as package workload's clients see it.
func (c *Cluster) Target() workload.Target { return target{c} }

type target struct{ c *Cluster }

func (t target) Nodes() int { return t.c.size }

func (t target) Connect(ctx context.Context, node int) (*pgx.Conn, error) {
	cfg, err := t.c.backend.config(node)
	if err != nil {
		return nil, err
	}
	return pgx.ConnectConfig(ctx, cfg)
}
