package directory

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/version"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/tablet"
	"github.com/spandb/spand/truetime"
)

// store is the directory tablet of all nodes at once: one exclusive lock, wounded
// by older transactions, over a map.
type store struct {
	mu      sync.Mutex
	leader  keys.NodeID
	guess   keys.NodeID
	data    map[string][]byte
	holder  keys.TxnID
	changed chan struct{}
	calls   int
	fault   func(n int, method string, after bool) error
}

func newStore() *store {
	return &store{leader: 1, data: map[string][]byte{}, changed: make(chan struct{})}
}

func (s *store) Replica(n keys.NodeID, g keys.GroupID) (Replica, error) {
	if g != keys.DirectoryGroup || n > 3 {
		return nil, errors.New("nothing there")
	}
	return &storeAt{s, n}, nil
}

func (s *store) Leader(keys.GroupID) keys.NodeID { s.mu.Lock(); defer s.mu.Unlock(); return s.guess }
func (s *store) Learned(_ keys.GroupID, n keys.NodeID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.guess = n
}

type storeAt struct {
	*store
	node keys.NodeID
}

// enter locks mu, which the caller unlocks, unless there is an error.
func (s *storeAt) enter(method string) (after func() error, err error) {
	s.mu.Lock()
	s.calls++
	n := s.calls
	if s.leader != s.node {
		err = &paxosgroup.NotLeaderError{Group: 1, Leader: s.leader}
	} else if s.fault != nil {
		err = s.fault(n, method, false)
	}
	if err != nil {
		s.mu.Unlock()
		return nil, err
	}
	return func() error {
		if s.fault != nil {
			return s.fault(n, method, true)
		}
		return nil
	}, nil
}

func (s *storeAt) Read(ctx context.Context, req *tablet.ReadRequest) (*tablet.ReadResponse, error) {
	after, err := s.enter("Read")
	if err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	if req.Lock == tablet.LockExclusive {
		for !s.holder.IsZero() && s.holder != req.Txn.ID && s.holder.Older(req.Txn.ID) {
			ch := s.changed
			s.mu.Unlock()
			select {
			case <-ch:
			case <-ctx.Done():
				s.mu.Lock()
				return nil, ctx.Err()
			}
			s.mu.Lock()
			if s.leader != s.node {
				return nil, &paxosgroup.NotLeaderError{Group: 1, Leader: s.leader}
			}
		}
		s.holder = req.Txn.ID
	} else if req.At == 0 {
		return nil, errors.New("a read without a timestamp")
	}
	resp := &tablet.ReadResponse{Term: 1}
	for _, k := range req.Gets {
		v, ok := s.data[string(k)]
		resp.Gets = append(resp.Gets, tablet.Value{Exists: ok, Bytes: v})
	}
	for _, sc := range req.Scans {
		var ks []string
		for k := range s.data {
			if sc.Span.Contains(keys.Key(k)) {
				ks = append(ks, k)
			}
		}
		slices.Sort(ks)
		res := tablet.ScanResult{}
		limit := 3 // pages are small here
		if sc.MaxRows > 0 {
			limit = min(limit, sc.MaxRows)
		}
		for i, k := range ks {
			if i == limit {
				res.More = true
				break
			}
			res.Rows = append(res.Rows, tablet.KV{Key: keys.Key(k), Value: s.data[k]})
		}
		resp.Scans = append(resp.Scans, res)
	}
	return resp, after()
}

func (s *store) release() {
	s.holder = keys.TxnID{}
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *storeAt) Commit(_ context.Context, req *tablet.CommitRequest) (*tablet.CommitResponse, error) {
	after, err := s.enter("Commit")
	if err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	if s.holder != req.Txn.ID || req.Txn.Term != 1 {
		return nil, &tablet.AbortedError{Txn: req.Txn.ID, Reason: tablet.AbortWounded}
	}
	for _, w := range req.Writes {
		s.data[string(w.Key)] = w.Value
	}
	s.release()
	return &tablet.CommitResponse{TS: 1}, after()
}

func (s *storeAt) Abort(_ context.Context, req *tablet.AbortRequest) error {
	after, err := s.enter("Abort")
	if err != nil {
		return err
	}
	defer s.mu.Unlock()
	if s.holder == req.Txn.ID {
		s.release()
	}
	return after()
}

type clock struct{}

