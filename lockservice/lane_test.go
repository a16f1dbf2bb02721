package lockservice

import (
	"bufio"
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/spandb/spand/internal/lane"
	"github.com/spandb/spand/lockservice/lockpb"
)

// wire counts the connections to a cluster, and may swallow what comes from them.
type wire struct {
	c *fakeCluster

	mu    sync.Mutex
	dials int
	cut   bool // nothing arrives any more, either way; connections stand
}

func (w *wire) dial(ctx context.Context, addr string) (net.Conn, error) {
	conn, err := w.c.dialer(ctx, addr)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dials++
	return &wiredConn{Conn: conn, w: w}, err
}

func (w *wire) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dials
}

type wiredConn struct {
	net.Conn
	w *wire
}

func (c *wiredConn) Write(b []byte) (int, error) {
	c.w.mu.Lock()
	cut := c.w.cut
	c.w.mu.Unlock()
	if cut {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

func cells(t *testing.T, client *Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := client.Cells(ctx); err != nil {
		t.Error(err)
	}
}

// A node that does not know lanes is asked once, and then served over gRPC; one that does is served
// over a lane at once, and over gRPC alone when that has been told something.
func TestLanesWhereTheyAreWelcome(t *testing.T) {
	for _, tc := range []struct {
		name  string
		plain bool
		opts  []Option
		dials int // for two openings of the stream
	}{
		{"lanes", false, nil, 2},
		{"an older node", true, nil, 2}, // a lane in vain, then gRPC's
		{"gRPC told something", false, []Option{WithGRPC(grpc.WithUserAgent("x"))}, 1},
		{"and lanes nevertheless", false, []Option{WithGRPC(grpc.WithUserAgent("x")), WithLanes()}, 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newFakeCluster(t, 1)
				c.plain = tc.plain
				w := &wire{c: c}
				client, err := Dial(t.Context(), "n1", append(tc.opts, WithDialer(w.dial), WithClock(c.clock))...)
				if err != nil {
					t.Fatal(err)
				}
				defer client.Close()
				cells(t, client)
				n := client.peer("n1")
				n.prompt().fail(errSilent) // as if it broke
				cells(t, client)
				if got := w.count(); got != tc.dials {
					t.Errorf("%d connections, want %d", got, tc.dials)
				}
				// A node that did not may welcome lanes later: it was upgraded, or about to end.
				c.plain = false
				time.Sleep(plainFor)
				n.prompt().fail(errSilent)
				cells(t, client)
				if got, want := n.prompt().stream.prompt(), tc.name != "gRPC told something"; got != want {
					t.Errorf("later over a lane: %v, want %v", got, want)
				}
			})
		})
	}
}

// A lane that carries nothing any more is found out by its pings, as gRPC's connections are, though a
// call that waits for a lock is owed no answer; and one that is idle stays.
func TestSilentLaneIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		c.plain = false
		w := &wire{c: c}
		client, err := Dial(t.Context(), "n1", WithDialer(w.dial), WithClock(c.clock))
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		cells(t, client)
		n := client.peer("n1")
		first := n.prompt()
		time.Sleep(5 * time.Minute)
		if first.isBroken() || n.prompt() != first {
			t.Fatal("an idle lane was given up")
		}
		w.mu.Lock()
		w.cut = true
		w.mu.Unlock()
		time.Sleep(silentFor + time.Second)
		synctest.Wait()
		if !first.isBroken() {
			t.Error("a lane that carries nothing is taken to be alive")
		}
	})
}

// Who accepts a connection and says nothing is not waited for: the call goes over gRPC, and a lane is
// tried again later.
func TestSlowWelcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		c.plain = false
		var silent []net.Conn
		dials := 0
		client, err := Dial(t.Context(), "n1", WithClock(c.clock), WithDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			if dials++; dials == 1 {
				here, there := net.Pipe()
				silent = append(silent, there)
				go func() { // it takes the hello
					there.Read(make([]byte, 1024))
				}()
				return here, nil
			}
			return c.dialer(ctx, addr)
		}))
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		s := client.peer("n1").prompt()
		if s.stream.prompt() {
			t.Fatal("the stream is a lane, which nobody welcomed")
		}
		s.fail(errSilent)
		cells(t, client)
		if !client.peer("n1").prompt().stream.prompt() {
			t.Error("a lane was not tried again")
		}
		for _, conn := range silent {
			conn.Close()
		}
	})
}

// Callers' requests and the answers arrive whole and in order, however they are sent: one at a time by
// the caller himself, or many at once by the stream's writer.
func TestLaneCarriesManyCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		c.plain = false
		c.answer = func(req *lockpb.DoRequest) *lockpb.DoResponse {
			return &lockpb.DoResponse{Answer: &lockpb.DoResponse_ListCells{ListCells: &lockpb.ListCellsResponse{}}}
		}
		client, err := Dial(t.Context(), "n1", WithDialer(c.dialer), WithClock(c.clock))
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		const callers, each = 30, 50
		var wg sync.WaitGroup
		for range callers {
			wg.Go(func() {
				for range each {
					cells(t, client)
				}
			})
		}
		wg.Wait()
		calls := c.made(func(*lockpb.DoRequest) bool { return true })
		if len(calls) != callers*each {
			t.Errorf("%d calls arrived, not %d", len(calls), callers*each)
		}
		seen := map[uint64]bool{}
		for _, r := range calls {
			if seen[r.Id] {
				t.Fatalf("call %d arrived twice", r.Id)
			}
			seen[r.Id] = true
		}
	})
}

// An answer is waited for as long as something of it comes, however slowly.
func TestSlowAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			io.ReadFull(there, make([]byte, lane.HelloBytes))
			in := bufio.NewReader(there)
			lane.Read(in, 1000, nil)
			there.Write(lane.Append(nil, nil))
			wg.Go(func() { io.Copy(io.Discard, in) })
			b, _ := proto.Marshal(&lockpb.DoResponse{Id: 1, Answer: &lockpb.DoResponse_Waiting{Waiting: 1 << 60}})
			for _, c := range lane.Append(nil, b) {
				time.Sleep(silentFor / 2)
				there.Write([]byte{c})
			}
		})
		l, err := openLane(ctx, func(context.Context, string) (net.Conn, error) { return here, nil }, "x")
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(l.run)
		if resp, err := l.Recv(); err != nil || resp.GetWaiting() != 1<<60 {
			t.Errorf("%v, %v", resp, err)
		}
		if resp, err := l.Recv(); err == nil {
			t.Errorf("%v, and then silence", resp)
		}
		cancel()
		there.Close()
		wg.Wait()
	})
}
