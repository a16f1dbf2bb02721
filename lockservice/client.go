package lockservice

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/spandb/spand/lockservice/lockpb"
)

// Client reaches the cells of a cluster through any of its nodes. It keeps one connection to
// each node that it uses, for calls up to two more. Safe for concurrent use.
type Client struct {
	clock  Clock
	dial   []grpc.DialOption
	dialer dialer
	lanes  bool // calls may go over lanes, see transport
	seeds  []string

	ctx    context.Context // ends with Close
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup // every goroutine of the client, its sessions and streams

	mu    sync.Mutex
	nodes map[string]*peer // by address
	known []string         // addresses: seeds first, then leaders that were named
	turn  int              // in known
	cells map[string]*cell
}

// Option changes how Dial connects.
type Option func(*options)

type options struct {
	clock  Clock
	grpc   []grpc.DialOption
	dialer dialer
	lanes  bool
}

// WithClock replaces CLOCK_BOOTTIME, for tests and virtual time.
func WithClock(c Clock) Option { return func(o *options) { o.clock = c } }

// WithDialer connects to the nodes' addresses by dial (default: TCP).
func WithDialer(dial func(ctx context.Context, addr string) (net.Conn, error)) Option {
	return func(o *options) { o.dialer = dial }
}

// WithGRPC adds options for gRPC's connections: credentials (default: none), interceptors; a dialer is
// WithDialer's. With any of them everything goes over gRPC, unless WithLanes is given too.
func WithGRPC(opts ...grpc.DialOption) Option {
	return func(o *options) { o.grpc = append(o.grpc, opts...) }
}

// WithLanes has calls go over lanes, TCP connections to the nodes' same ports on which no time is lost
// between goroutines, where the nodes welcome that, although options were given for gRPC: those see the
// sessions' KeepAlive streams alone then. Lanes have neither credentials nor metadata: a client that an
// interceptor gives a name would have two, and its sessions be ended. Without WithGRPC it is the default.
func WithLanes() Option { return func(o *options) { o.lanes = true } }

// Reconnecting is quick, because leases run; and a connection that a partition has
// swallowed is given up after 3 s with unacknowledged bytes (gRPC sets TCP_USER_TIMEOUT to
// Timeout). Servers of spand admit a ping every 5 s.
var dialOptions = []grpc.DialOption{
	grpc.WithTransportCredentials(insecure.NewCredentials()),
	grpc.WithConnectParams(grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, Jitter: 0.2, MaxDelay: 500 * time.Millisecond},
		MinConnectTimeout: time.Second,
	}),
	grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second}),
	grpc.WithInitialWindowSize(1 << 20),
	grpc.WithInitialConnWindowSize(4 << 20),
	grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64 << 20)),
	grpc.WithNoProxy(),
	// gRPC is not to send again by itself what was sent, and so to hold a stream's mutex while
	// it waits for another connection: the client knows what may be repeated, and where.
	grpc.WithDefaultCallOptions(grpc.MaxRetryRPCBufferSize(0)),
	grpc.WithDisableServiceConfig(),
}

