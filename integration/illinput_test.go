package integration

import (
	"bufio"
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// TestSQLErrors (F1): each mistake has PostgreSQL's SQLSTATE, fails only its own
// transaction, and leaves no lock behind.
func TestSQLErrors(t *testing.T) {
	c := Start(t, Options{})
	n := c.Nodes[0]
	psql(t, n, "create table t (k int primary key, v int not null)")
	psql(t, n, "insert into t values (1, 1)")
	conn, other := connect(t, n), connect(t, n)
	for _, e := range []struct{ sql, code string }{
		{"selec 1", "42601"},
		{"select 1 +", "42601"},
		{"select * from nowhere", "42P01"},
		{"select nothing from t", "42703"},
		{"insert into t values (1, 2)", "23505"},
		{"insert into t values (2, null)", "23502"},
		{"select 1/0", "22012"},
		{"select 'x'::int", "22P02"},
		{"insert into t values ('x', 1)", "22P02"},
		{"select 2147483647 + 1", "22003"},
		{"select nofunction(1)", "42883"},
		{"create table t (k int)", "42P07"},
	} {
		tx, err := conn.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), "update t set v = v + 1 where k = 1"); err != nil {
			t.Fatal(err)
		}
		code := func(err error) string {
			var pgErr *pgconn.PgError
			if errors.As(err, &pgErr) {
				return pgErr.Code
			}
			return "none"
		}
		if _, err := tx.Exec(t.Context(), e.sql); code(err) != e.code {
			t.Errorf("%s: SQLSTATE %s (%v), want %s", e.sql, code(err), err, e.code)
		}
		if _, err := tx.Exec(t.Context(), "select 1"); code(err) != "25P02" {
			t.Errorf("after %s: %v, want 25P02", e.sql, err)
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		// The lock is gone: another session writes the same row at once.
		if _, err := other.Exec(t.Context(), "update t set v = 1 where k = 1"); err != nil {
			t.Fatal(err)
		}
	}
	if got := psql(t, n, "select k, v from t"); got != "1|1" {
		t.Errorf("table after the mistakes: %q", got)
	}
}

// TestGarbageOnThePorts (F1): whatever arrives, the node goes on serving.
func TestGarbageOnThePorts(t *testing.T) {
	c := Start(t, Options{})
	n := c.Nodes[0]
	for _, addr := range []string{n.SQLAddr, n.RPCAddr} {
		for _, junk := range [][]byte{
			bytes.Repeat([]byte{0xff}, 64),
			{0, 0, 0, 8, 0, 0, 0, 1},
			{0, 0, 0, 3},
			[]byte("GET / HTTP/1.1\r\n\r\n"),
			append([]byte{0x7f, 0xff, 0xff, 0xff}, make([]byte, 1024)...),
			nil,
		} {
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			conn.Write(junk)
			conn.(*net.TCPConn).CloseWrite()
			conn.SetReadDeadline(time.Now().Add(30 * time.Second))
			if _, err := new(bytes.Buffer).ReadFrom(conn); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s: a connection that sent %q is still open", addr, junk)
			}
			conn.Close()
		}
	}
	if got := psql(t, n, "select 1"); got != "1" {
		t.Errorf("select 1 after garbage: %q", got)
	}
}

