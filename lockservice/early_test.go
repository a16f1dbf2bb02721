package lockservice

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/spandb/spand/lockservice/lockpb"
)

func ordered() *lockpb.DoResponse {
	return &lockpb.DoResponse{Answer: &lockpb.DoResponse_Ordered{Ordered: true}}
}

// orders has the leader say that early releases are ordered, and no more.
func (c *fakeCluster) orders() {
	c.set(func() {
		c.answer = func(r *lockpb.DoRequest) *lockpb.DoResponse {
			if r.GetRelease().GetEarly() {
				return ordered()
			}
			return nil
		}
	})
}

func (c *fakeCluster) releases() (all []*lockpb.ReleaseRequest) {
	for _, r := range c.made(func(r *lockpb.DoRequest) bool { return r.GetRelease() != nil }) {
		all = append(all, r.GetRelease())
	}
	return all
}

// Unlock returns when the release is in order, and the next Lock does not wait for its answer.
func TestUnlockReturnsInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		s := c.session(SessionOptions{})
		l := locked(t, s)
		c.orders()
		answers := make(chan *lockpb.DoResponse)
		c.set(func() {
			c.after = func(r *lockpb.DoRequest) *lockpb.DoResponse {
				if r.GetRelease().GetEarly() {
					return <-answers
				}
				return nil
			}
		})
		h := l.Handle()
		for range 3 {
			if err := l.Unlock(t.Context()); err != nil {
				t.Fatal(err)
			}
			var err error
			if l, err = h.Lock(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		for range 3 {
			answers <- &lockpb.DoResponse{Answer: &lockpb.DoResponse_Release{Release: &lockpb.ReleaseResponse{Released: true}}}
		}
		synctest.Wait()
		n := s.cell.leader.Load().prompt()
		n.mu.Lock()
		defer n.mu.Unlock()
		if len(n.pending) != 0 {
			t.Errorf("%d calls are awaited still", len(n.pending))
		}
		if got := c.releases(); len(got) != 3 || got[0].Attempt != 1 || got[2].Attempt != 3 {
			t.Errorf("released %v", got)
		}
	})
}

// What was ordered and may have been lost is sent again, of the same attempt, by itself.
func TestPaper2_9_OrderedReleasesAreNotForgotten(t *testing.T) {
	refusal := func(reason string, code codes.Code) func(*fakeCluster) {
		return func(c *fakeCluster) {
			c.after = func(r *lockpb.DoRequest) *lockpb.DoResponse {
				if r.GetRelease().GetEarly() {
					return failure(code, &lockpb.ErrorInfo{Reason: reason, Leader: &lockpb.NotLeader{Addr: "n2"}})
				}
				return nil
			}
		}
	}
	for _, tt := range []struct {
		name   string
		before func(*fakeCluster) // of Unlock
		after  func(*fakeCluster)
		within time.Duration
		again  bool
	}{
		{"the leader dies", nil, func(c *fakeCluster) { c.nodes[0].kill(); c.lead(1) }, time.Second, true},
		{"it is paused, and another leads", nil, func(c *fakeCluster) {
			c.set(func() { c.paused = map[int]bool{0: true} })
			c.lead(1)
		}, 3 * time.Second, true},
		{"another leads, and it says so to beats only", nil, func(c *fakeCluster) { c.lead(1) }, 6 * time.Second, true},
		{"it leads no more", func(c *fakeCluster) { refusal("NOT_LEADER", codes.FailedPrecondition)(c) }, func(c *fakeCluster) { c.lead(1) }, time.Second, true},
		{"the disks are full", func(c *fakeCluster) { refusal("DISK_FULL", codes.ResourceExhausted)(c) }, nil, time.Second, true},
		{"it is not known", func(c *fakeCluster) { refusal("AMBIGUOUS", codes.Unknown)(c) }, nil, time.Second, true},
		{"the node is gone", func(c *fakeCluster) { refusal("STALE_HANDLE", codes.FailedPrecondition)(c) }, nil, time.Minute, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newFakeCluster(t, 2)
				s := c.session(SessionOptions{})
				l := locked(t, s)
				c.orders()
				if tt.before != nil {
					c.set(func() { tt.before(c) })
				}
				if err := l.Unlock(t.Context()); err != nil {
					t.Fatal(err)
				}
				if tt.after != nil {
					tt.after(c)
				}
				time.Sleep(tt.within)
				synctest.Wait()
				got := c.releases()
				if again := len(got) > 1; again != tt.again {
					t.Fatalf("released %v", got)
				}
				if last := got[len(got)-1]; tt.again && (last.Attempt != 1 || last.Early) {
					t.Errorf("sent again as %v", last)
				}
				n := len(got)
				time.Sleep(time.Minute) // it was answered
				if got := c.releases(); len(got) != n {
					t.Errorf("sent %d times, then %d", n, len(got))
				}
				if _, err := l.Handle().Lock(t.Context()); err != nil {
					t.Error(err)
				}
				asked := c.made(func(r *lockpb.DoRequest) bool { return r.GetAcquire() != nil })
				if q := asked[len(asked)-1].GetAcquire(); q.Attempt != 2 || q.Released != 1 {
					t.Errorf("asked again by %v", q)
				}
			})
		})
	}
}

