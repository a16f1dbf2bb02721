package rpc

import (
	"context"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/lane"
	"github.com/spandb/spand/paxosgroup"
)

// workshop is a receiver that notes what it is asked for.
type workshop struct {
	during func(frame string) // in Collect
	disk   func(which int)    // in Work, whose calls are counted from 1

	mu           sync.Mutex
	trace        []string
	works        int
	inside, most int
}

func (w *workshop) Receive(keys.NodeID, paxosgroup.Class, []byte) { w.note("receive") }

func (w *workshop) Collect(_ keys.NodeID, _ paxosgroup.Class, frame []byte) {
	w.note(string(frame[:1]))
	if w.during != nil {
		w.during(string(frame[:1]))
	}
}

func (w *workshop) Work() {
	w.mu.Lock()
	w.trace = append(w.trace, "work")
	w.works++
	which := w.works
	w.inside++
	w.most = max(w.most, w.inside)
	w.mu.Unlock()
	if w.disk != nil {
		w.disk(which)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.inside--
}

func (w *workshop) note(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.trace = append(w.trace, what)
}

// so tells what it has noted, once everybody waits.
func (w *workshop) so() string {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.trace, " ")
}

// nearby is a connection from loopback.
type nearby struct{ net.Conn }

func (nearby) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

// openLane opens a lane of node 1's to n, which writes nothing that the other end does not read.
func openLane(t *testing.T, n *Network) net.Conn {
	t.Helper()
	here, there := net.Pipe()
	n.wg.Go(func() {
		defer context.AfterFunc(n.ctx, func() { there.Close() })()
		if _, err := io.ReadFull(there, make([]byte, lane.HelloBytes)); err != nil {
			t.Error(err)
		}
		n.serveLane(nearby{there}, false)
	})
	if _, err := New(Config{Self: 1, Addrs: n.cfg.Addrs}).sayHello(here, n.cfg.Self, paxosgroup.ClassRaft); err != nil {
		t.Fatal(err)
	}
	return here
}

func hearer(w *workshop) *Network {
	n := New(Config{Self: 2, Addrs: map[keys.NodeID]string{1: "", 2: ""}})
	n.Handle(w)
	return n
}

func write(t *testing.T, conn net.Conn, parts ...[]byte) {
	t.Helper()
	if _, err := conn.Write(slices.Concat(parts...)); err != nil {
		t.Error(err)
	}
}

func pongs(t *testing.T, conn net.Conn, n int) {
	t.Helper()
	if _, err := io.ReadFull(conn, make([]byte, n)); err != nil {
		t.Error(err)
	}
}

// Frames that come together are collected together, and then there is work; and whatever keeps the
// reader from going on, or ends the lane, nothing that was collected waits for it (W1).
func TestW1_WhatIsCollectedIsWorkedOn(t *testing.T) {
	a, b, ping := lane.Append(nil, []byte("a")), lane.Append(nil, []byte("b")), lane.Append(nil, nil)
	large := lane.Append(nil, []byte(strings.Repeat("c", 100<<10))) // beyond the reader's buffer
	type lane struct {
		n    *Network
		conn net.Conn
	}
	for _, c := range []struct {
		name   string
		during func(n *Network) // when a is collected
		say    func(t *testing.T, l lane)
		want   string
	}{
		{"one frame", nil, func(t *testing.T, l lane) { write(t, l.conn, a) }, "a work"},
		{"two at once", nil, func(t *testing.T, l lane) { write(t, l.conn, a, b) }, "a b work"},
		{"one after the other", nil, func(t *testing.T, l lane) {
			write(t, l.conn, a)
			write(t, l.conn, b)
		}, "a work b work"},
		{"half a length", nil, func(t *testing.T, l lane) { write(t, l.conn, a, b[:2]) }, "a work"},
		{"half a frame", nil, func(t *testing.T, l lane) { write(t, l.conn, a, b, large[:2000]) }, "a b work"},
		{"and the rest", nil, func(t *testing.T, l lane) {
			write(t, l.conn, a, b, large[:2000])
			write(t, l.conn, large[2000:], a)
		}, "a b work c work a work|a b work c a work"},
		{"a ping between", nil, func(t *testing.T, l lane) {
			go pongs(t, l.conn, 1)
			write(t, l.conn, a, ping, b)
		}, "a work b work|a b work work"},
		{"a ping, and the opener takes no pong", nil, func(t *testing.T, l lane) { write(t, l.conn, a, ping, b) }, "a work"},
		{"the opener goes", nil, func(t *testing.T, l lane) {
			write(t, l.conn, a, b, large[:2000])
			synctest.Wait()
			l.conn.Close()
		}, "a b work"},
		{"a frame that is too large", nil, func(t *testing.T, l lane) {
			write(t, l.conn, a, []byte{0xff, 0xff, 0xff, 0xff})
			synctest.Wait()
			if _, err := l.conn.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("the lane stays open: %v", err)
			}
		}, "a work"},
		{"a later lane", func(n *Network) {
			p := n.peers[1]
			there, _ := net.Pipe()
			p.replace(&hearing{conn: there, life: p.heard.Load().life, over: make(chan struct{})})
		}, func(t *testing.T, l lane) { write(t, l.conn, a, b) }, "a work"},
		{"another has the turn", func(n *Network) {
			go func() { n.peers[1].turns[paxosgroup.ClassRaft] <- struct{}{} }()
			time.Sleep(time.Nanosecond) // until it waits for that
		}, func(t *testing.T, l lane) {
			write(t, l.conn, a, b)
			time.Sleep(2 * time.Nanosecond)
		}, "a work"},
		{"the end", func(n *Network) { n.cancel() }, func(t *testing.T, l lane) { write(t, l.conn, a, b) }, "a b work"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var w workshop
				n := hearer(&w)
				if c.during != nil {
					w.during = func(frame string) {
						if frame == "a" {
							c.during(n)
						}
					}
				}
				conn := openLane(t, n)
				go pongs(t, conn, 1) // the first frame is answered
				c.say(t, lane{n, conn})
				if got := w.so(); !slices.Contains(strings.Split(c.want, "|"), got) {
					t.Errorf("the receiver saw %q, not %q", got, c.want)
				}
				conn.Close()
				n.Close()
			})
		})
	}
}

