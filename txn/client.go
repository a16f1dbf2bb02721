package txn

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/tablet"
	"github.com/spandb/spand/truetime"
)

// Directory is what the client needs of the directory of tablets for Split;
// *directory.Directory is one.
type Directory interface {
	AllocateGroupID(ctx context.Context) (keys.GroupID, error)
	Publish(ctx context.Context, descs ...keys.Descriptor) error
}

// Config of a Client. Zero durations and sizes take the defaults named.
type Config struct {
	Node      keys.NodeID
	Clock     truetime.Clock
	Router    Router
	Dialer    Dialer
	Directory Directory // for Split; nil: Split is refused
	Logger    *slog.Logger

	// Fresh returns the newest timestamp at which the replicas on this node answer
	// reads of spans by themselves; nil: they always do.
	Fresh func(spans []keys.Span) truetime.Timestamp
	// Distance of a node, for reads that any replica may answer; nil: all are as far.
	Distance func(keys.NodeID) time.Duration

	// RetryTimeout bounds waiting for an unavailable tablet when the caller's
	// context has no deadline; default 30 s.
	RetryTimeout time.Duration
	// AttemptTimeout bounds one call to another node; default 3 s.
	AttemptTimeout time.Duration
	// OutcomeTimeout bounds learning the outcome of a commit whose answer was
	// lost, also beyond the caller's context; default 10 s.
	OutcomeTimeout time.Duration
	// HeartbeatInterval at which the locks of transactions older than it are
	// kept alive; default 1 s. The tablets' patience must be a few times longer.
	HeartbeatInterval time.Duration

	// StageAfter is how many bytes of writes are buffered before they are staged
	// at their tablets; default 4 MiB.
	StageAfter int
	// ChunkBytes is the size of a staged chunk and of a batch of Load; default 512 KiB.
	ChunkBytes int
	// InlineBytes is how many bytes of writes may travel in the commit command
	// itself, the rest is staged first; default 256 KiB.
	InlineBytes int
	// MaxBuffer bounds the bytes of writes that cannot be staged because a scan
	// is still open over them; default 1 GiB.
	MaxBuffer int
	// Window is how many chunks of one transaction, and how many batches of
	// Load, may be under way at once; default 4.
	Window int
}

func (c *Config) setDefaults() {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	size := func(d *int, v int) {
		if *d == 0 {
			*d = v
		}
	}
	def(&c.RetryTimeout, 30*time.Second)
	def(&c.AttemptTimeout, 3*time.Second)
	def(&c.OutcomeTimeout, 10*time.Second)
	def(&c.HeartbeatInterval, time.Second)
	size(&c.StageAfter, 4<<20)
	size(&c.ChunkBytes, 512<<10)
	size(&c.InlineBytes, 256<<10)
	size(&c.MaxBuffer, 1<<30)
	size(&c.Window, 4)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// Stats counts what a client has done since its start.
type Stats struct {
	Begun, ReadOnly          atomic.Uint64
	OnePhase, TwoPhase       atomic.Uint64 // committed
	CommitWaits              atomic.Uint64 // commits that wrote, hence waited, if only for nothing
	WaitGross, WaitNet       atomic.Uint64 // in nanoseconds: the sums of CommitResult's
	Aborted                  atomic.Uint64 // ended by a retryable error
	RolledBack               atomic.Uint64
	Inquired, UnknownOutcome atomic.Uint64
	Staged, Loaded           atomic.Uint64 // bytes
	// Reads in the past, by who answered: this node's replica, another that does not
	// lead, a leader elsewhere.
	PastHere, PastOther, PastLeader atomic.Uint64
}

// Client is a node's gateway to transactions. All methods may be called
// concurrently. Close ends its goroutines.
type Client struct {
	cfg   Config
	stats Stats

	loadWindow chan struct{}

	ctx    context.Context // ends with Close
	cancel context.CancelFunc

	// mu guards what follows; a leaf but for Txn.mu, which may be taken under it.
	mu  sync.Mutex
	seq uint64 // of the latest transaction
	// live lists the read-write transactions that have not ended, in the order of
	// Seq. An intrusive list, because every transaction passes here.
	live   Txn // sentinel
	closed bool
	// bg counts background work (rollbacks, cleaning up) and the heartbeat.
	bg sync.WaitGroup
}

// NewClient starts a client.
func NewClient(cfg Config) *Client {
	cfg.setDefaults()
	c := &Client{cfg: cfg, loadWindow: make(chan struct{}, cfg.Window)}
	c.live.next, c.live.prev = &c.live, &c.live
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.bg.Go(c.heartbeat)
	return c
}

// Close stops the heartbeat and background work and waits for both.
// Transactions still open lose their locks at the tablets in time.
func (c *Client) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.bg.Wait()
}

