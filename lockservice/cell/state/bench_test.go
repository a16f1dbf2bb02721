package state

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/spandb/spand/truetime"
)

// crowd is a cell with n sessions, and with a file for each in directories of 1,000.
func crowd(t testing.TB, n int, files bool) *State {
	s := New(FirstCell)
	must(t, s, &Command{Kind: SetQuota, Path: s.root, Quota: Quota{Nodes: 1 << 20}}, second)
	for i := range n {
		must(t, s, &Command{Kind: CreateSession, Session: crowdID(i), Client: fmt.Sprintf("worker@host-%05d:1234", i), Principal: "app"}, second)
		if !files {
			continue
		}
		if i%1000 == 0 {
			must(t, s, &Command{Kind: Open, Path: crowdDir(i), Create: CreateIfAbsent, Dir: true}, second)
		}
		must(t, s, &Command{Kind: Open, Path: crowdFile(i), Create: CreateIfAbsent}, second)
	}
	return s
}

func crowdID(i int) SessionID   { return SessionID(uint64(i+1) * 0x9e3779b97f4a7c15) } // as good as random
func crowdDir(i int) string     { return fmt.Sprintf("/ls/local/%03d", i/1000) }
func crowdFile(i int) string    { return fmt.Sprintf("%s/%03d", crowdDir(i), i%1000) }
func crowdGrant(i int) *Command { return grantOf(crowdID(i), crowdFile(i)) }
func grantOf(id SessionID, path string) *Command {
	return &Command{Kind: Grant, Grants: []GrantTo{{Session: id, Handle: 1, Path: path, Mode: Exclusive, Delay: 15e9}}}
}

// An uncontended acquire and release, with the decoding that every replica does, in cells small and large.
func BenchmarkAcquireRelease(b *testing.B) {
	for _, n := range []int{10, 100_000} {
		b.Run(fmt.Sprintf("sessions=%d", n), func(b *testing.B) {
			s := crowd(b, n, true)
			commands := make([][2][]byte, 1000)
			for i := range commands {
				k := i * 7919 % n
				release := &Command{Kind: Release, Session: crowdID(k), Handle: 1, Path: crowdFile(k), Principal: "app", Attempt: 1}
				commands[i] = [2][]byte{EncodeCommand(crowdGrant(k)), EncodeCommand(release)}
			}
			b.ReportAllocs()
			ts := second
			for i := 0; b.Loop(); i++ {
				for _, encoded := range commands[i%len(commands)] {
					c, err := DecodeCommand(encoded)
					if err != nil {
						b.Fatal(err)
					}
					ts++
					res, _ := s.Apply(c, uint64(i), ts, anyContents{})
					if res.Err != nil {
						b.Fatal(res.Err)
					}
				}
			}
		})
	}
}

// A contended lock: each release hands it to the next waiter in the same command.
func BenchmarkHandOver(b *testing.B) {
	s := crowd(b, 100_000, true)
	path := crowdFile(0)
	must(b, s, grantOf(crowdID(0), path), second)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		c := &Command{Kind: Release, Session: crowdID(i % 1000), Handle: 1, Path: path, Grants: grantOf(crowdID((i+1)%1000), path).Grants}
		res, _ := s.Apply(c, uint64(i), second, anyContents{})
		if res.Err != nil || res.Grants[0].Err != nil {
			b.Fatal(res.Err, res.Grants)
		}
	}
}

func BenchmarkSetContents(b *testing.B) {
	s := crowd(b, 100_000, true)
	contents := make([]byte, 256)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		c := &Command{Kind: SetContents, Session: crowdID(i % 1000), Path: crowdFile(i % 1000), Contents: contents, Request: uint64(i + 1), Answered: uint64(i + 1)}
		if res, _ := s.Apply(c, uint64(i), truetime.Timestamp(i), anyContents{}); res.Err != nil {
			b.Fatal(res.Err)
		}
	}
}

// A session that comes and goes beside 100,000 others.
func BenchmarkCreateEndSession(b *testing.B) {
	s := crowd(b, 100_000, false)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		id := crowdID(200_000 + i)
		must(b, s, &Command{Kind: CreateSession, Session: id, Client: "worker", Principal: "app"}, second)
		must(b, s, &Command{Kind: EndSession, Session: id, Cause: Closed}, second)
	}
}

// What a checkpoint costs: a cell with 100,000 sessions, files and locks.
func BenchmarkEncode(b *testing.B) {
	s := crowd(b, 100_000, true)
	for i := range 100_000 {
		must(b, s, crowdGrant(i), second)
	}
	for b.Loop() {
		b.SetBytes(int64(len(s.Encode())))
	}
}

// liveHeap is what the collector leaves.
func liveHeap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// 100,000 sessions must cost well under 300 bytes each, their clients' names included.
func TestMemoryOfSessions(t *testing.T) {
	const n = 20_000
	before := liveHeap()
	s := crowd(t, n, false)
	idle := (liveHeap() - before) / n
	must(t, s, &Command{Kind: Open, Path: "/ls/local/x", Create: CreateIfAbsent}, second)
	for i := range n {
		must(t, s, &Command{Kind: Grant, Grants: []GrantTo{{Session: crowdID(i), Path: "/ls/local/x", Mode: Shared}}}, second)
	}
	holding := (liveHeap() - before) / n
	runtime.KeepAlive(s)
	t.Logf("%d bytes for an idle session, %d for one with a lock", idle, holding)
	if idle > 200 {
		t.Errorf("an idle session costs %d bytes", idle)
	}
	if holding > 500 {
		t.Errorf("a session with a lock costs %d bytes", holding)
	}
}
