package storage

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// errCrashed answers everything that a life before the crash still asks.
var errCrashed = errors.New("storage: this life of the simulated machine has ended")

// Op names an operation of MemFS for fault injection.
type Op string

// Operations that Inject sees.
const (
	OpCreate     Op = "create"
	OpOpen       Op = "open"
	OpRead       Op = "read"
	OpWrite      Op = "write"
	OpSync       Op = "sync"
	OpRename     Op = "rename"
	OpRemove     Op = "remove"
	OpSyncDir    Op = "syncdir"
	OpCommit     Op = "commit"    // before a bbolt transaction: an error keeps it from happening
	OpCommitted  Op = "committed" // after one, which is durable: an error hides that from the store
	memFSDefault    = 64 << 30
)

// MemFS is the disk of a simulated machine, in memory, that can crash: files
// then keep what was synced, directories the entries that were synced, and
// possibly parts of the rest. Boot gives the file system for one life of the
// machine. bbolt, which maps a real file, works on files in a temporary
// directory; what it committed before a crash stays, because it syncs every
// commit. Safe for concurrent use.
type MemFS struct {
	temp string

	mu struct {
		sync.Mutex
		life   int // crashes so far; what was opened in an earlier life is dead
		now    map[string]*memNode
		synced map[string]*memNode
		bolts  map[string]string
		locks  map[string]bool
		free   int64
		inject func(op Op, name string) error
	}
	commits sync.RWMutex // read: a bbolt commit is under way; write: crashing
}

// memLife is MemFS in one life: all it answers after the next crash is errors.
type memLife struct {
	*MemFS
	life int
}

// Boot returns the file system for the life that begins now.
func (m *MemFS) Boot() FS {
	m.mu.Lock()
	defer m.mu.Unlock()
	return &memLife{m, m.mu.life}
}

// memNode is a file's contents.
type memNode struct {
	now, synced []byte
	dirty       []span // written since the last sync, in order
}

type span struct{ from, to int64 }

// NewMemFS returns an empty file system whose bbolt files lie in temp.
func NewMemFS(temp string) *MemFS {
	m := &MemFS{temp: temp}
	m.mu.now, m.mu.synced = map[string]*memNode{}, map[string]*memNode{}
	m.mu.bolts, m.mu.locks = map[string]string{}, map[string]bool{}
	m.mu.free = memFSDefault
	return m
}

// Inject calls f before every operation (nil: none), with no lock held: it may
// return an error, sleep, or call Crash and then return an error.
func (m *MemFS) Inject(f func(op Op, name string) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.inject = f
}

// SetFree sets the free space; writes that grow a file take from it, and fail
// with ENOSPC when there is not enough.
func (m *MemFS) SetFree(bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.free = bytes
}

// Crash ends a life of the machine: everything open fails from now on, locks
// are gone, and only what was synced is left. With torn, each sector of 512
// bytes written since the last sync survives or not as it decides.
func (m *MemFS) Crash(torn *rand.Rand) error {
	m.commits.Lock()
	defer m.commits.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.life++
	m.mu.now = map[string]*memNode{}
	names := make([]string, 0, len(m.mu.synced))
	for name := range m.mu.synced {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		n := m.mu.synced[name]
		after := &memNode{synced: slices.Clone(n.synced)}
		if torn != nil {
			after.tear(n, torn)
		}
		after.now = slices.Clone(after.synced)
		m.mu.now[name], m.mu.synced[name] = after, after
	}
	clear(m.mu.locks)
	// The old life's bbolt still has its file mapped; the new one gets a copy.
	for name, path := range m.mu.bolts {
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			delete(m.mu.bolts, name)
			continue
		}
		if err != nil {
			return err
		}
		fresh := m.boltFile(name)
		if err := os.WriteFile(fresh, b, 0o600); err != nil {
			return err
		}
		m.mu.bolts[name] = fresh
		os.Remove(path) // its inode lives on while the old life has it mapped
	}
	return nil
}

