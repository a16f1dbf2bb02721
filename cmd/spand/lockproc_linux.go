package main

import "syscall"

// diesWith has the kernel kill the command when the thread that started it dies, so that it
// does not outlive a holder that was killed. What the command started itself is the watchdog's.
func diesWith(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }
