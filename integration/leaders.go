package integration

import (
	"context"
	"fmt"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/sql"
)

// lookEvery separates looks at who leads, of which nobody tells.
const lookEvery = 10 * time.Millisecond

// Leader returns which node leads the tablet that a row of a table is in, by the row's
// primary key as for [Cluster.SplitAt]. It waits until there is a leader. Not in mode
// Processes, where spand.tablets tells as much.
func (c *Cluster) Leader(table string, key any) int {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	leader, _, err := c.leader(ctx, table, key)
	c.check(err, "the leader of %s at %v", table, key)
	return leader
}

// TransferLeader hands the tablet that a row is in to a node, as [Cluster.Leader] finds
// it, and returns when that node serves it. It stays there until something else happens:
// the nodes of a test do not balance leaders by themselves. Not in mode Processes.
func (c *Cluster) TransferLeader(table string, key any, to int) {
	c.t.Helper()
	c.checkNodes(to)
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for {
		leader, group, err := c.leader(ctx, table, key)
		if err == nil && leader == to {
			return
		}
		if err == nil {
			attempt, cancel := context.WithTimeout(ctx, closeTimeout)
			err = group.Transfer(attempt, keys.NodeID(to+1))
			cancel()
		}
		if ctx.Err() != nil {
			c.check(ctx.Err(), "handing %s at %v to node %d (%v)", table, key, to, err)
		}
		if err != nil {
			time.Sleep(lookEvery) // the target lags, or the leader has just changed
		}
	}
}

func (c *Cluster) leader(ctx context.Context, table string, key any) (int, *paxosgroup.Group, error) {
	k, err := c.storedKey(ctx, table, key)
	if err != nil {
		return 0, nil, err
	}
	for {
		for i := range c.size {
			n, err := c.backend.node(i)
			if err != nil {
				return 0, nil, err
			}
			if n == nil {
				continue
			}
			for _, r := range n.Rooms().Replicas.All() {
				if r.Tablet.Descriptor().Span.Contains(k) && r.Group.Leader() == keys.NodeID(i+1) && r.Group.Status().Serving {
					return i, r.Group, nil
				}
			}
		}
		select {
		case <-ctx.Done():
			return 0, nil, fmt.Errorf("nobody leads the tablet: %w", ctx.Err())
		case <-time.After(lookEvery):
		}
	}
}

// storedKey asks a node that runs for the key of a row.
func (c *Cluster) storedKey(ctx context.Context, table string, key any) (keys.Key, error) {
	statement := "SPLIT TABLE " + table + " BY " + c.row(key)
	err := fmt.Errorf("no node is up")
	for i := range c.size {
		n, gone := c.backend.node(i)
		if gone != nil {
			return nil, gone
		}
		if n == nil {
			continue
		}
		attempt, cancel := context.WithTimeout(ctx, closeTimeout)
		var ks []keys.Key
		ks, err = n.Rooms().Engine.Boundaries(attempt, sql.SessionOptions{User: "root", Database: "spand"}, statement)
		cancel()
		if err == nil {
			return ks[0], nil
		}
	}
	return nil, err
}
