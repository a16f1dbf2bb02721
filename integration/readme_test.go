package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// readmeBlock returns the fenced block of README.md whose info string is given.
func readmeBlock(t *testing.T, info string) string {
	t.Helper()
	return pageBlock(t, "../README.md", info)
}

// shell runs a page's shell sessions against a node.
type shell struct {
	t    *testing.T
	page string
	node *Node
	dir  string
	bin  string // found first
	// differs is what is another every time, in what is shown and what is printed.
	differs []*regexp.Regexp
}

// newShell has `spand` and `go run ./cmd/spand` mean this build, and the default ports the node's.
func newShell(t *testing.T, page string, n *Node) *shell {
	s := &shell{t: t, page: page, node: n, dir: t.TempDir(), bin: t.TempDir()}
	s.program("spand", `if [ "$1" = lock ]; then verb=$2; shift 2; exec '`+Binary(t)+`' lock "$verb" --addr `+n.RPCAddr+` "$@"; fi
exec '`+Binary(t)+`' "$@"`)
	return s
}

// program puts a script in the way of a command.
func (s *shell) program(name, script string) {
	if err := os.WriteFile(filepath.Join(s.bin, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		s.t.Fatal(err)
	}
}

// session runs block `sh NAME`, whose output must be block `text NAME`.
func (s *shell) session(name string) {
	s.t.Helper()
	block := strings.NewReplacer("127.0.0.1:15432", s.node.SQLAddr, "127.0.0.1:15433", s.node.RPCAddr, "go run ./cmd/spand", "spand").
		Replace(pageBlock(s.t, s.page, "sh "+name))
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", block)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "PATH="+s.bin+":"+postgresBin+":"+os.Getenv("PATH"), "PSQL_PAGER=", "PGSSLMODE=disable", "LC_ALL=C.UTF-8", "PSQLRC=/dev/null", "TZ=UTC")
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.t.Fatalf("session %s: %v\n%s", name, err, out)
	}
	got, want := string(out), pageBlock(s.t, s.page, "text "+name)
	for _, r := range s.differs {
		got, want = r.ReplaceAllString(got, "…"), r.ReplaceAllString(want, "…")
	}
	if got != want {
		s.t.Errorf("session %s printed\n%s\n%s shows\n%s", name, got, s.page, want)
	}
}

// TestReadme runs README's examples as they stand, but for the ports: the psql sessions, whose
// output must be the one shown, and the pgx program.
func TestReadme(t *testing.T) {
	c := startProcesses(t, Options{})
	here := func(text string) string { return strings.ReplaceAll(text, "127.0.0.1:15432", c.Nodes[0].SQLAddr) }
	s := newShell(t, "../README.md", c.Nodes[0])
	s.session("psql")

	dir, err := os.MkdirTemp(".", "readme") // inside the module, so that pgx is found
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "main.go")
	if err := os.WriteFile(file, []byte(here(readmeBlock(t, "go pgx"))), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("go", "run", "./"+file).CombinedOutput()
	if err != nil || string(out) != "total 150\n" {
		t.Errorf("pgx program: %v\n%s", err, out)
	}
	s.session("past")
	s.session("locks")
	s.session("clock")
}

// TestReadmeCluster runs README's three commands of a cluster, in a directory of
// their own and on free ports, and uses what they start.
func TestReadmeCluster(t *testing.T) {
	block := readmeBlock(t, "sh cluster")
	dir := t.TempDir()
	nodes := make([]*Node, 3)
	for i := range nodes {
		nodes[i] = &Node{Name: []string{"n1", "n2", "n3"}[i]}
		for j, port := range []string{"2", "3", "4"} {
			addr := freeAddr(t)
			block = strings.ReplaceAll(block, "127.0.0.1:154"+[]string{"3", "4", "5"}[i]+port, addr)
			if j == 0 {
				nodes[i].SQLAddr = addr
			}
		}
	}
	block = strings.ReplaceAll(block, "go build -o spand ./cmd/spand", "ln -s "+Binary(t)+" spand")
	// The shell becomes the nodes' guardian: it ends them when its input closes.
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", block+"\nread || true\nkill $(jobs -p)\nwait")
	cmd.Dir = dir
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { stdin.Close(); cmd.Wait() }()
	buf := make([]byte, 4096)
	var seen strings.Builder
	for strings.Count(seen.String(), "spand: ready ") < 3 {
		n, err := stdout.Read(buf)
		if err != nil {
			t.Fatalf("the nodes ended: %v\n%s", err, seen.String())
		}
		seen.Write(buf[:n])
	}
	psql(t, nodes[0], "create table t (k int primary key)")
	psql(t, nodes[1], "insert into t values (1), (2)")
	if got := psql(t, nodes[2], "select count(*) from t"); got != "2" {
		t.Errorf("through n3: %q", got)
	}
}
