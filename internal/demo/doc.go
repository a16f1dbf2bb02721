// Package demo runs a cluster in one process for people who want to see one:
// nodes as internal/node assembles them, on loopback ports, with their data in a
// folder that goes when they do. Their clocks can be made to lie (truetime.Skewed), which
// no node that was started any other way can be asked to.
//
// A scenario is a guided tour over such a cluster. It measures what it says while it
// says it: nothing that it prints is known beforehand.
//
// Goroutines: Start has one per node while they start, Close one per node while they
// stop; both wait for them. A node's own end with it.
package demo
