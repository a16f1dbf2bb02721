package tablet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/storage"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/truetime"
)

func (w *world) stage(ref *TxnRef, seq uint32, ws ...Write) {
	w.t.Helper()
	r, err := w.lead().Stage(context.Background(), &StageRequest{Txn: *ref, Seq: seq, Writes: ws})
	if err != nil {
		w.t.Fatalf("stage: %v", err)
	}
	ref.Term = r.Term
}

// stagedLeft counts the chunks in a replica's engine.
func stagedLeft(r *fakeReplica) int {
	n := 0
	it := r.engine.NewIter([]byte{byte(storage.ClassStage)}, []byte{byte(storage.ClassStage) + 1})
	for ok := it.SeekGE([]byte{byte(storage.ClassStage)}); ok; ok = it.Next() {
		if it.Key()[9] == 1 { // not a witness
			n++
		}
	}
	return n
}

func TestStagedCommitIsAtomicAndBecomesVersions(t *testing.T) {
	for _, failover := range []bool{false, true} {
		bubble(t, nil, func(t *testing.T, w *world) {
			w.commit(w.txn(0), put("k3", "old"), put("k9", "old"))
			before := w.now()
			ref := w.txn(1)
			w.stage(&ref, 0, put("k1", "a"), put("k3", "b"))
			w.stage(&ref, 1, put("k3", "c"), put("k5", "d"))
			w.stage(&ref, 1, put("k3", "c"), put("k5", "d")) // a copy
			if got := get(t, w.lead(), w.now(), "k3"); got != "old" {
				t.Fatalf("undecided chunk is visible: %s", got)
			}
			if _, err := w.lead().Commit(context.Background(), &CommitRequest{Txn: w.txn(9), Writes: []Write{put("k5", "x")}}); err == nil {
				t.Fatal("a staged key is not locked")
			}
			// Nothing is materialised while the log is held behind the commit.
			w.g.hold()
			done := async(func() error {
				_, err := w.lead().Commit(context.Background(), &CommitRequest{Txn: ref, Staged: 2, Writes: []Write{put("k1", "last"), del("k9")}})
				return err
			})
			done()
			w.g.pump()
			if ended, err := done(); !ended || err != nil {
				t.Fatalf("commit %v", err)
			}
			at := w.now()
			rows := ""
			read := async(func() error {
				r, err := w.lead().Read(context.Background(), &ReadRequest{At: at, Scans: []Scan{{Span: keys.Span{Start: []byte("k"), End: []byte("l")}}}})
				if err == nil {
					rows = fmt.Sprintf("%s", r.Scans[0].Rows)
				}
				return err
			})
			if ended, _ := read(); ended {
				t.Fatalf("read a commit that is not versions yet: %s", rows)
			}
			if got := get(t, w.lead(), before, "k3"); got != "old" {
				t.Fatalf("below the commit: %s", got)
			}
			if failover {
				w.g.elect(1, false)
				if ended, err := read(); !ended || err == nil {
					t.Fatalf("the old leader answered: %s", rows)
				}
				read = async(func() error {
					r, err := w.lead().Read(context.Background(), &ReadRequest{At: at, Scans: []Scan{{Span: keys.Span{Start: []byte("k"), End: []byte("l")}}}})
					if err == nil {
						rows = fmt.Sprintf("%s", r.Scans[0].Rows)
					}
					return err
				})
				if ended, _ := read(); ended {
					t.Fatal("a new leader forgot what is to be materialised")
				}
			}
			w.g.release()
			if ended, err := read(); !ended || err != nil || rows != "[{k1 last} {k3 c} {k5 d}]" {
				t.Fatalf("%v %v %s", ended, err, rows)
			}
			for _, r := range w.g.replicas {
				if n := stagedLeft(r); n != 0 {
					t.Fatalf("replica %d keeps %d chunks", r.n, n)
				}
			}
			if n := w.lead().Stats().LocksHeld.Load(); n != 0 {
				t.Fatalf("%d locks left", n)
			}
			w.commit(w.txn(10), put("k5", "after"))
		})
	}
}

