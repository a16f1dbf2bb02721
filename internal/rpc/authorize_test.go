package rpc

import (
	"context"
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
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
