package rpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/paxosgroup"
)

// node is a network and the server that it is registered with.
type node struct {
	*Network
	srv *grpc.Server
}

func (n *node) stop() {
	n.Network.Close()
	n.srv.Stop()
}

func start(t *testing.T, self keys.NodeID, cluster byte, addrs map[keys.NodeID]string, ln net.Listener, setup func(*Network)) *node {
	t.Helper()
	n := New(Config{Self: self, Cluster: [16]byte{cluster}, Addrs: addrs, Logger: slog.New(slog.DiscardHandler)})
	if setup != nil {
		setup(n)
	}
	srv := grpc.NewServer(Authorize(false)...)
	n.Register(srv)
	go srv.Serve(ln)
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	return &node{n, srv}
}

func listen(t *testing.T) (net.Listener, string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln, ln.Addr().String()
}

// callUntil repeats a call until the stream stands.
func callUntil(t *testing.T, n *node, to keys.NodeID, method byte, payload []byte) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for {
		got, err := n.Call(ctx, to, method, payload)
		var unreachable *UnreachableError
		if errors.As(err, &unreachable) && ctx.Err() == nil {
			time.Sleep(time.Millisecond) // reconnecting happens on the network's own schedule
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
}

func TestCallsAndFrames(t *testing.T) {
	ln1, a1 := listen(t)
	ln2, a2 := listen(t)
	addrs := map[keys.NodeID]string{1: a1, 2: a2}

	entered, cancelled := make(chan struct{}), make(chan struct{})
	frames := make(chan string, 4096)
	n1 := start(t, 1, 7, addrs, ln1, func(n *Network) {
		n.Handle(func(keys.NodeID, paxosgroup.Class, []byte) {})
		n.HandleCalls(func(context.Context, keys.NodeID, byte, []byte) []byte { return nil })
	})
	defer n1.stop()
	n2 := start(t, 2, 7, addrs, ln2, func(n *Network) {
		n.Handle(func(from keys.NodeID, c paxosgroup.Class, f []byte) {
			frames <- fmt.Sprintf("%d %d %s", from, c, f)
		})
		n.HandleCalls(func(ctx context.Context, from keys.NodeID, method byte, p []byte) []byte {
			if method == 9 { // waits for the caller to give up
				close(entered)
				<-ctx.Done()
				close(cancelled)
				return nil
			}
			return append([]byte{method, byte(from)}, p...)
		})
	})
	defer n2.stop()

	if got := callUntil(t, n1, 2, 3, []byte("hello")); !bytes.Equal(got, []byte("\x03\x01hello")) {
		t.Fatalf("answer %q", got)
	}

	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			want := fmt.Sprint("payload ", i)
			got, err := n1.Call(context.Background(), 2, 1, []byte(want))
			if err != nil || string(got[2:]) != want {
				t.Errorf("call %d: %q, %v", i, got, err)
			}
		})
	}
	wg.Wait()

	// A caller that gives up is told to the callee, so that it waits for no lock in vain.
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { _, err := n1.Call(ctx, 2, 9, nil); done <- err }()
	<-entered
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled call: %v", err)
	}
	<-cancelled

	// Frames of a class arrive in order. The first ones may be lost while the stream opens.
	var got string
	for got == "" {
		n1.Send(2, paxosgroup.ClassRaft, []byte("sync"))
		select {
		case got = <-frames:
		case <-time.After(time.Millisecond):
		}
	}
	for i := range 1000 {
		n1.Send(2, paxosgroup.ClassRaft, fmt.Appendf(nil, "%d", i))
	}
	for i := 0; i < 1000; {
		f := <-frames
		if f == "1 1 sync" {
			continue
		}
		if want := fmt.Sprintf("1 1 %d", i); f != want {
			t.Fatalf("frame %q, want %q", f, want)
		}
		i++
	}
}

func TestCallToDeadPeer(t *testing.T) {
	ln1, a1 := listen(t)
	ln2, a2 := listen(t)
	addrs := map[keys.NodeID]string{1: a1, 2: a2}
	answer := func(n *Network) {
		n.Handle(func(keys.NodeID, paxosgroup.Class, []byte) {})
		n.HandleCalls(func(ctx context.Context, _ keys.NodeID, m byte, p []byte) []byte {
			if m == 9 {
				<-ctx.Done()
			}
			return p
		})
	}
	n1 := start(t, 1, 7, addrs, ln1, answer)
	defer n1.stop()
	n2 := start(t, 2, 7, addrs, ln2, answer)
	callUntil(t, n1, 2, 1, []byte("up"))

	done := make(chan error, 1)
	go func() { _, err := n1.Call(context.Background(), 2, 9, nil); done <- err }()
	n2.stop()
	var unreachable *UnreachableError
	if err := <-done; !errors.As(err, &unreachable) {
		t.Fatalf("call in flight at the peer's death: %v", err)
	}

	// It comes back on the same address and is found.
	ln2, err := net.Listen("tcp", a2)
	if err != nil {
		t.Fatal(err)
	}
	n2 = start(t, 2, 7, addrs, ln2, answer)
	defer n2.stop()
	callUntil(t, n1, 2, 1, []byte("again"))
}

func TestAnotherClusterIsRefused(t *testing.T) {
	ln1, a1 := listen(t)
	ln2, a2 := listen(t)
	addrs := map[keys.NodeID]string{1: a1, 2: a2}
	reached := make(chan struct{}, 16)
	n1 := start(t, 1, 7, addrs, ln1, nil)
	defer n1.stop()
	n2 := start(t, 2, 8, addrs, ln2, func(n *Network) {
		n.Handle(func(keys.NodeID, paxosgroup.Class, []byte) { reached <- struct{}{} })
		n.HandleCalls(func(context.Context, keys.NodeID, byte, []byte) []byte { reached <- struct{}{}; return nil })
	})
	defer n2.stop()

	conn, err := grpc.NewClient("passthrough:///"+a2, n1.peers[2].dialOptions()...)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	stream, err := conn.NewStream(n1.outgoing(context.Background(), 2), &streamDesc, methodCalls)
	if err != nil {
		t.Fatal(err)
	}
	var in packet
	err = stream.RecvMsg(&in)
	if err == nil || !bytes.Contains([]byte(err.Error()), []byte("belongs to another cluster")) {
		t.Fatalf("stream of another cluster: %v", err)
	}
	if len(reached) > 0 {
		t.Fatal("a frame of another cluster was delivered")
	}
}

func FuzzPacket(f *testing.F) {
	f.Add(appendFrame(appendFrame(nil, []byte("a")), nil))
	f.Add([]byte{packetVersion, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		var again []byte
		n := 0
		if eachFrame(data, func(fr []byte) { again = appendFrame(again, fr); n++ }) != nil || n == 0 {
			return
		}
		m := 0
		if err := eachFrame(again, func([]byte) { m++ }); err != nil || m != n {
			t.Fatalf("%d frames became %d: %v", n, m, err)
		}
	})
}

func FuzzCallFrames(f *testing.F) {
	f.Add([]byte{frameRequest, 1, 2, 0})
	f.Add([]byte{frameCancel, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		ctx, cancel := context.WithCancel(t.Context())
		s := &callServer{ctx: ctx, out: newQueue(1 << 20), work: make(chan call), cancels: map[uint64]context.CancelFunc{},
			handle: func(context.Context, keys.NodeID, byte, []byte) []byte { return nil }}
		s.receive(data)
		cancel()
		s.wg.Wait()
		c := newCallStream(&netPeer{})
		c.receive(appendFrame(nil, data))
	})
}
