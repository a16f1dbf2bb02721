package rpc

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/tracing"
	"github.com/spandb/spand/internal/version"
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
	return startWith(t, Config{Self: self, Cluster: [16]byte{cluster}, Addrs: addrs}, ln, setup)
}

func startWith(t *testing.T, cfg Config, ln net.Listener, setup func(*Network)) *node {
	t.Helper()
	cfg.Logger = slog.New(slog.DiscardHandler)
	n := New(cfg)
	if setup != nil {
		setup(n)
	}
	srv := grpc.NewServer(n.ServerOptions(false)...)
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
		n.Handle(receive(func(keys.NodeID, paxosgroup.Class, []byte) {}))
		n.HandleCalls(func(context.Context, keys.NodeID, byte, []byte) []byte { return nil })
	})
	defer n1.stop()
	n2 := start(t, 2, 7, addrs, ln2, func(n *Network) {
		n.Handle(receive(func(from keys.NodeID, c paxosgroup.Class, f []byte) {
			frames <- fmt.Sprintf("%d %d %s", from, c, f)
		}))
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
		n.Handle(receive(func(keys.NodeID, paxosgroup.Class, []byte) {}))
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
		n.Handle(receive(func(keys.NodeID, paxosgroup.Class, []byte) { reached <- struct{}{} }))
		n.HandleCalls(func(context.Context, keys.NodeID, byte, []byte) []byte { reached <- struct{}{}; return nil })
	})
	defer n2.stop()

	if err := refusal(t, n1, a2); !strings.Contains(err, "belongs to another cluster") {
		t.Fatalf("stream of another cluster: %v", err)
	}
	if len(reached) > 0 {
		t.Fatal("a frame of another cluster was delivered")
	}
}

// refusal opens a stream of calls from n to node 2 at addr and returns why it
// was refused, "" if it was not.
func refusal(t *testing.T, n *node, addr string) string {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+addr, n.peers[2].dialOptions()...)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	stream, err := conn.NewStream(n.outgoing(context.Background(), 2), &streamDesc, methodCalls)
	if err != nil {
		t.Fatal(err)
	}
	var in packet
	if err := stream.RecvMsg(&in); err != nil {
		return err.Error()
	}
	return ""
}

// Two nodes of which one cannot run what the cluster has, as the other knows it,
// do not talk, and the refusal says which of them is too old.
func TestVersionsAreCheckedOnConnect(t *testing.T) {
	gate := func(v version.Version) *version.Gate {
		g := new(version.Gate)
		g.Raise(v)
		return g
	}
	for _, c := range []struct {
		name         string
		from, at     version.Range
		knows, knew  version.Version // what sender and receiver take for the cluster's
		wantContains string
	}{
		{"alike", version.Range{Min: 1, Max: 1}, version.Range{Min: 1, Max: 1}, 1, 1, ""},
		{"an upgraded sender", version.Range{Min: 1, Max: 2}, version.Range{Min: 1, Max: 1}, 1, 1, ""},
		{"the receiver has not heard of 2", version.Range{Min: 1, Max: 2}, version.Range{Min: 1, Max: 2}, 2, 1, ""},
		{"nobody knows it yet", version.Range{Min: 2, Max: 3}, version.Range{Min: 2, Max: 4}, 0, 0, ""},
		{"only the receiver knows it", version.Range{Min: 2, Max: 3}, version.Range{Min: 2, Max: 4}, 0, 2, ""},
		{"only the sender knows it", version.Range{Min: 2, Max: 3}, version.Range{Min: 2, Max: 4}, 3, 0, ""},
		{"an old sender", version.Range{Min: 1, Max: 1}, version.Range{Min: 1, Max: 2}, 1, 2, "node 1: the cluster's version is 2, this program runs 1-1: use a newer spand"},
		{"an old receiver", version.Range{Min: 1, Max: 2}, version.Range{Min: 1, Max: 1}, 2, 1, "node 2: the cluster's version is 2, this program runs 1-1: use a newer spand"},
		{"too new a sender", version.Range{Min: 3, Max: 4}, version.Range{Min: 1, Max: 3}, 3, 2, "node 1: the cluster's version is 2, this program runs 3-4: use an older spand"},
	} {
		ln1, a1 := listen(t)
		ln2, a2 := listen(t)
		cfg := Config{Self: 1, Addrs: map[keys.NodeID]string{1: a1, 2: a2}, Versions: c.from, Version: gate(c.knows)}
		n1 := startWith(t, cfg, ln1, nil)
		cfg.Self, cfg.Versions, cfg.Version = 2, c.at, gate(c.knew)
		n2 := startWith(t, cfg, ln2, func(n *Network) {
			n.HandleCalls(func(_ context.Context, _ keys.NodeID, _ byte, p []byte) []byte { return p })
		})
		got := refusal(t, n1, a2)
		if !strings.Contains(got, c.wantContains) || (got == "") != (c.wantContains == "") {
			t.Errorf("%s: refused with %q, want %q", c.name, got, c.wantContains)
		}
		if can, ok := n2.Versions(1); ok != (got == "") || ok && can != c.from {
			t.Errorf("%s: node 2 believes that node 1 runs %v, %v", c.name, can, ok)
		}
		n1.stop()
		n2.stop()
	}
}

