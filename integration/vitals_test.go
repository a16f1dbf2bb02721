package integration

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"testing"
	"time"
)

// vitals are what a node must not have more of after a client has gone.
type vitals struct{ connections, locks, goroutines int }

var (
	reConnections = regexp.MustCompile(`(?m)^spand_sql_connections (\d+)$`)
	reLocks       = regexp.MustCompile(`(?m)^spand_locks_held (\d+)$`)
	reGoroutines  = regexp.MustCompile(`(?m)^go_goroutines (\d+)$`)
)

func readVitals(t testing.TB, n *Node) (v vitals) {
	t.Helper()
	metrics := get(t, n, "/metrics")
	for _, field := range []struct {
		to   *int
		re   *regexp.Regexp
		text string
	}{
		{&v.connections, reConnections, metrics},
		{&v.locks, reLocks, metrics},
		{&v.goroutines, reGoroutines, metrics},
	} {
		m := field.re.FindStringSubmatch(field.text)
		if m == nil {
			t.Fatalf("%s: nothing matches %s", n.Name, field.re)
		}
		*field.to, _ = strconv.Atoi(m[1])
	}
	return v
}

// get asks the node's HTTP port, over a connection that does not stay.
func get(t testing.TB, n *Node, path string) string {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + n.HTTPAddr + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s, %v", path, resp.Status, err)
	}
	return string(body)
}

// nothingLeaked waits until n has no connection, no lock and no more goroutines
// than before.
func nothingLeaked(t testing.TB, n *Node, before vitals) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		v := readVitals(t, n)
		if v.connections == 0 && v.locks == 0 && v.goroutines <= before.goroutines {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%s leaks: %+v now, %+v before\n%s", n.Name, v, before, get(t, n, "/debug/pprof/goroutine?debug=1"))
			return
		}
		time.Sleep(50 * time.Millisecond) // what has lost its client ends by itself
	}
}

// quiet returns what n has while no client is connected, at most: the looks
// themselves cost a goroutine now and then.
func quiet(t testing.TB, n *Node) (most vitals) {
	t.Helper()
	for looks := 0; looks < 20; {
		v := readVitals(t, n)
		if v.connections == 0 { // else the last one is just going
			looks++
			most.goroutines = max(most.goroutines, v.goroutines)
		}
	}
	return most
}

// descriptors counts the open files of a node's process.
func descriptors(t testing.TB, n *Node) int {
	t.Helper()
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", n.current().cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}