func TestX3_StagedPrepare(t *testing.T) {
	for _, status := range []OutcomeStatus{OutcomeCommitted, OutcomeAborted} {
		bubble(t, nil, func(t *testing.T, w *world) {
			ref := w.txn(1)
			w.stage(&ref, 0, put("k1", "a"))
			r, err := w.lead().Prepare(context.Background(), &PrepareRequest{Txn: ref, Staged: 1, Writes: []Write{put("k2", "b")}, AnchorKey: []byte("k1")})
			if err != nil {
				t.Fatal(err)
			}
			w.g.elect(1, true)
			_, err = w.lead().Commit(context.Background(), &CommitRequest{Txn: w.txn(9), Writes: []Write{put("k2", "x")}})
			aborts(t, err, AbortRefused)
			w.resolve(ref, "k1", Outcome{status, r.TS + 10})
			time.Sleep(time.Second)
			want := "a b"
			if status == OutcomeAborted {
				want = "- -"
			}
			if got := get(t, w.lead(), w.now(), "k1") + " " + get(t, w.lead(), w.now(), "k2"); got != want {
				t.Fatalf("%s, want %s", got, want)
			}
			if n := stagedLeft(w.g.replicas[0]); n != 0 {
				t.Fatalf("%d chunks left", n)
			}
		})
	}
}

// TestX2_StagedLocksLostWithTheLeader: chunks of an unprepared transaction are of
// no use to a new leader, and go.
func TestX2_StagedLocksLostWithTheLeader(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		ref := w.txn(1)
		w.stage(&ref, 0, put("k1", "a"))
		w.g.elect(1, true)
		_, err := w.lead().Commit(context.Background(), &CommitRequest{Txn: ref, Staged: 1})
		aborts(t, err, AbortLocksLost)
		time.Sleep(2 * time.Second)
		if n := stagedLeft(w.g.replicas[1]); n != 0 {
			t.Fatalf("%d chunks left", n)
		}
		// So with an abort, a wound, and a chunk that never came.
		ref = w.txn(2)
		w.stage(&ref, 0, put("k1", "a"))
		if err := w.lead().Abort(context.Background(), &AbortRequest{Txn: ref}); err != nil {
			t.Fatal(err)
		}
		ref = w.txn(3)
		w.stage(&ref, 0, put("k1", "a"))
		w.stage(&ref, 2, put("k3", "a"))
		_, err = w.lead().Commit(context.Background(), &CommitRequest{Txn: ref, Staged: 3})
		aborts(t, err, AbortLocksLost)
		time.Sleep(2 * time.Second)
		if n := stagedLeft(w.g.replicas[1]); n != 0 {
			t.Fatalf("%d chunks left", n)
		}
	})
}

func TestOwnStagedWritesAreRead(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		w.commit(w.txn(0), put("k2", "old"), put("k4", "old"), put("k6", "old"))
		ref := w.txn(1)
		w.stage(&ref, 0, put("k1", "n1"), put("k4", "n4"))
		w.stage(&ref, 1, del("k2"), put("k5", "n5"), put("k1", "m1"))
		r := w.locked(&ref, LockShared, "k1", "k2", "k4", "k6", "k7")
		got := ""
		for _, v := range r.Gets {
			got += fmt.Sprintf("%v:%s ", v.Exists, v.Bytes)
		}
		if got != "true:m1 false: true:n4 true:old false: " {
			t.Fatal(got)
		}
		for _, c := range []struct {
			s    Scan
			want string
		}{
			{Scan{Span: keys.Span{Start: []byte("k"), End: []byte("l")}}, "[{k1 m1} {k4 n4} {k5 n5} {k6 old}]"},
			{Scan{Span: keys.Span{Start: []byte("k"), End: []byte("l")}, Reverse: true}, "[{k6 old} {k5 n5} {k4 n4} {k1 m1}]"},
			{Scan{Span: keys.Span{Start: []byte("k"), End: []byte("l")}, MaxRows: 2}, "[{k1 m1} {k4 n4}]"},
			{Scan{Span: keys.Span{Start: []byte("k4"), End: []byte("k5")}, Reverse: true, MaxRows: 2}, "[{k4 n4}]"},
			{Scan{Span: keys.Span{Start: []byte("k2"), End: []byte("k4")}}, "[]"},
			{Scan{Span: keys.Span{Start: []byte("k6"), End: []byte("k9")}}, "[{k6 old}]"},
			{Scan{Span: keys.Span{Start: []byte("k5")}}, "[{k5 n5}]"},
		} {
			r, err := w.lead().Read(context.Background(), &ReadRequest{Txn: ref, Lock: LockShared, Scans: []Scan{c.s}})
			if err != nil || fmt.Sprintf("%s", r.Scans[0].Rows) != c.want {
				t.Errorf("%v: %s, want %s (%v)", c.s, r.Scans[0].Rows, c.want, err)
			}
		}
		w.commit(w.txn(2), put("q", "q"))
		if _, err := w.lead().Commit(context.Background(), &CommitRequest{Txn: ref, Staged: 2}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if got := get(t, w.lead(), w.now(), "k1"); got != "m1" {
			t.Fatal(got)
		}
	})
}

