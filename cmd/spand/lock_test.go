package main_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

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

func lockRun(c cli) {
	c.want(0, "/ls/local/jobs/x:exclusive:", "run", "/ls/local/jobs/x", "--", "sh", "-c", "echo $SPAND_SEQUENCER")
	c.want(7, "", "run", "/ls/local/jobs/x", "--", "sh", "-c", "exit 7")
	c.want(128+9, "", "run", "/ls/local/jobs/x", "--", "sh", "-c", "kill -9 $$")
	c.want(1, "executable file not found", "run", "/ls/local/jobs/x", "--", "no-such-command")
	// Flags of the command are its own.
	c.want(0, "--try", "run", "--shared", "/ls/local/jobs/x", "--", "echo", "--try")

	client := c.client()
	s, err := client.NewSession(c.Context(), lockservice.SessionOptions{})
	if err != nil {
		c.Fatal(err)
	}
	h, err := s.Open(c.Context(), "/ls/local/jobs/x", lockservice.OpenOptions{})
	if err != nil {
		c.Fatal(err)
	}
	l, err := h.Lock(c.Context())
	if err != nil {
		c.Fatal(err)
	}
	c.want(1, "held", "run", "--try", "/ls/local/jobs/x", "--", "echo", "ran")
	c.want(1, "not free within 100ms", "run", "--wait", "100ms", "/ls/local/jobs/x", "--", "echo", "ran")
	// A signal while it waits ends it, and leaves no hold behind.
	cmd := c.command("run", "/ls/local/jobs/x", "--", "echo", "ran")
	if err := cmd.Start(); err != nil {
		c.Fatal(err)
	}
	sub, err := h.Subscribe(c.Context(), lockservice.SubscribeOptions{Kinds: []lockservice.EventKind{lockservice.ConflictingRequest}})
	if err != nil {
		c.Fatal(err)
	}
	if _, err := sub.Next(c.Context()); err != nil {
		c.Fatal(err)
	}
	cmd.Process.Signal(syscall.SIGTERM)
	cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != 128+15 {
		c.Errorf("terminated while it waited: exit %d", got)
	}
	if err := l.Unlock(c.Context()); err != nil {
		c.Fatal(err)
	}
	if l, err = h.TryLock(c.Context()); err != nil {
		c.Errorf("after a waiter that was terminated: %v", err)
	}
	l.Unlock(c.Context())
}

// script writes a shell script's pid and what it does; both are read line by line.
func (c cli) script(script string, args ...string) (*exec.Cmd, *bufio.Scanner, *bytes.Buffer) {
	c.Helper()
	cmd := c.command(append(append([]string{"run"}, args...), "--", "sh", "-c", script)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		c.Fatal(err)
	}
	var msg bytes.Buffer
	cmd.Stderr = &msg
	if err := cmd.Start(); err != nil {
		c.Fatal(err)
	}
	return cmd, bufio.NewScanner(out), &msg
}

func lockRunSignals(c cli) {
	cmd, out, _ := c.script(`trap 'echo got TERM; exit 3' TERM; echo ready; while :; do sleep 0.05; done`, "/ls/local/jobs/s")
	if !out.Scan() || out.Text() != "ready" {
		c.Fatalf("printed %q", out.Text())
	}
	cmd.Process.Signal(syscall.SIGTERM)
	if !out.Scan() || out.Text() != "got TERM" {
		c.Errorf("printed %q", out.Text())
	}
	cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != 3 {
		c.Errorf("exit %d, want the command's", got)
	}
	cmd, out, _ = c.script(`echo ready; exec sleep 100`, "/ls/local/jobs/s")
	out.Scan()
	cmd.Process.Signal(syscall.SIGINT)
	cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != 128+2 {
		c.Errorf("exit %d, want 130", got)
	}
}

