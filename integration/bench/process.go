package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// server is a process that this program started and will end.
type server struct {
	cmd  *exec.Cmd
	stop os.Signal     // how it likes to be asked
	log  string        // file of what it says
	done chan struct{} // closed when the process is gone
}

func (s *server) pid() int { return s.cmd.Process.Pid }

func (s *server) ended() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// launch starts a server in a process group to itself: Ctrl-C is for this program,
// which then asks its servers in its own way.
func (b *bench) launch(cmd *exec.Cmd, stop os.Signal) (*server, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	log, err := os.CreateTemp(b.dir, filepath.Base(cmd.Path)+".log")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &server{cmd: cmd, stop: stop, log: log.Name(), done: make(chan struct{})}
	go func() { cmd.Wait(); close(s.done) }()
	b.running = append(b.running, s)
	return s, nil
}

// stop asks all of them at once and returns when they are gone.
func (b *bench) stop(servers ...*server) {
	for _, s := range servers {
		s.cmd.Process.Signal(s.stop) // one that has ended is not found
	}
	patience, lost := context.WithTimeout(context.Background(), 15*time.Second)
	defer lost()
	for _, s := range servers {
		select {
		case <-s.done:
		case <-patience.Done():
			s.cmd.Process.Kill()
			<-s.done
		}
	}
	b.running = slices.DeleteFunc(b.running, func(s *server) bool { return slices.Contains(servers, s) })
}

func (b *bench) stopAll() { b.stop(slices.Clone(b.running)...) }

// dead tells of servers that ended by themselves, and their last words.
func (b *bench) dead() string {
	var text strings.Builder
	for _, s := range b.running {
		if s.ended() {
			log, _ := os.ReadFile(s.log)
			fmt.Fprintf(&text, "\n%s had ended (%v):\n%s", s.cmd, s.cmd.ProcessState, log[max(0, len(log)-4000):])
		}
	}
	return text.String()
}

// cpuTime is what our servers have used so far.
func (b *bench) cpuTime() (sum time.Duration) {
	for _, s := range b.running {
		if !s.ended() {
			sum += cpuTime(s.pid())
		}
	}
	return sum
}

// output runs a program to its end.
func output(ctx context.Context, name string, args ...string) (string, error) {
	return runTool(exec.CommandContext(ctx, name, args...))
}

func runTool(cmd *exec.Cmd) (string, error) {
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return string(out), nil
}

func freePort() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer ln.Close()
	_, port, err := net.SplitHostPort(ln.Addr().String())
	return port, err
}
