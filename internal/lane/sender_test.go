package lane

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
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

// tcpPair returns both ends of a connection.
func tcpPair(t *testing.T) (here, there net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if here, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if there, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		here.Close()
		there.Close()
	})
	return here, there
}

// Who waits for room hears of it too when a sender, and not Run, has written what was queued.
func TestRoomAfterASendersWrite(t *testing.T) {
	here, there := tcpPair(t)
	go io.Copy(io.Discard, there)
	l := NewSender(1 << 20)
	w := newWay(here)
	room := make(chan error, 1)
	var once sync.Once
	w.raw = duringWrite{w.raw, func() {
		once.Do(func() {
			l.Put(make([]byte, 1000)) // queued behind what is being written
			go func() { room <- l.Room(t.Context(), 500) }()
			for waits := false; !waits; runtime.Gosched() {
				l.mu.Lock()
				waits = l.waiters > 0
				l.mu.Unlock()
			}
		})
	}}
	l.open(w)
	l.Put([]byte("first"))
	select {
	case err := <-room:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Error("there is room, and nobody says so")
	}
}

type duringWrite struct {
	syscall.RawConn
	do func()
}

func (c duringWrite) Write(f func(uintptr) bool) error {
	c.do()
	return c.RawConn.Write(f)
}

// A connection that does something with what is written, as a dialer's may, is not written past.
func TestWrappedConnectionsOwnWrite(t *testing.T) {
	here, there := tcpPair(t)
	l := NewSender(1 << 20)
	conn := &shouting{TCPConn: here.(*net.TCPConn)}
	l.Open(conn)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx, conn, 0) }()
	l.Put([]byte("hello"))
	if f, err := Read(bufio.NewReader(there), 100, nil); err != nil || string(f) != "HELLO" {
		t.Errorf("%q, %v arrives", f, err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

type shouting struct{ *net.TCPConn }

func (c *shouting) Write(b []byte) (int, error) { return c.TCPConn.Write(bytes.ToUpper(b)) }

// A frame costs memory for what has come of it, not for what it says it will have.
func TestAnnouncedLengthIsNotBelieved(t *testing.T) {
	const most = 16 << 20
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 16 {
		if _, err := Read(bufio.NewReader(strings.NewReader("\x00\xff\xff\xffshort")), most, nil); err != io.ErrUnexpectedEOF {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 16*(4*atOnce) { // the race detector takes its share
		t.Errorf("%d bytes were allocated for 16 frames of five bytes", got)
	}
	whole := bytes.Repeat([]byte("0123456789abcdef"), 50<<10)
	f, err := Read(bufio.NewReader(bytes.NewReader(Append(nil, whole))), most, nil)
	if err != nil || !bytes.Equal(f, whole) {
		t.Errorf("a large frame is read as %d bytes, %v", len(f), err)
	}
}
