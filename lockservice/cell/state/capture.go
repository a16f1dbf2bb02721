package state

import (
	"container/heap"
	"encoding/binary"
	"hash/crc32"
	"unique"
)

// A state is its version, then in this order: counters, sessions with what no other part
// says of them, the tree with who holds ephemeral nodes open, locks with their holds, and what is
// remembered of the past; last a CRC32C over all of it (D1). What follows from something
// else is not stored: what directories use, generations of holds, chains of events.

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Encode returns the state's canonical encoding: equal states have equal ones. With 100,000 sessions, as
// many files and locks, and all events it remembers, it takes some 45 ms of a processor (BenchmarkEncode), nearly all of it
// spent on fetching what lies scattered in memory: it is not made much cheaper by encoding otherwise.
// That would take encodings of parts kept from one capture to the next, or nodes and
// sessions that are replaced rather than changed.
func (s *State) Encode() []byte {
	b := make([]byte, 0, 4096+48*(len(s.nodes)+s.held)+64*s.sessions.Len()+64*s.events.list.len()+64*s.history.list.len())
	b = append(b, stateVersion)
	b = appendString(b, s.cell)
	for _, v := range []uint64{s.index, s.revision, s.instances, s.contents, s.generations, s.holdNumbers, uint64(s.leaseFactor)} {
		b = binary.AppendUvarint(b, v)
	}
	b = appendTS(b, s.at)
	b = s.appendSessions(b)
	b = s.appendNode(b, s.rootNode)
	b = s.appendLocks(b)
	b = s.departed.append(b)
	b = s.events.append(b)
	b = s.history.append(b)
	b = binary.AppendUvarint(b, uint64(s.cells.Len()))
	s.cells.Scan(func(_ string, c Cell) bool {
		b = appendCell(b, &c)
		return true
	})
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// Decode restores a state from what Encode wrote and refuses everything else.
func Decode(b []byte) (*State, error) {
	if len(b) == 0 {
		return nil, errMalformed
	}
	if b[0] > stateVersion {
		return nil, errNewer
	}
	body := len(b) - 4
	if body < 0 || binary.BigEndian.Uint32(b[body:]) != crc32.Checksum(b[:body], castagnoli) {
		return nil, errMalformed
	}
	d := &decoder{b: b[:body]}
	d.version(stateVersion)
	cell := d.string()
	d.require(validCell(cell))
	s := empty(cell)
	for _, v := range []*uint64{&s.index, &s.revision, &s.instances, &s.contents, &s.generations, &s.holdNumbers} {
		*v = d.uvarint()
	}
	s.leaseFactor = d.u32()
	s.at = d.ts()
	d.require(s.leaseFactor >= 1 && s.leaseFactor <= MaxLeaseFactor)
	d.sessions(s)
	s.rootNode = d.node(s, nil, s.root)
	s.aclNode = s.nodes[s.root+"/acl"]
	d.require(s.rootNode != nil && s.rootNode.dir != nil && s.rootNode.eph == nil)
	d.require(s.aclNode != nil && s.aclNode.dir != nil && s.aclNode.eph == nil)
	d.locks(s)
	d.departed(s)
	d.events(s)
	d.forgotten(s)
	d.history(s)
	d.cells(s)
	if err := d.done(); err != nil {
		return nil, err
	}
	return s, nil
}

const (
	sCaches    = 0x01
	sPrincipal = 0x02 // other than the session's before
	sClient    = 0x04 // same
	sAnswers   = 0x08
	sCancelled = 0x10
	sKnown     = 0x1f
)

func (s *State) appendSessions(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(s.sessions.Len()))
	last := &session{principal: unique.Make("")}
	s.sessions.Scan(func(id SessionID, sess *session) bool {
		var head byte
		if sess.caches {
			head |= sCaches
		}
		if sess.principal != last.principal {
			head |= sPrincipal
		}
		if sess.client != last.client {
			head |= sClient
		}
		if sess.things != nil && (sess.answered != 0 || sess.forgotten != 0 || len(sess.answers) > 0) {
			head |= sAnswers
		}
		if sess.things != nil && len(sess.cancelled) > 0 {
			head |= sCancelled
		}
		b = append(b, head)
		b = binary.AppendUvarint(b, uint64(id-last.id))
		if head&sPrincipal != 0 {
			b = appendString(b, sess.principal.Value())
		}
		if head&sClient != 0 {
			b = appendString(b, sess.client)
		}
		b = binary.AppendUvarint(b, uint64(sess.ttl))
		b = appendTS(b, sess.created)
		if head&sAnswers != 0 {
			b = sess.appendAnswers(b)
		}
		if head&sCancelled != 0 {
			b = binary.AppendUvarint(b, uint64(len(sess.cancelled)))
			for _, c := range sess.cancelled {
				b = binary.AppendUvarint(b, uint64(c.handle))
				b = binary.AppendUvarint(b, c.attempt)
				b = binary.AppendUvarint(b, c.index)
			}
		}
		last = sess
		return true
	})
	return b
}

