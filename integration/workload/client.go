package workload

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/spandb/spand/integration/check"
)

// client makes transactions of one kind, one at a time.
type client struct {
	id      int
	o       Options
	target  Target
	kind    kind
	history *check.History
	shared  *shared
	rng     *rand.Rand

	ctx    context.Context // of the run, for statements; it does not end
	conn   *pgx.Conn
	node   int
	left   int              // transactions until the client moves to another node
	broken []*pgconn.PgConn // connections that pgx may still be closing

	n    int64         // values made
	seen map[int]int64 // by register: the value seen last
	past []int64       // timestamps of own commits, for stale reads
	lost []lostCommit  // commits whose outcome is yet to be asked for
}

// run makes transactions until ctx ends.
func (c *client) run(ctx context.Context) {
	c.ctx = context.WithoutCancel(ctx)
	defer c.close(c.ctx)
	for {
		// A nanosecond of its own, so that in virtual time clients do not meet by their pauses.
		pause := time.Duration(c.rng.Int64N(int64(c.o.Think)+1)).Truncate(time.Microsecond) + time.Microsecond + time.Duration(c.id)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		if c.connect(ctx) {
			c.kind.step(c)
		}
	}
}

// connect makes sure of a connection, and reports whether there is one. A failure is
// a transaction without content, for those who look at nodes.
func (c *client) connect(ctx context.Context) bool {
	if c.conn != nil && (c.conn.IsClosed() || c.left <= 0) {
		c.disconnect()
	}
	if c.conn != nil {
		c.left--
		return true
	}
	c.node = c.rng.IntN(c.target.Nodes())
	c.left = 20 + c.rng.IntN(200)
	dial, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	t := c.history.Begin(c.id, c.node, "connect")
	conn, err := c.target.Connect(dial, c.node)
	if err != nil {
		c.history.End(t, check.Failed, err)
		select {
		case <-ctx.Done():
		case <-time.After(20*time.Millisecond + time.Duration(c.rng.IntN(80))*time.Millisecond):
		}
		return false
	}
	c.history.End(t, check.OK, nil)
	c.conn = conn
	return true
}

// disconnect gives the connection up without waiting for the server.
func (c *client) disconnect() {
	if c.conn == nil {
		return
	}
	if !c.conn.IsClosed() {
		ctx, cancel := context.WithTimeout(c.ctx, time.Second)
		c.conn.Close(ctx)
		cancel()
	}
	// pgx closes a broken connection in a goroutine of its own, which may take seconds.
	c.broken = slices.DeleteFunc(c.broken, func(p *pgconn.PgConn) bool {
		select {
		case <-p.CleanupDone():
			return true
		default:
			return false
		}
	})
	c.broken = append(c.broken, c.conn.PgConn())
	c.conn = nil
}

// close gives the connection up, and returns when nothing of any is left.
func (c *client) close(ctx context.Context) {
	c.ctx = context.WithoutCancel(ctx)
	c.disconnect()
	for _, p := range c.broken {
		<-p.CleanupDone()
	}
	c.broken = nil
}

// next makes a value that nobody else makes.
func (c *client) next() int64 {
	c.n++
	return int64(c.id+1)*10_000_000 + c.n
}

// one reports true in one of n cases.
func (c *client) one(n int) bool { return c.rng.IntN(n) == 0 }

// period is the number of stretches of some length since the history began. Keys that
// change with it keep what is read short, and are still met by several clients.
func (c *client) period(length time.Duration) int { return int(c.history.Elapsed() / length) }

// attempt is a transaction under way.
type attempt struct {
	*client
	txn     *check.Txn
	mode    pgx.QueryExecMode
	inBlock bool
	// deciding: what was sent last may have committed, whatever becomes of the answer.
	deciding bool
}

