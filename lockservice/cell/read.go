package cell

import (
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/spandb/spand/lockservice/cell/state"
	"github.com/spandb/spand/lockservice/lockpb"
)

// Reads are linearizable: the state is looked at first, then the lease. While that holds nobody
// else has changed anything, and everything acknowledged here is in the state.

// stat reads what a handle names, if the principal may read it.
func (r *request) stat(h *lockpb.Handle) (*state.Info, error) {
	info, _, err := r.node(h, false)
	return info, err
}

func (r *request) node(h *lockpb.Handle, contents bool) (*state.Info, []byte, error) {
	c := r.l.c
	info, data, err := c.read(h.GetPath(), h.GetInstance(), contents)
	if err == nil {
		c.mu.RLock()
		serr := c.st.May(r.principal, h.GetPath(), state.Read)
		c.mu.RUnlock()
		if serr != nil {
			err = serr
		}
	}
	if err == nil {
		err = r.fenceRead(h)
	}
	if err != nil {
		return nil, nil, err
	}
	return info, data, nil
}

// caching reads what read reads in such a way that the caller's session may cache it: it is
// registered before, and must still be afterwards.
func (r *request) caching(h *lockpb.Handle, cache bool, read func() error) (cacheable bool, err error) {
	s, err := r.caller(h, false)
	if err != nil {
		return false, err
	}
	cache = cache && s != nil
	if cache {
		r.l.mu.Lock()
		cache = r.l.registerLocked(s, h.GetPath())
		r.l.mu.Unlock()
	}
	err = read()
	if cache {
		cache = r.l.registered(s, h.GetPath())
	}
	if verr := r.l.valid(); verr != nil {
		return false, verr
	}
	if why, ok := err.(*state.Error); ok && why.Reason == state.NodeNotFound && cache {
		return false, &absent{why}
	}
	return cache, err
}

// absent is a NODE_NOT_FOUND that the session may cache.
type absent struct{ why *state.Error }

func (e *absent) Error() string { return e.why.Message }
func (e *absent) Unwrap() error { return e.why }

func (r *request) getContentsAndStat(q *lockpb.GetRequest) (*lockpb.DoResponse_GetContentsAndStat, error) {
	a := &lockpb.GetContentsAndStatResponse{}
	var err error
	a.Cacheable, err = r.caching(q.GetHandle(), q.GetCache(), func() error {
		info, data, err := r.node(q.GetHandle(), true)
		if err == nil && info.Dir {
			err = refuse(state.IsDirectory, info.Path, "%s is a directory", info.Path)
		}
		if err == nil {
			a.Contents, a.Stat = data, statOf(info)
		}
		return err
	})
	return &lockpb.DoResponse_GetContentsAndStat{GetContentsAndStat: a}, err
}

func (r *request) getStat(q *lockpb.GetRequest) (*lockpb.DoResponse_GetStat, error) {
	a := &lockpb.GetStatResponse{}
	var err error
	a.Cacheable, err = r.caching(q.GetHandle(), q.GetCache(), func() error {
		info, err := r.stat(q.GetHandle())
		if err == nil {
			a.Stat = statOf(info)
		}
		return err
	})
	a.Cacheable = a.Cacheable && a.Stat.GetQuota() == nil // what is used changes unannounced
	return &lockpb.DoResponse_GetStat{GetStat: a}, err
}

// Bounds of lists: entries, and the bytes of an answer, but for its last entry. A client need not be ready for more
// than gRPC's default of 4 MiB.
const (
	defaultList = 1000
	maxList     = 10_000
	maxPage     = 1 << 20
)

func listLimit(n uint32) int {
	if n == 0 {
		return defaultList
	}
	return int(min(n, maxList))
}

// fit makes the entries of an answer of as much of a list as it may carry, and reports whether that is not all.
func fit[T any, E proto.Message](list []T, entry func(T) E) (page []E, cut bool) {
	page = make([]E, 0, len(list))
	size := 0
	for _, x := range list {
		if size >= maxPage {
			return page, true
		}
		e := entry(x)
		size += proto.Size(e)
		page = append(page, e)
	}
	return page, false
}

func (r *request) readDir(q *lockpb.ReadDirRequest) (*lockpb.DoResponse_ReadDir, error) {
	a := &lockpb.ReadDirResponse{}
	quotas := false
	var err error
	a.Cacheable, err = r.caching(q.GetHandle(), q.GetCache(), func() error {
		if _, err := r.stat(q.GetHandle()); err != nil {
			return err
		}
		c := r.l.c
		c.mu.RLock()
		list, more, serr := c.st.Children(q.GetHandle().GetPath(), q.GetAfter(), listLimit(q.GetLimit()))
		c.mu.RUnlock()
		if serr != nil {
			return serr
		}
		children, cut := fit(list, statOf)
		a.Children, a.More = children, more || cut
		quotas = slices.ContainsFunc(children, func(c *lockpb.Stat) bool { return c.Quota != nil })
		return nil
	})
	a.Cacheable = a.Cacheable && !quotas
	return &lockpb.DoResponse_ReadDir{ReadDir: a}, err
}

func statOf(i *state.Info) *lockpb.Stat {
	if i == nil {
		return nil
	}
	s := &lockpb.Stat{
		Path: i.Path, Directory: i.Dir, Ephemeral: i.Ephemeral,
		Instance: i.Instance, ContentGeneration: i.ContentGen, LockGeneration: i.LockGen, AclGeneration: i.ACLGen,
		Length: i.Length, Checksum: i.Checksum, Children: i.Children,
		Acl:      &lockpb.ACL{Read: i.ACL.Read, Write: i.ACL.Write, Change: i.ACL.Change},
		Revision: i.Revision, Modified: int64(i.Modified),
	}
	if i.Quota != (state.Quota{}) {
		s.Quota, s.Used = quotaOf(i.Quota), quotaOf(i.Used)
	}
	return s
}

func quotaOf(q state.Quota) *lockpb.Quota { return &lockpb.Quota{Bytes: q.Bytes, Nodes: q.Nodes} }

func aclIn(a *lockpb.ACL) *state.ACL {
	return &state.ACL{Read: a.GetRead(), Write: a.GetWrite(), Change: a.GetChange()}
}

func sequencerOf(h *state.Hold) *lockpb.Sequencer {
	q := new(lockpb.Sequencer)
	fillSequencer(q, h)
	return q
}

func fillSequencer(q *lockpb.Sequencer, h *state.Hold) {
	q.Path, q.Mode, q.Generation, q.Hold, q.Text = h.Path, lockpb.Mode_EXCLUSIVE, h.Generation, h.Number, h.Sequencer().String()
	if h.Mode == state.Shared {
		q.Mode = lockpb.Mode_SHARED
	}
}
