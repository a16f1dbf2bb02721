package check

import (
	"fmt"
	"math"
	"slices"

	"github.com/anishathalye/porcupine"
)

// linear is what a transaction did to one register: perhaps a read, then perhaps a write.
type linear struct {
	txn         int32
	reads       bool
	saw         register
	differs     bool // it learned that the register does not hold saw
	writes      bool
	value       int64
	maybe       bool // its outcome is unknown, and nobody has seen what it wrote
	begin, ends int64
}

// register is a register's state.
type register struct {
	there bool
	value int64
}

var registerModel = porcupine.Model{
	Init: func() any { return register{} },
	Step: func(state, input, _ any) (bool, any) {
		s, in := state.(register), input.(linear)
		if in.reads && (s == in.saw) == in.differs {
			return false, s
		}
		if in.writes {
			return true, register{true, in.value}
		}
		return true, s
	},
}

// doubtfulModel is registerModel where some steps may have been taken or not.
var doubtfulModel = (&porcupine.NondeterministicModel{
	Init: func() []any { return []any{register{}} },
	Step: func(state, input, output any) []any {
		possible, next := registerModel.Step(state, input, output)
		switch {
		case !input.(linear).maybe && possible:
			return []any{next}
		case !input.(linear).maybe:
			return nil
		case possible && next != state:
			return []any{state, next}
		}
		return []any{state}
	},
}).ToModel()

// linearizable judges every register by itself with porcupine. A transaction is, to each
// register, one step that reads and then writes.
func (c *checker) linearizable() {
	for _, k := range c.keys {
		if k.class != registerKey {
			continue
		}
		h, doubtful := c.steps(k)
		if len(h) == 0 {
			continue
		}
		c.report.Registers++
		result, info := porcupine.CheckOperationsVerbose(registerModel, h, c.o.Patience)
		if result == porcupine.Illegal && len(doubtful) > 0 {
			// Who learned only what a register does not hold has perhaps seen one of them.
			result = porcupine.CheckOperationsTimeout(doubtfulModel, append(slices.Clone(h), doubtful...), c.o.Patience)
		}
		switch result {
		case porcupine.Illegal:
			c.tellRegister(k, h, info)
		case porcupine.Unknown:
			c.report.Undecided = append(c.report.Undecided, fmt.Sprintf("register %s: %d transactions were too many for %v", k.name, len(h), c.o.Patience))
		}
	}
}

// steps makes porcupine's history of a register. Writes of unknown outcome that nobody has
// seen stand apart: that they took effect after all others, or never, is always possible,
// unless somebody learned that the register differs from a value.
func (c *checker) steps(k *keyState) (h, doubtful []porcupine.Operation) {
	differs := false
	for _, i := range k.history {
		t := c.txns[i]
		maybe := !c.committed[i] && t.Status == Unknown
		if !c.committed[i] && !maybe || t.Stale {
			continue
		}
		s := linear{txn: i, begin: t.Begin, ends: c.end[i], maybe: maybe}
		if maybe {
			s.ends = math.MaxInt64
		}
		for j := range t.Ops {
			o := &t.Ops[j]
			if o.Key != k.name || o.Undone || o.Kind.class() != registerKey {
				continue
			}
			if o.Kind == Write {
				s.writes, s.value = true, o.Value
			} else if !s.reads && !s.writes {
				s.reads, s.saw, s.differs = true, register{!o.Null, o.Value}, o.Kind == Differs
			}
		}
		if t.Status == Unknown && !s.writes || !s.writes && !s.reads {
			continue
		}
		op := porcupine.Operation{ClientId: t.Client, Input: s, Call: s.begin, Return: s.ends}
		if maybe {
			doubtful = append(doubtful, op)
			continue
		}
		differs = differs || s.differs
		h = append(h, op)
	}
	if !differs {
		return h, nil
	}
	return h, doubtful
}

// tellRegister tells how far an order could be found, and which transaction ends first
// of those that did not fit.
func (c *checker) tellRegister(k *keyState, h []porcupine.Operation, info porcupine.LinearizationInfo) {
	var longest []int
	for _, p := range info.PartialLinearizations()[0] {
		if len(p) > len(longest) || len(p) == len(longest) && slices.Compare(p, longest) < 0 {
			longest = p // of several the same one each time
		}
	}
	first, end := -1, int64(math.MaxInt64)
	for i, op := range h {
		if !slices.Contains(longest, i) && op.Return <= end {
			first, end = i, op.Return
		}
	}
	if first < 0 {
		c.violate("not linearizable", "X1", "no order of its %d transactions explains register %s", len(h), k.name)
		return
	}
	var who []int
	var state any = register{}
	for _, i := range longest {
		_, state = registerModel.Step(state, h[i].Input, nil)
	}
	for _, i := range longest[max(0, len(longest)-3):] {
		who = append(who, int(h[i].Input.(linear).txn))
	}
	odd := int(h[first].Input.(linear).txn)
	s := state.(register)
	holds := "nil"
	if s.there {
		holds = show(s.value)
	}
	c.violate("not linearizable", "X1", "an order of %d transactions explains register %s, which then holds %s; T%d fits nowhere behind them, and had ended before all others that are left%s",
		len(longest), k.name, holds, c.txns[odd].ID, c.list(append(who, odd)...))
}
