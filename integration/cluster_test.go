package integration

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// In every mode: SQL at every node, and what happens to those who are killed, paused,
// cut off and restarted.
func TestClusterModes(t *testing.T) {
	for _, mode := range []Mode{InProcess, Virtual, Processes} {
		t.Run(mode.String(), func(t *testing.T) {
			inMode(t, Options{Nodes: 3, Mode: mode, Proxy: true}, func(t *testing.T, c *Cluster) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				value := func(i, want int) {
					t.Helper()
					var v int
					if err := c.Connect(i).QueryRow(ctx, "SELECT v FROM t WHERE k = 1").Scan(&v); err != nil || v != want {
						t.Errorf("node %d: v = %d, %v; want %d", i, v, err, want)
					}
				}
				c.Exec(0, "CREATE TABLE t (k int PRIMARY KEY, v int)")
				c.Exec(1, "INSERT INTO t VALUES ($1, $2)", 1, 10)

				conn := c.Connect(0)
				c.Kill(0)
				if err := conn.Ping(ctx); err == nil {
					t.Error("a connection to a dead node answers")
				}
				c.Exec(1, "UPDATE t SET v = 11 WHERE k = 1")
				c.Restart(0)
				value(0, 11)

				c.Pause(1)
				c.Exec(2, "UPDATE t SET v = 12 WHERE k = 1")
				short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
				defer cancel()
				if err := c.Connect(2).Ping(ctx); err != nil {
					t.Error(err)
				}
				if conn, err := pgconn.ConnectConfig(short, &c.Config(1).Config); err == nil {
					t.Error("a paused node answers")
					conn.Close(ctx)
				}
				c.Resume(1)
				value(1, 12)

				c.Partition([]int{2}, []int{0, 1})
				c.Exec(0, "UPDATE t SET v = 13 WHERE k = 1")
				alone, cancel := context.WithTimeout(ctx, 2*time.Second)
				defer cancel()
				if _, err := c.Connect(2).Exec(alone, "INSERT INTO t VALUES (99, 0)"); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("a minority writes: %v", err) // later it may: its outcome is unknown
				}
				c.Heal()
				c.Exec(2, "UPDATE t SET v = v + 1 WHERE k = 1")
				for i := range c.Len() {
					value(i, 14)
				}

				c.Kill(0, 1, 2)
				c.Restart(0, 1, 2)
				value(1, 14)
			})
		})
	}
}

// inMode runs f with a cluster, in a bubble if the mode wants one.
func inMode(t *testing.T, o Options, f func(*testing.T, *Cluster)) {
	t.Helper()
	if o.Mode == Virtual {
		RunVirtual(t, o, f)
		return
	}
	f(t, Start(t, o))
}

// A clock's uncertainty is paid by commits; an error within it is covered; what a clock
// was told outlives its node.
func TestClusterClocks(t *testing.T) {
	for _, mode := range []Mode{InProcess, Virtual} {
		t.Run(mode.String(), func(t *testing.T) {
			inMode(t, Options{Nodes: 3, Mode: mode}, func(t *testing.T, c *Cluster) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				c.Exec(0, "CREATE TABLE t (k int PRIMARY KEY, v int)")
				c.Exec(0, "INSERT INTO t VALUES (1, 0)")
				commit := func() time.Duration {
					t.Helper()
					conn := c.Connect(0)
					began := time.Now()
					if _, err := conn.Exec(ctx, "UPDATE t SET v = v + 1"); err != nil {
						t.Error(err)
					}
					return time.Since(began)
				}
				epsilon := func() (e time.Duration) {
					t.Helper()
					var s float64
					if err := c.Connect(0).QueryRow(ctx, "SELECT epsilon_seconds FROM spand.clock").Scan(&s); err != nil {
						t.Error(err)
					}
					return time.Duration(s * float64(time.Second)).Round(time.Microsecond)
				}
				c.TransferLeader("t", 1, 0)
				const wide = 80 * time.Millisecond
				c.Clock(0).SetError(wide)
				if d := commit(); d < 2*wide {
					t.Errorf("commit wait of %v under an ε of %v", d, wide)
				}
				c.Kill(0)
				c.Restart(0)
				if e := epsilon(); e != wide {
					t.Errorf("ε after the restart: %v", e)
				}
				c.Clock(0).SetOffset(wide / 2)
				c.TransferLeader("t", 1, 0)
				commit()
				c.Clock(0).SetOffset(0)
				c.Clock(0).SetDrift(0)
				c.Clock(0).SetError(0)
				if e := epsilon(); e != 0 {
					t.Errorf("ε at the end: %v", e)
				}
				commit()
			})
		})
	}
}

