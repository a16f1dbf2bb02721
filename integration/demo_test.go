package integration

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// demoArgs are flags of spand demo that put n nodes on free ports.
func demoArgs(t *testing.T, n int) (args []string, first string) {
	t.Helper()
	for range 1000 {
		addr := freeAddr(t)
		host, port, _ := net.SplitHostPort(addr)
		var base int
		fmt.Sscan(port, &base)
		free := true
		for i := range n {
			for j := range 3 {
				ln, err := net.Listen("tcp", fmt.Sprintf("%s:%d", host, base+10*i+j))
				if free = free && err == nil; err == nil {
					ln.Close()
				}
			}
		}
		if free {
			at := func(d int) string { return fmt.Sprintf("%s:%d", host, base+d) }
			return []string{"demo", "--sql-addr", at(0), "--rpc-addr", at(1), "--http-addr", at(2)}, at(0)
		}
	}
	t.Fatal("no ports are free")
	return nil, ""
}

// TestDemo runs spand demo as a user does: it says how to connect, a second one on its
// ports is refused in a line, spand clock shows and widens its clocks, and an interrupt
// ends it with 0 and takes the folder away.
func TestDemo(t *testing.T) {
	args, first := demoArgs(t, 3)
	temp := t.TempDir()
	cmd := exec.Command(Binary(t), args...)
	cmd.Env = append(cmd.Environ(), "TMPDIR="+temp)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	watchdog := time.AfterFunc(2*time.Minute, func() { cmd.Process.Kill() })
	defer watchdog.Stop()
	var seen bytes.Buffer
	lines := bufio.NewScanner(io.TeeReader(stdout, &seen))
	for lines.Scan() && !strings.Contains(lines.Text(), "Ctrl-C") {
	}
	if n := strings.Count(seen.String(), "postgres://root@"); n != 3 || !strings.Contains(seen.String(), first) {
		t.Errorf("%d URLs:\n%s", n, seen.String())
	}

	again, err := exec.Command(Binary(t), args...).CombinedOutput()
	if code := exitCode(err); code != 1 || !strings.Contains(string(again), "in use") {
		t.Errorf("a second one: %d\n%s", code, again)
	}
	rpc := args[4]
	clock := func(want int, args ...string) string {
		t.Helper()
		out, err := exec.Command(Binary(t), append(append([]string{"clock"}, args...), "--addr", rpc)...).CombinedOutput()
		if exitCode(err) != want {
			t.Errorf("spand clock %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	if out := clock(0, "add", "20ms"); !strings.Contains(out, "20ms") {
		t.Error(out)
	}
	out := clock(0)
	for _, want := range []string{"n1", "n2", "n3", "trusted", "agrees", "20ms"} {
		if !strings.Contains(out, want) {
			t.Errorf("spand clock lacks %q:\n%s", want, out)
		}
	}
	if out := clock(0, "--json"); strings.Count(out, `"commitWait"`) != 3 {
		t.Error(out)
	}
	clock(0, "reset")
	clock(1, "add", "10s") // more than leases allow
	clock(2, "add", "-5ms")
	clock(2, "add")
	clock(2, "widen")

	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	io.Copy(&seen, stdout)
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, seen.String())
	}
	if left, err := exec.Command("ls", temp).Output(); err != nil || len(left) > 0 {
		t.Errorf("left behind: %s %v", left, err)
	}
	for _, wrong := range [][]string{{"--nodes", "0"}, {"--scenario", "tea"}, {"--scenario", "clock", "--nodes", "1"}, {"--max-clock-error", "soon"}, {"x"}} {
		if out, err := exec.Command(Binary(t), append([]string{"demo"}, wrong...)...).CombinedOutput(); exitCode(err) != 2 {
			t.Errorf("spand demo %v: %v\n%s", wrong, err, out)
		}
	}
}

func exitCode(err error) int {
	if err == nil {
		return 0
	}
	if e, ok := err.(*exec.ExitError); ok {
		return e.ExitCode()
	}
	return -1
}
