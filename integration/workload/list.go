package workload

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/spandb/spand/integration/check"
)

// Lists are rows of wl_list, numbers as text, each behind a comma. Eight are in use at a
// time, in four tablets; after listPeriod come the next eight, so that none grows long.
const (
	listsAtATime = 8
	listPeriod   = 2 * time.Second
	listStride   = 1_000_000
)

var listTables = []string{
	"drop table if exists wl_list",
	"create table if not exists wl_list (k bigint primary key, v text not null)",
	fmt.Sprintf("split table wl_list by (%d), (%d), (%d)", 2*listStride, 4*listStride, 6*listStride),
}

var appendKind = kind{name: "append", tables: listTables, step: (*client).appendStep, final: (*attempt).finalLists}

func listName(k int64) string  { return fmt.Sprintf("list/%d", k) }
func listGroup(k int64) string { return fmt.Sprintf("list/%d", k/(2*listStride)) }

// aList is one of the lists of now.
func (c *client) aList() int64 {
	return c.rng.Int64N(listsAtATime)*listStride + int64(c.period(listPeriod))
}

func (c *client) someLists(n int) []int64 {
	period := int64(c.period(listPeriod))
	ks := make([]int64, n)
	for i, j := range c.rng.Perm(listsAtATime)[:n] {
		ks[i] = int64(j)*listStride + period
	}
	return ks
}

func (c *client) appendStep() {
	c.attempt(func(a *attempt) error {
		switch a.rng.IntN(8) {
		case 0:
			return a.readLists("", a.aList())
		case 1:
			return a.readLists("", a.someLists(1+a.rng.IntN(4))...)
		case 2:
			return a.appendTo(a.aList())
		case 3:
			return a.block(readOnly, func() error {
				for range 1 + a.rng.IntN(3) {
					if err := a.readLists("", a.someLists(1+a.rng.IntN(3))...); err != nil {
						return err
					}
				}
				return nil
			})
		default:
			return a.block(a.begin(), a.mixLists)
		}
	})
}

// mixLists reads and appends in a block, some of it in vain.
func (a *attempt) mixLists() error {
	for range 1 + a.rng.IntN(4) {
		var err error
		switch a.rng.IntN(8) {
		case 0, 1:
			err = a.readLists("", a.aList())
		case 2:
			err = a.readLists(" for update", a.someLists(1+a.rng.IntN(2))...)
		case 3:
			err = a.appendInVain()
		default:
			err = a.appendTo(a.aList())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (a *attempt) readLists(suffix string, ks ...int64) error {
	for _, k := range ks {
		a.touch(listGroup(k))
	}
	found := map[int64][]int64{}
	_, err := rowsOf(a, func(r pgx.CollectableRow) (struct{}, error) {
		k, vs, err := scanList(r)
		found[k] = vs
		return struct{}{}, err
	}, "select k, v from wl_list where k in ("+numbers(ks)+")"+suffix)
	if err != nil {
		return err
	}
	for _, k := range ks {
		a.did(check.Op{Kind: check.List, Key: listName(k), Values: found[k]})
	}
	return nil
}

func scanList(r pgx.CollectableRow) (k int64, vs []int64, err error) {
	var text string
	if err := r.Scan(&k, &text); err != nil {
		return 0, nil, err
	}
	vs, err = parseList(text)
	return k, vs, err
}

func parseList(text string) (vs []int64, err error) {
	for s := range strings.SplitSeq(strings.TrimPrefix(text, ","), ",") {
		v, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("the list %q: %w", text, err)
		}
		vs = append(vs, v)
	}
	return vs, nil
}

func numbers(ks []int64) string {
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(ks), " ", ","), "[]")
}

// appendTo appends a new value to a list, in one of several ways.
func (a *attempt) appendTo(k int64) error {
	a.touch(listGroup(k))
	v := a.next()
	op := []check.Op{{Kind: check.Append, Key: listName(k), Value: v}}
	if a.inBlock && a.one(3) {
		return a.appendReturning(k, v)
	}
	if a.inBlock && a.one(3) {
		n, err := a.exec("update wl_list set v = v || $1 where k = $2", fmt.Sprintf(",%d", v), k)
		switch {
		case err != nil:
			return err
		case n == 1:
			a.did(op...)
			return nil
		}
		a.did(check.Op{Kind: check.List, Key: listName(k)}) // there was no row
	}
	_, err := a.write(op, "insert into wl_list (k, v) values ($1, $2) on conflict (k) do update set v = wl_list.v || excluded.v", k, fmt.Sprintf(",%d", v))
	return err
}

// appendReturning appends in a block and reads what came of it in the same statement.
func (a *attempt) appendReturning(k, v int64) error {
	lists, err := rowsOf(a, func(r pgx.CollectableRow) ([]int64, error) {
		_, vs, err := scanList(r)
		return vs, err
	}, "insert into wl_list (k, v) values ($1, $2) on conflict (k) do update set v = wl_list.v || excluded.v returning k, v", k, fmt.Sprintf(",%d", v))
	if err != nil {
		return err
	}
	if len(lists) != 1 {
		return fmt.Errorf("insert returned %d rows", len(lists))
	}
	a.did(check.Op{Kind: check.Append, Key: listName(k), Value: v}, check.Op{Kind: check.List, Key: listName(k), Values: lists[0]})
	return nil
}

// appendInVain appends behind a savepoint, and goes back to it or not.
func (a *attempt) appendInVain() error {
	if _, err := a.exec("savepoint s"); err != nil {
		return err
	}
	before := len(a.txn.Ops)
	for range 1 + a.rng.IntN(2) {
		if err := a.appendTo(a.aList()); err != nil {
			return err
		}
	}
	if a.one(2) {
		_, err := a.exec("release savepoint s")
		return err
	}
	if _, err := a.exec("rollback to savepoint s"); err != nil {
		return err
	}
	// What was read behind the savepoint showed the state with what is undone now.
	kept := a.txn.Ops[:before]
	for _, o := range a.txn.Ops[before:] {
		if o.Kind == check.Append {
			o.Undone = true
			kept = append(kept, o)
		}
	}
	a.txn.Ops = kept
	return nil
}

func (a *attempt) finalLists() error {
	used := map[string]bool{} // all lists that anybody has touched: absent ones are empty
	for _, t := range a.history.Txns() {
		for i := range t.Ops {
			if o := &t.Ops[i]; o.Kind == check.List || o.Kind == check.Append {
				used[o.Key] = true
			}
		}
	}
	found := map[string][]int64{}
	if _, err := rowsOf(a, func(r pgx.CollectableRow) (struct{}, error) {
		k, vs, err := scanList(r)
		found[listName(k)] = vs
		used[listName(k)] = true
		return struct{}{}, err
	}, "select k, v from wl_list"); err != nil {
		return err
	}
	names := make([]string, 0, len(used))
	for n := range used {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		a.did(check.Op{Kind: check.List, Key: n, Values: found[n]})
	}
	return nil
}
