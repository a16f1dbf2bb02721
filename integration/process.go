package integration

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Node is one spand process of a Cluster.
type Node struct {
	Name     string
	SQLAddr  string
	RPCAddr  string
	HTTPAddr string
	DataDir  string
	Env      []string // added to the environment at the next Launch

	program string // that is run: the binary, or what runs it in a namespace
	args    []string
	log     *os.File // stderr of all its incarnations

	mu   sync.Mutex // guards proc
	proc *process
}

type process struct {
	cmd    *exec.Cmd
	ready  chan struct{} // closed when the ready line was printed
	exited chan struct{} // closed when the process is gone and err is set
	err    error
}

// startTimeout bounds how long a node may take to serve; it is generous because
// it only decides when a broken test gives up.
const startTimeout = 60 * time.Second

// startProcesses makes c a cluster of processes, and waits until every node serves SQL.
func (c *Cluster) startProcesses(t testing.TB, o Options) {
	t.Helper()
	c.backend = processes{c}
	if o.Binary == "" {
		o.Binary = Binary(t)
	}
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	c.dir = o.Dir
	var members []string
	for i := range o.Nodes {
		n := &Node{
			Name:    fmt.Sprintf("n%d", i+1),
			DataDir: filepath.Join(c.dir, fmt.Sprintf("n%d", i+1)),
		}
		if o.Namespaces != nil {
			host := o.Namespaces.Host(i)
			n.SQLAddr, n.RPCAddr, n.HTTPAddr = host+":15432", host+":15433", host+":15434"
		} else {
			n.SQLAddr, n.RPCAddr, n.HTTPAddr = freeAddr(t), freeAddr(t), freeAddr(t)
		}
		members = append(members, n.Name+"="+n.RPCAddr)
		c.Nodes = append(c.Nodes, n)
	}
	var names, targets []string
	for _, n := range c.Nodes {
		names, targets = append(names, n.Name), append(targets, n.RPCAddr)
	}
	if o.Proxy {
		var err error
		if c.Proxy, err = NewProxy(targets); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Proxy.Close)
	}
	for i, n := range c.Nodes {
		n.args = []string{"start", "--node", n.Name, "--data-dir", n.DataDir, "--sql-addr", n.SQLAddr,
			"--rpc-addr", n.RPCAddr, "--http-addr", n.HTTPAddr, "--max-clock-error", o.ClockError.String(), "--log-format", "text"}
		if o.Nodes > 1 {
			n.args = append(n.args, "--cluster", strings.Join(members, ","))
		}
		if o.Proxy {
			n.args = append(n.args, "--dial", c.Proxy.dialList(i, names))
		}
		n.args = append(n.args, o.Args...)
		n.program = o.Binary
		if o.Namespaces != nil {
			n.args = append(n.args, "--insecure") // its clients are not on its loopback
			n.program, n.args = o.Namespaces.command(i, n.program, n.args)
		}
		log, err := os.Create(filepath.Join(c.dir, n.Name+".log"))
		if err != nil {
			t.Fatal(err)
		}
		n.log = log
	}
	t.Cleanup(func() { c.stop(t) })
	for _, n := range c.Nodes {
		n.Launch(t)
	}
	for _, n := range c.Nodes {
		n.AwaitReady(t)
	}
}

func (c *Cluster) stop(t testing.TB) {
	for _, n := range c.Nodes {
		n.mu.Lock()
		p := n.proc
		n.mu.Unlock()
		if p != nil {
			p.cmd.Process.Signal(syscall.SIGCONT)
			p.cmd.Process.Kill()
			<-p.exited
		}
		n.log.Close()
		if t.Failed() {
			t.Logf("end of the log of %s:\n%s", n.Name, tail(n.log.Name(), 4000))
		}
	}
}

func tail(path string, n int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(data[max(0, len(data)-n):])
}

// URL is the connection string of a node.
func (n *Node) URL() string {
	return "postgres://root@" + n.SQLAddr + "/spand?sslmode=disable"
}

// Args returns the node's command line, for tests that run it in another way.
func (n *Node) Args() []string { return append([]string(nil), n.args...) }

// Log returns what the node has logged so far.
func (n *Node) Log(t testing.TB) string {
	t.Helper()
	return tail(n.log.Name(), 1<<20)
}

