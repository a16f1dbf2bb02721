package sim

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/node"
	"github.com/spandb/spand/internal/rpc"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/tablet"
)

// Network connects the nodes of a world: frames of paxosgroup and calls of txn
// ride the same links and suffer the same faults. What becomes of a message follows
// from the seed, the link, the instant and the message itself, so that it does not
// depend on what else is sent at that instant, in whatever order.
//
// A link (two nodes, one way, one class) has a goroutine from first use to Close.
type Network struct {
	seed  uint64
	helps bool // Raft's messages are worked on by whoever brings them; fixed before the first Attach
	quit  chan struct{}
	wg    sync.WaitGroup

	mu      sync.Mutex // taken before link.mu and Endpoint.mu, after nothing
	base    Noise
	noise   *Noise // instead of base while a fault lasts
	cut     map[pair]bool
	stalled map[keys.NodeID]bool
	changed chan struct{} // closed and renewed when a stall ends
	ends    map[keys.NodeID]*Endpoint
	met     map[keys.NodeID]uint64 // highest incarnation so far
	links   map[linkID]*link
	closed  bool
}

// Noise of a link. Probabilities are per message.
type Noise struct {
	Drop, Duplicate float64
	// LateCopies: also requests are duplicated that no gateway repeats, see onceOnly.
	LateCopies bool
	Min, Max   time.Duration
	// Reorder lets messages of one link overtake each other.
	Reorder bool
}

func (n Noise) String() string {
	return fmt.Sprintf("drop=%.2f dup=%.2f delay=%v..%v reorder=%v", n.Drop, n.Duplicate, n.Min, n.Max, n.Reorder)
}

type pair struct{ from, to keys.NodeID }

// classCall is the class of calls, beside paxosgroup's.
const classCall = paxosgroup.ClassSnapshot + 1

type linkID struct {
	pair
	class paxosgroup.Class
}

// NewNetwork returns a network without faults.
func NewNetwork(seed uint64, base Noise) *Network {
	return &Network{
		seed: seed, base: base, quit: make(chan struct{}), cut: map[pair]bool{}, stalled: map[keys.NodeID]bool{},
		changed: make(chan struct{}), ends: map[keys.NodeID]*Endpoint{}, met: map[keys.NodeID]uint64{}, links: map[linkID]*link{},
	}
}

// SetNoise replaces the base noise; nil ends that. What is under way keeps its fate.
func (n *Network) SetNoise(noise *Noise) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.noise = noise
}

// SetCuts replaces the set of cut directions.
func (n *Network) SetCuts(cut map[pair]bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut = cut
}

// SetStalled replaces the set of nodes from and to which nothing moves; what they
// send and are sent meanwhile arrives afterwards.
func (n *Network) SetStalled(s map[keys.NodeID]bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.stalled = s
	close(n.changed)
	n.changed = make(chan struct{})
}

// Close ends delivery and waits for the links.
func (n *Network) Close() {
	n.mu.Lock()
	if !n.closed {
		n.closed = true
		close(n.quit)
	}
	n.mu.Unlock()
	n.wg.Wait()
}

// Endpoint is a node's end for one life of it. It implements node.Network.
type Endpoint struct {
	net    *Network
	node   keys.NodeID
	ctx    context.Context // of the handlers
	cancel context.CancelFunc
	wg     sync.WaitGroup // handlers

	mu      sync.Mutex
	dead    bool
	frames  paxosgroup.Receiver
	calls   rpc.CallHandler
	life    node.NetworkConfig
	listens bool
	nextID  uint64
	waiting map[uint64]*outCall
	serving map[inCall]context.CancelFunc
}

type outCall struct {
	to keys.NodeID
	ch chan answer // capacity 1
}

type inCall struct {
	from keys.NodeID
	id   uint64
}

type answer struct {
	payload []byte
	err     error
}

// Attach gives a node its end. Messages under way to an earlier one are lost; what
// the earlier one sent may still arrive.
func (n *Network) Attach(life node.NetworkConfig) *Endpoint {
	e := &Endpoint{net: n, node: life.Self, life: life, waiting: map[uint64]*outCall{}, serving: map[inCall]context.CancelFunc{}}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	n.meet(e.node, life.Incarnation)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ends[e.node] = e
	return e
}

// Detach ends an end's life at once: nothing goes in or out any more. Calls that
// others have under way to it are lost; some hear of it.
func (e *Endpoint) Detach() {
	n := e.net
	n.mu.Lock()
	if n.ends[e.node] == e {
		delete(n.ends, e.node)
	}
	var others []*Endpoint
	for _, o := range n.ends {
		others = append(others, o)
	}
	n.mu.Unlock()
	e.mu.Lock()
	e.dead = true
	waiting := e.waiting
	e.waiting = map[uint64]*outCall{}
	e.mu.Unlock()
	e.cancel()
	for _, c := range waiting {
		c.ch <- answer{err: unreachable(c.to, true, "this node has died")}
	}
	for _, o := range others {
		o.lose(e.node)
	}
}

