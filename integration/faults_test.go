package integration

import (
	"context"
	"crypto/sha256"
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/spandb/spand/integration/check"
	"github.com/spandb/spand/integration/workload"
)

var (
	faultMinutes = flag.Float64("integration.minutes", 0, "minutes of faults in TestFaults, in pieces of at most five, each with a cluster and a seed of its own; default: 20 s, with -integration.long 30 minutes")
	faultSeed    = flag.Uint64("integration.seed", 1, "seed of the first piece of TestFaults")
	faultNodes   = flag.Int("integration.nodes", 3, "nodes in TestFaults")
	faultClock   = flag.Duration("integration.clock-error", 0, "--max-clock-error in TestFaults; all nodes share one host's clock, so 0 is honest")
)

// Longest times in which a tablet may answer nobody: while a majority is alive (the
// promise to a dead leader, 1.5 s, 2ε, an election, and what a loaded machine
// takes), and after a majority has come back (the start of processes, and the
// abstention of who has just started).
const (
	maxOutage = 3 * time.Second
	maxReturn = 6 * time.Second
)

// TestFaults (R1, R2, X1, X3, X5): processes are killed, stopped and cut off from each
// other while clients work at every node; what they saw is judged afterwards, and
// how long each tablet answered nobody. See doc.go for the long form.
func TestFaults(t *testing.T) {
	besideEachOther(t)
	eachPiece(t, func(t *testing.T, seed uint64, d time.Duration) figures {
		c := startProcesses(t, Options{Nodes: *faultNodes, ClockError: *faultClock, Proxy: true})
		return runFaults(t, c, c.Proxy, seed, d)
	})
}

// TestFaultsInNamespaces is TestFaults with each node in a network namespace: there
// a partition drops packets, where the proxy swallows what TCP has delivered.
func TestFaultsInNamespaces(t *testing.T) {
	besideEachOther(t)
	if !InNamespace(t) {
		return
	}
	ns := NewNamespaces(t, *faultNodes)
	eachPiece(t, func(t *testing.T, seed uint64, d time.Duration) figures {
		c := startProcesses(t, Options{Nodes: *faultNodes, ClockError: *faultClock, Namespaces: ns})
		return runFaults(t, c, ns, seed, d)
	})
}

// besideEachOther has the short forms, which mostly wait, run at the same time.
func besideEachOther(t *testing.T) {
	if *faultMinutes == 0 && !*long {
		t.Parallel()
	}
}

// eachPiece runs the pieces that the flags ask for and sums up what they found.
func eachPiece(t *testing.T, run func(t *testing.T, seed uint64, d time.Duration) figures) {
	d := time.Duration(*faultMinutes * float64(time.Minute))
	if d == 0 && *long {
		d = 30 * time.Minute
	}
	if d == 0 {
		t.Log("result:", run(t, *faultSeed, 0))
		return
	}
	const piece = 5 * time.Minute
	pieces := int((d + piece - 1) / piece)
	sum := figures{counts: map[string]int{}}
	for i := range pieces {
		seed := *faultSeed + uint64(i)
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			f := run(t, seed, d/time.Duration(pieces))
			t.Log("result:", f)
			sum.add(f)
		})
		if t.Failed() {
			break
		}
	}
	t.Log("result of all pieces:", sum)
}

// figures are what a run tells of itself.
type figures struct {
	lasted                              time.Duration
	ok, failed, unknown, violations     int
	counts                              map[string]int // faults by kind
	outages, cells, returns, gateways   []Outage
	locks                               *check.LockReport
	meterWrites, meterFailed, undecided int
}

func (f *figures) add(g figures) {
	f.lasted += g.lasted
	f.ok, f.failed, f.unknown, f.violations = f.ok+g.ok, f.failed+g.failed, f.unknown+g.unknown, f.violations+g.violations
	f.meterWrites, f.meterFailed, f.undecided = f.meterWrites+g.meterWrites, f.meterFailed+g.meterFailed, f.undecided+g.undecided
	for k, n := range g.counts {
		f.counts[k] += n
	}
	if f.locks == nil {
		f.locks = &check.LockReport{}
	}
	f.locks.Add(g.locks)
	for _, l := range []struct{ to, from *[]Outage }{{&f.outages, &g.outages}, {&f.cells, &g.cells}, {&f.returns, &g.returns}, {&f.gateways, &g.gateways}} {
		*l.to = append(*l.to, *l.from...)
		slices.SortFunc(*l.to, func(a, b Outage) int { return int(b.Length() - a.Length()) })
	}
}

