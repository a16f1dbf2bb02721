package integration

import (
	"context"
	"net"

	"github.com/jackc/pgx/v5"

	"github.com/spandb/spand/integration/workload"
)

// Target returns the cluster as package workload's clients see it.
func (c *Cluster) Target() workload.Target { return target{c} }

type target struct{ c *Cluster }

// LockTarget returns a cluster of processes as clients of its lock service see it.
func (c *Cluster) LockTarget() workload.LockTarget { return target{c} }

// LockAddrs implements workload.LockTarget.
func (t target) LockAddrs() (addrs []string) {
	for _, n := range t.c.Nodes {
		addrs = append(addrs, n.RPCAddr)
	}
	return addrs
}

// DialLocks implements workload.LockTarget.
func (t target) DialLocks(ctx context.Context, addr string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", addr)
}

func (t target) Nodes() int { return t.c.size }

func (t target) Connect(ctx context.Context, node int) (*pgx.Conn, error) {
	cfg, err := t.c.backend.config(node)
	if err != nil {
		return nil, err
	}
	return pgx.ConnectConfig(ctx, cfg)
}
