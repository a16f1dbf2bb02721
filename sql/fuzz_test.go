package sql

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/spandb/spand/sql/kvmem"
	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
	"github.com/spandb/spand/truetime"
)

// What COPY reads is the same however its bytes arrive, and never a panic (F1).
func FuzzCopyReader(f *testing.F) {
	f.Add([]byte("1\tx\\ty\\\\\t\\N\n2\t\\x41\\101\\\n\n\\.\n"), false)
	f.Add([]byte("1,\"a \"\"q\"\"\n line\",\r\n\"\",,x\n"), true)
	f.Fuzz(func(t *testing.T, data []byte, csv bool) {
		opts := []pgast.Option{}
		if csv {
			opts = append(opts, pgast.Option{Name: "format", Value: "csv"})
		}
		o, err := parseCopyOptions(opts, true)
		if err != nil {
			t.Fatal(err)
		}
		read := func(r io.Reader) string {
			var b strings.Builder
			for rd := newCopyReader(r, o, 2); ; {
				fields, err := rd.next()
				if err != nil {
					b.WriteString(string(sqlstate.CodeOf(err)))
					return b.String()
				}
				for _, f := range fields {
					if f.null {
						b.WriteString("<null>")
					}
					b.Write(f.text)
					b.WriteByte('|')
				}
				b.WriteByte('\n')
			}
		}
		whole, bytewise := read(bytes.NewReader(data)), read(iotest.OneByteReader(bytes.NewReader(data)))
		if whole != bytewise {
			t.Fatalf("in one piece %q, byte by byte %q", whole, bytewise)
		}
	})
}

type discard struct{}

func (discard) Columns([]Column) error                    { return nil }
func (discard) Row([]types.Datum) error                   { return nil }
func (discard) Complete(string) error                     { return nil }
func (discard) Empty() error                              { return nil }
func (discard) Notice(string, *sqlstate.Error) error      { return nil }
func (discard) ParameterStatus(string, string) error      { return nil }
func (discard) CopyIn(bool, int) (io.Reader, error)       { return strings.NewReader("1\t2\n"), nil }
func (discard) CopyOut(bool, int) (io.WriteCloser, error) { return nopCloser{io.Discard}, nil }

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// No text makes a session panic, fail internally or leave a lock behind (F1).
func FuzzStatements(f *testing.F) {
	files, err := filepath.Glob(filepath.Join("testdata", "*.test"))
	if err != nil || len(files) == 0 {
		f.Fatalf("no scripts: %v", err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		for _, block := range strings.Split(string(b), "\nsql\n") {
			q, _, _ := strings.Cut(block, "\n----\n")
			if !strings.Contains(q, "generate_series(1, 1000000") {
				f.Add(q)
			}
		}
	}
	clock, err := truetime.NewSystem(truetime.Options{})
	if err != nil {
		f.Fatal(err)
	}
	store := kvmem.New(clock)
	e, err := NewEngine(Config{KV: store, Node: 1})
	if err != nil {
		f.Fatal(err)
	}
	if err := e.Start(context.Background()); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(e.Close)
	setup := "create table if not exists t (a int primary key, b int, c text, d numeric); create table if not exists u (id bigint primary key, t_a int, name text); " +
		"insert into t values (1, 1, 'x', 1.5), (2, null, null, null) on conflict do nothing"
	f.Fuzz(func(t *testing.T, query string) {
		s, err := e.NewSession(context.Background(), SessionOptions{User: "root", Database: "spand"})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if err := s.Simple(context.Background(), setup, discard{}); err != nil {
			return // an earlier input changed the tables
		}
		ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
		defer cancel()
		err = s.Simple(ctx, query, discard{})
		if code := sqlstate.CodeOf(err); strings.HasPrefix(string(code), "XX") {
			t.Errorf("%v", err)
		}
		s.Close()
		idle, stop := context.WithTimeout(context.Background(), 20*time.Second)
		defer stop()
		if err := store.AwaitIdle(idle); err != nil {
			t.Error(err)
		}
	})
}
