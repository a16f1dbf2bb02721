package cell

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/spandb/spand/lockservice/lockpb"
)

// A list of locks comes in pages of bounded size, also where one lock has very many holders; the pages have every hold,
// and every lock that is only waited for, once.
func TestLocksAreListedInPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := lockWorld(t, 1, 0)
		defer w.close()
		want := map[string]bool{}
		id := uint64(0)
		hold := func(path string, n int) {
			w.file(path, "")
			for range n {
				id++
				client := strings.Repeat("c", 200)
				w.must(w.do(&lockpb.CreateSessionRequest{Session: id, TtlNs: 60e9, Client: client}))
				w.must(w.do(shared(id, path)))
				want[fmt.Sprint(path, " ", id)] = true
			}
		}
		long := "/ls/local/" + strings.Repeat("d", 255)
		w.must(w.do(&lockpb.OpenRequest{Handle: h(0, long), Create: lockpb.Create_CREATE_IF_ABSENT, Directory: true}))
		for range 12 {
			long += "/" + strings.Repeat("d", 255)
			w.must(w.do(&lockpb.OpenRequest{Handle: h(0, long), Create: lockpb.Create_CREATE_IF_ABSENT, Directory: true}))
		}
		hold("/ls/local/a", 1)
		hold(long+"/f", 400) // of 7 kB each
		hold("/ls/local/m", 1)
		hold("/ls/local/n", 2500)
		w.session(id+1, 60e9)
		w.session(id+2, 60e9)
		s.start("waits", acquire(id+1, "/ls/local/n"))
		s.expect("waits waits")
		for _, limit := range []uint32{0, 1, 7, 1000, 10_000} {
			got := map[string]bool{}
			pages := 0
			for after, more := "", true; more; pages++ {
				r := w.must(w.do(&lockpb.ListLocksRequest{After: after, Limit: limit})).GetListLocks()
				if size := proto.Size(r); size > maxPage+16<<10 || len(r.Locks) == 0 || len(r.Locks) > listLimit(limit) {
					t.Fatalf("limit %d: a page of %d entries, %d bytes", limit, len(r.Locks), size)
				}
				for _, k := range r.Locks {
					name := fmt.Sprint(k.Sequencer.Path, " ", k.Session)
					if got[name] {
						t.Fatalf("limit %d: %.60s... comes twice", limit, name)
					}
					got[name] = true
					if n := k.Waiters; (n == 1) != (k.Sequencer.Path == "/ls/local/n") {
						t.Fatalf("%d wait for %s", n, k.Sequencer.Path)
					}
				}
				if after, more = r.Next, r.More; more != (after != "") {
					t.Fatalf("more %v, next %q", more, after)
				}
			}
			for name := range want {
				if !got[name] {
					t.Fatalf("limit %d: %s is missing", limit, name)
				}
			}
			if len(got) != len(want) || limit > 1 && pages < 3 {
				t.Errorf("limit %d: %d entries of %d in %d pages", limit, len(got), len(want), pages)
			}
		}
		// A hold that goes between two pages takes no other with it.
		r := w.must(w.do(&lockpb.ListLocksRequest{After: "/ls/local/m", Limit: 10})).GetListLocks()
		w.must(w.do(release(r.Locks[9].Session, "/ls/local/n")))
		if next := w.must(w.do(&lockpb.ListLocksRequest{After: r.Next, Limit: 1})).GetListLocks(); next.Locks[0].Session != r.Locks[9].Session+1 {
			t.Errorf("behind session %d comes %d", r.Locks[9].Session, next.Locks[0].Session)
		}
		for _, after := range []string{"/ls/local/n//", "/ls/local/n//0.1", "/ls/local/n//1", "//x.y"} {
			if got := why(w.do(&lockpb.ListLocksRequest{After: after})); got != "BAD_REQUEST" {
				t.Errorf("after %q: %q", after, got)
			}
		}
	})
}

// A lock that is only waited for, its last holder's session being on its way out, has its place in the pages.
func TestLocksThatAreWaitedForAreListed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := lockWorld(t, 1, 9)
		defer w.close()
		for _, name := range []string{"a", "b", "c", "y"} {
			w.file("/ls/local/"+name, "")
		}
		for i, name := range []string{"a", "c", "y"} {
			w.must(w.do(shared(uint64(2*i+1), "/ls/local/"+name)))
			w.must(w.do(shared(uint64(2*i+2), "/ls/local/"+name)))
		}
		w.g.hold()
		s.start("b", acquire(7, "/ls/local/b"))
		s.start("x", acquire(8, x))
		s.expect()
		for limit := uint32(1); limit < 10; limit++ {
			got := ""
			for after, more := "", true; more; {
				r := w.must(w.do(&lockpb.ListLocksRequest{After: after, Limit: limit})).GetListLocks()
				for _, k := range r.Locks {
					got += k.Sequencer.Path[len("/ls/local/"):]
				}
				after, more = r.Next, r.More
			}
			if got != "aabccxyy" {
				t.Errorf("limit %d: %s", limit, got)
			}
		}
		w.g.letGo()
		s.expect("b ok", "x ok")
	})
}

// page is a page of a list: the names of its entries, its bytes, whether there are more, and what the next one
// comes behind.
type page struct {
	names []string
	bytes int
	more  bool
	after any
}

