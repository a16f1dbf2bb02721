package lockload

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

// An attempt to take a lock begins every attemptInterval and is given up after
// attemptLength: a store that answers again is noticed soon, whatever the
// attempts before wait for.
const (
	attemptInterval = 20 * time.Millisecond
	attemptLength   = 2 * time.Second
	failOverLimit   = 60 * time.Second
	attemptLocks    = 200 // used in turn: more than there are attempts under way
)

// failOver has the leader killed and tries to take locks until one attempt succeeds, each on a
// lock that nobody holds. "failover" is milliseconds from the request to kill it to the
// end of the first attempt that succeeded.
func (r *run) failOver(ctx context.Context) (Figures, error) {
	c, err := r.dial(ctx, r.Members)
	if err != nil {
		return nil, err
	}
	s, err := c.Session(ctx)
	if err != nil {
		return nil, err
	}
	var locks []Lock
	for i := range attemptLocks {
		l, err := s.Lock(ctx, fmt.Sprintf("failover-%d", i))
		if err == nil {
			err = pair(ctx, l) // the way there is known
		}
		if err != nil {
			return nil, err
		}
		locks = append(locks, l)
	}
	leader, err := c.Leader(ctx)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if err := r.owner.ask("kill", leader); err != nil {
		return nil, err
	}
	succeeded, err := firstSuccess(ctx, func(ctx context.Context, n int) error { return locks[n%len(locks)].Acquire(ctx) })
	if err != nil {
		return nil, err
	}
	return Figures{"failover": milliseconds(succeeded.Sub(began))}, firstError(s.Close(), c.Close())
}

// firstSuccess begins attempts until one of them succeeds, and says when that was.
func firstSuccess(ctx context.Context, attempt func(ctx context.Context, n int) error) (time.Time, error) {
	g := newGroup(ctx)
	ctx, cancel := context.WithTimeout(g.ctx, failOverLimit)
	defer cancel()
	success := make(chan time.Time, 1)
	var last atomic.Value // what the attempt that failed last says
	next := time.NewTicker(attemptInterval)
	defer next.Stop()
	for n := 0; ; n++ {
		g.start(func(context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, attemptLength)
			defer cancel()
			if err := attempt(ctx, n); err != nil {
				last.Store(fmt.Sprint(err))
				return nil
			}
			select {
			case success <- time.Now():
			default:
			}
			return nil
		})
		select {
		case at := <-success:
			cancel()
			return at, g.wait()
		case <-next.C:
		case <-ctx.Done():
			return time.Time{}, firstError(g.wait(), fmt.Errorf("no attempt succeeded within %v, the last one: %v", failOverLimit, last.Load()))
		}
	}
}
