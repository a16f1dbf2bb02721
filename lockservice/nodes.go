package lockservice

import (
	"bytes"
	"context"
	"errors"
	"sync/atomic"

	"google.golang.org/grpc/codes"

	"github.com/spandb/spand/lockservice/lockpb"
)

// Node names a file or directory by its path: whatever is there when a method is called. It
// costs nothing and needs no closing. Safe for concurrent use.
//
// A Handle, which Session.Open returns, is a Node that means one instance of what is there:
// once that is deleted its methods fail with ErrStaleHandle or ErrNotFound, also when the path
// was made again.
//
// Methods try until they are answered, ctx ends or the session does; changes through a session
// take effect at most once however often they had to be sent. Every method may fail with
// ErrBadPath, ErrNoSuchCell, ErrNotFound, ErrPermission, with ErrSessionExpired or ErrClosed
// of a Node with a session, and with the cause of ctx's end.
type Node struct {
	cell     *cell
	s        *Session // nil: without one
	path     string
	bad      error // of the path
	number   uint64
	instance uint64
	fence    *atomic.Pointer[string] // of a Handle: its sequencer, if it has one
}

// Node of a path, without a session: reads are never cached, a change whose answer was lost
// is ErrAmbiguous, and there are no events.
func (c *Client) Node(path string) *Node {
	n := &Node{path: path}
	var cell string
	if cell, n.bad = cellOf(path); n.bad == nil {
		n.cell, n.bad = c.cell(cell)
	}
	return n
}

// Node of a path in the session's cell.
func (s *Session) Node(path string) *Node {
	n := &Node{path: path, s: s, cell: s.cell}
	cell, err := cellOf(path)
	if err == nil && cell != s.cell.name {
		err = badPath(path, "is not in the session's cell "+s.cell.name)
	}
	n.bad = err
	return n
}

// Path of the node.
func (n *Node) Path() string { return n.path }

func (n *Node) wire() *lockpb.Handle {
	h := &lockpb.Handle{Path: n.path, Handle: n.number, Instance: n.instance}
	if n.s != nil {
		h.Session = n.s.id
	}
	return h
}

// fenced is the handle with the sequencer on which calls rest: sent every time, because the
// cell's next leader does not know it.
func (n *Node) fenced() *lockpb.Handle {
	h := n.wire()
	if n.fence != nil {
		if q := n.fence.Load(); q != nil {
			h.Sequencer = *q
		}
	}
	return h
}

func (n *Node) call(ctx context.Context, rep repeats, build func() *lockpb.DoRequest) (*lockpb.DoResponse, error) {
	if n.bad != nil {
		return nil, n.bad
	}
	return n.cell.call(ctx, n.s, rep, build, notices{})
}

// cached returns what the cache has of the node, or nil.
func (n *Node) cached() *entry {
	if n.s == nil || n.s.cache == nil || n.fence != nil && n.fence.Load() != nil {
		return nil
	}
	e := n.s.cache.get(n.path)
	if e == nil || n.s.remaining() <= 0 { // in this order
		return nil
	}
	if n.instance != 0 && e.instance != n.instance {
		return nil // the server says what is wrong
	}
	return e
}

// read makes a call that may be cached. made is what to keep of its answer, nil for nothing.
func (n *Node) read(ctx context.Context, build func(cache bool) *lockpb.DoRequest, made func(*lockpb.DoResponse) *entry) (*lockpb.DoResponse, error) {
	if n.s == nil || n.s.cache == nil || n.bad != nil {
		return n.call(ctx, often, func() *lockpb.DoRequest { return build(false) })
	}
	var f *fill
	var keep *entry
	renew := func() *lockpb.DoRequest { // an attempt may be sent in a later epoch than the last
		if f != nil {
			n.s.cache.end(n.path, f, nil)
		}
		f = n.s.cache.begin(n.path)
		return build(true)
	}
	defer func() {
		if f != nil {
			n.s.cache.end(n.path, f, keep)
		}
	}()
	resp, err := n.call(ctx, often, renew)
	if err == nil {
		if keep = made(resp); keep != nil {
			keep.instance = n.instance
			if keep.stat != nil {
				keep.instance = keep.stat.Instance
			}
		}
		return resp, nil
	}
	var refused *Error
	if errors.As(err, &refused) && refused.cacheable {
		keep = &entry{absent: refused}
	}
	return nil, err
}

