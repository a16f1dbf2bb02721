package pgwire

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/spandb/spand/pgwire/wiretest"
	"github.com/spandb/spand/sql/sqlstate"
)

// bubble runs a server over net.Pipes in virtual time. At the end everything
// must have ended by itself: synctest fails on goroutines that are left.
func bubble(t *testing.T, cfg Config, f func(t *testing.T, s *testServer, dial func() *wireClient)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		fake := &wiretest.Server{}
		cfg.SQL = fake
		s, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ln := newPipeListener()
		ctx, cancel := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() { served <- s.Serve(ctx, ln) }()
		f(t, &testServer{Server: s, fake: fake}, func() *wireClient { return newWireClient(t, ln.dial()) })
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if n, txns := fake.Open(); n != 0 || txns != 0 {
			t.Errorf("%d sessions and %d transactions left open", n, txns)
		}
	})
}

// elapsed returns how much virtual time f took.
func elapsed(f func()) time.Duration {
	start := time.Now()
	f()
	return time.Since(start)
}

func expectTime(t *testing.T, what string, got, want time.Duration) {
	t.Helper()
	if got != want {
		t.Errorf("%s took %v, want %v", what, got, want)
	}
}

func expectCode(t *testing.T, c *wireClient, code sqlstate.Code, status byte) {
	t.Helper()
	if got, st := c.until(); got != string(code) || st != status {
		t.Errorf("got %q %q, want %q %q", got, st, code, status)
	}
}

func TestStatementTimeout(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, s *testServer, dial func() *wireClient) {
		c := dial()
		c.startup(nil)
		c.query("set statement_timeout=50")
		expectCode(t, c, "", 'I')
		time.Sleep(time.Hour) // idle time does not count

		c.query("begin")
		expectCode(t, c, "", 'T')
		took := elapsed(func() {
			c.query("wait")
			expectCode(t, c, sqlstate.QueryCanceled, 'E')
		})
		expectTime(t, "time-out below the watch's delay", took, 50*time.Millisecond)
		c.query("rollback; set statement_timeout=3000")
		expectCode(t, c, "", 'I')
		took = elapsed(func() {
			c.send(&pgproto3.Parse{Query: "wait"}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Sync{})
			expectCode(t, c, sqlstate.QueryCanceled, 'I')
		})
		expectTime(t, "time-out", took, 3*time.Second)

		// It counts by statement, not by query string.
		took = elapsed(func() {
			c.query("set statement_timeout=1000; wait")
			expectCode(t, c, sqlstate.QueryCanceled, 'I')
		})
		expectTime(t, "time-out set in the string", took, time.Second)
		c.query("row int4=1")
		expectCode(t, c, "", 'I')

		// A COPY that waits for its client is a statement too.
		took = elapsed(func() {
			c.query("copyin")
			expectCode(t, c, sqlstate.QueryCanceled, 'I')
		})
		expectTime(t, "time-out in COPY", took, time.Second)
		c.send(&pgproto3.CopyData{Data: []byte("late\n")}, &pgproto3.CopyDone{}, &pgproto3.Query{String: "row int4=1"})
		expectCode(t, c, "", 'I')
		c.conn.Close()
	})
}

func TestIdleInTransactionTimeout(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, s *testServer, dial func() *wireClient) {
		c := dial()
		c.startup(nil)
		time.Sleep(10 * time.Hour) // no transaction: no time-out
		c.query("begin")
		expectCode(t, c, "", 'T')
		time.Sleep(59 * time.Second)
		c.query("row int4=1")
		expectCode(t, c, "", 'T')
		if _, txns := s.fake.Open(); txns != 1 {
			t.Fatalf("%d transactions", txns)
		}
		took := elapsed(func() { expectCode(t, c, sqlstate.IdleInTransactionTimeout, 0) })
		expectTime(t, "time-out", took, time.Minute)
		synctest.Wait()
		if n, txns := s.fake.Open(); n != 0 || txns != 0 {
			t.Errorf("%d sessions, %d transactions open", n, txns)
		}
		c.expectClosed()

		// Nor may a batch without Sync hold its locks for ever.
		c = dial()
		c.startup(nil)
		c.send(&pgproto3.Parse{Query: "ins 1"}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Flush{})
		expectCode(t, c, sqlstate.IdleInTransactionTimeout, 0)
		c.conn.Close()

		// A batch that has only been prepared holds none.
		c = dial()
		c.startup(nil)
		c.send(&pgproto3.Parse{Query: "ins 1"}, &pgproto3.Bind{}, &pgproto3.Flush{})
		c.receive()
		c.receive()
		time.Sleep(time.Hour)
		c.send(&pgproto3.Execute{}, &pgproto3.Sync{})
		expectCode(t, c, "", 'I')
		c.conn.Close()
	})
}

