package state

import (
	"slices"

	"github.com/spandb/spand/truetime"
)

// Apply carries out one command: the log's entry at index, committed at ts. What refuses it
// is in Result.Err; the grants that the command carries are tried all the same. It retains
// strings of c, not its slices.
func (s *State) Apply(c *Command, index uint64, ts truetime.Timestamp, blobs Contents) (Result, Changes) {
	s.index, s.at = index, max(s.at, ts)
	s.history.forget(ts)
	s.departed.forget(ts)
	s.passDelays(ts)
	a := change{State: s, c: c, ts: ts, blobs: blobs}
	a.carryOut()
	if len(c.Grants) > 0 {
		a.res.Grants = make([]Granted, len(c.Grants))
		for i := range c.Grants {
			a.res.Grants[i] = a.grant(&c.Grants[i])
		}
	}
	return a.res, a.out
}

func (a *change) carryOut() {
	switch a.c.Kind {
	case CreateSession:
		a.res.Session, a.res.Err = a.createSession()
	case EndSession:
		a.res.Ended = a.endSession()
	case Open:
		a.numbered(a.open)
	case Close:
		a.res.Ended, a.res.Err = a.close()
	case SetContents:
		a.numbered(a.setContents)
	case Delete:
		a.numbered(func() (*node, bool, *Error) { return nil, false, a.delete() })
	case SetACL:
		a.numbered(func() (*node, bool, *Error) { n, err := a.setACL(); return n, false, err })
	case SetQuota:
		n, err := a.setQuota()
		a.answer(n, false, err)
	case Release:
		a.res.Ended, a.res.Err = a.releaseHold()
	case Grant:
	case SetCell:
		a.res.Err = a.setCell()
	case SetLeaseFactor:
		a.res.Err = a.setLeaseFactor()
	default:
		a.res.Err = refuse(BadRequest, "", "command %d is not known", a.c.Kind)
	}
}

func (a *change) setCell() *Error {
	c := a.c.Cell
	switch {
	case a.cell != FirstCell:
		return refuse(BadRequest, "", "only the cell %q knows the others", FirstCell)
	case !validCell(c.Name):
		return refuse(BadRequest, "", "%q is not a cell's name: 1 to 63 of a-z, 0-9 and -", clip(c.Name))
	case c.Name == FirstCell:
		return nil
	}
	if _, there := a.cells.Get(c.Name); there {
		return nil // a cell keeps the group that it was given first
	}
	c.Replicas = slices.Clone(c.Replicas)
	a.cells.Set(c.Name, c)
	a.revision++
	a.out.Cells = append(a.out.Cells, c)
	return nil
}

func (a *change) setLeaseFactor() *Error {
	f := a.c.LeaseFactor
	if f < 1 || f > MaxLeaseFactor {
		return refuse(BadRequest, "", "lease factor %d is not between 1 and %d", f, MaxLeaseFactor)
	}
	a.leaseFactor = f
	return nil
}