// tear lets sectors of what old had not synced survive.
func (n *memNode) tear(old *memNode, r *rand.Rand) {
	const sector = 512
	for _, d := range old.dirty {
		for at := d.from; at < d.to; at += sector {
			end := min(at+sector, d.to)
			if r.IntN(2) == 0 || end > int64(len(old.now)) {
				continue
			}
			if grow := end - int64(len(n.synced)); grow > 0 {
				n.synced = append(n.synced, make([]byte, grow)...)
			}
			copy(n.synced[at:end], old.now[at:end])
		}
	}
}

// boltSerial keeps the files of all simulated disks of a process apart.
var boltSerial atomic.Int64

func (m *MemFS) boltFile(name string) string {
	return filepath.Join(m.temp, fmt.Sprintf("%d-%d-%s", os.Getpid(), boltSerial.Add(1), filepath.Base(name)))
}

// call runs the injection, then f under the lock, in life.
func (m *MemFS) call(op Op, name string, life int, f func() error) error {
	m.mu.Lock()
	inject := m.mu.inject
	m.mu.Unlock()
	if inject != nil {
		if err := inject(op, name); err != nil {
			return &fs.PathError{Op: string(op), Path: name, Err: err}
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if life != m.mu.life {
		return &fs.PathError{Op: string(op), Path: name, Err: errCrashed}
	}
	if err := f(); err != nil {
		return &fs.PathError{Op: string(op), Path: name, Err: err}
	}
	return nil
}

// MkdirAll implements FS; directories exist by themselves.
func (m *memLife) MkdirAll(string) error { return nil }

// Create implements FS.
func (m *memLife) Create(name string) (f File, err error) {
	err = m.call(OpCreate, name, m.life, func() error {
		n := &memNode{}
		m.mu.now[name] = n
		f = &memFile{m: m.MemFS, n: n, name: name, life: m.mu.life}
		return nil
	})
	return f, err
}

// Open implements FS.
func (m *memLife) Open(name string) (f File, err error) {
	err = m.call(OpOpen, name, m.life, func() error {
		if path, ok := m.mu.bolts[name]; ok {
			r, err := OS.Open(path)
			f = &memBolt{File: r, m: m.MemFS, name: name, life: m.mu.life}
			return err
		}
		n := m.mu.now[name]
		if n == nil {
			return fs.ErrNotExist
		}
		f = &memFile{m: m.MemFS, n: n, name: name, life: m.mu.life}
		return nil
	})
	return f, err
}

// Rename implements FS.
func (m *memLife) Rename(old, new string) error {
	return m.call(OpRename, old, m.life, func() error {
		n := m.mu.now[old]
		if n == nil {
			return fs.ErrNotExist
		}
		delete(m.mu.now, old)
		m.mu.now[new] = n
		return nil
	})
}

// Remove implements FS.
func (m *memLife) Remove(name string) error {
	return m.call(OpRemove, name, m.life, func() error {
		if path, ok := m.mu.bolts[name]; ok {
			delete(m.mu.bolts, name)
			return os.Remove(path)
		}
		n := m.mu.now[name]
		if n == nil {
			return fs.ErrNotExist
		}
		m.mu.free += int64(len(n.now))
		delete(m.mu.now, name)
		return nil
	})
}

// List implements FS.
func (m *memLife) List(dir string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.life != m.mu.life {
		return nil, errCrashed
	}
	var names []string
	for name := range m.mu.now {
		if filepath.Dir(name) == dir {
			names = append(names, filepath.Base(name))
		}
	}
	for name, path := range m.mu.bolts {
		if _, err := os.Stat(path); err == nil && filepath.Dir(name) == dir {
			names = append(names, filepath.Base(name))
		}
	}
	if names == nil {
		return nil, &fs.PathError{Op: "list", Path: dir, Err: fs.ErrNotExist}
	}
	slices.Sort(names)
	return names, nil
}

// SyncDir implements FS.
func (m *memLife) SyncDir(dir string) error {
	return m.call(OpSyncDir, dir, m.life, func() error {
		for name := range m.mu.synced {
			if filepath.Dir(name) == dir && m.mu.now[name] == nil {
				delete(m.mu.synced, name)
			}
		}
		for name, n := range m.mu.now {
			if filepath.Dir(name) == dir {
				m.mu.synced[name] = n
			}
		}
		return nil
	})
}

// Lock implements FS.
func (m *memLife) Lock(name string) (io.Closer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.life != m.mu.life {
		return nil, errCrashed
	}
	if m.mu.locks[name] {
		return nil, errLockHeld
	}
	m.mu.locks[name] = true
	return &memLock{m.MemFS, name, m.life}, nil
}

type memLock struct {
	m    *MemFS
	name string
	life int
}

func (l *memLock) Close() error {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	if l.life == l.m.mu.life {
		delete(l.m.mu.locks, l.name)
	}
	return nil
}

// Free implements FS.
func (m *memLife) Free(string) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.free, nil
}

// BoltPath implements FS.
func (m *memLife) BoltPath(name string) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.life != m.mu.life {
		return "", errCrashed
	}
	if _, ok := m.mu.bolts[name]; !ok {
		m.mu.bolts[name] = m.boltFile(name)
	}
	return m.mu.bolts[name], nil
}

