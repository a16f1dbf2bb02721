package state

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"slices"
	"testing"

	"github.com/spandb/spand/truetime"
)

// What EventsAfter calls complete is all that ever happened at the path, also when nodes come and go (2.5).
func Test2_5_CompleteIsComplete(t *testing.T) {
	r := newRandomCommands(9)
	s := New(FirstCell)
	all := map[string][]Event{}
	found, late, missing := 0, 0, 0
	apply := func(c *Command, i int) {
		_, ch := s.Apply(c, uint64(i), truetime.Timestamp(1e18+i*1e8), anyContents{})
		for _, e := range ch.Events {
			all[e.Path] = append(all[e.Path], e)
		}
	}
	const busy, own = "/ls/local/busy", SessionID(1 << 40)
	apply(&Command{Kind: CreateSession, Session: own}, 0)
	apply(&Command{Kind: Open, Path: busy, Create: CreateIfAbsent}, 0)
	for i := range 15_000 {
		apply(r.next(), i)
		for range 2 {
			apply(grantOf(own, busy), i)
			apply(&Command{Kind: Release, Session: own, Handle: 1, Path: busy}, i)
		}
		if i == 10_000 {
			s = restored(t, s)
		}
		path, after := r.path(), uint64(r.Int63n(int64(s.Revision())+1))
		events, complete := s.EventsAfter(after, path)
		if !complete {
			missing++
			continue
		}
		if found++; after < s.events.forgotten {
			late++
		}
		want := all[path]
		want = want[slices.IndexFunc(append(want, Event{Revision: after + 1}), func(e Event) bool { return e.Revision > after }):]
		if !slices.Equal(events, want) {
			t.Fatalf("after command %d, of %s above %d (forgotten %d): %v, not %v", i, path, after, s.events.forgotten, events, want)
		}
	}
	if found < 1000 || late < 40 || missing < 100 {
		t.Fatalf("complete %d times, %d beyond what is remembered of all; incomplete %d times", found, late, missing)
	}
}

// States of earlier versions can be read.
func TestStatesOfEarlierVersions(t *testing.T) {
	for v := 1; v < stateVersion; v++ {
		b, err := os.ReadFile(fmt.Sprintf("testdata/encodings/state_v%d", v))
		if err != nil {
			t.Fatal(err)
		}
		s, err := Decode(b)
		if err != nil {
			t.Fatalf("version %d: %v", v, err)
		}
		audit(t, s)
		again := s.Encode()
		if int(b[0]) != v || again[0] != stateVersion || bytes.Equal(again, b) {
			t.Errorf("version %d: encoded again it is of version %d", b[0], again[0])
		}
		restored(t, s)
		if len(s.nodes) < 4 || s.events.list.len() < 10 || s.SessionCount() < 2 {
			t.Errorf("version %d: %d nodes, %d events, %d sessions", v, len(s.nodes), s.events.list.len(), s.SessionCount())
		}
	}
	// As one of version 1 does not say what was forgotten of a node, it may be all that was.
	s := New(FirstCell)
	must(t, s, &Command{Kind: Open, Path: "/ls/local/x", Create: CreateIfAbsent, Dir: true}, second)
	s.events = eventLog{forgotten: s.Revision()}
	b := s.Encode()
	b[0] = 1
	binary.BigEndian.PutUint32(b[len(b)-4:], crc32.Checksum(b[:len(b)-4], castagnoli))
	old, err := Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	if _, complete := old.EventsAfter(s.Revision()-1, s.root); complete {
		t.Error("nothing is said to be forgotten")
	}
}
