package storage

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/internal/keys"
)

// machine is a node on a simulated disk that goes through crashes.
type machine struct {
	t     testing.TB
	disk  *MemFS
	store *Store
	host  *fakeHost
	acked map[keys.GroupID]uint64
	torn  *rand.Rand

	reserve int64
}

func newMachine(t testing.TB, seed uint64) *machine {
	m := &machine{t: t, disk: NewMemFS(t.TempDir()), acked: map[keys.GroupID]uint64{}}
	m.torn = rand.New(rand.NewPCG(seed, 1))
	m.host = &fakeHost{groups: map[keys.GroupID]*fakeGroup{}}
	return m
}

// boot opens the store in a new life; fatal errors end the life, as they must.
func (m *machine) boot() error {
	o := options(m.t, m.disk.Boot(), "/node")
	o.Fatal = func(error) {}
	if m.reserve != 0 {
		o.Reserve = m.reserve
	}
	s, rec, err := Open(o)
	if err != nil {
		return err
	}
	m.store = s
	m.host.restart(m.t, s, rec, m.acked)
	for g := range m.host.groups {
		m.acked[g] = uint64(len(m.host.groups[g].log))
	}
	return nil
}

func (m *machine) append(g keys.GroupID, n, size int) error {
	err := m.host.appendEntries(m.t, g, n, size)
	if err == nil {
		m.acked[g] = uint64(len(m.host.groups[g].log))
	}
	return err
}

// work is a life's worth of everything; it ends at the first error.
func (m *machine) work(r *rand.Rand, steps int) error {
	for range steps {
		g := keys.GroupID(1 + r.IntN(3))
		switch r.IntN(8) {
		case 0:
			if err := m.store.Checkpoint(m.t.Context()); err != nil {
				return err
			}
		case 1:
			if err := m.store.PutNode([]byte("k"), []byte("v")); err != nil {
				return err
			}
		case 2, 3:
			if f := m.host.groups[g]; f != nil {
				n := uint64(len(f.log))
				m.host.apply(m.t, g, f.applied+(n-f.applied+1)/2)
			}
		default:
			if err := m.append(g, 1+r.IntN(4), 20+r.IntN(6000)); err != nil {
				return err
			}
		}
	}
	return nil
}

// R1, D1: a crash before any one operation of the disk, then another, loses
// nothing acknowledged and nothing that was applied; torn sectors or not.
func TestR1CrashAtEveryStep(t *testing.T) {
	for seed := uint64(1); ; seed++ {
		// One life without a crash tells how many steps there are.
		steps := crashRun(t, seed, -1)
		if steps < 50 {
			t.Fatal("hardly anything happened:", steps)
		}
		stride := steps/20 + 1
		for at := 1 + int(seed)%stride; at < steps; at += stride {
			crashRun(t, seed, at)
			if t.Failed() {
				t.Fatalf("reproduce with seed %d, crash at step %d", seed, at)
			}
		}
		if seed == 2 || testing.Short() {
			return
		}
	}
}

func crashRun(t *testing.T, seed uint64, at int) int {
	m := newMachine(t, seed)
	var n atomic.Int64
	m.disk.Inject(func(op Op, name string) error {
		if op == OpRead || n.Add(1) != int64(at) {
			return nil
		}
		torn := m.torn
		if at%3 == 0 {
			torn = nil
		}
		if err := m.disk.Crash(torn); err != nil {
			t.Error(err)
		}
		return errCrashed
	})
	r := rand.New(rand.NewPCG(seed, 2))
	err := m.boot()
	if err == nil {
		err = m.work(r, 60)
	}
	steps := int(n.Load())
	if at < 0 {
		if err != nil {
			t.Fatal(err)
		}
		m.store.Close()
		return steps
	}
	if err == nil {
		m.disk.Crash(m.torn) // the step never came: crash here
	}
	if m.store != nil {
		m.store.Close()
	}
	m.disk.Inject(nil)
	for range 2 {
		if err := m.boot(); err != nil {
			t.Fatalf("seed %d step %d: %v", seed, at, err)
		}
		if err := m.work(r, 15); err != nil {
			t.Fatal(err)
		}
		m.host.verify(t)
		m.disk.Crash(m.torn)
		m.store.Close()
	}
	return steps
}

