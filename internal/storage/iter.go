package storage

import (
	"bytes"
	"runtime/debug"
	"sync"
)

// iter implements Iter by runs: it copies out the next few entries under the
// locks and walks them without. Runs start short, for point reads, and double.
type iter struct {
	s            *Store
	lower, upper []byte // own copies; an empty upper is no bound

	run     []kv // in the direction of travel
	pos     int
	reverse bool
	more    bool // there may be entries behind the run
	size    int  // of the next run
	err     error

	arena        []byte // copies of what lies in bbolt's map
	tabl, frozen []kv   // scratch
	seek         []byte // scratch
}

type kv struct{ key, value []byte }

const (
	firstRun = 4
	maxRun   = 256
	maxArena = 1 << 20 // a run ends early beyond this many bytes
)

var iterPool = sync.Pool{New: func() any { return new(iter) }}

// NewIter implements Reader. lower and upper are copied.
func (s *Store) NewIter(lower, upper []byte) Iter {
	it := iterPool.Get().(*iter)
	it.s = s
	it.lower = append(it.lower[:0], lower...)
	it.upper = append(it.upper[:0], upper...)
	return it
}

// Close implements Iter.
func (it *iter) Close() {
	clear(it.run[:cap(it.run)])
	clear(it.tabl[:cap(it.tabl)])
	clear(it.frozen[:cap(it.frozen)])
	if cap(it.arena) > 64<<10 {
		it.arena = nil
	}
	*it = iter{lower: it.lower[:0], upper: it.upper[:0], run: it.run[:0], tabl: it.tabl[:0], frozen: it.frozen[:0],
		arena: it.arena[:0], seek: it.seek[:0]}
	iterPool.Put(it)
}

// SeekGE implements Iter.
func (it *iter) SeekGE(key []byte) bool {
	if bytes.Compare(key, it.lower) < 0 {
		key = it.lower
	}
	it.seek = append(it.seek[:0], key...)
	it.reverse, it.size = false, firstRun
	return it.fill()
}

// SeekLT implements Iter.
func (it *iter) SeekLT(key []byte) bool {
	if len(it.upper) > 0 && (len(key) == 0 || bytes.Compare(key, it.upper) > 0) {
		key = it.upper
	}
	it.seek = append(it.seek[:0], key...)
	it.reverse, it.size = true, firstRun
	return it.fill()
}

// Next implements Iter. Behind the last entry the iterator must be positioned anew.
func (it *iter) Next() bool {
	if it.pos >= len(it.run) || it.err != nil {
		return false
	}
	if it.reverse {
		it.seek = append(append(it.seek[:0], it.Key()...), 0)
		it.reverse, it.size = false, firstRun
		return it.fill()
	}
	if it.pos++; it.pos < len(it.run) {
		return true
	}
	if !it.more {
		return false
	}
	it.seek = append(append(it.seek[:0], it.run[it.pos-1].key...), 0)
	return it.fill()
}

// Prev implements Iter.
func (it *iter) Prev() bool {
	if it.pos >= len(it.run) || it.err != nil {
		return false
	}
	if !it.reverse {
		it.seek = append(it.seek[:0], it.Key()...)
		it.reverse, it.size = true, firstRun
		return it.fill()
	}
	if it.pos++; it.pos < len(it.run) {
		return true
	}
	if !it.more {
		return false
	}
	it.seek = append(it.seek[:0], it.run[it.pos-1].key...)
	return it.fill()
}

// Key implements Iter.
func (it *iter) Key() []byte { return it.run[it.pos].key }

// Value implements Iter.
func (it *iter) Value() []byte { return it.run[it.pos].value }

// Err implements Iter.
func (it *iter) Err() error { return it.err }

// fill makes the run that starts at it.seek.
func (it *iter) fill() bool {
	it.run, it.pos, it.err = it.run[:0], 0, nil
	for {
		resume, err := it.fillOnce()
		if err != nil {
			it.run, it.more, it.err = it.run[:0], false, err
			return false
		}
		it.more = resume != nil
		if len(it.run) > 0 {
			it.size = min(it.size*2, maxRun)
			return true
		}
		if !it.more {
			return false
		}
		// Nothing but tombstones so far.
		it.seek = append(it.seek[:0], resume...)
		it.size = min(it.size*2, maxRun)
	}
}

// inside reports whether key is still within the bound of travel.
func (it *iter) inside(key []byte) bool {
	if it.reverse {
		return bytes.Compare(key, it.lower) >= 0
	}
	return len(it.upper) == 0 || bytes.Compare(key, it.upper) < 0
}

