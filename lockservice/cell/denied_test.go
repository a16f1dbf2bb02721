package cell

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/lockservice/lockpb"
)

// guarded is a world in which ann may read what names the ACL file "readers", and eve may not. Everybody may do all
// else. Sessions: 1 of ann, 2 of eve.
func guarded(t *testing.T, replicas int) (w *world, ann, eve *peer) {
	w, _ = lockWorld(t, replicas, 0)
	w.file("/ls/local/acl/readers", "ann\n")
	for i, who := range []string{"ann", "eve"} {
		w.must(w.as(who, &lockpb.CreateSessionRequest{Session: uint64(i + 1), TtlNs: 60e9, Caches: true}))
	}
	return w, w.keep(1), w.keep(2)
}

func (w *world) as(principal string, call any) *lockpb.DoResponse {
	return w.lead().Do(context.Background(), principal, request1(call), nil)
}

func (w *world) setReaders(path, file string) {
	w.t.Helper()
	w.must(w.do(&lockpb.SetACLRequest{Handle: h(0, path), Acl: &lockpb.ACL{Read: file}}))
}

// heard are the kinds of the events received since it was last asked, with their paths.
func (p *peer) heard() []string {
	synctest.Wait()
	list := p.kinds()
	p.mu.Lock()
	p.events = nil
	p.mu.Unlock()
	return list
}

func (p *peer) expect(t *testing.T, when string, want ...string) {
	t.Helper()
	if got := p.heard(); !slices.Equal(got, want) {
		t.Errorf("%s, session %d heard of %v, not %v", when, p.id, got, want)
	}
}

const (
	dir           = "/ls/local/dir"
	changedX      = "CONTENTS_CHANGED " + x
	deniedX       = "EVENTS_DENIED " + x
	deniedDir     = "EVENTS_DENIED " + dir
	lockedX       = "LOCK_ACQUIRED " + x
	readersOfAnn  = "ann\n"
	readersOfEve  = "eve\n"
	readersOfBoth = "ann\neve\n"
)

// Who may not read a node is told so, once, and hears neither of its contents nor of its children; that its lock is held or
// that it is gone anybody may know (2.3, 2.5).
func Test2_5_EventsTakeTheRightToRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ann, eve := guarded(t, 1)
		defer w.close()
		defer ann.stop()
		defer eve.stop()
		w.must(w.do(&lockpb.OpenRequest{Handle: h(0, dir), Create: lockpb.Create_CREATE_EXCLUSIVE, Directory: true}))
		w.setReaders(x, "readers")
		w.setReaders(dir, "readers")
		subs := []*lockpb.Subscription{{Path: x}, {Path: dir}}
		ann.beat(subs)
		ann.expect(t, "at first")
		eve.beat(subs)
		eve.expect(t, "at first", deniedDir, deniedX)
		w.set(x, "a")
		w.file(dir+"/f", "")
		w.set(dir+"/f", "a")
		w.must(w.do(&lockpb.DeleteRequest{Handle: h(0, dir+"/f")}))
		w.must(w.as("ann", acquire(1, x)))
		w.must(w.as("ann", release(1, x)))
		w.must(w.do(&lockpb.DeleteRequest{Handle: h(0, x)}))
		w.must(w.do(&lockpb.DeleteRequest{Handle: h(0, dir)}))
		ann.expect(t, "then", changedX, "CHILD_ADDED "+dir+"f", "CHILD_MODIFIED "+dir+"f", "CHILD_REMOVED "+dir+"f", lockedX, "HANDLE_INVALID "+x, "HANDLE_INVALID "+dir)
		eve.expect(t, "then", lockedX, "HANDLE_INVALID "+x, "HANDLE_INVALID "+dir)
	})
}

// A right that goes ends the events at once, by whichever change, and one that comes back brings them when the subscription is
// listed again, behind what it says it has (2.3, 2.5).
func Test2_5_EventsFollowTheRightToRead(t *testing.T) {
	for how, change := range map[string]func(w *world, may bool){
		"the node's ACL": func(w *world, may bool) {
			w.file("/ls/local/acl/ann", readersOfAnn)
			w.setReaders(x, map[bool]string{false: "ann", true: "readers"}[may])
		},
		"the ACL file": func(w *world, may bool) {
			w.set("/ls/local/acl/readers", map[bool]string{false: readersOfAnn, true: readersOfBoth}[may])
		},
		"the file's deletion": func(w *world, may bool) {
			if may {
				w.file("/ls/local/acl/readers", readersOfEve)
			} else {
				w.must(w.do(&lockpb.DeleteRequest{Handle: h(0, "/ls/local/acl/readers")}))
			}
		},
	} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, ann, eve := guarded(t, 1)
				defer w.close()
				defer ann.stop()
				defer eve.stop()
				w.set("/ls/local/acl/readers", readersOfBoth)
				w.setReaders(x, "readers")
				eve.beat([]*lockpb.Subscription{{Path: x}})
				last := w.set(x, "a").Revision
				eve.expect(t, "with the right", changedX)
				change(w, false)
				eve.expect(t, "without it", deniedX)
				w.set(x, "b")
				w.set(x, "c")
				eve.expect(t, "after that")
				eve.beat([]*lockpb.Subscription{{Path: x}})
				eve.expect(t, "listed in vain", deniedX)
				change(w, true)
				w.set(x, "d")
				eve.expect(t, "with the right again")
				eve.beat([]*lockpb.Subscription{{Path: x, After: last}})
				eve.expect(t, "listed again", changedX, changedX, changedX)
				w.set(x, "e")
				eve.expect(t, "at last", changedX)
			})
		})
	}
}

