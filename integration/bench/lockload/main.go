package lockload

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Config is a program's command line.
type Config struct {
	Members  []string      // addresses
	Row      string        // what to measure
	Length   time.Duration // of each rate
	Sessions int           // of the fleet
	TTL      time.Duration // of the fleet's sessions
}

func parseFlags(args []string) (Config, error) {
	var c Config
	fs := flag.NewFlagSet(os.Args[0], flag.ContinueOnError)
	members := fs.String("members", "", "addresses of the store's members, with commas between")
	fs.StringVar(&c.Row, "row", "", "what to measure: "+strings.Join(Rows(), ", "))
	fs.DurationVar(&c.Length, "length", 5*time.Second, "of each rate that is measured")
	fs.IntVar(&c.Sessions, "sessions", 100_000, "sessions in the row \"sessions\"")
	fs.DurationVar(&c.TTL, "ttl", 30*time.Second, "time to live of those sessions")
	if err := fs.Parse(args); err != nil {
		return c, err
	}
	c.Members = strings.FieldsFunc(*members, func(r rune) bool { return r == ',' })
	switch {
	case fs.NArg() > 0:
		return c, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	case len(c.Members) == 0:
		return c, errors.New("-members is missing")
	case rows[c.Row] == nil:
		return c, fmt.Errorf("-row: no row %q", c.Row)
	case c.Length <= 0 || c.Sessions < 1 || c.TTL < time.Second:
		return c, errors.New("-length and -sessions must be above 0, -ttl at least 1s")
	}
	return c, nil
}

// Rows are the names of what can be measured.
func Rows() []string { return slices.Sorted(maps.Keys(rows)) }

// Main measures one row, as the command line says, on the store that dial reaches, and
// exits.
func Main(dial func(ctx context.Context, members []string) (Client, error)) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := measure(ctx, os.Args[1:], dial, os.Stdin, os.Stdout); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
}

func measure(ctx context.Context, args []string, dial func(context.Context, []string) (Client, error), in io.Reader, out io.Writer) error {
	cfg, err := parseFlags(args)
	if err != nil {
		return err
	}
	r := &run{Config: cfg, dial: dial, owner: &owner{in: bufio.NewReader(in), out: out}}
	f, err := rows[cfg.Row](r, ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", cfg.Row, err)
	}
	return r.owner.tell(Message{Figures: f})
}

// Message is a line that a program writes: a question, or the figures at the end.
type Message struct {
	// Ask is "kill" (the leader, with SIGKILL; answer when its process is gone), "idle",
	// "mark" or "held" (see what the members use).
	Ask     string  `json:"ask,omitempty"`
	Leader  string  `json:"leader,omitempty"` // its address
	Figures Figures `json:"figures,omitempty"`
}

// owner is the process that started the members.
type owner struct {
	in  *bufio.Reader
	out io.Writer
}

// ask returns when the owner has done what it was asked.
func (o *owner) ask(question, leader string) error {
	if err := o.tell(Message{Ask: question, Leader: leader}); err != nil {
		return err
	}
	if _, err := o.in.ReadString('\n'); err != nil {
		return fmt.Errorf("no answer to %q: %w", question, err)
	}
	return nil
}

func (o *owner) tell(m Message) error {
	line, err := json.Marshal(m)
	if err == nil {
		_, err = o.out.Write(append(line, '\n'))
	}
	return err
}
