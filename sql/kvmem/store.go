package kvmem

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"sync"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/sql/kv"
	"github.com/spandb/spand/tablet"
	"github.com/spandb/spand/truetime"
	"github.com/tidwall/btree"
)

// Store implements kv.KV in memory. Safe for concurrent use.
type Store struct {
	clock truetime.Clock

	mu struct {
		sync.Mutex
		data   btree.Map[string, []version]
		active map[*Txn]struct{}
		seq    uint64
		last   truetime.Timestamp // highest timestamp committed or read at (R3's floor)
		splits []string
	}

	// BeforeCommit, when set, runs before a read-write transaction commits; its
	// error becomes Commit's. Tests inject faults with it.
	BeforeCommit func(id keys.TxnID) error
}

type version struct {
	ts    truetime.Timestamp
	value []byte // nil: deleted
}

var _ kv.KV = (*Store)(nil)

// New returns an empty store on clock.
func New(clock truetime.Clock) *Store {
	s := &Store{clock: clock}
	s.mu.active = make(map[*Txn]struct{})
	return s
}

// Clock returns the store's clock.
func (s *Store) Clock() truetime.Clock { return s.clock }

// Begin starts a read-write transaction.
func (s *Store) Begin(_ context.Context, o kv.TxnOptions) kv.Txn {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.seq++
	age := o.Age
	if age == 0 {
		age = s.clock.Now().Latest
	}
	t := &Txn{store: s, id: keys.TxnID{Age: age, Node: 1, Seq: s.mu.seq}, optimistic: o.Optimistic, done: make(chan struct{})}
	s.mu.active[t] = struct{}{}
	return t
}

// ReadOnly starts a transaction that reads at at, or now when at is 0.
func (s *Store) ReadOnly(_ context.Context, at truetime.Timestamp) kv.Txn {
	if at == 0 {
		at = s.clock.Now().Latest
	}
	s.mu.Lock()
	s.mu.last = max(s.mu.last, at)
	s.mu.Unlock()
	return &Txn{store: s, readOnly: true, at: at}
}

// Freshest returns the instant before now: everything is here.
func (s *Store) Freshest([]keys.Span) truetime.Timestamp { return s.clock.Now().Earliest - 1 }

// Split records a boundary.
func (s *Store) Split(_ context.Context, key keys.Key) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := sort.SearchStrings(s.mu.splits, string(key))
	if i == len(s.mu.splits) || s.mu.splits[i] != string(key) {
		s.mu.splits = append(s.mu.splits[:i], append([]string{string(key)}, s.mu.splits[i:]...)...)
	}
	return nil
}

// Splits returns the recorded boundaries in order.
func (s *Store) Splits() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.mu.splits...)
}

// Len returns the number of live keys in span; for tests of garbage collection.
func (s *Store) Len(span keys.Span) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	s.mu.data.Ascend(string(span.Start), func(k string, vs []version) bool {
		if !span.Contains([]byte(k)) {
			return false
		}
		if vs[len(vs)-1].value != nil {
			n++
		}
		return true
	})
	return n
}

// AwaitIdle waits until no read-write transaction is open: what a test of leaked
// ones wants. Background work of a catalog ends its transactions by itself.
func (s *Store) AwaitIdle(ctx context.Context) error {
	for {
		s.mu.Lock()
		n := len(s.mu.active)
		var open *Txn
		for t := range s.mu.active {
			open = t
		}
		s.mu.Unlock()
		if open == nil {
			return nil
		}
		select {
		case <-open.done:
		case <-ctx.Done():
			return fmt.Errorf("kvmem: %d transactions are open, %s among them", n, open.id)
		}
	}
}

func visible(vs []version, at truetime.Timestamp) ([]byte, truetime.Timestamp) {
	for i := len(vs) - 1; i >= 0; i-- {
		if vs[i].ts <= at {
			return vs[i].value, vs[i].ts
		}
	}
	return nil, 0
}

// applyLocked writes at one timestamp above everything promised so far.
func (s *Store) applyLocked(ws []tablet.Write) truetime.Timestamp {
	ts := max(s.clock.Now().Latest, s.mu.last+1)
	s.mu.last = ts
	for _, w := range ws {
		vs, _ := s.mu.data.Get(string(w.Key))
		s.mu.data.Set(string(w.Key), append(vs, version{ts, w.Value}))
	}
	return ts
}

// acquire takes a lock for t, wounding younger holders and waiting for older ones,
// but in prepare nobody waits for an older one (X2).
func (s *Store) acquire(ctx context.Context, t *Txn, span keys.Span, strength tablet.LockStrength, wait tablet.WaitPolicy, prepare bool) error {
	for {
		s.mu.Lock()
		if t.wounded {
			s.mu.Unlock()
			return t.abortedError()
		}
		var blocker *Txn
		for o := range s.mu.active {
			if o == t || !o.conflicts(span, strength) {
				continue
			}
			if wait == tablet.WaitBlock && t.id.Older(o.id) {
				o.wounded, o.woundedBy = true, t.id
				s.finishLocked(o)
				continue
			}
			blocker = o
			break
		}
		if blocker == nil {
			t.addLock(span, strength)
			s.mu.Unlock()
			return nil
		}
		s.mu.Unlock()
		if prepare {
			return &tablet.AbortedError{Txn: t.id, Reason: tablet.AbortRefused, By: blocker.id, Key: span.Start}
		}
		if wait != tablet.WaitBlock {
			return &tablet.LockUnavailableError{Key: span.Start, Holder: blocker.id}
		}
		select {
		case <-blocker.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// finishLocked drops t's locks and wakes whoever waits for it.
func (s *Store) finishLocked(t *Txn) {
	if _, ok := s.mu.active[t]; !ok {
		return
	}
	delete(s.mu.active, t)
	t.points, t.ranges = nil, nil
	close(t.done)
}

var errFinished = errors.New("kvmem: transaction is finished")
