package cell

import (
	"context"
	"slices"
	"strings"

	"github.com/spandb/spand/lockservice/cell/state"
	"github.com/spandb/spand/truetime"
)

// Clients' caches (paper 2.7). Who caches what is in the leader's memory. A change
//
//  1. marks what it changes: from now on nobody is told that an answer about it may be cached,
//  2. tells those who cache it to forget it,
//  3. waits until each has done so, or its lease is over, and its cache with it; also for those that an
//     earlier change told, whatever became of that one,
//  4. is proposed; when that is applied or has failed, the mark goes.
//
// An answer that may be cached was registered before it was read, and was still registered
// afterwards. It can meet an invalidation on its way to the client: a client does not cache the
// answer to a call during which what it is about was invalidated.
//
// A new leader does not know who caches. Sessions that may are strangers until they say that they
// know the new epoch, and so have dropped their caches: until then every change waits.
type caches struct {
	of       map[string]map[*session]struct{} // who caches a path, or that there is nothing at it
	changing map[string]int                   // changes under way
	// owed are the invalidations of a path that have not been acknowledged: until then a cache may
	// still answer with what it had, however many changes have gone by.
	owed map[string]map[*invalidation]struct{}
	// strangers counts sessions that may cache anything; waiting are changes that wait for them.
	strangers int
	waiting   []*change
	// last invalidation's number. It begins with the term: acknowledgements meant for an
	// earlier leader are lower.
	last uint64
}

func (c *caches) init(term uint64) {
	c.of, c.changing = make(map[string]map[*session]struct{}), make(map[string]int)
	c.owed = make(map[string]map[*invalidation]struct{})
	c.last = term << 32
}

// change is what stands between a command and its proposal.
type change struct {
	paths []string
	waits int           // acknowledgements that are due
	ready chan struct{} // closed at 0
}

// invalidation of one path at one session.
type invalidation struct {
	number uint64
	path   string
	by     []*change          // who waits
	since  truetime.Timestamp // when it became due
}

// parentOf returns the directory that path is in, "" for a cell's root.
func parentOf(path string) string {
	i := strings.LastIndexByte(path, '/')
	if i <= len("/ls") {
		return ""
	}
	return path[:i]
}

// changedBy lists the paths about which cached answers change when the node at path comes or goes:
// it, its directory's listing and Stat, and so the listing that this Stat is in.
func changedBy(path string) []string {
	paths := []string{path}
	for range 2 {
		if path = parentOf(path); path == "" {
			break
		}
		paths = append(paths, path)
	}
	return paths
}

// changedIn lists the same for a change of the node itself.
func changedIn(path string) []string {
	if p := parentOf(path); p != "" {
		return []string{path, p}
	}
	return []string{path}
}

// changeLocked begins a change of what is cached about paths; nil: of nothing.
func (l *leader) changeLocked(paths []string, out *outgoing) *change {
	if len(paths) == 0 {
		return nil
	}
	c := &l.cache
	ch := &change{paths: paths, ready: make(chan struct{})}
	for _, p := range paths {
		c.changing[p]++
		for v := range c.owed[p] {
			v.by = append(v.by, ch)
			ch.waits++
		}
		l.invalidateLocked(p, ch, out)
	}
	if c.strangers > 0 {
		ch.waits++
		c.waiting = append(c.waiting, ch)
	}
	if ch.waits == 0 {
		close(ch.ready)
	}
	return ch
}

// invalidateLocked tells all who cache path to forget it.
func (l *leader) invalidateLocked(path string, ch *change, out *outgoing) {
	who := l.cache.of[path]
	delete(l.cache.of, path)
	for s := range who {
		delete(s.box.cached, path)
		if s.ending {
			continue // its cache is over
		}
		l.cache.last++
		v := &invalidation{number: l.cache.last, path: path, since: l.clock.Now().Earliest}
		if ch != nil {
			v.by = append(v.by, ch)
			ch.waits++
		}
		s.box.stale = append(s.box.stale, v)
		owed := l.cache.owed[path]
		if owed == nil {
			owed = make(map[*invalidation]struct{})
			l.cache.owed[path] = owed
		}
		owed[v] = struct{}{}
		l.tellLocked(s, out)
	}
}

// awaitChange waits until nobody caches what ch changes.
func (l *leader) awaitChange(ctx context.Context, ch *change) error {
	if ch == nil || BreakInvalidate {
		return nil
	}
	return l.await(ctx, ch.ready)
}

