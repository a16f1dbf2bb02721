package rpc

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/lane"
	"github.com/spandb/spand/paxosgroup"
)

// Who opens a lane and then says no more, or too slowly, is cut off: gRPC's deadline for new
// connections ends when the doorman lets it in.
func TestHelloOfALaneIsBounded(t *testing.T) {
	for _, trickle := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			ln := bufconn.Listen(1 << 20)
			n := startWith(t, Config{Self: 1}, ln, nil)
			defer n.stop()
			conn, err := ln.Dial()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Write([]byte(lane.RaftHello)); err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			if trickle {
				wg.Go(func() {
					for _, b := range lane.Append(nil, make([]byte, maxHello)) {
						if _, err := conn.Write([]byte{b}); err != nil {
							return
						}
						time.Sleep(100 * time.Millisecond)
					}
				})
			}
			began := time.Now()
			conn.SetReadDeadline(began.Add(time.Minute))
			said, _ := io.ReadAll(conn) // it may still be told why
			if took := time.Since(began); took > helloTimeout {
				t.Errorf("trickle %v: cut off after %v: %q", trickle, took, said)
			}
			conn.Close()
			wg.Wait()
		})
	}
}

// sayHelloTo opens a lane from n to node 2 at addr, and returns why it was refused.
func sayHelloTo(t *testing.T, n *Network, addr string, class paxosgroup.Class) string {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := n.sayHello(conn, 2, class); err != nil {
		return err.Error()
	}
	return ""
}

// Who may not open a lane is told why, and none of his frames is delivered.
func TestRefusedLanesSayWhy(t *testing.T) {
	ln2, a2 := listen(t)
	addrs := map[keys.NodeID]string{1: "", 2: a2}
	n2 := startWith(t, Config{Self: 2, Addrs: addrs, Dial: nowhere}, ln2, nil)
	defer n2.stop()
	from := func(self keys.NodeID, cluster byte, life uint64, addrs map[keys.NodeID]string) *Network {
		return New(Config{Self: self, Cluster: [16]byte{cluster}, Addrs: addrs, Incarnation: life})
	}
	if got := sayHelloTo(t, from(1, 0, 8, addrs), a2, paxosgroup.ClassRaft); !strings.Contains(got, "node is starting") {
		t.Errorf("before there is a handler: %q", got)
	}
	n2.Handle(receive(func(keys.NodeID, paxosgroup.Class, []byte) { t.Error("a frame was delivered") }))
	for _, c := range []struct {
		name  string
		n     *Network
		class paxosgroup.Class
		want  string
	}{
		{"another cluster", from(1, 9, 8, addrs), paxosgroup.ClassRaft, "belongs to another cluster"},
		{"a stranger", from(7, 0, 8, addrs), paxosgroup.ClassRaft, "node 7 is not another member"},
		{"another class", from(1, 0, 8, addrs), paxosgroup.ClassSnapshot, "have no lane"},
		{"a member", from(1, 0, 8, addrs), paxosgroup.ClassRaft, ""},
		{"an earlier life", from(1, 0, 7, addrs), paxosgroup.ClassRaft, "a later life of node 1"},
	} {
		if got := sayHelloTo(t, c.n, a2, c.class); !strings.Contains(got, c.want) || (got == "") != (c.want == "") {
			t.Errorf("%s: refused with %q, want %q", c.name, got, c.want)
		}
	}
	wrong := New(Config{Self: 3, Addrs: map[keys.NodeID]string{1: "", 3: ""}})
	ln3, a3 := listen(t)
	srv := grpc.NewServer(wrong.ServerOptions(false)...)
	go srv.Serve(ln3)
	defer srv.Stop()
	if got := sayHelloTo(t, from(1, 0, 8, addrs), a3, paxosgroup.ClassRaft); !strings.Contains(got, "this is node 3, not node 2") {
		t.Errorf("the wrong node: %q", got)
	}
	wrong.Close()
	if got := sayHelloTo(t, from(1, 0, 8, addrs), a3, paxosgroup.ClassRaft); got == "" {
		t.Error("a closed network welcomes")
	}
}

// script is a connection that brings what it holds, and then ends.
type script struct {
	net.Conn
	in   *bytes.Reader
	out  bytes.Buffer
	most int // that was asked for at once
}

