package txn

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/tablet"
)

// locked is what one transaction holds at one tablet, as the heartbeat sees it.
type locked struct {
	t    *Txn
	hull hull
}

// beat is one request of a round of heartbeats.
type beat struct {
	desc keys.Descriptor
	ids  []keys.TxnID
	txns []*Txn
	// sure says for each transaction whether it certainly holds a lock there.
	sure []bool
}

// heartbeat keeps the locks of lasting transactions alive. It ends with Close.
func (c *Client) heartbeat() {
	tick := time.NewTicker(c.cfg.HeartbeatInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-c.ctx.Done():
			return
		}
		c.beatAll()
	}
}

// beatAll starts one round. A tablet that does not answer delays no other one:
// each is asked in a goroutine of its own, bounded by the interval.
func (c *Client) beatAll() {
	// Seq is the instant of beginning in half nanoseconds.
	young := uint64(c.cfg.Clock.Now().Earliest.Add(-c.cfg.HeartbeatInterval)) << 1
	groups := map[keys.GroupID][]locked{}
	c.mu.Lock()
	for t := c.live.next; t != &c.live; t = t.next {
		if t.id.Seq > young {
			break // younger ones follow
		}
		t.mu.Lock()
		for i := range t.parts {
			// Before its first answer a tablet may not know the transaction yet.
			if p := &t.parts[i]; p.term != 0 && p.lo != nil {
				groups[p.group] = append(groups[p.group], locked{t, p.hull})
			}
		}
		t.mu.Unlock()
	}
	c.mu.Unlock()
	for _, ls := range groups {
		c.background(c.cfg.HeartbeatInterval, func(ctx context.Context) { c.beatGroup(ctx, ls) })
	}
}

// beatGroup reports what is locked at one tablet, or at the children it has
// been split into since.
func (c *Client) beatGroup(ctx context.Context, ls []locked) {
	beats := map[keys.GroupID]*beat{}
	for i := range ls {
		l := &ls[i]
		err := c.tablets(ctx, &l.hull, func(desc *keys.Descriptor) error {
			b := beats[desc.Group]
			if b == nil {
				b = &beat{desc: *desc}
				beats[desc.Group] = b
			}
			// Only the ends of a hull are certainly locked; what lies between them
			// may be a tablet that never heard of the transaction.
			span := &desc.Span
			sure := span.Contains(l.hull.lo) || !l.hull.reaches(span.End)
			b.ids, b.txns, b.sure = append(b.ids, l.t.id), append(b.txns, l.t), append(b.sure, sure)
			return nil
		})
		if err != nil {
			c.cfg.Logger.Debug("txn: heartbeat: no route", "txn", l.t.id.String(), "err", err)
		}
	}
	var wg sync.WaitGroup
	for _, b := range beats {
		wg.Go(func() { c.beatOne(ctx, b) })
	}
	wg.Wait()
}

func (c *Client) beatOne(ctx context.Context, b *beat) {
	req := &tablet.HeartbeatRequest{
		Target: tablet.Target{Group: b.desc.Group, Generation: b.desc.Generation},
		Client: c.cfg.Node, Txns: b.ids,
	}
	var resp *tablet.HeartbeatResponse
	err := c.do(ctx, &b.desc, true, func(ctx context.Context, p Participant) (err error) {
		resp, err = p.Heartbeat(ctx, req)
		return err
	})
	var re *tablet.RangeError
	if errors.As(err, &re) {
		c.cfg.Router.Update(re.Descriptors...) // the next round goes there
		return
	}
	if err != nil {
		c.cfg.Logger.Debug("txn: heartbeat", "group", uint64(b.desc.Group), "txns", len(b.ids), "err", err)
		return
	}
	for _, lost := range resp.Lost {
		for i, id := range b.ids {
			if id == lost && b.sure[i] {
				b.txns[i].lost.Store(true)
			}
		}
	}
}
