package state

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/spandb/spand/truetime"
)

const second = truetime.Timestamp(1e9)

// must applies a command that nothing may refuse.
func must(t testing.TB, s *State, c *Command, ts truetime.Timestamp) Result {
	t.Helper()
	res, _ := s.Apply(c, s.Index()+1, ts, anyContents{})
	if res.Err != nil {
		t.Fatalf("%+v: %v", c, res.Err)
	}
	for _, g := range res.Grants {
		if g.Err != nil {
			t.Fatalf("%+v: %v", c, g.Err)
		}
	}
	return res
}

func restored(t testing.TB, s *State) *State {
	t.Helper()
	again, err := Decode(s.Encode())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again.Encode(), s.Encode()) {
		t.Fatal("the state does not survive its encoding")
	}
	return again
}

// Events and ended holds are forgotten oldest first, and a subscriber that comes too late
// learns that it does (OSDI'06 2.5).
func TestMemoryIsBounded(t *testing.T) {
	s := New(FirstCell)
	must(t, s, &Command{Kind: CreateSession, Session: 1}, second)
	must(t, s, &Command{Kind: Open, Path: "/ls/local/early", Create: CreateIfAbsent}, second)
	must(t, s, &Command{Kind: Open, Path: "/ls/local/x", Create: CreateIfAbsent}, second)
	grant := []GrantTo{{Session: 1, Handle: 1, Path: "/ls/local/x", Mode: Exclusive}}
	for range maxHistory + 100 {
		must(t, s, &Command{Kind: Grant, Grants: grant}, second)
		must(t, s, &Command{Kind: Release, Session: 1, Handle: 1, Path: "/ls/local/x"}, second)
	}
	for _, s := range []*State{s, restored(t, s)} {
		last := s.Revision()
		events, complete := s.EventsAfter(last-maxEvents, "/ls/local/x")
		if len(events) != maxEvents || !complete {
			t.Errorf("%d events, complete %v; %d are remembered", len(events), complete, maxEvents)
		}
		if events, complete = s.EventsAfter(last-maxEvents-1, "/ls/local/x"); len(events) != maxEvents || complete {
			t.Errorf("one revision earlier: %d events, complete %v", len(events), complete)
		}
		if events, complete = s.EventsAfter(1, "/ls/local"); len(events) != 0 || complete {
			t.Errorf("of the directory: %d events, complete %v; they are forgotten", len(events), complete)
		}
		// That others were busy is nothing to who has heard of all that happened at a node.
		for _, path := range []string{"/ls/local", "/ls/local/early"} {
			if events, complete = s.EventsAfter(last-maxEvents-1, path); len(events) != 0 || !complete {
				t.Errorf("of quiet %s: %d events, complete %v", path, len(events), complete)
			}
		}
		if events, complete = s.EventsAfter(last-maxEvents-1, "/ls/local/late"); len(events) != 0 || complete {
			t.Errorf("of a path without a node: %d events, complete %v", len(events), complete)
		}
		if n := len(s.events.last); n != 1 {
			t.Errorf("%d paths are indexed; all remembered events are of one", n)
		}
		ended, more := s.History("", 0, maxHistory+1)
		if len(ended) != maxHistory || more || ended[0].Entry != 101 {
			t.Errorf("%d ended holds from entry %d", len(ended), ended[0].Entry)
		}
		if ended, more = s.History("/ls/local/x", 150, 10); len(ended) != 10 || !more || ended[0].Entry != 151 {
			t.Errorf("a page: %d from entry %d, more %v", len(ended), ended[0].Entry, more)
		}
		must(t, s, &Command{Kind: Grant}, 2*second+memory)
		if ended, _ = s.History("", 0, 1); len(ended) != 0 {
			t.Errorf("after an hour there is still entry %d", ended[0].Entry)
		}
	}
}

