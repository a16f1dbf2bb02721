package lockservice

import (
	"strings"
	"time"

	"github.com/spandb/spand/lockservice/lockpb"
)

// Stat describes a node. Generations only grow.
type Stat struct {
	Path      string
	Directory bool
	Ephemeral bool
	// Instance differs from that of every earlier node of the path, and is higher.
	Instance          uint64
	ContentGeneration uint64 // of files: counts writes
	LockGeneration    uint64 // grows whenever the lock goes from free to held
	ACLGeneration     uint64
	Length            uint64 // of contents, in bytes
	Checksum          uint64 // CRC-64 (ECMA) of the contents
	Children          uint32 // of a directory
	ACL               ACL
	Revision          uint64    // of the cell at the node's last change
	Modified          time.Time // commit timestamp of that change
	// Quota of a directory that has one, and what is used of it.
	Quota, Used *Quota
}

// Name is the last component of the path.
func (s *Stat) Name() string { return s.Path[strings.LastIndexByte(s.Path, '/')+1:] }

// ACL names files /ls/<cell>/acl/<name> that list who may do what, one principal a line, "*"
// being everybody. An empty name admits everybody.
type ACL struct{ Read, Write, Change string }

// Quota bounds a directory with all below it; 0: no bound but the cell's.
type Quota struct {
	Bytes uint64 // of contents
	Nodes uint64
}

func statOf(p *lockpb.Stat) *Stat {
	if p == nil {
		return &Stat{}
	}
	return &Stat{
		Path: p.Path, Directory: p.Directory, Ephemeral: p.Ephemeral, Instance: p.Instance,
		ContentGeneration: p.ContentGeneration, LockGeneration: p.LockGeneration, ACLGeneration: p.AclGeneration,
		Length: p.Length, Checksum: p.Checksum, Children: p.Children,
		ACL:      ACL{Read: p.Acl.GetRead(), Write: p.Acl.GetWrite(), Change: p.Acl.GetChange()},
		Revision: p.Revision, Modified: time.Unix(0, p.Modified),
		Quota: quotaOf(p.Quota), Used: quotaOf(p.Used),
	}
}

func quotaOf(q *lockpb.Quota) *Quota {
	if q == nil {
		return nil
	}
	return &Quota{Bytes: q.Bytes, Nodes: q.Nodes}
}

func (a *ACL) wire() *lockpb.ACL {
	if a == nil {
		return nil
	}
	return &lockpb.ACL{Read: a.Read, Write: a.Write, Change: a.Change}
}

func (s *Stat) sameContents(o *Stat) bool {
	return s.Instance == o.Instance && s.ContentGeneration == o.ContentGeneration
}
