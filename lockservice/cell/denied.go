package cell

import (
	"github.com/spandb/spand/lockservice/cell/state"
	"github.com/spandb/spand/lockservice/lockpb"
)

// Who may not read a node does not hear of changes to its contents either (paper 2.3, 2.5). Whether a
// subscription's session may is looked at when it is listed, and whenever it may have lost the right: when a
// node is made at the path, its ACL is set, or the ACL file that it names is changed. Then the subscription is
// denied, until a list has it again. In between the flag tells, so that an event does not cost a look at ACLs
// for each subscriber; and it goes up when the rights change, so that to be told of it says nothing of later
// changes.

// ofContents are the kinds of events that take the right to read, by bit.
var ofContents = func() (bits uint32) {
	for k := range state.EventKind(32) {
		if k.OfContents() {
			bits |= 1 << k
		}
	}
	return bits
}()

// asks reports whether a subscription is about anything that takes the right to read, mute whether it is denied
// and about nothing else.
func (u *subscription) asks() bool { return u.kinds == 0 || u.kinds&ofContents != 0 }
func (u *subscription) mute() bool {
	return u.denied && u.kinds != 0 && u.kinds&^(ofContents|anyKind) == 0
}

// judgeLocked denies a subscription whose session may not read the node that is there, and reports whether
// the session is to be told. c.mu is held.
func (l *leader) judgeLocked(u *subscription) bool {
	if u.denied || l.c.st.MayHear(u.s.principal, u.path, u.instance) {
		return false
	}
	u.denied, u.told = true, false
	if u.asks() {
		u.s.box.untold = true
	}
	return u.asks()
}

// relistedLocked has a subscription that was denied go on behind after, if the session may read the node by
// now, and reports whether something of the past may be for it. Else the session is told once more. c.mu is held, the
// state at revision now.
func (l *leader) relistedLocked(u *subscription, after, now uint64) (resumes bool) {
	u.denied = false
	l.judgeLocked(u)
	if u.denied || after == 0 {
		return false
	}
	u.after, u.upTo = after, now
	return true
}

// guardLocked does what a change of rights entails that an event tells of, before that is published. That of
// a node's ACL is none.
func (l *leader) guardLocked(e *state.Event, out *outgoing) {
	if e.Kind == state.ChildAdded {
		l.rejudgeLocked(e.Path+"/"+e.Child, out)
	}
	if e.Path == l.aclFiles && e.Child != "" {
		l.aclFileLocked(e.Child, out)
	}
}

// aclFileLocked follows a change of an ACL file. Who caches a node that names it is told to forget it, and so
// hears nothing of the next change if he may not read it any more.
func (l *leader) aclFileLocked(file string, out *outgoing) {
	var subscribed, cached []string
	l.c.mu.RLock()
	for path := range l.subs {
		if l.c.st.ReadersOf(path) == file {
			subscribed = append(subscribed, path)
		}
	}
	for path := range l.cache.of {
		if l.c.st.ReadersOf(path) == file {
			cached = append(cached, path)
		}
	}
	l.c.mu.RUnlock()
	// Who is told that it is denied has been told to forget.
	for _, path := range cached {
		l.invalidateLocked(path, nil, out)
	}
	for _, path := range subscribed {
		l.rejudgeLocked(path, out)
	}
}

// rejudgeLocked looks at the rights of a path's subscribers again.
func (l *leader) rejudgeLocked(path string, out *outgoing) {
	subs := l.subs[path]
	if len(subs) == 0 {
		return
	}
	l.c.mu.RLock()
	defer l.c.mu.RUnlock()
	for _, u := range subs {
		if l.judgeLocked(u) {
			l.tellLocked(u.s, out)
		}
	}
}

// denials are the events that tell of subscriptions that are denied, as many as an answer carries.
func (b *outbox) denials() (list []*lockpb.Event) {
	room := maxDues
	for _, u := range b.subs {
		if !u.denied || u.told || !u.asks() {
			continue
		}
		if room <= 0 {
			return list
		}
		room -= len(u.path)
		u.told = true
		list = append(list, &lockpb.Event{Kind: lockpb.EventKind_EVENTS_DENIED, Path: u.path, Instance: u.instance})
	}
	b.untold = false
	return list
}
