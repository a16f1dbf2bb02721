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
	data, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?ms)^```" + regexp.QuoteMeta(info) + "\n(.*?)^```$").FindSubmatch(data)
	if m == nil {
		t.Fatalf("README.md has no block %q", info)
	}
	return string(m[1])
}

// TestReadme runs README's examples as they stand, but for the ports: the first psql
// session, whose output must be the one shown, the pgx program, and those about the past and the clock.
func TestReadme(t *testing.T) {
	c := startProcesses(t, Options{})
	here := func(text string) string { return strings.ReplaceAll(text, "127.0.0.1:15432", c.Nodes[0].SQLAddr) }

	session := func(name string) {
		t.Helper()
		cmd := exec.Command("bash", "-euo", "pipefail", "-c", here(readmeBlock(t, "sh "+name)))
		cmd.Env = append(os.Environ(), "PATH="+postgresBin+":"+os.Getenv("PATH"), "PSQL_PAGER=", "PGSSLMODE=disable", "LC_ALL=C.UTF-8", "PSQLRC=/dev/null")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("psql session %s: %v\n%s", name, err, out)
		}
		if want := readmeBlock(t, "text "+name); string(out) != want {
			t.Errorf("psql session %s printed\n%s\nREADME shows\n%s", name, out, want)
		}
	}
	session("psql")

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
	session("past")
	session("clock")
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
