package sim

import (
	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/tablet"
)

// member is a node's replica of a group: of a tablet or of a cell of the lock service.
type member struct {
	id      keys.GroupID
	group   *paxosgroup.Group
	tablet  *tablet.Tablet // nil: a cell's
	capture func() []byte  // the state machine
}

// members returns a node's replicas, tablets first.
func (l *Life) members() (ms []member) {
	for _, r := range l.set.All() {
		ms = append(ms, member{r.Tablet.Group(), r.Group, r.Tablet, r.Tablet.Capture})
	}
	for _, r := range l.cells.All() {
		ms = append(ms, member{r.Cell.Group(), r.Group, nil, r.Cell.Capture})
	}
	return ms
}

// holds reports whether the group is the one that a fault means by key.
func (m member) holds(key string) bool {
	if m.tablet == nil {
		return key == cellKey
	}
	return key != cellKey && m.tablet.Descriptor().Span.Contains(keys.Key(key))
}
