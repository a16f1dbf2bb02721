package lockservice

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/lockservice/lockpb"
)

func locked(t *testing.T, s *Session) *Lock {
	t.Helper()
	h, err := s.Open(t.Context(), "/ls/local/x", OpenOptions{Create: CreateIfAbsent})
	if err != nil {
		t.Fatal(err)
	}
	l, err := h.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// A beat is held a third of the TTL; the lease counts from its sending, less drift. When 9/20 of it are
// left, the client asks for an answer at once. So the lock's context ends exactly 11.988 s after the
// sending of the last beat that was answered.
func TestPaper2_8_LockContextEndsWithTheLocalLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		s := c.session(SessionOptions{})
		l := locked(t, s)
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if got := s.State(); got != Safe {
			t.Fatalf("state after 20 s of beats: %v", got)
		}
		// Urgent beats are sent, and answered, at 6.588, 13.176 and 19.764 s.
		c.set(func() { c.mute = true })
		want := 19764*time.Millisecond + 11988*time.Millisecond
		<-l.Context().Done()
		if got := c.clock.Now(); got != want {
			t.Errorf("context ended at %v, want %v", got, want)
		}
		if cause := context.Cause(l.Context()); !errors.Is(cause, ErrJeopardy) {
			t.Errorf("cause: %v", cause)
		}
		if s.State() != Jeopardy || l.State() != LockJeopardy {
			t.Errorf("states: %v, %v", s.State(), l.State())
		}
	})
}

func TestPaper2_8_JeopardyEndsWithTheGracePeriod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		s := c.session(SessionOptions{Grace: 30 * time.Second})
		l := locked(t, s)
		c.set(func() { c.mute = true })
		<-s.Changed()
		// A call waits in jeopardy, and ends with the session.
		_, _, err := l.Handle().Contents(t.Context())
		if !errors.Is(err, ErrSessionExpired) {
			t.Errorf("call in jeopardy: %v", err)
		}
		if got, want := c.clock.Now(), 11988*time.Millisecond+30*time.Second; got != want {
			t.Errorf("expired at %v, want %v", got, want)
		}
		if s.State() != Expired || !errors.Is(s.Err(), ErrSessionExpired) {
			t.Errorf("state %v, error %v", s.State(), s.Err())
		}
		if l.State() != LockLost || !errors.Is(l.Err(), ErrLockLost) || !errors.Is(l.Err(), ErrSessionExpired) {
			t.Errorf("lock %v, error %v", l.State(), l.Err())
		}
		if err := l.Unlock(t.Context()); !errors.Is(err, ErrLockLost) {
			t.Errorf("unlock of a lost lock: %v", err)
		}
	})
}

// The leader falls silent beyond the lease, then another one answers: the session lives on, the
// lock is held again, and only the context of the old tenure stays ended.
func TestPaper2_9_SessionSurvivesFailOverInJeopardy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 3)
		s := c.session(SessionOptions{Cache: true})
		l := locked(t, s)
		first := l.Context()
		c.set(func() { c.answer = func(r *lockpb.DoRequest) *lockpb.DoResponse { return contents("a", 1, true) } })
		n := s.Node("/ls/local/f")
		if _, _, err := n.Contents(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n.cached() == nil {
			t.Fatal("not cached")
		}
		c.set(func() { c.mute = true })
		<-first.Done()
		if n.cached() != nil {
			t.Error("the cache is used in jeopardy")
		}
		answered := make(chan error)
		go func() { _, _, err := n.Contents(t.Context()); answered <- err }()
		time.Sleep(20 * time.Second)
		c.set(func() { c.mute = false; c.leader = 2; c.epoch++ })
		<-s.Changed()
		if s.State() != Safe || l.State() != LockHeld || l.Context().Err() != nil || first.Err() == nil {
			t.Errorf("after fail-over: session %v, lock %v, new context %v, old context %v", s.State(), l.State(), l.Context().Err(), first.Err())
		}
		if err := <-answered; err != nil {
			t.Errorf("call that waited in jeopardy: %v", err)
		}
		synctest.Wait()
		if b := c.lastBeat(); b.Epoch != 2 {
			t.Errorf("the new leader was not told that the cache is dropped: epoch %d", b.Epoch)
		}
	})
}

