package node

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/spandb/spand/internal/cells"
	"github.com/spandb/spand/lockservice/lockpb"
	"github.com/spandb/spand/truetime"
)

var errStale = errors.New("stale")

// A fence's answer comes from the cell's leader, wherever it is asked for; a lock with an
// answer out is not released before the answer has ended or is given back (L2).
func TestFencer(t *testing.T) {
	nodes := startAll(t, testCluster(t, 3))
	c := dialLocks(t, nodes[0])
	c.session(cells.First, 7)
	h := &lockpb.Handle{Path: "/ls/local/lock", Session: 7, Handle: 1}
	insist(t, func(ctx context.Context) (*lockpb.OpenResponse, error) {
		return c.Open(ctx, &lockpb.OpenRequest{Handle: h, Create: lockpb.Create_CREATE_IF_ABSENT})
	})
	acquire := func() string {
		return insist(t, func(ctx context.Context) (*lockpb.AcquireResponse, error) {
			return c.TryAcquire(ctx, &lockpb.AcquireRequest{Handle: h})
		}).Sequencer.Text
	}
	release := func() {
		insist(t, func(ctx context.Context) (*lockpb.ReleaseResponse, error) {
			return c.Release(ctx, &lockpb.ReleaseRequest{Handle: h})
		})
	}
	for i, n := range nodes {
		f := fencer{n, func(string, string) error { return errStale }}
		held := acquire()
		before := n.clock.Now()
		until, done, err := f.Check(t.Context(), []string{held})
		if err != nil {
			t.Fatal(err)
		}
		if until <= before.Latest || until > before.Latest.Add(10*time.Second) {
			t.Errorf("n%d: until %v, now %v", i+1, until, before)
		}
		release()
		if err := truetimePassed(n, until); err != nil {
			t.Errorf("n%d: released under a promise: %v", i+1, err)
		}
		done()
		if _, _, err := f.Check(t.Context(), []string{held}); !errors.Is(err, errStale) {
			t.Errorf("n%d: a released lock: %v", i+1, err)
		}
		again := acquire()
		if _, _, err := f.Check(t.Context(), []string{again, held}); !errors.Is(err, errStale) {
			t.Errorf("n%d: the lock's earlier sequencer: %v", i+1, err)
		}
		for _, bad := range []string{"", "x", "/ls/none/x:exclusive:1:1", "/ls/local/lock"} {
			if _, _, err := f.Check(t.Context(), []string{bad}); !errors.Is(err, errStale) {
				t.Errorf("n%d: %q: %v", i+1, bad, err)
			}
		}
		release()
	}
}

// truetimePassed reports whether until has passed for certain.
func truetimePassed(n *Node, until truetime.Timestamp) error {
	if n.clock.Now().Latest < until {
		return errors.New("it has not ended")
	}
	return nil
}

func TestPathOf(t *testing.T) {
	for q, want := range map[string]string{"/ls/local/a:b:exclusive:1:2": "/ls/local/a:b", "x": "", "": "", "a:b": ""} {
		if got := pathOf(q); got != want {
			t.Errorf("%q: %q", q, got)
		}
	}
}
