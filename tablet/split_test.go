package tablet

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/storage"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/truetime"
)

func (w *world) splitAt(key string) (*SplitResponse, error) {
	return w.lead().Split(context.Background(), &SplitRequest{Key: []byte(key), Child: 8,
		Replicas: []keys.Replica{{Node: 1, ID: 81}, {Node: 2, ID: 82}, {Node: 3, ID: 83}}})
}

// childOf opens the child of the last split on the parent's engines, as a group
// of its own led by the same node.
func childOf(w *world, n int) *world {
	c := &world{t: w.t, clock: w.clock, seq: 1000}
	c.g = &fakeGroup{tb: w.t, clock: w.clock, lead: -1, term: 5}
	splits := w.splits[len(w.splits)-len(w.g.replicas):]
	for i, r := range w.g.replicas {
		s := splits[i]
		cr := &fakeReplica{g: c.g, n: i, engine: r.engine, batch: &storage.Batch{}}
		cr.sm = NewChild(Config{Group: 8, Node: keys.NodeID(i + 1), Clock: w.clock, Reader: r.engine, WoundGrace: -1, Hooks: c.hooks()}, s)
		if err := cr.sm.Restore(s.State); err != nil {
			w.t.Fatal(err)
		}
		cr.sm.Bind(cr)
		c.g.replicas = append(c.g.replicas, cr)
		c.g.floor = max(c.g.floor, s.Floor)
	}
	c.g.elect(n, false)
	return c
}

func TestB1_SplitPartitionsAtEveryTimestamp(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		s1 := w.commit(w.txn(0), put("c", "1"), put("q", "1"))
		left := w.txn(1)
		w.prepare(left, "d", put("d", "p"))
		right := w.txn(2)
		pts := w.prepare(right, "r", put("r", "p"))
		open := w.txn(3)
		w.locked(&open, LockExclusive, "t")
		promised := w.now().Add(time.Second)
		get(t, w.lead(), promised, "q")
		r, err := w.splitAt("m")
		if err != nil {
			t.Fatal(err)
		}
		if string(r.Left.Span.End) != "m" || string(r.Right.Span.Start) != "m" || string(r.Right.Span.End) != "z" || r.Left.Generation != 4 || r.Right.Generation != 4 || r.Right.Group != 8 {
			t.Fatalf("%+v", r)
		}
		var re *RangeError
		for _, k := range []string{"m", "q"} {
			if _, err := w.lead().Read(context.Background(), &ReadRequest{At: s1, Gets: []keys.Key{[]byte(k)}}); !errors.As(err, &re) || len(re.Descriptors) != 2 {
				t.Fatalf("parent answers for %s: %v", k, err)
			}
		}
		if _, err := w.splitAt("m"); !errors.As(err, &re) || re.Descriptors[1].Group != 8 {
			t.Fatalf("split again: %v", err)
		}
		c := childOf(w, 0)
		defer c.close()
		defer c.sameState()
		if got := get(t, c.lead(), s1, "q"); got != "1" {
			t.Fatal(got)
		}
		if _, err := c.lead().Read(context.Background(), &ReadRequest{At: s1, Gets: []keys.Key{[]byte("c")}}); !errors.As(err, &re) {
			t.Fatalf("child answers for c: %v", err)
		}
		// R3: nothing at or below what the parent has promised.
		if s := c.commit(c.txn(5), put("q", "2")); s <= promised {
			t.Fatalf("child commits at %d under the parent's promise %d", s, promised)
		}
		// Prepared transactions went where their keys are, and end there.
		if p := w.lead().Prepared(); len(p) != 1 || p[0].Txn != left.ID {
			t.Fatalf("%+v", p)
		}
		if p := c.lead().Prepared(); len(p) != 1 || p[0].Txn != right.ID || len(c.indoubt) != 1 {
			t.Fatalf("%+v", p)
		}
		c.resolve(right, "r", Outcome{OutcomeCommitted, pts + 5})
		if got := get(t, c.lead(), c.now(), "r"); got != "p" {
			t.Fatal(got)
		}
		w.resolve(left, "d", Outcome{Status: OutcomeAborted})
		// Unprepared locks too: the child honours them, under the parent's term.
		_, err = c.lead().Commit(context.Background(), &CommitRequest{Txn: c.txn(9), Writes: []Write{put("t", "x")}})
		aborts(t, err, AbortRefused)
		c.commit(open, put("t", "mine"))
		// X5: the outcome of a commit from before is known on both sides.
		again := TxnRef{ID: keys.TxnID{Age: left.ID.Age - 1, Node: 1, Seq: 1}}
		if got := c.commit(again, put("q", "1")); got != s1 {
			t.Fatalf("a copy of the first commit at %d, not %d", got, s1)
		}
	})
}

// TestB1_CommandOvertakenBySplit: evaluated before, applied after.
func TestB1_CommandOvertakenBySplit(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		straddle, stays := w.txn(1), w.txn(2)
		w.g.hold()
		split := async(func() error { _, err := w.splitAt("m"); return err })
		split()
		var ts truetime.Timestamp
		a := async(func() error {
			_, err := w.lead().Commit(context.Background(), &CommitRequest{Txn: straddle, Writes: []Write{put("c", "half"), put("q", "half")}})
			return err
		})
		b := async(func() error {
			r, err := w.lead().Commit(context.Background(), &CommitRequest{Txn: stays, Writes: []Write{put("d", "whole")}})
			if err == nil {
				ts = r.TS
			}
			return err
		})
		a()
		b()
		w.g.release()
		if ended, err := split(); !ended || err != nil {
			t.Fatal(err)
		}
		var re *RangeError
		if ended, err := a(); !ended || !errors.As(err, &re) {
			t.Fatalf("straddling commit: %v %v", ended, err)
		}
		if ended, err := b(); !ended || err != nil {
			t.Fatalf("commit on the left: %v %v", ended, err)
		}
		if got := get(t, w.lead(), w.now(), "c") + get(t, w.lead(), ts, "d"); got != "-whole" {
			t.Fatal(got)
		}
	})
}

// TestX2_LocksMovedBySplit: a transaction whose locks went to the child can commit
// only when its gateway knows of the split, and so that the child must take part.
func TestX2_LocksMovedBySplit(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		both, pair := w.txn(1), w.txn(2)
		w.locked(&both, LockShared, "c", "q")
		w.locked(&pair, LockShared, "d", "r")
		waiter := async(func() error {
			_, err := w.read(w.txn(9), LockExclusive, "q")
			return err
		})
		waiter()
		if _, err := w.splitAt("m"); err != nil {
			t.Fatal(err)
		}
		var re *RangeError
		if ended, err := waiter(); !ended || !errors.As(err, &re) {
			t.Fatalf("waiter in the moved range: %v %v", ended, err)
		}
		c := childOf(w, 0)
		defer c.close()
		d := w.lead().Descriptor()
		old, now := Target{Group: d.Group, Generation: d.Generation - 1}, Target{Group: d.Group, Generation: d.Generation}
		ctx := context.Background()
		for _, f := range []func() error{
			func() error {
				_, err := w.lead().Commit(ctx, &CommitRequest{Target: old, Txn: both, Writes: []Write{put("c", "x")}})
				return err
			},
			func() error {
				_, err := w.lead().Prepare(ctx, &PrepareRequest{Target: old, Txn: pair, Writes: []Write{put("d", "x")}, Coordinator: Anchor{Group: 9, Key: []byte("z")}})
				return err
			},
			func() error {
				_, err := w.lead().Decide(ctx, &DecideRequest{Target: old, Txn: pair, AnchorKey: []byte("d"), Writes: []Write{put("d", "x")}})
				return err
			},
			func() error {
				_, err := w.lead().Heartbeat(ctx, &HeartbeatRequest{Target: old, Txns: []keys.TxnID{both.ID}})
				return err
			},
		} {
			if err := f(); !errors.As(err, &re) {
				t.Fatalf("with a map from before the split: %v", err)
			}
		}
		if _, err := c.lead().Prepare(ctx, &PrepareRequest{Txn: pair, AnchorKey: []byte("r"), Coordinator: Anchor{Group: 7, Key: []byte("d")}}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.lead().Decide(ctx, &DecideRequest{Target: now, Txn: pair, AnchorKey: []byte("d"), Writes: []Write{put("d", "x")},
			Participants: []Anchor{{Group: 8, Key: []byte("r")}}}); err != nil {
			t.Fatal(err)
		}
	})
}

