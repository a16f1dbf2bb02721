package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// The heap's floor is the least heap at which the collector begins: a node whose live heap is 10 MB
// would otherwise collect every 10 MB, hundreds of transactions apart. A heap of which more than
// half of it is alive is collected as GOGC's default says, at twice what is alive. It is what is
// alive and what the node allocates in a second, within these bounds: a collection a second costs next
// to nothing, and memory that a small load touches for the first time costs page faults.
const (
	leastFloor = 16 << 20
	mostFloor  = 64 << 20
)

// keepHeapFloor sets GOGC anew after each collection, so that the next one begins at the floor or
// at twice what is alive. The runtime has no setting for it. An operator who sets
// GOGC or GOMEMLIMIT has decided otherwise. It lasts for the life of the process.
func keepHeapFloor() {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	f := &floor{samples: []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}, {Name: "/gc/scan/globals:bytes"}, {Name: "/gc/heap/allocs:bytes"}}}
	f.set()
	f.arm()
}

// floor lives on the goroutine that runs cleanups, one collection after the other.
type floor struct {
	samples []metrics.Sample
	percent int
	// At the last collection.
	at        time.Time
	allocated uint64
}

// arm has set run after the next collection: an object that nobody refers to is found dead by it.
// It is large enough not to share its memory with others.
func (f *floor) arm() {
	runtime.AddCleanup(new([32]byte), func(f *floor) {
		f.set()
		f.arm()
	}, f)
}

// set changes GOGC if the heap has changed by so much that it matters: it stops the world.
func (f *floor) set() {
	metrics.Read(f.samples)
	live, roots := f.samples[0].Value.Uint64(), f.samples[1].Value.Uint64()+f.samples[2].Value.Uint64()
	at, allocated := time.Now(), f.samples[3].Value.Uint64()
	percent := floorPercent(live, roots, floorFor(live, allocated-f.allocated, at.Sub(f.at)))
	f.at, f.allocated = at, allocated
	if d := percent - f.percent; d > f.percent/16 || -d > f.percent/16 {
		f.percent = percent
		debug.SetGCPercent(percent)
	}
}

// floorFor is the floor of a process of which so much is alive and that has allocated so many bytes in a time.
func floorFor(live, bytes uint64, in time.Duration) uint64 {
	perSecond := float64(bytes) / max(in.Seconds(), 1e-9)
	return uint64(min(max(float64(live)+perSecond, leastFloor), mostFloor))
}

// floorPercent is the GOGC with which the heap may grow to floor, at least 100. The
// runtime lets a heap grow by that much of what is alive and of the other roots, and in any
// case to that much of 4 MiB.
func floorPercent(live, roots, floor uint64) int {
	if live >= floor/2 {
		return 100
	}
	most := floor * 100 / (4 << 20)
	return int(min(max(100, (floor-live)*100/max(live+roots, 1)), most))
}
