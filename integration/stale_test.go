package integration

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// pastReads returns a node's counts of reads in the past, by who answered.
func pastReads(t *testing.T, n *Node) map[string]int {
	t.Helper()
	resp, err := http.Get("http://" + n.HTTPAddr + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	for line := range strings.Lines(string(body)) {
		var by string
		var v float64
		if _, err := fmt.Sscanf(strings.TrimSpace(line), "spand_past_reads_total{by=%q} %g", &by, &v); err == nil {
			counts[by] = int(v)
		}
	}
	return counts
}

// leaderOf returns a node that leads a tablet.
func leaderOf(t *testing.T, c *Cluster) *Node {
	t.Helper()
	leaders := psql(t, c.Nodes[0], "select leader from spand.tablets")
	for _, n := range c.Nodes {
		if strings.Contains(leaders, n.Name) {
			return n
		}
	}
	t.Fatalf("nobody leads: %s", leaders)
	return nil
}

func execute(t *testing.T, conn *pgx.Conn, sql string, args ...any) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func queryText(ctx context.Context, conn *pgx.Conn, sql string, args ...any) (s string, err error) {
	err = conn.QueryRow(ctx, sql, args...).Scan(&s)
	return s, err
}

func text(t *testing.T, conn *pgx.Conn, sql string, args ...any) string {
	t.Helper()
	s, err := queryText(t.Context(), conn, sql, args...)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return s
}

// awaitPast returns once sql, which reads in the past, answers want: what has just been
// made is not there yet.
func awaitPast(t *testing.T, conn *pgx.Conn, sql, want string) {
	t.Helper()
	for began := time.Now(); ; {
		got, err := queryText(t.Context(), conn, sql)
		if err == nil && got == want {
			return
		}
		if time.Since(began) > 60*time.Second {
			t.Fatalf("%s: %q, %v", sql, got, err)
		}
	}
}

// TestX4_StaleReadsSeeWhatWasCommitted: with writers at work, every read in the past,
// at any node and in every mode, sees exactly the rows that were committed up to the
// timestamp that it names, across tablets.
func TestX4_StaleReadsSeeWhatWasCommitted(t *testing.T) {
	c := startProcesses(t, Options{Nodes: 3})
	psql(t, c.Nodes[0], "create table numbers (k int primary key)")
	psql(t, c.Nodes[0], "split table numbers by (1000000), (2000000)")
	awaitPast(t, connect(t, c.Nodes[0]), "select count(*)::text from numbers as of timestamp now() - interval '300 milliseconds'", "0")

	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	committed := map[string]time.Time{} // by key
	var wg sync.WaitGroup
	for i, n := range c.Nodes {
		conn := connect(t, n)
		wg.Go(func() {
			for k := i; ctx.Err() == nil; k += 3 {
				// Two tablets every other time: what is prepared overlaps reads.
				other := k + 1000000 + k%2*1000000
				sql := fmt.Sprintf("insert into numbers values (%d), (%d)", k, other)
				if _, err := conn.Exec(t.Context(), sql); err != nil {
					t.Error(err)
					return
				}
				at, err := queryText(t.Context(), conn, "show spand.commit_timestamp")
				s, perr := time.Parse(time.RFC3339Nano, at)
				if err != nil || perr != nil {
					t.Error(err, perr)
					return
				}
				mu.Lock()
				committed[strconv.Itoa(k)], committed[strconv.Itoa(other)] = s, s
				mu.Unlock()
			}
		})
	}
	type seen struct {
		mode, node string
		at         time.Time
		rows       []string
	}
	var reads []seen
	var readers sync.WaitGroup
	stop := time.Now().Add(4 * time.Second)
	for _, n := range c.Nodes {
		for _, mode := range []string{"EXACT_STALENESS 300ms", "EXACT_STALENESS 1ms", "MAX_STALENESS 10s", "MAX_STALENESS 50ms", "AS OF"} {
			conn := connect(t, n)
			sql := "select k::text from numbers"
			if mode == "AS OF" {
				sql = "select k::text from numbers as of timestamp now() - interval '20 milliseconds'"
			} else {
				execute(t, conn, "set spand.read_only_staleness = '"+mode+"'")
			}
			readers.Go(func() {
				for time.Now().Before(stop) {
					rows, err := conn.Query(t.Context(), sql)
					if err != nil {
						t.Error(err)
						return
					}
					keys, err := pgx.CollectRows(rows, pgx.RowTo[string])
					if err != nil {
						t.Errorf("%s at %s: %v", mode, n.Name, err)
						return
					}
					at, err := queryText(t.Context(), conn, "show spand.read_timestamp")
					s, perr := time.Parse(time.RFC3339Nano, at)
					if err != nil || perr != nil {
						t.Error(err, perr)
						return
					}
					mu.Lock()
					reads = append(reads, seen{mode, n.Name, s, keys})
					mu.Unlock()
				}
			})
		}
	}
	readers.Wait()
	cancel()
	wg.Wait()
	if len(committed) < 100 || len(reads) < 100 {
		t.Fatalf("%d rows, %d reads: too little to tell", len(committed), len(reads))
	}
	for _, r := range reads {
		var want []string
		for k, s := range committed {
			if !s.After(r.at) {
				want = append(want, k)
			}
		}
		slices.Sort(want)
		slices.Sort(r.rows)
		if !slices.Equal(r.rows, want) {
			t.Fatalf("X4: %s at %s, at %v: %d rows, committed up to then were %d (of %d)", r.mode, r.node, r.at, len(r.rows), len(want), len(committed))
		}
	}
	here := 0
	for _, n := range c.Nodes {
		counts := pastReads(t, n)
		t.Log(n.Name, counts)
		here += counts["here"]
	}
	if here < len(reads) {
		t.Errorf("of %d reads in the past only so many requests were answered by the node's own replica: %d", len(reads), here)
	}
	t.Logf("%d rows, %d reads", len(committed), len(reads))
}

// TestX4_IdleTabletsSafeTimeMoves: at a follower of tablets that have long been idle,
// reads of the very recent past are its own business; nothing is locked.
func TestX4_IdleTabletsSafeTimeMoves(t *testing.T) {
	c := startProcesses(t, Options{Nodes: 3})
	psql(t, c.Nodes[0], "create table t (k int primary key); insert into t values (1)")
	written := time.Now()
	for n := range c.Nodes {
		for !strings.Contains(psql(t, c.Nodes[n], "select bool_and(quiesced or role <> 'leader') from spand.replicas"), "t") {
			if time.Since(written) > 60*time.Second {
				t.Fatal("the tablets do not go to sleep")
			}
			time.Sleep(50 * time.Millisecond) // nothing announces that a tablet sleeps
		}
	}
	for _, n := range c.Nodes {
		conn := connect(t, n)
		execute(t, conn, "set spand.read_only_staleness = 'EXACT_STALENESS 1s'")
		awaitPast(t, conn, "select count(*)::text from t", "1")
		before := pastReads(t, n)
		const many = 50
		free := 0 // looks that found no lock: the schema's own come and go
		for range many {
			if k := text(t, conn, "select count(*)::text from t"); k != "1" {
				t.Fatalf("%s: %s rows", n.Name, k)
			}
			if text(t, conn, "select count(*)::text from spand.transaction_locks") == "0" {
				free++
			}
		}
		if free < many/2 {
			t.Errorf("%s: locks stand in %d of %d looks", n.Name, many-free, many)
		}
		after := pastReads(t, n)
		if after["here"]-before["here"] < many || after["replica"] != before["replica"] || after["leader"] != before["leader"] {
			t.Errorf("%s: answered by %v before, %v after %d reads", n.Name, before, after, many)
		}
		// How far the safe time lies behind, at worst: a heartbeat and a little.
		worst := time.Duration(0)
		execute(t, conn, "set spand.read_only_staleness = 'MAX_STALENESS 10s'")
		for range many {
			text(t, conn, "select count(*)::text from t")
			at, err := time.Parse(time.RFC3339Nano, text(t, conn, "show spand.read_timestamp"))
			if err != nil {
				t.Fatal(err)
			}
			worst = max(worst, time.Since(at))
			time.Sleep(7 * time.Millisecond) // to meet heartbeats at all their phases
		}
		if worst > 5*time.Second {
			t.Errorf("%s: safe time lags %v", n.Name, worst)
		}
		t.Logf("%s: the freshest read here lags %v at most", n.Name, worst)
	}
}

// TestX4_LastNodeAliveReadsThePast: with the leader stopped, then a majority dead, the
// node that is left serves what it had closed, to new clients too, and says so when it
// cannot.
func TestX4_LastNodeAliveReadsThePast(t *testing.T) {
	c := startProcesses(t, Options{Nodes: 3})
	psql(t, c.Nodes[0], "create table t (k int primary key, v text); insert into t select g, 'v' from generate_series(1, 100) g; create table gone (a int)")
	psql(t, c.Nodes[0], "split table t by (50)")
	conn := connect(t, c.Nodes[0])
	execute(t, conn, "update t set v = 'w' where k in (1, 99)")
	at := text(t, conn, "show spand.commit_timestamp")
	execute(t, conn, "update t set v = 'x' where k in (1, 99)")
	execute(t, conn, "drop table gone")
	conn.Close(t.Context())

	leader := leaderOf(t, c)
	var left *Node
	for _, n := range c.Nodes {
		if n != leader {
			left = n
		}
	}
	// Its safe time must have come past all that, which reads in the past show.
	caught := connect(t, left)
	execute(t, caught, "set spand.read_only_staleness = 'MAX_STALENESS 10s'")
	for began := time.Now(); ; {
		text(t, caught, "select count(*)::text from t where v = 'x'")
		if s := text(t, caught, "show spand.read_timestamp"); s > at && text(t, caught, "select count(*)::text from t where v = 'x'") == "2" {
			break
		}
		if time.Since(began) > 30*time.Second {
			t.Fatal("the safe time does not move")
		}
	}

	look := func(when string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		began := time.Now()
		conn, err := pgx.Connect(ctx, left.URL())
		if err != nil {
			t.Fatalf("%s: connecting: %v", when, err)
		}
		defer conn.Close(context.Background())
		connected := time.Since(began)
		if _, err := conn.Exec(ctx, "set spand.read_only_staleness = 'MAX_STALENESS 1h'"); err != nil {
			t.Fatal(err)
		}
		began = time.Now()
		if n, err := queryText(ctx, conn, "select count(*)::text || max(v) from t"); err != nil || n != "100x" {
			t.Fatalf("%s: bounded staleness: %q, %v", when, n, err)
		}
		if n, err := queryText(ctx, conn, "select string_agg(relname, ',') from pg_class where relname in ('t', 'gone')"); err != nil || n != "t" {
			t.Fatalf("%s: the catalog: %q, %v", when, n, err)
		}
		if n, err := queryText(ctx, conn, "select max(v) from t where k = $1", 99); err != nil || n != "x" {
			t.Fatalf("%s: by key: %q, %v", when, n, err)
		}
		if _, err := conn.Exec(ctx, "reset spand.read_only_staleness"); err != nil {
			t.Fatal(err)
		}
		sql := fmt.Sprintf("select string_agg(v, '') from t where k in (1, 99) as of timestamp '%s'", at)
		if n, err := queryText(ctx, conn, sql); err != nil || n != "ww" {
			t.Fatalf("%s: as of %s: %q, %v", when, at, n, err)
		}
		if _, err := queryText(ctx, conn, fmt.Sprintf("select count(*)::text from gone as of timestamp '%s'", at)); err != nil {
			t.Fatalf("%s: a table that was dropped since: %v", when, err)
		}
		t.Logf("%s: connected in %v, five statements in %v", when, connected, time.Since(began))
	}
	look("all alive")
	leader.Pause(t)
	look("the leader stopped")
	for _, n := range c.Nodes {
		if n != left {
			n.Kill(t)
		}
	}
	alone := time.Now()
	look("alone")
	// Until the leases of leaders and of the schema (4 s) have ended: only time tells.
	time.Sleep(time.Until(alone.Add(5 * time.Second)))
	if n := text(t, caught, "select count(*)::text from spand.replicas where serving"); n != "0" {
		t.Fatalf("it serves %s tablets", n)
	}
	look("alone for long")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if n, err := queryText(ctx, caught, "select count(*)::text from t as of timestamp now()"); err == nil {
		t.Errorf("X4: it answers %s as of now, without anybody", n)
	}
}
