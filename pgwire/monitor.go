package pgwire

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/spandb/spand/sql/sqlstate"
)

const (
	// watchDelay is how long a statement runs before the connection is watched
	// for a client that has gone. Most statements never pay for it.
	watchDelay = 100 * time.Millisecond
	// writeGrace is how long a client may still take to read once its statement
	// has been cancelled; a client that does not read must not keep locks alive.
	writeGrace = 5 * time.Second
)

// aLongTimeAgo is a deadline that interrupts at once.
var aLongTimeAgo = time.Unix(1, 0)

type monitorState uint8

const (
	stateIdle    monitorState = iota // waits for the client, no transaction
	stateWaiting                     // waits for the client in a transaction or an unfinished batch
	stateBusy                        // works on messages
	stateClosed
)

// monitor knows whether a connection works or waits, and since when. It
// interrupts what takes too long or is no longer wanted: the context of a
// statement that works, the read of a connection that waits.
//
// One timer serves all purposes and is armed lazily: while statements are short
// it fires every watchDelay at most, whatever their number, and a batch of
// messages costs two short critical sections.
type monitor struct {
	conn net.Conn

	mu    sync.Mutex // guards all below
	state monitorState
	busy  time.Time // since when busy or waiting
	since time.Time // since when the current statement runs
	// limit is the statement time-out while busy, the idle-in-transaction
	// time-out while waiting; 0: none.
	limit time.Duration
	// While writing in mid-statement: since when, and for how long at most.
	writeSince time.Time
	writeLimit time.Duration
	// ctx is the context of the statements; it is renewed once cancelled. Only the
	// connection's goroutine replaces it, so that goroutine reads it without mu.
	ctx    context.Context
	cancel context.CancelCauseFunc
	base   context.Context
	// kicked ends the connection as soon as its goroutine notices.
	kicked *sqlstate.Error
	// draining: the connection is to end when its transaction does.
	draining bool
	copying  bool // COPY FROM STDIN reads the connection itself
	watch    *peerWatch
	graced   bool // a write deadline is set

	timer  *time.Timer
	armed  bool
	fireAt time.Time
}

func newMonitor(base context.Context, conn net.Conn) *monitor {
	m := &monitor{conn: conn, base: base}
	m.ctx, m.cancel = context.WithCancelCause(base)
	m.timer = time.AfterFunc(time.Hour, m.fire)
	m.timer.Stop()
	return m
}

// context returns a live context for the next call into the session.
func (m *monitor) context() context.Context {
	if m.ctx.Err() != nil {
		m.mu.Lock()
		if m.kicked == nil && m.base.Err() == nil {
			m.ctx, m.cancel = context.WithCancelCause(m.base)
		}
		m.mu.Unlock()
	}
	return m.ctx
}

// interrupted returns why the current context was cancelled, nil if it was not.
func (m *monitor) interrupted() *sqlstate.Error {
	if m.ctx.Err() == nil {
		return nil
	}
	var e *sqlstate.Error
	if errors.As(context.Cause(m.ctx), &e) {
		return e
	}
	return errShutdown // the base context
}

// fatal returns the error that ends the connection, if one has come.
func (m *monitor) fatal() *sqlstate.Error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.kicked
}

// begin says that messages are being worked on, under a statement time-out.
func (m *monitor) begin(limit time.Duration) {
	now := time.Now()
	m.mu.Lock()
	m.state, m.busy, m.since, m.limit = stateBusy, now, now, limit
	m.armLocked(now, watchDelay)
	if limit > 0 {
		m.armLocked(now, limit)
	}
	m.mu.Unlock()
}

// restart says that another statement begins.
func (m *monitor) restart(limit time.Duration) {
	m.mu.Lock()
	if limit == 0 && m.limit == 0 {
		m.mu.Unlock()
		return
	}
	now := time.Now()
	m.since, m.limit = now, limit
	if limit > 0 {
		m.armLocked(now, limit)
	}
	m.mu.Unlock()
}

// wait says that the connection is about to read. It ends the watch over the
// peer, hands its bytes to rd, and returns the error that ends the connection.
// With inTxn, limit bounds the wait. While draining, only inTxn may wait.
func (m *monitor) wait(rd *reader, inTxn bool, limit time.Duration) *sqlstate.Error {
	m.lockUnwatched(rd)
	defer m.mu.Unlock()
	if m.kicked == nil && m.draining && !inTxn {
		m.kickLocked(errShutdown)
	}
	if m.kicked != nil {
		return m.kicked
	}
	m.state, m.limit = stateIdle, 0
	if m.graced {
		m.graced = false
		m.conn.SetWriteDeadline(time.Time{})
	}
	if inTxn {
		m.state, m.limit = stateWaiting, limit
		if limit > 0 {
			now := time.Now()
			m.busy = now
			m.armLocked(now, limit)
		}
	}
	return nil
}

// writing says that a write in the middle of a statement begins, which may take
// limit, or, with 0, that it has ended.
func (m *monitor) writing(limit time.Duration) {
	m.mu.Lock()
	m.writeLimit = limit
	if limit > 0 {
		m.writeSince = time.Now()
		m.armLocked(m.writeSince, limit)
	}
	m.mu.Unlock()
}

// handshake bounds how long the client may take until handshakeDone.
func (m *monitor) handshake(limit time.Duration) {
	m.mu.Lock()
	if m.kicked == nil {
		m.conn.SetReadDeadline(time.Now().Add(limit))
	}
	m.mu.Unlock()
}

