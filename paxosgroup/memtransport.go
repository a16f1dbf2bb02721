package paxosgroup

import (
	"container/heap"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/spandb/spand/internal/keys"
)

// MemNetwork connects hosts in one process and injects faults, all drawn from
// one seeded source. It keeps Go's time, so it runs in a synctest bubble.
//
// Every pair of nodes and class has a goroutine from first use to Close, which waits for the
// goroutines that work for hosts, too.
type MemNetwork struct {
	quit chan struct{}
	wg   sync.WaitGroup

	mu     sync.Mutex
	rand   *rand.Rand
	faults MemFaults
	cut    map[[2]keys.NodeID]bool
	ends   map[keys.NodeID]*MemTransport
	links  map[linkID]*link
	closed bool
	sent   map[Class]uint64
	// collects: Raft's frames are collected, and each is worked on by a goroutine to itself.
	collects bool
}

// MemFaults of a network. Probabilities are per frame.
type MemFaults struct {
	Drop, Duplicate    float64
	MinDelay, MaxDelay time.Duration
	// Reorder lets frames of one link overtake each other; without it delays vary
	// but order holds.
	Reorder bool
}

type linkID struct {
	from, to keys.NodeID
	class    Class
}

// NewMemNetwork returns a network that delivers at once, in order.
func NewMemNetwork(seed uint64) *MemNetwork {
	return &MemNetwork{
		quit: make(chan struct{}), rand: rand.New(rand.NewPCG(seed, 0x5eed)),
		cut: make(map[[2]keys.NodeID]bool), ends: make(map[keys.NodeID]*MemTransport),
		links: make(map[linkID]*link), sent: make(map[Class]uint64),
	}
}

// MemTransport is one node's end, for one life of it.
type MemTransport struct {
	net  *MemNetwork
	node keys.NodeID

	mu      sync.Mutex
	handler Receiver
}

var _ Transport = (*MemTransport)(nil)

// Endpoint attaches a node. An earlier end of the same node is dead from then
// on, and frames still under way to it are lost.
func (n *MemNetwork) Endpoint(node keys.NodeID) *MemTransport {
	n.Crash(node)
	t := &MemTransport{net: n, node: node}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ends[node] = t
	return t
}

// Crash detaches a node: what is under way from and to it is lost.
func (n *MemNetwork) Crash(node keys.NodeID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.ends, node)
	for id, l := range n.links {
		if id.from == node || id.to == node {
			l.clear()
		}
	}
}

// SetFaults replaces the faults for frames sent from now on.
func (n *MemNetwork) SetFaults(f MemFaults) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.faults = f
}

// SetCollect has hosts run, on goroutines of the network, what Raft's frames bring, or not.
func (n *MemNetwork) SetCollect(on bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.collects = on
}

// Cut stops frames between two nodes, one way; Heal lets them pass again.
func (n *MemNetwork) Cut(from, to keys.NodeID) { n.setCut(from, to, true) }

// Heal undoes Cut.
func (n *MemNetwork) Heal(from, to keys.NodeID) { n.setCut(from, to, false) }

func (n *MemNetwork) setCut(from, to keys.NodeID, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[[2]keys.NodeID{from, to}] = cut
}

// Isolate cuts a node off from all others, both ways; with on false it heals.
func (n *MemNetwork) Isolate(node keys.NodeID, on bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for other := range n.ends {
		n.cut[[2]keys.NodeID{node, other}] = on
		n.cut[[2]keys.NodeID{other, node}] = on
	}
}

// Sent counts the frames of a class that hosts have sent.
func (n *MemNetwork) Sent(c Class) uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sent[c]
}

// Close ends delivery and waits for the goroutines.
func (n *MemNetwork) Close() {
	n.mu.Lock()
	if !n.closed {
		n.closed = true
		close(n.quit)
	}
	n.mu.Unlock()
	n.wg.Wait()
}

// Handle implements Transport.
func (t *MemTransport) Handle(r Receiver) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.handler = r
}

// Send implements Transport.
func (t *MemTransport) Send(to keys.NodeID, class Class, frame []byte) {
	n := t.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed || n.ends[t.node] != t {
		return
	}
	n.sent[class]++
	if n.cut[[2]keys.NodeID{t.node, to}] || n.ends[to] == nil || n.rand.Float64() < n.faults.Drop {
		return
	}
	id := linkID{t.node, to, class}
	l := n.links[id]
	if l == nil {
		l = &link{net: n, id: id, wake: make(chan struct{}, 1)}
		n.links[id] = l
		n.wg.Add(1)
		go l.run()
	}
	copies := 1
	if n.rand.Float64() < n.faults.Duplicate {
		copies = 2
	}
	for range copies {
		d := n.faults.MinDelay
		if spread := n.faults.MaxDelay - n.faults.MinDelay; spread > 0 {
			d += time.Duration(n.rand.Int64N(int64(spread)))
		}
		l.push(time.Now().Add(d), n.faults.Reorder, append([]byte(nil), frame...))
	}
}

// link delivers the frames of one direction and class, one at a time.
type link struct {
	net  *MemNetwork
	id   linkID
	wake chan struct{}

	mu   sync.Mutex
	q    frames
	seq  uint64
	last time.Time
}

type timedFrame struct {
	at    time.Time
	seq   uint64
	frame []byte
}

type frames []timedFrame

func (f frames) Len() int { return len(f) }
func (f frames) Less(i, j int) bool {
	return f[i].at.Before(f[j].at) || f[i].at.Equal(f[j].at) && f[i].seq < f[j].seq
}
func (f frames) Swap(i, j int) { f[i], f[j] = f[j], f[i] }
func (f *frames) Push(x any)   { *f = append(*f, x.(timedFrame)) }
func (f *frames) Pop() any {
	old := *f
	x := old[len(old)-1]
	*f = old[:len(old)-1]
	return x
}

func (l *link) push(at time.Time, reorder bool, frame []byte) {
	l.mu.Lock()
	if !reorder && at.Before(l.last) {
		at = l.last
	}
	l.last = at
	l.seq++
	heap.Push(&l.q, timedFrame{at, l.seq, frame})
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *link) clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.q = nil
}

// next returns a frame that is due, or how long to wait for one (0: for ever).
func (l *link) next() (frame []byte, wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.q) == 0 {
		return nil, 0
	}
	if d := time.Until(l.q[0].at); d > 0 {
		return nil, d
	}
	return heap.Pop(&l.q).(timedFrame).frame, 0
}

func (l *link) run() {
	defer l.net.wg.Done()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		frame, wait := l.next()
		if frame != nil {
			l.deliver(frame)
			continue
		}
		if wait == 0 {
			wait = time.Hour
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

func (l *link) deliver(frame []byte) {
	n := l.net
	n.mu.Lock()
	end := n.ends[l.id.to]
	cut := n.cut[[2]keys.NodeID{l.id.from, l.id.to}] || n.closed
	collect := n.collects && l.id.class == ClassRaft
	n.mu.Unlock()
	if end == nil || cut {
		return
	}
	end.mu.Lock()
	h := end.handler
	end.mu.Unlock()
	switch {
	case h == nil:
	case collect:
		h.Collect(l.id.from, l.id.class, frame)
		n.wg.Go(h.Work) // may wait, and the link may not
	default:
		h.Receive(l.id.from, l.id.class, frame)
	}
	clear(frame) // whoever kept it shall notice
}