func (clock) Now() truetime.Interval {
	now := truetime.FromTime(time.Now())
	return truetime.Interval{Earliest: now, Latest: now}
}
func (clock) AwaitAfter(context.Context, truetime.Timestamp) error { return nil }
func (clock) Err() error                                           { return nil }

var nodes = []keys.NodeID{1, 2, 3}

func newDirectory(s *store) *Directory {
	return newDirectoryOn(1, s)
}

// newDirectoryOn is one of several at once: transactions of two nodes never share an id.
func newDirectoryOn(node keys.NodeID, s *store) *Directory {
	return New(Config{Node: node, Clock: clock{}, Dialer: s, Boot: Bootstrap(nodes), Logger: slog.New(slog.DiscardHandler)})
}

// d makes a descriptor.
func d(g keys.GroupID, gen uint64, start, end string) keys.Descriptor {
	desc := keys.Descriptor{Group: g, Generation: gen, Replicas: NewReplicas(nodes)}
	desc.Span = keys.Span{Start: keys.Key(start), End: keys.Key(end)}
	return desc
}

func show(descs []keys.Descriptor) (out []string) {
	for _, x := range descs {
		out = append(out, fmt.Sprintf("%d@%d[%q,%q)", x.Group, x.Generation, x.Span.Start, x.Span.End))
	}
	return out
}

func eq(t *testing.T, got, want any) {
	t.Helper()
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		t.Errorf("\n got %s\nwant %s", g, w)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestBootstrapIsTheSameEverywhere(t *testing.T) {
	a, b := Bootstrap([]keys.NodeID{3, 1, 2}), Bootstrap(nodes)
	eq(t, a, b)
	eq(t, show(a), `[1@1["\x00","\x02") 2@1["\x02","\xff\xff")]`)
	eq(t, a[1].Replicas, "[{1 1} {2 2} {3 3}]")
}

func TestRecordKeysKeepOrderAndArePrefixFree(t *testing.T) {
	ends := []string{"\x02", "\x02\x00", "\x02\x00\x00", "\x02\x00\x01", "\x02\x00\xff", "\x02\x01", "\x10", "\x10a", "\x10a\x00", "\x10ab", "\xff\xff"}
	for i := 1; i < len(ends); i++ {
		a, b := recordKey(keys.Key(ends[i-1])), recordKey(keys.Key(ends[i]))
		if bytes.Compare(a, b) >= 0 {
			t.Errorf("record of %q does not lie below that of %q", ends[i-1], ends[i])
		}
		if bytes.HasPrefix(b, a) {
			t.Errorf("record of %q is a prefix of that of %q", ends[i-1], ends[i])
		}
	}
}

func TestB1_PublishAndFind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		dir := newDirectory(newStore())
		find := func(key string, before bool) string {
			t.Helper()
			descs, err := dir.Find(ctx, keys.Key(key), before)
			check(t, err)
			return show(descs)[0]
		}
		// Before anything is published, the beginning is known.
		eq(t, find("\x10x", false), `2@1["\x02","\xff\xff")`)
		eq(t, find("\x01d", false), `1@1["\x00","\x02")`)
		all, err := dir.List(ctx)
		check(t, err)
		eq(t, len(all), 2)
		check(t, dir.Ensure(ctx))
		// 2 splits at m into 2 and 3, then 3 at p into 3 and 4; published late, twice
		// and out of order.
		check(t, dir.Publish(ctx, d(3, 3, "m", "p"), d(4, 3, "p", "\xff\xff")))
		check(t, dir.Publish(ctx, d(2, 2, "\x02", "m"), d(3, 2, "m", "\xff\xff")))
		check(t, dir.Publish(ctx, d(2, 2, "\x02", "m"), d(3, 2, "m", "\xff\xff")))
		check(t, dir.Ensure(ctx))
		all, err = dir.List(ctx)
		check(t, err)
		eq(t, show(all), `[1@1["\x00","\x02") 2@2["\x02","m") 3@3["m","p") 4@3["p","\xff\xff")]`)
		for _, tc := range []struct {
			key    string
			before bool
			want   keys.GroupID
		}{{"a", false, 2}, {"m", false, 3}, {"m", true, 2}, {"m\x00", true, 3}, {"o", false, 3}, {"p", true, 3}, {"p", false, 4}, {"\xff\xff", true, 4}, {"\x02", true, 1}} {
			descs, err := dir.Find(ctx, keys.Key(tc.key), tc.before)
			check(t, err)
			if descs[0].Group != tc.want {
				t.Errorf("%q (before %v) is in group %d, want %d", tc.key, tc.before, descs[0].Group, tc.want)
			}
		}
		for _, key := range []string{"\xff\xff", "\xff\xff\xff", ""} {
			if _, err := dir.Find(ctx, keys.Key(key), false); err == nil {
				t.Errorf("%q was found", key)
			}
		}
	})
}

