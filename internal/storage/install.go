package storage

import (
	"bytes"
	"context"
	"fmt"

	"github.com/spandb/spand/internal/keys"
	"go.etcd.io/bbolt"
)

// KV is an engine key with its value.
type KV struct{ Key, Value []byte }

// BeginInstall prepares for a snapshot of group g, for replica: it marks the
// group durably as incomplete and removes everything in spans. Until
// FinishInstall nothing may be applied for g, and Capture must not offer it. A
// crash in between leaves the replica empty, with its term and vote.
func (s *Store) BeginInstall(g keys.GroupID, replica keys.ReplicaID, spans [][2][]byte) error {
	if s.Removed(g, replica) {
		return removedError(g, replica)
	}
	s.dropInstalled(g) // of an earlier transfer
	return s.exclusively(func() error {
		m := mark{kind: markInstall, replica: replica, spans: spans}
		err := s.bolt.update(func(tx *bbolt.Tx) error {
			return putSealed(tx.Bucket(bucketMeta), markKey(g), m.encode())
		})
		if err != nil {
			return err
		}
		return s.clear(spans)
	})
}

// Sizes of the commits that empty and fill a replica. Neighbouring keys share
// their pages, so a commit of many costs the log's syncs no more than a
// checkpoint's chunk of scattered ones; each commit costs two syncs and a freelist.
const (
	clearKeys    = 25_000
	installBytes = 2 << 20
	installEntry = 64 // what a key costs beside its bytes
)

// pendingInstall is what a group's snapshot has brought and no commit holds yet.
type pendingInstall struct {
	kvs   []kv
	bytes int
}

// InstallChunk takes a part of the snapshot; its keys lie in BeginInstall's spans.
// It keeps the slices. FinishInstall makes all parts durable.
func (s *Store) InstallChunk(g keys.GroupID, kvs []KV) error {
	for i := range kvs {
		k := kvs[i].Key
		if len(k) == 0 || len(k) > MaxKeyBytes || Class(k[0]) != ClassData && Class(k[0]) != ClassStage {
			return fmt.Errorf("storage: snapshot of group %d holds an invalid key %x", g, k[:min(len(k), 16)])
		}
	}
	s.installs.Lock()
	p := s.installs.m[g]
	if p == nil {
		p = new(pendingInstall)
		s.installs.m[g] = p
	}
	for _, e := range kvs {
		p.kvs = append(p.kvs, kv{e.Key, e.Value})
		p.bytes += len(e.Key) + len(e.Value) + installEntry
	}
	full := p.bytes >= installBytes
	s.installs.Unlock()
	if full {
		return s.storeInstalled(g)
	}
	return nil
}

// storeInstalled commits what is pending of g's snapshot.
func (s *Store) storeInstalled(g keys.GroupID) error {
	p := s.dropInstalled(g)
	if p == nil {
		return nil
	}
	return s.bolt.update(func(tx *bbolt.Tx) error {
		var arena []byte
		return putChunk(tx.Bucket(bucketData), &arena, p.kvs)
	})
}

// dropInstalled forgets, and returns, what is pending of g's snapshot.
func (s *Store) dropInstalled(g keys.GroupID) *pendingInstall {
	s.installs.Lock()
	defer s.installs.Unlock()
	p := s.installs.m[g]
	delete(s.installs.m, g)
	return p
}

// FinishInstall makes st the state of group g, durably, and takes away the mark
// of incompleteness if there is one: the end of a snapshot, or the birth of a
// replica. What was appended for g before is not replayed any more, so st's
// hard state must be the latest one.
func (s *Store) FinishInstall(g keys.GroupID, st GroupState) error {
	if s.Removed(g, st.Replica) {
		return removedError(g, st.Replica)
	}
	if err := s.storeInstalled(g); err != nil {
		return err
	}
	return s.exclusively(func() error {
		st.HardState.Commit = max(st.HardState.Commit, st.Applied)
		rec := groupRecord{GroupState: st, fromSeq: s.log.nextSeq()}
		err := s.bolt.update(func(tx *bbolt.Tx) error {
			if err := putSealed(tx.Bucket(bucketGroups), groupKey(g), rec.encode(nil)); err != nil {
				return err
			}
			return tx.Bucket(bucketMeta).Delete(markKey(g))
		})
		if err != nil {
			return err
		}
		s.ckpt.groups[g], s.ckpt.seqs[g] = st.Applied, rec.fromSeq
		s.mu.Lock()
		s.mu.applied[g] = st.Applied
		s.mu.Unlock()
		return nil
	})
}