// attempt makes one transaction of the client's kind, and records how it ended.
// It needs a connection; a client that has just lost it makes none.
func (c *client) attempt(body func(*attempt) error) (*check.Txn, error) {
	if c.conn == nil || c.conn.IsClosed() {
		return nil, errNoConnection
	}
	a := &attempt{client: c, txn: c.history.Begin(c.id, c.node, c.kind.name), mode: pgx.QueryExecModeCacheStatement}
	switch c.rng.IntN(6) {
	case 0:
		a.mode = pgx.QueryExecModeSimpleProtocol
	case 1:
		a.mode = pgx.QueryExecModeExec
	}
	err := body(a)
	status := check.OK
	if err != nil {
		status = check.Failed
		if a.deciding && !final(err) {
			status = check.Unknown
		}
	}
	c.history.End(a.txn, status, err)
	if err != nil {
		a.cleanUp(err)
		return a.txn, err
	}
	if a.txn.Writes() && a.one(2) {
		a.txn.TS = a.commitTimestamp()
	}
	return a.txn, nil
}

// final reports whether err is the server's word that nothing was committed.
func final(err error) bool {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		// Not SafeToRetry: pgx says "conn closed" also where the answer was lost.
		return errors.Is(err, errRolledBack)
	}
	switch {
	case pgErr.Code == "08007", pgErr.Code == "57014", pgErr.Code[:2] == "08", pgErr.Code[:3] == "57P", pgErr.Code[:2] == "XX", pgErr.Severity == "FATAL":
		return false
	}
	return true
}

// ordinary errors are those of conflicts and of clusters with faults.
var ordinary = map[string]bool{"40001": true, "08007": true, "57014": true, "57P01": true, "57P03": true, "55P03": true, "53100": true, "53200": true, "53300": true}

var (
	errRolledBack   = errors.New("COMMIT was answered by ROLLBACK")
	errNoConnection = errors.New("the connection is gone")
)

// cleanUp brings the connection back to rest after an error, or gives it up.
func (a *attempt) cleanUp(err error) {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && !ordinary[pgErr.Code] {
		a.o.Log("workload: client %d, %s at node %d: %v", a.id, a.kind.name, a.node, err)
	}
	if a.conn == nil {
		return // the transaction has seen to it
	}
	if a.conn.IsClosed() {
		a.disconnect()
		return
	}
	if a.conn.PgConn().TxStatus() != 'I' {
		ctx, cancel := context.WithTimeout(a.ctx, a.o.Timeout)
		defer cancel()
		if _, err := a.conn.Exec(ctx, "ROLLBACK", pgx.QueryExecModeSimpleProtocol); err != nil {
			a.disconnect()
		}
	}
}

// commitTimestamp asks for the timestamp of what was committed last, 0 if there is no answer.
func (a *attempt) commitTimestamp() int64 { return a.timestamp("spand.commit_timestamp") }

// timestamp asks for a setting that shows one.
func (a *attempt) timestamp(setting string) int64 {
	ctx, cancel := context.WithTimeout(a.ctx, a.o.Timeout)
	defer cancel()
	var s string
	if err := a.conn.QueryRow(ctx, "SHOW "+setting).Scan(&s); err != nil {
		a.cleanUp(err)
		return 0
	}
	ts, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		a.o.Log("workload: %s is %q: %v", setting, s, err)
		return 0
	}
	return ts.UnixNano()
}

// touch notes what part of the data the next statement is about.
func (a *attempt) touch(groups ...string) {
	for _, g := range groups {
		if !slices.Contains(a.txn.Groups, g) {
			a.txn.Groups = append(a.txn.Groups, g)
		}
	}
}

func (a *attempt) did(ops ...check.Op) { a.txn.Ops = append(a.txn.Ops, ops...) }

// exec executes a statement and returns the number of rows concerned.
func (a *attempt) exec(sql string, args ...any) (int64, error) {
	ctx, cancel := context.WithTimeout(a.ctx, a.o.Timeout)
	defer cancel()
	tag, err := a.conn.Exec(ctx, sql, append([]any{a.mode}, args...)...)
	return tag.RowsAffected(), err
}

