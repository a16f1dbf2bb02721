package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/node"
	"github.com/spandb/spand/truetime"
)

// A World without plan, nemesis and clients of its own: a cluster whose faults its
// user chooses while it runs. Nodes are counted from 0 here, as Connect does.

// ClusterOptions of OpenCluster.
type ClusterOptions struct {
	Seed  uint64 // of delays and jitter
	Nodes int    // 3 by default
	// Epsilon is what the clocks claim; they are right until Clock(i) is told otherwise.
	Epsilon     time.Duration
	DiskLatency time.Duration // of every sync
	Network     Noise         // zero: 100 to 300 µs
	Log         *slog.Logger  // of the nodes; nil: silence
	// Tune, if given, changes node i's tuning further.
	Tune func(i int, t *node.Tuning)
}

// OpenCluster starts a cluster inside the present synctest bubble, and returns when all
// of its nodes serve. Close it before the bubble ends.
func OpenCluster(t testing.TB, o ClusterOptions) (*World, error) {
	if o.Nodes == 0 {
		o.Nodes = 3
	}
	if o.Network == (Noise{}) {
		o.Network = Noise{Min: 100 * time.Microsecond, Max: 300 * time.Microsecond}
	}
	w := &World{
		opts: Options{FixedClocks: true, Logger: o.Log, Tune: o.Tune},
		plan: Plan{
			Seed: o.Seed, Nodes: o.Nodes, Epsilon: o.Epsilon, Noise: o.Network, Workers: 1, DiskLatency: o.DiskLatency,
			SegmentBytes: 1 << 20, Lies: true,
		},
		collected: Versions{}, history: &History{},
	}
	w.trace = newTrace()
	w.history.trace = w.trace
	temp := make([]string, o.Nodes)
	for i := range temp {
		temp[i] = tempDir(t)
	}
	w.build(temp)
	for _, n := range w.nodes {
		n.clock = clockError{at: time.Now()}
	}
	if !w.bootAll() {
		w.Close()
		return nil, fmt.Errorf("sim: the cluster does not start: %v", w.Violations())
	}
	return w, nil
}

// Close ends everything, and takes a virtual minute. Nothing of the world may be used
// afterwards.
func (w *World) Close() { w.close() }

// Violations returns what the nodes themselves found wrong so far: a failed store, a
// replica that stopped.
func (w *World) Violations() []Violation {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]Violation(nil), w.violations...)
}

// Crash ends the life of node i at once; with torn, sectors not synced are lost one by
// one, else all.
func (w *World) Crash(i int, torn bool) { w.nodes[i].crash(torn) }

// Shutdown ends the life of node i as SIGTERM does.
func (w *World) Shutdown(i int) error { return w.nodes[i].drain() }

// Boot begins a life of node i if it has none, and does not wait.
func (w *World) Boot(i int) { w.nodes[i].boot() }

// AwaitStarted waits until the present life of node i serves.
func (w *World) AwaitStarted(ctx context.Context, i int) error {
	l := w.nodes[i].process()
	if l == nil {
		return errors.New("sim: the node is down")
	}
	select {
	case <-l.started:
	case <-ctx.Done():
		return ctx.Err()
	}
	if l.node == nil {
		return errors.New("sim: the node has given up")
	}
	return nil
}

// Node returns node i itself, nil while it is down.
func (w *World) Node(i int) *node.Node {
	l := w.nodes[i].process()
	if l == nil {
		return nil
	}
	select {
	case <-l.started:
		return l.node
	default:
		return nil
	}
}

// Clock returns the clock of node i's present life, nil while it is down. What it is
// told ends with that life.
func (w *World) Clock(i int) *truetime.Manual {
	if l := w.nodes[i].process(); l != nil {
		return l.clock
	}
	return nil
}

// SetClock makes node i's clock wrong by e from now on, and by ppm more as time passes;
// the node's next lives find it so.
func (w *World) SetClock(i int, e time.Duration, ppm float64) { w.nodes[i].setClock(e, ppm) }

// SetError has node i's clock claim d more than Epsilon, in its next lives too.
func (w *World) SetError(i int, d time.Duration) { w.nodes[i].setAdded(d) }

// Pause stops the process of node i until Resume: its clock stands still for it, and
// network, disk and clients wait. What it has begun to compute goes on.
func (w *World) Pause(i int) {
	w.nodes[i].setPaused(true)
	w.net.Stall(w.nodes[i].id, true)
}

// Resume ends Pause.
func (w *World) Resume(i int) {
	w.nodes[i].setPaused(false)
	w.net.Stall(w.nodes[i].id, false)
}

// Cut loses what node from sends to node to.
func (w *World) Cut(from, to int) { w.net.Cut(w.nodes[from].id, w.nodes[to].id, true) }

// Mend ends Cut.
func (w *World) Mend(from, to int) { w.net.Cut(w.nodes[from].id, w.nodes[to].id, false) }

// Partition cuts, both ways, between nodes of different groups; those in no group keep
// their links. It replaces earlier cuts.
func (w *World) Partition(groups ...[]int) {
	cut := map[pair]bool{}
	for a, as := range groups {
		for b, bs := range groups {
			if a == b {
				continue
			}
			for _, i := range as {
				for _, j := range bs {
					cut[pair{w.nodes[i].id, w.nodes[j].id}] = true
				}
			}
		}
	}
	w.net.SetCuts(cut)
}

// Heal ends all cuts.
func (w *World) Heal() { w.net.SetCuts(map[pair]bool{}) }

// SetNoise changes how the network treats messages; nil: as at the beginning.
func (w *World) SetNoise(n *Noise) { w.net.SetNoise(n) }

// Cut cuts or mends one direction of one link.
func (n *Network) Cut(from, to keys.NodeID, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	next := map[pair]bool{pair{from, to}: cut}
	for p, c := range n.cut {
		if p != (pair{from, to}) {
			next[p] = c
		}
	}
	n.cut = next
}

// Stall stops, or lets go on, what goes from and to a node.
func (n *Network) Stall(node keys.NodeID, stalled bool) {
	n.mu.Lock()
	next := map[keys.NodeID]bool{node: stalled}
	for id, s := range n.stalled {
		if id != node {
			next[id] = s
		}
	}
	n.mu.Unlock()
	n.SetStalled(next)
}
