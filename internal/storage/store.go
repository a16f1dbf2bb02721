package storage

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/version"
	"go.etcd.io/bbolt"
)

// Options of a store. Zero values take the defaults given.
type Options struct {
	FS       FS            // OS
	Dir      string        // the data directory; made if missing
	Logger   *slog.Logger  // silence
	Identity Identity      // checked, or written for a new directory
	Versions version.Range // of the cluster that the program can run: version.Binary

	CheckpointKeys     int           // table size that triggers a checkpoint: 100,000 keys
	CheckpointBytes    int64         // or 64 MiB
	CheckpointInterval time.Duration // or the age of the oldest write: 60 s
	CheckpointSegments int           // or full log segments: 4

	SegmentBytes int64         // largest log segment, 64 MiB; at least 64 KiB
	Gather       time.Duration // how long a log sync waits for company: 40 µs; negative: not at all
	MapBytes     int64         // address space reserved for bbolt: 4 GiB
	Reserve      int64         // free bytes below which Full is true: 256 MiB; negative: none

	// Fatal is told of what the process must not survive (R1, D1): a failed write
	// or sync, damage found. It may be called more than once, from any goroutine.
	// The default logs and exits with status 1. If it returns, the store answers
	// everything with errors.
	Fatal func(error)
}

func (o Options) filled() (Options, error) {
	if o.FS == nil {
		o.FS = OS
	}
	if o.Dir == "" {
		return o, errors.New("storage: no data directory given")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Versions == (version.Range{}) {
		o.Versions = version.Binary
	}
	def := func(v *int64, d int64) {
		if *v == 0 {
			*v = d
		}
	}
	if o.CheckpointKeys == 0 {
		o.CheckpointKeys = 100_000
	}
	if o.CheckpointSegments == 0 {
		o.CheckpointSegments = 4
	}
	def(&o.CheckpointBytes, 64<<20)
	def((*int64)(&o.CheckpointInterval), int64(60*time.Second))
	def(&o.SegmentBytes, 64<<20)
	def((*int64)(&o.Gather), int64(40*time.Microsecond))
	def(&o.MapBytes, 4<<30)
	def(&o.Reserve, 256<<20)
	if o.SegmentBytes < 64<<10 || o.SegmentBytes%blockSize != 0 {
		return o, fmt.Errorf("storage: segment size %d: must be a multiple of 4 KiB, at least 64 KiB", o.SegmentBytes)
	}
	if o.Fatal == nil {
		logger := o.Logger
		o.Fatal = func(err error) {
			logger.Error("fatal storage error", "err", err)
			os.Exit(1)
		}
	}
	return o, nil
}

// Store is a node's engine. All methods may be called concurrently.
type Store struct {
	opts Options
	lock io.Closer
	log  *log
	bolt *bolt

	mu struct { // guards the tables; held for memory work only
		sync.RWMutex
		table   *memtable // takes writes
		frozen  *memtable // being checkpointed, nil if none
		applied map[keys.GroupID]uint64
		closed  bool
	}

	// ckpt is the checkpoint semaphore; whoever holds it owns the fields below.
	ckpt struct {
		sem    chan struct{}
		run    *ckptRun                // cut short, to be finished
		groups map[keys.GroupID]uint64 // applied index that bbolt records
		seqs   map[keys.GroupID]uint64 // and fromSeq
		meta   storeMeta
	}
	installs struct { // a leaf
		sync.Mutex
		m map[keys.GroupID]*pendingInstall
	}
	raising  chan struct{} // capacity 1, taken: the identity is being changed
	identity struct {
		sync.Mutex
		Identity
	}
	waiting       atomic.Int32 // how many wait for the semaphore
	source        atomic.Pointer[Source]
	checkpointing atomic.Bool
	sleeping      atomic.Int32  // writers that let checkpoints catch up
	kicked        chan struct{} // capacity 1
	quit          chan struct{}
	done          sync.WaitGroup
	started       atomic.Bool
	closeOnce     sync.Once
	closeErr      error
	full          atomic.Bool
	trimmed       atomic.Uint64 // number of the segment being written when the log was last trimmed
	tombs         sync.Map      // tombstone key -> struct{}
	stats         storeStats
}

type storeStats struct {
	checkpoints, checkpointKeys, checkpointNanos atomic.Int64
	delayed                                      atomic.Int64
	failed                                       atomic.Pointer[error]
}

// Open opens the data directory, or makes a new one, and returns with the store
// what the log and the last checkpoint know of every group. Nothing is touched
// when the directory is not ours: *LockedError, *IdentityError, *FormatError,
// *ForeignDirError, *version.Error. Damage is a *CorruptError.
func Open(o Options) (_ *Store, _ map[keys.GroupID]Recovered, err error) {
	o, err = o.filled()
	if err != nil {
		return nil, nil, err
	}
	fresh, err := checkForeign(o.FS, o.Dir)
	if err != nil {
		return nil, nil, err
	}
	if !fresh {
		id, _, err := ReadIdentity(o.FS, o.Dir)
		if err != nil {
			return nil, nil, err
		}
		if err := id.check(o.Dir, o.Identity, o.Versions); err != nil {
			return nil, nil, err
		}
	} else if err := o.FS.MkdirAll(o.Dir); err != nil {
		return nil, nil, fmt.Errorf("storage: making the data directory: %w", err)
	}
	s := &Store{kicked: make(chan struct{}, 1), quit: make(chan struct{})}
	s.ckpt.sem = make(chan struct{}, 1)
	s.mu.table = &memtable{}
	s.mu.applied = map[keys.GroupID]uint64{}
	if s.lock, err = o.FS.Lock(filepath.Join(o.Dir, lockName)); err != nil {
		if errors.Is(err, errLockHeld) {
			return nil, nil, &LockedError{Dir: o.Dir}
		}
		return nil, nil, fmt.Errorf("storage: locking the data directory: %w", err)
	}
	defer func() {
		if err != nil {
			s.lock.Close()
			if s.bolt != nil && s.bolt.db != nil {
				s.bolt.close()
			}
		}
	}()
	fatal := o.Fatal
	o.Fatal = func(err error) {
		s.stats.failed.CompareAndSwap(nil, &err)
		fatal(err)
	}
	// Another process may have been first between the look and the lock.
	if fresh, err = checkForeign(o.FS, o.Dir); err != nil {
		return nil, nil, err
	}
	if fresh {
		err = s.create(o)
	} else {
		var id Identity
		if id, _, err = ReadIdentity(o.FS, o.Dir); err == nil {
			err = id.check(o.Dir, o.Identity, o.Versions)
			o.Identity = id
		}
		s.opts = o
	}
	if err != nil {
		return nil, nil, err
	}
	s.identity.Identity, s.raising = s.opts.Identity, make(chan struct{}, 1)
	rec, err := s.recover()
	if err != nil {
		return nil, nil, err
	}
	s.checkSpace()
	s.done.Add(1)
	go s.watchSpace()
	return s, rec, nil
}

func (s *Store) newLog() *log {
	o := &s.opts
	return newLog(logConfig{fs: o.FS, dir: o.Dir, logger: o.Logger, identity: o.Identity,
		segmentBytes: o.SegmentBytes, gather: o.Gather, fatal: o.Fatal,
		full: func(full bool) {
			if full {
				s.full.Store(true)
			}
		},
		rolled: func(segments int) {
			if segments >= o.CheckpointSegments {
				s.kick()
			}
		}})
}

// create fills a new directory. The identity file comes last: without it, and
// with the mark that comes first, the next Open starts over.
func (s *Store) create(o Options) error {
	o.Identity = o.Identity.filled()
	s.opts = o
	if err := writeFileSync(o.FS, filepath.Join(o.Dir, initName), []byte("spand is creating this data directory\n")); err != nil {
		return fmt.Errorf("storage: making the data directory: %w", err)
	}
	if err := removeBegun(o.FS, o.Dir); err != nil {
		return fmt.Errorf("storage: making the data directory: %w", err)
	}
	b, err := openBolt(o.FS, filepath.Join(o.Dir, boltName), 1<<20, true, o.Fatal)
	if err != nil {
		return err
	}
	err = b.update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{bucketData, bucketGroups, bucketNode, bucketMeta} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		m := storeMeta{logStart{first: 1, nextSeq: 1}}
		return putSealed(tx.Bucket(bucketMeta), metaKey, m.encode())
	})
	if cerr := b.close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = s.newLog().create()
	}
	if err == nil {
		err = createIncarnation(o.FS, o.Dir)
	}
	if err == nil {
		err = writeFileSync(o.FS, filepath.Join(o.Dir, identityName), encodeIdentity(o.Identity))
	}
	if err == nil {
		err = o.FS.Remove(filepath.Join(o.Dir, initName))
	}
	if err == nil {
		err = o.FS.SyncDir(o.Dir)
	}
	if err == nil {
		err = o.FS.SyncDir(filepath.Dir(o.Dir)) // the directory's own name
	}
	if err != nil {
		return fmt.Errorf("storage: making the data directory: %w", err)
	}
	return nil
}

