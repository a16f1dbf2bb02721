package main

import "time"

// Go's runtime has a thread, sysmon, that takes the place of goroutines stuck in system calls. It looks
// every 20 µs, then, having found nothing for a while, less and less often, down to every 10 ms. But when
// the whole process has been at rest, the next system call makes it begin anew (runtime/proc.go;
// go.dev/issue/18236 asks for a setting). A node that waits for its disk and its peers comes to rest a
// thousand times a second, and with one client this thread took three tenths of the nodes' processor time.
//
// So while the process is busy a lookout keeps it from resting as a whole: one goroutine is always in
// a system call that sleeps. To the scheduler that is not rest, and sysmon takes its place too when
// others need it. docs/decisions.md has the figures.

const (
	// nap is how long the lookout sleeps in one system call, after which Go wakes a thread for nothing:
	// long, but less than the 10 ms after which sysmon takes the place of a goroutine that has not left it,
	// which would count as having found something.
	nap = 8 * time.Millisecond
	// stretch is how long it naps, or is away, before it looks again whether the process is busy.
	stretch = 250 * time.Millisecond
	// busy is the processor time in a stretch from which on napping is worth its price, about half a millisecond.
	busy = 12500 * time.Microsecond
)

// lookout decides when to nap. One goroutine has it.
type lookout struct {
	used func() time.Duration // processor time of the process so far
	nap  func()               // for nap, in a system call
	away func()               // for stretch, parked like any goroutine

	napping bool
	before  time.Duration // used at the end of the last stretch
}

// run does not return.
func (l *lookout) run() {
	l.before = l.used()
	for {
		l.stretch()
	}
}

// stretch naps if the process was busy in the last one.
func (l *lookout) stretch() {
	if l.napping {
		for range stretch / nap {
			l.nap()
		}
	} else {
		l.away()
	}
	used := l.used()
	l.napping = used-l.before >= busy
	l.before = used
}
