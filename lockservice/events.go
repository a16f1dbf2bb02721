package lockservice

import (
	"context"
	"fmt"
	"iter"
	"slices"

	"google.golang.org/grpc/codes"

	"github.com/spandb/spand/lockservice/lockpb"
)

// EventKind says what happened to a node.
type EventKind int32

const (
	ContentsChanged    = EventKind(lockpb.EventKind_CONTENTS_CHANGED) // or the file was created: generation 1
	ChildAdded         = EventKind(lockpb.EventKind_CHILD_ADDED)
	ChildRemoved       = EventKind(lockpb.EventKind_CHILD_REMOVED)
	ChildModified      = EventKind(lockpb.EventKind_CHILD_MODIFIED)
	CellFailedOver     = EventKind(lockpb.EventKind_CELL_FAILED_OVER)    // the cell has another leader; no event was lost
	HandleInvalid      = EventKind(lockpb.EventKind_HANDLE_INVALID)      // the node was deleted
	LockAcquired       = EventKind(lockpb.EventKind_LOCK_ACQUIRED)       // the lock went from free to held
	ConflictingRequest = EventKind(lockpb.EventKind_CONFLICTING_REQUEST) // to the lock's holder: another wants it in a mode that conflicts, or to delete the node
	EventsLost         = EventKind(lockpb.EventKind_EVENTS_LOST)         // some are forgotten: read again what the subscription is about
)

