package main_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spandb/spand/integration"
	"github.com/spandb/spand/lockservice"
)

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