// Dial connects to a cluster by the rpc addresses ("host:port") of one or more of its nodes,
// separated by commas. It returns when one of them has answered, or with what each of them
// said last when ctx ends. ctx bounds only Dial.
func Dial(ctx context.Context, addrs string, opts ...Option) (*Client, error) {
	o := options{clock: systemClock{}}
	for _, opt := range opts {
		opt(&o)
	}
	var seeds []string
	for a := range strings.SplitSeq(addrs, ",") {
		if a = strings.TrimSpace(a); a != "" && !slices.Contains(seeds, a) {
			seeds = append(seeds, a)
		}
	}
	if len(seeds) == 0 {
		return nil, errors.New("lockservice: no address to dial")
	}
	dial := slices.Clone(dialOptions)
	if o.dialer == nil {
		o.dialer = dialTCP
	} else {
		dial = append(dial, grpc.WithContextDialer(o.dialer))
	}
	c := &Client{
		clock:  o.clock,
		dial:   append(dial, o.grpc...),
		dialer: o.dialer,
		lanes:  o.lanes || len(o.grpc) == 0,
		seeds:  seeds,
		known:  slices.Clone(seeds),
		turn:   rand.IntN(len(seeds)), // clients spread over the nodes
		nodes:  map[string]*peer{},
		cells:  map[string]*cell{},
	}
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	if err := c.greet(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// greet finds a node that answers, whether it leads or not: any refusal that gives a reason of the service
// is an answer.
func (c *Client) greet(ctx context.Context) error {
	said := map[string]error{}
	b := newBackoff()
	for {
		for range c.seeds {
			n := c.nextPeer()
			if n == nil {
				return ErrClosed
			}
			one, cancel := context.WithTimeoutCause(ctx, openWithin, errSilent)
			_, err := n.do(one, nil, nil, &lockpb.DoRequest{Call: &lockpb.DoRequest_GetCell{GetCell: &lockpb.GetCellRequest{Cell: "local"}}}, notices{})
			cancel()
			var refused *Error
			if err == nil || errors.As(err, &refused) && refused.Reason != "" {
				return nil
			}
			if ctx.Err() == nil {
				said[n.addr] = err
			}
		}
		if err := b.wait(ctx, nil); err != nil {
			var all []string
			for _, a := range c.seeds {
				if e := said[a]; e != nil {
					all = append(all, fmt.Sprintf("%s: %v", a, e))
				}
			}
			return fmt.Errorf("lockservice: no node answers: %w: %s", context.Cause(ctx), strings.Join(all, "; "))
		}
	}
}

// Close ends the client, its connections and goroutines. Sessions that are still open are not
// closed at the server, where they expire: their locks' contexts end here at once.
func (c *Client) Close() error {
	c.cancel(ErrClosed)
	c.mu.Lock()
	cells, nodes := c.cells, c.nodes
	c.cells, c.nodes = nil, nil
	c.mu.Unlock()
	for _, l := range cells {
		for _, s := range l.sessions() {
			s.end(ErrClosed)
		}
	}
	for _, n := range nodes {
		n.close()
	}
	c.wg.Wait()
	return nil
}

// peer returns the node at an address; nil when the client is closed.
func (c *Client) peer(addr string) *peer {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.peerLocked(addr)
}

func (c *Client) peerLocked(addr string) *peer {
	if c.nodes == nil {
		return nil
	}
	n := c.nodes[addr]
	if n == nil {
		n = newPeer(c, addr)
		c.nodes[addr] = n
		if !slices.Contains(c.known, addr) {
			c.known = append(c.known, addr)
		}
	}
	return n
}

// nextPeer returns one known node after the other; nil when the client is closed.
func (c *Client) nextPeer() *peer {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.turn = (c.turn + 1) % len(c.known)
	return c.peerLocked(c.known[c.turn])
}

func (c *Client) cell(name string) (*cell, error) {
	if err := checkText("cell", name); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cells == nil {
		return nil, ErrClosed
	}
	l := c.cells[name]
	if l == nil {
		l = newCell(c, name)
		c.cells[name] = l
	}
	return l, nil
}

// start runs f on a goroutine that Close waits for, unless the client is closed.
func (c *Client) start(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.nodes == nil {
		return false
	}
	c.wg.Go(f)
	return true
}

// retries is a backoff: the waits grow from a few milliseconds to a tenth of a second, a
// third of each left to chance.
type retries struct{ next time.Duration }

func newBackoff() *retries { return &retries{next: 5 * time.Millisecond} }

// wait waits for the next try. The error is ctx's cause, or the session's.
func (b *retries) wait(ctx context.Context, s *Session) error {
	d := b.next*2/3 + rand.N(b.next/3+1)
	b.next = min(2*b.next, 100*time.Millisecond)
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-s.ended():
		return s.why()
	}
}
