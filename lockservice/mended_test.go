package lockservice

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/spandb/spand/lockservice/lockpb"
)

// An answer that comes late names what is to be forgotten all the same.
func TestPaper2_7_LateInvalidationIsCarriedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		s := c.session(SessionOptions{Cache: true})
		c.set(func() { c.answer = func(r *lockpb.DoRequest) *lockpb.DoResponse { return contents("a", 1, true) } })
		n := s.Node("/ls/local/f")
		c.tell(s, &lockpb.Lease{Invalidation: 7, Invalidate: []string{"/ls/local/g"}})
		synctest.Wait()
		if _, _, err := n.Contents(t.Context()); err != nil || n.cached() == nil {
			t.Fatalf("not cached, %v", err)
		}
		c.tell(s, &lockpb.Lease{Invalidation: 6, Invalidate: []string{"/ls/local/f"}})
		synctest.Wait()
		if n.cached() != nil {
			t.Error("what a late answer invalidates is cached")
		}
		if b := c.lastBeat(); b.Invalidated != 7 {
			t.Errorf("acknowledged %d", b.Invalidated)
		}
	})
}

// What cannot be encoded, or is too large, is refused before it breaks the stream that calls share.
func TestWhatCannotBeSentIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		s := c.session(SessionOptions{})
		h, err := s.Open(t.Context(), "/ls/local/x", OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		big := make([]byte, 256<<10+1)
		for name, tt := range map[string]struct {
			want error
			call func() error
		}{
			"path":      {ErrBadPath, func() error { _, err := s.Node("/ls/local/\xff").Stat(ctx); return err }},
			"long path": {ErrBadPath, func() error { _, err := s.Node("/ls/local/" + strings.Repeat("x", 1<<20)).Stat(ctx); return err }},
			"no session": {ErrBadPath, func() error {
				_, err := s.cell.c.Node("/ls/local/\xff").SetContents(ctx, nil)
				return err
			}},
			"open":     {ErrBadPath, func() error { _, err := s.Open(ctx, "/ls/local/\xff", OpenOptions{}); return err }},
			"open ACL": {ErrBadRequest, func() error { _, err := s.Open(ctx, "/ls/local/y", OpenOptions{ACL: &ACL{Read: "\xff"}}); return err }},
			"lock-delay": {ErrBadRequest, func() error {
				_, err := s.Open(ctx, "/ls/local/y", OpenOptions{LockDelay: 2 * time.Minute})
				return err
			}},
			"ACL":       {ErrBadRequest, func() error { _, err := h.SetACL(ctx, ACL{Write: "\xff"}); return err }},
			"sequencer": {ErrBadRequest, func() error { return h.SetSequencer(ctx, "/ls/local/\xff:exclusive:1:1") }},
			"check":     {ErrBadRequest, func() error { return s.cell.c.CheckSequencer(ctx, "/ls/local/\xff:exclusive:1:1") }},
			"cell":      {ErrBadRequest, func() error { _, err := s.cell.c.Cell(ctx, "\xff"); return err }},
			"new cell":  {ErrBadRequest, func() error { return s.cell.c.CreateCell(ctx, "\xff") }},
			"name":      {ErrBadRequest, func() error { _, err := s.cell.c.NewSession(ctx, SessionOptions{Name: "\xff"}); return err }},
			"contents":  {ErrTooLarge, func() error { _, err := h.SetContents(ctx, big); return err }},
			"made":      {ErrTooLarge, func() error { _, err := s.Open(ctx, "/ls/local/y", OpenOptions{Contents: big}); return err }},
		} {
			before := len(c.made(func(*lockpb.DoRequest) bool { return true }))
			if err := tt.call(); !errors.Is(err, tt.want) {
				t.Errorf("%s: %v, want %v", name, err, tt.want)
			}
			if n := len(c.made(func(*lockpb.DoRequest) bool { return true })); n != before {
				t.Errorf("%s: was sent", name)
			}
		}
	})
}