func (m *monitor) handshakeDone() {
	m.mu.Lock()
	if m.kicked == nil {
		m.conn.SetReadDeadline(time.Time{})
	}
	m.mu.Unlock()
}

// cancelStatement is a client's cancel request: it means the statement that
// runs now; without one nothing happens.
func (m *monitor) cancelStatement() {
	m.mu.Lock()
	if m.state == stateBusy {
		m.interruptLocked(errUserCancel)
	}
	m.mu.Unlock()
}

// drain ends the connection at once when it has no transaction, else when its
// transaction ends.
func (m *monitor) drain() {
	m.mu.Lock()
	m.draining = true
	if m.state == stateIdle {
		m.kickLocked(errShutdown)
	}
	m.mu.Unlock()
}

// kick ends the connection, whatever it does.
func (m *monitor) kick(e *sqlstate.Error) {
	m.mu.Lock()
	m.kickLocked(e)
	m.mu.Unlock()
}

func (m *monitor) kickLocked(e *sqlstate.Error) {
	if m.kicked != nil || m.state == stateClosed {
		return
	}
	m.kicked = e
	m.conn.SetReadDeadline(aLongTimeAgo)
	m.interruptLocked(e)
}

// interruptLocked cancels what runs, and lets a blocked write end in time.
func (m *monitor) interruptLocked(e *sqlstate.Error) {
	m.cancel(e)
	if m.copying {
		m.conn.SetReadDeadline(aLongTimeAgo)
	}
	m.graced = true
	m.conn.SetWriteDeadline(time.Now().Add(writeGrace))
}

// armLocked has the timer fire within d of now.
func (m *monitor) armLocked(now time.Time, d time.Duration) {
	at := now.Add(d)
	if m.armed && !at.Before(m.fireAt) {
		return
	}
	m.armed, m.fireAt = true, at
	m.timer.Reset(d)
}

// fire is the timer's callback.
func (m *monitor) fire() {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if m.armed && now.Before(m.fireAt) {
		return // a firing that a Reset came too late for; the next one is due
	}
	m.armed = false
	switch m.state {
	case stateBusy:
		if m.limit > 0 {
			if d := m.limit - now.Sub(m.since); d > 0 {
				m.armLocked(now, d)
			} else if m.ctx.Err() == nil {
				m.interruptLocked(errTimeout)
			}
		}
		if m.writeLimit > 0 {
			if d := m.writeLimit - now.Sub(m.writeSince); d > 0 {
				m.armLocked(now, d)
			} else {
				m.kickLocked(errIdleInTxn)
			}
		}
		if m.watch == nil && !m.copying {
			if d := watchDelay - now.Sub(m.busy); d > 0 {
				m.armLocked(now, d)
			} else if m.kicked == nil {
				m.watch = newPeerWatch()
				go m.watch.run(m)
			}
		}
	case stateWaiting:
		if m.limit > 0 {
			if d := m.limit - now.Sub(m.busy); d > 0 {
				m.armLocked(now, d)
			} else {
				m.kickLocked(errIdleInTxn)
			}
		}
	}
}

// close ends the monitor. No callback does anything afterwards.
func (m *monitor) close(rd *reader) {
	m.mu.Lock()
	m.state = stateClosed
	m.mu.Unlock()
	m.stopWatch(rd)
	m.timer.Stop()
	m.cancel(context.Canceled)
}

// peerWatch reads in the reader's place while a statement runs, to notice that
// the client is gone. What it reads goes to the reader afterwards.
type peerWatch struct {
	buf  []byte
	n    int
	err  error
	done chan struct{}
}

// watchBytes is how much a client may send ahead before the watch is blind.
const watchBytes = 4 << 10

func newPeerWatch() *peerWatch {
	return &peerWatch{buf: make([]byte, watchBytes), done: make(chan struct{})}
}

func (w *peerWatch) run(m *monitor) {
	defer close(w.done)
	for w.n < len(w.buf) {
		n, err := m.conn.Read(w.buf[w.n:])
		w.n += n
		if err == nil {
			continue
		}
		var ne net.Error
		if errors.As(err, &ne) && ne.Timeout() {
			return // interrupted by stopWatch or kick
		}
		w.err = err
		m.kick(errClientGone)
		return
	}
}

// stopWatch ends a running watch and gives what it read to rd.
func (m *monitor) stopWatch(rd *reader) {
	m.lockUnwatched(rd)
	m.mu.Unlock()
}

// lockUnwatched is stopWatch that returns with mu held: until the state is another,
// the timer could start the next watch.
func (m *monitor) lockUnwatched(rd *reader) {
	m.mu.Lock()
	w := m.watch
	if w == nil {
		return
	}
	m.conn.SetReadDeadline(aLongTimeAgo)
	m.mu.Unlock()
	<-w.done
	m.mu.Lock()
	m.watch = nil
	if m.kicked == nil {
		m.conn.SetReadDeadline(time.Time{})
	}
	rd.append(w.buf[:w.n], w.err)
}

// setCopying says that COPY FROM STDIN reads the connection, so that no watch
// is needed and none may run.
func (m *monitor) setCopying(on bool, rd *reader) {
	m.mu.Lock()
	m.copying = on
	if !on && m.kicked == nil {
		m.conn.SetReadDeadline(time.Time{}) // interruptLocked may have set one
	}
	if !on && m.state == stateBusy {
		m.armLocked(time.Now(), watchDelay)
	}
	m.mu.Unlock()
	if on {
		m.stopWatch(rd)
	}
}