// before reports whether a comes before b in the direction of travel.
func (it *iter) before(a, b []byte) bool {
	if it.reverse {
		return bytes.Compare(a, b) > 0
	}
	return bytes.Compare(a, b) < 0
}

// collect appends up to it.size entries of t from it.seek on.
func (it *iter) collect(t *memtable, into []kv) (_ []kv, cut bool) {
	if t == nil || t.m.Len() == 0 {
		return into, false
	}
	n := it.size
	if it.reverse {
		visit := func(key string, value []byte) bool {
			k := bytesOf(key)
			if len(it.seek) > 0 && bytes.Compare(k, it.seek) >= 0 {
				return true
			}
			if !it.inside(k) {
				return false
			}
			if len(into) == n {
				cut = true
				return false
			}
			into = append(into, kv{k, value})
			return true
		}
		if len(it.seek) == 0 {
			t.m.Reverse(visit)
		} else {
			t.m.Descend(str(it.seek), visit)
		}
		return into, cut
	}
	t.m.Ascend(str(it.seek), func(key string, value []byte) bool {
		k := bytesOf(key)
		if !it.inside(k) {
			return false
		}
		if len(into) == n {
			cut = true
			return false
		}
		into = append(into, kv{k, value})
		return true
	})
	return into, cut
}

// fillOnce merges the newest value of every key from the table, the frozen
// table and bbolt, in this order of precedence. It stops where one of the
// tables' parts was cut, and returns where to go on: nil at the end.
func (it *iter) fillOnce() (resume []byte, err error) {
	s := it.s
	s.mu.RLock()
	if s.mu.closed {
		s.mu.RUnlock()
		return nil, ErrClosed
	}
	frozen := s.mu.frozen
	t, cutT := it.collect(s.mu.table, it.tabl[:0])
	s.mu.RUnlock()
	f, cutF := it.collect(frozen, it.frozen[:0])
	it.tabl, it.frozen = t, f

	b := s.bolt
	if ce := b.broken.Load(); ce != nil {
		return nil, ce
	}
	defer b.guard(&err, true)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	r, err := b.pool.get()
	if err != nil {
		return nil, err
	}
	step := r.c.Next
	var bk, bv []byte
	if len(it.seek) > 0 || !it.reverse {
		if bk, bv, err = b.seek(r.c, it.seek); err != nil {
			b.pool.put(r)
			return nil, err
		}
	}
	if it.reverse {
		step = r.c.Prev
		if bk == nil {
			bk, bv = r.c.Last()
		} else {
			bk, bv = r.c.Prev()
		}
	}
	it.arena = it.arena[:0]
	var last []byte // the last key consumed, from whatever source
	used := 0
	for {
		if bk != nil && !it.inside(bk) {
			if _, err := b.open(bk, bv); err != nil { // it may have been inside (D1)
				b.pool.put(r)
				return nil, err
			}
			bk = nil
		}
		// A cut part says nothing about the keys behind it.
		if len(t) == 0 && cutT || len(f) == 0 && cutF || len(it.run) == it.size || used > maxArena {
			resume = last
			break
		}
		var e kv
		from := 0
		if len(t) > 0 {
			e, from = t[0], 1
		}
		if len(f) > 0 && (from == 0 || it.before(f[0].key, e.key)) {
			e, from = f[0], 2
		}
		if bk != nil && (from == 0 || it.before(bk, e.key)) {
			e, from = kv{bk, bv}, 3
		}
		if from == 0 {
			break
		}
		if from == 3 {
			v, err := b.open(bk, bv)
			if err != nil {
				b.pool.put(r)
				return nil, err
			}
			// The slices stay good when the arena grows: they keep the old one.
			at := len(it.arena)
			it.arena = append(append(it.arena, bk...), v...)
			e.key = it.arena[at : at+len(bk) : at+len(bk)]
			e.value = it.arena[at+len(bk) : len(it.arena) : len(it.arena)]
			if bk, bv = step(); bk != nil && !it.before(e.key, bk) {
				return nil, b.misordered(bk)
			}
		} else {
			if len(t) > 0 && bytes.Equal(t[0].key, e.key) {
				t = t[1:]
			}
			if len(f) > 0 && bytes.Equal(f[0].key, e.key) {
				f = f[1:]
			}
			if bk != nil && bytes.Equal(bk, e.key) {
				bk, bv = step()
			}
		}
		last = e.key
		used += len(e.value)
		if e.value != nil {
			it.run = append(it.run, e)
		}
	}
	b.pool.put(r)
	if resume != nil && !it.reverse && len(it.run) == 0 {
		resume = append(append(make([]byte, 0, len(resume)+1), resume...), 0)
	}
	return resume, nil
}

var (
	_ Iter   = (*iter)(nil)
	_ Reader = (*Store)(nil)
)
