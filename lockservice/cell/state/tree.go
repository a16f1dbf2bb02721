package state

import (
	"hash/crc64"

	"github.com/spandb/spand/truetime"
	"github.com/tidwall/btree"
)

// node is a file or directory.
type node struct {
	path   string
	parent *node // nil: the root

	instance, contentGen, lockGen, aclGen uint64
	contents                              uint64 // number in Contents; 0: empty
	length                                uint64
	checksum                              uint64
	revision                              uint64
	modified                              truetime.Timestamp
	acl                                   *ACL // shared between nodes, never changed in place
	// forgotten is the revision of the newest event of the path that the cell has forgotten, or a later
	// one, but none later than what it had forgotten when the node was made.
	forgotten uint64

	dir     *directory // nil: a file
	eph     *ephemeral // nil: permanent
	members *members   // of an ACL file
}

type directory struct {
	children    btree.Map[string, *node] // by name
	quota, used Quota                    // used: all below
}

// ephemeral is who holds an ephemeral node open. The node goes with the last of them, of
// the holds of its lock, and of its children.
type ephemeral struct {
	openers []opener // by session and handle
}

var crcTable = crc64.MakeTable(crc64.ECMA)

func (n *node) name() string {
	_, name := split(n.path)
	return name
}

// link enters a node under its path and in its parent.
func (s *State) link(n *node) {
	s.nodes[n.path] = n
	if n.parent != nil {
		n.parent.dir.children.Set(n.name(), n)
	}
}

// find returns the node at path, which must be instance unless that is 0.
func (s *State) find(path string, instance uint64) (*node, *Error) {
	n := s.nodes[path]
	switch {
	case n != nil && (instance == 0 || instance == n.instance):
		return n, nil
	case n != nil:
		return nil, refuse(StaleHandle, path, "%s was deleted and made again since the handle was opened", path)
	}
	if err := s.CheckPath(path); err != nil {
		return nil, err
	}
	if instance != 0 {
		return nil, refuse(StaleHandle, path, "%s was deleted since the handle was opened", path)
	}
	return nil, refuse(NodeNotFound, path, "%s does not exist", path)
}

func (a *change) open() (*node, bool, *Error) {
	c := a.c
	sess, err := a.asking()
	if err != nil {
		return nil, false, err
	}
	if sess != nil && sess.closed(c.Handle) {
		return nil, false, refuse(StaleHandle, c.Path, "handle %d was closed: this open of %s comes too late", c.Handle, c.Path)
	}
	n, err := a.find(c.Path, c.Instance)
	created := false
	switch {
	case err == nil:
		err = a.openThere(n)
	case err.Reason == NodeNotFound && c.Create != CreateNone:
		n, err = a.create(c.Dir, c.Ephemeral)
		created = true
	}
	if err != nil {
		return nil, false, err
	}
	if n.eph != nil && sess != nil {
		holdOpen(n, sess, c.Handle)
	}
	return n, created, nil
}

// openThere says whether a node that is there may be opened as asked.
func (a *change) openThere(n *node) *Error {
	c := a.c
	switch {
	case c.Create == CreateExclusive:
		return refuse(NodeExists, c.Path, "%s exists", c.Path)
	case c.Dir && n.dir == nil:
		return refuse(NotDirectory, c.Path, "%s is a file", c.Path)
	case c.Create == CreateIfAbsent && !c.Dir && n.dir != nil:
		return refuse(IsDirectory, c.Path, "%s is a directory", c.Path)
	case c.Create == CreateIfAbsent && c.Ephemeral && n.eph == nil:
		return refuse(NodeExists, c.Path, "%s exists and is permanent", c.Path)
	case c.Create == CreateIfAbsent && !c.Ephemeral && n.eph != nil:
		return refuse(NodeExists, c.Path, "%s exists and is ephemeral", c.Path)
	}
	return a.permit(c.Principal, n, Read)
}

