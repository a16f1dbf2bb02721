package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// startTimeout decides when a server that does not come up has failed.
const startTimeout = 60 * time.Second

// postgres starts PostgreSQL with its own defaults, fsync on, and with so many
// synchronous standbys, of which any one must confirm.
func (b *bench) postgres(ctx context.Context, name string, standbys int) (*system, error) {
	dir, err := os.MkdirTemp(b.dir, "postgres")
	if err != nil {
		return nil, err
	}
	owner, err := postgresUser()
	if err != nil {
		return nil, err
	}
	if owner != nil {
		if err := os.Chown(dir, int(owner.Uid), int(owner.Gid)); err != nil {
			return nil, err
		}
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	primary := filepath.Join(dir, "primary")
	if err := b.pgTool(ctx, owner, "initdb", "-D", primary, "-A", "trust", "-U", "postgres", "--no-instructions"); err != nil {
		return nil, err
	}
	sys := &system{name: name, pgbin: b.cfg.pgbin, port: port, user: "postgres", database: "postgres"}
	var extra []string
	if standbys > 0 {
		extra = []string{"-c", "synchronous_standby_names=ANY 1 (*)"}
	}
	if err := b.runPostgres(ctx, owner, sys, primary, port, extra...); err != nil {
		return nil, err
	}
	for i := range standbys {
		port, err := freePort()
		if err != nil {
			return nil, err
		}
		data := filepath.Join(dir, fmt.Sprintf("standby%d", i+1))
		if err := b.pgTool(ctx, owner, "pg_basebackup", "-h", "127.0.0.1", "-p", sys.port, "-U", "postgres", "-D", data, "-R", "-X", "stream", "-c", "fast"); err != nil {
			return nil, err
		}
		if err := b.runPostgres(ctx, owner, sys, data, port); err != nil {
			return nil, err
		}
	}
	return sys, await(ctx, func() error {
		out, err := sys.psql(ctx, "select count(*) from pg_stat_replication where state = 'streaming'")
		if err == nil && out != strconv.Itoa(standbys) {
			err = fmt.Errorf("%s standbys of %d are streaming", out, standbys)
		}
		return err
	})
}

func (b *bench) runPostgres(ctx context.Context, owner *syscall.Credential, sys *system, data, port string, extra ...string) error {
	args := append([]string{"-D", data, "-p", port, "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "log_min_messages=fatal"}, extra...)
	s, err := b.launch(asUser(owner, exec.Command(filepath.Join(b.cfg.pgbin, "postgres"), args...)), syscall.SIGINT)
	if err != nil {
		return err
	}
	sys.servers = append(sys.servers, s)
	return await(ctx, func() error { return b.pgTool(ctx, owner, "pg_isready", "-q", "-h", "127.0.0.1", "-p", port) })
}

func (b *bench) pgTool(ctx context.Context, owner *syscall.Credential, name string, args ...string) error {
	_, err := runTool(asUser(owner, exec.CommandContext(ctx, filepath.Join(b.cfg.pgbin, name), args...)))
	return err
}

// await asks again and again until the answer is no error.
func await(ctx context.Context, ask func() error) error {
	for began := time.Now(); ; {
		err := ask()
		if err == nil {
			return nil
		}
		if time.Since(began) > startTimeout {
			return err
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// postgresUser is whom PostgreSQL runs as when this program is root, which its
// server refuses to be; nil: as ourselves.
func postgresUser() (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL's server does not run as root: %w", err)
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, errors.Join(err1, err2)
}

func asUser(owner *syscall.Credential, cmd *exec.Cmd) *exec.Cmd {
	if owner != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: owner}
		cmd.Dir = "/" // ours may be closed to it
	}
	return cmd
}

// serializable is the same server, whose clients ask for what spand gives.
func (s *system) serializable(name string) *system {
	strict := *s
	strict.name, strict.options = name, "-c default_transaction_isolation=serializable"
	return &strict
}

func postgresVersion(ctx context.Context, pgbin string) (string, error) {
	out, err := output(ctx, filepath.Join(pgbin, "postgres"), "--version")
	return strings.TrimSpace(strings.Replace(out, "postgres (PostgreSQL)", "PostgreSQL", 1)), err
}
