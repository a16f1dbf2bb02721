package integration

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"sync"
	"time"
)

// Health follows what is done to a cluster and knows when a majority of it was
// alive: running, not paused, and connected pairwise in both directions. All methods
// may be called concurrently.
type Health struct {
	mu      sync.Mutex // guards all below
	running []bool
	cut     [][]bool // by from and to
	spans   []span   // the last one is open
	faults  []Event
}

// span is a time in which the same nodes belonged to a live majority, none if there
// was no such majority.
type span struct {
	from time.Time
	live uint // set of nodes
}

// Event is something done to a cluster.
type Event struct {
	At   time.Time
	What string
	Heal bool // the end of a fault
}

// NewHealth is of a cluster of n nodes that all run and reach each other.
func NewHealth(n int) *Health {
	h := &Health{running: make([]bool, n), cut: make([][]bool, n)}
	for i := range n {
		h.running[i], h.cut[i] = true, make([]bool, n)
	}
	h.spans = []span{{time.Now(), h.liveLocked()}}
	return h
}

// Running notes that a node was started or resumed, or is about to be stopped or paused.
func (h *Health) Running(node int, up bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.running[node] = up
	h.noteLocked()
}

// Cut notes that a direction is about to be cut, or was healed.
func (h *Health) Cut(from, to int, cut bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cut[from][to] = cut
	h.noteLocked()
}

// Fault notes for people what is done.
func (h *Health) Fault(e Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.faults = append(h.faults, e)
}

func (h *Health) noteLocked() {
	if live := h.liveLocked(); live != h.spans[len(h.spans)-1].live {
		h.spans = append(h.spans, span{time.Now(), live})
	}
}

// liveLocked is the union of the majorities that are alive now; two of them share a node.
func (h *Health) liveLocked() (live uint) {
	n := len(h.running)
	for set := uint(1); set < 1<<n; set++ {
		if bits.OnesCount(set) > n/2 && h.aliveLocked(set) {
			live |= set
		}
	}
	return live
}

func (h *Health) aliveLocked(set uint) bool {
	for a := range h.running {
		if set&(1<<a) == 0 {
			continue
		}
		if !h.running[a] {
			return false
		}
		for b := range h.running {
			if set&(1<<b) != 0 && h.cut[a][b] {
				return false
			}
		}
	}
	return true
}

// Live is the nodes that belong to a live majority now.
func (h *Health) Live() []int {
	h.mu.Lock()
	defer h.mu.Unlock()
	var nodes []int
	for i := range h.running {
		if h.spans[len(h.spans)-1].live&(1<<i) != 0 {
			nodes = append(nodes, i)
		}
	}
	return nodes
}

// stretch is a time in which a majority, of whatever nodes, was alive throughout.
type stretch struct {
	from, to time.Time
	first    bool // it begins with the observation, not with the return of a majority
}

// stretches returns those between two instants in which, if node is not negative, the
// node was in it.
func (h *Health) stretches(node int, began, now time.Time) (list []stretch) {
	h.mu.Lock()
	defer h.mu.Unlock()
	open := false
	for i, s := range h.spans {
		if i+1 < len(h.spans) && !h.spans[i+1].from.After(began) {
			continue // over before it mattered
		}
		in := s.live != 0
		if node >= 0 {
			in = s.live&(1<<node) != 0
		}
		switch {
		case in && !open:
			first := !s.from.After(began)
			if first {
				s.from = began
			}
			list = append(list, stretch{from: s.from, to: now, first: first})
		case !in && open:
			list[len(list)-1].to = s.from
		}
		open = in
	}
	return list
}

// during returns what was done shortly before or within a time, for people.
func (h *Health) during(from, to time.Time) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var what []string
	for _, e := range h.faults {
		if e.At.After(from.Add(-50*time.Millisecond)) && e.At.Before(to) {
			what = append(what, fmt.Sprintf("%s (%v later)", e.What, e.At.Sub(from).Round(time.Millisecond)))
		}
	}
	if len(what) == 0 {
		return "nothing was done then"
	}
	return strings.Join(what, ", ")
}

// Outage is a time in which a tablet answered nobody although a majority was alive.
type Outage struct {
	Tablet   string
	From, To time.Time
	// Return: a majority had been missing until From.
	Return bool
	Cause  string // what was done to the cluster in it
}

// Length of the outage.
func (o Outage) Length() time.Duration { return o.To.Sub(o.From) }

func (o Outage) String() string {
	s := fmt.Sprintf("%s for %v: %s", o.Tablet, o.Length().Round(time.Millisecond), o.Cause)
	if o.Return {
		s += ", after a majority had returned"
	}
	return s
}

// outages are the times between successes (sorted) as far as a stretch of life covers
// them, longest first.
func (h *Health) outages(tablet string, node int, successes []time.Time, began, now time.Time) (list []Outage) {
	for _, s := range h.stretches(node, began, now) {
		i, _ := slices.BinarySearchFunc(successes, s.from, time.Time.Compare)
		last, returned := s.from, !s.first
		for ; ; i++ {
			next := s.to
			if i < len(successes) && successes[i].Before(s.to) {
				next = successes[i]
			}
			list = append(list, Outage{Tablet: tablet, From: last, To: next, Return: returned})
			if next.Equal(s.to) {
				break
			}
			last, returned = next, false
		}
	}
	slices.SortFunc(list, func(a, b Outage) int { return int(b.Length() - a.Length()) })
	return list
}
