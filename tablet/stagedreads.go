package tablet

import (
	"sync"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/truetime"
	"github.com/tidwall/btree"
)

// stagedReads lets a transaction read its own staged writes. Rows that arrive in
// key order, the habit of bulk loads, cost nothing: a key above every staged one
// cannot have been staged. The first read below that builds an index.
type stagedReads struct {
	mu     sync.Mutex // guards max, seen and fresh; never held across reads of the engine
	max    string
	seen   map[uint32]struct{}
	fresh  []uint32   // chunks not indexed yet
	search sync.Mutex // guards the rest; the transaction's own, nobody else waits for it
	index  btree.Map[string, stagedAt]
	last   uint32 // the chunk whose bytes are in data
	data   []byte
}

// stagedAt is where the last word on a key is: chunk and position of the value.
type stagedAt struct {
	seq      uint32
	from, to int
	deleted  bool
}

// noteStaged remembers that a chunk is there for the transaction's own reads.
func (lt *lockTable) noteStaged(tx *txnState, seq uint32, ws []Write) {
	s := tx.staged.Load()
	if s == nil {
		s = &stagedReads{seen: make(map[uint32]struct{})}
		if !tx.staged.CompareAndSwap(nil, s) {
			s = tx.staged.Load()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.seen[seq]; ok {
		return
	}
	s.seen[seq] = struct{}{}
	s.fresh = append(s.fresh, seq)
	for i := range ws {
		if str(ws[i].Key) > s.max {
			s.max = string(ws[i].Key)
		}
	}
}

// stagedFrom returns tx's staged writes if any of them can be at or above k.
func stagedFrom(tx *txnState, k keys.Key) *stagedReads {
	s := tx.staged.Load()
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if str(k) > s.max {
		return nil
	}
	return s
}

// refresh indexes the chunks that arrived since. The caller holds search.
func (s *stagedReads) refresh(t *Tablet, tx *txnState) error {
	s.mu.Lock()
	fresh := s.fresh
	s.fresh = nil
	s.mu.Unlock()
	for _, seq := range fresh {
		data, err := t.chunk(tx.id, seq)
		if err != nil {
			return err
		}
		d := decoder{b: data}
		for n := d.count(2); n > 0; n-- {
			k, v, ok := d.write()
			if !ok {
				break
			}
			to := len(data) - len(d.b)
			at := stagedAt{seq: seq, from: to - len(v), to: to, deleted: v == nil}
			if old, ok := s.index.Get(str(k)); !ok || old.seq <= seq {
				s.index.Set(string(k), at)
			}
		}
	}
	return nil
}

// value fetches what at points to. The caller holds search.
func (s *stagedReads) value(t *Tablet, tx *txnState, at stagedAt) ([]byte, error) {
	if at.deleted {
		return nil, nil
	}
	if s.data == nil || s.last != at.seq {
		data, err := t.chunk(tx.id, at.seq)
		if err != nil {
			return nil, err
		}
		s.last, s.data = at.seq, data
	}
	return s.data[at.from:at.to:at.to], nil
}

// ownStaged returns the transaction's own staged write of k, if there is one.
func (t *Tablet) ownStaged(tx *txnState, k keys.Key) (v Value, own bool, err error) {
	s := stagedFrom(tx, k)
	if s == nil {
		return Value{}, false, nil
	}
	s.search.Lock()
	defer s.search.Unlock()
	if err := s.refresh(t, tx); err != nil {
		return Value{}, false, err
	}
	at, ok := s.index.Get(str(k))
	if !ok {
		return Value{}, false, nil
	}
	b, err := s.value(t, tx, at)
	return Value{Exists: !at.deleted, Bytes: b}, true, err
}

// scanWithOwn scans the newest versions, tx's staged writes laid over them. Own
// rows come with timestamp 0.
func (t *Tablet) scanWithOwn(tx *txnState, sc Scan, f rowFunc) error {
	s := stagedFrom(tx, sc.Span.Start)
	if s == nil {
		return t.mvcc.scan(sc.Span, truetime.Max, sc.Reverse, f)
	}
	if sc.Span.IsPoint() {
		v, own, err := t.ownStaged(tx, sc.Span.Start)
		if err != nil || !own {
			if err == nil {
				err = t.mvcc.scan(sc.Span, truetime.Max, sc.Reverse, f)
			}
			return err
		}
		f(sc.Span.Start, v.Bytes, 0, v.Exists)
		return nil
	}
	s.search.Lock()
	defer s.search.Unlock()
	if err := s.refresh(t, tx); err != nil {
		return err
	}
	it := s.index.Iter()
	start, end := str(sc.Span.Start), str(sc.Span.End)
	var have bool
	if sc.Reverse {
		// The last own key below End.
		if it.Seek(end) {
			have = it.Prev()
		} else {
			have = it.Last()
		}
	} else {
		have = it.Seek(start)
	}
	inside := func() bool { return have && it.Key() >= start && it.Key() < end }
	step := func() {
		if sc.Reverse {
			have = it.Prev()
		} else {
			have = it.Next()
		}
	}
	var fail error
	stopped := false
	emit := func() bool {
		v, err := s.value(t, tx, it.Value())
		if err != nil {
			fail = err
			return false
		}
		k := []byte(it.Key())
		deleted := it.Value().deleted
		step()
		stopped = !f(k, v, 0, !deleted)
		return !stopped
	}
	err := t.mvcc.scan(sc.Span, truetime.Max, sc.Reverse, func(k keys.Key, v []byte, ts truetime.Timestamp, exists bool) bool {
		for inside() {
			own := it.Key()
			if own == str(k) {
				return emit()
			}
			if own < str(k) == sc.Reverse {
				break
			}
			if !emit() {
				return false
			}
		}
		stopped = !f(k, v, ts, exists)
		return !stopped
	})
	if err == nil {
		err = fail
	}
	for err == nil && !stopped && inside() {
		if !emit() {
			break
		}
	}
	if err == nil {
		err = fail
	}
	return err
}
