package cell

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/lockservice/lockpb"
	"github.com/spandb/spand/truetime"
)

func checkFor(seq string, d time.Duration) *lockpb.CheckSequencerRequest {
	return &lockpb.CheckSequencerRequest{Sequencer: seq, HoldNs: int64(d)}
}

// After a check answered E, nothing that ends the hold takes effect before After(E): not a release, nor
// the end of a handle, a session or the node.
func TestL2_NothingEndsAHoldBeforeItsPromise(t *testing.T) {
	for name, end := range map[string]any{
		"release":       release(1, x),
		"close":         &lockpb.CloseRequest{Handle: h(1, x)},
		"close session": &lockpb.CloseSessionRequest{Session: 1},
		"delete":        &lockpb.DeleteRequest{Handle: h(1, x)},
	} {
		for _, giveUp := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s giveUp=%v", name, giveUp), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w, s := lockWorld(t, 1, 2)
					defer w.close()
					seq := w.must(w.do(acquire(1, x))).GetAcquire().Sequencer.Text
					start := time.Now()
					c := w.must(w.do(checkFor(seq, 700*time.Millisecond))).GetCheckSequencer()
					e := truetime.Timestamp(c.ValidUntil)
					if d := e.Sub(truetime.FromTime(start)); !c.Valid || d < 699*time.Millisecond || d > 702*time.Millisecond {
						t.Fatalf("E is %v ahead: %v", d, c)
					}
					s.start("end", end)
					s.start("check", checkFor(seq, time.Second)) // must not promise anything any more
					if name != "delete" {
						s.start("2", acquire(2, x))
						s.expect("2 waits")
					}
					if giveUp {
						time.Sleep(10 * time.Millisecond)
						w.must(w.do(&lockpb.EndCheckRequest{Path: x, Check: c.Check}))
					} else {
						time.Sleep(e.Sub(w.clock.Now().Earliest))
						s.expect()
						if len(w.holders(x)) != 1 {
							t.Fatal("L2: the hold ended before After(E)")
						}
						time.Sleep(time.Microsecond)
					}
					if name == "delete" {
						s.expect("end ok", "check ok")
					} else {
						s.expect("end ok", "check ok", "2 ok")
					}
					if c := w.must(w.do(checkFor(seq, time.Second))).GetCheckSequencer(); c.Valid {
						t.Error("L1: a stale sequencer is valid")
					}
				})
			})
		}
	}
}

// E is bounded by a second, by the session's lease and by the leader's.
func TestL2_Bounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := lockWorld(t, 1, 0)
		defer w.close()
		w.session(1, 3*time.Second)
		born := time.Now()
		seq := w.must(w.do(acquire(1, x))).GetAcquire().Sequencer.Text
		for _, c := range []struct{ at, ask, want time.Duration }{
			{0, 10 * time.Millisecond, 10*time.Millisecond + epsilon},
			{0, time.Minute, time.Second - epsilon},
			{2500 * time.Millisecond, time.Minute, 500*time.Millisecond + epsilon},
		} {
			time.Sleep(time.Until(born.Add(c.at)))
			now := truetime.FromTime(time.Now())
			a := w.must(w.do(checkFor(seq, c.ask))).GetCheckSequencer()
			if d := truetime.Timestamp(a.ValidUntil).Sub(now); !a.Valid || d != c.want-1 {
				t.Errorf("asked for %v at %v: %v", c.ask, c.at, d)
			}
		}
		if c := w.must(w.do(checkFor(seq, 0))).GetCheckSequencer(); !c.Valid || c.ValidUntil != 0 {
			t.Errorf("without a promise: %v", c)
		}
		// A lease that is all but over promises nothing.
		time.Sleep(time.Until(born.Add(3 * time.Second)))
		if c := w.must(w.do(checkFor(seq, time.Second))).GetCheckSequencer(); c.Valid && truetime.Timestamp(c.ValidUntil) <= w.clock.Now().Earliest {
			t.Errorf("a promise in the past: %v", c)
		}
	})
}

// However little is asked for, and however sure the clock is, a check is answered.
func TestL2_TinyPromises(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := lockWorld(t, 1, 1)
		defer w.close()
		w.clock.SetEpsilon(0)
		seq := w.must(w.do(acquire(1, x))).GetAcquire().Sequencer.Text
		cancel := s.start("check", checkFor(seq, 1))
		defer cancel()
		s.expect("check ok")
	})
}

