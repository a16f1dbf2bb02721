package lockservice

import (
	"strings"
	"time"

	"github.com/spandb/spand/lockservice/lockpb"
)

// Stat describes a node. Generations only grow.
type Stat struct {
	Path      string `json:"path"`
	Directory bool   `json:"directory"`
	Ephemeral bool   `json:"ephemeral"`
	// Instance differs from that of every earlier node of the path, and is higher.
	Instance          uint64    `json:"instance"`
	ContentGeneration uint64    `json:"contentGeneration"` // of files: counts writes
	LockGeneration    uint64    `json:"lockGeneration"`    // grows whenever the lock goes from free to held
	ACLGeneration     uint64    `json:"aclGeneration"`
	Length            uint64    `json:"length"`   // of contents, in bytes
	Checksum          uint64    `json:"checksum"` // CRC-64 (ECMA) of the contents
	Children          uint32    `json:"children"` // of a directory
	ACL               ACL       `json:"acl"`
	Revision          uint64    `json:"revision"` // of the cell at the node's last change
	Modified          time.Time `json:"modified"` // commit timestamp of that change
	// Quota of a directory that has one, and what is used of it.
	Quota *Quota `json:"quota,omitempty"`
	Used  *Quota `json:"used,omitempty"`
}

// Name is the last component of the path.
func (s *Stat) Name() string { return s.Path[strings.LastIndexByte(s.Path, '/')+1:] }

// ACL names files /ls/<cell>/acl/<name> that list who may do what, one principal a line, "*"
// being everybody. An empty name admits everybody.
type ACL struct {
	Read   string `json:"read"`
	Write  string `json:"write"`
	Change string `json:"change"`
}

// Quota bounds a directory with all below it; 0: no bound but the cell's.
type Quota struct {
	Bytes uint64 `json:"bytes"` // of contents
	Nodes uint64 `json:"nodes"`
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
