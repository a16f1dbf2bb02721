package txn

import (
	"bytes"
	"errors"

	"github.com/tidwall/btree"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/tablet"
)

// smallBuffer is up to how many writes the buffer is a sorted slice, which beats
// a tree there; insertion moves at most this many entries.
const smallBuffer = 128

// entryOverhead is what a buffered write costs beside its bytes.
const entryOverhead = 48

// writeBuffer holds a transaction's writes in key order, the last one of each
// key. It retains the slices it is given. Not safe for concurrent use.
type writeBuffer struct {
	// small is sorted by key; used while big is nil.
	small  []tablet.Write
	inline [2]tablet.Write // small's first backing: most transactions write little
	big    *btree.BTreeG[tablet.Write]
	bytes  int

	// undo remembers what each write replaced, from the first Savepoint on.
	// Marks are absolute: undoBase counts the records dropped by staging.
	undo      []undoRecord
	undoBase  int
	recording bool
}

type undoRecord struct {
	prev    tablet.Write // its Key is the key written
	existed bool
}

// errSavepointStaged: the writes to drop are partly laid down at their tablets.
var errSavepointStaged = errors.New("txn: the transaction has become too large to roll back to this savepoint")

func writeLess(a, b tablet.Write) bool { return bytes.Compare(a.Key, b.Key) < 0 }

// search returns the position of key in small, and whether it is there.
func searchWrites(ws []tablet.Write, key keys.Key) (int, bool) {
	// The common case is ascending insertion.
	if n := len(ws); n > 0 {
		switch c := bytes.Compare(key, ws[n-1].Key); {
		case c > 0:
			return n, false
		case c == 0:
			return n - 1, true
		}
	}
	lo, hi := 0, len(ws)
	for lo < hi {
		m := int(uint(lo+hi) >> 1)
		if bytes.Compare(ws[m].Key, key) < 0 {
			lo = m + 1
		} else {
			hi = m
		}
	}
	return lo, lo < len(ws) && bytes.Equal(ws[lo].Key, key)
}

func (b *writeBuffer) len() int {
	if b.big != nil {
		return b.big.Len()
	}
	return len(b.small)
}

// get returns the write of key, if there is one.
func (b *writeBuffer) get(key keys.Key) (value []byte, ok bool) {
	if b.big != nil {
		w, ok := b.big.Get(tablet.Write{Key: key})
		return w.Value, ok
	}
	if len(b.small) == 0 {
		return nil, false
	}
	i, ok := searchWrites(b.small, key)
	if !ok {
		return nil, false
	}
	return b.small[i].Value, true
}

// set adds a write; a nil value deletes.
func (b *writeBuffer) set(key keys.Key, value []byte) {
	prev, existed := b.put(tablet.Write{Key: key, Value: value})
	if b.recording {
		prev.Key = key
		b.undo = append(b.undo, undoRecord{prev, existed})
	}
}

func (b *writeBuffer) put(w tablet.Write) (prev tablet.Write, existed bool) {
	b.bytes += len(w.Key) + len(w.Value) + entryOverhead
	if b.big == nil {
		i, ok := searchWrites(b.small, w.Key)
		if ok {
			prev = b.small[i]
			b.small[i] = w
			b.bytes -= len(prev.Key) + len(prev.Value) + entryOverhead
			return prev, true
		}
		if len(b.small) < smallBuffer {
			if b.small == nil {
				b.small = b.inline[:0]
			}
			b.small = append(b.small, tablet.Write{})
			copy(b.small[i+1:], b.small[i:])
			b.small[i] = w
			return prev, false
		}
		b.big = btree.NewBTreeGOptions(writeLess, btree.Options{NoLocks: true, Degree: 32})
		for _, e := range b.small {
			b.big.Load(e)
		}
		b.small = nil
	}
	prev, existed = b.big.Set(w)
	if existed {
		b.bytes -= len(prev.Key) + len(prev.Value) + entryOverhead
	}
	return prev, existed
}