// lose tells every other caller of a dead node that its connection broke; the rest
// find out by their deadlines, as they would when no RST comes.
func (e *Endpoint) lose(to keys.NodeID) {
	e.mu.Lock()
	var broken []*outCall
	for id, c := range e.waiting {
		if c.to == to && id%2 == 0 {
			broken = append(broken, c)
			delete(e.waiting, id)
		}
	}
	e.mu.Unlock()
	for _, c := range broken {
		c.ch <- answer{err: unreachable(to, true, "connection broke")}
	}
}

// Wait waits for the handlers of a detached end.
func (e *Endpoint) Wait() { e.wg.Wait() }

// Handle implements paxosgroup.Transport.
func (e *Endpoint) Handle(r paxosgroup.Receiver) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.frames = r
}

// HandleCalls registers the server of calls.
func (e *Endpoint) HandleCalls(h rpc.CallHandler) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.calls = h
}

// Send implements paxosgroup.Transport.
func (e *Endpoint) Send(to keys.NodeID, class paxosgroup.Class, frame []byte) {
	f := append([]byte(nil), frame...)
	e.net.send(e, to, class, f, func(dst *Endpoint) {
		own := append([]byte(nil), f...)
		dst.receive(e.node, class, own)
		clear(own) // whoever kept it shall notice
	})
}

// receive hands a frame over. What Raft's ask for is done, where the network's nodes help, on a
// goroutine to itself, which may wait for the disk: the link may not.
func (e *Endpoint) receive(from keys.NodeID, class paxosgroup.Class, frame []byte) {
	e.mu.Lock()
	r, dead := e.frames, e.dead
	helps := e.net.helps && class == paxosgroup.ClassRaft && r != nil && !dead
	if helps {
		e.wg.Add(1) // not beside Wait, which comes after the end's death
	}
	e.mu.Unlock()
	switch {
	case r == nil:
	case helps:
		r.Collect(from, class, frame)
		go func() {
			defer e.wg.Done()
			r.Work()
		}()
	default:
		r.Receive(from, class, frame)
	}
}

func unreachable(node keys.NodeID, sent bool, why string) error {
	return &rpc.UnreachableError{Node: node, Sent: sent, Err: errors.New(why)}
}

// Call implements txn.Caller.
func (e *Endpoint) Call(ctx context.Context, to keys.NodeID, method byte, payload []byte) ([]byte, error) {
	var left time.Duration
	if d, ok := ctx.Deadline(); ok {
		if left = time.Until(d); left <= 0 {
			return nil, context.DeadlineExceeded
		}
	}
	c := &outCall{to: to, ch: make(chan answer, 1)}
	e.mu.Lock()
	if e.dead {
		e.mu.Unlock()
		return nil, unreachable(to, false, "this node is dead")
	}
	e.nextID++
	id := e.nextID
	e.waiting[id] = c
	e.mu.Unlock()
	body := append([]byte(nil), payload...)
	if !e.net.sendCall(e, to, method, body, func(dst *Endpoint) { dst.serve(e, id, method, left, body) }) && id%2 == 0 {
		// Nobody there, and the operating system says so.
		e.forget(id)
		return nil, unreachable(to, false, "no connection")
	}
	select {
	case a := <-c.ch:
		return a.payload, a.err
	case <-ctx.Done():
		e.forget(id)
		e.net.send(e, to, classCall, nil, func(dst *Endpoint) { dst.cancelCall(inCall{e.node, id}) })
		return nil, ctx.Err()
	}
}

func (e *Endpoint) forget(id uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.waiting, id)
}

// serve runs a request's handler and sends the answer back.
func (e *Endpoint) serve(from *Endpoint, id uint64, method byte, left time.Duration, payload []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	h := e.calls
	if method == methodWelcome {
		h = e.welcome
	}
	if e.dead || h == nil || method == methodWelcome && !e.listens {
		return
	}
	ctx, cancel := e.ctx, context.CancelFunc(nil)
	if left > 0 {
		ctx, cancel = context.WithTimeout(ctx, left)
	} else {
		ctx, cancel = context.WithCancel(ctx)
	}
	key := inCall{from.node, id}
	e.serving[key] = cancel
	own := append([]byte(nil), payload...) // a duplicate must find it untouched
	e.wg.Go(func() {
		defer cancel()
		out := append([]byte(nil), h(ctx, from.node, method, own)...)
		e.mu.Lock()
		delete(e.serving, key)
		e.mu.Unlock()
		e.net.send(e, from.node, classCall, out, func(dst *Endpoint) {
			if dst != from {
				return // an answer to an earlier life
			}
			dst.mu.Lock()
			c := dst.waiting[id]
			delete(dst.waiting, id)
			dst.mu.Unlock()
			if c != nil {
				c.ch <- answer{payload: append([]byte(nil), out...)}
			}
		})
	})
}

func (e *Endpoint) cancelCall(key inCall) {
	e.mu.Lock()
	cancel := e.serving[key]
	e.mu.Unlock()
	if cancel != nil {
		cancel()
	}
}

