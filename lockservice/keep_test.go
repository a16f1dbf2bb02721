package lockservice

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/lockservice/lockpb"
)

func acquires(r *lockpb.DoRequest) bool { return r.GetAcquire() != nil || r.GetTryAcquire() != nil }

// wanted is the cell's notice to the holder of a generation.
func wanted(generation uint64) *lockpb.Lease {
	return &lockpb.Lease{Events: []*lockpb.Event{{Kind: lockpb.EventKind_CONFLICTING_REQUEST, Path: "/ls/local/x", Instance: 7, Generation: generation}}}
}

func keepingHandle(t *testing.T, s *Session, keep time.Duration) *Handle {
	t.Helper()
	h, err := s.Open(t.Context(), "/ls/local/x", OpenOptions{KeepLock: keep})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// kept takes the handle's lock and gives it back, and checks that nothing was released.
func (h *Handle) kept(t *testing.T, c *fakeCluster) *Lock {
	t.Helper()
	before := len(c.made(releases))
	l, err := h.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Unlock(t.Context()); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	if n := len(c.made(releases)); n != before {
		t.Fatalf("given back at once: %d releases", n-before)
	}
	return l
}

func (c *fakeCluster) calledFor(t *testing.T, acquired, released int) {
	t.Helper()
	synctest.Wait()
	if a, r := len(c.made(acquires)), len(c.made(releases)); a != acquired || r != released {
		t.Errorf("%d acquires and %d releases, want %d and %d", a, r, acquired, released)
	}
}

// Locks that a handle takes one after the other are one hold, asked for once.
func Test2_7_LocksAreKept(t *testing.T) {
	for _, tt := range []struct {
		name string
		lock func(*Handle, context.Context) (*Lock, error)
	}{
		{"Lock", (*Handle).Lock}, {"TryLock", (*Handle).TryLock}, {"RLock", (*Handle).RLock}, {"TryRLock", (*Handle).TryRLock},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newFakeCluster(t, 1)
				h := keepingHandle(t, c.session(SessionOptions{}), time.Minute)
				type key struct{}
				var last *Lock
				for i := range 3 {
					ctx, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, i))
					l, err := tt.lock(h, ctx)
					if err != nil {
						t.Fatal(err)
					}
					cancel() // bounds only the call
					if l.State() != LockHeld || l.Context().Err() != nil || l.Context().Value(key{}) != i || l.Remaining() <= 0 {
						t.Errorf("lock %d: %v, context %v of %v", i, l.State(), l.Context().Err(), l.Context().Value(key{}))
					}
					if last != nil && l.Sequencer() != last.Sequencer() {
						t.Errorf("sequencer %s, then %s", last.Sequencer(), l.Sequencer())
					}
					if _, err := h.TryLock(t.Context()); !errors.Is(err, ErrLockHeld) {
						t.Errorf("a second lock of the handle: %v", err)
					}
					changed := l.Changed()
					ended, cancel := context.WithCancel(t.Context())
					cancel()
					if err := l.Unlock(ended); err != nil { // it needs no call
						t.Fatal(err)
					}
					<-changed
					if l.State() != LockReleased || !errors.Is(context.Cause(l.Context()), ErrUnlocked) || l.Unlock(t.Context()) != nil {
						t.Errorf("unlocked lock %d: %v, %v", i, l.State(), context.Cause(l.Context()))
					}
					if _, err := tt.lock(h, ended); !errors.Is(err, context.Canceled) {
						t.Errorf("with a context that has ended: %v", err)
					}
					last = l
				}
				c.calledFor(t, 1, 0)
			})
		})
	}
}

// Who waits for the handle's own lock takes it over as well.
func Test2_7_LocksAreKeptForTheNextInLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		h := keepingHandle(t, c.session(SessionOptions{}), time.Minute)
		inside := 0
		done := make(chan struct{})
		for range 10 {
			go func() {
				defer func() { done <- struct{}{} }()
				l, err := h.Lock(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				if inside++; inside != 1 {
					t.Errorf("%d hold the lock", inside)
				}
				time.Sleep(time.Second)
				inside--
				if err := l.Unlock(t.Context()); err != nil {
					t.Error(err)
				}
			}()
		}
		for range 10 {
			<-done
		}
		c.calledFor(t, 1, 0)
	})
}

