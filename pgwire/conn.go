package pgwire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime/debug"
	"time"

	"github.com/spandb/spand/sql"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

// conn is one client's connection. All of it belongs to the goroutine in serve,
// but for mon, and for pid and secret, which are fixed under Server.mu.
type conn struct {
	srv    *Server
	nc     net.Conn
	log    *slog.Logger
	rd     *reader
	mon    *monitor
	sess   sql.Session
	asked  uint32 // protocol version the client asked for
	pid    int32
	secret []byte

	out      []byte // messages not written yet; see writer.go
	writeErr error  // sticks
	fatalErr error  // met inside a call into the session: ends the connection after it
	discard  int    // bytes of a CopyData message that nobody wants any more

	skip  bool // an error occurred in an extended batch: discard up to Sync
	batch bool // something was executed, and no Sync came yet: locks may be held

	statements map[string]*statement
	portals    map[string]*portal
	unnamed    portal        // the unnamed portal
	arena      []types.Datum // what is left of a chunk for parameters
	res        result

	messages, execs, queries, sentBytes, readBytes int64 // not yet in metrics
}

func newConn(s *Server, nc net.Conn) *conn {
	c := &conn{
		srv: s, nc: nc, log: s.log,
		rd: newReader(nc), mon: newMonitor(s.base, nc),
		statements: map[string]*statement{},
		portals:    map[string]*portal{},
	}
	c.res.c = c
	return c
}

// refuse ends a connection before it began.
func (c *conn) refuse(e *sqlstate.Error) {
	c.srv.metrics.refused.WithLabelValues(string(e.Code)).Inc()
	c.nc.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	c.nc.Write(appendError(nil, 'E', sevFatal, e))
	c.mon.close(c.rd)
	c.nc.Close()
}

// serve runs the connection to its end. Whatever happens, the session is closed
// and with it its transaction rolled back (F1).
func (c *conn) serve() {
	c.srv.metrics.open.Inc()
	defer c.srv.metrics.open.Dec()
	defer c.nc.Close()
	defer c.closeSession()
	err := c.run()

	var ce *closeError
	if !errors.As(err, &ce) {
		ce = &closeError{cause: err}
	}
	c.mon.close(c.rd)
	if c.sess == nil && (ce.fatal != nil || ce.cause != nil) {
		reason := "closed"
		if ce.fatal != nil {
			reason = string(ce.fatal.Code)
		}
		c.srv.metrics.refused.WithLabelValues(reason).Inc()
	}
	if ce.fatal == nil || ce.fatal == errClientGone {
		if ce.cause != nil && !isClosed(ce.cause) {
			c.log.Debug("SQL connection ended", "client", c.nc.RemoteAddr().String(), "err", ce.cause)
		}
		c.report()
		return
	}
	level := slog.LevelInfo
	if ce.fatal.Code == sqlstate.InternalError {
		level = slog.LevelError
	}
	c.log.Log(context.Background(), level, "SQL connection ended", "client", c.nc.RemoteAddr().String(),
		"code", ce.fatal.Code, "message", ce.fatal.Message, "cause", ce.fatal.Cause)
	c.srv.metrics.failed(ce.fatal.Code)
	c.nc.SetDeadline(time.Now().Add(lingerTime))
	c.out = appendError(c.out, 'E', sevFatal, ce.fatal)
	// Locks must not wait for the client to read its farewell.
	c.closeSession()
	if c.flush() == nil {
		c.linger()
	}
	c.report()
}

// run is the connection's life. A panic below it, whose cause may be any input,
// ends this connection only (F1).
func (c *conn) run() (err error) {
	defer func() {
		if p := recover(); p != nil {
			c.panicked("session", p)
			err = fatal(sqlstate.Newf(sqlstate.InternalError, "internal error: the session was ended").
				WithDetail("%s", fmt.Sprint(p)))
		}
	}()
	if err := c.handshake(); err != nil {
		return err
	}
	if err := c.flush(); err != nil {
		return err
	}
	for {
		typ, b, err := c.read()
		if err != nil {
			return err
		}
		c.messages++
		if err := c.dispatch(typ, b); err != nil {
			return err
		}
	}
}

