package rpc

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/lane"
	"github.com/spandb/spand/internal/version"
	"github.com/spandb/spand/paxosgroup"
)

// Budgets of one peer's queues, in bytes. Frames beyond are dropped. A heartbeat
// has a line for every group that is awake, some 20 bytes: the largest must fit.
const (
	heartbeatBudget = maxFrame + 1<<20
	raftBudget      = 64 << 20
	snapshotBudget  = 16 << 20
	callBudget      = 64 << 20
)

// Keepalive of the connections between nodes; gRPC's clients ping no more often.
// pingTimeout is the kernel's limit for unacknowledged bytes as well (gRPC sets
// TCP_USER_TIMEOUT to it), which is what counts between nodes that send heartbeats:
// two leases, and far less than TCP would wait with its retransmissions.
const (
	pingEvery   = 10 * time.Second
	pingTimeout = 3 * time.Second
)

// Config of a Network.
type Config struct {
	Self    keys.NodeID
	Cluster [16]byte
	Addrs   map[keys.NodeID]string // where every member is dialled; this node's own is not used
	Logger  *slog.Logger
	// Incarnation is above that of every earlier life of this node.
	Incarnation uint64
	// Versions of the cluster that the program can run (zero: version.Binary), and the
	// cluster's (nil: never known): peers of which one cannot run what the other says
	// the cluster has do not talk.
	Versions version.Range
	Version  *version.Gate
	// Dial replaces TCP, in tests.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
}

// CallHandler answers a peer's call. It runs on a goroutine to itself; ctx ends
// with the caller's deadline, the caller's cancellation, or the connection.
type CallHandler func(ctx context.Context, from keys.NodeID, method byte, payload []byte) []byte

// Network connects this node to its peers. All methods may be called concurrently.
type Network struct {
	cfg    Config
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	peers  map[keys.NodeID]*netPeer // fixed at New

	refused atomic.Uint64 // calls beyond a peer's budget

	mu      sync.Mutex // guards what follows, and the admission of lanes against Close
	frames  paxosgroup.Receiver
	calls   CallHandler
	clients func(net.Conn) // lanes of the lock service's
}

// New makes a Network. Peers are dialled when Start is called.
func New(cfg Config) *Network {
	if cfg.Versions == (version.Range{}) {
		cfg.Versions = version.Binary
	}
	n := &Network{cfg: cfg, peers: map[keys.NodeID]*netPeer{}}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	for id, addr := range cfg.Addrs {
		if id != cfg.Self {
			n.peers[id] = newPeer(n, id, addr)
		}
	}
	return n
}

// Start dials the peers; they are retried for ever, in the background.
func (n *Network) Start() error {
	for _, p := range n.peers {
		if err := p.start(); err != nil {
			return err
		}
	}
	return nil
}

// Close cuts all streams and waits for their goroutines.
func (n *Network) Close() {
	n.mu.Lock()
	n.cancel() // no lane is admitted after this
	n.mu.Unlock()
	for _, p := range n.peers {
		p.close()
	}
	n.wg.Wait()
}

// Send implements paxosgroup.Transport.
func (n *Network) Send(to keys.NodeID, class paxosgroup.Class, frame []byte) {
	switch p := n.peers[to]; {
	case p == nil:
	case class == paxosgroup.ClassRaft:
		if len(frame) <= maxFrame {
			p.lane.Put(frame)
		}
	default:
		p.out[class].put(frame)
	}
}

// Handle implements paxosgroup.Transport.
func (n *Network) Handle(r paxosgroup.Receiver) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.frames = r
}

// HandleCalls registers who answers calls.
func (n *Network) HandleCalls(h CallHandler) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.calls = h
}

// HandleClients registers who serves the lanes of the lock service's clients: serve has the
// connection until it returns, and returns soon after it was closed.
func (n *Network) HandleClients(serve func(net.Conn)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.clients = serve
}

// Connected reports whether a stream to the peer stands.
func (n *Network) Connected(to keys.NodeID) bool {
	p := n.peers[to]
	return p != nil && p.connected()
}

// CallsRefused counts the calls of peers that were beyond their budgets.
func (n *Network) CallsRefused() uint64 { return n.refused.Load() }

// netPeer is one other node: a gRPC connection and the queues of the streams that this node
// opened to it, and the lane.
type netPeer struct {
	net  *Network
	id   keys.NodeID
	addr string
	conn *grpc.ClientConn
	out  map[paxosgroup.Class]*queue // of streams of frames
	lane *lane.Sender                // of Raft's
	call *callStream
	// heard is the peer's lane, the latest if it opened several.
	heard atomic.Pointer[hearing]
	// turns, capacity 1 each, by class: who has it delivers the peer's frames. A
	// semaphore of channels, as the handler may block for as long as it likes.
	turns [3]chan struct{}
	last  atomic.Pointer[meeting]
}

