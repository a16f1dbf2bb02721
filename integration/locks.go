package integration

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"

	"google.golang.org/grpc"

	"github.com/spandb/spand/lockservice"
)

// errNoNode is what a dialler answers for an address that no node has.
var errNoNode = errors.New("no node has this address")

// LockClient is a client of the cluster's lock service as it runs in a process of its own,
// which can be paused. It is closed with the test.
type LockClient struct {
	*lockservice.Client
	net *gates // between this process, which is node 0 there, and the cluster
}

// Locks returns a new client of the lock service, which knows all nodes. Not in mode Virtual.
func (c *Cluster) Locks() *LockClient {
	c.t.Helper()
	addrs, err := c.backend.lockAddrs()
	c.check(err, "a client of the lock service")
	k := &LockClient{net: newGates()}
	k.net.up(0, "")
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	k.Client, err = lockservice.Dial(ctx, strings.Join(addrs, ","), lockservice.WithGRPC(grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
		if k.net.await(client, 0, ctx.Done()) != nil {
			return nil, ctx.Err()
		}
		to := slices.Index(addrs, addr)
		if len(addrs) == 1 {
			to = 0 // which need not know its name
		}
		conn, err := c.backend.dialLocks(ctx, to)
		if err != nil {
			return nil, err
		}
		return k.net.through(conn, client, 0)
	})))
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
