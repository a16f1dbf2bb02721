package state

import (
	"hash/crc64"

	"github.com/spandb/spand/truetime"
)

// DefaultLimit is how many things a list has at most where the caller does not say.
const DefaultLimit = 1000

func orDefault(limit int) int {
	if limit <= 0 {
		return DefaultLimit
	}
	return limit
}

// Name of the cell.
func (s *State) Name() string { return s.cell }

// Index of the last command applied.
func (s *State) Index() uint64 { return s.index }

// Revision of the last change.
func (s *State) Revision() uint64 { return s.revision }

// LeaseFactor is what sessions' TTLs are multiplied by at most.
func (s *State) LeaseFactor() uint32 { return s.leaseFactor }

// Used is what the cell holds, its root not counted.
func (s *State) Used() Quota { return s.rootNode.dir.used }

// Quota bounds the cell.
func (s *State) Quota() Quota { return s.limit(s.rootNode) }

// SessionCount is the number of open sessions, LockCount of holds.
func (s *State) SessionCount() int { return s.sessions.Len() }

// LockCount is the number of holds.
func (s *State) LockCount() int { return s.held }

// Checksum is equal where states are. It takes as long as Encode.
func (s *State) Checksum() uint64 { return crc64.Checksum(s.Encode(), crcTable) }

// Info describes the node at path and says under which number its contents are in Contents, 0 if they
// are empty. instance 0 is whatever node is there.
func (s *State) Info(path string, instance uint64) (*Info, uint64, *Error) {
	n, err := s.find(path, instance)
	if err != nil {
		return nil, 0, err
	}
	return s.info(n), n.contents, nil
}

// Children describes up to limit (0: DefaultLimit) nodes of a directory with names above
// after, by name, and says whether there are more.
func (s *State) Children(path, after string, limit int) (children []*Info, more bool, err *Error) {
	n, err := s.find(path, 0)
	if err != nil {
		return nil, false, err
	}
	if n.dir == nil {
		return nil, false, refuse(NotDirectory, path, "%s is a file", path)
	}
	limit = orDefault(limit)
	n.dir.children.Ascend(after, func(name string, c *node) bool {
		if name == after {
			return true
		}
		if more = len(children) == limit; more {
			return false
		}
		children = append(children, s.info(c))
		return true
	})
	return children, more, nil
}

// May says why a principal has not a right to the node at path, nil if it has.
func (s *State) May(principal, path string, r Right) *Error {
	n, err := s.find(path, 0)
	if err != nil {
		return err
	}
	return s.permit(principal, n, r)
}

// Session describes an open session.
func (s *State) Session(id SessionID) (*Session, bool) {
	sess, ok := s.sessions.Get(id)
	if !ok {
		return nil, false
	}
	return sess.describe(), true
}

// Sessions describes up to limit (0: DefaultLimit) sessions with ids above after, by id.
func (s *State) Sessions(after SessionID, limit int) (sessions []*Session, more bool) {
	limit = orDefault(limit)
	s.sessions.Ascend(after, func(id SessionID, sess *session) bool {
		if id == after {
			return true
		}
		if more = len(sessions) == limit; more {
			return false
		}
		sessions = append(sessions, sess.describe())
		return true
	})
	return sessions, more
}

// Holds of the lock at path, by session and handle.
func (s *State) Holds(path string) []Hold {
	l, ok := s.locks.Get(path)
	if !ok {
		return nil
	}
	return copies(l.holds)
}

func copies(holds []*Hold) []Hold {
	if len(holds) == 0 {
		return nil
	}
	c := make([]Hold, len(holds))
	for i, h := range holds {
		c[i] = *h
	}
	return c
}

// HoldOf returns the hold that a handle has.
func (s *State) HoldOf(id SessionID, handle HandleID, path string) (Hold, bool) {
	if l, ok := s.locks.Get(path); ok {
		if i, there := l.find(id, handle); there {
			return *l.holds[i], true
		}
	}
	return Hold{}, false
}

// HoldsOf returns a session's holds, by path and handle.
func (s *State) HoldsOf(id SessionID) []Hold {
	sess, ok := s.sessions.Get(id)
	if !ok || sess.things == nil {
		return nil
	}
	return copies(sess.holds)
}

// EphemeralsOf returns the paths of the ephemeral nodes that a session holds open.
func (s *State) EphemeralsOf(id SessionID) []string {
	sess, ok := s.sessions.Get(id)
	if !ok || sess.things == nil {
		return nil
	}
	var paths []string
	for i, o := range sess.opens {
		if i == 0 || sess.opens[i-1].node != o.node {
			paths = append(paths, o.node.path)
		}
	}
	return paths
}

// Opens reports whether a handle holds the ephemeral node at path open.
func (s *State) Opens(id SessionID, handle HandleID, path string) bool {
	sess, ok := s.sessions.Get(id)
	if !ok || sess.things == nil {
		return false
	}
	for _, o := range sess.opens {
		if o.handle == handle && o.node.path == path {
			return true
		}
	}
	return false
}

// Place is one among the holds of a cell, by path, session and handle. Without a session it lies behind all
// holds of the path.
type Place struct {
	Path    string
	Session SessionID
	Handle  HandleID
}

// Locks lists locks that are held or delayed behind a place, by path, with up to limit (0: DefaultLimit)
// holds, a lock without any counting as one. The first and the last one may have more holds. A
// delay may be one that is just over.
func (s *State) Locks(after Place, limit int) (locks []Lock, more bool) {
	limit = orDefault(limit)
	s.locks.Ascend(after.Path, func(path string, l *lock) bool {
		holds := l.holds
		if path == after.Path {
			if after.Session == 0 {
				return true
			}
			i, there := l.find(after.Session, after.Handle)
			if there {
				i++
			}
			if holds = holds[i:]; len(holds) == 0 {
				return true
			}
		}
		if more = limit == 0; more {
			return false
		}
		if more = len(holds) > limit; more {
			holds = holds[:limit]
		}
		limit -= max(1, len(holds))
		locks = append(locks, Lock{Path: path, Holds: copies(holds), DelayedUntil: l.until})
		return !more
	})
	return locks, more
}

// DelayedUntil is the end of the lock-delay at path, 0 if there is none.
func (s *State) DelayedUntil(path string) truetime.Timestamp {
	if l, ok := s.locks.Get(path); ok {
		return l.until
	}
	return 0
}

// Highest returns the highest timestamp of a command applied: a clock behind it is not to be
// trusted (T2).
func (s *State) Highest() truetime.Timestamp { return s.at }

// Cells are the other cells that the first one knows, by name.
func (s *State) Cells() []Cell { return s.cells.Values() }
