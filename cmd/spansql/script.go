package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// lineReader reads lines of any length and counts them.
type lineReader struct {
	r *bufio.Reader
	n int
}

// next returns a line with its newline; with io.EOF, what stands behind the last.
func (l *lineReader) next() (string, error) {
	s, err := l.r.ReadString('\n')
	if s != "" {
		l.n++
	}
	return s, err
}

// runFile runs a file's statements one by one; the first error ends it.
func (a *app) runFile(name string) error {
	r, shown := a.stdin, "<stdin>"
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return a.fail("", err, "")
		}
		defer f.Close()
		r, shown = f, name
	}
	lines := &lineReader{r: bufio.NewReaderSize(r, 64<<10)}
	split := newSplitter()
	for {
		line, err := lines.next()
		eof := errors.Is(err, io.EOF)
		if err != nil && !eof {
			return a.fail(shown, err, "")
		}
		if lines.n == 1 {
			line = strings.TrimPrefix(line, "\ufeff") // a byte order mark
		}
		where := fmt.Sprintf("%s:%d", shown, lines.n)
		if !split.pending() && isBackslash(line) {
			err := a.backslash(line)
			if errors.Is(err, errQuit) {
				return nil
			}
			if err != nil {
				return a.fail(where, err, line)
			}
		} else {
			stmts := split.add(line)
			if eof {
				if st := split.rest(); st != "" {
					stmts = append(stmts, st)
				}
			}
			for _, st := range stmts {
				if err := a.query(st, where, &lineSource{lines: lines}); err != nil {
					return err
				}
			}
		}
		if eof {
			return nil
		}
	}
}
