package node

import (
	"os"
	"testing"
	"time"

	"github.com/spandb/spand/internal/keys"
)

// A node that lost its data, and the number of its last life with it, is heard by the
// others, although that life ran on a clock that was ahead.
func TestLostIncarnationIsOutlived(t *testing.T) {
	configs := testCluster(t, 3)
	nodes := startAll(t, configs)
	if _, err := nodes[2].store.NextIncarnation(nodes[2].life + uint64(time.Hour)); err != nil {
		t.Fatal(err)
	}
	restart := func() {
		nodes[2].Close()
		nodes[2] = startAll(t, configs[2:])[0]
		eventually(t, "all have met n3's new life", func() bool {
			return nodes[0].net.Incarnation(3) == nodes[2].life && nodes[1].net.Incarnation(3) == nodes[2].life
		})
	}
	restart()
	ahead := nodes[2].life
	nodes[2].Close()
	if err := os.RemoveAll(configs[2].DataDir); err != nil {
		t.Fatal(err)
	}
	restart()
	if nodes[2].life <= ahead {
		t.Errorf("life %d after %d", nodes[2].life, ahead)
	}
	eventually(t, "n3 has its data again", func() bool {
		r, ok := nodes[2].replicas.Get(keys.FirstGroup)
		return ok && r.Group.Status().Role != "incomplete"
	})
}
