package lockservice

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/lockservice/lockpb"
)

func changed(rev uint64) *lockpb.Event {
	return &lockpb.Event{Revision: rev, Kind: lockpb.EventKind_CONTENTS_CHANGED, Path: "/ls/local/x", Instance: 7, Generation: rev}
}

func (c *fakeCluster) subscriptions() []*lockpb.Subscription {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := len(c.beats) - 1; i >= 0; i-- {
		if u := c.beats[i].Subscriptions; u != nil {
			return u.List
		}
	}
	return nil
}

// What comes twice is delivered once, what comes is acknowledged, and a new stream goes on behind it.
func TestPaper2_5_EventsAreDeliveredOnceAndResumed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 2)
		s := c.session(SessionOptions{})
		h, err := s.Open(t.Context(), "/ls/local/x", OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		sub, err := h.Subscribe(t.Context(), SubscribeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := c.subscriptions(); len(got) != 1 || got[0].After != 100 || got[0].Instance != 7 {
			t.Fatalf("subscribed to %v", got) // from the cell's revision at the call
		}
		c.tell(s, &lockpb.Lease{Events: []*lockpb.Event{changed(99), changed(101), changed(102)}})
		synctest.Wait()
		c.tell(s, &lockpb.Lease{Events: []*lockpb.Event{changed(101), changed(102), changed(103)}})
		synctest.Wait()
		for want := uint64(101); want <= 103; want++ {
			if e, err := sub.Next(t.Context()); err != nil || e.Revision != want || e.Kind != ContentsChanged || e.Generation != want {
				t.Fatalf("event %v, %v, want revision %d", e, err, want)
			}
		}
		if b := c.lastBeat(); b.Seen != 103 {
			t.Errorf("acknowledged %d", b.Seen)
		}
		c.nodes[0].kill()
		c.lead(1)
		if e, err := sub.Next(t.Context()); err != nil || e.Kind != CellFailedOver {
			t.Fatalf("event %v, %v", e, err)
		}
		if got := c.subscriptions(); len(got) != 1 || got[0].After != 103 {
			t.Errorf("resumed from %v", got)
		}
		s.end(ErrClosed)
		if _, err := sub.Next(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("after the session's end: %v", err)
		}
	})
}

// Where nobody leads, a node does not know the cell's revision: a subscription from now on waits
// for one that does.
func TestPaper2_5_NowIsTheLeadersRevision(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 2)
		s := c.session(SessionOptions{})
		c.set(func() { c.orphaned = true })
		time.AfterFunc(3*time.Second, func() { c.set(func() { c.orphaned = false }) })
		if _, err := s.Node("/ls/local/x").Subscribe(t.Context(), SubscribeOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := c.subscriptions(); len(got) != 1 || got[0].After != 100 {
			t.Errorf("subscribed to %v", got)
		}
	})
}

func TestPaper2_5_KindsAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		s := c.session(SessionOptions{})
		n := s.Node("/ls/local/x")
		all, err := n.Subscribe(t.Context(), SubscribeOptions{Kinds: []EventKind{ContentsChanged, LockAcquired}})
		if err != nil {
			t.Fatal(err)
		}
		some, err := n.Subscribe(t.Context(), SubscribeOptions{Kinds: []EventKind{LockAcquired}, After: 50})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := c.subscriptions(); len(got) != 1 || got[0].After != 50 || len(got[0].Kinds) != 2 {
			t.Fatalf("subscribed to %v", got)
		}
		lock := changed(102)
		lock.Kind = lockpb.EventKind_LOCK_ACQUIRED
		synctest.Wait()
		c.tell(s, &lockpb.Lease{Events: []*lockpb.Event{changed(101), lock}})
		if e, err := some.Next(t.Context()); err != nil || e.Kind != LockAcquired {
			t.Errorf("event %v, %v", e, err)
		}
		if e, err := all.Next(t.Context()); err != nil || e.Kind != ContentsChanged {
			t.Errorf("event %v, %v", e, err)
		}
		all.Close()
		some.Close()
		synctest.Wait()
		if got := c.subscriptions(); len(got) != 0 {
			t.Errorf("still subscribed to %v", got)
		}
	})
}

// A reader that does not read costs the client a bounded queue. When it has read that, the cell
// is asked again from there.
func TestPaper2_5_SlowReaderIsCaughtUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		s := c.session(SessionOptions{})
		n := s.Node("/ls/local/x")
		sub, err := n.Subscribe(t.Context(), SubscribeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // the cell has heard of it
		const all = backlog + 500
		send := func(from int) {
			var list []*lockpb.Event
			for i := from; i <= all; i++ {
				list = append(list, changed(uint64(100+i)))
			}
			c.tell(s, &lockpb.Lease{Events: list})
			synctest.Wait()
		}
		send(1)
		if len(sub.queue) != backlog || c.lastBeat().Seen != 100+all {
			t.Fatalf("%d queued, seen %d", len(sub.queue), c.lastBeat().Seen)
		}
		read := func(from, to int) {
			for i := from; i <= to; i++ {
				if e, err := sub.Next(t.Context()); err != nil || e.Revision != uint64(100+i) {
					panic(fmt.Sprintf("event %v, %v, want %d", e, err, 100+i))
				}
			}
		}
		read(1, backlog)
		if _, ok, err := sub.take(); ok || err != nil { // notices that it is behind
			t.Fatalf("more than was queued: %v", err)
		}
		// What was on its way then does not come before what was dropped.
		s.mu.Lock()
		s.events.deliverLocked(changed(100+all), s.beats.answered)
		s.mu.Unlock()
		synctest.Wait()
		c.mu.Lock()
		var lists []int
		for _, b := range c.beats {
			if u := b.Subscriptions; u != nil {
				lists = append(lists, len(u.List))
				if len(u.List) > 0 && b.Seen > u.List[0].After {
					t.Errorf("beat says that it has seen %d, and asks for what is after %d", b.Seen, u.List[0].After)
				}
			}
		}
		c.mu.Unlock()
		// A server leaves a subscription that it knows where it is: so it goes, and comes again.
		if n := len(lists); n < 2 || lists[n-1] != 1 || lists[n-2] != 0 {
			t.Errorf("subscriptions in the beats: %v", lists)
		}
		if got := c.subscriptions(); got[0].After != 100+backlog {
			t.Errorf("asked again from %d", got[0].After)
		}
		send(backlog + 1)
		read(backlog+1, all)
	})
}

