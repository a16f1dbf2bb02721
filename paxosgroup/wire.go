package paxosgroup

import (
	"bytes"
	"encoding/binary"
	"errors"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/storage"
	"github.com/spandb/spand/truetime"
	pb "go.etcd.io/raft/v3/raftpb"
)

// Every frame starts with the format version, the kind, the cluster's hash, the
// sender's node and incarnation, the receiver's node. Anything that does not
// match is dropped and counted: a frame is never trusted because it arrived.
const frameVersion = 1

type frameKind byte

const (
	framePing  frameKind = 1
	framePong  frameKind = 2
	frameRaft  frameKind = 3
	frameSnap  frameKind = 4 // snapshot data, leader to follower
	frameSnack frameKind = 5 // its acknowledgement
)

type frameHeader struct {
	kind     frameKind
	cluster  uint64
	from, to keys.NodeID
	inc      uint64 // the sender's incarnation
}

var errFrame = errors.New("paxosgroup: malformed frame")

func (h frameHeader) append(b []byte) []byte {
	b = append(b, frameVersion, byte(h.kind))
	b = binary.BigEndian.AppendUint64(b, h.cluster)
	b = binary.AppendUvarint(b, uint64(h.from))
	b = binary.AppendUvarint(b, uint64(h.to))
	return binary.AppendUvarint(b, h.inc)
}

func decodeHeader(frame []byte) (frameHeader, reader, error) {
	r := reader{b: frame}
	if r.byte() != frameVersion {
		return frameHeader{}, r, errFrame
	}
	h := frameHeader{kind: frameKind(r.byte())}
	h.cluster = r.u64()
	h.from, h.to = r.node(), r.node()
	h.inc = r.uvarint()
	if r.bad {
		return h, r, errFrame
	}
	return h, r, nil
}

func (r *reader) node() keys.NodeID {
	v := r.uvarint()
	if v > uint64(^keys.NodeID(0)) {
		r.fail()
		return 0
	}
	return keys.NodeID(v)
}

func (r *reader) interval() truetime.Interval {
	return truetime.Interval{Earliest: r.ts(), Latest: r.ts()}
}

func appendInterval(b []byte, iv truetime.Interval) []byte {
	b = binary.AppendUvarint(b, uint64(iv.Earliest))
	return binary.AppendUvarint(b, uint64(iv.Latest))
}

// noteKind of an entry in a ping about one group that the sender leads or led.
type noteKind byte

const (
	// noteActive is in every ping while the group is active: until is a closed
	// timestamp (0: none), usable once index is applied.
	noteActive noteKind = 1
	// noteQuiesce: nothing happens behind index, which is committed; from now on
	// the ping's own closed timestamp is the group's, until a ping lists it again.
	noteQuiesce noteKind = 2
	// noteResign: the sender no longer leads the group in term and promises
	// nothing beyond until.
	noteResign noteKind = 3
)

type note struct {
	kind        noteKind
	group       keys.GroupID
	replica     keys.ReplicaID // the receiver's
	term, index uint64
	until       truetime.Timestamp
}

// ping is a node's heartbeat to another, for all groups between them.
type ping struct {
	seq      uint64
	interval truetime.Interval
	closed   truetime.Timestamp // closed for every quiesced group
	draining bool
	notes    []note
}

func (p *ping) append(b []byte) []byte {
	b = binary.AppendUvarint(b, p.seq)
	b = appendInterval(b, p.interval)
	b = binary.AppendUvarint(b, uint64(p.closed))
	d := byte(0)
	if p.draining {
		d = 1
	}
	b = append(b, d)
	b = binary.AppendUvarint(b, uint64(len(p.notes)))
	for i := range p.notes {
		n := &p.notes[i]
		b = append(b, byte(n.kind))
		b = binary.AppendUvarint(b, uint64(n.group))
		b = binary.AppendUvarint(b, uint64(n.replica))
		b = binary.AppendUvarint(b, n.term)
		b = binary.AppendUvarint(b, n.index)
		b = binary.AppendUvarint(b, uint64(n.until))
	}
	return b
}

