package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestTestingYourApp does what docs/testing-your-app.md tells a stranger. Real processes, built
// from his module, run with its examples.
func TestTestingYourApp(t *testing.T) {
	runExamples(t, "../docs/testing-your-app.md", 6, map[string]string{"processes": processesElsewhere})
}

// pageBlock returns the fenced block of a page whose info string is given.
func pageBlock(t *testing.T, page, info string) string {
	t.Helper()
	data, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?ms)^```" + regexp.QuoteMeta(info) + "\n(.*?)^```$").FindSubmatch(data)
	if m == nil {
		t.Fatalf("%s has no block %q", page, info)
	}
	return string(m[1])
}

// runExamples makes a module of one's own with the page's Go files, of which there are at least
// some, and more, and runs `go test` there, offline. Each file compiles by itself; they run
// together, which is one link instead of seven.
func runExamples(t *testing.T, path string, some int, more map[string]string) {
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var tests []string
	files := 0
	example := func(name, text string) {
		write(filepath.Join("each", name, name+"_test.go"), text)
		write(filepath.Join("all", name+"_test.go"), text)
		files++
		for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)`).FindAllStringSubmatch(text, -1) {
			tests = append(tests, m[1])
		}
	}
	for _, m := range regexp.MustCompile("(?ms)^```go (\\w+)_test\\.go\n(.*?)^```$").FindAllStringSubmatch(string(page), -1) {
		example(m[1], m[2])
	}
	if files < some || len(tests) < files {
		t.Fatalf("the page has only %d files with the tests %v", files, tests)
	}
	for name, text := range more {
		example(name, text)
	}

	repo, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	mod, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	// What `go get` and `go mod tidy` would write, given a network.
	_, requires, _ := strings.Cut(string(mod), "\nrequire (")
	write("go.mod", "module example.com/app\n\ngo 1.26.0\n\nrequire github.com/spandb/spand v0.0.0\n\nreplace github.com/spandb/spand => "+repo+"\n\nrequire ("+requires)
	sum, err := os.ReadFile("../go.sum")
	if err != nil {
		t.Fatal(err)
	}
	write("go.sum", string(sum))

	run := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("go", args...)
		cmd.Dir = dir
		flags := regexp.MustCompile(`-mod=\w+`).ReplaceAllString(os.Getenv("GOFLAGS"), "") + " -mod=mod"
		cmd.Env = append(os.Environ(), "GOFLAGS="+flags, "GOPROXY=off", "GOWORK=off")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	run("vet", "./each/...")
	out := run("test", "-v", "-count=1", "./all")
	for _, name := range tests {
		if !strings.Contains(out, "\n--- PASS: "+name+" ") {
			t.Errorf("%s has not passed:\n%s", name, out)
		}
	}
}

const processesElsewhere = `package app

import (
	"testing"
	"time"

	"github.com/spandb/spand/integration"
)

func TestProcesses(t *testing.T) {
	c := integration.Start(t, integration.Options{Nodes: 3, Mode: integration.Processes, Proxy: true})
	c.Exec(0, "CREATE TABLE t (k int PRIMARY KEY)")
	c.Partition([]int{0}, []int{1, 2})
	c.Exec(1, "INSERT INTO t VALUES (1)")
	c.Heal()
	c.Clock(0).SetError(30 * time.Millisecond)
	c.Kill(0)
	c.Restart(0)
	var n int
	if err := c.Connect(0).QueryRow(t.Context(), "SELECT count(*) FROM t").Scan(&n); err != nil || n != 1 {
		t.Errorf("%d rows, %v", n, err)
	}
	var added string
	if err := c.Connect(0).QueryRow(t.Context(), "SHOW spand.clock_error_add").Scan(&added); err != nil || added != "30ms" {
		t.Errorf("added %q, %v", added, err)
	}
}
`
