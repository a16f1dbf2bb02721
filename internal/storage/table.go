package storage

import (
	"fmt"
	"time"
	"unsafe"

	"github.com/spandb/spand/internal/keys"
	"github.com/tidwall/btree"
)

// memtable holds applied writes that no checkpoint has finished with. A nil
// value is a tombstone. Keys are the batches' own bytes, seen as strings.
type memtable struct {
	m     btree.Map[string, []byte]
	bytes int
	// dels lists the deletes with the commands that made them, because a
	// checkpoint must tell those that its applied indexes cover from later ones.
	dels []tableDelete
}

type tableDelete struct {
	key   string
	prev  []byte // what the tombstone replaced in this table, nil if nothing
	group keys.GroupID
	index uint64
}

// str sees b, which is never changed again, as a string.
func str(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// bytesOf is the reverse; the result must not be written to.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }

// deleteCost is what a delete counts towards the next checkpoint: it goes in the
// checkpoint's last transaction, which must stay small.
const deleteCost = 5

// entryOverhead is about what a key costs in the table beyond its bytes.
const entryOverhead = 64

func (t *memtable) cost() int { return t.m.Len() + (deleteCost-1)*len(t.dels) }

// NewBatch returns an empty batch for writes of g.
func (s *Store) NewBatch(g keys.GroupID) *Batch { return &Batch{Group: g} }

// Apply makes the batch's writes visible, all at once and together with its
// applied index; nothing is on disk afterwards, the log is (R1). The batch may
// be Reset and reused, its keys and values may not. When checkpoints fall far
// behind, Apply sleeps for some milliseconds after the writes are visible. An
// error means that nothing was applied: the store is closed, or a key too long.
func (s *Store) Apply(b *Batch) error {
	for i := range b.ops {
		k := b.ops[i].key
		if len(k) == 0 || Class(k[0]) != ClassData && Class(k[0]) != ClassStage {
			return fmt.Errorf("storage: key %x is not of a tablet's class", k[:min(len(k), 16)])
		}
		if len(k) > MaxKeyBytes {
			return fmt.Errorf("key of %d bytes: %w", len(k), ErrTooLarge)
		}
	}
	s.mu.Lock()
	if s.mu.closed {
		s.mu.Unlock()
		return ErrClosed
	}
	t := s.mu.table
	for i := range b.ops {
		o := &b.ops[i]
		prev, had := t.m.Set(str(o.key), o.value)
		if o.value == nil {
			t.dels = append(t.dels, tableDelete{str(o.key), prev, b.Group, b.Applied})
		}
		if !had {
			t.bytes += len(o.key) + entryOverhead
		}
		t.bytes += len(o.value)
	}
	if b.Applied != 0 {
		s.mu.applied[b.Group] = b.Applied
	}
	cost, size := t.cost(), t.bytes
	s.mu.Unlock()
	load := max(float64(cost)/float64(s.opts.CheckpointKeys), float64(size)/float64(s.opts.CheckpointBytes))
	if load >= 1 {
		s.kick()
		if d := delay(load, len(b.ops)); d > 0 && s.checkpointing.Load() {
			// Who sleeps here may have queued something that it means to write afterwards
			// (Queue), for groups that load nothing.
			s.log.wakeWriter()
			s.sleep(d)
		}
	}
	return nil
}

// delay is how long the writer of a batch sleeps at a table of load times the size
// that triggers a checkpoint: nothing up to twice, then progressively, for each
// thousand keys or part of it. A bulk load's batch of 10,000 keys must not be as cheap
// as a row, or the table grows as far as the load is long. The longest sleep stays
// well below a lease.
func delay(load float64, keys int) time.Duration {
	if load <= 2 {
		return 0
	}
	per := min(shortSleep, time.Duration((load-2)*float64(5*time.Millisecond)))
	return min(100*time.Millisecond, max(per, per*time.Duration(keys)/1000))
}

// No more than longSleeps exceed shortSleep at once: who calls Apply has few goroutines
// for all groups, and those that load nothing must not wait for a load in all of them.
const (
	longSleeps = 2
	shortSleep = 20 * time.Millisecond
)

func (s *Store) sleep(d time.Duration) {
	if s.sleeping.Add(1) > longSleeps {
		d = min(d, shortSleep)
	}
	s.stats.delayed.Add(int64(d))
	time.Sleep(d)
	s.sleeping.Add(-1)
}

// Applied returns the index of the last command of g that Apply has seen since
// Open, 0 if none.
func (s *Store) Applied(g keys.GroupID) uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.mu.applied[g]
}

// Get implements Reader.
func (s *Store) Get(key []byte) ([]byte, bool, error) {
	s.mu.RLock()
	if s.mu.closed {
		s.mu.RUnlock()
		return nil, false, ErrClosed
	}
	v, ok := s.mu.table.m.Get(str(key))
	if !ok && s.mu.frozen != nil {
		v, ok = s.mu.frozen.m.Get(str(key))
	}
	s.mu.RUnlock()
	if ok {
		return v, v != nil, nil
	}
	// Whoever took the frozen table away renewed the pool before, so what is
	// missing from both tables is seen here if it is in bbolt.
	return s.bolt.get(key)
}
