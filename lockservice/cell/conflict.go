package cell

import (
	"slices"

	"github.com/spandb/spand/lockservice/cell/state"
	"github.com/spandb/spand/lockservice/lockpb"
)

// conflictLocked tells holders that somebody wants what they have (paper 2.5).
func (l *leader) conflictLocked(path string, conflicts func(*state.Hold) bool) {
	l.c.mu.RLock()
	holds := l.c.st.Holds(path)
	l.c.mu.RUnlock()
	var out outgoing
	for i := range holds {
		if h := &holds[i]; conflicts(h) {
			if s := l.sessions[h.Session]; s != nil {
				l.noticeLocked(s, conflictAt(h), &out)
			}
		}
	}
	out.sendLocked(l)
}

// conflictsLocked are notices to a session that others wait for what it holds at path. c.mu is held.
func (l *leader) conflictsLocked(s *session, path string) (notices []*lockpb.Event) {
	lk := l.locks[path]
	if lk == nil || len(lk.queue) == 0 {
		return nil
	}
	holds := l.c.st.Holds(path)
	for i := range holds {
		if h := &holds[i]; h.Session == s.id && slices.ContainsFunc(lk.queue, func(w *waiter) bool { return w.conflicts(h) }) {
			notices = append(notices, conflictAt(h))
		}
	}
	return notices
}

// heirsLocked tells those who were just given a lock that others wait behind them, who were
// not told so when these asked.
func (l *leader) heirsLocked(waiters []*waiter) {
	var out outgoing
	for _, w := range waiters {
		if len(w.lock.queue) == 0 || w.s.box == nil || len(w.s.box.subs) == 0 {
			continue
		}
		l.c.mu.RLock()
		notices := l.conflictsLocked(w.s, w.lock.path)
		l.c.mu.RUnlock()
		for _, e := range notices {
			l.noticeLocked(w.s, e, &out)
		}
	}
	out.sendLocked(l)
}

// conflicts reports whether w is kept from the lock by a hold.
func (w *waiter) conflicts(h *state.Hold) bool {
	return (w.grant.Session != h.Session || w.grant.Handle != h.Handle) && (w.grant.Mode != state.Shared || h.Mode != state.Shared)
}

func conflictAt(h *state.Hold) *lockpb.Event {
	return &lockpb.Event{Kind: lockpb.EventKind_CONFLICTING_REQUEST, Path: h.Path, Instance: h.Instance, Generation: h.Generation}
}
