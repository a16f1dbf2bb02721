package lockservice_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"testing"

	"github.com/spandb/spand/internal/node"
	"github.com/spandb/spand/lockservice"
)

// addr is a node's rpc address, such as "127.0.0.1:15433".
var addr string

// TestMain starts the node that the examples use.
func TestMain(m *testing.M) {
	code := func() int {
		dir, err := os.MkdirTemp("", "lockservice")
		if err != nil {
			log.Fatal(err)
		}
		defer os.RemoveAll(dir)
		cfg := node.Default()
		cfg.DataDir, cfg.SQLAddr, cfg.RPCAddr, cfg.HTTPAddr = dir, "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
		n, err := node.Start(context.Background(), cfg, slog.New(slog.NewTextHandler(io.Discard, nil)))
		if err != nil {
			log.Print(err)
			return 1
		}
		defer n.Close()
		addr = n.Addrs().RPC
		return m.Run()
	}()
	os.Exit(code)
}

func ExampleHandle_Lock() {
	ctx := context.Background()
	c, err := lockservice.Dial(ctx, addr)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	s, err := c.NewSession(ctx, lockservice.SessionOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close(ctx)
	f, err := s.Open(ctx, "/ls/local/nightly", lockservice.OpenOptions{Create: lockservice.CreateIfAbsent})
	if err != nil {
		log.Fatal(err)
	}
	l, err := f.Lock(ctx)
	if err != nil {
		log.Fatal(err)
	}
	work := l.Context() // ends when the lock may be lost
	fmt.Println(l.State(), l.Fields().Path, work.Err())

	// What is done under the lock goes to stores that check l.Sequencer().

	if err := l.Unlock(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(l.State(), context.Cause(work))
	// Output:
	// held /ls/local/nightly <nil>
	// released lockservice: unlocked
}

func ExampleElection() {
	ctx := context.Background()
	c, err := lockservice.Dial(ctx, addr)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	for _, name := range []string{"a", "b"} { // two servers, one after the other
		s, err := c.NewSession(ctx, lockservice.SessionOptions{})
		if err != nil {
			log.Fatal(err)
		}
		e := lockservice.NewElection(s, "/ls/local/primary", lockservice.ElectionOptions{})
		l, err := e.Campaign(ctx, []byte(name+":80")) // waits until it is elected
		if err != nil {
			log.Fatal(err)
		}
		leader, err := e.Leader(ctx)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s leads: %v\n", leader.Value, l.Context().Err() == nil)
		if err := s.Close(ctx); err != nil { // as Resign does, and the end of the process when the lease is over
			log.Fatal(err)
		}
		fmt.Println(l.Context().Err() != nil)
	}
	// Output:
	// a:80 leads: true
	// true
	// b:80 leads: true
	// true
}

func ExampleNode_Subscribe() {
	ctx := context.Background()
	c, err := lockservice.Dial(ctx, addr)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	s, err := c.NewSession(ctx, lockservice.SessionOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close(ctx)
	settings := s.Node("/ls/local/settings")
	st, err := settings.SetContents(ctx, []byte("v1"), lockservice.OrCreate())
	if err != nil {
		log.Fatal(err)
	}
	// The events after what has been read: none is missed in between, nor in a fail-over.
	events, err := settings.Subscribe(ctx, lockservice.SubscribeOptions{After: st.Revision})
	if err != nil {
		log.Fatal(err)
	}
	defer events.Close()
	for _, text := range []string{"v2", "v3"} {
		if _, err := settings.SetContents(ctx, []byte(text)); err != nil {
			log.Fatal(err)
		}
	}
	for range 2 {
		e, err := events.Next(ctx)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(e.Kind, e.Path, e.Generation)
	}
	// Output:
	// CONTENTS_CHANGED /ls/local/settings 2
	// CONTENTS_CHANGED /ls/local/settings 3
}