// RemoveReplica removes a replica for good: its id gets a tombstone, its group's
// state goes, and so does everything in spans. Its Source must not list it any
// more. Durable when it returns; after a crash Open finishes the removal.
func (s *Store) RemoveReplica(g keys.GroupID, replica keys.ReplicaID, spans [][2][]byte) error {
	s.dropInstalled(g)
	return s.exclusively(func() error {
		m := mark{kind: markRemove, replica: replica, spans: spans}
		err := s.bolt.update(func(tx *bbolt.Tx) error {
			mb := tx.Bucket(bucketMeta)
			if err := putSealed(mb, tombstoneKey(g, replica), []byte{tombFormat}); err != nil {
				return err
			}
			if err := putSealed(mb, markKey(g), m.encode()); err != nil {
				return err
			}
			return tx.Bucket(bucketGroups).Delete(groupKey(g))
		})
		if err != nil {
			return err
		}
		s.tombs.Store(string(tombstoneKey(g, replica)), struct{}{})
		delete(s.ckpt.groups, g)
		delete(s.ckpt.seqs, g)
		s.mu.Lock()
		delete(s.mu.applied, g)
		s.mu.Unlock()
		if err := s.clear(spans); err != nil {
			return err
		}
		return s.bolt.update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketMeta).Delete(markKey(g)) })
	})
}

// Removed reports whether the replica has a tombstone.
func (s *Store) Removed(g keys.GroupID, replica keys.ReplicaID) bool {
	_, ok := s.tombs.Load(string(tombstoneKey(g, replica)))
	return ok
}

// anyRemoved reports whether some replica of g has a tombstone.
func (s *Store) anyRemoved(g keys.GroupID) (found bool) {
	prefix := string(tombstoneKey(g, 0)[:13])
	s.tombs.Range(func(k, _ any) bool {
		found = k.(string)[:13] == prefix
		return !found
	})
	return found
}

// Clear removes everything in spans, from the table and from bbolt. A crash can
// leave a part; callers that care use BeginInstall or RemoveReplica.
func (s *Store) Clear(g keys.GroupID, spans [][2][]byte) error {
	return s.exclusively(func() error { return s.clear(spans) })
}

// exclusively runs f with no checkpoint under way, hence with no frozen table.
func (s *Store) exclusively(f func() error) error {
	ctx := context.Background()
	if err := s.acquire(ctx); err != nil {
		return err
	}
	defer s.release()
	if s.ckpt.run != nil {
		if err := s.finishRun(ctx, true); err != nil {
			return err
		}
	}
	return f()
}

