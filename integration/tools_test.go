package integration

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// postgresBin is where Debian keeps PostgreSQL 15's programs.
const postgresBin = "/usr/lib/postgresql/15/bin"

// tool runs one of PostgreSQL's own programs against a node and returns what it
// printed. An error fails the test.
func tool(t testing.TB, n *Node, name string, args ...string) string {
	t.Helper()
	out, err := runTool(t.Context(), n, name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

func runTool(ctx context.Context, n *Node, name string, args ...string) (string, error) {
	path := filepath.Join(postgresBin, name)
	if _, err := os.Stat(path); err != nil {
		if path, err = exec.LookPath(name); err != nil {
			return "", fmt.Errorf("PostgreSQL 15's %s is needed (Debian: apt-get install postgresql-15): %w", name, err)
		}
	}
	host, port, _ := strings.Cut(n.SQLAddr, ":")
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "PGHOST="+host, "PGPORT="+port, "PGUSER=root", "PGDATABASE=spand", "PGSSLMODE=disable",
		"PGAPPNAME=integration", "PSQL_PAGER=", "LC_ALL=C")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// psql runs one command and returns its rows, unaligned.
func psql(t testing.TB, n *Node, sql string) string {
	t.Helper()
	return strings.TrimSpace(tool(t, n, "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql))
}

// connect opens a pgx connection that is closed with the test.
func connect(t testing.TB, n *Node) *pgx.Conn {
	t.Helper()
	conn, err := tryConnect(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		conn.Close(ctx)
	})
	return conn
}

func tryConnect(ctx context.Context, n *Node) (*pgx.Conn, error) {
	return pgx.Connect(ctx, n.URL())
}

// startProcesses starts a cluster of real processes, as the tests of this package want it.
func startProcesses(t testing.TB, o Options) *Cluster {
	t.Helper()
	o.Mode = Processes
	return Start(t, o)
}
