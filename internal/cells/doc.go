// Package cells is the lock service's cells on a node: how a replica of one is opened (from
// a checkpoint, from the log alone, new, or to wait for a snapshot) and how it is found. It
// is to cells what package replicas is to tablets.
//
// The first cell, "local", exists from the cluster's beginning, on all members. It keeps
// the list of all others: a replica of it that applies the command which makes a cell,
// or that gets a state in which the cell is there (a checkpoint, a snapshot), opens this
// node's replica of that cell. So nobody need ask what a group is that messages come for
// and that is not open here: it will be, as soon as the first cell's replica is there.
//
// # Invariants
//
//   - R1: a replica that may have voted or acknowledged before is not opened as a new
//     one. What the store has of a group is used, however the group comes to be opened; and
//     a node whose data was lost has been told which groups it had (Lost), by members who
//     count a group from its first record on (Known). A group that neither knows of
//     begins from the empty cell, which is the same on every node.
//   - A replica once open stays open while the node runs.
//
// A Set starts no goroutine. Its mutex is a leaf.
package cells