// An earlier life of a node is refused once a later one has connected.
func TestIncarnationsAreCheckedOnConnect(t *testing.T) {
	ln1, a1 := listen(t)
	ln2, a2 := listen(t)
	addrs := map[keys.NodeID]string{1: a1, 2: a2}
	n2 := startWith(t, Config{Self: 2, Addrs: addrs}, ln2, func(n *Network) {
		n.HandleCalls(func(_ context.Context, _ keys.NodeID, _ byte, p []byte) []byte { return p })
	})
	defer n2.stop()
	n1 := startWith(t, Config{Self: 1, Addrs: addrs, Incarnation: 8}, ln1, nil)
	defer n1.stop()
	callUntil(t, n1, 2, 1, nil)
	earlier := New(Config{Self: 1, Addrs: addrs, Incarnation: 7})
	if got := refusal(t, &node{Network: earlier}, a2); !strings.Contains(got, "a later life of node 1") {
		t.Errorf("an earlier life: %q", got)
	}
	if got := refusal(t, n1, a2); got != "" {
		t.Errorf("the same life: %q", got)
	}
}

// A peer's calls have a budget: what is beyond is refused unexecuted, and the
// calls that are under way can still be cancelled.
func TestCallsBeyondTheBudgetAreRefused(t *testing.T) {
	ln1, a1 := listen(t)
	ln2, a2 := listen(t)
	addrs := map[keys.NodeID]string{1: a1, 2: a2}
	n1 := start(t, 1, 7, addrs, ln1, nil)
	defer n1.stop()
	entered := make(chan struct{}, maxCalls)
	n2 := start(t, 2, 7, addrs, ln2, func(n *Network) {
		n.HandleCalls(func(ctx context.Context, _ keys.NodeID, method byte, p []byte) []byte {
			if method == 9 {
				entered <- struct{}{}
				<-ctx.Done()
			}
			return p
		})
	})
	defer n2.stop()
	callUntil(t, n1, 2, 1, nil)

	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for range maxCalls {
		wg.Go(func() {
			if _, err := n1.Call(ctx, 2, 9, nil); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
	for range maxCalls {
		<-entered
	}
	_, err := n1.Call(context.Background(), 2, 1, nil)
	var unreachable *UnreachableError
	if !errors.As(err, &unreachable) || !unreachable.NotSent() || !errors.Is(err, errOverloaded) {
		t.Errorf("a call beyond the budget: %v", err)
	}
	if n := n2.CallsRefused(); n != 1 {
		t.Errorf("%d calls counted as refused", n)
	}
	cancel()
	wg.Wait()
	callUntil(t, n1, 2, 1, nil) // there is room again

	// So have their bytes; a call that is alone always fits.
	big := make([]byte, maxFrame-64)
	ctx, cancel = context.WithCancel(context.Background())
	defer cancel()
	for range maxCallBytes / len(big) {
		wg.Go(func() { n1.Call(ctx, 2, 9, big) })
		<-entered
	}
	if _, err := n1.Call(context.Background(), 2, 1, big); !errors.Is(err, errOverloaded) {
		t.Errorf("a call beyond the bytes' budget: %v", err)
	}
	cancel()
	wg.Wait()
}

// A request, or an answer, that fits no frame fails by itself: the other calls on
// the stream go on.
func TestOversizeFailsAlone(t *testing.T) {
	ln1, a1 := listen(t)
	ln2, a2 := listen(t)
	addrs := map[keys.NodeID]string{1: a1, 2: a2}
	n1 := start(t, 1, 7, addrs, ln1, nil)
	defer n1.stop()
	entered, release := make(chan struct{}), make(chan struct{})
	n2 := start(t, 2, 7, addrs, ln2, func(n *Network) {
		n.HandleCalls(func(_ context.Context, _ keys.NodeID, method byte, p []byte) []byte {
			switch method {
			case 8:
				return make([]byte, maxFrame)
			case 9:
				close(entered)
				<-release
			}
			return p
		})
	})
	defer n2.stop()
	callUntil(t, n1, 2, 1, nil)
	other := make(chan error, 1)
	go func() {
		_, err := n1.Call(context.Background(), 2, 9, nil)
		other <- err
	}()
	<-entered
	for _, c := range []struct {
		what    string
		method  byte
		payload []byte
		notSent bool
	}{{"request", 1, make([]byte, maxFrame), true}, {"answer", 8, nil, false}} {
		_, err := n1.Call(context.Background(), 2, c.method, c.payload)
		var unreachable *UnreachableError
		if !errors.Is(err, errOversize) || !errors.As(err, &unreachable) || unreachable.NotSent() != c.notSent {
			t.Errorf("an oversize %s: %v", c.what, err)
		}
	}
	close(release)
	if err := <-other; err != nil {
		t.Errorf("a call that was under way: %v", err)
	}
}

// The heartbeat of a node with hundreds of thousands of groups awake arrives: without
// it their leases would end. A frame that is larger than one may be is dropped, and
// the stream goes on.
func TestLargestFrameArrives(t *testing.T) {
	ln1, a1 := listen(t)
	ln2, a2 := listen(t)
	addrs := map[keys.NodeID]string{1: a1, 2: a2}
	n1 := start(t, 1, 7, addrs, ln1, nil)
	defer n1.stop()
	sizes := make(chan int, 16)
	n2 := start(t, 2, 7, addrs, ln2, func(n *Network) {
		n.Handle(receive(func(_ keys.NodeID, _ paxosgroup.Class, f []byte) { sizes <- len(f) }))
		n.HandleCalls(func(context.Context, keys.NodeID, byte, []byte) []byte { return nil })
	})
	defer n2.stop()
	callUntil(t, n1, 2, 1, nil)
	for _, class := range []paxosgroup.Class{paxosgroup.ClassHeartbeat, paxosgroup.ClassRaft} {
		for len(sizes) == 0 { // until its stream stands
			n1.Send(2, class, []byte("x"))
			time.Sleep(time.Millisecond)
		}
		for got := 0; got != 2; got = <-sizes {
			if got == 0 {
				n1.Send(2, class, []byte("to"))
			}
		}
		for _, n := range []int{3, maxFrame + 1, maxFrame} {
			n1.Send(2, class, make([]byte, n))
		}
		for _, want := range []int{3, maxFrame} {
			select {
			case got := <-sizes:
				if got != want {
					t.Errorf("class %d: a frame of %d bytes arrived instead of one of %d", class, got, want)
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("class %d: no frame of %d bytes arrived", class, want)
			}
		}
	}
}

// A peer that lets its answers pile up loses the stream, and so learns that no more
// are to come.
func TestUnreadAnswersBreakTheStream(t *testing.T) {
	ln1, a1 := listen(t)
	ln2, a2 := listen(t)
	addrs := map[keys.NodeID]string{1: a1, 2: a2}
	n1 := start(t, 1, 7, addrs, ln1, nil)
	defer n1.stop()
	cancelled := make(chan struct{})
	n2 := start(t, 2, 7, addrs, ln2, func(n *Network) {
		n.HandleCalls(func(ctx context.Context, _ keys.NodeID, method byte, _ []byte) []byte {
			if method == 9 {
				<-ctx.Done()
				close(cancelled)
			}
			return make([]byte, maxFrame/2)
		})
	})
	defer n2.stop()
	conn, err := grpc.NewClient("passthrough:///"+a2, n1.peers[2].dialOptions()...)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(n1.outgoing(context.Background(), 2), 20*time.Second)
	defer cancel()
	stream, err := conn.NewStream(ctx, &streamDesc, methodCalls)
	if err != nil {
		t.Fatal(err)
	}
	request := func(id, method byte) []byte {
		f := binary.AppendUvarint([]byte{frameRequest, id, method}, uint64(time.Minute/time.Microsecond))
		return tracing.Append(f, context.Background())
	}
	requests := appendFrame(nil, request(1, 9))
	for i := range byte(3 * callBudget / maxFrame) {
		requests = appendFrame(requests, request(2+i, 1))
	}
	if err := stream.SendMsg(&packet{requests}); err != nil {
		t.Fatal(err)
	}
	<-cancelled
	for err == nil {
		var in packet
		err = stream.RecvMsg(&in)
	}
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("the stream ended with %v", err)
	}
}

// The trace of a call's context is that of its handler's.
func TestTraceTravelsWithCalls(t *testing.T) {
	ln1, a1 := listen(t)
	ln2, a2 := listen(t)
	addrs := map[keys.NodeID]string{1: a1, 2: a2}
	n1 := start(t, 1, 7, addrs, ln1, nil)
	defer n1.stop()
	n2 := start(t, 2, 7, addrs, ln2, func(n *Network) {
		n.HandleCalls(func(ctx context.Context, _ keys.NodeID, _ byte, p []byte) []byte {
			return append([]byte(tracing.ID(ctx)+" "), p...)
		})
	})
	defer n2.stop()
	if got := callUntil(t, n1, 2, 1, []byte("x")); string(got) != " x" {
		t.Errorf("a call without a trace: %q", got)
	}
	ctx := tracing.Start(context.Background())
	if got, err := n1.Call(ctx, 2, 1, []byte("x")); err != nil || string(got) != tracing.ID(ctx)+" x" {
		t.Errorf("a call of trace %s: %q, %v", tracing.ID(ctx), got, err)
	}
}

// A connection that a partition has swallowed, without a word to either side, is
// given up and replaced: TCP itself would try for minutes.
func TestSwallowedConnectionIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := bufconn.Listen(1 << 20)
		var mu sync.Mutex
		var last *swallower
		cfg := Config{Self: 1, Addrs: map[keys.NodeID]string{1: "n1", 2: "n2"}, Dial: func(ctx context.Context, _ string) (net.Conn, error) {
			c, err := ln.DialContext(ctx)
			mu.Lock()
			defer mu.Unlock()
			last = &swallower{Conn: c, gone: make(chan struct{}), closed: make(chan struct{})}
			return last, err
		}}
		n1 := New(cfg)
		n1.cfg.Logger = slog.New(slog.DiscardHandler)
		cfg.Self, cfg.Dial = 2, func(context.Context, string) (net.Conn, error) { return nil, errors.New("nobody listens there") }
		n2 := startWith(t, cfg, ln, func(n *Network) {
			n.HandleCalls(func(_ context.Context, _ keys.NodeID, _ byte, p []byte) []byte { return p })
		})
		if err := n1.Start(); err != nil {
			t.Fatal(err)
		}
		callUntil(t, &node{Network: n1}, 2, 1, []byte("before"))
		mu.Lock()
		first := last
		mu.Unlock()
		close(first.gone)
		began := time.Now()
		callUntil(t, &node{Network: n1}, 2, 1, []byte("after"))
		if took := time.Since(began); took > pingEvery+pingTimeout+time.Second {
			t.Errorf("it took %v to find out", took)
		}
		n1.Close()
		n2.stop()
	})
}

