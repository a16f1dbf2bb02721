package tablet

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/truetime"
)

func (w *world) prepare(ref TxnRef, anchor string, ws ...Write) truetime.Timestamp {
	w.t.Helper()
	r, err := w.lead().Prepare(context.Background(), &PrepareRequest{Txn: ref, Writes: ws, AnchorKey: []byte(anchor),
		Coordinator: Anchor{Group: 9, Key: []byte("coord")}})
	if err != nil {
		w.t.Fatalf("prepare: %v", err)
	}
	return r.TS
}

func (w *world) resolve(ref TxnRef, anchor string, o Outcome) {
	w.t.Helper()
	if err := w.lead().Resolve(context.Background(), &ResolveRequest{Key: []byte(anchor), Txn: ref.ID, Outcome: o}); err != nil {
		w.t.Fatalf("resolve: %v", err)
	}
}

// locked runs a locking read and remembers the term.
func (w *world) locked(ref *TxnRef, lock LockStrength, ks ...string) *ReadResponse {
	w.t.Helper()
	r, err := w.read(*ref, lock, ks...)
	if err != nil {
		w.t.Fatalf("locking read: %v", err)
	}
	ref.Term = r.Term
	return r
}

// async runs f and returns a function that says whether it has ended, and how.
func async(f func() error) func() (bool, error) {
	done := make(chan error, 1)
	go func() { done <- f() }()
	return func() (bool, error) {
		synctest.Wait()
		select {
		case err := <-done:
			done <- err
			return true, err
		default:
			return false, nil
		}
	}
}

// TestX3_PreparedSurvivesFailOver: writes, point and range locks, shared ones too.
func TestX3_PreparedSurvivesFailOver(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		w.commit(w.txn(0), put("r1", "old"), put("s1", "old"))
		ref := w.txn(5)
		w.locked(&ref, LockShared, "s1")
		if _, err := w.lead().Read(context.Background(), &ReadRequest{Txn: ref, Lock: LockShared, Scans: []Scan{{Span: keys.Span{Start: []byte("r"), End: []byte("s")}}}}); err != nil {
			t.Fatal(err)
		}
		pts := w.prepare(ref, "m1", put("m1", "new"))
		if again := w.prepare(ref, "m1", put("m1", "new")); again != pts {
			t.Fatalf("prepared again at %d", again)
		}
		for round := range 2 {
			if round == 1 {
				w.indoubt = nil
				w.g.elect(1, true)
				if len(w.indoubt) != 1 || w.indoubt[0].Txn != ref.ID || string(w.indoubt[0].Coordinator.Key) != "coord" || string(w.indoubt[0].Anchor) != "m1" {
					t.Fatalf("in doubt: %+v", w.indoubt)
				}
				if again := w.prepare(ref, "m1", put("m1", "new")); again != pts {
					t.Fatalf("prepared again at %d", again)
				}
			}
			// Neither its own abort nor silence ends it.
			if err := w.lead().Abort(context.Background(), &AbortRequest{Txn: ref}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			for _, k := range []string{"m1", "s1", "r7"} {
				other := w.txn(9) // younger: it waits
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				_, err := w.lead().Read(ctx, &ReadRequest{Txn: other, Lock: LockExclusive, Gets: []keys.Key{[]byte(k)}})
				cancel()
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Fatalf("round %d: %s is not locked: %v", round, k, err)
				}
				_ = w.lead().Abort(context.Background(), &AbortRequest{Txn: other})
				_, err = w.lead().Commit(context.Background(), &CommitRequest{Txn: w.txn(10), Writes: []Write{put(k, "x")}})
				if aborts(t, err, AbortRefused); err == nil {
					t.Fatal("unreachable")
				}
			}
		}
		s := pts + 1000
		w.resolve(ref, "m1", Outcome{OutcomeCommitted, s})
		w.resolve(ref, "m1", Outcome{OutcomeCommitted, s}) // a copy
		if got := get(t, w.lead(), s, "m1"); got != "new" {
			t.Fatalf("m1 = %s", got)
		}
		if got := get(t, w.lead(), s-1, "m1"); got != "-" {
			t.Fatalf("m1 before = %s", got)
		}
		// Released, and the floor is above s.
		if ts := w.commit(w.txn(11), put("s1", "x"), put("r7", "x")); ts <= s {
			t.Fatalf("a later commit at %d, not above %d", ts, s)
		}
	})
}