func (d *decoder) sessions(s *State) {
	last := session{principal: unique.Make("")}
	for n := d.count(11); n > 0 && d.err == nil; n-- {
		head := d.u8()
		d.require(head&^sKnown == 0)
		sess := &session{caches: head&sCaches != 0, principal: last.principal, client: last.client}
		sess.id = last.id + SessionID(d.uvarint())
		d.require(sess.id > last.id)
		if head&sPrincipal != 0 {
			sess.principal = unique.Make(d.string())
			d.require(sess.principal != last.principal)
		}
		if head&sClient != 0 {
			sess.client = d.string()
			d.require(sess.client != last.client && len(sess.client) <= MaxClient)
		}
		sess.ttl = int64(d.uvarint())
		d.require(sess.ttl >= MinTTL && sess.ttl <= MaxTTL)
		sess.created = d.ts()
		if head&sAnswers != 0 {
			d.answers(sess.have())
		}
		if head&sCancelled != 0 {
			d.cancelled(sess.have())
		}
		if d.err == nil {
			s.sessions.Load(sess.id, sess)
			last = *sess
		}
	}
}

func (d *decoder) cancelled(t *things) {
	n := d.count(2)
	d.require(n > 0 && n <= maxCancelled)
	for i := 0; i < n && d.err == nil; i++ {
		c := cancelled{handle: HandleID(d.uvarint()), attempt: d.nonzero()}
		if d.v > 1 {
			c.index = d.uvarint()
		}
		d.require(i == 0 || c.handle > t.cancelled[i-1].handle)
		t.cancelled = append(t.cancelled, c)
	}
}

const (
	aCreated = 0x01
	aError   = 0x02
	aNode    = 0x04 // what is said of a node
)

func (t *things) appendAnswers(b []byte) []byte {
	b = binary.AppendUvarint(b, t.answered)
	b = binary.AppendUvarint(b, t.forgotten)
	b = binary.AppendUvarint(b, uint64(len(t.answers)))
	for i := range t.answers {
		w := &t.answers[i]
		var head byte
		if w.created {
			head |= aCreated
		}
		if w.err != nil {
			head |= aError
		}
		if w.instance != 0 {
			head |= aNode
		}
		b = append(b, head, byte(w.kind))
		b = binary.AppendUvarint(b, w.number)
		b = binary.AppendUvarint(b, w.index)
		if w.err != nil {
			b = appendString(b, w.err.Reason)
			b = appendString(b, w.err.Path)
			b = appendString(b, w.err.Message)
			b = appendTS(b, w.err.Until)
		}
		if w.instance != 0 {
			b = binary.AppendUvarint(b, w.instance)
			b = binary.AppendUvarint(b, w.generation)
			b = binary.AppendUvarint(b, w.revision)
			b = appendTS(b, w.modified)
		}
	}
	return b
}

func (d *decoder) answers(t *things) {
	t.answered = d.uvarint()
	if d.v > 1 {
		t.forgotten = d.uvarint()
	}
	n := d.count(3)
	d.require(n <= maxAnswers && (n > 0 || t.answered > 0 || t.forgotten > 0))
	for i := 0; i < n && d.err == nil; i++ {
		head := d.u8()
		w := answer{kind: Kind(d.u8()), number: d.nonzero(), created: head&aCreated != 0}
		if d.v > 1 {
			w.index = d.uvarint()
		}
		d.require(head&^(aCreated|aError|aNode) == 0 && w.number >= t.answered)
		d.require(i == 0 || w.number > t.answers[i-1].number)
		if head&aError != 0 {
			w.err = &Error{Reason: d.string(), Path: d.string(), Message: d.string(), Until: d.ts()}
		}
		if head&aNode != 0 {
			w.instance, w.generation, w.revision, w.modified = d.nonzero(), d.uvarint(), d.uvarint(), d.ts()
		}
		t.answers = append(t.answers, w)
	}
}

