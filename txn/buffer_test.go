package txn

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/tablet"
)

// The buffer against a map, under random writes, savepoints and roll-backs, in
// its small and its large form; snapshots do not move.
func TestWriteBufferAgainstModel(t *testing.T) {
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 1))
		space := 20
		if seed%2 == 1 {
			space = 10 * smallBuffer
		}
		var b writeBuffer
		model := map[string][]byte{}
		type mark struct {
			at    int
			model map[string][]byte
		}
		var marks []mark
		for range 2000 {
			key := fmt.Sprintf("%05d", rng.IntN(space))
			switch rng.IntN(30) {
			case 0:
				marks = append(marks, mark{b.savepoint(), maps.Clone(model)})
			case 1:
				if len(marks) > 0 {
					i := rng.IntN(len(marks))
					if err := b.rollbackTo(marks[i].at); err != nil {
						t.Fatal(err)
					}
					model = maps.Clone(marks[i].model)
					marks = marks[:i+1]
				}
			case 2:
				b.set(keys.Key(key), nil)
				model[key] = nil
			case 3:
				lo, hi := fmt.Sprintf("%05d", rng.IntN(space)), fmt.Sprintf("%05d", rng.IntN(space))
				reverse := rng.IntN(2) == 0
				it := b.snapshot(keys.Span{Start: keys.Key(lo), End: keys.Key(hi)}, reverse)
				var want []string
				for k := range model {
					if lo <= k && k < hi {
						want = append(want, k)
					}
				}
				slices.Sort(want)
				if reverse {
					slices.Reverse(want)
				}
				frozen := maps.Clone(model)
				b.set(keys.Key(key), []byte("later"))
				model[key] = []byte("later")
				var got []string
				if it != nil {
					for ; it.valid(); it.next() {
						w := it.item()
						got = append(got, string(w.Key))
						if !bytes.Equal(w.Value, frozen[string(w.Key)]) {
							t.Fatalf("seed %d: snapshot of %s moved", seed, w.Key)
						}
					}
					it.close()
				}
				if !slices.Equal(got, want) {
					t.Fatalf("seed %d: [%s, %s) reverse %v: got %v, want %v", seed, lo, hi, reverse, got, want)
				}
			default:
				v := []byte(fmt.Sprint(rng.IntN(1000)))
				b.set(keys.Key(key), v)
				model[key] = v
			}
			v, ok := b.get(keys.Key(key))
			want, exists := model[key]
			if ok != exists || !bytes.Equal(v, want) || (v == nil) != (want == nil) {
				t.Fatalf("seed %d: %s is %q, want %q", seed, key, v, want)
			}
		}
		size := 0
		for k, v := range model {
			size += len(k) + len(v) + entryOverhead
		}
		all := b.all()
		if len(all) != len(model) || b.len() != len(model) || b.bytes != size || !slices.IsSortedFunc(all, func(x, y tablet.Write) int { return bytes.Compare(x.Key, y.Key) }) {
			t.Fatalf("seed %d: %d writes of %d bytes, want %d of %d", seed, len(all), b.bytes, len(model), size)
		}
	}
}