// laneUntil waits until b hears a's lane.
func laneUntil(t *testing.T, a, b *node) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); b.peers[a.Self()].heard.Load() == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no lane")
		}
	}
}

// A peer's frames of a class are delivered by one goroutine at a time, as
// paxosgroup.Transport promises, also while a stream or lane that broke is still in the
// handler; what that one had not delivered yet is lost, not late.
func TestR1_FramesAreDeliveredOneAtATime(t *testing.T) {
	for _, class := range []paxosgroup.Class{paxosgroup.ClassRaft, paxosgroup.ClassSnapshot} {
		synctest.Test(t, func(t *testing.T) {
			ln := bufconn.Listen(1 << 20)
			conns := make(chan net.Conn, 16)
			cfg := Config{Self: 1, Addrs: map[keys.NodeID]string{1: "n1", 2: "n2"}, Logger: slog.New(slog.DiscardHandler),
				Dial: func(ctx context.Context, _ string) (net.Conn, error) {
					c, err := ln.DialContext(ctx)
					conns <- c
					return c, err
				}}
			n1 := New(cfg)
			var mu sync.Mutex
			var delivered []string
			inside, most := 0, 0
			release := make(chan struct{})
			cfg.Self, cfg.Dial = 2, func(context.Context, string) (net.Conn, error) { return nil, errors.New("nobody listens there") }
			n2 := startWith(t, cfg, ln, func(n *Network) {
				n.Handle(receive(func(_ keys.NodeID, _ paxosgroup.Class, f []byte) {
					mu.Lock()
					delivered = append(delivered, string(f))
					inside++
					most = max(most, inside)
					mu.Unlock()
					<-release // a chunk that is being committed
					mu.Lock()
					inside--
					mu.Unlock()
				}))
				n.HandleCalls(func(context.Context, keys.NodeID, byte, []byte) []byte { return nil })
			})
			n1.Send(2, class, []byte("1"))
			n1.Send(2, class, []byte("2")) // in the same packet
			if err := n1.Start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			for range 2 { // gRPC's, and the lane
				(<-conns).Close()
			}
			time.Sleep(time.Second) // there are others
			n1.Send(2, class, []byte("3"))
			synctest.Wait()
			close(release)
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if got := strings.Join(delivered, " "); most != 1 || got != "1 3" {
				t.Errorf("class %d: delivered %q, up to %d at once", class, got, most)
			}
			n1.Close()
			n2.stop()
		})
	}
}

