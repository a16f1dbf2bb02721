package lockservice

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/spandb/spand/lockservice/lockpb"
)

// A change whose answer was lost with the leader is sent to the next one under its number.
func TestRetriedChangeKeepsItsNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 3)
		s := c.session(SessionOptions{})
		lost := true
		c.set(func() {
			c.answer = func(r *lockpb.DoRequest) *lockpb.DoResponse {
				c.mu.Lock()
				defer c.mu.Unlock()
				if lost {
					lost = false
					go func() { c.nodes[0].kill(); c.lead(1) }()
					return nil
				}
				return &lockpb.DoResponse{Answer: &lockpb.DoResponse_SetContents{SetContents: &lockpb.SetContentsResponse{Stat: &lockpb.Stat{}}}}
			}
		})
		if _, err := s.Node("/ls/local/x").SetContents(t.Context(), []byte("a")); err != nil {
			t.Fatal(err)
		}
		sent := c.made(func(r *lockpb.DoRequest) bool { return r.GetSetContents() != nil })
		if len(sent) < 2 {
			t.Fatalf("sent %d times", len(sent))
		}
		for _, r := range sent {
			if q := r.GetSetContents(); q.Request != 1 || q.Handle.Session != s.id {
				t.Errorf("sent as %v", r)
			}
		}
		// The next one says that it was answered.
		if _, err := s.Node("/ls/local/x").SetContents(t.Context(), []byte("b")); err != nil {
			t.Fatal(err)
		}
		sent = c.made(func(r *lockpb.DoRequest) bool { return r.GetSetContents() != nil })
		if q := sent[len(sent)-1].GetSetContents(); q.Request != 2 || q.AnsweredBelow != 2 {
			t.Errorf("next request: %d, answered below %d", q.Request, q.AnsweredBelow)
		}
	})
}

// Without a session a change cannot be sent twice: the caller is told.
func TestChangeWithoutSessionIsAmbiguous(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 3)
		client := c.client()
		c.set(func() {
			c.answer = func(r *lockpb.DoRequest) *lockpb.DoResponse {
				go func() { c.nodes[0].kill(); c.lead(1) }()
				return nil
			}
		})
		_, err := client.Node("/ls/local/x").SetContents(t.Context(), []byte("a"))
		if !errors.Is(err, ErrAmbiguous) {
			t.Errorf("error %v", err)
		}
		if n := len(c.made(func(r *lockpb.DoRequest) bool { return r.GetSetContents() != nil })); n != 1 {
			t.Errorf("sent %d times", n)
		}
	})
}

// An acquire that is sent again is the same attempt with the place in the queue that it had.
func TestRetriedAcquireKeepsAttemptAndTicket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 3)
		s := c.session(SessionOptions{})
		h, err := s.Open(t.Context(), "/ls/local/x", OpenOptions{LockDelay: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		c.set(func() {
			c.answer = func(r *lockpb.DoRequest) *lockpb.DoResponse {
				c.mu.Lock()
				defer c.mu.Unlock()
				if r.GetAcquire() == nil || c.leader != 0 {
					return nil
				}
				return &lockpb.DoResponse{Answer: &lockpb.DoResponse_Waiting{Waiting: 42}}
			}
		})
		go func() {
			time.Sleep(time.Second)
			c.nodes[0].kill()
			c.lead(2)
		}()
		l, err := h.Lock(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		sent := c.made(func(r *lockpb.DoRequest) bool { return r.GetAcquire() != nil })
		first, last := sent[0].GetAcquire(), sent[len(sent)-1].GetAcquire()
		if len(sent) < 2 || first.Attempt != last.Attempt || first.Ticket != 0 || last.Ticket != 42 || last.LockDelayNs != int64(time.Second) {
			t.Errorf("sent %v, then %v", first, last)
		}
		if q := l.Fields(); q.Generation != 5 || q.Hold != 9 || l.Sequencer() != "/ls/local/x:exclusive:5:9" {
			t.Errorf("sequencer %v, %q", q, l.Sequencer())
		}
	})
}

