package state

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand"
	"slices"
	"testing"

	"github.com/spandb/spand/truetime"
)

var seed = flag.Int64("state.seed", 0, "seed of the random commands; 0: a few fixed ones")

// blobs is a Contents that refuses what its contract excludes.
type blobs struct {
	t    testing.TB
	of   map[uint64][]byte
	used map[uint64]bool
}

func newBlobs(t testing.TB) *blobs {
	return &blobs{t: t, of: make(map[uint64][]byte), used: make(map[uint64]bool)}
}

func (b *blobs) Put(n uint64, contents []byte) {
	if b.used[n] || n == 0 || len(contents) == 0 {
		b.t.Fatalf("Put(%d, %d bytes) after an earlier one: %v", n, len(contents), b.used[n])
	}
	b.used[n] = true
	b.of[n] = bytes.Clone(contents)
}

func (b *blobs) Delete(n uint64) {
	if b.of[n] == nil {
		b.t.Fatalf("Delete(%d) of what is not there", n)
	}
	delete(b.of, n)
}

// randomCommands makes commands over few sessions, handles and paths, so that they meet.
type randomCommands struct {
	*rand.Rand
	made     int
	requests map[SessionID]uint64
	attempt  uint64
}

func newRandomCommands(seed int64) *randomCommands {
	return &randomCommands{Rand: rand.New(rand.NewSource(seed)), requests: make(map[SessionID]uint64)}
}

var randomPaths = []string{
	"/ls/local", "/ls/local/a", "/ls/local/a/b", "/ls/local/a/c", "/ls/local/a/c/d", "/ls/local/e",
	"/ls/local/acl", "/ls/local/acl/ops", "/ls/local/acl/dev", "/ls/other/x", "/ls/local//x", "",
}

var randomPrincipals = []string{"", "ann", "bob"}

// session is none or one of few, which become others in time: an id is used once.
func (r *randomCommands) session() SessionID {
	if r.Intn(10) == 0 {
		return 0
	}
	return SessionID(1 + r.made/30 + r.Intn(5))
}

func (r *randomCommands) handle() HandleID { return HandleID(r.Intn(3)) }
func (r *randomCommands) path() string {
	return randomPaths[min(r.Intn(len(randomPaths)+8), r.Intn(len(randomPaths)))]
}
func (r *randomCommands) principal() string { return randomPrincipals[r.Intn(3)] }

func (r *randomCommands) acl() *ACL {
	name := func() string { return []string{"", "", "", "", "ops", "dev", "none"}[r.Intn(7)] }
	return &ACL{Read: name(), Write: name(), Change: name()}
}

func (r *randomCommands) grant() GrantTo {
	r.attempt++
	return GrantTo{
		Session: r.session(), Handle: r.handle(), Path: r.path(), Mode: Mode(1 + r.Intn(2) + r.Intn(100)/99),
		Attempt: r.attempt - uint64(r.Intn(4)), Delay: int64(r.Intn(3)) * 1e9,
	}
}

func (r *randomCommands) next() *Command {
	kinds := []Kind{
		CreateSession, CreateSession, CreateSession, CreateSession, CreateSession, EndSession, Open, Open, Open, Close, SetContents, SetContents, Delete,
		SetACL, SetQuota, Release, Release, Grant, Grant, Grant, Grant, SetCell, SetLeaseFactor,
	}
	c := &Command{Kind: kinds[r.Intn(len(kinds))], Session: r.session(), Handle: r.handle(), Path: r.path(), Principal: r.principal()}
	if r.made++; r.made%30 == 0 {
		return &Command{Kind: EndSession, Session: SessionID(r.made / 30), Cause: Cause(r.Intn(5))} // will not be asked for again
	}
	if (c.Kind == SetACL || c.Kind == SetQuota) && len(c.Path) < len("/ls/local/acl/x") {
		c.Path = "/ls/local/a" // the rest stays open to all, or soon nothing would be
	}
	if r.Intn(10) == 0 {
		c.Instance = uint64(r.Intn(12))
	}
	c.Caches, c.Dir, c.Ephemeral = r.Intn(2) == 0, r.Intn(2) == 0, r.Intn(2) == 0
	c.Client = []string{"", "worker"}[r.Intn(2)]
	c.TTL = int64(r.Intn(100)) * 1e9
	c.Cause = Cause(r.Intn(5))
	c.Create = CreateMode(r.Intn(3))
	if dir := c.Path == "/ls/local/a" || c.Path == "/ls/local/a/c"; r.Intn(10) > 0 {
		c.Dir = dir
		if dir && c.Kind == SetContents {
			c.Create = CreateNone
		}
	}
	if c.Kind != Open || !c.Dir {
		c.Contents = []byte("ann\nbob\n*\n"[:r.Intn(10)])
	}
	if r.Intn(4) == 0 {
		g := uint64(r.Intn(3))
		c.IfGeneration = &g
	}
	if c.Kind == SetACL || r.Intn(8) == 0 {
		c.ACL = r.acl()
	}
	if r.Intn(3) == 0 {
		c.Quota = Quota{Bytes: uint64(r.Intn(40)), Nodes: uint64(r.Intn(10))}
	}
	if r.Intn(3) > 0 && c.Session != 0 {
		if r.Intn(4) > 0 {
			r.requests[c.Session]++
		}
		c.Request = r.requests[c.Session]
		c.Answered = uint64(max(0, int(c.Request)-3))
	}
	c.Attempt = uint64(max(0, int(r.attempt)-2+r.Intn(4)))
	if r.Intn(3) == 0 {
		c.Hold = uint64(r.Intn(200))
	}
	c.Cell = Cell{Name: []string{"x", "y", "NO"}[r.Intn(3)], Group: r.Uint64(), Replicas: []Replica{{1, 2}}}
	c.LeaseFactor = uint32(r.Intn(70))
	for range r.Intn(3) {
		g := r.grant()
		if r.Intn(2) == 0 {
			g.Path = c.Path
		}
		c.Grants = append(c.Grants, g)
	}
	return c
}

