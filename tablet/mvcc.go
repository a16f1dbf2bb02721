package tablet

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/storage"
	"github.com/spandb/spand/truetime"
)

// A version is the engine pair
//
//	ClassData, logical key, ^timestamp (8 bytes, big endian)  ->  kind, bytes
//
// so that a key's versions lie together, the newest first. Stored keys are
// prefix-free (keys.Key), hence appending the timestamp keeps their order.
const (
	kindTombstone byte = 0
	kindValue     byte = 1

	tsLen = 8
)

func appendEngineKey(dst []byte, k keys.Key, ts truetime.Timestamp) []byte {
	dst = append(dst, byte(storage.ClassData))
	dst = append(dst, k...)
	return binary.BigEndian.AppendUint64(dst, ^uint64(ts))
}

// appendAfterVersions appends the engine position behind every version of k.
func appendAfterVersions(dst []byte, k keys.Key) []byte {
	dst = append(dst, byte(storage.ClassData))
	dst = append(dst, k...)
	return append(dst, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)
}

func appendDataBound(dst []byte, k keys.Key) []byte {
	dst = append(dst, byte(storage.ClassData))
	return append(dst, k...)
}

// appendUpperBound appends an engine position behind every version of the keys
// below end. A bound of the form key+0x00 ("up to and with key") would sort
// before key's versions, so it is replaced by the position behind them; keys at
// or above end that come into reach are left out by comparing logical keys.
func appendUpperBound(dst []byte, end keys.Key) []byte {
	if n := len(end); n > 1 && end[n-1] == 0 {
		return appendAfterVersions(dst, end[:n-1])
	}
	return appendDataBound(dst, end)
}

// splitEngineKey returns the logical key (aliasing ek) and timestamp.
func splitEngineKey(ek []byte) (keys.Key, truetime.Timestamp, bool) {
	if len(ek) < 1+tsLen {
		return nil, 0, false
	}
	n := len(ek) - tsLen
	return ek[1:n:n], truetime.Timestamp(^binary.BigEndian.Uint64(ek[n:])), true
}

// PointReader is what an engine may offer beside storage.Reader: the first pair
// in [lower, upper) without the cost of an iterator. The slices are the caller's
// to read and never change.
type PointReader interface {
	First(lower, upper []byte) (key, value []byte, ok bool, err error)
}

// mvcc reads versions; safe for concurrent use.
type mvcc struct {
	r     storage.Reader
	point PointReader // nil when r has no short cut
	// collected is odd while a collection has been applied that may not be visible
	// yet, and grows with each: unchanged and even, nothing has gone meanwhile.
	collected *atomic.Uint64
}

func newMVCC(r storage.Reader) mvcc {
	p, _ := r.(PointReader)
	return mvcc{r: r, point: p, collected: new(atomic.Uint64)}
}

// collectionVisible notes that whatever has been applied can be seen. Called by who
// applies, between batches.
func (m mvcc) collectionVisible() {
	if n := m.collected.Load(); n%2 != 0 {
		m.collected.CompareAndSwap(n, n+1)
	}
}

func errDamaged(ek []byte) error { return fmt.Errorf("tablet: damaged version at engine key %x", ek) }

// get returns the newest version of k with a timestamp <= t. The value's bytes
// are a copy when they come from an iterator, else the engine's own, which never
// change. A deleted key has TS set and Exists false: whoever learns of the
// absence learned of the delete (X1).
func (m mvcc) get(k keys.Key, t truetime.Timestamp) (Value, error) {
	b := boundsPool.Get().(*bounds)
	defer boundsPool.Put(b)
	b.lower = appendEngineKey(b.lower[:0], k, t)
	b.upper = appendAfterVersions(b.upper[:0], k)
	if m.point != nil {
		ek, ev, ok, err := m.point.First(b.lower, b.upper)
		if err != nil || !ok {
			return Value{}, err
		}
		return decodeVersion(k, ek, ev, false)
	}
	it := m.r.NewIter(b.lower, b.upper)
	defer it.Close()
	if !it.SeekGE(b.lower) {
		return Value{}, it.Err()
	}
	return decodeVersion(k, it.Key(), it.Value(), true)
}

// bounds of a point read. Behind an interface the compiler cannot keep them on
// the stack.
type bounds struct{ lower, upper []byte }

var boundsPool = sync.Pool{New: func() any { return new(bounds) }}

