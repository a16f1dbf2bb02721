package lockservice

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"

	"github.com/spandb/spand/lockservice/lockpb"
)

// doServer is a node of which only Do is of interest.
type doServer struct {
	lockpb.UnimplementedLockServiceServer
	do func(lockpb.LockService_DoServer) error
}

func (s doServer) Do(stream lockpb.LockService_DoServer) error { return s.do(stream) }

// peerOf returns a peer of a client without a cell, whose server does as it is told.
func peerOf(t *testing.T, do func(lockpb.LockService_DoServer) error) *peer {
	t.Helper()
	lis := bufconn.Listen(1 << 20)
	server := grpc.NewServer()
	lockpb.RegisterLockServiceServer(server, doServer{do: do})
	go server.Serve(lis)
	dial := append(dialOptions[:len(dialOptions):len(dialOptions)],
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))
	c := &Client{dial: dial, nodes: map[string]*peer{}, cells: map[string]*cell{}}
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	n := newPeer(c, "n1")
	t.Cleanup(func() {
		c.cancel(ErrClosed)
		n.close()
		server.Stop()
		c.wg.Wait()
	})
	return n
}

func aCall(name string) *lockpb.DoRequest {
	return &lockpb.DoRequest{Call: &lockpb.DoRequest_GetCell{GetCell: &lockpb.GetCellRequest{Cell: name}}}
}

// Whoever sends for himself is not held up by a server that has stopped reading, whatever
// calls on the stream were given up before his: what they sent is still on its way.
func TestSendingOverrunsNoContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := peerOf(t, func(stream lockpb.LockService_DoServer) error {
			req, err := stream.Recv()
			if err == nil {
				err = stream.Send(&lockpb.DoResponse{Id: req.Id})
			}
			if err != nil {
				return err
			}
			<-stream.Context().Done() // it reads no more
			return nil
		})
		if _, err := n.do(t.Context(), nil, nil, aCall("first"), notices{}); err != nil {
			t.Fatal(err)
		}
		name := strings.Repeat("x", 900)
		for i := range 400 {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
			began := time.Now()
			done := make(chan struct{})
			go func() {
				defer close(done)
				if _, err := n.do(ctx, nil, nil, aCall(name), notices{}); err == nil {
					t.Errorf("call %d: answered", i)
				}
			}()
			select {
			case <-done:
			case <-time.After(time.Second):
				t.Errorf("call %d still waits %v after it began", i, time.Since(began))
				n.forsake(errSilent)
				<-done
			}
			cancel()
			if t.Failed() {
				return
			}
		}
	})
}

// Requests of concurrent callers, small and large, go out once each, and none stays behind.
func TestConcurrentRequestsAreSentOnce(t *testing.T) {
	var mu sync.Mutex
	seen := map[string]int{}
	n := peerOf(t, func(stream lockpb.LockService_DoServer) error {
		for {
			req, err := stream.Recv()
			if err != nil {
				return err
			}
			mu.Lock()
			seen[req.GetGetCell().GetCell()]++
			mu.Unlock()
			if err := stream.Send(&lockpb.DoResponse{Id: req.Id}); err != nil {
				return err
			}
		}
	})
	const callers, calls = 36, 25 // more than send for themselves
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for j := range calls {
				name := fmt.Sprint(i, " ", j)
				if j%10 == i%10 {
					name += strings.Repeat(" ", 100<<10*(j%2)+2<<10) // beyond gRPC's quota of a stream
				}
				if _, err := n.do(ctx, nil, nil, aCall(name), notices{}); err != nil {
					t.Errorf("call %d of caller %d: %v", j, i, err)
					return
				}
			}
		})
	}
	wg.Wait()
	mu.Lock()
	defer mu.Unlock()
	if len(seen) != callers*calls {
		t.Errorf("%d different requests arrived of %d", len(seen), callers*calls)
	}
	for name, times := range seen {
		if times != 1 {
			t.Errorf("request %.10q arrived %d times", name, times)
		}
	}
}
