// Package replicas is the tablets on a node: how a replica is opened (from a
// checkpoint, from the split that made it, from the cluster's beginning, or empty,
// to receive a snapshot) and how requests reach it and the replicas on other
// nodes. It is the part of internal/node's assembly that decides something, and
// apart from it so that internal/sim runs the same code.
//
// A Set starts no goroutine. Its mutex is a leaf.
package replicas
