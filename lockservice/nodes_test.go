package lockservice_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/spandb/spand/integration"
	"github.com/spandb/spand/lockservice"
)

// world is three real nodes, and what tests do with them.
type world struct {
	*testing.T
	c *integration.Cluster
	// dir is the test's own.
	dir string
}

func (w world) client() *lockservice.Client {
	w.Helper()
	var addrs []string
	for _, n := range w.c.Nodes {
		addrs = append(addrs, n.RPCAddr)
	}
	c, err := lockservice.Dial(w.Context(), strings.Join(addrs, ","))
	w.must(err)
	w.Cleanup(func() { c.Close() })
	return c
}

func (w world) session(o lockservice.SessionOptions) *lockservice.Session {
	w.Helper()
	s, err := w.client().NewSession(w.Context(), o)
	w.must(err)
	// A session with a cache that dies delays changes after a fail-over for as long as its
	// lease is: what one test leaves behind must not meet the next.
	w.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := s.Close(ctx); err != nil && !errors.Is(err, lockservice.ErrClosed) {
			w.Errorf("closing a session: %v", err)
		}
	})
	return s
}

func (w world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w world) open(s *lockservice.Session, name string, o lockservice.OpenOptions) *lockservice.Handle {
	w.Helper()
	w.must(s.MkdirAll(w.Context(), w.dir))
	h, err := s.Open(w.Context(), w.dir+"/"+name, o)
	w.must(err)
	return h
}

// leader is the index of the node that leads the cell.
func (w world) leader(c *lockservice.Client) int {
	w.Helper()
	for {
		info, err := c.Cell(w.Context(), "local")
		w.must(err)
		if i := slices.IndexFunc(w.c.Nodes, func(n *integration.Node) bool { return n.RPCAddr == info.LeaderAddr }); i >= 0 {
			return i
		}
		time.Sleep(10 * time.Millisecond) // the node that was asked does not know yet
	}
}

var file = lockservice.OpenOptions{Create: lockservice.CreateIfAbsent}

// TestNodes runs what needs real nodes, all on one cluster: first what loads it, then, together, what
// waits for most of its time, and what kills nodes comes last.
func TestNodes(t *testing.T) {
	if testing.Short() {
		t.Skip("starts three processes")
	}
	c := integration.Start(t, integration.Options{Nodes: 3, Mode: integration.Processes})
	type test struct {
		name string
		run  func(world)
	}
	in := func(t *testing.T, tt test) world {
		return world{t, c, "/ls/local/" + strings.ToLower(strings.NewReplacer(".", "-", "_", "-").Replace(tt.name))}
	}
	for _, tt := range []test{
		{"Paper2.6_FilesAndDirectories", filesAndDirectories},
		{"Paper2.6_LockAndSequencer", lockAndSequencer},
		{"DialAnyNode", dialAnyNode},
		{"Paper2.6_AbandonedAcquires", abandonedAcquires},
		{"Paper2.5_EventsTakeTheRightToRead", eventsTakeTheRightToRead},
		{"Paper2.7_Cache", cacheIsConsistent},
		{"Paper2.7_LocksAreKept", locksAreKept},
		{"Cells", cells},
	} {
		t.Run(tt.name, func(t *testing.T) { tt.run(in(t, tt)) })
	}
	waiting := []test{
		{"Paper2.5_Events", events},
		{"Paper2.8_EphemeralAndSessionEnd", ephemeralAndSessionEnd},
		{"Paper2.8_IdleSessionStaysSafe", idleSessionStaysSafe},
		{"Election", election},
		{"Semaphore", semaphore},
		{"Barrier", barrier},
		{"DoubleBarrier", doubleBarrier},
		{"Resolver", resolver},
	}
	t.Run("Waiting", func(t *testing.T) {
		for _, tt := range waiting {
			t.Run(tt.name, func(t *testing.T) {
				t.Parallel()
				tt.run(in(t, tt))
			})
		}
	})
	killed := test{"Paper2.9_LeaderKilled", leaderKilled}
	t.Run(killed.name, func(t *testing.T) { killed.run(in(t, killed)) })
}

