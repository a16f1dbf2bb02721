package tablet

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/storage"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/truetime"
)

// TestIntervalTree compares with a plain list.
func TestIntervalTree(t *testing.T) {
	rng := rand.New(rand.NewSource(1))
	type iv struct {
		start, end string
		id         uint64
	}
	var tree intervalTree[uint64]
	var list []iv
	key := func() string { return fmt.Sprintf("%02d", rng.Intn(60)) }
	for n := range 4000 {
		if len(list) > 0 && rng.Intn(5) < 2 {
			i := rng.Intn(len(list))
			if !tree.remove(list[i].start, list[i].id) {
				t.Fatal("not found")
			}
			list = append(list[:i], list[i+1:]...)
		} else if a, b := key(), key(); a < b {
			tree.insert(a, b, uint64(n), uint64(n))
			list = append(list, iv{a, b, uint64(n)})
		}
		if tree.len() != len(list) {
			t.Fatal(tree.len(), len(list))
		}
		a, b := key(), key()
		if a >= b {
			b = ""
		}
		want := map[uint64]bool{}
		for _, x := range list {
			if b == "" && x.start <= a && a < x.end || b != "" && x.start < b && a < x.end {
				want[x.id] = true
			}
		}
		tree.visit(a, b, func(id uint64) bool {
			if !want[id] {
				t.Fatalf("%d does not overlap", id)
			}
			delete(want, id)
			return true
		})
		if len(want) != 0 {
			t.Fatalf("missed %v", want)
		}
	}
}

// TestMVCCModel compares reads with a plain map of versions.
func TestMVCCModel(t *testing.T) {
	rng := rand.New(rand.NewSource(2))
	e := &memEngine{}
	type ver struct {
		ts  int
		val string
		del bool
	}
	model := map[string][]ver{}
	ks := []string{"a\x00", "a\x01\x00", "ab\x00", "b\x00", "c\xff\x00", "d\x00", "d\x01\x00", "e\x00"}
	for range 300 {
		k, v := ks[rng.Intn(len(ks))], ver{ts: 1 + rng.Intn(400), val: fmt.Sprint(rng.Int31()), del: rng.Intn(4) == 0}
		if rng.Intn(2) == 0 {
			k = ks[3] // many versions of one key
		}
		dup := false
		for _, o := range model[k] {
			dup = dup || o.ts == v.ts
		}
		if dup {
			continue
		}
		model[k] = append(model[k], v)
		b := &storage.Batch{}
		w := Write{Key: []byte(k), Value: []byte(v.val)}
		if v.del {
			w.Value = nil
		}
		putVersions(b, appendWrites(nil, []Write{w}), truetime.Timestamp(v.ts))
		for _, o := range batchOps(b) {
			e.put(o.key, o.value)
		}
	}
	at := func(k string, ts int) (string, bool) {
		var best ver
		for _, v := range model[k] {
			if v.ts <= ts && v.ts > best.ts {
				best = v
			}
		}
		return best.val, best.ts != 0 && !best.del
	}
	m := newMVCC(e)
	bounds := append([]string{"", "\x01", "a", "a\x00\x00", "a\x01", "b\x00\x00", "c", "d\x00\x00", "f"}, ks...)
	for range 3000 {
		ts := rng.Intn(420)
		k := ks[rng.Intn(len(ks))]
		want, ok := at(k, ts)
		if v, err := m.get([]byte(k), truetime.Timestamp(ts)); err != nil || v.Exists != ok || ok && string(v.Bytes) != want {
			t.Fatalf("get %q at %d: %+v %v, want %s %v", k, ts, v, err, want, ok)
		}
		a, b := bounds[rng.Intn(len(bounds))], bounds[rng.Intn(len(bounds))]
		if a >= b {
			continue
		}
		reverse, limit := rng.Intn(2) == 0, rng.Intn(4)
		s := Scan{Span: keys.Span{Start: []byte(a), End: []byte(b)}, Reverse: reverse, MaxRows: limit}
		var exp, got []string
		for i := range ks {
			k := ks[i]
			if reverse {
				k = ks[len(ks)-1-i]
			}
			if v, ok := at(k, ts); ok && a <= k && k < b {
				exp = append(exp, k+"="+v)
			}
		}
		for {
			p := page{maxRows: s.MaxRows, maxBytes: 1 << 20}
			if err := m.scan(s.Span, truetime.Timestamp(ts), s.Reverse, p.add); err != nil {
				t.Fatal(err)
			}
			r := p.result(s)
			for _, kv := range r.Rows {
				got = append(got, string(kv.Key)+"="+string(kv.Value))
			}
			if !r.More {
				break
			}
			s.Span = r.Resume
		}
		if fmt.Sprint(got) != fmt.Sprint(exp) {
			t.Fatalf("scan %q-%q at %d reverse=%v limit=%d:\n got %q\nwant %q", a, b, ts, reverse, limit, got, exp)
		}
	}
}

