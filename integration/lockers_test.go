package integration

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spandb/spand/integration/check"
	"github.com/spandb/spand/integration/workload"
)

// Lock clients of TestFaults: some in the test's process, whose machines stand still by a gate
// around their connections, and some in a process of their own, which is stopped by SIGSTOP.

const (
	lockClients   = 5
	stoppedLocker = 3 // clients in the process that is stopped
	lockTTL       = 2 * time.Second
)

type lockers struct {
	t      *testing.T
	locks  *workload.Locks
	cancel context.CancelFunc
	ran    chan struct{}
	other  *lockerProcess
}

func startLockers(t *testing.T, c *Cluster, seed uint64) *lockers {
	t.Helper()
	o := workload.LockOptions{Seed: seed, Clients: lockClients, TTL: lockTTL, Timeout: 5 * time.Second, Log: t.Logf}
	l := &lockers{t: t, locks: workload.NewLocks(c.LockTarget(), o, check.NewLockHistory()), ran: make(chan struct{})}
	if err := l.locks.Setup(t.Context()); err != nil {
		t.Fatal(err)
	}
	var ctx context.Context
	ctx, l.cancel = context.WithCancel(t.Context())
	l.other = startLockerProcess(t, c, seed, l.locks.History.Start())
	go func() {
		defer close(l.ran)
		l.locks.Run(ctx)
	}()
	return l
}

// stop ends the clients, in a healthy cluster, and judges what they saw.
func (l *lockers) stop() *check.LockReport {
	l.cancel()
	<-l.ran
	l.locks.Adopt(l.other.stop())
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := l.locks.Finale(ctx); err != nil {
		l.t.Errorf("the lock service in a healthy cluster: %v", err)
	}
	r := check.JudgeLocks(l.locks.History, check.LockOptions{})
	for _, v := range r.Violations {
		l.t.Errorf("%v", v)
	}
	l.t.Logf("locks: %v; the other process was stopped %d times", r, l.other.stops)
	return r
}

// lockerProcess is another process with lock clients.
type lockerProcess struct {
	t     *testing.T
	cmd   *exec.Cmd
	stdin io.Closer
	out   strings.Builder
	done  chan struct{}
	ended chan struct{} // of the goroutine that stops it
	stops int
}

// lockerEnv tells the process what to do: "<seed> <start> <sql>,<rpc> <sql>,<rpc> …".
const lockerEnv = "SPAND_TEST_LOCKERS"

func startLockerProcess(t *testing.T, c *Cluster, seed uint64, start time.Time) *lockerProcess {
	t.Helper()
	p := &lockerProcess{t: t, done: make(chan struct{}), ended: make(chan struct{})}
	p.cmd = exec.Command(os.Args[0], "-test.run=^TestLockersProcess$", "-test.timeout=0")
	env := fmt.Sprint(seed, " ", start.UnixNano())
	for _, n := range c.Nodes {
		env += " " + n.SQLAddr + "," + n.RPCAddr
	}
	p.cmd.Env = append(os.Environ(), lockerEnv+"="+env)
	p.cmd.Stdout, p.cmd.Stderr = &p.out, os.Stderr
	in, err := p.cmd.StdinPipe()
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	p.stdin = in
	t.Cleanup(func() {
		p.cmd.Process.Signal(syscall.SIGCONT)
		p.cmd.Process.Kill()
	})
	go p.disturb(rand.New(rand.NewPCG(seed, 77)))
	return p
}

// disturb stops the process again and again, for less than a lease and for more.
func (p *lockerProcess) disturb(rng *rand.Rand) {
	defer close(p.ended)
	for {
		if pause(time.Duration(rng.Int64N(int64(3*lockTTL))), p.done); p.over() {
			return
		}
		p.cmd.Process.Signal(syscall.SIGSTOP)
		p.stops++
		pause(time.Duration(rng.Int64N(int64(2*lockTTL))), p.done)
		p.cmd.Process.Signal(syscall.SIGCONT)
	}
}

func (p *lockerProcess) over() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// stop ends the process, and returns what its clients saw.
func (p *lockerProcess) stop() *check.LockHistory {
	close(p.done)
	<-p.ended
	p.stdin.Close()
	if err := p.cmd.Wait(); err != nil {
		p.t.Errorf("the process with lock clients: %v\n%s", err, p.out.String())
	}
	_, lines, _ := strings.Cut(p.out.String(), lockerBegin)
	lines, _, whole := strings.Cut(lines, lockerEnd)
	h, err := check.ParseLockHistory(strings.NewReader(lines))
	if err != nil || !whole {
		p.t.Fatalf("what the process with lock clients saw: whole %v, %v", whole, err)
	}
	return h
}

// What frames a history on a test's standard output.
const (
	lockerBegin = "--- begin of history\n"
	lockerEnd   = "--- end of history\n"
)

// TestLockersProcess is what that process runs: lock clients until its input ends.
func TestLockersProcess(t *testing.T) {
	f := strings.Fields(os.Getenv(lockerEnv))
	if len(f) == 0 {
		t.Skip("run by TestFaults, in a process of its own")
	}
	signal.Ignore(syscall.SIGINT)
	seed, _ := strconv.ParseUint(f[0], 10, 64)
	start, _ := strconv.ParseInt(f[1], 10, 64)
	c := &Cluster{t: t}
	for i, addrs := range f[2:] {
		sql, rpc, _ := strings.Cut(addrs, ",")
		c.Nodes = append(c.Nodes, &Node{Name: fmt.Sprint("n", i+1), SQLAddr: sql, RPCAddr: rpc})
	}
	c.size, c.backend = len(c.Nodes), processes{c}
	o := workload.LockOptions{Seed: seed, Clients: stoppedLocker, First: 50, TTL: lockTTL, Timeout: 5 * time.Second}
	locks := workload.NewLocks(c.LockTarget(), o, check.NewLockHistoryAt(time.Unix(0, start)))
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	locks.Run(ctx)
	locks.End(ctx)
	fmt.Print(lockerBegin)
	if _, err := locks.History.WriteTo(os.Stdout); err != nil {
		t.Fatal(err)
	}
	fmt.Print(lockerEnd)
}
