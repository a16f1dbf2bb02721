package rpc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/paxosgroup"
)

// A lane that has more to write than the peer takes is busy, not dead: it is never idle, so that a
// ping would be sent, and what is queued takes longer than pingTimeout.
func TestBusyLaneIsNotTakenForDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := bufconn.Listen(16 << 10)
		var dials atomic.Int32
		cfg := Config{Self: 1, Addrs: map[keys.NodeID]string{1: "n1", 2: "n2"}, Logger: slog.New(slog.DiscardHandler)}
		cfg.Dial = func(ctx context.Context, _ string) (net.Conn, error) { dials.Add(1); return ln.DialContext(ctx) }
		n1 := New(cfg)
		cfg.Self, cfg.Dial = 2, nowhere
		n2 := startWith(t, cfg, ln, func(n *Network) {
			n.Handle(receive(func(keys.NodeID, paxosgroup.Class, []byte) { time.Sleep(100 * time.Millisecond) }))
		})
		if err := n1.Start(); err != nil {
			t.Fatal(err)
		}
		frame := make([]byte, 16<<10)
		for range 24 * 12 { // 20 % more than the peer takes
			n1.Send(2, paxosgroup.ClassRaft, frame)
			time.Sleep(time.Second / 12)
		}
		if n := dials.Load(); n != 2 {
			t.Errorf("%d connections were made in place of gRPC's and one lane", n)
		}
		n1.Close()
		n2.stop()
	})
}

func nowhere(context.Context, string) (net.Conn, error) {
	return nil, errors.New("nobody listens there")
}

// A connection that swallows everything is found out by the pings.
func TestSwallowedLaneIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := bufconn.Listen(1 << 20)
		var cut atomic.Pointer[chan struct{}]
		first, later := make(chan struct{}), make(chan struct{})
		cut.Store(&first)
		cfg := Config{Self: 1, Addrs: map[keys.NodeID]string{1: "n1", 2: "n2"}, Logger: slog.New(slog.DiscardHandler)}
		cfg.Dial = func(ctx context.Context, _ string) (net.Conn, error) {
			c, err := ln.DialContext(ctx)
			return &leak{c, *cut.Load()}, err
		}
		n1 := New(cfg)
		cfg.Self, cfg.Dial = 2, nowhere
		frames := make(chan string, 16)
		n2 := startWith(t, cfg, ln, func(n *Network) {
			n.Handle(receive(func(_ keys.NodeID, _ paxosgroup.Class, f []byte) { frames <- string(f) }))
		})
		if err := n1.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		cut.Store(&later)
		close(first)
		n1.Send(2, paxosgroup.ClassRaft, []byte("lost"))
		time.Sleep(pingEvery + pingTimeout + time.Second)
		n1.Send(2, paxosgroup.ClassRaft, []byte("after"))
		synctest.Wait()
		select {
		case f := <-frames:
			if f != "after" {
				t.Errorf("frame %q arrived", f)
			}
		default:
			t.Error("no frame arrives")
		}
		n1.Close()
		n2.stop()
	})
}

// leak is a connection that, once cut is closed, takes everything and sends nothing of it.
type leak struct {
	net.Conn
	cut chan struct{}
}

func (l *leak) Write(b []byte) (int, error) {
	select {
	case <-l.cut:
		return len(b), nil
	default:
		return l.Conn.Write(b)
	}
}

// numbered is a frame that shows whether it is whole: sender, number, size at random, checksum.
func numbered(sender, number uint32, most int) []byte {
	b := binary.BigEndian.AppendUint32(nil, sender)
	b = binary.BigEndian.AppendUint32(b, number)
	for range rand.IntN(most) {
		b = append(b, byte(number))
	}
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
}

func numberOf(f []byte) (sender, number uint32, whole bool) {
	if len(f) < 12 {
		return 0, 0, false
	}
	body := f[:len(f)-4]
	return binary.BigEndian.Uint32(f), binary.BigEndian.Uint32(f[4:]), crc32.ChecksumIEEE(body) == binary.BigEndian.Uint32(f[len(f)-4:])
}

// lanePair connects node 1 with node 2 by connections that take little at a time; conns are
// those of node 1. Handle is node 2's.
func lanePair(t *testing.T, handle func(f []byte)) (n1, n2 *node, conns chan net.Conn) {
	t.Helper()
	ln1, a1 := listen(t)
	ln2, a2 := listen(t)
	conns = make(chan net.Conn, 1024)
	cfg := Config{Self: 2, Addrs: map[keys.NodeID]string{1: a1, 2: a2}, Dial: nowhere}
	n2 = startWith(t, cfg, ln2, func(n *Network) {
		n.Handle(receive(func(_ keys.NodeID, _ paxosgroup.Class, f []byte) { handle(f) }))
	})
	t.Cleanup(n2.stop)
	cfg.Self, cfg.Dial = 1, func(ctx context.Context, addr string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err == nil {
			c.(*net.TCPConn).SetWriteBuffer(8 << 10)
			conns <- c
		}
		return c, err
	}
	n1 = startWith(t, cfg, ln1, nil)
	t.Cleanup(n1.stop)
	laneUntil(t, n1, n2)
	return n1, n2, conns
}