// forEachRandom applies random commands to a state and calls after with each.
func forEachRandom(t *testing.T, commands int, after func(t *testing.T, i int, s *State, c *Command, ts truetime.Timestamp)) {
	seeds := []int64{1, 2, 3}
	if *seed != 0 {
		seeds = []int64{*seed}
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			r := newRandomCommands(seed)
			s, b := New(FirstCell), newBlobs(t)
			ts := truetime.Timestamp(1e18)
			for i := range commands {
				ts += truetime.Timestamp(r.Int63n(1e9))
				if r.Intn(2000) == 0 {
					ts += memory
				}
				c := r.next()
				s.Apply(c, uint64(i+1), ts, b)
				after(t, i, s, c, ts)
			}
		})
	}
}

// L1: of an exclusive lock there is at most one hold, and then no shared one; a lock that
// goes from free to held has a generation above all that any lock ever had.
func TestL1_RandomCommands(t *testing.T) {
	var highest uint64
	held := map[string]uint64{} // generation
	forEachRandom(t, 20_000, func(t *testing.T, i int, s *State, c *Command, _ truetime.Timestamp) {
		if i == 0 {
			highest = 0
			clear(held)
		}
		before := highest
		for _, path := range randomPaths {
			holds := s.Holds(path)
			for _, h := range holds {
				if h.Mode == Exclusive && len(holds) > 1 {
					t.Fatalf("command %d, %+v: %d holds beside an exclusive one of %s: %+v", i, c, len(holds)-1, path, holds)
				}
				if h.Generation != holds[0].Generation {
					t.Fatalf("command %d, %+v: holds of different generations: %+v", i, c, holds)
				}
			}
			if len(holds) == 0 {
				delete(held, path)
				continue
			}
			g := holds[0].Generation
			if was, ok := held[path]; (!ok || was != g) && g <= before {
				t.Fatalf("command %d, %+v: %s went from free to held with generation %d; %d was there already", i, c, path, g, before)
			}
			held[path], highest = g, max(highest, g)
		}
	})
}

// Replicas that applied the same commands encode equal, also when one of them was restored
// from an encoding in between, or got its commands from a log.
func TestReplicasAgree(t *testing.T) {
	var other *State
	var theirs *blobs
	forEachRandom(t, 6_000, func(t *testing.T, i int, s *State, c *Command, ts truetime.Timestamp) {
		if i == 0 {
			other, theirs = New(FirstCell), newBlobs(t)
		}
		logged, err := DecodeCommand(EncodeCommand(c))
		if err != nil {
			t.Fatalf("command %d, %+v: %v", i, c, err)
		}
		other.Apply(logged, uint64(i+1), ts, theirs)
		if i%97 != 0 {
			return
		}
		mine := s.Encode()
		if !bytes.Equal(mine, other.Encode()) {
			t.Fatalf("after command %d, %+v, the replicas differ", i, c)
		}
		if other, err = Decode(mine); err != nil {
			t.Fatalf("after command %d: %v", i, err)
		}
		if !bytes.Equal(mine, other.Encode()) {
			t.Fatalf("after command %d the state does not survive its encoding", i)
		}
		audit(t, other)
	})
}

// What the state keeps twice agrees, and what it bounds stays within.
func TestRandomCommandsKeepTheStateWhole(t *testing.T) {
	forEachRandom(t, 8_000, func(t *testing.T, i int, s *State, c *Command, _ truetime.Timestamp) {
		if i%13 == 0 {
			audit(t, s)
		}
		if t.Failed() {
			t.Fatalf("after command %d: %+v", i, c)
		}
	})
}

