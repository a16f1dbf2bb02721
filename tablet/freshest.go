package tablet

import (
	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/truetime"
)

// Freshest returns the highest timestamp that has certainly passed at which this
// replica answers a read of sp by itself, without a message and without waiting for
// a transaction (X4); 0 when there is none.
func (t *Tablet) Freshest(sp keys.Span) truetime.Timestamp {
	if !t.isBound() {
		return 0
	}
	passed := t.cfg.Clock.Now().Earliest - 1
	if l, err := t.leading(); err == nil {
		if at, err := l.lt.readableBelow(sp, passed); err == nil {
			return at
		}
	}
	if !t.parentVisible() {
		return 0
	}
	return t.clearBelow(sp, min(t.group.SafeTime(), passed))
}

// readableBelow returns the highest timestamp up to at for which no write in flight or
// prepared overlaps sp.
func (lt *lockTable) readableBelow(sp keys.Span, at truetime.Timestamp) (truetime.Timestamp, error) {
	for {
		b, found, err := lt.readBlocker(sp, at)
		if err != nil || !found {
			return at, err
		}
		at = b.ts - 1
	}
}

// clearBelow is clearAt turned round: the highest timestamp up to at for which the
// replicated state leaves no doubt about sp.
func (t *Tablet) clearBelow(sp keys.Span, at truetime.Timestamp) truetime.Timestamp {
	m := t.m
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, p := range m.prepared {
		if p.ts <= at && writesInto(p.writes, sp) {
			at = p.ts - 1
		}
	}
	for _, s := range m.staged {
		if s.status != stageOpen && s.ts <= at && s.min != nil && s.hull().Overlaps(sp) {
			at = s.ts - 1
		}
	}
	for i := range t.settling {
		if s := &t.settling[i]; s.ts <= at && s.span.Overlaps(sp) && !t.settled(s) {
			at = s.ts - 1
		}
	}
	return at
}

// writesInto reports whether an encoded list of writes has a key in sp.
func writesInto(writes []byte, sp keys.Span) (hit bool) {
	eachWrite(writes, func(k, _ []byte) { hit = hit || sp.Contains(k) })
	return hit
}
