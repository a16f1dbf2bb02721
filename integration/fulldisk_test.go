package integration

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/spandb/spand/lockservice"
	"github.com/spandb/spand/lockservice/lockpb"
)

// TestFullDisk: on a full disk writes get 53100 and reads go on, also after
// kill -9 and a restart; with space again writes work, without a restart; nothing
// acknowledged is lost.
func TestFullDisk(t *testing.T) {
	dir, inside := smallDisk(t, "700m")
	if !inside {
		return // a child process in a namespace of its own has run the test
	}
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	c := startProcesses(t, Options{Dir: data})
	n := c.Nodes[0]
	psql(t, n, "create table numbers (k int)")
	psql(t, n, "create table t (k int primary key)")
	psql(t, n, "insert into t values (1)")
	before := quiet(t, n)
	w := startWriter(t, n, 0)
	w.awaitProgress(t, 50)

	filler := filepath.Join(dir, "filler")
	fill(t, filler)
	refusesWrites(t, n)
	free(t, filler)
	w.awaitProgress(t, 50)

	fill(t, filler)
	refusesWrites(t, n)
	n.Kill(t)
	n.Restart(t)
	refusesWrites(t, n)
	free(t, filler)
	w.awaitProgress(t, 50)
	w.stop()
	w.check(t, n)
	nothingLeaked(t, n, before)
}

// TestFullDiskOfALeader: while the disk of the node that leads a cell is full, a session that dies
// loses its lock there, another node's client gets it, and gives it back.
func TestFullDiskOfALeader(t *testing.T) {
	small, inside := smallDisk(t, "700m")
	if !inside {
		return
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(small, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(small, "data"), filepath.Join(dir, "n1")); err != nil {
		t.Fatal(err)
	}
	c := startProcesses(t, Options{Nodes: 3, Dir: dir})
	nodes := newLockNodes(t, c)
	const path = "/ls/local/disk/x"
	holder := exec.CommandContext(t.Context(), Binary(t), "lock", "run", "--ttl", "2s", "--addr", c.Nodes[1].RPCAddr, path, "--", "sh", "-c", "echo held; exec sleep 1000")
	out, err := holder.StdoutPipe()
	if err == nil {
		err = holder.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("held\n"))); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	client, err := lockservice.Dial(ctx, c.Nodes[2].RPCAddr)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	s, err := client.NewSession(ctx, lockservice.SessionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	h, err := s.Open(ctx, path, lockservice.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	var l *lockservice.Lock
	go func() {
		var err error
		l, err = h.Lock(ctx)
		got <- err
	}()
	for nodes.leader("local", 0, 1, 2) != 0 || waiters(nodes, path) == 0 {
		time.Sleep(lookEvery) // leadership settles at the first node
	}

	filler := filepath.Join(small, "filler")
	fill(t, filler)
	for {
		_, err := h.SetContents(ctx, []byte("x"))
		if errors.Is(err, lockservice.ErrDiskFull) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(lookEvery) // nothing announces that the node has looked
	}
	if err := holder.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	holder.Wait()
	if err := <-got; err != nil {
		t.Fatalf("the lock of a session that died: %v", err)
	}
	if n := nodes.leader("local", 0, 1, 2); n != 0 {
		t.Errorf("node %d leads the cell", n)
	}
	if _, err := h.SetContents(ctx, []byte("x")); !errors.Is(err, lockservice.ErrDiskFull) {
		t.Errorf("a write on a full disk: %v", err)
	}
	if err := l.Unlock(ctx); err != nil {
		t.Errorf("Unlock on a full disk: %v", err)
	}
	if err := s.Close(ctx); err != nil {
		t.Errorf("closing a session on a full disk: %v", err)
	}
	free(t, filler)
}

// waiters counts who waits for a lock.
func waiters(nodes *lockNodes, path string) int64 {
	r := insist(nodes, []int{0, 1, 2}, func(ctx context.Context, c lockpb.LockServiceClient) (*lockpb.ListLocksResponse, error) {
		return c.ListLocks(ctx, &lockpb.ListLocksRequest{Cell: "local"})
	})
	for _, l := range r.Locks {
		if l.Sequencer.GetPath() == path {
			return int64(l.Waiters)
		}
	}
	return 0
}

// smallDisk returns a directory on a file system of its own. If this process may not
// mount one, the test is run in a child with a namespace in which it may, and inside
// is false.
func smallDisk(t *testing.T, size string) (dir string, inside bool) {
	t.Helper()
	const marker = "SPAND_TEST_NAMESPACE"
	dir = t.TempDir()
	err := syscall.Mount("spand-test", dir, "tmpfs", 0, "size="+size)
	switch {
	case err == nil:
		t.Cleanup(func() {
			if err := syscall.Unmount(dir, 0); err != nil {
				t.Error(err)
			}
		})
		return dir, true
	case !errors.Is(err, syscall.EPERM) || os.Getenv(marker) != "":
		t.Fatalf("mounting a small file system: %v", err)
	}
	cmd := exec.CommandContext(t.Context(), "unshare", "-rm", os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), marker+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
		t.Fatalf("in a namespace of its own: %v\n%s", err, out)
	}
	return "", false
}

// fill takes all the space that is left.
func fill(t *testing.T, filler string) {
	t.Helper()
	f, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 1<<20); err == nil; {
		_, err = f.Write(block)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
}

func free(t *testing.T, filler string) {
	t.Helper()
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
}

// refusesWrites waits until the node has noticed that its disk is full (it looks
// once a second), and demands that it refuses all kinds of writes and still reads.
func refusesWrites(t *testing.T, n *Node) {
	t.Helper()
	conn := connect(t, n)
	defer conn.Close(t.Context())
	try := func(sql string) string {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		_, err := conn.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol)
		var pgErr *pgconn.PgError
		switch {
		case err == nil:
			return ""
		case errors.As(err, &pgErr):
			return pgErr.Code
		}
		t.Fatalf("%s on a full disk: %v", sql, err)
		return ""
	}
	deadline := time.Now().Add(60 * time.Second)
	for {
		code := try("update t set k = k")
		if code == "53100" {
			break
		}
		if code != "" || time.Now().After(deadline) {
			t.Fatalf("an update on a full disk: SQLSTATE %q, want 53100", code)
		}
		time.Sleep(20 * time.Millisecond) // nothing announces that the node has looked
	}
	for _, sql := range []string{"insert into t values (2)", "delete from t", "create table u (k int)", "begin; insert into t values (3); commit"} {
		if code := try(sql); code != "53100" {
			t.Errorf("%s on a full disk: SQLSTATE %q, want 53100", sql, code)
		}
		try("rollback")
	}
	if got := psql(t, n, "select k, (select count(*) > 0 from numbers) from t"); got != "1|t" {
		t.Errorf("a read on a full disk: %q", got)
	}
	if got := psql(t, n, "begin; select k from t; commit"); got != "1" {
		t.Errorf("a read in a block on a full disk: %q", got)
	}
}
