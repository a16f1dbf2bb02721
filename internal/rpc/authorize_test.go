package rpc

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/lane"
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
		n.Handle(receive(func(keys.NodeID, paxosgroup.Class, []byte) {}))
		srv := grpc.NewServer(n.ServerOptions(insecure)...)
		go srv.Serve(farListener{ln})
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		answer := func() (string, error) {
			conn.SetReadDeadline(time.Now().Add(20 * time.Second))
			b, err := lane.Read(bufio.NewReader(conn), maxHello, nil)
			return string(b), err
		}
		if insecure {
			_, err = New(Config{Self: 1, Addrs: map[keys.NodeID]string{1: "", 2: addr}}).sayHello(conn, 2, paxosgroup.ClassRaft)
			if err != nil {
				t.Errorf("insecure: %v", err)
			}
		} else {
			if _, err := conn.Write([]byte(lane.RaftHello)); err != nil {
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

// A client's lane is given to who serves clients, if it may speak to this node at all, says what it is
// for, and the node has somebody for it; it ends with the network.
func TestClientLane(t *testing.T) {
	said := lane.Append([]byte(lane.CallsHello), []byte(lane.CallsMethod))
	for _, tc := range []struct {
		name    string
		far     bool // beyond loopback
		served  bool
		says    []byte
		welcome string // part of the answer; empty: an empty one
	}{
		{"welcome", false, true, said, ""},
		{"beyond loopback", true, true, said, "only loopback is trusted"},
		{"nobody serves", false, false, said, errNotReady.Error()},
		{"of another service", false, true, bytes.Replace(said, []byte("lock"), []byte("luck"), 1), "this lane is for " + lane.CallsMethod},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ln, addr := listen(t)
			n := New(Config{Self: 1, Addrs: map[keys.NodeID]string{1: addr}})
			if tc.served {
				n.HandleClients(func(conn net.Conn) {
					if _, ok := conn.(*net.TCPConn); !ok { // lanes write to no other by themselves
						t.Errorf("it is a %T", conn)
					}
					io.Copy(conn, conn)
				})
			}
			srv := grpc.NewServer(n.ServerOptions(false)...)
			defer srv.Stop()
			if tc.far {
				go srv.Serve(farListener{ln})
			} else {
				go srv.Serve(ln)
			}
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(20 * time.Second))
			if _, err := conn.Write(tc.says); err != nil {
				t.Fatal(err)
			}
			in := bufio.NewReader(conn)
			why, err := lane.Read(in, maxHello, nil)
			if err != nil && !tc.far { // there the answer may be lost with what was not read
				t.Fatal(err)
			}
			if err == nil && (tc.welcome == "" && len(why) > 0 || !strings.Contains(string(why), tc.welcome)) {
				t.Errorf("answered %q", why)
			}
			if tc.welcome == "" {
				if _, err := conn.Write([]byte("echo")); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(in, make([]byte, 4)); err != nil {
					t.Errorf("after the welcome: %v", err)
				}
			}
			n.Close()
			if b, err := io.ReadAll(in); len(b) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("at the end: %q, %v", b, err)
			}
		})
	}
}

// Who begins a client's lane and says no more is cut off, and so is waited for by nobody.
func TestClientsHelloIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := bufconn.Listen(1 << 10)
		n := startWith(t, Config{Self: 1}, ln, func(n *Network) { n.HandleClients(func(net.Conn) { t.Error("it is served") }) })
		defer n.stop()
		conn, err := ln.Dial()
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if _, err := conn.Write([]byte(lane.CallsHello + "\x00")); err != nil {
			t.Fatal(err)
		}
		conn.SetReadDeadline(began.Add(time.Minute))
		io.ReadAll(conn)
		if took := time.Since(began); took > helloTimeout {
			t.Errorf("cut off after %v", took)
		}
	})
}
