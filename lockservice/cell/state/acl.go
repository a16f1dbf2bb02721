package state

import (
	"slices"
	"strings"
)

// members are the principals that an ACL file lists, sorted; "*" is everybody. They are
// kept here because contents are not.
type members struct{ names []string }

func parseMembers(contents []byte) *members {
	m := &members{}
	for line := range strings.Lines(string(contents)) {
		if name := strings.TrimSpace(line); name != "" {
			m.names = append(m.names, strings.Clone(name))
		}
	}
	slices.Sort(m.names)
	m.names = slices.Compact(m.names)
	return m
}

func (m *members) have(principal string) bool {
	if len(m.names) == 0 {
		return false
	}
	_, there := slices.BinarySearch(m.names, principal)
	if !there {
		_, there = slices.BinarySearch(m.names, "*")
	}
	return there
}

// permit refuses a principal that a node's ACL does not admit (OSDI'06 2.3: it is the node's own ACL
// that counts, not that of the directories above). Who is named by a file that is gone has
// no right.
func (s *State) permit(principal string, n *node, r Right) *Error {
	name, verb := n.acl.Read, "read"
	switch r {
	case Write:
		name, verb = n.acl.Write, "write"
	case Change:
		name, verb = n.acl.Change, "change the ACL or quota of"
	}
	if s.lists(name, principal) {
		return nil
	}
	return refuse(Permission, n.path, "%q may not %s %s: not listed in %s/%s", principal, verb, n.path, s.aclNode.path, name)
}

// lists reports whether an ACL file has a principal, "" everybody.
func (s *State) lists(name, principal string) bool {
	if name == "" {
		return true
	}
	f, ok := s.aclNode.dir.children.Get(name)
	return ok && f.members != nil && f.members.have(principal)
}

// MayHear reports whether a principal may be told of changes to the contents of the node at path, which must be
// instance unless that is 0. Of what is not there anybody may.
func (s *State) MayHear(principal, path string, instance uint64) bool {
	n := s.nodes[path]
	return n == nil || instance != 0 && instance != n.instance || s.lists(n.acl.Read, principal)
}

// MayHearOf reports whether a principal may be told of an event that the state remembers: by the ACL that the
// node has, or, if it is gone, had at the event.
func (s *State) MayHearOf(principal string, e *Event) bool {
	if !e.Kind.OfContents() {
		return true
	}
	readers := e.Readers
	if n := s.nodes[e.Path]; n != nil && n.instance == e.Instance {
		readers = n.acl.Read
	}
	return s.lists(readers, principal)
}

// ReadersOf returns the name of the ACL file of those who may read the node at path, "" if everybody may, or
// nothing is there.
func (s *State) ReadersOf(path string) string {
	if n := s.nodes[path]; n != nil {
		return n.acl.Read
	}
	return ""
}

// ACLFiles is the path of the directory of the ACL files.
func (s *State) ACLFiles() string { return s.aclNode.path }

// checkACL refuses an ACL that names files that are not there: a misspelt one would lock
// everybody out.
func (s *State) checkACL(path string, acl *ACL) *Error {
	for _, name := range []string{acl.Read, acl.Write, acl.Change} {
		if name == "" {
			continue
		}
		if f, ok := s.aclNode.dir.children.Get(name); !ok || f.dir != nil {
			return refuse(BadRequest, path, "ACL names %q, but there is no file %s/%s", clip(name), s.aclNode.path, clip(name))
		}
	}
	return nil
}

// maySetACL returns the node whose ACL the command changes.
func (a *change) maySetACL() (*node, *Error) {
	c := a.c
	if _, err := a.asking(); err != nil {
		return nil, err
	}
	n, err := a.find(c.Path, c.Instance)
	if err != nil {
		return nil, err
	}
	if err := a.permit(c.Principal, n, Change); err != nil {
		return nil, err
	}
	if c.ACL == nil {
		return nil, refuse(BadRequest, c.Path, "no ACL was given for %s", c.Path)
	}
	return n, a.checkACL(c.Path, c.ACL)
}

func (a *change) setACL() (*node, *Error) {
	n, err := a.maySetACL()
	if err != nil {
		return nil, err
	}
	acl := *a.c.ACL
	n.acl = &acl
	n.aclGen++
	a.touch(n)
	return n, nil
}
