package integration

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
)

var reFailed = regexp.MustCompile(`number of failed transactions: (\d+)`)

// pgbench runs the benchmark; any error but a retried 40001 fails the test.
func pgbench(t testing.TB, n *Node, args ...string) string {
	t.Helper()
	out := tool(t, n, "pgbench", append([]string{"-n", "--max-tries=100"}, args...)...)
	if m := reFailed.FindStringSubmatch(out); m == nil || m[1] != "0" {
		t.Fatalf("pgbench %s:\n%s", strings.Join(args, " "), out)
	}
	return out
}

// TestPgbench is the main job: stock pgbench, both ways of filling the tables
// and every protocol mode, against one node and against three.
func TestPgbench(t *testing.T) {
	for _, nodes := range []int{1, 3} {
		t.Run(fmt.Sprintf("nodes=%d", nodes), func(t *testing.T) {
			c := Start(t, Options{Nodes: nodes})
			last := c.Nodes[nodes-1]
			tool(t, c.Nodes[0], "pgbench", "-i", "-q", "-s", "1")
			pgbench(t, last, "-c", "4", "-t", "50", "-M", "simple")
			tool(t, last, "pgbench", "-i", "-I", "dtGvp", "-q", "-s", "1")
			for _, mode := range []string{"prepared", "simple", "extended"} {
				pgbench(t, c.Nodes[0], "-c", "8", "-t", "100", "-M", mode)
				pgbench(t, last, "-c", "8", "-t", "100", "-M", mode, "-N")
				pgbench(t, last, "-c", "8", "-t", "100", "-M", mode, "-S")
			}
			for _, n := range c.Nodes {
				checkHistory(t, n, 8*100*3)
			}
		})
	}
}

// checkHistory demands that what the history table tells is what the balances
// hold. -N writes no tellers and branches, so only accounts are compared.
func checkHistory(t testing.TB, n *Node, tpcb int) {
	t.Helper()
	got := psql(t, n, `select (select sum(abalance) from pgbench_accounts) - (select sum(delta) from pgbench_history), (select count(*) from pgbench_history),
		(select sum(tbalance) from pgbench_tellers) - (select sum(bbalance) from pgbench_branches)`)
	if want := fmt.Sprintf("0|%d|0", 2*tpcb); got != want {
		t.Errorf("%s: accounts-history|transactions|tellers-branches is %s, want %s", n.Name, got, want)
	}
}
