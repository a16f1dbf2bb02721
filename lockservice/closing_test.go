package lockservice

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/spandb/spand/lockservice/lockpb"
)

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

// What a broken stream ended with is no verdict on the calls that were under way on it: they may have been
// carried out, and are made again.
func TestBrokenStreamIsNoVerdict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		s := c.session(SessionOptions{})
		h, err := s.Open(t.Context(), "/ls/local/x", OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		breaks := 1
		c.set(func() {
			c.breaks = func(r *lockpb.DoRequest) error {
				c.mu.Lock()
				defer c.mu.Unlock()
				if breaks == 0 {
					return nil
				}
				breaks--
				return status.Error(codes.ResourceExhausted, "grpc: received message larger than max")
			}
		})
		l, err := h.Lock(t.Context())
		if err != nil {
			t.Fatalf("lock: %v", err)
		}
		if err := l.Unlock(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.set(func() { breaks = 1 })
		if _, err := s.cell.c.Node("/ls/local/x").SetContents(t.Context(), nil); !errors.Is(err, ErrAmbiguous) {
			t.Errorf("change without a session: %v", err)
		}
		// The first attempt may have been granted: a refusal of the second one does not undo that.
		before := len(c.made(releases))
		c.set(func() {
			breaks = 1
			c.answer = func(r *lockpb.DoRequest) *lockpb.DoResponse {
				if r.GetAcquire() != nil {
					return failure(codes.ResourceExhausted, &lockpb.ErrorInfo{Reason: "DISK_FULL"})
				}
				return nil
			}
		})
		if _, err := h.Lock(t.Context()); !errors.Is(err, ErrDiskFull) {
			t.Errorf("lock: %v", err)
		}
		synctest.Wait()
		if r := c.made(releases)[before:]; len(r) != 1 || r[0].GetRelease().Attempt != 2 {
			t.Errorf("released %v", r)
		}
	})
}

// Opening what is there keeps an ephemeral node alive, too.
func TestAbandonedOpenIsUndone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		s := c.session(SessionOptions{})
		c.set(func() { c.mute = true })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.Open(ctx, "/ls/local/x", OpenOptions{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		c.set(func() { c.mute, c.answer = false, closed })
		c.nodes[0].kill()
		c.nodes[0].boot()
		time.Sleep(5 * time.Second)
		if r := c.made(func(r *lockpb.DoRequest) bool { return r.GetClose() != nil }); len(r) == 0 {
			t.Error("the handle stays open at the cell")
		}
	})
}

// A call that meets the client's end where a leader was just named does not find a node that is not there.
func TestCallBesideCloseEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		client := c.client()
		l, err := client.cell("local")
		if err != nil {
			t.Fatal(err)
		}
		nodes := client.nodes
		c.set(func() {
			c.located = func() {
				client.mu.Lock()
				defer client.mu.Unlock()
				client.nodes, client.cells = nil, nil // as Close does first
			}
		})
		if n, err := l.target(t.Context()); n != nil || !errors.Is(err, ErrClosed) {
			t.Errorf("target %v, %v", n, err)
		}
		for _, n := range nodes {
			n.close()
		}
	})
}
