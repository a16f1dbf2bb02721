package workload

import (
	"fmt"
	"time"

	"github.com/spandb/spand/integration/check"
)

// Registers are rows of wl_register, no row being nil: six at a time, in three tablets.
const (
	registersAtATime = 6
	registerPeriod   = 3 * time.Second
	registerStride   = 1_000_000
)

var registerKind = kind{
	name: "register",
	tables: []string{
		"drop table if exists wl_register",
		"create table if not exists wl_register (k bigint primary key, v bigint not null)",
		fmt.Sprintf("split table wl_register by (%d), (%d)", 2*registerStride, 4*registerStride),
	},
	step:  (*client).registerStep,
	final: (*attempt).finalRegisters,
}

func registerName(k int64) string  { return fmt.Sprintf("register/%d", k) }
func registerGroup(k int64) string { return fmt.Sprintf("register/%d", k/(2*registerStride)) }

// valueOf is a read of a register whose row may be missing.
func valueOf(key string, rows [][]*int64) check.Op {
	if len(rows) == 0 || rows[0][0] == nil {
		return check.Op{Kind: check.Read, Key: key, Null: true}
	}
	return check.Op{Kind: check.Read, Key: key, Value: *rows[0][0]}
}

func (c *client) registerStep() {
	k := c.rng.Int64N(registersAtATime)*registerStride + int64(c.period(registerPeriod))
	name := registerName(k)
	if c.seen == nil {
		c.seen = map[int]int64{}
	}
	t, err := c.attempt(func(a *attempt) error {
		a.touch(registerGroup(k))
		switch a.rng.IntN(6) {
		case 0, 1:
			rows, err := a.query("select v from wl_register where k = $1", k)
			if err == nil {
				a.did(valueOf(name, rows))
			}
			return err
		case 2:
			v := a.next()
			_, err := a.write([]check.Op{{Kind: check.Write, Key: name, Value: v}},
				"insert into wl_register (k, v) values ($1, $2) on conflict (k) do update set v = excluded.v", k, v)
			return err
		case 3:
			return a.block(a.begin(), func() error { return a.swap(k) })
		default:
			return a.compareAndSet(k, a.seen[int(k)])
		}
	})
	if err != nil {
		return
	}
	for _, o := range t.Ops {
		if o.Kind == check.Write || o.Kind == check.Read && !o.Null {
			c.seen[int(k)] = o.Value
		}
	}
}

// swap reads under a lock, then writes.
func (a *attempt) swap(k int64) error {
	rows, err := a.query("select v from wl_register where k = $1 for update", k)
	if err != nil {
		return err
	}
	a.did(valueOf(registerName(k), rows))
	v := a.next()
	sql := "update wl_register set v = $2 where k = $1"
	if len(rows) == 0 {
		sql = "insert into wl_register (k, v) values ($1, $2)"
	}
	_, err = a.write([]check.Op{{Kind: check.Write, Key: registerName(k), Value: v}}, sql, k, v)
	return err
}

// compareAndSet is one statement outside a block.
func (a *attempt) compareAndSet(k, old int64) error {
	v := a.next()
	name := registerName(k)
	n, err := a.write([]check.Op{{Kind: check.Read, Key: name, Value: old}, {Kind: check.Write, Key: name, Value: v}},
		"update wl_register set v = $3 where k = $1 and v = $2", k, old, v)
	if err == nil && n == 0 {
		a.txn.Ops = []check.Op{{Kind: check.Differs, Key: name, Value: old}}
	}
	return err
}

func (a *attempt) finalRegisters() error {
	rows, err := a.query("select k, v from wl_register")
	for _, r := range rows {
		a.did(check.Op{Kind: check.Read, Key: registerName(*r[0]), Value: *r[1]})
	}
	return err
}
