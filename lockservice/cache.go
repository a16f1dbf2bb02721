package lockservice

import (
	"sync"
)

// cacheBytes bounds what a session's cache holds, roughly.
const cacheBytes = 64 << 20

// cache is what a session has read and the server has promised to invalidate (paper 2.7). An
// entry may be used while the session's lease holds; whoever reads checks that after he has
// the entry. Entries are immutable and replaced as a whole.
//
// An invalidation may overtake the answer that it is about. So a read that may be cached is
// begun before it is sent, and stored only if nothing invalidated its path in between.
type cache struct {
	mu      sync.RWMutex
	entries map[string]*entry
	fills   map[string]*fill // of paths that are being read
	size    int
}

type entry struct {
	stat     *Stat
	contents []byte
	has      bool  // contents are in it
	absent   error // no node of that path; the rest is empty
	list     []Stat
	listed   bool
	instance uint64 // 0: not known
}

// fill is a read under way, shared by all readers of a path.
type fill struct {
	readers int
	stale   bool
}

func newCache() *cache {
	return &cache{entries: map[string]*entry{}, fills: map[string]*fill{}}
}

func (c *cache) get(path string) *entry {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.entries[path]
}

// begin notes a read that is about to be sent.
func (c *cache) begin(path string) *fill {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.fills[path]
	if f == nil {
		f = &fill{}
		c.fills[path] = f
	}
	f.readers++
	return f
}

// end stores what a read brought, if anything that may be kept (e not nil), joined with
// what is there already.
func (c *cache) end(path string, f *fill, e *entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.readers--; f.readers == 0 && c.fills[path] == f {
		delete(c.fills, path)
	}
	if f.stale || e == nil {
		return
	}
	old := c.entries[path]
	if old != nil && e.absent == nil && old.absent == nil {
		if !e.has && old.has && e.stat != nil && old.stat != nil && e.stat.sameContents(old.stat) {
			e.contents, e.has = old.contents, true
		}
		if !e.listed && old.listed {
			e.list, e.listed = old.list, true
		}
		if e.instance == 0 {
			e.instance = old.instance
		}
		if e.stat == nil {
			e.stat = old.stat
			if !e.has {
				e.contents, e.has = old.contents, old.has
			}
		}
	}
	c.size += e.weight() - old.weight()
	c.entries[path] = e
	for p, other := range c.entries {
		if c.size <= cacheBytes {
			break
		}
		if p != path {
			c.size -= other.weight()
			delete(c.entries, p)
		}
	}
}

// invalidate forgets paths; "" is everything.
func (c *cache) invalidate(paths []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range paths {
		if p == "" {
			c.dropLocked()
			return
		}
		c.size -= c.entries[p].weight()
		delete(c.entries, p)
		if f := c.fills[p]; f != nil {
			f.stale = true
			delete(c.fills, p)
		}
	}
}

// drop forgets everything.
func (c *cache) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dropLocked()
}

func (c *cache) dropLocked() {
	clear(c.entries)
	c.size = 0
	for _, f := range c.fills {
		f.stale = true
	}
	clear(c.fills)
}

func (e *entry) weight() int {
	if e == nil {
		return 0
	}
	return 512 + len(e.contents) + 384*len(e.list)
}
