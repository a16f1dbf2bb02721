package storage

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// FS is what the engine needs of a file system. OS is the real one, MemFS the
// twin that crashes and fails on demand. Names are paths. Safe for concurrent use.
type FS interface {
	MkdirAll(dir string) error
	// Create makes an empty file for reading and writing, in the place of any other.
	Create(name string) (File, error)
	// Open opens an existing file for reading and writing.
	Open(name string) (File, error)
	Rename(old, new string) error
	Remove(name string) error
	// List returns the names in dir, sorted, without their path.
	List(dir string) ([]string, error)
	// SyncDir makes creations, renames and removals in dir durable.
	SyncDir(dir string) error
	// Lock takes the lock file name, created if need be, until it is closed. It
	// returns errLockHeld when somebody else has it.
	Lock(name string) (io.Closer, error)
	// Free returns the bytes available in dir's file system.
	Free(dir string) (int64, error)
	// BoltPath returns where in the real file system bbolt finds the file name.
	BoltPath(name string) (string, error)
	// CommitBolt runs one write transaction on the bbolt file name. A twin fails,
	// delays or crashes around it.
	CommitBolt(name string, commit func() error) error
}

// File is an open file. Sync makes written data durable (fdatasync). WriteAt
// and Sync of one file are called from one goroutine at a time.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Sync() error
	Size() (int64, error)
}

var errLockHeld = errors.New("lock is held")

// OS is the operating system's file system.
var OS FS = osFS{}

type osFS struct{}

type osFile struct {
	*os.File
	fd int // of File, which must be kept alive while it is used
}

func newOSFile(f *os.File, err error) (File, error) {
	if err != nil {
		return nil, err
	}
	return &osFile{File: f, fd: int(f.Fd())}, nil
}

func (f *osFile) Size() (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

func (osFS) MkdirAll(dir string) error { return os.MkdirAll(dir, 0o700) }

func (osFS) Create(name string) (File, error) {
	return newOSFile(os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600))
}

func (osFS) Open(name string) (File, error)                 { return newOSFile(os.OpenFile(name, os.O_RDWR, 0)) }
func (osFS) Rename(old, new string) error                   { return os.Rename(old, new) }
func (osFS) Remove(name string) error                       { return os.Remove(name) }
func (osFS) BoltPath(name string) (string, error)           { return name, nil }
func (osFS) CommitBolt(_ string, commit func() error) error { return commit() }

func (osFS) List(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	slices.Sort(names)
	return names, nil
}

func (osFS) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func (osFS) Lock(name string) (io.Closer, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if err == unix.EWOULDBLOCK {
			return nil, errLockHeld
		}
		return nil, &fs.PathError{Op: "flock", Path: name, Err: err}
	}
	return f, nil
}

func (osFS) Free(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, &fs.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}

// isNoSpace reports whether err says that the disk, or a quota, is full, and
// that from a write: after a failed sync nothing is known, whatever it says (R1).
func isNoSpace(err error) bool {
	if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return false
	}
	var pe *fs.PathError
	var le *os.LinkError
	return errors.As(err, &pe) && pe.Op != "fdatasync" && pe.Op != "sync" || errors.As(err, &le)
}

// writeFileSync replaces name with data, durably and atomically.
func writeFileSync(f FS, name string, data []byte) error {
	tmp := name + ".tmp"
	w, err := f.Create(tmp)
	if err != nil {
		return err
	}
	_, err = w.WriteAt(data, 0)
	if err == nil {
		err = w.Sync()
	}
	if cerr := w.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = f.Rename(tmp, name)
	}
	if err == nil {
		err = f.SyncDir(filepath.Dir(name))
	}
	return err
}

// readFile returns all of name.
func readFile(f FS, name string) ([]byte, error) {
	r, err := f.Open(name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	n, err := r.Size()
	if err != nil {
		return nil, err
	}
	if n > 1<<20 {
		return nil, &CorruptError{File: name, Offset: -1, Reason: "implausibly large"}
	}
	b := make([]byte, n)
	if _, err := r.ReadAt(b, 0); err != nil && err != io.EOF {
		return nil, err
	}
	return b, nil
}
