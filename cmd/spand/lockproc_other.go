//go:build !linux

package main

import (
	"os"
	"syscall"
)

// A command outlives a holder that was killed, cannot read from a terminal, and is stopped by
// Ctrl-Z alone.

func diesWith(*syscall.SysProcAttr) {}

type terminal int

func (terminal) start(*syscall.SysProcAttr) {}
func (terminal) owner() int                 { return 0 }
func (terminal) pass(int, int) bool         { return false }

var jobSignals = []os.Signal{syscall.SIGCONT}

func watchStops(int) <-chan syscall.Signal { return nil }
func stopSelf() bool                       { return false }