// TestX2_RequestInTheMiddleOfASplit: the view shows the split, the lock table does not
// yet. Nothing that has locks on the right may go through without the child.
func TestX2_RequestInTheMiddleOfASplit(t *testing.T) {
	ctx := context.Background()
	for name, request := range map[string]func(*world, Target, TxnRef) error{
		"commit": func(w *world, at Target, ref TxnRef) error {
			_, err := w.lead().Commit(ctx, &CommitRequest{Target: at, Txn: ref, Writes: []Write{put("c", "x")}})
			return err
		},
		"prepare": func(w *world, at Target, ref TxnRef) error {
			_, err := w.lead().Prepare(ctx, &PrepareRequest{Target: at, Txn: ref, Writes: []Write{put("c", "x")}, Coordinator: Anchor{Group: 9, Key: []byte("z")}})
			return err
		},
	} {
		bubble(t, nil, func(t *testing.T, w *world) {
			ref := w.txn(1)
			w.locked(&ref, LockShared, "c", "q")
			left, right := testDescriptor(), testDescriptor()
			at := Target{Group: left.Group, Generation: left.Generation}
			left.Generation++
			right.Group, right.Generation = 8, left.Generation
			left.Span.End, right.Span.Start = []byte("m"), []byte("m")
			var child *machine
			for _, r := range w.g.replicas {
				child = r.sm.m.splitChild(keys.Key("m"), left, right)
			}
			done := async(func() error { return request(w, at, ref) })
			if ended, err := done(); ended {
				t.Fatalf("%s: answered in the middle of the split: %v", name, err)
			}
			l := w.lead().leader.Load()
			in := l.splitLocks(keys.Key("m"), w.lead().m, child)
			time.Sleep(time.Second)
			var re *RangeError
			if ended, err := done(); !ended || !errors.As(err, &re) || re.Descriptors[0].Generation != left.Generation {
				t.Fatalf("%s with a map from before the split: %v %v", name, ended, err)
			}
			if in.Len() != 1 || len(in.txns[0].locks) != 1 {
				t.Fatalf("%s: the child inherits %+v", name, in.txns)
			}
		})
	}
}

// TestX2_SplitDuringAPromise: a commit of reads that a split overtakes must not leave
// locks to the child.
func TestX2_SplitDuringAPromise(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		ref := w.txn(1)
		w.locked(&ref, LockShared, "c", "q")
		d := w.lead().Descriptor()
		r := w.g.replicas[0]
		calls := 0
		r.onValid = func() {
			if calls++; calls == 2 { // the first was before evaluation
				if _, err := w.splitAt("m"); err != nil {
					t.Error(err)
				}
			}
		}
		_, err := w.lead().Commit(context.Background(), &CommitRequest{Target: Target{Group: d.Group, Generation: d.Generation}, Txn: ref})
		r.onValid = nil
		var re *RangeError
		if !errors.As(err, &re) {
			t.Fatalf("confirmed without the child: %v", err)
		}
		c := childOf(w, 0)
		defer c.close()
		now := Target{Generation: d.Generation + 1}
		for _, tb := range []*Tablet{w.lead(), c.lead()} {
			if _, err := tb.Commit(context.Background(), &CommitRequest{Target: now, Txn: ref}); err != nil {
				t.Fatal(err)
			}
			if n := tb.Stats().LocksHeld.Load(); n != 0 {
				t.Fatalf("%d locks left", n)
			}
		}
	})
}

// TestX2_ChildLocksOnlyFromTheFirstLeader: another leader of the child did not
// know the parent's locks; after it has committed anything they are worthless.
func TestX2_ChildLocksOnlyFromTheFirstLeader(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		ref := w.txn(1)
		w.locked(&ref, LockShared, "q")
		if _, err := w.splitAt("m"); err != nil {
			t.Fatal(err)
		}
		c := childOf(w, 1)
		defer c.close()
		c.commit(c.txn(5), put("q", "2"))
		c.g.elect(0, true)
		_, err := c.lead().Commit(context.Background(), &CommitRequest{Txn: ref, Writes: []Write{put("q", "3")}})
		aborts(t, err, AbortLocksLost)
	})
}

