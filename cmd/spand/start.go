package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os/signal"
	"syscall"
	"time"

	"github.com/spandb/spand/internal/node"
)

// drainTimeout is how long SIGTERM may take before the process ends anyway;
// the promise is 10 s.
const drainTimeout = 9 * time.Second

func start(args, environ []string, stdout, stderr io.Writer) int {
	cfg, err := node.Load(args, environ, stdout)
	if errors.Is(err, flag.ErrHelp) {
		return exitOK
	}
	if err != nil {
		fmt.Fprintf(stderr, "spand start: %v\n", err)
		return exitUsage
	}
	log := node.NewLogger(cfg, stderr)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()

	n, err := node.Start(ctx, cfg, log)
	if err != nil {
		if ctx.Err() != nil {
			return exitOK // told to stop while starting
		}
		fmt.Fprintf(stderr, "spand start: %v\n", err)
		return exitFailed
	}
	a := n.Addrs()
	fmt.Fprintf(stdout, "spand: ready node=%s sql=%s rpc=%s http=%s\n", cfg.Node, a.SQL, a.RPC, a.HTTP)

	select {
	case <-ctx.Done():
	case err := <-n.Failed():
		fmt.Fprintf(stderr, "spand start: %v\n", err)
		return exitFailed
	}
	stop() // a second signal kills
	drain, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	if err := n.Shutdown(drain); err != nil {
		log.Error("drain incomplete; nothing acknowledged is lost", "err", err)
	}
	return exitOK
}
