//go:build !linux

package main

import "syscall"

// A command outlives a holder that was killed, and cannot read from a terminal.

func diesWith(*syscall.SysProcAttr) {}

func foreground(*syscall.SysProcAttr, int) (back func()) { return func() {} }