func eventsTakeTheRightToRead(w world) {
	ctx := w.Context()
	s := w.session(lockservice.SessionOptions{Cache: true})
	h := w.open(s, "f", file)
	readers := s.Node("/ls/local/acl/events-test")
	members := func(list string) {
		w.Helper()
		_, err := readers.SetContents(ctx, []byte(list), lockservice.OrCreate())
		w.must(err)
	}
	members("*")
	st, err := h.SetACL(ctx, lockservice.ACL{Read: "events-test"})
	w.must(err)
	contents, err := h.Subscribe(ctx, lockservice.SubscribeOptions{})
	w.must(err)
	locks, err := s.Node(h.Path()).Subscribe(ctx, lockservice.SubscribeOptions{Kinds: []lockservice.EventKind{lockservice.LockAcquired}})
	w.must(err)
	next := func(when string, sub *lockservice.Subscription, want lockservice.EventKind, denied bool) {
		w.Helper()
		ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		e, err := sub.Next(ctx)
		for err == nil && e.Kind == lockservice.CellFailedOver {
			e, err = sub.Next(ctx)
		}
		if denied && !errors.Is(err, lockservice.ErrPermission) || !denied && (err != nil || e.Kind != want) {
			w.Errorf("%s: %v, %v", when, e, err)
		}
	}
	write := func(text string) {
		w.Helper()
		_, err := h.SetContents(ctx, []byte(text))
		w.must(err)
	}
	write("one")
	next("with the right", contents, lockservice.ContentsChanged, false)
	if _, _, err := h.Contents(ctx); err != nil {
		w.Error(err)
	}
	members("somebody")
	next("without it", contents, 0, true)
	if _, _, err := h.Contents(ctx); !errors.Is(err, lockservice.ErrPermission) {
		w.Errorf("read what was cached: %v", err)
	}
	write("two")
	again, err := h.Subscribe(ctx, lockservice.SubscribeOptions{After: st.Revision})
	w.must(err)
	next("asked for again", again, 0, true)
	l, err := h.Lock(ctx)
	w.must(err)
	w.must(l.Unlock(ctx))
	next("the lock", locks, lockservice.LockAcquired, false)
	members("*")
	again, err = h.Subscribe(ctx, lockservice.SubscribeOptions{After: st.Revision, Kinds: []lockservice.EventKind{lockservice.ContentsChanged}})
	w.must(err)
	next("of the past", again, lockservice.ContentsChanged, false)
	next("of the past", again, lockservice.ContentsChanged, false)
	write("three")
	next("with the right again", again, lockservice.ContentsChanged, false)
}