// startFails runs a node that must not start and returns what it said.
func startFails(t *testing.T, binary string, args ...string) string {
	t.Helper()
	out, err := exec.Command(binary, args...).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Fatalf("spand %s: %v, want exit code 1\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// replaced returns args with the value after flag changed.
func replaced(args []string, flag, value string) []string {
	out := append([]string(nil), args...)
	for i := range out {
		if out[i] == flag {
			out[i+1] = value
			return out
		}
	}
	return append(out, flag, value)
}

// TestRefusedStarts: what must not start says why, in one line, and touches nothing.
func TestRefusedStarts(t *testing.T) {
	c := Start(t, Options{})
	n := c.Nodes[0]
	bin := Binary(t)
	psql(t, n, "create table t (k int primary key)")

	if out := startFails(t, bin, n.Args()...); !strings.Contains(out, "in use") {
		t.Errorf("same ports: %s", out)
	}
	moved := n.Args()
	for _, f := range []string{"--sql-addr", "--rpc-addr", "--http-addr"} {
		moved = replaced(moved, f, freeAddr(t))
	}
	if out := startFails(t, bin, moved...); !strings.Contains(out, n.DataDir) {
		t.Errorf("two processes on one directory: %s", out)
	}
	n.Kill(t)
	if out := startFails(t, bin, replaced(moved, "--node", "n7")...); !strings.Contains(out, "n1") {
		t.Errorf("directory of another node: %s", out)
	}
	cluster := replaced(moved, "--cluster", "n1="+freeAddr(t)+",n2="+freeAddr(t))
	if out := startFails(t, bin, cluster...); !strings.Contains(out, "cluster") {
		t.Errorf("directory of another cluster: %s", out)
	}
	n.Restart(t)
	if got := psql(t, n, "select count(*) from t"); got != "0" {
		t.Errorf("after the refused starts: %q", got)
	}
}

// TestFlippedByteInTheLog (D1): damage below what was synced is refused loudly.
func TestFlippedByteInTheLog(t *testing.T) {
	c := Start(t, Options{})
	n := c.Nodes[0]
	psql(t, n, "create table t (k int primary key, v text)")
	for range 20 {
		psql(t, n, "insert into t select coalesce(max(k), 0) + 1, 'findme' from t")
	}
	n.Kill(t)
	if !flipByte(t, n.DataDir, []byte("findme")) {
		t.Fatal("the value is in no file of the data directory")
	}
	out := startFails(t, Binary(t), n.Args()...)
	if !strings.Contains(out, "corrupt") {
		t.Errorf("start on a damaged log: %s", out)
	}
}

// flipByte damages the first occurrence of needle in the files below dir.
func flipByte(t *testing.T, dir string, needle []byte) bool {
	t.Helper()
	done := false
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() || done {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if i := bytes.Index(data, needle); i >= 0 {
			data[i] ^= 0x20
			done = true
			return os.WriteFile(path, data, info.Mode())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return done
}

// TestDrainExitsZero: SIGTERM hands everything over and ends with 0, nothing lost.
func TestDrainExitsZero(t *testing.T) {
	c := Start(t, Options{Nodes: 3})
	psql(t, c.Nodes[0], "create table t (k int primary key)")
	psql(t, c.Nodes[0], "insert into t values (1)")
	for _, n := range c.Nodes[:2] {
		if code := n.Terminate(t); code != 0 {
			t.Errorf("%s: SIGTERM ended it with exit code %d", n.Name, code)
		}
		n.Restart(t)
	}
	if got := psql(t, c.Nodes[2], "select count(*) from t"); got != "1" {
		t.Errorf("after the drains: %q", got)
	}
}

// TestDrainOfAllNodesAtOnce: nodes that are all told to stop do not wait for each
// other to take over, and nothing is lost.
func TestDrainOfAllNodesAtOnce(t *testing.T) {
	c := Start(t, Options{Nodes: 3})
	psql(t, c.Nodes[0], "create table t (k int primary key)")
	psql(t, c.Nodes[1], "insert into t values (1)")
	var wg sync.WaitGroup
	for _, n := range c.Nodes {
		wg.Go(func() {
			if code := n.Terminate(t); code != 0 {
				t.Errorf("%s: SIGTERM ended it with exit code %d", n.Name, code)
			}
			if log := n.Log(t); strings.Contains(log, "drain incomplete") {
				t.Errorf("%s waited in vain:\n%s", n.Name, log)
			}
		})
	}
	wg.Wait()
	for _, n := range c.Nodes {
		n.Launch(t)
	}
	for _, n := range c.Nodes {
		n.AwaitReady(t)
	}
	if got := psql(t, c.Nodes[2], "select count(*) from t"); got != "1" {
		t.Errorf("after the drain: %q", got)
	}
}

// TestUnsynchronisedClock (T1): a node of a cluster without a vouched bound starts
// only if the kernel vouches; if not, it says so and names both ways out.
func TestUnsynchronisedClock(t *testing.T) {
	addr := freeAddr(t)
	cmd := exec.Command(Binary(t), "start", "--data-dir", filepath.Join(t.TempDir(), "d"), "--sql-addr", freeAddr(t), "--rpc-addr", addr,
		"--http-addr", freeAddr(t), "--cluster", "n1="+addr)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(stdout).ReadString('\n')
	if strings.HasPrefix(line, "spand: ready ") {
		cmd.Process.Kill()
		cmd.Wait()
		return // this machine's clock is synchronised
	}
	err = cmd.Wait()
	if cmd.ProcessState.ExitCode() != 1 || !strings.Contains(stderr.String(), "chrony") || !strings.Contains(stderr.String(), "--max-clock-error") {
		t.Errorf("%v\n%s", err, stderr.String())
	}
}
