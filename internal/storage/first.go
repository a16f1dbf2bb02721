package storage

import (
	"bytes"
	"runtime/debug"
)

// First returns the first pair in [lower, upper), upper not empty: what
// NewIter(lower, upper).SeekGE(lower) finds, for point reads at a fraction of an
// iterator's cost. The slices are the caller's to read and never change.
func (s *Store) First(lower, upper []byte) (key, value []byte, ok bool, err error) {
	s.mu.RLock()
	if s.mu.closed {
		s.mu.RUnlock()
		return nil, nil, false, ErrClosed
	}
	frozen := s.mu.frozen
	e, ok := s.mu.table.first(lower, upper)
	s.mu.RUnlock()
	// Newer sources win on equal keys, so an older one has to be strictly before.
	// Each is asked only about what lies before the find so far.
	bound := upper
	if ok {
		bound = e.key
	}
	if frozen != nil {
		if f, found := frozen.first(lower, bound); found {
			e, ok, bound = f, true, f.key
		}
	}
	// As in Get: whoever took the frozen table away renewed the pool of readers before.
	b, found, err := s.bolt.first(lower, bound)
	if err != nil {
		return nil, nil, false, err
	}
	if found {
		return b.key, b.value, true, nil
	}
	if ok && e.value == nil {
		return s.firstLive(lower, upper) // a delete: the rare case
	}
	return e.key, e.value, ok, nil
}

// firstLive is First where deletes have to be passed over.
func (s *Store) firstLive(lower, upper []byte) (key, value []byte, ok bool, err error) {
	it := s.NewIter(lower, upper)
	defer it.Close()
	if !it.SeekGE(lower) {
		return nil, nil, false, it.Err()
	}
	return bytes.Clone(it.Key()), bytes.Clone(it.Value()), true, nil
}

// first returns the first entry in [lower, upper), deletes included.
func (t *memtable) first(lower, upper []byte) (e kv, ok bool) {
	t.m.Ascend(str(lower), func(key string, value []byte) bool {
		if key < str(upper) {
			e, ok = kv{bytesOf(key), value}, true
		}
		return false
	})
	return e, ok
}

// first returns a copy of the data bucket's first entry in [lower, upper).
func (b *bolt) first(lower, upper []byte) (e kv, ok bool, err error) {
	if ce := b.broken.Load(); ce != nil {
		return e, false, ce
	}
	defer b.guard(&err, true)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	r, err := b.pool.get()
	if err != nil {
		return e, false, err
	}
	k, stored, err := b.seek(r.c, lower)
	if err == nil && k != nil && bytes.Compare(k, upper) < 0 {
		var v []byte
		if v, err = b.open(k, stored); err == nil {
			buf := append(append(make([]byte, 0, len(k)+len(v)), k...), v...)
			e, ok = kv{buf[:len(k):len(k)], buf[len(k):]}, true
		}
	}
	b.pool.put(r)
	return e, ok, err
}