// TestX3_OutcomesOnAFullDisk: what was prepared, or staged, before the disk was full is ended
// there, so that nobody waits for its locks until there is space again.
func TestX3_OutcomesOnAFullDisk(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		ctx := context.Background()
		full := func(full bool) {
			w.g.mu.Lock()
			w.g.full = full
			w.g.mu.Unlock()
		}
		ref, staged, asked, writer := w.txn(1), w.txn(2), w.txn(3), w.txn(4)
		w.prepare(ref, "a", put("a", "1"))
		w.stage(&staged, 0, put("b", "1"))
		full(true)
		if _, err := w.lead().Commit(ctx, &CommitRequest{Txn: writer, Writes: []Write{put("c", "1")}}); !errors.Is(err, ErrDiskFull) {
			t.Errorf("a write: %v", err)
		}
		if o, err := w.lead().Inquire(ctx, &InquireRequest{Txn: asked.ID, AnchorKey: []byte("d"), Abort: true}); err != nil || o.Status != OutcomeAborted {
			t.Errorf("an outcome is %v, %v", o, err)
		}
		w.resolve(ref, "a", Outcome{OutcomeCommitted, w.now()})
		for _, txn := range []TxnRef{staged, writer} {
			if err := w.lead().Abort(ctx, &AbortRequest{Txn: txn}); err != nil {
				t.Error(err)
			}
		}
		synctest.Wait()
		if n := w.lead().Stats().LocksHeld.Load(); n != 0 {
			t.Errorf("%d locks are held", n)
		}
		if n := stagedLeft(w.g.replicas[0]); n != 0 {
			t.Errorf("%d chunks are left", n)
		}
		full(false)
		w.commit(w.txn(5), put("a", "2"), put("b", "2"))
	})
}

// TestX3_ReadOnlyParticipantReleasesAfterS: shared locks go only after After(s).
func TestX3_ReadOnlyParticipantReleasesAfterS(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		ref := w.txn(5)
		w.locked(&ref, LockShared, "k")
		pts := w.prepare(ref, "k")
		s := pts.Add(50 * time.Millisecond)
		done := async(func() error {
			return w.lead().Resolve(context.Background(), &ResolveRequest{Key: []byte("k"), Txn: ref.ID, Outcome: Outcome{OutcomeCommitted, s}})
		})
		if ended, _ := done(); ended {
			t.Fatal("resolved before After(s)")
		}
		time.Sleep(40 * time.Millisecond)
		if ended, _ := done(); ended || len(w.lead().Prepared()) != 1 {
			t.Fatal("resolved before After(s)")
		}
		time.Sleep(20 * time.Millisecond)
		if ended, err := done(); !ended || err != nil {
			t.Fatalf("not resolved after After(s): %v", err)
		}
		if ts := w.commit(w.txn(6), put("k", "x")); ts <= s {
			t.Fatalf("commit at %d, not above %d", ts, s)
		}
	})
}

func TestX3_AbortedParticipantLeavesNothing(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		ref := w.txn(5)
		w.prepare(ref, "k", put("k", "v"))
		w.resolve(ref, "k", Outcome{Status: OutcomeAborted})
		if got := get(t, w.lead(), w.now(), "k"); got != "-" {
			t.Fatalf("k = %s", got)
		}
		// A stray copy of the prepare must not lock anything again.
		_, err := w.lead().Prepare(context.Background(), &PrepareRequest{Txn: ref, Writes: []Write{put("k", "v")}, AnchorKey: []byte("k")})
		aborts(t, err, AbortDecided)
		w.commit(w.txn(6), put("k", "x"))
		if n := w.lead().Stats().LocksHeld.Load(); n != 0 {
			t.Fatalf("%d locks left", n)
		}
	})
}

