package state

import (
	"cmp"
	"slices"
	"unique"

	"github.com/spandb/spand/truetime"
)

// session is kept small: most of a cell's many sessions hold little.
type session struct {
	id        SessionID
	principal unique.Handle[string]
	client    string
	ttl       int64
	created   truetime.Timestamp
	caches    bool
	*things   // nil: none
}

// things are what a session has, if it has any.
type things struct {
	holds     []*Hold     // by path and handle
	opens     []open      // by path and handle
	answers   []answer    // by number, see requests.go
	answered  uint64      // the session has the answers to requests below
	forgotten uint64      // requests below that are not remembered are refused, 0: none
	cancelled []cancelled // by handle
}

// open is an ephemeral node that a handle of a session holds open.
type open struct {
	node   *node
	handle HandleID
}

type opener struct {
	session SessionID
	handle  HandleID
}

// cancelled says that acquires of a handle up to an attempt come too late.
type cancelled struct {
	handle  HandleID
	attempt uint64
	index   uint64 // of the command
}

// everyAttempt is cancelled by Close.
const everyAttempt = ^uint64(0)

// maxCancelled bounds how many handles of a session are remembered for their cancelled
// acquires. Closed ones are forgotten first, which nobody asks for anything through any more, then
// those whose last one was cancelled longest ago; never the one that is cancelled now.
const maxCancelled = 256

func (s *session) have() *things {
	if s.things == nil {
		s.things = &things{}
	}
	return s.things
}

func compareOpener(a, b opener) int {
	return cmp.Or(cmp.Compare(a.session, b.session), cmp.Compare(a.handle, b.handle))
}

func compareOpen(a, b open) int {
	return cmp.Or(cmp.Compare(a.node.path, b.node.path), cmp.Compare(a.handle, b.handle))
}

// holdOpen notes that a handle holds an ephemeral node open.
func holdOpen(n *node, s *session, h HandleID) {
	o := opener{s.id, h}
	i, there := slices.BinarySearchFunc(n.eph.openers, o, compareOpener)
	if there {
		return
	}
	n.eph.openers = slices.Insert(n.eph.openers, i, o)
	s.noteOpen(n, h)
}

func (s *session) noteOpen(n *node, h HandleID) {
	t := s.have()
	i, _ := slices.BinarySearchFunc(t.opens, open{n, h}, compareOpen)
	t.opens = slices.Insert(t.opens, i, open{n, h})
}

// forgetOpen removes the session's note only.
func (s *session) forgetOpen(n *node, h HandleID) {
	if s.things == nil {
		return
	}
	if i, there := slices.BinarySearchFunc(s.opens, open{n, h}, compareOpen); there {
		s.opens = slices.Delete(s.opens, i, i+1)
	}
}

func (n *node) forgetOpener(s SessionID, h HandleID) bool {
	if n.eph == nil {
		return false
	}
	i, there := slices.BinarySearchFunc(n.eph.openers, opener{s, h}, compareOpener)
	if there {
		n.eph.openers = slices.Delete(n.eph.openers, i, i+1)
	}
	return there
}

// cancel notes that acquires of a handle up to attempt have been given up, by the command at index.
func (s *session) cancel(h HandleID, attempt, index uint64) {
	t := s.have()
	i, there := slices.BinarySearchFunc(t.cancelled, h, func(c cancelled, h HandleID) int { return cmp.Compare(c.handle, h) })
	if there {
		c := &t.cancelled[i]
		c.attempt, c.index = max(c.attempt, attempt), index
		return
	}
	t.cancelled = slices.Insert(t.cancelled, i, cancelled{h, attempt, index})
	if len(t.cancelled) > maxCancelled {
		t.forgetCancelled(i)
	}
}

// forgetCancelled forgets one handle, but not the one at keep.
func (t *things) forgetCancelled(keep int) {
	first := -1
	for i, c := range t.cancelled {
		if i == keep {
			continue
		}
		if first < 0 {
			first = i
			continue
		}
		f := t.cancelled[first]
		if closed := c.attempt == everyAttempt; closed != (f.attempt == everyAttempt) && closed || closed == (f.attempt == everyAttempt) && c.index < f.index {
			first = i
		}
	}
	t.cancelled = slices.Delete(t.cancelled, first, first+1)
}

// closed reports whether a handle has been closed, as far as that is remembered: of up to
// maxCancelled handles. The leader sees to it that a Close comes after the opens of its handle that it
// knows of; this is about those that were on their way between nodes.
func (s *session) closed(h HandleID) bool { return s.cancelledUpTo(h) == everyAttempt }

