package tablet

import (
	"context"
	"errors"
	"fmt"
	"math/rand"

	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/truetime"
)

// The stories in testdata/locktable run against one lock table in virtual time.
//
//	table [grace=5ms] [budget=n]          a fresh table
//	lock REQ TXN SPAN s|x [nowait|refuse] TXN asks for a lock; its number is its age,
//	                                      the lower the older; t5b is t5's next
//	                                      attempt; SPAN is a or a-c
//	fill REQ TXN PREFIX n=20              locks PREFIX00, PREFIX01, ... exclusively
//	writes REQ TXN KEY... prepare|commit  the locks of a commit or prepare
//	phase TXN committing|prepared|active  its proposal is under way, applied, failed
//	finish TXN, abort TXN, cancel REQ
//	advance 5ms                           time passes
//	read KEY at=n                         who a snapshot read waits for
//	locks                                 prints the table
//
// Each step prints what it made happen once nothing moves any more.
func TestX2_LockTableStories(t *testing.T) {
	files, err := filepath.Glob("testdata/locktable/*")
	if err != nil || len(files) == 0 {
		t.Fatalf("no stories: %v", err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &story{t: t}
				datadriven.RunTest(t, f, s.step)
				s.end()
			})
		})
	}
}

type story struct {
	t       *testing.T
	lt      *lockTable
	txns    map[string]*txnState
	cancels map[string]context.CancelFunc
	wg      sync.WaitGroup

	mu     sync.Mutex
	events []string
}

func (s *story) say(format string, args ...any) {
	s.mu.Lock()
	s.events = append(s.events, fmt.Sprintf(format, args...))
	s.mu.Unlock()
}

func (s *story) end() {
	if s.lt != nil {
		s.lt.close(&paxosgroup.NotLeaderError{})
	}
	s.wg.Wait()
}

func (s *story) txn(name string) *txnState {
	if tx := s.txns[name]; tx != nil {
		return tx
	}
	var age int64
	if _, err := fmt.Sscanf(name, "t%d", &age); err != nil {
		s.t.Fatalf("transaction %q", name)
	}
	seq := uint64(age)
	if strings.HasSuffix(name, "b") {
		seq += nextAttempt
	}
	tx, err := s.lt.txn(&TxnRef{ID: keys.TxnID{Age: truetime.Timestamp(age), Node: 1, Seq: seq}}, true)
	if err != nil {
		s.t.Fatal(err)
	}
	s.txns[name] = tx
	return tx
}

func parseSpan(f string) keys.Span {
	a, b, ok := strings.Cut(f, "-")
	if !ok {
		return keys.Span{Start: []byte(a)}
	}
	return keys.Span{Start: []byte(a), End: []byte(b)}
}

// nextAttempt is what is added to a transaction's number for its next attempt.
const nextAttempt = 1000

func name(id keys.TxnID) string {
	if id.Seq >= nextAttempt {
		return fmt.Sprintf("t%db", id.Seq-nextAttempt)
	}
	return fmt.Sprintf("t%d", id.Seq)
}

func describe(err error) string {
	var a *AbortedError
	var u *LockUnavailableError
	switch {
	case err == nil:
		return "granted"
	case errors.As(err, &a):
		out := "aborted: " + a.Reason.String()
		if !a.By.IsZero() {
			out += fmt.Sprintf(" (%s at %s)", name(a.By), a.Key)
		}
		return out
	case errors.As(err, &u):
		return "unavailable: held by " + name(u.Holder)
	}
	return err.Error()
}

func (s *story) run(req string, f func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	s.cancels[req] = cancel
	s.wg.Go(func() {
		defer cancel()
		s.say("%s %s", req, describe(f(ctx)))
	})
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.ContainsFunc(s.events, func(e string) bool { return strings.HasPrefix(e, req+" ") }) {
		s.events = append(s.events, req+" waits")
	}
}

