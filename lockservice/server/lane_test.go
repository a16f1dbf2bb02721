package server

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/spandb/spand/internal/lane"
	"github.com/spandb/spand/lockservice/lockpb"
)

// doClient is a client's end of a Do stream, or of a lane.
type doClient interface {
	Send(*lockpb.DoRequest) error
	Recv() (*lockpb.DoResponse, error)
	CloseSend() error
}

// overBoth runs a test of the first node's Do over gRPC, and over a lane.
func overBoth(t *testing.T, test func(t *testing.T, dial func(*world) doClient)) {
	t.Run("gRPC", func(t *testing.T) {
		test(t, func(w *world) doClient {
			ss, err := w.clients[1].Do(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return ss
		})
	})
	t.Run("lane", func(t *testing.T) { test(t, func(w *world) doClient { return openLane(t, w) }) })
}

// laneClient speaks to ServeLane.
type laneClient struct {
	net.Conn
	in     *bufio.Reader
	served chan struct{} // closed when ServeLane has returned
}

func openLane(t *testing.T, w *world) *laneClient {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	here, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	there, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		w.servers[1].ServeLane(there)
		close(served)
	}()
	t.Cleanup(func() {
		here.Close()
		<-served
	})
	return &laneClient{here, bufio.NewReader(here), served}
}

func (c *laneClient) CloseSend() error { return c.Close() }

func (c *laneClient) Send(req *lockpb.DoRequest) error {
	b, err := proto.Marshal(req)
	if err == nil {
		_, err = c.Write(lane.Append(nil, b))
	}
	return err
}

func (c *laneClient) Recv() (*lockpb.DoResponse, error) {
	for {
		b, err := lane.Read(c.in, 64<<20, nil)
		if err != nil {
			return nil, err
		}
		if len(b) == 0 { // a sign of progress
			continue
		}
		resp := new(lockpb.DoResponse)
		return resp, proto.Unmarshal(b, resp)
	}
}

func statOf(id uint64) *lockpb.DoRequest {
	return &lockpb.DoRequest{Id: id, Call: &lockpb.DoRequest_GetStat{GetStat: &lockpb.GetRequest{Handle: handle()}}}
}

func TestLaneAnswersPings(t *testing.T) {
	c := openLane(t, newWorld(t, 1, echo))
	for id := range uint64(3) {
		if _, err := c.Write(lane.Append(nil, nil)); err != nil {
			t.Fatal(err)
		}
		if b, err := lane.Read(c.in, 10, nil); err != nil || len(b) != 0 {
			t.Fatalf("a ping is answered with %q, %v", b, err)
		}
		c.Send(statOf(id + 1))
		if r, err := c.Recv(); err != nil || r.Id != id+1 {
			t.Fatalf("%v, %v", r, err)
		}
	}
}

// What a client sends that is no request ends its lane, and nothing else.
func TestLaneRefusesWhatIsNoRequest(t *testing.T) {
	for name, bytes := range map[string][]byte{
		"no message":         lane.Append(nil, []byte{0xff, 0xff}),
		"a frame too long":   {0xff, 0xff, 0xff, 0xff},
		"an end in a frame":  {0, 0, 0, 9, 1},
		"an end in a length": {0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1, echo)
			c := openLane(t, w)
			if _, err := c.Write(bytes); err != nil {
				t.Fatal(err)
			}
			c.Conn.(*net.TCPConn).CloseWrite()
			if r, err := c.Recv(); !errors.Is(err, io.EOF) {
				t.Errorf("answered with %v, %v", r, err)
			}
			other := openLane(t, w)
			other.Send(statOf(1))
			if r, err := other.Recv(); err != nil || r.GetGetStat() == nil {
				t.Errorf("another lane's call: %v, %v", r, err)
			}
		})
	}
}

// The node's end is told to those who wait on a lane, with the new leader's address, and then the
// connection ends.
func TestShutdownEndsLanes(t *testing.T) {
	w := newWorld(t, 2, echo)
	c := openLane(t, w)
	const waiting = 3 * fewCalls
	for id := range uint64(waiting) {
		c.Send(&lockpb.DoRequest{Id: id + 1, Call: &lockpb.DoRequest_Acquire{Acquire: &lockpb.AcquireRequest{Handle: handle()}}})
		if r, err := c.Recv(); err != nil || r.GetWaiting() == 0 {
			t.Fatalf("%v, %v", r, err)
		}
	}
	w.believe(1, 2)
	w.servers[1].Shutdown(t.Context())
	for range waiting {
		r, err := c.Recv()
		if i := r.GetFailure().GetInfo(); err != nil || i.GetReason() != reasonNotLeader || i.GetLeader().GetNode() != "n2" {
			t.Errorf("Acquire: %v, %v", r, err)
		}
	}
	if r, err := c.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last answer: %v, %v", r, err)
	}
}

