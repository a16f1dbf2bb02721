package integration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/spandb/spand/internal/crashpoint"
)

// outcomes makes a table t in a tablet of its own, so that a commit there takes part in
// two-phase commit with the tablet of the outcomes.
func outcomes(t *testing.T, c *Cluster) {
	n := c.Nodes[0]
	psql(t, n, "create table t (k bigint primary key, id xid8 not null)")
	psql(t, n, "split table t by (0)")
}

// undecided begins a transaction that has asked for its id and written row k.
func undecided(ctx context.Context, conn *pgx.Conn, k int64) (tx pgx.Tx, id uint64, err error) {
	if tx, err = conn.Begin(ctx); err != nil {
		return nil, 0, err
	}
	if err = tx.QueryRow(ctx, "select pg_current_xact_id()").Scan(&id); err == nil {
		_, err = tx.Exec(ctx, "insert into t values ($1, pg_current_xact_id())", k)
	}
	if err != nil {
		tx.Rollback(ctx)
	}
	return tx, id, err
}

func status(ctx context.Context, conn *pgx.Conn, id uint64) (s string, err error) {
	err = conn.QueryRow(ctx, "select coalesce(pg_xact_status($1), 'not known')", id).Scan(&s)
	return s, err
}

// settled asks a node until the outcome is final; it lets no error of the node pass.
func settled(t *testing.T, n *Node, id uint64) string {
	t.Helper()
	conn := connect(t, n)
	defer conn.Close(t.Context())
	for began := time.Now(); ; {
		s, err := status(t.Context(), conn, id)
		if err != nil {
			t.Fatalf("%s: %v", n.Name, err)
		}
		if s != "in progress" {
			return s
		}
		if time.Since(began) > 30*time.Second {
			t.Fatalf("%s: transaction %d is still in progress", n.Name, id)
		}
	}
}

// outcome is what is known for certain of a transaction.
type outcome struct {
	k      int64
	id     uint64
	status string
}

// agree demands the outcome of every node, and that the row is there or not accordingly.
func (o outcome) agree(t *testing.T, nodes ...*Node) {
	t.Helper()
	for _, n := range nodes {
		if s := settled(t, n, o.id); s != o.status {
			t.Errorf("%s: transaction %d is %s and was %s", n.Name, o.id, s, o.status)
		}
		want := "0"
		if o.status == "committed" {
			want = "1"
		}
		if rows := psql(t, n, fmt.Sprintf("select count(*) from t where k = %d and id = '%d'", o.k, o.id)); rows != want {
			t.Errorf("%s: transaction %d is %s and %s of its rows are there", n.Name, o.id, o.status, rows)
		}
	}
}

