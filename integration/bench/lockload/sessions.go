package lockload

import (
	"context"
	"fmt"
	"time"
)

// sessions opens a fleet, keeps it alive for a little longer than its sessions would live
// by themselves, and then renews it as fast as the store answers. The owner looks at the
// members' memory and CPU time when the questions "idle" (there is no session yet), "mark" and
// "held" are asked: between the last two the fleet is held and nothing else happens. "sessions opened" and "keepalives" are per
// second.
func (r *run) sessions(ctx context.Context) (Figures, error) {
	c, err := r.toLeader(ctx)
	if err != nil {
		return nil, err
	}
	fleet, err := c.Fleet(ctx)
	if err != nil {
		return nil, err
	}
	held := newGroup(ctx)
	kept, stop := context.WithCancel(held.ctx)
	held.start(func(context.Context) error {
		if err := fleet.Keep(kept); kept.Err() == nil {
			return fmt.Errorf("sessions are not kept alive: %w", err)
		}
		return nil
	})
	opened, err := r.hold(held.ctx, c, fleet)
	stop()
	if err := firstError(err, held.wait()); err != nil {
		return nil, err
	}
	return r.renew(ctx, c, fleet, opened)
}

// hold opens the fleet and sees to it that it lives by its renewals.
func (r *run) hold(ctx context.Context, c Client, fleet Fleet) (openedPerSecond float64, err error) {
	leader, err := c.Leader(ctx)
	if err != nil {
		return 0, err
	}
	if err := r.owner.ask("idle", leader); err != nil {
		return 0, err
	}
	began := time.Now()
	if err := fleet.Grow(ctx, r.Sessions, r.TTL); err != nil {
		return 0, err
	}
	took := time.Since(began)
	if err := r.owner.ask("mark", leader); err != nil {
		return 0, err
	}
	if err := pause(ctx, r.TTL+r.TTL/4); err != nil {
		return 0, err
	}
	if err := r.owner.ask("held", leader); err != nil {
		return 0, err
	}
	return float64(r.Sessions) / took.Seconds(), r.allAlive(ctx, fleet)
}

func (r *run) allAlive(ctx context.Context, fleet Fleet) error {
	alive, err := fleet.Alive(ctx)
	if err == nil && alive != r.Sessions {
		err = fmt.Errorf("%d of %d sessions are alive", alive, r.Sessions)
	}
	return err
}

// renew counts renewals of the fleet within the row's length.
func (r *run) renew(ctx context.Context, c Client, fleet Fleet, opened float64) (Figures, error) {
	limited, cancel := context.WithTimeout(ctx, r.Length)
	defer cancel()
	began := time.Now()
	n, err := fleet.Renew(limited)
	took := time.Since(began)
	if limited.Err() == nil {
		return nil, fmt.Errorf("renewals ended early: %w", err)
	}
	err = firstError(r.allAlive(ctx, fleet), fleet.Close(), c.Close())
	return Figures{"sessions opened": opened, "keepalives": float64(n) / took.Seconds()}, err
}
