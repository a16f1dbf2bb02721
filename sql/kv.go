package sql

import "github.com/spandb/spand/sql/kv"

// The store that SQL runs on. The types live in package kv, below catalog, plan
// and exec, which need them too.
type (
	// KV is the transactional store: txn.Client through NewStore, or an in-memory twin in tests.
	KV = kv.KV
	// TxnOptions of a read-write transaction.
	TxnOptions = kv.TxnOptions
	// Txn is one transaction.
	Txn = kv.Txn
	// ScanRequest of Txn.Scan.
	ScanRequest = kv.ScanRequest
	// RowIter streams a scan.
	RowIter = kv.RowIter
)
