package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// usageError is a connection string that cannot be understood.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }

// handler receives what one query string yields, in order. Its errors end the
// connection's usefulness only if they come from Notice and the like; they are
// reported once the server is done.
type handler interface {
	Columns([]pgproto3.FieldDescription) error
	Row([][]byte) error
	Complete(tag string) error
	Notice(*pgconn.PgError)
	// CopyOut receives COPY TO STDOUT's data; CopyIn supplies COPY FROM STDIN's.
	CopyOut([]byte) error
	CopyIn(io.Writer) error
}

// conn is a connection that has shaken hands; it runs one query at a time.
type conn struct {
	net    net.Conn
	fe     *pgproto3.Frontend
	cancel []byte // CancelRequest message
	status byte   // transaction status: I, T or E
	params map[string]string
	broken error

	running atomic.Bool // a query runs: requestCancel, from elsewhere, makes sense
}

func connect(ctx context.Context, url string) (*conn, error) {
	cfg, err := pgconn.ParseConfig(url)
	if err != nil {
		return nil, &usageError{err}
	}
	if cfg.RuntimeParams["application_name"] == "" {
		cfg.RuntimeParams["application_name"] = "spansql"
	}
	var early []*pgconn.PgError
	cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { early = append(early, (*pgconn.PgError)(n)) }
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = 15 * time.Second
	}
	pc, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	h, err := pc.Hijack()
	if err != nil {
		return nil, err
	}
	c := &conn{net: h.Conn, fe: h.Frontend, status: h.TxStatus, params: h.ParameterStatuses}
	c.cancel, err = (&pgproto3.CancelRequest{ProcessID: h.PID, SecretKey: h.SecretKey}).Encode(nil)
	return c, err
}

func (c *conn) close() {
	if c.broken == nil {
		c.fe.Send(&pgproto3.Terminate{})
		c.fe.Flush()
	}
	c.net.Close()
}

// run sends a query string and hands its results to h until the server is ready
// again. It returns the server's error, else the first of h's.
func (c *conn) run(sql string, h handler) (time.Duration, error) {
	if c.broken != nil {
		return 0, c.broken
	}
	c.running.Store(true)
	defer c.running.Store(false)
	start := time.Now()
	err := c.exchange(sql, h)
	return time.Since(start), err
}

// exchange is one cycle of the simple query protocol.
func (c *conn) exchange(sql string, h handler) error {
	c.fe.Send(&pgproto3.Query{String: sql})
	if err := c.fe.Flush(); err != nil {
		return c.lost(err)
	}
	var first error
	note := func(err error) {
		if first == nil {
			first = err
		}
	}
	for {
		m, err := c.fe.Receive()
		if err != nil {
			if first != nil {
				c.broken = errors.New("the connection is lost")
				return first // a FATAL error, usually
			}
			return c.lost(err)
		}
		switch m := m.(type) {
		case *pgproto3.RowDescription:
			note(h.Columns(m.Fields))
		case *pgproto3.DataRow:
			if first == nil {
				note(h.Row(m.Values))
			}
		case *pgproto3.CommandComplete:
			if first == nil {
				note(h.Complete(string(m.CommandTag)))
			}
		case *pgproto3.ErrorResponse:
			note(pgconn.ErrorResponseToPgError(m))
		case *pgproto3.NoticeResponse:
			h.Notice(pgconn.ErrorResponseToPgError((*pgproto3.ErrorResponse)(m)))
		case *pgproto3.ParameterStatus:
			c.params[m.Name] = m.Value
		case *pgproto3.CopyOutResponse, *pgproto3.CopyDone, *pgproto3.EmptyQueryResponse, *pgproto3.NotificationResponse:
		case *pgproto3.CopyData:
			if first == nil {
				note(h.CopyOut(m.Data))
			}
		case *pgproto3.CopyInResponse:
			if err := c.copyIn(h); err != nil {
				return c.lost(err)
			}
		case *pgproto3.ReadyForQuery:
			c.status = m.TxStatus
			return first
		default:
			return c.lost(fmt.Errorf("unexpected message %T from the server", m))
		}
	}
}

// copyIn sends h's data. An error of h's makes the COPY fail; the error returned
// is the connection's.
func (c *conn) copyIn(h handler) error {
	w := &copyInWriter{c: c}
	err := h.CopyIn(w)
	if w.err != nil {
		return w.err
	}
	if err != nil {
		c.fe.Send(&pgproto3.CopyFail{Message: err.Error()})
	} else {
		c.fe.Send(&pgproto3.CopyDone{})
	}
	return c.fe.Flush()
}

type copyInWriter struct {
	c   *conn
	err error
	n   int
}

func (w *copyInWriter) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	w.c.fe.Send(&pgproto3.CopyData{Data: p})
	if w.n += len(p); w.n >= 64<<10 {
		w.n = 0
		w.err = w.c.fe.Flush()
	}
	return len(p), w.err
}

func (c *conn) lost(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errors.New("server closed the connection unexpectedly")
	}
	c.broken = fmt.Errorf("connection to server was lost: %w", err)
	return c.broken
}

// requestCancel asks the server to cancel the running query. Whether it did
// shows in the query's result.
func (c *conn) requestCancel() {
	addr := c.net.RemoteAddr()
	nc, err := net.DialTimeout(addr.Network(), addr.String(), 5*time.Second)
	if err != nil {
		return
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := nc.Write(c.cancel); err == nil {
		io.Copy(io.Discard, nc) // the server closes it when it is done
	}
}
