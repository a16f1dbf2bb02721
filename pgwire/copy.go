package pgwire

import (
	"errors"
	"io"
	"net"

	"github.com/spandb/spand/sql/sqlstate"
)

// copyReader streams the payload of a client's CopyData messages: io.EOF after
// CopyDone. Messages are not collected, so their size does not matter.
type copyReader struct {
	c    *conn
	left int   // of the current CopyData, not read yet
	end  error // sticks
}

// Read returns what has arrived, over the bounds of messages, and waits for the
// client only if that is nothing.
func (r *copyReader) Read(p []byte) (int, error) {
	if r.end != nil {
		return 0, r.end
	}
	if len(p) == 0 {
		return 0, nil
	}
	rd := r.c.rd
	n := 0
	for n < len(p) {
		if r.left > 0 {
			if rd.buffered() == 0 {
				if n > 0 {
					break
				}
				if err := r.fill(1); err != nil {
					return n, err
				}
				continue
			}
			k := copy(p[n:], rd.buf[rd.r:min(rd.w, rd.r+r.left)])
			rd.r += k
			r.left -= k
			n += k
			continue
		}
		typ, size, ok := rd.header()
		if !ok {
			if n > 0 {
				break
			}
			if err := r.fill(5); err != nil {
				return n, err
			}
			continue
		}
		if typ == msgCopyData && size >= 0 {
			rd.take(5)
			r.left = size
			continue
		}
		if n > 0 {
			break // first what came before it
		}
		if err := r.control(typ, size); err != nil {
			r.end = err
			return 0, err
		}
	}
	return n, nil
}

// control handles a message that is not CopyData; an error ends the stream.
func (r *copyReader) control(typ byte, size int) error {
	limit, known := bodyLimit(typ, r.c.srv.cfg.MaxMessageBytes)
	if !known || size < 0 || size > limit {
		return r.abort(protocolf("invalid message during COPY from stdin"))
	}
	rd := r.c.rd
	switch typ {
	case msgCopyDone, msgCopyFail, msgFlush, msgSync:
		for rd.buffered() < 5+size {
			if err := r.fill(5 + size); err != nil {
				return err
			}
		}
		b := rd.take(5 + size)[5:]
		r.c.messages++
		switch typ {
		case msgCopyDone:
			return io.EOF
		case msgCopyFail:
			d := body{b: b}
			why := string(d.bytesZ())
			return sqlstate.Newf(sqlstate.QueryCanceled, "COPY from stdin failed: %s", why)
		}
		return nil // Flush and Sync mean nothing here
	case msgTerminate:
		r.c.fatalErr = &closeError{}
		return r.c.fatalErr
	}
	// A client that has forgotten about the COPY: it and the server no longer agree
	// on where they are.
	return r.abort(protocolf("unexpected message type 0x%02X during COPY from stdin", typ))
}

// abort ends the connection.
func (r *copyReader) abort(e *sqlstate.Error) error {
	r.c.fatalErr = fatal(e)
	return r.c.fatalErr
}

// fill waits for the client; cancelling the statement interrupts it.
func (r *copyReader) fill(need int) error {
	c := r.c
	if err := c.flush(); err != nil {
		return err
	}
	if why := c.mon.interrupted(); why != nil && c.mon.fatal() == nil {
		r.end = why
		return why
	}
	err := c.rd.fill(need)
	if err == nil {
		return nil
	}
	if e := c.mon.fatal(); e != nil {
		r.end = r.abort(e)
		return r.end
	}
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		if why := c.mon.interrupted(); why != nil {
			r.end = why
			return why
		}
	}
	c.fatalErr = &closeError{cause: err}
	r.end = c.fatalErr
	return r.end
}

// copyWriter sends each Write as one CopyData message; clients expect one row
// in each.
type copyWriter struct {
	c      *conn
	closed bool
}

func (w *copyWriter) Write(p []byte) (int, error) {
	if w.closed {
		return 0, io.ErrClosedPipe
	}
	at := w.c.message(msgCopyData)
	w.c.out = append(w.c.out, p...)
	w.c.patch(at)
	if err := w.c.flushIfFull(); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (w *copyWriter) Close() error {
	if !w.closed {
		w.closed = true
		w.c.bare(msgCopyDone)
	}
	return nil
}
