package paxosgroup

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/storage"
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
)

// Snapshots, the sender's side. Raft decides that a follower needs one; its
// MsgSnap is taken out of the stream and a transfer begins: the machine's state
// captured at one applied index, then the engine's keys of the group's spans,
// read while the group goes on. Versions that are newer than the index do no
// harm: replaying the log behind it writes the same again. Staged chunks can be
// deleted by later commands that read them first, so they are copied with the
// state.
//
// Frames are numbered; the receiver acknowledges the next number it wants, at
// most snapWindow are out, and those not acknowledged in time are sent again.

const (
	snapChunk   = 256 << 10
	snapWindow  = 8
	snapResend  = 500 * time.Millisecond
	maxSenders  = 2
	stageBudget = 64 << 20
)

type snapKind byte

const (
	snapBegin   snapKind = 1
	snapKeys    snapKind = 2
	snapMachine snapKind = 3
	snapEnd     snapKind = 4
)

type snackStatus byte

const (
	snackNext    snackStatus = 1 // send on from seq
	snackDone    snackStatus = 2 // installed, or not needed any more
	snackRefused snackStatus = 3 // not now
	snackNeed    snackStatus = 4 // not an answer: the replica's data is incomplete
)

// snapFrame is one piece of a snapshot.
type snapFrame struct {
	id       uint64 // of the transfer, unique per sending host and life
	group    keys.GroupID
	to, from keys.ReplicaID
	term     uint64 // Raft's, of the sender
	seq      uint64 // from 0
	kind     snapKind
	payload  []byte
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (f *snapFrame) append(b []byte) []byte {
	start := len(b)
	for _, v := range []uint64{f.id, uint64(f.group), uint64(f.to), uint64(f.from), f.term, f.seq} {
		b = binary.AppendUvarint(b, v)
	}
	b = append(b, byte(f.kind))
	b = append(b, f.payload...)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
}

func decodeSnapFrame(r reader) (f snapFrame, err error) {
	if len(r.b) < 4 {
		return f, errFrame
	}
	n := len(r.b) - 4
	if crc32.Checksum(r.b[:n], castagnoli) != binary.BigEndian.Uint32(r.b[n:]) {
		return f, errFrame
	}
	r.b = r.b[:n]
	f = snapFrame{
		id: r.uvarint(), group: keys.GroupID(r.uvarint()), to: keys.ReplicaID(r.uvarint()),
		from: keys.ReplicaID(r.uvarint()), term: r.uvarint(), seq: r.uvarint(), kind: snapKind(r.byte()),
	}
	if r.bad {
		return f, errFrame
	}
	f.payload = r.b
	return f, nil
}

// addTo continues sum, the checksum over the kinds and payloads of a transfer's
// frames in their order. snapEnd carries it.
func (f *snapFrame) addTo(sum uint32) uint32 {
	return crc32.Update(crc32.Update(sum, castagnoli, []byte{byte(f.kind)}), castagnoli, f.payload)
}

func encodeSnapSum(sum uint32) []byte { return binary.BigEndian.AppendUint32(nil, sum) }

func decodeSnapSum(payload []byte) (uint32, error) {
	if len(payload) != 4 {
		return 0, errFrame
	}
	return binary.BigEndian.Uint32(payload), nil
}

// snack acknowledges.
type snack struct {
	id     uint64
	group  keys.GroupID
	from   keys.ReplicaID // the receiver's replica
	to     keys.ReplicaID
	seq    uint64
	status snackStatus
}

func (s *snack) append(b []byte) []byte {
	for _, v := range []uint64{s.id, uint64(s.group), uint64(s.from), uint64(s.to), s.seq} {
		b = binary.AppendUvarint(b, v)
	}
	return append(b, byte(s.status))
}

func decodeSnack(r reader) (s snack, err error) {
	s = snack{
		id: r.uvarint(), group: keys.GroupID(r.uvarint()), from: keys.ReplicaID(r.uvarint()),
		to: keys.ReplicaID(r.uvarint()), seq: r.uvarint(), status: snackStatus(r.byte()),
	}
	if r.bad || len(r.b) != 0 {
		return s, errFrame
	}
	return s, nil
}

// snapHead is the payload of snapBegin.
type snapHead struct {
	index, term uint64
	conf        []byte
	spans       [][2][]byte
}

func (h *snapHead) encode() []byte {
	b := binary.AppendUvarint(nil, h.index)
	b = binary.AppendUvarint(b, h.term)
	b = appendBytes(b, h.conf)
	b = binary.AppendUvarint(b, uint64(len(h.spans)))
	for _, s := range h.spans {
		b = appendBytes(b, s[0])
		b = appendBytes(b, s[1])
	}
	return b
}

func decodeSnapHead(b []byte) (h snapHead, err error) {
	r := reader{b: b}
	h.index, h.term = r.uvarint(), r.uvarint()
	h.conf = append([]byte(nil), r.bytes()...)
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		return h, errFrame
	}
	for range n {
		lo, hi := r.bytes(), r.bytes()
		h.spans = append(h.spans, [2][]byte{append([]byte(nil), lo...), append([]byte(nil), hi...)})
	}
	if r.bad || len(r.b) != 0 || h.index == 0 || h.term == 0 {
		return h, errFrame
	}
	return h, nil
}