// TestX4_ReadersWaitForWhatOverlaps: in flight and prepared, at or below t only.
func TestX4_ReadersWaitForWhatOverlaps(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		w.commit(w.txn(0), put("k", "old"), put("q", "old"))
		before := w.now()
		w.g.hold()
		commit := async(func() error {
			_, err := w.lead().Commit(context.Background(), &CommitRequest{Txn: w.txn(1), Writes: []Write{put("k", "new")}})
			return err
		})
		commit()
		if got := get(t, w.lead(), before, "k"); got != "old" {
			t.Fatalf("below: %s", got)
		}
		at := w.now() // at or above the write in flight
		if got := get(t, w.lead(), at, "q"); got != "old" {
			t.Fatalf("not overlapping: %s", got)
		}
		var val string
		read := async(func() error { val = get(t, w.lead(), at, "k"); return nil })
		scan := async(func() error {
			r, err := w.lead().Read(context.Background(), &ReadRequest{At: at, Scans: []Scan{{Span: keys.Span{Start: []byte("b"), End: []byte("y")}}}})
			if err == nil && len(r.Scans[0].Rows) != 2 || string(r.Scans[0].Rows[0].Value) != "new" {
				err = fmt.Errorf("rows %v", r.Scans[0].Rows)
			}
			return err
		})
		if ended, _ := read(); ended {
			t.Fatal("read past a write in flight")
		}
		if ended, _ := scan(); ended {
			t.Fatal("scanned past a write in flight")
		}
		// Applied is not enough: the batch must be visible.
		w.g.setHidden(true)
		w.g.release()
		if ended, _ := read(); ended {
			t.Fatal("read past an applied write that cannot be seen yet")
		}
		w.g.setHidden(false)
		if ended, err := read(); !ended || err != nil || val != "new" {
			t.Fatalf("read %v %v %s", ended, err, val)
		}
		if ended, err := scan(); !ended || err != nil {
			t.Fatalf("scan %v %v", ended, err)
		}

		// Prepared.
		ref := w.txn(2)
		beforeP := w.now()
		pts := w.prepare(ref, "k", put("k", "prepared"))
		if got := get(t, w.lead(), beforeP, "k"); got != "new" {
			t.Fatalf("below the prepare: %s", got)
		}
		if got := get(t, w.lead(), w.now(), "q"); got != "old" {
			t.Fatalf("not overlapping: %s", got)
		}
		at = pts + 500
		read = async(func() error { val = get(t, w.lead(), at, "k"); return nil })
		if ended, _ := read(); ended || len(w.questions()) != 0 {
			t.Fatalf("read past a prepared write, asked %v", w.questions())
		}
		time.Sleep(20 * time.Millisecond)
		if ended, _ := read(); ended || fmt.Sprint(w.questions()) != fmt.Sprintf("[%v abort=false]", ref.ID) {
			t.Fatalf("ended %v, asked %v", ended, w.questions())
		}
		w.resolve(ref, "k", Outcome{OutcomeCommitted, pts + 100})
		if ended, _ := read(); !ended || val != "prepared" {
			t.Fatalf("read %s", val)
		}
	})
}

// TestX4_NothingAtOrBelowAPromise: a read fixes its timestamp against all later
// commits.
func TestX4_NothingAtOrBelowAPromise(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		at := w.now().Add(time.Second) // another node's clock runs ahead
		if got := get(t, w.lead(), at, "k"); got != "-" {
			t.Fatal(got)
		}
		if s := w.commit(w.txn(1), put("k", "v")); s <= at {
			t.Fatalf("committed at %d under the read at %d", s, at)
		}
		if got := get(t, w.lead(), at, "k"); got != "-" {
			t.Fatalf("the second look sees %s", got)
		}
	})
}

