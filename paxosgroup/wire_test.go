package paxosgroup

import (
	"bytes"
	"errors"
	"reflect"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/truetime"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

func TestMessageCodec(t *testing.T) {
	u := func(v uint64) *uint64 { return &v }
	rej := true
	ms := []*pb.Message{
		{Type: pb.MsgApp.Enum(), To: u(2), From: u(1), Term: u(7), LogTerm: u(6), Index: u(10), Commit: u(9), Entries: []*pb.Entry{
			{Type: pb.EntryNormal.Enum(), Term: u(7), Index: u(11), Data: []byte("abc")},
			{Type: pb.EntryNormal.Enum(), Term: u(7), Index: u(12)},
		}},
		{Type: pb.MsgAppResp.Enum(), To: u(1), From: u(2), Term: u(7), Index: u(10), Reject: &rej, RejectHint: u(4), LogTerm: u(3)},
		{Type: pb.MsgVote.Enum(), To: u(1), From: u(2), Term: u(8), Context: []byte("CampaignTransfer")},
	}
	var b []byte
	for i, m := range ms {
		b = appendMessage(b, 42, uint64(i), m)
	}
	r := reader{b: b}
	for i, m := range ms {
		g, stamp, got, err := nextMessage(&r)
		if err != nil || g != 42 || stamp != uint64(i) {
			t.Fatal(g, stamp, err)
		}
		// Absent fields come back as zeros.
		for _, x := range []*pb.Message{m, got} {
			if x.LogTerm == nil {
				x.LogTerm = u(0)
			}
			if x.Index == nil {
				x.Index = u(0)
			}
			if x.Commit == nil {
				x.Commit = u(0)
			}
			if x.RejectHint == nil {
				x.RejectHint = u(0)
			}
			if x.Reject == nil {
				x.Reject = new(bool)
			}
			for _, e := range x.Entries {
				if e.Data == nil {
					e.Data = []byte{}
				}
			}
		}
		if !proto.Equal(m, got) {
			t.Errorf("message %d: got %v, want %v", i, got, m)
		}
	}
}

func TestPingPongCodec(t *testing.T) {
	p := ping{seq: 3, interval: truetime.Interval{Earliest: 5, Latest: 9}, closed: 7, draining: true, notes: []note{
		{kind: noteActive, group: 1, replica: 2, term: 3, index: 4, until: 5},
		{kind: noteResign, group: 9, replica: 8, term: 7, until: 6},
	}}
	got, err := decodePing(reader{b: p.append(nil)})
	if err != nil || !reflect.DeepEqual(p, got) {
		t.Errorf("%+v, %v", got, err)
	}
	q := pong{seq: 1, inc: 2, interval: p.interval, epoch: 4, until: 5, wake: []keys.GroupID{1, 1 << 40}}
	if got, err := decodePong(reader{b: q.append(nil)}); err != nil || !reflect.DeepEqual(q, got) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestConfCodec(t *testing.T) {
	c := conf{members: []keys.Replica{{Node: 1, ID: 2}, {Node: 3, ID: 4}}, term: 9, holder: 3, released: true, floor: 77}
	got, err := decodeConf(c.encode())
	if err != nil || !reflect.DeepEqual(c, got) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestEntryOfUnknownVersionOrKind(t *testing.T) {
	good := encodeEntry(entryHeader{kindCommand, 6, 123}, []byte("x"))
	if h, p, err := decodeEntry(good); err != nil || h != (entryHeader{kindCommand, 6, 123}) || string(p) != "x" {
		t.Error(h, p, err)
	}
	for i, c := range []byte{2, 9} {
		bad := bytes.Clone(good)
		bad[i] = c
		if _, _, err := decodeEntry(bad); !errors.Is(err, errUnknownEntry) {
			t.Errorf("byte %d = %d: %v", i, c, err)
		}
	}
}

func FuzzMessage(f *testing.F) {
	u := func(v uint64) *uint64 { return &v }
	f.Add(appendMessage(nil, 1, 2, &pb.Message{Type: pb.MsgApp.Enum(), To: u(2), From: u(1), Term: u(7), Index: u(1), Entries: []*pb.Entry{{Term: u(7), Index: u(2), Data: []byte("d")}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := reader{b: b}
		for {
			g, stamp, m, err := nextMessage(&r)
			if err != nil {
				return
			}
			r2 := reader{b: appendMessage(nil, g, stamp, m)}
			g2, s2, m2, err := nextMessage(&r2)
			if err != nil || g2 != g || s2 != stamp || !proto.Equal(m, m2) {
				t.Fatalf("round trip: %v", err)
			}
		}
	})
}

func FuzzControlFrames(f *testing.F) {
	p := ping{seq: 3, notes: []note{{kind: noteActive, group: 1}}}
	q := pong{seq: 1, wake: []keys.GroupID{1}}
	s := snapFrame{id: 1, payload: []byte("x")}
	a := snack{id: 1}
	h := snapHead{index: 1, term: 1, spans: [][2][]byte{{{1}, {2}}}}
	c := conf{members: []keys.Replica{{Node: 1, ID: 2}}}
	for _, b := range [][]byte{p.append(nil), q.append(nil), s.append(nil), a.append(nil), h.encode(), c.encode(), appendKV(nil, []byte("k"), []byte("v")),
		encodeEntry(entryHeader{kindRelease, 1, 2}, nil), frameHeader{kind: framePing, from: 1, to: 2}.append(nil)} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := decodePing(reader{b: b}); err == nil {
			if p2, err := decodePing(reader{b: p.append(nil)}); err != nil || !reflect.DeepEqual(p, p2) {
				t.Fatal("ping", err)
			}
		}
		if p, err := decodePong(reader{b: b}); err == nil {
			if p2, err := decodePong(reader{b: p.append(nil)}); err != nil || !reflect.DeepEqual(p, p2) {
				t.Fatal("pong", err)
			}
		}
		if c, err := decodeConf(b); err == nil {
			if c2, err := decodeConf(c.encode()); err != nil || !reflect.DeepEqual(c, c2) {
				t.Fatal("conf", err)
			}
		}
		if h, p, err := decodeEntry(b); err == nil {
			if h2, p2, err := decodeEntry(encodeEntry(h, p)); err != nil || h != h2 || !bytes.Equal(p, p2) {
				t.Fatal("entry", err)
			}
		}
		_, _ = decodeSnapFrame(reader{b: b})
		_, _ = decodeSnack(reader{b: b})
		_, _ = decodeSnapHead(b)
		_, _ = decodeKVs(b)
		_, _, _ = decodeHeader(b)
	})
}

func tailEntries(term uint64, lo, hi uint64, size int) []*pb.Entry {
	var es []*pb.Entry
	for i := lo; i <= hi; i++ {
		es = append(es, new(entBox).set(pb.EntryNormal, term, i, make([]byte, size)))
	}
	return es
}

// What Raft has read of the tail it may hand out later, in a message: by then the tail may have been trimmed, or
// its end replaced (R1: a message of a term carries that term's entries).
func TestTailLendsNothing(t *testing.T) {
	var total atomic.Int64
	tl := tail{total: &total}
	tl.reset(10, 5)
	tl.append(tailEntries(6, 11, 30, 10))
	oldest, err := tl.Entries(11, 21, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	latest, err := tl.Entries(25, 31, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	tl.count(20, 20)
	tl.trim(20, 20, 0)
	tl.append(tailEntries(7, 25, 40, 10))
	for i, e := range append(oldest, latest...) {
		want := uint64(11 + i)
		if i >= len(oldest) {
			want = uint64(25 + i - len(oldest))
		}
		if e == nil || e.GetIndex() != want || e.GetTerm() != 6 {
			t.Fatalf("entry %d became %v", want, e)
		}
	}
}

func TestTail(t *testing.T) {
	var total atomic.Int64
	tl := tail{total: &total}
	tl.reset(10, 5)
	tl.append(tailEntries(6, 11, 300, 10))
	tl.append(tailEntries(7, 200, 210, 10)) // a conflict cuts the rest
	if tl.last() != 210 {
		t.Fatalf("last %d", tl.last())
	}
	if term, err := tl.Term(199); term != 6 || err != nil {
		t.Fatal(term, err)
	}
	tl.trim(210, 210, 0) // never what is not applied
	if tl.prev != 10 || total.Load() != 0 {
		t.Fatalf("trimmed to %d with nothing applied, %d bytes kept", tl.prev, total.Load())
	}
	const size = 10 + entryOverhead
	tl.count(150, 149)
	tl.count(150, 140) // a replica has gone back
	if kept, spare := total.Load(), tl.spare.Load(); kept != 140*size || spare != 130*size {
		t.Fatalf("%d bytes kept, %d of them spare", kept, spare)
	}
	tl.trim(150, 120, tailBytes) // what is of no use at once, the rest within the budget
	if tl.prev != 120 {
		t.Fatalf("trimmed to %d, want 120", tl.prev)
	}
	if _, ok := tl.after(119); ok {
		t.Error("entries that are gone are offered")
	}
	if es, ok := tl.after(120); !ok || len(es) != 90 {
		t.Error(len(es), ok)
	}
	tl.trim(tl.had, 120, 0) // somebody lacks what is behind 140
	if tl.prev != 140 || total.Load() != 10*size || tl.spare.Load() != 0 {
		t.Fatalf("trimmed to %d, %d bytes kept, %d spare", tl.prev, total.Load(), tl.spare.Load())
	}
	tl.append(tailEntries(7, 211, 400, 64<<10))
	tl.count(210, 140)
	tl.trim(210, 0, 0)
	if tl.prev != 210 {
		t.Fatalf("trimmed to %d, want all that is applied: 210", tl.prev)
	}
	tl.count(400, 400)
	tl.trim(400, 0, tailBytes)
	if n := tl.kept.Load(); n > tailBytes || n < tailBytes-100<<10 || n != total.Load() {
		t.Errorf("%d bytes kept, %d in total", n, total.Load())
	}
	if es, err := tl.Entries(tl.prev+1, tl.last()+1, 100<<10); err != nil || len(es) != 1 {
		t.Error(len(es), err)
	}
	tl.reset(500, 8)
	if total.Load() != 0 {
		t.Errorf("%d bytes kept in an empty tail", total.Load())
	}
}

// R2's core, by itself: no schedule of promises, votes and stamps lets a lease
// cover an instant after the vote that ended it.
func TestR2_PromiseAndReleaseExclude(t *testing.T) {
	at := func(ms int) truetime.Interval {
		ts := truetime.Timestamp(ms) * truetime.Timestamp(time.Millisecond)
		return truetime.Interval{Earliest: ts, Latest: ts}
	}
	p := newPeer(2, "n2")
	e1, until := p.promise(at(1000), time.Second)
	if until != at(2000).Earliest {
		t.Fatal(until)
	}
	if p.release(e1, at(2000), true) {
		t.Error("released at the very end of the promise; it must be past")
	}
	if e2, _ := p.promise(at(1500), time.Second); e2 != e1 {
		t.Error("the epoch changed under a live promise")
	}
	if !p.release(e1, at(2501), true) {
		t.Error("not released after the promise")
	}
	e3, _ := p.promise(at(2502), time.Second)
	if e3 == e1 {
		t.Error("a promise after the vote is under the epoch that the vote ended")
	}
	if !p.release(e1, at(2503), false) {
		t.Error("a group attested under the old epoch is bound by a promise under the new one")
	}
	if p.release(e3, at(2503), true) {
		t.Error("released under a live promise")
	}
	// Attested but never promised: the vote ends the epoch all the same.
	q := newPeer(3, "n3")
	e := q.currentEpoch()
	if !q.release(e, at(10), true) {
		t.Error("bound without a promise")
	}
	if e2, _ := q.promise(at(11), time.Second); e2 == e {
		t.Error("a promise after the vote covers the group that voted")
	}
	// A new incarnation of the peer leads nothing; the old promise ends by itself.
	r := newPeer(4, "n4")
	r.meet(1)
	e, _ = r.promise(at(100), time.Second)
	r.meet(2)
	if r.release(e, at(200), false) {
		t.Error("the old promise was dropped with the incarnation")
	}
	e2, _ := r.promise(at(200), time.Second)
	if e2 == e || !r.release(e, at(1101), false) {
		t.Error("the old promise goes on under the new incarnation")
	}
}
