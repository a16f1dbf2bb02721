package integration

import (
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// inside calls f in a node's namespace, to which sockets belong that are made there.
func (ns *Namespaces) inside(t *testing.T, node int, f func()) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with this goroutine
		handle, err := os.Open("/run/netns/" + ns.name(node))
		if err == nil {
			defer handle.Close()
			err = unix.Setns(int(handle.Fd()), unix.CLONE_NEWNET)
		}
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// A cut drops what goes one way, also of connections that stand, and TCP brings
// it when the path is healed.
func TestNamespacesCutOneWay(t *testing.T) {
	if !InNamespace(t) {
		return
	}
	ns := NewNamespaces(t, 3)
	var ln net.Listener
	var err error
	ns.inside(t, 1, func() { ln, err = net.Listen("tcp", ns.Host(1)+":7000") })
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan net.Conn, 4)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	dial := func(node int) (c net.Conn, err error) {
		ns.inside(t, node, func() { c, err = net.DialTimeout("tcp", ns.Host(1)+":7000", 500*time.Millisecond) })
		return c, err
	}
	x := &proxyTest{T: t}
	if x.a, err = dial(0); err != nil {
		t.Fatal(err)
	}
	x.b = <-accepted
	x.sends(x.a, x.b, "hello")

	if err := ns.Cut(0, 1); err != nil {
		t.Fatal(err)
	}
	x.a.Write([]byte("late"))
	x.silent(x.b, 200*time.Millisecond)
	if c, err := dial(0); err == nil {
		c.Close()
		t.Error("a handshake went through a cut")
	}
	c, err := dial(2)
	if err != nil {
		t.Fatalf("another node's way is cut too: %v", err)
	}
	c.Close()
	if err := ns.Heal(0, 1); err != nil {
		t.Fatal(err)
	}
	x.hears(x.b, "late")

	// The other way: what comes back is lost, though what goes arrives.
	if err := ns.Cut(1, 0); err != nil {
		t.Fatal(err)
	}
	x.b.Write([]byte("answer"))
	x.silent(x.a, 200*time.Millisecond)
	x.sends(x.a, x.b, "question")
	if err := ns.Heal(1, 0); err != nil {
		t.Fatal(err)
	}
	x.hears(x.a, "answer")
}