// D1: what follows the applied index of an interrupted checkpoint is applied
// again, including commands whose input a later command deleted.
func TestReplayReadsWhatLaterCommandsDeleted(t *testing.T) {
	m := newMachine(t, 1)
	if err := m.boot(); err != nil {
		t.Fatal(err)
	}
	if err := m.append(1, 6, 50); err != nil {
		t.Fatal(err)
	}
	m.host.apply(t, 1, 2)
	// The group is captured at 2; commands 3 (which deletes the chunks of 1 and 2) to
	// 6 are applied before the table is frozen.
	m.host.mu.Lock()
	m.host.onAsk = nil
	m.host.mu.Unlock()
	src := &lateSource{fakeHost: m.host, after: func() { m.host.apply(t, 1, 6) }}
	m.store.SetSource(src)
	if err := m.store.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.host.verify(t)
	m.disk.Crash(nil)
	m.store.Close()
	o := options(t, m.disk.Boot(), "/node")
	s, rec := mustOpen(t, o)
	defer s.Close()
	if rec[1].State.Applied != 2 || len(rec[1].Entries) != 4 {
		t.Fatalf("%+v", rec[1])
	}
	for _, i := range []uint64{1, 2} {
		if v, ok, err := s.Get(stageKey(1, i)); err != nil || !ok || string(v) != "staged" {
			t.Errorf("chunk %d, which command 3 reads, is gone: %q %v %v", i, v, ok, err)
		}
	}
	m.host.restart(t, s, rec, m.acked)
	if err := s.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.host.verify(t)
}

// lateSource applies more after capturing.
type lateSource struct {
	*fakeHost
	after func()
}

func (l *lateSource) Capture(g keys.GroupID) (GroupState, bool, bool) {
	st, u, ok := l.fakeHost.Capture(g)
	if l.after != nil {
		l.after()
		l.after = nil
	}
	return st, u, ok
}

// A group born while the others are captured is part of the same checkpoint.
func TestCheckpointFindsGroupsBornMeanwhile(t *testing.T) {
	s, _ := mustOpen(t, options(t, OS, t.TempDir()))
	defer s.Close()
	h := newHost(s)
	if err := h.appendEntries(t, 1, 2, 10); err != nil {
		t.Fatal(err)
	}
	h.apply(t, 1, 2)
	h.onAsk = func(g keys.GroupID) {
		if h.groups[g+1] == nil && g < 4 {
			h.groups[g+1] = &fakeGroup{replica: 5, term: 1, changed: true, applied: 7, machine: []byte("machine 7")}
		}
	}
	if err := s.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(s.ckpt.groups) != 4 {
		t.Error(s.ckpt.groups)
	}
}