// A parent's old descriptor and its child's new one stand under one key.
func TestB1_PublishTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		dir := newDirectory(newStore())
		check(t, dir.Publish(ctx, d(3, 2, "m", "\xff\xff"), d(2, 1, "\x02", "\xff\xff"), d(2, 2, "\x02", "m")))
		all, err := dir.List(ctx)
		check(t, err)
		eq(t, show(all), `[2@2["\x02","m") 3@2["m","\xff\xff")]`)
	})
}

func TestAllocateGroupIDNeverRepeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		s.fault = func(n int, method string, after bool) error {
			switch {
			case method == "Commit" && n%5 == 0:
				return errors.New("connection lost")
			case n%17 == 0 && after:
				s.leader = s.leader%3 + 1
				s.release() // locks die with their leader
			}
			return nil
		}
		var wg sync.WaitGroup
		var mu sync.Mutex
		seen := map[keys.GroupID]bool{}
		for node := keys.NodeID(1); node <= 4; node++ {
			dir := newDirectoryOn(node, s)
			wg.Go(func() {
				for range 20 {
					id, err := dir.AllocateGroupID(context.Background())
					mu.Lock()
					if err != nil || id <= keys.FirstGroup || seen[id] {
						t.Errorf("id %d: %v", id, err)
					}
					seen[id] = true
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		eq(t, len(seen), 80)
		for _, damaged := range [][]byte{nil, {numberFormat}, {numberFormat, 0x80}, {numberFormat, 1}, {numberFormat + 1, 90}, {90}} {
			s.data[string(counterKey)] = damaged
			if id, err := newDirectory(s).AllocateGroupID(context.Background()); err == nil {
				t.Errorf("counter %x gave id %d", damaged, id)
			}
		}
	})
}

// The cluster's version only rises, whoever raises it, and however often a lost
// answer makes a node try again.
func TestClusterVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		ctx := context.Background()
		read := func() version.Version {
			t.Helper()
			v, err := newDirectory(s).Version(ctx)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
		if v := read(); v != 0 {
			t.Errorf("a new directory has version %d", v)
		}
		lost := 0
		s.fault = func(n int, method string, after bool) error {
			if method == "Commit" && after && lost < 2 {
				lost++
				return &tablet.AmbiguousError{}
			}
			return nil
		}
		var wg sync.WaitGroup
		for v := range version.Version(5) {
			wg.Go(func() {
				if got, err := newDirectoryOn(keys.NodeID(v+1), s).RaiseVersion(ctx, v+1); err != nil || got < v+1 {
					t.Errorf("raised to %d, it is %d: %v", v+1, got, err)
				}
			})
		}
		wg.Wait()
		if v := read(); v != 5 || lost == 0 {
			t.Errorf("version %d after %d lost answers", v, lost)
		}
		if v, err := newDirectory(s).RaiseVersion(ctx, 3); v != 5 || err != nil {
			t.Errorf("raised to less: %d, %v", v, err)
		}
		s.data[string(versionKey)] = []byte{numberFormat, 0}
		if v, err := newDirectory(s).Version(ctx); err == nil {
			t.Errorf("a damaged record gave version %d", v)
		}
	})
}

func TestDirectoryOutOfReach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		s.leader = 9
		dir := newDirectory(s)
		start := time.Now()
		_, err := dir.Find(context.Background(), keys.Key("x"), false)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 10*time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
	})
}

func TestPublisherGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		s.leader = 9
		dir := newDirectory(s)
		p := NewPublisher(dir)
		p.Enqueue(d(2, 2, "\x02", "m"), d(3, 2, "m", "\xff\xff"))
		time.Sleep(time.Minute)
		s.mu.Lock()
		s.leader = 2
		s.mu.Unlock()
		p.Enqueue(d(3, 3, "m", "t"), d(4, 3, "t", "\xff\xff"))
		time.Sleep(time.Minute)
		all, err := dir.List(context.Background())
		check(t, err)
		eq(t, show(all), `[2@2["\x02","m") 3@3["m","t") 4@3["t","\xff\xff")]`)
		p.Enqueue()
		p.Close()
	})
}

