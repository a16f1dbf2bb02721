package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spandb/spand/internal/node"
	"github.com/spandb/spand/lockservice"
)

const lockUsage = `Usage:
  spand lock run [flags] PATH -- COMMAND [ARGUMENT...]
                              hold the lock of PATH while COMMAND runs, making the file if need be
  spand lock ls [flags] DIR   list a directory
  spand lock cat PATH         print a file's contents
  spand lock put [flags] PATH [CONTENTS]
                              replace a file's contents, by stdin if CONTENTS is not given or "-"
  spand lock stat PATH        show a file or directory
  spand lock rm PATH          delete a file or an empty directory
  spand lock watch PATH       print what happens to a file or directory, until interrupted

Paths are /ls/CELL/...; the cell "local" is always there. COMMAND finds the lock's sequencer in
SPAND_SEQUENCER (for spand.fence in SQL) and its generation in SPAND_LOCK_GENERATION. When the lock is about to be lost,
COMMAND and what it started get SIGTERM, then SIGKILL before another can have the lock; on Linux also when this process
is stopped or killed. What COMMAND leaves running in its process group when it ends is killed before the lock is given
back. SIGINT, SIGTERM, SIGHUP and SIGQUIT are passed on, unless they are ignored (nohup). Ctrl-Z stops COMMAND and this
process; COMMAND is killed if it is not continued (fg, bg) before the lock is lost, which is --ttl later at most.
The exit code is COMMAND's, or 128 + the signal that ended it. It is 1 if the lock was not to be had, or was lost
while COMMAND ran, whatever ended that; stderr says which.

Flags:
`

// lockFlags are those of every verb of spand lock.
type lockFlags struct {
	addr         string
	timeout      time.Duration
	json         bool
	shared, try  bool
	ttl, wait    time.Duration
	delay        time.Duration
	ifGeneration uint64
	create       bool
	parents      bool
	after        uint64
	given        map[string]bool
}

// lockVerb is one verb: the flags that it knows beside --addr and --timeout, how many words it takes,
// and what it does.
type lockVerb struct {
	flags    string
	min, max int
	run      func(v *lockCall) error
}

var lockVerbs = map[string]lockVerb{
	"ls":    {"json", 1, 1, (*lockCall).list},
	"cat":   {"", 1, 1, (*lockCall).cat},
	"put":   {"if-generation create parents json", 1, 2, (*lockCall).put},
	"stat":  {"json", 1, 1, (*lockCall).stat},
	"rm":    {"if-generation", 1, 1, (*lockCall).remove},
	"watch": {"after json", 1, 1, (*lockCall).watch},
}

const lockRunFlags = "shared try ttl wait lock-delay"

// lockCall is one call of spand lock.
type lockCall struct {
	lockFlags
	words    []string
	client   *lockservice.Client
	ctx      context.Context
	contents []byte // of put
	stdout   io.Writer
}