// Segments go only when everything in them is in bbolt or appended again.
func TestCarryForwardAndRecycling(t *testing.T) {
	m := newMachine(t, 1)
	if err := m.boot(); err != nil {
		t.Fatal(err)
	}
	if err := m.append(2, 5, 100); err != nil { // stays unapplied
		t.Fatal(err)
	}
	if err := m.append(3, 5, 100); err != nil { // no checkpoint may capture it
		t.Fatal(err)
	}
	m.host.groups[3].hidden = true
	fill := func() {
		for range 40 {
			if err := m.append(1, 1, 8000); err != nil {
				t.Fatal(err)
			}
		}
		m.host.apply(t, 1, m.acked[1])
	}
	fill()
	before := m.store.Stats().Segments
	if err := m.store.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := m.store.Stats().Segments; got != before || before < 4 {
		t.Errorf("segments with an uncaptured group went: %d of %d", got, before)
	}
	m.host.groups[3].hidden = false
	m.host.groups[3].changed = true
	if err := m.store.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := m.store.Stats().Segments; got > 2 || m.host.carried < 2 {
		t.Errorf("segments: %d, carried %d", got, m.host.carried)
	}
	for range 3 {
		fill()
		if err := m.store.Checkpoint(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	m.disk.Crash(m.torn)
	m.store.Close()
	if err := m.boot(); err != nil {
		t.Fatal(err)
	}
	m.store.Close()
}

// Bytes that can be read after a kill need not be durable (R1, D1). Before anything
// follows from them, what is read of the log is synced, so that a power failure does
// not take away what Raft has vouched for, and bbolt's last commit is, before the
// segments go that it lets go of.
func TestR1_OpenSyncsWhatItReads(t *testing.T) {
	m := newMachine(t, 1)
	if err := m.boot(); err != nil {
		t.Fatal(err)
	}
	killed := func(when Op, file string) { // from when on, the process does nothing more
		var dead atomic.Bool
		m.disk.Inject(func(op Op, name string) error {
			if op == when && strings.Contains(name, file) {
				dead.Store(true)
			}
			if dead.Load() {
				return errCrashed
			}
			return nil
		})
	}
	for range 40 {
		if err := m.append(1, 1, 8000); err != nil {
			t.Fatal(err)
		}
	}
	m.host.apply(t, 1, 40)
	killed(OpRename, "log-") // to be a spare one
	if err := m.store.Checkpoint(t.Context()); !errors.Is(err, errCrashed) {
		t.Fatal(err)
	}
	m.store.Close()
	var mu sync.Mutex // guards did
	var did []string
	m.disk.Inject(func(op Op, name string) error {
		mu.Lock()
		defer mu.Unlock()
		switch base := filepath.Base(name); {
		case op == OpSync && base == boltName, op == OpRemove && strings.HasPrefix(base, "log-"):
			did = append(did, string(op))
		}
		return nil
	})
	if err := m.boot(); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	if len(did) < 2 || did[0] != string(OpSync) || did[1] != string(OpRemove) {
		t.Errorf("bbolt's file and the log's segments: %v", did)
	}
	mu.Unlock()

	killed(OpSync, segmentName(m.store.log.active())) // not one that is being prepared
	if err := m.append(1, 1, 8000); !errors.Is(err, errCrashed) {
		t.Fatal(err)
	}
	m.store.Close()
	m.disk.Inject(nil)
	o := options(t, m.disk.Boot(), "/node")
	o.Fatal = func(error) {} // it will crash
	s, rec := mustOpen(t, o)
	read := len(rec[1].Entries)
	m.disk.Crash(nil)
	s.Close()
	s, rec = mustOpen(t, options(t, m.disk.Boot(), "/node"))
	defer s.Close()
	if read == 0 || len(rec[1].Entries) != read {
		t.Errorf("%d entries were read, and after a power failure %d", read, len(rec[1].Entries))
	}
}

// A replica that a half received snapshot has left empty keeps term and vote (R2): in
// the log, whose segments checkpoints recycle meanwhile, and at the restarts that wipe it.
func TestR2_IncompleteReplicaKeepsItsVote(t *testing.T) {
	m := newMachine(t, 1)
	if err := m.boot(); err != nil {
		t.Fatal(err)
	}
	if err := m.append(1, 5, 100); err != nil {
		t.Fatal(err)
	}
	m.host.apply(t, 1, 5)
	if err := m.store.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	f := m.host.groups[1]
	f.hs = HardState{Term: 9, Vote: 3, Commit: 5} // a vote that no checkpoint has
	done := make(chan error, 1)
	m.store.Append([]GroupRecord{{Group: 1, Replica: f.replica, HardState: &f.hs}}, func(err error) { done <- err })
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	f.hidden, f.log = true, nil
	if err := m.store.BeginInstall(1, f.replica, nil); err != nil {
		t.Fatal(err)
	}
	for range 40 {
		if err := m.append(2, 1, 8000); err != nil {
			t.Fatal(err)
		}
	}
	m.host.apply(t, 2, 40)
	if err := m.store.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := m.store.Stats().Segments; got > 2 {
		t.Errorf("an incomplete replica keeps %d segments of the log", got)
	}
	m.disk.Crash(m.torn)
	m.store.Close()
	for life := range 2 {
		s, rec := mustOpen(t, options(t, m.disk.Boot(), "/node"))
		if hs := rec[1].State.HardState; !rec[1].Incomplete || hs != (HardState{Term: 9, Vote: 3}) {
			t.Errorf("restart %d: incomplete: %v, %+v", life+1, rec[1].Incomplete, hs)
		}
		s.Close()
	}
}

// A large append, or a tail carried forward, may be cut short between two
// batches: what it repeats must not take away what the log has behind it.
func TestReplayKeepsTailBehindRepeatedEntries(t *testing.T) {
	var es []Entry
	for i := uint64(1); i <= 10; i++ {
		es = append(es, Entry{Index: i, Term: 1 + i/6})
	}
	for _, c := range []struct {
		again []Entry
		want  int
	}{
		{es[2:5], 10}, {es[2:8], 10}, {es[:10], 10},
		{[]Entry{{Index: 4, Term: 1}, {Index: 5, Term: 3}}, 5}, // a conflict
		{[]Entry{{Index: 9, Term: 2}, {Index: 10, Term: 2}, {Index: 11, Term: 2}}, 11},
	} {
		for _, stored := range []bool{false, true} {
			r := replayed{stored: stored, rec: groupRecord{GroupState: GroupState{Applied: 3, Term: 1}}}
			if !stored {
				r.rec = groupRecord{}
			}
			r.replay(&GroupRecord{Entries: es})
			r.replay(&GroupRecord{Entries: c.again})
			rec, err := r.finish(1, "x")
			if got := rec.Entries[len(rec.Entries)-1].Index; err != nil || got != uint64(c.want) {
				t.Errorf("after %v: up to %d, %v", c.again, got, err)
			}
		}
	}
}

// Truncated and overwritten entries stay so over a restart.
func TestReplayOverwrites(t *testing.T) {
	m := newMachine(t, 1)
	if err := m.boot(); err != nil {
		t.Fatal(err)
	}
	if err := m.append(1, 10, 50); err != nil {
		t.Fatal(err)
	}
	f := m.host.groups[1]
	f.log, f.term = f.log[:4], 2 // a new leader overwrites from 5 on
	if err := m.append(1, 3, 60); err != nil {
		t.Fatal(err)
	}
	m.disk.Crash(nil)
	m.store.Close()
	if err := m.boot(); err != nil {
		t.Fatal(err)
	}
	if n := len(f.log); n != 7 {
		t.Error(n)
	}
	m.store.Close()
}

// An entry behind the applied index with a lower term is a leftover.
func TestReplayDropsLeftoversBehindCheckpoint(t *testing.T) {
	r := replayed{stored: true, rec: groupRecord{GroupState: GroupState{Applied: 3, Term: 5}}}
	r.replay(&GroupRecord{HardState: &HardState{Term: 5, Vote: 2, Commit: 9}, Entries: []Entry{{Index: 2, Term: 1}, {Index: 3, Term: 1}, {Index: 4, Term: 1}}})
	rec, err := r.finish(1, "x")
	if err != nil || len(rec.Entries) != 0 || rec.State.HardState != (HardState{Term: 5, Vote: 2, Commit: 3}) {
		t.Errorf("%+v %v", rec, err)
	}
	r.replay(&GroupRecord{Entries: []Entry{{Index: 4, Term: 5}, {Index: 5, Term: 6}, {Index: 6, Term: 6}}})
	if rec, err = r.finish(1, "x"); err != nil || len(rec.Entries) != 3 {
		t.Errorf("%+v %v", rec, err)
	}
	r.replay(&GroupRecord{Entries: []Entry{{Index: 8, Term: 6}}})
	var ce *CorruptError
	if _, err = r.finish(1, "x"); !errors.As(err, &ce) {
		t.Error("a hole in the log:", err)
	}
}

func TestHardStateMerge(t *testing.T) {
	for _, c := range []struct{ a, b, want HardState }{
		{HardState{1, 2, 3}, HardState{2, 0, 3}, HardState{2, 0, 3}},
		{HardState{2, 0, 3}, HardState{2, 3, 2}, HardState{2, 3, 3}},
		{HardState{2, 3, 3}, HardState{2, 0, 4}, HardState{2, 3, 4}},
		{HardState{3, 1, 3}, HardState{2, 2, 9}, HardState{3, 1, 9}},
	} {
		if got := c.a.merge(c.b); got != c.want {
			t.Errorf("%v + %v = %v", c.a, c.b, got)
		}
	}
}

// Snapshots: all of it or nothing, whatever the moment of the crash.
func TestInstallCrashAtEveryStep(t *testing.T) {
	for at := 1; ; at++ {
		m := newMachine(t, uint64(at))
		if err := m.boot(); err != nil {
			t.Fatal(err)
		}
		for _, g := range []keys.GroupID{1, 2} {
			if err := m.append(g, 20, 100); err != nil {
				t.Fatal(err)
			}
			m.host.apply(t, g, 10)
		}
		if err := m.store.Checkpoint(t.Context()); err != nil {
			t.Fatal(err)
		}
		m.host.apply(t, 1, 15) // deletes in the table that must not hit what is installed
		var n atomic.Int64
		m.disk.Inject(func(op Op, _ string) error {
			if n.Add(1) == int64(at) {
				m.disk.Crash(m.torn)
				return errCrashed
			}
			return nil
		})
		spans := [][2][]byte{
			{dataKey(1, 0)[:3], []byte{byte(ClassData), '1', '/' + 1}},
			{stageKey(1, 0)[:9], keys.PrefixEnd(stageKey(1, 0)[:9])},
		}
		m.host.groups[1].hidden = true
		rep := m.host.groups[1].replica
		installed := false
		err := m.store.BeginInstall(1, rep, spans)
		if err == nil {
			err = m.store.InstallChunk(1, []KV{{dataKey(1, 1), []byte("new")}, {stageKey(1, 2), []byte("staged anew")}})
		}
		if err == nil {
			err = m.store.Checkpoint(t.Context()) // in the middle
		}
		if err == nil {
			err = m.store.InstallChunk(1, []KV{{dataKey(1, 70), []byte("new too")}})
		}
		if err == nil {
			if err = m.store.FinishInstall(1, GroupState{Replica: rep, Applied: 100, Term: 4, HardState: HardState{Term: 5, Vote: 3, Commit: 100}, Machine: []byte("m")}); err == nil {
				installed = true
			}
		}
		complete := n.Load() < int64(at)
		m.disk.Crash(m.torn)
		m.store.Close()
		m.disk.Inject(nil)
		s, rec := mustOpen(t, options(t, m.disk.Boot(), "/node"))
		want := map[string]string{}
		model(want, 2, m.host.groups[2], 10)
		old := maps.Clone(want)
		model(old, 1, m.host.groups[1], 10)
		r := rec[1]
		switch {
		case r.State.Applied == 100:
			want[string(dataKey(1, 1))], want[string(dataKey(1, 70))], want[string(stageKey(1, 2))] = "new", "new too", "staged anew"
			if r.Incomplete || len(r.Entries) != 0 || r.State.HardState.Term != 5 || string(r.State.Machine) != "m" {
				t.Errorf("step %d: %+v", at, r)
			}
		case r.Incomplete:
			if r.State.Applied != 0 || len(r.Entries) != 0 || r.State.HardState.Term != 1 || r.State.HardState.Vote != 1 || r.State.Replica != rep {
				t.Errorf("step %d: %+v", at, r)
			}
		default:
			want = old // before the mark
			if len(r.Entries) != 10 {
				t.Errorf("step %d: %+v", at, r)
			}
		}
		if installed && r.State.Applied != 100 {
			t.Errorf("step %d: the installed snapshot is gone: %+v", at, r)
		}
		verifyContents(t, s, want)
		s.Close()
		s, rec = mustOpen(t, options(t, m.disk.Boot(), "/node"))
		if rec[1].Incomplete != r.Incomplete || len(rec[1].Entries) != len(r.Entries) { // incomplete until a snapshot has arrived
			t.Errorf("step %d, second start: %+v", at, rec[1])
		}
		verifyContents(t, s, want)
		s.Close()
		if t.Failed() {
			t.Fatalf("crash at step %d (%v)", at, err)
		}
		if complete {
			return
		}
	}
}

// A removed replica stays removed, with everything it had.
func TestRemoveReplica(t *testing.T) {
	m := newMachine(t, 1)
	if err := m.boot(); err != nil {
		t.Fatal(err)
	}
	for _, g := range []keys.GroupID{1, 2} {
		if err := m.append(g, 20, 100); err != nil {
			t.Fatal(err)
		}
		m.host.apply(t, g, 10)
		if err := m.store.Checkpoint(t.Context()); err != nil {
			t.Fatal(err)
		}
		m.host.apply(t, g, 20)
	}
	rep := m.host.groups[1].replica
	delete(m.host.groups, 1)
	delete(m.acked, 1)
	spans := [][2][]byte{{{byte(ClassData), '1', '/'}, {byte(ClassData), '1', '/' + 1}}, {stageKey(1, 0)[:9], keys.PrefixEnd(stageKey(1, 0)[:9])}}
	var n int
	m.disk.Inject(func(op Op, _ string) error {
		if op == OpCommit {
			if n++; n == 2 { // behind the tombstone
				m.disk.Crash(nil)
				return errCrashed
			}
		}
		return nil
	})
	if err := m.store.RemoveReplica(1, rep, spans); err == nil {
		t.Fatal("no crash")
	}
	m.store.Close()
	m.disk.Inject(nil)
	if err := m.boot(); err != nil {
		t.Fatal(err)
	}
	defer m.store.Close()
	if !m.store.Removed(1, rep) || m.store.Removed(1, rep+1) {
		t.Error("tombstone")
	}
	if err := m.store.BeginInstall(1, rep, nil); !errors.Is(err, ErrReplicaRemoved) {
		t.Error(err)
	}
	if err := m.store.FinishInstall(1, GroupState{Replica: rep}); !errors.Is(err, ErrReplicaRemoved) {
		t.Error(err)
	}
	// A new incarnation is welcome, and the old one's records do not disturb it.
	if err := m.store.FinishInstall(1, GroupState{Replica: rep + 1, Applied: 30, Term: 3, HardState: HardState{Term: 3}}); err != nil {
		t.Fatal(err)
	}
	m.host.groups[1] = &fakeGroup{replica: rep + 1, term: 3, applied: 30, machine: []byte("machine 30"), hidden: true}
	m.disk.Crash(nil)
	m.store.Close()
	s, rec := mustOpen(t, options(t, m.disk.Boot(), "/node"))
	defer s.Close()
	if r := rec[1]; r.State.Replica != rep+1 || len(r.Entries) != 0 || r.State.HardState != (HardState{Term: 3, Commit: 30}) {
		t.Errorf("%+v", r)
	}
}

// Everything runs in virtual time, also on a slow disk.
func TestVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := NewMemFS(t.TempDir())
		o := options(t, disk.Boot(), "/node")
		o.Gather, o.CheckpointInterval = 0, time.Minute
		s, _ := mustOpen(t, o)
		h := newHost(s)
		s.Start()
		disk.Inject(Sleep(5 * time.Millisecond))
		start := time.Now()
		for range 100 {
			if err := h.appendEntries(t, 1, 1, 3000); err != nil {
				t.Fatal(err)
			}
		}
		if d := time.Since(start); d < 500*time.Millisecond || d > 2*time.Second {
			t.Error("100 syncs of 5 ms took", d)
		}
		h.apply(t, 1, 100)
		time.Sleep(2 * time.Minute) // the interval brings a checkpoint
		synctest.Wait()
		if st := s.Stats(); st.Checkpoints == 0 || st.TableKeys != 0 || st.Segments > 2 {
			t.Errorf("%+v", st)
		}
		h.verify(t)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// A full table brings a checkpoint, and writers that outrun it are slowed down a little.
func TestCheckpointTriggerAndBackpressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := NewMemFS(t.TempDir())
		o := options(t, disk.Boot(), "/node")
		o.CheckpointKeys = 100
		s, _ := mustOpen(t, o)
		h := newHost(s)
		s.Start()
		disk.Inject(Sleep(200 * time.Millisecond))
		if err := h.appendEntries(t, 1, 800, 10); err != nil {
			t.Fatal(err)
		}
		h.apply(t, 1, 100)
		synctest.Wait() // a checkpoint is under way
		for i := uint64(101); i <= 800; i++ {
			start := time.Now()
			h.apply(t, 1, i)
			if d := time.Since(start); d > 20*time.Millisecond {
				t.Fatal("a writer was held up for", d)
			}
		}
		if s.Stats().ApplyDelay == 0 {
			t.Error("nobody was slowed down")
		}
		time.Sleep(10 * time.Second)
		if st := s.Stats(); st.Checkpoints < 2 || st.FrozenKeys != 0 || st.TableKeys > 200 {
			t.Errorf("%+v", st)
		}
		h.verify(t)
		s.Close()
	})
}

