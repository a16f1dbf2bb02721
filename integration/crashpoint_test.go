package integration

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spandb/spand/internal/crashpoint"
)

var long = flag.Bool("integration.long", false, "run the long forms: every crash point on every node, service resumed within 3 s of a leader's death")

// TestDeathAtEveryStep (X3, X5): while transfers run over four tablets, gateway,
// coordinator and participants die at each step of two-phase commit, one process
// at one point at a time, and come back. As most of the time is spent waiting for
// leases to end, two clusters divide the points.
func TestDeathAtEveryStep(t *testing.T) {
	const clusters = 2
	for k := range clusters {
		t.Run(fmt.Sprint("cluster=", k+1), func(t *testing.T) {
			t.Parallel()
			var points []crashpoint.Point
			for i := k; i < len(crashpoint.Points); i += clusters {
				points = append(points, crashpoint.Points[i])
			}
			dieAt(t, points)
		})
	}
}

// dieAt has a node die at each point; in the long form every node at each.
func dieAt(t *testing.T, points []crashpoint.Point) {
	c := startProcesses(t, Options{Nodes: 3, Binary: BreakableBinary(t)})
	b := openBank(t, c)
	type death struct {
		n  *Node
		at crashpoint.Point
	}
	var deaths []death
	for round := range c.Nodes {
		for i, p := range points {
			deaths = append(deaths, death{c.Nodes[(i+round)%len(c.Nodes)], p})
		}
		if !*long {
			break
		}
	}
	// A node is given its next point when it comes back from its last one, and
	// leads again by the time that its turn has come.
	give := func(n *Node, rest []death) {
		n.Env = nil
		for _, d := range rest {
			if d.n == n {
				n.Env = []string{fmt.Sprintf("SPAND_CRASH_AT=%s:%d", d.at, passings(d.at))}
				break
			}
		}
		n.Restart(t)
	}
	for _, n := range c.Nodes {
		n.Kill(t)
		give(n, deaths)
	}
	for i, d := range deaths {
		awaitLeaders(t, d.n)
		began := time.Now()
		d.n.signal(t, syscall.SIGUSR1)
		awaitSuicide(t, d.n, d.at)
		t.Logf("%s died at %s, armed for %v", d.n.Name, d.at, time.Since(began))
		b.await(t, 20)
		give(d.n, deaths[i+1:])
	}
	b.await(t, 50)
	b.close(t)
}

// passings is how many times a node passes a point before it dies of it.
func passings(p crashpoint.Point) int {
	switch p {
	case crashpoint.Deliver:
		// All but the last are held up there: more than there are clients, so some
		// of these have been acknowledged to a client that has gone on since.
		return 3*bankClients + 2
	case crashpoint.InquireCommitted, crashpoint.OutcomeHeard:
		return 1 // rare
	}
	return 3
}

// awaitSuicide waits until the node has died at its point.
func awaitSuicide(t *testing.T, n *Node, p crashpoint.Point) {
	t.Helper()
	proc := n.current()
	select {
	case <-proc.exited:
		if s := proc.cmd.ProcessState.Sys().(syscall.WaitStatus); !s.Signaled() || s.Signal() != syscall.SIGKILL {
			t.Fatalf("%s was to die at %s and ended otherwise: %v", n.Name, p, proc.err)
		}
	case <-time.After(60 * time.Second):
		t.Fatalf("%s does not pass %s", n.Name, p)
	}
}

// awaitLeaders waits until some of the bank's tablets are led by n, and some by others.
func awaitLeaders(t *testing.T, n *Node) {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for {
		// The first tablet holds no rows of tables.
		leaders := strings.Fields(psql(t, n, "select leader from spand.tablets where start_key > '01' order by start_key"))
		led := 0
		for _, l := range leaders {
			if l == n.Name {
				led++
			}
		}
		if 0 < led && led < len(leaders) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the tablets are led by %v; %s is to lead some of them", leaders, n.Name)
		}
		time.Sleep(50 * time.Millisecond) // leaders move on the cluster's own schedule
	}
}

// TestReleaseHasNoCrashPoints: what can kill a process on demand is in no build
// but the one with the tag.
func TestReleaseHasNoCrashPoints(t *testing.T) {
	has := func(binary string) bool {
		data, err := os.ReadFile(binary)
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Contains(data, []byte("SPAND_CRASH_AT")) || bytes.Contains(data, []byte(crashpoint.GatewayBegun))
	}
	if has(Binary(t)) {
		t.Error("the release binary knows crash points")
	}
	if !has(BreakableBinary(t)) {
		t.Error("the binary with the tag spandbreak knows none: this test looks for the wrong thing")
	}
}
