package cell

import (
	"time"

	"github.com/spandb/spand/lockservice/cell/state"
	"github.com/spandb/spand/truetime"
)

// Leases under load (paper 2.8). With more than Config.BusyBeats beats per second, leases get
// longer, by a factor. A successor multiplies every session's TTL by the factor that is
// logged, so a longer lease is only given once its factor is logged, and a lower factor
// is only logged once the leases that were given under the higher one are over.

const (
	loadEvery = time.Second
	// calmFor is how many looks in a row must find little load before leases get shorter.
	calmFor   = 10
	maxFactor = 32
)

// watchLoad adjusts the factor. Ends with the term.
func (l *leader) watchLoad() {
	t := time.NewTicker(loadEvery)
	defer t.Stop()
	calm := 0
	var lower truetime.Timestamp // when the leases given under the factor logged are over, 0: not known yet
	last := time.Now()
	for {
		select {
		case <-t.C:
		case <-l.ctx.Done():
			return
		}
		now := time.Now()
		rate := float64(l.beats.Swap(0)) / max(now.Sub(last).Seconds(), 0.001)
		last = now
		busy := float64(l.c.cfg.BusyBeats)
		l.c.mu.RLock()
		logged := l.c.st.LeaseFactor()
		l.c.mu.RUnlock()
		l.mu.Lock()
		giving := l.giving
		l.mu.Unlock()
		if rate < busy/4 {
			calm++
		} else {
			calm = 0
		}
		switch {
		case rate > busy && giving < logged:
			l.give(logged)
		case rate > busy && logged < maxFactor:
			if l.logFactor(logged * 2) {
				l.give(logged * 2)
			}
		case giving < logged:
			switch now := l.clock.Now(); {
			case now.Latest == truetime.Max: // T1
			case lower == 0:
				lower = now.Latest.Add(maxLease)
			case now.Earliest > lower:
				l.logFactor(giving)
			}
		case calm >= calmFor && giving > 1:
			calm = 0
			l.give(giving / 2)
			lower = 0
		}
	}
}

func (l *leader) give(factor uint32) {
	l.mu.Lock()
	l.giving = factor
	l.mu.Unlock()
}

// logFactor reports whether the factor was logged.
func (l *leader) logFactor(factor uint32) bool {
	res, err := l.carry(l.ctx, &state.Command{Kind: state.SetLeaseFactor, LeaseFactor: factor}, 0, nil)
	if err == nil && res.Err == nil {
		l.c.cfg.Logger.Info("leases of sessions", "cell", l.c.cfg.Name, "factor", factor)
		return true
	}
	return false
}
