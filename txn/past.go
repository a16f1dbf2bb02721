package txn

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/tablet"
	"github.com/spandb/spand/truetime"
)

// Reads in the past (X4): any replica that has everything up to the timestamp may
// answer, whether or not anybody leads.

// Freshest returns the newest timestamp that has certainly passed at which this
// node's replicas answer reads of spans by themselves. Tablets without a replica here
// do not count. 0 says that some replica can answer nothing yet.
func (c *Client) Freshest(spans []keys.Span) truetime.Timestamp {
	passed := c.cfg.Clock.Now().Earliest - 1
	if c.cfg.Fresh == nil {
		return passed
	}
	return min(passed, c.cfg.Fresh(spans))
}

// readPast asks this node's replica, then the others, the nearest first, the leader
// like any of them, until one answers.
func (t *Txn) readPast(ctx context.Context, desc *keys.Descriptor, req *tablet.ReadRequest) (*tablet.ReadResponse, error) {
	past := *req
	past.Follower = true
	c := t.c
	resp, err := c.askReplica(ctx, desc, c.cfg.Node, &past)
	if err == nil {
		c.stats.PastHere.Add(1)
		return resp, nil
	}
	nodes := c.others(desc)
	var a attempt
	for {
		if settled(err) {
			return nil, err
		}
		for _, node := range nodes {
			resp, oerr := c.askReplica(ctx, desc, node, &past)
			switch {
			case oerr == nil && resp.Term == 0:
				c.stats.PastOther.Add(1)
				return resp, nil
			case oerr == nil:
				c.stats.PastLeader.Add(1)
				return resp, nil
			case settled(oerr):
				return nil, oerr
			}
			err = oerr
		}
		if perr := c.pause(ctx, desc.Group, &a, err); perr != nil {
			return nil, perr
		}
		if resp, err = c.askReplica(ctx, desc, c.cfg.Node, &past); err == nil {
			c.stats.PastHere.Add(1)
			return resp, nil
		}
	}
}

// settled reports an answer that no other replica, and no later attempt, would better.
func settled(err error) bool {
	var (
		stale   *tablet.RangeError
		tooOld  *tablet.TooOldError
		corrupt *tablet.CorruptError
	)
	return errors.As(err, &stale) || errors.As(err, &tooOld) || errors.As(err, &corrupt)
}

// askReplica makes one call to the replica on node.
func (c *Client) askReplica(ctx context.Context, desc *keys.Descriptor, node keys.NodeID, req *tablet.ReadRequest) (*tablet.ReadResponse, error) {
	if !slices.ContainsFunc(desc.Replicas, func(r keys.Replica) bool { return r.Node == node }) {
		return nil, &UnreachableError{Node: node, Cause: errors.Join(ErrNotSent, errNoReplica)}
	}
	p, err := c.cfg.Dialer.Participant(node, desc.Group)
	if err != nil {
		return nil, &UnreachableError{Node: node, Cause: errors.Join(ErrNotSent, err)}
	}
	if node != c.cfg.Node {
		actx, cancel := context.WithTimeout(ctx, c.cfg.AttemptTimeout)
		defer cancel()
		ctx = actx
	}
	return p.Read(ctx, req)
}

// others lists the nodes with replicas of desc but this one, the nearest first.
func (c *Client) others(desc *keys.Descriptor) []keys.NodeID {
	nodes := make([]keys.NodeID, 0, len(desc.Replicas))
	for _, r := range desc.Replicas {
		if r.Node != c.cfg.Node {
			nodes = append(nodes, r.Node)
		}
	}
	if c.cfg.Distance == nil {
		return nodes
	}
	far := make(map[keys.NodeID]time.Duration, len(nodes))
	for _, n := range nodes {
		far[n] = c.cfg.Distance(n)
	}
	slices.SortStableFunc(nodes, func(a, b keys.NodeID) int { return cmp.Compare(far[a], far[b]) })
	return nodes
}
