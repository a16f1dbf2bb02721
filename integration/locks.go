package integration

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/spandb/spand/lockservice"
)

// LockClient is a client of the cluster's lock service as it runs in a process of its own,
// which can be paused. It is closed with the test.
type LockClient struct {
	*lockservice.Client
	net *gates // between this process, which is node 0 there, and the cluster
}

// Locks returns a new client of the lock service, which knows all nodes.
func (c *Cluster) Locks() *LockClient {
	c.t.Helper()
	addrs := c.backend.lockAddrs()
	k := &LockClient{net: newGates()}
	k.net.up(0, "")
	dial := func(ctx context.Context, addr string) (net.Conn, error) {
		to := slices.Index(addrs, addr)
		if to < 0 {
			return nil, fmt.Errorf("no node has the address %s", addr)
		}
		if k.net.await(client, 0, ctx.Done()) != nil {
			return nil, ctx.Err()
		}
		conn, err := c.backend.dialLocks(ctx, to)
		if err != nil {
			return nil, err
		}
		return k.net.through(conn, client, 0)
	}
	opts := []lockservice.Option{lockservice.WithDialer(dial)}
	if c.mode == Virtual {
		opts = append(opts, lockservice.WithClock(bubbleClock{time.Now()}))
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	var err error
	k.Client, err = lockservice.Dial(ctx, strings.Join(addrs, ","), opts...)
	c.check(err, "dialling the lock service")
	c.t.Cleanup(func() {
		k.Resume()
		k.Client.Close()
	})
	return k
}

// Pause has the cluster see the client as if its process had been stopped: nothing comes from
// it and nothing reaches it until Resume, connections stand, and its sessions' leases run on. The
// test's own goroutines go on.
func (k *LockClient) Pause() { k.net.setPaused(0, true) }

// Resume ends Pause.
func (k *LockClient) Resume() { k.net.setPaused(0, false) }

// bubbleClock is the time of a testing/synctest bubble, as CLOCK_BOOTTIME is not.
type bubbleClock struct{ began time.Time }

func (b bubbleClock) Now() time.Duration { return time.Since(b.began) }
