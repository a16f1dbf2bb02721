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
	"sync/atomic"
)

const defaultURL = "postgres://root@127.0.0.1:15432/spand"

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, terminal: isTerminal(os.Stdin) && isTerminal(os.Stdout)}
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, os.Interrupt)
	go func() {
		for range interrupts {
			if !a.interrupt() {
				os.Exit(exitFailed)
			}
		}
	}()
	os.Exit(a.main(context.Background(), os.Args[1:]))
}

func isTerminal(f *os.File) bool {
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0
}

// app is one run of the program.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	terminal       bool

	out  *bufio.Writer // over stdout
	conn *conn
	live atomic.Pointer[conn] // conn, for interrupt
	// settings of the session
	timing, expanded bool
}

// interrupt is Ctrl-C: it cancels the query that runs. Between queries it
// returns false, the program is to end, unless somebody sits at its prompt.
func (a *app) interrupt() bool {
	c := a.live.Load()
	if c == nil {
		return false
	}
	if c.running.Load() {
		c.requestCancel()
		return true
	}
	return a.terminal
}

// action is a -c or an -f.
type action struct {
	sql, file string
	isFile    bool
}

// actions collects -c and -f in the order in which they stand.
type actions struct {
	list *[]action
	file bool
}

func (a actions) String() string { return "" }
func (a actions) Set(s string) error {
	if a.file {
		*a.list = append(*a.list, action{file: s, isFile: true})
	} else {
		*a.list = append(*a.list, action{sql: s})
	}
	return nil
}

const usage = `usage: spansql [URL] [-c SQL]… [-f FILE]…

Runs SQL on a spand node. URL defaults to ` + defaultURL + `.
  -c SQL    run a query string (may be repeated)
  -f FILE   run the statements of a file, "-" for standard input (may be repeated)
Without -c and -f statements are read from standard input.
Exit codes: 0 fine, 1 failed (the first error ends the run), 2 usage.
`

// parseArgs reads the command line. The URL may stand before, between or after
// the options.
func parseArgs(args []string) (url string, list []action, err error) {
	fs := flag.NewFlagSet("spansql", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Var(actions{&list, false}, "c", "")
	fs.Var(actions{&list, true}, "f", "")
	for {
		if err := fs.Parse(args); err != nil {
			return "", nil, err
		}
		args = fs.Args()
		if len(args) == 0 {
			break
		}
		if url != "" {
			return "", nil, fmt.Errorf("more than one URL: %q and %q", url, args[0])
		}
		url, args = args[0], args[1:]
	}
	if url == "" {
		url = defaultURL
	}
	return url, list, nil
}

func (a *app) main(ctx context.Context, args []string) int {
	url, list, err := parseArgs(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(a.stdout, usage)
		return exitOK
	}
	if err != nil {
		fmt.Fprintf(a.stderr, "spansql: %v\n%s", err, usage)
		return exitUsage
	}
	a.out = bufio.NewWriter(a.stdout)
	defer a.out.Flush()
	a.conn, err = connect(ctx, url)
	if err != nil {
		var ue *usageError
		if errors.As(err, &ue) {
			fmt.Fprintf(a.stderr, "spansql: %v\n%s", err, usage)
			return exitUsage
		}
		fmt.Fprintf(a.stderr, "spansql: error: %v\n", err)
		return exitFailed
	}
	defer a.conn.close()
	a.live.Store(a.conn)
	if len(list) == 0 {
		if a.terminal {
			return a.interact()
		}
		list = []action{{file: "-", isFile: true}}
	}
	for _, act := range list {
		if act.isFile {
			err = a.runFile(act.file)
		} else {
			err = a.runCommand(act.sql)
		}
		if err != nil {
			return exitFailed
		}
	}
	if err := a.out.Flush(); err != nil {
		fmt.Fprintf(a.stderr, "spansql: error: %v\n", err)
		return exitFailed
	}
	return exitOK
}

// errReported is an error that the user has been told already.
var errReported = errors.New("reported")

// fail tells the user of an error, at where it occurred in a script.
func (a *app) fail(where string, err error, query string) error {
	if err == nil || errors.Is(err, errReported) || errors.Is(err, errQuit) {
		return err
	}
	a.out.Flush() // keep the order on a terminal
	fmt.Fprint(a.stderr, formatError(where, err, query))
	return errReported
}

// runCommand runs what -c says: one query string, or one backslash command.
func (a *app) runCommand(sql string) error {
	if isBackslash(sql) {
		err := a.backslash(sql)
		if errors.Is(err, errQuit) {
			return nil
		}
		return a.fail("", err, sql)
	}
	return a.query(sql, "", &streamSource{r: a.stdin})
}

// query runs a query string and prints what comes of it. Data for COPY FROM
// STDIN comes from in.
func (a *app) query(sql, where string, in copySource) error {
	p := &printer{app: a, where: where, copyIn: in}
	took, err := a.conn.run(sql, p)
	if err != nil {
		err = a.fail(where, err, sql)
	}
	if a.timing {
		fmt.Fprintf(a.out, "Time: %s\n", formatDuration(took))
	}
	if ferr := a.out.Flush(); ferr != nil && err == nil {
		err = a.fail(where, ferr, "")
	}
	return err
}
