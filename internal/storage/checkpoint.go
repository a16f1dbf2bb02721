package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spandb/spand/internal/keys"
	"go.etcd.io/bbolt"
)

const (
	chunkKeys  = 2000    // keys per commit of a checkpoint, so that log syncs stay quick
	chunkBytes = 2 << 20 // and bytes
	chunkPause = 10 * time.Millisecond
)

// ckptRun is one checkpoint. One that was cut short is finished by the next.
type ckptRun struct {
	limit   uint64                      // segments below were full when it began
	states  map[keys.GroupID]GroupState // to be written
	applied map[keys.GroupID]uint64     // of all groups captured
	frozen  *memtable                   // what it writes
	next    string                      // where the puts go on
	late    []tableDelete               // deletes that its applied indexes do not cover
	puts    bool                        // all puts are written
}

// kick asks for a checkpoint.
func (s *Store) kick() {
	select {
	case s.kicked <- struct{}{}:
	default:
	}
}

// runCheckpoints is the checkpointer.
func (s *Store) runCheckpoints() {
	defer s.done.Done()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-s.quit:
			cancel()
		case <-stop:
		}
	}()
	tick := time.NewTicker(s.opts.CheckpointInterval)
	defer tick.Stop()
	for {
		select {
		case <-s.quit:
			return
		case <-s.kicked:
			if !s.due() {
				continue
			}
		case <-tick.C:
			if s.idle() {
				continue
			}
		}
		if err := s.checkpointNow(ctx, false); err != nil && ctx.Err() == nil {
			s.opts.Logger.Error("checkpoint failed", "err", err)
		}
	}
}

// due reports whether the table or the log is large enough for a checkpoint.
func (s *Store) due() bool {
	s.mu.RLock()
	cost, size := s.mu.table.cost(), s.mu.table.bytes
	s.mu.RUnlock()
	if cost >= s.opts.CheckpointKeys || int64(size) >= s.opts.CheckpointBytes {
		return true
	}
	// Unapplied tails that a checkpoint carried forward may fill segments by
	// themselves; another checkpoint right away would only carry them again.
	grown := s.log.active() - s.trimmed.Load()
	return s.log.segments() >= s.opts.CheckpointSegments && grown >= uint64(max(1, s.opts.CheckpointSegments/2))
}

func (s *Store) idle() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.mu.table.m.Len() == 0 && s.mu.frozen == nil
}

// Checkpoint writes everything applied so far into bbolt, without pauses: a
// clean shutdown, or a test. Cut short by ctx, it is finished by the next one.
func (s *Store) Checkpoint(ctx context.Context) error { return s.checkpointNow(ctx, true) }

func (s *Store) checkpointNow(ctx context.Context, urgent bool) error {
	if err := s.acquire(ctx); err != nil {
		return err
	}
	defer s.release()
	if s.ckpt.run != nil {
		if err := s.finishRun(ctx, urgent); err != nil {
			return err
		}
	}
	if err := s.beginRun(); err != nil {
		return err
	}
	return s.finishRun(ctx, urgent)
}

// acquire takes the checkpoint semaphore.
func (s *Store) acquire(ctx context.Context) error {
	s.waiting.Add(1)
	defer s.waiting.Add(-1)
	select {
	case s.ckpt.sem <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.quit:
		return ErrClosed
	}
	select {
	case <-s.quit:
		s.release()
		return ErrClosed
	default:
		return nil
	}
}

func (s *Store) release() { <-s.ckpt.sem }

// beginRun captures the groups and freezes the table. In this order: whatever a
// captured applied index covers is then in the frozen table, or in bbolt.
func (s *Store) beginRun() error {
	p := s.source.Load()
	if p == nil {
		return errors.New("storage: no source of group states is set")
	}
	src := *p
	run := &ckptRun{limit: s.log.active(), states: map[keys.GroupID]GroupState{}, applied: map[keys.GroupID]uint64{}}
	asked := map[keys.GroupID]bool{}
	// A command that makes a group (a split) may be applied meanwhile, and be covered
	// by its parent's state; then the child must be in this checkpoint as well. It is
	// listed before its parent's applied index moves, so asking until nothing is new
	// finds it.
	for found := true; found; {
		found = false
		for _, g := range src.Groups() {
			if asked[g] {
				continue
			}
			asked[g], found = true, true
			st, unchanged, ok := src.Capture(g)
			have, known := s.ckpt.groups[g]
			switch {
			case !ok, unchanged && !known:
			case unchanged:
				run.applied[g] = have
			case s.Removed(g, st.Replica):
			default:
				run.states[g], run.applied[g] = st, st.Applied
			}
		}
	}
	s.mu.Lock()
	run.frozen = s.mu.table
	s.mu.frozen, s.mu.table = run.frozen, &memtable{}
	s.mu.Unlock()
	s.ckpt.run = run
	return nil
}