// TestX2_ChildLocksNotAfterASnapshot: the same when the first leader at the parent's
// node learns of those commits by a snapshot, without applying anything.
func TestX2_ChildLocksNotAfterASnapshot(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		ref := w.txn(1)
		w.locked(&ref, LockShared, "q")
		if _, err := w.splitAt("m"); err != nil {
			t.Fatal(err)
		}
		c := childOf(w, 1)
		defer c.close()
		leader, all := c.lead(), c.g.replicas
		c.g.replicas = all[1:] // the first one lags behind
		if _, err := leader.Commit(context.Background(), &CommitRequest{Txn: c.txn(5), Writes: []Write{put("q", "2")}}); err != nil {
			t.Fatal(err)
		}
		c.g.replicas = all
		if err := all[0].sm.Restore(leader.Capture()); err != nil {
			t.Fatal(err)
		}
		c.g.elect(0, true)
		_, err := c.lead().Commit(context.Background(), &CommitRequest{Txn: ref, Writes: []Write{put("q", "3")}})
		aborts(t, err, AbortLocksLost)
	})
}

// TestB1_PreparedPartLeavesTheParent: nothing of it stays behind, neither when it is
// prepared nor when its prepare is applied and not yet answered.
func TestB1_PreparedPartLeavesTheParent(t *testing.T) {
	for _, answered := range []bool{true, false} {
		bubble(t, nil, func(t *testing.T, w *world) {
			ref := w.txn(0)
			w.g.setHidden(!answered)
			prepare := async(func() error {
				_, err := w.lead().Prepare(context.Background(), &PrepareRequest{Txn: ref, Writes: []Write{put("r", "p")}, AnchorKey: []byte("r"),
					Coordinator: Anchor{Group: 9, Key: []byte("coord")}})
				return err
			})
			prepare()
			at := w.now()
			read := async(func() error {
				_, err := w.lead().Read(context.Background(), &ReadRequest{At: at, Gets: []keys.Key{[]byte("r")}})
				return err
			})
			if ended, err := read(); ended {
				t.Fatalf("read past a prepare: %v", err)
			}
			split := async(func() error { _, err := w.splitAt("m"); return err })
			split()
			var re *RangeError
			if ended, err := read(); !ended || !errors.As(err, &re) {
				t.Fatalf("who waited for the prepared part: %v %v", ended, err)
			}
			w.g.setHidden(false)
			if ended, err := prepare(); !ended || err != nil {
				t.Fatal(ended, err)
			}
			if ended, err := split(); !ended || err != nil {
				t.Fatal(ended, err)
			}
			lt := w.lead().leader.Load().lt
			if n := lt.writers.Load(); n != 0 || len(lt.txns) != 0 {
				t.Fatalf("the parent keeps %d writers and %d transactions", n, len(lt.txns))
			}
			c := childOf(w, 0)
			defer c.close()
			c.resolve(ref, "r", Outcome{OutcomeCommitted, w.now()})
			if got := get(t, c.lead(), c.now(), "r"); got != "p" {
				t.Fatal(got)
			}
		})
	}
}

// TestB1_SplitWaitsForWhatCannotBeDivided: prepared on both sides.
func TestB1_SplitWaitsForWhatCannotBeDivided(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		ref := w.txn(1)
		w.locked(&ref, LockShared, "q")
		pts := w.prepare(ref, "c", put("c", "v"))
		split := async(func() error { _, err := w.splitAt("m"); return err })
		if ended, err := split(); ended {
			t.Fatalf("divided a prepared transaction: %v", err)
		}
		// New ones of the kind are kept out, others are not.
		_, err := w.lead().Prepare(context.Background(), &PrepareRequest{Txn: w.txn(2), Writes: []Write{put("d", "v"), put("r", "v")}, AnchorKey: []byte("d")})
		aborts(t, err, AbortRefused)
		w.prepare(w.txn(3), "e", put("e", "v"))
		w.resolve(ref, "c", Outcome{OutcomeCommitted, pts + 1})
		if ended, err := split(); !ended || err != nil {
			t.Fatalf("%v %v", ended, err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if _, err := w.lead().Split(ctx, &SplitRequest{Key: []byte("a"), Child: 9, Replicas: []keys.Replica{{Node: 1, ID: 91}}}); err == nil {
			t.Fatal("split at the first key")
		}
	})
}