// What nobody uses is given back in the moment in which another wants it, and asked for again only then.
func Test2_7_LocksAreKeptUntilAnotherWantsThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		s := c.session(SessionOptions{})
		h := keepingHandle(t, s, time.Minute)
		h.kept(t, c)
		c.tell(s, wanted(4)) // of an earlier generation, and late
		c.calledFor(t, 1, 0)
		gaveBack := make(chan struct{})
		c.set(func() {
			c.answer = func(r *lockpb.DoRequest) *lockpb.DoResponse {
				if r.GetRelease() != nil {
					<-gaveBack
				}
				return nil
			}
		})
		began := c.clock.Now()
		c.tell(s, wanted(5))
		c.calledFor(t, 1, 1)
		if took := c.clock.Now() - began; took != 0 {
			t.Errorf("given back after %v", took)
		}
		if r := c.made(releases)[0].GetRelease(); r.Attempt != 1 || r.Handle.Handle != h.number {
			t.Errorf("released %v", r)
		}
		if _, err := h.TryLock(t.Context()); !errors.Is(err, ErrLockHeld) {
			t.Errorf("while it is given back: %v", err)
		}
		got := make(chan *Lock)
		go func() {
			l, err := h.Lock(t.Context())
			if err != nil {
				t.Error(err)
			}
			got <- l
		}()
		c.calledFor(t, 1, 1) // its own release could end what it asks for
		close(gaveBack)
		l := <-got
		c.calledFor(t, 2, 1)
		if r := c.made(acquires)[1].GetAcquire(); r.Attempt != 2 {
			t.Errorf("asked for again as %v", r)
		}
		// The old notice is not about the new hold.
		if err := l.Unlock(t.Context()); err != nil {
			t.Error(err)
		}
		c.calledFor(t, 2, 1)
	})
}

// A notice is not missed while the lock is in use, nor when it overtakes the grant: Unlock gives the lock back.
func Test2_7_LocksAreKeptNotIfWantedInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		s := c.session(SessionOptions{})
		h := keepingHandle(t, s, time.Minute)
		for i, when := range []string{"before the grant is received", "in use", "in use again"} {
			if i == 2 {
				h.kept(t, c) // and taken over
			}
			grant := make(chan struct{})
			c.set(func() {
				c.answer = func(r *lockpb.DoRequest) *lockpb.DoResponse {
					if acquires(r) {
						<-grant
					}
					return nil
				}
			})
			got := make(chan *Lock)
			go func() {
				l, err := h.Lock(t.Context())
				if err != nil {
					t.Error(err)
				}
				got <- l
			}()
			synctest.Wait()
			if i == 0 {
				c.tell(s, wanted(5))
				synctest.Wait()
			}
			close(grant)
			l := <-got
			if i > 0 {
				c.tell(s, wanted(5))
			}
			c.calledFor(t, i+1, i)
			if l.State() != LockHeld || l.Context().Err() != nil {
				t.Errorf("wanted %s: %v", when, l.State())
			}
			if err := l.Unlock(t.Context()); err != nil {
				t.Error(err)
			}
			if n := len(c.made(releases)); n != i+1 { // when Unlock returns
				t.Errorf("wanted %s: %d releases", when, n)
			}
		}
	})
}

// The keep time counts from the last use.
func Test2_7_LocksAreKeptForTheKeepTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		h := keepingHandle(t, c.session(SessionOptions{}), 3*time.Second)
		for range 4 {
			h.kept(t, c)
			time.Sleep(2 * time.Second)
		}
		l, err := h.Lock(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second) // in use
		if err := l.Unlock(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3*time.Second - 1)
		c.calledFor(t, 1, 0)
		time.Sleep(time.Nanosecond)
		c.calledFor(t, 1, 1)
		h.kept(t, c)
		c.calledFor(t, 2, 1)
		time.Sleep(3 * time.Second)
		c.calledFor(t, 2, 2)
	})
}

