package rpc

import (
	"context"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/paxosgroup"
)

// Bytes that a partition swallows end a connection within pingTimeout, at either
// end, and not with TCP's retransmissions, which are minutes apart by then.
func TestUnacknowledgedBytesEndAConnection(t *testing.T) {
	ln1, a1 := listen(t)
	ln2, a2 := listen(t)
	conns := make(chan net.Conn, 16)
	addrs := map[keys.NodeID]string{1: a1, 2: a2}
	n2 := startWith(t, Config{Self: 2, Addrs: addrs}, observed{ln2, conns}, func(n *Network) {
		n.Handle(receive(func(keys.NodeID, paxosgroup.Class, []byte) {}))
		n.HandleCalls(func(_ context.Context, _ keys.NodeID, _ byte, p []byte) []byte { return p })
	})
	defer n2.stop()
	n1 := startWith(t, Config{Self: 1, Addrs: addrs, Dial: func(ctx context.Context, addr string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		conns <- c
		return c, err
	}}, ln1, nil)
	defer n1.stop()
	callUntil(t, n1, 2, 1, nil)
	laneUntil(t, n1, n2)
	for range 4 { // of gRPC and of the lane, at either end
		raw, err := (<-conns).(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var ms int
		if cerr := raw.Control(func(fd uintptr) { ms, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT) }); cerr != nil || err != nil {
			t.Fatal(cerr, err)
		}
		if time.Duration(ms)*time.Millisecond != pingTimeout {
			t.Errorf("the kernel waits for %d ms", ms)
		}
	}
}

// observed is a listener that shows the connections it has accepted.
type observed struct {
	net.Listener
	conns chan net.Conn
}

func (o observed) Accept() (net.Conn, error) {
	c, err := o.Listener.Accept()
	if err == nil {
		o.conns <- c
	}
	return c, err
}
