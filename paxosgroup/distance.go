package paxosgroup

import (
	"math"
	"time"

	"github.com/spandb/spand/internal/keys"
)

// Far is the distance of a node that does not answer.
const Far time.Duration = math.MaxInt64

// Distance returns how long a message to node and its answer take, from the pings of
// the last seconds: 0 for this node itself, Far for one that does not answer. It may
// be called concurrently.
func (h *Host) Distance(node keys.NodeID) time.Duration {
	if node == h.node {
		return 0
	}
	p := h.peer(node)
	if d := p.trip.Load(); d != 0 && p.alive.Load() {
		return time.Duration(d)
	}
	return Far
}

// measure takes one round trip into the average. The transport calls it from one
// goroutine.
func (p *peer) measure(d time.Duration) {
	d = max(d, 1)
	if old := p.trip.Load(); old != 0 {
		d = max((7*time.Duration(old)+d)/8, 1)
	}
	p.trip.Store(int64(d))
}