func TestX4_FollowerReads(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		s := w.commit(w.txn(1), put("k", "v"), put("p", "old"))
		fol := w.g.replicas[2].sm
		readAt := func(at truetime.Timestamp, k string) (string, error) {
			r, err := fol.Read(context.Background(), &ReadRequest{At: at, Follower: true, Gets: []keys.Key{[]byte(k)}})
			if err != nil {
				return "", err
			}
			return string(r.Gets[0].Bytes), nil
		}
		var nl *paxosgroup.NotLeaderError
		if _, err := readAt(s, "k"); !errors.As(err, &nl) || nl.Leader != 1 {
			t.Fatalf("answered above safe time: %v", err)
		}
		close := func(ts truetime.Timestamp) { w.g.mu.Lock(); w.g.safe = ts; w.g.mu.Unlock() }
		close(s)
		if v, err := readAt(s, "k"); err != nil || v != "v" {
			t.Fatalf("%q %v", v, err)
		}
		ref := w.txn(2)
		pts := w.prepare(ref, "p", put("p", "new"))
		close(pts + 1000)
		if _, err := readAt(pts+500, "p"); !errors.As(err, &nl) {
			t.Fatalf("answered over a prepared write: %v", err)
		}
		if v, err := readAt(pts+500, "k"); err != nil || v != "v" {
			t.Fatalf("not overlapping: %q %v", v, err)
		}
		// Resolved by an entry that is applied but not visible yet.
		w.g.setHidden(true)
		done := async(func() error {
			return w.lead().Resolve(context.Background(), &ResolveRequest{Key: []byte("p"), Txn: ref.ID, Outcome: Outcome{OutcomeCommitted, pts + 100}})
		})
		time.Sleep(10 * time.Millisecond)
		done()
		if len(fol.Prepared()) != 0 {
			t.Fatal("not applied")
		}
		if v, err := readAt(pts+500, "p"); !errors.As(err, &nl) {
			t.Fatalf("answered %q from before the resolve: %v", v, err)
		}
		w.g.setHidden(false)
		if v, err := readAt(pts+500, "p"); err != nil || v != "new" {
			t.Fatalf("%q %v", v, err)
		}
	})
}

// TestX5_FirstDecisionWins: decide against inquiry, both orders.
func TestX5_FirstDecisionWins(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		decide := func(ref TxnRef) (truetime.Timestamp, error) {
			r, err := w.lead().Decide(context.Background(), &DecideRequest{Txn: ref, AnchorKey: []byte("k"), Writes: []Write{put("k", "v")},
				Participants: []Anchor{{Group: 8, Key: []byte("far")}}, MinTS: w.now() + 77})
			if err != nil {
				return 0, err
			}
			return r.TS, nil
		}
		inquire := func(ref TxnRef, abort bool) Outcome {
			o, err := w.lead().Inquire(context.Background(), &InquireRequest{Txn: ref.ID, AnchorKey: []byte("k"), Abort: abort, Prepared: true})
			if err != nil {
				t.Fatal(err)
			}
			return o
		}
		a := w.txn(1)
		w.locked(&a, LockExclusive, "k")
		if o := inquire(a, false); o.Status != OutcomePending {
			t.Fatalf("undecided: %v", o)
		}
		if o := inquire(a, true); o.Status != OutcomeAborted {
			t.Fatalf("%v", o)
		}
		_, err := decide(a)
		aborts(t, err, AbortDecided)
		if n := w.lead().Stats().LocksHeld.Load(); n != 0 {
			t.Fatalf("%d locks of an aborted transaction", n)
		}

		b := w.txn(2)
		min := w.now() + 77
		s, err := decide(b)
		if err != nil || s < min {
			t.Fatalf("%d %v", s, err)
		}
		if o := inquire(b, true); o.Status != OutcomeCommitted || o.TS != s {
			t.Fatalf("%v", o)
		}
		if again, err := decide(b); err != nil || again != s {
			t.Fatalf("%d %v", again, err)
		}
		if len(w.decided) != 1 || w.decided[0].Txn != b.ID || w.decided[0].TS != s {
			t.Fatalf("announced %+v", w.decided)
		}
		// Undelivered: a new leader announces it again, until all have acknowledged.
		w.decided = nil
		w.g.elect(2, true)
		if len(w.decided) != 1 || string(w.decided[0].Participants[0].Key) != "far" {
			t.Fatalf("announced %+v", w.decided)
		}
		if err := w.lead().Forget(context.Background(), []keys.TxnID{b.ID, a.ID}); err != nil {
			t.Fatal(err)
		}
		w.decided = nil
		w.g.elect(0, true)
		if len(w.decided) != 0 {
			t.Fatalf("announced after all had acknowledged: %+v", w.decided)
		}
		if o := inquire(b, true); o.Status != OutcomeCommitted {
			t.Fatalf("recent outcome forgotten: %v", o)
		}
	})
}

