package cell

import (
	"fmt"
	"testing"
	"testing/synctest"

	"google.golang.org/protobuf/proto"

	"github.com/spandb/spand/lockservice/lockpb"
)

// What a session is to be told comes in answers of bounded size, however much of what kind has come together, and all of
// it comes: a client need not be ready for more than gRPC's default of 4 MiB (2.5, 2.7).
func TestAnswersToBeatsAreBounded(t *testing.T) {
	const files = 400 // of 4 kB each, in name
	for what, have := range map[string]func(t *testing.T, w *world, eve *peer, paths []string){
		"events": func(t *testing.T, w *world, eve *peer, paths []string) {
			eve.beat(subscribed(paths))
			eve.stop()
			for _, path := range paths {
				w.set(path, "a")
			}
		},
		"denials": func(t *testing.T, w *world, eve *peer, paths []string) {
			for _, path := range paths {
				w.setReaders(path, "readers")
			}
			eve.beat(subscribed(paths))
			eve.stop()
		},
		"notices": func(t *testing.T, w *world, eve *peer, paths []string) {
			subs := subscribed(paths)
			for _, u := range subs {
				u.Kinds = []lockpb.EventKind{lockpb.EventKind_CONFLICTING_REQUEST}
			}
			eve.beat(subs)
			eve.stop()
			for _, path := range paths {
				w.must(w.as("eve", acquire(2, path)))
				try := acquire(1, path)
				if got := why(w.lead().Do(t.Context(), "ann", &lockpb.DoRequest{Call: &lockpb.DoRequest_TryAcquire{TryAcquire: try}}, nil)); got != "LOCK_HELD" {
					t.Fatal(got)
				}
			}
		},
		"invalidations": func(t *testing.T, w *world, eve *peer, paths []string) {
			w.set("/ls/local/acl/readers", readersOfBoth)
			for _, path := range paths {
				w.setReaders(path, "readers")
				if r := w.must(w.as("eve", &lockpb.GetRequest{Handle: h(2, path), Cache: true})).GetGetContentsAndStat(); !r.Cacheable {
					t.Fatal("not cacheable")
				}
			}
			eve.stop()
			w.set("/ls/local/acl/readers", readersOfAnn)
		},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, ann, eve := guarded(t, 1)
				defer w.close()
				defer ann.stop()
				dir := w.longest()
				var paths []string
				for i := range files {
					paths = append(paths, fmt.Sprintf("%s/%03d", dir, i))
					w.file(paths[i], "")
				}
				synctest.Wait()
				have(t, w, eve, paths)
				synctest.Wait()
				eve.mu.Lock()
				eve.got = nil
				eve.mu.Unlock()
				eve.connect()
				defer eve.stop()
				eve.beat(nil)
				synctest.Wait()
				heard := map[string]bool{}
				for _, l := range eve.got {
					if n := proto.Size(l); n > maxDues+16<<10 {
						t.Errorf("an answer of %d bytes", n)
					}
					for _, e := range l.Events {
						heard[e.Path] = true
					}
					for _, path := range l.Invalidate {
						heard[path] = true
					}
				}
				if len(heard) != files {
					t.Errorf("heard of %d files", len(heard))
				}
			})
		})
	}
}

func subscribed(paths []string) (subs []*lockpb.Subscription) {
	for _, path := range paths {
		subs = append(subs, &lockpb.Subscription{Path: path})
	}
	return subs
}