// Without the option, and in another mode, a lock is given back before the next is asked for.
func Test2_7_LocksAreKeptInTheirMode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		s := c.session(SessionOptions{})
		h := keepingHandle(t, s, time.Minute)
		h.kept(t, c)
		l, err := h.RLock(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		c.calledFor(t, 2, 1)
		if q := c.made(acquires)[1].GetAcquire(); q.Mode != lockpb.Mode_SHARED || c.made(releases)[0].GetRelease().Attempt != 1 {
			t.Errorf("asked for %v", q)
		}
		if err := l.Unlock(t.Context()); err != nil {
			t.Fatal(err)
		}
		if l, err = h.TryRLock(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.calledFor(t, 2, 1)
		if err := l.Unlock(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := h.TryLock(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.calledFor(t, 3, 2)
		plain := keepingHandle(t, s, 0)
		if l, err = plain.Lock(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := l.Unlock(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.calledFor(t, 4, 3)
	})
}

// L1: beyond the lease nothing is taken over, also by a process that was stopped and finds the lease over
// before any timer has run. When the session is safe again, it is; when the session is lost, so is what
// was kept.
func Test2_7_LocksAreKeptWithinTheLease(t *testing.T) {
	for _, survives := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			c := newFakeCluster(t, 1)
			s := c.session(SessionOptions{})
			h := keepingHandle(t, s, 24*time.Hour)
			h.kept(t, c)
			c.set(func() { c.mute = true })
			c.clock.add.Store(int64(13 * time.Second))
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if _, err := h.TryLock(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("in jeopardy: %v", err)
			}
			type result struct {
				l   *Lock
				err error
			}
			done := make(chan result, 1)
			go func() {
				l, err := h.Lock(t.Context())
				done <- result{l, err}
			}()
			time.Sleep(5 * time.Second)
			if len(done) > 0 {
				t.Fatalf("in jeopardy: %v", <-done)
			}
			if !survives {
				c.set(func() { c.ended, c.mute = true, false })
				if got := <-done; !errors.Is(got.err, ErrSessionExpired) {
					t.Errorf("of a session that expired: %v", got.err)
				}
				if _, err := h.TryLock(t.Context()); !errors.Is(err, ErrSessionExpired) {
					t.Errorf("of a session that expired: %v", err)
				}
				c.calledFor(t, 1, 0)
				return
			}
			c.nodes[0].kill()
			c.nodes[0].boot()
			c.set(func() { c.mute = false })
			got := <-done
			l := got.l
			if got.err != nil || l.State() != LockHeld || l.Context().Err() != nil {
				t.Fatalf("safe again: %v", got.err)
			}
			c.calledFor(t, 1, 0)
			// In jeopardy nobody knows what is held, so nothing is kept.
			c.set(func() { c.muteBeats = true })
			<-l.Context().Done()
			unlocked := make(chan error)
			go func() { unlocked <- l.Unlock(t.Context()) }()
			time.Sleep(time.Second)
			c.set(func() { c.muteBeats = false })
			c.nodes[0].kill()
			c.nodes[0].boot()
			if err := <-unlocked; err != nil {
				t.Errorf("unlocked in jeopardy: %v", err)
			}
			if n := len(c.made(releases)); n == 0 {
				t.Error("kept in jeopardy")
			}
		})
	}
}

// What becomes due while somebody waits in jeopardy for the kept lock, and gives up, is given back.
func Test2_7_LocksAreKeptByNobodyWhoGaveUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		s := c.session(SessionOptions{})
		h := keepingHandle(t, s, 15*time.Second)
		h.kept(t, c)
		c.set(func() { c.muteBeats = true })
		<-s.Changed() // jeopardy, at 12 s
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if _, err := h.Lock(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		c.calledFor(t, 1, 0) // no call goes out in jeopardy
		c.set(func() { c.muteBeats = false })
		c.nodes[0].kill()
		c.nodes[0].boot()
		time.Sleep(5 * time.Second)
		if s.State() != Safe {
			t.Fatal(s.State())
		}
		c.calledFor(t, 1, 1)
	})
}