// covered reports whether the checkpoint's applied indexes include d.
func (r *ckptRun) covered(d *tableDelete) bool {
	applied, ok := r.applied[d.group]
	return ok && d.index <= applied
}

func (s *Store) finishRun(ctx context.Context, urgent bool) error {
	run := s.ckpt.run
	start := time.Now()
	s.checkpointing.Store(true)
	defer s.checkpointing.Store(false)
	if !run.puts {
		if err := s.writePuts(ctx, run, urgent); err != nil {
			return err
		}
		if err := s.writeLate(ctx, run); err != nil {
			return err
		}
		run.puts = true
	}
	if err := s.commit(ctx, func(tx *bbolt.Tx) error { return s.writeLast(tx, run) }); err != nil {
		return err
	}
	for g, applied := range run.applied {
		s.ckpt.groups[g] = applied
	}
	s.mu.Lock()
	s.mu.frozen = nil
	t := s.mu.table
	for _, d := range run.late {
		// Later commands' deletes stay in force, for the next checkpoint to write.
		if v, ok := run.frozen.m.Get(d.key); ok && v != nil {
			continue // written again after the delete
		}
		if _, ok := t.m.Get(d.key); !ok {
			t.m.Set(d.key, nil)
			t.bytes += len(d.key) + entryOverhead
		}
		d.prev = nil
		t.dels = append(t.dels, d)
	}
	s.mu.Unlock()
	s.ckpt.run = nil
	s.stats.checkpoints.Add(1)
	s.stats.checkpointKeys.Add(int64(run.frozen.m.Len()))
	s.stats.checkpointNanos.Add(int64(time.Since(start)))
	err := s.trimLog(ctx, run)
	s.trimmed.Store(s.log.active())
	return err
}

// commit is bolt.update that waits for space: a full disk is not a failed write.
func (s *Store) commit(ctx context.Context, fn func(tx *bbolt.Tx) error) error {
	for {
		err := s.bolt.update(fn)
		if !isNoSpace(err) {
			return err
		}
		s.full.Store(true)
		s.opts.Logger.Error("no space for a checkpoint; it waits", "err", err)
		t := time.NewTimer(time.Second)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		case <-s.quit:
			t.Stop()
			return ErrClosed
		}
	}
}