func lock(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	usage := func(format string, args ...any) int {
		fmt.Fprintf(stderr, "spand lock: "+format+"; see spand lock --help\n", args...)
		return exitUsage
	}
	if len(args) == 1 && args[0] == watchdogVerb {
		return watchdogMain(stdin)
	}
	command := []string(nil)
	if i := slices.Index(args, "--"); i >= 0 {
		args, command = args[:i], args[i+1:]
	}
	var f lockFlags
	fs := flag.NewFlagSet("spand lock", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVar(&f.addr, "addr", "127.0.0.1:15433", "rpc addresses of one or more nodes, separated by commas")
	fs.DurationVar(&f.timeout, "timeout", 5*time.Second, "how long to wait for the cell (run: for a node to answer)")
	fs.BoolVar(&f.json, "json", false, "ls, stat, put, watch: print JSON, one object a line")
	fs.BoolVar(&f.shared, "shared", false, "run: take the lock in shared mode")
	fs.BoolVar(&f.try, "try", false, "run: fail when the lock is not free, instead of waiting")
	fs.DurationVar(&f.ttl, "ttl", 12*time.Second, "run: how long the lock outlives silence, 1s to 60s")
	fs.DurationVar(&f.wait, "wait", 0, "run: how long to wait for the lock (default: without end)")
	fs.DurationVar(&f.delay, "lock-delay", 0, "run: how long nobody else gets the lock if this process vanishes, at most 60s")
	fs.Uint64Var(&f.ifGeneration, "if-generation", 0, "put, rm: only if the content generation is this")
	fs.BoolVar(&f.create, "create", true, "put: make the file if it is not there")
	fs.BoolVar(&f.parents, "parents", false, "put: make the directories above it")
	fs.Uint64Var(&f.after, "after", 0, "watch: begin with what happened after this revision (default: now)")
	words, err := parseMixed(fs, args)
	if errors.Is(err, flag.ErrHelp) || err == nil && len(words) == 1 && words[0] == "help" {
		fmt.Fprint(stdout, lockUsage)
		fs.SetOutput(stdout)
		fs.PrintDefaults()
		return exitOK
	}
	if err != nil {
		return usage("%s", node.FlagMessage(err))
	}
	if len(words) == 0 {
		return usage("want run, ls, cat, put, stat, rm or watch")
	}
	name, words := words[0], words[1:]
	verb, known := lockVerbs[name]
	if name == "run" {
		verb, known = lockVerb{lockRunFlags, 1, 1, nil}, true
	}
	if !known {
		return usage("no verb %q; there are run, ls, cat, put, stat, rm and watch", name)
	}
	f.given = map[string]bool{}
	strange := ""
	fs.Visit(func(g *flag.Flag) {
		f.given[g.Name] = true
		if g.Name != "addr" && g.Name != "timeout" && !slices.Contains(strings.Fields(verb.flags), g.Name) {
			strange = g.Name
		}
	})
	switch {
	case strange != "":
		return usage("%s has no flag --%s", name, strange)
	case len(words) < verb.min:
		return usage("%s wants a path such as /ls/local/jobs/x", name)
	case len(words) > verb.max && name == "run":
		return usage("run: unexpected argument %q; the command goes behind --", words[verb.max])
	case len(words) > verb.max:
		return usage("%s: unexpected argument %q", name, words[verb.max])
	case name == "run" && len(command) == 0:
		return usage("run wants a command: spand lock run %s -- COMMAND", words[0])
	case name != "run" && command != nil:
		return usage("%s takes no command", name)
	case name == "run" && f.try && f.wait > 0:
		return usage("--try and --wait exclude each other")
	case name == "run" && (f.ttl < time.Second || f.ttl > time.Minute):
		return usage("--ttl %v: want 1s to 60s", f.ttl)
	case name == "run" && (f.delay < 0 || f.delay > time.Minute):
		return usage("--lock-delay %v: want 0 to 60s", f.delay)
	}
	if name == "run" {
		return lockRun(f, words[0], command, stderr)
	}

	fail := func(err error) int {
		fmt.Fprintf(stderr, "spand lock %s: %s\n", name, lockMessage(err))
		return exitFailed
	}
	var contents []byte
	if name == "put" { // its writer may take his time
		if contents, err = putContents(words, stdin); err != nil {
			return fail(err)
		}
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), f.timeout, fmt.Errorf("no answer within %v", f.timeout))
	defer cancel()
	client, err := lockservice.Dial(ctx, f.addr)
	if err != nil {
		return fail(err)
	}
	defer client.Close()
	v := &lockCall{lockFlags: f, words: words, client: client, ctx: ctx, contents: contents, stdout: stdout}
	if err := verb.run(v); err != nil {
		return fail(err)
	}
	return exitOK
}

// lockMessage is an error for people who know that it is the lock service's.
func lockMessage(err error) string { return strings.ReplaceAll(err.Error(), "lockservice: ", "") }

func (v *lockCall) node() *lockservice.Node {
	return v.client.Node(strings.TrimSuffix(v.words[0], "/"))
}

// session opens a session for changes: those of one are not repeated by accident.
func (v *lockCall) session(path string) (*lockservice.Session, error) {
	cell, _, _ := strings.Cut(strings.TrimPrefix(path, "/ls/"), "/")
	return v.client.NewSession(v.ctx, lockservice.SessionOptions{Cell: cell})
}

func (v *lockCall) print(o any) error {
	text, err := json.Marshal(o)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(v.stdout, string(text))
	return err
}