// MarshalText writes the name, as String does.
func (k EventKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

func (k EventKind) String() string { return lockpb.EventKind(k).String() }

// Event is delivered after what it tells of is visible to every read, at least once. Events of
// one node come in the order of their revisions.
type Event struct {
	Kind     EventKind `json:"kind"`
	Path     string    `json:"path"`            // of the node that was subscribed to
	Child    string    `json:"child,omitempty"` // name, of events of children
	Instance uint64    `json:"instance"`
	// Generation after the change, of the contents or the lock.
	Generation uint64 `json:"generation"`
	// Revision of the cell at the change. A later subscription goes on behind it (After).
	Revision uint64 `json:"revision"`
}

// SubscribeOptions of Subscribe. The zero value asks for everything from now on.
type SubscribeOptions struct {
	Kinds []EventKind // none: all; EventsLost is always delivered
	// After: begin with the events of revisions above it, of a Stat or an Event. If the cell
	// has forgotten some of them, EventsLost comes first. 0: from now on.
	After uint64
}

// backlog bounds what waits in a subscription for its reader. Beyond it the client forgets and,
// when the reader has caught up, asks the cell again from where he is.
const backlog = 4096

// maxSubscriptions bounds the nodes that a session watches: a cell refuses more.
const maxSubscriptions = 4096

// Subscription delivers the events of a node to one reader, across changes of leader. A slow
// reader delays nobody else. Next may not be called concurrently with itself.
type Subscription struct {
	s     *Session
	group *group
	kinds []EventKind
	wake  chan struct{} // has room for one; something is to be had

	// Guarded by the session's mutex.
	queue   []Event
	last    uint64    // revision up to which events were queued
	same    []eventID // of that revision, queued
	behind  bool      // events above last were dropped
	from    uint64    // the beat that listed it, 0: none yet; what answers earlier ones may have a gap behind last
	failure error     // it is over
}

type eventID struct {
	kind  EventKind
	child string
}

// group is the subscriptions of one node, as the server sees them.
type group struct {
	node    nodeID
	members []*Subscription
	keepers []*Handle // hear who wants their lock (OpenOptions.KeepLock)
	anew    anew
	entered uint64 // the beat that listed the group again
}

type nodeID struct {
	path     string
	instance uint64
}

// anew is how a group has its events sent again: a beat without it, then one with it.
type anew int

const (
	steady anew = iota
	leave
	enter
)

// subscriptions of a session, guarded by its mutex.
type subscriptions struct {
	s      *Session
	groups map[nodeID]*group
}

func (u *subscriptions) init(s *Session) { u.s, u.groups = s, map[nodeID]*group{} }

// Subscribe asks for the node's events. They begin, at the latest, with what happens after
// Subscribe was called. The subscription ends with Close or the session. A session watches at most
// 4,096 nodes, each with any number of subscriptions (QUOTA_EXCEEDED). The node must be one
// of a session; on a Handle it means the node that was opened, on Session.Node whatever is there.
//
// ContentsChanged and the events of children take the right to read the node (ACL.Read). A subscription to any of
// these kinds, so also to all, ends when the session's principal has not that right, or loses it: behind what
// is queued, Next fails with ErrPermission. When the right has come back, Subscribe again, with After if what
// happened meanwhile matters. HandleInvalid, LockAcquired and ConflictingRequest take no right.
func (n *Node) Subscribe(ctx context.Context, o SubscribeOptions) (*Subscription, error) {
	if n.bad != nil {
		return nil, n.bad
	}
	if n.s == nil {
		return nil, &Error{Code: codes.InvalidArgument, Reason: "BAD_REQUEST", Path: n.path, Message: "events need a session"}
	}
	after := o.After
	if after == 0 {
		// Now is a revision, so that nothing is missed between this call and the beat
		// that tells the server, nor if that meets another leader.
		var err error
		if after, err = n.cell.revision(ctx, n.s); err != nil {
			return nil, err
		}
	}
	sub := &Subscription{s: n.s, kinds: slices.Clone(o.Kinds), wake: make(chan struct{}, 1), last: after}
	s := n.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == Expired {
		return nil, s.cause
	}
	id := nodeID{n.path, n.instance}
	g := s.events.groups[id]
	if g == nil {
		if len(s.events.groups) >= maxSubscriptions {
			return nil, &Error{Code: codes.ResourceExhausted, Reason: "QUOTA_EXCEEDED", Path: n.path, Message: fmt.Sprintf("a session watches at most %d nodes", maxSubscriptions)}
		}
		g = &group{node: id}
		s.events.groups[id] = g
	} else {
		g.anew = leave // others of the group may be further
	}
	sub.group = g
	g.members = append(g.members, sub)
	s.subscribeLocked()
	return sub, nil
}

// Events is Subscribe as an iterator: it ends with an error when ctx or the session does, or with
// the loop.
func (n *Node) Events(ctx context.Context, kinds ...EventKind) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		sub, err := n.Subscribe(ctx, SubscribeOptions{Kinds: kinds})
		if err != nil {
			yield(Event{}, err)
			return
		}
		defer sub.Close()
		for {
			e, err := sub.Next(ctx)
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// Next waits for the next event. The error is ctx's cause, or why the subscription or its
// session ended: ErrPermission, see Subscribe, among others.
func (u *Subscription) Next(ctx context.Context) (Event, error) {
	for {
		if e, ok, err := u.take(); ok || err != nil {
			return e, err
		}
		select {
		case <-u.wake:
		case <-ctx.Done():
			return Event{}, context.Cause(ctx)
		}
	}
}

func (u *Subscription) take() (e Event, ok bool, err error) {
	s := u.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(u.queue) > 0 {
		e = u.queue[0]
		u.queue = u.queue[1:]
		return e, true, nil
	}
	if u.failure != nil {
		return e, false, u.failure
	}
	if u.behind {
		u.behind, u.from, u.group.anew = false, 0, leave
		s.subscribeLocked()
	}
	return e, false, nil
}

// Close ends the subscription. Next then fails with ErrClosed.
func (u *Subscription) Close() {
	s := u.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if u.failure != nil {
		return
	}
	u.endLocked(ErrClosed)
	u.queue = nil
	g := u.group
	g.members = slices.DeleteFunc(g.members, func(o *Subscription) bool { return o == u })
	s.events.leftLocked(g)
}

// leftLocked: somebody has left a group.
func (u *subscriptions) leftLocked(g *group) {
	if len(g.members)+len(g.keepers) == 0 && u.groups[g.node] == g {
		delete(u.groups, g.node)
	}
	u.s.subscribeLocked()
}

func (u *Subscription) endLocked(why error) {
	u.failure = why
	u.poke()
}

func (u *Subscription) poke() {
	select {
	case u.wake <- struct{}{}:
	default:
	}
}

// subscribeLocked has the next beat, soon, list the subscriptions.
func (s *Session) subscribeLocked() {
	if s.state == Expired {
		return
	}
	s.beats.subscribe = true
	s.cell.keeper.requestLocked(s)
}

// wireLocked lists the subscriptions for a beat, and reports whether another beat must follow
// with another list.
func (u *subscriptions) wireLocked(beat uint64) (list *lockpb.Subscriptions, more bool) {
	list = &lockpb.Subscriptions{}
	for _, g := range u.groups {
		switch g.anew {
		case leave:
			g.anew, more = enter, true
			continue
		case enter:
			g.anew, g.entered = steady, beat
		}
		if w := g.wireLocked(beat); w != nil {
			list.List = append(list.List, w)
		}
	}
	return list, more
}

// restartLocked begins again, on a new stream, to have events sent again where the beats that do so may be
// lost: the cell may not have seen the one without the group.
func (u *subscriptions) restartLocked(answered uint64) {
	for _, g := range u.groups {
		if g.anew == enter || g.entered > answered {
			g.anew = leave
		}
		for _, m := range g.members {
			if m.from > answered {
				m.from = 0
			}
		}
	}
}

func (g *group) wireLocked(beat uint64) *lockpb.Subscription {
	w := &lockpb.Subscription{Path: g.node.path, Instance: g.node.instance}
	all, some := false, false
	for _, m := range g.members {
		if m.behind {
			continue // asks again when its reader has caught up
		}
		if m.from == 0 {
			m.from = beat
		}
		if !some || m.last < w.After {
			w.After = m.last
		}
		some = true
		all = all || len(m.kinds) == 0
		for _, k := range m.kinds {
			if wire := lockpb.EventKind(k); !slices.Contains(w.Kinds, wire) {
				w.Kinds = append(w.Kinds, wire)
			}
		}
	}
	if len(g.keepers) > 0 {
		// From now on (after 0), if for nobody else: such a notice has no place in the history.
		some = true
		if wire := lockpb.EventKind_CONFLICTING_REQUEST; !slices.Contains(w.Kinds, wire) {
			w.Kinds = append(w.Kinds, wire)
		}
	}
	if !some {
		return nil
	}
	if all {
		w.Kinds = nil
	}
	return w
}

// deliverLocked queues an event, of a lease that answers a beat, for those whom that has listed.
func (u *subscriptions) deliverLocked(w *lockpb.Event, beat uint64) {
	if w.Kind == lockpb.EventKind_EVENTS_DENIED {
		u.deniedLocked(nodeID{w.Path, w.Instance}, beat)
		return
	}
	e := Event{Kind: EventKind(w.Kind), Path: w.Path, Child: w.Child, Instance: w.Instance, Generation: w.Generation, Revision: w.Revision}
	if e.Kind == CellFailedOver {
		return // the epoch tells, once
	}
	for _, id := range [...]nodeID{{e.Path, 0}, {e.Path, e.Instance}} {
		if g := u.groups[id]; g != nil {
			for _, m := range g.members {
				if m.from != 0 && m.from <= beat {
					m.offerLocked(e)
				}
			}
			if e.Kind == ConflictingRequest {
				for _, h := range g.keepers {
					h.wantedLocked(e.Generation)
				}
			}
		}
		if e.Instance == 0 {
			break
		}
	}
}

// deniedLocked ends the subscriptions that a beat has listed and that ask for what takes the right to read the node.
func (u *subscriptions) deniedLocked(id nodeID, beat uint64) {
	g := u.groups[id]
	if g == nil {
		return
	}
	why := &Error{Code: codes.PermissionDenied, Reason: "PERMISSION", Path: id.path, Message: fmt.Sprintf("no events of the contents of %s: the session may not read it", id.path)}
	before := len(g.members)
	g.members = slices.DeleteFunc(g.members, func(m *Subscription) bool {
		denied := m.from != 0 && m.from <= beat && (len(m.kinds) == 0 || slices.ContainsFunc(m.kinds, ofContents))
		if denied {
			m.endLocked(why)
		}
		return denied
	})
	if len(g.members) < before {
		u.leftLocked(g)
	}
}

// ofContents reports whether events of a kind take the right to read.
func ofContents(k EventKind) bool {
	return k == ContentsChanged || k == ChildAdded || k == ChildRemoved || k == ChildModified
}

// failedOverLocked tells every subscription of another leader.
func (u *subscriptions) failedOverLocked() {
	for _, g := range u.groups {
		for _, m := range g.members {
			m.offerLocked(Event{Kind: CellFailedOver, Path: g.node.path, Instance: g.node.instance})
		}
	}
}

// passing are the kinds that are about a moment: they have no place in the history and no
// order among what has.
func passing(k EventKind) bool {
	return k == CellFailedOver || k == ConflictingRequest || k == EventsLost
}

func (u *Subscription) offerLocked(e Event) {
	if u.failure != nil || u.behind {
		return
	}
	if len(u.queue) >= backlog {
		u.behind = true
		return
	}
	if !passing(e.Kind) {
		id := eventID{e.Kind, e.Child}
		if e.Revision < u.last || e.Revision == u.last && (len(u.same) == 0 || slices.Contains(u.same, id)) {
			return // sent again
		}
		if e.Revision > u.last {
			u.same = u.same[:0]
		}
		u.last = e.Revision
		u.same = append(u.same, id)
	} else if e.Kind == EventsLost && e.Revision > u.last {
		u.last, u.same = e.Revision, u.same[:0] // what is forgotten need not be asked for again
	}
	if len(u.kinds) > 0 && e.Kind != EventsLost && !slices.Contains(u.kinds, e.Kind) {
		return
	}
	u.queue = append(u.queue, e)
	u.poke()
}

// refusedLocked: the cell has refused what the session asked for. Locks are kept no longer, for nobody would hear who
// wants them.
func (u *subscriptions) refusedLocked(why error) {
	for _, g := range u.groups {
		for _, h := range g.keepers {
			h.wantedLocked(everyGeneration)
			h.keep.group = nil
		}
		g.keepers = nil
	}
	u.endLocked(why)
	u.s.subscribeLocked()
}

// endLocked ends all of them, as with the session.
func (u *subscriptions) endLocked(why error) {
	for _, g := range u.groups {
		for _, m := range g.members {
			m.endLocked(why)
		}
		for _, h := range slices.Clone(g.keepers) {
			h.forgetLocked()
		}
	}
	clear(u.groups)
}