func decodePing(r reader) (p ping, err error) {
	p.seq = r.uvarint()
	p.interval = r.interval()
	p.closed = r.ts()
	p.draining = r.byte() == 1
	n := r.uvarint()
	if n > uint64(len(r.b)/6) { // a note takes six bytes at least
		return p, errFrame
	}
	p.notes = make([]note, n)
	for i := range p.notes {
		p.notes[i] = note{
			kind:    noteKind(r.byte()),
			group:   keys.GroupID(r.uvarint()),
			replica: keys.ReplicaID(r.uvarint()),
			term:    r.uvarint(),
			index:   r.uvarint(),
			until:   r.ts(),
		}
	}
	if r.bad || len(r.b) != 0 {
		return p, errFrame
	}
	return p, nil
}

// pong answers a ping with a lease promise (see lease.go).
type pong struct {
	seq      uint64 // the ping's
	inc      uint64 // of the pinging node, as the ping had it: no answer to an earlier life counts
	interval truetime.Interval
	epoch    uint64             // the promise's epoch
	until    truetime.Timestamp // 0: no promise
	wake     []keys.GroupID     // groups whose quiescence the receiver of the ping cannot follow
}

func (p *pong) append(b []byte) []byte {
	b = binary.AppendUvarint(b, p.seq)
	b = binary.AppendUvarint(b, p.inc)
	b = appendInterval(b, p.interval)
	b = binary.AppendUvarint(b, p.epoch)
	b = binary.AppendUvarint(b, uint64(p.until))
	b = binary.AppendUvarint(b, uint64(len(p.wake)))
	for _, g := range p.wake {
		b = binary.AppendUvarint(b, uint64(g))
	}
	return b
}

func decodePong(r reader) (p pong, err error) {
	p.seq, p.inc = r.uvarint(), r.uvarint()
	p.interval = r.interval()
	p.epoch = r.uvarint()
	p.until = r.ts()
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		return p, errFrame
	}
	for range n {
		p.wake = append(p.wake, keys.GroupID(r.uvarint()))
	}
	if r.bad || len(r.b) != 0 {
		return p, errFrame
	}
	return p, nil
}

// inbound is a Raft message from another node. stamp is the sender's promise
// epoch towards us when the message attests that it follows us in the message's
// term, else 0.
type inbound struct {
	m     *pb.Message
	node  keys.NodeID
	inc   uint64
	stamp uint64
}

type msgBox struct {
	m                                            pb.Message
	typ                                          pb.MessageType
	to, from, term, logTerm, index, commit, hint uint64
	reject                                       bool
}

// appendMessage appends one Raft message, length first, to a frame.
func appendMessage(b []byte, g keys.GroupID, stamp uint64, m *pb.Message) []byte {
	start := len(b)
	b = append(b, 0, 0, 0, 0)
	b = binary.AppendUvarint(b, uint64(g))
	b = binary.AppendUvarint(b, m.GetTo())
	b = binary.AppendUvarint(b, m.GetFrom())
	b = binary.AppendUvarint(b, stamp)
	rej := byte(0)
	if m.GetReject() {
		rej = 1
	}
	b = append(b, byte(m.GetType()), rej)
	b = binary.AppendUvarint(b, m.GetTerm())
	b = binary.AppendUvarint(b, m.GetLogTerm())
	b = binary.AppendUvarint(b, m.GetIndex())
	b = binary.AppendUvarint(b, m.GetCommit())
	b = binary.AppendUvarint(b, m.GetRejectHint())
	b = appendBytes(b, m.Context)
	b = binary.AppendUvarint(b, uint64(len(m.Entries)))
	for _, e := range m.Entries {
		b = append(b, byte(e.GetType()))
		b = binary.AppendUvarint(b, e.GetTerm())
		b = binary.AppendUvarint(b, e.GetIndex())
		b = appendBytes(b, e.Data)
	}
	binary.BigEndian.PutUint32(b[start:], uint32(len(b)-start-4))
	return b
}

