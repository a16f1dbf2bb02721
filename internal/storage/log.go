package storage

import (
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spandb/spand/internal/keys"
)

// logConfig is what the log takes from the store's options.
type logConfig struct {
	fs           FS
	dir          string
	logger       *slog.Logger
	identity     Identity
	segmentBytes int64
	gather       time.Duration
	fatal        func(error)
	full         func(bool)     // reports running out of space
	rolled       func(live int) // reports that a segment was begun
}

// log is the node's append-only log: a queue in memory, and turns at writing it. The writer
// takes one whenever it is woken; a goroutine that has just queued something may take one
// instead (see lend), and so spare itself two switches to another thread, which cost about as
// much as the write.
type log struct {
	logConfig
	maxBatch int64 // largest batch, header included

	mu struct { // guards the queue
		sync.Mutex
		queue   []pending
		lazy    int // bytes queued by appends that did not ask for a sync
		due     int // how many that did are queued
		nextSeq uint64
		writing bool // somebody has the turn
		closing bool
		err     error // set once writing is over: failed or closed
	}
	queued  atomic.Int32  // mu.due, for gathering without the lock
	wake    chan struct{} // capacity 1: there is something to sync
	stopped chan struct{} // closed when the writer has ended

	ready    chan prepared // the next segment, from the preparer
	quit     chan struct{} // tells the preparer to end
	prepDone chan struct{}
	urgent   atomic.Bool // the writer waits for a segment

	lastDue atomic.Int32 // how many the batch before had, the goal of gathering

	// Whose turn it is owns these.
	seg      *segment
	pos      int64 // where the next batch goes
	prior    int64 // what it names as synced
	buf      []byte
	records  uint32
	firstSeq uint64
	notes    []note
	spare    []pending // for the next exchange of the queue

	segMu struct { // guards the set of segments
		sync.Mutex
		live   []*segment // oldest first; the last one is active
		spares []string
		next   *segment // the last that was made ready; being written if it is among live
		durSeg uint64   // how far the log is synced
		durPos int64
	}
	stats logStats
}

// pending is one Append in the queue.
type pending struct {
	recs []GroupRecord
	done func(error)
	seq  uint64
}

// note remembers what a batch holds of a group, for the segment it ends up in.
type note struct {
	group keys.GroupID
	last  uint64 // highest index, 0: a hard state only
}

type logStats struct {
	batches, appends, bytes, syncNanos atomic.Int64
	maxSync                            atomic.Int64
}

// lazyLimit bounds what waits in the queue for somebody else's sync.
const lazyLimit = 1 << 20

// maxBatchBytes bounds one write, and with it the time of one sync.
const maxBatchBytes = 4 << 20

// append queues recs, and wakes the writer unless the caller will lend the log its goroutine;
// see Store.Append and Store.Queue.
func (l *log) append(recs []GroupRecord, done func(error), wake bool) {
	lazy := true
	size := 0
	for i := range recs {
		r := &recs[i]
		lazy = lazy && r.NoSync && len(r.Entries) == 0
		size += 64
	}
	l.mu.Lock()
	if l.mu.err != nil || l.mu.closing {
		err := l.mu.err
		l.mu.Unlock()
		if err == nil {
			err = ErrClosed
		}
		if done != nil {
			// Not on the caller's stack: it may hold what done wants to lock.
			go done(err)
		}
		return
	}
	l.mu.queue = append(l.mu.queue, pending{recs, done, l.mu.nextSeq})
	l.mu.nextSeq++
	if lazy {
		l.mu.lazy += size
		lazy = l.mu.lazy < lazyLimit
	}
	if !lazy {
		l.mu.due++
		l.queued.Store(int32(l.mu.due))
	}
	l.mu.Unlock()
	if !lazy && wake {
		l.wakeWriter()
	}
}

func (l *log) wakeWriter() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// nextSeq returns the number that the next Append gets; those below it were
// queued before.
func (l *log) nextSeq() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.nextSeq
}

// run is the writer.
func (l *log) run() {
	defer close(l.stopped)
	for {
		<-l.wake
		l.gatherMore()
		if batch, last, ok := l.beginTurn(false); ok {
			err := l.write(batch)
			l.endTurn(batch, err)
			if last && err == nil {
				l.seal()
				l.giveUp(ErrClosed)
			}
		}
		if err := l.over(); err != nil {
			l.giveUp(err) // the preparer may have ended the log with something queued
			return
		}
	}
}

// lend writes what is queued on the caller's goroutine, if that is all but certain to cost one
// write and one sync: nobody is writing, appends come one at a time (else there is something to
// gather, which is the writer's business), and the segment has room (the next one may have to be
// waited for). Whatever is queued meanwhile is left to the writer. begun is called once the turn
// is the caller's.
func (l *log) lend(begun func()) {
	if batch, _, ok := l.beginTurn(true); ok {
		begun()
		l.endTurn(batch, l.write(batch))
	}
}