// A fail-over leaves the hold where it is, and the next leader hears that the session wants to know who wants it.
func Test2_7_LocksAreKeptOverFailOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 3)
		s := c.session(SessionOptions{})
		h := keepingHandle(t, s, time.Hour)
		h.kept(t, c)
		c.mu.Lock()
		before := len(c.beats)
		c.mu.Unlock()
		c.nodes[0].kill()
		c.lead(1)
		h.kept(t, c) // while nobody is reached
		time.Sleep(5 * time.Second)
		h.kept(t, c)
		c.calledFor(t, 1, 0)
		c.mu.Lock()
		listed := slices.ContainsFunc(c.beats[before:], func(b *lockpb.Beat) bool {
			return slices.ContainsFunc(b.Subscriptions.GetList(), func(u *lockpb.Subscription) bool {
				return u.Path == "/ls/local/x" && u.Instance == 7 && slices.Contains(u.Kinds, lockpb.EventKind_CONFLICTING_REQUEST)
			})
		})
		c.mu.Unlock()
		if !listed {
			t.Error("the next leader does not know that notices are wanted")
		}
		c.tell(s, wanted(5))
		c.calledFor(t, 1, 1)
	})
}

// Kept holds end with their handle, and with a Delete of their node; nothing is left of them.
func Test2_7_LocksAreKeptNoLongerThanTheirHandle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		s := c.session(SessionOptions{})
		h := keepingHandle(t, s, time.Minute)
		h.kept(t, c)
		c.set(func() {
			c.answer = func(r *lockpb.DoRequest) *lockpb.DoResponse {
				if r.GetDelete() != nil {
					return failure(5, &lockpb.ErrorInfo{Reason: "PERMISSION"})
				}
				return closed(r)
			}
		})
		if err := s.Node("/ls/local/x").Delete(t.Context()); !errors.Is(err, ErrPermission) {
			t.Fatal(err)
		}
		c.calledFor(t, 1, 1)
		// What is granted while the node is being deleted goes with it.
		answer := make(chan *lockpb.DoResponse)
		c.set(func() {
			c.answer = func(r *lockpb.DoRequest) *lockpb.DoResponse {
				if r.GetDelete() != nil {
					return <-answer
				}
				return closed(r)
			}
		})
		done := make(chan error)
		go func() { done <- s.Node("/ls/local/x").Delete(t.Context()) }()
		synctest.Wait()
		l, err := h.Lock(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		answer <- &lockpb.DoResponse{Answer: &lockpb.DoResponse_Delete{Delete: &lockpb.DeleteResponse{}}}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if err := l.Unlock(t.Context()); !errors.Is(err, ErrLockLost) {
			t.Fatal(err)
		}
		c.calledFor(t, 2, 1)
		h.kept(t, c)
		c.calledFor(t, 3, 1)
		if got := c.subscriptions(); len(got) != 1 {
			t.Errorf("subscribed to %v", got)
		}
		if err := h.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Lock(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("lock of a closed handle: %v", err)
		}
		time.Sleep(2 * time.Minute)
		c.calledFor(t, 3, 1) // Close ends the hold at the cell
		if got := c.subscriptions(); len(got) != 0 || len(s.events.groups) != 0 {
			t.Errorf("still subscribed to %v", got)
		}
		h = keepingHandle(t, s, time.Minute)
		h.kept(t, c)
		s.end(ErrClosed)
		if _, err := h.Lock(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("lock of a closed session: %v", err)
		}
		if h.keep.idle != nil || h.keep.timer.Stop() || len(s.locks) != 0 {
			t.Error("something is left")
		}
	})
}