// A session watches a bounded number of nodes; what the cell refuses ends the subscriptions with its reason.
func TestPaper2_5_RefusedSubscriptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		s := c.session(SessionOptions{})
		subscribe := func(path string) (*Subscription, error) {
			return s.Node(path).Subscribe(t.Context(), SubscribeOptions{After: 100})
		}
		var first *Subscription
		for i := range maxSubscriptions {
			sub, err := subscribe(fmt.Sprint("/ls/local/", i))
			if err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				first = sub
			}
		}
		if _, err := subscribe("/ls/local/0"); err != nil {
			t.Errorf("again to a node that is watched: %v", err)
		}
		var e *Error
		if _, err := subscribe("/ls/local/more"); !errors.As(err, &e) || e.Reason != "QUOTA_EXCEEDED" {
			t.Errorf("one more: %v", err)
		}
		synctest.Wait()
		c.tell(s, &lockpb.Lease{Refused: &lockpb.Failure{Code: 8, Message: "too many", Info: &lockpb.ErrorInfo{Reason: "QUOTA_EXCEEDED"}}})
		if _, err := first.Next(t.Context()); !errors.As(err, &e) || e.Reason != "QUOTA_EXCEEDED" {
			t.Errorf("of the subscription: %v", err)
		}
		first.Close()
		sub, err := subscribe("/ls/local/x")
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := c.subscriptions(); len(got) != 1 || got[0].Path != "/ls/local/x" {
			t.Errorf("afterwards %d subscriptions are asked for", len(got))
		}
		c.tell(s, &lockpb.Lease{Events: []*lockpb.Event{changed(101)}})
		if e, err := sub.Next(t.Context()); err != nil || e.Revision != 101 {
			t.Errorf("event %v, %v", e, err)
		}
	})
}

// A denial ends the subscriptions that ask for what takes the right to read, and none that was made after the cell said
// so; the cell is not asked for it any more (2.3, 2.5).
func TestPaper2_5_DeniedSubscriptionsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		s := c.session(SessionOptions{})
		n := s.Node("/ls/local/x")
		subscribe := func(kinds ...EventKind) *Subscription {
			sub, err := n.Subscribe(t.Context(), SubscribeOptions{Kinds: kinds})
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			return sub
		}
		h, err := s.Open(t.Context(), "/ls/local/x", OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		ofHandle, err := h.Subscribe(t.Context(), SubscribeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		all, contents, locks := subscribe(), subscribe(ContentsChanged, LockAcquired), subscribe(LockAcquired, ConflictingRequest)
		time.Sleep(time.Second)
		denied := &lockpb.Event{Kind: lockpb.EventKind_EVENTS_DENIED, Path: "/ls/local/x"}
		c.tell(s, &lockpb.Lease{Events: []*lockpb.Event{changed(101), denied}})
		synctest.Wait()
		for _, sub := range []*Subscription{all, contents} {
			if e, err := sub.Next(t.Context()); err != nil || e.Revision != 101 {
				t.Errorf("what came before: %v, %v", e, err)
			}
			if e, err := sub.Next(t.Context()); !errors.Is(err, ErrPermission) {
				t.Errorf("event %v, %v", e, err)
			}
			sub.Close()
		}
		var kinds []lockpb.EventKind
		for _, w := range c.subscriptions() {
			if w.Instance == 0 {
				kinds = w.Kinds
			}
		}
		if len(kinds) != 2 || len(c.subscriptions()) != 2 {
			t.Errorf("subscribed to %v", c.subscriptions())
		}
		// An answer to a beat before the new list is about the old one.
		again := subscribe()
		s.mu.Lock()
		s.events.deniedLocked(nodeID{"/ls/local/x", 0}, again.from-1)
		s.mu.Unlock()
		lock := changed(103)
		lock.Kind = lockpb.EventKind_LOCK_ACQUIRED
		time.Sleep(time.Second)
		c.tell(s, &lockpb.Lease{Events: []*lockpb.Event{changed(102), lock}})
		synctest.Wait()
		for want, sub := range map[uint64]*Subscription{101: ofHandle, 102: again, 103: locks} {
			if e, err := sub.Next(t.Context()); err != nil || e.Revision != want {
				t.Errorf("event %v, %v, not of revision %d", e, err, want)
			}
		}
		if e, err := again.Next(t.Context()); err != nil || e.Revision != 103 {
			t.Errorf("event %v, %v", e, err)
		}
		c.tell(s, &lockpb.Lease{Events: []*lockpb.Event{denied}})
		synctest.Wait()
		if _, err := again.Next(t.Context()); !errors.Is(err, ErrPermission) {
			t.Errorf("denied again: %v", err)
		}
		locks.Close()
		ofHandle.Close()
		synctest.Wait()
		if got := c.subscriptions(); len(got) != 0 {
			t.Errorf("subscribed to %v", got)
		}
	})
}
