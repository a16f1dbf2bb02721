package workload

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spandb/spand/integration/check"
)

// Monotonic: in each series a row with the highest number plus one is inserted, with a
// token that is nobody else's. So numbers, commit timestamps and real time must agree.
const series = 4

var monotonicKind = kind{
	name: "monotonic",
	tables: []string{
		"drop table if exists wl_mono",
		"create table if not exists wl_mono (s int, n bigint, token bigint not null, primary key (s, n))",
		"split table wl_mono by (1), (2), (3)",
	},
	step:  (*client).monotonicStep,
	final: (*attempt).finalMonotonic,
}

func seriesName(s int) string { return fmt.Sprintf("mono/%d", s) }

func (c *client) monotonicStep() {
	s := c.rng.IntN(series)
	c.attempt(func(a *attempt) error {
		a.touch(seriesName(s))
		if a.one(4) {
			_, err := a.highest(s)
			return err
		}
		return a.block(a.begin(), func() error {
			n, err := a.highest(s)
			if err != nil {
				return err
			}
			token := a.next()
			_, err = a.write([]check.Op{{Kind: check.Write, Key: seriesName(s), Value: token}},
				"insert into wl_mono (s, n, token) values ($1, $2, $3)", s, n+1, token)
			return err
		})
	})
}

func (a *attempt) highest(s int) (n int64, err error) {
	rows, err := a.query("select token, n from wl_mono where s = $1 order by n desc limit 1", s)
	if err != nil {
		return 0, err
	}
	a.did(valueOf(seriesName(s), rows))
	if len(rows) == 1 {
		n = *rows[0][1]
	}
	return n, nil
}

func (a *attempt) finalMonotonic() error {
	for s := range series {
		if _, err := a.highest(s); err != nil {
			return err
		}
	}
	return nil
}

// Sequential: a client writes a key's row into wl_seq_a and then, in a transaction of its
// own, into wl_seq_b. Whoever sees the second must see the first.
var sequentialKind = kind{
	name: "sequential",
	tables: []string{
		"drop table if exists wl_seq_a",
		"drop table if exists wl_seq_b",
		"create table if not exists wl_seq_a (k bigint primary key, v bigint not null)",
		"create table if not exists wl_seq_b (k bigint primary key, v bigint not null)",
		"split table wl_seq_a by (0)",
		"split table wl_seq_b by (0)",
	},
	step:  (*client).sequentialStep,
	final: (*attempt).finalSequential,
}

func (c *client) sequentialStep() {
	if c.one(3) {
		c.writeBoth()
		return
	}
	ks := c.shared.last(4)
	if len(ks) == 0 {
		return
	}
	c.attempt(func(a *attempt) error {
		tables := []string{"a", "b"}
		if a.one(2) {
			tables[0], tables[1] = tables[1], tables[0]
		}
		read := func() error {
			for _, table := range tables {
				if err := a.readTable("wl_seq_"+table, "seq/"+table, ks); err != nil {
					return err
				}
			}
			return nil
		}
		if a.one(3) {
			return a.block(a.begin(), read)
		}
		return a.block(readOnly, read)
	})
}

func (c *client) writeBoth() {
	k := c.next()
	c.shared.publish(k)
	for _, table := range []string{"a", "b"} {
		if _, err := c.attempt(func(a *attempt) error {
			a.touch("seq/" + table)
			_, err := a.write([]check.Op{{Kind: check.Write, Key: fmt.Sprintf("seq/%s/%d", table, k), Value: k}},
				"insert into wl_seq_"+table+" (k, v) values ($1, $2)", k, k)
			return err
		}); err != nil {
			return
		}
	}
}

// readTable reads the registers of some keys by one statement.
func (a *attempt) readTable(table, prefix string, ks []int64) error {
	a.touch(prefix)
	rows, err := a.query("select k, v from " + table + " where k in (" + numbers(ks) + ")")
	if err != nil {
		return err
	}
	found := map[int64]*int64{}
	for _, r := range rows {
		found[*r[0]] = r[1]
	}
	for _, k := range ks {
		o := check.Op{Kind: check.Read, Key: fmt.Sprintf("%s/%d", prefix, k)}
		if v := found[k]; v != nil {
			o.Value = *v
		} else {
			o.Null = true
		}
		a.did(o)
	}
	return nil
}

func (a *attempt) finalSequential() error {
	for _, table := range []string{"a", "b"} {
		if err := a.finalTable("wl_seq_"+table, "seq/"+table); err != nil {
			return err
		}
	}
	return nil
}

// finalTable reads a whole table of registers; what was written and is not there is nil.
func (a *attempt) finalTable(table, prefix string) error {
	var ks []int64
	seen := map[int64]bool{}
	for _, t := range a.history.Txns() {
		for i := range t.Ops {
			if o := &t.Ops[i]; o.Kind == check.Write && strings.HasPrefix(o.Key, prefix+"/") {
				k, err := strconv.ParseInt(o.Key[len(prefix)+1:], 10, 64)
				if err == nil && !seen[k] {
					seen[k] = true
					ks = append(ks, k)
				}
			}
		}
	}
	const atATime = 500
	for len(ks) > 0 {
		n := min(atATime, len(ks))
		if err := a.readTable(table, prefix, ks[:n]); err != nil {
			return err
		}
		ks = ks[n:]
	}
	return nil
}

// Long fork: of each pair of rows both are written once, by different clients, and read
// together by many. The two lie in different tablets.
const (
	forkPairs  = 3 // at a time
	forkPeriod = 200 * time.Millisecond
	forkStride = 1_000_000_000
)

var forkKind = kind{
	name: "fork",
	tables: []string{
		"drop table if exists wl_fork",
		"create table if not exists wl_fork (k bigint primary key, v bigint not null)",
		fmt.Sprintf("split table wl_fork by (%d)", forkStride),
	},
	step:  (*client).forkStep,
	final: func(a *attempt) error { return a.finalTable("wl_fork", "fork") },
}

func (c *client) forkStep() {
	pair := int64(c.period(forkPeriod)*forkPairs + c.rng.IntN(forkPairs))
	c.attempt(func(a *attempt) error {
		if !a.one(3) {
			return a.readPair(pair)
		}
		k := pair + a.rng.Int64N(2)*forkStride
		a.touch("fork")
		name := fmt.Sprintf("fork/%d", k)
		v := a.next()
		n, err := a.write([]check.Op{{Kind: check.Read, Key: name, Null: true}, {Kind: check.Write, Key: name, Value: v}},
			"insert into wl_fork (k, v) values ($1, $2) on conflict do nothing", k, v)
		if err == nil && n == 0 {
			a.txn.Ops = nil // somebody else has written it: it is not nil, which shows nothing here
		}
		return err
	})
}

func (a *attempt) readPair(pair int64) error {
	ks := []int64{pair, pair + forkStride}
	if a.one(2) {
		return a.readTable("wl_fork", "fork", ks)
	}
	if a.one(2) {
		ks[0], ks[1] = ks[1], ks[0]
	}
	return a.block(readOnly, func() error {
		for _, k := range ks {
			if err := a.readTable("wl_fork", "fork", []int64{k}); err != nil {
				return err
			}
		}
		return nil
	})
}
