package integration

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/spandb/spand/lockservice"
)

// TestLocks pauses a lock's holder, and kills all nodes under the next one, in each mode.
func TestLocks(t *testing.T) {
	t.Run("InProcess", func(t *testing.T) { pausedHolder(t, Start(t, Options{Nodes: 3})) })
	t.Run("OneInProcess", func(t *testing.T) { pausedHolder(t, Start(t, Options{})) })
	t.Run("Virtual", func(t *testing.T) {
		RunVirtual(t, Options{Nodes: 3, Seed: 1}, func(t *testing.T, c *Cluster) { pausedHolder(t, c) })
	})
	t.Run("Processes", func(t *testing.T) { pausedHolder(t, startProcesses(t, Options{Nodes: 3})) })
}

func pausedHolder(t *testing.T, c *Cluster) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	acquire := func(k *LockClient, ttl time.Duration) *lockservice.Lock {
		t.Helper()
		s, err := k.NewSession(ctx, lockservice.SessionOptions{TTL: ttl})
		if err != nil {
			t.Fatal(err)
		}
		f, err := s.Open(ctx, "/ls/local/x", lockservice.OpenOptions{Create: lockservice.CreateIfAbsent})
		if err != nil {
			t.Fatal(err)
		}
		l, err := f.Lock(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	a, b := c.Locks(), c.Locks()
	first := acquire(a, 2*time.Second)
	a.Pause()
	second := acquire(b, 10*time.Second)
	if !errors.Is(first.Err(), lockservice.ErrJeopardy) {
		t.Errorf("a paused holder's lock: %v", first.Err())
	}
	lost := first.Changed()
	a.Resume()
	select {
	case <-lost:
	case <-ctx.Done():
		t.Fatal("the old holder is not told")
	}
	if !errors.Is(first.Err(), lockservice.ErrLockLost) {
		t.Errorf("the lock that passed on: %v", first.Err())
	}

	for i := range c.Len() {
		c.Kill(i)
	}
	all := make([]int, c.Len())
	for i := range all {
		all[i] = i
	}
	c.Restart(all...)
	if err := second.Unlock(ctx); err != nil {
		t.Errorf("unlocking after a restart of all nodes: %v", err)
	}
	acquire(c.Locks(), 0)
}
