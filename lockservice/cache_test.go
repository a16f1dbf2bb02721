package lockservice

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/spandb/spand/lockservice/lockpb"
)

func reads(r *lockpb.DoRequest) bool { return r.GetGetContentsAndStat() != nil }

func TestPaper2_7_InvalidationIsCarriedOutAndAcknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		s := c.session(SessionOptions{Cache: true})
		text := "a"
		c.set(func() {
			c.answer = func(r *lockpb.DoRequest) *lockpb.DoResponse {
				c.mu.Lock()
				defer c.mu.Unlock()
				return contents(text, 1, true)
			}
		})
		n := s.Node("/ls/local/f")
		for range 3 {
			if got, _, err := n.Contents(t.Context()); err != nil || string(got) != "a" {
				t.Fatalf("read %q, %v", got, err)
			}
		}
		if st, err := n.Stat(t.Context()); err != nil || st.ContentGeneration != 1 {
			t.Fatalf("stat %v, %v", st, err)
		}
		if got := len(c.made(reads)); got != 1 {
			t.Errorf("%d reads at the server, want 1", got)
		}
		c.set(func() {
			text = "b"
			c.push[s.id] = &lockpb.Lease{Invalidation: 1 << 32, Invalidate: []string{"/ls/local/f"}}
		})
		synctest.Wait()
		if b := c.lastBeat(); b.Invalidated != 1<<32 {
			t.Errorf("acknowledged %d", b.Invalidated)
		}
		if got, _, err := n.Contents(t.Context()); err != nil || string(got) != "b" {
			t.Fatalf("after the invalidation: %q, %v", got, err)
		}
	})
}

// An invalidation overtakes the answer it is about: that is returned, and not kept.
func TestPaper2_7_OvertakenAnswerIsNotCached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		s := c.session(SessionOptions{Cache: true})
		held := make(chan struct{})
		c.set(func() {
			c.answer = func(r *lockpb.DoRequest) *lockpb.DoResponse {
				<-held
				return contents("old", 1, true)
			}
		})
		n := s.Node("/ls/local/f")
		done := make(chan struct{})
		go func() {
			if _, _, err := n.Contents(t.Context()); err != nil {
				t.Error(err)
			}
			close(done)
		}()
		synctest.Wait()
		c.tell(s, &lockpb.Lease{Invalidation: 7, Invalidate: []string{"/ls/local/f"}})
		synctest.Wait()
		close(held)
		<-done
		if n.cached() != nil {
			t.Error("an answer that was overtaken by its invalidation is cached")
		}
		if _, _, err := n.Contents(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n.cached() == nil {
			t.Error("the next one is not cached")
		}
	})
}

func TestPaper2_7_AbsenceIsCached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		s := c.session(SessionOptions{Cache: true})
		cacheable := false
		c.set(func() {
			c.answer = func(r *lockpb.DoRequest) *lockpb.DoResponse {
				c.mu.Lock()
				defer c.mu.Unlock()
				return failure(codes.NotFound, &lockpb.ErrorInfo{Reason: "NODE_NOT_FOUND", Cacheable: cacheable})
			}
		})
		n := s.Node("/ls/local/f")
		read := func(want int) {
			t.Helper()
			if _, _, err := n.Contents(t.Context()); !errors.Is(err, ErrNotFound) {
				t.Fatalf("error %v", err)
			}
			if got := len(c.made(reads)); got != want {
				t.Errorf("%d reads at the server, want %d", got, want)
			}
		}
		read(1)
		read(2) // the absence may end at any moment: a change is under way
		c.set(func() { cacheable = true })
		read(3)
		read(3)
		c.tell(s, &lockpb.Lease{Invalidation: 1, Invalidate: []string{""}})
		synctest.Wait()
		read(4)
	})
}

func TestPaper2_7_CacheIsDroppedByAnotherEpoch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 2)
		s := c.session(SessionOptions{Cache: true})
		c.set(func() { c.answer = func(r *lockpb.DoRequest) *lockpb.DoResponse { return contents("a", 1, true) } })
		n := s.Node("/ls/local/f")
		if _, _, err := n.Contents(t.Context()); err != nil || n.cached() == nil {
			t.Fatalf("not cached: %v", err)
		}
		c.lead(0) // the same node, later
		synctest.Wait()
		if n.cached() != nil {
			t.Error("cached from an earlier epoch")
		}
	})
}

func TestCacheIsBounded(t *testing.T) {
	c := newCache()
	for i := range 400 {
		p := string(rune('a' + i))
		c.end(p, c.begin(p), &entry{stat: &Stat{}, contents: make([]byte, 256<<10), has: true})
	}
	if c.size > cacheBytes || len(c.entries) < 100 {
		t.Errorf("%d entries of %d bytes", len(c.entries), c.size)
	}
	total := 0
	for _, e := range c.entries {
		total += e.weight()
	}
	if total != c.size {
		t.Errorf("counted %d, are %d", c.size, total)
	}
}

func TestCacheJoinsWhatIsRead(t *testing.T) {
	c := newCache()
	c.end("p", c.begin("p"), &entry{stat: &Stat{Instance: 1, ContentGeneration: 2}, contents: []byte("x"), has: true, instance: 1})
	c.end("p", c.begin("p"), &entry{list: []Stat{}, listed: true})
	if e := c.get("p"); !e.has || !e.listed || e.stat == nil || e.instance != 1 {
		t.Errorf("joined: %+v", e)
	}
	c.end("p", c.begin("p"), &entry{stat: &Stat{Instance: 1, ContentGeneration: 3}, instance: 1})
	if e := c.get("p"); e.has || !e.listed {
		t.Errorf("contents of another generation: %+v", e)
	}
}

func BenchmarkCachedRead(b *testing.B) {
	s := &Session{cell: &cell{name: "local", c: &Client{clock: systemClock{}}}, cache: newCache()}
	s.lease.Store(int64(systemClock{}.Now() + time.Hour))
	p := "/ls/local/f"
	s.cache.end(p, s.cache.begin(p), &entry{stat: &Stat{}, contents: []byte("x"), has: true})
	n := s.Node(p)
	for b.Loop() {
		if _, _, err := n.Contents(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