// allPages reads a list page by page and checks that it has what is wanted, in order, in pages of bounded size.
func allPages(t *testing.T, limit uint32, want []string, ask func(after any) page) {
	t.Helper()
	var got []string
	pages := 0
	for p := (page{more: true}); p.more; pages++ {
		p = ask(p.after)
		if p.bytes > maxPage+16<<10 || len(p.names) == 0 || len(p.names) > listLimit(limit) {
			t.Fatalf("limit %d: a page of %d entries, %d bytes", limit, len(p.names), p.bytes)
		}
		if short := len(p.names) < listLimit(limit); p.more && short && p.bytes < maxPage {
			t.Errorf("limit %d: a page of %d entries and %d bytes, and there are more", limit, len(p.names), p.bytes)
		}
		got = append(got, p.names...)
	}
	if !slices.Equal(got, want) {
		t.Errorf("limit %d: %d entries of %d in %d pages", limit, len(got), len(want), pages)
	}
	if limit > 1 && pages < 2 {
		t.Errorf("limit %d: %d entries in one page", limit, len(got))
	}
}

// longest makes directories down to where the names of their children make paths of nearly 4,096 bytes.
func (w *world) longest() string {
	w.t.Helper()
	path := "/ls/local"
	for range 15 {
		path += "/" + strings.Repeat("d", 255)
		w.must(w.do(&lockpb.OpenRequest{Handle: h(0, path), Create: lockpb.Create_CREATE_IF_ABSENT, Directory: true}))
	}
	return path
}

var pageLimits = []uint32{0, 1, 7, 300, 10_000}

// A list of sessions comes in pages of bounded size.
func TestSessionsAreListedInPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := lockWorld(t, 1, 0)
		defer w.close()
		principal := strings.Repeat("p", 4000)
		var want []string
		for id := uint64(1); id <= 700; id++ {
			w.must(w.lead().Do(t.Context(), principal, request1(&lockpb.CreateSessionRequest{Session: id, TtlNs: 60e9}), nil))
			want = append(want, fmt.Sprint(id))
		}
		for _, limit := range pageLimits {
			allPages(t, limit, want, func(after any) (p page) {
				id, _ := after.(uint64)
				r := w.must(w.do(&lockpb.ListSessionsRequest{After: id, Limit: limit})).GetListSessions()
				for _, s := range r.Sessions {
					if s.Principal != principal || s.LeaseNs <= 0 {
						t.Fatalf("session %d of %.10q..., lease %d", s.Session, s.Principal, s.LeaseNs)
					}
					p.names, p.after = append(p.names, fmt.Sprint(s.Session)), s.Session
				}
				p.bytes, p.more = proto.Size(r), r.More
				return p
			})
		}
	})
}

// The history of locks comes in pages of bounded size, of all locks and of one.
func TestLockHistoryComesInPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := lockWorld(t, 1, 1)
		defer w.close()
		long := w.longest() + "/f"
		w.file(long, "")
		var all, ofLong []string
		for i := range 300 {
			w.must(w.do(acquire(1, long)))
			w.must(w.do(release(1, long)))
			all = append(all, fmt.Sprint(len(all)+1))
			ofLong = append(ofLong, all[len(all)-1])
			if i%3 == 0 {
				w.must(w.do(acquire(1, x)))
				w.must(w.do(release(1, x)))
				all = append(all, fmt.Sprint(len(all)+1))
			}
		}
		for path, want := range map[string][]string{"": all, long: ofLong} {
			for _, limit := range pageLimits {
				allPages(t, limit, want, func(after any) (p page) {
					entry, _ := after.(uint64)
					r := w.must(w.do(&lockpb.LockHistoryRequest{Path: path, After: entry, Limit: limit})).GetLockHistory()
					for _, e := range r.Holds {
						p.names, p.after = append(p.names, fmt.Sprint(e.Entry)), e.Entry
					}
					p.bytes, p.more = proto.Size(r), r.More
					return p
				})
			}
		}
	})
}

// A directory is listed in pages of bounded size, which may be cached like whole ones: a change in it invalidates them.
func TestDirectoriesAreListedInPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := lockWorld(t, 1, 0)
		defer w.close()
		w.caching(1, time.Minute)
		p := w.keep(1)
		defer p.stop()
		dir := w.longest()
		var want []string
		for i := range 400 {
			name := fmt.Sprintf("%03d", i)
			want = append(want, name)
			w.file(dir+"/"+name, "")
		}
		for _, limit := range pageLimits {
			allPages(t, limit, want, func(after any) (p page) {
				last, _ := after.(string)
				r := w.must(w.do(&lockpb.ReadDirRequest{Handle: h(1, dir), Cache: true, After: last, Limit: limit})).GetReadDir()
				if !r.Cacheable {
					t.Error("not cacheable")
				}
				for _, c := range r.Children {
					name := c.Path[len(dir)+1:]
					p.names, p.after = append(p.names, name), name
				}
				p.bytes, p.more = proto.Size(r), r.More
				return p
			})
		}
		w.set(dir+"/399", "new")
		if got := p.told(); !slices.Contains(got, dir) {
			t.Errorf("told to forget %d paths, not the directory", len(got))
		}
	})
}