func TestCancelRequest(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, s *testServer, dial func() *wireClient) {
		c := dial()
		c.startup(nil)
		cancel := func(pid uint32, secret []byte) {
			d := dial()
			d.send(&pgproto3.CancelRequest{ProcessID: pid, SecretKey: secret})
			d.expectClosed()
		}
		cancel(c.key.ProcessID, c.key.SecretKey) // nothing runs: nothing happens
		for _, long := range []time.Duration{0, time.Second} {
			waiting := s.fake.Waiting()
			c.query("begin; wait")
			<-waiting
			time.Sleep(long) // past watchDelay, the connection is being watched
			cancel(c.key.ProcessID, []byte("nope"))
			cancel(c.key.ProcessID, nil)
			cancel(c.key.ProcessID+1, c.key.SecretKey)
			synctest.Wait()
			if _, txns := s.fake.Open(); txns != 1 {
				t.Fatal("a wrong secret cancelled")
			}
			cancel(c.key.ProcessID, c.key.SecretKey)
			expectCode(t, c, sqlstate.QueryCanceled, 'E')
			c.query("rollback")
			expectCode(t, c, "", 'I')
		}
		waiting := s.fake.Waiting()
		c.query("wait")
		<-waiting
		if !s.CancelBackend(int32(c.key.ProcessID)) || s.CancelBackend(1<<30) {
			t.Error("CancelBackend")
		}
		expectCode(t, c, sqlstate.QueryCanceled, 'I')
		if !s.TerminateBackend(int32(c.key.ProcessID)) {
			t.Error("TerminateBackend")
		}
		expectCode(t, c, sqlstate.AdminShutdown, 0)
		c.expectClosed()
	})
}

// A client that disappears takes its running statement with it, and its
// transaction (F1); one that merely sends ahead does not.
func TestClientDisappears(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, s *testServer, dial func() *wireClient) {
		c := dial()
		c.startup(nil)
		waiting := s.fake.Waiting()
		c.query("begin; wait")
		<-waiting
		time.Sleep(time.Second)
		c.conn.Close()
		synctest.Wait()
		if n, txns := s.fake.Open(); n != 0 || txns != 0 {
			t.Errorf("%d sessions, %d transactions open after the client has gone", n, txns)
		}

		c = dial()
		c.startup(nil)
		waiting = s.fake.Waiting()
		c.query("set statement_timeout=10000; wait")
		<-waiting
		time.Sleep(time.Second)
		c.send(&pgproto3.Parse{Query: "row int4=7"}, &pgproto3.Bind{}) // the watch reads these
		c.send(&pgproto3.Execute{}, &pgproto3.Sync{})
		expectCode(t, c, sqlstate.QueryCanceled, 'I')
		expectCode(t, c, "", 'I')

		// More than the watch takes.
		waiting = s.fake.Waiting()
		c.query("wait")
		<-waiting
		time.Sleep(time.Second)
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			for range 500 {
				c.query("row text=abcdefghijklmnopqrstuvwxyz")
			}
		}()
		expectCode(t, c, sqlstate.QueryCanceled, 'I')
		for range 500 {
			expectCode(t, c, "", 'I')
		}
		<-sent

		// In the middle of a COPY, and in the middle of a message.
		c.query("begin; copyin")
		for m := c.receive(); ; m = c.receive() {
			if _, ok := m.(*pgproto3.CopyInResponse); ok {
				break
			}
		}
		c.send(&pgproto3.CopyData{Data: []byte("1\n")})
		if _, err := c.conn.Write([]byte{'d', 0, 0, 1}); err != nil {
			t.Fatal(err)
		}
		c.conn.Close()
		synctest.Wait()
		if n, txns := s.fake.Open(); n != 0 || txns != 0 {
			t.Errorf("%d sessions, %d transactions open after a COPY's client has gone", n, txns)
		}
	})
}

