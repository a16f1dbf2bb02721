package main

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"
)

// formatError prints an error or notice as psql does, with a caret under the
// place it is about. where is "" or "file:line".
func formatError(where string, err error, query string) string {
	var b strings.Builder
	if where != "" {
		b.WriteString("spansql:" + where + ": ")
	}
	var e *pgconn.PgError
	if !errors.As(err, &e) {
		if where == "" {
			b.WriteString("spansql: ")
		}
		fmt.Fprintf(&b, "error: %v\n", err)
		return b.String()
	}
	fmt.Fprintf(&b, "%s:  %s\n", e.Severity, e.Message)
	if e.Position > 0 && query != "" {
		b.WriteString(caret(query, int(e.Position)))
	}
	for _, f := range []struct{ name, text string }{{"DETAIL", e.Detail}, {"HINT", e.Hint}, {"CONTEXT", e.Where}} {
		if f.text != "" {
			fmt.Fprintf(&b, "%s:  %s\n", f.name, f.text)
		}
	}
	return b.String()
}

// caretWidth is how much of a long line is shown.
const caretWidth = 60

// caret shows the line of query that holds its pos-th character (1-based), and
// a caret under it.
func caret(query string, pos int) string {
	r := []rune(query)
	if pos > len(r)+1 {
		return ""
	}
	pos--
	line, start := 1, 0
	for i := range pos {
		if r[i] == '\n' {
			line++
			start = i + 1
		}
	}
	end := start
	for end < len(r) && r[end] != '\n' {
		end++
	}
	prefix := fmt.Sprintf("LINE %d: ", line)
	before, after := "", ""
	if pos-start > caretWidth-10 && end-start > caretWidth {
		start = max(start, min(pos-caretWidth/2, end-caretWidth))
		before = "..."
	}
	if end-start > caretWidth {
		end = start + caretWidth
		after = "..."
	}
	shown := func(r []rune) string {
		return strings.Map(func(c rune) rune {
			if c < 0x20 || c == 0x7f {
				return ' '
			}
			return c
		}, string(r))
	}
	pad := utf8.RuneCountInString(prefix) + len(before) + displayWidth(shown(r[start:pos]))
	return prefix + before + shown(r[start:end]) + after + "\n" + strings.Repeat(" ", pad) + "^\n"
}

// formatDuration prints as psql's \timing does.
func formatDuration(d time.Duration) string {
	ms := float64(d) / float64(time.Millisecond)
	if ms < 1000 {
		return fmt.Sprintf("%.3f ms", ms)
	}
	s := int(ms / 1000)
	if s < 3600 {
		return fmt.Sprintf("%.3f ms (%02d:%06.3f)", ms, s/60, ms/1000-float64(s/60*60))
	}
	return fmt.Sprintf("%.3f ms (%02d:%02d:%06.3f)", ms, s/3600, s/60%60, ms/1000-float64(s/60*60))
}