// Who deletes the node of his lock does not hold it from the moment on when the cell may have done so, and holds it
// again when it was not done.
func TestDeleteOfALockedNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		s := c.session(SessionOptions{})
		l := locked(t, s)
		arrived, answer := make(chan struct{}), make(chan *lockpb.DoResponse)
		c.set(func() {
			c.answer = func(r *lockpb.DoRequest) *lockpb.DoResponse {
				if r.GetDelete() == nil {
					return nil
				}
				arrived <- struct{}{}
				return <-answer
			}
		})
		remove := func(ctx context.Context) chan error {
			done := make(chan error, 1)
			go func() { done <- l.Handle().Delete(ctx) }()
			<-arrived
			return done
		}
		work := l.Context()
		done := remove(t.Context())
		if l.State() == LockHeld || work.Err() == nil || l.Remaining() > 0 {
			t.Errorf("while the node is deleted: %v, context %v, %v left", l.State(), work.Err(), l.Remaining())
		}
		time.Sleep(20 * time.Second) // renewals change nothing about that
		if l.State() == LockHeld {
			t.Error("held again by a renewal")
		}
		answer <- failure(codes.Aborted, &lockpb.ErrorInfo{Reason: "GENERATION_MISMATCH"})
		if err := <-done; !errors.Is(err, ErrGenerationMismatch) || l.State() != LockHeld || l.Context().Err() != nil {
			t.Errorf("after a refusal (%v): %v, context %v", err, l.State(), l.Context().Err())
		}
		ctx, cancel := context.WithCancel(t.Context())
		done = remove(ctx)
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) || l.State() != LockLost {
			t.Errorf("after a Delete of which nobody knows (%v): %v", err, l.State())
		}
		answer <- nil
		synctest.Wait()
		if r := c.made(releases); len(r) != 1 {
			t.Errorf("released %v", r)
		}
		if l, _ = l.Handle().Lock(t.Context()); l == nil {
			t.Fatal("not locked again")
		}
		done = remove(t.Context())
		answer <- &lockpb.DoResponse{Answer: &lockpb.DoResponse_Delete{Delete: &lockpb.DeleteResponse{}}}
		if err := <-done; err != nil || l.State() != LockLost {
			t.Errorf("after the Delete (%v): %v", err, l.State())
		}
	})
}

