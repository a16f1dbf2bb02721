package tablet

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/paxosgroup"
)

// bubble runs f in virtual time with a tablet of three replicas.
func bubble(t *testing.T, tune func(*Config), f func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, tune)
		defer w.close()
		f(t, w)
		w.sameState()
	})
}

func aborts(t *testing.T, err error, reason AbortReason) *AbortedError {
	t.Helper()
	var a *AbortedError
	if !errors.As(err, &a) || a.Reason != reason {
		t.Fatalf("got %v, want aborted: %v", err, reason)
	}
	return a
}

func TestOnePhaseCommitAndRead(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		before := w.now()
		s1 := w.commit(w.txn(1), put("b1", "one"), put("b2", "two"))
		s2 := w.commit(w.txn(2), put("b1", "uno"), del("b2"))
		if s2 <= s1 || s1 < before {
			t.Fatalf("timestamps %d, %d from %d", s1, s2, before)
		}
		lead := w.lead()
		for _, c := range []struct {
			at   int64
			k, v string
		}{{int64(s1) - 1, "b1", "-"}, {int64(s1), "b1", "one"}, {int64(s1), "b2", "two"}, {int64(s2), "b1", "uno"}, {int64(s2), "b2", "-"}} {
			if got := get(t, lead, tsOf(c.at), c.k); got != c.v {
				t.Errorf("%s at %d: %s, want %s", c.k, c.at, got, c.v)
			}
		}
		r, err := w.read(w.txn(3), LockShared, "b1", "b2")
		if err != nil || string(r.Gets[0].Bytes) != "uno" || r.Gets[1].Exists || r.MaxSeen != s2 {
			t.Fatalf("locking read: %+v %v", r, err)
		}
	})
}

func TestX5_CommitIsIdempotent(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		ref := w.txn(1)
		r, err := w.read(ref, LockExclusive, "k")
		if err != nil {
			t.Fatal(err)
		}
		ref.Term = r.Term
		s := w.commit(ref, put("k", "v"))
		w.commit(w.txn(2), put("k", "later"))
		if again := w.commit(ref, put("k", "v")); again != s {
			t.Fatalf("a copy committed at %d, the first at %d", again, s)
		}
		// Also after a fail-over, and for one that never had a lock.
		w.g.elect(1, true)
		if again := w.commit(ref, put("k", "v")); again != s {
			t.Fatalf("after fail-over: %d, want %d", again, s)
		}
		blind := w.txn(3)
		s3 := w.commit(blind, put("m", "x"))
		if again := w.commit(blind, put("m", "x")); again != s3 {
			t.Fatalf("blind copy: %d, want %d", again, s3)
		}
		if got := get(t, w.lead(), w.now(), "k"); got != "later" {
			t.Fatalf("k = %s", got)
		}
	})
}

// TestX5_CommitOlderThanTheHorizon: refused, unless the transaction is known here,
// by a lock that it has taken before.
func TestX5_CommitOlderThanTheHorizon(t *testing.T) {
	bubble(t, func(c *Config) { c.ClientSilence = time.Hour }, func(t *testing.T, w *world) {
		within, beyond, locked := w.txn(0), w.txn(0), w.txn(0)
		w.locked(&locked, LockExclusive, "c")
		time.Sleep(defaultHorizon - time.Second)
		w.commit(within, put("a", "1"))
		time.Sleep(2 * time.Second)
		_, err := w.lead().Commit(context.Background(), &CommitRequest{Txn: beyond, Writes: []Write{put("b", "1")}})
		aborts(t, err, AbortHorizon)
		_, err = w.lead().Prepare(context.Background(), &PrepareRequest{Txn: beyond, Writes: []Write{put("b", "1")}, AnchorKey: []byte("b")})
		aborts(t, err, AbortHorizon)
		w.commit(locked, put("c", "1"))
	})
}

func TestX5_AmbiguousCommitIsSettledByInquiry(t *testing.T) {
	for _, kept := range []bool{true, false} {
		bubble(t, nil, func(t *testing.T, w *world) {
			ref := w.txn(1)
			w.g.hold()
			errc := make(chan error, 1)
			go func() {
				_, err := w.lead().Commit(context.Background(), &CommitRequest{Txn: ref, Writes: []Write{put("k", "v")}})
				errc <- err
			}()
			synctest.Wait()
			w.g.elect(1, kept)
			var amb *AmbiguousError
			if err := <-errc; !errors.As(err, &amb) {
				t.Fatalf("got %v, want ambiguous", err)
			}
			w.g.release()
			o, err := w.lead().Inquire(context.Background(), &InquireRequest{Txn: ref.ID, AnchorKey: []byte("k"), Abort: true})
			if err != nil {
				t.Fatal(err)
			}
			want := OutcomeAborted
			if kept {
				want = OutcomeCommitted
			}
			if o.Status != want {
				t.Fatalf("kept=%v: outcome %v", kept, o)
			}
			_, err = w.lead().Commit(context.Background(), &CommitRequest{Txn: ref, Writes: []Write{put("k", "v")}})
			if kept != (err == nil) {
				t.Fatalf("kept=%v: a copy of the commit: %v", kept, err)
			}
			if !kept {
				aborts(t, err, AbortDecided)
			}
			if got := get(t, w.lead(), w.now(), "k"); (got == "v") != kept {
				t.Fatalf("kept=%v: k = %s", kept, got)
			}
		})
	}
}