// CommitBolt implements FS.
func (m *memLife) CommitBolt(name string, commit func() error) error {
	if err := m.call(OpCommit, name, m.life, func() error { return nil }); err != nil {
		return err
	}
	m.commits.RLock()
	if m.Life() != m.life {
		m.commits.RUnlock()
		return errCrashed
	}
	err := commit()
	m.commits.RUnlock()
	if err != nil {
		return err
	}
	return m.call(OpCommitted, name, m.life, func() error { return nil })
}

// Life counts the crashes.
func (m *MemFS) Life() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.life
}

// memFile is a file opened in one life.
type memFile struct {
	m    *MemFS
	n    *memNode
	name string
	life int
}

func (f *memFile) ReadAt(b []byte, off int64) (n int, err error) {
	err = f.m.call(OpRead, f.name, f.life, func() error {
		if off >= int64(len(f.n.now)) {
			return io.EOF
		}
		if n = copy(b, f.n.now[off:]); n < len(b) {
			return io.EOF
		}
		return nil
	})
	if errors.Is(err, io.EOF) {
		err = io.EOF
	}
	return n, err
}

func (f *memFile) WriteAt(b []byte, off int64) (int, error) {
	err := f.m.call(OpWrite, f.name, f.life, func() error {
		end := off + int64(len(b))
		if grow := end - int64(len(f.n.now)); grow > 0 {
			if f.m.mu.free < grow {
				return unix.ENOSPC
			}
			f.m.mu.free -= grow
			f.n.now = append(f.n.now, make([]byte, grow)...)
		}
		copy(f.n.now[off:], b)
		f.n.dirty = append(f.n.dirty, span{off, end})
		return nil
	})
	if err != nil {
		return 0, err
	}
	return len(b), nil
}

func (f *memFile) Sync() error {
	return f.m.call(OpSync, f.name, f.life, func() error {
		for _, d := range f.n.dirty {
			if grow := d.to - int64(len(f.n.synced)); grow > 0 {
				f.n.synced = append(f.n.synced, make([]byte, grow)...)
			}
			copy(f.n.synced[d.from:d.to], f.n.now[d.from:d.to])
		}
		f.n.dirty = f.n.dirty[:0]
		return nil
	})
}

func (f *memFile) Size() (int64, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	return int64(len(f.n.now)), nil
}

func (f *memFile) Close() error { return nil }

// memBolt is bbolt's file, opened beside bbolt.
type memBolt struct {
	File
	m    *MemFS
	name string
	life int
}

func (f *memBolt) Sync() error { return f.m.call(OpSync, f.name, f.life, f.File.Sync) }

// Sleep returns an injection that makes every sync take d: a slow disk.
func Sleep(d time.Duration) func(op Op, name string) error {
	return func(op Op, _ string) error {
		if op == OpSync || op == OpCommit {
			time.Sleep(d)
		}
		return nil
	}
}

var _ FS = (*memLife)(nil)