// The user's own subscriptions are what they are without.
func Test2_7_LocksAreKeptBesideTheUsersEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		s := c.session(SessionOptions{})
		h := keepingHandle(t, s, time.Minute)
		h.kept(t, c)
		if got := c.subscriptions(); len(got) != 1 || got[0].After != 0 || !slices.Equal(got[0].Kinds, []lockpb.EventKind{lockpb.EventKind_CONFLICTING_REQUEST}) {
			t.Fatalf("subscribed to %v", got)
		}
		c.tell(s, &lockpb.Lease{Events: []*lockpb.Event{changed(101)}}) // of another subscription
		synctest.Wait()
		if b := c.lastBeat(); b.Seen != 101 {
			t.Fatalf("acknowledged %d", b.Seen)
		}
		some, err := h.Subscribe(t.Context(), SubscribeOptions{Kinds: []EventKind{ContentsChanged}, After: 101})
		if err != nil {
			t.Fatal(err)
		}
		all, err := h.Subscribe(t.Context(), SubscribeOptions{After: 101})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := c.subscriptions(); len(got) != 1 || got[0].After != 101 || len(got[0].Kinds) != 0 {
			t.Fatalf("subscribed to %v", got)
		}
		told := wanted(5)
		told.Events = append(told.Events, changed(102))
		c.tell(s, told)
		if e, err := all.Next(t.Context()); err != nil || e.Kind != ConflictingRequest || e.Generation != 5 {
			t.Errorf("event %v, %v", e, err)
		}
		for _, sub := range []*Subscription{all, some} {
			if e, err := sub.Next(t.Context()); err != nil || e.Kind != ContentsChanged {
				t.Errorf("event %v, %v", e, err)
			}
		}
		c.calledFor(t, 1, 1)
		all.Close()
		some.Close()
		synctest.Wait()
		if got := c.subscriptions(); len(got) != 1 || got[0].After != 0 || !slices.Equal(got[0].Kinds, []lockpb.EventKind{lockpb.EventKind_CONFLICTING_REQUEST}) {
			t.Errorf("subscribed to %v", got)
		}
		if b := c.lastBeat(); b.Seen != 102 {
			t.Errorf("acknowledged %d", b.Seen)
		}
	})
}

// Where the client would not hear who wants a lock it does not keep it: of a node too many, and when the cell has refused
// what the session subscribed to.
func Test2_7_LocksAreKeptOnlyWhereNoticesCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		s := c.session(SessionOptions{})
		h := keepingHandle(t, s, time.Minute)
		h.kept(t, c)
		s.mu.Lock()
		s.events.refusedLocked(ErrBadPath)
		s.mu.Unlock()
		c.calledFor(t, 1, 1)
		h.kept(t, c) // subscribed anew
		c.calledFor(t, 2, 1)
		c.set(func() { c.answer = closed })
		if err := h.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.mu.Lock()
		for i := range maxSubscriptions {
			id := nodeID{"/ls/local/y", uint64(i + 1)}
			s.events.groups[id] = &group{node: id}
		}
		s.mu.Unlock()
		h = keepingHandle(t, s, time.Minute)
		l, err := h.Lock(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Unlock(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.calledFor(t, 3, 2)
	})
}

// What a lock costs that is kept: no call, and a microsecond or so.
func BenchmarkKeptLock(b *testing.B) {
	s := &Session{cell: &cell{name: "local", c: &Client{clock: systemClock{}}}, locks: map[*Lock]struct{}{}, ttl: time.Hour}
	s.beats.granted, s.timer = time.Hour, time.AfterFunc(time.Hour, func() {})
	s.lease.Store(int64(systemClock{}.Now() + time.Hour))
	h := &Handle{Node: *s.Node("/ls/local/f"), keep: keeping{most: time.Hour, group: &group{}, idle: &grant{parsed: Sequencer{Generation: 1}}}, turn: make(chan struct{}, 1)}
	h.life, h.end = context.WithCancelCause(b.Context())
	b.ReportAllocs()
	for b.Loop() {
		l, err := h.Lock(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		if err := l.Unlock(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
