package integration

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// Namespaces is a Network of the kernel's: each node has a network namespace and an
// address to itself, this process's namespace routes between them, and a cut is a
// rule that drops packets. So TCP sees what it sees when a cable is out: nothing, and
// retransmits. Clients in this process reach every node whatever is cut.
//
// It needs the right to make namespaces, and `ip` (iproute2). See InNamespace.
type Namespaces struct{ nodes int }

// NewNamespaces makes namespaces for a number of nodes. They end with the process's own
// namespace, so the process must be a child of InNamespace.
func NewNamespaces(t testing.TB, nodes int) *Namespaces {
	t.Helper()
	if os.Getenv(inNamespace) == "" {
		t.Fatal("NewNamespaces outside of InNamespace")
	}
	ns := &Namespaces{nodes}
	// Where `ip netns` keeps its handles may belong to somebody else's root.
	if err := syscall.Mount("spand-test", "/run", "tmpfs", 0, ""); err != nil {
		t.Fatalf("mounting /run: %v", err)
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	commands := []string{"link set lo up"}
	for i := range nodes {
		name, gateway := ns.name(i), fmt.Sprintf("10.99.%d.1", i+1)
		commands = append(commands,
			"netns add "+name,
			fmt.Sprintf("link add to-%s type veth peer name eth0 netns %s", name, name),
			fmt.Sprintf("addr add %s/24 dev to-%s", gateway, name),
			fmt.Sprintf("link set to-%s up", name),
			fmt.Sprintf("-n %s addr add %s/24 dev eth0", name, ns.Host(i)),
			fmt.Sprintf("-n %s link set lo up", name),
			fmt.Sprintf("-n %s link set eth0 up", name),
			fmt.Sprintf("-n %s route add default via %s", name, gateway))
	}
	for _, c := range commands {
		if err := ip(c); err != nil {
			t.Fatal(err)
		}
	}
	return ns
}

func (ns *Namespaces) name(i int) string { return fmt.Sprint("n", i+1) }

// Host is a node's address.
func (ns *Namespaces) Host(i int) string { return fmt.Sprintf("10.99.%d.2", i+1) }

// command is how a program is run in a node's namespace, as the process that is started.
func (ns *Namespaces) command(i int, program string, args []string) (string, []string) {
	return "ip", append([]string{"netns", "exec", ns.name(i), program}, args...)
}

// Cut drops every packet from one node to the other.
func (ns *Namespaces) Cut(from, to int) error { return ip("rule add " + ns.rule(from, to)) }

// Heal lets packets pass again.
func (ns *Namespaces) Heal(from, to int) error { return ip("rule del " + ns.rule(from, to)) }

func (ns *Namespaces) rule(from, to int) string {
	return fmt.Sprintf("from %s to %s pref 100 blackhole", ns.Host(from), ns.Host(to))
}

func ip(args string) error {
	out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("`ip` is needed (Debian: apt-get install iproute2): %w", err)
	}
	if err != nil {
		return fmt.Errorf("ip %s: %v: %s", args, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// inNamespace is set in the child of InNamespace.
const inNamespace = "SPAND_TEST_NETWORK_NAMESPACE"

// InNamespace runs the test that calls it in a child process with network and mount
// namespaces of its own. In the child it returns true, and what it makes there vanishes with
// the process; in the parent it returns false when the child has ended, whose failure
// is the parent's. Who may not make namespaces skips the test.
func InNamespace(t testing.TB) bool {
	t.Helper()
	if os.Getenv(inNamespace) != "" {
		return true
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Fatalf("`ip` is needed (Debian: apt-get install iproute2): %v", err)
	}
	if err := apart(exec.CommandContext(t.Context(), "true")).Run(); errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.ENOSPC) {
		t.Skipf("NOT RUN: this user may not make network namespaces (%v); run as root to have TCP itself see partitions", err)
	}
	args := []string{"-test.run=^" + t.Name() + "$", "-test.v"}
	flag.Visit(func(f *flag.Flag) {
		if strings.HasPrefix(f.Name, "integration.") || f.Name == "test.timeout" {
			args = append(args, "-"+f.Name+"="+f.Value.String())
		}
	})
	cmd := apart(exec.CommandContext(t.Context(), os.Args[0], args...))
	cmd.Env = append(os.Environ(), inNamespace+"=1", givenBinary+"="+Binary(t))
	out, err := cmd.CombinedOutput()
	t.Logf("in a namespace of its own:\n%s", out)
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("in a namespace of its own: %v", err)
	}
	return false
}

// apart has a command run in namespaces of its own, in which it is root.
func apart(cmd *exec.Cmd) *exec.Cmd {
	// Unshared, not cloned: Go then makes it private, so that no mount gets out.
	attr := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Unshareflags: syscall.CLONE_NEWNS}
	if os.Getuid() != 0 {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	cmd.SysProcAttr = attr
	return cmd
}
