package state

import (
	"cmp"
	"slices"
)

// Futile reports whether a SetContents, Delete or SetACL would change nothing if it were applied now: it
// would be refused, or is a request that was answered before. It promises nothing about the
// state in which the command will be applied: see Command.Probe.
func (s *State) Futile(c *Command) bool {
	if sess, ok := s.sessions.Get(c.Session); ok && c.Request != 0 && sess.things != nil {
		_, there := slices.BinarySearchFunc(sess.answers, c.Request, func(w answer, n uint64) int { return cmp.Compare(w.number, n) })
		if there || sess.late(c.Request) {
			return true
		}
	}
	a := change{State: s, c: c}
	return a.refusal() != nil
}

func (a *change) refusal() (err *Error) {
	switch a.c.Kind {
	case SetContents:
		_, err = a.maySetContents()
	case Delete:
		_, err = a.mayDelete()
	case SetACL:
		_, err = a.maySetACL()
	}
	return err
}
