package state

import (
	"fmt"
	"strconv"
	"strings"
)

// Sequencer describes a hold (OSDI'06 2.4). Its text is
// "<path>:<exclusive|shared>:<generation>:<hold>", read from the right since a path may
// contain colons.
type Sequencer struct {
	Path       string
	Mode       Mode
	Generation uint64
	Hold       uint64
}

// Sequencer describes h.
func (h *Hold) Sequencer() Sequencer { return Sequencer{h.Path, h.Mode, h.Generation, h.Number} }

func (m Mode) String() string {
	switch m {
	case Exclusive:
		return "exclusive"
	case Shared:
		return "shared"
	}
	return "unknown"
}

func (q Sequencer) String() string {
	return fmt.Sprintf("%s:%s:%d:%d", q.Path, q.Mode, q.Generation, q.Hold)
}

// ParseSequencer reads what String wrote; anything else is a BAD_REQUEST.
func ParseSequencer(text string) (Sequencer, *Error) {
	bad := func() (Sequencer, *Error) {
		return Sequencer{}, refuse(BadRequest, "", "%q is not a sequencer: expected <path>:<exclusive|shared>:<generation>:<hold>", clip(text))
	}
	rest, hold, ok := cutLast(text)
	if !ok {
		return bad()
	}
	rest, generation, ok := cutLast(rest)
	if !ok {
		return bad()
	}
	path, mode, ok := cutLast(rest)
	if !ok || !strings.HasPrefix(path, "/ls/") || len(path) > maxPath {
		return bad()
	}
	q := Sequencer{Path: path}
	switch mode {
	case "exclusive":
		q.Mode = Exclusive
	case "shared":
		q.Mode = Shared
	}
	var err1, err2 error
	q.Generation, err1 = strconv.ParseUint(generation, 10, 64)
	q.Hold, err2 = strconv.ParseUint(hold, 10, 64)
	if err1 != nil || err2 != nil || q.String() != text {
		return bad()
	}
	return q, nil
}

func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return "", "", false
	}
	return s[:i], s[i+1:], true
}

// Valid returns the hold that a sequencer describes, or why there is none such any more.
func (s *State) Valid(q Sequencer) (Hold, *Error) {
	l, ok := s.locks.Get(q.Path)
	if !ok || len(l.holds) == 0 {
		if err := s.CheckPath(q.Path); err != nil {
			return Hold{}, err
		}
		return Hold{}, refuse(StaleSequencer, q.Path, "nobody holds the lock of %s any more", q.Path)
	}
	for _, h := range l.holds {
		if h.Sequencer() == q {
			return *h, nil
		}
	}
	if now := l.holds[0].Generation; now != q.Generation {
		return Hold{}, refuse(StaleSequencer, q.Path, "the lock of %s is at generation %d, the sequencer is of generation %d", q.Path, now, q.Generation)
	}
	return Hold{}, refuse(StaleSequencer, q.Path, "the lock of %s is not held any more as the sequencer says", q.Path)
}
