package main

import (
	"bufio"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// server is a process that this program started.
type server struct {
	cmd  *exec.Cmd
	stop os.Signal // how it likes to be asked
	done chan struct{}
}

// system is what pgbench talks to.
type system struct {
	name     string
	host     string
	port     string
	user     string
	database string
	options  string // PGOPTIONS
	servers  []*server
}

func (b *bench) launch(cmd *exec.Cmd, stop os.Signal) (*server, error) {
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &server{cmd: cmd, stop: stop, done: make(chan struct{})}
	go func() { cmd.Wait(); close(s.done) }()
	b.started = append(b.started, s)
	return s, nil
}

func (b *bench) stop(servers ...*server) {
	for _, s := range servers {
		select {
		case <-s.done:
			continue
		default:
		}
		s.cmd.Process.Signal(s.stop)
		select {
		case <-s.done:
		case <-time.After(15 * time.Second):
			s.cmd.Process.Kill()
			<-s.done
		}
	}
}

func (b *bench) stopAll() {
	for i := len(b.started) - 1; i >= 0; i-- {
		b.stop(b.started[i])
	}
	b.started = nil
}

func freePort() string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	return port
}

// spand starts a cluster and returns it as a system reached through its first node.
func (b *bench) spand(name string, nodes int, epsilon string) (*system, error) {
	dir, err := os.MkdirTemp(b.dir, "spand")
	if err != nil {
		return nil, err
	}
	sys := &system{name: name, host: "127.0.0.1", user: "root", database: "spand"}
	var members, ports []string
	for i := range nodes {
		ports = append(ports, freePort())
		members = append(members, fmt.Sprintf("n%d=127.0.0.1:%s", i+1, ports[i]))
	}
	var waits []io.Reader
	for i := range nodes {
		sql := freePort()
		if i == 0 {
			sys.port = sql
		}
		node := fmt.Sprintf("n%d", i+1)
		args := []string{"start", "--node", node, "--data-dir", filepath.Join(dir, node), "--sql-addr", "127.0.0.1:" + sql,
			"--rpc-addr", "127.0.0.1:" + ports[i], "--http-addr", "127.0.0.1:" + freePort(), "--max-clock-error", epsilon, "--log-level", "warn"}
		if nodes > 1 {
			args = append(args, "--cluster", strings.Join(members, ","))
		}
		cmd := exec.Command(*spandB, args...)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			return nil, err
		}
		s, err := b.launch(cmd, syscall.SIGTERM)
		if err != nil {
			return nil, err
		}
		sys.servers = append(sys.servers, s)
		waits = append(waits, out)
	}
	for i, out := range waits {
		if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
			return nil, fmt.Errorf("node %d: %q: %w", i+1, line, err)
		}
	}
	return sys, nil
}

// asPostgres makes cmd run as the user postgres, because the server refuses root.
func asPostgres(cmd *exec.Cmd) error {
	if os.Getuid() != 0 {
		return nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return err
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	cmd.Dir = "/"
	return nil
}

func pgTool(name string, args ...string) error {
	cmd := exec.Command(filepath.Join(*pgbin, name), args...)
	if err := asPostgres(cmd); err != nil {
		return err
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, out)
	}
	return nil
}

// postgres starts PostgreSQL as Debian configures it, fsync on, with so many
// synchronous standbys of which any one must confirm.
func (b *bench) postgres(name string, standbys int) (*system, error) {
	dir, err := os.MkdirTemp(b.dir, "pg")
	if err != nil {
		return nil, err
	}
	if os.Getuid() == 0 {
		u, err := user.Lookup("postgres")
		if err != nil {
			return nil, err
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		if err := os.Chown(dir, uid, gid); err != nil {
			return nil, err
		}
	}
	data := filepath.Join(dir, "primary")
	if err := pgTool("initdb", "-D", data, "-A", "trust", "-U", "postgres", "--no-instructions"); err != nil {
		return nil, err
	}
	sys := &system{name: name, host: "127.0.0.1", port: freePort(), user: "postgres", database: "postgres"}
	extra := []string{}
	if standbys > 0 {
		extra = append(extra, "-c", "synchronous_standby_names=ANY 1 (*)")
	}
	if err := b.runPostgres(sys, data, sys.port, extra...); err != nil {
		return nil, err
	}
	for i := range standbys {
		copyDir := filepath.Join(dir, fmt.Sprintf("standby%d", i+1))
		if err := pgTool("pg_basebackup", "-h", sys.host, "-p", sys.port, "-U", "postgres", "-D", copyDir, "-R", "-X", "stream", "-c", "fast"); err != nil {
			return nil, err
		}
		if err := b.runPostgres(sys, copyDir, freePort()); err != nil {
			return nil, err
		}
	}
	return sys, nil
}

func (b *bench) runPostgres(sys *system, data, port string, extra ...string) error {
	args := append([]string{"-D", data, "-p", port, "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "max_connections=100", "-c", "log_min_messages=fatal"}, extra...)
	cmd := exec.Command(filepath.Join(*pgbin, "postgres"), args...)
	if err := asPostgres(cmd); err != nil {
		return err
	}
	s, err := b.launch(cmd, syscall.SIGINT)
	if err != nil {
		return err
	}
	sys.servers = append(sys.servers, s)
	for deadline := time.Now().Add(60 * time.Second); ; {
		if err := pgTool("pg_isready", "-q", "-h", "127.0.0.1", "-p", port); err == nil {
			return nil
		} else if time.Now().After(deadline) {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
}
