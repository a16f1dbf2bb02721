//go:build spandbreak

package crashpoint

import (
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

var (
	chosen Point
	armed  atomic.Bool
	left   atomic.Int64 // passings until the process dies
)

func init() {
	spec := os.Getenv("SPAND_CRASH_AT")
	if spec == "" {
		return
	}
	name, times, counted := strings.Cut(spec, ":")
	n := 1
	if counted {
		var err error
		if n, err = strconv.Atoi(times); err != nil || n < 1 {
			fmt.Fprintf(os.Stderr, "SPAND_CRASH_AT=%s: want POINT or POINT:N\n", spec)
			os.Exit(2)
		}
	}
	chosen = Point(name)
	left.Store(int64(n))
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGUSR1)
	go func() {
		<-c
		armed.Store(true)
	}()
}

// Pass kills the process if this is the passing asked for.
func Pass(p Point) { pass(p) }

// Hold is Pass, but those who come before the last stay here for ever.
func Hold(p Point) {
	if pass(p) {
		select {}
	}
}

// pass reports whether p is the armed point.
func pass(p Point) bool {
	if p != chosen || !armed.Load() {
		return false
	}
	if left.Add(-1) == 0 {
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // the signal is on its way
	}
	return true
}
