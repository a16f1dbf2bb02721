package integration

import (
	"flag"
	"fmt"
	"testing"
	"time"
)

var (
	faultMinutes = flag.Float64("integration.minutes", 0, "minutes of faults in TestFaults, in pieces of at most five, each with a cluster and a seed of its own; default: 20 s, with -integration.long 30 minutes")
	faultSeed    = flag.Uint64("integration.seed", 1, "seed of the first piece of TestFaults")
	faultNodes   = flag.Int("integration.nodes", 3, "nodes in TestFaults")
	faultClock   = flag.String("integration.clock-error", "0", "--max-clock-error in TestFaults; all nodes share one host's clock, so 0 is honest")
)

// Longest times in which a tablet may answer nobody: while a majority is alive (the
// promise to a dead leader, 1.5 s, 2ε, an election, and what a loaded machine
// takes), and after a majority has come back (the start of processes, and the
// abstention of who has just started).
const (
	maxOutage = 3 * time.Second
	maxReturn = 6 * time.Second
)

// TestFaults (R1, R2, X1, X3, X5): processes are killed, stopped and cut off from each
// other while clients work at every node; what they saw is judged afterwards, and
// how long each tablet answered nobody. See doc.go for the long form.
func TestFaults(t *testing.T) {
	eachPiece(t, func(t *testing.T, seed uint64, d time.Duration) {
		c := Start(t, Options{Nodes: *faultNodes, ClockError: *faultClock, Proxy: true})
		runFaults(t, c, c.Proxy, seed, d)
	})
}

// TestFaultsInNamespaces is TestFaults with each node in a network namespace: there
// a partition drops packets, where the proxy swallows what TCP has delivered.
func TestFaultsInNamespaces(t *testing.T) {
	if !InNamespace(t) {
		return
	}
	ns := NewNamespaces(t, *faultNodes)
	eachPiece(t, func(t *testing.T, seed uint64, d time.Duration) {
		c := Start(t, Options{Nodes: *faultNodes, ClockError: *faultClock, Namespaces: ns})
		runFaults(t, c, ns, seed, d)
	})
}

func eachPiece(t *testing.T, run func(t *testing.T, seed uint64, d time.Duration)) {
	d := time.Duration(*faultMinutes * float64(time.Minute))
	if d == 0 && *long {
		d = 30 * time.Minute
	}
	if d == 0 {
		run(t, *faultSeed, 0)
		return
	}
	const piece = 5 * time.Minute
	pieces := int((d + piece - 1) / piece)
	for i := range pieces {
		seed := *faultSeed + uint64(i)
		if !t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) { run(t, seed, d/time.Duration(pieces)) }) {
			return
		}
	}
}

// runFaults lets faults happen for a time; in no time, one of each that matters most.
func runFaults(t *testing.T, c *Cluster, net Network, seed uint64, d time.Duration) {
	before := make([]int, len(c.Nodes))
	for i, n := range c.Nodes {
		before[i] = descriptors(t, n)
	}
	h := NewHealth(len(c.Nodes))
	b := openBank(t, c)
	m, err := StartMeter(t.Context(), c, h)
	if err != nil {
		t.Fatal(err)
	}
	x := NewNemesis(t, c, net, h, seed)
	if d == 0 {
		x.Short()
	} else {
		x.Run(t.Context(), d)
	}
	b.await(t, 50)
	a := m.Stop()
	report(t, x, a)
	b.close(t)
	for i, n := range c.Nodes {
		awaitDescriptors(t, n, before[i])
	}
}

// report logs what was done and felt, and holds it against the bounds.
func report(t *testing.T, x *Nemesis, a Availability) {
	t.Logf("faults: %s", x.counts())
	t.Logf("meter: %d writes of %d attempts; failed: %v", a.Writes, a.Attempts, a.FailedByCondition)
	for _, list := range []struct {
		what    string
		outages []Outage
		bound   time.Duration
	}{{"a majority alive", a.Worst, maxOutage}, {"a majority back", a.Returns, maxReturn}, {"at one live node", a.Gateways, 0}} {
		t.Logf("outages, %s: %s", list.what, quantiles(list.outages))
		for i, o := range list.outages {
			over := list.bound != 0 && o.Length() > list.bound
			if over {
				t.Errorf("outage: %v", o)
			} else if i < 3 {
				t.Logf("outage: %v", o)
			}
		}
	}
}

// quantiles of outages that are sorted, the longest first.
func quantiles(list []Outage) string {
	if len(list) == 0 {
		return "none"
	}
	at := func(q float64) string {
		return list[int((1-q)*float64(len(list)-1))].Length().Round(time.Millisecond).String()
	}
	return fmt.Sprintf("%d longer than 300ms, p50 %s, p99 %s, max %s", len(list), at(0.5), at(0.99), at(1))
}

// awaitDescriptors waits until a node has hardly more files open than at its start:
// what the log and the connections of others need varies by a few.
func awaitDescriptors(t *testing.T, n *Node, before int) {
	t.Helper()
	const slack = 10
	deadline := time.Now().Add(30 * time.Second)
	for {
		now := descriptors(t, n)
		if now <= before+slack {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%s has %d files open, %d at its start", n.Name, now, before)
			return
		}
		time.Sleep(100 * time.Millisecond) // connections of the dead are given up by themselves
	}
}
