package state

import "encoding/binary"

// What a state encodes of its past, and of the other cells.

func (p *departed) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(p.list.len()))
	for i := range p.list.len() {
		b = binary.AppendUvarint(b, uint64(p.list.at(i).id))
		b = appendTS(b, p.list.at(i).at)
	}
	return b
}

func (d *decoder) departed(s *State) {
	n := d.count(9)
	d.require(n <= maxDeparted)
	for ; n > 0 && d.err == nil; n-- {
		id, at := SessionID(d.uvarint()), d.ts()
		_, open := s.sessions.Get(id)
		d.require(!open && !s.departed.has(id))
		s.departed.add(id, at)
	}
}

// samePath marks the first byte of a record about the path of the one before.
const samePath = 0x80

func (l *eventLog) append(b []byte) []byte {
	b = binary.AppendUvarint(b, l.forgotten)
	b = binary.AppendUvarint(b, uint64(l.list.len()))
	revision, path := l.forgotten, ""
	for i := range l.list.len() {
		e := &l.list.at(i).Event
		head := byte(e.Kind)
		if e.Path == path {
			head |= samePath
		}
		b = append(b, head)
		b = binary.AppendUvarint(b, e.Revision-revision)
		if head&samePath == 0 {
			b = appendString(b, e.Path)
		}
		if e.Kind.ofChild() {
			b = appendString(b, e.Child)
		}
		b = binary.AppendUvarint(b, e.Instance)
		b = binary.AppendUvarint(b, e.Generation)
		if e.Kind.OfContents() {
			b = appendString(b, e.Readers)
		}
		revision, path = e.Revision, e.Path
	}
	return b
}

func (k EventKind) ofChild() bool { return k == ChildAdded || k == ChildRemoved || k == ChildModified }

func (k EventKind) known() bool {
	return k.ofChild() || k == ContentsChanged || k == HandleInvalid || k == LockAcquired
}

func (d *decoder) events(s *State) {
	s.events.forgotten = d.uvarint()
	n := d.count(4)
	d.require(n <= maxEvents)
	last := Event{Revision: s.events.forgotten}
	for ; n > 0 && d.err == nil; n-- {
		head := d.u8()
		e := Event{Kind: EventKind(head &^ samePath), Path: last.Path}
		delta := d.uvarint()
		e.Revision = last.Revision + delta
		d.require(e.Revision > last.Revision && e.Revision <= s.revision)
		if head&samePath == 0 {
			e.Path = d.string()
			d.require(e.Path != last.Path)
		}
		d.require(e.Path != "" && e.Kind.known())
		if e.Kind.ofChild() {
			e.Child = d.string()
		}
		e.Instance, e.Generation = d.uvarint(), d.uvarint()
		if d.v > 2 && e.Kind.OfContents() {
			e.Readers = d.string()
		}
		if d.err == nil {
			s.events.add(e)
		}
		last = e
	}
	d.require(s.events.forgotten <= s.revision)
}

// forgotten checks, or for a state that does not say it assumes, what nodes say of forgotten events.
func (d *decoder) forgotten(s *State) {
	for _, n := range s.nodes {
		if d.v == 1 {
			n.forgotten = s.events.forgotten
		}
		d.require(n.forgotten <= s.events.forgotten)
	}
}

func (h *history) append(b []byte) []byte {
	b = binary.AppendUvarint(b, h.entries)
	b = binary.AppendUvarint(b, uint64(h.list.len()))
	path := ""
	for i := range h.list.len() {
		e := *h.list.at(i)
		head := byte(e.Cause)<<2 | byte(e.Mode)
		if e.Path == path {
			head |= samePath
		}
		path = e.Path
		b = append(b, head)
		if head&samePath == 0 {
			b = appendString(b, e.Path)
		}
		for _, v := range []uint64{e.Instance, uint64(e.Session), uint64(e.Handle), e.Generation, e.Number, e.Attempt, uint64(e.Delay)} {
			b = binary.AppendUvarint(b, v)
		}
		b = appendTS(b, e.Since)
		b = appendTS(b, e.Until)
		b = appendString(b, e.Client)
	}
	return b
}

func (d *decoder) history(s *State) {
	entries := d.uvarint()
	n := d.count(25)
	d.require(n <= maxHistory && uint64(n) <= entries)
	s.history.entries = entries - uint64(n)
	path := ""
	for ; n > 0 && d.err == nil; n-- {
		head := d.u8()
		e := &Ended{Cause: Cause(head &^ samePath >> 2)}
		e.Mode = Mode(head & 3)
		e.Path = path
		if head&samePath == 0 {
			e.Path = d.string()
			d.require(e.Path != path)
		}
		path = e.Path
		e.Instance, e.Session, e.Handle = d.uvarint(), SessionID(d.uvarint()), HandleID(d.uvarint())
		e.Generation, e.Number, e.Attempt, e.Delay = d.uvarint(), d.uvarint(), d.uvarint(), int64(d.uvarint())
		e.Since, e.Until = d.ts(), d.ts()
		e.Client = d.string()
		if d.err == nil {
			s.history.add(e)
		}
	}
}

func (d *decoder) cells(s *State) {
	n := d.count(3)
	d.require(n == 0 || s.cell == FirstCell)
	last := ""
	for ; n > 0 && d.err == nil; n-- {
		c := d.cell()
		d.require(validCell(c.Name) && c.Name > last)
		s.cells.Set(c.Name, c)
		last = c.Name
	}
}
