package sim

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// A cluster in a bubble answers SQL, over pgx, while nodes die, stop and return.
func TestClusterServesSQL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, err := OpenCluster(t, ClusterOptions{Seed: 1, Epsilon: 4 * time.Millisecond, DiskLatency: time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		ctx := context.Background()
		exec := func(node int, sql string) {
			t.Helper()
			c, err := w.Connect(ctx, node)
			if err != nil {
				t.Fatalf("node %d: %v", node, err)
			}
			defer c.Close(ctx)
			if _, err := c.Exec(ctx, sql); err != nil {
				t.Fatalf("node %d: %s: %v", node, sql, err)
			}
		}
		exec(0, "CREATE TABLE t (k int PRIMARY KEY, v int)")
		exec(1, "INSERT INTO t VALUES (1, 10)")
		w.Crash(0, true)
		exec(1, "UPDATE t SET v = v + 1")
		w.Boot(0)
		if err := w.AwaitStarted(ctx, 0); err != nil {
			t.Fatal(err)
		}
		w.Pause(1)
		exec(2, "UPDATE t SET v = v + 1")
		w.Resume(1)
		w.Partition([]int{2}, []int{0, 1})
		exec(0, "UPDATE t SET v = v + 1")
		w.Heal()
		for i := range w.Nodes() {
			c, err := w.Connect(ctx, i)
			if err != nil {
				t.Fatal(err)
			}
			var v int
			if err := c.QueryRow(ctx, "SELECT v FROM t").Scan(&v); err != nil || v != 13 {
				t.Errorf("node %d: v = %d, %v; want 13", i, v, err)
			}
			c.Close(ctx)
		}
		if vs := w.Violations(); len(vs) > 0 {
			t.Error(vs)
		}
	})
}
