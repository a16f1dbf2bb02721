package storage

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spandb/spand/internal/keys"
)

func entryOf(g keys.GroupID, index uint64, size int) []GroupRecord {
	return []GroupRecord{{Group: g, Replica: 1, Entries: []Entry{{Index: index, Term: 1, Data: make([]byte, size)}}}}
}

func lazyOf(g keys.GroupID, commit uint64) []GroupRecord {
	return []GroupRecord{{Group: g, Replica: 1, HardState: &HardState{Term: 1, Commit: commit}, NoSync: true}}
}

// A record that is queued and not written yet is answered when the log ends because the next
// segment cannot be made: both one that asked for a sync and one that did not.
func TestR1_QueuedIsAnsweredWhenNoSegmentCanBeMade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := NewMemFS(t.TempDir())
		o := options(t, disk.Boot(), "/n")
		o.Fatal = func(error) {}
		fail := make(chan struct{})
		disk.Inject(func(op Op, name string) error {
			if op != OpSync {
				return nil
			}
			if strings.Contains(name, segmentName(2)) {
				<-fail
				return unix.EIO
			}
			if strings.Contains(name, segmentName(1)) {
				time.Sleep(time.Millisecond)
			}
			return nil
		})
		s, _ := mustOpen(t, o)
		got := make(map[string]error)
		note := func(what string) func(error) { return func(err error) { got[what] = err } }
		s.Append(entryOf(1, 1, 10), note("being written"))
		synctest.Wait()
		s.Append(entryOf(1, 2, 10), note("queued"))
		s.Append(lazyOf(1, 1), note("queued without a sync"))
		close(fail)
		time.Sleep(time.Second)
		synctest.Wait()
		if err, ok := got["being written"]; !ok || err != nil {
			t.Error("being written:", err, ok)
		}
		for _, what := range []string{"queued", "queued without a sync"} {
			if err, ok := got[what]; !ok || !errors.Is(err, unix.EIO) {
				t.Errorf("%s: %v, answered: %v", what, err, ok)
			}
		}
		s.Close()
	})
}
