package cell

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/internal/storage"
	"github.com/spandb/spand/lockservice/lockpb"
)

// On a full disk what takes something is refused, and what lets go is carried, with the hand-over
// that it makes possible: a lock whose holder has died is somebody else's.
func Test2_4_LocksAreFreedOnAFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := lockWorld(t, 2, 4)
		defer w.close()
		const y = "/ls/local/y"
		w.file(y, "")
		w.session(9, time.Second)
		s.start("9", acquire(9, x))
		s.start("1", acquire(1, x))
		s.start("2", acquire(2, x))
		s.start("3", acquire(3, y))
		s.expect("9 ok", "1 waits", "2 waits", "3 ok")

		w.g.setSpace(storage.SpaceLetGo)
		s.start("file", &lockpb.SetContentsRequest{Handle: h(1, y), Contents: []byte("a")})
		s.start("session", &lockpb.CreateSessionRequest{Session: 10, TtlNs: int64(time.Second)})
		s.start("release 3", release(3, y))
		s.start("3 again", acquire(3, y))
		s.expect("file DISK_FULL", "session DISK_FULL", "release 3 ok", "3 again DISK_FULL")
		time.Sleep(2 * time.Second) // 9's lease ends
		s.expect("1 ok")
		s.start("delete", &lockpb.DeleteRequest{Handle: h(0, y)})
		s.start("delete again", &lockpb.DeleteRequest{Handle: h(0, y)})
		s.expect("delete ok", "delete again DISK_FULL") // what lets go of nothing uses nothing up

		// The last room is for letting go alone: who waits is served when there is space again.
		w.g.setSpace(storage.SpaceTight)
		s.start("release 1", release(1, x))
		s.expect("release 1 ok")
		if ids := w.holders(x); len(ids) != 0 {
			t.Errorf("%v hold the lock", ids)
		}
		w.g.setSpace(storage.SpaceAmple)
		time.Sleep(2 * clockPause)
		s.expect("2 ok")

		// With no room at all the lock stays held until there is.
		w.g.setSpace(storage.SpaceNone)
		s.start("close 2", &lockpb.CloseSessionRequest{Session: 2})
		time.Sleep(10 * time.Second)
		s.expect()
		if ids := w.holders(x); !slices.Equal(ids, []uint64{2}) {
			t.Errorf("%v hold the lock", ids)
		}
		w.g.setSpace(storage.SpaceLetGo)
		time.Sleep(2 * clockPause)
		s.expect("close 2 ok")
	})
}
