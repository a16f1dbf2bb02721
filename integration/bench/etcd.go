package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

const etcdServer = "go.etcd.io/etcd/server/v3" // built in the module integration/bench/etcd, which pins it

// buildEtcd compiles etcd's server, and the program that loads it.
func (b *bench) buildEtcd(ctx context.Context) (*lockStore, error) {
	module, err := output(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/spandb/spand")
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(strings.TrimSpace(module), "integration", "bench", "etcd")
	if b.cfg.etcd == "" {
		b.cfg.etcd = filepath.Join(b.dir, "etcd")
		if err := goBuild(ctx, dir, b.cfg.etcd, etcdServer); err != nil {
			return nil, err
		}
	}
	version, err := etcdVersion(ctx, b.cfg.etcd)
	if err != nil {
		return nil, err
	}
	about := version + ", three members with its defaults: every write on disk at a majority before it is acknowledged, heartbeat 100 ms, election 1 s."
	s := &lockStore{name: "etcd", about: about, load: filepath.Join(b.dir, "etcdload"), start: (*bench).etcd}
	return s, goBuild(ctx, dir, s.load, ".")
}

// goBuild compiles a package of the module in dir.
func goBuild(ctx context.Context, dir, program, pkg string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", program, pkg)
	cmd.Dir = dir
	_, err := runTool(cmd)
	return err
}

// etcd starts three members with etcd's own defaults: they sync each write to disk before they
// acknowledge it, send heartbeats every 100 ms and hold elections after 1 s.
func (b *bench) etcd(ctx context.Context) (*lockCluster, error) {
	dir, err := os.MkdirTemp(b.dir, "etcd-data")
	if err != nil {
		return nil, err
	}
	c := &lockCluster{}
	var peers, cluster []string
	for i := range 3 {
		client, err1 := freePort()
		peer, err2 := freePort()
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		c.members = append(c.members, "127.0.0.1:"+client)
		peers = append(peers, "http://127.0.0.1:"+peer)
		cluster = append(cluster, fmt.Sprintf("m%d=%s", i+1, peers[i]))
	}
	for i, addr := range c.members {
		name, url := fmt.Sprintf("m%d", i+1), "http://"+addr
		s, err := b.launch(exec.Command(b.cfg.etcd, "--name", name, "--data-dir", filepath.Join(dir, name),
			"--listen-client-urls", url, "--advertise-client-urls", url,
			"--listen-peer-urls", peers[i], "--initial-advertise-peer-urls", peers[i],
			"--initial-cluster", strings.Join(cluster, ","), "--log-level", "warn"), syscall.SIGTERM)
		if err != nil {
			return nil, err
		}
		c.servers = append(c.servers, s)
	}
	for _, addr := range c.members {
		if err := await(ctx, func() error { return healthy(ctx, "http://"+addr+"/health") }); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// healthy asks a member of etcd, which says yes if it has a leader and can read.
func healthy(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	return nil
}

// etcdVersion is what the program says it is.
func etcdVersion(ctx context.Context, program string) (string, error) {
	out, err := output(ctx, program, "--version")
	if err != nil {
		return "", err
	}
	return parseEtcdVersion(out)
}

func parseEtcdVersion(out string) (string, error) {
	for line := range strings.Lines(out) {
		if v, ok := strings.CutPrefix(line, "etcd Version: "); ok {
			return "etcd " + strings.TrimSpace(v), nil
		}
	}
	return "", fmt.Errorf("etcd --version says no version:\n%s", out)
}
