package rpc

import (
	"context"
	"io"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// ServerOptions are the package's for the server of this network: lanes are let in at the same
// port.
func (n *Network) ServerOptions(trustAll bool) []grpc.ServerOption {
	return append(ServerOptions(trustAll), grpc.Creds(&doorman{insecure.NewCredentials(), n, trustAll}))
}

// doorman tells lanes from gRPC connections by their first byte. Credentials are where gRPC lets
// a connection be looked at before it speaks HTTP/2, and be kept (ErrConnDispatched).
type doorman struct {
	credentials.TransportCredentials
	n        *Network
	trustAll bool
}

// ServerHandshake implements credentials.TransportCredentials. gRPC calls it on a goroutine of
// the connection's, with a deadline set.
func (d *doorman) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	hello := make([]byte, len(laneHello))
	// Who says nothing is not waited for by Close, nor by the server's end after it.
	silent := context.AfterFunc(d.n.ctx, func() { conn.Close() })
	_, err := io.ReadFull(conn, hello[:1])
	if !silent() || err != nil {
		return nil, nil, io.EOF
	}
	if hello[0] != laneHello[0] {
		return d.TransportCredentials.ServerHandshake(&begunConn{conn, hello[:1]})
	}
	if _, err := io.ReadFull(conn, hello[1:]); err != nil || string(hello) != laneHello || !d.n.admit(conn, d.trustAll) {
		conn.Close()
	}
	return nil, nil, credentials.ErrConnDispatched
}

// begunConn is a connection of which something has been read.
type begunConn struct {
	net.Conn
	read []byte
}

func (c *begunConn) Read(b []byte) (int, error) {
	if len(c.read) > 0 {
		n := copy(b, c.read)
		c.read = c.read[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}

// admit serves a lane, until Close at the latest; false after Close.
func (n *Network) admit(conn net.Conn, trustAll bool) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ctx.Err() != nil {
		return false
	}
	n.wg.Go(func() {
		defer context.AfterFunc(n.ctx, func() { conn.Close() })()
		n.serveLane(conn, trustAll)
	})
	return true
}
