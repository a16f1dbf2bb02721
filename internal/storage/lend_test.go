package storage

import (
	"errors"
	"strings"
	"sync"
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

// lendStore is a store on a disk whose log syncs take a millisecond, with segments that have
// room for lent turns.
func lendStore(t *testing.T, segmentBytes int64) (*Store, *MemFS, Options) {
	disk := NewMemFS(t.TempDir())
	o := options(t, disk.Boot(), "/n")
	o.SegmentBytes = segmentBytes
	s, _ := mustOpen(t, o)
	disk.Inject(func(op Op, name string) error {
		if op == OpSync && strings.Contains(name, "log-") {
			time.Sleep(time.Millisecond)
		}
		return nil
	})
	return s, disk, o
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

// Whoever is slowed down in Apply may have queued something that it meant to write afterwards.
func TestQueuedDoesNotWaitForASleeper(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, _ := lendStore(t, 1<<20)
		start := time.Now()
		var took time.Duration
		s.Queue(entryOf(1, 1, 10), func(err error) {
			if took = time.Since(start); err != nil {
				t.Error(err)
			}
		})
		s.checkpointing.Store(true)
		s.opts.CheckpointKeys = 1
		b := Batch{Group: 2}
		for i := range uint64(10) {
			b.Put(dataKey(2, i), nil)
		}
		if err := s.Apply(&b); err != nil || s.Stats().ApplyDelay < 10*time.Millisecond {
			t.Error("the scene does not work:", err, s.Stats().ApplyDelay)
		}
		s.WriteQueued(func() {})
		time.Sleep(time.Second)
		synctest.Wait()
		if took != time.Millisecond {
			t.Error("the record was written after", took)
		}
		s.Close()
	})
}

// R1: whoever writes, a record is durable when its callback runs, and callbacks run in the order
// of the appends. The disk fails inside of a callback, at several of them.
func TestR1_LentTurnsAreDurableAndInOrder(t *testing.T) {
	for _, crashAt := range []uint64{1, 41, 240} {
		synctest.Test(t, func(t *testing.T) {
			s, disk, o := lendStore(t, 1<<20)
			s.log.fatal = func(error) {} // the disk's end
			const groups = 3
			var mu sync.Mutex // serializes appends, to know their order
			var next, acked uint64
			var entries [groups + 1]uint64
			dead := false
			lent := 0
			var wg sync.WaitGroup
			for g := uint64(1); g <= groups; g++ {
				wg.Go(func() {
					for i := uint64(1); i <= 100; i++ {
						result := make(chan error, 2)
						mu.Lock()
						seq := next + 1
						next += 2
						done := func(seq uint64) func(error) {
							return func(err error) {
								result <- err
								if err != nil || dead {
									return
								}
								if acked++; acked != seq {
									t.Errorf("append %d is acknowledged as number %d", seq, acked)
								}
								if acked%2 == 0 {
									entries[g] = i
								}
								if dead = acked == 2*crashAt; dead {
									if err := disk.Crash(nil); err != nil {
										t.Error(err)
									}
								}
							}
						}
						s.Queue(lazyOf(keys.GroupID(g), i-1), done(seq))
						if i%4 == 0 {
							s.Append(entryOf(keys.GroupID(g), i, 10), done(seq+1))
						} else {
							s.Queue(entryOf(keys.GroupID(g), i, 10), done(seq+1))
						}
						mu.Unlock()
						s.WriteQueued(func() { lent++ })
						for range 2 {
							if <-result != nil {
								return
							}
						}
						time.Sleep(time.Duration(g*g) * time.Millisecond) // alone, and with others
					}
				})
			}
			wg.Wait()
			s.Close()
			if n := int(s.Stats().LogBatches); crashAt > 100 && (lent < 20 || n-lent < 20) {
				t.Errorf("the scene does not work: %d of %d batches were lent", lent, n)
			}
			disk.Inject(nil)
			o.FS = disk.Boot()
			s, rec := mustOpen(t, o)
			defer s.Close()
			for g := uint64(1); g <= groups; g++ {
				if n := uint64(len(rec[keys.GroupID(g)].Entries)); n < entries[g] {
					t.Errorf("crash in callback %d: group %d has %d entries, of %d acknowledged", crashAt, g, n, entries[g])
				}
			}
		})
	}
}