func (s *script) Read(b []byte) (int, error) {
	s.most = max(s.most, len(b))
	return s.in.Read(b)
}
func (s *script) Write(b []byte) (int, error) { return s.out.Write(b) }
func (s *script) Close() error                { return nil }
func (s *script) RemoteAddr() net.Addr        { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

// Whatever comes over a lane: the opener gets an answer that he can read, no more frames are
// delivered than came, and no more is asked for, and kept, than a frame may have.
func FuzzLane(f *testing.F) {
	addrs := map[keys.NodeID]string{1: "", 2: ""}
	said := func(n *Network) []byte {
		c := &script{in: bytes.NewReader(nil)}
		n.sayHello(deadlineless{c}, 2, paxosgroup.ClassRaft)
		return c.out.Bytes()[len(lane.RaftHello):]
	}
	hello := said(New(Config{Self: 1, Addrs: addrs}))
	add := func(parts ...[]byte) { f.Add(bytes.Join(parts, nil)) }
	add(hello)
	add(hello, lane.Append(nil, []byte("a frame")), lane.Append(nil, nil), lane.Append(nil, make([]byte, 5000)))
	add(hello, []byte{0xff, 0xff, 0xff, 0xff})
	add(hello, binary.BigEndian.AppendUint32(nil, maxFrame), []byte("cut"))
	add(said(New(Config{Self: 1, Cluster: [16]byte{3}, Addrs: addrs})))
	add(lane.Append(nil, appendFrame(appendFrame(nil, []byte(mdProtocol)), nil)), hello)
	add(lane.Append(nil, appendFrame(nil, []byte(mdProtocol)))) // odd
	add([]byte{0, 1, 0, 0})
	add(lane.Append(nil, nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		n := New(Config{Self: 2, Addrs: addrs})
		bytesIn := 0
		n.Handle(receive(func(from keys.NodeID, class paxosgroup.Class, frame []byte) {
			if from != 1 || class != paxosgroup.ClassRaft || len(frame) == 0 {
				t.Errorf("frame of %d bytes of class %d from %d", len(frame), class, from)
			}
			bytesIn += 4 + len(frame)
		}))
		c := &script{in: bytes.NewReader(data)}
		n.serveLane(c, false)
		if bytesIn > len(data) || c.most > maxFrame {
			t.Errorf("%d bytes were delivered of %d, %d asked for at once", bytesIn, len(data), c.most)
		}
		answer, err := lane.Read(bufio.NewReader(&c.out), maxHello, nil)
		if err != nil {
			t.Fatalf("the opener gets no answer: %v", err)
		}
		if len(answer) > 0 && bytesIn > 0 {
			t.Errorf("refused with %q, and delivered", answer)
		}
	})
}

type deadlineless struct{ net.Conn }

func (deadlineless) SetDeadline(time.Time) error { return nil }

// The doorman tells lanes from gRPC; whatever else comes to the port, none of it reaches the
// network's handlers, and connections end.
func TestStrangersAtTheDoor(t *testing.T) {
	ln, addr := listen(t)
	n := startWith(t, Config{Self: 2, Addrs: map[keys.NodeID]string{1: "", 2: addr}, Dial: nowhere}, ln, func(n *Network) {
		n.Handle(receive(func(keys.NodeID, paxosgroup.Class, []byte) { t.Error("a frame was delivered") }))
	})
	defer n.stop()
	for name, said := range map[string]string{
		"HTTP/1":         "GET / HTTP/1.1\r\nHost: n2\r\n\r\n",
		"TLS":            "\x16\x03\x01\x00\xf4\x01\x00\x00\xf0\x03\x03" + strings.Repeat("\x5a", 64),
		"a port scan":    "",
		"another lane's": "\x00spandL9" + strings.Repeat("\x00", 64),
		"zeros":          strings.Repeat("\x00", 64),
		"a short hello":  lane.RaftHello[:3],
		"a huge hello":   lane.RaftHello + "\xff\xff\xff\xff",
	} {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, said); err != nil {
			t.Fatal(err)
		}
		conn.(*net.TCPConn).CloseWrite()
		conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
			t.Errorf("%s: the connection stays open", name)
		}
		conn.Close()
	}
}

// Who connects and says nothing, as a prober may, does not hold up the end of the server.
func TestSilentConnectionIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := bufconn.Listen(1 << 20)
		n := startWith(t, Config{Self: 1}, ln, nil)
		conn, err := ln.Dial()
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // it is with the doorman
		began := time.Now()
		n.stop()
		if took := time.Since(began); took > 0 {
			t.Errorf("the end took %v", took)
		}
		conn.Close()
	})
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// receive is a receiver for which nothing is left to be done once it has a frame.
type receive func(from keys.NodeID, class paxosgroup.Class, frame []byte)

func (r receive) Receive(from keys.NodeID, class paxosgroup.Class, frame []byte) {
	r(from, class, frame)
}
func (r receive) Collect(from keys.NodeID, class paxosgroup.Class, frame []byte) {
	r(from, class, frame)
}
func (r receive) Work() {}