// cancelledUpTo returns the highest attempt of a handle that has been given up.
func (s *session) cancelledUpTo(h HandleID) uint64 {
	if s.things == nil {
		return 0
	}
	i, there := slices.BinarySearchFunc(s.cancelled, h, func(c cancelled, h HandleID) int { return cmp.Compare(c.handle, h) })
	if !there {
		return 0
	}
	return s.cancelled[i].attempt
}

func (s *session) describe() *Session {
	d := &Session{ID: s.id, Client: s.client, Principal: s.principal.Value(), TTL: s.ttl, Caches: s.caches, Created: s.created}
	if s.things != nil {
		d.Locks = uint32(len(s.holds))
		for i, o := range s.opens {
			if i == 0 || s.opens[i-1].node != o.node {
				d.Ephemerals++
			}
		}
	}
	return d
}

// asking is the session that sent the command, nil if it named none.
func (a *change) asking() (*session, *Error) {
	if a.c.Session == 0 {
		return nil, nil
	}
	s, ok := a.sessions.Get(a.c.Session)
	if !ok {
		return nil, expired(a.c.Session)
	}
	return s, nil
}

func (a *change) createSession() (*Session, *Error) {
	c := a.c
	if s, ok := a.sessions.Get(c.Session); ok {
		if s.principal.Value() != c.Principal {
			return nil, refuse(Permission, "", "session %d is another's", c.Session)
		}
		return s.describe(), nil
	}
	switch {
	case c.Session == 0:
		return nil, refuse(BadRequest, "", "a session has a number other than 0")
	case a.departed.has(c.Session):
		return nil, expired(c.Session)
	case len(c.Client) > MaxClient:
		return nil, refuse(BadRequest, "", "the name of a session's client has at most %d bytes, not %d", MaxClient, len(c.Client))
	case a.sessions.Len() >= MaxSessions:
		return nil, refuse(Overloaded, "", "the cell has %d sessions, which is all that it may have", MaxSessions)
	}
	ttl := c.TTL
	if ttl <= 0 {
		ttl = DefaultTTL
	}
	s := &session{
		id: c.Session, principal: unique.Make(c.Principal), client: c.Client,
		ttl: min(max(ttl, MinTTL), MaxTTL), created: a.ts, caches: c.Caches,
	}
	a.sessions.Set(s.id, s)
	return s.describe(), nil
}

// endSession ends a session with its holds and ephemeral nodes.
func (a *change) endSession() bool {
	s, ok := a.sessions.Delete(a.c.Session)
	if !ok {
		return false
	}
	a.departed.add(s.id, a.ts)
	a.out.Ended = append(a.out.Ended, s.id)
	if s.things == nil {
		return true
	}
	cause := a.cause(Closed)
	for _, h := range s.holds {
		a.endHold(h, s.client, cause)
	}
	for _, h := range s.holds {
		a.reap(h.Path)
	}
	for _, o := range s.opens {
		o.node.forgetOpener(s.id, o.handle)
		a.reap(o.node.path)
	}
	return true
}

// close gives up what a handle has: its hold, and the ephemeral node it holds open.
// Acquires and opens of the handle that are still under way come too late.
func (a *change) close() (bool, *Error) {
	c := a.c
	s, err := a.asking()
	if err != nil || s == nil {
		return false, err
	}
	s.cancel(c.Handle, everyAttempt, a.index)
	ended := a.release(s, Closed)
	if n := a.nodes[c.Path]; n != nil && (c.Instance == 0 || c.Instance == n.instance) && n.forgetOpener(s.id, c.Handle) {
		s.forgetOpen(n, c.Handle)
		ended = true
	}
	a.reap(c.Path)
	return ended, nil
}

// departed are the sessions that ended lately: their ids are not used again.
type departed struct {
	list ring[departure]
	ids  map[SessionID]struct{}
}

type departure struct {
	id SessionID
	at truetime.Timestamp
}

const maxDeparted = 16_384

func (d *departed) has(id SessionID) bool {
	_, ok := d.ids[id]
	return ok
}

func (d *departed) add(id SessionID, at truetime.Timestamp) {
	if d.list.len() == maxDeparted {
		d.drop()
	}
	d.list.push(departure{id, at})
	d.ids[id] = struct{}{}
}

func (d *departed) drop() { delete(d.ids, d.list.pop().id) }

// forget drops what is older than the memory of the cell.
func (d *departed) forget(ts truetime.Timestamp) {
	for d.list.len() > 0 && tooOld(d.list.at(0).at, ts) {
		d.drop()
	}
}
