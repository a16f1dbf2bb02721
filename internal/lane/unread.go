package lane

import "net"

// Unread returns conn as if read had not been read of it yet: for a connection that turned out to be
// no lane.
func Unread(conn net.Conn, read []byte) net.Conn { return &unread{conn, read} }

type unread struct {
	net.Conn
	read []byte
}

func (c *unread) Read(b []byte) (int, error) {
	if len(c.read) > 0 {
		n := copy(b, c.read)
		c.read = c.read[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}
