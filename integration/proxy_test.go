package integration

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"testing"
	"time"
)

// peer is a node for the Proxy: it accepts connections and hands them out.
func peer(t *testing.T) (addr string, accepted <-chan net.Conn) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conns := make(chan net.Conn, 16)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			conns <- c
		}
	}()
	t.Cleanup(func() { ln.Close() })
	return ln.Addr().String(), conns
}

type proxyTest struct {
	*testing.T
	p    *Proxy
	a, b net.Conn // the two ends of a connection that node 0 made to node 1
	at1  <-chan net.Conn
}

func openProxy(t *testing.T) *proxyTest {
	addr0, _ := peer(t)
	addr1, at1 := peer(t)
	p, err := NewProxy([]string{addr0, addr1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	x := &proxyTest{T: t, p: p, at1: at1}
	x.a = x.dial()
	x.b = <-at1
	return x
}

func (x *proxyTest) dial() net.Conn {
	c, err := net.Dial("tcp", x.p.Addr(0, 1))
	if err != nil {
		x.Fatal(err)
	}
	x.Cleanup(func() { c.Close() })
	return c
}

func (x *proxyTest) sends(from, to net.Conn, s string) {
	x.Helper()
	if _, err := from.Write([]byte(s)); err != nil {
		x.Fatal(err)
	}
	x.hears(to, s)
}

func (x *proxyTest) hears(to net.Conn, s string) {
	x.Helper()
	to.SetReadDeadline(time.Now().Add(10 * time.Second))
	got := make([]byte, len(s))
	if _, err := io.ReadFull(to, got); err != nil || string(got) != s {
		x.Fatalf("heard %q, %v; want %q", got, err, s)
	}
}

// silent demands that nothing comes, not even the end of the stream.
func (x *proxyTest) silent(c net.Conn, d time.Duration) {
	x.Helper()
	c.SetReadDeadline(time.Now().Add(d))
	if n, err := c.Read(make([]byte, 10)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		x.Fatalf("%d bytes came, %v; want silence", n, err)
	}
}

func (x *proxyTest) broken(c net.Conn) {
	x.Helper()
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Read(make([]byte, 10)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		x.Fatalf("the connection stands: %v", err)
	}
}

func TestProxyCutsOneWay(t *testing.T) {
	x := openProxy(t)
	x.sends(x.a, x.b, "hello")
	x.sends(x.b, x.a, "world")
	if err := x.p.Cut(0, 1); err != nil {
		t.Fatal(err)
	}
	x.a.Write([]byte("lost"))
	x.silent(x.b, 50*time.Millisecond)
	x.sends(x.b, x.a, "the other way goes on")
	// A stream with a hole must not go on.
	x.p.Heal(0, 1)
	x.broken(x.a)
	x.broken(x.b)
	again := x.dial()
	x.sends(again, <-x.at1, "hello")
}

func TestProxyCutHidesNewConnectionsAndEnds(t *testing.T) {
	x := openProxy(t)
	x.p.Cut(1, 0)
	fresh := x.dial()
	fresh.Write([]byte("syn"))
	x.b.Close() // the end travels the way that is cut
	x.silent(x.a, 50*time.Millisecond)
	x.silent(fresh, 50*time.Millisecond)
	select {
	case <-x.at1:
		t.Fatal("a handshake went through a partition")
	default:
	}
	x.p.Heal(1, 0)
	x.broken(x.a)
	x.broken(fresh)
}

func TestProxyConnectionsOutliveAnIdleCut(t *testing.T) {
	x := openProxy(t)
	x.p.Cut(0, 1)
	x.p.Cut(1, 0)
	x.p.Heal(0, 1)
	x.p.Heal(1, 0)
	x.sends(x.a, x.b, "nothing was lost")
}

func TestProxyHoldsAndDelays(t *testing.T) {
	x := openProxy(t)
	x.p.Hold(0, 1)
	x.a.Write([]byte("late"))
	x.silent(x.b, 50*time.Millisecond)
	x.p.Heal(0, 1)
	x.hears(x.b, "late")

	const delay = 60 * time.Millisecond
	x.p.Delay(0, 1, delay)
	began := time.Now()
	x.sends(x.a, x.b, "slow")
	if d := time.Since(began); d < delay {
		t.Errorf("arrived after %v", d)
	}
	x.p.Delay(0, 1, 0)
	x.a.Close()
	x.broken(x.b)
}

func TestProxyResetAndLargeStreams(t *testing.T) {
	x := openProxy(t)
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<18) // 4 MiB
	go x.a.Write(data)
	got := make([]byte, len(data))
	if _, err := io.ReadFull(x.b, got); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("a stream arrived otherwise than it was sent: %v", err)
	}
	x.p.Reset(0, 1)
	x.broken(x.a)
	x.broken(x.b)
}

func TestProxyLeavesNoGoroutine(t *testing.T) {
	before := runtime.NumGoroutine()
	addr, at := peer(t)
	p, err := NewProxy([]string{addr, addr, addr})
	if err != nil {
		t.Fatal(err)
	}
	p.Cut(0, 1)
	p.Hold(2, 1)
	for _, pair := range [][2]int{{0, 1}, {1, 2}, {2, 1}, {1, 0}, {0, 2}} {
		c, err := net.Dial("tcp", p.Addr(pair[0], pair[1]))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.Write([]byte("x"))
	}
	(<-at).Write([]byte("y"))
	p.Close()
	for _, d := range p.paths {
		if len(d.lossy) != 0 {
			t.Error("a closed proxy remembers connections")
		}
	}
	// What is left is the peer's.
	for deadline := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before+1; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}
}