// R1: a failed sync on a borrowed goroutine ends the log like any other: nothing that was being
// written or queued is acknowledged, nothing is tried again, and Close returns, whether it came
// meanwhile or afterwards.
func TestR1_FailedLentTurnEndsTheLog(t *testing.T) {
	for _, early := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s, disk, _ := lendStore(t, 1<<20)
			fatal, tries, lent := 0, 0, 0
			s.log.fatal = func(error) { fatal++ }
			disk.Inject(func(op Op, name string) error {
				if op == OpSync && strings.HasSuffix(name, segmentName(1)) {
					tries++
					time.Sleep(time.Millisecond)
					return unix.EIO
				}
				return nil
			})
			var answers []error
			note := func(err error) { answers = append(answers, err) }
			s.Queue(lazyOf(1, 0), note)
			s.Queue(entryOf(1, 1, 10), note)
			go s.WriteQueued(func() { lent++ })
			synctest.Wait() // it waits for the disk
			s.Append(lazyOf(1, 0), note)
			s.Append(entryOf(1, 2, 10), note)
			s.WriteQueued(func() { t.Error("two turns at once") })
			closed := make(chan struct{})
			end := func() {
				s.Close()
				close(closed)
			}
			if early {
				go end()
			}
			time.Sleep(time.Second)
			synctest.Wait()
			if len(answers) != 4 {
				t.Errorf("%d of 4 appends were answered", len(answers))
			}
			s.Queue(entryOf(1, 3, 10), note)
			s.WriteQueued(func() { t.Error("a turn after the failed one") })
			if !early {
				go end()
			}
			select {
			case <-closed:
			case <-time.After(time.Minute):
				t.Fatal("Close does not return")
			}
			synctest.Wait()
			for i, err := range answers {
				if !errors.Is(err, unix.EIO) {
					t.Errorf("append %d: %v", i, err)
				}
			}
			if len(answers) != 5 || fatal != 1 || tries != 1 || lent != 1 {
				t.Errorf("%d answers, fatal %d times, %d tries, %d lent turns", len(answers), fatal, tries, lent)
			}
		})
	}
}

// A lent turn costs one sync. When a new segment may be needed, which may have to wait for
// space, the log's writer is the one who waits.
func TestLentTurnNeverWaitsForASegment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, disk, _ := lendStore(t, 128<<10)
		synctest.Wait() // the second segment is ready
		disk.SetFree(0)
		lent, queued, acked := 0, 0, 0
		write := func() {
			queued++
			s.Queue(entryOf(1, uint64(queued), 3000), func(err error) {
				if err != nil {
					t.Error(err)
				}
				acked++
			})
			start, before, mine := time.Now(), s.Stats().Segments, false
			back := make(chan struct{})
			go func() {
				s.WriteQueued(func() { mine = true })
				close(back)
			}()
			select {
			case <-back:
			case <-time.After(time.Second):
				disk.SetFree(1 << 30)
				<-back
			}
			took, want := time.Since(start), time.Duration(0)
			if mine {
				lent++
				want = time.Millisecond
				if n := s.Stats().Segments; n != before {
					t.Errorf("a lent turn began segment %d", n)
				}
			}
			if took != want {
				t.Errorf("record %d took %v of the caller's time, want %v", queued, took, want)
			}
			time.Sleep(5 * time.Millisecond)
			synctest.Wait()
		}
		for acked == queued && queued < 100 {
			write()
		}
		if lent == 0 || s.Stats().Segments != 2 || acked == queued {
			t.Fatalf("the scene does not work: %d lent turns, %d of %d acknowledged", lent, acked, queued)
		}
		write() // the writer waits for space
		write()
		disk.SetFree(1 << 30)
		time.Sleep(time.Second)
		synctest.Wait()
		if acked != queued {
			t.Errorf("%d of %d are acknowledged when there is space again", acked, queued)
		}
		s.Close()
	})
}

// Close during a lent turn waits for it, and writes what was queued meanwhile.
func TestCloseDuringALentTurnLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, disk, o := lendStore(t, 1<<20)
		answers := make(map[string]error)
		note := func(what string) func(error) { return func(err error) { answers[what] = err } }
		s.Queue(entryOf(1, 1, 10), note("lent"))
		turns := 0
		go s.WriteQueued(func() { turns++ })
		synctest.Wait()
		s.Append(entryOf(1, 2, 10), note("appended"))
		s.Queue(entryOf(1, 3, 10), note("queued"))
		s.Append(lazyOf(2, 7), note("without a sync"))
		closed := make(chan error, 1)
		go func() { closed <- s.Close() }()
		synctest.Wait()
		if len(closed) != 0 || turns != 1 {
			t.Fatalf("the scene does not work: closed %d, %d turns", len(closed), turns)
		}
		s.WriteQueued(func() { t.Error("a second turn") }) // the third one's caller
		select {
		case err := <-closed:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(time.Minute):
			t.Fatal("Close does not return")
		}
		for _, what := range []string{"lent", "appended", "queued", "without a sync"} {
			if err, ok := answers[what]; err != nil || !ok {
				t.Errorf("%s: %v, answered: %v", what, err, ok)
			}
		}
		s.Queue(entryOf(1, 4, 10), nil)
		s.WriteQueued(func() { t.Error("a turn after the end") })
		disk.Inject(nil)
		o.FS = disk.Boot()
		s, rec := mustOpen(t, o)
		defer s.Close()
		if len(rec[1].Entries) != 3 || rec[2].State.HardState.Term != 1 {
			t.Errorf("%d entries, %+v", len(rec[1].Entries), rec[2].State.HardState)
		}
	})
}