func appendKV(b, k, v []byte) []byte { return appendBytes(appendBytes(b, k), v) }

// decodeKVs copies: the engine keeps what it is given.
func decodeKVs(payload []byte) ([]storage.KV, error) {
	r := reader{b: append([]byte(nil), payload...)}
	var kvs []storage.KV
	for len(r.b) > 0 {
		kv := storage.KV{Key: r.bytes(), Value: r.bytes()}
		if r.bad || len(kv.Key) == 0 {
			return nil, errFrame
		}
		kvs = append(kvs, kv)
	}
	return kvs, nil
}

// sender is one transfer under way.
type sender struct {
	g     *Group
	peer  *peer
	frame snapFrame // what all frames have in common
	acks  chan snack
	quit  chan struct{}
	begun []byte // encoded head
	stage [][]byte
	state []byte
	spans [][2][]byte
	index uint64
}

func (s *sender) cancel() {
	select {
	case <-s.quit:
	default:
		close(s.quit)
	}
}

// sendSnapshot begins a transfer to the replica that m is for. Worker only.
func (g *Group) sendSnapshot(m *pb.Message) { g.startSnapshot(m.GetTo()) }

func (g *Group) startSnapshot(to uint64) {
	if g.w.rn == nil || g.w.state != raft.StateLeader || g.w.sending[to] != nil {
		return
	}
	mem := g.member(to)
	fail := func(why error) {
		g.log.Debug("no snapshot now", "to", to, "why", why)
		g.w.rn.ReportSnapshot(to, raft.SnapshotFailure) // Raft asks again after a heartbeat
	}
	if mem == nil || mem.peer == nil || g.w.incomplete {
		return
	}
	if time.Now().Before(g.w.snapRetryAt) {
		fail(fmt.Errorf("retry later"))
		return
	}
	if !mem.peer.vouches() {
		fail(fmt.Errorf("its clock does not vouch: it would refuse the entries behind it")) // T2
		return
	}
	if !g.host.acquireSender() {
		fail(fmt.Errorf("%d under way", maxSenders))
		return
	}
	s := &sender{
		g: g, peer: mem.peer, acks: make(chan snack, 2*snapWindow), quit: make(chan struct{}),
		frame: snapFrame{id: g.host.snapID.Add(1), group: g.id, to: keys.ReplicaID(to), from: g.self, term: g.w.hs.term},
		index: g.w.applied, spans: g.machine.Spans(), state: g.machine.Capture(),
	}
	head := snapHead{index: g.w.applied, term: g.w.appliedTerm, conf: g.w.conf.encode(), spans: s.spans}
	s.begun = head.encode()
	var err error
	if s.stage, err = g.copyStage(s.spans); err != nil {
		g.host.releaseSender()
		g.w.snapRetryAt = time.Now().Add(time.Second)
		fail(err)
		return
	}
	if g.w.sending == nil {
		g.w.sending = make(map[uint64]*sender)
	}
	g.w.sending[to] = s
	g.setPin(to, pin{index: g.w.applied})
	g.log.Info("sending a snapshot", "to", mem.Node, "index", s.index)
	g.host.snapshots.Store(s.frame.id, s)
	g.host.goRun(func() { s.run() })
}