func TestHandshakeTimeout(t *testing.T) {
	bubble(t, Config{HandshakeTimeout: 5 * time.Second}, func(t *testing.T, s *testServer, dial func() *wireClient) {
		c := dial()
		took := elapsed(func() {
			c.conn.Write([]byte{0, 0, 0, 20})
			expectCode(t, c, sqlstate.ProtocolViolation, 0)
		})
		expectTime(t, "handshake", took, 5*time.Second)
		c.expectClosed()
		c = dial()
		c.startup(nil)
		time.Sleep(time.Minute) // does not concern those that are in
		c.query("row int4=1")
		expectCode(t, c, "", 'I')
		c.conn.Close()
	})
}

// A client that does not read cannot keep a cancelled statement's locks.
func TestClientDoesNotRead(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, s *testServer, dial func() *wireClient) {
		c := dial()
		c.startup(nil)
		c.query("set statement_timeout=1000")
		expectCode(t, c, "", 'I')
		c.query("begin; rows 100000")
		time.Sleep(time.Second + writeGrace - time.Millisecond)
		synctest.Wait()
		if _, txns := s.fake.Open(); txns != 1 {
			t.Fatal("cut before its time")
		}
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		if n, txns := s.fake.Open(); n != 0 || txns != 0 {
			t.Errorf("%d sessions, %d transactions open", n, txns)
		}
		c.conn.Close()

		// Without a statement time-out, it is idle in its transaction.
		c = dial()
		c.startup(nil)
		c.query("begin; rows 100000")
		time.Sleep(time.Minute + writeGrace - time.Millisecond)
		synctest.Wait()
		if _, txns := s.fake.Open(); txns != 1 {
			t.Fatal("cut before its time")
		}
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		if n, txns := s.fake.Open(); n != 0 || txns != 0 {
			t.Errorf("%d sessions, %d transactions open", n, txns)
		}
		c.conn.Close()
	})
}

func TestShutdownDrains(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, s *testServer, dial func() *wireClient) {
		idle, inTxn := dial(), dial()
		idle.startup(nil)
		inTxn.startup(nil)
		inTxn.query("begin")
		expectCode(t, inTxn, "", 'T')
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		done := make(chan error, 1)
		go func() { done <- s.Shutdown(ctx) }()
		expectCode(t, idle, sqlstate.AdminShutdown, 0)
		idle.expectClosed()
		if e := s.add(newConn(s.Server, nil)); e == nil || e.Code != sqlstate.CannotConnectNow {
			t.Errorf("a connection while draining: %v", e)
		}
		time.Sleep(3 * time.Second)
		inTxn.query("ins 1")
		expectCode(t, inTxn, "", 'T')
		// The commit is answered before the connection ends.
		inTxn.query("commit")
		expectCode(t, inTxn, "", 'I')
		expectCode(t, inTxn, sqlstate.AdminShutdown, 0)
		inTxn.expectClosed()
		if err := <-done; err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	})
}

