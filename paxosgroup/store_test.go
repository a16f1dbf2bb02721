package paxosgroup

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/storage"
	"github.com/spandb/spand/truetime"
)

var _ Store = (*storage.Store)(nil)

// disk is a node of a world on the real storage, on a disk that can crash.
type disk struct {
	fs     *storage.MemFS
	store  *storage.Store
	manual bool // checkpoints only when asked for
}

func (d *disk) boot(n *node) map[keys.GroupID]storage.Recovered {
	n.starts++
	o := storage.Options{
		FS: d.fs.Boot(), Dir: fmt.Sprintf("/node%d", n.id), Logger: n.w.log,
		Identity:       storage.Identity{Cluster: [16]byte{7}, Node: n.id, Name: fmt.Sprint("n", n.id)},
		CheckpointKeys: 150, CheckpointInterval: 500 * time.Millisecond, SegmentBytes: 1 << 20, CheckpointSegments: 32, MapBytes: 64 << 20, Reserve: -1,
		Fatal: func(err error) {},
	}
	if d.manual {
		o.CheckpointInterval, o.CheckpointSegments = time.Hour, 1000
	}
	s, recovered, err := storage.Open(o)
	if err != nil {
		n.w.t.Fatal(err)
	}
	d.store = s
	c := Config{
		Node: n.id, Nodes: n.w.ids, Clock: n.clock, Store: s, Transport: n.w.net.Endpoint(n.id),
		Logger: n.w.log, Incarnation: n.starts, FirstLife: n.starts == 1, BalanceInterval: -1, TailBudget: 2 * tailBytes,
		GroupFailed: func(g keys.GroupID, err error) { n.w.t.Errorf("node %d: group %d failed: %v", n.id, g, err) },
	}
	if n.w.conf != nil {
		n.w.conf(&c)
	}
	h, err := NewHost(c)
	if err != nil {
		n.w.t.Fatal(err)
	}
	n.host, n.groups, n.toys = h, make(map[keys.GroupID]*Group), make(map[keys.GroupID]*toy)
	for _, sp := range n.specs {
		sp.Machine = &toy{n: n, id: sp.ID}
		if r, ok := recovered[sp.ID]; ok {
			sp.Recovered = &r
		}
		g, err := h.Open(sp)
		if err != nil {
			n.w.t.Fatal(err)
		}
		n.groups[sp.ID], n.toys[sp.ID] = g, sp.Machine.(*toy)
	}
	s.SetSource(h)
	s.Start()
	h.Start()
	return recovered
}

func (d *disk) crash(n *node, r *rand.Rand) {
	n.w.net.Crash(n.id)
	if err := d.fs.Crash(r); err != nil {
		n.w.t.Fatal(err)
	}
	n.host.Close()
	_ = d.store.Close() // its disk is gone
	n.host = nil
}

// The whole of replication and storage together: crashes that tear the last
// writes, checkpoints all the time, a follower that needs a snapshot.
func TestR1_OnTheRealStore(t *testing.T) {
	for seed := range uint64(1) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 9))
			w := newWorld(t, seed, 3)
			defer w.net.Close()
			disks := make(map[keys.NodeID]*disk)
			groups := []keys.GroupID{1, 2}
			for _, id := range w.ids {
				n := w.nodes[id]
				n.store.close()
				n.store = nil
				disks[id] = &disk{fs: storage.NewMemFS(t.TempDir())}
				for _, g := range groups {
					n.specs = append(n.specs, GroupConfig{ID: g, Replica: keys.ReplicaID(uint64(g)*100 + uint64(id)), Replicas: w.replicas(g), Preferred: 1})
				}
				disks[id].boot(n)
			}
			seq := 0
			write := func(count int, pad string) {
				for range count {
					for _, g := range groups {
						if n := w.serving(g); n != nil {
							seq++
							n.submit(g, n.groups[g].leadTerm.Load(), fmt.Sprint("c", seq, pad), func(truetime.Timestamp, error) {})
						}
					}
					time.Sleep(time.Duration(r.IntN(5)) * time.Millisecond)
				}
			}
			w.leader(1)
			for range 6 {
				write(100, "")
				id := w.ids[r.IntN(3)]
				disks[id].crash(w.nodes[id], r)
				write(100, "")
				disks[id].boot(w.nodes[id])
				time.Sleep(time.Second)
			}
			// All at once.
			for _, id := range w.ids {
				disks[id].crash(w.nodes[id], r)
			}
			for _, id := range w.ids {
				disks[id].boot(w.nodes[id])
			}
			w.leader(1)
			w.leader(2)
			disks[3].crash(w.nodes[3], r)
			w.leader(1)
			w.leader(2)
			write(140, strings.Repeat("x", 60<<10))
			disks[3].boot(w.nodes[3])
			write(50, "")
			time.Sleep(20 * time.Second)
			if w.net.Sent(ClassSnapshot) == 0 {
				t.Error("no snapshot was needed")
			}
			for _, g := range groups {
				w.leader(g)
				w.converged(g)
				var want []byte
				for _, id := range w.ids {
					sp := w.nodes[id].toys[g].Spans()[0]
					var all []byte
					it := disks[id].store.NewIter(sp[0], sp[1])
					for ok := it.SeekGE(sp[0]); ok; ok = it.Next() {
						all = appendKV(all, it.Key(), it.Value())
					}
					it.Close()
					if want == nil {
						want = all
					}
					if len(all) == 0 || !bytes.Equal(all, want) {
						t.Errorf("seed %d: node %d holds %d bytes of group %d, node 1 %d", seed, id, len(all), g, len(want))
					}
				}
			}
			for _, id := range w.ids {
				w.nodes[id].host.Close()
				if err := disks[id].store.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}