// Identity returns whose store it is.
func (s *Store) Identity() Identity {
	s.identity.Lock()
	defer s.identity.Unlock()
	return s.identity.Identity
}

// SetSource says whom checkpoints ask about the groups; before Start.
func (s *Store) SetSource(src Source) { s.source.Store(&src) }

// Start begins checkpointing. SetSource must have been called.
func (s *Store) Start() {
	if s.started.CompareAndSwap(false, true) {
		s.done.Add(1)
		go s.runCheckpoints()
	}
}

// Append logs recs and calls done (which may be nil) once they are durable, from
// whoever writes the log, in the order of the Appends; done must be quick. recs
// and what it points to must not change before. It never waits for I/O. After a
// failure, or Close, done gets the error; then nothing is known about recs.
// Records with NoSync alone wait for the next sync that somebody asks for.
func (s *Store) Append(recs []GroupRecord, done func(error)) { s.log.append(recs, done, true) }

// Queue is Append for a caller who calls WriteQueued soon afterwards, and does not wait in
// between: until then recs may stay in memory.
func (s *Store) Queue(recs []GroupRecord, done func(error)) { s.log.append(recs, done, false) }

// WriteQueued has what is queued written. If the log is at rest it is written on the caller's
// goroutine, which waits for the disk, but neither for space nor for a new segment, else by the
// log's writer. In the first case begun is called before: from then until WriteQueued returns
// all callbacks run on this goroutine.
func (s *Store) WriteQueued(begun func()) { s.log.lend(begun) }

