package storage

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
)

// Buckets. Every value in them ends in a checksum over key and value.
var (
	bucketData   = []byte("data")   // engine keys of ClassData and ClassStage
	bucketGroups = []byte("groups") // group id -> groupRecord
	bucketNode   = []byte("node")   // ClassNode keys
	bucketMeta   = []byte("meta")   // the store's own: start of the log, marks, tombstones
)

// mapMargin is how much one write transaction may grow the file at most, with
// room to spare: chunks are bounded to a few MiB.
const mapMargin = 256 << 20

// bolt wraps the bbolt file: one writer at a time, pooled readers, damage
// turned into errors.
type bolt struct {
	db     *bbolt.DB
	fs     FS
	name   string   // in fs
	path   string   // in the real file system
	file   *os.File // bbolt's, to let go of its lock when bbolt itself no longer can
	write  chan struct{}
	mapped int64 // lower bound of bbolt's map; guarded by write
	pool   readPool
	fatal  func(error)
	broken atomic.Pointer[CorruptError]
	size   atomic.Int64 // of the file's used part, at the last commit
}

func openBolt(f FS, name string, mapBytes int64, create bool, fatal func(error)) (b *bolt, err error) {
	b = &bolt{fs: f, name: name, write: make(chan struct{}, 1), fatal: fatal}
	if b.path, err = f.BoltPath(name); err != nil {
		return nil, err
	}
	defer b.guard(&err, false)
	if !create {
		// bbolt would make an empty file of one that is gone.
		r, err := f.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, &CorruptError{File: name, Offset: -1, Reason: "file is missing"}
		}
		if err != nil {
			return nil, fmt.Errorf("storage: opening the store: %w", err)
		}
		defer r.Close()
		if n, err := r.Size(); err != nil || n < 4*blockSize {
			return nil, &CorruptError{File: name, Offset: -1, Reason: "file is too short", Err: err}
		}
		// A process that was killed may have left a commit that can be read and is not
		// durable yet; what follows from it must not be done before it is.
		if err := r.Sync(); err != nil {
			err = fmt.Errorf("storage: syncing the store at open: %w", err)
			fatal(err)
			return nil, err
		}
	}
	b.db, err = bbolt.Open(b.path, 0o600, &bbolt.Options{
		Timeout:         time.Second, // the directory's lock is ours; nobody holds this one
		InitialMmapSize: int(mapBytes),
		PageSize:        blockSize,
		FreelistType:    bbolt.FreelistMapType,
		NoStatistics:    true,
		OpenFile: func(name string, flag int, mode os.FileMode) (*os.File, error) {
			f, err := os.OpenFile(name, flag, mode)
			b.file = f
			return f, err
		},
	})
	if err != nil {
		return nil, &CorruptError{File: name, Offset: -1, Reason: "cannot be opened", Err: err}
	}
	b.mapped = mapBytes
	if st, err := os.Stat(b.path); err == nil && st.Size() > mapBytes {
		b.mapped = mapStep(st.Size())
	}
	b.pool.db = b.db
	return b, nil
}

// mapStep rounds up as bbolt does when it maps a file: to a power of two, above
// 1 GiB to whole GiB.
func mapStep(n int64) int64 {
	if n > 1<<30 {
		return (n + 1<<30 - 1) &^ (1<<30 - 1)
	}
	step := int64(32 << 10)
	for step < n {
		step *= 2
	}
	return step
}

// guard turns a panic of bbolt, or a fault in its map, into CorruptError (D1).
// With last set it is fatal: the transaction's locks are lost with it.
func (b *bolt) guard(err *error, last bool) {
	r := recover()
	if r == nil {
		return
	}
	ce := &CorruptError{File: b.name, Offset: -1, Reason: fmt.Sprintf("bbolt: %v", r), Err: fmt.Errorf("%s", debug.Stack())}
	*err = ce
	if !last && b.file != nil {
		b.drop()
	}
	if last && b.broken.CompareAndSwap(nil, ce) {
		b.fatal(ce)
	}
}

