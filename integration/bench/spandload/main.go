// Command spandload loads a cluster of spand with the works of package lockload, through
// package lockservice; fleets are sessions whose beats go in batches over raw KeepAlive streams.
package main

import "github.com/spandb/spand/integration/bench/lockload"

func main() { lockload.Main(dial) }
