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
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spandb/spand/internal/node"
	"github.com/spandb/spand/lockservice"
)

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

// lockVerb is one verb: how it is called and what it does, the flags that it knows beside --addr and --timeout, how
// many words it takes, and what does it; of run that is lockRun.
type lockVerb struct {
	name, usage, does string
	flags             string
	min, max          int
	run               func(v *lockCall) error
}

var lockVerbs = []lockVerb{
	{"run", "run [flags] PATH -- COMMAND [ARGUMENT...]", "hold the lock of PATH while COMMAND runs, making the file if need be",
		"shared try ttl wait lock-delay", 1, 1, nil},
	{"ls", "ls [flags] DIR", "list a directory", "json", 1, 1, (*lockCall).list},
	{"cat", "cat PATH", "print a file's contents", "", 1, 1, (*lockCall).cat},
	{"put", "put [flags] PATH [CONTENTS]", `replace a file's contents, by stdin if CONTENTS is not given or "-"`,
		"if-generation create parents json", 1, 2, (*lockCall).put},
	{"stat", "stat [flags] PATH", "show a file or directory", "json", 1, 1, (*lockCall).stat},
	{"rm", "rm [flags] PATH", "delete a file or an empty directory", "if-generation", 1, 1, (*lockCall).remove},
	{"watch", "watch [flags] PATH", "print what happens to a file or directory, until interrupted", "after json", 1, 1, (*lockCall).watch},
}

// lockVerbOf is nil if there is none of that name.
func lockVerbOf(name string) *lockVerb {
	if i := slices.IndexFunc(lockVerbs, func(v lockVerb) bool { return v.name == name }); i >= 0 {
		return &lockVerbs[i]
	}
	return nil
}

func (v *lockVerb) knows(flag string) bool {
	return flag == "addr" || flag == "timeout" || slices.Contains(strings.Fields(v.flags), flag)
}

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
	fs.Uint64Var(&f.ifGeneration, "if-generation", 0, "put, rm: only if the content generation is this; of put 0 is: only if there is no such file")
	fs.BoolVar(&f.create, "create", true, "put: make the file if it is not there")
	fs.BoolVar(&f.parents, "parents", false, "put: make the directories above it")
	fs.Uint64Var(&f.after, "after", 0, "watch: begin with what happened after this revision (default: now)")
	help := false
	fs.BoolVar(&help, "help", false, "")
	fs.BoolVar(&help, "h", false, "")
	words, err := parseMixed(fs, args)
	if err != nil {
		return usage("%s", node.FlagMessage(err))
	}
	if len(words) > 0 && words[0] == "help" {
		help, words = true, words[1:]
	}
	if help && len(words) == 0 {
		lockHelp(stdout, fs, "")
		return exitOK
	}
	if len(words) == 0 {
		return usage("want run, ls, cat, put, stat, rm or watch")
	}
	name, words := words[0], words[1:]
	verb := lockVerbOf(name)
	if verb == nil {
		return usage("no verb %q; there are run, ls, cat, put, stat, rm and watch", name)
	}
	if help {
		lockHelp(stdout, fs, name)
		return exitOK
	}
	f.given = map[string]bool{}
	strange := ""
	fs.Visit(func(g *flag.Flag) {
		f.given[g.Name] = true
		if !verb.knows(g.Name) {
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
	fail := func(err error) int {
		fmt.Fprintf(stderr, "spand lock %s: %s\n", name, lockMessage(err))
		return exitFailed
	}
	if err := checkLockPath(words[0]); err != nil {
		return fail(err) // whether a node answers or not
	}
	if name == "run" {
		return lockRun(f, words[0], command, stderr)
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

// checkLockPath finds what does not even name a cell; the service checks the rest.
func checkLockPath(path string) error {
	rest, ok := strings.CutPrefix(path, "/ls/")
	switch {
	case !ok:
		return fmt.Errorf("path %q does not begin with /ls/", path)
	case strings.HasPrefix(rest, "/") || rest == "":
		return fmt.Errorf("path %q names no cell", path)
	}
	return nil
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
	if v.create && v.ifGeneration == 0 { // also where 0 is given: then only if there is no file
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
	modified := &st.Modified
	if modified.UnixNano() == 0 {
		modified = nil // a cell's root: nobody made it
	}
	if v.json {
		return v.print(struct {
			*lockservice.Stat
			Modified *time.Time `json:"modified,omitempty"`
		}{st, modified})
	}
	w := tabwriter.NewWriter(v.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "path\t%s\nkind\t%s\ninstance\t%d\n", st.Path, kindOf(st), st.Instance)
	if st.Directory {
		fmt.Fprintf(w, "children\t%d\n", st.Children)
	} else {
		fmt.Fprintf(w, "bytes\t%d\nchecksum\t%016x\ncontent generation\t%d\n", st.Length, st.Checksum, st.ContentGeneration)
	}
	fmt.Fprintf(w, "lock generation\t%d\nacl generation\t%d\nacl\tread %s, write %s, change %s\nrevision\t%d\n",
		st.LockGeneration, st.ACLGeneration, whoever(st.ACL.Read), whoever(st.ACL.Write), whoever(st.ACL.Change), st.Revision)
	if modified != nil {
		fmt.Fprintf(w, "modified\t%s\n", modified.Format(time.RFC3339Nano))
	}
	if st.Quota != nil {
		fmt.Fprintf(w, "quota\t%d bytes, %d nodes\n", st.Quota.Bytes, st.Quota.Nodes)
	}
	if st.Used != nil {
		fmt.Fprintf(w, "used\t%d bytes, %d nodes\n", st.Used.Bytes, st.Used.Nodes)
	}
	return w.Flush()
}

// whoever is whom an ACL name admits: quoted, those whom that file lists.
func whoever(name string) string {
	if name == "" {
		return "everybody"
	}
	return strconv.Quote(name)
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
