package check

// Searches are bounded by the edges they look at, so that a badly broken history
// is judged in seconds too.
const (
	cycleBudget = 20_000_000
	cycleTries  = 64 // nodes from which the shortest cycle of a component is looked for
)

// cycles tells one cycle of each strongly connected component, of the lowest level that
// has one.
func (c *checker) cycles() {
	g := &c.graph
	g.sort()
	s := &search{g: g, budget: cycleBudget, stamp: make([]int32, g.nodes), via: make([]int32, g.nodes)}
	only := make([]int32, g.nodes)
	for i := range only {
		only[i] = -1
	}
	all := g.components(writesR|antiDep|inTime, nil)
	if len(all) == 0 {
		return
	}
	for i, comp := range all {
		for _, n := range comp {
			only[n] = int32(i)
		}
	}
	told := map[int32]bool{} // transactions of cycles told
	for _, time := range []types{0, inTime} {
		for _, level := range []types{onlyWW, writesR, writesR | antiDep} {
			for _, comp := range g.components(level|time, only) {
				if anyOf(comp, told) {
					continue
				}
				cycle := s.best(comp, level, time)
				if cycle == nil {
					continue
				}
				for _, e := range cycle {
					told[e.from] = true
				}
				c.tellCycle(cycle)
			}
		}
	}
}

func anyOf(nodes []int32, set map[int32]bool) bool {
	for _, n := range nodes {
		if set[n] {
			return true
		}
	}
	return false
}

// search finds short cycles.
type search struct {
	g      *graph
	budget int     // edges yet to be looked at
	round  int32   // of the current walk
	stamp  []int32 // the round in which a node was reached
	via    []int32 // the edge by which it was
}

// best returns a short cycle in a component, its edges between transactions, with a
// single anti-dependency if there is one.
func (s *search) best(comp []int32, level, time types) []edge {
	in := make(map[int32]bool, len(comp))
	for _, n := range comp {
		in[n] = true
	}
	if level&antiDep != 0 {
		if cycle := s.single(comp, in, time); cycle != nil {
			return cycle
		}
	}
	var best []edge
	tries := 0
	for _, n := range comp {
		if n >= s.g.txns {
			continue // a hub
		}
		if tries++; tries > cycleTries || best != nil && s.budget <= 0 {
			break
		}
		if cycle := s.walk(-1, n, n, in, level|time); cycle != nil && (best == nil || len(cycle) < len(best)) {
			if best = cycle; len(best) == 2 {
				break
			}
		}
	}
	return best
}

// single returns a cycle with one anti-dependency, nil if there is none within the budget.
func (s *search) single(comp []int32, in map[int32]bool, time types) []edge {
	var best []edge
	limit := s.budget / 2
	for _, n := range comp {
		if n >= s.g.txns {
			continue
		}
		for i := s.g.start[n]; i < s.g.start[n+1]; i++ {
			e := &s.g.edges[i]
			if !e.typ.in(antiDep) || !in[e.to] {
				continue
			}
			if s.budget < limit {
				return best
			}
			if cycle := s.walk(i, e.to, n, in, writesR|time); cycle != nil && (best == nil || len(cycle) < len(best)) {
				if best = cycle; len(best) == 2 {
					return best
				}
			}
		}
	}
	return best
}

// walk returns the shortest way from a node to another over edges of some types within a
// component, as a cycle that begins with the edge first (-1: none). Only steps to
// transactions count.
func (s *search) walk(first, from, to int32, in map[int32]bool, allowed types) []edge {
	s.round++
	level, next := []int32{from}, []int32(nil)
	for len(level) > 0 {
		for i := 0; i < len(level); i++ { // grows by the hubs that are reached
			n := level[i]
			for j := s.g.start[n]; j < s.g.start[n+1]; j++ {
				e := &s.g.edges[j]
				s.budget--
				if !in[e.to] || !e.typ.in(allowed) && !(n == from && first >= 0 && n >= s.g.txns) {
					continue
				}
				if e.to == to {
					return s.path(first, from, j)
				}
				if s.stamp[e.to] == s.round {
					continue
				}
				s.stamp[e.to], s.via[e.to] = s.round, j
				if e.to >= s.g.txns {
					level = append(level, e.to)
				} else {
					next = append(next, e.to)
				}
			}
		}
		level, next = next, level[:0]
	}
	return nil
}

// path goes back from the last edge of a walk, and leaves out the hubs.
func (s *search) path(first, from, last int32) []edge {
	steps := []int32{last}
	for n := s.g.edges[last].from; n != from; n = s.g.edges[steps[len(steps)-1]].from {
		steps = append(steps, s.via[n])
	}
	if first >= 0 {
		steps = append(steps, first)
	}
	var out []edge
	for i := len(steps) - 1; i >= 0; i-- {
		e := s.g.edges[steps[i]]
		if e.from >= s.g.txns {
			out[len(out)-1].to = e.to
			if e.typ != rt {
				out[len(out)-1].b = e.b
			}
			continue
		}
		out = append(out, e)
	}
	return out
}

// tellCycle names a cycle by its edges, and by its shape if that has a name.
func (c *checker) tellCycle(cycle []edge) {
	var n [rt + 1]int
	writers := 0 // sources of anti-dependencies that write
	onlyReads := false
	for _, e := range cycle {
		n[e.typ]++
		writes := c.txns[e.from].Writes()
		onlyReads = onlyReads || !writes
		if e.typ.in(antiDep) && writes {
			writers++
		}
	}
	anti := n[rw] + n[rw0] + n[prw]
	name := "G0"
	switch {
	case anti == 0 && n[wr] > 0:
		name = "G1c"
	case anti == 1:
		name = "G-single"
	case anti > 1 && n[prw] > 0:
		name = "G2"
	case anti > 1:
		name = "G2-item"
	}
	inv := "X2"
	if onlyReads {
		inv = "X4"
	}
	if n[rt] > 0 {
		name += "-realtime"
		inv = "X1"
	}
	if shape := c.shape(cycle, n, anti, writers); shape != "" {
		name += " (" + shape + ")"
	}
	c.violate(name, inv, "%s", c.cycleStory(cycle))
}

func (c *checker) shape(cycle []edge, n [rt + 1]int, anti, writers int) string {
	switch len(cycle) {
	case 2:
		switch {
		case anti == 2 && writers == 2 && n[prw] > 0:
			return "phantom"
		case anti == 2 && writers == 2:
			return "write skew"
		case anti == 1 && n[ww] == 1 && cycle[0].key == cycle[1].key:
			return "lost update"
		case anti == 1 && n[rt] == 1:
			return "stale read"
		case n[wr] == 1 && n[rt] == 1:
			return "read of the future"
		case anti == 1 && n[wr] == 1:
			return "fractured read"
		}
	case 3:
		if anti == 1 && n[wr] == 1 && n[rt] == 1 {
			for i, e := range cycle {
				// A, then in real time B, which is seen without A.
				if e.typ == rt && cycle[(i+1)%3].typ == wr {
					return "causal reverse"
				}
			}
		}
	case 4:
		if anti == 2 && n[wr] == 2 && writers == 0 {
			return "long fork"
		}
	}
	return ""
}
