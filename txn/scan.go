package txn

import (
	"bytes"
	"context"
	"errors"
	"slices"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/tablet"
)

// ScanRequest of Txn.Scan.
type ScanRequest struct {
	Span    keys.Span
	Reverse bool
	// Limit is how many rows are wanted, a hint that bounds reading ahead and
	// locking; 0: all.
	Limit int
	Lock  tablet.LockStrength
	Wait  tablet.WaitPolicy
}

// Pages of a scan: the first is small, for those who want few rows, and each
// next one four times larger.
const (
	firstPage = 64 << 10
	maxPage   = 1 << 20
)

// RowIter streams a scan: for it.Next() { it.Key(); it.Value() }; it.Err().
// It sees the transaction's own writes from before the scan, not later ones.
// Slices stay valid. It belongs to the transaction's goroutine.
type RowIter struct {
	t   *Txn
	ctx context.Context
	req ScanRequest

	rest keys.Span // not yet asked for; empty when Start is nil
	page []tablet.KV
	pos  int
	size int // bytes of the next page
	rows int // rows asked of the next page, 0 for no bound
	own  *bufIter

	key   keys.Key
	value []byte
	err   error
	done  bool
}

// Scan reads a span in key order, or backwards.
func (t *Txn) Scan(ctx context.Context, req ScanRequest) *RowIter {
	it := &RowIter{t: t, ctx: ctx, req: req, size: firstPage, rows: req.Limit}
	if it.err = t.readable(req.Lock); it.err != nil {
		it.done = true
		return it
	}
	if t.optimistic {
		if it.err = t.stopGuessing(); it.err != nil {
			it.done = true
			return it
		}
	}
	it.rest = spanOf(req.Span)
	if bytes.Compare(it.rest.Start, it.rest.End) >= 0 {
		it.done = true
		return it
	}
	if !t.ro {
		if t.stager != nil {
			// What is on its way must be there before the tablets are asked.
			if it.err = t.stager.barrier(ctx); it.err != nil {
				it.done = true
				return it
			}
		}
		it.own = t.buf.snapshot(it.rest, req.Reverse)
		t.open = append(t.open, it)
	}
	return it
}

// Next moves to the next row.
func (it *RowIter) Next() bool {
	for !it.done {
		if it.pos == len(it.page) && it.rest.Start != nil {
			if it.err = it.fetch(); it.err != nil {
				it.t.fail(it.err)
				it.Close()
				return false
			}
			continue
		}
		stored := it.pos < len(it.page)
		own := it.own != nil && it.own.valid()
		if !stored && !own {
			it.Close()
			return false
		}
		var c int
		switch {
		case !own:
			c = -1
		case !stored:
			c = 1
		default:
			c = bytes.Compare(it.page[it.pos].Key, it.own.item().Key)
			if it.req.Reverse {
				c = -c
			}
		}
		if c < 0 {
			it.key, it.value = it.page[it.pos].Key, it.page[it.pos].Value
			it.pos++
			return true
		}
		w := it.own.item()
		it.own.next()
		if c == 0 {
			it.pos++
		}
		if w.Value != nil {
			it.key, it.value = w.Key, w.Value
			return true
		}
	}
	return false
}

// Key of the current row.
func (it *RowIter) Key() keys.Key { return it.key }

// Value of the current row.
func (it *RowIter) Value() []byte { return it.value }

// Err says why Next returned false, nil at the end of the span.
func (it *RowIter) Err() error { return it.err }

// Close ends the scan; harmless more than once.
func (it *RowIter) Close() {
	it.done = true
	it.page, it.pos = nil, 0
	it.rest = keys.Span{}
	if it.own != nil {
		it.own.close()
		it.own = nil
	}
	if i := slices.Index(it.t.open, it); i >= 0 {
		it.t.open = slices.Delete(it.t.open, i, i+1)
	}
}

// fetch reads the next page, from one tablet.
func (it *RowIter) fetch() error {
	t, c := it.t, it.t.c
	if err := t.usable(); err != nil {
		return err
	}
	var back backoff
	for {
		var desc keys.Descriptor
		var err error
		span := it.rest
		if it.req.Reverse {
			desc, err = c.cfg.Router.LookupBefore(it.ctx, span.End)
		} else {
			desc, err = c.cfg.Router.Lookup(it.ctx, span.Start)
		}
		if err != nil {
			return err
		}
		if bytes.Compare(span.Start, desc.Span.Start) < 0 {
			span.Start = desc.Span.Start
		}
		if bytes.Compare(span.End, desc.Span.End) > 0 {
			span.End = desc.Span.End
		}
		scans := [1]tablet.Scan{{Span: span, Reverse: it.req.Reverse, MaxRows: it.rows}}
		t.readReq = tablet.ReadRequest{At: t.at, Lock: it.req.Lock, Wait: it.req.Wait, Scans: scans[:], MaxBytes: it.size}
		part, sent := -1, uint64(0)
		if it.req.Lock != tablet.LockNone {
			part, sent = t.part(&desc)
			t.readReq.Txn = t.ref(sent)
		}
		resp, err := t.read(it.ctx, &desc, &t.readReq)
		t.readReq.Scans = nil
		if err != nil {
			var re *tablet.RangeError
			if !errors.As(err, &re) {
				return err
			}
			key := span.Start
			if it.req.Reverse {
				key = desc.Span.Start
			}
			if err := c.learnRange(it.ctx, key, &desc, re, &back); err != nil {
				return err
			}
			continue
		}
		if len(resp.Scans) != 1 {
			return errors.New("txn: a scan was not answered")
		}
		return it.take(span, &desc, part, sent, resp)
	}
}

// take accepts a page that covers span, or the beginning of it.
func (it *RowIter) take(span keys.Span, desc *keys.Descriptor, part int, sent uint64, resp *tablet.ReadResponse) error {
	res := &resp.Scans[0]
	covered, left := span, keys.Span{}
	if res.More {
		left = span
		n := len(res.Rows)
		switch {
		case n > 0 && it.req.Reverse:
			left.End = res.Rows[n-1].Key
		case n > 0:
			left.Start = append(bytes.Clone(res.Rows[n-1].Key), 0)
		case res.Resume.Start == nil || res.Resume.IsPoint() || !span.Covers(res.Resume):
			return errors.New("txn: a scan cannot be resumed")
		default:
			left = res.Resume
		}
		if bytes.Compare(left.Start, left.End) >= 0 {
			left = keys.Span{}
		} else if it.req.Reverse {
			covered.Start = left.End
		} else {
			covered.End = left.Start
		}
	}
	it.t.seen(resp.MaxSeen)
	if part >= 0 {
		if err := it.t.granted(part, desc, sent, resp.Term, nil, covered); err != nil {
			return err
		}
	}
	// What follows this page, in this tablet and the next ones.
	if it.req.Reverse {
		it.rest.End = covered.Start
	} else {
		it.rest.Start = covered.End
	}
	if bytes.Compare(it.rest.Start, it.rest.End) >= 0 {
		it.rest = keys.Span{}
	}
	it.page, it.pos = res.Rows, 0
	it.size = min(4*it.size, maxPage)
	if it.rows > 0 {
		// Fewer than wanted: own deletions or the caller's filter took some.
		if it.rows -= len(res.Rows); it.rows <= 0 {
			it.rows = max(it.req.Limit, 16)
		}
	}
	return nil
}
