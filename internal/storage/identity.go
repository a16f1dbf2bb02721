package storage

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/version"
)

// Identity says whose data directory it is. In Options, zero fields accept what
// the directory says; for a new one they become a random cluster id, node 1 and "n1".
type Identity struct {
	Cluster [16]byte
	Node    keys.NodeID
	Name    string
	// Version is the highest that the cluster may have: a program that cannot run it
	// is refused. It grows by RaiseVersion; 0: none was ever agreed on.
	Version version.Version
}

const (
	lockName     = "LOCK"
	identityName = "IDENTITY"
	// initName marks a directory whose creation has not finished: what is in it
	// beside the mark may be thrown away.
	initName = "INITIALIZING"
	boltName = "store.db"
	// dirFormat 1 had no formats in the node's own records; nothing of it was released.
	dirFormat = 2
)

// ReadIdentity returns the identity of the data directory dir, false when
// there is none (or its creation never finished). It touches nothing.
func ReadIdentity(f FS, dir string) (Identity, bool, error) {
	b, err := readFile(f, filepath.Join(dir, identityName))
	if errors.Is(err, fs.ErrNotExist) {
		return Identity{}, false, nil
	}
	if err != nil {
		return Identity{}, false, fmt.Errorf("storage: reading identity: %w", err)
	}
	id, err := decodeIdentity(filepath.Join(dir, identityName), b)
	return id, err == nil, err
}

// encodeIdentity writes text, for people who look into the directory.
func encodeIdentity(id Identity) []byte {
	s := fmt.Sprintf("spand data directory\nformat %d\ncluster %x\nnode %d\nname %s\nversion %d\n",
		dirFormat, id.Cluster, id.Node, strconv.Quote(id.Name), id.Version)
	return fmt.Appendf(nil, "%scrc32c %08x\n", s, crc32.Checksum([]byte(s), castagnoli))
}

func decodeIdentity(file string, b []byte) (Identity, error) {
	bad := func(why string) (Identity, error) {
		return Identity{}, &CorruptError{File: file, Offset: -1, Reason: why}
	}
	text, sum, ok := strings.Cut(string(b), "crc32c ")
	if !ok {
		return bad("no checksum")
	}
	lines := strings.Split(text, "\n")
	if len(lines) < 2 || lines[0] != "spand data directory" {
		return bad("not an identity file")
	}
	// The format comes before everything else: a newer one may mean anything.
	v, ok := strings.CutPrefix(lines[1], "format ")
	format, err := strconv.ParseUint(v, 10, 32)
	if !ok || err != nil {
		return bad("no format version")
	}
	if format != dirFormat {
		return Identity{}, &FormatError{File: file, Have: uint32(format), Supported: dirFormat}
	}
	if want := fmt.Sprintf("%08x\n", crc32.Checksum([]byte(text), castagnoli)); sum != want {
		return bad("checksum does not match")
	}
	var id Identity
	for _, l := range lines[2:] {
		k, v, _ := strings.Cut(l, " ")
		switch k {
		case "cluster":
			if n, err := hex.Decode(id.Cluster[:], []byte(v[:min(len(v), 32)])); err != nil || n != 16 || len(v) != 32 {
				return bad("cluster id")
			}
		case "node":
			n, err := strconv.ParseUint(v, 10, 32)
			if err != nil {
				return bad("node id")
			}
			id.Node = keys.NodeID(n)
		case "name":
			if id.Name, err = strconv.Unquote(v); err != nil {
				return bad("node name")
			}
		case "version":
			n, err := strconv.ParseUint(v, 10, 32)
			if err != nil {
				return bad("cluster version")
			}
			id.Version = version.Version(n)
		}
	}
	return id, nil
}

// check compares the directory's identity with what the caller expects, and
// its cluster's version with what the program can run.
func (id Identity) check(dir string, want Identity, can version.Range) error {
	if want.Cluster != [16]byte{} && want.Cluster != id.Cluster ||
		want.Node != 0 && want.Node != id.Node ||
		want.Name != "" && want.Name != id.Name {
		return &IdentityError{Dir: dir, Have: id, Want: want}
	}
	if id.Version != 0 {
		if err := can.Check(id.Version); err != nil {
			return fmt.Errorf("storage: data directory %s: %w", dir, err)
		}
	}
	return nil
}

// RaiseVersion notes, durably, that the cluster may have version v: from now on
// no program that cannot run it opens the directory.
func (s *Store) RaiseVersion(v version.Version) error {
	s.raising <- struct{}{}
	defer func() { <-s.raising }()
	id := s.Identity()
	if v <= id.Version {
		return nil
	}
	if err := s.opts.Versions.Check(v); err != nil {
		return err
	}
	id.Version = v
	if err := writeFileSync(s.opts.FS, filepath.Join(s.opts.Dir, identityName), encodeIdentity(id)); err != nil {
		return fmt.Errorf("storage: noting the cluster's version: %w", err)
	}
	s.identity.Lock()
	s.identity.Identity = id
	s.identity.Unlock()
	return nil
}

// filled completes the identity of a new directory.
func (id Identity) filled() Identity {
	if id.Cluster == [16]byte{} {
		rand.Read(id.Cluster[:])
	}
	if id.Node == 0 {
		id.Node = 1
	}
	if id.Name == "" {
		id.Name = "n" + strconv.Itoa(int(id.Node))
	}
	return id
}

// checkForeign refuses a directory that holds something else than a data
// directory, complete or begun.
func checkForeign(f FS, dir string) (fresh bool, err error) {
	names, err := f.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("storage: reading data directory: %w", err)
	}
	var begun, done bool
	foreign := ""
	for _, n := range names {
		switch {
		case n == identityName:
			done = true
		case n == initName:
			begun = true
		case n == lockName, n == "lost+found", n == initName+".tmp":
		default:
			foreign = n
		}
	}
	if done {
		return false, nil
	}
	if foreign != "" && !begun {
		return false, &ForeignDirError{Dir: dir, Found: foreign}
	}
	return true, nil
}

// removeBegun clears away what an unfinished creation left.
func removeBegun(f FS, dir string) error {
	names, err := f.List(dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		if n == boltName || n == incarnationName || isLogFile(n) || strings.HasSuffix(n, ".tmp") {
			if err := f.Remove(filepath.Join(dir, n)); err != nil {
				return err
			}
		}
	}
	return f.SyncDir(dir)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sumKV is the checksum stored behind a value; it covers the key (D1). The
// key's length is mixed in, so that bytes cannot move from one to the other.
func sumKV(key, value []byte) uint32 {
	s := crc32.Update(0, castagnoli, key)
	return crc32.Update(s, castagnoli, value) ^ uint32(len(key))*0x9e3779b1
}
