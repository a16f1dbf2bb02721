package txn

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/tablet"
	"github.com/spandb/spand/truetime"
)

// once fails the first call that matches.
func once(method string, group keys.GroupID, after bool, do func() error) func(call) error {
	var mu sync.Mutex
	done := false
	return func(c call) error {
		mu.Lock()
		hit := !done && c.method == method && (group == 0 || c.group == group) && c.after == after
		done = done || hit
		mu.Unlock()
		if hit {
			return do()
		}
		return nil
	}
}

func lost() error { return errLinkDown }

// outcome says what a commit's error claims.
func outcome(err error) string {
	var aborted *tablet.AbortedError
	var unknown *UnknownOutcomeError
	switch {
	case err == nil:
		return "committed"
	case errors.As(err, &aborted):
		return "aborted"
	case errors.As(err, &unknown):
		return "unknown"
	}
	return "error: " + err.Error()
}

func (g *gateway) tryCommit(kv ...string) error {
	ctx := context.Background()
	tx := g.Begin(ctx, TxnOptions{})
	for i := 0; i < len(kv); i += 2 {
		if err := tx.Put(ctx, k(kv[i]), []byte(kv[i+1])); err != nil {
			return err
		}
	}
	_, err := tx.Commit(ctx)
	return err
}

// The answer to a commit is lost in every way; what the client is told is true.
func TestX5_LostAnswers(t *testing.T) {
	for _, tc := range []struct {
		name   string
		fault  func(w *world) func(call) error
		writes []string
		want   string
	}{
		{"one phase, request lost", func(*world) func(call) error { return once("Commit", 0, false, lost) }, []string{"a", "1"}, "aborted"},
		{"one phase, answer lost", func(*world) func(call) error { return once("Commit", 0, true, lost) }, []string{"a", "1"}, "committed"},
		{"one phase, not the leader any more", func(w *world) func(call) error {
			return once("Commit", 0, false, func() error { w.twin(2).lead(3); return nil })
		}, []string{"a", "1"}, "committed"},
		{"one phase, answer and leader lost", func(w *world) func(call) error {
			return once("Commit", 0, true, func() error { w.twin(2).lead(3); return &tablet.AmbiguousError{} })
		}, []string{"a", "1"}, "committed"},
		{"prepare lost", func(*world) func(call) error { return once("Prepare", 0, false, lost) }, []string{"a", "1", "z", "1"}, "committed"},
		{"prepare's answer lost", func(*world) func(call) error { return once("Prepare", 0, true, lost) }, []string{"a", "1", "z", "1"}, "committed"},
		{"decision lost", func(*world) func(call) error { return once("Decide", 0, false, lost) }, []string{"a", "1", "z", "1"}, "aborted"},
		{"decision's answer lost", func(*world) func(call) error { return once("Decide", 0, true, lost) }, []string{"a", "1", "z", "1"}, "committed"},
		{"decision's answer and leader lost", func(w *world) func(call) error {
			return once("Decide", 0, true, func() error { w.twin(2).lead(3); return &tablet.AmbiguousError{} })
		}, []string{"a", "1", "z", "1"}, "committed"},
		{"inquiry lost as well", func(*world) func(call) error {
			a, b := once("Decide", 0, true, lost), once("Inquire", 0, true, lost)
			return func(c call) error { return errors.Join(a(c), b(c)) }
		}, []string{"a", "1", "z", "1"}, "committed"},
		{"a node that hangs", func(w *world) func(call) error {
			return once("Decide", 0, false, func() error { w.setDown(1, true); w.twin(2).lead(3); return lost() })
		}, []string{"a", "1", "z", "1"}, "aborted"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			run(t, time.Millisecond, []string{"m"}, func(t *testing.T, w *world, g *gateway) {
				w.setFault(tc.fault(w))
				got := outcome(g.tryCommit(tc.writes...))
				w.setFault(nil)
				w.setDown(1, false)
				if got != tc.want {
					t.Errorf("told %s, want %s", got, tc.want)
				}
				time.Sleep(10 * time.Second) // virtual: participants are told
				for i := 0; i < len(tc.writes); i += 2 {
					want := ""
					if got == "committed" {
						want = "1"
					}
					g.expect(t, tc.writes[i], want)
				}
				w.expectIdle(t)
				g.set(t, "a", "free", "z", "free")
			})
		})
	}
}

