package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"path/filepath"
)

// The file INCARNATION counts the node's lives. It has its final size from the
// beginning, and every life writes one of its two slots, by turns, in place: a
// node must come up, to serve reads, on a disk without a free byte. A crash
// tears at most the slot being written; the other one has the life before.
const (
	incarnationName   = "INCARNATION"
	incarnationMagic  = "spandinc"
	incarnationFormat = 1
	incarnationSlots  = 2
)

// encodeIncarnation returns a slot: magic, format, checksum, number.
func encodeIncarnation(n uint64) []byte {
	b := make([]byte, blockSize)
	copy(b, incarnationMagic)
	le := binary.LittleEndian
	le.PutUint32(b[8:], incarnationFormat)
	le.PutUint64(b[16:], n)
	le.PutUint32(b[12:], crc32.Checksum(b[16:], castagnoli))
	return b
}

// decodeIncarnation returns a slot's number; false for one that was torn.
func decodeIncarnation(file string, b []byte) (n uint64, ok bool, err error) {
	le := binary.LittleEndian
	if string(b[:8]) != incarnationMagic {
		return 0, false, nil
	}
	if v := le.Uint32(b[8:]); v > incarnationFormat {
		return 0, false, &FormatError{File: file, Have: v, Supported: incarnationFormat}
	}
	if le.Uint32(b[12:]) != crc32.Checksum(b[16:], castagnoli) {
		return 0, false, nil
	}
	return le.Uint64(b[16:]), true, nil
}

func createIncarnation(f FS, dir string) error {
	var b []byte
	for range incarnationSlots {
		b = append(b, encodeIncarnation(0)...)
	}
	return writeFileSync(f, filepath.Join(dir, incarnationName), b)
}

// NextIncarnation returns, durably, a number that is above that of every
// earlier life of the node and at least atLeast. It needs no space on the disk.
func (s *Store) NextIncarnation(atLeast uint64) (uint64, error) {
	n, err := nextIncarnation(s.opts.FS, s.opts.Dir, atLeast)
	if err != nil {
		return 0, fmt.Errorf("storage: counting the node's incarnations: %w", err)
	}
	return n, nil
}

func nextIncarnation(fsys FS, dir string, atLeast uint64) (uint64, error) {
	name := filepath.Join(dir, incarnationName)
	f, err := fsys.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, &CorruptError{File: name, Offset: -1, Reason: "file is missing"}
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	b := make([]byte, incarnationSlots*blockSize)
	if n, err := f.ReadAt(b, 0); n < len(b) && err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	last, slot, found := uint64(0), 0, false
	for i := range incarnationSlots {
		n, ok, err := decodeIncarnation(name, b[i*blockSize:(i+1)*blockSize])
		if err != nil {
			return 0, err
		}
		if ok && (!found || n >= last) {
			last, slot, found = n, i, true
		}
	}
	if !found {
		return 0, &CorruptError{File: name, Offset: -1, Reason: "no slot is valid"}
	}
	next := max(last+1, atLeast)
	at := int64((slot + 1) % incarnationSlots * blockSize)
	if _, err := f.WriteAt(encodeIncarnation(next), at); err != nil {
		return 0, err
	}
	return next, f.Sync()
}
