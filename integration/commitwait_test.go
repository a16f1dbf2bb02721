package integration

import (
	"fmt"
	"testing"
	"time"
)

// TestX1CommitWait: no commit is acknowledged before After(s). As s is at least
// ε above true time when it is chosen, no commit can take less than 2ε.
func TestX1CommitWait(t *testing.T) {
	for _, epsilon := range []time.Duration{0, 4 * time.Millisecond, 50 * time.Millisecond} {
		t.Run(fmt.Sprint("epsilon=", epsilon), func(t *testing.T) {
			c := Start(t, Options{ClockError: epsilon.String()})
			conn := connect(t, c.Nodes[0])
			if _, err := conn.Exec(t.Context(), "create table t (k int primary key, v int)"); err != nil {
				t.Fatal(err)
			}
			var sum time.Duration
			const commits = 20
			for i := range commits {
				began := time.Now()
				if _, err := conn.Exec(t.Context(), "insert into t values ($1, 0)", i); err != nil {
					t.Fatal(err)
				}
				took := time.Since(began)
				sum += took
				if took < 2*epsilon {
					t.Fatalf("commit %d was acknowledged after %v, but s had not passed before %v", i, took, 2*epsilon)
				}
			}
			t.Logf("ε = %v: mean commit latency %v", epsilon, sum/commits)
		})
	}
}
