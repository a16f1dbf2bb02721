package state

import (
	"slices"
	"sort"

	"github.com/spandb/spand/truetime"
)

// What a cell remembers of its past.
const (
	maxEvents  = 16_384
	maxHistory = 20_000
	memory     = truetime.Timestamp(3600e9) // ended holds and sessions
)

func tooOld(t, now truetime.Timestamp) bool { return now > memory && t < now-memory }

// eventLog is the last events, chained by path so that a subscriber's are found without
// looking at everybody's.
type eventLog struct {
	list      ring[logged]
	base      uint64            // position of the oldest, counted from the first event ever logged here
	last      map[string]uint64 // path: position of its newest event, plus one
	forgotten uint64            // revision of the newest event that is no longer there
}

type logged struct {
	Event
	before uint64 // position of the path's event before, plus one; 0: none
}

func (l *eventLog) add(e Event) {
	before := l.last[e.Path]
	l.list.push(logged{e, before})
	l.last[e.Path] = l.base + uint64(l.list.len())
}

// forget drops the oldest event, which is of the path returned.
func (l *eventLog) forget() (path string) {
	old := l.list.pop()
	if l.last[old.Path] == l.base+1 {
		delete(l.last, old.Path)
	}
	l.base++
	l.forgotten = old.Revision
	return old.Path
}

// emit logs an event at node n, of its child if that is not nil, and returns the event's
// revision.
func (a *change) emit(k EventKind, n, child *node, generation uint64) uint64 {
	a.revision++
	e := Event{Revision: a.revision, Kind: k, Path: n.path, Instance: n.instance, Generation: generation}
	if child != nil {
		e.Child = child.name()
	}
	if k.OfContents() {
		e.Readers = n.acl.Read
	}
	if a.events.list.len() == maxEvents {
		if old := a.nodes[a.events.forget()]; old != nil {
			old.forgotten = a.events.forgotten
		}
	}
	a.events.add(e)
	a.out.Events = append(a.out.Events, e)
	return e.Revision
}

// EventsAfter returns the events of path with revisions above revision, oldest first.
// complete is false when some of them may have been forgotten, or revision is none that the
// cell has come to. Where a node is, that it was busy elsewhere makes nothing incomplete; of a path
// without one the cell knows only how far back it remembers anything.
func (s *State) EventsAfter(revision uint64, path string) (events []Event, complete bool) {
	l := &s.events
	for p := l.last[path]; p > l.base; {
		e := l.list.at(int(p - 1 - l.base))
		if e.Revision <= revision {
			break
		}
		events = append(events, e.Event)
		p = e.before
	}
	slices.Reverse(events)
	forgotten := l.forgotten
	if n := s.nodes[path]; n != nil {
		forgotten = n.forgotten
	}
	return events, revision >= forgotten && revision <= s.revision
}

// history is the holds that have ended.
type history struct {
	list    ring[*Ended]
	entries uint64
}

func (h *history) add(e *Ended) {
	if h.list.len() == maxHistory {
		h.list.pop()
	}
	h.entries++
	e.Entry = h.entries
	h.list.push(e)
}

func (h *history) forget(ts truetime.Timestamp) {
	for h.list.len() > 0 && tooOld((*h.list.at(0)).Until, ts) {
		h.list.pop()
	}
}

// History lists holds of path ("": of all) that ended within the memory of the cell, oldest first:
// those with entries above after.
func (s *State) History(path string, after uint64, limit int) (ended []Ended, more bool) {
	limit = orDefault(limit)
	l := &s.history.list
	first := sort.Search(l.len(), func(i int) bool { return (*l.at(i)).Entry > after })
	for i := first; i < l.len(); i++ {
		e := *l.at(i)
		if path != "" && e.Path != path {
			continue
		}
		if len(ended) == limit {
			return ended, true
		}
		ended = append(ended, *e)
	}
	return ended, false
}