// lentBytes bounds what a borrowed goroutine writes.
const lentBytes = 64 << 10

// beginTurn takes what is queued, and with it the right to write; not ok when there is nothing
// to write, or it is another's turn, who wakes the writer afterwards. After the last batch the
// log is closed.
func (l *log) beginTurn(lent bool) (batch []pending, last, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.writing || l.mu.err != nil || l.mu.due == 0 && !l.mu.closing {
		return nil, false, false
	}
	if lent && (l.mu.closing || l.mu.due > 1 || l.lastDue.Load() > 1 || !l.roomLocked()) {
		l.wakeWriter()
		return nil, false, false
	}
	l.mu.writing = true
	batch = l.mu.queue
	l.lastDue.Store(int32(l.mu.due))
	l.mu.queue, l.mu.lazy, l.mu.due = l.spare[:0], 0, 0
	l.queued.Store(0)
	return batch, l.mu.closing, true
}

// roomLocked reports that what is queued is small and fits into the segment.
func (l *log) roomLocked() bool {
	size := int64(batchHeader)
	for i := range l.mu.queue {
		for j := range l.mu.queue[i].recs {
			size += 128
			for k := range l.mu.queue[i].recs[j].Entries {
				size += int64(len(l.mu.queue[i].recs[j].Entries[k].Data)) + 32
			}
		}
	}
	return size <= lentBytes && l.pos+lentBytes <= l.seg.size
}

// endTurn ends a turn, after an error all turns (R1).
func (l *log) endTurn(batch []pending, err error) {
	if err != nil {
		l.giveUp(err)
	}
	clear(batch) // let go of what was written
	l.spare = batch
	l.mu.Lock()
	l.mu.writing = false
	more := l.mu.due > 0 || l.mu.closing || l.mu.err != nil
	l.mu.Unlock()
	if more {
		l.wakeWriter()
	}
}

// over says why nothing will be written any more, nil while something may be.
func (l *log) over() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.writing {
		return nil
	}
	return l.mu.err
}

// seal writes an empty batch, which vouches for the last one: it proves to the next Open that
// everything before it was synced. Not worth a new segment, though.
func (l *log) seal() {
	if l.pos+blockSize > l.seg.size {
		return
	}
	l.begin(l.nextSeq())
	if err := l.writeBatch(); err != nil {
		l.logger.Warn("log not sealed", "err", err)
	}
}

// gatherMore yields until as many appends are queued as the last batch had, at
// most for gather: whoever was answered by the last sync is about to come back,
// and would just miss the next one. A single client waits for nobody, nor does a
// writer that is woken for nothing: another has taken what was queued.
func (l *log) gatherMore() {
	if n := l.queued.Load(); n == 0 || n >= l.lastDue.Load() || l.gather <= 0 {
		return
	}
	start := time.Now()
	// The number of turns is bounded too, because virtual time stands still here.
	for turn := 1; turn < 512 && l.queued.Load() < l.lastDue.Load(); turn++ {
		runtime.Gosched()
		if turn%4 == 0 && time.Since(start) >= l.gather {
			return
		}
	}
}

// write encodes, writes and syncs a batch of appends and calls their
// callbacks. After an error nothing may be written any more (R1).
func (l *log) write(batch []pending) error {
	if len(batch) == 0 { // closing
		return nil
	}
	l.begin(batch[0].seq)
	acked := 0
	ack := func(upTo int) {
		l.stats.appends.Add(int64(upTo - acked))
		for ; acked < upTo; acked++ {
			if p := &batch[acked]; p.done != nil {
				p.done(nil)
			}
		}
	}
	fail := func(err error) error {
		for ; acked < len(batch); acked++ {
			if p := &batch[acked]; p.done != nil {
				p.done(err)
			}
		}
		return err
	}
	for i := range batch {
		p := &batch[i]
		if err := l.fits(p); err != nil {
			// Refused before anything of it was written. Only this append fails; the
			// ones before it keep their order.
			if err := l.flush(); err != nil {
				return fail(err)
			}
			ack(i)
			if p.done != nil {
				p.done(err)
			}
			acked++
			l.begin(p.seq + 1)
			continue
		}
		for j := range p.recs {
			if err := l.encode(p, &p.recs[j], i, ack); err != nil {
				return fail(err)
			}
		}
	}
	if err := l.flush(); err != nil {
		return fail(err)
	}
	ack(len(batch))
	return nil
}

// fits checks what the caller must not get wrong: entries contiguous and none
// beyond what a batch holds.
func (l *log) fits(p *pending) error {
	for i := range p.recs {
		es := p.recs[i].Entries
		for j := range es {
			if es[j].Index != es[0].Index+uint64(j) {
				return fmt.Errorf("storage: entries of group %d are not contiguous: %d after %d", p.recs[i].Group, es[j].Index, es[j-1].Index)
			}
			if int64(len(es[j].Data)) > l.maxBatch-256 {
				return fmt.Errorf("entry %d of group %d with %d bytes: %w", es[j].Index, p.recs[i].Group, len(es[j].Data), ErrTooLarge)
			}
		}
	}
	return nil
}