// A lock that is granted while a Delete of its node by the same session is under way, or is told of after that,
// may be gone with the node (L1).
func TestL1_LockBesideADelete(t *testing.T) {
	removed := &lockpb.DoResponse{Answer: &lockpb.DoResponse_Delete{Delete: &lockpb.DeleteResponse{}}}
	refused := failure(codes.Aborted, &lockpb.ErrorInfo{Reason: "GENERATION_MISMATCH"})
	begin := func(t *testing.T) (c *fakeCluster, h *Handle, deletes, acquires chan *lockpb.DoResponse) {
		c = newFakeCluster(t, 1)
		l := locked(t, c.session(SessionOptions{}))
		if err := l.Unlock(t.Context()); err != nil {
			t.Fatal(err)
		}
		deletes, acquires = make(chan *lockpb.DoResponse), make(chan *lockpb.DoResponse)
		c.set(func() {
			c.answer = func(r *lockpb.DoRequest) *lockpb.DoResponse {
				switch {
				case r.GetDelete() != nil:
					return <-deletes
				case r.GetAcquire() != nil:
					return <-acquires // nil: it is granted
				}
				return nil
			}
		})
		return c, l.Handle(), deletes, acquires
	}
	for _, end := range []*lockpb.DoResponse{removed, refused} {
		synctest.Test(t, func(t *testing.T) {
			_, h, deletes, acquires := begin(t)
			done := make(chan error, 1)
			go func() { done <- h.Delete(t.Context()) }()
			synctest.Wait()
			go func() { acquires <- nil }()
			l, err := h.Lock(t.Context())
			if err != nil || l.State() != LockJeopardy || l.Context().Err() == nil {
				t.Fatalf("beside a Delete: %v, %v", l.State(), err)
			}
			deletes <- end
			want := LockHeld
			if err := <-done; err == nil {
				want = LockLost
			}
			if l.State() != want {
				t.Errorf("%v, not %v", l.State(), want)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		c, h, deletes, acquires := begin(t)
		before := len(c.made(func(r *lockpb.DoRequest) bool { return r.GetAcquire() != nil }))
		done := make(chan error, 1)
		go func() {
			_, err := h.Lock(t.Context())
			done <- err
		}()
		synctest.Wait()
		go func() { deletes <- removed }()
		if err := h.s.Node("/ls/local/other").Delete(t.Context()); err != nil {
			t.Fatal(err)
		}
		acquires <- nil
		synctest.Wait()
		if n := len(c.made(func(r *lockpb.DoRequest) bool { return r.GetAcquire() != nil })) - before; n != 1 {
			t.Fatalf("asked %d times because another node was deleted", n)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	for _, end := range []*lockpb.DoResponse{removed, refused} {
		synctest.Test(t, func(t *testing.T) {
			c, h, deletes, acquires := begin(t)
			got := make(chan error, 1)
			go func() {
				_, err := h.Lock(t.Context())
				got <- err
			}()
			synctest.Wait()
			done := make(chan error, 1)
			go func() { done <- h.Delete(t.Context()) }()
			synctest.Wait()
			deletes <- end
			gone := <-done == nil
			acquires <- nil // the grant was on its way
			if gone {
				select {
				case acquires <- failure(codes.NotFound, &lockpb.ErrorInfo{Reason: "NODE_NOT_FOUND"}):
				case err := <-got:
					t.Fatalf("Lock asks no second time: %v", err)
				}
			}
			if err := <-got; gone != errors.Is(err, ErrNotFound) {
				t.Errorf("node gone: %v, Lock: %v", gone, err)
			}
			r := c.made(func(r *lockpb.DoRequest) bool { return r.GetAcquire() != nil })
			if n := len(r); gone && r[n-1].GetAcquire().Attempt != r[n-2].GetAcquire().Attempt {
				t.Errorf("asked again as another attempt: %v", r)
			}
		})
	}
}

// After a suspend, in which timers stood still, contexts end although nobody asks.
func TestPaper2_8_ContextsEndAfterASuspend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		l := locked(t, c.session(SessionOptions{}))
		ctx := l.Context()
		time.Sleep(time.Second)
		c.set(func() { c.mute = true })
		c.clock.add.Store(int64(13 * time.Second))
		time.Sleep(time.Second)
		select {
		case <-ctx.Done():
		default:
			t.Error("the context is alive a second after a suspend beyond the lease")
		}
	})
}

// A leader that was paused right after an answer is noticed by the urgent beat that it leaves unanswered, in time for
// the lease, also when one of those who are asked about it is silent, too.
func TestPaper2_9_PausedLeaderIsLeftWithinTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 3)
		l := locked(t, c.session(SessionOptions{}))
		ctx := l.Context()
		time.Sleep(4100 * time.Millisecond) // the beat held for a third of the TTL is answered
		c.set(func() { c.paused = map[int]bool{0: true, 2: true}; c.leader = 1; c.epoch++ })
		select {
		case <-ctx.Done():
			t.Errorf("jeopardy at %v", c.clock.Now())
		case <-time.After(30 * time.Second):
		}
	})
}

// How long a server may be silent follows from the shortest lease, whatever others were given.
func TestSilenceIsMeasuredByTheShortestLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		s := c.session(SessionOptions{})
		other, err := s.cell.c.NewSession(t.Context(), SessionOptions{})
		if err != nil {
			t.Fatal(err)
		}
		k := &s.cell.keeper
		c.set(func() { c.ttl = map[uint64]time.Duration{other.id: time.Minute} })
		c.tell(other, &lockpb.Lease{Events: []*lockpb.Event{changed(101)}})
		synctest.Wait()
		if got := k.limit(); got != testTTL*5/8 {
			t.Errorf("limit %v beside a lease of %v", got, testTTL)
		}
		s.end(ErrClosed)
		c.tell(other, &lockpb.Lease{Events: []*lockpb.Event{changed(102)}})
		synctest.Wait()
		if got := k.limit(); got != time.Minute*5/8 {
			t.Errorf("limit %v of a lease of a minute", got)
		}
		other.end(ErrClosed)
		if len(k.granted) != 0 {
			t.Errorf("left: %v", k.granted)
		}
	})
}

// A stream that breaks between the beat that takes a subscription away and the answer to the one that brings it
// back: the cell may have seen neither, so both are sent again.
func TestPaper2_5_ResubscribingOutlivesItsStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		s := c.session(SessionOptions{})
		if _, err := s.Node("/ls/local/x").Subscribe(t.Context(), SubscribeOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for _, cut := range []func(g *group){
			func(g *group) { g.anew = enter },
			func(g *group) { g.anew, g.entered = steady, s.beats.number }, // the last beat is held
		} {
			s.mu.Lock()
			for _, g := range s.events.groups {
				cut(g)
			}
			s.mu.Unlock()
			c.mu.Lock()
			before := len(c.beats)
			c.mu.Unlock()
			c.nodes[0].kill()
			c.nodes[0].boot()
			time.Sleep(2 * time.Second)
			var lists []int
			c.mu.Lock()
			for _, b := range c.beats[before:] {
				if u := b.Subscriptions; u != nil {
					lists = append(lists, len(u.List))
				}
			}
			c.mu.Unlock()
			if fmt.Sprint(lists) != "[0 1]" {
				t.Errorf("subscriptions in the beats: %v", lists)
			}
		}
	})
}