// Clock returns the clock.
func (c *Client) Clock() truetime.Clock { return c.cfg.Clock }

// Stats returns the client's counters.
func (c *Client) Stats() *Stats { return &c.stats }

// background runs f in a goroutine that Close waits for; its context ends with
// Close or after limit. False: the client is closed and f does not run.
func (c *Client) background(limit time.Duration, f func(context.Context)) bool {
	return c.spawn(func() {
		ctx, cancel := context.WithTimeout(c.ctx, limit)
		defer cancel()
		f(ctx)
	})
}

// spawn runs f, which ends soon after c.ctx, in a goroutine that Close waits for.
func (c *Client) spawn(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.bg.Go(f)
	return true
}

// begin gives t an id and puts it on the list of live transactions, in one
// step: the list is in the order of Seq, so its head says below which Seq every
// transaction of this node has ended. Seq is about the instant of beginning in
// half nanoseconds, unique on the node (also after a restart, because the clock
// does not go back) and even: odd ones are the directory's.
func (c *Client) begin(t *Txn, age truetime.Timestamp) {
	now := c.cfg.Clock.Now()
	if age == 0 {
		age = now.Latest
	}
	t.c, t.failed = c, c.vouched(now)
	c.mu.Lock()
	c.seq = max(uint64(now.Earliest)<<1, c.seq+2)
	t.id = keys.TxnID{Age: age, Node: c.cfg.Node, Seq: c.seq}
	t.prev, t.next = c.live.prev, &c.live
	t.prev.next, c.live.prev = t, t
	c.mu.Unlock()
}

// vouched is nil when now is of a clock that vouches for it. One that does not stands
// still at its Earliest and has no Latest: a transaction dated by it would soon be older
// than everybody's and wound whom it met (X2), and read at the end of time (X4).
func (c *Client) vouched(now truetime.Interval) error {
	if now.Latest != truetime.Max {
		return nil
	}
	if err := c.cfg.Clock.Err(); err != nil {
		return err
	}
	return errNoClock // it has recovered since
}

// end takes t off the list: nothing more will be asked about it. Harmless when
// it is off already.
func (c *Client) end(t *Txn) {
	c.mu.Lock()
	if t.next != nil {
		t.prev.next, t.next.prev = t.next, t.prev
		t.prev, t.next = nil, nil
	}
	c.mu.Unlock()
}

// ended returns the Seq below which every transaction of this node has ended.
func (c *Client) ended() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.live.next != &c.live {
		return c.live.next.id.Seq
	}
	return c.seq
}

// TxnOptions of a read-write transaction.
type TxnOptions struct {
	// Age to inherit from an aborted attempt (X2); 0: now.
	Age truetime.Timestamp
	// Optimistic lets the transaction guess at what it reads, so that its commit may
	// be the only request; see optimistic.go for what the caller owes.
	Optimistic bool
}

// Begin starts a read-write transaction, which must be ended by Commit or Rollback. On a
// clock that does not vouch for true time (T1) its use fails with the clock's error.
func (c *Client) Begin(_ context.Context, opts TxnOptions) *Txn {
	c.stats.Begun.Add(1)
	t := &Txn{optimistic: opts.Optimistic}
	c.begin(t, opts.Age)
	return t
}

// ReadOnly starts a lock-free transaction that reads everything as of at; 0
// means now, so that it sees every commit acknowledged before (X1, X4). For a
// timestamp that has certainly passed, any replica may answer, this node's first. On a
// clock that does not vouch for true time (T1) its use fails with the clock's error.
func (c *Client) ReadOnly(_ context.Context, at truetime.Timestamp) *Txn {
	c.stats.ReadOnly.Add(1)
	t := &Txn{c: c, ro: true, at: at}
	now := c.cfg.Clock.Now()
	t.failed = c.vouched(now)
	if at == 0 {
		t.at = now.Latest
	} else {
		t.past = at < now.Earliest
	}
	return t
}

// Outcome asks what became of a transaction, under a key of its anchor (X5). With
// abort, a transaction without an outcome gets one: aborted.
func (c *Client) Outcome(ctx context.Context, id keys.TxnID, anchor keys.Key, abort bool) (tablet.Outcome, error) {
	return c.inquire(ctx, &tablet.InquireRequest{Txn: id, AnchorKey: anchor, Abort: abort})
}
