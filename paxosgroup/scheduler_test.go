package paxosgroup

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/internal/keys"
)

// A worker that writes the log wakes nobody for the acknowledgements of its own records, and
// leaves to others what it cannot take at once.
func TestLendingWorkerSharesWhatItFinds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s scheduler
		s.init(2, new(sync.WaitGroup))
		defer s.close()
		var lender, idle outbox
		var woken atomic.Int32
		go func() {
			for {
				gs, ok := s.pop(&idle, nil)
				if !ok {
					return
				}
				woken.Add(int32(len(gs)))
			}
		}()
		synctest.Wait()
		s.lend(&lender)
		var a, b Group
		s.enqueueFor(&a, &lender)
		s.enqueueFor(&b, &lender)
		synctest.Wait()
		if n := woken.Load(); n != 0 {
			t.Fatal("another worker was woken for the lender's groups, and took", n)
		}
		if gs, _ := s.pop(&lender, nil); len(gs) != 1 || gs[0] != &a {
			t.Fatal("the lender found", len(gs))
		}
		synctest.Wait()
		if n := woken.Load(); n != 1 {
			t.Error("of what the lender left another worker took", n)
		}
		var c Group
		s.enqueueFor(&c, &lender) // it does not lend any more
		synctest.Wait()
		if n := woken.Load(); n != 2 {
			t.Error("after the lender's turn another worker took", n)
		}
	})
}

// No input stays with a group that nobody comes for, whoever brings it: feeders that wake workers,
// or that help; and whoever acknowledges: workers and helpers that write for themselves, or the
// writer for those that found it at work.
func TestW1_SchedulerLosesNoWakeup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const workers, feeders, groups, bursts, inputs = 4, 3, 8, 300, 4
		var s scheduler
		s.init(workers, new(sync.WaitGroup))
		gs := make([]*Group, groups)
		for i := range gs {
			gs[i] = &Group{id: keys.GroupID(i)}
		}
		type box struct{ inputs, acks atomic.Int32 }
		var boxes [groups]box
		var open atomic.Int32 // inputs and acknowledgements that no worker has seen
		type round struct {
			o    *outbox
			acks []*Group
		}
		var turn sync.Mutex // at writing the log
		write := func(r round) {
			for _, g := range r.acks {
				boxes[g.id].acks.Add(1)
				s.enqueueFor(g, r.o)
			}
		}
		writer := make(chan round, workers)
		go func() {
			for r := range writer {
				turn.Lock()
				write(r)
				turn.Unlock()
			}
		}()
		var lent, left, helped atomic.Int32
		run := func(o *outbox, got []*Group) {
			var acks []*Group
			for _, g := range got {
				g.sched.Store(schedRunning)
				in, ack := boxes[g.id].inputs.Swap(0), boxes[g.id].acks.Swap(0)
				if in > 0 {
					open.Add(1)
					acks = append(acks, g)
				}
				open.Add(-in - ack)
				runtime.Gosched() // what comes now finds the group running
			}
			for _, g := range got {
				s.done(g)
			}
			switch {
			case len(acks) == 0:
			case turn.TryLock():
				lent.Add(1)
				s.lend(o)
				runtime.Gosched() // the disk
				write(round{o, acks})
				turn.Unlock()
			default:
				left.Add(1)
				writer <- round{o, acks}
			}
		}
		var working sync.WaitGroup
		for range workers {
			working.Go(func() {
				var o outbox
				for {
					got, ok := s.pop(&o, nil)
					if !ok {
						return
					}
					run(&o, got)
				}
			})
		}
		w := helper{out: new(outbox)}
		help := func() {
			got := s.offer(&w)
			for round := 1; got != nil; round++ {
				helped.Add(1)
				run(w.out, got)
				got = s.helpOn(&w, round < helpRounds)
			}
		}
		for burst := range bursts {
			open.Add(feeders * inputs)
			for f := range feeders {
				go func() {
					for i := range inputs {
						g := gs[(burst+i*7+f*3)%groups]
						boxes[g.id].inputs.Add(1)
						if f == 0 {
							s.enqueue(g)
						} else {
							s.collect(g)
						}
					}
					if f > 0 {
						help()
					}
				}()
			}
			time.Sleep(time.Microsecond) // virtual time: until everybody waits
			if n := open.Load(); n != 0 {
				t.Errorf("%d inputs and acknowledgements are left", n)
				for i := range boxes {
					t.Logf("group %d: %d inputs, %d acknowledgements, scheduling state %d", i,
						boxes[i].inputs.Load(), boxes[i].acks.Load(), gs[i].sched.Load())
				}
				break
			}
		}
		s.close()
		working.Wait()
		close(writer)
		if lent.Load() == 0 || left.Load() == 0 || helped.Load() == 0 {
			t.Errorf("the scene does not work: %d rounds lent, %d left to the writer, %d by helpers", lent.Load(), left.Load(), helped.Load())
		}
	})
}