// writePuts writes the frozen table's puts in key order. They may be committed
// one chunk at a time because they are versions, or staged chunks, that replay
// may write again.
func (s *Store) writePuts(ctx context.Context, run *ckptRun, urgent bool) error {
	var arena []byte
	chunk := make([]kv, 0, chunkKeys)
	for more := true; more; {
		chunk, more = chunk[:0], false
		size, next := 0, ""
		run.frozen.m.Ascend(run.next, func(k string, v []byte) bool {
			if len(chunk) == chunkKeys || size > chunkBytes {
				more, next = true, k
				return false
			}
			if v != nil {
				chunk = append(chunk, kv{bytesOf(k), v})
				size += len(k) + len(v)
			}
			return true
		})
		if len(chunk) > 0 {
			err := s.commit(ctx, func(tx *bbolt.Tx) error {
				arena = arena[:0]
				return putChunk(tx.Bucket(bucketData), &arena, chunk)
			})
			if err != nil {
				return err
			}
		}
		run.next = next
		if !more {
			break
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.pause(ctx, urgent); err != nil {
			return err
		}
	}
	return nil
}

// A run is so many new keys, some pages of them, that nothing stored lies among them,
// as bulk loads make them. Their pages are left this full, for the versions to come;
// bbolt's own half is right where keys come in between.
const (
	runKeys = 100
	runFill = 0.9
)

// putChunk stores puts, which are in order, with their checksums. bbolt keeps the
// arena's slices until the commit; when it grows, they keep the old one.
func putChunk(bk *bbolt.Bucket, arena *[]byte, chunk []kv) error {
	if len(chunk) >= runKeys {
		if k, _ := bk.Cursor().Seek(chunk[0].key); k == nil || bytes.Compare(k, chunk[len(chunk)-1].key) > 0 {
			bk.FillPercent = runFill
		}
	}
	for _, e := range chunk {
		var v []byte
		*arena, v = sealValue(*arena, e.key, e.value)
		if err := bk.Put(e.key, v); err != nil {
			return err
		}
	}
	return nil
}

// pause leaves the disk to the log for a moment, the shorter the more writes
// have piled up meanwhile; not at all when somebody waits for the checkpoint.
func (s *Store) pause(ctx context.Context, urgent bool) error {
	if urgent || s.waiting.Load() > 0 {
		return nil
	}
	s.mu.RLock()
	load := max(float64(s.mu.table.cost())/float64(s.opts.CheckpointKeys), float64(s.mu.table.bytes)/float64(s.opts.CheckpointBytes))
	s.mu.RUnlock()
	d := time.Duration(float64(chunkPause) * (1 - load))
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// writeLate sorts out the deletes by commands behind the captured indexes. Replay
// will run those commands again and may read what they delete, so what such a
// tombstone covered in the table is written, too.
func (s *Store) writeLate(ctx context.Context, run *ckptRun) error {
	run.late = run.late[:0]
	var puts []kv
	for i := range run.frozen.dels {
		d := &run.frozen.dels[i]
		if run.covered(d) {
			continue
		}
		run.late = append(run.late, *d)
		if d.prev != nil {
			if v, _ := run.frozen.m.Get(d.key); v == nil {
				puts = append(puts, kv{bytesOf(d.key), d.prev})
			}
		}
	}
	slices.SortFunc(puts, func(a, b kv) int { return strings.Compare(str(a.key), str(b.key)) })
	for part := range slices.Chunk(puts, chunkKeys) {
		err := s.commit(ctx, func(tx *bbolt.Tx) error {
			var arena []byte
			return putChunk(tx.Bucket(bucketData), &arena, part)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// writeLast is the transaction that makes the checkpoint count: deletes, group
// states and how far the log is known to be synced go together.
func (s *Store) writeLast(tx *bbolt.Tx, run *ckptRun) error {
	data := tx.Bucket(bucketData)
	var dels []string
	for i := range run.frozen.dels {
		d := &run.frozen.dels[i]
		if v, _ := run.frozen.m.Get(d.key); v == nil && run.covered(d) {
			dels = append(dels, d.key)
		}
	}
	slices.Sort(dels)
	for _, k := range slices.Compact(dels) {
		if err := data.Delete(bytesOf(k)); err != nil {
			return err
		}
	}
	groups := tx.Bucket(bucketGroups)
	for g, st := range run.states {
		st.HardState.Commit = max(st.HardState.Commit, st.Applied)
		rec := groupRecord{GroupState: st, fromSeq: s.ckpt.seqs[g]}
		if err := putSealed(groups, groupKey(g), rec.encode(nil)); err != nil {
			return err
		}
	}
	m := s.ckpt.meta
	m.durSeg, m.durPos = s.log.durable()
	m.nextSeq = s.log.nextSeq()
	if err := putSealed(tx.Bucket(bucketMeta), metaKey, m.encode()); err != nil {
		return err
	}
	s.ckpt.meta = m
	return nil
}

// trimLog lets go of the segments that were full when the checkpoint began,
// after what they alone still hold was appended again.
func (s *Store) trimLog(ctx context.Context, run *ckptRun) error {
	limit := run.limit
	if limit <= s.ckpt.meta.first {
		return nil
	}
	src := *s.source.Load()
	listed := map[keys.GroupID]bool{}
	for _, g := range src.Groups() {
		listed[g] = true
	}
	keep := map[keys.GroupID]bool{}
	for g, last := range s.log.below(limit) {
		applied, known := s.ckpt.groups[g]
		_, captured := run.applied[g]
		switch {
		case !known && !listed[g] && s.anyRemoved(g):
			// Nobody's any more.
		case !known:
			keep[g] = true // no checkpoint has it yet
		case last > applied, !captured: // of an incomplete replica term and vote may be nowhere else
			if err := src.CarryForward(g, applied); err != nil {
				keep[g] = true
				s.opts.Logger.Warn("log entries not carried forward", "group", g, "err", err)
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	if limit = s.log.firstWith(keep, limit); limit <= s.ckpt.meta.first {
		return nil
	}
	m := s.ckpt.meta
	m.first = limit
	m.durSeg, m.durPos = s.log.durable()
	m.nextSeq = s.log.nextSeq()
	err := s.commit(ctx, func(tx *bbolt.Tx) error {
		return putSealed(tx.Bucket(bucketMeta), metaKey, m.encode())
	})
	if err != nil {
		return err
	}
	s.ckpt.meta = m
	if err := s.log.recycle(limit); err != nil {
		return fmt.Errorf("storage: recycling log segments: %w", err)
	}
	return nil
}
