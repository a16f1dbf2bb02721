package workload

import (
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/spandb/spand/integration/check"
)

const (
	accounts = 40
	opening  = 100 // each account's balance at the beginning
)

var bankKind = kind{
	name: "bank",
	tables: []string{
		"drop table if exists wl_account",
		"drop table if exists wl_ledger",
		"create table if not exists wl_account (id int primary key, balance bigint not null)",
		"create table if not exists wl_ledger (id bigint primary key, source int not null, target int not null, amount bigint not null)",
		fmt.Sprintf("insert into wl_account select i, %d from generate_series(0, %d) as i on conflict do nothing", opening, accounts-1),
		fmt.Sprintf("split table wl_account by (%d), (%d), (%d)", accounts/4, accounts/2, 3*accounts/4),
		"split table wl_ledger by (50000000), (100000000)",
	},
	first: func() (ops []check.Op) {
		for i := range accounts {
			ops = append(ops, check.Op{Kind: check.Add, Key: accountName(i), Value: opening})
		}
		return append(ops, check.Op{Kind: check.Sum, Key: "bank", Value: accounts * opening})
	},
	step:  (*client).bankStep,
	final: (*attempt).finalBank,
}

func accountName(i int) string  { return fmt.Sprintf("account/%d", i) }
func accountGroup(i int) string { return fmt.Sprintf("account/%d", i/(accounts/4)) }

func (c *client) bankStep() {
	c.attempt(func(a *attempt) error {
		switch a.rng.IntN(8) {
		case 0:
			return a.auditSum()
		case 1:
			return a.block(readOnly, a.auditRows)
		case 2:
			return a.block(a.begin(), a.auditRows) // under locks
		case 3:
			return a.transferAtOnce()
		default:
			return a.block(a.begin(), a.transfer)
		}
	})
}

func (a *attempt) auditSum() error {
	a.touch(accountGroups()...)
	rows, err := a.query("select sum(balance)::bigint from wl_account")
	if err == nil {
		a.did(check.Op{Kind: check.Sum, Key: "bank", Value: valueOf("", rows).Value})
	}
	return err
}

func accountGroups() (gs []string) {
	for i := 0; i < accounts; i += accounts / 4 {
		gs = append(gs, accountGroup(i))
	}
	return gs
}

func (a *attempt) auditRows() error {
	a.touch(accountGroups()...)
	rows, err := a.query("select id, balance from wl_account")
	if err != nil {
		return err
	}
	sum := int64(0)
	for _, r := range rows {
		sum += *r[1]
		a.did(check.Op{Kind: check.Count, Key: accountName(int(*r[0])), Value: *r[1]})
	}
	a.did(check.Op{Kind: check.Sum, Key: "bank", Value: sum})
	return nil
}

// move is a transfer: what it does, and by which statements.
type move struct {
	id             int64
	source, target int
	amount         int64
}

func (a *attempt) newMove() move {
	p := a.rng.Perm(accounts)
	m := move{a.next(), p[0], p[1], 1 + a.rng.Int64N(9)}
	a.touch(accountGroup(m.source), accountGroup(m.target))
	return m
}

func (m move) ops() []check.Op {
	return []check.Op{
		{Kind: check.Insert, Key: "ledger", Value: m.id},
		{Kind: check.Add, Key: accountName(m.source), Value: -m.amount},
		{Kind: check.Add, Key: accountName(m.target), Value: m.amount},
	}
}

// transfer is a block: increments, or reads under locks and then writes of what was computed.
func (a *attempt) transfer() error {
	m := a.newMove()
	var err error
	if a.one(2) {
		err = a.addBoth(m)
	} else {
		err = a.setBoth(m)
	}
	if err != nil {
		return err
	}
	_, err = a.write(m.ops(), "insert into wl_ledger values ($1, $2, $3, $4)", m.id, m.source, m.target, m.amount)
	return err
}

func (a *attempt) addBoth(m move) error {
	if _, err := a.exec("update wl_account set balance = balance - $1 where id = $2", m.amount, m.source); err != nil {
		return err
	}
	_, err := a.exec("update wl_account set balance = balance + $1 where id = $2", m.amount, m.target)
	return err
}

func (a *attempt) setBoth(m move) error {
	lock := [...]string{" for update", ""}[a.rng.IntN(2)] // without, the update upgrades the lock
	var balances []int64
	for _, i := range []int{m.source, m.target} {
		rows, err := a.query("select balance from wl_account where id = $1"+lock, i)
		if err != nil {
			return err
		}
		if len(rows) != 1 {
			return fmt.Errorf("account %d: %d rows", i, len(rows))
		}
		balances = append(balances, *rows[0][0])
	}
	if _, err := a.exec("update wl_account set balance = $1 where id = $2", balances[0]-m.amount, m.source); err != nil {
		return err
	}
	_, err := a.exec("update wl_account set balance = $1 where id = $2", balances[1]+m.amount, m.target)
	return err
}

// transferAtOnce sends all statements in one message of the simple protocol: an implicit
// transaction.
func (a *attempt) transferAtOnce() error {
	m := a.newMove()
	a.mode = pgx.QueryExecModeSimpleProtocol
	_, err := a.write(m.ops(), fmt.Sprintf(
		"update wl_account set balance = balance - %[1]d where id = %[2]d; update wl_account set balance = balance + %[1]d where id = %[3]d; insert into wl_ledger values (%[4]d, %[2]d, %[3]d, %[1]d)",
		m.amount, m.source, m.target, m.id))
	return err
}

func (a *attempt) finalBank() error {
	ids, err := a.query("select id from wl_ledger")
	if err != nil {
		return err
	}
	a.did(check.Op{Kind: check.Scan, Key: "ledger", Values: column(ids)})
	return a.auditRows()
}

// column is the first column of rows, in order.
func column(rows [][]*int64) []int64 {
	vs := make([]int64, len(rows))
	for i, r := range rows {
		vs[i] = *r[0]
	}
	slices.Sort(vs)
	return vs
}
