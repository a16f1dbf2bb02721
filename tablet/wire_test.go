package tablet

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"reflect"
	"testing"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/storage"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/truetime"
)

var (
	sampleRef    = TxnRef{ID: keys.TxnID{Age: 1_700_000_000_000_000_000, Node: 3, Seq: 1 << 40}, Term: 9, Client: 2}
	sampleWrites = []Write{{Key: []byte("k1"), Value: []byte("v")}, {Key: []byte("k2")}, {Key: []byte("k3"), Value: []byte{}}}
	sampleDesc   = keys.Descriptor{Group: 5, Span: keys.Span{Start: []byte("a"), End: []byte("m")}, Generation: 4, Replicas: []keys.Replica{{Node: 1, ID: 11}, {Node: 2, ID: 12}}}
	target       = Target{Group: 5, Generation: 4}
	anchors      = []Anchor{{Group: 8, Key: []byte("x")}, {Group: 9, Key: []byte("y")}}
)

var sampleRequests = []any{
	&ReadRequest{Target: target, Txn: sampleRef, Lock: LockExclusive, Wait: WaitSkip, Gets: []keys.Key{[]byte("a"), []byte("b")},
		Scans: []Scan{{Span: keys.Span{Start: []byte("a"), End: []byte("c")}, Reverse: true, MaxRows: 7}}, MaxBytes: 12345},
	&ReadRequest{Target: target, At: 77, Follower: true, Gets: []keys.Key{[]byte("a")}},
	&CommitRequest{Target: target, Txn: sampleRef, Writes: sampleWrites, Staged: 3, MinTS: 5, MaxTS: 6, Finished: 88, Expect: []Expectation{{Key: []byte("k1"), TS: 4}, {Key: []byte("k9")}}, Private: true},
	&PrepareRequest{Target: target, Txn: sampleRef, Writes: sampleWrites, Staged: 1, Coordinator: anchors[0], AnchorKey: []byte("k1"), MinTS: 5, MaxTS: 6},
	&DecideRequest{Target: target, Txn: sampleRef, AnchorKey: []byte("k1"), Writes: sampleWrites, Participants: anchors, MinTS: 5, Finished: 1},
	&InquireRequest{Target: target, Txn: sampleRef.ID, AnchorKey: []byte("k1"), Abort: true, Prepared: true},
	&ResolveRequest{Target: target, Key: []byte("k1"), Txn: sampleRef.ID, Outcome: Outcome{OutcomeCommitted, 99}},
	&AbortRequest{Target: target, Txn: sampleRef},
	&StageRequest{Target: target, Txn: sampleRef, Seq: 4, Writes: sampleWrites},
	&HeartbeatRequest{Target: target, Client: 3, Txns: []keys.TxnID{sampleRef.ID}},
	&SplitRequest{Target: target, Key: []byte("k"), Child: 12, Replicas: []keys.Replica{{Node: 1, ID: 121}}},
	&ReadRequest{Target: target, Guess: true, Gets: []keys.Key{[]byte("a")}},
}

var sampleResponses = map[byte]any{
	MethodRead: &ReadResponse{Gets: []Value{{Exists: true, Bytes: []byte("v"), TS: 4}, {TS: 5}},
		Scans: []ScanResult{{Rows: []KV{{[]byte("k"), []byte("v")}}, More: true, Resume: keys.Span{Start: []byte("l"), End: []byte("m")}}}, Term: 8, MaxSeen: 5},
	MethodCommit:    &CommitResponse{TS: 4, Term: 8, Found: []Value{{Exists: true, Bytes: []byte("v"), TS: 4}, {TS: 5}}},
	MethodPrepare:   &PrepareResponse{TS: 4},
	MethodDecide:    &CommitResponse{TS: 4},
	MethodInquire:   &Outcome{OutcomeCommitted, 5},
	MethodStage:     &StageResponse{Term: 3},
	MethodHeartbeat: &HeartbeatResponse{Lost: []keys.TxnID{sampleRef.ID}},
	MethodSplit:     &SplitResponse{Left: sampleDesc, Right: sampleDesc},
}

var sampleErrors = []error{
	&paxosgroup.NotLeaderError{Group: 4, Leader: 2},
	&RangeError{Descriptors: []keys.Descriptor{sampleDesc, sampleDesc}},
	&AbortedError{Txn: sampleRef.ID, Reason: AbortWounded, By: keys.TxnID{Age: 4, Node: 1, Seq: 2}, Key: []byte("k")},
	&AmbiguousError{Txn: sampleRef.ID},
	&LockUnavailableError{Key: []byte("k"), Holder: sampleRef.ID},
	&TooOldError{At: 4, LowWater: 5},
	&CorruptError{File: "store.db", Offset: -1, Reason: "damaged"},
	paxosgroup.ErrAmbiguous, paxosgroup.ErrTooLate, paxosgroup.ErrTooLarge, paxosgroup.ErrDiskFull, paxosgroup.ErrOverloaded, paxosgroup.ErrStopped,
	context.DeadlineExceeded, context.Canceled,
	&RemoteError{Message: "something else"},
}

