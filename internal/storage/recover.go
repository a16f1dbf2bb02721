package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spandb/spand/internal/keys"
	"go.etcd.io/bbolt"
)

// replayed is what recovery gathers of one group.
type replayed struct {
	rec    groupRecord
	stored bool // bbolt has a record of it
	wiped  bool
	hs     HardState
	log    []Entry // as the log last had it
}

// recover opens bbolt and the log and brings them together.
func (s *Store) recover() (map[keys.GroupID]Recovered, error) {
	name := filepath.Join(s.opts.Dir, boltName)
	var err error
	if s.bolt, err = openBolt(s.opts.FS, name, s.opts.MapBytes, false, s.opts.Fatal); err != nil {
		return nil, err
	}
	groups := map[keys.GroupID]*replayed{}
	marks := map[keys.GroupID]mark{}
	tombs := map[[16]byte]struct{}{}
	var meta storeMeta
	if err := s.bolt.view(func(tx *bbolt.Tx) error { return s.readState(tx, &meta, groups, marks, tombs) }); err != nil {
		return nil, err
	}
	for g, m := range marks {
		r := groups[g]
		if r == nil || r.rec.Replica != m.replica {
			// The log knows the new incarnation's term and vote, bbolt the old one's.
			r = &replayed{rec: groupRecord{GroupState: GroupState{Replica: m.replica}}, stored: true}
			groups[g] = r
		}
		r.wiped = true
	}
	s.log = s.newLog()
	err = s.log.open(meta.logStart, func(seq uint64, rec *GroupRecord) {
		var k [16]byte
		binary.BigEndian.PutUint64(k[:], uint64(rec.Group))
		binary.BigEndian.PutUint64(k[8:], uint64(rec.Replica))
		if _, dead := tombs[k]; dead {
			return
		}
		r := groups[rec.Group]
		switch {
		case r == nil, !r.stored && r.rec.Replica != rec.Replica:
			// A group that no checkpoint knows yet; its newest incarnation counts.
			r = &replayed{rec: groupRecord{GroupState: GroupState{Replica: rec.Replica}}}
			groups[rec.Group] = r
		case r.rec.Replica != rec.Replica, seq < r.rec.fromSeq:
			return
		}
		r.replay(rec)
	})
	if err != nil {
		return nil, err
	}
	s.ckpt.meta = meta
	s.ckpt.groups = map[keys.GroupID]uint64{}
	s.ckpt.seqs = map[keys.GroupID]uint64{}
	s.installs.m = map[keys.GroupID]*pendingInstall{}
	out := map[keys.GroupID]Recovered{}
	for g, r := range groups {
		if m, ok := marks[g]; ok {
			if err := s.wipe(g, m, r); err != nil {
				s.log.close()
				return nil, err
			}
			if m.kind == markRemove {
				continue
			}
		}
		if r.stored {
			s.ckpt.groups[g] = r.rec.Applied
			s.ckpt.seqs[g] = r.rec.fromSeq
		}
		rc, err := r.finish(g, s.opts.Dir)
		if err != nil {
			s.log.close()
			return nil, err
		}
		out[g] = rc
	}
	return out, nil
}

// readState reads everything in bbolt but the tablets' data.
func (s *Store) readState(tx *bbolt.Tx, meta *storeMeta, groups map[keys.GroupID]*replayed, marks map[keys.GroupID]mark, tombs map[[16]byte]struct{}) error {
	bad := func(what string, err error) error {
		if fe := (*FormatError)(nil); errors.As(err, &fe) {
			return &FormatError{File: s.bolt.name + ": " + fe.File, Have: fe.Have, Supported: fe.Supported}
		}
		return &CorruptError{File: s.bolt.name, Offset: -1, Reason: what, Err: err}
	}
	for _, name := range [][]byte{bucketData, bucketGroups, bucketNode, bucketMeta} {
		if tx.Bucket(name) == nil {
			return bad("bucket "+string(name)+" is missing", nil)
		}
	}
	s.bolt.size.Store(tx.Size())
	mb := tx.Bucket(bucketMeta)
	v, err := s.bolt.getSealed(mb, metaKey)
	if err != nil {
		return err
	}
	if *meta, err = decodeMeta(v); err != nil {
		return bad("store state", err)
	}
	c := mb.Cursor()
	for k, v := c.Seek([]byte("mark/")); len(k) == 13 && string(k[:5]) == "mark/"; k, v = c.Next() {
		v, err := s.bolt.open(k, v)
		if err != nil {
			return err
		}
		m, err := decodeMark(v)
		if err != nil {
			return bad("mark", err)
		}
		marks[keys.GroupID(binary.BigEndian.Uint64(k[5:]))] = m
	}
	for k, v := c.Seek([]byte("tomb/")); len(k) == 21 && string(k[:5]) == "tomb/"; k, v = c.Next() {
		v, err := s.bolt.open(k, v)
		if err != nil {
			return err
		}
		if len(v) != 1 || v[0] != tombFormat {
			return bad("tombstone", unknownFormat("tombstone", v, tombFormat))
		}
		tombs[[16]byte(k[5:])] = struct{}{}
		s.tombs.Store(string(k), struct{}{})
	}
	c = tx.Bucket(bucketGroups).Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		if len(k) != 8 {
			return bad(fmt.Sprintf("group key %x", k), nil)
		}
		v, err := s.bolt.open(k, v)
		if err != nil {
			return err
		}
		rec, err := decodeGroupRecord(v)
		if err != nil {
			return bad(fmt.Sprintf("group record %x", k), err)
		}
		meta.nextSeq = max(meta.nextSeq, rec.fromSeq)
		groups[keys.GroupID(binary.BigEndian.Uint64(k))] = &replayed{rec: rec, stored: true, hs: rec.HardState}
	}
	return nil
}