// TestCommitBeyondOneCommand: a commit of more than a command holds is cut into
// chunks by the tablet itself, and is as idempotent as any.
func TestCommitBeyondOneCommand(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		big := bytes.Repeat([]byte("x"), 100<<10)
		var ws []Write
		for i := range 30 {
			ws = append(ws, Write{Key: fmt.Appendf(nil, "k%02d", i), Value: big})
		}
		ref := w.txn(1)
		s := w.commit(ref, ws...)
		if again := w.commit(ref, ws...); again != s {
			t.Fatalf("%d, then %d", s, again)
		}
		time.Sleep(time.Second)
		n := 0
		span := keys.Span{Start: []byte("k"), End: []byte("l")}
		for {
			r, err := w.lead().Read(context.Background(), &ReadRequest{At: w.now(), Scans: []Scan{{Span: span}}})
			if err != nil {
				t.Fatal(err)
			}
			n += len(r.Scans[0].Rows)
			if len(r.Scans[0].Rows) > 11 {
				t.Fatalf("%d rows of 100 KiB in one answer", len(r.Scans[0].Rows))
			}
			if !r.Scans[0].More {
				break
			}
			span = r.Scans[0].Resume
		}
		if n != 30 {
			t.Fatalf("%d rows", n)
		}
		_, err := w.lead().Commit(context.Background(), &CommitRequest{Txn: w.txn(2), Writes: []Write{{Key: []byte("k"), Value: make([]byte, 2<<20)}}})
		if !errors.Is(err, paxosgroup.ErrTooLarge) {
			t.Fatal(err)
		}
	})
}

func TestCollectKeepsWhatReadersNeed(t *testing.T) {
	bubble(t, func(c *Config) { c.VersionHorizon = time.Minute }, func(t *testing.T, w *world) {
		w.commit(w.txn(0), put("a1", "1"), put("b1", "1"), put("c1", "1"))
		time.Sleep(time.Second)
		w.commit(w.txn(1), put("a1", "2"), del("b1"))
		time.Sleep(time.Second)
		for range 5000 {
			w.commit(w.txn(2), put("d1", "x"))
		}
		w.commit(w.txn(2), del("d1"))
		time.Sleep(59 * time.Second)
		mid := w.now() - 1
		w.commit(w.txn(3), put("a1", "3"))
		time.Sleep(30 * time.Second)
		w.commit(w.txn(4), put("a1", "4"))
		now := w.now()
		n, err := w.lead().Collect(context.Background())
		if err != nil || n != 1+2+5001 {
			t.Fatalf("collected %d: %v", n, err)
		}
		if w.lead().mvcc.collected.Load()%2 != 0 {
			t.Fatal("a collection that can be seen keeps reverse scans in doubt")
		}
		if got := get(t, w.lead(), mid, "a1") + get(t, w.lead(), now, "a1") + get(t, w.lead(), mid, "b1") + get(t, w.lead(), mid, "c1") + get(t, w.lead(), mid, "d1"); got != "24-1-" {
			t.Fatal(got)
		}
		var old *TooOldError
		if _, err := w.lead().Read(context.Background(), &ReadRequest{At: w.lead().LowWater() - 1, Gets: []keys.Key{[]byte("a1")}}); !errors.As(err, &old) {
			t.Fatalf("a read below the low-water mark: %v", err)
		}
		if n, err := w.lead().Collect(context.Background()); err != nil || n != 0 {
			t.Fatalf("again %d: %v", n, err)
		}
	})
}