// expectIdle: nothing is prepared, nothing is locked, everyone has been told.
func (w *world) expectIdle(t *testing.T) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for g, tw := range w.twins {
		tw.mu.Lock()
		if len(tw.prepared) > 0 || len(tw.locks) > 0 || len(tw.owed) > 0 || len(tw.staged) > 0 {
			t.Errorf("group %d: %d prepared, %d locks, %d owed, %d staged are left",
				g, len(tw.prepared), len(tw.locks), len(tw.owed), len(tw.staged))
		}
		tw.mu.Unlock()
	}
}

func TestX5_UnknownOnlyWhenNobodyAnswers(t *testing.T) {
	run(t, 0, []string{"m"}, func(t *testing.T, w *world, g *gateway) {
		start := time.Now()
		w.setFault(once("Commit", 0, true, func() error {
			w.setDown(1, true)
			return lost()
		}))
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		tx := g.Begin(ctx, TxnOptions{})
		check(t, tx.Put(ctx, k("a"), []byte("1")))
		_, err := tx.Commit(ctx)
		if outcome(err) != "unknown" || time.Since(start) < 10*time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		w.setDown(1, false)
		w.setFault(nil)
		out, err := g.Outcome(context.Background(), tx.ID(), k("a"), false)
		check(t, err)
		eq(t, out.Status, tablet.OutcomeCommitted)
		g.expect(t, "a", "1")
	})
}

// A gateway that closes does not wait for an answer that nobody gives: the outcome is
// unknown, and can be asked for elsewhere.
func TestX5_ClosingEndsInquiries(t *testing.T) {
	run(t, 0, []string{"m"}, func(t *testing.T, w *world, g *gateway) {
		start := time.Now()
		w.setFault(once("Commit", 0, true, func() error {
			w.setDown(1, true)
			return lost()
		}))
		tx := g.Begin(context.Background(), TxnOptions{})
		check(t, tx.Put(context.Background(), k("a"), []byte("1")))
		time.AfterFunc(time.Second, g.Close)
		_, err := tx.Commit(context.Background())
		if outcome(err) != "unknown" || time.Since(start) != time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		w.setDown(1, false)
		w.setFault(nil)
	})
}

// Nobody answers for the coordinator, which has committed: the gateway must not
// undo what it does not know.
func TestX5_UnknownUndoesNothing(t *testing.T) {
	for _, writes := range [][]string{{"a", "1"}, {"a", "long enough to be the coordinator", "z", "1"}} {
		run(t, 0, []string{"m"}, func(t *testing.T, w *world, g *gateway) {
			var mu sync.Mutex
			dead := false
			w.setFault(func(c call) error {
				mu.Lock()
				defer mu.Unlock()
				if c.after && (c.method == "Commit" || c.method == "Decide") {
					dead = true
				}
				if dead && (c.group == 2 || c.from == 2) { // recovery runs at node 2
					return errLinkDown
				}
				return nil
			})
			ctx := context.Background()
			tx := g.Begin(ctx, TxnOptions{})
			for i := 0; i < len(writes); i += 2 {
				get(t, tx, tablet.LockExclusive, writes[i])
				check(t, tx.Put(ctx, k(writes[i]), []byte(writes[i+1])))
			}
			if _, err := tx.Commit(ctx); outcome(err) != "unknown" {
				t.Errorf("told %s", outcome(err))
			}
			time.Sleep(time.Minute)
			eq(t, w.count("Abort"), 0)
			w.setFault(nil)
			time.Sleep(time.Minute)
			for i := 0; i < len(writes); i += 2 {
				g.expect(t, writes[i], writes[i+1])
			}
			w.expectIdle(t)
		})
	}
}

// Participants of a commit that fails are told at once, not after they have
// waited in vain.
func TestX3_AbortIsTold(t *testing.T) {
	run(t, 0, []string{"m"}, func(t *testing.T, w *world, g *gateway) {
		w.setFault(once("Decide", 0, false, lost))
		eq(t, outcome(g.tryCommit("a", "1", "z", "1")), "aborted")
		time.Sleep(100 * time.Millisecond)
		w.expectIdle(t)
	})
}

