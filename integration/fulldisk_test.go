package integration

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
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
