package integration

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// TestX1CommitWait: no commit is acknowledged before After(s). As s is at least
// ε above true time when it is chosen, no commit can take less than 2ε. It takes
// little more than that, or than its replication where that is longer; by how much
// depends on the machine, and is only printed.
func TestX1CommitWait(t *testing.T) {
	for _, nodes := range []int{1, 3} {
		for _, epsilon := range []time.Duration{0, 4 * time.Millisecond, 50 * time.Millisecond} {
			t.Run(fmt.Sprintf("nodes=%d,epsilon=%v", nodes, epsilon), func(t *testing.T) {
				c := startProcesses(t, Options{Nodes: nodes, ClockError: epsilon})
				conn := connect(t, c.Nodes[0])
				if _, err := conn.Exec(t.Context(), "create table t (k int primary key, v int)"); err != nil {
					t.Fatal(err)
				}
				var took []time.Duration
				for i := range 20 {
					began := time.Now()
					if _, err := conn.Exec(t.Context(), "insert into t values ($1, 0)", i); err != nil {
						t.Fatal(err)
					}
					d := time.Since(began)
					if d < 2*epsilon {
						t.Fatalf("commit %d was acknowledged after %v, but s had not passed before %v", i, d, 2*epsilon)
					}
					took = append(took, d)
				}
				slices.Sort(took)
				t.Logf("%d nodes, ε = %v: commits took %v at least, %v in the middle, %v at most; 2ε is %v",
					nodes, epsilon, took[0], took[len(took)/2], took[len(took)-1], 2*epsilon)
			})
		}
	}
}