// TestB1_SplitOfCommittedReads: a transaction that has committed, and been declared
// ended, leaves its locks on the right to nobody, though its chunks are not versions yet.
func TestB1_SplitOfCommittedReads(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		ref := w.txn(1)
		w.locked(&ref, LockShared, "q")
		for i := range uint32(4) {
			w.stage(&ref, i, put(fmt.Sprint("b", i), "v"))
		}
		w.g.hold()
		var requests []func() (bool, error)
		for _, f := range []func() error{
			func() error {
				_, err := w.lead().Commit(context.Background(), &CommitRequest{Txn: ref, Staged: 4})
				return err
			},
			func() error {
				_, err := w.lead().Commit(context.Background(), &CommitRequest{Txn: w.txn(2), Writes: []Write{put("d", "v")}, Finished: ref.ID.Seq + 1})
				return err
			},
			func() error { _, err := w.splitAt("m"); return err },
		} {
			done := async(f)
			done() // proposed
			requests = append(requests, done)
		}
		w.g.pump()
		for i, done := range requests {
			if ok, err := done(); !ok || err != nil {
				t.Fatalf("request %d: %v %v", i, ok, err)
			}
		}
		if s := w.lead().m.staged[ref.ID]; s == nil || s.status != stageCommitted {
			t.Fatalf("materialised before the split: %+v", s)
		}
		w.g.release()
		c := childOf(w, 0)
		defer c.close()
		if n := c.lead().Stats().LocksHeld.Load(); n != 0 {
			t.Fatalf("the child inherits %d locks of a committed transaction", n)
		}
	})
}

// TestX4_ChildWaitsForTheParentsBatch: the child may lead before the batch that
// holds the parent's last writes, and the split, is visible.
func TestX4_ChildWaitsForTheParentsBatch(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		w.g.setHidden(true)
		ref := w.txn(1)
		commit := async(func() error {
			_, err := w.lead().Commit(context.Background(), &CommitRequest{Txn: ref, Writes: []Write{put("q", "v")}})
			return err
		})
		commit()
		split := async(func() error { _, err := w.splitAt("m"); return err })
		split()
		c := childOf(w, 0)
		defer c.close()
		var nl *paxosgroup.NotLeaderError
		if _, err := c.lead().Read(context.Background(), &ReadRequest{At: c.now(), Gets: []keys.Key{[]byte("q")}}); !errors.As(err, &nl) {
			t.Fatalf("the child answers before it can see: %v", err)
		}
		w.g.setHidden(false)
		if ended, err := commit(); !ended || err != nil {
			t.Fatal(err)
		}
		if got := get(t, c.lead(), c.now(), "q"); got != "v" {
			t.Fatal(got)
		}
		// The commit was applied before the split: its locks went nowhere.
		c.commit(c.txn(9), put("q", "w"))
	})
}

func TestB1_SplitDropsOpenStagesThatReachOver(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		over, within := w.txn(1), w.txn(2)
		w.stage(&over, 0, put("c", "x"), put("q", "x"))
		w.stage(&within, 0, put("d", "x"))
		if _, err := w.splitAt("m"); err != nil {
			t.Fatal(err)
		}
		d := w.lead().Descriptor()
		_, err := w.lead().Commit(context.Background(), &CommitRequest{Target: Target{Group: d.Group, Generation: d.Generation}, Txn: over, Staged: 1})
		aborts(t, err, AbortLocksLost)
		if _, err := w.lead().Commit(context.Background(), &CommitRequest{Txn: within, Staged: 1}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if got := get(t, w.lead(), w.now(), "c") + get(t, w.lead(), w.now(), "d"); got != "-x" {
			t.Fatal(got)
		}
		for _, r := range w.g.replicas {
			if n := stagedLeft(r); n != 0 {
				t.Fatalf("replica %d keeps %d keys", r.n, n)
			}
		}
	})
}