// Where nothing was, a node is made that may not be read: its creation is the last that is heard of it.
func Test2_5_AWatchedPathIsMadeUnreadable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ann, eve := guarded(t, 1)
		defer w.close()
		defer ann.stop()
		defer eve.stop()
		const y = "/ls/local/y"
		subs := []*lockpb.Subscription{{Path: y}, {Path: dir}}
		ann.beat(subs)
		eve.beat(subs)
		acl := &lockpb.ACL{Read: "readers"}
		w.must(w.do(&lockpb.OpenRequest{Handle: h(0, y), Create: lockpb.Create_CREATE_EXCLUSIVE, Acl: acl}))
		w.must(w.do(&lockpb.OpenRequest{Handle: h(0, dir), Create: lockpb.Create_CREATE_EXCLUSIVE, Directory: true, Acl: acl}))
		ann.expect(t, "when made", "CONTENTS_CHANGED "+y)
		eve.expect(t, "when made", "EVENTS_DENIED "+y, deniedDir)
		w.file(dir+"/f", "")
		ann.expect(t, "then", "CHILD_ADDED "+dir+"f")
		eve.expect(t, "then")
	})
}

// What the cell remembers is no way around: neither of a node that is there, nor of one that is gone, by whichever
// leader; who might read it gets it.
func Test2_5_RememberedEventsTakeTheRightToRead(t *testing.T) {
	for _, gone := range []bool{false, true} {
		t.Run(fmt.Sprint("gone ", gone), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, ann, eve := guarded(t, 2)
				defer w.close()
				first := w.set(x, "open to all").Revision - 1
				w.setReaders(x, "readers")
				w.set(x, "a")
				w.set(x, "b")
				want := []string{changedX, changedX, changedX}
				of := []string{"CELL_FAILED_OVER ", deniedX}
				if gone {
					w.must(w.do(&lockpb.DeleteRequest{Handle: h(0, x)}))
					want = append(want, "HANDLE_INVALID "+x)
					of = []string{"CELL_FAILED_OVER ", changedX, "HANDLE_INVALID " + x}
				}
				ann.stop()
				eve.stop()
				w.g.failOver(1, true)
				ann.connect()
				eve.connect()
				defer ann.stop()
				defer eve.stop()
				ann.beat([]*lockpb.Subscription{{Path: x, After: first}})
				eve.beat([]*lockpb.Subscription{{Path: x, After: first}})
				ann.expect(t, "resumed", append([]string{"CELL_FAILED_OVER "}, want...)...)
				slices.Sort(of)
				got := eve.heard()
				if slices.Sort(got); !slices.Equal(got, of) {
					t.Errorf("eve heard of %v, not %v", got, of)
				}
			})
		})
	}
}

// That something was forgotten says that something happened: who is denied all that he asks for is not told (2.5).
func Test2_5_ForgottenEventsTakeTheRightToRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ann, eve := guarded(t, 1)
		defer w.close()
		defer ann.stop()
		defer eve.stop()
		w.setReaders(x, "readers")
		for range 10_000 { // events at x and at its directory
			w.set(x, "")
		}
		for _, kind := range []lockpb.EventKind{lockpb.EventKind_CONTENTS_CHANGED, lockpb.EventKind_LOCK_ACQUIRED} {
			eve.beat([]*lockpb.Subscription{{Path: x, After: 1, Kinds: []lockpb.EventKind{kind}}})
			want := deniedX
			if kind == lockpb.EventKind_LOCK_ACQUIRED {
				want = "EVENTS_LOST " + x
			}
			eve.expect(t, kind.String(), want)
			eve.beat([]*lockpb.Subscription{})
		}
	})
}

