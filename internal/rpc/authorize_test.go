package rpc

import (
	"bufio"
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/paxosgroup"
)

// farListener makes its connections seem to come from another machine.
type farListener struct{ net.Listener }

func (l farListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return farConn{c}, nil
}

type farConn struct{ net.Conn }

func (farConn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 4711} }

// Every RPC from beyond loopback, of whatever service, is refused without
// --insecure.
func TestRPCFromBeyondLoopbackNeedsInsecure(t *testing.T) {
	for _, c := range []struct {
		name          string
		far, insecure bool
		want          codes.Code
	}{
		{"loopback", false, false, codes.OK},
		{"beyond", true, false, codes.Unauthenticated},
		{"beyond, insecure", true, true, codes.OK},
	} {
		ln, addr := listen(t)
		if c.far {
			ln = farListener{ln}
		}
		srv := grpc.NewServer(ServerOptions(c.insecure)...)
		healthpb.RegisterHealthServer(srv, health.NewServer())
		go srv.Serve(ln)
		conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		client := healthpb.NewHealthClient(conn)
		if _, err := client.Check(context.Background(), &healthpb.HealthCheckRequest{}); status.Code(err) != c.want {
			t.Errorf("%s: a unary call: %v", c.name, err)
		}
		stream, err := client.Watch(context.Background(), &healthpb.HealthCheckRequest{})
		if err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != c.want {
			t.Errorf("%s: a stream: %v", c.name, err)
		}
		conn.Close()
		srv.Stop()
	}
}

// So is a lane, before its hello is read, and its opener is told.
func TestLaneFromBeyondLoopbackNeedsInsecure(t *testing.T) {
	for _, insecure := range []bool{false, true} {
		ln, addr := listen(t)
		n := New(Config{Self: 2, Addrs: map[keys.NodeID]string{1: "", 2: addr}})
		n.Handle(func(keys.NodeID, paxosgroup.Class, []byte) {})
		srv := grpc.NewServer(n.ServerOptions(insecure)...)
		go srv.Serve(farListener{ln})
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		answer := func() (string, error) {
			conn.SetReadDeadline(time.Now().Add(20 * time.Second))
			b, err := readLengthened(bufio.NewReader(conn), maxHello, nil)
			return string(b), err
		}
		if insecure {
			_, err = New(Config{Self: 1, Addrs: map[keys.NodeID]string{1: "", 2: addr}}).sayHello(conn, 2, paxosgroup.ClassRaft)
			if err != nil {
				t.Errorf("insecure: %v", err)
			}
		} else {
			if _, err := conn.Write([]byte(laneHello)); err != nil {
				t.Fatal(err)
			}
			if why, err := answer(); err != nil || !strings.Contains(why, "only loopback is trusted") {
				t.Errorf("not insecure: answered %q, %v", why, err)
			}
		}
		conn.Close()
		n.Close()
		srv.Stop()
	}
}
