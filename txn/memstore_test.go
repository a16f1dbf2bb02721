package txn

import (
	"reflect"
	"sync"

	"github.com/tidwall/btree"

	"github.com/spandb/spand/internal/storage"
)

// memStore is a node's engine in memory: real stores would make these tests wait
// for the disk.
type memStore struct {
	mu sync.RWMutex
	m  btree.Map[string, []byte]
}

// apply makes a batch visible. A batch shows its operations to its own room only,
// hence the reflection.
func (s *memStore) apply(b *storage.Batch) {
	ops := reflect.ValueOf(b).Elem().FieldByName("ops")
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range ops.Len() {
		key, value := ops.Index(i).Field(0), ops.Index(i).Field(1)
		if value.IsNil() {
			s.m.Delete(string(key.Bytes()))
		} else {
			s.m.Set(string(key.Bytes()), append([]byte{}, value.Bytes()...))
		}
	}
}

func (s *memStore) Get(key []byte) ([]byte, bool, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	v, ok := s.m.Get(string(key))
	return v, ok, nil
}

func (s *memStore) NewIter(lower, upper []byte) storage.Iter {
	return &memIter{s: s, lower: string(lower), upper: string(upper)}
}

// memIter seeks anew for every step, so that it sees what is applied meanwhile.
type memIter struct {
	s            *memStore
	lower, upper string
	key          string
	value        []byte
}

func (it *memIter) up(from string, strict bool) (ok bool) {
	it.s.mu.RLock()
	defer it.s.mu.RUnlock()
	it.s.m.Ascend(max(from, it.lower), func(k string, v []byte) bool {
		if strict && k == from {
			return true
		}
		it.key, it.value, ok = k, v, k < it.upper
		return false
	})
	return ok
}

func (it *memIter) down(below string) (ok bool) {
	it.s.mu.RLock()
	defer it.s.mu.RUnlock()
	below = min(below, it.upper)
	it.s.m.Descend(below, func(k string, v []byte) bool {
		if k == below {
			return true
		}
		it.key, it.value, ok = k, v, k >= it.lower
		return false
	})
	return ok
}

func (it *memIter) SeekGE(key []byte) bool { return it.up(string(key), false) }
func (it *memIter) SeekLT(key []byte) bool { return it.down(string(key)) }
func (it *memIter) Next() bool             { return it.up(it.key, true) }
func (it *memIter) Prev() bool             { return it.down(it.key) }
func (it *memIter) Key() []byte            { return []byte(it.key) }
func (it *memIter) Value() []byte          { return it.value }
func (it *memIter) Err() error             { return nil }
func (it *memIter) Close()                 {}
