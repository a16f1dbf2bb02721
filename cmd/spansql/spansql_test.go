package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/spandb/spand/pgwire"
	"github.com/spandb/spand/pgwire/wiretest"
	"github.com/spandb/spand/sql/sqlstate"
)

// startServer serves a fake SQL server on loopback and returns its URL.
func startServer(t *testing.T) (string, *wiretest.Server) {
	t.Helper()
	fake := &wiretest.Server{Databases: []string{"spand"}, Scripts: map[string]wiretest.Script{
		"SELECT wide": {Columns: []string{"name", "a much longer heading", "x"}, Tag: "SELECT 4", Rows: [][]string{
			{"one", "1", "NULL"}, {"two\nlines", "long text that is longer than the heading", "z"}, {"日本", "tab\there", "\x1b[2J"}, {"", "", ""}}},
		"SELECT nothing":  {Columns: []string{}, Tag: "SELECT 0"},
		"SELECT none":     {Columns: []string{"n", "text"}, Tag: "SELECT 0"},
		"INSERT RETURN":   {Columns: []string{"id"}, Rows: [][]string{{"7"}}, Tag: "INSERT 0 1"},
		"SELECT ';' || 1": {Columns: []string{"?column?"}, Rows: [][]string{{";1"}}, Tag: "SELECT 1"},
		"SELECT\n  wrong": {Err: &sqlstate.Error{Code: sqlstate.UndefinedColumn, Message: `column "wrong" does not exist`, Hint: "Perhaps another.", Position: 10}},
		describeTable("T"): {Columns: []string{"Column", "Type"}, Tag: "SELECT 1",
			Rows: [][]string{{"id", "integer"}}},
		listLocks:  {Columns: []string{"Lock", "Mode"}, Tag: "SELECT 1", Rows: [][]string{{"/ls/local/jobs/x", "exclusive"}}},
		listTables: {Columns: []string{"Schema", "Name"}, Tag: "SELECT 1", Rows: [][]string{{"public", "t"}}},
	}}
	srv, err := pgwire.New(pgwire.Config{SQL: fake})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return fmt.Sprintf("postgres://root@%s/spand", ln.Addr()), fake
}

// TestRuns runs the program as a command line does. "run" takes one argument
// to a line up to "--", then standard input; "interact" is a terminal's input.
func TestRuns(t *testing.T) {
	url, _ := startServer(t)
	dir := t.TempDir()
	datadriven.Walk(t, "testdata/runs", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if d.Cmd == "file" {
				if err := os.WriteFile(filepath.Join(dir, d.CmdArgs[0].Key), []byte(d.Input+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
				return ""
			}
			var args []string
			stdin := d.Input
			if d.Cmd == "run" {
				head, rest, _ := strings.Cut(d.Input, "--\n")
				if rest != "" {
					rest += "\n"
				}
				stdin = rest
				for _, a := range strings.Split(strings.TrimSpace(head), "\n") {
					if a != "" {
						a = strings.ReplaceAll(strings.ReplaceAll(a, "DIR", dir), `\n`, "\n")
						args = append(args, a)
					}
				}
			}
			var stdout, stderr bytes.Buffer
			a := &app{stdin: strings.NewReader(stdin), stdout: &stdout, stderr: &stderr, terminal: d.Cmd == "interact"}
			if !d.HasArg("nourl") {
				args = append([]string{url}, args...)
			}
			code := a.main(context.Background(), args)
			out := stdout.String()
			if stderr.Len() > 0 {
				out += "stderr:\n" + stderr.String()
			}
			out = strings.ReplaceAll(strings.ReplaceAll(out, dir, "DIR"), strings.TrimPrefix(url, "postgres://root@"), "ADDR")
			if code != 0 {
				out += fmt.Sprintf("exit %d\n", code)
			}
			return out
		})
	})
}

