package cell

import (
	"cmp"
	"slices"

	"github.com/spandb/spand/lockservice/cell/state"
	"github.com/spandb/spand/lockservice/lockpb"
)

// outbox is what a session is to be told, and what else only some sessions have. Guarded
// by leader.mu.
type outbox struct {
	// Events. queue holds those not acknowledged, by revision; those up to sent have
	// been sent over the present stream. A session that is behind gets the rest from
	// the state's memory, above filled, when the queue has room again.
	subs   []*subscription
	queue  []*lockpb.Event
	sent   uint64
	behind bool
	filled uint64
	// notices have no revision: kept until the beat after the one that they answered.
	notices []*lockpb.Event
	noticed int // sent over the present stream

	// Cache.
	cached   map[string]struct{}
	stale    []*invalidation // not acknowledged
	staleTop uint64          // highest number sent over the present stream

	waits  map[*waiter]struct{}               // in queues
	fences map[state.HandleID]state.Sequencer // SetSequencer
}

func (s *session) have() *outbox {
	if s.box == nil {
		s.box = &outbox{}
	}
	return s.box
}

// subscription of a session to one node's events.
type subscription struct {
	s        *session
	path     string
	instance uint64
	kinds    uint32 // by bit; 0: all
	after    uint64 // events up to this revision are in the queue, or acknowledged
}

func (u *subscription) wants(e *state.Event) bool {
	return (u.instance == 0 || u.instance == e.Instance) && (u.kinds == 0 || u.kinds&(1<<e.Kind) != 0)
}

// Bounds of a session's queue, of the notices it keeps, of what one answer carries, and of
// its subscriptions.
const (
	maxQueued   = 1024
	maxNotices  = 64
	maxAnswer   = 256
	maxWatching = 10_000
)

func eventOf(e *state.Event) *lockpb.Event {
	return &lockpb.Event{
		Revision: e.Revision, Kind: lockpb.EventKind(e.Kind), Path: e.Path, Child: e.Child, Instance: e.Instance, Generation: e.Generation,
	}
}

// publishLocked hands an event to its subscribers: one message for all of them.
func (l *leader) publishLocked(e *state.Event, out *outgoing) {
	// Nobody changes what is cached without a change announced; should one have slipped
	// through, caches hear of it now.
	if l.cache.changing[e.Path] == 0 && e.Kind != state.LockAcquired {
		l.invalidateLocked(e.Path, nil, out)
	}
	var msg *lockpb.Event
	for _, u := range l.subs[e.Path] {
		if e.Revision <= u.after || !u.wants(e) {
			continue
		}
		b := u.s.box
		switch {
		case b.behind:
			continue
		case len(b.queue) >= maxQueued:
			b.behind, b.filled = true, e.Revision-1
			continue
		}
		if msg == nil {
			msg = eventOf(e)
		}
		b.queue = append(b.queue, msg)
		l.tellLocked(u.s, out)
	}
}

// noticeLocked tells a session's subscribers of something that is not logged.
func (l *leader) noticeLocked(s *session, e *lockpb.Event, out *outgoing) {
	if s.box == nil || len(s.box.notices) >= maxNotices {
		return
	}
	if slices.ContainsFunc(s.box.subs, func(u *subscription) bool {
		return u.path == e.Path && (u.instance == 0 || u.instance == e.Instance) && (u.kinds == 0 || u.kinds&(1<<e.Kind) != 0)
	}) {
		s.box.notices = append(s.box.notices, e)
		l.tellLocked(s, out)
	}
}

// subscribeLocked makes list the session's subscriptions. One that it had keeps its place.
func (l *leader) subscribeLocked(s *session, list []*lockpb.Subscription) {
	if len(list) == 0 && s.box == nil {
		return
	}
	if len(list) > maxWatching {
		list = list[:maxWatching]
	}
	b := s.have()
	type key struct {
		path     string
		instance uint64
	}
	had := make(map[key]*subscription, len(b.subs))
	for _, u := range b.subs {
		had[key{u.path, u.instance}] = u
	}
	l.unsubscribeLocked(s)
	l.c.mu.RLock()
	defer l.c.mu.RUnlock()
	now := l.c.st.Revision()
	for _, m := range list {
		u := &subscription{s: s, path: m.GetPath(), instance: m.GetInstance(), after: now}
		for _, k := range m.GetKinds() {
			if k > 0 && k < 32 {
				u.kinds |= 1 << k
			}
		}
		old := had[key{u.path, u.instance}]
		delete(had, key{u.path, u.instance})
		switch {
		case old != nil:
			u.after = old.after
		case m.GetAfter() != 0:
			u.after = m.GetAfter()
			l.resumeLocked(u, now)
		}
		b.subs = append(b.subs, u)
		l.subs[u.path] = append(l.subs[u.path], u)
	}
}