func (v *lockCall) list() error {
	all, err := v.node().ReadDir(v.ctx)
	if err != nil {
		return err
	}
	if v.json {
		for i := range all {
			if err := v.print(&all[i]); err != nil {
				return err
			}
		}
		return nil
	}
	w := tabwriter.NewWriter(v.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tKIND\tBYTES\tCONTENTS\tLOCK\tMODIFIED")
	for i := range all {
		st := &all[i]
		size := fmt.Sprint(st.Length)
		if st.Directory {
			size = "-"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%s\n", st.Name(), kindOf(st), size, st.ContentGeneration, st.LockGeneration, st.Modified.Format(time.RFC3339))
	}
	return w.Flush()
}

func kindOf(st *lockservice.Stat) string {
	kind := "file"
	if st.Directory {
		kind = "directory"
	}
	if st.Ephemeral {
		kind = "ephemeral " + kind
	}
	return kind
}

func (v *lockCall) cat() error {
	contents, _, err := v.node().Contents(v.ctx)
	if err != nil {
		return err
	}
	_, err = v.stdout.Write(contents)
	return err
}

// putContents is what put is to write.
func putContents(words []string, stdin io.Reader) ([]byte, error) {
	var contents []byte
	if len(words) == 2 && words[1] != "-" {
		contents = []byte(words[1])
	} else {
		var err error
		if contents, err = io.ReadAll(io.LimitReader(stdin, maxPut+1)); err != nil {
			return nil, fmt.Errorf("reading stdin: %w", err)
		}
	}
	if len(contents) > maxPut {
		return nil, fmt.Errorf("contents are more than %d bytes", maxPut)
	}
	return contents, nil
}

func (v *lockCall) put() error {
	path := v.words[0]
	s, err := v.session(path)
	if err != nil {
		return err
	}
	defer s.Close(v.ctx)
	if up := path[:max(0, strings.LastIndexByte(path, '/'))]; v.parents && strings.Count(up, "/") > 2 {
		if err := s.MkdirAll(v.ctx, up); err != nil {
			return err
		}
	}
	var conds []lockservice.Condition
	if v.create && !v.given["if-generation"] {
		conds = append(conds, lockservice.OrCreate())
	}
	if v.given["if-generation"] {
		conds = append(conds, lockservice.IfGeneration(v.ifGeneration))
	}
	st, err := s.Node(path).SetContents(v.ctx, v.contents, conds...)
	if err != nil {
		return err
	}
	if v.json {
		return v.print(st)
	}
	return nil
}

// maxPut is the bound of a file.
const maxPut = 256 << 10

func (v *lockCall) stat() error {
	st, err := v.node().Stat(v.ctx)
	if err != nil {
		return err
	}
	if v.json {
		return v.print(st)
	}
	w := tabwriter.NewWriter(v.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "path\t%s\nkind\t%s\ninstance\t%d\n", st.Path, kindOf(st), st.Instance)
	if st.Directory {
		fmt.Fprintf(w, "children\t%d\n", st.Children)
	} else {
		fmt.Fprintf(w, "bytes\t%d\nchecksum\t%016x\ncontent generation\t%d\n", st.Length, st.Checksum, st.ContentGeneration)
	}
	fmt.Fprintf(w, "lock generation\t%d\nacl generation\t%d\nacl\tread %q, write %q, change %q\nrevision\t%d\nmodified\t%s\n",
		st.LockGeneration, st.ACLGeneration, st.ACL.Read, st.ACL.Write, st.ACL.Change, st.Revision, st.Modified.Format(time.RFC3339Nano))
	if st.Quota != nil {
		fmt.Fprintf(w, "quota\t%d bytes, %d nodes\n", st.Quota.Bytes, st.Quota.Nodes)
	}
	if st.Used != nil {
		fmt.Fprintf(w, "used\t%d bytes, %d nodes\n", st.Used.Bytes, st.Used.Nodes)
	}
	return w.Flush()
}

func (v *lockCall) remove() error {
	s, err := v.session(v.words[0])
	if err != nil {
		return err
	}
	defer s.Close(v.ctx)
	var conds []lockservice.Condition
	if v.given["if-generation"] {
		conds = append(conds, lockservice.IfGeneration(v.ifGeneration))
	}
	return s.Node(strings.TrimSuffix(v.words[0], "/")).Delete(v.ctx, conds...)
}

// watch prints events until it is interrupted, which is how it is meant to end.
func (v *lockCall) watch() error {
	s, err := v.session(v.words[0])
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	defer func() {
		end, cancel := context.WithTimeout(context.Background(), v.timeout)
		defer cancel()
		s.Close(end)
	}()
	n := s.Node(strings.TrimSuffix(v.words[0], "/"))
	if _, err := n.Stat(v.ctx); err != nil && !errors.Is(err, lockservice.ErrNotFound) {
		return err
	}
	sub, err := n.Subscribe(v.ctx, lockservice.SubscribeOptions{After: v.after})
	if err != nil {
		return err
	}
	defer sub.Close()
	for {
		e, err := sub.Next(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		case v.json:
			err = v.print(e)
		default:
			_, err = fmt.Fprintf(v.stdout, "%d %s %s", e.Revision, e.Kind, e.Path)
			if e.Child != "" {
				fmt.Fprintf(v.stdout, "/%s", e.Child)
			}
			fmt.Fprintf(v.stdout, " generation %d\n", e.Generation)
		}
		if err != nil {
			return err
		}
	}
}
