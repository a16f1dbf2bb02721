package integration

import (
	"slices"
	"testing"
)

// TestPartitions (R2, X5): the leader of a tablet is cut off from the others, both
// ways or one; transfers go on and nothing is lost or doubled when it is back.
func TestPartitions(t *testing.T) {
	c := startProcesses(t, Options{Nodes: 3, Proxy: true})
	b := openBank(t, c)
	for _, cut := range []struct {
		name      string
		out, back bool
	}{{"both ways", true, true}, {"what it sends", true, false}, {"what it hears", false, true}} {
		leader := psql(t, c.Nodes[0], "select leader from spand.tablets where start_key > '01' order by start_key limit 1")
		victim := slices.IndexFunc(c.Nodes, func(n *Node) bool { return n.Name == leader })
		b.await(t, 50)
		t.Logf("%s is cut off: %s", leader, cut.name)
		each := func(do func(from, to int) error) {
			for i := range c.Nodes {
				if i != victim && cut.out {
					do(victim, i)
				}
				if i != victim && cut.back {
					do(i, victim)
				}
			}
		}
		each(c.Proxy.Cut)
		b.await(t, 100)
		each(c.Proxy.Heal)
		b.await(t, 50)
	}
	b.close(t)
}
