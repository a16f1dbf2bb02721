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
	subs []*subscription // by path and instance
	// queue holds the events that were not acknowledged, by revision; those up to sent have
	// been sent over the present stream, those up to told over any: an acknowledgement
	// counts no further. The queue of a session that is behind is complete up to filled; the
	// rest comes from the state's memory when there is room again.
	queue  []*lockpb.Event
	sent   uint64
	told   uint64
	behind bool
	filled uint64
	// notices have no revision: kept until the beat after the one that they answered.
	notices []*lockpb.Event
	noticed int  // sent over the present stream
	untold  bool // of some subscriptions it may not have been told over the present stream that they are denied

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

// subscription of a session to one node's events. A session has one for a path and instance.
type subscription struct {
	s        *session
	path     string
	instance uint64
	kinds    uint32 // by bit, and anyKind; 0: all
	denied   bool   // the session might not read the node at some moment since it was last listed (denied.go)
	told     bool   // that, over the present stream
	after    uint64 // it is about events above this revision
	upTo     uint64 // those up to this one are in the queue already
	place    int    // among its path's
}

// anyKind is set where kinds are given: those not known here do not make it all.
const anyKind = 1

func (u *subscription) compare(o *subscription) int {
	return cmp.Or(cmp.Compare(u.path, o.path), cmp.Compare(u.instance, o.instance))
}

func (u *subscription) wants(e *state.Event) bool {
	return u.matches(e.Instance, uint32(e.Kind)) && !(u.denied && e.Kind.OfContents())
}

func (u *subscription) matches(instance uint64, kind uint32) bool {
	return (u.instance == 0 || u.instance == instance) && (u.kinds == 0 || u.kinds&(1<<kind) != 0)
}

// Bounds of a session's queue, of the notices it keeps, of what one answer carries (maxDues is bytes, of each of
// events, notices, denials and invalidations, but for the last), and of its subscriptions.
const (
	maxDues     = 512 << 10
	maxQueued   = 1024
	maxNotices  = 1024
	maxAnswer   = 256
	maxWatching = 4096
)

