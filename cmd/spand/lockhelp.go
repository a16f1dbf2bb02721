package main

import (
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
)

const lockPaths = `Paths are /ls/CELL/...; the cell "local" is always there.
`

const lockRunAbout = `COMMAND finds the lock's sequencer in SPAND_SEQUENCER (for spand.fence in SQL) and its generation in
SPAND_LOCK_GENERATION. When the lock is about to be lost, COMMAND and what it started get SIGTERM, then SIGKILL before
another can have the lock; on Linux also when this process is stopped or killed. What COMMAND leaves running in its
process group when it ends is killed before the lock is given back. SIGINT, SIGTERM, SIGHUP and SIGQUIT are passed on,
unless they are ignored (nohup). Ctrl-Z stops COMMAND and this process; COMMAND is killed if it is not continued (fg, bg)
before the lock is lost, which is --ttl later at most.
The exit code is COMMAND's, or 128 + the signal that ended it. It is 1 if the lock was not to be had, or was lost
while COMMAND ran, whatever ended that; stderr says which.
`

// lockHelp prints the help of one verb, or of all if name is "".
func lockHelp(w io.Writer, fs *flag.FlagSet, name string) {
	fmt.Fprintln(w, "Usage:")
	for _, v := range lockVerbs {
		if name != "" && v.name != name {
			continue
		}
		const column = 30
		call := "  spand lock " + v.usage
		if len(call) > column-2 {
			call += "\n"
		}
		last := call[strings.LastIndexByte(call, '\n')+1:]
		fmt.Fprintf(w, "%s%*s%s\n", call, column-len(last), "", v.does)
	}
	fmt.Fprintf(w, "\n%s", lockPaths)
	if name == "" || name == "run" {
		fmt.Fprint(w, lockRunAbout)
	}
	fmt.Fprintln(w, "\nFlags:")
	flags := flag.NewFlagSet("", flag.ContinueOnError)
	flags.SetOutput(w)
	fs.VisitAll(func(g *flag.Flag) {
		if g.Name == "help" || g.Name == "h" || name != "" && !lockVerbOf(name).knows(g.Name) {
			return
		}
		usage := g.Usage
		if of, rest, ok := strings.Cut(usage, ": "); ok && name != "" && slices.Contains(strings.Split(of, ", "), name) {
			usage = rest
		}
		flags.Var(g.Value, g.Name, usage)
		flags.Lookup(g.Name).DefValue = g.DefValue // not what was given
	})
	flags.PrintDefaults()
}