func (s *story) step(t *testing.T, d *datadriven.TestData) string {
	s.mu.Lock()
	s.events = nil
	s.mu.Unlock()
	arg := func(i int) string { return d.CmdArgs[i].Key }
	switch d.Cmd {
	case "table":
		s.end()
		cfg := lockConfig{grace: -1, inquireEvery: 200 * time.Millisecond, patience: 100 * time.Millisecond, budget: 1000, maxWaiting: 100}
		for _, a := range d.CmdArgs {
			switch a.Key {
			case "grace":
				cfg.grace, _ = time.ParseDuration(a.Vals[0])
			case "budget":
				fmt.Sscan(a.Vals[0], &cfg.budget)
			}
		}
		s.lt = newLockTable(6, keys.Span{Start: []byte{0}, End: []byte("~")}, cfg, &Stats{})
		s.lt.inquire = func(id keys.TxnID, c Anchor, abort bool) {
			s.say("asks for the outcome of %s, abort=%v", name(id), abort)
		}
		s.txns, s.cancels = map[string]*txnState{}, map[string]context.CancelFunc{}
		return "ok\n"
	case "lock":
		tx, sp, st, pol, refuse := s.txn(arg(1)), parseSpan(arg(2)), LockShared, WaitBlock, false
		for _, a := range d.CmdArgs[3:] {
			switch a.Key {
			case "x":
				st = LockExclusive
			case "nowait":
				pol = WaitNoWait
			case "refuse":
				refuse = true
			}
		}
		s.run(arg(0), func(ctx context.Context) error {
			_, err := s.lt.acquire(ctx, tx, sp, st, pol, refuse)
			return err
		})
	case "fill":
		tx, n, ks := s.txn(arg(1)), 0, []keys.Key(nil)
		d.ScanArgs(t, "n", &n)
		for i := range n {
			ks = append(ks, fmt.Appendf(nil, "%s%02d", arg(2), i))
		}
		s.run(arg(0), func(ctx context.Context) error { return s.lt.lockPoints(ctx, tx, ks, LockExclusive) })
	case "writes":
		tx, ws, phase := s.txn(arg(1)), []Write(nil), phaseCommitting
		for _, a := range d.CmdArgs[2:] {
			if a.Key == "prepare" {
				phase = phasePreparing
			} else if a.Key != "commit" {
				ws = append(ws, put(a.Key, ""))
			}
		}
		s.run(arg(0), func(ctx context.Context) error { return s.lt.lockWrites(ctx, tx, ws, phase) })
	case "phase":
		switch tx := s.txn(arg(0)); arg(1) {
		case "committing":
			s.lt.setPhase(tx, phaseCommitting)
			tx.s.Store(10)
		case "prepared":
			tx.s.Store(10)
			s.lt.prepared(tx, Anchor{}, false)
		case "active":
			s.lt.setPhase(tx, phaseActive)
		}
	case "finish":
		s.lt.finish(s.txn(arg(0)), true)
	case "abort":
		s.lt.kill(s.txn(arg(0)), &AbortedError{Reason: AbortLocksLost})
	case "cancel":
		s.cancels[arg(0)]()
	case "advance":
		dur, _ := time.ParseDuration(arg(0))
		time.Sleep(dur)
	case "read":
		at := 0
		d.ScanArgs(t, "at", &at)
		b, found, err := s.lt.readBlocker(parseSpan(arg(0)), truetime.Timestamp(at))
		if err != nil || !found {
			return fmt.Sprintf("free %v\n", err)
		}
		return fmt.Sprintf("waits for %s, %s\n", name(b.id), b.phase)
	case "locks":
		var b strings.Builder
		for _, l := range s.lt.list(0) {
			sp := string(l.Span.Start)
			if !l.Span.IsPoint() {
				sp += "-" + strings.ReplaceAll(string(l.Span.End), "\x00", "+")
			}
			st := map[LockStrength]string{LockShared: "s", LockExclusive: "x"}[l.Strength]
			state := "holds"
			if l.Waiting {
				state = "waits for"
			}
			fmt.Fprintf(&b, "%s %s %s %s\n", name(l.Txn), state, sp, st)
		}
		if err := s.lt.check(); err != nil {
			t.Fatal(err)
		}
		return b.String()
	default:
		t.Fatalf("unknown step %s", d.Cmd)
	}
	synctest.Wait()
	if err := s.lt.check(); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	slices.Sort(s.events)
	if len(s.events) == 0 {
		return "ok\n"
	}
	return strings.Join(s.events, "\n") + "\n"
}