// A session costs bounded memory, whatever its client never acknowledges or closes.
func TestSessionsAreBounded(t *testing.T) {
	s := New(FirstCell)
	must(t, s, &Command{Kind: CreateSession, Session: 1}, second)
	for i := uint64(1); i <= maxAnswers+10; i++ {
		must(t, s, &Command{Kind: SetContents, Session: 1, Path: "/ls/local/x", Create: CreateIfAbsent, Request: i}, second)
		must(t, s, &Command{Kind: Close, Session: 1, Handle: HandleID(i), Path: "/ls/local/x"}, second)
	}
	s = restored(t, s)
	audit(t, s)
	res, _ := s.Apply(&Command{Kind: SetContents, Session: 1, Path: "/ls/local/x", Request: 10}, 0, second, anyContents{})
	if res.Err == nil || res.Err.Reason != BadRequest {
		t.Errorf("a forgotten request: %v", res.Err)
	}
	res = must(t, s, &Command{Kind: SetContents, Session: 1, Path: "/ls/local/x", Request: 11}, second)
	if res.Node.ContentGen != 11 {
		t.Errorf("the oldest that is remembered was answered with generation %d", res.Node.ContentGen)
	}
	for i := range SessionID(maxDeparted + 10) {
		must(t, s, &Command{Kind: CreateSession, Session: 100 + i}, second)
		must(t, s, &Command{Kind: EndSession, Session: 100 + i}, second)
	}
	if n := restored(t, s).departed.list.len(); n != maxDeparted || len(s.departed.ids) != n {
		t.Errorf("%d and %d departed sessions are remembered", n, len(s.departed.ids))
	}
}

func TestLimits(t *testing.T) {
	s := New("second")
	must(t, s, &Command{Kind: CreateSession, Session: 1}, second)
	deep := "/ls/second" + strings.Repeat("/"+strings.Repeat("d", maxComponent), 16)
	for _, tc := range []struct {
		c    Command
		want string
	}{
		{Command{Kind: SetContents, Path: "/ls/second/x", Create: CreateIfAbsent, Contents: make([]byte, MaxContents+1)}, TooLarge},
		{Command{Kind: SetContents, Path: "/ls/second/x", Create: CreateIfAbsent, Contents: make([]byte, MaxContents)}, ""},
		{Command{Kind: SetContents, Path: "/ls/second/x", Contents: make([]byte, MaxContents+1)}, TooLarge},
		{Command{Kind: Open, Path: "/ls/local/x", Create: CreateIfAbsent}, BadPath},
		{Command{Kind: Open, Path: "/ls/secondary", Create: CreateIfAbsent}, BadPath},
		{Command{Kind: Open, Path: "/ls/second/", Create: CreateIfAbsent}, BadPath},
		{Command{Kind: Open, Path: "/ls/second/a\x00", Create: CreateIfAbsent}, BadPath},
		{Command{Kind: Open, Path: "/ls/second/\xff", Create: CreateIfAbsent}, BadPath},
		{Command{Kind: Open, Path: "/ls/second/" + strings.Repeat("x", maxComponent+1), Create: CreateIfAbsent}, BadPath},
		{Command{Kind: Open, Path: "/ls/second/" + strings.Repeat("x", maxComponent), Create: CreateIfAbsent}, ""},
		{Command{Kind: Open, Path: deep, Create: CreateIfAbsent}, BadPath},
		{Command{Kind: CreateSession, Session: 2, Client: strings.Repeat("x", MaxClient+1)}, BadRequest},
		{Command{Kind: SetCell, Cell: Cell{Name: "third"}}, BadRequest}, // only "local" knows cells
		{Command{Kind: SetLeaseFactor}, BadRequest},
		{Command{Kind: SetLeaseFactor, LeaseFactor: MaxLeaseFactor + 1}, BadRequest},
		{Command{Kind: SetLeaseFactor, LeaseFactor: 5}, ""},
		{Command{Kind: 200}, BadRequest},
	} {
		res, _ := s.Apply(&tc.c, 0, second, anyContents{})
		got := ""
		if res.Err != nil {
			got = res.Err.Reason
		}
		if got != tc.want {
			t.Errorf("%d %.40q: %q (%v), want %q", tc.c.Kind, tc.c.Path, got, res.Err, tc.want)
		}
	}
	if f := restored(t, s).LeaseFactor(); f != 5 {
		t.Errorf("lease factor %d", f)
	}
}

