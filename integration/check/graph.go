package check

import (
	"cmp"
	"slices"
)

// edgeType is why one transaction comes before another.
type edgeType uint8

const (
	ww  edgeType = iota // the other replaced its version by the next
	wr                  // the other read its version
	rw                  // the other replaced the version that it read
	rw0                 // the other wrote the first version, which it did not see
	prw                 // the other inserted what its scan lacks
	rt                  // it had ended before the other began
)

func (t edgeType) String() string { return [...]string{"ww", "wr", "rw", "rw", "rw", "rt"}[t] }

// types is a set of edge types.
type types uint8

func (t edgeType) in(s types) bool { return s&(1<<t) != 0 }

const (
	onlyWW  types = 1 << ww
	writesR types = 1<<ww | 1<<wr
	antiDep types = 1<<rw | 1<<rw0 | 1<<prw
	inTime  types = 1 << rt
)

// edge between nodes; a and b are what the story needs: for ww the two versions, for wr
// the version, for rw the version read (not for lists and sets) and the next one.
type edge struct {
	from, to int32
	key      int32
	typ      edgeType
	a, b     int64
}

// graph of transactions, the first nodes, and hubs, which stand for many edges: each way
// from a transaction over hubs to the next is one edge, of the type of its first part.
type graph struct {
	nodes int32 // transactions and hubs
	txns  int32
	edges []edge
	start []int32 // of each node's edges, once sorted
}

func (g *graph) newHub() int32 {
	g.nodes++
	return g.nodes - 1
}

func (g *graph) out(n int32) []edge { return g.edges[g.start[n]:g.start[n+1]] }

// sort brings the edges in order of their origin, the strongest types first.
func (g *graph) sort() {
	slices.SortStableFunc(g.edges, func(a, b edge) int {
		if d := cmp.Compare(a.from, b.from); d != 0 {
			return d
		}
		return cmp.Compare(a.typ, b.typ)
	})
	g.start = make([]int32, g.nodes+1)
	for _, e := range g.edges {
		g.start[e.from+1]++
	}
	for i := range g.nodes {
		g.start[i+1] += g.start[i]
	}
}

func (c *checker) edge(from, to int32, typ edgeType, k *keyState, a, b int64) {
	if from == to {
		return
	}
	c.report.Edges[typ.String()]++
	c.graph.edges = append(c.graph.edges, edge{from, to, k.id, typ, a, b})
}

func (c *checker) edgeToHub(from, hub int32, typ edgeType, k *keyState) {
	c.report.Edges[typ.String()]++
	c.graph.edges = append(c.graph.edges, edge{from, hub, k.id, typ, 0, 0})
}

// edgeFromHub has the type of the edge to the hub, so that a search restricted to some
// types goes all the way or not at all.
func (c *checker) edgeFromHub(hub, to int32, typ edgeType, k *keyState, b int64) {
	c.graph.edges = append(c.graph.edges, edge{hub, to, k.id, typ, 0, b})
}

// realTimeEdges makes a hub for every end of a transaction, each leading to the next, so
// that all pairs in real time cost a few edges for each transaction. Who read the past
// follows nobody by its beginning, and who is not known to have ended precedes nobody.
func (c *checker) realTimeEdges() {
	type event struct {
		at    int64
		txn   int32
		begin bool
	}
	var events []event
	for i, t := range c.txns {
		if !c.committed[i] {
			continue
		}
		if !t.Stale {
			events = append(events, event{t.Begin, int32(i), true})
		}
		if t.Status == OK {
			events = append(events, event{t.End, int32(i), false})
		}
	}
	slices.SortStableFunc(events, func(a, b event) int { return cmp.Compare(a.at, b.at) })
	last := int32(-1)
	begun := true // since the last end: two ends in a row share a hub
	for _, e := range events {
		if e.begin {
			begun = true
			if last >= 0 {
				c.graph.edges = append(c.graph.edges, edge{from: last, to: e.txn, key: -1, typ: rt})
			}
			continue
		}
		if begun {
			hub := c.graph.newHub()
			if last >= 0 {
				c.graph.edges = append(c.graph.edges, edge{from: last, to: hub, key: -1, typ: rt})
			}
			last, begun = hub, false
		}
		c.graph.edges = append(c.graph.edges, edge{from: e.txn, to: last, key: -1, typ: rt})
	}
}

// components returns the strongly connected components of more than one node among the
// edges of some types (Tarjan 1972, without recursion). only restricts it to those nodes
// for which it is not negative, and to edges within one value of it; nil: all.
func (g *graph) components(s types, only []int32) [][]int32 {
	const unseen = -1
	index := make([]int32, g.nodes)
	low := make([]int32, g.nodes)
	on := make([]bool, g.nodes)
	for i := range index {
		index[i] = unseen
	}
	type frame struct{ node, next int32 }
	var stack []int32
	var calls []frame
	var found [][]int32
	count := int32(0)
	for root := range g.nodes {
		if index[root] != unseen || only != nil && only[root] < 0 {
			continue
		}
		calls = append(calls, frame{root, g.start[root]})
		for len(calls) > 0 {
			f := &calls[len(calls)-1]
			n := f.node
			if f.next == g.start[n] {
				index[n], low[n] = count, count
				count++
				stack = append(stack, n)
				on[n] = true
			}
			descended := false
			for f.next < g.start[n+1] {
				e := &g.edges[f.next]
				f.next++
				if !e.typ.in(s) || only != nil && only[e.to] != only[n] {
					continue
				}
				if index[e.to] == unseen {
					calls = append(calls, frame{e.to, g.start[e.to]})
					descended = true
					break
				}
				if on[e.to] {
					low[n] = min(low[n], index[e.to])
				}
			}
			if descended {
				continue
			}
			calls = calls[:len(calls)-1]
			if len(calls) > 0 {
				up := calls[len(calls)-1].node
				low[up] = min(low[up], low[n])
			}
			if low[n] != index[n] {
				continue
			}
			at := len(stack) - 1
			for stack[at] != n {
				at--
			}
			if len(stack)-at > 1 {
				found = append(found, slices.Clone(stack[at:]))
			}
			for _, m := range stack[at:] {
				on[m] = false
			}
			stack = stack[:at]
		}
	}
	return found
}
