package txn

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/tablet"
)

// Split makes key a tablet boundary (B1). It is done already when key is one.
// Repeating it is harmless: each attempt brings a group id of its own, and a tablet
// that begins at key does not split there again. The directory tablet stays whole.
func (c *Client) Split(ctx context.Context, key keys.Key) error {
	if c.cfg.Directory == nil {
		return errors.New("txn: this client has no directory to split tablets with")
	}
	if bytes.Compare(key, keys.DirectoryEnd) < 0 || bytes.Compare(key, keys.MaxKey) >= 0 {
		return fmt.Errorf("txn: no tablet can be split at %x", key)
	}
	var back backoff
	start := time.Now()
	for {
		desc, err := c.cfg.Router.Lookup(ctx, key)
		if err != nil {
			return err
		}
		if bytes.Equal(desc.Span.Start, key) {
			return nil
		}
		child, err := c.cfg.Directory.AllocateGroupID(ctx)
		if err != nil {
			return fmt.Errorf("txn: split at %x: %w", key, err)
		}
		req := &tablet.SplitRequest{
			Target: tablet.Target{Group: desc.Group, Generation: desc.Generation},
			Key:    key, Child: child, Replicas: make([]keys.Replica, len(desc.Replicas)),
		}
		for i, r := range desc.Replicas {
			// Ids count within a group, and the group is new.
			req.Replicas[i] = keys.Replica{Node: r.Node, ID: keys.ReplicaID(i + 1)}
		}
		var resp *tablet.SplitResponse
		err = c.do(ctx, &desc, false, func(ctx context.Context, p Participant) (err error) {
			resp, err = p.Split(ctx, req)
			return err
		})
		var re *tablet.RangeError
		var aborted *tablet.AbortedError
		var unknown *unknownError
		switch {
		case err == nil:
			c.cfg.Router.Update(resp.Left, resp.Right)
			return c.publish(ctx, resp.Left, resp.Right)
		case errors.As(err, &re):
			if err := c.learnRange(ctx, key, &desc, re, &back); err != nil {
				return err
			}
			if now, err := c.cfg.Router.Lookup(ctx, key); err == nil && bytes.Equal(now.Span.Start, key) {
				// Someone, perhaps an earlier attempt of ours, has split it there and
				// may not have come to publish it.
				return c.publish(ctx, re.Descriptors...)
			}
		case errors.As(err, &unknown), errors.As(err, &aborted), errors.Is(err, paxosgroup.ErrOverloaded):
			// Ask again with the same map: a tablet that has split refuses it with
			// the new one.
			if time.Since(start) > c.cfg.RetryTimeout {
				return fmt.Errorf("txn: split at %x: %w", key, err)
			}
			if werr := back.wait(ctx); werr != nil {
				return errors.Join(werr, err)
			}
		default:
			return fmt.Errorf("txn: split at %x: %w", key, err)
		}
	}
}

func (c *Client) publish(ctx context.Context, descs ...keys.Descriptor) error {
	if err := c.cfg.Directory.Publish(ctx, descs...); err != nil {
		return fmt.Errorf("txn: split is done, but not yet published: %w", err)
	}
	return nil
}