// Contents returns a file's contents and Stat, linearizably: as of a moment between the call and
// its return. They may come from the session's cache and are shared: do not change them.
// ErrIsDirectory.
func (n *Node) Contents(ctx context.Context) ([]byte, *Stat, error) {
	if e := n.cached(); e != nil {
		if e.absent != nil {
			return nil, nil, e.absent
		}
		if e.has {
			return e.contents, e.stat, nil
		}
	}
	resp, err := n.read(ctx, func(cache bool) *lockpb.DoRequest {
		return &lockpb.DoRequest{Call: &lockpb.DoRequest_GetContentsAndStat{GetContentsAndStat: &lockpb.GetRequest{Handle: n.fenced(), Cache: cache}}}
	}, func(resp *lockpb.DoResponse) *entry {
		r := resp.GetGetContentsAndStat()
		if !r.GetCacheable() {
			return nil
		}
		return &entry{stat: statOf(r.Stat), contents: r.Contents, has: true}
	})
	if err != nil {
		return nil, nil, err
	}
	r := resp.GetGetContentsAndStat()
	return r.GetContents(), statOf(r.GetStat()), nil
}

// Stat describes the node, linearizably; see Contents about sharing. A Stat from the cache
// may have an old LockGeneration: that is not part of what is invalidated.
func (n *Node) Stat(ctx context.Context) (*Stat, error) {
	if e := n.cached(); e != nil {
		if e.absent != nil {
			return nil, e.absent
		}
		if e.stat != nil {
			return e.stat, nil
		}
	}
	resp, err := n.read(ctx, func(cache bool) *lockpb.DoRequest {
		return &lockpb.DoRequest{Call: &lockpb.DoRequest_GetStat{GetStat: &lockpb.GetRequest{Handle: n.fenced(), Cache: cache}}}
	}, func(resp *lockpb.DoResponse) *entry {
		r := resp.GetGetStat()
		if !r.GetCacheable() {
			return nil
		}
		return &entry{stat: statOf(r.Stat)}
	})
	if err != nil {
		return nil, err
	}
	return statOf(resp.GetGetStat().GetStat()), nil
}

// page is how many children one call of ReadDir asks for; fewer come where they are large.
const page = 1000

// ReadDir returns the Stats of a directory's children, by name; see Contents about sharing.
// Of more than a thousand children, or 1 MiB of them, every such part is as of a moment of its own.
// ErrNotDirectory.
func (n *Node) ReadDir(ctx context.Context) ([]Stat, error) {
	if e := n.cached(); e != nil {
		if e.absent != nil {
			return nil, e.absent
		}
		if e.listed {
			return e.list, nil
		}
	}
	var all []Stat
	after := ""
	for {
		resp, err := n.read(ctx, func(cache bool) *lockpb.DoRequest {
			return &lockpb.DoRequest{Call: &lockpb.DoRequest_ReadDir{ReadDir: &lockpb.ReadDirRequest{
				Handle: n.fenced(), Cache: cache && after == "", After: after, Limit: page}}}
		}, func(resp *lockpb.DoResponse) *entry {
			r := resp.GetReadDir()
			if !r.GetCacheable() || r.GetMore() || after != "" {
				return nil
			}
			return &entry{list: statsOf(r.Children), listed: true}
		})
		if err != nil {
			return nil, err
		}
		r := resp.GetReadDir()
		all = append(all, statsOf(r.GetChildren())...)
		if !r.GetMore() || len(r.GetChildren()) == 0 {
			return all, nil
		}
		after = all[len(all)-1].Name()
	}
}

func statsOf(wire []*lockpb.Stat) []Stat {
	all := make([]Stat, len(wire))
	for i, w := range wire {
		all[i] = *statOf(w)
	}
	return all
}

// Condition of a change.
type Condition func(*conditions)

type conditions struct {
	generation *uint64
	create     bool
}

// IfGeneration makes a change only if the content generation is g: ErrGenerationMismatch otherwise.
func IfGeneration(g uint64) Condition { return func(c *conditions) { c.generation = &g } }

// OrCreate makes the file, a permanent one, if it is not there. Of SetContents.
func OrCreate() Condition { return func(c *conditions) { c.create = true } }

func conditionsOf(list []Condition) (c conditions) {
	for _, f := range list {
		f(&c)
	}
	return c
}

// change makes a call that changes something, numbered if there is a session.
func (n *Node) change(ctx context.Context, build func(request, answeredBelow uint64) *lockpb.DoRequest) (*lockpb.DoResponse, error) {
	if n.s == nil {
		return n.call(ctx, once, func() *lockpb.DoRequest { return build(0, 0) })
	}
	number := n.s.numbered()
	defer n.s.answered(number)
	below := n.s.answeredBelow()
	return n.call(ctx, often, func() *lockpb.DoRequest { return build(number, below) })
}