// A copy of a commit that arrives after its inquiry does nothing.
func TestX5_LateCopyIsRefused(t *testing.T) {
	run(t, 0, nil, func(t *testing.T, w *world, g *gateway) {
		ctx := context.Background()
		w.setFault(once("Commit", 0, false, lost))
		tx := g.Begin(ctx, TxnOptions{})
		check(t, tx.Put(ctx, k("a"), []byte("late")))
		shares := must(tx.plan(ctx))(t)
		if _, err := tx.Commit(ctx); outcome(err) != "aborted" {
			t.Fatal(err)
		}
		g.set(t, "b", "1") // tells the tablet which transactions have ended
		w.twin(2).outcomes = map[keys.TxnID]tablet.Outcome{}
		if _, err := tx.commitOnePhase(ctx, &shares[0]); outcome(err) != "aborted" {
			t.Errorf("X5: a late copy: %v", err)
		}
		g.expect(t, "a", "")
	})
}

// When the caller gives up in mid-commit he still hears the truth.
func TestX5_CancelledCommit(t *testing.T) {
	run(t, 0, []string{"m"}, func(t *testing.T, w *world, g *gateway) {
		for _, after := range []bool{false, true} {
			ctx, cancel := context.WithCancel(context.Background())
			w.setFault(once("Commit", 0, after, func() error { cancel(); return ctx.Err() }))
			tx := g.Begin(ctx, TxnOptions{})
			check(t, tx.Put(ctx, k("a"), []byte(fmt.Sprint(after))))
			_, err := tx.Commit(ctx)
			w.setFault(nil)
			if after {
				check(t, err)
				g.expect(t, "a", "true")
			} else {
				if !errors.Is(err, context.Canceled) {
					t.Errorf("cancelled before it was executed: %v", err)
				}
				g.expect(t, "a", "")
			}
		}
	})
}

// The gateway dies at every step of a two-phase commit, before or after the step:
// the tablets agree in the end, and nothing stays locked.
func TestX3_GatewayDiesAtEachStep(t *testing.T) {
	for _, step := range []struct {
		method string
		group  keys.GroupID
	}{{"Prepare", 3}, {"Prepare", 4}, {"Decide", 2}, {"Resolve", 3}, {"Resolve", 4}} {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s at %d, after %v", step.method, step.group, after), func(t *testing.T) {
				run(t, time.Millisecond, []string{"h", "p"}, func(t *testing.T, w *world, g *gateway) {
					descs := tabletsAt("h", "p")
					victim := newGateway(w, 3, descs)
					var mu sync.Mutex
					dead := false
					w.setFault(func(c call) error {
						mu.Lock()
						defer mu.Unlock()
						if c.method == step.method && c.group == step.group && c.after == after && (c.from == 3 || c.method == "Resolve") {
							dead = true
						}
						if dead && c.from == 3 {
							return errLinkDown
						}
						return nil
					})
					told := make(chan string, 1)
					go func() { told <- outcome(victim.tryCommit("a", "value of a", "i", "1", "q", "1")) }()
					time.Sleep(20 * time.Second)
					victim.Close()
					said := <-told
					w.setFault(nil)
					time.Sleep(20 * time.Second)
					a, i, q := g.value(t, "a"), g.value(t, "i"), g.value(t, "q")
					committed := a != ""
					if committed != (i != "") || committed != (q != "") {
						t.Errorf("X3: half a transaction: %q %q %q", a, i, q)
					}
					if said == "committed" && !committed || said == "aborted" && committed {
						t.Errorf("X5: told %s, committed is %v", said, committed)
					}
					w.dropUnprepared()
					w.expectIdle(t)
				})
			})
		}
	}
}

// However many transactions wait for a coordinator or a participant that does not
// answer, the others are settled at once.
func TestX3_RecoveryDoesNotQueueBehindTheDead(t *testing.T) {
	run(t, 0, []string{"h", "p"}, func(t *testing.T, w *world, g *gateway) {
		id := func(i int) keys.TxnID { return keys.TxnID{Age: 1, Node: 3, Seq: uint64(i)} }
		w.setFault(func(c call) error {
			if c.group == 3 {
				return errLinkDown
			}
			return nil
		})
		for i := range 10 * recoveryWindow {
			w.rec.Settle(tablet.InDoubt{Txn: id(i), Coordinator: tablet.Anchor{Group: 3, Key: k("i")}, Anchor: k("q")})
			w.rec.Deliver(w.twin(4), tablet.Decided{Txn: id(i), TS: 1, Participants: []tablet.Anchor{{Group: 3, Key: k("j")}}})
		}
		time.Sleep(time.Second)
		last := id(10 * recoveryWindow)
		w.rec.Settle(tablet.InDoubt{Txn: last, Coordinator: tablet.Anchor{Group: 2, Key: k("a")}, Anchor: k("q")})
		time.Sleep(10 * time.Millisecond)
		resolved := w.count("Resolve")
		if o, ok := w.twin(2).outcomes[last]; !ok || o.Status != tablet.OutcomeAborted {
			t.Errorf("not settled: %+v", o)
		}
		w.setFault(nil)
		time.Sleep(time.Minute)
		if n := w.count("Resolve") - resolved; n < 20*recoveryWindow {
			t.Errorf("%d resolved once everybody answers", n)
		}
	})
}