func (c *conn) panicked(what string, p any) {
	c.srv.metrics.panics.Inc()
	c.log.Error("panic in a SQL connection", "in", what, "client", c.nc.RemoteAddr().String(),
		"panic", fmt.Sprint(p), "stack", string(debug.Stack()))
}

func (c *conn) closeSession() {
	defer c.srv.release(c)
	s := c.sess
	if s == nil {
		return
	}
	c.sess = nil
	defer func() {
		if p := recover(); p != nil {
			c.panicked("close", p)
		}
	}()
	s.Close()
}

// linger lets the client read its error before the connection is torn down:
// closing a socket with unread input resets it.
func (c *conn) linger() {
	tc, ok := c.nc.(*net.TCPConn)
	if !ok || tc.CloseWrite() != nil {
		return
	}
	io.Copy(io.Discard, tc) // until the client closes, or the deadline
}

// read returns the next message. Before it waits for the client it writes what
// is still to be written.
func (c *conn) read() (byte, []byte, error) {
	waited := false
	for {
		need := 5
		typ, n, ok := c.rd.header()
		if c.discard > 0 {
			k := min(c.discard, c.rd.buffered())
			c.rd.take(k)
			c.discard -= k
			if k > 0 {
				continue
			}
			need = 1
		} else if ok {
			limit, known := bodyLimit(typ, c.srv.cfg.MaxMessageBytes)
			switch {
			case !known:
				return 0, nil, fatal(protocolf("invalid frontend message type %d", typ))
			case n < 0:
				return 0, nil, fatal(protocolf("invalid message length"))
			case n > limit && limit < c.srv.cfg.MaxMessageBytes:
				return 0, nil, fatal(protocolf("invalid message length"))
			case n > limit:
				return 0, nil, fatal(sqlstate.Newf(sqlstate.ProgramLimitExceeded,
					"message of %d bytes exceeds the limit of %d bytes", n, limit).
					WithHint("Send less at once, for example with COPY, or raise the server's limit."))
			}
			need += n
			if c.rd.buffered() >= need {
				if waited {
					c.mon.begin(c.statementTimeout())
				}
				return typ, c.rd.take(need)[5:], nil
			}
		}
		if !waited {
			if err := c.flush(); err != nil {
				return 0, nil, err
			}
			c.report()
			waited = true
			inTxn := c.batch || c.sess.Status() != sql.TxnIdle
			limit := time.Duration(0)
			if inTxn {
				limit = c.idleTimeout()
			}
			before := c.rd.buffered()
			if e := c.mon.wait(c.rd, inTxn, limit); e != nil {
				return 0, nil, fatal(e)
			}
			if c.rd.buffered() > before {
				continue // a watch had read it already
			}
		}
		if err := c.fill(need); err != nil {
			return 0, nil, err
		}
	}
}

// fill reads from the client once, for the need bytes of a message.
func (c *conn) fill(need int) error {
	err := c.rd.fill(need)
	if err == nil {
		return nil
	}
	if e := c.mon.fatal(); e != nil {
		return fatal(e)
	}
	if errors.Is(err, io.EOF) && c.rd.buffered() > 0 {
		return fatal(protocolf("unexpected end of input: incomplete message from client"))
	}
	return &closeError{cause: err}
}

func (c *conn) statementTimeout() time.Duration {
	return time.Duration(c.sess.StatementTimeout()) * time.Millisecond
}

func (c *conn) idleTimeout() time.Duration {
	return time.Duration(c.sess.IdleInTransactionTimeout()) * time.Millisecond
}