// nextMessage takes the next message off a Raft frame. What it returns does not
// alias the frame.
func nextMessage(r *reader) (g keys.GroupID, stamp uint64, m *pb.Message, err error) {
	if len(r.b) < 4 {
		return 0, 0, nil, errFrame
	}
	n := binary.BigEndian.Uint32(r.b)
	if uint64(n) > uint64(len(r.b)-4) {
		return 0, 0, nil, errFrame
	}
	// One copy for everything the message keeps: entries live on in the tail.
	in := reader{b: bytes.Clone(r.b[4 : 4+n])}
	r.b = r.b[4+n:]
	box := new(msgBox)
	g = keys.GroupID(in.uvarint())
	box.to, box.from = in.uvarint(), in.uvarint()
	stamp = in.uvarint()
	box.typ = pb.MessageType(in.byte())
	box.reject = in.byte() == 1
	box.term, box.logTerm, box.index = in.uvarint(), in.uvarint(), in.uvarint()
	box.commit, box.hint = in.uvarint(), in.uvarint()
	ctx := in.bytes()
	count := in.uvarint()
	if in.bad || count > uint64(len(in.b)/4) {
		return 0, 0, nil, errFrame
	}
	m = &box.m
	m.Type, m.To, m.From, m.Term = &box.typ, &box.to, &box.from, &box.term
	m.LogTerm, m.Index, m.Commit = &box.logTerm, &box.index, &box.commit
	m.Reject, m.RejectHint = &box.reject, &box.hint
	if len(ctx) > 0 {
		m.Context = ctx
	}
	if count > 0 {
		boxes := make([]entBox, count)
		m.Entries = make([]*pb.Entry, count)
		for i := range boxes {
			typ := pb.EntryType(in.byte())
			term, index := in.uvarint(), in.uvarint()
			m.Entries[i] = boxes[i].set(typ, term, index, in.bytes())
		}
	}
	if in.bad || len(in.b) != 0 || !wellFormed(m) {
		return 0, 0, nil, errFrame
	}
	return g, stamp, m, nil
}

// wellFormed refuses what Raft would panic on, or what no peer may send.
func wellFormed(m *pb.Message) bool {
	switch m.GetType() {
	case pb.MsgApp, pb.MsgAppResp, pb.MsgVote, pb.MsgVoteResp, pb.MsgHeartbeat, pb.MsgHeartbeatResp,
		pb.MsgPreVote, pb.MsgPreVoteResp, pb.MsgTimeoutNow:
	default: // local messages, forwarded proposals, MsgSnap (has a class of its own)
		return false
	}
	if m.GetTerm() == 0 || m.GetFrom() == 0 || m.GetTo() == 0 {
		return false
	}
	if m.GetType() != pb.MsgApp {
		return len(m.Entries) == 0
	}
	prev, prevTerm := m.GetIndex(), m.GetLogTerm()
	for _, e := range m.Entries {
		if e.GetIndex() != prev+1 || e.GetTerm() < prevTerm || e.GetTerm() > m.GetTerm() ||
			e.GetType() > pb.EntryConfChangeV2 || len(e.Data) > MaxCommand+maxEntryHeader {
			return false
		}
		prev, prevTerm = e.GetIndex(), e.GetTerm()
	}
	return true
}

// toStorage and fromStorage convert entries between Raft and the node's log.
func toStorage(es []*pb.Entry) []storage.Entry {
	if len(es) == 0 {
		return nil
	}
	out := make([]storage.Entry, len(es))
	for i, e := range es {
		out[i] = storage.Entry{Index: e.GetIndex(), Term: e.GetTerm(), Type: uint8(e.GetType()), Data: e.Data}
	}
	return out
}

func fromStorage(es []storage.Entry) []*pb.Entry {
	boxes := make([]entBox, len(es))
	out := make([]*pb.Entry, len(es))
	for i, e := range es {
		out[i] = boxes[i].set(pb.EntryType(e.Type), e.Term, e.Index, e.Data)
	}
	return out
}