// source answers from a list and counts.
type source struct {
	mu    sync.Mutex
	descs []keys.Descriptor
	calls int
	err   error
}

func (s *source) Find(_ context.Context, key keys.Key, before bool) ([]keys.Descriptor, error) {
	time.Sleep(time.Millisecond) // virtual: others come to wait for the same
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	for i, x := range s.descs {
		if x.Span.Contains(key) && !(before && bytes.Equal(x.Span.Start, key)) || before && bytes.Equal(x.Span.End, key) {
			return s.descs[i:min(i+2, len(s.descs))], s.err
		}
	}
	return nil, errors.New("nowhere")
}

func TestCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		root := Bootstrap(nodes)[0]
		src := &source{descs: []keys.Descriptor{root, d(2, 2, "\x02", "m"), d(3, 2, "m", "t"), d(4, 2, "t", "\xff\xff")}}
		c := NewCache(src, 0, root)
		lookup := func(key string, before bool) keys.GroupID {
			t.Helper()
			f := c.Lookup
			if before {
				f = c.LookupBefore
			}
			desc, err := f(ctx, keys.Key(key))
			check(t, err)
			return desc.Group
		}
		eq(t, lookup("\x01d", false), 1)
		eq(t, src.calls, 0)
		// Concurrent misses of one key share one look-up.
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if desc, err := c.Lookup(ctx, keys.Key("a")); err != nil || desc.Group != 2 {
					t.Errorf("%v, %v", desc, err)
				}
			})
		}
		wg.Wait()
		eq(t, src.calls, 1)
		eq(t, lookup("m", false), 3) // came along
		eq(t, lookup("m", true), 2)
		eq(t, src.calls, 1)
		eq(t, lookup("t", true), 3)
		eq(t, lookup("z", false), 4)
		eq(t, src.calls, 2)
		// A RangeError teaches; what is older is ignored, whatever overlaps is evicted.
		c.Update(d(3, 3, "m", "p"), d(5, 3, "p", "t"))
		c.Update(d(3, 2, "m", "t"), d(2, 1, "\x02", "\xff\xff"), keys.Descriptor{Group: 7, Generation: 9})
		eq(t, show(c.Cached())[1:], `[2@2["\x02","m") 3@3["m","p") 5@3["p","t") 4@2["t","\xff\xff")]`)
		// The source lags behind: what is known better stays.
		c.Evict(keys.Key("q"))
		eq(t, lookup("q", false), 3) // the old tablet, which will refuse with the newer map
		c.Evict(keys.Key("\x01"))
		eq(t, lookup("\x01d", false), 1)
		c.Evict(keys.Key("nowhere"))
		if _, err := c.Lookup(ctx, keys.Key("\xff\xff")); err == nil {
			t.Error("found what is nowhere")
		}
		gone, cancel := context.WithCancel(ctx)
		cancel()
		c.Evict(keys.Key("a"))
		if _, err := c.Lookup(gone, keys.Key("a")); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled look-up: %v", err)
		}
		time.Sleep(time.Second)
		eq(t, lookup("a", false), 2) // its look-up went on for others
	})
}

func BenchmarkCacheLookup(b *testing.B) {
	c := NewCache(nil, 0)
	for i := range 1000 {
		c.Update(d(keys.GroupID(i+10), 1, fmt.Sprintf("\x10%04d", i), fmt.Sprintf("\x10%04d", i+1)))
	}
	key := keys.Key("\x100500x")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Lookup(context.Background(), key); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzDescriptor(f *testing.F) {
	for _, x := range Bootstrap(nodes) {
		f.Add(AppendDescriptor(nil, &x))
	}
	f.Add([]byte{})
	f.Add([]byte{descriptorVersion + 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := DecodeDescriptor(b)
		if err != nil {
			return
		}
		y, err := DecodeDescriptor(AppendDescriptor(nil, &x))
		if err != nil || fmt.Sprint(x) != fmt.Sprint(y) {
			t.Fatalf("%v became %v (%v)", x, y, err)
		}
	})
}
