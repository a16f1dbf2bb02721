package pgwire

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/spandb/spand/sql"
	"github.com/spandb/spand/sql/sqlstate"
)

// Defaults of Config.
const (
	DefaultMaxConnections   = 512
	DefaultMaxMessageBytes  = 64 << 20
	DefaultHandshakeTimeout = 30 * time.Second
)

// cutGrace is how much of Shutdown's time is kept for connections that are cut:
// to roll back, and to tell their clients.
const cutGrace = time.Second

// Config of a Server.
type Config struct {
	SQL    sql.Server   // makes the sessions; required
	Logger *slog.Logger // nil: nothing is logged
	// MaxConnections bounds the sessions; further clients get 53300. 0: 512.
	MaxConnections int
	// MaxMessageBytes bounds one message of a client; a longer one gets 54000 and
	// ends the connection. COPY data is streamed and not bounded. 0: 64 MiB.
	MaxMessageBytes int
	// TrustRemote lets clients beyond loopback in without authentication.
	TrustRemote bool
	// HandshakeTimeout bounds the time from accept to the first ReadyForQuery. 0: 30 s.
	HandshakeTimeout time.Duration
	// Registry takes the metrics; nil: none are kept.
	Registry prometheus.Registerer
}

// Server serves SQL clients. All methods may be called concurrently.
type Server struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	base    context.Context // of all sessions; cancelled by nobody, kicks do that

	mu        sync.Mutex // guards all below
	listeners map[net.Listener]struct{}
	conns     map[*conn]struct{}
	byPID     map[int32]*conn // connections with a session, for cancel requests
	lastPID   int32
	draining  bool
	drained   chan struct{} // closed when draining and the last connection has ended
}

// New makes a server; the error comes from registering its metrics.
func New(cfg Config) (*Server, error) {
	if cfg.SQL == nil {
		return nil, errors.New("pgwire: Config.SQL is missing")
	}
	if cfg.MaxConnections <= 0 {
		cfg.MaxConnections = DefaultMaxConnections
	}
	if cfg.MaxMessageBytes <= 0 {
		cfg.MaxMessageBytes = DefaultMaxMessageBytes
	}
	if cfg.HandshakeTimeout <= 0 {
		cfg.HandshakeTimeout = DefaultHandshakeTimeout
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	m, err := newMetrics(cfg.Registry)
	if err != nil {
		return nil, fmt.Errorf("pgwire: register metrics: %w", err)
	}
	return &Server{
		cfg: cfg, log: cfg.Logger, metrics: m, base: context.Background(),
		listeners: map[net.Listener]struct{}{},
		conns:     map[*conn]struct{}{},
		byPID:     map[int32]*conn{},
		drained:   make(chan struct{}),
	}, nil
}

// Serve accepts clients on ln until Shutdown, until ctx is done (which cuts all
// of the server's connections at once), or until ln fails. It closes ln and
// returns when every connection it accepted has ended; nil after Shutdown or ctx.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	defer ln.Close()
	s.mu.Lock()
	if s.draining {
		s.mu.Unlock()
		return nil
	}
	s.listeners[ln] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.listeners, ln)
		s.mu.Unlock()
	}()
	stop := context.AfterFunc(ctx, func() {
		ln.Close()
		s.startDrain()
		s.cut()
	})
	defer stop()

	var wg sync.WaitGroup
	defer wg.Wait()
	backoff := time.Duration(0)
	for {
		nc, err := ln.Accept()
		if err != nil {
			if s.isDraining() || ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("pgwire: accept: %w", err)
			}
			// Out of file descriptors or memory, or a client that hung up early: the
			// listener is fine. There is no event that says when it gets better.
			backoff = min(max(2*backoff, 5*time.Millisecond), time.Second)
			s.log.Error("cannot accept SQL connections", "err", err, "retry_in", backoff)
			t := time.NewTimer(backoff)
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
			case <-s.drained:
				t.Stop()
			}
			continue
		}
		backoff = 0
		s.metrics.accepted.Inc()
		c := newConn(s, nc)
		if e := s.add(c); e != nil {
			c.refuse(e)
			continue
		}
		wg.Go(func() {
			defer s.remove(c)
			c.serve()
		})
	}
}

