//go:build !linux

package main

import (
	"io"
	"time"

	"github.com/spandb/spand/lockservice"
)

// Without a watchdog a command outlives its lock when spand lock run is stopped.

const watchdogVerb = ""

type watchdog struct{}

func startWatchdog() (*watchdog, error)                   { return &watchdog{}, nil }
func (*watchdog) watch(int)                               {}
func (*watchdog) extend(*lockservice.Lock, time.Duration) {}
func (*watchdog) end()                                    {}
func watchdogMain(io.Reader) int                          { return exitUsage }