// An offset and a drift are what the node's clock then shows.
func TestClockOffsetAndDrift(t *testing.T) {
	const epsilon = 100 * time.Millisecond
	RunVirtual(t, Options{ClockError: epsilon}, func(t *testing.T, c *Cluster) {
		off := func() time.Duration {
			t.Helper()
			n, err := c.backend.node(0)
			if err != nil || n == nil {
				t.Fatal(err)
			}
			// Earliest does not retreat with a clock that is set back (T1).
			return time.Until(n.Rooms().Clock.Now().Latest.Add(-epsilon).Time())
		}
		want := func(d time.Duration) {
			t.Helper()
			if got := off(); (got - d).Abs() > time.Microsecond {
				t.Errorf("the clock is off by %v, want %v", got, d)
			}
		}
		want(0)
		c.Clock(0).SetOffset(30 * time.Millisecond)
		want(30 * time.Millisecond)
		c.Clock(0).SetDrift(-1000)
		time.Sleep(10 * time.Second)
		want(20 * time.Millisecond)
		c.Kill(0)
		time.Sleep(10 * time.Second)
		c.Restart(0)
		at := time.Now()
		before := off()
		time.Sleep(10 * time.Second)
		want(before - 10*time.Millisecond*time.Duration(time.Since(at))/time.Duration(10*time.Second))
		c.Clock(0).SetOffset(-5 * time.Millisecond)
		want(-5 * time.Millisecond)
		c.Clock(0).SetDrift(0)
		time.Sleep(time.Minute)
		want(-5 * time.Millisecond)
	})
}

// What a cluster in this process has begun has ended with its test.
func TestNothingOutlivesItsTest(t *testing.T) {
	before := goroutines()
	t.Run("cluster", func(t *testing.T) {
		c := Start(t, Options{Nodes: 3})
		c.Exec(0, "CREATE TABLE t (k int PRIMARY KEY)")
		c.Connect(1)
		c.Kill(2)
		c.Pause(1)
		c.Cut(0, 1)
	})
	deadline := time.Now().Add(10 * time.Second)
	for { // what was closed may still be on its way out
		left := goroutines() - before
		if left <= 0 {
			break
		}
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			t.Fatalf("%d goroutines are left:\n%s", left, buf[:runtime.Stack(buf, true)])
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// goroutines counts those that run our code.
func goroutines() int {
	buf := make([]byte, 4<<20)
	n := 0
	for _, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if strings.Contains(g, "spandb/spand") || strings.Contains(g, "google.golang.org/grpc") {
			n++
		}
	}
	return n
}

// Misuse fails the test in words.
func TestClusterMisuse(t *testing.T) {
	for _, m := range []struct {
		what, want string
		do         func(testing.TB)
	}{
		{"real sockets in a bubble", "use Virtual", func(tb testing.TB) {
			synctest.Test(t, func(*testing.T) {
				defer func() { recover() }()
				Start(tb, Options{})
			})
		}},
		{"virtual time outside", "use RunVirtual", func(tb testing.TB) { Start(tb, Options{Mode: Virtual}) }},
		{"no such node", "there is no node 1", func(tb testing.TB) { Start(tb, Options{}).Kill(1) }},
		{"killed twice", "it is down already", func(tb testing.TB) { c := Start(tb, Options{}); c.Kill(0); c.Kill(0) }},
		{"too wide an ε", "never serve", func(tb testing.TB) { Start(tb, Options{ClockError: time.Second}) }},
	} {
		f := &failing{TB: t}
		func() {
			defer func() { recover() }()
			m.do(f)
		}()
		if !strings.Contains(f.why, m.want) {
			t.Errorf("%s: %q", m.what, f.why)
		}
	}
}

// failing is a test that notes why it failed.
type failing struct {
	testing.TB
	why string
}

func (f *failing) Fatal(args ...any)                 { f.why = fmt.Sprint(args...); panic(f) }
func (f *failing) Fatalf(format string, args ...any) { f.Fatal(fmt.Sprintf(format, args...)) }
