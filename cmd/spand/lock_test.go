package main_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/spandb/spand/integration"
	"github.com/spandb/spand/lockservice"
)

// cli runs `spand lock` against a node.
type cli struct {
	*testing.T
	binary, addr string
}

func (c cli) command(args ...string) *exec.Cmd {
	return exec.CommandContext(c.Context(), c.binary, append([]string{"lock", "--addr", c.addr}, args...)...)
}

// run returns the output and exit code.
func (c cli) run(stdin string, args ...string) (stdout, stderr string, code int) {
	c.Helper()
	cmd := c.command(args...)
	var out, msg bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &msg
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.Fatal(err)
	}
	return out.String(), msg.String(), cmd.ProcessState.ExitCode()
}

func (c cli) want(code int, out string, args ...string) {
	c.Helper()
	got, msg, exit := c.run("", args...)
	if exit != code || !strings.Contains(got+msg, out) {
		c.Errorf("spand lock %q: exit %d, stdout %q, stderr %q; want exit %d and %q", args, exit, got, msg, code, out)
	}
}

func (c cli) client() *lockservice.Client {
	c.Helper()
	client, err := lockservice.Dial(c.Context(), c.addr)
	if err != nil {
		c.Fatal(err)
	}
	c.Cleanup(func() { client.Close() })
	return client
}

func TestLock(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a node")
	}
	cluster := integration.Start(t, integration.Options{Mode: integration.Processes})
	for _, tt := range []struct {
		name string
		run  func(cli)
	}{
		{"Files", lockFiles},
		{"Stat", lockStat},
		{"Watch", lockWatch},
		{"Usage", lockUsage},
		{"PathsRefused", lockPathsRefused},
		{"Run", lockRun},
		{"RunSignals", lockRunSignals},
		{"RunKilled", lockRunKilled},
		{"RunStopped", lockRunStopped},
		{"RunLeavesNothing", lockRunLeavesNothing},
		{"PutWaitsForStdin", lockPutWaits},
		{"RunLosesTheLock", func(c cli) { lockRunLoses(c, cluster) }},
		{"RunTellsTheLoss", func(c cli) { lockRunTells(c, cluster) }},
	} {
		t.Run(tt.name, func(t *testing.T) { tt.run(cli{t, integration.Binary(t), cluster.Nodes[0].RPCAddr}) })
	}
}

func lockFiles(c cli) {
	c.want(1, "", "put", "/ls/local/d/f", "x")
	c.want(0, "", "put", "--parents", "/ls/local/d/f", "one")
	c.want(0, "one", "cat", "/ls/local/d/f")
	if _, msg, code := c.run("from stdin", "put", "/ls/local/d/f"); code != 0 {
		c.Errorf("put from stdin: %d, %s", code, msg)
	}
	c.want(0, "from stdin", "cat", "/ls/local/d/f")
	out, _, _ := c.run("", "stat", "--json", "/ls/local/d/f")
	var st lockservice.Stat
	if err := json.Unmarshal([]byte(out), &st); err != nil || st.Length != 10 || st.Path != "/ls/local/d/f" {
		c.Errorf("stat --json: %q, %v", out, err)
	}
	c.want(1, "of generation", "put", "--if-generation", strconv.FormatUint(st.ContentGeneration-1, 10), "/ls/local/d/f", "x")
	c.want(0, "", "put", "--if-generation", strconv.FormatUint(st.ContentGeneration, 10), "/ls/local/d/f", "")
	c.want(1, "", "put", "--create=false", "/ls/local/d/g", "x")
	// Only if it is not there.
	c.want(1, "not 0", "put", "--if-generation", "0", "/ls/local/d/f", "x")
	c.want(0, "", "put", "--if-generation", "0", "/ls/local/d/new", "first")
	c.want(1, "not 0", "put", "--if-generation", "0", "/ls/local/d/new", "second")
	c.want(0, "first", "cat", "/ls/local/d/new")
	c.want(0, "", "rm", "/ls/local/d/new")
	c.want(0, "f", "ls", "/ls/local/d/")
	c.want(0, "children", "stat", "/ls/local/d")
	c.want(1, "", "rm", "/ls/local/d")
	c.want(0, "", "rm", "/ls/local/d/f")
	c.want(0, "", "rm", "/ls/local/d")
	c.want(1, "spand lock cat: ", "cat", "/ls/local/d")
	if _, msg, code := c.run(strings.Repeat("x", 256<<10+1), "put", "/ls/local/big"); code != 1 {
		c.Errorf("256 KiB and a byte: %d, %s", code, msg)
	}
	c.addr = "127.0.0.1:1"
	c.want(1, "127.0.0.1:1: ", "cat", "--timeout", "300ms", "/ls/local/x")
}

// stat says whom the ACL admits, and nothing of when a cell's root was made.
func lockStat(c cli) {
	s, err := c.client().NewSession(c.Context(), lockservice.SessionOptions{})
	if err != nil {
		c.Fatal(err)
	}
	h, err := s.Open(c.Context(), "/ls/local/stat", lockservice.OpenOptions{Create: lockservice.CreateExclusive})
	if err != nil {
		c.Fatal(err)
	}
	if err := s.MkdirAll(c.Context(), "/ls/local/acl"); err != nil {
		c.Fatal(err)
	}
	c.want(0, "", "put", "/ls/local/acl/ops", "*")
	if _, err := h.SetACL(c.Context(), lockservice.ACL{Write: "ops"}); err != nil {
		c.Fatal(err)
	}
	c.want(0, `read everybody, write "ops", change everybody`, "stat", "/ls/local/stat")
	for path, has := range map[string]bool{"/ls/local/stat": true, "/ls/local": false} {
		for _, args := range [][]string{{"stat", path}, {"stat", "--json", path}} {
			out, msg, code := c.run("", args...)
			if code != 0 || strings.Contains(out, "modified") != has || !strings.Contains(out, path) || strings.Contains(out, "1970") {
				c.Errorf("spand lock %q: exit %d, %s%s; want a modified time: %v", args, code, out, msg, has)
			}
		}
	}
}