func decodeVersion(k keys.Key, ek, ev []byte, cp bool) (Value, error) {
	lk, ts, ok := splitEngineKey(ek)
	if !ok || len(ev) == 0 || ev[0] > kindValue {
		return Value{}, errDamaged(ek)
	}
	if !bytes.Equal(lk, k) {
		return Value{}, nil
	}
	if ev[0] == kindTombstone {
		return Value{TS: ts}, nil
	}
	b := ev[1:]
	if cp {
		b = append(make([]byte, 0, len(b)), b...)
	}
	return Value{Exists: true, Bytes: b, TS: ts}, nil
}

// arena hands out copies of small byte slices from larger blocks.
type arena struct{ free []byte }

func (a *arena) copy(b []byte) []byte {
	if len(b) > len(a.free) {
		n := 4 << 10
		if len(b) > n/4 {
			return append(make([]byte, 0, len(b)), b...)
		}
		a.free = make([]byte, n)
	}
	c := a.free[:len(b):len(b)]
	a.free = a.free[len(b):]
	copy(c, b)
	return c
}

// rowFunc receives one visible version of a scan, tombstones included (value is
// nil and exists false). Slices are valid during the call only. It returns false
// to stop.
type rowFunc func(key keys.Key, value []byte, ts truetime.Timestamp, exists bool) bool

// skipAfter is the number of steps over unwanted versions of one key after which
// seeking is cheaper than stepping.
const skipAfter = 6

// scan calls f with the newest version <= t of every key in span, in order.
func (m mvcc) scan(span keys.Span, t truetime.Timestamp, reverse bool, f rowFunc) error {
	if span.IsPoint() {
		v, err := m.get(span.Start, t)
		if err == nil && v.TS != 0 {
			f(span.Start, v.Bytes, v.TS, v.Exists)
		}
		return err
	}
	if bytes.Compare(span.Start, span.End) >= 0 {
		return nil
	}
	lower := appendDataBound(make([]byte, 0, len(span.Start)+1), span.Start)
	upper := appendUpperBound(make([]byte, 0, len(span.End)+10), span.End)
	it := m.r.NewIter(lower, upper)
	defer it.Close()
	var err error
	if reverse {
		err = m.scanReverse(it, span, t, upper, f)
	} else {
		err = scanForward(it, span, t, lower, f)
	}
	if err == nil {
		err = it.Err()
	}
	return err
}

func scanForward(it storage.Iter, span keys.Span, t truetime.Timestamp, lower []byte, f rowFunc) error {
	var cur, seek []byte // cur: the key that is done with
	steps := 0
	for ok := it.SeekGE(lower); ok; {
		k, ts, good := splitEngineKey(it.Key())
		if !good {
			return errDamaged(it.Key())
		}
		switch {
		case cur != nil && bytes.Equal(k, cur): // an older version of a key dealt with
			if steps++; steps > skipAfter {
				seek = appendAfterVersions(seek[:0], cur)
				ok, steps = it.SeekGE(seek), 0
				continue
			}
		case bytes.Compare(k, span.Start) < 0: // versions of Start's proper prefix
			seek = appendAfterVersions(seek[:0], k)
			ok = it.SeekGE(seek)
			continue
		case bytes.Compare(k, span.End) >= 0:
			return nil
		case ts > t: // too new: on to the first version that is not
			if steps++; steps > skipAfter {
				seek = appendEngineKey(seek[:0], k, t)
				ok, steps = it.SeekGE(seek), 0
				continue
			}
		default:
			v := it.Value()
			if len(v) == 0 || v[0] > kindValue {
				return errDamaged(it.Key())
			}
			cur, steps = append(cur[:0], k...), 0
			if !f(k, v[1:], ts, v[0] == kindValue) {
				return nil
			}
		}
		ok = it.Next()
	}
	return nil
}