// A client that takes no answers is read no more when maxAnswers wait for it; neither it nor the
// server's end is waited for longer than partingPatience.
func TestLaneWhoseAnswersAreNotTaken(t *testing.T) {
	const size = 64 << 10
	w := newWorld(t, 1, func(_ context.Context, _ string, req *lockpb.DoRequest, _ func(int64)) *lockpb.DoResponse {
		return &lockpb.DoResponse{Answer: &lockpb.DoResponse_GetContentsAndStat{GetContentsAndStat: &lockpb.GetContentsAndStatResponse{Contents: make([]byte, size)}}}
	})
	c := openLane(t, w)
	sent := 0
	for {
		c.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
		req := &lockpb.DoRequest{Id: uint64(sent + 1), Call: &lockpb.DoRequest_SetContents{SetContents: &lockpb.SetContentsRequest{Handle: handle(), Contents: make([]byte, size)}}}
		if err := c.Send(req); err != nil {
			break
		}
		if sent++; sent > 10*maxAnswers/size {
			t.Fatal("all is read, although no answer is taken")
		}
	}
	took := make(chan time.Duration, 1)
	go func() {
		began := time.Now()
		w.servers[1].Shutdown(context.Background())
		took <- time.Since(began)
	}()
	select {
	case <-took:
	case <-time.After(20 * time.Second):
		t.Fatal("the server's end waits for a client that takes nothing")
	}
}

// A client that goes with answers untaken leaves nothing behind, also if the node was waiting for it to
// take them before it read on.
func TestLaneOfAClientThatGoes(t *testing.T) {
	for name, atOnce := range map[string]int{"answers one by one": 1, "many at once": 100} {
		t.Run(name, func(t *testing.T) {
			calls := make(chan struct{}, 1000)
			w := newWorld(t, 1, func(_ context.Context, _ string, req *lockpb.DoRequest, _ func(int64)) *lockpb.DoResponse {
				calls <- struct{}{}
				return &lockpb.DoResponse{Answer: &lockpb.DoResponse_GetContentsAndStat{GetContentsAndStat: &lockpb.GetContentsAndStatResponse{Contents: make([]byte, 256<<10)}}}
			})
			c := openLane(t, w)
			for id := uint64(1); ; id++ {
				c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
				if c.Send(&lockpb.DoRequest{Id: id, Call: &lockpb.DoRequest_GetContentsAndStat{GetContentsAndStat: &lockpb.GetRequest{Handle: handle()}}}) != nil {
					break
				}
				if id%uint64(atOnce) != 0 {
					continue
				}
				read := 0
				for timeout := time.After(300 * time.Millisecond); read < atOnce; read++ {
					select {
					case <-calls:
						continue
					case <-timeout:
					}
					break
				}
				if read < atOnce {
					break // it is read no more
				}
			}
			c.Conn.(*net.TCPConn).SetLinger(0)
			c.Close()
			select {
			case <-c.served:
			case <-time.After(20 * time.Second):
				t.Error("the lane outlives its client")
			}
		})
	}
}

// However many answers come at once, and however large they are, a client that takes them gets them all.
func TestLaneDeliversWhatIsTaken(t *testing.T) {
	w := newWorld(t, 1, func(_ context.Context, _ string, req *lockpb.DoRequest, _ func(int64)) *lockpb.DoResponse {
		return &lockpb.DoResponse{Answer: &lockpb.DoResponse_GetContentsAndStat{GetContentsAndStat: &lockpb.GetContentsAndStatResponse{Contents: make([]byte, 256<<10)}}}
	})
	c := openLane(t, w)
	c.SetReadDeadline(time.Now().Add(30 * time.Second))
	id := uint64(0)
	for round := range 60 {
		n := 1 + round%24
		for range n {
			id++
			if err := c.Send(&lockpb.DoRequest{Id: id, Call: &lockpb.DoRequest_GetContentsAndStat{GetContentsAndStat: &lockpb.GetRequest{Handle: handle()}}}); err != nil {
				t.Fatal(err)
			}
		}
		for i := range n {
			if _, err := c.Recv(); err != nil {
				t.Fatalf("round %d, answer %d of %d: %v", round, i, n, err)
			}
		}
	}
}