// ReadDir goes on while there is more, however few come at a time, and keeps nothing of a list in parts.
func TestReadDirGoesOnWhileThereIsMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		s := c.session(SessionOptions{Cache: true})
		c.set(func() {
			c.answer = func(r *lockpb.DoRequest) *lockpb.DoResponse {
				q := r.GetReadDir()
				if q == nil {
					return closed(r)
				}
				a := &lockpb.ReadDirResponse{Cacheable: true}
				for name := 'a'; name <= 'e' && len(a.Children) < 2; name++ {
					if string(name) > q.After {
						a.Children = append(a.Children, &lockpb.Stat{Path: q.Handle.Path + "/" + string(name)})
						a.More = name < 'e'
					}
				}
				return &lockpb.DoResponse{Answer: &lockpb.DoResponse_ReadDir{ReadDir: a}}
			}
		})
		for range 2 {
			list, err := s.Node("/ls/local/d").ReadDir(t.Context())
			names := ""
			for _, st := range list {
				names += st.Name()
			}
			if names != "abcde" || err != nil {
				t.Errorf("listed %s, %v", names, err)
			}
		}
		if r := c.made(func(r *lockpb.DoRequest) bool { return r.GetReadDir() != nil }); len(r) != 6 {
			t.Errorf("%d calls, not three twice", len(r))
		}
	})
}

// A participant is one however often it tries to enter.
func TestDoubleBarrierEntersOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		s := c.session(SessionOptions{})
		c.set(func() {
			c.answer = func(r *lockpb.DoRequest) *lockpb.DoResponse {
				if r.GetReadDir() != nil {
					return &lockpb.DoResponse{Answer: &lockpb.DoResponse_ReadDir{ReadDir: &lockpb.ReadDirResponse{}}}
				}
				return closed(r)
			}
		})
		b := NewDoubleBarrier(s, "/ls/local/b", 2)
		for range 2 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if err := b.Enter(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("entered: %v", err)
			}
			cancel()
		}
		if r := c.made(func(r *lockpb.DoRequest) bool { return strings.Contains(r.GetOpen().GetHandle().GetPath(), "/p-") }); len(r) != 1 {
			t.Errorf("%d files of one participant", len(r))
		}
	})
}

// What is in a new leader's way is deleted as the file that was seen, under his lock: not by its path, which may
// be the next leader's by then.
func TestElectionDeletesWhatItSaw(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		s := c.session(SessionOptions{})
		there := true
		c.set(func() {
			c.opens = func(r *lockpb.OpenRequest) *lockpb.DoResponse {
				c.mu.Lock()
				defer c.mu.Unlock()
				if there && strings.HasSuffix(r.Handle.Path, "/leader") {
					return failure(codes.AlreadyExists, &lockpb.ErrorInfo{Reason: "NODE_EXISTS"})
				}
				return nil
			}
			c.answer = func(r *lockpb.DoRequest) *lockpb.DoResponse {
				c.mu.Lock()
				defer c.mu.Unlock()
				switch {
				case r.GetGetStat() != nil:
					return &lockpb.DoResponse{Answer: &lockpb.DoResponse_GetStat{GetStat: &lockpb.GetStatResponse{Stat: &lockpb.Stat{Instance: 33}}}}
				case r.GetDelete() != nil:
					there = false
					return &lockpb.DoResponse{Answer: &lockpb.DoResponse_Delete{Delete: &lockpb.DeleteResponse{}}}
				}
				return closed(r)
			}
		})
		l, err := NewElection(s, "/ls/local/e", ElectionOptions{}).Campaign(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		r := c.made(func(r *lockpb.DoRequest) bool { return r.GetDelete() != nil })
		if len(r) != 1 || r[0].GetDelete().Handle.Instance != 33 || r[0].GetDelete().Handle.Sequencer != l.Sequencer() {
			t.Errorf("deleted %v", r)
		}
	})
}
