package tablet

import (
	"bytes"
	"context"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/truetime"
)

// collectBatch bounds the encoded size of one collecting command.
const collectBatch = 64 << 10

// collectKeys bounds the versions looked at between two looks at the context.
const collectKeys = 10_000

// Collect drops, in bounded log commands, the versions of the tablet's keys that
// no read at or above the new low-water mark (now less the horizon) can want: of
// each key all but the newest at or below the mark, and that one too when it is a
// delete. It returns how many went. Only a leader collects; the node calls it from
// time to time, one tablet after the other.
//
// Commands name each version, so apply needs no reading; the mark they carry
// makes every replica refuse older reads before the versions are gone.
func (t *Tablet) Collect(ctx context.Context) (int, error) {
	t.collecting.Lock()
	defer t.collecting.Unlock()
	l, err := t.leading()
	if err != nil {
		return 0, err
	}
	mark := t.cfg.Clock.Now().Earliest.Add(-t.cfg.VersionHorizon)
	if mark <= 0 {
		return 0, nil
	}
	total := 0
	next := t.m.view.Load().desc.Span.Start
	for next != nil {
		if err := ctx.Err(); err != nil {
			return total, err
		}
		v := t.m.view.Load()
		if bytes.Compare(next, v.desc.Span.End) >= 0 {
			break
		}
		var list []byte
		var n int
		list, n, next, err = t.garbage(keys.Span{Start: next, End: v.desc.Span.End}, mark)
		if err != nil {
			return total, err
		}
		if n == 0 {
			continue
		}
		b := appendHeader(make([]byte, 0, len(list)+32), cmdCollect, v.desc.Generation)
		b = appendTS(b, mark)
		b = append(appendUvarint(b, uint64(n)), list...)
		res, _, err := l.propose(ctx, &paxosgroup.Proposal{Data: b}, func(_ *result, _ truetime.Timestamp, err error) {
			if err == nil {
				t.mvcc.collectionVisible() // the next batch may be long in coming
			}
		})
		switch {
		case err == errInFlight:
			return total, ctx.Err()
		case err != nil:
			return total, err
		case res.kind == resOK:
			total += n
			t.stats.Collected.Add(int64(n))
		}
	}
	return total, nil
}

// keyBatch bounds the versions of one key in one command.
const keyBatch = 2000

// garbage lists versions of span that may go, up to a batch, and where to go on
// (nil: the span is done). A key's versions go oldest first when they are too many
// for one command, so that a delete never goes before what it hides.
func (t *Tablet) garbage(span keys.Span, mark truetime.Timestamp) (list []byte, n int, next keys.Key, err error) {
	lower := appendDataBound(nil, span.Start)
	it := t.cfg.Reader.NewIter(lower, appendDataBound(nil, span.End))
	defer it.Close()
	var cur []byte
	var drop []truetime.Timestamp // of cur, newest first
	kept, partial := false, false
	seen := 0
	flush := func() {
		for _, ts := range drop {
			list = appendTS(appendBytes(list, cur), ts)
		}
		n += len(drop)
		drop = drop[:0]
	}
	for ok := it.SeekGE(lower); ok; ok = it.Next() {
		k, ts, good := splitEngineKey(it.Key())
		if !good {
			return nil, 0, nil, errDamaged(it.Key())
		}
		if !bytes.Equal(k, cur) {
			flush()
			if partial {
				return list, n, cloneBytes(cur), it.Err()
			}
			if seen >= collectKeys || len(list) >= collectBatch {
				return list, n, cloneBytes(k), it.Err()
			}
			cur, kept = append(cur[:0], k...), false
		}
		seen++
		if ts > mark {
			continue
		}
		if !kept {
			kept = true
			// The newest stays, but for a delete: everybody sees as much without it.
			if len(it.Value()) == 0 || it.Value()[0] != kindTombstone {
				continue
			}
		}
		if drop = append(drop, ts); len(drop) > 2*keyBatch {
			drop = append(drop[:0], drop[keyBatch:]...)
			partial = true
		}
	}
	flush()
	if partial {
		next = cloneBytes(cur)
	}
	return list, n, next, it.Err()
}