// Launch starts the process and does not wait.
func (n *Node) Launch(t testing.TB) {
	t.Helper()
	cmd := exec.Command(n.program, n.args...)
	cmd.Env = append(os.Environ(), n.Env...)
	cmd.Stderr = n.log
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: cmd, ready: make(chan struct{}), exited: make(chan struct{})}
	n.mu.Lock()
	n.proc = p
	n.mu.Unlock()
	go func() { // ends with the process, whose stdout it reads to the end
		lines := bufio.NewScanner(stdout)
		for lines.Scan() {
			if strings.HasPrefix(lines.Text(), "spand: ready ") {
				close(p.ready)
				break
			}
		}
		io.Copy(io.Discard, stdout)
		p.err = cmd.Wait()
		close(p.exited)
	}()
}

// AwaitReady waits for the ready line.
func (n *Node) AwaitReady(t testing.TB) {
	t.Helper()
	p := n.current()
	select {
	case <-p.ready:
	case <-p.exited:
		t.Fatalf("%s ended before it was ready: %v\n%s", n.Name, p.err, tail(n.log.Name(), 4000))
	case <-time.After(startTimeout):
		t.Fatalf("%s is not ready after %v\n%s", n.Name, startTimeout, tail(n.log.Name(), 4000))
	}
}

func (n *Node) current() *process {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.proc
}

// Kill is kill -9; it returns when the process is gone.
func (n *Node) Kill(t testing.TB) {
	t.Helper()
	p := n.current()
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
	<-p.exited
}

// Terminate sends SIGTERM and returns the exit code when the process is gone.
func (n *Node) Terminate(t testing.TB) int {
	t.Helper()
	p := n.current()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-p.exited
	return p.cmd.ProcessState.ExitCode()
}

// Pause is SIGSTOP, Resume SIGCONT.
func (n *Node) Pause(t testing.TB)  { n.signal(t, syscall.SIGSTOP) }
func (n *Node) Resume(t testing.TB) { n.signal(t, syscall.SIGCONT) }

func (n *Node) signal(t testing.TB, s syscall.Signal) {
	t.Helper()
	if err := n.current().cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// Restart launches the node again and waits until it serves.
func (n *Node) Restart(t testing.TB) {
	t.Helper()
	n.Launch(t)
	n.AwaitReady(t)
}

// build is one build of this module's spand, made once per test process.
type build struct {
	tags string
	once sync.Once
	dir  string
	err  error
}

var released, breakable = build{}, build{tags: "spandbreak"}

// givenBinary is a variable of the environment that names the spand to test.
const givenBinary = "SPAND_TEST_BINARY"

// Binary builds this module's spand and returns its path, or that of the binary that
// SPAND_TEST_BINARY names.
func Binary(t testing.TB) string {
	if path := os.Getenv(givenBinary); path != "" {
		return path
	}
	return released.binary(t)
}

// BreakableBinary builds spand with the tag spandbreak, which package crashpoint needs.
func BreakableBinary(t testing.TB) string { return breakable.binary(t) }

func (b *build) binary(t testing.TB) string {
	t.Helper()
	b.once.Do(func() {
		if b.dir, b.err = os.MkdirTemp("", "spand-bin"); b.err != nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
		defer cancel()
		out, err := exec.CommandContext(ctx, "go", "build", "-tags", b.tags, "-o", filepath.Join(b.dir, "spand"), "github.com/spandb/spand/cmd/spand").CombinedOutput()
		if err != nil {
			b.err = fmt.Errorf("go build: %v\n%s", err, bytes.TrimSpace(out))
		}
	})
	if b.err != nil {
		t.Fatal(b.err)
	}
	return filepath.Join(b.dir, "spand")
}

// freeAddr returns a loopback address that nobody listens on.
func freeAddr(t testing.TB) string {
	t.Helper()
	for range 10_000 {
		addr := fmt.Sprintf("%s:%d", loopback, 20000+rand.IntN(12000))
		if _, taken := given.LoadOrStore(addr, true); taken {
			continue
		}
		if ln, err := net.Listen("tcp", addr); err == nil {
			ln.Close()
			return addr
		}
	}
	t.Fatal("no port is free")
	return ""
}

// loopback is this process's own loopback address: the port of a node that is down for a
// moment must not be taken by another test's. Linux answers to all of 127.0.0.0/8.
var loopback = func() string {
	if runtime.GOOS != "linux" {
		return "127.0.0.1"
	}
	return fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
}()

// given are the addresses that freeAddr has returned: none twice. They lie below the
// ports that the system gives to whoever asks for any.
var given sync.Map
