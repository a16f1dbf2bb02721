package main

import (
	"encoding/binary"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spandb/spand/lockservice"
)

// watchdogVerb is how spand lock run starts itself as the watchdog of its command.
const watchdogVerb = "watchdog"

// watchdog is a process that kills the command's group when spand lock run does not: because it is
// stopped, or was killed. It is told, over a pipe, whom to kill and until when the lock is held for certain. It is
// in a process group of its own, so that what stops or interrupts the others does not reach it.
type watchdog struct {
	cmd  *exec.Cmd
	pipe *os.File
}

// Messages are two numbers of 8 bytes: one of these, and its value.
const (
	toKill = 1 // process group
	toLive = 2 // until this reading of CLOCK_BOOTTIME, in nanoseconds
)

func startWatchdog() (*watchdog, error) {
	in, out, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer in.Close()
	cmd := exec.Command("/proc/self/exe", "lock", watchdogVerb)
	cmd.Stdin = in
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		out.Close()
		return nil, err
	}
	return &watchdog{cmd, out}, nil
}

// say needs no error: without its watchdog the lock is still held. It does not wait for one that is stopped.
func (w *watchdog) say(what, value uint64) {
	w.pipe.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
	w.pipe.Write(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, what), value))
}

func (w *watchdog) watch(group int) { w.say(toKill, uint64(group)) }

// extend tells until when the lock is held, less margin. The clock is read before the lease, so the deadline
// is not later than that.
func (w *watchdog) extend(l *lockservice.Lock, margin time.Duration) {
	now := bootTime()
	if left := l.Remaining() - margin; left > 0 {
		w.say(toLive, uint64(now+left))
	}
}

// end ends the watchdog. Nothing of the group runs any more.
func (w *watchdog) end() {
	w.cmd.Process.Kill()
	w.cmd.Wait()
	w.pipe.Close()
}

// watchdogMain is the watchdog process.
func watchdogMain(pipe io.Reader) int {
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGTSTP)
	type message struct{ what, value uint64 }
	messages := make(chan message)
	go func() { // ends with the process
		var b [16]byte
		for {
			if _, err := io.ReadFull(pipe, b[:]); err != nil {
				close(messages)
				return
			}
			messages <- message{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
		}
	}()
	group := 0
	deadline := time.Duration(1<<63 - 1)
	const (
		every  = 50 * time.Millisecond // timers stand still in a suspend
		settle = 20 * time.Millisecond // for what is in the pipe, if this process was stopped itself
	)
	for {
		wait := min(deadline-bootTime(), every)
		due := wait <= 0
		if due {
			wait = settle
		}
		select {
		case m, ok := <-messages:
			switch {
			case !ok: // spand lock run is dead
				if group > 1 {
					syscall.Kill(-group, syscall.SIGKILL)
				}
				return exitOK
			case m.what == toKill:
				group = int(m.value)
			case m.what == toLive:
				deadline = time.Duration(m.value)
			}
		case <-time.After(wait):
			if due && group > 1 {
				syscall.Kill(-group, syscall.SIGKILL)
				return exitOK
			}
		}
	}
}

// bootTime cannot fail on a kernel that runs Go.
func bootTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("CLOCK_BOOTTIME: " + err.Error())
	}
	return time.Duration(ts.Nano())
}