// replay takes one record of the log.
func (r *replayed) replay(rec *GroupRecord) {
	if rec.HardState != nil {
		r.hs = r.hs.merge(*rec.HardState)
	}
	es := rec.Entries
	if r.stored {
		// What the checkpoint covers need not be kept. If it overwrote entries behind
		// it, they have lower terms than the checkpoint and finish drops them.
		for len(es) > 0 && es[0].Index <= r.rec.Applied {
			es = es[1:]
		}
	}
	if len(es) == 0 {
		return
	}
	// Same index and term, same entry, and the same ones before it (Raft section
	// 5.3): the record only repeats what is here, and what is behind stays. That
	// matters when a crash cut a tail short that was being carried forward.
	if n, end := len(r.log), es[len(es)-1]; n > 0 && end.Index >= r.log[0].Index && end.Index <= r.log[n-1].Index &&
		r.log[end.Index-r.log[0].Index].Term == end.Term {
		if front := es[0].Index; front < r.log[0].Index {
			r.log = append(cloneEntries(nil, es[:r.log[0].Index-front]), r.log...)
		}
		return
	}
	first := es[0].Index
	switch n := len(r.log); {
	case n == 0:
	case first <= r.log[0].Index:
		r.log = r.log[:0]
	case first <= r.log[n-1].Index+1:
		r.log = r.log[:first-r.log[0].Index]
	default: // behind a gap: what was before is gone, with a state that covers it
		r.log = r.log[:0]
	}
	r.log = cloneEntries(r.log, es)
}

// cloneEntries appends copies of es, whose data lies in the scanner's buffer.
func cloneEntries(into, es []Entry) []Entry {
	for _, e := range es {
		e.Data = append([]byte(nil), e.Data...)
		into = append(into, e)
	}
	return into
}

// merge returns the later of two hard states of one replica: terms only grow,
// a term has one vote at most, and what is committed stays so.
func (hs HardState) merge(o HardState) HardState {
	commit := max(hs.Commit, o.Commit)
	if o.Term > hs.Term || o.Term == hs.Term && o.Vote != 0 {
		hs.Term, hs.Vote = o.Term, o.Vote
	}
	hs.Commit = commit
	return hs
}

// finish makes the group's entries fit its checkpoint.
func (r *replayed) finish(g keys.GroupID, dir string) (Recovered, error) {
	// A checkpointed state without anything applied is what an earlier restart left of
	// a broken installation.
	out := Recovered{State: r.rec.GroupState, Incomplete: r.wiped || r.stored && r.rec.Applied == 0}
	applied := r.rec.Applied
	es := r.log
	if r.wiped {
		es = nil
	}
	if r.stored && len(es) > 0 && es[0].Index > applied+1 {
		return out, &CorruptError{File: dir, Offset: -1,
			Reason: fmt.Sprintf("log of group %d begins at entry %d, its checkpoint ends at %d", g, es[0].Index, applied)}
	}
	term := r.rec.Term
	for i := range es {
		// An entry behind a committed one has at least its term; others are left over
		// from a log that was overwritten, or replaced by a snapshot.
		if es[i].Term < term {
			es = es[:i]
			break
		}
		term = es[i].Term
	}
	out.Entries = es
	last := applied
	if n := len(es); n > 0 {
		last = es[n-1].Index
	}
	// Commit may have run ahead of what was synced; it is a hint that Raft gives anew.
	hs := r.hs
	hs.Commit = max(applied, min(hs.Commit, last))
	if hs.Term < term {
		hs.Term, hs.Vote = term, 0
	}
	out.State.HardState = hs
	return out, nil
}