const (
	nDir       = 0x01
	nEphemeral = 0x02
	nACL       = 0x04 // other than the directory's that the node is in
	nContents  = 0x08
	nQuota     = 0x10
	nForgotten = 0x20
	nKnown     = 0x3f
)

func (s *State) appendNode(b []byte, n *node) []byte {
	var head byte
	if n.dir != nil {
		head |= nDir
		if n.dir.quota != (Quota{}) {
			head |= nQuota
		}
	}
	if n.eph != nil {
		head |= nEphemeral
	}
	if n.parent == nil || n.acl != n.parent.acl && *n.acl != *n.parent.acl {
		head |= nACL
	}
	if n.contents != 0 {
		head |= nContents
	}
	if n.forgotten != 0 {
		head |= nForgotten
	}
	b = append(b, head)
	for _, v := range []uint64{n.instance, n.lockGen, n.aclGen, n.revision} {
		b = binary.AppendUvarint(b, v)
	}
	b = appendTS(b, n.modified)
	if head&nForgotten != 0 {
		b = binary.AppendUvarint(b, n.forgotten)
	}
	if head&nACL != 0 {
		b = appendACL(b, n.acl)
	}
	if n.eph != nil {
		b = binary.AppendUvarint(b, uint64(len(n.eph.openers)))
		for _, o := range n.eph.openers {
			b = binary.AppendUvarint(b, uint64(o.session))
			b = binary.AppendUvarint(b, uint64(o.handle))
		}
	}
	if n.dir == nil {
		return n.appendFile(b)
	}
	if head&nQuota != 0 {
		b = appendQuota(b, n.dir.quota)
	}
	b = binary.AppendUvarint(b, uint64(n.dir.children.Len()))
	n.dir.children.Scan(func(name string, c *node) bool {
		b = appendString(b, name)
		b = s.appendNode(b, c)
		return true
	})
	return b
}

func (n *node) appendFile(b []byte) []byte {
	b = binary.AppendUvarint(b, n.contentGen)
	if n.contents != 0 {
		b = binary.AppendUvarint(b, n.contents)
		b = binary.AppendUvarint(b, n.length)
		b = binary.BigEndian.AppendUint64(b, n.checksum)
	}
	if n.members != nil {
		b = binary.AppendUvarint(b, uint64(len(n.members.names)))
		for _, name := range n.members.names {
			b = appendString(b, name)
		}
	}
	return b
}

// node reads the node at path and all below it, and enters them; nil after an error.
// Recursion is as deep as paths have components.
func (d *decoder) node(s *State, parent *node, path string) *node {
	head := d.u8()
	d.require(head&^nKnown == 0 && len(path) <= maxPath && (head&nForgotten == 0 || d.v > 1))
	n := &node{path: path, parent: parent}
	n.instance, n.lockGen, n.aclGen, n.revision = d.nonzero(), d.uvarint(), d.nonzero(), d.uvarint()
	n.modified = d.ts()
	if head&nForgotten != 0 {
		n.forgotten = d.nonzero()
	}
	d.require(n.instance <= s.instances && n.lockGen <= s.generations && n.revision <= s.revision)
	if head&nACL != 0 {
		acl := d.acl()
		n.acl = &acl
		d.require(parent == nil || acl != *parent.acl)
	} else if parent != nil {
		n.acl = parent.acl
	}
	d.require(n.acl != nil)
	if head&nEphemeral != 0 {
		n.eph = &ephemeral{}
	}
	d.require(parent == nil || parent.eph == nil || n.eph != nil)
	if d.err != nil {
		return nil
	}
	s.link(n)
	if n.eph != nil {
		d.openers(s, n)
	}
	if head&nDir == 0 {
		d.file(s, n, head&nContents != 0)
		d.require(head&nQuota == 0)
	} else {
		n.dir = &directory{}
		d.require(head&nContents == 0)
		d.directory(s, n, head&nQuota != 0)
	}
	if parent != nil {
		s.charge(parent, int64(n.length), 1)
	}
	if d.err != nil {
		return nil
	}
	return n
}

