package parse

import (
	"hash/maphash"
	"sync"
	"sync/atomic"

	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/parse/pglex"
)

const (
	cacheShards = 16
	// maxCachedText keeps bulk statements out: they rarely repeat.
	maxCachedText = 16 << 10
	// maxVariants is how many sets of pinned values one key may have.
	maxVariants = 8
	// shapeCost is what a shape holds, in bytes per byte of its text, roughly:
	// the tree, the respelled text, the key.
	shapeCost = 24
)

// Cache keeps the trees of statements by their shape, so that a statement that
// differs from an earlier one in its constants only is lexed but not parsed.
// It is bounded in shapes and bytes and safe for concurrent use.
//
// A key is the statement's tokens with constants replaced by their kind. Where
// a tree depends on a constant's value (ORDER BY 1) the key has one variant
// for each value seen.
type Cache struct {
	seed   maphash.Seed
	hits   atomic.Uint64
	misses atomic.Uint64
	shards [cacheShards]cacheShard
}

// cacheShard guards its fields with mu; entries are never changed once stored.
type cacheShard struct {
	mu       sync.RWMutex
	m        map[string]*cacheEntry
	clock    []*cacheEntry // second-chance ring
	hand     int
	bytes    int
	maxBytes int
	max      int
}

type cacheEntry struct {
	key      string
	variants []*shape // at least one; immutable slice, replaced as a whole
	cost     int
	used     atomic.Bool
}

// NewCache makes a cache of at most about maxShapes shapes and maxBytes bytes;
// values below 16 are taken as 16 shapes, below 1 MiB as 1 MiB.
func NewCache(maxShapes, maxBytes int) *Cache {
	c := &Cache{seed: maphash.MakeSeed()}
	for i := range c.shards {
		s := &c.shards[i]
		s.m = make(map[string]*cacheEntry)
		s.max = max(maxShapes/cacheShards, 1)
		s.maxBytes = max(maxBytes, 1<<20) / cacheShards
	}
	return c
}

// Stats returns how many statements came out of the cache and how many did not.
func (c *Cache) Stats() (hits, misses uint64) { return c.hits.Load(), c.misses.Load() }

// Len returns the number of cached keys.
func (c *Cache) Len() int {
	n := 0
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.RLock()
		n += len(s.m)
		s.mu.RUnlock()
	}
	return n
}

func (c *Cache) shard(key []byte) *cacheShard {
	return &c.shards[maphash.Bytes(c.seed, key)%cacheShards]
}

// scratch is one look-up's working memory.
type scratch struct {
	key  []byte
	lits []literal
	out  []*pgast.Statement
}

// literal is a constant met while the key was built.
type literal struct {
	text string
	neg  string // text with the minus sign before it, if that is adjacent
}

var scratchPool = sync.Pool{New: func() any { return &scratch{key: make([]byte, 0, 1024), lits: make([]literal, 0, 32)} }}

// Parse is the package's Parse through the cache.
func (c *Cache) Parse(sql string) ([]*pgast.Statement, error) {
	if len(sql) <= maxCachedText {
		if err := checkText(sql); err != nil {
			return nil, err
		}
		s := scratchPool.Get().(*scratch)
		out, ok := c.lookup(s, sql)
		clear(s.lits[:cap(s.lits)])
		clear(s.out[:cap(s.out)])
		scratchPool.Put(s)
		if ok {
			c.hits.Add(1)
			return out, nil
		}
	}
	c.misses.Add(1)
	return parseAll(sql, c)
}

// lookup lexes sql and finds all its statements in the cache, or none.
func (c *Cache) lookup(s *scratch, sql string) ([]*pgast.Statement, bool) {
	var sc pglex.Scanner
	var t pglex.Token
	sc.Init(sql)
	s.key, s.lits, s.out = s.key[:0], s.lits[:0], s.out[:0]
	depth, start, end := 0, -1, 0
	minus := -1 // where a minus sign directly before this token starts
	var single *found
	for {
		if err := sc.Next(&t); err != nil {
			return nil, false
		}
		last := t.Kind == pglex.EOF
		if last || t.Kind == pglex.Punct && t.Text == ";" && depth <= 0 {
			if start >= 0 {
				st := c.find(s, sql[start:end])
				if st == nil {
					return nil, false
				}
				if single != nil && len(s.out) == 0 {
					s.out = append(s.out, &single.Statement)
				}
				if single == nil {
					single = st
				} else {
					s.out = append(s.out, &st.Statement)
				}
			}
			if last {
				break
			}
			s.key, s.lits = s.key[:0], s.lits[:0]
			depth, start, minus = 0, -1, -1
			continue
		}
		if start < 0 {
			start = int(t.Start)
		}
		switch t.Kind {
		case pglex.Punct:
			switch t.Text {
			case "(":
				depth++
			case ")":
				depth--
			}
		case pglex.Int, pglex.Num, pglex.Str, pglex.Bit:
			l := literal{text: t.Text}
			if minus >= 0 && end == int(t.Start) {
				l.neg = sql[minus:t.End]
			}
			s.lits = append(s.lits, l)
		}
		minus = -1
		if t.Kind == pglex.Op && t.Text == "-" {
			minus = int(t.Start)
		}
		end = int(t.End)
		s.key = appendKey(s.key, &t)
	}
	switch {
	case single == nil:
		return nil, true
	case len(s.out) == 0:
		single.ptr[0] = &single.Statement
		return single.ptr[:], true
	}
	return append([]*pgast.Statement(nil), s.out...), true
}