// TestX5_Horizon: outcomes go by their gateway's word, by age or for room, and no
// stray commit or careless inquiry is fooled by that.
func TestX5_Horizon(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		old := w.txn(1)
		s := w.commit(old, put("k", "v"))
		long := w.txn(2)
		w.locked(&long, LockExclusive, "q")
		for range 40 { // its gateway lives
			time.Sleep(2 * time.Second)
			if _, err := w.lead().Heartbeat(context.Background(), &HeartbeatRequest{Target: Target{Generation: w.lead().Descriptor().Generation}, Client: 1, Txns: []keys.TxnID{long.ID}}); err != nil {
				t.Fatal(err)
			}
		}
		w.commit(w.txn(3), put("x", "x")) // carries time forward
		if n := w.lead().Replicated().Outcomes; n != 1 {
			t.Fatalf("%d outcomes kept", n)
		}
		var amb *AmbiguousError
		if _, err := w.lead().Commit(context.Background(), &CommitRequest{Txn: old, Writes: []Write{put("k", "again")}}); !errors.As(err, &amb) {
			t.Fatalf("a copy from beyond the horizon: %v", err)
		}
		ask := func(id keys.TxnID, prepared bool) Outcome {
			o, err := w.lead().Inquire(context.Background(), &InquireRequest{Txn: id, AnchorKey: []byte("k"), Abort: true, Prepared: prepared})
			if err != nil {
				t.Fatal(err)
			}
			return o
		}
		if o := ask(old.ID, false); o.Status != OutcomeUnknown {
			t.Fatalf("outcome of a forgotten commit: %v", o)
		}
		if got := get(t, w.lead(), w.now(), "k"); got != "v" {
			t.Fatalf("k = %s", got)
		}
		// Older than the horizon, but alive with its locks: it commits.
		if ts := w.commit(long, put("q", "long")); ts <= s {
			t.Fatal(ts)
		}
		// A prepared participant may take absence for an abort at any age, and then no
		// Decide can succeed.
		lost := w.txn(4)
		lost.ID.Age -= truetime.Timestamp(100 * time.Second)
		if o := ask(lost.ID, true); o.Status != OutcomeAborted {
			t.Fatalf("%v", o)
		}
		_, err := w.lead().Decide(context.Background(), &DecideRequest{Txn: lost, AnchorKey: []byte("k"), Writes: []Write{put("k", "lost")}})
		aborts(t, err, AbortDecided)

		// By word of the gateway: everything below has ended.
		fin := w.txn(5)
		if _, err := w.lead().Commit(context.Background(), &CommitRequest{Txn: fin, Writes: []Write{put("k", "fin")}, Finished: fin.ID.Seq}); err != nil {
			t.Fatal(err)
		}
		if n := w.lead().Replicated().Outcomes; n != 1 {
			t.Fatalf("%d outcomes kept, all but the last have ended", n)
		}
		stray := fin
		stray.ID.Seq--
		stray.ID.Age += 5
		_, err = w.lead().Commit(context.Background(), &CommitRequest{Txn: stray, Writes: []Write{put("k", "stray")}})
		aborts(t, err, AbortHorizon)
	})
}