// TestX1X2X4_RandomHistory runs transfers between accounts, full reads with and
// without locks, leader changes, held logs and late visibility at random. Every
// full read, at whatever time, must find the total unchanged; committed
// timestamps must respect real time; the replicas must agree.
func TestX1X2X4_RandomHistory(t *testing.T) {
	for seed := range int64(25) {
		synctest.Test(t, func(t *testing.T) { randomHistory(t, seed) })
	}
}

func randomHistory(t *testing.T, seed int64) {
	const accounts, total = 8, 800
	w := newWorld(t, 3, func(c *Config) { c.WoundGrace = time.Duration(seed%3-1) * time.Millisecond })
	defer w.close()
	key := func(i int) string { return fmt.Sprintf("acc%d", i) }
	var ws []Write
	for i := range accounts {
		ws = append(ws, put(key(i), "100"))
	}
	w.commit(w.txn(0), ws...)
	all := keys.Span{Start: []byte("acc"), End: []byte("acd")}
	sum := func(rows []KV) int {
		n := 0
		for _, kv := range rows {
			var v int
			fmt.Sscan(string(kv.Value), &v)
			n += v
		}
		return n
	}
	ctx, stop := context.WithTimeout(context.Background(), 2*time.Second)
	defer stop()
	var mu sync.Mutex // seq, commits
	var lastCommit truetime.Timestamp
	commits, reads := 0, 0
	newTxn := func() TxnRef {
		mu.Lock()
		defer mu.Unlock()
		w.seq++
		return TxnRef{ID: keys.TxnID{Age: truetime.FromTime(time.Now()), Node: 1, Seq: w.seq}, Client: 1}
	}
	leader := func() *Tablet {
		w.g.mu.Lock()
		defer w.g.mu.Unlock()
		return w.g.replicas[w.g.lead].sm
	}
	tolerable := func(err error) bool {
		var a *AbortedError
		var n *paxosgroup.NotLeaderError
		var amb *AmbiguousError
		return errors.As(err, &a) || errors.As(err, &n) || errors.As(err, &amb) || ctx.Err() != nil
	}
	var wg sync.WaitGroup
	for c := range 6 {
		wg.Go(func() {
			rng := rand.New(rand.NewSource(seed*100 + int64(c)))
			for ctx.Err() == nil {
				time.Sleep(time.Duration(rng.Intn(5000)) * time.Microsecond)
				tb, ref := leader(), newTxn()
				from, to, amount := rng.Intn(accounts), rng.Intn(accounts), rng.Intn(50)
				if from == to {
					continue
				}
				mu.Lock()
				before := lastCommit // acknowledged, and waited out, before we begin
				mu.Unlock()
				r, err := tb.Read(ctx, &ReadRequest{Txn: ref, Lock: LockStrength(1 + rng.Intn(2)), Gets: []keys.Key{[]byte(key(from)), []byte(key(to))}})
				if err == nil {
					ref.Term = r.Term
					var a, b int
					fmt.Sscan(string(r.Gets[0].Bytes), &a)
					fmt.Sscan(string(r.Gets[1].Bytes), &b)
					time.Sleep(time.Duration(rng.Intn(3000)) * time.Microsecond)
					ws := []Write{put(key(from), fmt.Sprint(a-amount)), put(key(to), fmt.Sprint(b+amount))}
					var ts truetime.Timestamp
					if rng.Intn(3) > 0 {
						var cr *CommitResponse
						if cr, err = tb.Commit(ctx, &CommitRequest{Txn: ref, Writes: ws, MinTS: r.MaxSeen}); err == nil {
							ts = cr.TS
						}
					} else {
						var pr *PrepareResponse
						if pr, err = tb.Prepare(ctx, &PrepareRequest{Txn: ref, Writes: ws, AnchorKey: []byte(key(from)), MinTS: r.MaxSeen}); err == nil {
							o := Outcome{Status: OutcomeCommitted, TS: pr.TS + truetime.Timestamp(rng.Intn(1000))}
							if rng.Intn(4) == 0 {
								o = Outcome{Status: OutcomeAborted}
							}
							time.Sleep(time.Duration(rng.Intn(4000)) * time.Microsecond)
							for { // whoever leads, it must be told
								err = leader().Resolve(context.Background(), &ResolveRequest{Key: []byte(key(from)), Txn: ref.ID, Outcome: o})
								if err == nil {
									break
								}
								time.Sleep(time.Millisecond)
							}
							ts = o.TS
						} else if amb := (*AmbiguousError)(nil); errors.As(err, &amb) {
							// It may be prepared. The coordinator, never asked to commit, says no.
							for leader().Resolve(context.Background(), &ResolveRequest{Key: []byte(key(from)), Txn: ref.ID, Outcome: Outcome{Status: OutcomeAborted}}) != nil {
								time.Sleep(time.Millisecond)
							}
						}
					}
					if err == nil && ts != 0 {
						if ts <= before {
							t.Errorf("seed %d: committed at %d after %d was acknowledged", seed, ts, before)
						}
						_ = w.clock.AwaitAfter(context.Background(), ts)
						mu.Lock()
						lastCommit = max(lastCommit, ts)
						commits++
						mu.Unlock()
					}
				}
				if err != nil && !tolerable(err) {
					t.Errorf("seed %d: %v", seed, err)
				}
				_ = tb.Abort(context.Background(), &AbortRequest{Txn: ref})
			}
		})
		wg.Go(func() {
			rng := rand.New(rand.NewSource(seed*100 + 50 + int64(c)))
			for ctx.Err() == nil {
				time.Sleep(time.Duration(rng.Intn(8000)) * time.Microsecond)
				req := &ReadRequest{At: w.clock.Now().Latest, Scans: []Scan{{Span: all, Reverse: rng.Intn(2) == 0}}}
				if rng.Intn(3) == 0 {
					req.Txn, req.Lock, req.At = newTxn(), LockShared, 0
				} else if rng.Intn(3) == 0 {
					req.At = req.At.Add(-time.Duration(rng.Intn(20)) * time.Millisecond)
				}
				tb := leader()
				r, err := tb.Read(ctx, req)
				if req.Lock != LockNone {
					_ = tb.Abort(context.Background(), &AbortRequest{Txn: req.Txn})
				}
				if err != nil {
					if !tolerable(err) {
						t.Errorf("seed %d: %v", seed, err)
					}
					continue
				}
				if len(r.Scans[0].Rows) == 0 {
					continue // before the accounts were there
				}
				mu.Lock()
				reads++
				mu.Unlock()
				if n := sum(r.Scans[0].Rows); n != total {
					t.Errorf("seed %d: a read (lock %d) at %d finds %d: %s", seed, req.Lock, req.At, n, r.Scans[0].Rows)
				}
			}
		})
	}
	wg.Go(func() {
		rng := rand.New(rand.NewSource(seed))
		for ctx.Err() == nil {
			time.Sleep(time.Duration(rng.Intn(30)) * time.Millisecond)
			switch rng.Intn(5) {
			case 0:
				w.g.elect(rng.Intn(3), rng.Intn(2) == 0)
			case 1, 2:
				w.g.hold()
				time.Sleep(time.Duration(rng.Intn(5)) * time.Millisecond)
				w.g.release()
			case 3:
				w.g.setHidden(true)
				time.Sleep(time.Duration(rng.Intn(5)) * time.Millisecond)
				w.g.setHidden(false)
			}
		}
		w.g.release()
		w.g.setHidden(false)
	})
	wg.Wait()
	w.sameState()
	if commits < 50 || reads < 50 {
		t.Errorf("seed %d: only %d commits and %d reads", seed, commits, reads)
	}
	if n := leader().Replicated().Prepared; n != 0 {
		t.Errorf("seed %d: %d prepared left", seed, n)
	}
	if err := leader().leader.Load().lt.check(); err != nil {
		t.Errorf("seed %d: %v", seed, err)
	}
}