func (b *writeBuffer) remove(key keys.Key) {
	var prev tablet.Write
	ok := false
	if b.big != nil {
		prev, ok = b.big.Delete(tablet.Write{Key: key})
	} else {
		var i int
		if i, ok = searchWrites(b.small, key); ok {
			prev = b.small[i]
			b.small = append(b.small[:i], b.small[i+1:]...)
		}
	}
	if ok {
		b.bytes -= len(prev.Key) + len(prev.Value) + entryOverhead
	}
}

// savepoint returns a mark for rollbackTo.
func (b *writeBuffer) savepoint() int {
	b.recording = true
	return b.undoBase + len(b.undo)
}

// rollbackTo restores the buffer as it was at mark.
func (b *writeBuffer) rollbackTo(mark int) error {
	if mark < b.undoBase {
		return errSavepointStaged
	}
	n := mark - b.undoBase
	if n > len(b.undo) || !b.recording {
		return errors.New("txn: no such savepoint")
	}
	for i := len(b.undo) - 1; i >= n; i-- {
		if u := b.undo[i]; u.existed {
			b.put(u.prev)
		} else {
			b.remove(u.prev.Key)
		}
	}
	clear(b.undo[n:])
	b.undo = b.undo[:n]
	return nil
}

// all returns the writes in key order; valid until the buffer changes.
func (b *writeBuffer) all() []tablet.Write {
	if b.big == nil {
		return b.small
	}
	out := make([]tablet.Write, 0, b.big.Len())
	b.big.Scan(func(w tablet.Write) bool { out = append(out, w); return true })
	return out
}

// reset empties the buffer but for keep, after the rest was staged: what came
// before cannot be undone any more.
func (b *writeBuffer) reset(keep []tablet.Write) {
	b.undoBase += len(b.undo)
	if len(b.undo) > 0 {
		// A mark equal to the old end of undo stays valid, older ones do not.
		b.undo = nil
	}
	b.small, b.big, b.bytes = nil, nil, 0
	for _, w := range keep {
		b.put(w)
	}
}

// snapshot returns an iterator over the writes in span as they are now; later
// writes do not show in it, so that a statement never meets its own writes
// (the Halloween problem). Nil when there is none.
func (b *writeBuffer) snapshot(span keys.Span, reverse bool) *bufIter {
	if b.len() == 0 {
		return nil
	}
	if b.big == nil {
		lo, _ := searchWrites(b.small, span.Start)
		hi, _ := searchWrites(b.small, span.End)
		if lo >= hi {
			return nil
		}
		it := &bufIter{ents: append([]tablet.Write(nil), b.small[lo:hi]...), reverse: reverse}
		if reverse {
			it.i = len(it.ents) - 1
		}
		return it
	}
	it := &bufIter{reverse: reverse, span: span}
	it.tree = b.big.Copy().Iter()
	if reverse {
		if it.ok = it.tree.Seek(tablet.Write{Key: span.End}); it.ok {
			it.ok = it.tree.Prev()
		} else {
			it.ok = it.tree.Last()
		}
	} else {
		it.ok = it.tree.Seek(tablet.Write{Key: span.Start})
	}
	if !it.valid() {
		it.close()
		return nil
	}
	return it
}

// bufIter walks a snapshot of a write buffer: over a copied slice, or over a
// copy-on-write copy of the tree.
type bufIter struct {
	reverse bool
	ents    []tablet.Write
	i       int

	tree btree.IterG[tablet.Write]
	span keys.Span
	ok   bool
}

func (it *bufIter) valid() bool {
	if it.ents != nil {
		return it.i >= 0 && it.i < len(it.ents)
	}
	if !it.ok {
		return false
	}
	k := it.tree.Item().Key
	return bytes.Compare(k, it.span.Start) >= 0 && bytes.Compare(k, it.span.End) < 0
}

func (it *bufIter) item() tablet.Write {
	if it.ents != nil {
		return it.ents[it.i]
	}
	return it.tree.Item()
}

func (it *bufIter) next() {
	switch {
	case it.ents != nil && it.reverse:
		it.i--
	case it.ents != nil:
		it.i++
	case it.reverse:
		it.ok = it.tree.Prev()
	default:
		it.ok = it.tree.Next()
	}
}

func (it *bufIter) close() {
	if it.ents == nil {
		it.tree.Release()
	}
}
