package pgwire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"syscall"
)

const (
	minReadBuffer = 8 << 10
	maxReadBuffer = 64 << 10 // beyond, the buffer grows only for one message and shrinks again
)

// reader frames what a client sends. Bodies it returns alias its buffer and are
// valid until the next call. It belongs to the connection's goroutine.
//
// It takes the place of pgproto3.Backend's reader for two reasons: what is
// already buffered can be looked at (whether Sync follows), and memory grows
// with the bytes that came, not with the length a client claims.
type reader struct {
	conn  net.Conn
	buf   []byte
	r, w  int   // unread bytes are buf[r:w]
	err   error // of the last Read; reported once the buffer is used up
	total int64 // bytes read, for metrics
}

func newReader(conn net.Conn) *reader {
	return &reader{conn: conn, buf: make([]byte, minReadBuffer)}
}

func (rd *reader) buffered() int { return rd.w - rd.r }

// header returns the type and body length of the next message if its five bytes
// have come. The length is not validated beyond being that of a message.
func (rd *reader) header() (typ byte, n int, ok bool) {
	if rd.w-rd.r < 5 {
		return 0, 0, false
	}
	h := rd.buf[rd.r:]
	return h[0], int(int32(binary.BigEndian.Uint32(h[1:5]))) - 4, true
}

// take consumes n buffered bytes.
func (rd *reader) take(n int) []byte {
	b := rd.buf[rd.r : rd.r+n : rd.r+n]
	rd.r += n
	return b
}

// syncNext reports whether a complete Sync message is next in the buffer.
func (rd *reader) syncNext() bool {
	typ, n, ok := rd.header()
	return ok && typ == msgSync && n == 0
}

// fill reads once from the connection; need is how many bytes the caller waits
// for in all. It moves buffered bytes, so slices taken before become invalid.
func (rd *reader) fill(need int) error {
	if rd.err != nil {
		return rd.err
	}
	switch {
	case rd.r == rd.w:
		rd.r, rd.w = 0, 0
		if len(rd.buf) > maxReadBuffer && need <= maxReadBuffer {
			rd.buf = make([]byte, maxReadBuffer)
		}
	case rd.r > 0 && rd.r+need > len(rd.buf):
		copy(rd.buf, rd.buf[rd.r:rd.w])
		rd.w -= rd.r
		rd.r = 0
	}
	if rd.w == len(rd.buf) {
		rd.grow(2 * len(rd.buf)) // so a large message costs memory only as it arrives
	}
	n, err := rd.conn.Read(rd.buf[rd.w:])
	rd.w += n
	rd.total += int64(n)
	if rd.w == len(rd.buf) && len(rd.buf) < maxReadBuffer {
		rd.grow(2 * len(rd.buf)) // a client that sends much at a time
	}
	if err != nil {
		var ne net.Error
		if errors.As(err, &ne) && ne.Timeout() {
			return err // an interruption, not the end
		}
		rd.err = err
		if n > 0 {
			return nil
		}
		return err
	}
	return nil
}

func (rd *reader) grow(size int) {
	b := make([]byte, size)
	rd.w = copy(b, rd.buf[rd.r:rd.w])
	rd.r = 0
	rd.buf = b
}

// append adds bytes that a peerWatch has read in the reader's place.
func (rd *reader) append(p []byte, err error) {
	if len(p) > 0 {
		if rd.w+len(p) > len(rd.buf) {
			rd.grow(max(2*len(rd.buf), rd.buffered()+len(p)))
		}
		rd.w += copy(rd.buf[rd.w:], p)
		rd.total += int64(len(p))
	}
	if err != nil && rd.err == nil {
		rd.err = err
	}
}

// body decodes the fields of one message. Errors stick, so that a decoder reads
// all its fields and asks once.
type body struct {
	b   []byte
	bad bool
}

func (d *body) fail() { d.bad, d.b = true, nil }

// bytesZ returns a NUL-terminated string without its NUL, aliasing the message.
func (d *body) bytesZ() []byte {
	i := bytes.IndexByte(d.b, 0)
	if i < 0 {
		d.fail()
		return nil
	}
	s := d.b[:i]
	d.b = d.b[i+1:]
	return s
}

func (d *body) byte() byte {
	if len(d.b) < 1 {
		d.fail()
		return 0
	}
	c := d.b[0]
	d.b = d.b[1:]
	return c
}

func (d *body) int16() int {
	if len(d.b) < 2 {
		d.fail()
		return 0
	}
	n := binary.BigEndian.Uint16(d.b)
	d.b = d.b[2:]
	return int(n)
}

func (d *body) int32() int32 {
	if len(d.b) < 4 {
		d.fail()
		return 0
	}
	n := binary.BigEndian.Uint32(d.b)
	d.b = d.b[4:]
	return int32(n)
}

func (d *body) next(n int) []byte {
	if n < 0 || n > len(d.b) {
		d.fail()
		return nil
	}
	s := d.b[:n:n]
	d.b = d.b[n:]
	return s
}

// done reports whether the message was exactly as long as its fields.
func (d *body) done() bool { return !d.bad && len(d.b) == 0 }

// isClosed reports errors that mean that the client has gone.
func isClosed(err error) bool {
	for _, e := range []error{io.EOF, net.ErrClosed, io.ErrClosedPipe, syscall.ECONNRESET, syscall.EPIPE, syscall.ECONNABORTED} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
