package node

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/spandb/spand/internal/cells"
	"github.com/spandb/spand/lockservice/lockpb"
)

// acquire opens path in a session's handle and takes its lock.
func (c lockClient) acquire(path string, session uint64) (sequencer string, release func()) {
	c.t.Helper()
	h := &lockpb.Handle{Path: path, Session: session, Handle: 1}
	insist(c.t, func(ctx context.Context) (*lockpb.OpenResponse, error) {
		return c.Open(ctx, &lockpb.OpenRequest{Handle: h, Create: lockpb.Create_CREATE_IF_ABSENT})
	})
	q := insist(c.t, func(ctx context.Context) (*lockpb.AcquireResponse, error) {
		return c.TryAcquire(ctx, &lockpb.AcquireRequest{Handle: h})
	}).Sequencer.Text
	return q, func() {
		c.t.Helper()
		insist(c.t, func(ctx context.Context) (*lockpb.ReleaseResponse, error) {
			return c.Release(ctx, &lockpb.ReleaseRequest{Handle: h})
		})
	}
}

// codeOf is the SQLSTATE of an error, "" for none.
func codeOf(t *testing.T, err error) string {
	t.Helper()
	var pe *pgconn.PgError
	if errors.As(err, &pe) {
		return pe.Code
	}
	if err != nil {
		t.Fatal(err)
	}
	return ""
}

// SQL on every node commits under a lock of a real cell while it is held, whoever leads the
// cell, and never after it was released; and the cell does not wait for those who are done.
func TestL2_FencedCommits(t *testing.T) {
	configs := testCluster(t, 3)
	nodes := startAll(t, configs)
	ctx := t.Context()
	var sql []*pgx.Conn
	for _, n := range nodes {
		c, err := pgx.Connect(ctx, "postgres://root@"+n.Addrs().SQL+"/spand")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close(context.Background())
		sql = append(sql, c)
	}
	if _, err := sql[0].Exec(ctx, "create table jobs (id int primary key, v text) with (fenced_by = '/ls/local/jobs-x')"); err != nil {
		t.Fatal(err)
	}
	locks := dialLocks(t, nodes[0])
	locks.session("local", 1)
	locks.session("local", 2)
	// write inserts a row on each node under a fence, and tells how that ended.
	row := 0
	write := func(sequencer string) (states []string) {
		for _, c := range sql {
			row++
			tx, err := c.Begin(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if _, err = tx.Exec(ctx, "set local spand.fence = '"+sequencer+"'"); err == nil {
				if _, err = tx.Exec(ctx, "insert into jobs values ($1, $2)", row, sequencer); err == nil {
					err = tx.Commit(ctx)
				}
			}
			states = append(states, codeOf(t, err))
			tx.Rollback(ctx)
		}
		return states
	}
	want := func(got []string, each string) {
		t.Helper()
		for i := range got {
			if got[i] != each {
				t.Errorf("n%d: SQLSTATE %q, not %q", i+1, got[i], each)
			}
		}
	}
	first, release := locks.acquire("/ls/local/jobs-x", 1)
	want(write(first), "")
	want(write(""), "55S02")
	want(write("/ls/local/jobs-x:exclusive:1:9999"), "55S01")
	want(write("/ls/nowhere/x:exclusive:1:1, "+first), "55S01")

	// The transactions are over, so the lock is free at once.
	start := time.Now()
	release()
	second, _ := locks.acquire("/ls/local/jobs-x", 2)
	t.Logf("released and acquired in %v", time.Since(start))
	want(write(first), "55S01")
	want(write(second), "")
	rows, err := sql[1].Query(ctx, "select sequencer from spand.locks where path = '/ls/local/jobs-x' and held_seconds > 0 and waiters = 0")
	if err != nil {
		t.Fatal(err)
	}
	if held, err := pgx.CollectRows(rows, pgx.RowTo[string]); err != nil || len(held) != 1 || held[0] != second {
		t.Errorf("spand.locks: %v, %v; want %s", held, err, second)
	}

	// A lock with more holders than a page of its cell's list has rows is shown whole.
	const holders = 1050
	locks.set("/ls/local/shared", nil)
	for i := range holders {
		h := &lockpb.Handle{Path: "/ls/local/shared", Session: 1, Handle: uint64(i + 1)}
		insist(t, func(ctx context.Context) (*lockpb.AcquireResponse, error) {
			return locks.TryAcquire(ctx, &lockpb.AcquireRequest{Handle: h, Mode: lockpb.Mode_SHARED})
		})
	}
	var held, different int
	if err := sql[1].QueryRow(ctx, "select count(*), count(distinct handle) from spand.locks where path = '/ls/local/shared'").Scan(&held, &different); err != nil || held != holders || different != holders {
		t.Errorf("spand.locks shows %d holds, %d different, of %d: %v", held, different, holders, err)
	}

	// A commit waits for the next leader of the cell, which is bound by what was promised.
	var leader int
	eventually(t, "somebody leads the cell", func() bool {
		for i, n := range nodes {
			if r, ok := n.cells.Get(cells.First); ok && r.Cell.Leading() == nil {
				leader = i
				return true
			}
		}
		return false
	})
	sql[leader].Close(ctx)
	sql = append(sql[:leader:leader], sql[leader+1:]...)
	nodes[leader].Close()
	for attempt := 0; ; attempt++ {
		var failed []string
		for _, s := range write(second) {
			switch s {
			case "": // committed
			case "40001", "57P03", "08007": // tablets have lost their leaders, too
				failed = append(failed, s)
			default:
				t.Fatalf("under the next leader: SQLSTATE %s", s)
			}
		}
		if len(failed) == 0 {
			break
		}
		if attempt == 20 {
			t.Fatal("still fails under the next leader: ", failed)
		}
	}
	want(write(first), "55S01")
	var n int
	if err := sql[0].QueryRow(ctx, "select count(*) from jobs where v not in ($1, $2)", first, second).Scan(&n); err != nil || n != 0 {
		t.Errorf("%d rows came without a lock, %v", n, err)
	}
}

func TestPathOfASequencer(t *testing.T) {
	for s, want := range map[string]string{
		"/ls/local/x:exclusive:7:1": "/ls/local/x", "/ls/local/a:b:c:shared:7:1": "/ls/local/a:b:c", "": "", "::": "", "x:y": "",
	} {
		if got := pathOf(s); got != want {
			t.Errorf("%q: %q, not %q", s, got, want)
		}
	}
}