func TestB1_StaleMapIsRefused(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		_, err := w.read(w.txn(1), LockShared, "zz")
		var re *RangeError
		if !errors.As(err, &re) || re.Descriptors[0].Group != 7 {
			t.Fatalf("got %v", err)
		}
		_, err = w.lead().Commit(context.Background(), &CommitRequest{Txn: w.txn(2), Writes: []Write{put("k", "v"), put("zz", "v")}})
		if !errors.As(err, &re) {
			t.Fatalf("got %v", err)
		}
		_, err = w.lead().Read(context.Background(), &ReadRequest{At: w.now(), Scans: []Scan{{Span: keys.Span{Start: []byte("b"), End: []byte("zz")}}}})
		if !errors.As(err, &re) {
			t.Fatalf("got %v", err)
		}
	})
}

func TestR4_NoServiceWithoutLease(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		s := w.commit(w.txn(1), put("k", "v"))
		old := w.lead()
		ref := w.txn(2)
		r, err := w.read(ref, LockExclusive, "k")
		if err != nil {
			t.Fatal(err)
		}
		ref.Term = r.Term
		w.g.elect(1, true)
		var nl *paxosgroup.NotLeaderError
		if _, err := old.Read(context.Background(), &ReadRequest{At: s, Gets: []keys.Key{[]byte("k")}}); !errors.As(err, &nl) || nl.Leader != 2 {
			t.Fatalf("old leader answered: %v", err)
		}
		if _, err := old.Commit(context.Background(), &CommitRequest{Txn: ref}); !errors.As(err, &nl) {
			t.Fatalf("old leader committed: %v", err)
		}
		// X2: the locks of the old term are lost.
		_, err = w.lead().Commit(context.Background(), &CommitRequest{Txn: ref, Writes: []Write{put("k", "x")}})
		aborts(t, err, AbortLocksLost)
		w.g.mu.Lock()
		w.g.valid = false
		w.g.mu.Unlock()
		if _, err := w.lead().Read(context.Background(), &ReadRequest{At: s, Gets: []keys.Key{[]byte("k")}}); !errors.As(err, &nl) {
			t.Fatalf("leader without lease answered: %v", err)
		}
	})
}

func TestScansBothWays(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		var s [3]int64
		for i := range 3 {
			var ws []Write
			for k := range 20 {
				if i == 2 && k%5 == 0 {
					ws = append(ws, del(fmt.Sprintf("k%02d", k)))
				} else if i == 0 || k%2 == 0 {
					ws = append(ws, put(fmt.Sprintf("k%02d", k), fmt.Sprintf("%d-%d", k, i)))
				}
			}
			s[i] = int64(w.commit(w.txn(int64(i)), ws...))
		}
		// Many versions of one key make scans seek instead of step.
		for i := range 12 {
			w.commit(w.txn(int64(10+i)), put("k07", fmt.Sprint("v", i)))
		}
		want := func(at int, k int) string {
			v := "-"
			for i := 0; i <= at; i++ {
				if i == 2 && k%5 == 0 {
					v = "-"
				} else if i == 0 || k%2 == 0 {
					v = fmt.Sprintf("%d-%d", k, i)
				}
			}
			return v
		}
		for at := range 3 {
			for _, reverse := range []bool{false, true} {
				for _, limit := range []int{0, 1, 3, 7} {
					span := keys.Span{Start: []byte("k03"), End: []byte("k17")}
					var got []string
					for n := 0; n < 40; n++ {
						r, err := w.lead().Read(context.Background(), &ReadRequest{At: tsOf(s[at]), Scans: []Scan{{Span: span, Reverse: reverse, MaxRows: limit}}})
						if err != nil {
							t.Fatal(err)
						}
						for _, kv := range r.Scans[0].Rows {
							got = append(got, string(kv.Key)+"="+string(kv.Value))
						}
						if !r.Scans[0].More {
							break
						}
						span = r.Scans[0].Resume
					}
					var exp []string
					for k := 3; k < 17; k++ {
						x := k
						if reverse {
							x = 19 - k
						}
						if v := want(at, x); v != "-" {
							exp = append(exp, fmt.Sprintf("k%02d=%s", x, v))
						}
					}
					if fmt.Sprint(got) != fmt.Sprint(exp) {
						t.Errorf("at %d reverse=%v limit=%d:\n got %v\nwant %v", at, reverse, limit, got, exp)
					}
				}
			}
		}
	})
}