func audit(t testing.TB, s *State) {
	t.Helper()
	reachable := 0
	var walk func(n *node) Quota
	walk = func(n *node) Quota {
		reachable++
		if s.nodes[n.path] != n {
			t.Errorf("%s is in the tree and not in the index", n.path)
		}
		if n.eph != nil {
			if s.unused(n) {
				t.Errorf("ephemeral %s is there, and nobody has it open", n.path)
			}
			for _, o := range n.eph.openers {
				if !s.Opens(o.session, o.handle, n.path) {
					t.Errorf("session %d is said to have %s open and does not know", o.session, n.path)
				}
			}
		} else if n.parent != nil && n.parent.eph != nil {
			t.Errorf("permanent %s in an ephemeral directory", n.path)
		}
		if n.dir == nil {
			return Quota{n.length, 1}
		}
		var used Quota
		n.dir.children.Scan(func(_ string, c *node) bool {
			u := walk(c)
			used.Bytes += u.Bytes
			used.Nodes += u.Nodes
			return true
		})
		if used != n.dir.used {
			t.Errorf("%s uses %+v, not %+v", n.path, used, n.dir.used)
		}
		used.Nodes++
		return used
	}
	walk(s.rootNode)
	if reachable != len(s.nodes) {
		t.Errorf("%d nodes in the tree, %d in the index", reachable, len(s.nodes))
	}
	held := 0
	s.locks.Scan(func(path string, l *lock) bool {
		if len(l.holds) == 0 && l.until == 0 {
			t.Errorf("the lock of %s is kept for nothing", path)
		}
		for _, h := range l.holds {
			held++
			n := s.nodes[path]
			if n == nil || n.instance != h.Instance || n.lockGen != h.Generation {
				t.Errorf("hold %+v is of no node", h)
			}
			if !slices.Contains(s.HoldsOf(h.Session), *h) {
				t.Errorf("session %d does not know of its hold %+v", h.Session, h)
			}
		}
		return true
	})
	mine, opens := 0, 0
	s.sessions.Scan(func(id SessionID, sess *session) bool {
		mine += len(s.HoldsOf(id))
		if sess.things != nil {
			opens += len(sess.opens)
			for _, o := range sess.opens {
				if s.nodes[o.node.path] != o.node {
					t.Errorf("session %d has %s open, which is gone", id, o.node.path)
				}
			}
			if len(sess.answers) > maxAnswers || len(sess.cancelled) > maxCancelled {
				t.Errorf("session %d remembers too much", id)
			}
		}
		if s.departed.has(id) {
			t.Errorf("session %d is open and has departed", id)
		}
		return true
	})
	if held != mine || held != s.LockCount() {
		t.Errorf("locks have %d holds, sessions %d, the count is %d", held, mine, s.LockCount())
	}
}

// A numbered request that is sent again changes nothing and is answered as it was.
func TestRepeatedRequestsTakeEffectOnce(t *testing.T) {
	r := newRandomCommands(7)
	s, b := New(FirstCell), newBlobs(t)
	repeated := 0
	for i := range 5_000 {
		c := r.next()
		c.Grants = nil
		ts := truetime.Timestamp(1e18 + i*1e8)
		first, _ := s.Apply(c, uint64(i), ts, b)
		if _, open := s.Session(c.Session); !open || c.Request == 0 || c.Kind < Open || c.Kind > SetACL || c.Kind == Close {
			continue
		}
		repeated++
		before := s.Encode()
		again, out := s.Apply(c, uint64(i), ts, b) // the timestamp alone is part of the state (T2)
		if !bytes.Equal(before, s.Encode()) || len(out.Events)+len(out.Freed) > 0 {
			t.Fatalf("command %d, %+v, changed the state again: %+v", i, c, out)
		}
		if (first.Err == nil) != (again.Err == nil) || first.Err != nil && *first.Err != *again.Err {
			t.Fatalf("command %d, %+v: refused with %v, then with %v", i, c, first.Err, again.Err)
		}
		if first.Created != again.Created || (first.Node == nil) != (again.Node == nil) || first.Node != nil && *first.Node != *again.Node {
			t.Fatalf("command %d, %+v: answered %+v, then %+v", i, c, first.Node, again.Node)
		}
	}
	if repeated < 300 {
		t.Fatalf("only %d requests were repeated", repeated)
	}
}

// What Admits says of a grant is what comes of it.
func TestAdmitsForetellsGrants(t *testing.T) {
	r := newRandomCommands(8)
	s, b := New(FirstCell), newBlobs(t)
	granted, refused := 0, 0
	for i := range 20_000 {
		ts := truetime.Timestamp(1e18 + i*1e8)
		c := r.next()
		c.Grants = nil
		s.Apply(c, uint64(i), ts, b)
		g := r.grant()
		want := s.Admits(g, ts)
		res, _ := s.Apply(&Command{Kind: Grant, Grants: []GrantTo{g}}, uint64(i), ts, b)
		got := res.Grants[0].Err
		if (want == nil) != (got == nil) || want != nil && *want != *got {
			t.Fatalf("after command %d: %+v at %d: foretold %v, was %v", i, g, ts, want, got)
		}
		if got != nil {
			refused++
			continue
		}
		granted++
		h, ok := s.HoldOf(g.Session, g.Handle, g.Path)
		if !ok || h != res.Grants[0].Hold {
			t.Fatalf("granted %+v, there is %+v", res.Grants[0].Hold, h)
		}
		if valid, err := s.Valid(h.Sequencer()); err != nil || valid != h {
			t.Fatalf("the sequencer of %+v: %v", h, err)
		}
	}
	if granted < 500 || refused < 500 {
		t.Fatalf("%d grants, %d refusals: too few of one", granted, refused)
	}
}
