package cell

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/lockservice/lockpb"
)

// refusals are the reasons for which the session's subscriptions were refused.
func (p *peer) refusals() (list []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.got {
		if r := l.GetRefused(); r != nil {
			list = append(list, r.Info.Reason)
		}
	}
	return list
}

// subscriptions counts those that the leader knows, by path.
func (w *world) subscriptions() map[string]int {
	l := w.lead().leader.Load()
	l.mu.Lock()
	defer l.mu.Unlock()
	n := map[string]int{}
	for path, list := range l.subs {
		n[path] = len(list)
		for i, u := range list {
			if u.place != i || u.path != path || !slices.Contains(u.s.box.subs, u) {
				w.t.Errorf("subscription %d of %s: %+v", i, path, u)
			}
		}
	}
	return n
}

// Subscriptions that are too many or not of the cell are refused at once, and leave those that were
// there and the lease as they are (2.5).
func Test2_5_SubscriptionsAreRefused(t *testing.T) {
	many := make([]*lockpb.Subscription, maxWatching+1)
	for i := range many {
		many[i] = &lockpb.Subscription{Path: fmt.Sprint("/ls/local/", i)}
	}
	for want, list := range map[string][]*lockpb.Subscription{
		"QUOTA_EXCEEDED": many,
		"BAD_PATH":       {{Path: "/ls/local/y"}, {Path: "/ls/elsewhere/x"}},
	} {
		t.Run(want, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, _ := lockWorld(t, 1, 1)
				defer w.close()
				p := w.keep(1)
				defer p.stop()
				p.beat([]*lockpb.Subscription{{Path: x}})
				p.beat(list)
				synctest.Wait()
				if got := p.refusals(); !slices.Equal(got, []string{want}) || p.over || p.ttl <= 0 {
					t.Errorf("refused with %q, lease %v", got, p.ttl)
				}
				if got := w.subscriptions(); len(got) != 1 || got[x] != 1 {
					t.Errorf("subscriptions: %v", got)
				}
				w.set(x, "a")
				synctest.Wait()
				if got := p.kinds(); !slices.Equal(got, []string{"CONTENTS_CHANGED " + x}) {
					t.Errorf("heard of %v", got)
				}
				if len(many) <= maxWatching {
					return
				}
				p.beat(many[:maxWatching])
				synctest.Wait()
				if got := w.subscriptions(); len(got) != maxWatching {
					t.Errorf("%d of %d subscriptions were taken", len(got), maxWatching)
				}
			})
		})
	}
}

// Whoever names a node twice hears of what happens to it once, and of all that he asked for (2.5).
func Test2_5_OneSubscriptionOfANode(t *testing.T) {
	contents, lock := lockpb.EventKind_CONTENTS_CHANGED, lockpb.EventKind_LOCK_ACQUIRED
	for name, list := range map[string][]*lockpb.Subscription{
		"the same":        {{Path: x}, {Path: x}, {Path: x}},
		"kinds":           {{Path: x, Kinds: []lockpb.EventKind{lock}}, {Path: x, Kinds: []lockpb.EventKind{contents}}},
		"all and a kind":  {{Path: x, Kinds: []lockpb.EventKind{lock}}, {Path: x}},
		"a kind and all":  {{Path: x}, {Path: x, Kinds: []lockpb.EventKind{lock}}},
		"by its instance": {{Path: x, Instance: 3}, {Path: x}},
		"from the start":  {{Path: x, After: 1 << 40}, {Path: x, After: 2}, {Path: x}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, _ := lockWorld(t, 1, 2)
				defer w.close()
				p := w.keep(1)
				defer p.stop()
				p.beat(list)
				synctest.Wait()
				instances := map[uint64]bool{}
				for _, u := range list {
					instances[u.Instance] = true
				}
				if got := w.subscriptions()[x]; got != len(instances) {
					t.Errorf("%d subscriptions", got)
				}
				w.set(x, "a")
				w.must(w.do(acquire(2, x)))
				synctest.Wait()
				got := p.kinds()
				if name == "from the start" {
					got = slices.DeleteFunc(got, func(k string) bool { return k == "EVENTS_LOST "+x })
					got = got[max(0, len(got)-2):]
				}
				if want := []string{"CONTENTS_CHANGED " + x, "LOCK_ACQUIRED " + x}; !slices.Equal(got, want) {
					t.Errorf("heard of %v, not %v", got, want)
				}
			})
		})
	}
}

