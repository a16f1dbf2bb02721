package integration

import (
	"sync"
	"time"
)

// Clock is one node's clock. What it is told outlives the node's restarts.
type Clock struct {
	c *Cluster
	i int
}

// clockSetting is what a node's clock was told.
type clockSetting struct {
	since time.Time     // when offset was right
	off   time.Duration // the error then
	ppm   float64       // and how it grows
	added time.Duration // uncertainty on top of Options.ClockError
}

// offset is the clock's error now.
func (s clockSetting) offset(now time.Time) time.Duration {
	return s.off + time.Duration(float64(now.Sub(s.since))*s.ppm/1e6)
}

// clocks are the settings of a cluster's clocks.
type clocks struct {
	mu sync.Mutex // guards all below, and is held while a backend carries a setting out
	of map[int]clockSetting
}

// Clock returns the clock of node i.
func (c *Cluster) Clock(i int) *Clock {
	c.t.Helper()
	c.checkNodes(i)
	return &Clock{c, i}
}

// SetError widens the node's uncertainty: its ε is Options.ClockError and d from now on.
// The clock is as right as before; commits wait longer, and leases are worth less: a
// node whose ε is above about 250 ms (100 ms in a cluster of one) does not serve.
func (k *Clock) SetError(d time.Duration) {
	k.c.t.Helper()
	k.set(func(s *clockSetting) { s.added = d })
}

// SetOffset makes the clock wrong by d against true time, which is the other clocks'.
// Within ε a wrong clock is one that the guarantees cover; beyond, it lies.
func (k *Clock) SetOffset(d time.Duration) {
	k.c.t.Helper()
	k.set(func(s *clockSetting) { s.since, s.off = time.Now(), d })
}

// SetDrift makes the clock run faster by ppm parts per million, or slower if negative,
// from what it shows now on.
func (k *Clock) SetDrift(ppm float64) {
	k.c.t.Helper()
	k.set(func(s *clockSetting) {
		now := time.Now()
		s.since, s.off, s.ppm = now, s.offset(now), ppm
	})
}

func (k *Clock) set(f func(*clockSetting)) {
	k.c.t.Helper()
	k.c.clocks.mu.Lock()
	defer k.c.clocks.mu.Unlock()
	s := k.c.clocks.of[k.i]
	f(&s)
	k.c.check(k.c.backend.setClock(k.i, s), "the clock of node %d", k.i)
	if k.c.clocks.of == nil {
		k.c.clocks.of = map[int]clockSetting{}
	}
	k.c.clocks.of[k.i] = s
}
