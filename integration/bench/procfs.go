package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// procStat is what we need of /proc/PID/stat.
type procStat struct {
	parent int
	own    time.Duration // user and system
	reaped time.Duration // of children that have ended
}

func parseStat(data string) (procStat, error) {
	// The name, in parentheses, may contain anything.
	f := strings.Fields(data[strings.LastIndexByte(data, ')')+1:])
	if len(f) < 15 {
		return procStat{}, fmt.Errorf("malformed stat %q", data)
	}
	var n [15]int64
	for _, i := range []int{1, 11, 12, 13, 14} {
		var err error
		if n[i], err = strconv.ParseInt(f[i], 10, 64); err != nil {
			return procStat{}, err
		}
	}
	const tick = 10 * time.Millisecond // USER_HZ is 100 wherever Go runs
	return procStat{int(n[1]), time.Duration(n[11]+n[12]) * tick, time.Duration(n[13]+n[14]) * tick}, nil
}

// cpuTime is what a process and its children have used.
func cpuTime(pid int) (sum time.Duration) {
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // ended meanwhile
		}
		s, err := parseStat(string(data))
		if err != nil {
			continue
		}
		switch {
		case filepath.Base(filepath.Dir(file)) == strconv.Itoa(pid):
			sum += s.own + s.reaped
		case s.parent == pid:
			sum += s.own
		}
	}
	return sum
}

// rss is a process's resident memory in MiB: its own, and of mapped files.
func rss(pid int) (anon, file float64) {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	return statusKB(string(data), "RssAnon") / 1024, statusKB(string(data), "RssFile") / 1024
}

// statusKB is a line "NAME: 123 kB", as in /proc/PID/status and /proc/meminfo.
func statusKB(data, name string) float64 {
	for line := range strings.Lines(data) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			f, _ := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 64)
			return f
		}
	}
	return 0
}

// watch samples a figure until the function returned is called, which tells the highest.
func watch(figure func() float64) (highest func() float64) {
	quit, result := make(chan struct{}), make(chan float64)
	go func() {
		ticks := time.NewTicker(50 * time.Millisecond)
		defer ticks.Stop()
		high := figure()
		for {
			select {
			case <-ticks.C:
				high = max(high, figure())
			case <-quit:
				result <- max(high, figure())
				return
			}
		}
	}()
	return func() float64 { close(quit); return <-result }
}

// loadAverage is that of the last minute.
func loadAverage() float64 {
	data, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(data), " ")
	f, _ := strconv.ParseFloat(first, 64)
	return f
}

// about is what the figures depend on beside the code.
type about struct {
	cfg     config
	day     string
	commit  string
	machine string
	load    [2]float64 // at the beginning and at the end
	took    time.Duration
}

func describe(ctx context.Context, cfg config, dir string) (about, error) {
	a := about{cfg: cfg, day: time.Now().UTC().Format(time.DateOnly), commit: "unknown"}
	if out, err := output(ctx, "git", "describe", "--always", "--dirty"); err == nil {
		a.commit = strings.TrimSpace(out)
	}
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	meminfo, _ := os.ReadFile("/proc/meminfo")
	cpuinfo, _ := os.ReadFile("/proc/cpuinfo")
	mounts, _ := os.ReadFile("/proc/self/mounts")
	a.machine = fmt.Sprintf("%d × %s, %.0f GiB of memory, Linux %s, %s", runtime.NumCPU(), cpuModel(string(cpuinfo)),
		statusKB(string(meminfo), "MemTotal")/(1<<20), strings.TrimSpace(string(kernel)), fileSystem(string(mounts), dir))
	if fileSystem(string(mounts), dir) == "tmpfs" {
		return a, fmt.Errorf("%s lies in memory, where fsync costs nothing; choose another -dir", cfg.dir)
	}
	return a, nil
}

// cpuModel reads /proc/cpuinfo.
func cpuModel(cpuinfo string) string {
	for line := range strings.Lines(cpuinfo) {
		if name, model, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(model)
		}
	}
	return runtime.GOARCH
}

// fileSystem is the type of the mount that dir lies on, from /proc/self/mounts.
func fileSystem(mounts, dir string) (kind string) {
	longest := ""
	for line := range strings.Lines(mounts) {
		f := strings.Fields(line)
		if len(f) < 3 || len(f[1]) < len(longest) {
			continue
		}
		if f[1] == "/" || dir == f[1] || strings.HasPrefix(dir, f[1]+"/") {
			longest, kind = f[1], f[2] // of two at one place the later hides the earlier
		}
	}
	return kind
}

// of describes a run with what a table says of itself.
func (a about) of(t *table) string {
	var s strings.Builder
	flags := fmt.Sprintf("-seconds %d -rounds %d", a.cfg.seconds, a.cfg.rounds)
	if a.cfg.only != "" {
		flags += " -only " + a.cfg.only
	}
	fmt.Fprintf(&s, "Measured %s at %s with `go run ./integration/bench %s`, which took %s.\n\n", a.day, a.commit, flags, a.took.Round(time.Second))
	fmt.Fprintf(&s, "- Machine: %s; %s.\n", a.machine, runtime.Version())
	s.WriteString(t.about)
	fmt.Fprintf(&s, "- Load average: %.2f at the beginning, %.2f at the end.\n", a.load[0], a.load[1])
	if a.load[0] > quiet {
		fmt.Fprintf(&s, "- **Warning: the machine was busy with other work at the beginning (load above %.1f); these figures say little.**\n", quiet)
	}
	return s.String()
}

// quiet is the highest load average of a machine that has nothing else to do.
const quiet = 0.5
