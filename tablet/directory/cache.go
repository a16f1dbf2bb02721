package directory

import (
	"bytes"
	"context"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spandb/spand/internal/keys"
)

// Source answers the cache's misses; *Directory is one.
type Source interface {
	Find(ctx context.Context, key keys.Key, before bool) ([]keys.Descriptor, error)
}

// Cache is a gateway's map of the keyspace. It holds descriptors that do not
// overlap, the newest generation known of every key (see the package comment), and
// asks Source for what is missing. All methods may be called concurrently.
type Cache struct {
	src     Source
	timeout time.Duration
	// local, if set, finds a tablet among the replicas on this node, by the key it
	// holds or (before) the greatest keys below.
	local func(key keys.Key, before bool) (keys.Descriptor, bool)

	// view is never changed in place: a look-up loads it and searches, lock-free.
	// Sorted by Span.End, no two overlap.
	view atomic.Pointer[[]keys.Descriptor]

	mu      sync.Mutex // guards replacing view, and flights
	flights map[flightKey]*flight
}

type flightKey struct {
	key    string
	before bool
}

// flight is one look-up in progress that any number of callers wait for.
type flight struct {
	done  chan struct{}
	descs []keys.Descriptor
	err   error
}

// NewCache returns a cache over src that begins with descs (the directory
// tablet's own at least, which src cannot be asked for). Timeout bounds a look-up; 0: 10 s.
func NewCache(src Source, timeout time.Duration, descs ...keys.Descriptor) *Cache {
	if timeout == 0 {
		timeout = 10 * time.Second
	}
	c := &Cache{src: src, timeout: timeout, flights: map[flightKey]*flight{}}
	c.view.Store(&[]keys.Descriptor{})
	c.Update(descs...)
	return c
}

// UseLocal has look-ups that the source leaves waiting for a second answered by what
// this node knows of its own replicas, so that reads in the past need no majority. What
// it knows may be old, as anything cached may. Call it before the first look-up.
func (c *Cache) UseLocal(find func(key keys.Key, before bool) (keys.Descriptor, bool)) {
	c.local = find
}

// sourceAlone is how long the source has until local is asked.
const sourceAlone = time.Second

// Lookup returns the descriptor of the tablet that holds key.
func (c *Cache) Lookup(ctx context.Context, key keys.Key) (keys.Descriptor, error) {
	view := *c.view.Load()
	if i := firstEndAbove(view, key); i < len(view) && bytes.Compare(view[i].Span.Start, key) <= 0 {
		return view[i], nil
	}
	return c.miss(ctx, key, false)
}

// LookupBefore returns the descriptor of the tablet that holds the greatest
// keys below key: where a backward scan from key begins.
func (c *Cache) LookupBefore(ctx context.Context, key keys.Key) (keys.Descriptor, error) {
	view := *c.view.Load()
	if i := firstEndAtOrAbove(view, key); i < len(view) && bytes.Compare(view[i].Span.Start, key) < 0 {
		return view[i], nil
	}
	return c.miss(ctx, key, true)
}

func firstEndAbove(view []keys.Descriptor, key keys.Key) int {
	return sort.Search(len(view), func(i int) bool { return bytes.Compare(view[i].Span.End, key) > 0 })
}

func firstEndAtOrAbove(view []keys.Descriptor, key keys.Key) int {
	return sort.Search(len(view), func(i int) bool { return bytes.Compare(view[i].Span.End, key) >= 0 })
}

// miss asks the source, together with whoever asks for the same key meanwhile.
// The look-up does not die with the first caller's context.
func (c *Cache) miss(ctx context.Context, key keys.Key, before bool) (keys.Descriptor, error) {
	fk := flightKey{string(key), before}
	c.mu.Lock()
	f := c.flights[fk]
	if f == nil {
		f = &flight{done: make(chan struct{})}
		c.flights[fk] = f
		go c.fly(context.WithoutCancel(ctx), fk, f)
	}
	c.mu.Unlock()
	select {
	case <-f.done:
	case <-ctx.Done():
		return keys.Descriptor{}, ctx.Err()
	}
	if f.err != nil {
		return keys.Descriptor{}, f.err
	}
	// The source's records can lag behind what a RangeError taught the cache.
	view := *c.view.Load()
	i := firstEndAbove(view, key)
	if before {
		i = firstEndAtOrAbove(view, key)
	}
	if i < len(view) {
		if d := bytes.Compare(view[i].Span.Start, key); d < 0 || d == 0 && !before {
			return view[i], nil
		}
	}
	return f.descs[0], nil
}

func (c *Cache) fly(ctx context.Context, fk flightKey, f *flight) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	f.descs, f.err = c.find(ctx, keys.Key(fk.key), fk.before)
	if f.err == nil {
		c.Update(f.descs...)
	}
	c.mu.Lock()
	delete(c.flights, fk)
	c.mu.Unlock()
	close(f.done)
}

func (c *Cache) find(ctx context.Context, key keys.Key, before bool) ([]keys.Descriptor, error) {
	if c.local == nil {
		return c.src.Find(ctx, key, before)
	}
	short, cancel := context.WithTimeout(ctx, min(c.timeout, sourceAlone))
	descs, err := c.src.Find(short, key, before)
	cancel()
	if err == nil {
		return descs, nil
	}
	if d, ok := c.local(key, before); ok {
		return []keys.Descriptor{d}, nil
	}
	return c.src.Find(ctx, key, before)
}

// Update learns descriptors. One that overlaps a cached one of the same or a
// higher generation is ignored (same group and generation: nothing new); otherwise
// it evicts what it overlaps.
func (c *Cache) Update(descs ...keys.Descriptor) {
	if len(descs) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	view := *c.view.Load()
	for i := range descs {
		view = insert(view, descs[i])
	}
	c.view.Store(&view)
}

func insert(view []keys.Descriptor, d keys.Descriptor) []keys.Descriptor {
	if bytes.Compare(d.Span.Start, d.Span.End) >= 0 {
		return view
	}
	lo := firstEndAbove(view, d.Span.Start)
	hi := lo
	for hi < len(view) && bytes.Compare(view[hi].Span.Start, d.Span.End) < 0 {
		if view[hi].Generation >= d.Generation {
			return view
		}
		hi++
	}
	out := make([]keys.Descriptor, 0, len(view)+1-(hi-lo))
	out = append(out, view[:lo]...)
	out = append(out, d)
	return append(out, view[hi:]...)
}

// Evict drops what is cached for key, but for the directory tablet, which
// could not be found again.
func (c *Cache) Evict(key keys.Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	view := *c.view.Load()
	i := firstEndAbove(view, key)
	if i == len(view) || bytes.Compare(view[i].Span.Start, key) > 0 || view[i].Group == keys.DirectoryGroup {
		return
	}
	out := make([]keys.Descriptor, 0, len(view)-1)
	out = append(out, view[:i]...)
	out = append(out, view[i+1:]...)
	c.view.Store(&out)
}

// Cached returns what the cache holds, in key order. The caller must not change it.
func (c *Cache) Cached() []keys.Descriptor { return *c.view.Load() }
