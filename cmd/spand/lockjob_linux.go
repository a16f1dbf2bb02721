package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Job control. The command is in a process group of its own, which has the terminal while it is in the
// foreground, so Ctrl-Z reaches the command alone, and the shell looks at this process. So: when
// the command has stopped, this process takes the terminal back and stops its own group, as if the key
// had been meant for it. Nothing renews the lock then, so the watchdog kills the command when the
// lease ends; it is dead before another can have the lock, whoever sends SIGCONT to whom. When the
// shell continues this process, the command goes on only after the lease was looked at (attend).

// terminal is the descriptor of one, or of something else, which no group has.
type terminal int

// owner is the process group that has the terminal, 0 if it is none or another session's.
func (t terminal) owner() int {
	group, err := unix.IoctlGetInt(int(t), unix.TIOCGPGRP)
	if err != nil {
		return 0
	}
	return group
}

// start gives the terminal, if it is ours, to the command that is about to be started.
func (t terminal) start(attr *syscall.SysProcAttr) {
	if t.owner() == unix.Getpgrp() {
		attr.Foreground, attr.Ctty = true, int(t)
	}
}

// pass gives the terminal from one process group to another, and reports whether the first had it.
func (t terminal) pass(from, to int) bool {
	if t.owner() != from {
		return false
	}
	signal.Ignore(syscall.SIGTTOU) // we may be in the background now
	defer signal.Reset(syscall.SIGTTOU)
	return unix.IoctlSetPointerInt(int(t), unix.TIOCSPGRP, to) == nil
}

// jobSignals are those by which shells stop and continue this process.
var jobSignals = []os.Signal{syscall.SIGTSTP, syscall.SIGCONT}

// watchStops tells when a child of this process stops, and by which signal. Its goroutine may live as
// long as this process.
func watchStops(pid int) <-chan syscall.Signal {
	stops := make(chan syscall.Signal, 1)
	go func() {
		for {
			var info unix.Siginfo
			switch err := unix.Waitid(unix.P_PID, pid, &info, unix.WSTOPPED, nil); {
			case errors.Is(err, unix.EINTR):
			case err != nil:
				return
			default:
				select {
				case stops <- stopSignal(&info):
				default:
				}
			}
		}
	}()
	return stops
}

// stopSignal is si_status of a SIGCHLD's siginfo (sigaction(2)), which package unix does not name: behind
// three ints, alignment, si_pid and si_uid.
func stopSignal(info *unix.Siginfo) syscall.Signal {
	const word = unsafe.Sizeof(uintptr(0))
	const union = (3*4 + word - 1) / word * word
	return syscall.Signal(*(*int32)(unsafe.Add(unsafe.Pointer(info), union+8)))
}

// stopSelf stops this process's group, as Ctrl-Z does, and returns true when it was continued. It
// returns false at once when nobody would continue it: then the kernel would not stop it either.
func stopSelf() bool {
	if orphaned() {
		return false
	}
	continued := make(chan os.Signal, 1)
	signal.Notify(continued, syscall.SIGCONT)
	defer signal.Stop(continued)
	// Once caught, SIGTSTP does not stop a Go program any more.
	signal.Ignore(syscall.SIGTSTP)
	syscall.Kill(0, syscall.SIGTSTP) // for others of a pipeline
	syscall.Kill(os.Getpid(), syscall.SIGSTOP)
	<-continued
	return true
}

// orphaned reports that no shell has this process's group as a job: no process of it has a parent in
// the same session but outside of the group.
func orphaned() bool {
	self, err := statusOf(os.Getpid())
	for p := self; err == nil; {
		if p, err = statusOf(p.parent); err != nil || p.session != self.session {
			break
		}
		if p.group != self.group {
			return false
		}
	}
	return true
}

// processStatus is what job control asks of a process.
type processStatus struct{ parent, group, session int }

func statusOf(pid int) (s processStatus, err error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return s, err
	}
	text = text[bytes.LastIndexByte(text, ')')+1:] // the name may hold anything
	var state string
	_, err = fmt.Sscan(string(text), &state, &s.parent, &s.group, &s.session)
	return s, err
}