// check verifies the table's own invariants.
func (lt *lockTable) check() error {
	lt.mu.Lock()
	defer lt.mu.Unlock()
	var err error
	fail := func(format string, args ...any) {
		if err == nil {
			err = fmt.Errorf(format, args...)
		}
	}
	waiters := 0
	type held struct {
		start, end string
		tx         *txnState
		st         LockStrength
	}
	var all []held
	lt.keys.Scan(func(k string, kl *keyLock) bool {
		if kl.key != k {
			fail("lock %q filed under %q", kl.key, k)
		}
		if len(kl.holders)+len(kl.waiters) == 0 {
			fail("unused lock %q", k)
		}
		for _, h := range kl.holders {
			if !slices.Contains(h.tx.points, kl) {
				fail("%v holds %q but does not know", h.tx.id, k)
			}
			all = append(all, held{k, k + "\x00", h.tx, h.strength})
		}
		waiters += len(kl.waiters)
		return true
	})
	lt.granted.visit("", maxString, func(r *rangeLock) bool {
		if !slices.Contains(r.tx.ranges, r) {
			fail("%v holds %q-%q but does not know", r.tx.id, r.start, r.end)
		}
		all = append(all, held{r.start, r.end, r.tx, r.strength})
		return true
	})
	for i, a := range all {
		if a.tx.phase == phaseDead {
			fail("dead %v holds %q", a.tx.id, a.start)
		}
		for _, b := range all[:i] {
			if a.tx != b.tx && conflict(a.st, b.st) && a.start < b.end && b.start < a.end {
				fail("%v and %v both hold %q", a.tx.id, b.tx.id, a.start)
			}
		}
	}
	wait := func(w *waiter) bool {
		if w.done {
			fail("answered request of %v still queued", w.tx.id)
		} else if !lt.blockedLocked(w) {
			fail("%v waits for %q with nothing in the way", w.tx.id, w.start)
		}
		return true
	}
	lt.waiting.visit("", maxString, func(w *waiter) bool { waiters++; return wait(w) })
	lt.keys.Scan(func(_ string, kl *keyLock) bool {
		for _, w := range kl.waiters {
			wait(w)
		}
		return true
	})
	if waiters != lt.nwaiting {
		fail("%d waiters counted, %d queued", lt.nwaiting, waiters)
	}
	writers := 0
	for _, tx := range lt.txns {
		if tx.phase.writing() {
			writers++
		}
	}
	if int(lt.writers.Load()) != writers {
		fail("%d writers counted, %d there", lt.writers.Load(), writers)
	}
	if n := int(lt.stats.LocksHeld.Load()); n != len(all) {
		fail("%d locks counted, %d held", n, len(all))
	}
	return err
}

// TestX2_NoDeadlock lets many transactions take and upgrade locks at random, on
// points and ranges. Wound-wait must let each either finish or be aborted, with
// the table consistent throughout; a deadlock would hang the bubble.
func TestX2_NoDeadlock(t *testing.T) {
	for seed := range int64(30) {
		synctest.Test(t, func(t *testing.T) {
			stats := &Stats{}
			lt := newLockTable(6, keys.Span{Start: []byte{0}, End: []byte("~")},
				lockConfig{grace: time.Duration(seed%3) * time.Millisecond, inquireEvery: time.Millisecond, budget: 6, maxWaiting: 1000}, stats)
			var prepared sync.Map
			lt.inquire = func(id keys.TxnID, _ Anchor, _ bool) {
				if ch, ok := prepared.LoadAndDelete(id); ok {
					close(ch.(chan struct{}))
				}
			}
			var wg sync.WaitGroup
			finished, killed := 0, 0
			var mu sync.Mutex
			for n := range 40 {
				rng := rand.New(rand.NewSource(seed*1000 + int64(n)))
				wg.Go(func() {
					id := keys.TxnID{Age: truetime.Timestamp(rng.Intn(1000)), Node: 1, Seq: uint64(n + 1)}
					tx, err := lt.txn(&TxnRef{ID: id}, true)
					if err != nil {
						t.Error(err)
						return
					}
					for range 1 + rng.Intn(8) {
						time.Sleep(time.Duration(rng.Intn(3000)) * time.Microsecond)
						k := byte('a' + rng.Intn(12))
						sp := keys.Span{Start: []byte{k}}
						if rng.Intn(4) == 0 {
							sp.End = []byte{k + 1 + byte(rng.Intn(4))}
						}
						if _, err = lt.acquire(context.Background(), tx, sp, LockStrength(1+rng.Intn(2)), WaitBlock, false); err != nil {
							break
						}
					}
					if err == nil {
						phase := phaseCommitting
						if rng.Intn(3) == 0 {
							phase = phasePreparing
						}
						if err = lt.lockWrites(context.Background(), tx, []Write{put(string(rune('a'+rng.Intn(12))), "")}, phase); err == nil {
							time.Sleep(time.Duration(rng.Intn(2000)) * time.Microsecond)
							if phase == phasePreparing {
								// A prepared transaction ends only when it is asked about, or late.
								ch := make(chan struct{})
								prepared.Store(id, ch)
								lt.prepared(tx, Anchor{}, false)
								select {
								case <-ch:
								case <-time.After(time.Second):
								}
							}
							lt.finish(tx, true)
						}
					}
					var a *AbortedError
					mu.Lock()
					defer mu.Unlock()
					switch {
					case err == nil:
						finished++
					case errors.As(err, &a):
						killed++
					default:
						t.Errorf("seed %d: %v", seed, err)
					}
				})
			}
			wg.Wait()
			if err := lt.check(); err != nil {
				t.Errorf("seed %d: %v", seed, err)
			}
			if finished == 0 || stats.LocksHeld.Load() != 0 {
				t.Errorf("seed %d: %d finished, %d aborted, %d locks left", seed, finished, killed, stats.LocksHeld.Load())
			}
		})
	}
}