// A session that is behind gets nothing by catching up either, and what it may hear of without a gap.
func Test2_5_CatchingUpTakesTheRightToRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ann, eve := guarded(t, 1)
		defer w.close()
		defer ann.stop()
		const y = "/ls/local/y"
		w.file(y, "")
		eve.beat([]*lockpb.Subscription{{Path: x}, {Path: y}})
		synctest.Wait()
		eve.setDeaf(true)
		eve.stop()
		w.setReaders(x, "readers")
		for i := range 2 * maxQueued {
			w.set(x, fmt.Sprint(i))
			w.set(y, fmt.Sprint(i))
		}
		eve.setDeaf(false)
		eve.connect()
		defer eve.stop()
		eve.beat(nil)
		time.Sleep(time.Second)
		n := map[string]int{}
		for _, k := range eve.heard() {
			n[k]++
		}
		if n[changedX] != 0 || n[deniedX] == 0 || n["CONTENTS_CHANGED "+y] != 2*maxQueued {
			t.Errorf("heard of %v", n)
		}
	})
}

// A denial is told again over another stream.
func Test2_5_DenialsAreNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ann, eve := guarded(t, 1)
		defer w.close()
		defer ann.stop()
		w.setReaders(x, "readers")
		eve.beat([]*lockpb.Subscription{{Path: x}})
		for _, when := range []string{"at first", "over another stream", "over a third"} {
			eve.expect(t, when, deniedX)
			eve.stop()
			eve.connect()
			eve.beat(nil)
		}
		eve.expect(t, "over a fourth", deniedX)
		eve.stop()
	})
}

// A holder hears that others want its lock, whether it may read the file or not (2.5).
func Test2_5_AHolderThatMayNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ann, eve := guarded(t, 1)
		defer w.close()
		defer ann.stop()
		defer eve.stop()
		w.setReaders(x, "readers")
		synctest.Wait()
		answers := eve.answers()
		eve.beat([]*lockpb.Subscription{{Path: x, Kinds: []lockpb.EventKind{lockpb.EventKind_CONFLICTING_REQUEST, lockpb.EventKind_HANDLE_INVALID}}})
		synctest.Wait()
		if n := eve.answers() - answers; n != 0 {
			t.Errorf("%d answers to a beat with nothing to tell", n)
		}
		w.must(w.as("eve", acquire(2, x)))
		done := make(chan string, 1)
		go func() { done <- why(w.as("ann", acquire(1, x))) }()
		eve.expect(t, "as holder", "CONFLICTING_REQUEST "+x)
		w.must(w.as("eve", release(2, x)))
		if got := <-done; got != "" {
			t.Errorf("ann's acquire: %s", got)
		}
		w.must(w.as("ann", &lockpb.DeleteRequest{Handle: h(1, x)}))
		eve.expect(t, "at the end", "HANDLE_INVALID "+x)
	})
}

// Nor do invalidations of caches tell who may not read of changes (2.3, 2.7).
func Test2_7_InvalidationsTakeTheRightToRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ann, eve := guarded(t, 1)
		defer w.close()
		defer ann.stop()
		defer eve.stop()
		w.setReaders(x, "readers")
		get := &lockpb.GetRequest{Handle: h(2, x), Cache: true}
		if got := why(w.as("eve", get)); got != "PERMISSION" {
			t.Errorf("eve reads: %q", got)
		}
		w.set(x, "a")
		synctest.Wait()
		if got := eve.told(); len(got) > 0 {
			t.Errorf("eve is told to forget %v", got)
		}
		// Who loses the right is told to forget then, not at the next change.
		get.Handle.Session = 1
		if r := w.must(w.as("ann", get)).GetGetContentsAndStat(); !r.Cacheable {
			t.Error("not cacheable")
		}
		w.set("/ls/local/acl/readers", readersOfEve)
		synctest.Wait()
		if got := ann.told(); !slices.Contains(got, x) {
			t.Errorf("ann is told to forget %v", got)
		}
		w.set(x, "b")
		synctest.Wait()
		if got := ann.told(); len(got) > 0 {
			t.Errorf("ann is told to forget %v", got)
		}
	})
}

// A session is kept alive, and hears, by its own principal only: to others it is not there.
func Test2_3_BeatsAreThePrincipals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := lockWorld(t, 1, 0)
		defer w.close()
		w.must(w.as("ann", &lockpb.CreateSessionRequest{Session: 1, TtlNs: int64(10 * time.Second)}))
		w.must(w.as("ann", acquire(1, x)))
		leases := make(chan *lockpb.Lease, 10)
		st := w.lead().OpenStream("eve", func(l *lockpb.Lease) { leases <- l })
		defer st.Close()
		time.Sleep(9 * time.Second)
		st.Beat(&lockpb.Beat{Session: 1, Number: 1000, Subscriptions: &lockpb.Subscriptions{List: []*lockpb.Subscription{{Path: x}}}})
		if l := <-leases; l.Session != 1 || l.Number != 1000 || l.TtlNs != 0 || len(l.Events) != 0 {
			t.Errorf("told %v", l)
		}
		if n := w.subscriptions()[x]; n != 0 {
			t.Errorf("%d subscriptions", n)
		}
		time.Sleep(time.Second + 3*epsilon)
		synctest.Wait()
		if h := w.holders(x); len(h) != 0 {
			t.Errorf("kept alive by another: %v", h)
		}
	})
}