// scanReverse meets a key's versions oldest first, so it holds back the newest
// acceptable one until the key is over. An iterator is no snapshot: a collection that
// becomes visible meanwhile may take a delete away after the version that it hides
// has been met (X4). Then what is held back is looked up anew.
func (m mvcc) scanReverse(it storage.Iter, span keys.Span, t truetime.Timestamp, upper []byte, f rowFunc) error {
	var cur, val, seek []byte
	var curTS truetime.Timestamp
	var have, exists bool
	steps := 0
	emit := func() bool {
		if !have {
			return true
		}
		have = false
		return f(cur, val, curTS, exists)
	}
	hold := func(ts truetime.Timestamp) error {
		v := it.Value()
		if len(v) == 0 || v[0] > kindValue {
			return errDamaged(it.Key())
		}
		have, exists, curTS, val = true, v[0] == kindValue, ts, append(val[:0], v[1:]...)
		return nil
	}
	// newest goes straight to the newest acceptable version of cur.
	newest := func() error {
		have = false
		seek = appendEngineKey(seek[:0], cur, t)
		if !it.SeekGE(seek) {
			return it.Err()
		}
		if k, ts, good := splitEngineKey(it.Key()); good && bytes.Equal(k, cur) {
			return hold(ts)
		}
		return nil
	}
	before := m.collected.Load()
	doubtful := func() bool { return have && (before%2 != 0 || m.collected.Load() != before) }
	for ok := it.SeekLT(upper); ok; {
		k, ts, good := splitEngineKey(it.Key())
		if !good {
			return errDamaged(it.Key())
		}
		over := !bytes.Equal(k, cur)
		if steps++; over && doubtful() || !over && steps > skipAfter && bytes.Compare(cur, span.End) < 0 {
			if err := newest(); err != nil {
				return err
			}
			if !emit() {
				return nil
			}
			seek = appendDataBound(seek[:0], cur)
			cur = cur[:0]
			ok = it.SeekLT(seek)
			continue
		}
		if over {
			if !emit() {
				return nil
			}
			if bytes.Compare(k, span.Start) < 0 {
				return nil
			}
			cur, steps = append(cur[:0], k...), 1
		}
		if bytes.Compare(cur, span.End) >= 0 {
			ok = it.Prev() // the slack of appendUpperBound
			continue
		}
		if ts <= t {
			if err := hold(ts); err != nil {
				return err
			}
		}
		ok = it.Prev()
	}
	if doubtful() {
		if err := newest(); err != nil {
			return err
		}
	}
	emit()
	return nil
}

// page collects rows of one scan under its limits.
type page struct {
	rows     []KV
	maxRows  int // 0: none
	bytes    int
	maxBytes int
	maxSeen  truetime.Timestamp
	full     bool
	// stopAt, if set, is the part of the scan that was looked at, though its rows
	// did not fill the page.
	stopAt *keys.Span
	arena  arena
}

// add keeps a row; it returns false when there is no room for a further one.
func (p *page) add(k keys.Key, v []byte, ts truetime.Timestamp, exists bool) bool {
	if ts > p.maxSeen {
		p.maxSeen = ts
	}
	if !exists {
		return true
	}
	p.rows = append(p.rows, KV{Key: p.arena.copy(k), Value: p.arena.copy(v)})
	p.bytes += len(k) + len(v)
	p.full = p.maxRows > 0 && len(p.rows) >= p.maxRows || p.bytes >= p.maxBytes
	return !p.full
}

// result turns the page into a scan's answer: when the bound was reached, what is
// left to read lies behind the last row.
func (p *page) result(s Scan) ScanResult {
	r := ScanResult{Rows: p.rows}
	switch {
	case s.Span.IsPoint() || !p.full && p.stopAt == nil:
		return r
	case p.full && s.Reverse:
		r.Resume = keys.Span{Start: s.Span.Start, End: p.rows[len(p.rows)-1].Key}
	case p.full:
		r.Resume = keys.Span{Start: successor(p.rows[len(p.rows)-1].Key), End: s.Span.End}
	case s.Reverse:
		r.Resume = keys.Span{Start: s.Span.Start, End: p.stopAt.Start}
	default:
		r.Resume = keys.Span{Start: p.stopAt.End, End: s.Span.End}
	}
	r.More = bytes.Compare(r.Resume.Start, r.Resume.End) < 0
	if !r.More {
		r.Resume = keys.Span{}
	}
	return r
}

// covered is the part of s that the page's rows answer for: all of it, or up to
// and with the last row when the bound was reached. It is what a locking scan
// must lock (X2).
func (p *page) covered(s Scan) keys.Span {
	if !p.full || s.Span.IsPoint() {
		return s.Span
	}
	last := p.rows[len(p.rows)-1].Key
	if s.Reverse {
		return keys.Span{Start: last, End: s.Span.End}
	}
	return keys.Span{Start: s.Span.Start, End: successor(last)}
}

// successor is the smallest key above k.
func successor(k keys.Key) keys.Key {
	return append(append(make(keys.Key, 0, len(k)+1), k...), 0)
}
