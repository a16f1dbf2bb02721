package integration

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
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
	c := startProcesses(t, Options{})
	n := c.Nodes[0]
	psql(t, n, "create table t (k int primary key, v int not null)")
	psql(t, n, "insert into t values (1, 1)")
	before := quiet(t, n)
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
	conn.Close(t.Context())
	other.Close(t.Context())
	nothingLeaked(t, n, before)
}

// TestGarbageOnThePorts (F1): whatever arrives, the node goes on serving.
func TestGarbageOnThePorts(t *testing.T) {
	c := startProcesses(t, Options{})
	n := c.Nodes[0]
	before := quiet(t, n)
	for _, addr := range []string{n.SQLAddr, n.RPCAddr, n.HTTPAddr} {
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
	nothingLeaked(t, n, before)
}

// TestWrongStartups (F1): a connection that does not begin as it should hears why.
func TestWrongStartups(t *testing.T) {
	c := startProcesses(t, Options{})
	n := c.Nodes[0]
	before := quiet(t, n)
	packet := func(version uint32, body string) []byte {
		b := binary.BigEndian.AppendUint32(nil, uint32(8+len(body)))
		return append(binary.BigEndian.AppendUint32(b, version), body...)
	}
	const v3 = 3 << 16
	for _, s := range []struct {
		what   string
		packet []byte
		code   string
	}{
		{"protocol 2.0", packet(2<<16, "user\x00root\x00\x00"), "0A000"},
		{"no user", packet(v3, "database\x00spand\x00\x00"), "28000"},
		{"another user", packet(v3, "user\x00nobody\x00database\x00spand\x00\x00"), "28000"},
		{"another database", packet(v3, "user\x00root\x00database\x00nowhere\x00\x00"), "3D000"},
		{"no terminator", packet(v3, "user\x00root\x00"), "08P01"},
		{"a parameter without a value", packet(v3, "user\x00"), "08P01"},
		{"an unknown setting", packet(v3, "user\x00root\x00no_such_setting\x001\x00\x00"), "42704"},
		{"an overlong encryption request", packet(80877103, "more"), "08P01"},
		{"a replication connection", packet(v3, "user\x00root\x00replication\x00true\x00\x00"), "0A000"},
		{"a length of nothing", []byte{0, 0, 0, 0}, "08P01"},
		{"an oversized length", []byte{0x7f, 0xff, 0xff, 0xff, 0, 3, 0, 0}, "08P01"},
	} {
		conn, err := net.Dial("tcp", n.SQLAddr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(s.packet); err != nil {
			t.Fatal(err)
		}
		if got := answerUntilClosed(t, conn); !strings.Contains(got, "C"+s.code+"\x00") {
			t.Errorf("%s: the answer is %q, want SQLSTATE %s", s.what, got, s.code)
		}
	}
	nothingLeaked(t, n, before)
}

// answerUntilClosed returns what the node sends until it closes the connection.
func answerUntilClosed(t *testing.T, conn net.Conn) string {
	t.Helper()
	defer conn.Close()
	conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	var got bytes.Buffer
	if _, err := got.ReadFrom(conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection is still open after %q", got.String())
	}
	return got.String()
}

// TestBrokenMessages (F1): a session whose client sends what is no message, or half of
// one, ends with a clear error, and what its transaction had locked is free.
func TestBrokenMessages(t *testing.T) {
	c := startProcesses(t, Options{})
	n := c.Nodes[0]
	psql(t, n, "create table t (k int primary key, v int not null)")
	psql(t, n, "insert into t values (1, 1)")
	before := quiet(t, n)
	other := connect(t, n)
	for _, m := range []struct {
		what, bytes, code string
		gone              bool // the client says no more; else the node must not wait for it
	}{
		{"half a header", "Q\x00\x00", "08P01", true},
		{"half a query", "Q\x00\x00\x00\x20select", "08P01", true},
		{"half a bind", "B\x00\x00\x00\x40\x00\x00", "08P01", true},
		{"a query without its terminator", "Q\x00\x00\x00\x05x", "08P01", true},
		{"an oversized query", "Q\x7f\xff\xff\xff", "54000", false},
		{"an oversized sync", "S\x00\x01\x00\x00", "08P01", false},
		{"a length below its own size", "Q\x00\x00\x00\x03", "08P01", false},
		{"a negative length", "Q\xff\xff\xff\xff", "08P01", false},
		{"an unknown message", "?\x00\x00\x00\x04", "08P01", false},
	} {
		conn := connect(t, n)
		for _, sql := range []string{"begin", "update t set v = -1 where k = 1"} {
			if _, err := conn.Exec(t.Context(), sql); err != nil {
				t.Fatal(err)
			}
		}
		raw := conn.PgConn().Conn().(*net.TCPConn)
		if _, err := raw.Write([]byte(m.bytes)); err != nil {
			t.Fatal(err)
		}
		if m.gone {
			raw.CloseWrite()
		}
		if got := answerUntilClosed(t, raw); !strings.Contains(got, "C"+m.code+"\x00") {
			t.Errorf("%s: the answer is %q, want SQLSTATE %s", m.what, got, m.code)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		if _, err := other.Exec(ctx, "update t set v = v + 1 where k = 1"); err != nil {
			t.Fatalf("after %s the row is locked: %v", m.what, err)
		}
		cancel()
	}
	if got := psql(t, n, "select v from t"); got != "10" {
		t.Errorf("the row holds %s, want 10: nothing of the broken sessions", got)
	}
	other.Close(t.Context())
	nothingLeaked(t, n, before)
}

// startFails runs a node that must not start and returns what it said.
func startFails(t *testing.T, binary string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, binary, args...).CombinedOutput()
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
	c := startProcesses(t, Options{})
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
	c := startProcesses(t, Options{})
	n := c.Nodes[0]
	psql(t, n, "create table t (k int primary key, v text)")
	for range 20 {
		psql(t, n, "insert into t select coalesce(max(k), 0) + 1, 'findme' from t")
	}
	n.Kill(t)
	flipByte(t, filepath.Join(n.DataDir, "log-*"), "findme", 1) // the last could be a torn tail
	out := startFails(t, Binary(t), n.Args()...)
	if !strings.Contains(out, "corrupt") {
		t.Errorf("start on a damaged log: %s", out)
	}
}

// TestFlippedByteInTheStore (D1): whatever would have to touch a row whose bytes are
// damaged is refused loudly, and the others are there.
func TestFlippedByteInTheStore(t *testing.T) {
	for _, where := range []struct {
		what   string
		needle string
	}{
		{"value", "findme-7"},
		{"key", "sought-7"},
	} {
		t.Run(where.what, func(t *testing.T) {
			c := startProcesses(t, Options{})
			n := c.Nodes[0]
			psql(t, n, "create table t (k text primary key, v text)")
			psql(t, n, "insert into t select 'sought-' || i, 'findme-' || i from generate_series(1, 9) as i")
			if code := n.Terminate(t); code != 0 { // with a checkpoint, so that the rows are in the store
				t.Fatalf("exit code %d", code)
			}
			flipByte(t, filepath.Join(n.DataDir, "store.db"), where.needle, -1) // pages are copied on write
			n.Restart(t)
			conn := connect(t, n)
			for _, sql := range []string{"select * from t", "select count(v) from t", "update t set v = ''", "delete from t where k > 'sought-5'", "select v from t where k = 'sought-7'"} {
				_, err := conn.Exec(t.Context(), sql)
				var pgErr *pgconn.PgError
				if !errors.As(err, &pgErr) || pgErr.Code != "XX001" || !strings.Contains(pgErr.Message, "store.db") {
					t.Errorf("%s: %v, want an error XX001 that names the file", sql, err)
				}
			}
			if got := psql(t, n, "select v from t where k = 'sought-3'"); got != "findme-3" {
				t.Errorf("a whole row far from the damage: %q", got)
			}
		})
	}
}

// flipByte damages the first n occurrences of needle, all if n is negative, in the
// files that match pattern.
func flipByte(t *testing.T, pattern string, needle string, n int) {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	flipped := 0
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for at := 0; flipped != n; flipped++ {
			i := bytes.Index(data[at:], []byte(needle))
			if i < 0 {
				break
			}
			at += i + 1
			data[at-1] ^= 0x20
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if flipped == 0 {
		t.Fatalf("%q is in no file %s", needle, pattern)
	}
}

// TestDrainExitsZero: SIGTERM hands everything over and ends with 0, nothing lost.
func TestDrainExitsZero(t *testing.T) {
	c := startProcesses(t, Options{Nodes: 3})
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
	c := startProcesses(t, Options{Nodes: 3})
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
