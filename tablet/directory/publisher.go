package directory

import (
	"context"
	"log/slog"
	"sync"

	"github.com/spandb/spand/internal/keys"
)

// Publisher publishes descriptors in the background until it succeeds: what a
// parent's leader does after a split, where nobody waits for it. A node that
// dies before it is done publishes at its next start of leadership; meanwhile
// RangeErrors lead the way (B1).
type Publisher struct {
	publish func(context.Context, ...keys.Descriptor) error
	log     *slog.Logger
	ctx     context.Context
	cancel  context.CancelFunc
	wake    chan struct{}
	done    chan struct{}

	mu sync.Mutex
	// pending by group: a newer descriptor of a group replaces the older one.
	pending map[keys.GroupID]keys.Descriptor
}

// NewPublisher starts a publisher over d.
func NewPublisher(d *Directory) *Publisher {
	ctx, cancel := context.WithCancel(context.Background())
	p := &Publisher{
		publish: d.Publish, log: d.cfg.Logger, ctx: ctx, cancel: cancel,
		wake: make(chan struct{}, 1), done: make(chan struct{}),
		pending: map[keys.GroupID]keys.Descriptor{},
	}
	go p.run()
	return p
}

// Enqueue schedules descs. It never blocks.
func (p *Publisher) Enqueue(descs ...keys.Descriptor) {
	p.mu.Lock()
	for _, d := range descs {
		if old, ok := p.pending[d.Group]; !ok || old.Generation < d.Generation {
			p.pending[d.Group] = d
		}
	}
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Close stops the publisher and waits for its goroutine.
func (p *Publisher) Close() {
	p.cancel()
	<-p.done
}

func (p *Publisher) run() {
	defer close(p.done)
	var back backoff
	for {
		select {
		case <-p.wake:
		case <-p.ctx.Done():
			return
		}
		for {
			p.mu.Lock()
			batch := make([]keys.Descriptor, 0, len(p.pending))
			for _, d := range p.pending {
				batch = append(batch, d)
				if len(batch) == 64 {
					break
				}
			}
			p.mu.Unlock()
			if len(batch) == 0 {
				break
			}
			if err := p.publish(p.ctx, batch...); err != nil {
				if p.ctx.Err() != nil {
					return
				}
				p.log.Warn("directory: publishing descriptors failed, retrying", "count", len(batch), "err", err)
				if back.wait(p.ctx) != nil {
					return
				}
				continue
			}
			back = backoff{}
			p.mu.Lock()
			for _, d := range batch {
				if p.pending[d.Group].Generation == d.Generation {
					delete(p.pending, d.Group)
				}
			}
			p.mu.Unlock()
		}
	}
}
