package lockservice

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/lockservice/lockpb"
)

func acquires(r *lockpb.DoRequest) bool { return r.GetAcquire() != nil }
func releases(r *lockpb.DoRequest) bool { return r.GetRelease() != nil }

func closed(r *lockpb.DoRequest) *lockpb.DoResponse {
	if r.GetClose() != nil {
		return &lockpb.DoResponse{Answer: &lockpb.DoResponse_Close{Close: &lockpb.CloseResponse{}}}
	}
	return nil
}

// The grant of a lock may be under way when its handle is closed: the Close at the cell may come
// before it or after it, so nobody may hold the lock here, and the grant is given back.
func TestCloseWhileTheGrantIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		s := c.session(SessionOptions{})
		h, err := s.Open(t.Context(), "/ls/local/x", OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		granted := make(chan struct{})
		c.set(func() {
			c.answer = func(r *lockpb.DoRequest) *lockpb.DoResponse {
				if r.GetAcquire() != nil {
					<-granted
				}
				return closed(r)
			}
		})
		got := make(chan error)
		go func() {
			l, err := h.Lock(t.Context())
			if err == nil && l.State() == LockHeld {
				t.Error("the lock of a closed handle is held")
			}
			got <- err
		}()
		synctest.Wait()
		if err := h.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		close(granted)
		if err := <-got; !errors.Is(err, ErrClosed) {
			t.Errorf("lock: %v", err)
		}
		synctest.Wait()
		if r := c.made(releases); len(r) != 1 || r[0].GetRelease().Attempt != 1 {
			t.Errorf("the grant was not given back: %v", r)
		}
		// A grant that has been received is refused all the same.
		if err := s.hold(&Lock{h: h, base: t.Context()}); !errors.Is(err, ErrClosed) || len(s.locks) != 0 {
			t.Errorf("entered: %v, %d locks", err, len(s.locks))
		}
		if _, err := h.Lock(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("lock through a closed handle: %v", err)
		}
		if err := h.Close(t.Context()); err != nil {
			t.Errorf("second close: %v", err)
		}
	})
}

// A turn ends once: when the handle is closed, and the session is in jeopardy, while somebody who has
// been granted its lock waits to be safe.
func TestCloseInJeopardyEndsTheTurnOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // which fails when a goroutine is left
		c := newFakeCluster(t, 1)
		s := c.session(SessionOptions{})
		h, err := s.Open(t.Context(), "/ls/local/x", OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		c.set(func() {
			c.answer = func(r *lockpb.DoRequest) *lockpb.DoResponse {
				if r.GetAcquire() != nil {
					c.clock.add.Store(int64(13 * time.Second)) // the answer comes out of a suspend
				}
				return closed(r)
			}
			c.muteBeats = true
		})
		got := make(chan error)
		go func() {
			_, err := h.Lock(t.Context())
			got <- err
		}()
		synctest.Wait()
		if s.State() != Jeopardy || len(s.locks) != 1 {
			t.Fatalf("session %v, %d locks", s.State(), len(s.locks))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		h.Close(ctx) // waits for the session, in vain
		if err := <-got; !errors.Is(err, ErrClosed) {
			t.Errorf("lock: %v", err)
		}
		s.cell.c.Close()
	})
}
