package pgwire

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/spandb/spand/sql"
	"github.com/spandb/spand/sql/kvmem"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/truetime"
)

// Time-outs over the real SQL engine, in virtual time: what ends, when, and that no
// lock is left.
func TestTimeoutsOfTheEngine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := kvmem.New(truetime.NewManual(truetime.ManualOptions{}))
		e, err := sql.NewEngine(sql.Config{KV: store, Node: 1})
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		s, err := New(Config{SQL: e})
		if err != nil {
			t.Fatal(err)
		}
		ln := newPipeListener()
		ctx, cancel := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() { served <- s.Serve(ctx, ln) }()
		dial := func() *wireClient {
			c := newWireClient(t, ln.dial())
			c.startup(nil)
			return c
		}
		within := func(what string, want time.Duration, f func()) {
			t.Helper()
			if got := elapsed(f); got < want || got > want+100*time.Millisecond {
				t.Errorf("%s took %v, want %v", what, got, want)
			}
		}

		a, b := dial(), dial()
		a.query("create table l (a int primary key, v int); insert into l values (1, 0)")
		expectCode(t, a, "", 'I')
		a.query("begin; update l set v = 1 where a = 1")
		expectCode(t, a, "", 'T')
		idle := time.Now()

		// statement_timeout counts by statement, from the one after its SET on.
		b.query("set statement_timeout = '2s'; select pg_sleep(1); select pg_sleep(1); select pg_sleep(1)")
		expectCode(t, b, "", 'I')
		within("statement_timeout", 2*time.Second, func() {
			b.query("begin; update l set v = 2 where a = 1")
			expectCode(t, b, sqlstate.QueryCanceled, 'E')
		})
		b.query("rollback; set statement_timeout = 0")
		expectCode(t, b, "", 'I')

		within("lock_timeout", 3*time.Second, func() {
			b.query("begin; set local lock_timeout = 3000; update l set v = 2 where a = 1")
			expectCode(t, b, sqlstate.LockNotAvailable, 'E')
		})
		b.query("rollback")
		expectCode(t, b, "", 'I')

		// The earlier of the two.
		b.query("set lock_timeout = '1s'; set statement_timeout = '9s'")
		expectCode(t, b, "", 'I')
		within("the earlier time-out", time.Second, func() {
			b.send(&pgproto3.Parse{Query: "update l set v = 2 where a = 1"}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Sync{})
			expectCode(t, b, sqlstate.LockNotAvailable, 'I')
		})

		// The holder idles for too long: its session ends, and with it the lock.
		b.query("reset all; update l set v = 2 where a = 1")
		within("idle_in_transaction_session_timeout", time.Minute-time.Since(idle), func() {
			expectCode(t, a, sqlstate.IdleInTransactionTimeout, 0)
		})
		expectCode(t, b, "", 'I')
		b.conn.Close()

		if err := store.AwaitIdle(t.Context()); err != nil {
			t.Error(err)
		}
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		e.Close()
	})
}