// Shutdown drains: no new clients; connections without a transaction end at
// once with 57P01, others when their transaction does; what still runs shortly
// before ctx's deadline is cancelled and its connection ended with 57P01. It
// returns nil when all have ended in their own time, else ctx's error.
func (s *Server) Shutdown(ctx context.Context) error {
	s.startDrain()
	cutCtx := ctx
	if dl, ok := ctx.Deadline(); ok {
		c, cancel := context.WithTimeout(ctx, time.Until(dl)-min(cutGrace, time.Until(dl)/4))
		defer cancel()
		cutCtx = c
	}
	select {
	case <-s.drained:
		return nil
	case <-cutCtx.Done():
	}
	n := s.cut()
	t := time.NewTimer(cutGrace)
	defer t.Stop()
	select {
	case <-s.drained:
		return fmt.Errorf("pgwire: cut %d connections that did not end in time", n)
	case <-t.C:
	case <-ctx.Done():
	}
	s.mu.Lock()
	left := len(s.conns)
	for c := range s.conns {
		c.nc.Close()
	}
	s.mu.Unlock()
	if left == 0 {
		return fmt.Errorf("pgwire: cut %d connections that did not end in time", n)
	}
	return fmt.Errorf("pgwire: %d connections have not ended: %w", left, context.Cause(cutCtx))
}

func (s *Server) startDrain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return
	}
	s.draining = true
	for ln := range s.listeners {
		ln.Close()
	}
	for c := range s.conns {
		c.mon.drain()
	}
	if len(s.conns) == 0 {
		close(s.drained)
	}
}

// cut ends all connections, whatever they do, and returns their number.
func (s *Server) cut() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.mon.kick(errShutdown)
	}
	return len(s.conns)
}

func (s *Server) isDraining() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.draining
}

// add registers an accepted connection. Those that have not shaken hands yet
// are bounded too, or a flood of them would use up all file descriptors.
func (s *Server) add(c *conn) *sqlstate.Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.draining:
		return sqlstate.Newf(sqlstate.CannotConnectNow, "the database system is shutting down")
	case len(s.conns) >= 2*s.cfg.MaxConnections+16:
		return tooManyConnections()
	}
	s.conns[c] = struct{}{}
	return nil
}

// release gives up c's place among the sessions, once it has none any more.
func (s *Server) release(c *conn) {
	s.mu.Lock()
	if s.byPID[c.pid] == c {
		delete(s.byPID, c.pid)
	}
	s.mu.Unlock()
}

func (s *Server) remove(c *conn) {
	s.mu.Lock()
	delete(s.conns, c)
	if s.draining && len(s.conns) == 0 {
		close(s.drained) // once: while draining, none is added
	}
	s.mu.Unlock()
}

// admit gives c a process id and a secret of n bytes, if there is room for one
// more session.
func (s *Server) admit(c *conn, n int) bool {
	secret := make([]byte, n)
	rand.Read(secret) // never fails
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.byPID) >= s.cfg.MaxConnections {
		return false
	}
	if s.lastPID == 0 {
		var seed [2]byte
		rand.Read(seed[:])
		s.lastPID = int32(binary.BigEndian.Uint16(seed[:])) + 1
	}
	for {
		s.lastPID++
		if s.lastPID <= 0 {
			s.lastPID = 1
		}
		if s.byPID[s.lastPID] == nil {
			break
		}
	}
	c.pid, c.secret = s.lastPID, secret
	s.byPID[c.pid] = c
	return true
}

// cancel handles a cancel request. A wrong secret is ignored without a word,
// so that nobody learns anything from asking.
func (s *Server) cancel(pid int32, secret []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.byPID[pid]
	if c == nil || subtle.ConstantTimeCompare(c.secret, secret) != 1 {
		return
	}
	s.metrics.cancels.Inc()
	c.mon.cancelStatement()
}

// CancelBackend interrupts the running statement of the connection with this
// process id; false: there is none such.
func (s *Server) CancelBackend(pid int32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.byPID[pid]
	if c != nil {
		c.mon.cancelStatement()
	}
	return c != nil
}

// TerminateBackend ends the connection with this process id with 57P01; false:
// there is none such.
func (s *Server) TerminateBackend(pid int32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.byPID[pid]
	if c != nil {
		c.mon.kick(errShutdown)
	}
	return c != nil
}