// A fail-over that is over before the lease is shows in nothing but an event.
func TestPaper2_9_FailOverWithinTheLeaseIsNotSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 3)
		s := c.session(SessionOptions{})
		l := locked(t, s)
		sub, err := s.Node("/ls/local/x").Subscribe(t.Context(), SubscribeOptions{Kinds: []EventKind{CellFailedOver}})
		if err != nil {
			t.Fatal(err)
		}
		c.nodes[0].kill()
		time.Sleep(2 * time.Second)
		c.lead(1)
		if e, err := sub.Next(t.Context()); err != nil || e.Kind != CellFailedOver {
			t.Fatalf("event %v, %v", e, err)
		}
		if got := c.clock.Now(); got > 3*time.Second {
			t.Errorf("found the new leader only at %v", got)
		}
		time.Sleep(time.Minute)
		if l.State() != LockHeld || l.Context().Err() != nil {
			t.Errorf("lock: %v", l.State())
		}
	})
}

func TestPaper2_8_ServerEndsSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		s := c.session(SessionOptions{})
		l := locked(t, s)
		ctx := l.Context()
		c.set(func() { c.ended = true })
		<-s.Done()
		if got := c.clock.Now(); got > time.Second {
			t.Errorf("heard of it at %v", got)
		}
		if cause := context.Cause(ctx); !errors.Is(cause, ErrLockLost) || !errors.Is(cause, ErrSessionExpired) {
			t.Errorf("cause: %v", cause)
		}
		if _, err := s.Open(t.Context(), "/ls/local/y", OpenOptions{}); !errors.Is(err, ErrSessionExpired) {
			t.Errorf("open: %v", err)
		}
	})
}

// A machine that was suspended, or a process that was stopped, finds its lease over by asking,
// before any timer has run.
func TestPaper2_8_SuspendedProcessAsksTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		s := c.session(SessionOptions{Cache: true})
		l := locked(t, s)
		ctx := l.Context()
		derived, cancel := context.WithCancel(ctx)
		defer cancel()
		c.set(func() { c.answer = func(r *lockpb.DoRequest) *lockpb.DoResponse { return contents("a", 1, true) } })
		n := s.Node("/ls/local/f")
		if _, _, err := n.Contents(t.Context()); err != nil {
			t.Fatal(err)
		}
		if ctx.Err() != nil || l.Remaining() != 11988*time.Millisecond {
			t.Fatalf("before: %v, %v left", ctx.Err(), l.Remaining())
		}
		c.clock.add.Store(int64(13 * time.Second))
		if n.cached() != nil {
			t.Error("the cache is used beyond the lease")
		}
		if ctx.Err() == nil {
			t.Error("the context does not ask the clock")
		}
		select {
		case <-derived.Done():
		default:
			t.Error("a derived context did not end")
		}
		if s.State() != Jeopardy || l.State() != LockJeopardy {
			t.Errorf("states: %v, %v", s.State(), l.State())
		}
	})
}

// A leader that receives and does not answer is left as soon as another one is known.
func TestSilentLeaderIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 3)
		s := c.session(SessionOptions{})
		h, err := s.Open(t.Context(), "/ls/local/x", OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		c.set(func() {
			c.answer = func(r *lockpb.DoRequest) *lockpb.DoResponse { return contents("a", 1, false) }
			c.mute = true
		})
		began := c.clock.Now()
		go func() {
			time.Sleep(500 * time.Millisecond)
			// The old leader is still mute: it has not heard that it was deposed.
			c.set(func() { c.leader = 1; c.mute = false; c.epoch++ })
		}()
		if _, _, err := h.Contents(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := c.clock.Now() - began; took > 2*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

func TestCloseEndsEveryGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // which fails when one is left
		c := newFakeCluster(t, 2)
		client := c.client()
		s, err := client.NewSession(t.Context(), SessionOptions{})
		if err != nil {
			t.Fatal(err)
		}
		l := locked(t, s)
		ctx := l.Context()
		sub, err := s.Node("/ls/local/x").Subscribe(t.Context(), SubscribeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		client.Close()
		if !errors.Is(context.Cause(ctx), ErrLockLost) {
			t.Errorf("lock's context: %v", context.Cause(ctx))
		}
		if _, err := sub.Next(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("subscription: %v", err)
		}
		if _, err := s.Open(t.Context(), "/ls/local/y", OpenOptions{}); !errors.Is(err, ErrClosed) {
			t.Errorf("open: %v", err)
		}
		if _, err := client.NewSession(t.Context(), SessionOptions{}); !errors.Is(err, ErrClosed) {
			t.Errorf("new session: %v", err)
		}
	})
}