// drop lets go of the file behind bbolt's back. Its map stays, and would keep
// the file's lock, so that is given up by hand.
func (b *bolt) drop() error {
	unix.Flock(int(b.file.Fd()), unix.LOCK_UN)
	return b.file.Close()
}

// update runs one write transaction, durable when it returns nil. fn's errors
// roll it back and are returned. A failed commit is fatal, unless the disk was
// found full before anything counted: then the caller may try again.
func (b *bolt) update(fn func(tx *bbolt.Tx) error) error {
	b.write <- struct{}{}
	defer func() { <-b.write }()
	if ce := b.broken.Load(); ce != nil {
		return ce
	}
	var fnErr error
	err := b.fs.CommitBolt(b.name, func() (err error) {
		defer b.guard(&err, true)
		defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
		tx, err := b.db.Begin(true)
		if errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
			fnErr = ErrClosed
			return nil
		}
		if err != nil {
			return err
		}
		// A transaction that may outgrow the map waits for all readers to end, while
		// new ones wait for it; so idle ones must not stay.
		near := tx.Size()+mapMargin > b.mapped
		if near {
			b.pool.setIdle(false)
			defer b.pool.setIdle(true)
		}
		if fnErr = fn(tx); fnErr != nil {
			tx.Rollback()
			return nil
		}
		size := tx.Size()
		if err = tx.Commit(); err == nil {
			b.size.Store(size)
		}
		if size > b.mapped {
			b.mapped = mapStep(size)
		}
		return err
	})
	b.pool.renew()
	if fnErr != nil {
		return fnErr
	}
	if err == nil {
		return nil
	}
	var ce *CorruptError
	if isNoSpace(err) || errors.As(err, &ce) || errors.Is(err, errCrashed) {
		return err
	}
	err = fmt.Errorf("storage: committing to %s: %w", b.name, err)
	b.fatal(err)
	return err
}

// close waits for readers in flight, which are short.
func (b *bolt) close() error {
	b.pool.close()
	if b.broken.Load() != nil {
		return b.drop() // bbolt's own locks are lost with the panic
	}
	b.write <- struct{}{}
	defer func() { <-b.write }()
	return b.db.Close()
}

// readTx is a read transaction with a cursor over the data bucket.
type readTx struct {
	tx    *bbolt.Tx
	c     *bbolt.Cursor
	epoch uint64
}

// readPool keeps read transactions for the next reader, until the next commit:
// an older one would keep the pages of that commit's predecessors from reuse.
type readPool struct {
	db *bbolt.DB
	mu struct {
		sync.Mutex
		epoch  uint64
		idle   []*readTx
		noIdle int
		closed bool
	}
}

const maxIdleReaders = 64

// get returns a transaction that sees every commit whose renew returned before.
func (p *readPool) get() (*readTx, error) {
	p.mu.Lock()
	if p.mu.closed {
		p.mu.Unlock()
		return nil, ErrClosed
	}
	if n := len(p.mu.idle); n > 0 {
		r := p.mu.idle[n-1]
		p.mu.idle = p.mu.idle[:n-1]
		p.mu.Unlock()
		return r, nil
	}
	epoch := p.mu.epoch
	p.mu.Unlock()
	tx, err := p.db.Begin(false)
	if errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
		return nil, ErrClosed
	}
	if err != nil {
		return nil, fmt.Errorf("storage: reading the store: %w", err)
	}
	return &readTx{tx: tx, c: tx.Bucket(bucketData).Cursor(), epoch: epoch}, nil
}

func (p *readPool) put(r *readTx) {
	p.mu.Lock()
	if r.epoch == p.mu.epoch && p.mu.noIdle == 0 && !p.mu.closed && len(p.mu.idle) < maxIdleReaders {
		p.mu.idle = append(p.mu.idle, r)
		p.mu.Unlock()
		return
	}
	p.mu.Unlock()
	r.tx.Rollback()
}

// renew makes readers from now on see the latest commit.
func (p *readPool) renew() { p.drain(func() { p.mu.epoch++ }) }

func (p *readPool) setIdle(ok bool) {
	p.drain(func() {
		if ok {
			p.mu.noIdle--
		} else {
			p.mu.noIdle++
		}
	})
}

