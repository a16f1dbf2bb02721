package catalog

import (
	"context"
	"slices"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/tablet"
	"github.com/spandb/spand/truetime"
)

// The schema of the past. A read at a timestamp that has passed needs no lease: the
// version key, read at that timestamp too, says which version was in force, and no
// later schema change can have a timestamp below. Descriptors of a version never
// change, so what is cached of one serves every timestamp under it.

// pastVersions bounds how many versions other than the present one stay cached.
const pastVersions = 8

// errNoPast refuses a timestamp at which there was no schema at all.
func errNoPast(t truetime.Timestamp) error {
	return sqlstate.Newf(sqlstate.InvalidParameterValue, "read timestamp %s lies before the beginning of the store", t.Time().Format(time.RFC3339Nano))
}

// PinPast ties the view to the schema at t, which has certainly passed; where there was
// none yet, to that at newest, if it is later.
func (v *View) PinPast(ctx context.Context, t, newest truetime.Timestamp) error {
	l, err := v.m.leaseAt(ctx, t)
	if err == nil && l == nil && newest > t {
		t = newest
		l, err = v.m.leaseAt(ctx, t)
	}
	switch {
	case err != nil:
		return err
	case l == nil:
		return errNoPast(t)
	}
	v.lease, v.at = l, t
	return nil
}

// PinnedAt is the timestamp of a read-only transaction that the view is tied to, else 0.
func (v *View) PinnedAt() truetime.Timestamp { return v.at }

// leaseAt returns the schema version at t with its cache, nil where there was none; its
// End means nothing.
func (m *Manager) leaseAt(ctx context.Context, t truetime.Timestamp) (*Lease, error) {
	ro := m.cfg.KV.ReadOnly(ctx, t)
	defer ro.Rollback(ctx)
	vs, err := ro.Get(ctx, []keys.Key{versionKey}, tablet.LockNone, tablet.WaitBlock)
	if err != nil {
		return nil, err
	}
	if vs[0] == nil {
		return nil, nil
	}
	version, err := decodeCounter(vs[0])
	if err != nil {
		return nil, err
	}
	if l := m.cur.Load(); l != nil && l.Version == version {
		return l, nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if i := slices.IndexFunc(m.mu.past, func(l *Lease) bool { return l.Version == version }); i >= 0 {
		return m.mu.past[i], nil
	}
	l := &Lease{Version: version, cache: newCache()}
	if len(m.mu.past) == pastVersions {
		m.mu.past = slices.Delete(m.mu.past, 0, 1)
	}
	m.mu.past = append(m.mu.past, l)
	return l, nil
}

// Superseded reports whether the pinned version is none that others are likely to have
// plans for.
func (v *View) Superseded() bool {
	if v.at == 0 {
		return false
	}
	l := v.m.cur.Load()
	return l == nil || l.Version != v.lease.Version
}

// Span holds the whole schema.
func Span() keys.Span {
	p := keys.Key{keys.SystemPrefix, 'c'}
	return keys.Span{Start: p, End: keys.PrefixEnd(p)}
}

// Horizon is how far back the past can be read.
func (m *Manager) Horizon() time.Duration { return m.cfg.GCHorizon }
