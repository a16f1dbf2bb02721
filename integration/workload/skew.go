package workload

import (
	"fmt"
	"time"

	"github.com/spandb/spand/integration/check"
)

// Two doctors have each shift; the rows of one and the other lie in different tablets.
// Whoever goes off call first looks whether the other is on. A value is even when its
// doctor is off call, odd when on.
const (
	shifts     = 6
	otherShift = 1000 // the second doctor's key, behind the first's
)

var skewKind = kind{
	name: "skew",
	tables: []string{
		"drop table if exists wl_oncall",
		"create table if not exists wl_oncall (k int primary key, v bigint not null)",
		fmt.Sprintf("insert into wl_oncall select i, 1 from generate_series(0, %d) as i on conflict do nothing", shifts-1),
		fmt.Sprintf("insert into wl_oncall select i, 1 from generate_series(%d, %d) as i on conflict do nothing", otherShift, otherShift+shifts-1),
		fmt.Sprintf("split table wl_oncall by (%d)", otherShift),
	},
	first: func() (ops []check.Op) {
		for i := range shifts {
			for _, k := range []int{i, i + otherShift} {
				ops = append(ops, check.Op{Kind: check.Write, Key: doctorName(k), Value: 1})
			}
		}
		return ops
	},
	step:  (*client).skewStep,
	final: (*attempt).finalSkew,
}

func doctorName(k int) string  { return fmt.Sprintf("oncall/%d", k) }
func doctorGroup(k int) string { return fmt.Sprintf("oncall/%d", k/otherShift) }

func (c *client) skewStep() {
	shift := c.rng.IntN(shifts)
	me, other := shift, shift+otherShift
	if c.one(2) {
		me, other = other, me
	}
	c.attempt(func(a *attempt) error {
		a.touch(doctorGroup(me), doctorGroup(other))
		if a.one(4) {
			_, err := a.readDoctors(me, other)
			return err
		}
		return a.block(a.begin(), func() error {
			on, err := a.readDoctors(me, other)
			if err != nil {
				return err
			}
			v := 2*a.next() + 1
			if on[me] {
				if !on[other] {
					return nil
				}
				v--
			}
			_, err = a.write([]check.Op{{Kind: check.Write, Key: doctorName(me), Value: v}}, "update wl_oncall set v = $1 where k = $2", v, me)
			return err
		})
	})
}

// readDoctors reads both rows of a shift, by one statement or by two.
func (a *attempt) readDoctors(ks ...int) (on map[int]bool, err error) {
	on = map[int]bool{}
	see := func(rows [][]*int64) {
		for _, r := range rows {
			k := int(*r[0])
			on[k] = *r[1]%2 == 1
			a.did(check.Op{Kind: check.Read, Key: doctorName(k), Value: *r[1]})
		}
	}
	if !a.inBlock || a.one(2) {
		rows, err := a.query("select k, v from wl_oncall where k = $1 or k = $2", ks[0], ks[1])
		see(rows)
		return on, err
	}
	for _, k := range ks {
		rows, err := a.query("select k, v from wl_oncall where k = $1", k)
		if err != nil {
			return nil, err
		}
		see(rows)
	}
	return on, nil
}

func (a *attempt) finalSkew() error {
	rows, err := a.query("select k, v from wl_oncall")
	for _, r := range rows {
		a.did(check.Op{Kind: check.Read, Key: doctorName(int(*r[0])), Value: *r[1]})
	}
	return err
}

// Groups of rows of wl_pred may have predicateLimit rows each; whoever inserts one scans
// first. A group's rows lie in all tablets, the index over groups in one.
const (
	predicateGroups = 3 // at a time
	predicatePeriod = time.Second
	predicateLimit  = 6
	predicateStride = 100_000_000_000
)

var predicateKind = kind{
	name: "predicate",
	tables: []string{
		"drop table if exists wl_pred",
		"create table if not exists wl_pred (id bigint primary key, g bigint not null)",
		"create index if not exists wl_pred_g on wl_pred (g)",
		fmt.Sprintf("split table wl_pred by (%d), (%d)", predicateStride, 2*predicateStride),
	},
	step:  (*client).predicateStep,
	final: (*attempt).finalPredicate,
}

func setName(g int64) string { return fmt.Sprintf("pred/%d", g) }

func (c *client) predicateStep() {
	g := int64(c.period(predicatePeriod)*predicateGroups + c.rng.IntN(predicateGroups))
	c.attempt(func(a *attempt) error {
		a.touch("pred")
		switch a.rng.IntN(4) {
		case 0:
			// g + 0 keeps the index out of it: a scan of the whole table.
			_, err := a.scanGroup("select id from wl_pred where g + 0 = $1", g)
			return err
		default:
			return a.block(a.begin(), func() error { return a.insertIfFew(g) })
		}
	})
}

func (a *attempt) scanGroup(sql string, g int64) (int, error) {
	rows, err := a.query(sql, g)
	if err == nil {
		a.did(check.Op{Kind: check.Scan, Key: setName(g), Values: column(rows)})
	}
	return len(rows), err
}

func (a *attempt) insertIfFew(g int64) error {
	n, err := a.scanGroup("select id from wl_pred where g = $1", g)
	if err != nil || n >= predicateLimit {
		return err
	}
	id := a.rng.Int64N(3)*predicateStride + a.next()
	_, err = a.write([]check.Op{{Kind: check.Insert, Key: setName(g), Value: id}}, "insert into wl_pred (id, g) values ($1, $2)", id, g)
	return err
}

func (a *attempt) finalPredicate() error {
	groups := map[int64][]int64{}
	rows, err := a.query("select g, id from wl_pred")
	if err != nil {
		return err
	}
	for g := range int64((a.period(predicatePeriod) + 1) * predicateGroups) {
		groups[g] = nil
	}
	for _, r := range rows {
		groups[*r[0]] = append(groups[*r[0]], *r[1])
	}
	for g, ids := range groups {
		a.did(check.Op{Kind: check.Scan, Key: setName(g), Values: ids})
	}
	return nil
}
