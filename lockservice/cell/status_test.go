package cell

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

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
