package workload

import (
	"fmt"
	"time"
)

// staleKind reads lists at timestamps in the past: at the timestamp of a commit exactly,
// just below it, some time ago, or as fresh as can be had. What timestamp it was is what
// spand.read_timestamp shows.
var staleKind = kind{name: "stale", optional: true, tables: listTables, step: (*client).staleStep, final: (*attempt).finalLists}

const (
	pastCommits  = 20 // whose timestamps a client remembers
	oldest       = 2 * time.Second
	stampLayout  = "2006-01-02T15:04:05.000000000Z"
	readOnlyTime = "spand.read_timestamp"
)

func (c *client) staleStep() {
	if len(c.past) == 0 || c.one(3) {
		t, err := c.attempt(func(a *attempt) error { return a.appendTo(a.aList()) })
		if err == nil && t.TS != 0 {
			if c.past = append(c.past, t.TS); len(c.past) > pastCommits {
				c.past = c.past[1:]
			}
		}
		return
	}
	switch c.rng.IntN(4) {
	case 0:
		c.readStrong()
	case 1:
		c.readAsOf()
	default:
		c.readStale()
	}
}

// readStale reads in a block under the session's setting.
func (c *client) readStale() {
	setting, at := c.staleness()
	t, err := c.attempt(func(a *attempt) error {
		a.txn.Stale = true
		if _, err := a.exec("set spand.read_only_staleness = '" + setting + "'"); err != nil {
			return err
		}
		return a.block(readOnly, a.readSome)
	})
	if t == nil {
		return
	}
	if err == nil {
		a := &attempt{client: c, txn: t}
		t.TS = a.timestamp(readOnlyTime)
		if at != 0 && t.TS != 0 && t.TS != at {
			c.o.Log("workload: T%d asked for %d and read at %d", t.ID, at, t.TS)
			t.TS = at // which the judgement is to be about
		}
	}
	c.disconnectUnless("set spand.read_only_staleness = 'STRONG'")
}

// disconnectUnless gives the connection up if a statement fails that would have reset it.
func (c *client) disconnectUnless(sql string) {
	if c.conn == nil {
		return
	}
	a := &attempt{client: c}
	if _, err := a.exec(sql); err != nil {
		c.disconnect()
	}
}

// readAsOf is one statement that says itself of when it reads.
func (c *client) readAsOf() {
	at := c.pastTimestamp()
	c.attempt(func(a *attempt) error {
		a.txn.Stale, a.txn.TS = true, at
		return a.readLists(" as of timestamp '"+time.Unix(0, at).UTC().Format(stampLayout)+"'", a.someLists(4)...)
	})
}

// readStrong is a read-only block whose timestamp is asked for.
func (c *client) readStrong() {
	t, err := c.attempt(func(a *attempt) error { return a.block(readOnly, a.readSome) })
	if err == nil {
		a := &attempt{client: c, txn: t}
		t.TS = a.timestamp(readOnlyTime)
	}
}

func (a *attempt) readSome() error {
	for range 1 + a.rng.IntN(2) {
		if err := a.readLists("", a.someLists(4)...); err != nil {
			return err
		}
	}
	return nil
}

// pastTimestamp is that of a commit of the client's, or the one just below.
func (c *client) pastTimestamp() int64 { return c.past[c.rng.IntN(len(c.past))] - int64(c.rng.IntN(2)) }

// staleness returns a setting, and the timestamp at which it reads if that is exact.
func (c *client) staleness() (setting string, at int64) {
	// Not from before the run, when there was no table.
	age := time.Duration(c.rng.Int64N(int64(min(oldest, c.history.Elapsed())))).Milliseconds()
	switch c.rng.IntN(5) {
	case 0:
		return fmt.Sprintf("EXACT_STALENESS %dms", age), 0
	case 1:
		return fmt.Sprintf("MAX_STALENESS %dms", age), 0
	case 2:
		return "MIN_READ_TIMESTAMP " + time.Unix(0, c.pastTimestamp()).UTC().Format(stampLayout), 0
	}
	at = c.pastTimestamp()
	return "READ_TIMESTAMP " + time.Unix(0, at).UTC().Format(stampLayout), at
}