// clear is Clear for the holder of the checkpoint semaphore.
func (s *Store) clear(spans [][2][]byte) error {
	for _, sp := range spans {
		s.clearTable(sp)
		for more := true; more; {
			err := s.bolt.update(func(tx *bbolt.Tx) error {
				bk := tx.Bucket(bucketData)
				var doomed [][]byte
				c := bk.Cursor()
				k, _ := c.Seek(sp[0])
				for ; k != nil && len(doomed) < clearKeys; k, _ = c.Next() {
					if len(sp[1]) > 0 && bytes.Compare(k, sp[1]) >= 0 {
						break
					}
					doomed = append(doomed, k)
				}
				for _, k := range doomed {
					if err := bk.Delete(bytes.Clone(k)); err != nil {
						return err
					}
				}
				more = len(doomed) == clearKeys
				return nil
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// clearTable removes a span from the table, a piece at a time.
func (s *Store) clearTable(sp [2][]byte) {
	in := func(k string) bool { return k >= str(sp[0]) && (len(sp[1]) == 0 || k < str(sp[1])) }
	for {
		var doomed []string
		s.mu.RLock()
		s.mu.table.m.Ascend(str(sp[0]), func(k string, _ []byte) bool {
			if !in(k) || len(doomed) == 1000 {
				return false
			}
			doomed = append(doomed, k)
			return true
		})
		s.mu.RUnlock()
		if len(doomed) == 0 {
			break
		}
		s.mu.Lock()
		t := s.mu.table
		for _, k := range doomed {
			if v, ok := t.m.Delete(k); ok {
				t.bytes -= len(k) + len(v) + entryOverhead
			}
		}
		s.mu.Unlock()
	}
	// A delete listed for the next checkpoint would hit what is installed now.
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.mu.table
	kept := t.dels[:0]
	for _, d := range t.dels {
		if !in(d.key) {
			kept = append(kept, d)
		}
	}
	clear(t.dels[len(kept):])
	t.dels = kept
}

// wipe finishes, at open, what a mark says was under way.
func (s *Store) wipe(g keys.GroupID, m mark, r *replayed) error {
	if err := s.clear(m.spans); err != nil {
		return err
	}
	if m.kind == markInstall {
		hs := r.hs
		hs.Commit = 0
		r.rec = groupRecord{GroupState: GroupState{Replica: m.replica, HardState: hs}, fromSeq: s.log.nextSeq()}
		r.stored = true
		s.opts.Logger.Warn("a snapshot was half installed; the replica was wiped", "group", g, "replica", m.replica)
	}
	return s.bolt.update(func(tx *bbolt.Tx) error {
		if m.kind == markInstall {
			if err := putSealed(tx.Bucket(bucketGroups), groupKey(g), r.rec.encode(nil)); err != nil {
				return err
			}
		}
		return tx.Bucket(bucketMeta).Delete(markKey(g))
	})
}

// nodeFormat is the first byte of a stored value of the node's own.
const nodeFormat = 1

// nodeValue takes it off.
func (s *Store) nodeValue(key, stored []byte) ([]byte, error) {
	v, err := s.bolt.open(key, stored)
	if err != nil {
		return nil, err
	}
	if len(v) == 0 || v[0] != nodeFormat {
		return nil, unknownFormat(fmt.Sprintf("%s: node record %q", s.bolt.name, key), v, nodeFormat)
	}
	return v[1:], nil
}

// PutNode stores a value of the node's own (ClassNode), durable when it returns.
func (s *Store) PutNode(key, value []byte) error {
	if len(key) == 0 || len(key) > MaxKeyBytes {
		return fmt.Errorf("node key of %d bytes: %w", len(key), ErrTooLarge)
	}
	value = append([]byte{nodeFormat}, value...)
	return s.bolt.update(func(tx *bbolt.Tx) error { return putSealed(tx.Bucket(bucketNode), key, value) })
}

// DeleteNode removes a value of the node's own, durably.
func (s *Store) DeleteNode(key []byte) error {
	return s.bolt.update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketNode).Delete(key) })
}

// GetNode returns a value of the node's own.
func (s *Store) GetNode(key []byte) (value []byte, ok bool, err error) {
	err = s.bolt.view(func(tx *bbolt.Tx) error {
		v := tx.Bucket(bucketNode).Get(key)
		if ok = v != nil; !ok {
			return nil
		}
		v, err := s.nodeValue(key, v)
		value = append([]byte{}, v...)
		return err
	})
	return value, ok, err
}

// ScanNode calls visit for the node's own values whose keys have the prefix, in
// order, until it returns false. visit gets copies.
func (s *Store) ScanNode(prefix []byte, visit func(key, value []byte) bool) error {
	var found []KV
	err := s.bolt.view(func(tx *bbolt.Tx) error {
		c := tx.Bucket(bucketNode).Cursor()
		for k, v := c.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, v = c.Next() {
			v, err := s.nodeValue(k, v)
			if err != nil {
				return err
			}
			found = append(found, KV{bytes.Clone(k), append([]byte{}, v...)})
		}
		return nil
	})
	for _, e := range found {
		if !visit(e.Key, e.Value) {
			break
		}
	}
	return err
}
