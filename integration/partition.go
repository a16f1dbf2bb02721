package integration

import "time"

// Network is what lies between the nodes of a cluster and can fail. Nodes are
// counted from 0. Every change takes effect before the call returns, and may be made
// by any goroutine.
type Network interface {
	// Cut loses what from sends to to; Heal ends that. Connections outlive a cut as
	// far as the implementation allows, and the ends must find out by themselves.
	Cut(from, to int) error
	Heal(from, to int) error
}

// Partition cuts both directions between each node of one side and each of the other.
func Partition(net Network, side, other []int) error {
	return eachPair(side, other, net.Cut)
}

// Rejoin heals what Partition cut.
func Rejoin(net Network, side, other []int) error {
	return eachPair(side, other, net.Heal)
}

func eachPair(side, other []int, do func(from, to int) error) error {
	for _, a := range side {
		for _, b := range other {
			if err := do(a, b); err != nil {
				return err
			}
			if err := do(b, a); err != nil {
				return err
			}
		}
	}
	return nil
}

// pause waits for d, or until over is closed, which it reports.
func pause(d time.Duration, over <-chan struct{}) (ended bool) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return false
	case <-over:
		return true
	}
}
