package main

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// calmSysmon sets up the lookout, for the life of the process. When it is away it sleeps: no event says that a
// process has become busy.
func calmSysmon() {
	l := &lookout{used: processTime, nap: napOnce, away: func() { time.Sleep(stretch) }}
	go l.run()
}

// napOnce lets others run when it wakes: the scheduler also counts how long a place has had the same goroutine.
func napOnce() {
	d := unix.NsecToTimespec(nap.Nanoseconds())
	_ = unix.Nanosleep(&d, nil) // a signal may cut it short
	runtime.Gosched()
}

func processTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t); err != nil {
		return 0 // never busy
	}
	return time.Duration(t.Nano())
}
