package integration

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// pgbenchLoad runs pgbench through one node, again and again, and knows from its
// transaction logs what was acknowledged when.
type pgbenchLoad struct {
	n    *Node
	dir  string
	quit chan struct{}
	done chan struct{}
	err  error // why it ended, if not by stop; valid after done
}

func startPgbench(t *testing.T, n *Node) *pgbenchLoad {
	l := &pgbenchLoad{n: n, dir: t.TempDir(), quit: make(chan struct{}), done: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); <-l.done })
	go l.run(ctx)
	return l
}

func (l *pgbenchLoad) run(ctx context.Context) {
	defer close(l.done)
	for i := 0; ; i++ {
		select {
		case <-l.quit:
			return
		default:
		}
		out, err := runTool(ctx, l.n, "pgbench", "-n", "-c", strconv.Itoa(pgbenchClients), "-j", "2", "-t", "100", "-M", "prepared",
			"--max-tries=100", "-l", "--log-prefix="+filepath.Join(l.dir, fmt.Sprint("run", i)))
		if m := reFailed.FindStringSubmatch(out); err != nil || m == nil || m[1] != "0" {
			l.err = fmt.Errorf("pgbench through %s: %v\n%s", l.n.Name, err, out)
			return
		}
	}
}

// stop lets the run under way end and returns when every transaction was acknowledged.
func (l *pgbenchLoad) stop() []time.Time {
	close(l.quit)
	return l.end()
}

// end waits for the end of the load, and reads pgbench's logs.
func (l *pgbenchLoad) end() []time.Time {
	<-l.done
	var acked []time.Time
	logs, _ := filepath.Glob(filepath.Join(l.dir, "run*"))
	for _, path := range logs {
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			// client, transaction, latency, script, seconds, microseconds, retries
			field := strings.Fields(lines.Text())
			if len(field) < 6 || field[2] == "failed" {
				continue
			}
			s, _ := strconv.ParseInt(field[4], 10, 64)
			us, _ := strconv.ParseInt(field[5], 10, 64)
			acked = append(acked, time.Unix(s, us*1000))
		}
		f.Close()
	}
	slices.SortFunc(acked, time.Time.Compare)
	return acked
}

// await returns after count more transactions.
func (l *pgbenchLoad) await(t *testing.T, count int) {
	t.Helper()
	history := func() int {
		out, err := runTool(t.Context(), l.n, "psql", "-XAtqc", "select count(*) from pgbench_history")
		if err != nil {
			return 0 // like pgbench itself, this may meet a node without a majority
		}
		n, _ := strconv.Atoi(strings.TrimSpace(out))
		return n
	}
	deadline := time.Now().Add(60 * time.Second)
	for from := history(); history() < from+count; {
		select {
		case <-l.done:
			t.Fatal(l.err)
		case <-time.After(20 * time.Millisecond): // pgbench does not tell of its progress
		}
		if time.Now().After(deadline) {
			t.Fatalf("pgbench through %s makes no progress", l.n.Name)
		}
	}
}

// TestPgbenchWhileNodesDie (R1, X5): pgbench works through one node while each other
// one is killed with kill -9, the leader of pgbench's tablet first, and comes back,
// once with its data and once without. Its transactions go on without an error.
// Then all nodes die at once. See doc.go for the long form, which bounds how long
// the death of a leader is felt.
func TestPgbenchWhileNodesDie(t *testing.T) {
	c := startProcesses(t, Options{Nodes: 3})
	pgbenchInit(t, c.Nodes[0])
	var h pgbenchHistory
	rounds := 1
	if *long {
		rounds = 5
	}
	for range rounds {
		h.tpcb += pgbenchWhileOthersDie(t, c)
		h.check(t, c)
	}

	// All at once: what was acknowledged is there; what was under way may be.
	l := startPgbench(t, c.Nodes[0])
	l.await(t, 200)
	for _, n := range c.Nodes {
		n.Kill(t)
	}
	acked := l.end()
	for _, n := range c.Nodes {
		n.Launch(t)
	}
	for _, n := range c.Nodes {
		n.AwaitReady(t)
	}
	least := h.tpcb + len(acked)
	h.tpcb, _ = strconv.Atoi(psql(t, c.Nodes[0], "select count(*) from pgbench_history"))
	if h.tpcb < least || h.tpcb > least+pgbenchClients {
		t.Errorf("%d transactions were acknowledged and %d clients had one under way, the history holds %d", least, pgbenchClients, h.tpcb)
	}
	h.check(t, c)
}

// pgbenchWhileOthersDie returns the number of transactions made.
func pgbenchWhileOthersDie(t *testing.T, c *Cluster) int {
	leader := psql(t, c.Nodes[0], "select leader from spand.tablets where start_key > '01' order by start_key limit 1")
	var driver *Node
	var victims []*Node // the leader first
	for _, n := range c.Nodes {
		switch {
		case n.Name == leader:
			victims = append([]*Node{n}, victims...)
		case driver == nil:
			driver = n
		default:
			victims = append(victims, n)
		}
	}
	l := startPgbench(t, driver)
	var died []time.Time
	die := func(n *Node, withData bool) {
		l.await(t, 200)
		died = append(died, time.Now())
		n.Kill(t)
		if !withData {
			if err := os.RemoveAll(n.DataDir); err != nil {
				t.Fatal(err)
			}
		}
		l.await(t, 200)
		n.Restart(t)
		awaitReplicas(t, n)
		awaitCaughtUp(t, n, driver)
	}
	for _, withData := range []bool{true, false} {
		for _, n := range victims {
			die(n, withData)
		}
	}
	acked := l.stop()
	if l.err != nil {
		t.Fatal(l.err)
	}
	for i, at := range died {
		until := acked[len(acked)-1]
		if i+1 < len(died) {
			until = died[i+1]
		}
		gap := longestGap(acked, at, until)
		t.Logf("%s died: no transaction was acknowledged for %v", victims[i%len(victims)].Name, gap)
		if *long && gap > 3*time.Second {
			t.Errorf("service was interrupted for %v by the death of %s", gap, victims[i%len(victims)].Name)
		}
	}
	return len(acked)
}

// longestGap between two acknowledgements, of those gaps that end between from and until.
func longestGap(acked []time.Time, from, until time.Time) (gap time.Duration) {
	for i := 1; i < len(acked); i++ {
		if acked[i].After(from) && !acked[i].After(until) {
			gap = max(gap, acked[i].Sub(acked[i-1]))
		}
	}
	return gap
}

// awaitCaughtUp waits until the replicas on n have applied everything that was
// committed, as another node knows it, when the waiting began.
func awaitCaughtUp(t *testing.T, n, other *Node) {
	t.Helper()
	want := map[string]int{}
	for _, line := range strings.Fields(psql(t, other, "select tablet, committed from spand.replicas")) {
		tablet, index, _ := strings.Cut(line, "|")
		want[tablet], _ = strconv.Atoi(index)
	}
	deadline := time.Now().Add(60 * time.Second)
	for {
		behind := ""
		got := map[string]int{}
		for _, line := range strings.Fields(psql(t, n, "select tablet, applied from spand.replicas")) {
			tablet, index, _ := strings.Cut(line, "|")
			got[tablet], _ = strconv.Atoi(index)
		}
		for tablet, index := range want {
			if got[tablet] < index {
				behind += fmt.Sprintf(" tablet %s at %d of %d", tablet, got[tablet], index)
			}
		}
		if behind == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not catch up:%s", n.Name, behind)
		}
		time.Sleep(50 * time.Millisecond) // entries arrive on the cluster's own schedule
	}
}