func (f figures) String() string {
	faults := 0
	for _, n := range f.counts {
		faults += n
	}
	return fmt.Sprintf("%v of faults, %d nodes, --max-clock-error %s, %d clients: %d transactions ok, %d failed, %d unknown; %d violations, %d undecided; %d faults (%s); "+
		"lock clients: %s; tablet outages with a majority alive: %s; the cell's: %s; after its return: %s; as seen through one live node: %s; meter: %d writes, %d failed",
		f.lasted.Round(time.Second), *faultNodes, *faultClock, faultClients, f.ok, f.failed, f.unknown, f.violations, f.undecided, faults, faultCounts(f.counts),
		f.locks, quantiles(f.outages), quantiles(f.cells), quantiles(f.returns), quantiles(f.gateways), f.meterWrites, f.meterFailed)
}

// faultCounts tells faults by kind.
func faultCounts(counts map[string]int) string {
	var list []string
	for _, k := range faultKinds {
		if n := counts[k.name]; n > 0 {
			list = append(list, fmt.Sprintf("%s %d", k.name, n))
		}
	}
	return strings.Join(list, ", ")
}

// faultClients is how many clients work while faults happen, besides the meter's.
const faultClients = 16

// runFaults lets faults happen for a time; in no time, one of each that matters most.
func runFaults(t *testing.T, c *Cluster, net Network, seed uint64, d time.Duration) figures {
	o := workload.Options{Seed: seed, Clients: faultClients, Log: t.Logf}
	if err := workload.Setup(t.Context(), c.Target(), o); err != nil {
		t.Fatal(err)
	}
	if err := SetupMeter(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	var before vitals
	files := 0
	for _, n := range c.Nodes {
		before.goroutines = max(before.goroutines, quiet(t, n).goroutines)
		files = max(files, descriptors(t, n))
	}

	locks := startLockers(t, c, seed)

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ran := make(chan *check.History, 1)
	go func() { ran <- workload.Run(ctx, c.Target(), o) }()
	h := NewHealth(len(c.Nodes))
	m := StartMeter(c, h)
	x := NewNemesis(t, c, net, h, seed)
	began := time.Now()
	if d == 0 {
		x.Short()
	} else {
		x.Run(t.Context(), d)
	}
	f := figures{lasted: time.Since(began), counts: x.Counts}
	// Safety was the faults' time; now liveness: a healthy cluster answers everybody.
	pause(3*time.Second, t.Context().Done())
	a := m.Stop()
	cancel()
	history := <-ran
	f.locks = locks.stop()
	least := time.Duration(0)
	if d == 0 {
		least = 10 * time.Second // beside other tests it is no matter of speed
	}
	report(t, a, least)
	r := judge(t, c, history)
	for _, n := range c.Nodes {
		awaitNoLocks(t, n)
	}
	for i, n := range c.Nodes {
		awaitCaughtUp(t, n, c.Nodes[(i+1)%len(c.Nodes)])
	}
	replicasAgree(t, c)
	for _, n := range c.Nodes {
		notGrown(t, n, before, files)
	}
	f.ok, f.failed, f.unknown, f.violations, f.undecided = r.OK, r.Failed, r.Unknown, len(r.Violations)+r.Suppressed, len(r.Undecided)
	f.outages, f.cells, f.returns, f.gateways = a.Worst, a.Cells, a.Returns, a.Gateways
	f.violations += len(f.locks.Violations) + f.locks.Suppressed
	f.meterWrites, f.meterFailed = a.Writes, a.Attempts-a.Writes
	return f
}

// await waits until look has nothing to complain about any more.
func await(t *testing.T, look func() (complaint string)) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(50 * time.Millisecond) { // it comes on the cluster's own schedule
		complaint := look()
		if complaint == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(complaint)
		}
	}
}