// A holder that is killed takes its command with it.
func lockRunKilled(c cli) {
	cmd, out, _ := c.script(`echo $$; exec sleep 100`, "--ttl", "1s", "/ls/local/jobs/k")
	out.Scan()
	pid, err := strconv.Atoi(out.Text())
	if err != nil {
		c.Fatal(err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	c.awaitDead(pid, 5*time.Second)
}

// A holder that is stopped cannot end its command; its watchdog does, before the lease is over.
func lockRunStopped(c cli) {
	cmd, out, msg := c.script(`sh -c 'trap "" TERM; echo $$; exec sleep 100' & wait`, "--ttl", "2s", "/ls/local/jobs/stopped")
	out.Scan()
	pid, err := strconv.Atoi(out.Text())
	if err != nil {
		c.Fatal(err)
	}
	cmd.Process.Signal(syscall.SIGSTOP)
	c.awaitDead(pid, 2*time.Second)
	cmd.Process.Signal(syscall.SIGCONT)
	cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != 1 || !strings.Contains(msg.String(), "the lock of /ls/local/jobs/stopped was lost: ") {
		c.Errorf("exit %d, %q; want 1 and that the lock was lost", got, msg)
	}
	// And one that is killed takes what its command has started with it.
	cmd, out, _ = c.script(`sh -c 'echo $$; exec sleep 100' & wait`, "--ttl", "60s", "/ls/local/jobs/stopped2")
	out.Scan()
	if pid, err = strconv.Atoi(out.Text()); err != nil {
		c.Fatal(err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	c.awaitDead(pid, 5*time.Second)
}

// What a command leaves running in its group is dead when the lock is given back.
func lockRunLeavesNothing(c cli) {
	cmd, out, _ := c.script(`trap "" TERM; sleep 100 >/dev/null & echo $!; exit 4`, "--ttl", "60s", "/ls/local/jobs/left")
	out.Scan()
	pid, err := strconv.Atoi(out.Text())
	if err != nil {
		c.Fatal(err)
	}
	cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != 4 {
		c.Errorf("exit %d, want the command's", got)
	}
	c.awaitDead(pid, time.Second)
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

// awaitDead waits until a process that is not ours is gone, or a zombie that nobody reaps.
func (c cli) awaitDead(pid int, limit time.Duration) {
	c.Helper()
	began := time.Now()
	for {
		stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
		if err != nil || bytes.Contains(stat, []byte(") Z ")) {
			return
		}
		if time.Since(began) > limit {
			c.Fatalf("process %d is alive after %v: %s", pid, limit, stat)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// The cell stops answering: the command gets SIGTERM, and SIGKILL before its lease is over here,
// which is before the cell could give the lock to another.
func lockRunLoses(c cli, cluster *integration.Cluster) {
	marks := filepath.Join(c.TempDir(), "marks")
	// It ignores SIGTERM, and writes as long as it lives.
	// Its shell dies of SIGTERM, which does not end its time.
	cmd, out, msg := c.script(`sh -c "trap 'echo TERM' TERM; echo ready; while :; do date +%s%N >>`+marks+`; sleep 0.02; done" & wait`, "--ttl", "2s", "/ls/local/jobs/l")
	if !out.Scan() || out.Text() != "ready" {
		c.Fatalf("printed %q, %s", out.Text(), msg)
	}
	// Another waits for the lock, which it gets when the node is back and the lease over.
	client := c.client()
	s, err := client.NewSession(c.Context(), lockservice.SessionOptions{TTL: time.Minute})
	if err != nil {
		c.Fatal(err)
	}
	h, err := s.Open(c.Context(), "/ls/local/jobs/l", lockservice.OpenOptions{})
	if err != nil {
		c.Fatal(err)
	}
	got := make(chan time.Time, 1)
	go func() {
		ctx, cancel := context.WithTimeout(c.Context(), 30*time.Second)
		defer cancel()
		if _, err := h.Lock(ctx); err != nil {
			c.Error(err)
		}
		got <- time.Now()
	}()
	cluster.Pause(0)
	paused := time.Now()
	termed := out.Scan() && out.Text() == "TERM"
	cmd.Wait()
	cluster.Resume(0)
	if code := cmd.ProcessState.ExitCode(); !termed || code != 1 {
		c.Errorf("SIGTERM seen: %v; exit %d, want 1", termed, code)
	}
	if !strings.Contains(msg.String(), "the command was ended") {
		c.Errorf("stderr %q", msg)
	}
	granted := <-got
	text, err := os.ReadFile(marks)
	if err != nil {
		c.Fatal(err)
	}
	lines := strings.Fields(string(text))
	last, err := strconv.ParseInt(lines[len(lines)-1], 10, 64)
	if err != nil {
		c.Fatal(err)
	}
	if lived := time.Unix(0, last).Sub(paused); lived > 2*time.Second {
		c.Errorf("the command lived for %v of a lease of 2 s", lived)
	}
	if !time.Unix(0, last).Before(granted) {
		c.Errorf("the command worked at %v, the next holder had the lock at %v", time.Unix(0, last), granted)
	}
}

// The exit code tells a lost lock, whatever the command makes of its SIGTERM.
func lockRunTells(c cli, cluster *integration.Cluster) {
	for i, onTerm := range []string{"", "exit 0", "exit 3"} {
		path := fmt.Sprintf("/ls/local/jobs/tells%d", i)
		cmd, out, msg := c.script(`trap "`+onTerm+`" TERM; echo ready; while :; do sleep 0.02; done`, "--ttl", "1s", path)
		if !out.Scan() || out.Text() != "ready" {
			c.Fatalf("printed %q, %s", out.Text(), msg)
		}
		cluster.Pause(0)
		cmd.Wait()
		cluster.Resume(0)
		if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(msg.String(), "the lock of "+path+" was lost: ") {
			c.Errorf("on SIGTERM %q: exit %d, %q; want 1 and that the lock was lost", onTerm, code, msg)
		}
	}
}
