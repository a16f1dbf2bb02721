// Package version is the cluster version: one number, replicated, that says
// which commands the cluster's tablets may be given.
//
// A binary can run a range of versions (Binary) and states it whenever it connects
// to a peer; its data directory names a version below which it must not be run
// any more. The cluster's version is a record in the directory tablet. It begins
// as the highest that all first nodes can run, and is raised by an operator's act
// alone, after every member has noted durably that it will be
// (internal/node/version.go): so a command that came with a version is proposed
// (Gate) only when no replica, present or restarted, can fail to know it.
//
// To add a command: add a version here, raise Binary.Max, and name the version
// beside the command's kind (tablet/commands.go). Raising Binary.Min says that
// this binary no longer runs what older versions need.
package version

import (
	"fmt"
	"sync/atomic"
)

// Version of a cluster, from 1; 0 is none.
type Version uint32

// The versions, and what came with each.
const (
	V1 Version = 1 // everything so far
)

// Binary is what this program can run.
var Binary = Range{Min: V1, Max: V1}

// Range is the versions from Min to Max.
type Range struct{ Min, Max Version }

// Contains reports whether v lies in r.
func (r Range) Contains(v Version) bool { return r.Min <= v && v <= r.Max }

func (r Range) String() string { return fmt.Sprintf("%d-%d", r.Min, r.Max) }

// Parse reads what String wrote.
func Parse(s string) (r Range, err error) {
	if _, err := fmt.Sscanf(s, "%d-%d", &r.Min, &r.Max); err != nil || r.Min < V1 || r.Min > r.Max || r.String() != s {
		return Range{}, fmt.Errorf("%q is not a range of versions", s)
	}
	return r, nil
}

// Gate is the cluster's version as a node knows it: that version is active, or a
// higher one. It only rises. A nil Gate stands at V1.
type Gate struct{ active atomic.Uint32 }

// Active returns the version.
func (g *Gate) Active() Version {
	return max(V1, g.Known())
}

// Known returns the version that the node has learnt, 0 for none yet.
func (g *Gate) Known() Version {
	if g == nil {
		return 0
	}
	return Version(g.active.Load())
}

// Raise opens the gate for everything up to v.
func (g *Gate) Raise(v Version) {
	for {
		old := g.active.Load()
		if uint32(v) <= old || g.active.CompareAndSwap(old, uint32(v)) {
			return
		}
	}
}

// Error says that a program cannot run a version, and which of the two is too old.
type Error struct {
	Binary Range
	Needed Version
}

func (e *Error) Error() string {
	if e.Needed > e.Binary.Max {
		return fmt.Sprintf("the cluster's version is %d, this program runs %s: use a newer spand", e.Needed, e.Binary)
	}
	return fmt.Sprintf("the cluster's version is %d, this program runs %s: use an older spand, raise the cluster's version, then upgrade", e.Needed, e.Binary)
}

// Check returns an *Error unless v lies in r.
func (r Range) Check(v Version) error {
	if r.Contains(v) {
		return nil
	}
	return &Error{Binary: r, Needed: v}
}