// mostBytes bounds what an event takes in an answer, at less than the price of its size.
func mostBytes(e *lockpb.Event) int { return 48 + len(e.Path) + len(e.Child) }

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
	l.guardLocked(e, out)
	var msg *lockpb.Event
	for _, u := range l.subs[e.Path] {
		if e.Revision <= u.upTo || !u.wants(e) {
			continue
		}
		b := u.s.box
		n := len(b.queue)
		switch {
		case b.behind, msg != nil && n > 0 && b.queue[n-1] == msg: // by another instance's subscription
			continue
		case n >= maxQueued:
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
	if s.box == nil {
		return
	}
	subs := s.box.subs
	i, _ := slices.BinarySearchFunc(subs, e.Path, func(u *subscription, path string) int { return cmp.Compare(u.path, path) })
	for ; i < len(subs) && subs[i].path == e.Path; i++ {
		if subs[i].matches(e.Instance, uint32(e.Kind)) {
			if s.box.note(e) {
				l.tellLocked(s, out)
			}
			return
		}
	}
}

// note queues a notice, unless the same one waits to be sent.
func (b *outbox) note(e *lockpb.Event) bool {
	if len(b.notices) >= maxNotices || slices.ContainsFunc(b.notices[b.noticed:], func(o *lockpb.Event) bool {
		return o.Kind == e.Kind && o.Path == e.Path && o.Instance == e.Instance && o.Generation == e.Generation
	}) {
		return false
	}
	b.notices = append(b.notices, e)
	return true
}

// subscribeLocked makes list the session's subscriptions; one that it had keeps its place. A list with
// anything wrong in it is refused, and changes nothing. For those that it had not, and when it has moved to
// another stream for all, it is noted who waits for what the session holds: it may not have
// heard, from this leader or an earlier one.
func (l *leader) subscribeLocked(s *session, list []*lockpb.Subscription, moved bool) *state.Error {
	if len(list) == 0 && s.box == nil {
		return nil
	}
	if len(list) > maxWatching {
		return refuse(state.QuotaExceeded, "", "a session has at most %d subscriptions, not %d", maxWatching, len(list))
	}
	l.c.mu.RLock()
	defer l.c.mu.RUnlock()
	for _, m := range list {
		if err := l.c.st.CheckPath(m.GetPath()); err != nil {
			return err
		}
	}
	b := s.have()
	now := l.c.st.Revision()
	subs, old := merged(list), b.subs
	var resumed []*subscription
	const conflict = uint32(lockpb.EventKind_CONFLICTING_REQUEST)
	for i, u := range subs {
		told := false
		for len(old) > 0 && old[0].compare(u) < 0 {
			l.leaveLocked(old[0])
			old = old[1:]
		}
		if len(old) > 0 && old[0].compare(u) == 0 {
			told = !moved && old[0].matches(old[0].instance, conflict)
			old[0].kinds = u.kinds
			if old[0].denied && l.relistedLocked(old[0], u.after, now) {
				resumed = append(resumed, old[0])
			}
			subs[i], old = old[0], old[1:]
		}
		if !told {
			for _, e := range l.conflictsLocked(s, u.path) {
				if u.matches(e.Instance, conflict) {
					b.note(e)
				}
			}
		}
		if subs[i] != u {
			continue
		}
		u.s, u.upTo = s, now
		l.judgeLocked(u)
		u.place = len(l.subs[u.path])
		l.subs[u.path] = append(l.subs[u.path], u)
		if u.after == 0 {
			u.after = now
		} else {
			resumed = append(resumed, u)
		}
	}
	for _, u := range old {
		l.leaveLocked(u)
	}
	b.subs = subs
	if len(resumed) > 0 {
		l.resumeLocked(b, resumed, now)
	}
	return nil
}

// merged returns a list's subscriptions, by path and instance, each once: about all that is asked for.
func merged(list []*lockpb.Subscription) []*subscription {
	subs := make([]*subscription, 0, len(list))
	for _, m := range list {
		u := &subscription{path: m.GetPath(), instance: m.GetInstance(), after: m.GetAfter()}
		for _, k := range m.GetKinds() {
			if u.kinds |= anyKind; k > 0 && k < 32 {
				u.kinds |= 1 << k
			}
		}
		subs = append(subs, u)
	}
	slices.SortFunc(subs, (*subscription).compare)
	n := 0
	for _, u := range subs {
		if n == 0 || subs[n-1].compare(u) != 0 {
			subs[n] = u
			n++
			continue
		}
		o := subs[n-1]
		if o.kinds == 0 || u.kinds == 0 {
			o.kinds = 0
		} else {
			o.kinds |= u.kinds
		}
		if o.after == 0 || u.after != 0 && u.after < o.after {
			o.after = u.after
		}
	}
	return subs[:n]
}

// leaveLocked takes a subscription out of its path's.
func (l *leader) leaveLocked(u *subscription) {
	list := l.subs[u.path]
	last := list[len(list)-1]
	list[u.place], last.place = last, u.place
	list[len(list)-1] = nil
	if list = list[:len(list)-1]; len(list) == 0 {
		delete(l.subs, u.path)
	} else {
		l.subs[u.path] = list
	}
}

// unsubscribeLocked ends all subscriptions of a session; what is queued is delivered.
func (l *leader) unsubscribeLocked(s *session) {
	for _, u := range s.box.subs {
		l.leaveLocked(u)
	}
	s.box.subs = nil
}

// resumeLocked queues what subscriptions missed; c.mu is held, the state at revision now.
func (l *leader) resumeLocked(b *outbox, list []*subscription, now uint64) {
	found := l.rememberedLocked(list, 0, now)
	if b.behind {
		// What comes later is found again when the session catches up.
		found = slices.DeleteFunc(found, func(r remembered) bool { return r.revision > b.filled })
	}
	b.enqueue(found)
}

// remembered is an event that the state remembers, or that a subscription's are forgotten.
type remembered struct {
	revision uint64
	event    *state.Event // nil: forgotten
	u        *subscription
}

func (r *remembered) message() *lockpb.Event {
	if r.event != nil {
		return eventOf(r.event)
	}
	return &lockpb.Event{Revision: r.revision, Kind: lockpb.EventKind_EVENTS_LOST, Path: r.u.path, Instance: r.u.instance}
}

// rememberedLocked finds what subscriptions of a session want above revision from, in the order of
// revisions; c.mu is held, the state at revision now.
func (l *leader) rememberedLocked(subs []*subscription, from, now uint64) (found []remembered) {
	for _, u := range subs {
		events, complete := l.c.st.EventsAfter(max(u.after, from), u.path)
		if !complete {
			if !u.mute() {
				found = append(found, remembered{revision: now, u: u})
			}
			continue
		}
		for i := range events {
			if u.wants(&events[i]) && l.c.st.MayHearOf(u.s.principal, &events[i]) {
				found = append(found, remembered{events[i].Revision, &events[i], u})
			}
		}
	}
	slices.SortStableFunc(found, func(x, y remembered) int { return cmp.Compare(x.revision, y.revision) })
	return found
}

// enqueue merges what was found into the queue, and reports whether all of it has a place there. If
// not, the session is behind: what is above the cut, also of what was queued, it gets
// when there is room. The cut is between revisions: an acknowledgement covers all of one.
// What comes before something sent already has that sent again.
func (b *outbox) enqueue(found []remembered) (all bool) {
	if len(found) == 0 {
		return true
	}
	top := found[0].revision - 1 // up to here the queue stays as it was
	queue, old := make([]*lockpb.Event, 0, min(len(b.queue)+len(found), maxQueued)), b.queue
	for all = true; len(old)+len(found) > 0; {
		var e *lockpb.Event
		n := len(queue)
		if len(found) == 0 || len(old) > 0 && old[0].Revision <= found[0].revision {
			e, old = old[0], old[1:]
		} else {
			e, found = found[0].message(), found[1:]
		}
		if n > 0 && queue[n-1].Revision == e.Revision && queue[n-1].Kind == e.Kind && queue[n-1].Path == e.Path && queue[n-1].Instance == e.Instance {
			continue // of two subscriptions
		}
		if n >= maxQueued && queue[n-1].Revision < e.Revision {
			all = false
			break
		}
		queue = append(queue, e)
	}
	if b.queue = queue; !all {
		b.behind, b.filled = true, queue[len(queue)-1].Revision
	}
	b.sent, b.told = min(b.sent, top), min(b.told, top)
	return all
}

// seenLocked drops the events that a session acknowledged, and catches up if it is behind.
func (l *leader) seenLocked(s *session, seen uint64) {
	b := s.box
	seen = min(seen, b.told)
	i := 0
	for i < len(b.queue) && b.queue[i].Revision <= seen {
		i++
	}
	if b.queue = b.queue[i:]; len(b.queue) == 0 {
		b.queue = nil
	}
	if b.behind && len(b.queue) <= maxQueued/2 {
		l.catchUpLocked(b)
	}
}

// catchUpLocked fills a session's queue from the state's memory, up to its bound: what a slow
// consumer misses costs nobody else anything.
func (l *leader) catchUpLocked(b *outbox) {
	l.c.mu.RLock()
	defer l.c.mu.RUnlock()
	now := l.c.st.Revision()
	found := l.rememberedLocked(b.subs, b.filled, now)
	b.behind, b.filled = false, 0
	if b.enqueue(found) {
		for _, u := range b.subs {
			u.upTo = now
		}
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
	n := 0
	for room := maxDues; n < len(todo) && (n < maxAnswer && room > 0 || n > 0 && todo[n].Revision == todo[n-1].Revision); n++ {
		room -= mostBytes(todo[n])
	}
	if todo = todo[:n]; n > 0 {
		lease.Events = append(lease.Events, todo...)
		b.sent = todo[n-1].Revision
		b.told = max(b.told, b.sent)
	}
	for room := maxDues; b.noticed < len(b.notices) && room > 0; b.noticed++ {
		e := b.notices[b.noticed]
		room -= mostBytes(e)
		lease.Events = append(lease.Events, e)
	}
	if b.untold {
		lease.Events = append(lease.Events, b.denials()...)
	}
	room := maxDues
	for _, v := range b.stale {
		if v.number > b.staleTop && room > 0 {
			room -= len(v.path)
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
	return b != nil && (b.untold || len(b.notices) > b.noticed ||
		len(b.queue) > 0 && b.queue[len(b.queue)-1].Revision > b.sent ||
		len(b.stale) > 0 && b.stale[len(b.stale)-1].number > b.staleTop)
}

// restream forgets what was sent: it goes again over another stream.
func (b *outbox) restream() {
	b.sent, b.noticed, b.staleTop = 0, 0, 0
	for _, u := range b.subs {
		if u.denied && u.asks() {
			u.told, b.untold = false, true
		}
	}
}
