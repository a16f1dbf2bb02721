package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spandb/spand/internal/node"
	"github.com/spandb/spand/truetime"
)

// Options of a Cluster. The zero value of a field takes what is named.
type Options struct {
	Nodes int // 3; at most MaxNodes
	// Addresses of the first node, those of `spand start`; each further node's ports
	// lie 10 above those of the one before.
	SQLAddr, RPCAddr, HTTPAddr string
	// MaxClockError is ε of every node's clock. All share one, so that 0 is honest.
	MaxClockError time.Duration
	// Out is told how the start goes; nil: nobody is.
	Out io.Writer
}

// MaxNodes is how many nodes a Cluster can have.
const MaxNodes = 9

// Cluster is a running cluster. Its methods belong to one goroutine.
type Cluster struct {
	dir    string
	log    *os.File
	cfgs   []node.Config
	clocks []*truetime.Skewed
	nodes  []*node.Node // nil: not running
	bound  time.Duration
}

// Start starts a cluster in a new temporary folder and returns when every node
// serves. What it has begun is undone when it fails.
func Start(ctx context.Context, o Options) (c *Cluster, err error) {
	d := node.Default()
	set := func(s *string, def string) {
		if *s == "" {
			*s = def
		}
	}
	set(&o.SQLAddr, d.SQLAddr)
	set(&o.RPCAddr, d.RPCAddr)
	set(&o.HTTPAddr, d.HTTPAddr)
	if o.Nodes == 0 {
		o.Nodes = 3
	}
	if o.Nodes < 1 || o.Nodes > MaxNodes {
		return nil, fmt.Errorf("%d nodes: a demo has 1 to %d", o.Nodes, MaxNodes)
	}
	if o.Out == nil {
		o.Out = io.Discard
	}
	c = &Cluster{bound: o.MaxClockError, clocks: make([]*truetime.Skewed, o.Nodes), nodes: make([]*node.Node, o.Nodes)}
	if c.dir, err = os.MkdirTemp("", "spand-demo-"); err != nil {
		return nil, err
	}
	begun := c
	defer func() {
		if err != nil {
			begun.Close(context.Background())
		}
	}()
	if c.log, err = os.Create(filepath.Join(c.dir, "demo.log")); err != nil {
		return nil, err
	}
	var members []string
	for i := range o.Nodes {
		cfg := node.Default()
		cfg.Node = fmt.Sprint("n", i+1)
		cfg.DataDir = filepath.Join(c.dir, cfg.Node)
		cfg.MaxClockError = o.MaxClockError.String()
		for _, a := range []struct {
			to    *string
			first string
		}{{&cfg.SQLAddr, o.SQLAddr}, {&cfg.RPCAddr, o.RPCAddr}, {&cfg.HTTPAddr, o.HTTPAddr}} {
			if *a.to, err = above(a.first, 10*i); err != nil {
				return nil, err
			}
		}
		members = append(members, cfg.Node+"="+cfg.RPCAddr)
		c.cfgs = append(c.cfgs, cfg)
	}
	if o.Nodes > 1 {
		for i := range c.cfgs {
			c.cfgs[i].Cluster = strings.Join(members, ",")
		}
	}
	fmt.Fprintf(o.Out, "Starting %d node(s) in %s\n", o.Nodes, c.dir)
	// All at once, since a new cluster forms when all of its nodes are there.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for i := range c.nodes {
		wg.Go(func() {
			if err := c.start(ctx, i); err != nil {
				cancel(err) // the others need not wait; the first error counts
				return
			}
			fmt.Fprintf(o.Out, "  %s serves\n", c.Name(i))
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// above adds to an address's port.
func above(addr string, d int) (string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", err
	}
	n, err := strconv.Atoi(port)
	if err != nil || n <= 0 || n+d > 65535 {
		return "", fmt.Errorf("%s: the port must be a number from 1 to 65535, with %d more for the nodes after it", addr, d)
	}
	return net.JoinHostPort(host, strconv.Itoa(n+d)), nil
}

// start starts node i, with an honest clock.
func (c *Cluster) start(ctx context.Context, i int) error {
	system, err := truetime.NewSystem(truetime.Options{Bound: c.bound, Isolated: len(c.nodes) == 1})
	if err != nil {
		return err
	}
	cfg, clock := c.cfgs[i], truetime.NewSkewed(system)
	cfg.Around.Clock, cfg.Around.ClockSource = clock, fmt.Sprintf("vouched %v", c.bound)
	n, err := node.Start(ctx, cfg, node.NewLogger(cfg, c.log))
	if err != nil {
		return fmt.Errorf("%s: %w", cfg.Node, err)
	}
	c.clocks[i], c.nodes[i] = clock, n
	return nil
}

// Nodes is how many there are.
func (c *Cluster) Nodes() int { return len(c.cfgs) }

// Dir is the folder that Close removes.
func (c *Cluster) Dir() string { return c.dir }

// Name of node i, counted from 0.
func (c *Cluster) Name(i int) string { return c.cfgs[i].Node }

// URL is where clients find node i.
func (c *Cluster) URL(i int) string { return "postgres://root@" + c.cfgs[i].SQLAddr + "/spand" }

// HTTP is node i's address of /healthz and /metrics.
func (c *Cluster) HTTP(i int) string { return c.cfgs[i].HTTPAddr }

// RPC is node i's address for `spand status` and `spand clock`.
func (c *Cluster) RPC(i int) string { return c.cfgs[i].RPCAddr }

// Clock makes node i's clock lie.
func (c *Cluster) Clock(i int) *truetime.Skewed { return c.clocks[i] }

// Now is the interval that node i's clock answers.
func (c *Cluster) Now(i int) truetime.Interval { return c.nodes[i].Rooms().Clock.Now() }

// Restart ends node i as a kill would and starts it again, with an honest clock.
func (c *Cluster) Restart(ctx context.Context, i int) error {
	c.nodes[i].Close()
	c.nodes[i] = nil
	return c.start(ctx, i)
}

// Failed returns when a node has ended by itself, with why, or with ctx.
func (c *Cluster) Failed(ctx context.Context) error {
	failed := make(chan error, len(c.nodes))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for i, n := range c.nodes {
		go func() {
			select {
			case err := <-n.Failed():
				failed <- fmt.Errorf("%s: %w", c.cfgs[i].Node, err)
			case <-ctx.Done():
			}
		}()
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return nil
	}
}

// Close drains the nodes until ctx ends, stops them and removes the folder.
func (c *Cluster) Close(ctx context.Context) error {
	errs := make([]error, len(c.nodes))
	var wg sync.WaitGroup
	for i, n := range c.nodes {
		if n != nil {
			wg.Go(func() { errs[i] = n.Shutdown(ctx) })
		}
	}
	wg.Wait()
	err := errors.Join(errs...)
	if c.log != nil {
		c.log.Close()
	}
	return errors.Join(err, os.RemoveAll(c.dir))
}