func TestWireRoundTrip(t *testing.T) {
	for _, req := range sampleRequests {
		m, p := EncodeRequest(req)
		got, g, err := DecodeRequest(m, p)
		if err != nil || g != 5 || !reflect.DeepEqual(got, req) {
			t.Errorf("%T: %+v %v", req, got, err)
		}
	}
	for m, resp := range sampleResponses {
		got, err := DecodeResponse(m, EncodeResponse(resp, nil))
		if err != nil || !reflect.DeepEqual(got, resp) {
			t.Errorf("%T: %+v %v", resp, got, err)
		}
	}
	for _, e := range sampleErrors {
		// Wrapped on the way, typed on arrival.
		_, got := DecodeResponse(MethodCommit, EncodeResponse(nil, fmt.Errorf("on the way: %w", e)))
		if _, other := e.(*RemoteError); other {
			if got.Error() != "on the way: something else" {
				t.Errorf("%v", got)
			}
		} else if !reflect.DeepEqual(got, e) {
			t.Errorf("%T: got %T %v", e, got, got)
		}
	}
	if m, _ := EncodeRequest("nonsense"); m != 0 {
		t.Error("encoded nonsense")
	}
}

// remote is a participant behind the codec.
type remote struct{ p Participant }

func (r remote) call(req any) (any, error) {
	m, p := EncodeRequest(req)
	return DecodeResponse(m, Dispatch(context.Background(), func(keys.GroupID) (Participant, error) { return r.p, nil }, m, p))
}

// TestLocalAndRemoteTwinsAgree asks a tablet directly and through the codec.
func TestLocalAndRemoteTwinsAgree(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		s := w.commit(w.txn(0), put("k1", "v1"), put("k2", "v2"))
		for _, req := range []*ReadRequest{
			{At: s, Gets: []keys.Key{[]byte("k1"), []byte("k9")}, Scans: []Scan{{Span: keys.Span{Start: []byte("k"), End: []byte("l")}, MaxRows: 1}}},
			{At: s, Gets: []keys.Key{[]byte("zzz")}},
			{Txn: TxnRef{ID: sampleRef.ID, Term: 3}, Lock: LockShared, Gets: []keys.Key{[]byte("k1")}},
		} {
			want, werr := w.lead().Read(context.Background(), req)
			got, gerr := remote{w.lead()}.call(req)
			if werr != nil {
				if !reflect.DeepEqual(werr, gerr) {
					t.Errorf("%v, remote %v", werr, gerr)
				}
			} else if gerr != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%+v, remote %+v %v", want, got, gerr)
			}
		}
	})
}

func FuzzDecodeRequest(f *testing.F) {
	for _, req := range sampleRequests {
		m, p := EncodeRequest(req)
		f.Add(m, p)
	}
	f.Fuzz(func(t *testing.T, m byte, p []byte) {
		req, _, err := DecodeRequest(m, p)
		if err != nil {
			return
		}
		m2, p2 := EncodeRequest(req)
		again, _, err := DecodeRequest(m2, p2)
		if err != nil || m2 != m || !reflect.DeepEqual(req, again) {
			t.Fatalf("%+v became %+v: %v", req, again, err)
		}
	})
}

func FuzzDecodeResponse(f *testing.F) {
	for m, resp := range sampleResponses {
		f.Add(m, EncodeResponse(resp, nil))
	}
	for _, e := range sampleErrors {
		f.Add(MethodCommit, EncodeResponse(nil, e))
	}
	f.Fuzz(func(t *testing.T, m byte, p []byte) {
		resp, err := DecodeResponse(m, p)
		if err != nil || resp == nil {
			return
		}
		again, err := DecodeResponse(m, EncodeResponse(resp, nil))
		if err != nil || !reflect.DeepEqual(resp, again) {
			t.Fatalf("%+v became %+v: %v", resp, again, err)
		}
	})
}

func sampleCommands() [][]byte {
	anchor := []byte("k1")
	gc := appendHeader(nil, cmdCollect, 4)
	gc = appendTS(gc, 99)
	gc = appendUvarint(gc, 1)
	gc = appendTS(appendBytes(gc, []byte("k")), 7)
	return [][]byte{
		encodeCommit(4, sampleRequests[2].(*CommitRequest)),
		encodePrepare(4, sampleRequests[3].(*PrepareRequest), anchor, []lockSpec{{keys.Span{Start: anchor}, LockShared}, {keys.Span{Start: anchor, End: []byte("m")}, LockExclusive}}),
		encodeDecide(4, sampleRequests[4].(*DecideRequest)),
		encodeInquire(4, sampleRequests[5].(*InquireRequest)),
		encodeResolve(4, sampleRef.ID, Outcome{OutcomeCommitted, 5}),
		encodeForget(4, []keys.TxnID{sampleRef.ID}),
		encodeStage(4, sampleRef.ID, 2, sampleWrites),
		encodeMaterialise(4, sampleRef.ID, 2),
		encodeDropStage(4, sampleRef.ID),
		encodeSplit(4, sampleRequests[10].(*SplitRequest), 2),
		gc,
	}
}