// TestX5_InquiryInTheLogBeatsTheCommitBehindIt: both evaluated while undecided.
func TestX5_InquiryInTheLogBeatsTheCommitBehindIt(t *testing.T) {
	for _, inquiryFirst := range []bool{true, false} {
		bubble(t, nil, func(t *testing.T, w *world) {
			ref := w.txn(1)
			w.locked(&ref, LockExclusive, "k")
			w.g.hold()
			var o Outcome
			inquire := func() func() (bool, error) {
				return async(func() (err error) {
					o, err = w.lead().Inquire(context.Background(), &InquireRequest{Txn: ref.ID, AnchorKey: []byte("k"), Abort: true})
					return err
				})
			}
			commit := func() func() (bool, error) {
				return async(func() error {
					_, err := w.lead().Commit(context.Background(), &CommitRequest{Txn: ref, Writes: []Write{put("k", "v")}})
					return err
				})
			}
			var in, co func() (bool, error)
			if inquiryFirst {
				in = inquire()
				in()
				co = commit()
			} else {
				co = commit()
				co()
				in = inquire()
			}
			in()
			co()
			w.g.release()
			if ended, err := in(); !ended || err != nil {
				t.Fatal(err)
			}
			_, err := co()
			if inquiryFirst {
				aborts(t, err, AbortDecided)
			} else if err != nil {
				t.Fatal(err)
			}
			if want := map[bool]OutcomeStatus{true: OutcomeAborted, false: OutcomeCommitted}[inquiryFirst]; o.Status != want {
				t.Fatalf("outcome %v", o)
			}
			if got := get(t, w.lead(), w.now(), "k"); (got == "v") == inquiryFirst {
				t.Fatalf("k = %s", got)
			}
			if n := w.lead().Stats().LocksHeld.Load(); n != 0 {
				t.Fatalf("%d locks left", n)
			}
		})
	}
}

// TestX2_TermIsChecked: locks of an old term do not come back because the
// transaction has taken others since.
func TestX2_TermIsChecked(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		ref := w.txn(1)
		w.locked(&ref, LockShared, "k")
		w.g.elect(1, true)
		w.commit(w.txn(2), put("k", "other"))
		fresh := ref
		fresh.Term = 0
		w.locked(&fresh, LockShared, "j")
		_, err := w.lead().Commit(context.Background(), &CommitRequest{Txn: ref, Writes: []Write{put("k", "v")}})
		aborts(t, err, AbortLocksLost)
	})
}

// TestX2_WoundedWhileReading: what was read after the locks had gone is not shown.
func TestX2_WoundedWhileReading(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		w.commit(w.txn(0), put("k", "1"))
		steal := func() { w.commit(w.txn(1), put("k", "2")) }
		w.g.replicas[0].engine.onRead.Store(&steal)
		_, err := w.read(w.txn(9), LockShared, "k")
		aborts(t, err, AbortWounded)
	})
}

// TestR2_LeaseLostWhileReading: an answer is given under the lease or not at all.
func TestR2_LeaseLostWhileReading(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		s := w.commit(w.txn(0), put("k", "1"))
		lose := func() { w.g.mu.Lock(); w.g.valid = false; w.g.mu.Unlock() }
		var nl *paxosgroup.NotLeaderError
		for _, req := range []*ReadRequest{{At: s, Gets: []keys.Key{[]byte("k")}}, {Txn: w.txn(1), Lock: LockShared, Gets: []keys.Key{[]byte("k")}}} {
			w.g.replicas[0].engine.onRead.Store(&lose)
			if _, err := w.lead().Read(context.Background(), req); !errors.As(err, &nl) {
				t.Fatalf("answered without the lease: %v", err)
			}
			w.g.elect(0, true)
		}
	})
}

