package storage

import (
	"io/fs"
	"runtime"

	"golang.org/x/sys/unix"
)

func (f *osFile) Sync() error {
	for {
		err := unix.Fdatasync(f.fd)
		if err == unix.EINTR {
			continue
		}
		runtime.KeepAlive(f.File)
		if err != nil {
			return &fs.PathError{Op: "fdatasync", Path: f.Name(), Err: err}
		}
		return nil
	}
}
