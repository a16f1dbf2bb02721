package main

import (
	"os"
	"runtime"
)

// heapFloor lets this many bytes of garbage gather before a collection pays,
// however little is alive: a node whose live heap is 10 MB would otherwise
// collect every 10 MB, hundreds of transactions apart. Above, GOGC's percentage
// rules as usual.
const heapFloor = 64 << 20

// raiseHeapFloor makes the collector believe in heapFloor more live bytes, which
// are never touched and so cost address space, not memory. The runtime has no
// setting for it: a larger GOGC would multiply large heaps too. An operator who sets
// GOGC or GOMEMLIMIT has decided otherwise. The function returned must be called
// at the end of main.
func raiseHeapFloor() (release func()) {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return func() {}
	}
	ballast := make([]byte, heapFloor)
	return func() { runtime.KeepAlive(ballast) }
}
