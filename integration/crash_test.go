package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// writer inserts numbered rows through one node, reconnecting for ever, and
// remembers which were acknowledged, and which may or may not be there.
type writer struct {
	node   *Node
	base   int
	cancel context.CancelFunc
	done   chan struct{}

	mu    sync.Mutex
	acked []int
	next  chan struct{} // closed and replaced at every acknowledgement
}

func startWriter(t *testing.T, n *Node, base int) *writer {
	ctx, cancel := context.WithCancel(context.Background())
	w := &writer{node: n, base: base, cancel: cancel, done: make(chan struct{}), next: make(chan struct{})}
	go w.run(ctx)
	t.Cleanup(w.stop)
	return w
}

func (w *writer) run(ctx context.Context) {
	defer close(w.done)
	var conn *pgx.Conn
	for i := w.base; ctx.Err() == nil; i++ {
		if conn == nil || conn.IsClosed() {
			var err error
			if conn, err = tryConnect(ctx, w.node); err != nil {
				conn = nil
				time.Sleep(10 * time.Millisecond) // the node is down; nothing announces its return
				continue
			}
		}
		if _, err := conn.Exec(ctx, "insert into numbers values ($1)", i); err == nil {
			w.mu.Lock()
			w.acked = append(w.acked, i)
			close(w.next)
			w.next = make(chan struct{})
			w.mu.Unlock()
		}
	}
	if conn != nil {
		conn.Close(context.Background())
	}
}

// awaitProgress returns after n more acknowledgements.
func (w *writer) awaitProgress(t *testing.T, n int) {
	t.Helper()
	timeout := time.After(60 * time.Second)
	for range n {
		w.mu.Lock()
		next := w.next
		w.mu.Unlock()
		select {
		case <-next:
		case <-timeout:
			t.Fatalf("writer at %s makes no progress", w.node.Name)
		}
	}
}

func (w *writer) stop() { w.cancel(); <-w.done }

// check demands that every acknowledged row is there, exactly once, through n.
func (w *writer) check(t *testing.T, n *Node) {
	t.Helper()
	conn := connect(t, n)
	defer conn.Close(t.Context())
	rows, err := conn.Query(t.Context(), "select k, count(*) from numbers group by k")
	if err != nil {
		t.Fatal(err)
	}
	found := map[int]int{}
	var k, count int
	if _, err := pgx.ForEachRow(rows, []any{&k, &count}, func() error { found[k] = count; return nil }); err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, k := range w.acked {
		if found[k] != 1 {
			t.Fatalf("%s: acknowledged row %d is there %d times", n.Name, k, found[k])
		}
	}
	if len(w.acked) == 0 {
		t.Fatal("nothing was acknowledged")
	}
}

// TestKillNineOneNode (R1, X5): what was acknowledged before kill -9 is there after it.
func TestKillNineOneNode(t *testing.T) {
	c := startProcesses(t, Options{})
	n := c.Nodes[0]
	psql(t, n, "create table numbers (k int)") // no key: a doubled row would show
	w := startWriter(t, n, 0)
	for range 3 {
		w.awaitProgress(t, 50)
		n.Kill(t)
		n.Restart(t)
	}
	w.awaitProgress(t, 10)
	w.stop()
	w.check(t, n)
}

// TestKillNineOfThree kills each node in turn, leaders included, while writers
// work through the others; then all three at once.
func TestKillNineOfThree(t *testing.T) {
	c := startProcesses(t, Options{Nodes: 3})
	psql(t, c.Nodes[0], "create table numbers (k int)")
	var writers []*writer
	for i, n := range c.Nodes {
		writers = append(writers, startWriter(t, n, i*10_000_000))
	}
	for i, n := range c.Nodes {
		survivor := writers[(i+1)%3]
		survivor.awaitProgress(t, 20)
		n.Kill(t)
		survivor.awaitProgress(t, 50)
		n.Restart(t)
		writers[i].awaitProgress(t, 20)
	}
	for _, n := range c.Nodes {
		n.Kill(t)
	}
	for _, n := range c.Nodes {
		n.Launch(t)
	}
	for _, n := range c.Nodes {
		n.AwaitReady(t)
	}
	for _, w := range writers {
		w.awaitProgress(t, 5)
		w.stop()
	}
	for _, n := range c.Nodes {
		for _, w := range writers {
			w.check(t, n)
		}
	}
}

