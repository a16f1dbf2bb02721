package expr

import (
	"github.com/spandb/spand/sql/types"
)

// candidate is what operators and functions have in common for resolution.
type candidate interface{ argTypes() []types.OID }

// selectCandidate is PostgreSQL's func_select_candidate: of the candidates that
// all accept the arguments it keeps the best match by exactness, preferred types
// and, for unknown arguments, categories. It returns what is left: one is a match.
func selectCandidate[C candidate](args []types.OID, cands []C) []C {
	unknown := 0
	for _, a := range args {
		if a == tUnk {
			unknown++
		}
	}
	keep := func(score func(C) int) {
		best := -1
		var out []C
		for _, c := range cands {
			switch s := score(c); {
			case s > best:
				best, out = s, append(out[:0:0], c)
			case s == best:
				out = append(out, c)
			}
		}
		cands = out
	}
	// Most exact matches (binary-coercible strings count as such for varchar).
	keep(func(c C) int {
		n := 0
		for i, t := range c.argTypes() {
			if args[i] != tUnk && t == args[i] {
				n++
			}
		}
		return n
	})
	if len(cands) == 1 {
		return cands
	}
	// Then most preferred types of the arguments' categories.
	keep(func(c C) int {
		n := 0
		for i, t := range c.argTypes() {
			if args[i] == tUnk {
				continue
			}
			ac, _ := types.CategoryOf(args[i])
			if tc, pref := types.CategoryOf(t); t == args[i] || tc == ac && pref {
				n++
			}
		}
		return n
	})
	if len(cands) == 1 || unknown == 0 {
		return cands
	}
	// Choose a category for each unknown argument: strings if any candidate takes
	// one, else the one that all share.
	resolved := true
	cats := make([]types.Category, len(args))
	prefs := make([]bool, len(args))
	for i, a := range args {
		if a != tUnk {
			continue
		}
		conflict := false
		for _, c := range cands {
			tc, pref := types.CategoryOf(c.argTypes()[i])
			switch {
			case cats[i] == 0:
				cats[i], prefs[i] = tc, pref
			case cats[i] == tc:
				prefs[i] = prefs[i] || pref
			case tc == types.CatString:
				cats[i], prefs[i], conflict = tc, pref, false
			case cats[i] != types.CatString:
				conflict = true
			}
		}
		if conflict {
			resolved = false
		}
	}
	if resolved {
		var out []C
		for _, c := range cands {
			ok := true
			for i, a := range args {
				if a != tUnk {
					continue
				}
				tc, pref := types.CategoryOf(c.argTypes()[i])
				if tc != cats[i] || prefs[i] && !pref {
					ok = false
				}
			}
			if ok {
				out = append(out, c)
			}
		}
		if len(out) > 0 {
			cands = out
		}
		if len(cands) == 1 {
			return cands
		}
	}
	// Last resort: unknowns are of the type that all known arguments have.
	known := types.OID(0)
	for _, a := range args {
		if a == tUnk {
			continue
		}
		if known == 0 {
			known = a
		} else if known != a {
			return cands
		}
	}
	if known != 0 {
		var out []C
		for _, c := range cands {
			ok := true
			for _, t := range c.argTypes() {
				if !coercible(known, t, CastImplicit) {
					ok = false
				}
			}
			if ok {
				out = append(out, c)
			}
		}
		if len(out) == 1 {
			return out
		}
	}
	return cands
}

// matching filters the candidates that can take the arguments at all.
func matching[C candidate](args []types.OID, cands []C) []C {
	var out []C
next:
	for _, c := range cands {
		ts := c.argTypes()
		if len(ts) != len(args) {
			continue
		}
		for i, t := range ts {
			if !coercible(args[i], t, CastImplicit) {
				continue next
			}
		}
		out = append(out, c)
	}
	return out
}

func typesOf(exprs []Expr) []types.OID {
	out := make([]types.OID, len(exprs))
	for i, e := range exprs {
		if out[i] = e.Type().OID; out[i] == 0 {
			out[i] = tUnk
		}
	}
	return out
}