// TestX4_ReverseScanMeetsCollect: a scan holds a version, and before it has seen the
// delete above it, both are collected.
func TestX4_ReverseScanMeetsCollect(t *testing.T) {
	for _, applied := range []bool{true, false} { // the collection comes, or only becomes visible, meanwhile
		for _, span := range []string{"b0", "a"} { // the key is followed by another one, or by the end
			bubble(t, func(c *Config) { c.VersionHorizon = time.Minute }, func(t *testing.T, w *world) {
				w.commit(w.txn(0), put("a1", "kept"), put("b1", "gone"), put("c1", "last"))
				time.Sleep(time.Second)
				w.commit(w.txn(1), del("b1"))
				time.Sleep(2 * time.Minute)
				collect := func() func() (bool, error) {
					return async(func() error {
						n, err := w.lead().Collect(context.Background())
						if err == nil && n != 2 {
							err = fmt.Errorf("collected %d", n)
						}
						return err
					})
				}
				var collected func() (bool, error)
				if !applied {
					w.g.setHidden(true)
					collected = collect()
					collected()
				}
				want, got := "c1=last ", ""
				if span == "a" {
					want += "a1=kept "
				}
				err := w.lead().mvcc.scan(keys.Span{Start: []byte(span), End: []byte("d")}, truetime.Max, true, func(k keys.Key, v []byte, _ truetime.Timestamp, exists bool) bool {
					if string(k) == "c1" {
						if w.g.setHidden(false); applied {
							collected = collect()
						}
						if ended, err := collected(); !ended || err != nil {
							t.Fatal(ended, err)
						}
					}
					if exists {
						got += string(k) + "=" + string(v) + " "
					}
					return true
				})
				if err != nil || got != want {
					t.Fatalf("%q %v, want %q", got, err, want)
				}
			})
		}
	}
}

// MaxBytes bounds what gets return, too, as long as one is answered; the reader asks
// again for the rest.
func TestGetsAreBounded(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		ks := []string{"k1", "k2", "k3", "k4"}
		for i, k := range ks {
			w.commit(w.txn(int64(i)), put(k, "0123456789"))
		}
		for _, c := range []struct{ max, want int }{{1, 1}, {10, 1}, {11, 2}, {30, 3}, {40, 4}, {0, 4}} {
			for _, lock := range []LockStrength{LockNone, LockShared} {
				req := &ReadRequest{Lock: lock, MaxBytes: c.max}
				if lock == LockNone {
					req.At = w.now()
				} else {
					req.Txn = w.txn(9)
				}
				for _, k := range ks {
					req.Gets = append(req.Gets, keys.Key(k))
				}
				r, err := w.lead().Read(context.Background(), req)
				if err != nil || len(r.Gets) != c.want || string(r.Gets[c.want-1].Bytes) != "0123456789" {
					t.Errorf("lock %d, at most %d bytes: %+v, %v", lock, c.max, r, err)
				}
			}
		}
	})
}

// A transaction that writes a key in a chunk and again at its commit has, for a moment,
// a version whose value is not its last word. Who guesses from it at another replica
// would have the leader confirm the timestamp, and go on with the wrong value (X2).
func TestX2_NoGuessWhileChunksBecomeVersions(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		w.commit(w.txn(0), put("k", "old"), put("q", "old"))
		guess := func(k string) string {
			r, err := w.g.replicas[1].sm.Read(context.Background(), &ReadRequest{Guess: true, Gets: []keys.Key{[]byte(k)}})
			if err != nil {
				return "refused"
			}
			return string(r.Gets[0].Bytes)
		}
		if got := guess("k"); got != "old" {
			t.Fatal(got)
		}
		ref := w.txn(1)
		w.stage(&ref, 0, put("k", "first"))
		w.g.hold()
		done := async(func() error {
			_, err := w.lead().Commit(context.Background(), &CommitRequest{Txn: ref, Staged: 1, Writes: []Write{put("k", "last")}})
			return err
		})
		done()
		seen := map[string]bool{}
		for range 6 {
			w.g.pump()
			done()
			seen[guess("k")] = true
			if got := guess("q"); got != "old" {
				t.Errorf("guess elsewhere: %s", got)
			}
		}
		w.g.release()
		if ended, err := done(); !ended || err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // the chunks
		seen[guess("k")] = true
		if seen["first"] || !seen["refused"] || !seen["last"] {
			t.Fatalf("guesses: %v", seen)
		}
	})
}