// lacks notes that a replica's data is incomplete, whatever Raft believes it to have.
func (g *Group) lacks(to uint64) {
	if m := g.member(to); m == nil || m.peer == nil || g.w.rn == nil || g.w.state != raft.StateLeader {
		return
	}
	if g.w.lacking == nil {
		g.w.lacking = make(map[uint64]struct{})
	}
	g.w.lacking[to] = struct{}{}
	g.activate()
	g.supply()
}

// supply begins the snapshots that replicas have asked for, as others end.
func (g *Group) supply() {
	for to := range g.w.lacking {
		if g.member(to).peer.alive.Load() && g.host.senders.Load() < maxSenders {
			g.startSnapshot(to)
		}
	}
}

// copyStage copies the staged chunks within spans, as payloads.
func (g *Group) copyStage(spans [][2][]byte) (chunks [][]byte, err error) {
	total := 0
	var b []byte
	for _, sp := range spans {
		if len(sp[0]) == 0 || storage.Class(sp[0][0]) != storage.ClassStage {
			continue
		}
		it := g.host.cfg.Store.NewIter(sp[0], sp[1])
		for ok := it.SeekGE(sp[0]); ok; ok = it.Next() {
			b = appendKV(b, it.Key(), it.Value())
			if len(b) >= snapChunk {
				total += len(b)
				chunks, b = append(chunks, b), nil
			}
			if total > stageBudget {
				it.Close()
				return nil, fmt.Errorf("more than %d bytes are staged", stageBudget)
			}
		}
		err := it.Err()
		it.Close()
		if err != nil {
			return nil, err
		}
	}
	if len(b) > 0 {
		chunks = append(chunks, b)
	}
	return chunks, nil
}

// run streams and then reports to the group's worker.
func (s *sender) run() {
	err := s.stream()
	h, g, to := s.g.host, s.g, uint64(s.frame.to)
	h.snapshots.Delete(s.frame.id)
	h.releaseSender()
	g.in.post(func() {
		delete(g.w.sending, to)
		p := g.w.pins[to]
		p.until = time.Now()
		if err == nil {
			p.until = p.until.Add(h.cfg.SnapshotTimeout)
		}
		g.setPin(to, p)
		if g.w.rn == nil {
			return
		}
		if err != nil {
			g.log.Warn("snapshot failed", "to", s.peer.node, "index", s.index, "err", err)
			g.w.snapRetryAt = time.Now().Add(g.campaignPause())
			g.w.rn.ReportSnapshot(to, raft.SnapshotFailure)
			return
		}
		delete(g.w.lacking, to)
		g.log.Info("snapshot installed", "to", s.peer.node, "index", s.index)
		g.w.rn.ReportSnapshot(to, raft.SnapshotFinish)
	})
	h.sched.enqueue(g)
}

func (s *sender) stream() error {
	w := window{s: s, timer: time.NewTimer(snapResend)}
	defer w.timer.Stop()
	if err := w.send(snapBegin, s.begun); err != nil {
		return err
	}
	for _, c := range s.stage {
		if err := w.send(snapKeys, c); err != nil {
			return err
		}
	}
	s.stage = nil
	for _, sp := range s.spans {
		if len(sp[0]) > 0 && storage.Class(sp[0][0]) == storage.ClassStage {
			continue
		}
		if err := s.streamSpan(&w, sp); err != nil {
			return err
		}
	}
	for len(s.state) > 0 {
		n := min(len(s.state), snapChunk)
		if err := w.send(snapMachine, s.state[:n]); err != nil {
			return err
		}
		s.state = s.state[n:]
	}
	if err := w.send(snapEnd, encodeSnapSum(w.sum)); err != nil {
		return err
	}
	return w.finish()
}

