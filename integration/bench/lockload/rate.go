package lockload

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// warmUp passes before a rate is counted.
const warmUp = 500 * time.Millisecond

// rate lets clients repeat op, each for itself, and returns how many a second all of
// them did within d. What is under way when d ends is let finish, and does not count.
func rate(ctx context.Context, clients int, d time.Duration, op func(ctx context.Context, client int) error) (float64, error) {
	g := newGroup(ctx)
	var done atomic.Int64
	var over atomic.Bool
	for i := range clients {
		g.start(func(ctx context.Context) error {
			for !over.Load() {
				if err := op(ctx, i); err != nil {
					return err
				}
				done.Add(1)
			}
			return nil
		})
	}
	pause(g.ctx, warmUp)
	before, began := done.Load(), time.Now()
	pause(g.ctx, d)
	n, took := done.Load()-before, time.Since(began)
	over.Store(true)
	return float64(n) / took.Seconds(), g.wait()
}

// group is goroutines that end together: the first error ends the context of all.
type group struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	all    sync.WaitGroup
}

func newGroup(ctx context.Context) *group {
	g := &group{}
	g.ctx, g.cancel = context.WithCancelCause(ctx)
	return g
}

func (g *group) start(work func(context.Context) error) {
	g.all.Go(func() {
		if err := work(g.ctx); err != nil {
			g.cancel(err) // of no effect after the first
		}
	})
}

// wait returns when all have ended, with the first error or why the context ended.
func (g *group) wait() error {
	g.all.Wait()
	defer g.cancel(nil)
	return context.Cause(g.ctx)
}

// pause waits unless ctx ends before.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Together lets n goroutines work. The first error ends the context of all and is what it
// returns, when all have returned.
func Together(ctx context.Context, n int, work func(ctx context.Context, i int) error) error {
	g := newGroup(ctx)
	for i := range n {
		g.start(func(ctx context.Context) error { return work(ctx, i) })
	}
	return g.wait()
}