func (p *readPool) close() { p.drain(func() { p.mu.closed = true }) }

func (p *readPool) drain(change func()) {
	p.mu.Lock()
	change()
	idle := p.mu.idle
	p.mu.idle = nil
	p.mu.Unlock()
	for _, r := range idle {
		r.tx.Rollback()
	}
}

// get returns a copy of the value under key in the data bucket.
func (b *bolt) get(key []byte) (value []byte, ok bool, err error) {
	if ce := b.broken.Load(); ce != nil {
		return nil, false, ce
	}
	defer b.guard(&err, true)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	r, err := b.pool.get()
	if err != nil {
		return nil, false, err
	}
	k, v, err := b.seek(r.c, key)
	if err == nil && k != nil && bytes.Equal(k, key) {
		if value, err = b.open(k, v); err == nil {
			value, ok = append(make([]byte, 0, len(value)), value...), true
		}
	}
	b.pool.put(r)
	return value, ok, err
}

// seek is c.Seek with proof that nothing lies between key and what it finds (D1).
// bbolt searches pages without checksums, so a damaged key can lead it past
// whole ones. But then the search ends beside the damaged key, or, if that was a
// branch's, where the order is broken: so what stands on either side of the gap must
// be whole and on its side. What is found at key itself needs no proof but its own.
func (b *bolt) seek(c *bbolt.Cursor, key []byte) (k, v []byte, err error) {
	if k, v = c.Seek(key); k != nil {
		switch bytes.Compare(k, key) {
		case 0:
			return k, v, nil // the caller opens it
		case -1:
			return nil, nil, b.misordered(k)
		}
		if _, err := b.open(k, v); err != nil {
			return nil, nil, err
		}
	}
	before, sealed := c.Prev()
	if before == nil {
		return k, v, nil // and Prev has stayed at k
	}
	if bytes.Compare(before, key) >= 0 {
		return nil, nil, b.misordered(before)
	}
	if _, err := b.open(before, sealed); err != nil {
		return nil, nil, err
	}
	if k != nil {
		c.Next()
	}
	return k, v, nil
}

// open checks a stored value and returns it without its checksum (D1).
func (b *bolt) open(key, stored []byte) ([]byte, error) {
	n := len(stored) - 4
	if n < 0 || le32(stored[n:]) != sumKV(key, stored[:n]) {
		return nil, &CorruptError{File: b.name, Offset: -1, Reason: fmt.Sprintf("checksum of key %x does not match its value", key)}
	}
	return stored[:n], nil
}

// misordered reports keys out of order, which only damaged pages bring about
// (they may even form a circle). Like a panic it is fatal.
func (b *bolt) misordered(key []byte) error {
	ce := &CorruptError{File: b.name, Offset: -1, Reason: fmt.Sprintf("key %x is out of order", key)}
	if b.broken.CompareAndSwap(nil, ce) {
		b.fatal(ce)
	}
	return ce
}

// sealValue appends value and its checksum to arena and returns the part.
func sealValue(arena, key, value []byte) (grown, stored []byte) {
	at := len(arena)
	arena = append(arena, value...)
	s := sumKV(key, value)
	arena = append(arena, byte(s), byte(s>>8), byte(s>>16), byte(s>>24))
	return arena, arena[at:len(arena):len(arena)]
}

// putSealed stores value under key with its checksum.
func putSealed(bk *bbolt.Bucket, key, value []byte) error {
	_, v := sealValue(nil, key, value)
	return bk.Put(key, v)
}

// getSealed returns the value under key, nil if there is none; valid during the
// transaction only.
func (b *bolt) getSealed(bk *bbolt.Bucket, key []byte) ([]byte, error) {
	v := bk.Get(key)
	if v == nil {
		return nil, nil
	}
	return b.open(key, v)
}

// view runs fn in a read transaction of its own.
func (b *bolt) view(fn func(tx *bbolt.Tx) error) (err error) {
	if ce := b.broken.Load(); ce != nil {
		return ce
	}
	defer b.guard(&err, true)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	tx, err := b.db.Begin(false)
	if err != nil {
		return ErrClosed
	}
	err = fn(tx)
	tx.Rollback()
	return err
}
