package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spandb/spand/lockservice"
)

// passedOn are the signals that end or steer the command, not this process.
var passedOn = []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT}

// lockRun holds a lock while a command runs.
func lockRun(f lockFlags, path string, command []string, stderr io.Writer) int {
	fail := func(err error) int {
		fmt.Fprintf(stderr, "spand lock run: %s\n", lockMessage(err))
		return exitFailed
	}
	name, err := exec.LookPath(command[0])
	if err != nil {
		return fail(err) // before anybody waits for it
	}
	signals := make(chan os.Signal, 8)
	for _, s := range passedOn {
		if !signal.Ignored(s) { // as under nohup
			signal.Notify(signals, s)
		}
	}
	defer signal.Stop(signals)

	client, l, err := lockFor(f, path, signals)
	var ended stopped
	if errors.As(err, &ended) {
		fmt.Fprintf(stderr, "spand lock run: %v before the lock was held\n", ended.signal)
		return 128 + int(ended.signal)
	}
	if err != nil {
		return fail(err)
	}
	defer client.Close()

	var child *child
	guard, err := startWatchdog()
	if err == nil {
		guard.extend(l, killMargin(f.ttl))
		child, err = startChild(name, command, append(os.Environ(),
			"SPAND_SEQUENCER="+l.Sequencer(),
			fmt.Sprintf("SPAND_LOCK_GENERATION=%d", l.Fields().Generation),
		))
		defer guard.end()
	}
	code := exitFailed
	patience := f.timeout
	if err == nil {
		guard.watch(child.pid)
		jobs := make(chan os.Signal, 8)
		signal.Notify(jobs, jobSignals...)
		defer signal.Stop(jobs)
		var lost error
		code, lost = attend(child, guard, l, f.ttl, signals, jobs, stderr)
		if lost != nil {
			fmt.Fprintf(stderr, "spand lock run: the lock of %s was lost: %s; the command was ended\n", path, lockMessage(lost))
			// Whatever ended it: a script must be able to tell.
			code = exitFailed
			patience = min(patience, time.Second) // the cell does not answer
		}
	} else {
		fail(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	// Not even with a lost lock is there anything to do about an error here: then the session
	// expires.
	l.Unlock(ctx)
	l.Handle().Session().Close(ctx)
	return code
}

// stopped is a signal that came before the command ran.
type stopped struct{ signal syscall.Signal }

func (s stopped) Error() string { return s.signal.String() }

// lockFor dials, and waits for the lock.
func lockFor(f lockFlags, path string, signals <-chan os.Signal) (*lockservice.Client, *lockservice.Lock, error) {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	acquired, listens := make(chan struct{}), make(chan struct{})
	go func() { // ends with lockFor
		defer close(listens)
		select {
		case s := <-signals:
			cancel(stopped{s.(syscall.Signal)})
		case <-acquired:
		}
	}()
	// silence ends the listening, and returns the signal that came just before.
	silence := sync.OnceValue(func() error {
		close(acquired)
		<-listens
		return context.Cause(ctx)
	})
	defer silence()
	begin, done := context.WithTimeoutCause(ctx, f.timeout, fmt.Errorf("no answer within %v", f.timeout))
	defer done()
	client, err := lockservice.Dial(begin, f.addr)
	if err != nil {
		return nil, nil, err
	}
	l, err := func() (*lockservice.Lock, error) {
		cell, _, _ := strings.Cut(strings.TrimPrefix(path, "/ls/"), "/")
		s, err := client.NewSession(begin, lockservice.SessionOptions{Cell: cell, TTL: f.ttl})
		if err != nil {
			return nil, err
		}
		l, err := acquire(ctx, begin, s, f, path)
		if err == nil {
			err = silence()
		}
		if err != nil {
			// So that nobody waits for this session's lease.
			end, cancel := context.WithTimeout(context.Background(), f.timeout)
			defer cancel()
			s.Close(end)
		}
		return l, err
	}()
	if err != nil {
		client.Close()
		return nil, nil, err
	}
	return client, l, nil
}

func acquire(ctx, begin context.Context, s *lockservice.Session, f lockFlags, path string) (*lockservice.Lock, error) {
	if up := path[:max(0, strings.LastIndexByte(path, '/'))]; strings.Count(up, "/") > 2 {
		if err := s.MkdirAll(begin, up); err != nil {
			return nil, err
		}
	}
	h, err := s.Open(begin, path, lockservice.OpenOptions{Create: lockservice.CreateIfAbsent, LockDelay: f.delay})
	if err != nil {
		return nil, err
	}
	if f.wait > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, f.wait, fmt.Errorf("%s is not free within %v", path, f.wait))
		defer cancel()
	}
	switch {
	case f.try && f.shared:
		return h.TryRLock(ctx)
	case f.try:
		return h.TryLock(ctx)
	case f.shared:
		return h.RLock(ctx)
	}
	return h.Lock(ctx)
}

// child is a command in a process group of its own.
type child struct {
	pid     int
	done    chan error            // its end, once
	stopped <-chan syscall.Signal // that it has stopped, and by what
	term    terminal
}