// streamSpan reads chunk by chunk with an iterator of its own each: none is held
// while the receiver makes us wait.
func (s *sender) streamSpan(w *window, sp [2][]byte) error {
	from := sp[0]
	for {
		var b []byte
		it := s.g.host.cfg.Store.NewIter(from, sp[1])
		more := it.SeekGE(from)
		for more && len(b) < snapChunk {
			b = appendKV(b, it.Key(), it.Value())
			from = append(append(from[:0:0], it.Key()...), 0)
			more = it.Next()
		}
		err := it.Err()
		it.Close()
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		if len(b) > 0 {
			if err := w.send(snapKeys, b); err != nil {
				return err
			}
		}
		if !more {
			return nil
		}
	}
}

// window keeps the frames that are not acknowledged.
type window struct {
	s     *sender
	timer *time.Timer
	next  uint64   // sequence of the next new frame
	acked uint64   // the receiver has everything below
	sum   uint32   // of the frames before next
	out   [][]byte // frames acked..next-1
	done  bool
}

func (w *window) send(kind snapKind, payload []byte) error {
	for len(w.out) >= snapWindow || w.next == 1 && w.acked == 0 {
		// Nothing follows the head before the receiver has agreed.
		if err := w.wait(); err != nil || w.done {
			return err
		}
	}
	if w.done {
		return nil
	}
	f := w.s.frame
	f.seq, f.kind, f.payload = w.next, kind, payload
	b := f.append(w.s.g.host.header(frameSnap, w.s.peer.node).append(make([]byte, 0, len(payload)+96)))
	w.next++
	w.sum = f.addTo(w.sum)
	w.out = append(w.out, b)
	w.s.g.host.cfg.Transport.Send(w.s.peer.node, ClassSnapshot, b)
	return nil
}

// finish waits until everything is installed.
func (w *window) finish() error {
	for !w.done {
		if err := w.wait(); err != nil {
			return err
		}
	}
	return nil
}

// wait takes one acknowledgement, resending meanwhile.
func (w *window) wait() error {
	h := w.s.g.host
	deadline := time.Now().Add(h.cfg.SnapshotTimeout)
	for {
		w.timer.Reset(snapResend)
		select {
		case a := <-w.s.acks:
			switch {
			case a.status == snackRefused:
				return fmt.Errorf("refused by node %d", w.s.peer.node)
			case a.status == snackDone:
				w.done = true
				return nil
			case a.seq > w.next || a.seq <= w.acked:
				continue
			}
			w.out = w.out[a.seq-w.acked:]
			w.acked = a.seq
			return nil
		case <-w.timer.C:
			if time.Now().After(deadline) {
				return fmt.Errorf("no progress for %v", h.cfg.SnapshotTimeout)
			}
			if !w.s.peer.alive.Load() { // others wait for the turn
				return fmt.Errorf("node %d is silent", w.s.peer.node)
			}
			for _, b := range w.out {
				h.cfg.Transport.Send(w.s.peer.node, ClassSnapshot, b)
			}
		case <-w.s.quit:
			return fmt.Errorf("leadership lost")
		case <-h.quit:
			return ErrStopped
		}
	}
}

func (h *Host) receiveSnack(p *peer, a snack) {
	if a.status == snackNeed {
		g := h.Group(a.group)
		if g == nil || g.self != a.to {
			return
		}
		g.in.post(func() { g.lacks(uint64(a.from)) })
		h.sched.enqueue(g)
		return
	}
	v, ok := h.snapshots.Load(a.id)
	if !ok {
		return
	}
	s := v.(*sender)
	if s.peer != p || s.frame.group != a.group {
		return
	}
	select {
	case s.acks <- a:
	default: // the sender has plenty to read; it resends if this was the last
	}
}
