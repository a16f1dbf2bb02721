// Command spand is the whole database: one process is one node.
//
//	spand start     run a node
//	spand demo      run a cluster in one process, or a guided demonstration
//	spand status    show a running node, its peers and its tablets
//	spand clock     show clock uncertainty, or widen it
//	spand lock      use the lock service: hold a lock while a command runs, read and write files
//	spand version   print the version
package main

import (
	"fmt"
	"io"
	"os"
	"runtime"

	"github.com/spandb/spand/internal/node"
)

// Exit codes, as in the documentation.
const (
	exitOK = iota
	exitFailed
	exitUsage
)

const usage = `spand: a distributed SQL database with external consistency

Usage:
  spand start [flags]     run a node; with no flags a single-node store in ./spand-data
  spand demo [flags]      run a cluster in one process, in a temporary folder; --scenario for a guided tour
  spand status [flags]    show a running node, its peers and its tablets
  spand clock [verb]      show every node's clock uncertainty, or widen a node's
  spand lock VERB         hold a lock while a command runs; list, read, write and watch files
  spand version           print the version

spand COMMAND --help lists the flags of a command.
`

func main() {
	// fsync and page faults hold a P for as long as they take; with fewer than
	// four a two-core machine has nobody left to run the other goroutines.
	if os.Getenv("GOMAXPROCS") == "" && runtime.GOMAXPROCS(0) < 4 {
		runtime.GOMAXPROCS(4)
	}
	keepHeapFloor()
	calmSysmon()
	os.Exit(run(os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

func run(args, environ []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return exitUsage
	}
	switch command, args := args[0], args[1:]; command {
	case "start":
		return start(args, environ, stdout, stderr)
	case "demo":
		return demonstrate(args, os.Stdin, stdout, stderr)
	case "clock":
		return clock(args, stdout, stderr)
	case "lock":
		return lock(args, os.Stdin, stdout, stderr)
	case "status":
		return status(args, stdout, stderr)
	case "version":
		fmt.Fprintf(stdout, "spand %s %s %s/%s\n", node.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return exitOK
	case "help", "-h", "--help", "-help":
		fmt.Fprint(stdout, usage)
		return exitOK
	default:
		fmt.Fprintf(stderr, "spand: no command %q\n\n%s", command, usage)
		return exitUsage
	}
}
