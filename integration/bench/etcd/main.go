// Command etcd loads a cluster of etcd with the works of package lockload: locks are those of
// package concurrency, files are keys, the cache is package leasing's, and fleets are
// leases renewed over raw LeaseKeepAlive streams.
//
// It is a module of its own, so that spand's does not get etcd's dependencies. etcd's
// server is built here too, by go build go.etcd.io/etcd/server/v3, of the version in go.mod.
package main

import "github.com/spandb/spand/integration/bench/lockload"

func main() { lockload.Main(dial) }
