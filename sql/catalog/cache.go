package catalog

import (
	"context"
	"errors"
	"sync"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/sql/kv"
	"github.com/spandb/spand/tablet"
	"github.com/spandb/spand/truetime"
)

// cache holds descriptors of one schema version, absences included.
type cache struct {
	mu        sync.RWMutex
	names     map[nameRef]nameValue
	tables    map[ID]*Table
	databases []*Database // nil: not read yet
	schemas   []*Schema
	all       []*Table
}

type nameRef struct {
	parent ID
	name   string
}

// nameValue is what a name key holds: an entry, or with found false nothing.
type nameValue struct {
	entry Entry
	found bool
}

func newCache() *cache {
	return &cache{names: make(map[nameRef]nameValue), tables: make(map[ID]*Table)}
}

// errStaleLease: the lease ended before its descriptors could be read.
var errStaleLease = errors.New("catalog: schema lease is over")

// reader is how a cache miss reads: a lock-free transaction under the lease, or at
// the timestamp at (not 0), which Pin found to lie under it.
func (m *Manager) reader(ctx context.Context, l *Lease, at truetime.Timestamp) (kv.Txn, error) {
	t := m.cfg.KV.ReadOnly(ctx, at)
	if at == 0 && !m.Current(l, t.ReadTimestamp()) {
		t.Rollback(ctx)
		return nil, errStaleLease
	}
	return t, nil
}

func (m *Manager) get(ctx context.Context, l *Lease, at truetime.Timestamp, key keys.Key) ([]byte, error) {
	t, err := m.reader(ctx, l, at)
	if err != nil {
		return nil, err
	}
	defer t.Rollback(ctx)
	vs, err := t.Get(ctx, []keys.Key{key}, tablet.LockNone, tablet.WaitBlock)
	if err != nil {
		return nil, err
	}
	return vs[0], t.AwaitVisible(ctx)
}

func (m *Manager) scan(ctx context.Context, l *Lease, at truetime.Timestamp, span keys.Span, f func(k, v []byte) error) error {
	t, err := m.reader(ctx, l, at)
	if err != nil {
		return err
	}
	defer t.Rollback(ctx)
	it := t.Scan(ctx, kv.ScanRequest{Span: span})
	defer it.Close()
	for it.Next() {
		if err := f(it.Key(), it.Value()); err != nil {
			return err
		}
	}
	if err := it.Err(); err != nil {
		return err
	}
	return t.AwaitVisible(ctx)
}

func (m *Manager) cachedName(ctx context.Context, l *Lease, at truetime.Timestamp, parent ID, name string) (nameValue, error) {
	c, ref := l.cache, nameRef{parent, name}
	c.mu.RLock()
	v, ok := c.names[ref]
	c.mu.RUnlock()
	if ok {
		return v, nil
	}
	b, err := m.get(ctx, l, at, nameKey(parent, name))
	if err != nil {
		return nameValue{}, err
	}
	if b != nil {
		if err := decode(b, &v.entry); err != nil {
			return nameValue{}, err
		}
		v.found = true
	}
	c.mu.Lock()
	c.names[ref] = v
	c.mu.Unlock()
	return v, nil
}

func (m *Manager) cachedTable(ctx context.Context, l *Lease, at truetime.Timestamp, id ID) (*Table, error) {
	c := l.cache
	c.mu.RLock()
	t, ok := c.tables[id]
	c.mu.RUnlock()
	if ok {
		return t, nil
	}
	b, err := m.get(ctx, l, at, tableKey(id))
	if err != nil {
		return nil, err
	}
	if b != nil {
		if t, err = decodeTable(b); err != nil {
			return nil, err
		}
	}
	c.mu.Lock()
	c.tables[id] = t
	c.mu.Unlock()
	return t, nil
}

func (m *Manager) cachedDatabases(ctx context.Context, l *Lease, at truetime.Timestamp) ([]*Database, error) {
	return list(m, ctx, l, at, 'b', &l.cache.databases, func(b []byte) (*Database, error) {
		d := new(Database)
		return d, decode(b, d)
	})
}

func (m *Manager) cachedSchemas(ctx context.Context, l *Lease, at truetime.Timestamp) ([]*Schema, error) {
	return list(m, ctx, l, at, 's', &l.cache.schemas, func(b []byte) (*Schema, error) {
		s := new(Schema)
		return s, decode(b, s)
	})
}

func (m *Manager) cachedTables(ctx context.Context, l *Lease, at truetime.Timestamp) ([]*Table, error) {
	return list(m, ctx, l, at, 't', &l.cache.all, decodeTable)
}

// list reads all descriptors of a letter once per schema version.
func list[T any](m *Manager, ctx context.Context, l *Lease, at truetime.Timestamp, letter byte, slot *[]*T, dec func([]byte) (*T, error)) ([]*T, error) {
	l.cache.mu.RLock()
	have := *slot
	l.cache.mu.RUnlock()
	if have != nil {
		return have, nil
	}
	out := []*T{}
	err := m.scan(ctx, l, at, letterSpan(letter), func(_, v []byte) error {
		d, err := dec(v)
		if err == nil {
			out = append(out, d)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	l.cache.mu.Lock()
	*slot = out
	l.cache.mu.Unlock()
	return out, nil
}