// dropUnprepared does what tablets do when a gateway's heartbeats stop.
func (w *world) dropUnprepared() {
	w.mu.Lock()
	var all []*twin
	for _, tw := range w.twins {
		all = append(all, tw)
	}
	w.mu.Unlock()
	for _, tw := range all {
		tw.lead(tw.leader)
	}
}

// Leaders die between the steps; prepared state survives, unprepared locks do not.
func TestX3_LeaderDiesAtEachStep(t *testing.T) {
	for _, group := range []keys.GroupID{2, 3} {
		for _, method := range []string{"Prepare", "Decide", "Resolve"} {
			for _, after := range []bool{false, true} {
				t.Run(fmt.Sprintf("group %d, %s, after %v", group, method, after), func(t *testing.T) {
					run(t, time.Millisecond, []string{"m"}, func(t *testing.T, w *world, g *gateway) {
						w.setFault(once(method, 0, after, func() error {
							w.twin(group).lead(3)
							if after {
								return &tablet.AmbiguousError{}
							}
							return nil
						}))
						ctx := context.Background()
						tx := g.Begin(ctx, TxnOptions{})
						get(t, tx, tablet.LockExclusive, "a", "z")
						check(t, tx.Put(ctx, k("a"), []byte("1")))
						check(t, tx.Put(ctx, k("b"), []byte("1")))
						check(t, tx.Put(ctx, k("z"), []byte("1")))
						_, err := tx.Commit(ctx)
						said := outcome(err)
						time.Sleep(10 * time.Second)
						want := ""
						if said == "committed" {
							want = "1"
						} else if said != "aborted" {
							t.Errorf("told %s", said)
						}
						g.expect(t, "a", want, "b", want, "z", want)
						w.expectIdle(t)
					})
				})
			}
		}
	}
}

// Transfers between four tablets under seeded faults, with concurrent full
// reads: the total holds in every snapshot, and what was told is true.
func TestX3_X4_BankUnderFaults(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { bank(t, seed) })
	}
}

func bank(t *testing.T, seed uint64) {
	const accounts, total = 8, 8 * 100
	run(t, time.Millisecond, []string{"acct2", "acct4", "acct6"}, func(t *testing.T, w *world, g *gateway) {
		ctx := context.Background()
		name := func(i int) string { return "acct" + strconv.Itoa(i) }
		for i := range accounts {
			g.set(t, name(i), "100")
		}
		other := newGateway(w, 3, tabletsAt("acct2", "acct4", "acct6"))
		defer other.Close()
		var mu sync.Mutex
		rng := rand.New(rand.NewPCG(seed, 7))
		w.setFault(func(c call) error {
			mu.Lock()
			roll, node := rng.IntN(100), keys.NodeID(1+rng.IntN(3))
			delay := time.Duration(rng.IntN(2000)) * time.Microsecond
			mu.Unlock()
			time.Sleep(delay)
			switch {
			case c.group == keys.DirectoryGroup:
			case roll < 3:
				return errLinkDown
			case roll == 3:
				w.twin(c.group).lead(node)
			}
			return nil
		})
		var wg sync.WaitGroup
		done := make(chan struct{})
		committed := 0
		for worker := range 4 {
			wg.Go(func() {
				from := []*gateway{g, other}[worker%2]
				local := rand.New(rand.NewPCG(seed, uint64(100+worker)))
				var age truetime.Timestamp
				for range 30 {
					tx := from.Begin(ctx, TxnOptions{Age: age})
					age = tx.ID().Age
					a, b := local.IntN(accounts), local.IntN(accounts-1)
					if b >= a {
						b++
					}
					vals, err := tx.Get(ctx, []keys.Key{k(name(a)), k(name(b))}, tablet.LockExclusive, tablet.WaitBlock)
					if err == nil {
						av, _ := strconv.Atoi(string(vals[0]))
						bv, _ := strconv.Atoi(string(vals[1]))
						check(t, tx.Put(ctx, k(name(a)), []byte(strconv.Itoa(av-1))))
						check(t, tx.Put(ctx, k(name(b)), []byte(strconv.Itoa(bv+1))))
						_, err = tx.Commit(ctx)
					}
					tx.Rollback(ctx)
					if err == nil {
						mu.Lock()
						committed++
						mu.Unlock()
						age = 0
					} else if o := outcome(err); o != "aborted" {
						t.Errorf("told %s", o)
					}
				}
			})
		}
		var readers sync.WaitGroup
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				case <-time.After(200 * time.Microsecond):
				}
				sum, n := 0, 0
				it := other.ReadOnly(ctx, 0).Scan(ctx, ScanRequest{Span: all, Reverse: n%2 == 1})
				for it.Next() {
					v, _ := strconv.Atoi(string(it.Value()))
					sum += v
					n++
				}
				if it.Err() != nil || sum != total || n != accounts {
					t.Errorf("X4: %d accounts hold %d (%v)", n, sum, it.Err())
				}
			}
		})
		wg.Wait()
		close(done)
		readers.Wait()
		w.setFault(nil)
		time.Sleep(20 * time.Second)
		if committed < 20 {
			t.Errorf("only %d transfers committed", committed)
		}
		w.dropUnprepared()
		w.expectIdle(t)
		synctest.Wait()
	})
}