// dispatch handles one message. It returns an error only to end the connection.
func (c *conn) dispatch(typ byte, b []byte) error {
	if c.skip && typ != msgSync && typ != msgTerminate {
		return nil
	}
	var err error
	switch typ {
	case msgBind:
		err = c.handleBind(b)
	case msgExecute:
		err = c.handleExecute(b)
	case msgDescribe:
		err = c.handleDescribe(b)
	case msgParse:
		err = c.handleParse(b)
	case msgClose:
		err = c.handleClose(b)
	case msgFlush:
		return c.flush()
	case msgSync:
		return c.handleSync(b)
	case msgQuery:
		return c.handleQuery(b)
	case msgFunctionCall:
		if err := c.sendError(c.reject(sqlstate.Newf(sqlstate.FeatureNotSupported, "function call messages are not supported").
			WithHint("Use SELECT to call a function."))); err != nil {
			return err
		}
		return c.finish()
	case msgCopyData, msgCopyDone, msgCopyFail:
		// The rest of a COPY that failed here: accepted and ignored.
		return nil
	case msgTerminate:
		return &closeError{}
	}
	if err != nil {
		c.skip = true
		return c.sendError(err)
	}
	return c.writeErr
}

// handleQuery is the simple protocol.
func (c *conn) handleQuery(b []byte) error {
	c.queries++
	delete(c.statements, "") // a simple query ends the unnamed statement and portal
	c.unnamed.reset()
	d := body{b: b}
	q := d.bytesZ()
	var err error
	if !d.done() {
		err = c.reject(protocolf("invalid message format"))
	} else if err = checkText(q); err != nil {
		err = c.reject(err)
	} else {
		c.res.simple()
		err = c.after(c.sess.Simple(c.mon.context(), string(q), &c.res))
	}
	if err := c.sendError(err); err != nil {
		return err
	}
	return c.finish()
}

// reject tells the session of an error that it did not raise itself.
func (c *conn) reject(err error) error {
	c.sess.Fail()
	return err
}

// after turns what a call into the session returned into what the client is
// told, or into a *closeError.
func (c *conn) after(err error) error {
	c.res.endCopy()
	if c.writeErr != nil {
		return c.writeErr
	}
	if c.fatalErr != nil {
		return c.fatalErr
	}
	if err == nil {
		return nil
	}
	if errors.Is(err, sql.ErrConnectionLost) {
		return &closeError{cause: err}
	}
	if why := c.mon.interrupted(); why != nil {
		if e := c.mon.fatal(); e != nil {
			return fatal(e)
		}
		if sqlstate.CodeOf(err) == sqlstate.QueryCanceled || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			return why
		}
	}
	return err
}

// sendError reports a statement's error to the client. It returns an error only
// to end the connection.
func (c *conn) sendError(err error) error {
	if err == nil {
		return nil
	}
	var ce *closeError
	if errors.As(err, &ce) {
		return err
	}
	e := sqlError(err)
	if e.Code == sqlstate.InternalError || e.Code == sqlstate.DataCorrupted {
		c.log.Error("SQL statement failed", "trace_id", c.sess.TraceID(), "client", c.nc.RemoteAddr().String(), "code", e.Code, "message", e.Message, "cause", e.Cause)
	}
	c.srv.metrics.failed(e.Code)
	c.out = appendError(c.out, 'E', sevError, e)
	return nil
}

// finish ends a cycle of the protocol: the session is between statements.
func (c *conn) finish() error {
	c.skip, c.batch = false, false
	if len(c.portals) > 0 && c.sess.Status() == sql.TxnIdle {
		clear(c.portals) // portals end with their transaction
	}
	if e := c.mon.fatal(); e != nil {
		return fatal(e)
	}
	c.readyForQuery()
	return c.flush()
}

// report adds this connection's counts to the metrics.
func (c *conn) report() {
	m := c.srv.metrics
	if c.messages > 0 {
		m.messages.Add(float64(c.messages))
		c.messages = 0
	}
	if c.execs > 0 {
		m.extended.Add(float64(c.execs))
		c.execs = 0
	}
	if c.queries > 0 {
		m.simple.Add(float64(c.queries))
		c.queries = 0
	}
	if n := c.rd.total - c.readBytes; n > 0 {
		m.received.Add(float64(n))
		c.readBytes = c.rd.total
	}
	if c.sentBytes > 0 {
		m.sent.Add(float64(c.sentBytes))
		c.sentBytes = 0
	}
}