// swallower is a connection that, once gone is closed, takes everything and
// brings nothing.
type swallower struct {
	net.Conn
	gone, closed chan struct{}
	once         sync.Once
}

func (s *swallower) isGone() bool {
	select {
	case <-s.gone:
		return true
	default:
		return false
	}
}

func (s *swallower) Write(b []byte) (int, error) {
	if s.isGone() {
		return len(b), nil
	}
	return s.Conn.Write(b)
}

func (s *swallower) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	if s.isGone() {
		<-s.closed
		return 0, net.ErrClosed
	}
	return n, err
}

func (s *swallower) Close() error {
	s.once.Do(func() { close(s.closed) })
	return s.Conn.Close()
}

// The path of a call, both ways, over loopback.
func BenchmarkCall(b *testing.B) {
	t := new(testing.T)
	ln1, a1 := listen(t)
	ln2, a2 := listen(t)
	addrs := map[keys.NodeID]string{1: a1, 2: a2}
	n1 := start(t, 1, 7, addrs, ln1, nil)
	defer n1.stop()
	n2 := start(t, 2, 7, addrs, ln2, func(n *Network) {
		n.HandleCalls(func(_ context.Context, _ keys.NodeID, _ byte, p []byte) []byte { return p })
	})
	defer n2.stop()
	callUntil(t, n1, 2, 1, nil)
	for _, c := range []struct {
		name string
		ctx  context.Context
	}{{"plain", context.Background()}, {"traced", tracing.Start(context.Background())}} {
		b.Run(c.name, func(b *testing.B) {
			ctx, cancel := context.WithTimeout(c.ctx, time.Hour)
			defer cancel()
			payload := make([]byte, 100)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := n1.Call(ctx, 2, 1, payload); err != nil {
					b.Fatal(err)
				}
			}
		})
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
	f.Add([]byte{frameRequest, 1, 2, 1, 0})
	f.Add(append([]byte{frameRequest, 1, 2, 1, 25}, make([]byte, 40)...))
	f.Add([]byte{frameCancel, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		ctx, cancel := context.WithCancel(t.Context())
		s := &callServer{ctx: ctx, cancel: cancel, refused: new(atomic.Uint64), out: newQueue(1 << 20), work: make(chan call), cancels: map[uint64]context.CancelFunc{},
			handle: func(context.Context, keys.NodeID, byte, []byte) []byte { return nil }}
		s.receive(data)
		cancel()
		s.wg.Wait()
		c := newCallStream(&netPeer{})
		c.receive(appendFrame(nil, data))
	})
}
