package tablet

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/paxosgroup"
)

// TestX2_SilentGateway: its locks go, its commit fails.
func TestX2_SilentGateway(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		ref, alive := w.txn(1), w.txn(2)
		w.locked(&ref, LockExclusive, "k")
		w.locked(&alive, LockExclusive, "q")
		waits := async(func() error { r := w.txn(3); _, err := w.read(r, LockExclusive, "k"); return err })
		for range 7 {
			time.Sleep(time.Second)
			r, err := w.lead().Heartbeat(context.Background(), &HeartbeatRequest{Target: Target{Generation: w.lead().Descriptor().Generation}, Client: 1, Txns: []keys.TxnID{alive.ID, {Age: 5, Node: 9, Seq: 9}}})
			if err != nil || len(r.Lost) != 1 {
				t.Fatalf("%+v %v", r, err)
			}
		}
		if ended, err := waits(); !ended || err != nil {
			t.Fatalf("lock of a silent gateway still held: %v", err)
		}
		_, err := w.lead().Commit(context.Background(), &CommitRequest{Txn: ref, Writes: []Write{put("k", "v")}})
		aborts(t, err, AbortLocksLost)
		w.commit(alive, put("q", "v"))
	})
}

// TestX2_ForgottenWhileReading: a first request that takes longer than its transaction
// is remembered without locks gets none afterwards, since nobody would release them.
func TestX2_ForgottenWhileReading(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		ref := w.txn(1)
		lt := w.lead().leader.Load().lt
		tx, err := lt.txn(&ref, true)
		if err != nil {
			t.Fatal(err)
		}
		w.lead().leader.Load().arm()
		time.Sleep(10 * time.Second) // it looks for its first row
		_, err = lt.acquire(context.Background(), tx, keys.Span{Start: []byte("k")}, LockExclusive, WaitBlock, false)
		aborts(t, err, AbortLocksLost)
		w.commit(w.txn(2), put("k", "1"))
	})
}

// TestX2_WoundedReadSeesNothing: who is wounded while it reads must not get what
// it read, and its commit fails with the reason.
func TestX2_WoundedCommitFails(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		young, old := w.txn(9), w.txn(1)
		w.locked(&young, LockShared, "k")
		w.locked(&old, LockExclusive, "k")
		_, err := w.lead().Commit(context.Background(), &CommitRequest{Txn: young, Writes: []Write{put("j", "v")}})
		if a := aborts(t, err, AbortWounded); a.By != old.ID || string(a.Key) != "k" {
			t.Fatalf("%+v", a)
		}
		_, err = w.read(young, LockShared, "j")
		aborts(t, err, AbortWounded)
		w.commit(old, put("k", "v"))
	})
}

// TestX2_NoPhantoms: a scan locks what it has seen, not more.
func TestX2_NoPhantoms(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		w.commit(w.txn(0), put("d", "1"), put("f", "2"), put("h", "3"))
		scan := func(ref *TxnRef, s Scan) []KV {
			r, err := w.lead().Read(context.Background(), &ReadRequest{Txn: *ref, Lock: LockShared, Scans: []Scan{s}})
			if err != nil {
				t.Fatal(err)
			}
			ref.Term = r.Term
			return r.Scans[0].Rows
		}
		ref := w.txn(1)
		if rows := scan(&ref, Scan{Span: keys.Span{Start: []byte("c"), End: []byte("k")}, MaxRows: 2}); len(rows) != 2 {
			t.Fatal(rows)
		}
		insert := func(k string) error {
			_, err := w.lead().Commit(context.Background(), &CommitRequest{Txn: w.txn(5), Writes: []Write{put(k, "x")}})
			return err
		}
		for _, k := range []string{"c", "e", "f"} {
			aborts(t, insert(k), AbortRefused)
		}
		if err := insert("g"); err != nil {
			t.Fatalf("behind the page: %v", err)
		}
		back := w.txn(2)
		if rows := scan(&back, Scan{Span: keys.Span{Start: []byte("m"), End: []byte("p")}, Reverse: true, MaxRows: 1}); len(rows) != 0 {
			t.Fatal(rows)
		}
		aborts(t, insert("n"), AbortRefused) // an empty answer locks all of it
		w.commit(ref, put("c", "own"))
		w.commit(back)
		if err := insert("n"); err != nil {
			t.Fatal(err)
		}

		// A row that is committed and gone between looking and locking is seen.
		quick := func() {
			if err := insert("dd"); err != nil {
				t.Error(err)
			}
		}
		between := w.txn(8)
		w.g.replicas[0].engine.afterSeek = quick
		if rows := scan(&between, Scan{Span: keys.Span{Start: []byte("d"), End: []byte("e")}}); len(rows) != 2 {
			t.Fatalf("%q", rows)
		}
		w.commit(between, del("dd"))

		// A row that arrives between looking and locking is seen or locked out.
		w.g.hold()
		in := async(func() error { return insert("e") })
		in()
		late := w.txn(7)
		var rows []KV
		done := async(func() error {
			rows = scan(&late, Scan{Span: keys.Span{Start: []byte("d"), End: []byte("g")}})
			return nil
		})
		if ended, _ := done(); ended {
			t.Fatal("scanned over a lock")
		}
		w.g.release()
		if ended, _ := done(); !ended || len(rows) != 3 {
			t.Fatalf("%v %q", ended, rows)
		}
	})
}

