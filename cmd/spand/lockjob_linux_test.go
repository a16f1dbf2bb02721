package main_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spandb/spand/integration"
)

func TestLockJobs(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a node")
	}
	cluster := integration.Start(t, integration.Options{Mode: integration.Processes})
	for name, run := range map[string]func(cli){"GoesOn": lockRunJob, "LosesTheLock": lockRunJobLoses} {
		t.Run(name, func(t *testing.T) { run(cli{t, integration.Binary(t), cluster.Nodes[0].RPCAddr}) })
	}
}

// shell is an interactive shell on a terminal of its own.
type shell struct {
	cli
	tty   *os.File
	lines *bufio.Scanner
}

// pty returns both ends of a new terminal.
func (c cli) pty() (us, them *os.File) {
	c.Helper()
	us, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY|syscall.O_NONBLOCK, 0)
	if err != nil {
		c.Fatal(err)
	}
	raw, err := us.SyscallConn() // Fd would make reads block beyond Close
	if err != nil {
		c.Fatal(err)
	}
	n := 0
	raw.Control(func(fd uintptr) {
		if n, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN); err == nil {
			err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0)
		}
	})
	if err == nil {
		them, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|syscall.O_NOCTTY, 0)
	}
	if err != nil {
		c.Fatal(err)
	}
	return us, them
}

func (c cli) shell() *shell {
	c.Helper()
	us, them := c.pty()
	cmd := exec.CommandContext(c.Context(), "sh", "-i")
	cmd.Env = append(os.Environ(), "PS1=", "PS2=")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = them, them, them
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	err := cmd.Start()
	them.Close()
	if err != nil {
		c.Fatal(err)
	}
	c.Cleanup(func() {
		us.Close() // hangs up
		cmd.Process.Kill()
		cmd.Wait()
	})
	return &shell{c, us, bufio.NewScanner(us)}
}

// types sends keys to the terminal.
func (s *shell) types(keys string) {
	s.Helper()
	if _, err := s.tty.WriteString(keys); err != nil {
		s.Fatal(err)
	}
}

// sees reads the terminal up to a line that begins so, and returns the rest of that.
func (s *shell) sees(begin string) string {
	s.Helper()
	var seen []string
	defer time.AfterFunc(20*time.Second, func() { s.tty.Close() }).Stop()
	for s.lines.Scan() {
		line := strings.TrimRight(s.lines.Text(), "\r")
		if rest, ok := strings.CutPrefix(line, begin); ok {
			return rest
		}
		seen = append(seen, line)
	}
	s.Fatalf("no line begins with %q: %q, %v", begin, seen, s.lines.Err())
	return ""
}

// stop types Ctrl-Z and reads until the shell says that the job has stopped.
func (s *shell) stop() {
	s.Helper()
	s.types("\x1a")
	defer time.AfterFunc(20*time.Second, func() { s.tty.Close() }).Stop()
	for s.lines.Scan() {
		if strings.Contains(s.lines.Text(), "Stopped") {
			return
		}
	}
	s.Fatalf("the job does not stop: %v", s.lines.Err())
}

// pid reads a process id from a line that begins so.
func (s *shell) pid(begin string) int {
	s.Helper()
	pid, err := strconv.Atoi(s.sees(begin))
	if err != nil {
		s.Fatal(err)
	}
	return pid
}

// state is a process's in /proc: T is stopped.
func (c cli) state(pid int) string {
	c.Helper()
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		c.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return rest[:1]
}

// job starts `spand lock run` in a shell; script is its command's, which must not hold quotes.
func (s *shell) job(ttl, path, script string) {
	s.types(fmt.Sprintf("%s lock --addr %s run --ttl %s %s -- sh -c '%s'\n", s.binary, s.addr, ttl, path, script))
}

// Ctrl-Z stops holder and command, and gives the shell its terminal back; fg and bg have both go on, the
// command with the terminal, if the lock is still held.
func lockRunJob(c cli) {
	s := c.shell()
	s.job("60s", "/ls/local/jobs/job", `echo "self $$"; echo "holder $PPID"; while read line; do echo "got $line"; done; exit 3`)
	command, holder := s.pid("self "), s.pid("holder ")
	s.types("one\n")
	s.sees("got one")
	for _, how := range []string{"fg", "bg; fg"} {
		s.stop()
		if h, x := c.state(holder), c.state(command); h != "T" || x != "T" {
			c.Errorf("after Ctrl-Z the holder is %s, the command %s; both should be stopped (T)", h, x)
		}
		s.types(how + "\n")
		s.types("two\n") // the command reads it, whichever has the terminal first
		s.sees("got two")
	}
	s.types("\x04") // the end of its input
	s.types("echo 'code '$?\n")
	if code := s.sees("code "); code != "3" {
		c.Errorf("the exit code is %s, want 3", code)
	}
	c.want(0, "", "run", "--try", "/ls/local/jobs/job", "--", "true")
}

// A command whose holder is stopped for longer than the lease is dead before another has the lock,
// and does not go on whoever continues it.
func lockRunJobLoses(c cli) {
	s := c.shell()
	s.job("1s", "/ls/local/jobs/lost", `echo "self $$"; while read line; do echo "got $line"; done`)
	command := s.pid("self ")
	s.stop()
	c.awaitDead(command, time.Second)
	c.want(0, "", "run", "--wait", "20s", "/ls/local/jobs/lost", "--", "true") // the holder is still stopped
	s.types("fg\n")
	s.sees("spand lock run: ")
	s.types("echo 'code '$?\n")
	if code := s.sees("code "); code != "1" {
		c.Errorf("the exit code is %s, want 1, as the lock was lost", code)
	}
}
