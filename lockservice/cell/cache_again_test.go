package cell

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/lockservice/lockpb"
)

// What a cache owes is owed to every change, not only to the one that told it: to one that comes at
// the same time, to one that comes when the first was given up, and to one that shares but a
// listing with it (2.7).
func Test2_7_EveryChangeWaitsForCachesThatHaveNotAcknowledged(t *testing.T) {
	set := func(path string) *lockpb.SetContentsRequest {
		return &lockpb.SetContentsRequest{Handle: h(0, path), Create: true, Contents: []byte("new")}
	}
	for _, c := range []struct {
		name  string
		given bool // the first change is given up before the second comes
		cache string
		first string
		then  string
	}{
		{"at once", false, x, x, x},
		{"given up", true, x, x, x},
		{"listing", false, "/ls/local", x, "/ls/local/y"},
		{"listing given up", true, "/ls/local", x, "/ls/local/y"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, s := lockWorld(t, 1, 0)
				defer w.close()
				w.file(x, "old")
				w.caching(1, 20*time.Second)
				p := w.keep(1)
				defer p.stop()
				if c.cache == x {
					w.wantCached(1, x, "old", true)
				} else {
					l := w.lead().leader.Load()
					l.mu.Lock()
					ok := l.registerLocked(l.sessions[1], c.cache)
					l.mu.Unlock()
					if !ok {
						t.Fatal("not registered")
					}
				}
				p.setDeaf(true)
				cancel := s.start("first", set(c.first))
				s.expect()
				if c.given {
					cancel()
					s.expect("first CANCELLED")
				}
				s.start("then", set(c.then))
				time.Sleep(5 * time.Second)
				s.expect() // 1 may still answer from its cache
				p.setDeaf(false)
				p.mu.Lock()
				p.invalid = 1 << 62
				p.mu.Unlock()
				p.beat(nil)
				if c.given {
					s.expect("then ok")
				} else {
					s.expect("first ok", "then ok")
				}
				l := w.lead().leader.Load()
				l.mu.Lock()
				defer l.mu.Unlock()
				if len(l.cache.owed)+len(l.cache.changing) != 0 {
					t.Errorf("left behind: %v, %v", l.cache.owed, l.cache.changing)
				}
			})
		})
	}
}

// A change that is given up leaves nothing with those that it waited for.
func TestChangesThatAreGivenUpLeaveNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := lockWorld(t, 2, 0)
		defer w.close()
		w.caching(1, 20*time.Second)
		w.caching(2, 20*time.Second)
		w.g.failOver(1, true) // they are strangers
		for range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if got := why(w.doCtx(ctx, &lockpb.SetContentsRequest{Handle: h(0, x), Contents: []byte("new")}, nil)); got != "CANCELLED" {
				t.Errorf("%q", got)
			}
			cancel()
		}
		l := w.lead().leader.Load()
		l.mu.Lock()
		n := len(l.cache.waiting)
		l.mu.Unlock()
		if n != 0 {
			t.Errorf("%d changes that nobody waits for", n)
		}
		s.expect()
	})
}