func lockUsage(c cli) {
	c.want(0, "spand lock run [flags] PATH", "--help")
	for _, args := range [][]string{{}, {"frob"}, {"run", "/ls/local/x"}, {"run", "--", "true"}, {"run", "/ls/local/x", "true"}, {"cat"}, {"ls", "a", "b"},
		{"cat", "--shared", "/ls/local/x"}, {"run", "--try", "--wait", "1s", "/ls/local/x", "--", "true"}, {"run", "--ttl", "1ms", "/ls/local/x", "--", "true"}, {"--nix"}} {
		c.want(2, "see spand lock --help", args...)
	}
	// Help of one verb is of that verb.
	for _, args := range [][]string{{"put", "--help"}, {"help", "put"}, {"--json", "put", "-h"}} {
		out, msg, code := c.run("", args...)
		if code != 0 || !strings.Contains(out, "spand lock put [flags] PATH") || !strings.Contains(out, "only if the content generation is this") || !strings.Contains(out, "-addr") {
			c.Errorf("spand lock %q: exit %d, %q, %q", args, code, out, msg)
		}
		for _, other := range []string{"spand lock run", "-ttl", "SPAND_SEQUENCER", "put, rm: ", "-help"} {
			if strings.Contains(out, other) {
				c.Errorf("spand lock %q tells of %q: %s", args, other, out)
			}
		}
	}
	c.want(0, "SPAND_SEQUENCER", "run", "--help")
	c.want(2, `no verb "frob"`, "frob", "--help")
}

// A path that cannot be one is refused whether a node answers or not.
func lockPathsRefused(c cli) {
	node := c.watched()
	c.addr = node.addr
	for _, verb := range []string{"run", "ls", "cat", "put", "stat", "rm", "watch"} {
		for path, why := range map[string]string{"jobs": "does not begin with /ls/", "/": "does not begin with /ls/", "/ls": "does not begin with /ls/",
			"": "does not begin with /ls/", "/ls/": "names no cell", "/ls//x": "names no cell"} {
			args := []string{verb, path}
			if verb == "run" {
				args = append(args, "--", "true")
			}
			c.want(1, fmt.Sprintf("spand lock %s: path %q %s", verb, path, why), args...)
		}
	}
	if n := node.dialled.Load(); n != 0 {
		c.Errorf("%d connections for paths that cannot be", n)
	}
}

func lockWatch(c cli) {
	c.want(0, "", "put", "/ls/local/w", "0")
	_, st, err := c.client().Node("/ls/local/w").Contents(c.Context())
	if err != nil {
		c.Fatal(err)
	}
	cmd := c.command("watch", "--json", "--after", fmt.Sprint(st.Revision), "/ls/local/w")
	out, err := cmd.StdoutPipe()
	if err != nil {
		c.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		c.Fatal(err)
	}
	c.want(0, "", "put", "/ls/local/w", "1")
	lines := bufio.NewScanner(out)
	if !lines.Scan() || !strings.Contains(lines.Text(), `"kind":"CONTENTS_CHANGED"`) {
		c.Errorf("watch printed %q", lines.Text())
	}
	cmd.Process.Signal(syscall.SIGINT)
	if err := cmd.Wait(); err != nil {
		c.Errorf("interrupted watch: %v", err)
	}
}

// watched is a node's address, and counts who dials it.
type watched struct {
	addr    string
	dialled atomic.Int32
}

// watched returns the node under another address.
func (c cli) watched() *watched {
	c.Helper()
	in, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.Fatal(err)
	}
	c.Cleanup(func() { in.Close() })
	w := &watched{addr: in.Addr().String()}
	go func() {
		for {
			conn, err := in.Accept()
			if err != nil {
				return
			}
			w.dialled.Add(1)
			go func() {
				defer conn.Close()
				node, err := net.Dial("tcp", c.addr)
				if err != nil {
					return // and the client sees it
				}
				defer node.Close()
				go io.Copy(node, conn)
				io.Copy(conn, node)
			}()
		}
	}()
	return w
}

// The time that somebody takes to write to stdin is not the cell's: it is asked when stdin has ended.
func lockPutWaits(c cli) {
	node := c.watched()
	own := c
	own.addr = node.addr
	cmd := own.command("put", "/ls/local/slow")
	in, err := cmd.StdinPipe()
	if err != nil {
		c.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		c.Fatal(err)
	}
	// More than a pipe holds: when it is written, the command is reading.
	contents := strings.Repeat("x", 128<<10)
	if _, err := io.WriteString(in, contents); err != nil {
		c.Fatal(err)
	}
	if n := node.dialled.Load(); n != 0 {
		c.Errorf("%d connections before the end of stdin", n)
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		c.Errorf("put: %v", err)
	}
	if node.dialled.Load() == 0 {
		c.Error("the node was not dialled where the test looks")
	}
	c.want(0, contents, "cat", "/ls/local/slow")
}
