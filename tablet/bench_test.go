package tablet

import (
	"context"
	"fmt"
	"testing"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/storage"
	"github.com/spandb/spand/truetime"
)

func benchTable() *lockTable {
	return newLockTable(6, keys.Span{Start: []byte{0}, End: []byte("~")}, lockConfig{budget: 20000, maxWaiting: 100}, &Stats{})
}

// BenchmarkPointLock is the fast path: a small transaction's uncontended lock,
// its record included, and the release.
func BenchmarkPointLock(b *testing.B) {
	for _, others := range []int{0, 1000} {
		b.Run(fmt.Sprintf("others=%d", others), func(b *testing.B) {
			lt := benchTable()
			tx, _ := lt.txn(&TxnRef{ID: keys.TxnID{Age: 1, Node: 2, Seq: 1}}, true)
			for i := range others {
				_, _ = lt.acquire(context.Background(), tx, keys.Span{Start: fmt.Appendf(nil, "table/accounts/%08d", i*7)}, LockShared, WaitBlock, false)
			}
			ks := make([][]byte, 256)
			for i := range ks {
				ks[i] = fmt.Appendf(nil, "table/accounts/%08d+", i*31)
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				tx, _ := lt.txn(&TxnRef{ID: keys.TxnID{Age: 1, Node: 1, Seq: uint64(i)}}, true)
				_, _ = lt.acquire(context.Background(), tx, keys.Span{Start: ks[i%256]}, LockExclusive, WaitBlock, false)
				lt.finish(tx, true)
			}
		})
	}
}

func BenchmarkBulkLock(b *testing.B) {
	ks := make([]keys.Key, 5000)
	for i := range ks {
		ks[i] = fmt.Appendf(nil, "table/accounts/%08d", i)
	}
	lt := benchTable()
	for i := 0; b.Loop(); i++ {
		tx, _ := lt.txn(&TxnRef{ID: keys.TxnID{Age: 1, Node: 1, Seq: uint64(i)}}, true)
		_ = lt.lockPoints(context.Background(), tx, ks, LockExclusive)
		lt.finish(tx, true)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(ks)), "ns/key")
}

func benchWorld(b *testing.B) *world {
	w := newWorld(b, 1, nil)
	b.Cleanup(w.close)
	for i := range 1000 {
		w.commit(w.txn(int64(i)), put(fmt.Sprintf("k%06d", i), "some value of ordinary size"))
	}
	return w
}

// BenchmarkSnapshotGet is a lock-free point read at the leader with nothing in
// flight, engine included (the test's, a B-tree).
func BenchmarkSnapshotGet(b *testing.B) {
	w := benchWorld(b)
	lead := w.lead()
	req := &ReadRequest{Gets: []keys.Key{[]byte("k000500")}}
	b.ReportAllocs()
	for b.Loop() {
		req.At = w.now()
		if _, err := lead.Read(context.Background(), req); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkReadModifyWrite is a locking read and a one-phase commit against a
// group that replicates in no time.
func BenchmarkReadModifyWrite(b *testing.B) {
	w := benchWorld(b)
	lead := w.lead()
	ws := []Write{put("k000500", "some other value")}
	b.ReportAllocs()
	for b.Loop() {
		ref := w.txn(1)
		r, err := lead.Read(context.Background(), &ReadRequest{Txn: ref, Lock: LockExclusive, Gets: []keys.Key{ws[0].Key}})
		if err != nil {
			b.Fatal(err)
		}
		ref.Term = r.Term
		if _, err := lead.Commit(context.Background(), &CommitRequest{Txn: ref, Writes: ws, Finished: ref.ID.Seq}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPutVersions(b *testing.B) {
	var ws []Write
	for i := range 1000 {
		ws = append(ws, put(fmt.Sprintf("table/accounts/%08d", i), "a row of about a hundred bytes, as pgbench_accounts has them, with a filler of eighty-four blanks"))
	}
	enc := appendWrites(nil, ws)
	b.ReportAllocs()
	for b.Loop() {
		putVersions(&storage.Batch{}, enc, truetime.Timestamp(7))
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(ws)), "ns/row")
}
