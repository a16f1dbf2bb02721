package state

// DefaultQuota bounds a cell unless SetQuota on its root says otherwise.
var DefaultQuota = Quota{Bytes: 64 << 20, Nodes: 100_000}

// limit is a directory's quota; the root's is never unbounded.
func (s *State) limit(n *node) Quota {
	q := n.dir.quota
	if n == s.rootNode {
		if q.Bytes == 0 {
			q.Bytes = DefaultQuota.Bytes
		}
		if q.Nodes == 0 {
			q.Nodes = DefaultQuota.Nodes
		}
	}
	return q
}

// afford refuses what would take a directory, or one above it, beyond its quota.
func (s *State) afford(dir *node, bytes, nodes uint64) *Error {
	for d := dir; d != nil; d = d.parent {
		q, u := s.limit(d), d.dir.used
		if q.Bytes != 0 && bytes > 0 && u.Bytes+bytes > q.Bytes {
			return refuse(QuotaExceeded, d.path, "%d bytes more would exceed the quota of %s: %d of %d bytes are used", bytes, d.path, u.Bytes, q.Bytes)
		}
		if q.Nodes != 0 && nodes > 0 && u.Nodes+nodes > q.Nodes {
			return refuse(QuotaExceeded, d.path, "one node more would exceed the quota of %s: %d of %d nodes are used", d.path, u.Nodes, q.Nodes)
		}
	}
	return nil
}

// charge adds to what a directory and those above it use.
func (s *State) charge(dir *node, bytes, nodes int64) {
	for d := dir; d != nil; d = d.parent {
		d.dir.used.Bytes += uint64(bytes)
		d.dir.used.Nodes += uint64(nodes)
	}
}

func (a *change) setQuota() (*node, *Error) {
	c := a.c
	if _, err := a.asking(); err != nil {
		return nil, err
	}
	n, err := a.find(c.Path, c.Instance)
	if err != nil {
		return nil, err
	}
	if n.dir == nil {
		return nil, refuse(NotDirectory, n.path, "%s is a file; directories have quotas", n.path)
	}
	if err := a.permit(c.Principal, n, Change); err != nil {
		return nil, err
	}
	n.dir.quota = c.Quota
	a.touch(n)
	return n, nil
}

// touch notes a change of a node that is no event.
func (a *change) touch(n *node) {
	a.revision++
	n.revision, n.modified = a.revision, a.ts
}