// replicasAgree reads every table at one timestamp through each node. Reads in the past
// are answered by the node's own replicas once they have closed that time (X4), so this
// compares the replicas.
func replicasAgree(t *testing.T, c *Cluster) {
	t.Helper()
	conn := connect(t, c.Nodes[0])
	var at string
	if _, err := conn.Exec(t.Context(), "begin read only; select count(*) from availability; commit", pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
	if err := conn.QueryRow(t.Context(), "show spand.read_timestamp").Scan(&at); err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	rows, _ := conn.Query(t.Context(), "select table_name from information_schema.tables where table_schema = 'public' order by table_name")
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(tables) == 0 {
		t.Fatalf("%d tables, %v", len(tables), err)
	}
	first := map[string]string{}
	total := 0
	for _, n := range c.Nodes {
		await(t, func() string {
			behind := psql(t, n, fmt.Sprintf("select tablet, safe_time from spand.replicas where safe_time is null or safe_time <= '%s'", at))
			if behind == "" {
				return ""
			}
			return fmt.Sprintf("%s: not closed at %s:\n%s", n.Name, at, behind)
		})
		conn := connect(t, n)
		if _, err := conn.Exec(t.Context(), fmt.Sprintf("set spand.read_only_staleness = 'READ_TIMESTAMP %s'", at)); err != nil {
			t.Fatal(err)
		}
		for _, table := range tables {
			results, err := conn.PgConn().Exec(t.Context(), "select * from "+table).ReadAll()
			if err != nil {
				t.Fatalf("%s: %s at %s: %v", n.Name, table, at, err)
			}
			total += len(results[0].Rows)
			digest := fmt.Sprintf("%d rows, %x", len(results[0].Rows), sha256.Sum256(fmt.Append(nil, results[0].Rows)))
			if first[table] == "" {
				first[table] = digest
			} else if first[table] != digest {
				t.Errorf("%s at %s: %s at %s, %s at %s", table, at, first[table], c.Nodes[0].Name, digest, n.Name)
			}
		}
		conn.Close(t.Context())
	}
	t.Logf("replicas agree on %d tables at %s; %d rows compared", len(tables), at, total)
}

// report logs what was felt and holds it against the bounds, or against least if
// that is more.
func report(t *testing.T, a Availability, least time.Duration) {
	t.Logf("meter: %d writes of %d attempts; failed: %v", a.Writes, a.Attempts, a.FailedByCondition)
	if len(a.Worst)+len(a.Cells)+len(a.Returns) == 0 {
		t.Error("no fault was felt: nothing was done, or nothing was measured")
	}
	for _, list := range []struct {
		what    string
		outages []Outage
		bound   time.Duration
	}{{"a majority alive", a.Worst, maxOutage}, {"a majority alive, the cell's", a.Cells, maxOutage}, {"a majority back", a.Returns, maxReturn}, {"at one live node", a.Gateways, 0}} {
		t.Logf("outages, %s: %s", list.what, quantiles(list.outages))
		for i, o := range list.outages {
			over := list.bound != 0 && o.Length() > max(list.bound, least)
			if over {
				t.Errorf("outage: %v", o)
			} else if i < 3 {
				t.Logf("outage: %v", o)
			}
		}
	}
}

// quantiles of outages that are sorted, the longest first.
func quantiles(list []Outage) string {
	if len(list) == 0 {
		return "none"
	}
	at := func(q float64) string {
		return list[int((1-q)*float64(len(list)-1))].Length().Round(time.Millisecond).String()
	}
	return fmt.Sprintf("%d longer than 300ms, p50 %s, p99 %s, max %s", len(list), at(0.5), at(0.99), at(1))
}

// notGrown waits until a node has no client and no lock, and hardly more goroutines
// and open files than any had before the faults: how many varies with who leads, and with the log.
func notGrown(t *testing.T, n *Node, before vitals, files int) {
	t.Helper()
	// Beside it, goroutines that have answered a peer's calls wait for the next ones, while the
	// stream lasts (rpc): lock clients make more of them.
	const slack, idle = 30, 64
	deadline := time.Now().Add(60 * time.Second)
	for {
		v, open := readVitals(t, n), descriptors(t, n)
		if v.connections == 0 && v.locks == 0 && v.goroutines <= before.goroutines+slack+idle && open <= files+slack {
			return
		}
		if time.Now().After(deadline) {
			profile := "" // which is for loopback only
			if strings.HasPrefix(n.HTTPAddr, "127.") {
				profile = get(t, n, "/debug/pprof/goroutine?debug=1")
			}
			t.Errorf("%s leaks: %+v and %d open files, before the faults %+v and %d\n%s", n.Name, v, open, before, files, profile)
			return
		}
		time.Sleep(100 * time.Millisecond) // what has lost its peer ends by itself
	}
}
