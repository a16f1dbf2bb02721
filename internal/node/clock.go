package node

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/truetime"
)

// clockPeaks remembers how uncertain the clock was at most in each of the last
// sixty seconds: it is noted once a second and whenever error is added.
type clockPeaks struct {
	mu     sync.Mutex
	second [60]int64 // that peak is of
	peak   [60]time.Duration
}

func (c *clockPeaks) note(epsilon time.Duration) {
	s := time.Now().Unix()
	c.mu.Lock()
	defer c.mu.Unlock()
	i := s % 60
	if c.second[i] != s {
		c.second[i], c.peak[i] = s, 0
	}
	c.peak[i] = max(c.peak[i], epsilon)
}

func (c *clockPeaks) max() (peak time.Duration) {
	s := time.Now().Unix()
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.peak {
		if s-c.second[i] < 60 {
			peak = max(peak, c.peak[i])
		}
	}
	return peak
}

// epsilon is the clock's now, 0 when it does not vouch.
func (n *Node) epsilon() time.Duration {
	now := n.clock.Now()
	if now.Latest == truetime.Max {
		return 0
	}
	return now.Epsilon()
}

// maxEpsilon is the most in the last minute, of one look a second and this one.
func (n *Node) maxEpsilon() time.Duration {
	n.peaks.note(n.epsilon())
	return n.peaks.max()
}

// clockOutvoted is told that a majority of the cluster contradicts this node's clock
// (T2). From the next instant on the clock has no upper bound, so that no lease is held,
// no timestamp chosen and no read answered here; the others take over when the promises
// made to this node end. It stays so until a restart: since when the clock was wrong
// cannot be told.
func (n *Node) clockOutvoted(err error) {
	if n.clock.Distrust(err) {
		n.noteClock()
	}
}

// watchClock follows what the clock says of itself until ctx ends.
func (n *Node) watchClock(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		n.peaks.note(n.epsilon())
		n.noteClock()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// noteClock tells log, health service and running statements when the clock stops
// vouching, and the first two when it vouches again.
func (n *Node) noteClock() {
	n.vouching.Lock()
	defer n.vouching.Unlock()
	err := n.clock.Err()
	if (err == nil) == (n.vouching.err == nil) {
		return
	}
	n.vouching.err = err
	n.tellHealth()
	if err == nil {
		n.log.Info("the clock vouches again: the node serves")
		return
	}
	n.log.Error("the clock cannot be trusted: the node does not serve", "err", err)
	n.engine.ClockFailed(err)
}

// healthy is nil while the node serves, else why it does not.
func (n *Node) healthy() error {
	if err := n.serving.get(); err != nil {
		return err
	}
	return n.clock.Err()
}

func (n *Node) tellHealth() {
	if n.grpc != nil {
		n.grpc.serving(n.healthy() == nil)
	}
}

// nodeClock is the clock as SQL and Admin show and widen it.
type nodeClock struct{ n *Node }

// ErrorAdded implements sql.NodeClock.
func (c nodeClock) ErrorAdded() time.Duration { return c.n.clock.Added() }

// AddError implements sql.NodeClock.
func (c nodeClock) AddError(d time.Duration) error {
	n := c.n
	if d < 0 {
		return fmt.Errorf("a clock's uncertainty can be widened, never narrowed")
	}
	own := time.Duration(0)
	if now := n.clock.Below().Now(); now.Latest != truetime.Max {
		own = now.Epsilon()
	}
	if most := paxosgroup.MaxClockError(len(n.members)); own+d > most && d > 0 {
		return fmt.Errorf("leases are too short for a clock uncertainty of more than %v with %d node(s), and this node's clock is uncertain by %v itself: at most %v can be added",
			most, len(n.members), own, max(0, most-own).Truncate(time.Microsecond))
	}
	before := n.clock.Added()
	if err := n.clock.AddError(d); err != nil {
		return err
	}
	n.peaks.note(n.epsilon())
	n.log.Info("clock uncertainty added", "before", before, "now", d)
	return nil
}

// Summary implements sql.NodeClock.
func (c nodeClock) Summary() string {
	n := c.n
	if err := n.clock.Err(); err != nil {
		return "not trusted: " + err.Error()
	}
	return fmt.Sprintf("epsilon %v (%s, added %v), at most %v in the last minute", n.epsilon(), n.source, n.clock.Added(), n.maxEpsilon())
}

// peerClocks is what this node knows of the others' clocks, by node id.
func (n *Node) peerClocks() map[keys.NodeID]paxosgroup.PeerClock {
	known := map[keys.NodeID]paxosgroup.PeerClock{}
	for _, c := range n.host.Clocks() {
		known[c.Node] = c
	}
	return known
}

// staleClock is how old a measurement may be before the peer counts as silent: several
// heartbeats.
const staleClock = 2 * time.Second

// measured reports whether c tells how far off the peer's clock is: the latest pong does,
// or the peer has stopped vouching since one that disagreed.
func measured(c paxosgroup.PeerClock) bool { return !c.At.IsZero() && (c.Vouches || c.Gap != 0) }

// clockState is one word for people.
func clockState(c paxosgroup.PeerClock) string {
	switch {
	case c.At.IsZero() || time.Since(c.At) > staleClock:
		return "silent"
	case !c.Vouches:
		return "not trusted"
	case c.Gap != 0:
		return "disagrees"
	}
	return "agrees"
}
