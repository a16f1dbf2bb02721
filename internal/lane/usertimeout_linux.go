package lane

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// LimitUnacknowledged bounds how long the kernel waits for a peer to acknowledge what was sent,
// as gRPC does for its connections.
func LimitUnacknowledged(conn net.Conn, d time.Duration) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) {
		unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d/time.Millisecond))
	})
}
