package main

import (
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// diesWith has the kernel kill the command when the thread that started it dies, so that it
// does not outlive a holder that was killed. What the command started itself is the watchdog's.
func diesWith(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }

// foreground gives the terminal, if fd is one that is ours, to the command's group, which could not
// read from it otherwise. back takes it again.
func foreground(attr *syscall.SysProcAttr, fd int) (back func()) {
	if owner, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP); err != nil || owner != unix.Getpgrp() {
		return func() {}
	}
	attr.Foreground, attr.Ctty = true, fd
	return func() {
		signal.Ignore(syscall.SIGTTOU) // we are in the background now
		unix.IoctlSetPointerInt(fd, unix.TIOCSPGRP, unix.Getpgrp())
		signal.Reset(syscall.SIGTTOU)
	}
}
