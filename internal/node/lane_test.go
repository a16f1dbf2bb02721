package node

import (
	"context"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/spandb/spand/lockservice"
	"github.com/spandb/spand/lockservice/lockpb"
)

// The Go client and a node agree on lanes: its calls open no gRPC stream, its leases do.
func TestCallsGoOverALane(t *testing.T) {
	n := startAll(t, []Config{testConfig(t.TempDir(), "n1")})[0]
	var mu sync.Mutex
	opened := map[string]int{}
	count := func(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		mu.Lock()
		opened[method]++
		mu.Unlock()
		return open(ctx, desc, conn, method, opts...)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c, err := lockservice.Dial(ctx, n.Addrs().RPC, lockservice.WithGRPC(grpc.WithStreamInterceptor(count)), lockservice.WithLanes())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := c.NewSession(ctx, lockservice.SessionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	h, err := s.Open(ctx, "/ls/local/x", lockservice.OpenOptions{Create: lockservice.CreateIfAbsent})
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		l, err := h.Lock(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Unlock(ctx); err != nil {
			t.Fatal(err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if opened[lockpb.LockService_Do_FullMethodName] != 0 || opened[lockpb.LockService_KeepAlive_FullMethodName] == 0 {
		t.Errorf("gRPC streams were opened: %v", opened)
	}
}