// mayCreate returns the directory in which the command makes its node.
func (a *change) mayCreate(dir, eph bool) (*node, *Error) {
	c := a.c
	above, _ := split(c.Path) // not the root: that is always there
	parent := a.nodes[above]
	switch {
	case parent == nil:
		return nil, refuse(NodeNotFound, above, "%s cannot be created: %s does not exist", c.Path, above)
	case parent.dir == nil:
		return nil, refuse(NotDirectory, above, "%s cannot be created: %s is a file", c.Path, above)
	case eph && c.Session == 0:
		return nil, refuse(BadRequest, c.Path, "an ephemeral node needs a session")
	case !eph && parent.eph != nil:
		return nil, refuse(BadRequest, c.Path, "%s must be ephemeral, since %s is", c.Path, above)
	case dir && len(c.Contents) > 0:
		return nil, refuse(IsDirectory, c.Path, "a directory has no contents")
	}
	if err := a.permit(c.Principal, parent, Write); err != nil {
		return nil, err
	}
	if err := checkLength(c.Path, c.Contents); err != nil {
		return nil, err
	}
	if c.ACL != nil {
		if err := a.checkACL(c.Path, c.ACL); err != nil {
			return nil, err
		}
	}
	return parent, a.afford(parent, uint64(len(c.Contents)), 1)
}

// create makes the node that the command names.
func (a *change) create(dir, eph bool) (*node, *Error) {
	c := a.c
	parent, err := a.mayCreate(dir, eph)
	if err != nil {
		return nil, err
	}
	n := &node{acl: parent.acl, modified: a.ts}
	if c.ACL != nil {
		acl := *c.ACL
		n.acl = &acl
	}
	if dir {
		n.dir = &directory{}
	}
	if eph {
		n.eph = &ephemeral{}
	}
	a.attach(parent, c.Path, n)
	n.revision = a.emit(ChildAdded, parent, n, contentGeneration(!dir))
	if !dir {
		// Whoever watches the path hears of it too, not the directory's watchers alone.
		a.write(n, c.Contents)
		n.revision = a.emit(ContentsChanged, n, nil, n.contentGen)
	}
	return n, nil
}

// contentGeneration of a node that is new: a file's creation is its first write.
func contentGeneration(file bool) uint64 {
	if file {
		return 1
	}
	return 0
}

func checkLength(path string, contents []byte) *Error {
	if len(contents) > MaxContents {
		return refuse(TooLarge, path, "contents of %d bytes are too large for %s: a file has at most %d", len(contents), path, MaxContents)
	}
	return nil
}

// write replaces a file's contents, which the quotas admit.
func (a *change) write(n *node, contents []byte) {
	a.charge(n.parent, int64(len(contents))-int64(n.length), 0)
	if n.contents != 0 {
		a.blobs.Delete(n.contents)
		n.contents = 0
	}
	if len(contents) > 0 {
		a.State.contents++
		n.contents = a.State.contents
		a.blobs.Put(n.contents, contents)
	}
	n.contentGen++
	n.length = uint64(len(contents))
	n.checksum = crc64.Checksum(contents, crcTable)
	n.modified = a.ts
	if n.parent == a.aclNode {
		n.members = parseMembers(contents)
	}
}

// maySetContents returns the file that the command writes, nil: it makes one.
func (a *change) maySetContents() (*node, *Error) {
	c := a.c
	if _, err := a.asking(); err != nil {
		return nil, err
	}
	n, err := a.find(c.Path, c.Instance)
	if err != nil {
		if err.Reason != NodeNotFound || c.Create == CreateNone {
			return nil, err
		}
		if c.IfGeneration != nil && *c.IfGeneration != 0 {
			return nil, refuse(GenerationMismatch, c.Path, "%s does not exist, so its contents are not of generation %d", c.Path, *c.IfGeneration)
		}
		_, err = a.mayCreate(false, false)
		return nil, err
	}
	if n.dir != nil {
		return nil, refuse(IsDirectory, c.Path, "%s is a directory", c.Path)
	}
	if err := a.permit(c.Principal, n, Write); err != nil {
		return nil, err
	}
	if err := a.expect(n); err != nil {
		return nil, err
	}
	if err := checkLength(c.Path, c.Contents); err != nil {
		return nil, err
	}
	if more := uint64(len(c.Contents)); more > n.length {
		return n, a.afford(n.parent, more-n.length, 0)
	}
	return n, nil
}