// Nor are they when the client learns of the next leader in another way, before or after it hears that they are in order.
func TestPaper2_9_OrderedByAFormerLeader(t *testing.T) {
	for _, tt := range []struct {
		name  string
		learn func(*Handle)
	}{
		{"before", func(h *Handle) { h.cell.leads("n2") }},
		{"after, by a subscription", func(h *Handle) { h.cell.revision(context.Background(), h.s) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newFakeCluster(t, 2)
				say := make(chan struct{})
				s := c.session(SessionOptions{})
				l := locked(t, s)
				c.set(func() {
					c.answer = func(r *lockpb.DoRequest) *lockpb.DoResponse {
						if r.GetRelease().GetEarly() {
							<-say
							return ordered()
						}
						return nil
					}
				})
				unlocked := make(chan error, 1)
				go func() { unlocked <- l.Unlock(t.Context()) }()
				synctest.Wait()
				c.mu.Lock() // nobody is told
				c.leader, c.epoch = 1, c.epoch+1
				c.mu.Unlock()
				if tt.name == "before" {
					tt.learn(l.Handle())
				}
				close(say)
				if err := <-unlocked; err != nil {
					t.Fatal(err)
				}
				if tt.name != "before" {
					tt.learn(l.Handle())
				}
				time.Sleep(time.Second)
				if got := c.releases(); len(got) != 2 || got[1].Attempt != 1 || got[1].Early {
					t.Errorf("released %v", got)
				}
			})
		})
	}
}

// DurableUnlock waits for the answer.
func TestDurableUnlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		s := c.session(SessionOptions{})
		h, err := s.Open(t.Context(), "/ls/local/x", OpenOptions{DurableUnlock: true})
		if err != nil {
			t.Fatal(err)
		}
		l, err := h.Lock(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		c.set(func() { c.mute = true })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		if err := l.Unlock(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("unlock: %v", err)
		}
		c.set(func() { c.mute = false })
		if got := c.releases(); len(got) == 0 || got[0].Early {
			t.Errorf("released %v", got)
		}
	})
}

// A node that says what nobody asked for, or says it again, harms nobody.
func TestUnaskedNotices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		s := c.session(SessionOptions{})
		l := locked(t, s)
		c.set(func() {
			c.answer = func(*lockpb.DoRequest) *lockpb.DoResponse { return ordered() }
			c.after = func(r *lockpb.DoRequest) *lockpb.DoResponse {
				if r.GetRelease() != nil {
					return ordered()
				}
				return contents("here", 1, false)
			}
		})
		if err := l.Unlock(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got, _, err := s.Node("/ls/local/x").Contents(t.Context()); err != nil || string(got) != "here" {
			t.Errorf("contents: %q, %v", got, err)
		}
	})
}
