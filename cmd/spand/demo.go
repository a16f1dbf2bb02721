package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spandb/spand/internal/demo"
	"github.com/spandb/spand/internal/node"
)

// demonstrate runs a cluster in this process until it is interrupted, or a scenario on
// one to its end.
func demonstrate(args []string, stdin *os.File, stdout, stderr io.Writer) int {
	d := node.Default()
	o := demo.Options{Out: stdout}
	fs := flag.NewFlagSet("spand demo", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.IntVar(&o.Nodes, "nodes", 3, "how many nodes")
	fs.StringVar(&o.SQLAddr, "sql-addr", d.SQLAddr, "SQL address of the first node; each further node's ports lie 10 above")
	fs.StringVar(&o.RPCAddr, "rpc-addr", d.RPCAddr, "likewise for gRPC")
	fs.StringVar(&o.HTTPAddr, "http-addr", d.HTTPAddr, "likewise for /metrics and /healthz")
	bound := fs.String("max-clock-error", "0", "clock uncertainty; all nodes share this machine's clock, so that 0 is honest")
	scenario := fs.String("scenario", "", "guided demonstration instead: clock")
	noPause := fs.Bool("no-pause", false, "do not wait for Enter between a scenario's steps")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fs.SetOutput(stdout)
			fs.PrintDefaults()
			return exitOK
		}
		fmt.Fprintf(stderr, "spand demo: %s; see spand demo --help\n", node.FlagMessage(err))
		return exitUsage
	}
	usage := func(format string, args ...any) int {
		fmt.Fprintf(stderr, "spand demo: "+format+"\n", args...)
		return exitUsage
	}
	var err error
	if *bound != "0" {
		o.MaxClockError, err = time.ParseDuration(*bound)
	}
	switch {
	case fs.NArg() > 0:
		return usage("unexpected argument %q; see spand demo --help", fs.Arg(0))
	case o.Nodes < 1 || o.Nodes > demo.MaxNodes:
		return usage("--nodes %d: 1 to %d", o.Nodes, demo.MaxNodes)
	case err != nil || o.MaxClockError < 0:
		return usage("--max-clock-error %q: a duration such as 4ms", *bound)
	case *scenario != "" && *scenario != "clock":
		return usage("--scenario %q: there is clock", *scenario)
	case *scenario == "clock" && o.Nodes < 3:
		return usage("--scenario clock needs --nodes 3 or more: with fewer nobody is outvoted")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	c, err := demo.Start(ctx, o)
	if err != nil {
		if ctx.Err() != nil {
			return exitOK // told to stop while starting
		}
		var wrong *node.UsageError
		fmt.Fprintf(stderr, "spand demo: %v\n", err)
		if errors.As(err, &wrong) {
			return exitUsage
		}
		return exitFailed
	}
	code := exitOK
	if *scenario == "clock" {
		_, err = demo.Clock(ctx, c, stdout, pause(stdin, stdout, *noPause))
	} else {
		announce(stdout, c)
		err = c.Failed(ctx)
	}
	if err != nil && ctx.Err() == nil {
		fmt.Fprintf(stderr, "spand demo: %v\n", err)
		code = exitFailed
	}
	stop() // a second signal kills
	drain, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	if err := c.Close(drain); err != nil {
		fmt.Fprintf(stderr, "spand demo: stopping: %v\n", err)
	}
	fmt.Fprintln(stdout, "Stopped; the folder is gone.")
	return code
}

// announce tells how to reach the cluster.
func announce(out io.Writer, c *demo.Cluster) {
	fmt.Fprintln(out, "\nConnect to any node:")
	for i := range c.Nodes() {
		fmt.Fprintf(out, "  %s   psql '%s'\n", c.Name(i), c.URL(i))
	}
	fmt.Fprintf(out, "\nLook at it:  spand status --addr %s   spand clock --addr %s   http://%s/metrics\n", c.RPC(0), c.RPC(0), c.HTTP(0))
	fmt.Fprintf(out, "Log:         %s/demo.log\n\nCtrl-C ends it and removes the folder.\n", c.Dir())
}

// pause returns what waits for Enter between two steps; nothing is waited for when
// nobody is there to press it.
func pause(stdin *os.File, out io.Writer, never bool) func(context.Context) error {
	st, err := stdin.Stat()
	if never || err != nil || st.Mode()&os.ModeCharDevice == 0 {
		return func(ctx context.Context) error { return ctx.Err() }
	}
	lines := make(chan error)
	go func() { // ends with the process, or with its input
		in := bufio.NewReader(stdin)
		for {
			_, err := in.ReadString('\n')
			lines <- err
			if err != nil {
				return
			}
		}
	}()
	return func(ctx context.Context) error {
		fmt.Fprint(out, "\n[Enter goes on] ")
		select {
		case err := <-lines:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
