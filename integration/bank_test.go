package integration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// bank is a load whose history can be audited: clients at every node transfer
// between accounts in four tablets, and write each transfer into a ledger in
// the same transaction; readers watch the total meanwhile.
type bank struct {
	c      *Cluster
	cancel context.CancelFunc
	wg     sync.WaitGroup
	moved  chan struct{} // unbuffered: only transfers that commit while somebody waits count

	mu      sync.Mutex
	acked   map[int64]bool // transfers whose commit was acknowledged
	refused map[int64]bool // transfers that were said not to have happened
}

const (
	bankAccounts = 400
	bankBalance  = 100 // of each account in the beginning
	bankClients  = 2   // per node
)

// openBank makes the tables and starts clients and readers at every node.
func openBank(t *testing.T, c *Cluster) *bank {
	n := c.Nodes[0]
	// The filler makes accounts weigh more than ledger rows, so that coordinators vary.
	psql(t, n, "create table account (id int primary key, balance int not null, filler text)")
	psql(t, n, "create table ledger (id bigint primary key, source int, via int, target int, amount int)")
	psql(t, n, fmt.Sprintf("insert into account select i, %d, repeat('x', 100) from generate_series(0, %d) as i", bankBalance, bankAccounts-1))
	psql(t, n, "split table account by (100), (200), (300)")

	ctx, cancel := context.WithCancel(context.Background())
	b := &bank{c: c, cancel: cancel, moved: make(chan struct{}), acked: map[int64]bool{}, refused: map[int64]bool{}}
	for i, n := range c.Nodes {
		for j := range bankClients {
			b.wg.Go(func() { b.transfer(ctx, t, n, i*bankClients+j) })
		}
		b.wg.Go(func() { b.readTotals(ctx, t, n) })
	}
	t.Cleanup(b.stop)
	return b
}

func (b *bank) stop() { b.cancel(); b.wg.Wait() }

// transfer moves money until ctx ends, over a connection that it makes again when
// it breaks. A transfer that has begun is brought to its end.
func (b *bank) transfer(ctx context.Context, t *testing.T, n *Node, client int) {
	rng := rand.New(rand.NewPCG(1, uint64(client)))
	var conn *pgx.Conn
	for id := int64(client) << 32; ctx.Err() == nil; id++ {
		if conn == nil || conn.IsClosed() {
			var err error
			if conn, err = tryConnect(ctx, n); err != nil {
				conn = nil
				time.Sleep(10 * time.Millisecond) // the node is down; nothing announces its return
				continue
			}
		}
		committing, err := b.move(t.Context(), conn, id, rng)
		var pgErr *pgconn.PgError
		said := errors.As(err, &pgErr)
		switch {
		case err == nil:
			b.note(b.acked, id)
			select {
			case b.moved <- struct{}{}:
			default:
			}
		case said && pgErr.Code == "40001", !committing:
			b.note(b.refused, id)
		}
		if said && pgErr.Code != "40001" && pgErr.Code != "08007" && pgErr.Code != "57P01" {
			t.Errorf("%s: transfer %d: %v", n.Name, id, err)
		}
	}
	if conn != nil {
		conn.Close(context.Background())
	}
}

// move makes one transfer from one account, through a second to a third.
// committing says that COMMIT was sent, so that an error may not be the last word.
func (b *bank) move(ctx context.Context, conn *pgx.Conn, id int64, rng *rand.Rand) (committing bool, err error) {
	accounts := rng.Perm(bankAccounts)[:3]
	amount := 1 + rng.IntN(9)
	tx, err := conn.Begin(ctx)
	if err != nil {
		return false, err
	}
	for _, step := range []struct {
		sql  string
		args []any
	}{
		{"update account set balance = balance - $1 where id = $2", []any{2 * amount, accounts[0]}},
		{"update account set balance = balance + $1 where id = $2", []any{amount, accounts[1]}},
		{"update account set balance = balance + $1 where id = $2", []any{amount, accounts[2]}},
		{"insert into ledger values ($1, $2, $3, $4, $5)", []any{id, accounts[0], accounts[1], accounts[2], amount}},
	} {
		if _, err := tx.Exec(ctx, step.sql, step.args...); err != nil {
			tx.Rollback(ctx)
			return false, err
		}
	}
	return true, tx.Commit(ctx)
}

