package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spandb/spand/integration/bench/lockload"
)

// TestLockLines: the table has lines of exactly the rows that can be measured.
func TestLockLines(t *testing.T) {
	var rows []string
	for _, r := range lockRows() {
		rows = append(rows, strings.TrimPrefix(r, "locks/"))
	}
	if n := len(rows); rows[n-2] != "failover" || rows[n-1] != "sessions" {
		t.Errorf("%v: only the sessions, which have a cluster to themselves, may come after the loss of a member", rows)
	}
	slices.Sort(rows)
	if want := lockload.Rows(); !slices.Equal(rows, want) {
		t.Errorf("lines of %v, rows %v", rows, want)
	}
}

func TestParseEtcdVersion(t *testing.T) {
	got, err := parseEtcdVersion("etcd Version: 3.7.3\nGit SHA: Not provided (use ./build instead of go build)\nGo Version: go1.26.8\n")
	if got != "etcd 3.7.3" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := parseEtcdVersion("Git SHA: x\n"); err == nil {
		t.Error("no version passes")
	}
}

// TestAnswer: what a program asks about the members is done before it is answered.
func TestAnswer(t *testing.T) {
	b := &bench{dir: t.TempDir()}
	cluster := &lockCluster{members: []string{"a:1", "b:2", "c:3"}}
	for range cluster.members {
		cmd := exec.Command("cat")
		in, err1 := cmd.StdinPipe()
		out, err2 := cmd.StdoutPipe()
		s, err3 := b.launch(cmd, syscall.SIGTERM)
		if err := errors.Join(err1, err2, err3); err != nil {
			t.Fatal(err)
		}
		in.Write([]byte("x"))
		if _, err := io.ReadFull(out, make([]byte, 1)); err != nil { // from then on its memory stays the same
			t.Fatal(err)
		}
		defer b.stop(s)
		cluster.servers = append(cluster.servers, s)
	}
	ask := func(questions string) (lockload.Figures, string, error) {
		var answers bytes.Buffer
		f, err := b.answer(cluster, json.NewDecoder(strings.NewReader(questions)), &answers)
		return f, answers.String(), err
	}

	f, answers, err := ask(`{"ask":"idle","leader":"b:2"}{"ask":"mark","leader":"b:2"}{"ask":"held","leader":"b:2"}{"figures":{"keepalives":7}}`)
	if err != nil || answers != "\n\n\n" {
		t.Fatalf("%q, %v", answers, err)
	}
	var all float64
	for _, s := range cluster.servers {
		anon, _ := rss(s.pid())
		all += anon
	}
	if anon, _ := rss(cluster.servers[1].pid()); f["keepalives"] != 7 || f["memory leader"] != anon || f["memory all"] != all || f["memory idle"] != all || f["cpu held"] > 1 {
		t.Errorf("%v; the leader has %v, all have %v", f, anon, all)
	}

	if _, answers, err := ask(`{"ask":"kill","leader":"c:3"}{"figures":{"failover":1}}`); err != nil || answers != "\n" {
		t.Fatalf("%q, %v", answers, err)
	}
	for i, want := range []bool{false, false, true} {
		if got := cluster.servers[i].ended(); got != want {
			t.Errorf("member %d has ended: %v", i, got)
		}
	}
	if strings.Contains(b.dead(), "cat") {
		t.Error("the member that was to be killed is told of as dead")
	}

	for _, questions := range []string{"", `{"ask":"mark","leader":"d:4"}`, `{"ask":"why","leader":"a:1"}`, "x"} {
		if _, _, err := ask(questions); err == nil {
			t.Errorf("%q passes", questions)
		}
	}
}

// TestPeerAlone: a figure is shown though there is none to compare it with.
func TestPeerAlone(t *testing.T) {
	var got table
	got.contest("reads", &race{systems: []*system{{name: "etcd"}}, unit: "/s", samples: [][]sample{{{figure: 5}}}}, 1, "1.0")
	const want = "| work | peer | peer's figure | spand's | ratio of speeds | to reach |\n|---|---|---|---|---|---|\n| reads | etcd | 5/s | – | – | 1.0 |\n"
	if got.String() != want {
		t.Errorf("got\n%s", got.String())
	}
}

func TestLockTime(t *testing.T) {
	c := config{seconds: 10, rounds: 1}
	rows, err := selectRows("locks")
	if err != nil {
		t.Fatal(err)
	}
	if d := lockTurn(c, rows); d > 3*time.Minute+15*time.Second {
		t.Errorf("the short form takes %v", d)
	}
	if lockTurn(c, selection{"locks/read": true}) >= lockTurn(c, rows) {
		t.Error("one row takes as long as all")
	}
}

// TestEtcdModule: the module that etcd is built in asks for no lower version of a library than
// ours, else go build refuses there until somebody runs go mod tidy.
func TestEtcdModule(t *testing.T) {
	ours, err1 := os.ReadFile("../../go.mod")
	theirs, err2 := os.ReadFile("etcd/go.mod")
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	least, compared := requirements(string(ours)), 0
	for module, version := range requirements(string(theirs)) {
		want, ok := least[module]
		if !ok {
			continue
		}
		compared++
		if slices.Compare(version[:], want[:]) < 0 {
			t.Errorf("etcd/go.mod requires %s %v, ours %v: run go mod tidy in etcd", module, version, want)
		}
	}
	if compared < 5 {
		t.Errorf("only %d libraries are in both", compared)
	}
}

// requirements are the releases that a go.mod requires, by module.
func requirements(mod string) map[string][3]int {
	all := map[string][3]int{}
	for line := range strings.Lines(mod) {
		var module string
		var v [3]int
		if n, _ := fmt.Sscanf(line, "\t%s v%d.%d.%d", &module, &v[0], &v[1], &v[2]); n == 4 {
			all[module] = v
		}
	}
	return all
}