// startChild starts the command. The goroutine that does keeps its thread until the command
// ends: the kernel kills the command when that thread dies (diesWith).
func startChild(name string, command, environ []string) (*child, error) {
	cmd := exec.Command(name)
	cmd.Args = command
	cmd.Env = environ
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	diesWith(cmd.SysProcAttr)
	c := &child{done: make(chan error, 1), term: terminal(os.Stdin.Fd())}
	c.term.start(cmd.SysProcAttr)
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if err == nil {
			c.pid = cmd.Process.Pid
			c.stopped = watchStops(c.pid)
		}
		started <- err
		if err == nil {
			err := cmd.Wait()
			c.term.pass(c.pid, syscall.Getpgrp())
			c.done <- err
		}
	}()
	return c, <-started
}

// signal reaches the command and all in its group.
func (c *child) signal(s syscall.Signal) { syscall.Kill(-c.pid, s) }

// gone reports that nobody is left in the group.
func (c *child) gone() bool { return errors.Is(syscall.Kill(-c.pid, 0), syscall.ESRCH) }

// killMargin is what is left of a lease when what runs under it is killed.
func killMargin(ttl time.Duration) time.Duration { return max(ttl/20, 100*time.Millisecond) }

// errLate: this process did not run when it had to end the command, as it was stopped, so the watchdog may
// have. The lease may be renewed by now; that does not bring the command back.
var errLate = errors.New("its lease was not renewed in time")

// attend waits for the command's end, passes signals on, and ends the command before the lock is
// lost: SIGTERM when a fifth of the lease is left, SIGKILL when a twentieth is, both at least
// a tenth of a second apart. Then lost says why, and also when the lease that was last seen had run out before the
// command's end was. What the command has left in its group when it ends
// is killed: at once, or if the lock is being lost when its time is over, too. So nothing of the group
// runs when attend returns.
//
// When the command stops, this process does, too. When it is continued (jobs), and the lease is
// still long enough or is renewed, the command goes on; else it never does.
func attend(c *child, guard *watchdog, l *lockservice.Lock, ttl time.Duration, signals <-chan os.Signal, jobs chan os.Signal, stderr io.Writer) (code int, lost error) {
	defer c.signal(syscall.SIGKILL)
	killAt := killMargin(ttl)
	termAt := max(ttl/5, 2*killAt)
	// Timers stand still in a suspend: so look at the lease's clock every now and then.
	const every, soon = 250 * time.Millisecond, 10 * time.Millisecond
	termed, stopped, resumes, done := false, false, false, c.done
	late, sure := false, time.Now().Add(l.Remaining()-killAt) // sure is when the watchdog kills
	for {
		now := time.Now()
		late = late || now.After(sure)
		guard.extend(l, killAt)
		left := l.Remaining()
		sure = now.Add(left - killAt)
		if resumes && left > termAt {
			stopped, resumes = false, false
			c.term.pass(syscall.Getpgrp(), c.pid)
			c.signal(syscall.SIGCONT)
		}
		if left <= termAt && !termed && (!resumes || left <= killAt) {
			termed = true
			lost = fmt.Errorf("its lease ends in %v and was not renewed", left.Round(time.Millisecond))
			if why := l.Err(); why != nil {
				lost = why
			}
			c.signal(syscall.SIGTERM)
		}
		if left <= killAt {
			c.signal(syscall.SIGKILL)
		}
		if done == nil && (left <= killAt || c.gone()) {
			return code, lost
		}
		next := every
		if resumes {
			next = soon // for the lease may be renewed
		}
		if due := left - termAt; !termed && !resumes && due < next {
			next = due
		} else if due := left - killAt; termed && due > 0 && due < next {
			next = due
		}
		t := time.NewTimer(max(next, time.Millisecond))
		select {
		case err := <-done:
			code = exitCode(err, stderr)
			if !termed {
				t.Stop()
				if late || time.Now().After(sure) || l.Remaining() <= killAt {
					lost = errLate
				}
				return code, lost
			}
			done = nil
		case s := <-signals:
			c.signal(s.(syscall.Signal))
		case s := <-jobs:
			switch {
			case s == syscall.SIGTSTP:
				c.signal(syscall.SIGTSTP)
			case stopped:
				resumes = true
			default:
				c.term.pass(syscall.Getpgrp(), c.pid) // it was started in the background
			}
		case by := <-c.stopped:
			stopped = true
			wants, owner := by == syscall.SIGTTIN || by == syscall.SIGTTOU, c.term.owner()
			if wants && owner != 0 && (owner == c.pid || owner == syscall.Getpgrp()) {
				// It asked for the terminal in the background. That was before the shell continued us in the
				// foreground, which we have heard of already.
				resumes = true
				break
			}
			had := c.term.pass(c.pid, syscall.Getpgrp())
			if stopSelf() {
				resumes = true
				signal.Notify(jobs, jobSignals...)
			} else {
				resumes = had // or the terminal would hang: nobody else continues it
			}
		case <-l.Changed():
		case <-t.C:
		}
		t.Stop()
	}
}

func exitCode(err error, stderr io.Writer) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return exitOK
	case !errors.As(err, &exit):
		fmt.Fprintf(stderr, "spand lock run: %v\n", err)
		return exitFailed
	}
	if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return exit.ExitCode()
}