func TestX2_SkipLockedAndNoWait(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		w.commit(w.txn(0), put("j1", "a"), put("j2", "b"), put("j3", "c"))
		one, two := w.txn(9), w.txn(1)
		jobs := func(ref *TxnRef, p WaitPolicy, max int) (string, error) {
			r, err := w.lead().Read(context.Background(), &ReadRequest{Txn: *ref, Lock: LockExclusive, Wait: p,
				Scans: []Scan{{Span: keys.Span{Start: []byte("j"), End: []byte("k")}, MaxRows: max}}})
			if err != nil {
				return "", err
			}
			ref.Term = r.Term
			out := ""
			for _, kv := range r.Scans[0].Rows {
				out += string(kv.Value)
			}
			return out, nil
		}
		if got, err := jobs(&one, WaitSkip, 1); err != nil || got != "a" {
			t.Fatalf("%q %v", got, err)
		}
		if got, err := jobs(&two, WaitSkip, 1); err != nil || got != "b" {
			t.Fatalf("%q %v", got, err)
		}
		var un *LockUnavailableError
		three := w.txn(0)
		if _, err := jobs(&three, WaitNoWait, 0); !errors.As(err, &un) || string(un.Key) == "" {
			t.Fatalf("%v", err)
		}
		w.commit(one, del("j1"))
		w.commit(two, del("j2"))
		if got, err := jobs(&three, WaitSkip, 0); err != nil || got != "c" {
			t.Fatalf("%q %v", got, err)
		}
	})
}

func TestB2_CommitBoundAndTooLate(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		ref := w.txn(1)
		w.locked(&ref, LockExclusive, "k")
		_, err := w.lead().Commit(context.Background(), &CommitRequest{Txn: ref, Writes: []Write{put("k", "v")}, MaxTS: w.now() - 1})
		aborts(t, err, AbortTooLate)
		if n := w.lead().Stats().LocksHeld.Load(); n != 0 {
			t.Fatalf("%d locks left", n)
		}
		// What never entered the log leaves the transaction as it was.
		again := w.txn(2)
		w.locked(&again, LockExclusive, "k")
		w.g.mu.Lock()
		w.g.failing = paxosgroup.ErrDiskFull
		w.g.mu.Unlock()
		if _, err := w.lead().Commit(context.Background(), &CommitRequest{Txn: again, Writes: []Write{put("k", "v")}}); !errors.Is(err, paxosgroup.ErrDiskFull) {
			t.Fatal(err)
		}
		w.g.mu.Lock()
		w.g.failing = nil
		w.g.mu.Unlock()
		w.commit(again, put("k", "v"))
	})
}

// TestX2_PlaceInTheQueue: a gateway bounds its calls to another node and asks again.
// That costs neither its transaction the place nor a younger one its life.
func TestX2_PlaceInTheQueue(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		holder, remote, younger := w.txn(0), w.txn(1), w.txn(2)
		w.locked(&holder, LockExclusive, "k")
		call := func() func() (bool, error) {
			return async(func() error {
				ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
				defer cancel()
				_, err := w.lead().Read(ctx, &ReadRequest{Txn: remote, Lock: LockExclusive, Gets: []keys.Key{[]byte("k")}})
				return err
			})
		}
		first := call()
		first()
		behind := async(func() error { _, err := w.read(younger, LockExclusive, "k"); return err })
		behind()
		time.Sleep(3 * time.Second)
		if ended, err := first(); !ended || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(ended, err)
		}
		time.Sleep(100 * time.Millisecond)
		second := call()
		if ended, err := second(); ended {
			t.Fatal(err)
		}
		w.commit(holder, put("k", "1"))
		if ended, err := second(); !ended || err != nil {
			t.Fatalf("asked again: %v %v", ended, err)
		}
		if ended, err := behind(); ended {
			t.Fatalf("who was behind: %v", err)
		}
		w.commit(remote, put("k", "2"))
		if ended, err := behind(); !ended || err != nil {
			t.Fatalf("who was behind: %v %v", ended, err)
		}
		// Who does not ask again does not stand in the way for long.
		gone := w.txn(3)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err := w.lead().Read(ctx, &ReadRequest{Txn: gone, Lock: LockExclusive, Gets: []keys.Key{[]byte("k")}})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		time.Sleep(placeKept + time.Millisecond)
		w.commit(younger, put("k", "3"))
		if n := w.lead().Stats().LocksHeld.Load(); n != 0 {
			t.Fatalf("%d locks left", n)
		}
	})
}
