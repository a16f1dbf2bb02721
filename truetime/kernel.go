package truetime

import (
	"context"
	"fmt"
	"time"
)

const (
	// sampleEvery is how often Kernel asks; the kernel itself ages its maximum
	// error once a second.
	sampleEvery = time.Second
	// growthPPM is how fast the bound grows between samples. It is the kernel's own
	// figure (MAXFREQ: an undisciplined oscillator is off by 500 ppm at most), with
	// which it ages the error it reports; so a late sample is never too narrow.
	growthPPM = 500
)

// grown is by how much a bound grows in d.
func grown(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return d*growthPPM/1_000_000 + 1
}

// KernelState is what adjtimex says.
type KernelState struct {
	MaxError     time.Duration // the kernel's bound on the wall clock's error
	Synchronized bool
}

// UnsynchronizedError says that the kernel does not vouch for the wall clock.
type UnsynchronizedError struct {
	MaxError time.Duration
	Cause    error // adjtimex's own failure, if that is why
}

func (e *UnsynchronizedError) Error() string {
	const ways = "run chrony (or another NTP daemon) until the kernel's clock is synchronised, or vouch for a bound yourself with --max-clock-error DURATION"
	if e.Cause != nil {
		return fmt.Sprintf("truetime: the kernel's clock state cannot be read: %v; %s", e.Cause, ways)
	}
	return fmt.Sprintf("truetime: the kernel says that its clock is not synchronised (maximum error %v); %s", e.MaxError, ways)
}

func (e *UnsynchronizedError) Unwrap() error { return e.Cause }

// KernelOptions of a Kernel clock; the zero value is the machine's.
type KernelOptions struct {
	Source Source                      // nil: the machine's clocks
	State  func() (KernelState, error) // nil: adjtimex(2)
}

// Kernel is the machine's wall clock with the bound that the kernel's clock
// discipline reports. Close ends its sampling.
type Kernel struct {
	wallClock
	state func() (KernelState, error)
	stop  chan struct{}
	done  chan struct{}
}

// NewKernel returns a Kernel clock, or an *UnsynchronizedError.
func NewKernel(o KernelOptions) (*Kernel, error) {
	k := &Kernel{state: o.State, stop: make(chan struct{}), done: make(chan struct{})}
	if k.state == nil {
		k.state = adjtimex
	}
	k.init(o.Source)
	if err := k.resample(); err != nil {
		return nil, err
	}
	go k.run()
	return k, nil
}

func (k *Kernel) run() {
	defer close(k.done)
	t := time.NewTicker(sampleEvery)
	defer t.Stop()
	for {
		select {
		case <-k.stop:
			return
		case <-t.C:
			if err := k.resample(); err != nil {
				k.fail(&fault{err: err})
			} else {
				k.heal()
			}
		}
	}
}

// resample takes a new bound. The monotonic clock is read before the kernel is
// asked, so that the bound's age is over-estimated, never under-estimated.
func (k *Kernel) resample() error {
	mono := k.read().Mono
	st, err := k.state()
	if err != nil {
		return &UnsynchronizedError{Cause: err}
	}
	if !st.Synchronized || st.MaxError < 0 {
		return &UnsynchronizedError{MaxError: st.MaxError}
	}
	k.sample.Store(&sampling{bound: st.MaxError, mono: mono})
	k.wake.notify()
	return nil
}

// AwaitAfter implements Clock.
func (k *Kernel) AwaitAfter(ctx context.Context, t Timestamp) error { return awaitAfter(ctx, k, t) }

// Close ends the sampling; afterwards the bound only grows.
func (k *Kernel) Close() {
	select {
	case <-k.stop:
	default:
		close(k.stop)
	}
	<-k.done
}

var _ Clock = (*Kernel)(nil)
