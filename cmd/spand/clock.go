package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/spandb/spand/internal/node"
	"github.com/spandb/spand/internal/node/adminpb"
)

const clockUsage = `Usage:
  spand clock [flags]              show every node's clock: uncertainty, offsets, commit wait
  spand clock add DURATION [flags] widen one node's uncertainty by DURATION, at once; never narrows it
  spand clock reset [flags]        take back what was added at one node

Flags:
`

// clock shows the clocks of a cluster, or widens one.
func clock(args []string, stdout, stderr io.Writer) int {
	usage := func(format string, args ...any) int {
		fmt.Fprintf(stderr, "spand clock: "+format+"; see spand clock --help\n", args...)
		return exitUsage
	}
	fs := flag.NewFlagSet("spand clock", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	addr := fs.String("addr", "127.0.0.1:15433", "rpc address of a node; add and reset act on that node")
	asJSON := fs.Bool("json", false, "print JSON")
	timeout := fs.Duration("timeout", 5*time.Second, "how long to wait for a node")
	words, err := parseMixed(fs, args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, clockUsage)
		fs.SetOutput(stdout)
		fs.PrintDefaults()
		return exitOK
	}
	if err != nil {
		return usage("%s", node.FlagMessage(err))
	}
	var add *time.Duration
	switch {
	case len(words) == 0:
	case words[0] == "add":
		if len(words) != 2 {
			return usage("add wants one duration, such as 20ms")
		}
		d, err := time.ParseDuration(words[1])
		if err != nil || d < 0 {
			return usage("add %q: want a duration of 0 or more, such as 20ms", words[1])
		}
		add = &d
	case words[0] == "reset" && len(words) == 1:
		add = new(time.Duration)
	default:
		return usage("unexpected argument %q", words[len(words)-1])
	}

	fail := func(at string, err error) int {
		fmt.Fprintf(stderr, "spand clock: %s: %s\n", at, grpcstatus.Convert(err).Message())
		return exitFailed
	}
	if add != nil {
		r, err := ask(*addr, *timeout, func(ctx context.Context, c adminpb.AdminClient) (*adminpb.ClockResponse, error) {
			return c.AddClockError(ctx, &adminpb.AddClockErrorRequest{ErrorNs: int64(*add)})
		})
		if err != nil {
			return fail(*addr, err)
		}
		return showClocks(stdout, stderr, *asJSON, []*adminpb.ClockResponse{r}, nil)
	}
	st, err := fetchStatus(*addr, *timeout)
	if err != nil {
		return fail("no answer from "+*addr, err)
	}
	var clocks []*adminpb.ClockResponse
	var silent []string
	for _, n := range st.Nodes {
		at := n.RpcAddr
		if n.Self {
			at = *addr
		}
		r, err := ask(at, *timeout, func(ctx context.Context, c adminpb.AdminClient) (*adminpb.ClockResponse, error) {
			return c.Clock(ctx, &adminpb.ClockRequest{})
		})
		if err != nil {
			silent = append(silent, fmt.Sprintf("%s (%s): %s", n.Name, at, grpcstatus.Convert(err).Message()))
			continue
		}
		clocks = append(clocks, r)
	}
	return showClocks(stdout, stderr, *asJSON, clocks, silent)
}

// parseMixed parses flags before, between and behind the words, which it returns.
func parseMixed(fs *flag.FlagSet, args []string) (words []string, err error) {
	for {
		if err := fs.Parse(args); err != nil {
			return nil, err
		}
		if fs.NArg() == 0 {
			return words, nil
		}
		words, args = append(words, fs.Arg(0)), fs.Args()[1:]
	}
}

// ask makes one call to a node's Admin service.
func ask[R any](addr string, timeout time.Duration, call func(context.Context, adminpb.AdminClient) (R, error)) (r R, err error) {
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
	if err != nil {
		return r, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return call(ctx, adminpb.NewAdminClient(conn))
}

func showClocks(stdout, stderr io.Writer, asJSON bool, clocks []*adminpb.ClockResponse, silent []string) int {
	for _, s := range silent {
		fmt.Fprintf(stderr, "spand clock: no answer from %s\n", s)
	}
	code := exitOK
	if len(silent) > 0 {
		code = exitFailed
	}
	if asJSON {
		for _, c := range clocks { // one object per node and line
			out, err := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(c)
			if err != nil {
				fmt.Fprintf(stderr, "spand clock: %v\n", err)
				return exitFailed
			}
			fmt.Fprintln(stdout, string(out))
		}
		return code
	}
	w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NODE\tε NOW\tMAX, 1 MIN\tADDED\tSOURCE\tCOMMITS\tWAIT, GROSS\tWAIT, NET\tSTATE")
	for _, c := range clocks {
		epsilon, state := short(c.Clock.EpsilonNs), "trusted"
		if c.Clock.Error != "" {
			epsilon, state = "-", "NOT TRUSTED: "+c.Clock.Error
		}
		wait := &adminpb.CommitWait{}
		if c.CommitWait != nil {
			wait = c.CommitWait
		}
		per := int64(max(1, wait.Commits))
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\n", c.Node, epsilon, short(c.MaxEpsilonNs), short(c.AddedNs), c.Clock.Source,
			wait.Commits, short(wait.GrossNs/per), short(wait.NetNs/per), state)
	}
	w.Flush()
	fmt.Fprint(stdout, "\ncommit wait is the mean of a commit begun at the node\n\n")
	fmt.Fprintln(w, "SEEN BY\tPEER\tOFFSET\tBOUND\tε OF PEER\tSTATE")
	for _, c := range clocks {
		for _, p := range c.Peers {
			if p.MeasuredNs == 0 {
				fmt.Fprintf(w, "%s\t%s\t-\t-\t-\t%s\n", c.Node, p.Name, p.State)
				continue
			}
			state := p.State
			if p.GapNs != 0 {
				state += ", by " + short(p.GapNs) + " more than possible"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t± %s\t%s\t%s\n", c.Node, p.Name, short(p.OffsetNs), short(p.BoundNs), short(p.EpsilonNs), state)
		}
	}
	w.Flush()
	return code
}

// short writes nanoseconds as a duration, to a microsecond.
func short(ns int64) string { return time.Duration(ns).Round(time.Microsecond).String() }
