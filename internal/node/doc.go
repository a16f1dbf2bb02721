// Package node assembles one process: clock, storage, network, groups, tablets,
// transactions, SQL, and the ports that they are reached by. It decides nothing
// about data; it opens what is there, wires the rooms together and closes them
// in the opposite order.
//
// Start opens the ports before it touches the data directory, so that a second
// process on one machine fails before it can do harm. The goroutines it starts
// (gRPC, HTTP, SQL, the directory's first publication) end with Shutdown or Close.
package node
