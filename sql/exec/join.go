package exec

import (
	"github.com/spandb/spand/sql/expr"
	"github.com/spandb/spand/sql/plan"
	"github.com/spandb/spand/sql/types"
)

// loopIter joins by running the right side for every frame of the left.
type loopIter struct {
	c           *Context
	n           *plan.NestLoop
	frame       []types.Datum
	left, right frameIter
	mem         budget

	kept    [][]types.Datum // the right side's slots, when it does not depend on the left
	have    bool            // kept is complete
	pos     int
	inLeft  bool // a left frame is being joined
	matched bool
}

func (i *loopIter) Open() error {
	i.inLeft = false
	return i.left.Open()
}

func (i *loopIter) Close() {
	i.mem.release()
	i.left.Close()
	i.right.Close()
}

func (i *loopIter) Next() (bool, error) {
	for {
		if !i.inLeft {
			ok, err := i.left.Next()
			if err != nil || !ok {
				return false, err
			}
			if err := i.openRight(); err != nil {
				return false, err
			}
			i.inLeft, i.matched = true, false
		}
		ok, err := i.nextRight()
		if err != nil {
			return false, err
		}
		if !ok {
			i.inLeft = false
			if i.n.Type == plan.LeftJoin && !i.matched {
				for _, s := range i.n.RightSlots {
					i.frame[s] = types.Null
				}
				return true, nil
			}
			continue
		}
		if ok, err = i.c.holds(i.n.Conds, i.frame); err != nil {
			return false, err
		}
		if ok {
			i.matched = true
			return true, nil
		}
		if err := i.c.step(); err != nil {
			return false, err
		}
	}
}

func (i *loopIter) openRight() error {
	i.pos = 0
	if i.n.Dependent {
		return i.right.Open()
	}
	if i.have {
		return nil
	}
	if err := i.right.Open(); err != nil {
		return err
	}
	// Read the right side out once.
	for {
		ok, err := i.right.Next()
		if err != nil {
			return err
		}
		if !ok {
			i.have = true
			return nil
		}
		row, err := i.mem.keep(plan.Gather(nil, i.frame, i.n.RightSlots))
		if err != nil {
			return err
		}
		i.kept = append(i.kept, row)
	}
}

func (i *loopIter) nextRight() (bool, error) {
	if i.n.Dependent {
		return i.right.Next()
	}
	if i.pos == len(i.kept) {
		return false, nil
	}
	for k, s := range i.n.RightSlots {
		i.frame[s] = i.kept[i.pos][k]
	}
	i.pos++
	return true, nil
}

// hashIter keeps the right side in a hash table and looks the left side's rows up.
type hashIter struct {
	c           *Context
	n           *plan.HashJoin
	frame       []types.Datum
	left, right frameIter
	mem         budget
	keyTypes    []types.Type

	table   map[uint64]int32 // newest entry of a hash, as index+1
	entries []hashEntry
	built   bool
	key     []types.Datum

	at      int32 // next candidate of the current left frame, as index+1
	inLeft  bool
	matched bool
	tail    int // unmatched right rows of a full join still to yield, -1: not there yet
}

type hashEntry struct {
	key, row []types.Datum
	next     int32
	matched  bool
}

func (c *Context) hashJoin(n *plan.HashJoin, frame []types.Datum) *hashIter {
	i := &hashIter{c: c, mem: budget{c: c}, n: n, frame: frame, left: c.node(n.Left, frame), right: c.node(n.Right, frame)}
	for _, e := range n.LeftKeys {
		i.keyTypes = append(i.keyTypes, e.Type())
	}
	i.key = make([]types.Datum, len(n.LeftKeys))
	return i
}

func (i *hashIter) Open() error {
	i.inLeft, i.tail = false, -1
	// An enclosing row may have changed: build anew.
	i.mem.release()
	i.table, i.entries, i.built = make(map[uint64]int32), nil, false
	return i.left.Open()
}

func (i *hashIter) Close() {
	i.mem.release()
	i.left.Close()
	i.right.Close()
}

// keys evaluates key expressions; ok is false when one is NULL.
func (i *hashIter) keys(es []expr.Expr) (ok bool, err error) {
	ok = true
	for k, e := range es {
		if i.key[k], err = e.Eval(&i.c.Eval, i.frame); err != nil {
			return false, err
		}
		ok = ok && !i.key[k].IsNull()
	}
	return ok, nil
}

func (i *hashIter) build() error {
	i.built = true
	if err := i.right.Open(); err != nil {
		return err
	}
	for {
		ok, err := i.right.Next()
		if err != nil || !ok {
			return err
		}
		if ok, err = i.keys(i.n.RightKeys); err != nil {
			return err
		}
		if !ok && i.n.Type != plan.FullJoin {
			continue // a NULL key joins nothing
		}
		row, err := i.mem.keep(plan.Gather(nil, i.frame, i.n.RightSlots))
		if err != nil {
			return err
		}
		key, err := i.mem.keep(i.key)
		if err != nil {
			return err
		}
		e := hashEntry{key: key, row: row}
		if ok {
			h := hashRow(key, i.keyTypes)
			e.next = i.table[h]
			i.table[h] = int32(len(i.entries) + 1)
		}
		i.entries = append(i.entries, e)
	}
}

func (i *hashIter) Next() (bool, error) {
	for i.tail < 0 {
		if !i.inLeft {
			ok, err := i.left.Next()
			if err != nil {
				return false, err
			}
			if !ok {
				i.tail = 0
				break
			}
			if !i.built {
				// The left side's slots are kept while the right side fills its own.
				if err := i.build(); err != nil {
					return false, err
				}
			}
			if ok, err = i.keys(i.n.LeftKeys); err != nil {
				return false, err
			}
			i.at = 0
			if ok {
				i.at = i.table[hashRow(i.key, i.keyTypes)]
			}
			i.inLeft, i.matched = true, false
		}
		for i.at != 0 {
			e := &i.entries[i.at-1]
			i.at = e.next
			if !sameRow(e.key, i.key, i.keyTypes) {
				continue
			}
			for k, s := range i.n.RightSlots {
				i.frame[s] = e.row[k]
			}
			ok, err := i.c.holds(i.n.Conds, i.frame)
			if err != nil {
				return false, err
			}
			if ok {
				i.matched, e.matched = true, true
				return true, nil
			}
			if err := i.c.step(); err != nil {
				return false, err
			}
		}
		i.inLeft = false
		if i.n.Type != plan.InnerJoin && !i.matched {
			for _, s := range i.n.RightSlots {
				i.frame[s] = types.Null
			}
			return true, nil
		}
		if err := i.c.step(); err != nil {
			return false, err
		}
	}
	if i.n.Type != plan.FullJoin {
		return false, nil
	}
	if !i.built {
		if err := i.build(); err != nil {
			return false, err
		}
	}
	for i.tail < len(i.entries) {
		e := &i.entries[i.tail]
		i.tail++
		if e.matched {
			continue
		}
		for _, s := range i.n.LeftSlots {
			i.frame[s] = types.Null
		}
		for k, s := range i.n.RightSlots {
			i.frame[s] = e.row[k]
		}
		return true, nil
	}
	return false, nil
}