func ExampleMemFS() {
	disk := NewMemFS("")
	f, _ := disk.Boot().Create("/a")
	f.WriteAt([]byte("x"), 0)
	disk.Crash(nil)
	_, err := f.WriteAt([]byte("y"), 0)
	fmt.Println(errors.Is(err, errCrashed))
	// Output: true
}

// Emptying and filling a replica takes a few large commits, not one for every
// few keys: each costs syncs, and the other replicas wait for this one's vote.
func TestInstallCommitsInBulk(t *testing.T) {
	m := newMachine(t, 1)
	if err := m.boot(); err != nil {
		t.Fatal(err)
	}
	if err := m.append(1, 1, 10); err != nil {
		t.Fatal(err)
	}
	m.host.apply(t, 1, 1)
	m.host.groups[1].hidden = true
	rep := m.host.groups[1].replica
	spans := [][2][]byte{{dataKey(1, 0)[:3], []byte{byte(ClassData), '1', '/' + 1}}}
	install := func(count int, value string) map[string]string {
		want := map[string]string{}
		if err := m.store.BeginInstall(1, rep, spans); err != nil {
			t.Fatal(err)
		}
		var kvs []KV
		for i := range count {
			k := fmt.Appendf([]byte{byte(ClassData)}, "1/%08d", i)
			want[string(k)] = value
			if kvs = append(kvs, KV{k, []byte(value)}); len(kvs) == 500 || i == count-1 {
				if err := m.store.InstallChunk(1, kvs); err != nil {
					t.Fatal(err)
				}
				kvs = nil
			}
		}
		if err := m.store.FinishInstall(1, GroupState{Replica: rep, Applied: 100, Term: 4, HardState: HardState{Term: 5, Commit: 100}}); err != nil {
			t.Fatal(err)
		}
		return want
	}
	install(60_000, "first")
	var commits atomic.Int64
	m.disk.Inject(func(op Op, _ string) error {
		if op == OpCommit {
			commits.Add(1)
		}
		return nil
	})
	want := install(30_000, "second")
	if n := commits.Load(); n > 10 {
		t.Errorf("%d commits to replace 60,000 keys by 30,000", n)
	}
	it := m.store.NewIter(spans[0][0], spans[0][1])
	defer it.Close()
	n := 0
	for ok := it.SeekGE(spans[0][0]); ok; ok = it.Next() {
		if want[string(it.Key())] != string(it.Value()) {
			t.Fatalf("%q=%q", it.Key(), it.Value())
		}
		n++
	}
	if it.Err() != nil || n != len(want) {
		t.Fatalf("%d keys of %d, %v", n, len(want), it.Err())
	}
	m.disk.Inject(nil)
	m.store.Close()
}