// TestR3_ChildFloorCoversReadsDuringTheSplit: the parent goes on serving the right
// side until the split is applied, at timestamps above the split's own.
func TestR3_ChildFloorCoversReadsDuringTheSplit(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		w.g.hold()
		split := async(func() error { _, err := w.splitAt("m"); return err })
		split()
		at := w.now().Add(time.Second)
		if got := get(t, w.lead(), at, "q"); got != "-" {
			t.Fatal(got)
		}
		w.g.release()
		if ended, err := split(); !ended || err != nil {
			t.Fatal(err)
		}
		c := childOf(w, 0)
		defer c.close()
		if s := c.commit(c.txn(5), put("q", "v")); s <= at {
			t.Fatalf("child commits at %d; the parent has promised %d", s, at)
		}
	})
}

// TestX5_ResolveOvertakenBySplit: the split takes the prepared part to the child
// while the resolve is on its way to it. An acknowledgement would let the
// coordinator forget that the transaction has committed.
func TestX5_ResolveOvertakenBySplit(t *testing.T) {
	w := newWorld(t, 2, nil)
	defer w.close()
	ref := w.txn(0)
	ts := w.prepare(ref, "r", put("r", "p"))
	valid := make(chan struct{})
	signal := sync.OnceFunc(func() { close(valid) })
	w.g.replicas[0].onValid = signal

	// The resolve gets as far as the lock table, the split's apply, too, but only
	// after it has divided the machine.
	lt := w.lead().leader.Load().lt
	lt.mu.Lock()
	acked, divided := make(chan error, 1), make(chan error, 1)
	go func() {
		acked <- w.lead().Resolve(context.Background(), &ResolveRequest{Key: []byte("r"), Txn: ref.ID, Outcome: Outcome{OutcomeCommitted, ts + 1}})
	}()
	<-valid
	for range 1000 {
		runtime.Gosched()
	}
	go func() { _, err := w.splitAt("m"); divided <- err }()
	for w.lead().Descriptor().Generation == testDescriptor().Generation {
		runtime.Gosched()
	}
	lt.mu.Unlock()

	var re *RangeError
	if err := <-acked; !errors.As(err, &re) {
		t.Fatalf("acknowledged: %v", err)
	}
	if err := <-divided; err != nil {
		t.Fatal(err)
	}
	c := childOf(w, 0)
	defer c.close()
	c.resolve(ref, "r", Outcome{OutcomeCommitted, ts + 1})
	if got := get(t, c.lead(), c.now(), "r"); got != "p" {
		t.Fatal(got)
	}
}

// A reader whose clock does not vouch asks for the end of time. The refusal must leave
// nothing that a split would hand on (T2).
func TestT2_ChildFloorIsPlausible(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		_, err := w.lead().Read(context.Background(), &ReadRequest{At: truetime.Max, Gets: []keys.Key{keys.Key("q")}})
		if err == nil {
			t.Fatal("read at the end of time")
		}
		if _, err := w.splitAt("m"); err != nil {
			t.Fatal(err)
		}
		for i, s := range w.splits {
			if limit := w.now().Add(time.Minute); s.Floor > limit {
				t.Errorf("replica %d: the child's floor is %v", i, s.Floor)
			}
		}
	})
}

// Nor may a reader whose clock runs away, each of whose timestamps is near the one
// before it (T2).
func TestT2_ChildFloorDoesNotCreep(t *testing.T) {
	bubble(t, nil, func(t *testing.T, w *world) {
		l := w.lead().leader.Load()
		at, refused := w.now(), 0
		for range 3600 {
			at = at.Add(time.Second)
			if l.note(at) != nil {
				refused++
			}
		}
		if refused == 0 {
			t.Error("everything up to an hour ahead was recorded")
		}
		if _, err := w.splitAt("m"); err != nil {
			t.Fatal(err)
		}
		for i, s := range w.splits {
			if limit := w.now().Add(time.Minute); s.Floor > limit {
				t.Errorf("replica %d: the child's floor is %v ahead", i, s.Floor.Sub(w.now()))
			}
		}
	})
}