// found is a Statement with room for its constants, one allocation.
type found struct {
	pgast.Statement
	ptr  [1]*pgast.Statement
	vals [4]pgast.Value
}

// find makes a Statement out of the cached shape for the key in s, nil if there is none.
func (c *Cache) find(s *scratch, sql string) *found {
	sd := c.shard(s.key)
	sd.mu.RLock()
	e := sd.m[string(s.key)]
	var vs []*shape
	if e != nil {
		vs = e.variants
	}
	sd.mu.RUnlock()
	if e == nil {
		return nil
	}
	if !e.used.Load() {
		e.used.Store(true)
	}
	for _, sh := range vs {
		if sh.matches(s.lits) {
			return sh.bind(sql, s.lits)
		}
	}
	return nil
}

func (s *shape) matches(lits []literal) bool {
	for i, n := range s.pinned {
		if lits[n].text != s.pins[i] {
			return false
		}
	}
	return true
}

// bind puts lits into the shape's slots. The tree's positions are offsets in
// another text, which Tokens lets Statement.Offset map.
func (s *shape) bind(sql string, lits []literal) *found {
	f := &found{}
	f.SQL, f.Shape, f.Tree, f.NumParams, f.Tokens = sql, s.name, s.tree, s.params, s.offs
	f.AsOf = s.asOf
	n := len(s.slots)
	if n == 0 {
		return f
	}
	vals := f.vals[:0:len(f.vals)]
	if n > len(f.vals) {
		vals = make([]pgast.Value, 0, n)
	}
	for i := range s.slots {
		sl := &s.slots[i]
		v := pgast.Value{Kind: sl.Kind}
		switch {
		case i >= s.nlit:
			v.Text = sl.Text
		case !sl.Neg:
			v.Text = lits[i].text
		case lits[i].neg != "":
			v.Text = lits[i].neg
		default:
			v.Text = "-" + lits[i].text
		}
		vals = append(vals, v)
	}
	f.Consts = vals
	return f
}

// cacheable reports whether statements of one shape can share s's tree: those
// that keep source text or run once are left out.
func (s *shape) cacheable() bool {
	switch t := s.tree.(type) {
	case *pgast.Select, *pgast.Insert, *pgast.Update, *pgast.Delete, *pgast.Transaction, *pgast.ShowVar, *pgast.SetVar,
		*pgast.Execute, *pgast.Deallocate, *pgast.Declare, *pgast.Fetch, *pgast.Close, *pgast.Listen, *pgast.Lock, *pgast.Discard:
		return true
	case *pgast.Explain:
		switch t.Stmt.(type) {
		case *pgast.Select, *pgast.Insert, *pgast.Update, *pgast.Delete, *pgast.Execute:
			return true
		}
	}
	return false
}

// put stores a shape.
func (c *Cache) put(sh *shape) {
	if len(sh.key) > maxCachedText || !sh.cacheable() {
		return
	}
	sd := c.shard([]byte(sh.key))
	cost := len(sh.key)*shapeCost + 512
	sd.mu.Lock()
	defer sd.mu.Unlock()
	if e := sd.m[sh.key]; e != nil {
		for _, v := range e.variants {
			if v.name == sh.name {
				return
			}
		}
		vs := append([]*shape{sh}, e.variants...)
		if len(vs) > maxVariants {
			vs = vs[:maxVariants]
		} else {
			e.cost += cost
			sd.bytes += cost
		}
		e.variants = vs
		return
	}
	e := &cacheEntry{key: sh.key, variants: []*shape{sh}, cost: cost}
	sd.m[sh.key] = e
	sd.clock = append(sd.clock, e)
	sd.bytes += cost
	for len(sd.clock) > 1 && (len(sd.clock) > sd.max || sd.bytes > sd.maxBytes) {
		sd.evict(e)
	}
}

// evict drops the first entry, other than keep, that was not used since the
// hand last passed it. The caller holds mu.
func (sd *cacheShard) evict(keep *cacheEntry) {
	for {
		if sd.hand >= len(sd.clock) {
			sd.hand = 0
		}
		e := sd.clock[sd.hand]
		if e == keep || e.used.Swap(false) {
			sd.hand++
			continue
		}
		delete(sd.m, e.key)
		sd.bytes -= e.cost
		last := len(sd.clock) - 1
		sd.clock[sd.hand] = sd.clock[last]
		sd.clock[last] = nil
		sd.clock = sd.clock[:last]
		return
	}
}
