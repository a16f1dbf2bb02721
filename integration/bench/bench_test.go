package main

import (
	"context"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

const runOutput = `pgbench (15.18 (Debian 15.18-0+deb12u1), server 15.0 (spand 0.1.0))
transaction type: <builtin: TPC-B (sort of)>
scaling factor: 10
query mode: prepared
number of clients: 8
number of threads: 2
duration: 3 s
number of transactions actually processed: 2045
number of failed transactions: 0 (0.000%)
number of transactions retried: 3 (0.147%)
total number of retries: 3
latency average = 11.763 ms
initial connection time = 2.476 ms
tps = 680.114871 (without initial connection time)
`

func TestParseRun(t *testing.T) {
	m, err := parseRun(runOutput)
	if want := (sample{figure: 680.114871, retried: 0.147}); err != nil || m != want {
		t.Errorf("%+v, %v; want %+v", m, err, want)
	}
	for _, without := range []string{"tps = ", "number of failed", "number of transactions retried"} {
		if _, err := parseRun(strings.Replace(runOutput, without, "-", 1)); err == nil {
			t.Errorf("a summary without %q passes", without)
		}
	}
	// A transaction that failed for good is not in tps, but it is work not done.
	if _, err := parseRun(strings.Replace(runOutput, "failed transactions: 0", "failed transactions: 2", 1)); err == nil {
		t.Error("failed transactions pass")
	}
}

func TestParseInit(t *testing.T) {
	got, err := parseInit(`creating primary keys...
done in 14.74 s (drop tables 0.00 s, create tables 0.01 s, client-side generate 7.12 s, vacuum 0.01 s, primary keys 7.60 s).
`)
	if want := (initTimes{generate: 7.12, whole: 14.74}); err != nil || got != want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	if _, err := parseInit("done in 14.74 s (drop tables 0.00 s).\n"); err == nil {
		t.Error("an initialisation that generated nothing passes")
	}
}

func TestParseStat(t *testing.T) {
	got, err := parseStat("4242 (a (b) c) S 17 4242 4242 0 -1 4194560 100 200 0 0 150 50 30 20 20 0 8 0 12345 1000 100\n")
	want := procStat{parent: 17, own: 2 * time.Second, reaped: 500 * time.Millisecond}
	if err != nil || got != want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	if _, err := parseStat("4242 (a) S 17"); err == nil {
		t.Error("a truncated line passes")
	}
}

func TestProcFiles(t *testing.T) {
	status := "Name:\tspand\nVmRSS:\t  300000 kB\nRssAnon:\t  204800 kB\nRssFile:\t    1024 kB\n"
	if got := statusKB(status, "RssAnon"); got != 204800 {
		t.Errorf("RssAnon %v", got)
	}
	if got := cpuModel("processor\t: 0\nmodel name\t: Some CPU @ 2.00GHz\n"); got != "Some CPU @ 2.00GHz" {
		t.Errorf("model %q", got)
	}
	mounts := "/dev/vda / ext4 rw 0 0\ntmpfs /var tmpfs rw 0 0\n/dev/vdb /var/tmp xfs rw 0 0\ntmpfs /var/tmpfoo tmpfs rw 0 0\n"
	for dir, want := range map[string]string{"/var/tmp/x": "xfs", "/var/tmp": "xfs", "/var/lib": "tmpfs", "/home": "ext4"} {
		if got := fileSystem(mounts, dir); got != want {
			t.Errorf("%s lies on %q, want %q", dir, got, want)
		}
	}
	// Of this process, which has a parent, memory and a past.
	for deadline := time.Now().Add(10 * time.Second); cpuTime(os.Getpid()) == 0; {
		if time.Now().After(deadline) {
			t.Fatal("ten seconds of looking used no CPU time")
		}
	}
	if anon, _ := rss(os.Getpid()); anon == 0 {
		t.Error("no memory of our own")
	}
}

func TestParseStatus(t *testing.T) {
	replicas, asleep, err := parseStatus(`{"node":"n1","tablets":[{"group":"1","quiesced":true},{"group":"2","quiesced":false},{"group":"3","quiesced":true}]}`)
	if replicas != 3 || asleep != 2 || err != nil {
		t.Errorf("%d, %d, %v", replicas, asleep, err)
	}
}

func TestSelectRows(t *testing.T) {
	for only, want := range map[string]string{
		"":            "copy,idle,locks/acquire,locks/cached,locks/durable,locks/failover,locks/handover,locks/kept,locks/read,locks/sessions,locks/watch,locks/write,memory,one/N,one/S,one/TPC-B,three/N,three/TPC-B",
		"one":         "one/N,one/S,one/TPC-B",
		"copy,one/S":  "copy,one/S",
		"three/TPC-B": "three/TPC-B",
	} {
		s, err := selectRows(only)
		if got := strings.Join(slices.Sorted(maps.Keys(s)), ","); err != nil || got != want {
			t.Errorf("-only %q: %q, %v; want %q", only, got, err, want)
		}
	}
	for _, only := range []string{"two", "one/", "on", "one,"} {
		if _, err := selectRows(only); err == nil {
			t.Errorf("-only %q passes", only)
		}
	}
}

func TestSeries(t *testing.T) {
	for _, c := range []struct {
		s        series
		decimals int
		want     string
	}{
		{series{36854}, 0, "36,854 tps"},
		{series{3, 1, 2}, 0, "2 tps (1..3)"},
		{series{999.6, 1234567.2}, 0, "617,783 tps (1,000..1,234,567)"},
		{series{2.135, 2.5, 1234.5}, 1, "2.5 tps (2.1..1,234.5)"},
	} {
		if got := c.s.cell(c.decimals, " tps"); got != c.want {
			t.Errorf("%v: %q, want %q", c.s, got, c.want)
		}
	}
}

func TestTable(t *testing.T) {
	peer, ours := &system{name: "PostgreSQL"}, &system{name: "spand"}
	run := &race{systems: []*system{peer, ours}, unit: " tps", retries: true, samples: [][]sample{
		{{2000, 20}, {1000, 10}, {3000, 30}},
		{{5000, 0.2}, {4000, 0.1}, {6000, 0.3}},
	}}
	load := &race{systems: []*system{peer, ours}, unit: " s", decimals: 2, fewer: true, samples: [][]sample{{{figure: 2}}, {{figure: 4}}}}
	other := &race{systems: []*system{peer, ours}, unit: "/s", unlike: true, samples: [][]sample{{{figure: 2}}, {{figure: 4}}}}
	skipped := &race{systems: []*system{peer, ours}, samples: make([][]sample, 2)}
	var got table
	got.contest("TPC-B", run, 1, "1.5")
	got.contest("COPY", load, 1, "0.3")
	got.contest("unlike", other, 1, "")
	got.contest("not wanted", skipped, 1, "1")
	got.alone("memory", "123 MiB", "400 MiB")
	const want = `| work | peer | peer's figure | spand's | ratio of speeds | to reach | retried, peer / spand |
|---|---|---|---|---|---|---|
| TPC-B | PostgreSQL | 2,000 tps (1,000..3,000) | 5,000 tps (4,000..6,000) | 2.50 | 1.5 | 20.00 % / 0.20 % |
| COPY | PostgreSQL | 2.00 s | 4.00 s | 0.50 | 0.3 | – |
| unlike | PostgreSQL | 2/s | 4/s | – | – | – |
| memory | – | – | 123 MiB | – | 400 MiB | – |
`
	if got.String() != want {
		t.Errorf("got\n%s\nwant\n%s", got.String(), want)
	}
}

func TestWarning(t *testing.T) {
	a := about{cfg: config{seconds: 20, rounds: 3}, load: [2]float64{0.4, 7}}
	if strings.Contains(a.of(&table{}), "Warning") {
		t.Error("a quiet machine is warned of")
	}
	a.load[0] = 0.6
	if !strings.Contains(a.of(&table{}), "Warning") {
		t.Error("a busy machine is not warned of")
	}
}

// TestContest: within a round every wanted race has each system's turn, in order.
func TestContest(t *testing.T) {
	systems := []*system{{name: "a"}, {name: "b"}}
	var turns []string
	racing := func(row string) *race {
		return &race{row: row, systems: systems, measure: func(_ context.Context, s *system) (sample, error) {
			turns = append(turns, row+s.name)
			return sample{figure: float64(len(turns))}, nil
		}}
	}
	cfg := config{seconds: 1, rounds: 2}
	b := &bench{cfg: cfg, rows: selection{"x": true, "z": true}, progress: newProgress(cfg, nil)}
	races := []*race{racing("x"), racing("y"), racing("z")}
	if err := b.contest(t.Context(), races); err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(turns, " "), "xa xb za zb xa xb za zb"; got != want {
		t.Errorf("turns %s, want %s", got, want)
	}
	if f, _ := races[2].figures(1); !slices.Equal(f, series{4, 8}) {
		t.Errorf("z of b: %v", f)
	}
}

func TestReplaceGenerated(t *testing.T) {
	file := filepath.Join(t.TempDir(), "doc.md")
	begin, end := marks("locks")
	if err := os.WriteFile(file, []byte("before\n"+begin+"old\n"+end+"after\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time finds what the first has written
		if err := replaceGenerated(file, "locks", "new\n"); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(file)
		if want := "before\n" + begin + "\nnew\n\n" + end + "after\n"; err != nil || string(data) != want {
			t.Errorf("%q, %v; want %q", data, err, want)
		}
	}
	if err := os.WriteFile(file, []byte("no marks\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := replaceGenerated(file, "locks", "new\n"); err == nil {
		t.Error("a document without marks passes")
	}
}

// TestStop: what was started is gone afterwards; of what died by itself is told.
func TestStop(t *testing.T) {
	b := &bench{dir: t.TempDir()}
	willing, err := b.launch(exec.Command("sleep", "600"), syscall.SIGTERM)
	if err != nil {
		t.Fatal(err)
	}
	dead, err := b.launch(exec.Command("sh", "-c", "echo last words >&2; exit 3"), syscall.SIGTERM)
	if err != nil {
		t.Fatal(err)
	}
	<-dead.done
	if got := b.dead(); !strings.Contains(got, "exit status 3") || !strings.Contains(got, "last words") || strings.Contains(got, "sleep") {
		t.Errorf("dead: %q", got)
	}
	b.stopAll()
	if err := syscall.Kill(willing.pid(), 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the process is still there: %v", err)
	}
	if len(b.running) != 0 {
		t.Errorf("%d servers are remembered", len(b.running))
	}
}