// However little the kernel takes at a time, and whoever writes the rest, every frame that a lane
// has accepted arrives whole, once, and in its sender's order.
func TestLaneKeepsFramesWholeAndInOrder(t *testing.T) {
	const senders, each = 8, 60
	type arrival struct {
		sender, number uint32
		whole          bool
	}
	arrived := make(chan arrival, senders*each)
	var n atomic.Int32
	n1, _, _ := lanePair(t, func(f []byte) {
		sender, number, whole := numberOf(f)
		arrived <- arrival{sender, number, whole}
		if n.Add(1)%100 == 0 {
			time.Sleep(time.Millisecond) // a slow reader is what this is about
		}
	})
	l := n1.peers[2].lane
	var wg sync.WaitGroup
	for s := range uint32(senders) {
		wg.Go(func() {
			for i := range uint32(each) {
				if !l.Put(numbered(s, i, 4<<10)) {
					t.Error("a frame was refused within the budget")
				}
			}
		})
	}
	wg.Wait()
	next := make([]uint32, senders)
	for range senders * each {
		select {
		case a := <-arrived:
			if !a.whole || a.sender >= senders || a.number != next[a.sender] {
				t.Fatalf("frame %+v arrived, next of that sender is %d", a, next[a.sender])
			}
			next[a.sender]++
		case <-time.After(20 * time.Second):
			t.Fatalf("no more arrives; next are %d", next)
		}
	}
}

// A lane that is cut comes back, again and again, under senders who know nothing of it. Frames
// are lost then, but those that arrive are whole and later than all before (R1: lost, not late).
func TestCutLaneComesBack(t *testing.T) {
	const senders, cuts = 4, 3
	var mu sync.Mutex
	last := make([]uint32, senders)
	var bad []string
	some := make(chan struct{}, 1)
	n1, _, conns := lanePair(t, func(f []byte) {
		sender, number, whole := numberOf(f)
		mu.Lock()
		defer mu.Unlock()
		if !whole || sender >= senders || number <= last[sender] {
			bad = append(bad, fmt.Sprintf("sender %d number %d whole %v", sender, number, whole))
			return
		}
		last[sender] = number
		select {
		case some <- struct{}{}:
		default:
		}
	})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for s := range uint32(senders) {
		wg.Go(func() {
			for i := uint32(1); ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				n1.Send(2, paxosgroup.ClassRaft, numbered(s, i, 4<<10))
				if i%16 == 0 {
					time.Sleep(time.Millisecond)
				}
			}
		})
	}
	await := func() {
		select {
		case <-some:
		default:
		}
		select {
		case <-some:
		case <-time.After(20 * time.Second):
			t.Error("the lane does not come back")
		}
	}
	for range cuts {
		await()
		for len(conns) > 0 { // gRPC's among them
			c := (<-conns).(*net.TCPConn)
			if rand.IntN(2) == 0 {
				c.SetLinger(0)
			}
			c.Close()
		}
	}
	await()
	close(stop)
	wg.Wait()
	mu.Lock()
	defer mu.Unlock()
	if bad != nil {
		t.Errorf("arrived: %v", bad)
	}
}

// A lane of a life that a later one has replaced is not heard any more, even if its hello was
// checked before.
func TestEarlierLifeDoesNotReplaceALaterOnesLane(t *testing.T) {
	p := &netPeer{}
	conn, other := net.Pipe()
	defer other.Close()
	lane := func(life uint64) *hearing { return &hearing{conn: conn, life: life, over: make(chan struct{})} }
	later := lane(8)
	if !p.replace(lane(7)) || !p.replace(later) || p.replace(lane(7)) || p.heard.Load() != later {
		t.Error("an earlier life's lane replaced a later one's")
	}
}

// A lane that fails while calls get through is told of: nothing else is missed until writes are.
func TestLaneThatFailsAloneIsLogged(t *testing.T) {
	ln1, a1 := listen(t)
	ln2, a2 := listen(t)
	addrs := map[keys.NodeID]string{1: a1, 2: a2}
	n2 := New(Config{Self: 2, Addrs: addrs})
	n2.HandleCalls(func(_ context.Context, _ keys.NodeID, _ byte, p []byte) []byte { return p })
	srv := grpc.NewServer(ServerOptions(false)...) // nothing but HTTP/2
	n2.Register(srv)
	go srv.Serve(ln2)
	defer srv.Stop()
	defer n2.Close()
	warned := make(warnings, 16)
	n1 := New(Config{Self: 1, Addrs: addrs, Logger: slog.New(warned)})
	defer n1.Close()
	ln1.Close()
	if err := n1.Start(); err != nil {
		t.Fatal(err)
	}
	for {
		select {
		case name := <-warned:
			if name == "lane" {
				return
			}
		case <-time.After(20 * time.Second):
			t.Fatal("nothing is said of the lane")
		}
	}
}

// warnings yields the streams that warnings are about.
type warnings chan string

func (w warnings) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }
func (w warnings) WithAttrs([]slog.Attr) slog.Handler           { return w }
func (w warnings) WithGroup(string) slog.Handler                { return w }
func (w warnings) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "stream" {
			select {
			case w <- a.Value.String():
			default:
			}
		}
		return true
	})
	return nil
}