// resumeLocked queues what a subscription missed; c.mu is held, the state at revision now.
func (l *leader) resumeLocked(u *subscription, now uint64) {
	b := u.s.box
	events, complete := l.c.st.EventsAfter(u.after, u.path)
	u.after = now
	if !complete {
		b.enqueue(lost(u, now))
		return
	}
	for i := range events {
		if u.wants(&events[i]) {
			b.enqueue(eventOf(&events[i]))
		}
	}
	// A queue may get longer than maxQueued here, by what the state remembers at most:
	// it is what the client asked for.
}

func lost(u *subscription, now uint64) *lockpb.Event {
	return &lockpb.Event{Revision: now, Kind: lockpb.EventKind_EVENTS_LOST, Path: u.path, Instance: u.instance}
}

// enqueue adds an event in the order of revisions. What comes before something sent already
// makes that be sent again.
func (b *outbox) enqueue(e *lockpb.Event) {
	i := len(b.queue)
	for i > 0 && b.queue[i-1].Revision > e.Revision {
		i--
	}
	b.queue = slices.Insert(b.queue, i, e)
	if e.Revision <= b.sent {
		b.sent = e.Revision - 1
	}
}

// unsubscribeLocked ends all subscriptions of a session; what is queued is delivered.
func (l *leader) unsubscribeLocked(s *session) {
	for _, u := range s.box.subs {
		rest := slices.DeleteFunc(l.subs[u.path], func(o *subscription) bool { return o == u })
		if len(rest) == 0 {
			delete(l.subs, u.path)
		} else {
			l.subs[u.path] = rest
		}
	}
	s.box.subs = nil
}

// seenLocked drops the events that a session acknowledged, and catches up if it is behind.
func (l *leader) seenLocked(s *session, seen uint64) {
	b := s.box
	i := 0
	for i < len(b.queue) && b.queue[i].Revision <= seen {
		i++
	}
	if b.queue = b.queue[i:]; len(b.queue) == 0 {
		b.queue = nil
	}
	if b.behind && len(b.queue) <= maxQueued/2 {
		l.catchUpLocked(s)
	}
}

// catchUpLocked fills a session's queue from the state's memory, up to its bound: what a slow
// consumer misses costs nobody else anything.
func (l *leader) catchUpLocked(s *session) {
	b := s.box
	l.c.mu.RLock()
	defer l.c.mu.RUnlock()
	now := l.c.st.Revision()
	var found []*lockpb.Event
	for _, u := range b.subs {
		events, complete := l.c.st.EventsAfter(max(u.after, b.filled), u.path)
		if !complete {
			found = append(found, lost(u, now))
			continue
		}
		for i := range events {
			if u.wants(&events[i]) {
				found = append(found, eventOf(&events[i]))
			}
		}
	}
	slices.SortStableFunc(found, func(x, y *lockpb.Event) int { return cmp.Compare(x.Revision, y.Revision) })
	if n := maxQueued - len(b.queue); len(found) > n {
		// The cut is between revisions: an acknowledgement covers all of one.
		for n > 0 && found[n-1].Revision == found[n].Revision {
			n--
		}
		if n > 0 {
			b.queue = append(b.queue, found[:n]...)
			b.filled = found[n-1].Revision
			return
		}
	}
	b.queue = append(b.queue, found...)
	b.behind, b.filled = false, 0
	for _, u := range b.subs {
		u.after = now
	}
}

// duesLocked takes what the session is to be told next.
func (l *leader) duesLocked(s *session, lease *lockpb.Lease) {
	b := s.box
	if b == nil {
		return
	}
	first, _ := slices.BinarySearchFunc(b.queue, b.sent, func(e *lockpb.Event, sent uint64) int {
		if e.Revision <= sent {
			return -1
		}
		return 1
	})
	todo := b.queue[first:]
	if n := maxAnswer; len(todo) > n {
		for n < len(todo) && todo[n].Revision == todo[n-1].Revision {
			n++
		}
		todo = todo[:n]
	}
	if len(todo) > 0 {
		lease.Events = append(lease.Events, todo...)
		b.sent = todo[len(todo)-1].Revision
	}
	lease.Events = append(lease.Events, b.notices[b.noticed:]...)
	b.noticed = len(b.notices)
	for _, v := range b.stale {
		if v.number > b.staleTop {
			lease.Invalidate = append(lease.Invalidate, v.path)
			lease.Invalidation = v.number
		}
	}
	if lease.Invalidation > 0 {
		b.staleTop = lease.Invalidation
	}
}

// due reports whether there is anything to tell.
func (b *outbox) due() bool {
	return b != nil && (len(b.notices) > b.noticed ||
		len(b.queue) > 0 && b.queue[len(b.queue)-1].Revision > b.sent ||
		len(b.stale) > 0 && b.stale[len(b.stale)-1].number > b.staleTop)
}

// restream forgets what was sent: it goes again over another stream.
func (b *outbox) restream() {
	b.sent, b.noticed, b.staleTop = 0, 0, 0
}