func (a *change) setContents() (*node, bool, *Error) {
	c := a.c
	n, err := a.maySetContents()
	if err != nil {
		return nil, false, err
	}
	if n == nil {
		n, err = a.create(false, false)
		return n, true, err
	}
	a.write(n, c.Contents)
	n.revision = a.emit(ContentsChanged, n, nil, n.contentGen)
	a.emit(ChildModified, n.parent, n, n.contentGen)
	return n, false, nil
}

// expect compares a file's content generation with the one that the command asks for.
func (a *change) expect(n *node) *Error {
	if g := a.c.IfGeneration; g != nil && *g != n.contentGen {
		return refuse(GenerationMismatch, n.path, "the contents of %s are of generation %d, not %d", n.path, n.contentGen, *g)
	}
	return nil
}

// mayDelete returns the node that the command deletes.
func (a *change) mayDelete() (*node, *Error) {
	c := a.c
	if _, err := a.asking(); err != nil {
		return nil, err
	}
	n, err := a.find(c.Path, c.Instance)
	if err != nil {
		return nil, err
	}
	if n == a.rootNode || n == a.aclNode {
		return nil, refuse(BadRequest, n.path, "%s cannot be deleted", n.path)
	}
	if err := a.permit(c.Principal, n, Write); err != nil {
		return nil, err
	}
	if err := a.expect(n); err != nil {
		return nil, err
	}
	if n.dir != nil && n.dir.children.Len() > 0 {
		return nil, refuse(NotEmpty, n.path, "%s is not empty", n.path)
	}
	if err := a.heldByOthers(n); err != nil {
		return nil, err
	}
	if c.Hold != 0 && !a.holds(n.path, c.Hold) {
		return nil, refuse(StaleSequencer, n.path, "the lock of %s is not held any more as the sequencer says", n.path)
	}
	return n, nil
}

func (a *change) delete() *Error {
	n, err := a.mayDelete()
	if err != nil {
		return err
	}
	a.endHoldsOf(n.path)
	a.remove(n)
	return nil
}

// remove takes a node that has no children and whose lock nobody holds out of the tree, and
// then its directory, if that was only waiting for this.
func (a *change) remove(n *node) {
	for n != nil {
		if n.eph != nil {
			for _, o := range n.eph.openers {
				if sess, ok := a.sessions.Get(o.session); ok {
					sess.forgetOpen(n, o.handle)
				}
			}
		}
		parent := n.parent
		if n.contents != 0 {
			a.blobs.Delete(n.contents)
		}
		delete(a.nodes, n.path)
		parent.dir.children.Delete(n.name())
		a.charge(parent, -int64(n.length), -1)
		a.emit(HandleInvalid, n, nil, n.contentGen)
		a.emit(ChildRemoved, parent, n, n.contentGen)
		a.free(n.path)
		n = nil
		if a.unused(parent) {
			n = parent
		}
	}
}

// unused reports whether an ephemeral node has nothing left that keeps it.
func (s *State) unused(n *node) bool {
	if n.eph == nil || len(n.eph.openers) > 0 || n.dir != nil && n.dir.children.Len() > 0 {
		return false
	}
	l, ok := s.locks.Get(n.path)
	return !ok || len(l.holds) == 0
}

// reap removes the node at path if it is ephemeral and unused.
func (a *change) reap(path string) {
	if n := a.nodes[path]; n != nil && a.unused(n) {
		a.remove(n)
	}
}

// free tells the owner of the state that a lock may have to be looked at again.
func (a *change) free(path string) {
	if n := len(a.out.Freed); n == 0 || a.out.Freed[n-1] != path {
		a.out.Freed = append(a.out.Freed, path)
	}
}

func (s *State) info(n *node) *Info {
	i := &Info{
		Path: n.path, Dir: n.dir != nil, Ephemeral: n.eph != nil,
		Instance: n.instance, ContentGen: n.contentGen, LockGen: n.lockGen, ACLGen: n.aclGen,
		Length: n.length, Checksum: n.checksum, ACL: *n.acl, Revision: n.revision, Modified: n.modified,
	}
	if n.dir != nil {
		i.Children = uint32(n.dir.children.Len())
		i.Quota, i.Used = s.limit(n), n.dir.used
	}
	return i
}