// A disk that hangs holds one goroutine of a lane, not the lane: others read on, answer pings and
// bring frames, and Close waits for the one.
func TestReaderThatIsHeldUpIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		free := make(chan struct{})
		w := workshop{disk: func(which int) {
			if which == 1 {
				<-free
			}
		}}
		n := hearer(&w)
		conn := openLane(t, n)
		go pongs(t, conn, 1)
		write(t, conn, lane.Append(nil, []byte("a")))
		synctest.Wait()
		began := time.Now()
		write(t, conn, lane.Append(nil, nil))
		pongs(t, conn, 1)
		if took := time.Since(began); took > readerPatience {
			t.Errorf("the ping is answered after %v", took)
		}
		want := "a work"
		for i := range 10 {
			if i%3 == 2 { // by then another byte is due
				go pongs(t, conn, 1)
			}
			write(t, conn, lane.Append(nil, []byte("b")))
			want += " b work"
			synctest.Wait()
			time.Sleep(readerPatience * 20)
		}
		if got := w.so(); got != want {
			t.Errorf("the receiver saw %q, not %q", got, want)
		}
		if w.most != 2 {
			t.Errorf("%d goroutines were at work at once", w.most)
		}
		if over := closing(n); over() {
			t.Error("Close does not wait for who is at work")
		}
		if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the lane stays open: %v", err)
		}
		close(free)
		n.Close()
	})
}

// closing begins to close n, and tells whether that is over once everybody waits.
func closing(n *Network) (over func() bool) {
	closed := make(chan struct{})
	go func() { n.Close(); close(closed) }()
	return func() bool {
		synctest.Wait()
		select {
		case <-closed:
			return true
		default:
			return false
		}
	}
}

// Close waits for whoever reads, the first of a lane or not.
func TestCloseWaitsForReplacements(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		free := []chan struct{}{nil, make(chan struct{}), make(chan struct{}), make(chan struct{})}
		w := workshop{disk: func(which int) { <-free[which] }}
		n := hearer(&w)
		conn := openLane(t, n)
		go pongs(t, conn, 1)
		for range 3 {
			write(t, conn, lane.Append(nil, []byte("a")))
			time.Sleep(2 * readerPatience)
		}
		over := closing(n)
		for which := 1; which <= 3; which++ {
			if over() {
				t.Errorf("Close has not waited for reader %d", which)
			}
			close(free[which])
		}
		if !over() {
			t.Error("Close waits for nobody")
		}
		conn.Close()
	})
}

// A replacement is cut off by Close, also when whoever it has replaced is gone.
func TestCloseEndsReplacements(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := workshop{disk: func(which int) {
			if which == 1 {
				time.Sleep(2 * readerPatience)
			}
		}}
		n := hearer(&w)
		conn := openLane(t, n)
		go pongs(t, conn, 1)
		write(t, conn, lane.Append(nil, []byte("a")))
		time.Sleep(3 * readerPatience)
		write(t, conn, lane.Append(nil, []byte("b")))
		if got := w.so(); got != "a work b work" {
			t.Errorf("the receiver saw %q", got)
		}
		if !closing(n)() {
			t.Error("Close does not end")
		}
		conn.Close()
	})
}

// Who was held up for a moment goes on with his lane, each time anew.
func TestReaderIsHeldUpForAMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := workshop{disk: func(int) { time.Sleep(readerPatience - 1) }}
		n := hearer(&w)
		conn := openLane(t, n)
		go io.Copy(io.Discard, conn)
		want := ""
		for range 5 {
			write(t, conn, lane.Append(nil, []byte("a")))
			want += "a work "
		}
		time.Sleep(time.Second)
		if got := w.so(); got+" " != want || w.most != 1 {
			t.Errorf("the receiver saw %q, up to %d at once", got, w.most)
		}
		conn.Close()
		n.Close()
	})
}

// A lane that breaks while its reader is at work makes room for the next at once: it is not in the
// peer's turn meanwhile. And that its connection is gone, whoever takes its place finds out.
func TestWorkDoesNotHoldUpTheNextLane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		free := make(chan struct{})
		w := workshop{disk: func(which int) {
			if which == 1 {
				<-free
			}
		}}
		n := hearer(&w)
		first := openLane(t, n)
		go pongs(t, first, 1)
		write(t, first, lane.Append(nil, []byte("a")))
		synctest.Wait()
		began := time.Now()
		second := openLane(t, n)
		go pongs(t, second, 1)
		write(t, second, lane.Append(nil, []byte("b")))
		if got := w.so(); got != "a work b work" || time.Since(began) > 0 {
			t.Errorf("after %v the receiver saw %q", time.Since(began), got)
		}
		if _, err := first.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the first lane stays open: %v", err)
		}
		time.Sleep(time.Second)
		close(free)
		if got := w.so(); got != "a work b work" {
			t.Errorf("the receiver saw %q", got)
		}
		second.Close()
		n.Close()
	})
}