func TestCells(t *testing.T) {
	s := New(FirstCell)
	want := []Cell{{"jobs", 8, []Replica{{1, 10}, {2, 11}}}, {"web", 7, []Replica{{1, 4}, {2, 5}, {3, 6}}}}
	for _, c := range []Cell{want[1], want[0], {"jobs", 9, []Replica{{1, 12}}}} { // the first command for a name counts
		must(t, s, &Command{Kind: SetCell, Cell: c}, second)
	}
	if got := restored(t, s).Cells(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("cells %v, want %v", got, want)
	}
}

// Sessions, children and locks are listed in pages, each going on where the one before ended.
func TestPages(t *testing.T) {
	s := New(FirstCell)
	const n = 25
	for i := range n {
		id, path := SessionID(i+1), fmt.Sprintf("/ls/local/d/%02d", i)
		must(t, s, &Command{Kind: CreateSession, Session: id}, second)
		if i == 0 {
			must(t, s, &Command{Kind: Open, Path: "/ls/local/d", Create: CreateIfAbsent, Dir: true}, second)
		}
		must(t, s, &Command{Kind: Open, Path: path, Create: CreateIfAbsent}, second)
		must(t, s, &Command{Kind: Grant, Grants: []GrantTo{{Session: id, Path: path, Mode: Shared}}}, second)
	}
	var children, sessions, locks int
	for after, more := "", true; more; {
		var page []*Info
		page, more, _ = s.Children("/ls/local/d", after, 10)
		children += len(page)
		_, after = split(page[len(page)-1].Path)
	}
	for after, more := SessionID(0), true; more; {
		var page []*Session
		page, more = s.Sessions(after, 5)
		sessions += len(page)
		after = page[len(page)-1].ID
	}
	for after, more := (Place{}), true; more; {
		var page []Lock
		page, more = s.Locks(after, 10)
		locks += len(page)
		after.Path = page[len(page)-1].Path
	}
	if children != n || sessions != n || locks != n {
		t.Errorf("pages had %d children, %d sessions, %d locks; there are %d of each", children, sessions, locks, n)
	}
}

// A lock with many holders is listed in pages too.
func TestPagesWithinALock(t *testing.T) {
	s := New(FirstCell)
	want := 0
	for i, path := range []string{"/ls/local/a", "/ls/local/b", "/ls/local/c", "/ls/local/d"} {
		must(t, s, &Command{Kind: Open, Path: path, Create: CreateIfAbsent}, second)
		for j := range []int{1, 25, 30, 2}[i] {
			id := SessionID(100*(i+1) + j/2)
			must(t, s, &Command{Kind: CreateSession, Session: id}, second)
			must(t, s, &Command{Kind: Grant, Grants: []GrantTo{{Session: id, Handle: HandleID(j % 2), Path: path, Mode: Shared}}}, second)
			want++
		}
	}
	for _, limit := range []int{1, 2, 3, 10, 25, 26, 27, 57, 58, 100} {
		seen := map[Place]bool{}
		for after, more := (Place{}), true; more; {
			var page []Lock
			page, more = s.Locks(after, limit)
			n := 0
			for _, l := range page {
				for _, h := range l.Holds {
					after = Place{h.Path, h.Session, h.Handle}
					if n++; seen[after] {
						t.Fatalf("limit %d: %+v comes twice", limit, after)
					}
					seen[after] = true
				}
			}
			if n == 0 || n > limit {
				t.Fatalf("limit %d: a page of %d", limit, n)
			}
		}
		if len(seen) != want {
			t.Errorf("limit %d: pages had %d of %d holds", limit, len(seen), want)
		}
	}
}