// TestPausedLeader (R2): a leader that sleeps through its lease answers nothing
// stale when it wakes, and loses and doubles nothing.
func TestPausedLeader(t *testing.T) {
	c := startProcesses(t, Options{Nodes: 3})
	psql(t, c.Nodes[0], "create table numbers (k int)")
	psql(t, c.Nodes[0], "create table register (id int primary key, v int)")
	psql(t, c.Nodes[0], "insert into register values (1, 0)")
	const read = "select v from register where id = 1"
	for round := range 3 {
		leader := psql(t, c.Nodes[0], "select leader from spand.tablets where start_key > '01'")
		i := slices.IndexFunc(c.Nodes, func(n *Node) bool { return n.Name == leader })
		n, other := c.Nodes[i], c.Nodes[(i+1)%3]
		w := startWriter(t, other, (round+1)*10_000_000)
		w.awaitProgress(t, 5)

		sleepers := make([]*pgx.Conn, 16)
		for j := range sleepers {
			sleepers[j] = connect(t, n)
			if _, err := sleepers[j].PgConn().Exec(t.Context(), read).ReadAll(); err != nil {
				t.Fatal(err)
			}
		}
		n.Pause(t)
		w.awaitProgress(t, 50) // longer than the lease: another leader serves by now
		psql(t, other, fmt.Sprintf("update register set v = %d where id = 1", round+1))
		// What the node finds in its sockets when it wakes was asked after that
		// update was acknowledged.
		answers := make([]*pgconn.MultiResultReader, len(sleepers))
		for j, s := range sleepers {
			answers[j] = s.PgConn().Exec(t.Context(), read)
		}
		n.Resume(t)
		for _, a := range answers {
			results, err := a.ReadAll()
			var pgErr *pgconn.PgError
			switch {
			case errors.As(err, &pgErr): // it may refuse
			case err != nil:
				t.Fatal(err)
			default:
				if v := string(results[0].Rows[0][0]); v != fmt.Sprint(round+1) {
					t.Fatalf("%s read %s after its pause, but %d was acknowledged before it woke", n.Name, v, round+1)
				}
			}
		}
		w.stop()
		for _, m := range c.Nodes {
			w.check(t, m)
		}
	}
}

// TestTransfersOverTablets: over four tablets led by different nodes, transfers
// preserve the total that concurrent full reads see, while nodes die.
func TestTransfersOverTablets(t *testing.T) {
	c := startProcesses(t, Options{Nodes: 3})
	b := openBank(t, c)
	b.await(t, 100)
	for _, n := range c.Nodes {
		t.Log("kill -9 ", n.Name)
		n.Kill(t)
		b.await(t, 50)
		n.Restart(t)
		t.Log("restarted ", n.Name)
		b.await(t, 50)
	}
	b.close(t)
}

// TestLostDataDirectory: a node whose directory is gone comes back under its
// name, votes in nothing it may have voted in before, and gets its replicas as
// snapshots.
func TestLostDataDirectory(t *testing.T) {
	c := startProcesses(t, Options{Nodes: 3})
	psql(t, c.Nodes[0], "create table numbers (k int)")
	psql(t, c.Nodes[0], "create table parted (k int primary key)")
	psql(t, c.Nodes[0], "split table parted by (100), (200)")
	psql(t, c.Nodes[0], "insert into parted select i from generate_series(1, 300) as i")
	for i, n := range c.Nodes {
		other := c.Nodes[(i+1)%3]
		w := startWriter(t, other, (i+1)*10_000_000)
		w.awaitProgress(t, 20)
		n.Kill(t)
		if err := os.RemoveAll(n.DataDir); err != nil {
			t.Fatal(err)
		}
		w.awaitProgress(t, 20)
		n.Restart(t)
		w.awaitProgress(t, 20)
		awaitReplicas(t, n)
		w.stop()
		// The copy counts: with another node dead, it is half of the majority.
		other.Kill(t)
		w.check(t, n)
		if got := psql(t, n, "select count(*) from parted"); got != "300" {
			t.Errorf("%s: %s rows after its directory was lost", n.Name, got)
		}
		other.Restart(t)
	}
}

// awaitReplicas waits until the replicas on n of every tablet, and of the lock service's first
// cell, have data again.
func awaitReplicas(t *testing.T, n *Node) {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for {
		got := psql(t, n, "select (select count(*) + 1 from spand.tablets) - (select count(*) from spand.replicas where role in ('leader', 'follower'))")
		if got == "0" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s lacks %s replicas:\n%s", n.Name, got, psql(t, n, "select * from spand.replicas"))
		}
		time.Sleep(50 * time.Millisecond) // replicas arrive on the cluster's own schedule
	}
}