// onceOnly reports whether a request is one that gateways never repeat (X5). A stream
// delivers it once at most, so its refusal is final. Were a copy executed after that,
// the gateway would have told its client "not committed" of what commits.
func onceOnly(method byte) bool {
	return method == tablet.MethodCommit || method == tablet.MethodDecide || method == tablet.MethodSplit
}

func (n *Network) sendCall(from *Endpoint, to keys.NodeID, method byte, body []byte, f func(*Endpoint)) bool {
	return n.transmit(from, to, classCall, body, onceOnly(method), f)
}

func (n *Network) send(from *Endpoint, to keys.NodeID, class paxosgroup.Class, body []byte, f func(*Endpoint)) bool {
	return n.transmit(from, to, class, body, false, f)
}

// transmit puts a message on its link. False: there is no way to the node right now
// (the message is lost).
func (n *Network) transmit(from *Endpoint, to keys.NodeID, class paxosgroup.Class, body []byte, once bool, f func(*Endpoint)) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed || n.ends[from.node] != from {
		return false
	}
	dst := n.ends[to]
	if dst == nil || n.cut[pair{from.node, to}] {
		return false
	}
	id := linkID{pair{from.node, to}, class}
	l := n.links[id]
	if l == nil {
		l = newLink(n, id)
		n.links[id] = l
		n.wg.Go(l.run)
	}
	noise := n.base
	if n.noise != nil {
		noise = *n.noise
	}
	h := fnv.New64a()
	h.Write(body)
	r := rand.New(rand.NewPCG(n.seed^h.Sum64(), l.place^uint64(time.Now().UnixNano())))
	if r.Float64() < noise.Drop {
		return true
	}
	copies := 1
	if r.Float64() < noise.Duplicate && (!once || noise.LateCopies) {
		copies = 2
	}
	for range copies {
		d := noise.Min
		if spread := int64(noise.Max - noise.Min); spread > 0 {
			d += time.Duration(r.Int64N(spread))
		}
		l.push(time.Now().Add(d), noise.Reorder, dst, f)
	}
	return true
}

// link delivers the messages of one direction and class, one at a time.
type link struct {
	net   *Network
	id    linkID
	own   time.Duration // nanoseconds of a microsecond that are this link's alone
	wake  chan struct{}
	place uint64 // one of its own

	mu   sync.Mutex
	q    messages
	seq  uint64
	last time.Time
}

func newLink(n *Network, id linkID) *link {
	place := uint64(id.from)*64 + uint64(id.to)*8 + uint64(id.class)
	return &link{
		net: n, id: id, own: time.Duration(place % 1000), wake: make(chan struct{}, 1),
		place: place,
	}
}

type message struct {
	at  time.Time
	seq uint64
	dst *Endpoint
	f   func(*Endpoint)
}

type messages []message

func (m messages) Len() int { return len(m) }
func (m messages) Less(i, j int) bool {
	return m[i].at.Before(m[j].at) || m[i].at.Equal(m[j].at) && m[i].seq < m[j].seq
}
func (m messages) Swap(i, j int) { m[i], m[j] = m[j], m[i] }
func (m *messages) Push(x any)   { *m = append(*m, x.(message)) }
func (m *messages) Pop() any {
	old := *m
	x := old[len(old)-1]
	*m = old[:len(old)-1]
	return x
}

func (l *link) push(at time.Time, reorder bool, dst *Endpoint, f func(*Endpoint)) {
	l.mu.Lock()
	at = at.Truncate(time.Microsecond).Add(l.own)
	if !reorder && at.Before(l.last) {
		at = l.last
	}
	if at.After(l.last) {
		l.last = at
	}
	l.seq++
	heap.Push(&l.q, message{at, l.seq, dst, f})
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// next returns a message that is due, or how long to wait for one.
func (l *link) next() (m message, due bool, wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.q) == 0 {
		return m, false, time.Hour
	}
	if d := time.Until(l.q[0].at); d > 0 {
		return m, false, d
	}
	return heap.Pop(&l.q).(message), true, 0
}

func (l *link) run() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		m, due, wait := l.next()
		if due {
			if !l.deliver(m) {
				return
			}
			continue
		}
		timer.Reset(wait)
		select {
		case <-l.wake:
		case <-timer.C:
		case <-l.net.quit:
			return
		}
	}
}

// deliver hands a message over, after a stall if there is one. False: the
// network is closed.
func (l *link) deliver(m message) bool {
	n := l.net
	for {
		n.mu.Lock()
		lost := n.ends[l.id.to] != m.dst || n.cut[l.id.pair]
		stalled := n.stalled[l.id.from] || n.stalled[l.id.to]
		changed, closed := n.changed, n.closed
		n.mu.Unlock()
		switch {
		case closed:
			return false
		case lost:
			return true
		case !stalled:
			m.f(m.dst)
			return true
		}
		select {
		case <-changed:
		case <-n.quit:
			return false
		}
	}
}
