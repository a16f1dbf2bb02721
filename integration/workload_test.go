package integration

import (
	"context"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/spandb/spand/integration/check"
	"github.com/spandb/spand/integration/workload"
)

var workloadFor = flag.Duration("workload.for", 5*time.Second, "how long TestWorkloads runs its clients")

// TestWorkloads runs every kind of client at once against three healthy nodes.
func TestWorkloads(t *testing.T) {
	c := startProcesses(t, Options{Nodes: 3})
	o := workload.Options{Seed: 1, Clients: 2 * len(workload.DefaultKinds()), Log: t.Logf}
	if err := workload.Setup(t.Context(), c.Target(), o); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), *workloadFor)
	defer cancel()
	h := workload.Run(ctx, c.Target(), o)
	judge(t, c, h)
	for _, k := range workload.DefaultKinds() {
		if n := committed(h, k); n < 20 {
			t.Errorf("only %d transactions of %s were committed", n, k)
		}
	}
}

// judge ends a history with final reads and fails the test for what is wrong with it.
func judge(t *testing.T, c *Cluster, h *check.History) *check.Report {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := workload.Finale(ctx, c.Target(), h); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	r := check.Judge(h, check.Options{})
	t.Logf("%s%v", workload.Summary(h), r)
	t.Logf("judged in %v", time.Since(began))
	gaps := check.Gaps(h, check.ByGroup)
	maps.Copy(gaps, check.Gaps(h, check.ByNode))
	for _, g := range slices.Sorted(maps.Keys(gaps)) {
		t.Logf("%s: no success for %v, from %v", g, gaps[g].Length(), gaps[g].From)
	}
	if len(r.All()) > 0 {
		path := filepath.Join(os.TempDir(), "spand-"+filepath.Base(t.Name())+".hist")
		if f, err := os.Create(path); err == nil {
			h.WriteTo(f)
			f.Close()
		}
		t.Errorf("%d violations; the history is in %s", len(r.All()), path)
	}
	return r
}

func committed(h *check.History, kind string) (n int) {
	for _, x := range h.Txns() {
		if x.Kind == kind && x.Status == check.OK {
			n++
		}
	}
	return n
}