// TestX5_AskAnotherNode: the gateway, or a leader, dies at a step of a commit, the client
// hears nothing and asks other nodes. All of them tell what happened, and say so after
// every node was restarted.
func TestX5_AskAnotherNode(t *testing.T) {
	c := startProcesses(t, Options{Nodes: 3, Binary: BreakableBinary(t)})
	outcomes(t, c)
	var known []outcome
	k := int64(0)
	for _, step := range []struct {
		at   crashpoint.Point // of the gateway; empty: kill it, in the middle of the transaction
		want string
	}{
		{"", "aborted"},
		{crashpoint.GatewayBegun, "aborted"},
		{crashpoint.GatewayPrepared, "aborted"},
		{crashpoint.GatewayDecided, "committed"},
		{crashpoint.GatewayVisible, "committed"},
	} {
		k++
		gateway := c.Nodes[int(k)%3]
		var others []*Node
		for _, n := range c.Nodes {
			if n != gateway {
				others = append(others, n)
			}
		}
		if step.at != "" {
			gateway.Kill(t)
			gateway.Env = []string{fmt.Sprintf("SPAND_CRASH_AT=%s:1", step.at)}
			gateway.Restart(t)
			gateway.Env = nil
		}
		conn := connect(t, gateway)
		tx, id, err := undecided(t.Context(), conn, k)
		if err != nil {
			t.Fatal(err)
		}
		watcher := connect(t, others[0])
		if s, err := status(t.Context(), watcher, id); s != "in progress" || err != nil {
			t.Errorf("open at %s: %s, %v", gateway.Name, s, err)
		}
		if step.at == "" {
			gateway.Kill(t)
		} else {
			gateway.signal(t, syscall.SIGUSR1)
			// The signal is heard in its own time; a statement is a trip there and back.
			if _, err := tx.Exec(t.Context(), "select pg_sleep(0.1)"); err != nil {
				t.Fatal(err)
			}
			if err := tx.Commit(t.Context()); err == nil {
				t.Fatalf("%s was to die at %s and has committed", gateway.Name, step.at)
			}
			awaitSuicide(t, gateway, step.at)
		}
		began := time.Now()
		o := outcome{k, id, settled(t, others[0], id)}
		t.Logf("%s dead at %q: %s after %v", gateway.Name, step.at, o.status, time.Since(began))
		if o.status != step.want {
			t.Errorf("%s died at %q, and its transaction is %s", gateway.Name, step.at, o.status)
		}
		o.agree(t, others...)
		gateway.Restart(t)
		o.agree(t, gateway)
		known = append(known, o)
	}

	// A gateway that was only taken for dead finds its transaction aborted.
	k++
	conn := connect(t, c.Nodes[2])
	tx, id, err := undecided(t.Context(), conn, k)
	if err != nil {
		t.Fatal(err)
	}
	c.Nodes[2].Pause(t)
	o := outcome{k, id, settled(t, c.Nodes[0], id)}
	c.Nodes[2].Resume(t)
	if err := tx.Commit(t.Context()); o.status != "aborted" || err == nil {
		t.Errorf("paused in the middle of a transaction: %s, and its commit: %v", o.status, err)
	}
	o.agree(t, c.Nodes...)
	known = append(known, o)

	// One request, one tablet, or very many writes: all are commits.
	psql(t, c.Nodes[0], "create table u (a text, id xid8 default pg_current_xact_id())")
	for _, n := range c.Nodes {
		conn := connect(t, n)
		for _, insert := range []string{
			"insert into u values ('one') returning id",
			"insert into u select repeat('x', 100) from generate_series(1, 60000) returning id",
		} {
			var id uint64
			if err := conn.QueryRow(t.Context(), insert).Scan(&id); err != nil {
				t.Fatal(err)
			}
			for _, m := range c.Nodes {
				if s, err := status(t.Context(), connect(t, m), id); s != "committed" || err != nil {
					t.Errorf("%s through %s: %s is %s, %v", insert, n.Name, m.Name, s, err)
				}
			}
		}
	}

	// The leader of the outcomes' tablet dies: with it the lock of an open transaction.
	for i := range 2 {
		k++
		leader := c.Nodes[0]
		name := psql(t, leader, "select leader from spand.tablets where start_key >= '02' order by start_key limit 1")
		for _, n := range c.Nodes {
			if n.Name == name {
				leader = n
			}
		}
		gateway := c.Nodes[0]
		if gateway == leader {
			gateway = c.Nodes[1]
		}
		conn := connect(t, gateway)
		tx, id, err := undecided(t.Context(), conn, k)
		if err != nil {
			t.Fatal(err)
		}
		o := outcome{k, id, "aborted"}
		if i == 0 {
			leader.Kill(t)
			var refused *pgconn.PgError
			if err := tx.Commit(t.Context()); !errors.As(err, &refused) || refused.Code != "40001" {
				t.Errorf("a commit without its locks: %v", err)
			}
		} else {
			if err := tx.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			o.status = "committed"
			leader.Kill(t)
		}
		t.Logf("%s, which led, is dead; the transaction is %s", leader.Name, o.status)
		for _, n := range c.Nodes {
			if n != leader {
				o.agree(t, n)
			}
		}
		leader.Restart(t)
		known = append(known, o)
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
	for _, o := range known {
		o.agree(t, c.Nodes...)
	}
}

// TestX5_OutcomesWhileNodesDie: clients at every node commit while nodes are killed, and
// ask other nodes about what they were not told, and sometimes about what they were.
// Whatever was said once is said ever after, and is what happened.
func TestX5_OutcomesWhileNodesDie(t *testing.T) {
	c := startProcesses(t, Options{Nodes: 3})
	outcomes(t, c)
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	var known []outcome
	asked := map[string]int{} // of those that nobody told the client of
	progress := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 9 {
		rng := rand.New(rand.NewPCG(1, uint64(i)))
		wg.Go(func() {
			for k := int64(i) << 32; ctx.Err() == nil; k++ {
				o, told, ok := commitAndAsk(ctx, t, c, k, c.Nodes[i%3], rng)
				if !ok {
					continue
				}
				mu.Lock()
				known = append(known, o)
				if !told {
					asked[o.status]++
				}
				mu.Unlock()
				select {
				case progress <- struct{}{}:
				default:
				}
			}
		})
	}
	await := func(n int) {
		t.Helper()
		for timeout := time.After(60 * time.Second); n > 0; n-- {
			select {
			case <-progress:
			case <-timeout:
				t.Fatal("the clients make no progress")
			}
		}
	}
	defer wg.Wait()
	defer cancel()
	for range 2 {
		for _, n := range c.Nodes {
			await(30)
			n.Kill(t)
			await(15)
			n.Restart(t)
		}
	}
	await(100)
	cancel()
	wg.Wait()

	conns := make([]*pgx.Conn, len(c.Nodes))
	for i, n := range c.Nodes {
		conns[i] = connect(t, n)
	}
	rows, err := conns[0].Query(t.Context(), "select k, id from t")
	if err != nil {
		t.Fatal(err)
	}
	there := map[int64]uint64{}
	var k int64
	var id uint64
	if _, err := pgx.ForEachRow(rows, []any{&k, &id}, func() error { there[k] = id; return nil }); err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	for i, o := range known {
		counts[o.status]++
		if committed := there[o.k] == o.id; committed != (o.status == "committed") {
			t.Errorf("transaction %d was said to be %s, and that its row is there is %v", o.id, o.status, committed)
		}
		if s, err := status(t.Context(), conns[i%3], o.id); s != o.status || err != nil {
			t.Errorf("transaction %d was said to be %s, and is %s, %v", o.id, o.status, s, err)
		}
	}
	t.Logf("outcomes: %v; asked for without having been told: %v", counts, asked)
	if counts["committed"] < 200 || asked["committed"] == 0 || asked["aborted"] == 0 {
		t.Error("too little has happened")
	}
}

// commitAndAsk makes one transaction and finds out what has become of it; told is
// whether its own connection said so. Not ok: it was never shown its id.
func commitAndAsk(ctx context.Context, t *testing.T, c *Cluster, k int64, n *Node, rng *rand.Rand) (o outcome, told, ok bool) {
	conn, err := tryConnect(ctx, n)
	if err != nil {
		time.Sleep(10 * time.Millisecond) // the node is down; nothing announces its return
		return o, false, false
	}
	defer conn.Close(context.Background())
	tx, id, err := undecided(t.Context(), conn, k)
	if id == 0 {
		return o, false, false
	}
	o = outcome{k: k, id: id}
	if err == nil {
		patience := time.Minute
		if rng.IntN(4) == 0 {
			patience = time.Duration(rng.IntN(int(5 * time.Millisecond))) // and hangs up
		}
		hurry, cancel := context.WithTimeout(t.Context(), patience)
		err = tx.Commit(hurry)
		cancel()
	}
	var said *pgconn.PgError
	switch {
	case err == nil:
		o.status = "committed"
	case errors.As(err, &said) && said.Code == "40001":
		o.status = "aborted"
	}
	told = o.status != ""
	if told && rng.IntN(4) != 0 {
		return o, true, true
	}
	// An acknowledged commit is known everywhere at once; what failed is known in time.
	for began := time.Now(); time.Since(began) < 60*time.Second; {
		m := c.Nodes[rng.IntN(len(c.Nodes))]
		other, err := tryConnect(t.Context(), m)
		if err != nil {
			continue
		}
		s, err := status(t.Context(), other, id)
		other.Close(context.Background())
		switch {
		case err != nil:
		case s == "in progress" && o.status != "committed":
		case told && s != o.status, s != "committed" && s != "aborted":
			t.Errorf("%s: transaction %d is %s and was %q", m.Name, id, s, o.status)
			return o, told, true
		default:
			o.status = s
			return o, told, true
		}
	}
	t.Errorf("nobody tells the outcome of transaction %d", id)
	return o, told, false
}
