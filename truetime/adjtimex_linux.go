package truetime

import (
	"time"

	"golang.org/x/sys/unix"
)

// adjtimex asks the kernel, changing nothing (Modes 0), which needs no privilege.
func adjtimex() (KernelState, error) {
	var tx unix.Timex
	state, err := unix.Adjtimex(&tx)
	if err != nil {
		return KernelState{}, err
	}
	return KernelState{
		MaxError:     time.Duration(tx.Maxerror) * time.Microsecond,
		Synchronized: state != unix.TIME_ERROR && tx.Status&unix.STA_UNSYNC == 0,
	}, nil
}