// Close writes out the queue of appends, ends all goroutines and lets go of the
// directory. It does not checkpoint; a clean shutdown calls Checkpoint first, to
// make the next start quick.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		close(s.quit)
		s.log.close()
		s.done.Wait()
		s.mu.Lock()
		s.mu.closed = true
		s.mu.Unlock()
		s.ckpt.sem <- struct{}{} // whoever checkpoints or installs has ended
		s.closeErr = s.bolt.close()
		if err := s.lock.Close(); s.closeErr == nil {
			s.closeErr = err
		}
	})
	return s.closeErr
}

// Stats are figures for metrics and tests; durations in nanoseconds.
type Stats struct {
	TableKeys, TableBytes, FrozenKeys int
	Checkpoints, CheckpointKeys       int64
	CheckpointTime                    time.Duration
	ApplyDelay                        time.Duration // slept by Apply because checkpoints lag

	Segments                         int
	LogBatches, LogAppends, LogBytes int64
	LogSyncTime, LogMaxSync          time.Duration
	StoreBytes                       int64 // of the bbolt file's used part, at the last commit
	Full                             bool
	Failed                           error // the first fatal error, if it was survived
}

// Stats returns a snapshot of the figures.
func (s *Store) Stats() Stats {
	st := Stats{
		Checkpoints: s.stats.checkpoints.Load(), CheckpointKeys: s.stats.checkpointKeys.Load(),
		CheckpointTime: time.Duration(s.stats.checkpointNanos.Load()), ApplyDelay: time.Duration(s.stats.delayed.Load()),
		Segments:   s.log.segments(),
		LogBatches: s.log.stats.batches.Load(), LogAppends: s.log.stats.appends.Load(), LogBytes: s.log.stats.bytes.Load(),
		LogSyncTime: time.Duration(s.log.stats.syncNanos.Load()), LogMaxSync: time.Duration(s.log.stats.maxSync.Load()),
		StoreBytes: s.bolt.size.Load(), Full: s.Full(),
	}
	if e := s.stats.failed.Load(); e != nil {
		st.Failed = *e
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	st.TableKeys, st.TableBytes = s.mu.table.m.Len(), s.mu.table.bytes
	if s.mu.frozen != nil {
		st.FrozenKeys = s.mu.frozen.m.Len()
	}
	return st
}
