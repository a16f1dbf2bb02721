package lane

import (
	"net"
	"syscall"
)

// way is a connection, and how to write to it without waiting.
type way struct {
	conn net.Conn
	raw  syscall.RawConn // nil: it can only be waited for
	try  func(fd uintptr) bool
	// Of whoever writes.
	buf []byte
	n   int
}

func newWay(conn net.Conn) *way {
	w := &way{conn: conn}
	if c, ok := conn.(*net.TCPConn); ok { // and not whatever has one in it: its Write may do more
		if raw, err := c.SyscallConn(); err == nil {
			w.raw, w.try = raw, w.write
		}
	}
	return w
}

// tryWrite writes as much of buf as the kernel takes at once. An error, which it does not
// return, is met again by whoever writes the rest.
func (w *way) tryWrite(buf []byte) int {
	if w.raw == nil {
		return 0
	}
	w.buf, w.n = buf, 0
	if err := w.raw.Write(w.try); err != nil {
		return 0
	}
	w.buf = nil
	return w.n
}

func (w *way) write(fd uintptr) bool {
	for {
		n, err := syscall.Write(int(fd), w.buf)
		if err == syscall.EINTR {
			continue
		}
		w.n = max(n, 0)
		return true
	}
}