func TestCommandsRoundTrip(t *testing.T) {
	for i, data := range sampleCommands() {
		var c command
		if err := decodeCommand(data, &c); err != nil || c.kind != commandKind(i+1) || c.generation != 4 {
			t.Fatalf("command %d: %+v %v", i, c, err)
		}
		for n := range data {
			if err := decodeCommand(data[:n], &c); err == nil {
				t.Fatalf("command %d cut to %d bytes decodes", i, n)
			}
		}
		for _, at := range []int{0, 1} {
			bad := append([]byte(nil), data...)
			bad[at] = 200
			if err := decodeCommand(bad, &c); err == nil {
				t.Fatalf("command %d with an unknown version or kind decodes", i)
			}
		}
	}
	var c command
	if err := decodeCommand(sampleCommands()[2], &c); err != nil || len(c.parts) != 2 || string(c.parts[1].Key) != "y" || writeCount(c.writes) != 3 {
		t.Fatalf("%+v %v", c, err)
	}
	var got []Write
	eachWrite(c.writes, func(k, v []byte) { got = append(got, Write{k, v}) })
	if !reflect.DeepEqual(got, sampleWrites) {
		t.Fatalf("%v", got)
	}
}

// FuzzApply: whatever the log holds, apply answers or stops the replica with an
// error, and its state can be captured and restored. Never a panic.
func FuzzApply(f *testing.F) {
	for _, data := range sampleCommands() {
		f.Add(data, true)
	}
	f.Fuzz(func(t *testing.T, data []byte, twice bool) {
		e := &memEngine{}
		tb := New(Config{Group: 7, Node: 1, Clock: &fakeClock{}, Reader: e})
		if err := tb.Restore(InitialState(keys.Descriptor{Group: 7, Span: keys.Span{Start: []byte("a"), End: []byte("z")}, Generation: 4})); err != nil {
			t.Fatal(err)
		}
		for i, d := range append(sampleCommands()[:1:1], data, data) {
			if _, err := tb.Apply(&storage.Batch{}, paxosgroup.Command{Index: uint64(i + 1), Term: 1, TS: truetime.Timestamp(100 + i), Data: d}); err != nil {
				return
			}
		}
		other := New(Config{Group: 7})
		if err := other.Restore(tb.Capture()); err != nil {
			t.Fatalf("captured state does not restore: %v", err)
		}
	})
}

func FuzzRestore(f *testing.F) {
	f.Add(InitialState(sampleDesc))
	f.Add(randomMachine(1).encode())
	f.Fuzz(func(t *testing.T, state []byte) {
		m := newMachine()
		if err := m.decode(state); err != nil {
			return
		}
		again := newMachine()
		if err := again.decode(m.encode()); err != nil {
			t.Fatalf("does not decode what it encoded: %v", err)
		}
		m.splitObstacle([]byte("m"))
	})
}

func randomMachine(seed int64) *machine {
	rng := rand.New(rand.NewSource(seed))
	m := newMachine()
	m.view.Store(&view{desc: sampleDesc, children: []keys.Descriptor{sampleDesc}, lowWater: 44})
	id := func() keys.TxnID {
		return keys.TxnID{Age: truetime.Timestamp(rng.Int63()), Node: keys.NodeID(rng.Intn(3)), Seq: rng.Uint64()}
	}
	for range 5 {
		m.prepared[id()] = &preparedTxn{ts: 4, coordinator: anchors[0], anchor: []byte("k"), staged: 2, writes: appendWrites(nil, sampleWrites),
			locks: appendLocks(nil, []lockSpec{{keys.Span{Start: []byte("k"), End: []byte("l")}, LockShared}})}
		m.decided[id()] = &decidedTxn{ts: 5, anchor: []byte("k"), parts: anchors}
		m.staged[id()] = &stagedTxn{status: stageOpen, have: map[uint32]struct{}{1: {}, 4: {}}, min: []byte("a"), max: []byte("b")}
		m.staged[id()] = &stagedTxn{status: stageCommitted, ts: 8, next: 1, total: 3, min: []byte("a"), max: []byte("b")}
		m.outcomes.record(id(), outcomeRec{status: OutcomeCommitted, ts: 4, at: 5})
		m.outcomes.record(id(), outcomeRec{status: OutcomeAborted, at: 5})
	}
	m.outcomes.finish(2, 5)
	m.raise(1000)
	return m
}

func TestCaptureRestores(t *testing.T) {
	for seed := range int64(10) {
		m := randomMachine(seed)
		state := m.encode()
		again := newMachine()
		if err := again.decode(state); err != nil {
			t.Fatal(err)
		}
		if string(again.encode()) != string(state) {
			t.Fatal("state changed by a round trip")
		}
		for n := range state {
			if err := newMachine().decode(state[:n]); err == nil {
				t.Fatalf("state cut to %d of %d bytes restores", n, len(state))
			}
		}
	}
	if err := New(Config{}).Restore([]byte{9}); err == nil || errors.Is(err, errMalformed) {
		t.Fatalf("a newer format: %v", err)
	}
}
