package workload

import (
	"context"
	"fmt"
	"time"

	"github.com/spandb/spand/integration/check"
)

// Once: each transaction inserts an id and increments a counter. An id that was
// acknowledged is there, one that was refused is not, and the counters say how many.
const counters = 4

var onceTables = []string{
	"drop table if exists wl_once",
	"drop table if exists wl_counter",
	"create table if not exists wl_once (id bigint primary key)",
	"create table if not exists wl_counter (k int primary key, n bigint not null)",
	fmt.Sprintf("insert into wl_counter select i, 0 from generate_series(0, %d) as i on conflict do nothing", counters-1),
	"split table wl_once by (50000000), (100000000)",
	"split table wl_counter by (1), (2), (3)",
}

var onceKind = kind{name: "once", tables: onceTables, step: (*client).onceStep, final: (*attempt).finalOnce}

// outcomeKind is once, asking for the outcome of what it did not hear.
var outcomeKind = kind{name: "outcome", optional: true, tables: onceTables, step: (*client).outcomeStep, final: (*attempt).finalOnce}

func counterName(k int) string { return fmt.Sprintf("counter/%d", k) }

func (c *client) onceStep() {
	c.attempt(func(a *attempt) error {
		return a.block(a.begin(), func() error { return a.count() })
	})
}

func (a *attempt) count() error {
	k := a.rng.IntN(counters)
	id := a.next()
	a.touch(counterName(k))
	steps := []func() error{
		func() error {
			_, err := a.write([]check.Op{{Kind: check.Insert, Key: "once", Value: id}}, "insert into wl_once (id) values ($1)", id)
			return err
		},
		func() error {
			_, err := a.write([]check.Op{{Kind: check.Add, Key: counterName(k), Value: 1}}, "update wl_counter set n = n + 1 where k = $1", k)
			return err
		},
	}
	if a.one(2) {
		steps[0], steps[1] = steps[1], steps[0]
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (a *attempt) finalOnce() error {
	ids, err := a.query("select id from wl_once")
	if err != nil {
		return err
	}
	a.did(check.Op{Kind: check.Scan, Key: "once", Values: column(ids)})
	rows, err := a.query("select k, n from wl_counter")
	for _, r := range rows {
		a.did(check.Op{Kind: check.Count, Key: counterName(int(*r[0])), Value: *r[1]})
	}
	return err
}

// lostCommit is a transaction whose COMMIT was not answered.
type lostCommit struct {
	txn *check.Txn
	xid uint64
}

func (c *client) outcomeStep() {
	if c.askLost() {
		return
	}
	var xid uint64
	t, err := c.attempt(func(a *attempt) error {
		return a.block(a.begin(), func() error {
			if err := a.count(); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(a.ctx, a.o.Timeout)
			defer cancel()
			return a.conn.QueryRow(ctx, "select pg_current_xact_id()").Scan(&xid)
		})
	})
	if err != nil && t != nil && t.Status == check.Unknown && xid != 0 {
		c.lost = append(c.lost, lostCommit{t, xid})
	}
}

// askLost asks the node that the client is at now for the outcome of a transaction, and
// reports whether there was anything to ask.
func (c *client) askLost() bool {
	if len(c.lost) == 0 {
		return false
	}
	l := c.lost[0]
	ctx, cancel := context.WithTimeout(c.ctx, c.o.Timeout)
	defer cancel()
	var status *string
	if err := c.conn.QueryRow(ctx, "select pg_xact_status($1)", l.xid).Scan(&status); err != nil {
		c.o.Log("workload: client %d asked node %d for the outcome of %d: %v", c.id, c.node, l.xid, err)
		if c.conn.IsClosed() {
			c.disconnect()
		}
		return true
	}
	switch {
	case status == nil: // too old to be known
	case *status == "committed":
		c.history.Resolve(l.txn, check.OK)
	case *status == "aborted":
		c.history.Resolve(l.txn, check.Failed)
	default: // in progress
		time.Sleep(20 * time.Millisecond)
		return true
	}
	c.lost = c.lost[1:]
	return true
}