// A promise binds whoever leads next, after a hand-over, after a fail-over, and when the same
// replica leads again at once.
func TestL2_PromisesBindTheNextLeader(t *testing.T) {
	for name, change := range map[string]func(*fakeGroup){
		"fail-over":   func(g *fakeGroup) { g.failOver(1, true) },
		"hand-over":   func(g *fakeGroup) { g.handOver(1) },
		"leads again": func(g *fakeGroup) { g.leadAgain(false) },
		"leads again, then a hand-over": func(g *fakeGroup) {
			g.leadAgain(false)
			g.handOver(1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, s := lockWorld(t, 2, 2)
				defer w.close()
				seq := w.must(w.do(acquire(1, x))).GetAcquire().Sequencer.Text
				c := w.must(w.do(checkFor(seq, time.Second))).GetCheckSequencer()
				e := truetime.Timestamp(c.ValidUntil)
				change(w.g)
				s.start("release", release(1, x))
				s.start("2", acquire(2, x))
				s.expect("2 waits")
				for len(w.holders(x)) == 1 && w.holders(x)[0] == 1 {
					time.Sleep(100 * time.Microsecond)
					synctest.Wait()
				}
				if !truetime.After(w.clock, e) {
					t.Errorf("L2: the lock was given on %v before E", e.Sub(w.clock.Now().Earliest))
				}
				s.expect("release ok", "2 ok")
			})
		})
	}
}

// An EndCheck that arrives after a change of leader, or names what nobody was told, gives up no
// promise of the new leader's.
func TestL2_ALateEndCheckGivesUpNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := lockWorld(t, 2, 1)
		defer w.close()
		seq := w.must(w.do(acquire(1, x))).GetAcquire().Sequencer.Text
		old := w.must(w.do(checkFor(seq, 10*time.Millisecond))).GetCheckSequencer()
		w.g.handOver(1)
		time.Sleep(20 * time.Millisecond) // past the new leader's floor
		c := w.must(w.do(checkFor(seq, 900*time.Millisecond))).GetCheckSequencer()
		s.start("release", release(1, x))
		for _, id := range []uint64{old.Check, 1, 2, old.Check + 1, c.Check + 1, c.Check - 1} {
			w.must(w.do(&lockpb.EndCheckRequest{Path: x, Check: id}))
		}
		s.expect()
		w.must(w.do(&lockpb.EndCheckRequest{Path: x, Check: c.Check}))
		s.expect("release ok")
	})
}

// Holders, checks, releases, silent clients and changes of leader at random: the next holder is
// never there before every E answered for the one before it is over.
func TestL2_AtRandom(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) { fenceAtRandom(t, seed) })
	}
}

func fenceAtRandom(t *testing.T, seed uint64) {
	w := newWorld(t, 3)
	defer w.close()
	w.file(x, "")
	rnd := rand.New(rand.NewPCG(seed, 1))
	var mu sync.Mutex
	promised := make(map[uint64]truetime.Timestamp) // by generation
	end := time.Now().Add(time.Minute)
	var wg sync.WaitGroup
	do := func(ctx context.Context, call any) *lockpb.DoResponse { return w.doCtx(ctx, call, nil) }
	checks, grants := 0, 0
	client := func(r *rand.Rand) {
		for n := 0; time.Now().Before(end); n++ {
			id := r.Uint64()
			if why(do(t.Context(), &lockpb.CreateSessionRequest{Session: id, TtlNs: int64(2 * time.Second)})) != "" {
				time.Sleep(10 * time.Millisecond)
				continue
			}
			ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
			a := do(ctx, &lockpb.AcquireRequest{Handle: h(id, x)})
			cancel()
			q := a.GetAcquire().GetSequencer()
			if q == nil {
				continue // the session falls silent, maybe with a hold
			}
			mu.Lock()
			grants++
			for g, e := range promised {
				if g < q.Generation && !truetime.After(w.clock, e) {
					t.Errorf("seed %d: L2: generation %d is held %v before the end of what generation %d was promised", seed, q.Generation, e.Sub(w.clock.Now().Earliest), g)
				}
			}
			mu.Unlock()
			for range 1 + r.IntN(4) {
				c := do(t.Context(), checkFor(q.Text, time.Duration(r.IntN(900))*time.Millisecond+1)).GetCheckSequencer()
				if c.GetValid() {
					mu.Lock()
					checks++
					promised[q.Generation] = max(promised[q.Generation], truetime.Timestamp(c.ValidUntil))
					mu.Unlock()
				}
				time.Sleep(time.Duration(r.IntN(50)) * time.Millisecond)
			}
			switch r.IntN(3) {
			case 0:
				do(t.Context(), &lockpb.CloseSessionRequest{Session: id})
			case 1:
				do(t.Context(), release(id, x))
			} // else it falls silent
		}
	}
	for range 4 {
		r := rand.New(rand.NewPCG(seed, rnd.Uint64()))
		wg.Go(func() { client(r) })
	}
	wg.Go(func() {
		for time.Now().Before(end) {
			time.Sleep(time.Duration(rnd.IntN(3000)) * time.Millisecond)
			switch n := (w.g.lead + 1) % 3; rnd.IntN(3) {
			case 0:
				w.g.handOver(n)
			case 1:
				w.g.failOver(n, rnd.IntN(2) == 0)
			default:
				w.g.leadAgain(rnd.IntN(2) == 0)
			}
		}
	})
	wg.Wait()
	if checks < 15 || grants < 5 {
		t.Errorf("seed %d: only %d checks and %d grants", seed, checks, grants)
	}
}