func (b *bank) note(set map[int64]bool, id int64) {
	b.mu.Lock()
	set[id] = true
	b.mu.Unlock()
}

// readTotals reads all accounts for ever.
func (b *bank) readTotals(ctx context.Context, t *testing.T, n *Node) {
	for ctx.Err() == nil {
		conn, err := tryConnect(ctx, n)
		if err != nil {
			time.Sleep(10 * time.Millisecond) // the node is down; nothing announces its return
			continue
		}
		for ctx.Err() == nil && !conn.IsClosed() {
			var sum int
			err := conn.QueryRow(ctx, "select sum(balance) from account").Scan(&sum)
			if err == nil && sum != bankAccounts*bankBalance {
				t.Errorf("%s: a full read saw the total %d, not %d", n.Name, sum, bankAccounts*bankBalance)
				conn.Close(context.Background())
				return
			}
		}
		conn.Close(context.Background())
	}
}

// await returns after count more transfers and logs how long they took.
func (b *bank) await(t *testing.T, count int) {
	t.Helper()
	began, last := time.Now(), time.Now()
	var gap time.Duration
	timeout := time.After(60 * time.Second)
	for range count {
		select {
		case <-b.moved:
			gap = max(gap, time.Since(last))
			last = time.Now()
		case <-timeout:
			t.Fatal("no transfer commits")
		}
	}
	t.Logf("%d transfers in %v, longest wait for one %v", count, time.Since(began), gap)
}

// close ends the load and audits: every acknowledged transfer is in the ledger, none
// that was refused is, every balance is what the ledger says, and no row is locked.
func (b *bank) close(t *testing.T) {
	t.Helper()
	b.stop()
	for _, n := range b.c.Nodes {
		b.audit(t, n)
	}
	for _, n := range b.c.Nodes {
		awaitNoLocks(t, n)
	}
	conn := connect(t, b.c.Nodes[0])
	if tag, err := conn.Exec(t.Context(), "update account set balance = 0"); err != nil || tag.RowsAffected() != bankAccounts {
		t.Errorf("updating every account: %v, %v", tag, err)
	}
}

func (b *bank) audit(t *testing.T, n *Node) {
	t.Helper()
	conn := connect(t, n)
	tx, err := conn.BeginTx(t.Context(), pgx.TxOptions{AccessMode: pgx.ReadOnly})
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context())
	want := make([]int, bankAccounts)
	for i := range want {
		want[i] = bankBalance
	}
	written := map[int64]bool{}
	var id int64
	var source, via, target, amount, balance int
	rows, _ := tx.Query(t.Context(), "select id, source, via, target, amount from ledger")
	if _, err := pgx.ForEachRow(rows, []any{&id, &source, &via, &target, &amount}, func() error {
		written[id] = true
		want[source] -= 2 * amount
		want[via] += amount
		want[target] += amount
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	seen := 0
	rows, _ = tx.Query(t.Context(), "select id, balance from account")
	if _, err := pgx.ForEachRow(rows, []any{&id, &balance}, func() error {
		seen++
		if balance != want[id] {
			t.Errorf("%s: account %d holds %d, the ledger says %d", n.Name, id, balance, want[id])
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if seen != bankAccounts {
		t.Errorf("%s: %d accounts, want %d", n.Name, seen, bankAccounts)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for id := range b.acked {
		if !written[id] {
			t.Errorf("%s: transfer %d was acknowledged and is not in the ledger", n.Name, id)
		}
	}
	for id := range b.refused {
		if written[id] {
			t.Errorf("%s: transfer %d was refused and is in the ledger", n.Name, id)
		}
	}
	t.Logf("%s: %d transfers in the ledger, %d acknowledged, %d refused", n.Name, len(written), len(b.acked), len(b.refused))
}

// awaitNoLocks waits until no lock is left at the tablets that n leads: what
// prepared transactions of the dead hold goes when their outcome has been heard.
func awaitNoLocks(t *testing.T, n *Node) {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for {
		left := psql(t, n, "select * from spand.transaction_locks")
		if left == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: locks that nobody lets go:\n%s", n.Name, left)
		}
		time.Sleep(50 * time.Millisecond) // outcomes arrive on the cluster's own schedule
	}
}