func filesAndDirectories(w world) {
	ctx := w.Context()
	s := w.session(lockservice.SessionOptions{})
	h := w.open(s, "f", lockservice.OpenOptions{Create: lockservice.CreateExclusive, Contents: []byte("one")})
	if !h.Created() || h.Opened().Length != 3 {
		w.Errorf("created %v, %+v", h.Created(), h.Opened())
	}
	if _, err := s.Open(ctx, h.Path(), lockservice.OpenOptions{Create: lockservice.CreateExclusive}); !errors.Is(err, lockservice.ErrExists) {
		w.Errorf("made again: %v", err)
	}
	st, err := h.SetContents(ctx, []byte("two"), lockservice.IfGeneration(h.Opened().ContentGeneration))
	w.must(err)
	if _, err := h.SetContents(ctx, []byte("x"), lockservice.IfGeneration(h.Opened().ContentGeneration)); !errors.Is(err, lockservice.ErrGenerationMismatch) {
		w.Errorf("compare-and-set with an old generation: %v", err)
	}
	if text, now, err := h.Contents(ctx); err != nil || string(text) != "two" || now.ContentGeneration != st.ContentGeneration {
		w.Errorf("read %q, %+v, %v", text, now, err)
	}
	if _, err := h.SetContents(ctx, make([]byte, 256<<10+1)); !errors.Is(err, lockservice.ErrTooLarge) {
		w.Errorf("256 KiB and one byte: %v", err)
	}
	if err := s.Node(w.dir).Delete(ctx); !errors.Is(err, lockservice.ErrNotEmpty) {
		w.Errorf("delete of a directory with a file: %v", err)
	}
	_, err = s.Node(w.dir+"/g").SetContents(ctx, nil)
	if !errors.Is(err, lockservice.ErrNotFound) {
		w.Errorf("write to what is not there: %v", err)
	}
	_, err = s.Node(w.dir+"/g").SetContents(ctx, []byte("g"), lockservice.OrCreate())
	w.must(err)
	list, err := s.Node(w.dir).ReadDir(ctx)
	w.must(err)
	if len(list) != 2 || list[0].Name() != "f" || list[1].Name() != "g" {
		w.Errorf("listed %+v", list)
	}
	// The handle means the file that was opened, also when there is another.
	w.must(s.Node(h.Path()).Delete(ctx))
	again := w.open(s, "f", file)
	if _, _, err := h.Contents(ctx); !errors.Is(err, lockservice.ErrStaleHandle) {
		w.Errorf("read through a handle of a deleted file: %v", err)
	}
	if again.Opened().Instance <= h.Opened().Instance {
		w.Errorf("instances %d, then %d", h.Opened().Instance, again.Opened().Instance)
	}
	// More children than one call lists.
	var wg sync.WaitGroup
	for k := range 10 {
		wg.Go(func() {
			for i := range 110 {
				_, err := s.Node(fmt.Sprintf("%s/many-%d-%03d", w.dir, k, i)).SetContents(ctx, nil, lockservice.OrCreate())
				if err != nil {
					w.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if list, err := s.Node(w.dir).ReadDir(ctx); err != nil || len(list) != 1102 || !slices.IsSortedFunc(list, func(a, b lockservice.Stat) int { return strings.Compare(a.Path, b.Path) }) {
		w.Errorf("%d listed, %v", len(list), err)
	}
	if _, err := w.client().Node("/ls/nowhere/x").Stat(ctx); !errors.Is(err, lockservice.ErrNoSuchCell) {
		w.Errorf("a cell that is not there: %v", err)
	}
}

func lockAndSequencer(w world) {
	ctx := w.Context()
	a, b := w.session(lockservice.SessionOptions{}), w.session(lockservice.SessionOptions{})
	ha, hb := w.open(a, "x", file), w.open(b, "x", file)
	la, err := ha.Lock(ctx)
	w.must(err)
	if _, err := hb.TryLock(ctx); !errors.Is(err, lockservice.ErrLockHeld) {
		w.Errorf("second holder: %v", err)
	}
	c := w.client()
	w.must(c.CheckSequencer(ctx, la.Sequencer()))
	parsed, err := lockservice.ParseSequencer(la.Sequencer())
	if err != nil || parsed != la.Fields() {
		w.Errorf("sequencer %q is %+v, %v; want %+v", la.Sequencer(), parsed, err, la.Fields())
	}
	// A write that rests on the lock.
	data := w.open(a, "data", file)
	w.must(data.SetSequencer(ctx, la.Sequencer()))
	_, err = data.SetContents(ctx, []byte("while held"))
	w.must(err)

	got := make(chan *lockservice.Lock)
	go func() {
		l, err := hb.Lock(ctx)
		if err != nil {
			w.Error(err)
		}
		got <- l
	}()
	w.must(la.Unlock(ctx))
	lb := <-got
	if lb.Fields().Generation <= la.Fields().Generation {
		w.Errorf("generations %d, then %d", la.Fields().Generation, lb.Fields().Generation)
	}
	if err := c.CheckSequencer(ctx, la.Sequencer()); !errors.Is(err, lockservice.ErrStaleSequencer) {
		w.Errorf("check of an old sequencer: %v", err)
	}
	if _, err := data.SetContents(ctx, []byte("too late")); !errors.Is(err, lockservice.ErrStaleSequencer) {
		w.Errorf("write that rests on an old sequencer: %v", err)
	}
	w.must(lb.Unlock(ctx))
	// Shared holders together; an exclusive one waits for both.
	ra, err := ha.RLock(ctx)
	w.must(err)
	rb, err := hb.TryRLock(ctx)
	w.must(err)
	hc := w.open(a, "x", file)
	if _, err := hc.TryLock(ctx); !errors.Is(err, lockservice.ErrLockHeld) {
		w.Errorf("exclusive beside shared: %v", err)
	}
	w.must(ra.Unlock(ctx))
	w.must(hb.Close(ctx)) // with its lock
	if rb.State() != lockservice.LockReleased {
		w.Errorf("lock of a closed handle: %v", rb.State())
	}
	l, err := hc.TryLock(ctx)
	w.must(err)
	// Its session may delete a node that it has locked; the lock goes with it.
	w.must(a.Node(hc.Path()).Delete(ctx))
	if l.State() != lockservice.LockLost || !errors.Is(context.Cause(l.Context()), lockservice.ErrLockLost) {
		w.Errorf("lock of a deleted node: %v, %v", l.State(), context.Cause(l.Context()))
	}
}

// Any one node is enough to find the others by.
func dialAnyNode(w world) {
	for i, n := range w.c.Nodes {
		ctx, cancel := context.WithTimeout(w.Context(), 10*time.Second)
		c, err := lockservice.Dial(ctx, n.RPCAddr)
		w.must(err)
		s, err := c.NewSession(ctx, lockservice.SessionOptions{})
		w.must(err)
		l, err := w.open(s, fmt.Sprint("x", i), file).Lock(ctx)
		w.must(err)
		w.must(l.Unlock(ctx))
		w.must(s.Close(ctx))
		c.Close()
		cancel()
	}
}

// Contexts that end at any point of an acquire leave no hold behind.
func abandonedAcquires(w world) {
	ctx := w.Context()
	s := w.session(lockservice.SessionOptions{})
	var wg sync.WaitGroup
	for k := range 4 {
		h := w.open(s, "x", file)
		wg.Go(func() {
			for i := range 50 {
				short, cancel := context.WithTimeout(ctx, time.Duration((i*7+k*3)%40)*100*time.Microsecond)
				l, err := h.Lock(short)
				cancel()
				switch {
				case err == nil:
					if err := l.Unlock(ctx); err != nil {
						w.Error(err)
					}
				case !errors.Is(err, context.DeadlineExceeded):
					w.Error(err)
				}
			}
		})
	}
	wg.Wait()
	limit, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	l, err := w.open(w.session(lockservice.SessionOptions{}), "x", file).Lock(limit)
	w.must(err)
	w.must(l.Unlock(ctx))
}

func events(w world) {
	ctx, cancel := context.WithTimeout(w.Context(), 20*time.Second)
	defer cancel()
	s, other := w.session(lockservice.SessionOptions{}), w.session(lockservice.SessionOptions{})
	h := w.open(s, "x", file)
	dir, err := s.Node(w.dir).Subscribe(ctx, lockservice.SubscribeOptions{})
	w.must(err)
	sub, err := h.Subscribe(ctx, lockservice.SubscribeOptions{})
	w.must(err)
	next := func(sub *lockservice.Subscription, kind lockservice.EventKind, child string) lockservice.Event {
		w.Helper()
		e, err := sub.Next(ctx)
		w.must(err)
		if e.Kind != kind || e.Child != child {
			w.Fatalf("event %+v, want %v of %q", e, kind, child)
		}
		return e
	}
	st, err := other.Node(h.Path()).SetContents(ctx, []byte("1"))
	w.must(err)
	if e := next(sub, lockservice.ContentsChanged, ""); e.Generation != st.ContentGeneration || e.Revision != st.Revision {
		w.Errorf("event %+v of %+v", e, st)
	}
	next(dir, lockservice.ChildModified, "x")
	l, err := h.Lock(ctx)
	w.must(err)
	next(sub, lockservice.LockAcquired, "")
	gotIt := make(chan struct{})
	wants := w.open(other, "x", file)
	go func() {
		defer close(gotIt)
		if l, err := wants.Lock(ctx); err != nil {
			w.Error(err)
		} else if err := l.Unlock(ctx); err != nil {
			w.Error(err)
		}
	}()
	next(sub, lockservice.ConflictingRequest, "")
	w.must(l.Unlock(ctx))
	<-gotIt
	next(sub, lockservice.LockAcquired, "")
	_, err = other.Node(w.dir+"/y").SetContents(ctx, nil, lockservice.OrCreate())
	w.must(err)
	added := next(dir, lockservice.ChildAdded, "y")
	w.must(other.Node(w.dir + "/y").Delete(ctx))
	next(dir, lockservice.ChildRemoved, "y")
	w.must(other.Node(h.Path()).Delete(ctx))
	next(sub, lockservice.HandleInvalid, "")
	next(dir, lockservice.ChildRemoved, "x")
	// Another session resumes behind a revision, without a gap.
	again, err := other.Node(w.dir).Subscribe(ctx, lockservice.SubscribeOptions{After: added.Revision})
	w.must(err)
	next(again, lockservice.ChildRemoved, "y")
	next(again, lockservice.ChildRemoved, "x")
	// A reader that sleeps through more than any queue holds misses nothing, and holds up nobody.
	slow := w.open(s, "z", file)
	sleeper, err := slow.Subscribe(ctx, lockservice.SubscribeOptions{Kinds: []lockservice.EventKind{lockservice.ContentsChanged}})
	w.must(err)
	const writes = 6000
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			for range writes / 20 {
				if _, err := slow.SetContents(ctx, []byte("z")); err != nil {
					w.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	for generation := slow.Opened().ContentGeneration + 1; generation <= slow.Opened().ContentGeneration+writes; generation++ {
		if e := next(sleeper, lockservice.ContentsChanged, ""); e.Generation != generation {
			w.Fatalf("event of generation %d, want %d", e.Generation, generation)
		}
	}
}

// Readers with caches never see an older value than one that was acknowledged before they
// asked, whoever writes.
func cacheIsConsistent(w world) {
	ctx := w.Context()
	writer := w.session(lockservice.SessionOptions{})
	h := w.open(writer, "x", lockservice.OpenOptions{Create: lockservice.CreateIfAbsent, Contents: []byte("0")})
	var acknowledged atomic.Uint64
	acknowledged.Store(h.Opened().ContentGeneration)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var reads atomic.Int64
	for range 3 {
		n := w.session(lockservice.SessionOptions{Cache: true}).Node(h.Path())
		wg.Go(func() {
			last := uint64(0)
			pace := time.NewTicker(time.Millisecond) // what is cached is read as fast as one can
			defer pace.Stop()
			for {
				select {
				case <-stop:
					return
				case <-pace.C:
				}
				least := acknowledged.Load()
				_, st, err := n.Contents(ctx)
				if err != nil {
					w.Error(err)
					return
				}
				if st.ContentGeneration < least || st.ContentGeneration < last {
					w.Errorf("read generation %d after %d was acknowledged and %d read", st.ContentGeneration, least, last)
					return
				}
				last = st.ContentGeneration
				reads.Add(1)
			}
		})
	}
	for i := range 200 {
		st, err := h.SetContents(ctx, fmt.Append(nil, i))
		w.must(err)
		acknowledged.Store(st.ContentGeneration)
	}
	close(stop)
	wg.Wait()
	w.Logf("%d reads beside 200 writes", reads.Load())
	if reads.Load() < 50 {
		w.Error("hardly anything was read meanwhile")
	}

	// What is not there, and listings.
	s := w.session(lockservice.SessionOptions{Cache: true})
	n := s.Node(w.dir + "/absent")
	for i := range 20 {
		if _, err := n.Stat(ctx); !errors.Is(err, lockservice.ErrNotFound) {
			w.Fatalf("round %d: %v", i, err)
		}
		if list, err := s.Node(w.dir).ReadDir(ctx); err != nil || len(list) != 1 {
			w.Fatalf("round %d: %d listed, %v", i, len(list), err)
		}
		_, err := writer.Node(n.Path()).SetContents(ctx, nil, lockservice.OrCreate())
		w.must(err)
		if _, err := n.Stat(ctx); err != nil {
			w.Fatalf("round %d: %v", i, err)
		}
		if list, err := s.Node(w.dir).ReadDir(ctx); err != nil || len(list) != 2 {
			w.Fatalf("round %d: %d listed, %v", i, len(list), err)
		}
		w.must(writer.Node(n.Path()).Delete(ctx))
	}
}

// Locks that are kept are one hold while nobody else wants them, and anybody's as soon as he asks.
func locksAreKept(w world) {
	ctx, cancel := context.WithTimeout(w.Context(), 30*time.Second)
	defer cancel()
	a, b := w.session(lockservice.SessionOptions{}), w.session(lockservice.SessionOptions{})
	keep := lockservice.OpenOptions{Create: lockservice.CreateIfAbsent, KeepLock: time.Hour}
	ha, hb := w.open(a, "x", keep), w.open(b, "x", file)
	use := func(lock func(context.Context) (*lockservice.Lock, error)) uint64 {
		w.Helper()
		l, err := lock(ctx)
		w.must(err)
		if err := l.Err(); err != nil {
			w.Error(err)
		}
		w.must(l.Unlock(ctx))
		return l.Fields().Generation
	}
	first := use(ha.Lock)
	for range 1000 {
		if g := use(ha.Lock); g != first {
			w.Fatalf("generation %d, then %d, and nobody came between", first, g)
		}
	}
	// Others get it as soon as they ask: who waits, in turn; who does not wait when he asks again.
	second := use(hb.Lock)
	third := use(ha.Lock)
	if second <= first || third <= second {
		w.Errorf("generations %d, %d, %d", first, second, third)
	}
	refused := 0
	for {
		l, err := hb.TryLock(ctx)
		if err == nil {
			w.must(l.Unlock(ctx))
			break
		}
		if refused++; !errors.Is(err, lockservice.ErrLockHeld) {
			w.Fatal(err)
		}
	}
	if refused == 0 {
		w.Error("the lock was not kept")
	}
	// Readers keep theirs beside each other, until a writer comes.
	hc := w.open(b, "x", keep)
	use(ha.RLock)
	use(hc.RLock)
	use(ha.RLock)
	use(hb.Lock)
	// It is given back with its handle, and with its session.
	use(ha.Lock)
	w.must(ha.Close(ctx))
	use(hc.TryLock)
	w.must(b.Close(ctx))
	use(w.open(a, "x", file).TryLock)

	// Many who keep what the others want: one at a time, and everybody gets on.
	var inside atomic.Int32
	var wg sync.WaitGroup
	for i := range 6 {
		h := w.open(w.session(lockservice.SessionOptions{}), "contended", keep)
		wg.Go(func() {
			for n := range 100 {
				lock, me := h.Lock, int32(1000) // a writer
				if (i+n)%5 == 0 {
					lock, me = h.RLock, 1
				}
				l, err := lock(ctx)
				if err != nil {
					w.Errorf("client %d, after %d: %v", i, n, err)
					return
				}
				if now := inside.Add(me); now > 1000 || me == 1000 && now != 1000 {
					w.Errorf("%d writers and %d readers", now/1000, now%1000)
				}
				if n%10 == 0 {
					time.Sleep(time.Millisecond) // the process is elsewhere
				}
				inside.Add(-me)
				if err := l.Unlock(ctx); err != nil {
					w.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func ephemeralAndSessionEnd(w world) {
	ctx := w.Context()
	a, b := w.session(lockservice.SessionOptions{TTL: time.Second}), w.session(lockservice.SessionOptions{})
	h := w.open(a, "mine", lockservice.OpenOptions{Create: lockservice.CreateExclusive, Ephemeral: true})
	l, err := w.open(a, "x", lockservice.OpenOptions{Create: lockservice.CreateIfAbsent, LockDelay: time.Second}).Lock(ctx)
	w.must(err)
	waiting := w.open(b, "x", file)
	// A clean end frees the lock at once.
	began := time.Now()
	w.must(a.Close(ctx))
	if l.State() != lockservice.LockLost || a.State() != lockservice.Expired {
		w.Errorf("after Close: lock %v, session %v", l.State(), a.State())
	}
	l, err = waiting.Lock(ctx)
	w.must(err)
	if took := time.Since(began); took > 900*time.Millisecond {
		w.Errorf("the lock of a closed session was free after %v", took)
	}
	w.must(l.Unlock(ctx))
	if _, err := b.Node(h.Path()).Stat(ctx); !errors.Is(err, lockservice.ErrNotFound) {
		w.Errorf("ephemeral file of a closed session: %v", err)
	}
	// A client that is gone: its lock is free after the lease and the lock-delay.
	client := w.client()
	dead, err := client.NewSession(ctx, lockservice.SessionOptions{TTL: time.Second})
	w.must(err)
	hd, err := dead.Open(ctx, w.dir+"/x", lockservice.OpenOptions{LockDelay: time.Second})
	w.must(err)
	held, err := hd.Lock(ctx)
	w.must(err)
	began = time.Now()
	client.Close()
	if held.State() != lockservice.LockLost {
		w.Errorf("lock of a closed client: %v", held.State())
	}
	l, err = waiting.Lock(ctx)
	w.must(err)
	if took := time.Since(began); took < time.Second || took > 4*time.Second {
		w.Errorf("the lock of a dead session was free after %v", took)
	}
	w.must(l.Unlock(ctx))
}

// Beats keep a session safe with the shortest TTL, where there is least room for delays.
func idleSessionStaysSafe(w world) {
	s := w.session(lockservice.SessionOptions{TTL: time.Second})
	l, err := w.open(s, "x", file).Lock(w.Context())
	w.must(err)
	select {
	case <-l.Context().Done():
		w.Errorf("the lock's context ended: %v", context.Cause(l.Context()))
	case <-time.After(2500 * time.Millisecond): // two leases and more
	}
}

func election(w world) {
	ctx := w.Context()
	path := w.dir + "/e"
	watching := lockservice.NewElection(w.session(lockservice.SessionOptions{}), path, lockservice.ElectionOptions{})
	if _, err := watching.Leader(ctx); !errors.Is(err, lockservice.ErrNoLeader) {
		w.Errorf("leader before anybody campaigned: %v", err)
	}
	seen := make(chan lockservice.Leader, 100)
	observing, stop := context.WithCancel(ctx)
	over := make(chan struct{})
	go func() {
		defer close(over)
		for l, err := range watching.Observe(observing) {
			if err != nil {
				if observing.Err() == nil {
					w.Error(err)
				}
				return
			}
			seen <- l
		}
	}()
	see := func(value string) {
		w.Helper()
		for {
			select {
			case l := <-seen:
				if string(l.Value) == value && (l.Term == 0) == (value == "") {
					return
				}
			case <-time.After(10 * time.Second):
				w.Fatalf("%q was not observed", value)
			}
		}
	}
	see("")
	client := w.client()
	s1, err := client.NewSession(ctx, lockservice.SessionOptions{TTL: time.Second})
	w.must(err)
	e1 := lockservice.NewElection(s1, path, lockservice.ElectionOptions{})
	l1, err := e1.Campaign(ctx, []byte("one"))
	w.must(err)
	see("one")
	w.must(e1.Proclaim(ctx, []byte("one again")))
	see("one again")

	e2 := lockservice.NewElection(w.session(lockservice.SessionOptions{}), path, lockservice.ElectionOptions{})
	if err := e2.Proclaim(ctx, []byte("two")); !errors.Is(err, lockservice.ErrNoLeader) {
		w.Errorf("proclaimed without leading: %v", err)
	}
	won := make(chan *lockservice.Lock, 1)
	go func() {
		l, err := e2.Campaign(ctx, []byte("two"))
		if err != nil {
			w.Error(err)
		}
		won <- l
	}()
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	e3 := lockservice.NewElection(w.session(lockservice.SessionOptions{}), path, lockservice.ElectionOptions{})
	if _, err := e3.Campaign(short, []byte("three")); !errors.Is(err, context.DeadlineExceeded) {
		w.Errorf("third campaign: %v", err)
	}
	cancel()
	// The leader dies: its lock and its value go in one moment, and the next is elected.
	client.Close()
	if e1.Leading() != nil || l1.State() != lockservice.LockLost {
		w.Errorf("a dead leader believes that it leads")
	}
	l2 := <-won
	see("two")
	if l2.Fields().Generation <= l1.Fields().Generation || e2.Leading() != l2 {
		w.Errorf("generations %d, then %d", l1.Fields().Generation, l2.Fields().Generation)
	}
	if err := e1.Proclaim(ctx, []byte("ghost")); err == nil {
		w.Error("a dead leader proclaimed")
	}
	w.must(e2.Resign(ctx))
	see("")
	if _, err := e3.Campaign(ctx, []byte("three")); err != nil {
		w.Error(err)
	}
	see("three")
	w.must(e3.Resign(ctx))
	// And again, with the same Election.
	if _, err := e3.Campaign(ctx, []byte("three again")); err != nil {
		w.Error(err)
	}
	see("three again")
	stop()
	<-over
}

func semaphore(w world) {
	ctx := w.Context()
	const limit, each = 3, 8
	var inside, most atomic.Int32
	var wg sync.WaitGroup
	var full sync.Once
	wasFull := make(chan struct{})
	for range 6 {
		m := lockservice.NewSemaphore(w.session(lockservice.SessionOptions{}), w.dir+"/s", limit)
		wg.Go(func() {
			for range each {
				p, err := m.Acquire(ctx)
				if err != nil {
					w.Error(err)
					return
				}
				n := inside.Add(1)
				for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
				}
				if n > limit {
					w.Errorf("%d inside", n)
				}
				if p.Context().Err() != nil || p.Sequencer() == "" {
					w.Errorf("permit: %v", p.Context().Err())
				}
				if n == limit {
					full.Do(func() { close(wasFull) })
				}
				<-wasFull // all places are taken once
				inside.Add(-1)
				if err := p.Release(ctx); err != nil {
					w.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if most.Load() != limit {
		w.Errorf("at most %d inside, want %d", most.Load(), limit)
	}
	s := w.session(lockservice.SessionOptions{})
	if _, err := lockservice.NewSemaphore(s, w.dir+"/s", limit+1).Acquire(ctx); !errors.Is(err, lockservice.ErrBadRequest) {
		w.Errorf("another limit: %v", err)
	}
	// Permits of a dead session come free.
	client := w.client()
	dead, err := client.NewSession(ctx, lockservice.SessionOptions{TTL: time.Second})
	w.must(err)
	for range limit {
		_, err := lockservice.NewSemaphore(dead, w.dir+"/s", limit).Acquire(ctx)
		w.must(err)
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := lockservice.NewSemaphore(s, w.dir+"/s", limit).Acquire(short); !errors.Is(err, context.DeadlineExceeded) {
		w.Errorf("one too many: %v", err)
	}
	client.Close()
	p, err := lockservice.NewSemaphore(s, w.dir+"/s", limit).Acquire(ctx)
	w.must(err)
	w.must(p.Release(ctx))
}

func barrier(w world) {
	ctx := w.Context()
	s := w.session(lockservice.SessionOptions{})
	w.must(s.MkdirAll(ctx, w.dir))
	b := lockservice.NewBarrier(s, w.dir+"/b")
	w.must(b.Wait(ctx)) // not there
	w.must(b.Hold(ctx))
	if err := b.Hold(ctx); !errors.Is(err, lockservice.ErrExists) {
		w.Errorf("held twice: %v", err)
	}
	var wg sync.WaitGroup
	var released atomic.Bool
	var ready sync.WaitGroup
	for range 5 {
		other := lockservice.NewBarrier(w.session(lockservice.SessionOptions{}), w.dir+"/b")
		ready.Add(1)
		wg.Go(func() {
			ready.Done()
			if err := other.Wait(ctx); err != nil {
				w.Error(err)
			}
			if !released.Load() {
				w.Error("went on before the release")
			}
		})
	}
	ready.Wait()
	released.Store(true)
	w.must(b.Release(ctx))
	wg.Wait()
}

func doubleBarrier(w world) {
	ctx := w.Context()
	const n = 4
	var entered, left atomic.Int32
	var wg sync.WaitGroup
	for range n {
		b := lockservice.NewDoubleBarrier(w.session(lockservice.SessionOptions{}), w.dir+"/b", n)
		wg.Go(func() {
			entered.Add(1)
			if err := b.Enter(ctx); err != nil {
				w.Error(err)
			}
			if got := entered.Load(); got != n {
				w.Errorf("inside when only %d had come", got)
			}
			left.Add(1)
			if err := b.Leave(ctx); err != nil {
				w.Error(err)
			}
			if got := left.Load(); got != n {
				w.Errorf("outside when only %d had left", got)
			}
		})
	}
	wg.Wait()
}

func resolver(w world) {
	ctx, cancel := context.WithTimeout(w.Context(), 30*time.Second)
	defer cancel()
	type server struct {
		addr string
		stop func()
	}
	dir := w.dir + "/svc"
	// Before the directory is there, calls fail as when a server is down, and wait if they are to.
	early, err := grpc.NewClient("spandlock://"+dir, grpc.WithResolvers(lockservice.NewResolver(w.client())),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	w.must(err)
	defer early.Close()
	_, err = healthpb.NewHealthClient(early).Check(ctx, &healthpb.HealthCheckRequest{})
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), dir+" does not exist") {
		w.Errorf("nobody is there: %v", err)
	}
	waited := make(chan error, 1)
	go func() {
		_, err := healthpb.NewHealthClient(early).Check(ctx, &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true))
		waited <- err
	}()
	serve := func(name string) server {
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		w.must(err)
		g := grpc.NewServer()
		healthpb.RegisterHealthServer(g, health.NewServer())
		go g.Serve(lis)
		w.Cleanup(g.Stop)
		s := w.session(lockservice.SessionOptions{TTL: time.Second})
		_, err = s.Register(ctx, dir, name, lis.Addr().String())
		w.must(err)
		return server{lis.Addr().String(), func() { s.Close(ctx) }}
	}
	a, b := serve("a"), serve("b")
	conn, err := grpc.NewClient("spandlock://"+dir, grpc.WithResolvers(lockservice.NewResolver(w.client())),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	w.must(err)
	defer conn.Close()
	// until calls until just these servers have answered, each of them.
	until := func(want ...string) {
		w.Helper()
		for {
			seen := map[string]bool{}
			for range 20 {
				var p peer.Peer
				_, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{}, grpc.Peer(&p), grpc.WaitForReady(true))
				w.must(err)
				seen[p.Addr.String()] = true
			}
			if len(seen) == len(want) && !slices.ContainsFunc(want, func(a string) bool { return !seen[a] }) {
				return
			}
		}
	}
	until(a.addr, b.addr)
	w.must(<-waited)
	c := serve("c")
	until(a.addr, b.addr, c.addr)
	a.stop()
	until(b.addr, c.addr)
}

func cells(w world) {
	ctx := w.Context()
	c := w.client()
	w.must(c.CreateCell(ctx, "second"))
	w.must(c.CreateCell(ctx, "second"))
	all, err := c.Cells(ctx)
	w.must(err)
	names := []string{}
	for _, i := range all {
		names = append(names, i.Name)
	}
	if !slices.Contains(names, "local") || !slices.Contains(names, "second") {
		w.Errorf("cells %v", names)
	}
	s, err := c.NewSession(ctx, lockservice.SessionOptions{Cell: "second"})
	w.must(err)
	h, err := s.Open(ctx, "/ls/second/x", file)
	w.must(err)
	l, err := h.Lock(ctx)
	w.must(err)
	w.must(l.Unlock(ctx))
	if _, err := s.Open(ctx, "/ls/local/x", file); !errors.Is(err, lockservice.ErrBadPath) {
		w.Errorf("a path of another cell: %v", err)
	}
}

// The cell's leader is killed, and the next one shut down, under holders, waiters, writers and subscribers: nobody holds two, nothing
// is done twice, no event is missed, no lease is lost.
func leaderKilled(w world) {
	ctx, cancel := context.WithTimeout(w.Context(), 90*time.Second)
	defer cancel()
	c := w.client()
	holder := w.session(lockservice.SessionOptions{})
	held, err := w.open(holder, "held", file).Lock(ctx)
	w.must(err)
	kept := held.Context()
	watcher := w.session(lockservice.SessionOptions{Cache: true})
	counter := w.open(watcher, "count", lockservice.OpenOptions{Create: lockservice.CreateIfAbsent})
	sub, err := counter.Subscribe(ctx, lockservice.SubscribeOptions{Kinds: []lockservice.EventKind{lockservice.ContentsChanged}})
	w.must(err)

	// A handle bound to a lock that was given back: under the next leaders too.
	stale := w.open(holder, "stale", file)
	old, err := w.open(holder, "old", file).Lock(ctx)
	w.must(err)
	w.must(stale.SetSequencer(ctx, old.Sequencer()))
	_, err = stale.SetContents(ctx, []byte("in time"))
	w.must(err)
	w.must(old.Unlock(ctx))

	stop := make(chan struct{})
	var inside atomic.Int32
	var writes, longest atomic.Int64
	var wg sync.WaitGroup
	for i := range 4 {
		s := w.session(lockservice.SessionOptions{})
		o := file
		if i < 2 {
			o.KeepLock = time.Minute
		}
		h, data := w.open(s, "x", o), s.Node(counter.Path())
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				began := time.Now()
				l, err := h.Lock(ctx)
				if err != nil {
					w.Error(err)
					return
				}
				if n := inside.Add(1); n != 1 {
					w.Errorf("%d holders", n)
				}
				// One after the other, so generations count the writes.
				_, st, err := data.Contents(ctx)
				if err == nil {
					_, err = data.SetContents(ctx, fmt.Append(nil, st.ContentGeneration+1), lockservice.IfGeneration(st.ContentGeneration))
				}
				if err != nil {
					w.Errorf("write under the lock: %v", err)
				}
				writes.Add(1)
				inside.Add(-1)
				if err := l.Unlock(ctx); err != nil {
					w.Error(err)
				}
				took := time.Since(began).Milliseconds()
				for old := longest.Load(); took > old && !longest.CompareAndSwap(old, took); old = longest.Load() {
				}
			}
		})
	}
	for _, end := range []struct {
		how  string
		node func(i int)
	}{
		{"killed", func(i int) { w.c.Kill(i) }},
		{"shut down", func(i int) { w.c.Nodes[i].Terminate(w) }}, // it hands the cell over
	} {
		before := writes.Load()
		for writes.Load() < before+50 {
			time.Sleep(time.Millisecond) // until the load runs
		}
		i := w.leader(c)
		began := time.Now()
		end.node(i)
		before = writes.Load()
		for writes.Load() < before+10 && ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
		w.Logf("%s node %d; writes went on after %v", end.how, i+1, time.Since(began).Round(time.Millisecond))
		w.c.Restart(i)
	}
	close(stop)
	wg.Wait()
	w.Logf("%d locked writes, the longest in %d ms", writes.Load(), longest.Load())
	if held.State() != lockservice.LockHeld || kept.Err() != nil {
		w.Errorf("the holder's lock: %v, context %v", held.State(), context.Cause(kept))
	}
	if _, err := stale.SetContents(ctx, []byte("too late")); !errors.Is(err, lockservice.ErrStaleSequencer) {
		w.Errorf("write that rests on a lock given back two leaders ago: %v", err)
	}
	text, st, err := counter.Contents(ctx)
	w.must(err)
	first := counter.Opened().ContentGeneration
	if st.ContentGeneration-first != uint64(writes.Load()) || string(text) != fmt.Sprint(st.ContentGeneration) {
		w.Errorf("%d writes acknowledged, generation from %d to %d, contents %q", writes.Load(), first, st.ContentGeneration, text)
	}
	for g := first + 1; g <= st.ContentGeneration; g++ {
		e, err := sub.Next(ctx)
		w.must(err)
		if e.Kind != lockservice.ContentsChanged || e.Generation != g {
			w.Fatalf("event %+v, want generation %d", e, g)
		}
	}
}