// Who gives up waiting leaves the queue, and gives back what he may have got all the same. The
// handle can be used again only then: the next attempt must not meet the last one's hold.
func TestAbandonedAcquireLeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		s := c.session(SessionOptions{})
		h, err := s.Open(t.Context(), "/ls/local/x", OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		waits := true
		c.set(func() {
			c.answer = func(r *lockpb.DoRequest) *lockpb.DoResponse {
				c.mu.Lock()
				defer c.mu.Unlock()
				switch {
				case r.GetAcquire() != nil && waits:
					return &lockpb.DoResponse{Answer: &lockpb.DoResponse_Waiting{Waiting: 1}}
				case r.GetRelease() != nil && waits:
					waits = false
					time.AfterFunc(3*time.Second, func() { c.set(func() { c.answer = nil }) })
					return failure(codes.Unavailable, &lockpb.ErrorInfo{Reason: "NO_LEADER"})
				case r.GetRelease() != nil:
					return failure(codes.Unavailable, &lockpb.ErrorInfo{Reason: "NO_LEADER"})
				}
				return nil
			}
		})
		mine := errors.New("enough")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, mine)
		defer cancel()
		if _, err := h.Lock(ctx); !errors.Is(err, mine) {
			t.Fatalf("error %v", err)
		}
		if _, err := h.TryLock(t.Context()); !errors.Is(err, ErrLockHeld) {
			t.Errorf("next attempt before the last is undone: %v", err)
		}
		if l, err := h.Lock(t.Context()); err != nil || l.State() != LockHeld {
			t.Fatalf("next attempt: %v", err)
		}
		if got := c.clock.Now(); got < 4*time.Second {
			t.Errorf("locked at %v, before the release was answered", got)
		}
		cancelled := c.made(func(r *lockpb.DoRequest) bool { return r.GetCancel() != 0 })
		released := c.made(func(r *lockpb.DoRequest) bool { return r.GetRelease() != nil })
		if len(cancelled) != 1 || len(released) < 2 || released[0].GetRelease().Attempt != 1 {
			t.Errorf("cancelled %v, released %v", cancelled, released)
		}
	})
}

// An Unlock that could not be answered is finished in the background.
func TestUnlockGoesOnWithoutItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		s := c.session(SessionOptions{})
		l := locked(t, s)
		c.set(func() { c.mute = true })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := l.Unlock(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("unlock: %v", err)
		}
		if l.State() != LockReleased || !errors.Is(context.Cause(l.Context()), ErrUnlocked) {
			t.Errorf("state %v, cause %v", l.State(), context.Cause(l.Context()))
		}
		c.nodes[0].kill()
		c.set(func() { c.mute = false })
		c.nodes[0].boot()
		if _, err := l.Handle().Lock(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

// Nor one, or a Close, that the cell could not carry out because the disks were full.
func TestUnlockOnFullDisksGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		s := c.session(SessionOptions{})
		l := locked(t, s)
		full := func(*lockpb.DoRequest) *lockpb.DoResponse {
			return failure(codes.ResourceExhausted, &lockpb.ErrorInfo{Reason: "DISK_FULL"})
		}
		c.set(func() { c.answer = full })
		if err := l.Unlock(t.Context()); !errors.Is(err, ErrDiskFull) {
			t.Fatalf("unlock: %v", err)
		}
		if err := l.Handle().Close(t.Context()); !errors.Is(err, ErrDiskFull) {
			t.Fatalf("close: %v", err)
		}
		time.Sleep(time.Second)
		c.set(func() { c.answer = nil })
		time.Sleep(time.Second)
		released := len(c.made(func(r *lockpb.DoRequest) bool { return r.GetRelease() != nil }))
		closed := len(c.made(func(r *lockpb.DoRequest) bool { return r.GetClose() != nil }))
		time.Sleep(time.Minute)
		if n := len(c.made(func(r *lockpb.DoRequest) bool { return r.GetRelease() != nil })); released < 2 || n != released {
			t.Errorf("%d releases, then %d", released, n)
		}
		if n := len(c.made(func(r *lockpb.DoRequest) bool { return r.GetClose() != nil })); closed < 2 || n != closed {
			t.Errorf("%d closes, then %d", closed, n)
		}
	})
}

func TestErrorsCarryTheStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		s := c.session(SessionOptions{})
		c.set(func() {
			c.answer = func(*lockpb.DoRequest) *lockpb.DoResponse {
				return failure(codes.FailedPrecondition, &lockpb.ErrorInfo{Reason: "LOCK_DELAYED", Path: "/ls/local/x", Until: 1e18})
			}
		})
		h, err := s.Open(t.Context(), "/ls/local/x", OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = h.TryLock(t.Context())
		var e *Error
		if !errors.Is(err, ErrLockDelayed) || errors.Is(err, ErrLockHeld) || !errors.As(err, &e) || !e.Until.Equal(time.Unix(1e9, 0)) {
			t.Errorf("error %v", err)
		}
		st, ok := status.FromError(err)
		if !ok || st.Code() != codes.FailedPrecondition || len(st.Details()) != 1 || st.Details()[0].(*lockpb.ErrorInfo).Reason != "LOCK_DELAYED" {
			t.Errorf("status %v", st)
		}
	})
}

