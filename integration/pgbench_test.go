package integration

import (
	"flag"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var (
	pgbenchScale   = flag.Int("pgbench.scale", 1, "scale of pgbench's tables")
	pgbenchSeconds = flag.Int("pgbench.seconds", 0, "how long each pgbench run takes; 0: 100 transactions per client, and more modes")
)

const pgbenchClients = 8

var (
	reFailed    = regexp.MustCompile(`number of failed transactions: (\d+)`)
	reProcessed = regexp.MustCompile(`number of transactions actually processed: (\d+)`)
)

// pgbench runs the benchmark and returns how many transactions it made; any
// error but a retried 40001 fails the test.
func pgbench(t testing.TB, n *Node, args ...string) int {
	t.Helper()
	args = append(args, "-n", "--max-tries=100", "-j", "2", "-c", strconv.Itoa(pgbenchClients))
	if *pgbenchSeconds > 0 {
		args = append(args, "-T", strconv.Itoa(*pgbenchSeconds))
	} else {
		args = append(args, "-t", "100")
	}
	out := tool(t, n, "pgbench", args...)
	done := reProcessed.FindStringSubmatch(out)
	if m := reFailed.FindStringSubmatch(out); m == nil || m[1] != "0" || done == nil {
		t.Fatalf("pgbench %s:\n%s", strings.Join(args, " "), out)
	}
	if *pgbenchSeconds > 0 {
		t.Logf("pgbench %s\n%s", strings.Join(args, " "), out)
	}
	count, _ := strconv.Atoi(done[1])
	return count
}

func pgbenchInit(t testing.TB, n *Node, args ...string) {
	t.Helper()
	tool(t, n, "pgbench", append([]string{"-i", "-q", "-s", strconv.Itoa(*pgbenchScale)}, args...)...)
}

// TestPgbench is the main job: stock pgbench, both ways of filling the tables
// and every protocol mode, against one node and against three. The same at length:
//
//	go test ./integration -run 'TestPgbench$' -v -timeout 30m -pgbench.scale=10 -pgbench.seconds=60
func TestPgbench(t *testing.T) {
	for _, nodes := range []int{1, 3} {
		t.Run(fmt.Sprintf("nodes=%d", nodes), func(t *testing.T) {
			c := startProcesses(t, Options{Nodes: nodes})
			first, last := c.Nodes[0], c.Nodes[nodes-1]
			pgbenchInit(t, first)
			pgbenchHistory{tpcb: pgbench(t, last, "-M", "simple")}.check(t, c)

			pgbenchInit(t, last, "-I", "dtGvp")
			modes := []string{"prepared", "simple", "extended"}
			var h pgbenchHistory
			for _, mode := range modes {
				h.tpcb += pgbench(t, first, "-M", mode)
			}
			h.check(t, c)
			if *pgbenchSeconds > 0 {
				modes = modes[:1]
			}
			for _, mode := range modes {
				pgbench(t, last, "-M", mode, "-S")
				h.simple += pgbench(t, last, "-M", mode, "-N")
			}
			h.check(t, c)
		})
	}
}

// pgbenchHistory is what should have happened to pgbench's tables: so many
// transactions of the TPC-B kind, and of the kind -N, which leaves tellers and
// branches alone.
type pgbenchHistory struct{ tpcb, simple int }

// check demands that history and balances tell the same through every node.
func (h pgbenchHistory) check(t testing.TB, c *Cluster) {
	t.Helper()
	want := fmt.Sprintf("%d|0|0", h.tpcb+h.simple)
	const sums = `select (select count(*) from pgbench_history), (select sum(abalance) from pgbench_accounts) - (select sum(delta) from pgbench_history),
		(select sum(tbalance) from pgbench_tellers) - (select sum(bbalance) from pgbench_branches)`
	for _, n := range c.Nodes {
		if got := psql(t, n, sums); got != want {
			t.Errorf("%s: transactions|accounts-history|tellers-branches is %s, want %s", n.Name, got, want)
		}
		if h.simple > 0 {
			continue
		}
		if got := psql(t, n, "select (select sum(tbalance) from pgbench_tellers) - (select sum(delta) from pgbench_history)"); got != "0" {
			t.Errorf("%s: tellers-history is %s", n.Name, got)
		}
	}
}
