package lane

import (
	"bytes"
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
)

// What Run is writing counts: a peer that does not read costs the budget, not
// twice that. A ping is let through.
func TestBudgetCountsWhatIsBeingWritten(t *testing.T) {
	l := NewSender(1000)
	here, there := net.Pipe()
	defer here.Close()
	defer there.Close()
	l.Open(here) // which takes nothing without waiting
	frame := make([]byte, 100)
	accepted := 0
	for l.Put(frame) {
		accepted++
	}
	if want := 1000 / (lengthBytes + len(frame)); accepted != want {
		t.Errorf("%d frames were accepted, not %d", accepted, want)
	}
	<-l.wake
	buf := l.take(nil)
	if l.Put(frame) {
		t.Error("a frame was accepted beyond the budget")
	}
	l.Ping()
	if buf = l.take(buf); len(buf) != (accepted-1)*(lengthBytes+len(frame))+lengthBytes {
		t.Errorf("%d bytes are next", len(buf))
	}
	for ; buf != nil; buf = l.take(buf) {
	}
	if !l.Put(frame) {
		t.Error("a frame was refused when all was written")
	}
}

// A sender that was writing when the lane broke leaves the next connection alone: nothing of what
// he wrote goes there.
func TestSenderOutlivesHisConnection(t *testing.T) {
	l := NewSender(1000)
	raw := stuckConn{entered: make(chan struct{}), release: make(chan struct{})}
	w := &way{raw: raw}
	w.try = w.write
	l.open(w)
	done := make(chan struct{})
	go func() { l.Put([]byte("of the first")); close(done) }()
	<-raw.entered
	l.Put([]byte("queued for the first"))
	l.Broken()
	l.open(new(way))
	l.Put([]byte("of the second"))
	close(raw.release)
	<-done
	<-l.wake
	var written []byte
	for buf := l.take(nil); buf != nil; buf = l.take(buf) {
		written = append(written, buf...)
	}
	if want := Append(nil, []byte("of the second")); !bytes.Equal(written, want) {
		t.Errorf("the second connection gets %q, not %q", written, want)
	}
}

// stuckConn takes its time over a write, which then fails.
type stuckConn struct {
	syscall.RawConn
	entered, release chan struct{}
}

func (c stuckConn) Write(func(uintptr) bool) error {
	close(c.entered)
	<-c.release
	return net.ErrClosed
}

// What waits for a peer that is down is little, and the latest.
func TestLittleWaitsForALaneToOpen(t *testing.T) {
	l := NewSender(64 << 20)
	frame := make([]byte, 100<<10)
	for i := range 30 {
		frame[0] = byte(i)
		if !l.Put(frame) {
			t.Fatal("a frame was refused")
		}
		if len(l.queue) > maxUnopened {
			t.Fatalf("%d bytes wait", len(l.queue))
		}
	}
	if last := l.queue[len(l.queue)-len(frame)]; last != 29 {
		t.Errorf("frame %d waits as the last", last)
	}
	if !l.Put(make([]byte, 8<<20)) || len(l.queue) != lengthBytes+(8<<20) {
		t.Error("the largest frame does not wait")
	}
}

// Who waits for room gets it as soon as what is queued has been written, or when the connection is
// gone, or his context; all who wait do.
func TestRoom(t *testing.T) {
	for name, end := range map[string]func(l *Sender, there net.Conn, cancel func()){
		"written":  func(_ *Sender, there net.Conn, _ func()) { go io.Copy(io.Discard, there) },
		"broken":   func(l *Sender, _ net.Conn, _ func()) { l.Broken() },
		"given up": func(_ *Sender, _ net.Conn, cancel func()) { cancel() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := NewSender(1 << 20)
				here, there := net.Pipe()
				l.Open(here)
				run, stop := context.WithCancel(context.Background())
				waits, cancel := context.WithCancel(context.Background())
				var wg sync.WaitGroup
				wg.Go(func() { l.Run(run, here, 0) })
				for range 10 {
					l.Put(make([]byte, 1000))
				}
				var got atomic.Int32
				for range 3 {
					wg.Go(func() {
						if err := l.Room(waits, 100); (err != nil) != (name == "given up") {
							t.Errorf("%v", err)
						}
						got.Add(1)
					})
				}
				synctest.Wait()
				if n := got.Load(); n != 0 {
					t.Errorf("%d have room while all is queued", n)
				}
				end(l, there, cancel)
				synctest.Wait()
				if n := got.Load(); n != 3 {
					t.Errorf("%d of 3 go on", n)
				}
				stop()
				cancel()
				here.Close()
				there.Close()
				wg.Wait()
			})
		})
	}
}