// TestX1_CommitOfReadsAlone logs nothing, and is still ordered before every later
// write of what it read.
func TestX1_CommitOfReadsAlone(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		s0 := w.commit(w.txn(0), put("k", "v"))
		ref := w.txn(1)
		r := w.locked(&ref, LockShared, "k")
		entries := len(w.g.log)
		got, err := w.lead().Commit(context.Background(), &CommitRequest{Txn: ref, MinTS: r.MaxSeen.Add(time.Second)})
		if err != nil || got.TS < s0.Add(time.Second) || len(w.g.log) != entries {
			t.Fatalf("%+v %v, %d entries logged", got, err, len(w.g.log)-entries)
		}
		if s := w.commit(w.txn(2), put("k", "w")); s <= got.TS {
			t.Fatalf("a later write at %d, the reads were committed at %d", s, got.TS)
		}
		// Its locks must have held: wounded, it fails.
		young := w.txn(9)
		w.locked(&young, LockShared, "k")
		w.commit(w.txn(3), put("k", "x"))
		_, err = w.lead().Commit(context.Background(), &CommitRequest{Txn: young})
		aborts(t, err, AbortWounded)
	})
}

func TestX5_StrayCommitBehindTheWordThatItEnded(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		stray, last := w.txn(1), w.txn(2)
		w.g.hold()
		a := async(func() error {
			_, err := w.lead().Commit(context.Background(), &CommitRequest{Txn: last, Writes: []Write{put("j", "v")}, Finished: last.ID.Seq})
			return err
		})
		a()
		b := async(func() error {
			_, err := w.lead().Commit(context.Background(), &CommitRequest{Txn: stray, Writes: []Write{put("k", "v")}})
			return err
		})
		b()
		w.g.release()
		if ended, err := a(); !ended || err != nil {
			t.Fatal(err)
		}
		_, err := b()
		aborts(t, err, AbortHorizon)
	})
}

// lockAll takes shared or exclusive locks on points and ranges.
func (w *world) lockAll(ref *TxnRef, lock LockStrength, points []keys.Key, ranges []Scan) {
	w.t.Helper()
	r, err := w.lead().Read(context.Background(), &ReadRequest{Txn: *ref, Lock: lock, Gets: points, Scans: ranges, MaxBytes: 1 << 30})
	if err != nil {
		w.t.Fatal(err)
	}
	ref.Term = r.Term
}

// TestX3_PrepareWithManyLocks: the locks of a large read set, points and ranges, are
// replicated in one command, wider ones standing for many, but never over what
// others hold in between.
func TestX3_PrepareWithManyLocks(t *testing.T) {
	for _, every := range []int{4000, 100, 1} { // how often another transaction's lock lies in between
		bubble(t, nil, func(t *testing.T, w *world) {
			key := func(i int) string { return fmt.Sprintf("k%05d", i) + strings.Repeat("x", 300) }
			var points, theirs []keys.Key
			var ranges []Scan
			for i := range 4000 {
				if i%2 == 0 {
					points = append(points, []byte(key(i)))
				} else {
					ranges = append(ranges, Scan{Span: keys.Span{Start: []byte(key(i)), End: []byte(key(i) + "b")}})
				}
				if i%every == every/2 {
					theirs = append(theirs, []byte(key(i)+"y"))
				}
			}
			ref, other := w.txn(0), w.txn(1)
			w.lockAll(&other, LockExclusive, theirs, nil)
			w.lockAll(&ref, LockShared, points, ranges)
			_, err := w.lead().Prepare(context.Background(), &PrepareRequest{Txn: ref, AnchorKey: points[0], Coordinator: Anchor{Group: 9, Key: []byte("coord")}})
			if every == 1 {
				aborts(t, err, AbortRefused) // to be tried again, not too large for ever
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			w.commit(other, Write{Key: theirs[0], Value: []byte("free")})
			w.g.elect(1, true)
			for i := range 4000 {
				_, err := w.lead().Commit(context.Background(), &CommitRequest{Txn: w.txn(9), Writes: []Write{put(key(i), "x")}})
				aborts(t, err, AbortRefused)
			}
		})
	}
}
