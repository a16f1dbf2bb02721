package storage

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spandb/spand/internal/version"
	"go.etcd.io/bbolt"
)

// A directory remembers the version that its cluster may have, and programs that
// cannot run it are refused before they touch anything.
func TestClusterVersionOfADirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	o := options(t, OS, dir)
	o.Versions = version.Range{Min: 1, Max: 3}
	s, _ := mustOpen(t, o)
	if v := s.Identity().Version; v != 0 {
		t.Errorf("a new directory has agreed on version %d", v)
	}
	if err := s.RaiseVersion(2); err != nil {
		t.Fatal(err)
	}
	if err := s.RaiseVersion(1); err != nil || s.Identity().Version != 2 {
		t.Errorf("lowered to %d: %v", s.Identity().Version, err)
	}
	if err := s.RaiseVersion(4); err == nil || s.Identity().Version != 2 {
		t.Errorf("raised to %d, which this program cannot run: %v", s.Identity().Version, err)
	}
	s.Close()

	before := snapshotDir(t, dir)
	for _, c := range []struct {
		can  version.Range
		says string
	}{
		{version.Range{Min: 1, Max: 1}, "use a newer spand"},
		{version.Range{Min: 3, Max: 4}, "use an older spand"},
	} {
		o.Versions = c.can
		var ve *version.Error
		if _, _, err := Open(o); !errors.As(err, &ve) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), dir) {
			t.Errorf("a program for versions %s: %v", c.can, err)
		}
	}
	if after := snapshotDir(t, dir); after != before {
		t.Errorf("something was touched:\n%s\n%s", before, after)
	}
	o.Versions = version.Range{Min: 2, Max: 2}
	s, _ = mustOpen(t, o)
	if v := s.Identity().Version; v != 2 {
		t.Errorf("the version became %d", v)
	}
	s.Close()
}

// Records of a newer format are called so, not corrupt.
func TestNewerRecordFormats(t *testing.T) {
	for _, c := range []struct {
		bucket, key []byte
	}{
		{bucketMeta, metaKey}, {bucketMeta, markKey(7)}, {bucketMeta, tombstoneKey(7, 1)}, {bucketGroups, groupKey(7)}, {bucketNode, []byte("k")},
	} {
		o := options(t, OS, filepath.Join(t.TempDir(), "data"))
		s, _ := mustOpen(t, o)
		err := s.bolt.update(func(tx *bbolt.Tx) error { return putSealed(tx.Bucket(c.bucket), c.key, []byte{9, 1, 2, 3}) })
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
		s, _, err = Open(o)
		if err == nil { // the node's own records are read on demand
			_, _, err = s.GetNode(c.key)
			s.Close()
		}
		var fe *FormatError
		if !errors.As(err, &fe) || fe.Have != 9 {
			t.Errorf("%s %q: %v", c.bucket, c.key, err)
		}
	}
	// A log segment's too.
	o := options(t, OS, filepath.Join(t.TempDir(), "data"))
	s, _ := mustOpen(t, o)
	s.Close()
	name := filepath.Join(o.Dir, segmentName(1))
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	b[8]++
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	var fe *FormatError
	if _, _, err := Open(o); !errors.As(err, &fe) {
		t.Error(err)
	}
}