// SetContents replaces a file's contents, at most 256 KiB. Whoever caches the file has forgotten
// it when SetContents returns. ErrGenerationMismatch, ErrTooLarge, ErrQuotaExceeded,
// ErrIsDirectory, ErrStaleSequencer, ErrAmbiguous.
func (n *Node) SetContents(ctx context.Context, contents []byte, conds ...Condition) (*Stat, error) {
	if err := checkContents(n.path, contents); err != nil {
		return nil, err
	}
	cs := conditionsOf(conds)
	contents = bytes.Clone(contents) // a request may be encoded after the caller is gone
	resp, err := n.change(ctx, func(request, below uint64) *lockpb.DoRequest {
		return &lockpb.DoRequest{Call: &lockpb.DoRequest_SetContents{SetContents: &lockpb.SetContentsRequest{
			Handle: n.fenced(), Request: request, AnsweredBelow: below, Contents: contents, IfGeneration: cs.generation, Create: cs.create}}}
	})
	if err != nil {
		return nil, err
	}
	return statOf(resp.GetSetContents().GetStat()), nil
}

// Delete removes a file or an empty directory. ErrNotEmpty, ErrGenerationMismatch, ErrLockHeld
// when another session holds its lock, ErrStaleSequencer, ErrAmbiguous. A lock of this session
// on the node is in jeopardy meanwhile, then lost, or held again when the node was not deleted.
func (n *Node) Delete(ctx context.Context, conds ...Condition) error {
	cs := conditionsOf(conds)
	d := n.s.deleting(n)
	_, err := n.change(ctx, func(request, below uint64) *lockpb.DoRequest {
		return &lockpb.DoRequest{Call: &lockpb.DoRequest_Delete{Delete: &lockpb.DeleteRequest{
			Handle: n.fenced(), Request: request, AnsweredBelow: below, IfGeneration: cs.generation}}}
	})
	n.s.deleted(d, ctx, err)
	return err
}

// SetACL replaces the names of the node's access control files.
func (n *Node) SetACL(ctx context.Context, acl ACL) (*Stat, error) {
	if err := acl.check(); err != nil {
		return nil, err
	}
	resp, err := n.change(ctx, func(request, below uint64) *lockpb.DoRequest {
		return &lockpb.DoRequest{Call: &lockpb.DoRequest_SetAcl{SetAcl: &lockpb.SetACLRequest{
			Handle: n.fenced(), Request: request, AnsweredBelow: below, Acl: acl.wire()}}}
	})
	if err != nil {
		return nil, err
	}
	return statOf(resp.GetSetAcl().GetStat()), nil
}

// SetQuota bounds what a directory holds with all below it. ErrNotDirectory.
func (n *Node) SetQuota(ctx context.Context, q Quota) (*Stat, error) {
	resp, err := n.call(ctx, often, func() *lockpb.DoRequest {
		return &lockpb.DoRequest{Call: &lockpb.DoRequest_SetQuota{SetQuota: &lockpb.SetQuotaRequest{
			Handle: n.fenced(), Quota: &lockpb.Quota{Bytes: q.Bytes, Nodes: q.Nodes}}}}
	})
	if err != nil {
		return nil, err
	}
	return statOf(resp.GetSetQuota().GetStat()), nil
}

// CheckSequencer asks whether the lock is still held as a sequencer's text says: nil, or
// ErrStaleSequencer with the reason, or ErrBadRequest. The answer was true when it was given: a
// store that acts on it later needs more, see doc.go.
func (c *Client) CheckSequencer(ctx context.Context, sequencer string) error {
	q, err := ParseSequencer(sequencer)
	if err != nil {
		return err
	}
	n := c.Node(q.Path)
	resp, err := n.call(ctx, often, func() *lockpb.DoRequest {
		return &lockpb.DoRequest{Call: &lockpb.DoRequest_CheckSequencer{CheckSequencer: &lockpb.CheckSequencerRequest{Sequencer: sequencer}}}
	})
	if err != nil {
		return err
	}
	r := resp.GetCheckSequencer()
	if r.GetValid() {
		return nil
	}
	return &Error{Code: codes.Aborted, Reason: "STALE_SEQUENCER", Path: q.Path, Message: "sequencer " + sequencer + " is not valid: " + r.GetWhy()}
}
