package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/spandb/spand/integration/bench/lockload"
)

const (
	granters = 64  // leases asked for at once
	streams  = 8   // that renew them
	inFlight = 256 // renewals sent and not answered, of one stream
)

// fleet is leases. At the leader their renewal is a matter of memory; other members would forward
// each in an HTTP request.
type fleet struct {
	etcd   *clientv3.Client
	leases etcdserverpb.LeaseClient

	mu  sync.Mutex
	ttl time.Duration
	ids []int64 // only grows
}

func (c *client) Fleet(context.Context) (lockload.Fleet, error) {
	return &fleet{etcd: c.etcd, leases: etcdserverpb.NewLeaseClient(c.etcd.ActiveConnection())}, nil
}

func (f *fleet) Close() error { return nil } // the connection is the client's

func (f *fleet) Grow(ctx context.Context, n int, ttl time.Duration) error {
	f.mu.Lock()
	f.ttl = ttl
	f.mu.Unlock()
	var asked atomic.Int64
	return lockload.Together(ctx, granters, func(ctx context.Context, _ int) error {
		for asked.Add(1) <= int64(n) {
			granted, err := f.etcd.Grant(ctx, int64(ttl.Seconds()))
			if err != nil {
				return err
			}
			f.mu.Lock()
			f.ids = append(f.ids, int64(granted.ID))
			f.mu.Unlock()
		}
		return nil
	})
}

func (f *fleet) all() []int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ids
}

func (f *fleet) Alive(ctx context.Context) (alive int, err error) {
	there, err := f.etcd.Leases(ctx)
	if err != nil {
		return 0, err
	}
	ours := map[clientv3.LeaseID]bool{}
	for _, id := range f.all() {
		ours[clientv3.LeaseID(id)] = true
	}
	for _, l := range there.Leases {
		if ours[l.ID] {
			alive++
		}
	}
	return alive, nil
}

// Keep renews every lease each third of its time to live, as clientv3 does.
func (f *fleet) Keep(ctx context.Context) error {
	const step = 100 * time.Millisecond
	_, err := f.renew(ctx, func(ctx context.Context, stream int, send func(id int64) error) error {
		ticks := time.NewTicker(step)
		defer ticks.Stop()
		next, due := stream, 0.0
		for {
			select {
			case <-ticks.C:
			case <-ctx.Done():
				return nil
			}
			f.mu.Lock()
			ids, ttl := f.ids, f.ttl
			f.mu.Unlock()
			mine := len(ids) / streams
			if mine == 0 {
				continue
			}
			for due += float64(mine) * float64(step) / float64(ttl/3); due >= 1; due-- {
				if next >= len(ids) {
					next = stream
				}
				if err := send(ids[next]); err != nil {
					return err
				}
				next += streams
			}
		}
	})
	return err
}

func (f *fleet) Renew(ctx context.Context) (int64, error) {
	ids := f.all()
	return f.renew(ctx, func(ctx context.Context, stream int, send func(id int64) error) error {
		for next := stream; ; next += streams {
			if next >= len(ids) {
				next = stream
			}
			if err := send(ids[next]); err != nil {
				return err
			}
		}
	})
}

// renew opens the streams and lets source say what each sends. Requests are pipelined. It returns
// the number of answers when ctx ends.
func (f *fleet) renew(ctx context.Context, source func(ctx context.Context, stream int, send func(id int64) error) error) (int64, error) {
	var answers atomic.Int64
	err := lockload.Together(ctx, streams, func(ctx context.Context, i int) error {
		stream, err := f.leases.LeaseKeepAlive(ctx)
		if err != nil {
			return err
		}
		window := make(chan struct{}, inFlight)
		return lockload.Together(ctx, 2, func(ctx context.Context, half int) error {
			if half == 0 {
				return source(ctx, i, func(id int64) error {
					select {
					case window <- struct{}{}:
					case <-ctx.Done():
						return ctx.Err()
					}
					return stream.Send(&etcdserverpb.LeaseKeepAliveRequest{ID: id})
				})
			}
			for {
				answer, err := stream.Recv()
				if err != nil {
					return err
				}
				if answer.TTL <= 0 {
					return fmt.Errorf("lease %x has ended", answer.ID)
				}
				answers.Add(1)
				<-window
			}
		})
	})
	return answers.Load(), err
}