// write is exec of a statement that changes something. Outside a block it decides the
// transaction, so what it does is written down first.
func (a *attempt) write(does []check.Op, sql string, args ...any) (int64, error) {
	if !a.inBlock {
		a.deciding = true
		a.did(does...)
		return a.exec(sql, args...)
	}
	n, err := a.exec(sql, args...)
	if err == nil {
		a.did(does...)
	}
	return n, err
}

// query returns the rows of a statement, of integers and NULLs.
func (a *attempt) query(sql string, args ...any) ([][]*int64, error) {
	return rowsOf(a, func(r pgx.CollectableRow) ([]*int64, error) {
		row := make([]*int64, len(r.FieldDescriptions()))
		to := make([]any, len(row))
		for i := range row {
			to[i] = &row[i]
		}
		return row, r.Scan(to...)
	}, sql, args...)
}

func rowsOf[T any](a *attempt, scan pgx.RowToFunc[T], sql string, args ...any) ([]T, error) {
	ctx, cancel := context.WithTimeout(a.ctx, a.o.Timeout)
	defer cancel()
	rows, err := a.conn.Query(ctx, sql, append([]any{a.mode}, args...)...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scan)
}

// block runs body in a transaction block.
func (a *attempt) block(begin string, body func() error) error {
	if _, err := a.exec(begin); err != nil {
		return err
	}
	a.inBlock = true
	if err := body(); err != nil {
		return err
	}
	a.deciding = true
	ctx, cancel := context.WithTimeout(a.ctx, a.o.Timeout)
	defer cancel()
	tag, err := a.conn.Exec(ctx, "COMMIT", a.mode)
	if err == nil && tag.String() != "COMMIT" {
		err = errRolledBack
	}
	a.inBlock = false
	return err
}

// begin is one of the ways to begin a read-write block.
func (a *attempt) begin() string {
	return [...]string{"BEGIN", "START TRANSACTION", "BEGIN ISOLATION LEVEL SERIALIZABLE", "BEGIN READ WRITE"}[a.rng.IntN(4)]
}

const readOnly = "BEGIN READ ONLY"

// finale makes the kind's final reads at a node.
func (c *client) finale(ctx context.Context, node int) error {
	c.ctx = ctx
	if c.conn == nil || c.node != node || c.conn.IsClosed() {
		c.disconnect()
		dial, cancel := context.WithTimeout(ctx, c.o.Timeout)
		conn, err := c.target.Connect(dial, node)
		cancel()
		if err != nil {
			return err
		}
		c.conn, c.node = conn, node
	}
	_, err := c.attempt(func(a *attempt) error {
		a.txn.Final = true
		return a.block(readOnly, func() error { return a.kind.final(a) })
	})
	return err
}

// Summary counts the transactions of a history by kind and outcome, and names the errors.
func Summary(h *check.History) string {
	counts := map[string]*[3]int{}
	errs := map[string]map[string]int{}
	for _, t := range h.Txns() {
		if counts[t.Kind] == nil {
			counts[t.Kind], errs[t.Kind] = new([3]int), map[string]int{}
		}
		counts[t.Kind][t.Status]++
		if t.Err != "" {
			errs[t.Kind][t.Err]++
		}
	}
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(counts)) {
		n := counts[k]
		fmt.Fprintf(&b, "%-10s %6d ok %5d failed %4d unknown\n", k, n[check.OK], n[check.Failed], n[check.Unknown])
		most := slices.SortedFunc(maps.Keys(errs[k]), func(x, y string) int { return errs[k][y] - errs[k][x] })
		for _, e := range most[:min(3, len(most))] {
			fmt.Fprintf(&b, "           %6d × %s\n", errs[k][e], e)
		}
	}
	return b.String()
}
