package demo

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// freePorts returns addresses for the first of n nodes such that those of all, 10 apart,
// are free; they lie below the ports that the system gives away.
func freePorts(t *testing.T, n int) (sql, rpc, http string) {
	t.Helper()
	at := func(port int) string { return fmt.Sprint("127.0.0.1:", port) }
	for range 1000 {
		base, free := 10000+rand.IntN(9000), true
		for i := range n {
			for j := range 3 {
				ln, err := net.Listen("tcp", at(base+10*i+j))
				if free = free && err == nil; err == nil {
					ln.Close()
				}
			}
		}
		if free {
			return at(base), at(base + 1), at(base + 2)
		}
	}
	t.Fatal("no ports are free")
	return
}

func testOptions(t *testing.T, n int) Options {
	o := Options{Nodes: n}
	o.SQLAddr, o.RPCAddr, o.HTTPAddr = freePorts(t, n)
	return o
}

// The clock scenario's claims hold: no commit is answered before its timestamp has passed
// (X1), none takes less than 2ε, reads do not take that long, the node with the wrong clock
// refuses with the reason (T2), the others commit meanwhile, and after its restart it
// finds everything.
func TestClockScenario(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c, err := Start(ctx, testOptions(t, 3))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	var out bytes.Buffer
	steps := 0
	r, err := Clock(ctx, c, &out, func(context.Context) error { steps++; return nil })
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	if steps != 4 || len(r.Levels) != len(clockLevels) || r.Refusal == nil {
		t.Fatalf("%d steps, %+v", steps, r)
	}
	commits := 0
	for _, l := range r.Levels {
		for _, m := range l.Commits {
			commits++
			if m.Answered.Earliest <= m.TS {
				t.Errorf("X1: a commit at %v was answered at %v", m.TS, m.Answered)
			}
			if m.Took < 2*l.Added {
				t.Errorf("X1: a commit took %v while 2ε was %v", m.Took, 2*l.Added)
			}
		}
	}
	// Whether reads wait shows where waiting would take longest.
	if widest := r.Levels[len(r.Levels)-1]; p50(widest.Strong) >= widest.Added || p50(widest.Stale) >= widest.Added || len(widest.Stale) == 0 {
		t.Errorf("reads take %v (strong) and %v (stale) under ε = %v", p50(widest.Strong), p50(widest.Stale), widest.Added)
	}
	if r.Refusal.Code != "57P03" || !strings.Contains(r.Refusal.Message, "n1 and n2") || !strings.Contains(r.Refusal.Detail, "ahead of n1's by") ||
		!strings.Contains(r.Health, "503") || !strings.Contains(r.Health, "disagrees") {
		t.Errorf("T2: %+v; %s", r.Refusal, r.Health)
	}
	if len(r.Others) != 2 || early(r.Others) != 0 {
		t.Errorf("the others: %+v", r.Others)
	}
	if want := commits + 1 + len(r.Others); r.First != want || r.Restarted != want {
		t.Errorf("%d and %d rows, %d were committed", r.First, r.Restarted, want)
	}
	for _, want := range []string{"SET spand.clock_error_add = '50ms'", "Commit Wait: gross", "57P03", "serves again"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the output lacks %q", want)
		}
	}
	t.Log(out.String())
}

// A cluster of one works too, and leaves nothing behind.
func TestClusterOfOne(t *testing.T) {
	c, err := Start(t.Context(), testOptions(t, 1))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), c.URL(0))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), "CREATE TABLE t (k int PRIMARY KEY)"); err != nil {
		t.Error(err)
	}
	conn.Close(t.Context())
	if _, err := Clock(t.Context(), c, &bytes.Buffer{}, nil); err == nil {
		t.Error("the clock scenario began on one node")
	}
	if err := c.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(c.Dir()); !os.IsNotExist(err) {
		t.Error("the folder is still there:", err)
	}
}

// Ports in use are one clear line, and nothing is left behind.
func TestPortInUse(t *testing.T) {
	before, _ := os.ReadDir(os.TempDir())
	o := testOptions(t, 3)
	at, err := above(o.SQLAddr, 10)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if _, err := Start(t.Context(), o); err == nil || !strings.Contains(err.Error(), at) || !strings.Contains(err.Error(), "in use") || strings.Contains(err.Error(), "\n") {
		t.Errorf("%v", err)
	}
	known := map[string]bool{}
	for _, e := range before {
		known[e.Name()] = true
	}
	after, _ := os.ReadDir(os.TempDir())
	for _, e := range after {
		if strings.HasPrefix(e.Name(), "spand-demo-") && !known[e.Name()] {
			t.Errorf("%s was left behind", e.Name())
		}
	}
}
