package storage

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A crash before any operation of the disk leaves the next life above all that
// were told their number, torn sectors or not.
func TestIncarnationsGrowThroughCrashes(t *testing.T) {
	m := newMachine(t, 1)
	if err := m.boot(); err != nil {
		t.Fatal(err)
	}
	m.store.Close()
	torn := rand.New(rand.NewPCG(1, 1))
	last := uint64(0)
	for at := range 24 {
		n := 0
		m.disk.Inject(func(op Op, _ string) error {
			if n++; n != at%6 {
				return nil
			}
			if err := m.disk.Crash(torn); err != nil {
				t.Error(err)
			}
			return errCrashed
		})
		inc, err := nextIncarnation(m.disk.Boot(), "/node", 1)
		if err == nil {
			if inc <= last {
				t.Fatalf("life %d has incarnation %d, one before %d", at, inc, last)
			}
			last = inc
		} else if !errors.Is(err, errCrashed) {
			t.Fatal(err)
		}
		m.disk.Inject(nil)
		if err := m.disk.Crash(torn); err != nil {
			t.Fatal(err)
		}
	}
	if last == 0 {
		t.Fatal("no life got as far as its number")
	}
	if inc, err := nextIncarnation(m.disk.Boot(), "/node", last+1000); err != nil || inc != last+1000 {
		t.Errorf("%d, %v: want the number that the clock asks for, %d", inc, err, last+1000)
	}
}

// A node on a disk without a free byte, where bbolt cannot commit either, opens
// its data, counts this life, logs and reads.
func TestFullDiskAtStart(t *testing.T) {
	m := newMachine(t, 1)
	if err := m.boot(); err != nil {
		t.Fatal(err)
	}
	if err := m.append(1, 3, 100); err != nil {
		t.Fatal(err)
	}
	before, err := m.store.NextIncarnation(7)
	if err != nil {
		t.Fatal(err)
	}
	m.disk.Crash(nil)
	m.store.Close()
	m.disk.SetFree(0)
	m.disk.Inject(func(op Op, _ string) error {
		if op == OpCommit {
			return unix.ENOSPC
		}
		return nil
	})
	m.reserve = 1 << 20
	if err := m.boot(); err != nil {
		t.Fatal(err)
	}
	defer m.store.Close()
	after, err := m.store.NextIncarnation(0)
	if err != nil || after <= before {
		t.Errorf("incarnation %d after %d: %v", after, before, err)
	}
	if !m.store.Full() {
		t.Error("not full without a byte left")
	}
	if err := m.append(1, 1, 100); err != nil { // a leader's first entry
		t.Error(err)
	}
	m.host.apply(t, 1, 4)
	m.host.verify(t)
}

func TestIncarnationRefusesDamageAndNewerFormats(t *testing.T) {
	name := filepath.Join("/node", incarnationName)
	write := func(slots ...[]byte) FS {
		f := NewMemFS(t.TempDir()).Boot()
		if err := writeFileSync(f, name, bytes.Join(slots, nil)); err != nil {
			t.Fatal(err)
		}
		return f
	}
	torn := append(encodeIncarnation(9)[:600], make([]byte, blockSize-600)...)
	torn[20] ^= 1
	if n, err := nextIncarnation(write(encodeIncarnation(5), torn), "/node", 0); n != 6 || err != nil {
		t.Errorf("one slot torn: %d, %v", n, err)
	}
	var corrupt *CorruptError
	if _, err := nextIncarnation(write(torn, torn), "/node", 0); !errors.As(err, &corrupt) {
		t.Errorf("both slots damaged: %v", err)
	}
	if _, err := nextIncarnation(NewMemFS(t.TempDir()).Boot(), "/node", 0); !errors.As(err, &corrupt) {
		t.Errorf("no file: %v", err)
	}
	newer := encodeIncarnation(5)
	newer[8]++
	var format *FormatError
	if _, err := nextIncarnation(write(newer, encodeIncarnation(4)), "/node", 0); !errors.As(err, &format) {
		t.Errorf("a newer format: %v", err)
	}
}