// A call to a node that answers nothing ends soon after another one is known to lead;
// what is not known to anybody yet, or was known all along, ends none.
func TestCallsToADeposedLeaderEnd(t *testing.T) {
	run(t, 0, []string{"m"}, func(t *testing.T, w *world, g *gateway) {
		desc := w.twin(2).desc()
		for _, c := range []struct {
			name          string
			before, after keys.NodeID // who is believed to lead when the call is made, and a second later
			want          time.Duration
		}{
			{"deposed", 2, 3, time.Second + leaderWatch},
			{"unknown, then another", 0, 3, time.Second + leaderWatch},
			{"forgotten", 2, 0, g.cfg.AttemptTimeout},
			{"the same", 2, 2, g.cfg.AttemptTimeout},
		} {
			dialer{w, 1}.Learned(2, c.before)
			time.AfterFunc(time.Second, func() { dialer{w, 1}.Learned(2, c.after) })
			began := time.Now()
			err := g.try(t.Context(), &desc, &attempt{hint: 2}, func(ctx context.Context, _ Participant) error {
				<-ctx.Done()
				return ctx.Err()
			})
			if took := time.Since(began); err == nil || took < c.want-leaderWatch || took > c.want {
				t.Errorf("%s: ended after %v, %v; want %v", c.name, took, err, c.want)
			}
		}
		// Who calls another than the one that is believed to lead has a reason.
		dialer{w, 1}.Learned(2, 3)
		began := time.Now()
		g.try(t.Context(), &desc, &attempt{hint: 2}, func(ctx context.Context, _ Participant) error {
			<-ctx.Done()
			return ctx.Err()
		})
		if took := time.Since(began); took != g.cfg.AttemptTimeout {
			t.Errorf("a hint followed against belief ended after %v", took)
		}
	})
}

// Given up for another leader, a request that may be repeated goes to that one at once,
// and the belief in it survives; one that may not is not mistaken for one that the caller
// has cancelled.
func TestDeposedLeadersSuccessorIsAskedNext(t *testing.T) {
	run(t, 0, []string{"m"}, func(t *testing.T, w *world, g *gateway) {
		desc := w.twin(2).desc()
		for _, repeatable := range []bool{true, false} {
			dialer{w, 1}.Learned(2, 2)
			time.AfterFunc(time.Second, func() { dialer{w, 1}.Learned(2, 3) })
			began := time.Now()
			var asked []keys.NodeID
			err := g.do(t.Context(), &desc, repeatable, func(ctx context.Context, p Participant) error {
				node := p.(*faulty).node
				asked = append(asked, node)
				switch node {
				case 2:
					<-ctx.Done()
					return ctx.Err()
				case 3:
					return nil
				}
				return errLinkDown
			})
			if leader := (dialer{w, 1}).Leader(2); leader != 3 {
				t.Errorf("repeatable %v: node %d is believed to lead", repeatable, leader)
			}
			if !repeatable {
				var unknown *unknownError
				if !errors.As(err, &unknown) || errors.Is(err, context.Canceled) {
					t.Errorf("%v", err)
				}
				continue
			}
			if took := time.Since(began); err != nil || took > time.Second+leaderWatch {
				t.Errorf("answered after %v, %v", took, err)
			}
			eq(t, asked, "[2 3]")
		}
	})
}
