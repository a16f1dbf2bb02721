package rpc

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/spandb/spand/internal/lane"
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
	hello := make([]byte, lane.HelloBytes)
	// Who says nothing is not waited for by Close, nor by the server's end after it.
	silent := context.AfterFunc(d.n.ctx, func() { conn.Close() })
	defer silent()
	if _, err := io.ReadFull(conn, hello[:1]); err != nil {
		return nil, nil, io.EOF
	}
	if hello[0] != lane.RaftHello[0] {
		if !silent() {
			return nil, nil, io.EOF
		}
		return d.TransportCredentials.ServerHandshake(lane.Unread(conn, hello[:1]))
	}
	if _, err := io.ReadFull(conn, hello[1:]); err != nil || !silent() || !d.admit(string(hello), conn) {
		conn.Close()
	}
	return nil, nil, credentials.ErrConnDispatched
}

func (d *doorman) admit(hello string, conn net.Conn) bool {
	switch hello {
	case lane.RaftHello:
		return d.n.admit(conn, func() { d.n.serveLane(conn, d.trustAll) })
	case lane.CallsHello:
		return d.n.admit(conn, func() { d.n.serveClient(conn, d.trustAll) })
	}
	return false
}

// admit has a lane served, which closes it at its end, until Close at the latest; false after Close.
func (n *Network) admit(conn net.Conn, serve func()) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ctx.Err() != nil {
		return false
	}
	n.wg.Go(func() {
		defer context.AfterFunc(n.ctx, func() { conn.Close() })()
		serve()
	})
	return true
}

// serveClient welcomes a client's lane, with an empty frame, or says why not, and lets who serves
// clients have it.
func (n *Network) serveClient(conn net.Conn, trustAll bool) {
	defer conn.Close()
	lane.LimitUnacknowledged(conn, pingTimeout)
	n.mu.Lock()
	serve := n.clients
	n.mu.Unlock()
	err := trusted(conn.RemoteAddr(), trustAll)
	if err == nil && serve == nil {
		err = errNotReady
	}
	if err == nil {
		err = heardHello(conn)
	}
	why := ""
	if err != nil {
		why = err.Error()
	}
	if _, werr := conn.Write(lane.Append(nil, []byte(why))); werr == nil && err == nil {
		serve(conn)
	}
}

func heardHello(conn net.Conn) error {
	late := time.AfterFunc(helloTimeout, func() { conn.Close() }) // see welcome
	defer late.Stop()
	said := make([]byte, len(lane.Append(nil, []byte(lane.CallsMethod))))
	if _, err := io.ReadFull(conn, said); err != nil {
		return err
	}
	if !bytes.Equal(said, lane.Append(nil, []byte(lane.CallsMethod))) {
		return fmt.Errorf("this lane is for %s", lane.CallsMethod)
	}
	return nil
}