func TestSplitter(t *testing.T) {
	for _, c := range []struct {
		in   string
		want []string
		rest string
	}{
		{"select 1; select 2;", []string{"select 1", "select 2"}, ""},
		{";;\n ; ", nil, ""},
		{"select ';', \";\", 'it''s;' ; x", []string{`select ';', ";", 'it''s;'`}, "x"},
		{`select E'\';', e'a\\'; select 'a\'; y`, []string{`select E'\';', e'a\\'`, `select 'a\'`}, "y"},
		{`select E'a'';b\';c'; z`, []string{`select E'a'';b\';c'`}, "z"},
		{`select name'a\'; z`, []string{`select name'a\'`}, "z"},
		{"do $$ a; b $x$ ; $$; select $q$;$$;$q$; select $1;", []string{"do $$ a; b $x$ ; $$", "select $q$;$$;$q$", "select $1"}, ""},
		{"select a$b;c", []string{"select a$b"}, "c"},
		{"select 1 -- ; not yet\n, 2; -- after\n", []string{"select 1 -- ; not yet\n, 2"}, ""},
		{"-- a\n\n-- b\nselect 1; -- c\n-- d", []string{"select 1"}, ""},
		{"/* ; /* ; */ ; */ select 1;", []string{"/* ; /* ; */ ; */ select 1"}, ""},
		{"create rule r as (a; b); c", []string{"create rule r as (a; b)"}, "c"},
		{"select (1 /* ) ; */ ); d", []string{"select (1 /* ) ; */ )"}, "d"},
		{"-- only a comment", nil, ""},
		{"select 'open; ", nil, "select 'open;"},
		{"))) ; e", []string{")))"}, "e"},
	} {
		// In one piece, and line by line.
		for _, parts := range [][]string{{c.in}, strings.SplitAfter(c.in, "\n")} {
			s := newSplitter()
			var got []string
			for _, p := range parts {
				got = append(got, s.add(p)...)
			}
			rest := s.rest()
			if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", c.want) || rest != c.rest {
				t.Errorf("%q:\n got %q, rest %q\nwant %q, rest %q", c.in, got, rest, c.want, c.rest)
			}
			if s.pending() {
				t.Errorf("%q: pending after rest", c.in)
			}
		}
	}
}

// FuzzSplitter: whatever the text, and however it is cut into lines, the same
// statements come out.
func FuzzSplitter(f *testing.F) {
	f.Add("select E'\\';', $a$;$a$; /* ; */ x -- ;\n; (;);")
	f.Fuzz(func(t *testing.T, in string) {
		a, b := newSplitter(), newSplitter()
		whole := a.add(in)
		whole = append(whole, a.rest())
		var lines []string
		for _, l := range strings.SplitAfter(in, "\n") {
			lines = append(lines, b.add(l)...)
		}
		lines = append(lines, b.rest())
		if fmt.Sprintf("%q", whole) != fmt.Sprintf("%q", lines) {
			t.Fatalf("whole %q\nlines %q", whole, lines)
		}
	})
}

// An interrupt cancels the query that runs, and only that.
func TestInterrupt(t *testing.T) {
	url, fake := startServer(t)
	var stdout, stderr bytes.Buffer
	a := &app{stdin: strings.NewReader(""), stdout: &stdout, stderr: &stderr}
	if a.interrupt() {
		t.Error("an interrupt before the connection is there should end the program")
	}
	waiting := fake.Waiting()
	code := make(chan int, 1)
	go func() { code <- a.main(context.Background(), []string{url, "-c", "wait", "-c", "row int4=1"}) }()
	<-waiting
	if !a.interrupt() {
		t.Error("an interrupt in a query should cancel it")
	}
	if got := <-code; got != exitFailed {
		t.Errorf("exit code %d", got)
	}
	if want := "ERROR:  canceling statement due to user request\n"; stderr.String() != want || stdout.Len() != 0 {
		t.Errorf("stderr %q, stdout %q", stderr.String(), stdout.String())
	}
	if a.interrupt() {
		t.Error("an interrupt between queries should end the program")
	}
}

func TestCaret(t *testing.T) {
	long := strings.Repeat("abcdefghi ", 20)
	for _, c := range []struct {
		query string
		pos   int
		want  string
	}{
		{"selec 1", 1, "LINE 1: selec 1\n        ^\n"},
		{"a\nbé c", 6, "LINE 2: bé c\n           ^\n"},
		{"a", 2, "LINE 1: a\n         ^\n"},
		{"a", 3, ""},
		{long, 101, "LINE 1: ..." + long[70:130] + "...\n" + strings.Repeat(" ", 41) + "^\n"},
		{long, 5, "LINE 1: " + long[:60] + "...\n            ^\n"},
	} {
		if got := caret(c.query, c.pos); got != c.want {
			t.Errorf("caret(%.20q, %d) =\n%swant\n%s", c.query, c.pos, got, c.want)
		}
	}
}

func TestFormatDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		1234 * time.Microsecond:     "1.234 ms",
		61500 * time.Millisecond:    "61500.000 ms (01:01.500)",
		3*time.Hour + 2*time.Second: "10802000.000 ms (03:00:02.000)",
	} {
		if got := formatDuration(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}

func BenchmarkTable(b *testing.B) {
	t := &table{header: []string{"a", "b"}, right: []bool{true, false}}
	for i := range 1000 {
		t.rows = append(t.rows, []string{fmt.Sprint(i), "some text"})
	}
	b.ReportAllocs()
	for b.Loop() {
		t.print(bufio.NewWriter(&bytes.Buffer{}))
	}
}