// settledLocked ends a change. What it made caches forget stays owed.
func (l *leader) settledLocked(ch *change) {
	if ch == nil {
		return
	}
	c := &l.cache
	for _, p := range ch.paths {
		if c.changing[p]--; c.changing[p] == 0 {
			delete(c.changing, p)
		}
		if ch.waits > 0 { // given up
			for v := range c.owed[p] {
				v.by = slices.DeleteFunc(v.by, func(o *change) bool { return o == ch })
			}
		}
	}
	if ch.waits > 0 {
		c.waiting = slices.DeleteFunc(c.waiting, func(o *change) bool { return o == ch })
	}
}

// paid takes an invalidation off the list of those that are owed.
func (c *caches) paid(v *invalidation) {
	owed := c.owed[v.path]
	if delete(owed, v); len(owed) == 0 {
		delete(c.owed, v.path)
	}
	for _, ch := range v.by {
		ch.acknowledged()
	}
}

func (ch *change) acknowledged() {
	if ch.waits--; ch.waits == 0 {
		close(ch.ready)
	}
}

// ackLocked: the session has carried out invalidations up to number.
func (l *leader) ackLocked(s *session, number uint64) {
	b := s.box
	i := 0
	for i < len(b.stale) && b.stale[i].number <= number {
		l.cache.paid(b.stale[i])
		i++
	}
	if i == len(b.stale) {
		b.stale = nil
	} else {
		b.stale = b.stale[i:]
	}
}

// overdueLocked reports whether a session has lived for longer than its lease without carrying out
// an invalidation, or telling that it knows the epoch. Writers wait for it: it is not
// renewed any more, as if it were dead.
func (l *leader) overdueLocked(s *session, now truetime.Timestamp) bool {
	if s.stranger && l.born.Add(s.given) < now {
		return true
	}
	return s.box != nil && len(s.box.stale) > 0 && s.box.stale[0].since.Add(s.given) < now
}

// knownLocked: the session caches nothing that an earlier leader told it.
func (l *leader) knownLocked(s *session) {
	if !s.stranger {
		return
	}
	s.stranger = false
	c := &l.cache
	if c.strangers--; c.strangers > 0 {
		return
	}
	for _, ch := range c.waiting {
		ch.acknowledged()
	}
	c.waiting = nil
}

// registerLocked notes that s will cache what it is told about path next, if it may.
func (l *leader) registerLocked(s *session, path string) bool {
	c := &l.cache
	if !s.caches || s.stranger || s.ending || c.changing[path] > 0 {
		return false
	}
	b := s.have()
	if _, ok := b.cached[path]; ok {
		return true
	}
	// Who may not read is not told of changes by invalidations either (denied.go).
	l.c.mu.RLock()
	may := l.c.st.MayHear(s.principal, path, 0)
	l.c.mu.RUnlock()
	if !may {
		return false
	}
	if b.cached == nil {
		b.cached = make(map[string]struct{})
	}
	if len(b.cached) >= maxCached {
		return false
	}
	b.cached[path] = struct{}{}
	who := c.of[path]
	if who == nil {
		who = make(map[*session]struct{})
		c.of[path] = who
	}
	who[s] = struct{}{}
	return true
}

// maxCached bounds the paths that one session caches; beyond, answers are not to be cached.
const maxCached = 100_000

// registered reports whether s may still cache what it registered.
func (l *leader) registered(s *session, path string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.ending || s.box == nil {
		return false
	}
	_, ok := s.box.cached[path]
	return ok
}

// forget drops all that a session cached.
func (c *caches) forget(s *session) {
	for p := range s.box.cached {
		who := c.of[p]
		if delete(who, s); len(who) == 0 {
			delete(c.of, p)
		}
	}
	s.box.cached = nil
}

// change carries out a command that changes cached answers about paths, resting on fence.
func (l *leader) change(ctx context.Context, cmd *state.Command, paths []string, fence *promise) (*state.Result, error) {
	return l.changeThen(ctx, cmd, paths, fence, func() {})
}

// changeThen is change; then runs once, with l.mu held, when the outcome is known or there
// will be none.
func (l *leader) changeThen(ctx context.Context, cmd *state.Command, paths []string, fence *promise, then func()) (*state.Result, error) {
	var out outgoing
	l.mu.Lock()
	ch := l.changeLocked(paths, &out)
	out.sendLocked(l)
	l.mu.Unlock()
	over := func() {
		l.mu.Lock()
		l.settledLocked(ch)
		then()
		l.mu.Unlock()
	}
	err := l.awaitChange(ctx, ch)
	if err == nil && ctx.Err() != nil {
		err = gaveUp(ctx) // nobody hears what comes of it
	}
	if err != nil {
		over()
		return nil, err
	}
	return l.carry(ctx, cmd, fence.until(), func(*state.Result, error) { over() })
}
