package main

import (
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/spandb/spand/internal/node"
	"github.com/spandb/spand/internal/node/adminpb"
)

func status(args []string, stdout, stderr io.Writer) int {
	fs := flag.NewFlagSet("spand status", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	addr := fs.String("addr", "127.0.0.1:15433", "rpc address of a node")
	asJSON := fs.Bool("json", false, "print JSON")
	timeout := fs.Duration("timeout", 5*time.Second, "how long to wait for the node")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fs.SetOutput(stdout)
			fs.PrintDefaults()
			return exitOK
		}
		fmt.Fprintf(stderr, "spand status: %s; see spand status --help\n", node.FlagMessage(err))
		return exitUsage
	}
	if fs.NArg() > 0 {
		fmt.Fprintf(stderr, "spand status: unexpected argument %q; see spand status --help\n", fs.Arg(0))
		return exitUsage
	}
	st, err := fetchStatus(*addr, *timeout)
	if err != nil {
		fmt.Fprintf(stderr, "spand status: no answer from %s: %s\n", *addr, grpcstatus.Convert(err).Message())
		return exitFailed
	}
	if *asJSON {
		out, err := protojson.MarshalOptions{Multiline: true, EmitUnpopulated: true}.Marshal(st)
		if err != nil {
			fmt.Fprintf(stderr, "spand status: %v\n", err)
			return exitFailed
		}
		fmt.Fprintln(stdout, string(out))
		return exitOK
	}
	printStatus(stdout, st)
	return exitOK
}

func fetchStatus(addr string, timeout time.Duration) (*adminpb.StatusResponse, error) {
	return ask(addr, timeout, func(ctx context.Context, c adminpb.AdminClient) (*adminpb.StatusResponse, error) {
		return c.Status(ctx, &adminpb.StatusRequest{})
	})
}

func printStatus(out io.Writer, st *adminpb.StatusResponse) {
	clock := fmt.Sprintf("ε %v (%s)", time.Duration(st.Clock.EpsilonNs), st.Clock.Source)
	if st.Clock.Error != "" {
		clock = "NOT TRUSTED: " + st.Clock.Error
	}
	fmt.Fprintf(out, "node %s of cluster %s, cluster version %d, spand %s, clock %s\n\n", st.Node, st.ClusterId, st.ClusterVersion, st.Version, clock)

	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	names := map[uint32]string{0: "-"}
	fmt.Fprintln(w, "NODE\tRPC ADDRESS\tVERSIONS\tSTATE")
	for _, n := range st.Nodes {
		names[n.NodeId] = n.Name
		state := "unreachable"
		switch {
		case n.Self:
			state = "this node"
		case n.Connected:
			state = "connected"
		}
		versions := n.Versions
		if versions == "" {
			versions = "-"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", n.Name, n.RpcAddr, versions, state)
	}
	w.Flush()
	fmt.Fprintln(out)

	fmt.Fprintln(w, "TABLET\tSTART\tEND\tLEADER\tTERM\tLEASE\tAPPLIED\tCOMMITTED\tLAST\tLAG\tSTATE")
	for _, t := range st.Tablets {
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%d\t%s\t%d\t%d\t%d\t%s\t%s\n", t.Group, hex.EncodeToString(t.StartKey), hex.EncodeToString(t.EndKey),
			names[t.Leader], t.Term, leaseLeft(st, t.LeaseEndNs), t.Applied, t.Committed, t.Last, lagging(t.Lag, names), activity(t.Quiesced))
	}
	w.Flush()
	fmt.Fprintln(out)

	fmt.Fprintln(w, "CELL\tGROUP\tLEADER\tTERM\tLEASE\tAPPLIED\tCOMMITTED\tLAST\tLAG\tSTATE")
	for _, c := range st.Cells {
		fmt.Fprintf(w, "%s\t%d\t%s\t%d\t%s\t%d\t%d\t%d\t%s\t%s\n", c.Name, c.Group,
			names[c.Leader], c.Term, leaseLeft(st, c.LeaseEndNs), c.Applied, c.Committed, c.Last, lagging(c.Lag, names), activity(c.Quiesced))
	}
	w.Flush()
}

// leaseLeft is what is left of a lease that the node holds.
func leaseLeft(st *adminpb.StatusResponse, end int64) string {
	if end == 0 {
		return "-"
	}
	return time.Duration(end - st.Clock.LatestNs).Round(time.Millisecond).String()
}

func lagging(list []*adminpb.Lag, names map[uint32]string) string {
	var lag []string
	for _, l := range list {
		lag = append(lag, fmt.Sprintf("%s:%d", names[l.NodeId], l.Entries))
	}
	if len(lag) == 0 {
		return "-"
	}
	return strings.Join(lag, " ")
}

func activity(quiesced bool) string {
	if quiesced {
		return "quiesced"
	}
	return "active"
}
