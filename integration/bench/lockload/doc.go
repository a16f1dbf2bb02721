// Package lockload loads a lock service and measures it. The works are written against
// the interfaces Client, Session and Fleet, so that the same code loads spand and
// etcd; a program of its own per store (package spandload, and the module
// integration/bench/etcd) brings the adapter and calls Main.
//
// A program measures one row and is told so by its flags. It writes JSON lines on its
// standard output: questions to the process that owns the members (kill one, look at
// their memory), each of which is answered by a line on standard input, and at the end
// the figures.
//
// Every work counts only what has been answered. The first error ends it: a store that
// refuses some of the calls has no rate. The exception is the fail-over, where calls
// are expected to fail.
//
// Every goroutine started here ends before the function that started it returns.
package lockload
