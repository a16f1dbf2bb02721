package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// heapFloor is the least heap at which the collector begins: a node whose live heap is 10 MB
// would otherwise collect every 10 MB, hundreds of transactions apart. A heap of which more than
// half of this is alive is collected as GOGC's default says, at twice what is alive.
const heapFloor = 64 << 20

// keepHeapFloor sets GOGC anew after each collection, so that the next one begins at heapFloor or
// at twice what is alive. The runtime has no setting for it. An operator who sets
// GOGC or GOMEMLIMIT has decided otherwise. It lasts for the life of the process.
func keepHeapFloor() {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	f := &floor{samples: []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}, {Name: "/gc/scan/globals:bytes"}}}
	f.set()
	f.arm()
}

// floor lives on the goroutine that runs cleanups, one collection after the other.
type floor struct {
	samples []metrics.Sample
	percent int
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
	percent := floorPercent(f.samples[0].Value.Uint64(), f.samples[1].Value.Uint64()+f.samples[2].Value.Uint64())
	if d := percent - f.percent; d > f.percent/16 || -d > f.percent/16 {
		f.percent = percent
		debug.SetGCPercent(percent)
	}
}

// floorPercent is the GOGC with which the heap may grow to heapFloor, at least 100. The
// runtime lets a heap grow by that much of what is alive and of the other roots, and in any
// case to that much of 4 MiB.
func floorPercent(live, roots uint64) int {
	const most = heapFloor * 100 / (4 << 20)
	if live >= heapFloor/2 {
		return 100
	}
	return min(max(100, int((heapFloor-live)*100/max(live+roots, 1))), most)
}