func (d *decoder) openers(s *State, n *node) {
	count := d.count(2)
	for i := 0; i < count && d.err == nil; i++ {
		o := opener{SessionID(d.uvarint()), HandleID(d.uvarint())}
		sess, ok := s.sessions.Get(o.session)
		d.require(ok && (i == 0 || compareOpener(n.eph.openers[i-1], o) < 0))
		if d.err == nil {
			n.eph.openers = append(n.eph.openers, o)
			sess.noteOpen(n, o.handle)
		}
	}
}

func (d *decoder) directory(s *State, n *node, quota bool) {
	if quota {
		n.dir.quota = d.quota()
		d.require(n.dir.quota != Quota{})
	}
	last := ""
	for c := d.count(14); c > 0 && d.err == nil; c-- {
		name := d.string()
		d.require(validName(name) && name > last)
		if d.err == nil {
			d.node(s, n, n.path+"/"+name)
		}
		last = name
	}
}

func (d *decoder) file(s *State, n *node, contents bool) {
	n.contentGen = d.nonzero()
	if contents {
		n.contents, n.length = d.nonzero(), d.nonzero()
		if sum := d.raw(8); sum != nil {
			n.checksum = binary.BigEndian.Uint64(sum)
		}
		d.require(n.contents <= s.contents && n.length <= MaxContents)
	}
	if n.parent == nil || n.parent.path != s.root+"/acl" {
		return
	}
	n.members = &members{}
	last := ""
	for c := d.count(2); c > 0 && d.err == nil; c-- {
		name := d.string()
		d.require(name > last)
		n.members.names = append(n.members.names, name)
		last = name
	}
}

const (
	lDelayed = 0x01
	lShared  = 0x02
	lHeld    = 0x04
	lKnown   = 0x07
)

func (s *State) appendLocks(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(s.locks.Len()))
	s.locks.Scan(func(path string, l *lock) bool {
		var head byte
		if l.until != 0 {
			head |= lDelayed
		}
		if len(l.holds) > 0 {
			head |= lHeld
			if l.holds[0].Mode == Shared {
				head |= lShared
			}
		}
		b = append(b, head)
		b = appendString(b, path)
		if l.until != 0 {
			b = appendTS(b, l.until)
		}
		if len(l.holds) == 0 {
			return true
		}
		b = binary.AppendUvarint(b, uint64(len(l.holds)))
		for _, h := range l.holds {
			for _, v := range []uint64{uint64(h.Session), uint64(h.Handle), h.Number, h.Attempt, uint64(h.Delay)} {
				b = binary.AppendUvarint(b, v)
			}
			b = appendTS(b, h.Since)
		}
		return true
	})
	return b
}

func (d *decoder) locks(s *State) {
	last := ""
	for c := d.count(2); c > 0 && d.err == nil; c-- {
		head := d.u8()
		path := d.string()
		d.require(head&^lKnown == 0 && head&(lDelayed|lHeld) != 0 && path > last)
		d.require(head&lHeld != 0 || head&lShared == 0)
		last = path
		l := &lock{}
		if head&lDelayed != 0 {
			l.until = d.ts()
			d.require(l.until > 0 && len(path) <= maxPath)
		}
		if d.err != nil {
			return
		}
		if head&lHeld != 0 {
			d.holds(s, l, path, head&lShared != 0)
		}
		if l.until != 0 {
			heap.Push(&s.delays, delayed{l.until, path})
		}
		s.locks.Load(path, l)
	}
}

func (d *decoder) holds(s *State, l *lock, path string, shared bool) {
	n := s.nodes[path]
	count := d.count(13)
	d.require(n != nil && n.lockGen != 0 && count > 0 && (shared || count == 1)) // L1
	for ; count > 0 && d.err == nil; count-- {
		h := &Hold{Path: n.path, Instance: n.instance, Mode: Exclusive, Generation: n.lockGen}
		if shared {
			h.Mode = Shared
		}
		h.Session, h.Handle = SessionID(d.uvarint()), HandleID(d.uvarint())
		h.Number, h.Attempt, h.Delay = d.nonzero(), d.uvarint(), int64(d.uvarint())
		h.Since = d.ts()
		sess, ok := s.sessions.Get(h.Session)
		d.require(ok && h.Number <= s.holdNumbers && h.Delay >= 0 && h.Delay <= MaxLockDelay)
		d.require(len(l.holds) == 0 || compareHold(l.holds[len(l.holds)-1], opener{h.Session, h.Handle}) < 0)
		if d.err == nil {
			s.enter(sess, l, h)
		}
	}
}