// A subscription that goes on from long ago gets all that the cell remembers, in order, while its queue
// stays within its bound; others of the session lose nothing by it, also what is not acknowledged (2.5).
func Test2_5_ResumingFromLongAgo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := lockWorld(t, 1, 1)
		defer w.close()
		const y = "/ls/local/y"
		w.file(y, "")
		p := w.keep(1)
		defer func() { p.stop() }()
		kinds := []lockpb.EventKind{lockpb.EventKind_CONTENTS_CHANGED}
		of := &lockpb.Subscription{Path: y, Kinds: kinds}
		p.beat([]*lockpb.Subscription{of})
		synctest.Wait()
		first := w.set(x, "").Revision
		for i := range 3 * maxQueued {
			if i == 3*maxQueued-100 {
				p.setDeaf(true)
			}
			w.set(x, fmt.Sprint(i))
			if i%20 == 0 {
				w.set(y, fmt.Sprint(i))
				synctest.Wait()
			}
		}
		l := w.lead().leader.Load()
		largest := 0
		look := func() {
			l.mu.Lock()
			largest = max(largest, len(l.sessions[1].box.queue))
			l.mu.Unlock()
			synctest.Wait()
		}
		look()
		p.beat([]*lockpb.Subscription{of, {Path: x, Kinds: kinds, After: first}})
		look()
		p.stop()
		p.setDeaf(false)
		p.connect()
		p.beat(nil)
		for i := range 50 {
			w.set(x, fmt.Sprint("late", i))
			w.set(y, fmt.Sprint("late", i))
			look()
		}
		time.Sleep(time.Second)
		synctest.Wait()
		heard := map[string][]uint64{}
		for _, e := range p.events {
			if e.Kind != lockpb.EventKind_CONTENTS_CHANGED {
				t.Fatalf("heard of %v", e)
			}
			list := heard[e.Path]
			if i, there := slices.BinarySearch(list, e.Generation); !there {
				heard[e.Path] = slices.Insert(list, i, e.Generation) // again is no fault
			}
		}
		if n := len(heard[x]); n != 3*maxQueued+50 {
			t.Errorf("of x, %d changes of %d", n, 3*maxQueued+50)
		}
		if n, want := len(heard[y]), (3*maxQueued+19)/20+50; n != want {
			t.Errorf("of y, %d changes of %d", n, want)
		}
		if largest > maxQueued {
			t.Errorf("the queue was %d long", largest)
		}
		l.mu.Lock()
		if b := l.sessions[1].box; len(b.queue) > 0 || b.behind {
			t.Errorf("left: %d in the queue, behind %v", len(b.queue), b.behind)
		}
		l.mu.Unlock()
	})
}

// Subscriptions come and go in any order.
func Test2_5_SubscriptionsComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 20
		w, _ := lockWorld(t, 1, n)
		defer w.close()
		peers := make([]*peer, n)
		for i := range peers {
			peers[i] = w.keep(uint64(i + 1))
			defer peers[i].stop()
			peers[i].beat([]*lockpb.Subscription{{Path: x}, {Path: x, Instance: 3}, {Path: "/ls/local"}})
		}
		if got := w.subscriptions(); got[x] != 2*n || got["/ls/local"] != n {
			t.Errorf("%v", got)
		}
		for i := range peers {
			switch p := peers[i*7%n]; i % 3 {
			case 0:
				p.beat([]*lockpb.Subscription{})
			case 1:
				p.beat([]*lockpb.Subscription{{Path: "/ls/local"}})
			case 2:
				w.must(w.do(&lockpb.CloseSessionRequest{Session: p.id}))
			}
			w.subscriptions()
		}
		if got := w.subscriptions(); len(got) != 1 || got["/ls/local"] != n/3+1 {
			t.Errorf("left: %v", got)
		}
	})
}

// BenchmarkResubscribe is one of 10,000 sessions that watch the same node ending its subscription and
// subscribing again.
func BenchmarkResubscribe(b *testing.B) {
	const sessions = 10_000
	w := newWorld(b, 1)
	defer w.close()
	w.file(x, "")
	st := w.lead().OpenStream("", func(*lockpb.Lease) {})
	defer st.Close()
	number := uint64(0)
	list := func(id int, subs ...*lockpb.Subscription) {
		number++
		st.Beat(&lockpb.Beat{Session: uint64(id), Number: number, Epoch: w.g.term, Subscriptions: &lockpb.Subscriptions{List: subs}})
	}
	for i := range sessions {
		w.session(uint64(i+1), time.Minute)
		list(i+1, &lockpb.Subscription{Path: x})
	}
	for i := 0; b.Loop(); i++ {
		list(i%sessions + 1)
		list(i%sessions+1, &lockpb.Subscription{Path: x})
	}
}

// Whoever watches a path where nothing is hears of the file that is made there, whichever way; its
// directory's watchers hear of a child (2.5).
func Test2_5_CreationOfAWatchedPath(t *testing.T) {
	const y, z = "/ls/local/y", "/ls/local/z"
	synctest.Test(t, func(t *testing.T) {
		w, _ := lockWorld(t, 1, 1)
		defer w.close()
		p := w.keep(1)
		defer p.stop()
		p.beat([]*lockpb.Subscription{{Path: y}, {Path: z}, {Path: "/ls/local", Kinds: []lockpb.EventKind{lockpb.EventKind_CHILD_ADDED}}})
		w.file(y, "a")
		w.must(w.do(&lockpb.OpenRequest{Handle: h(1, z), Create: lockpb.Create_CREATE_EXCLUSIVE, Ephemeral: true}))
		synctest.Wait()
		want := []string{"CHILD_ADDED /ls/localy", "CONTENTS_CHANGED " + y, "CHILD_ADDED /ls/localz", "CONTENTS_CHANGED " + z}
		if got := p.kinds(); !slices.Equal(got, want) {
			t.Errorf("heard of %v, not %v", got, want)
		}
		st := w.must(w.do(&lockpb.GetRequest{Handle: h(0, y)})).GetGetContentsAndStat().Stat
		if e := p.events[1]; e.Generation != 1 || e.Instance != st.Instance || e.Revision != st.Revision {
			t.Errorf("the event %v of %v", e, st)
		}
	})
}