// The sequencer that a handle is bound to goes with every read and change: the cell's next leader
// does not know it. Giving back needs no proof.
func TestPaper2_4_SequencerGoesWithEveryCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		s := c.session(SessionOptions{Cache: true})
		h, err := s.Open(t.Context(), "/ls/local/x", OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		c.set(func() {
			c.answer = func(r *lockpb.DoRequest) *lockpb.DoResponse {
				switch {
				case r.GetSetSequencer() != nil:
					return &lockpb.DoResponse{Answer: &lockpb.DoResponse_SetSequencer{SetSequencer: &lockpb.SetSequencerResponse{}}}
				case r.GetSetContents() != nil:
					return &lockpb.DoResponse{Answer: &lockpb.DoResponse_SetContents{SetContents: &lockpb.SetContentsResponse{}}}
				case reads(r):
					return contents("a", 1, true)
				}
				return nil
			}
		})
		if _, _, err := h.Contents(t.Context()); err != nil || h.cached() == nil {
			t.Fatalf("not cached, %v", err)
		}
		const q = "/ls/local/lock:exclusive:3:4"
		if err := h.SetSequencer(t.Context(), q); err != nil {
			t.Fatal(err)
		}
		if _, err := h.SetContents(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if _, _, err := h.Contents(t.Context()); err != nil { // not from the cache
			t.Fatal(err)
		}
		writes := c.made(func(r *lockpb.DoRequest) bool { return r.GetSetContents() != nil })
		gets := c.made(reads)
		if len(gets) != 2 || gets[1].GetGetContentsAndStat().Handle.Sequencer != q || writes[0].GetSetContents().Handle.Sequencer != q {
			t.Errorf("reads %v, writes %v", gets, writes)
		}
		l, err := h.Lock(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Unlock(t.Context()); err != nil {
			t.Fatal(err)
		}
		released := c.made(func(r *lockpb.DoRequest) bool { return r.GetRelease() != nil })
		if len(released) != 1 || released[0].GetRelease().Handle.Sequencer != "" {
			t.Errorf("released %v", released)
		}
	})
}

// A handle is in at most one turn: what it holds or asks for is over before it asks again.
func TestHandleLocksOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		l := locked(t, c.session(SessionOptions{}))
		h := l.Handle()
		if _, err := h.TryRLock(t.Context()); !errors.Is(err, ErrLockHeld) {
			t.Errorf("TryRLock: %v", err)
		}
		got := make(chan *Lock)
		go func() {
			l, err := h.Lock(t.Context())
			if err != nil {
				t.Error(err)
			}
			got <- l
		}()
		synctest.Wait()
		if n := len(c.made(func(r *lockpb.DoRequest) bool { return r.GetAcquire() != nil })); n != 1 {
			t.Errorf("%d acquires while the handle holds", n)
		}
		if err := l.Unlock(t.Context()); err != nil {
			t.Error(err)
		}
		if err := (<-got).Unlock(t.Context()); err != nil {
			t.Error(err)
		}
		if err := l.Unlock(t.Context()); err != nil {
			t.Errorf("second unlock: %v", err)
		}
	})
}

// One address is enough, of a node that does not lead.
func TestDialOneFollower(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 3)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		client, err := Dial(ctx, "n3", WithDialer(c.dialer), WithClock(c.clock))
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		if _, err := client.Cells(ctx); err != nil {
			t.Error(err)
		}
	})
}

func TestDialNamesWhatEachNodeSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		c := &fakeCluster{t: t, clock: &bubbleClock{start: time.Now()}}
		_, err := Dial(ctx, "a:1, b:2", WithDialer(c.dialer), WithClock(c.clock))
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("error %v", err)
		}
		for _, want := range []string{"a:1: ", "b:2: ", `no node "a:1"`} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q lacks %q", err, want)
			}
		}
	})
}

// A leader is called where it was asked, whatever address it has for itself.
func TestLeaderIsCalledWhereItWasAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		s := c.session(SessionOptions{})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if _, err := s.Open(ctx, "/ls/local/x", OpenOptions{}); err != nil {
			t.Error(err)
		}
	})
}