// begin starts an empty batch.
func (l *log) begin(seq uint64) {
	l.buf = append(l.buf[:0], make([]byte, batchHeader)...)
	l.records, l.firstSeq, l.notes = 0, seq, l.notes[:0]
}

// encode adds a record to the batch, in as many batches as it takes. i is its
// append's place, for acknowledging those before it when a batch goes out.
func (l *log) encode(p *pending, rec *GroupRecord, i int, ack func(int)) error {
	entries, hs := rec.Entries, rec.HardState
	for {
		room := l.maxBatch - int64(len(l.buf)) - 64
		n := 0
		for n < len(entries) {
			room -= int64(len(entries[n].Data)) + 16
			if room < 0 {
				break
			}
			n++
		}
		if (n == 0 && len(entries) > 0 || room < 0 && len(entries) == 0) && l.records > 0 {
			if err := l.flush(); err != nil {
				return err
			}
			ack(i)
			l.begin(p.seq)
			continue
		}
		l.buf = appendRecord(l.buf, p.seq-l.firstSeq, rec, hs, entries[:n])
		l.records++
		nt := note{group: rec.Group}
		if n > 0 {
			nt.last = entries[n-1].Index
		}
		l.notes = append(l.notes, nt)
		entries, hs = entries[n:], nil
		if len(entries) == 0 {
			return nil
		}
	}
}

// flush writes and syncs the batch, unless it is empty.
func (l *log) flush() error {
	if l.records == 0 {
		return nil
	}
	return l.writeBatch()
}

func (l *log) writeBatch() error {
	n := int64(len(l.buf))
	padded := alignUp(n)
	if l.pos+padded > l.seg.size {
		if err := l.roll(); err != nil {
			return err
		}
	}
	h := batchHead{records: l.records, segment: l.seg.number, pos: uint64(l.pos), prior: uint64(l.prior), seq: l.firstSeq}
	h.seal(l.buf, l.seg.salt)
	if int64(cap(l.buf)) < padded {
		l.buf = append(l.buf, make([]byte, padded-n)...)
	} else {
		l.buf = l.buf[:padded]
		clear(l.buf[n:])
	}
	start := time.Now()
	if _, err := l.seg.file.WriteAt(l.buf, l.pos); err != nil {
		return l.broken(fmt.Errorf("storage: writing the log (%s at %d): %w", l.seg.name, l.pos, err))
	}
	if !BreakSync {
		if err := l.seg.file.Sync(); err != nil && !BreakSyncError {
			return l.broken(fmt.Errorf("storage: syncing the log (%s): %w", l.seg.name, err))
		}
	}
	took := int64(time.Since(start))
	l.pos += padded
	l.prior = l.pos
	l.segMu.Lock()
	for _, n := range l.notes {
		l.seg.note(n.group, n.last)
	}
	l.segMu.durSeg, l.segMu.durPos = l.seg.number, l.pos
	l.segMu.Unlock()
	l.stats.batches.Add(1)
	l.stats.bytes.Add(padded)
	l.stats.syncNanos.Add(took)
	if took > l.stats.maxSync.Load() {
		l.stats.maxSync.Store(took)
	}
	return nil
}

func (l *log) closingNow() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.closing
}

// broken reports a failed write or sync: fatal, never retried (R1). The writer is woken to
// answer what is queued; nobody takes a turn any more.
func (l *log) broken(err error) error {
	l.mu.Lock()
	l.mu.err = err
	l.mu.Unlock()
	l.fatal(err)
	l.wakeWriter()
	return err
}

// giveUp answers everything still queued, and everything to come, with err.
func (l *log) giveUp(err error) {
	l.mu.Lock()
	if l.mu.err == nil {
		l.mu.err = err
	}
	rest := l.mu.queue
	l.mu.queue = nil
	l.mu.Unlock()
	for i := range rest {
		if rest[i].done != nil {
			rest[i].done(err)
		}
	}
}

// close writes out the queue, seals the log and ends its goroutines.
func (l *log) close() {
	l.mu.Lock()
	first := !l.mu.closing
	l.mu.closing = true
	l.mu.Unlock()
	if first {
		close(l.quit)
		l.wakeWriter()
	}
	<-l.stopped
	<-l.prepDone
	l.segMu.Lock()
	defer l.segMu.Unlock()
	if l.seg != nil {
		l.seg.file.Close()
		l.seg = nil
	}
}

// durable returns how far the log is synced.
func (l *log) durable() (segment uint64, pos int64) {
	l.segMu.Lock()
	defer l.segMu.Unlock()
	return l.segMu.durSeg, l.segMu.durPos
}
