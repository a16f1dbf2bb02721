package node

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/spandb/spand/internal/keys"
)

// A statement that waits at another node: both nodes' lines about it bear one trace id.
func TestSlowStatementHasOneTraceOnAllNodes(t *testing.T) {
	configs := testCluster(t, 3)
	nodes := make([]*Node, len(configs))
	logs := make([]logBuffer, len(configs))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	for i, c := range configs {
		wg.Go(func() {
			n, err := Start(ctx, c, NewLogger(c, &logs[i]))
			if err != nil {
				t.Error(err)
				return
			}
			nodes[i] = n
		})
	}
	wg.Wait()
	for _, n := range nodes {
		if n == nil {
			t.FailNow()
		}
		defer n.Close()
	}
	const leader = 2 // where the first tablet settles: its preferred node
	eventually(t, "n3 leads", func() bool {
		r, ok := nodes[leader].replicas.Get(keys.FirstGroup)
		return ok && r.Group.Status().Serving
	})
	gateway := (leader + 1) % len(nodes)
	connect := func(n *Node) *pgx.Conn {
		conn, err := pgx.Connect(ctx, "postgres://root@"+n.Addrs().SQL+"/spand?sslmode=disable")
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	first, second := connect(nodes[leader]), connect(nodes[gateway])
	defer first.Close(ctx)
	defer second.Close(ctx)
	exec := func(conn *pgx.Conn, sql string) {
		if _, err := conn.Exec(ctx, sql); err != nil {
			t.Errorf("%s: %v", sql, err)
		}
	}
	exec(first, "create table t (k int primary key, v int)")
	exec(first, "insert into t values (1, 0)")
	exec(first, "begin")
	exec(first, "update t set v = 1 where k = 1")
	done := make(chan struct{})
	go func() {
		defer close(done)
		exec(second, "update t set v = 2 where k = 1")
	}()
	time.Sleep(slowCall + slowCall/2) // the wait is what the test is about
	exec(first, "commit")
	<-done

	said := logs[gateway].find(t, "slow statement")
	id, _ := said["trace_id"].(string)
	if len(id) != 32 || said["node"] != configs[gateway].Node {
		t.Fatalf("the gateway says %v", said)
	}
	there := logs[leader].find(t, "a request of a peer was slow")
	if there["trace_id"] != id || there["node"] != configs[leader].Node || !strings.HasPrefix(there["from"].(string), "n") {
		t.Errorf("the leader says %v of trace %s", there, id)
	}
}