func newPeer(n *Network, id keys.NodeID, addr string) *netPeer {
	p := &netPeer{net: n, id: id, addr: addr, lane: lane.NewSender(raftBudget), out: map[paxosgroup.Class]*queue{
		paxosgroup.ClassHeartbeat: newQueue(heartbeatBudget),
		paxosgroup.ClassSnapshot:  newQueue(snapshotBudget),
	}}
	for class := range p.turns {
		p.turns[class] = make(chan struct{}, 1)
	}
	p.call = newCallStream(p)
	return p
}

func (p *netPeer) dialOptions() []grpc.DialOption {
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.CallContentSubtype(codecName),
			grpc.MaxCallRecvMsgSize(maxFrame+maxPacket), grpc.MaxCallSendMsgSize(maxFrame+maxPacket)),
		// A peer that comes back should be found at once: fail-over is counted in
		// hundreds of milliseconds, gRPC's default backoff in minutes.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.5, Jitter: 0.2, MaxDelay: 500 * time.Millisecond},
			MinConnectTimeout: time.Second,
		}),
		// A connection that a partition has swallowed is given up, instead of waiting
		// for TCP's next retransmission, minutes apart by then, after it has healed.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingEvery, Timeout: pingTimeout, PermitWithoutStream: true}),
		grpc.WithInitialWindowSize(4 << 20),
		grpc.WithInitialConnWindowSize(16 << 20),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
	}
	if p.net.cfg.Dial != nil {
		opts = append(opts, grpc.WithContextDialer(p.net.cfg.Dial))
	}
	return opts
}

func (p *netPeer) start() error {
	conn, err := grpc.NewClient("passthrough:///"+p.addr, p.dialOptions()...)
	if err != nil {
		return err
	}
	p.conn = conn
	for class, q := range p.out {
		p.net.wg.Go(func() {
			p.keepOpen(methodOf(class), quietly, func(m string) error { return p.runStream(m, q, nil) })
		})
	}
	p.net.wg.Go(func() {
		p.keepOpen("lane", p.unlessDown, func(string) error { return p.runLane(paxosgroup.ClassRaft) })
	})
	// One of them speaks for all.
	p.net.wg.Go(func() {
		p.keepOpen(methodCalls, loudly, func(m string) error { return p.runStream(m, p.call.out, p.call) })
	})
	return nil
}

func (p *netPeer) close() {
	if p.conn != nil {
		p.conn.Close()
	}
}

func (p *netPeer) connected() bool { return p.call.up.Load() }

func quietly() slog.Level { return slog.LevelDebug }
func loudly() slog.Level  { return slog.LevelWarn }

// unlessDown is loud when the lane fails alone: what is between the nodes may let only HTTP/2 pass.
func (p *netPeer) unlessDown() slog.Level {
	if p.connected() {
		return slog.LevelWarn
	}
	return slog.LevelDebug
}

// keepOpen runs one stream, or the lane, again and again until the network is closed.
func (p *netPeer) keepOpen(name string, level func() slog.Level, run func(name string) error) {
	const minDelay, maxDelay = 20 * time.Millisecond, 500 * time.Millisecond
	delay, logged := minDelay, ""
	for p.net.ctx.Err() == nil {
		began := time.Now()
		err := run(name)
		if p.net.ctx.Err() != nil {
			return
		}
		if time.Since(began) > 5*time.Second {
			delay, logged = minDelay, ""
		}
		at := level()
		if msg := at.String() + err.Error(); msg != logged { // one line per cause, not one per attempt
			p.net.cfg.Logger.Log(p.net.ctx, at, "stream to peer broke", "peer", p.id, "addr", p.addr, "stream", name, "err", err)
			logged = msg
		}
		select {
		case <-time.After(delay):
		case <-p.net.ctx.Done():
		}
		delay = min(2*delay, maxDelay)
	}
}

// runStream opens a stream and sends what queues up for it until it breaks. What was queued
// then is dropped: heartbeats and snapshots are sent again, calls are failed by the callStream.
func (p *netPeer) runStream(method string, q *queue, calls *callStream) error {
	ctx, cancel := context.WithCancel(p.net.outgoing(p.net.ctx, p.id))
	defer cancel()
	defer q.clear()
	stream, err := p.conn.NewStream(ctx, &streamDesc, method, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	// The receiving half: answers to calls, or nothing but the stream's end.
	ended := make(chan error, 1)
	p.net.wg.Go(func() {
		defer cancel()
		for {
			var in packet
			if err := stream.RecvMsg(&in); err != nil {
				ended <- err
				return
			}
			err := errFrame // streams of frames carry nothing back
			if calls != nil {
				err = calls.receive(in.data)
			}
			if err != nil {
				ended <- err
				return
			}
		}
	})
	if calls != nil {
		defer calls.broken()
	}
	for {
		data, err := q.take(ctx)
		if err != nil {
			select {
			case e := <-ended:
				return e
			case <-p.net.ctx.Done():
				return errors.New("network closed")
			}
		}
		if err := stream.SendMsg(&packet{data}); err != nil {
			cancel()
			return errors.Join(err, <-ended)
		}
	}
}