func TestShutdownCuts(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, s *testServer, dial func() *wireClient) {
		running, inTxn, mute := dial(), dial(), dial()
		for _, c := range []*wireClient{running, inTxn, mute} {
			c.startup(nil)
		}
		waiting := s.fake.Waiting()
		running.query("begin; wait")
		<-waiting
		inTxn.query("begin")
		expectCode(t, inTxn, "", 'T')
		mute.query("begin; rows 100000") // never reads
		synctest.Wait()                  // else it may be idle still, and end by itself
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		done := make(chan error, 1)
		took := elapsed(func() {
			go func() { done <- s.Shutdown(ctx) }()
			expectCode(t, running, sqlstate.AdminShutdown, 0)
			expectCode(t, inTxn, sqlstate.AdminShutdown, 0)
		})
		expectTime(t, "cut", took, 9*time.Second)
		if err := <-done; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Shutdown: %v", err)
		}
		synctest.Wait()
		if n, txns := s.fake.Open(); n != 0 || txns != 0 {
			t.Errorf("%d sessions, %d transactions open", n, txns)
		}
		mute.conn.Close()
	})
}

// Of the monitor's states and interruptions, in any order, none is lost: a
// stream of cancel requests against short statements never breaks a connection.
func TestCancelStorm(t *testing.T) {
	srv := startServer(t, Config{})
	c := srv.dial(t)
	c.startup(nil)
	stop := make(chan struct{})
	var cancels atomic.Int64
	stormed := make(chan struct{})
	go func() {
		defer close(stormed)
		for {
			select {
			case <-stop:
				return
			default:
				srv.CancelBackend(int32(c.key.ProcessID))
				cancels.Add(1)
			}
		}
	}()
	for i := range 2000 {
		q := "row int4=1"
		if i%4 == 0 {
			q = "rows 300"
		}
		if i%10 == 0 {
			c.send(&pgproto3.Query{String: "copyin"}, &pgproto3.CopyData{Data: []byte("x\n")}, &pgproto3.CopyDone{})
		} else {
			c.query(q)
		}
		if code, st := c.until(); (code != "" && code != string(sqlstate.QueryCanceled)) || st != 'I' {
			t.Fatalf("%d: %s %c", i, code, st)
		}
	}
	close(stop)
	<-stormed
	if cancels.Load() == 0 {
		t.Error("no cancels")
	}
}

// The listener's temporary failures do not end Serve.
func TestAcceptErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := New(Config{SQL: &wiretest.Server{}})
		if err != nil {
			t.Fatal(err)
		}
		ln := &flakyListener{pipeListener: newPipeListener(), fails: 3}
		served := make(chan error, 1)
		go func() { served <- s.Serve(t.Context(), ln) }()
		c := newWireClient(t, ln.dial())
		c.startup(nil)
		down := make(chan error, 1)
		go func() { down <- s.Shutdown(t.Context()) }()
		expectCode(t, c, sqlstate.AdminShutdown, 0)
		if err := <-down; err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if err := s.Serve(t.Context(), newPipeListener()); err != nil {
			t.Errorf("Serve after Shutdown: %v", err)
		}
	})
}

type flakyListener struct {
	*pipeListener
	fails int
}

func (l *flakyListener) Accept() (net.Conn, error) {
	if l.fails > 0 {
		l.fails--
		return nil, fmt.Errorf("too many open files")
	}
	return l.pipeListener.Accept()
}

// The timer may fire in the very moment in which a statement ends: no watch may read
// beside a connection that waits for its client.
func TestNoWatchWhileWaiting(t *testing.T) {
	server, client := net.Pipe()
	defer client.Close()
	defer server.Close()
	m, rd := newMonitor(context.Background(), server), newReader(server)
	defer m.close(rd)
	stop := make(chan struct{})
	var storm sync.WaitGroup
	defer storm.Wait()
	defer close(stop)
	for range 4 { // so that mu changes hands
		storm.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					m.fatal()
				}
			}
		})
	}
	for range 20000 {
		m.begin(0)
		m.mu.Lock()
		m.busy, m.armed = m.busy.Add(-time.Hour), false // the watch is due
		m.mu.Unlock()
		var wg sync.WaitGroup
		wg.Go(m.fire)
		if err := m.wait(rd, false, 0); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		m.mu.Lock()
		watched := m.watch != nil
		m.mu.Unlock()
		if watched {
			t.Fatal("a watch reads beside the connection")
		}
	}
}
