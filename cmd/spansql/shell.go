package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
)

// errQuit is what \q returns.
var errQuit = errors.New("quit")

func isBackslash(line string) bool {
	return strings.HasPrefix(strings.TrimSpace(line), `\`)
}

const help = `  \q             quit
  \?             this help
  \d [NAME]      tables, or the columns of one
  \dt            tables
  \locks         locks of the lock service, who holds them and since when
  \timing        print how long each query took, on or off
  \x             print one line for each value, on or off
  \i FILE        run the statements of a file
A statement ends with a semicolon and may span lines. Ctrl-C cancels it.
`

// interact reads statements from a terminal until \q or the end of input.
func (a *app) interact() int {
	fmt.Fprintf(a.out, "spansql, server %s\nType \\? for help.\n\n", a.conn.params["server_version"])
	lines := &lineReader{r: bufio.NewReader(a.stdin)}
	split := newSplitter()
	for {
		mark := "=> "
		if split.pending() {
			mark = "-> "
		}
		switch a.conn.status {
		case 'T':
			mark = mark[:1] + "*" + mark[1:]
		case 'E':
			mark = mark[:1] + "!" + mark[1:]
		}
		fmt.Fprint(a.out, "spand"+mark)
		a.out.Flush()
		line, err := lines.next()
		if err != nil && line == "" {
			fmt.Fprintln(a.out)
			return exitOK
		}
		if !split.pending() && isBackslash(line) {
			err := a.backslash(line)
			if errors.Is(err, errQuit) {
				return exitOK
			}
			if err != nil {
				a.fail("", err, line)
			}
			a.out.Flush()
			continue
		}
		for _, st := range split.add(line) {
			in := &lineSource{lines: lines, prompt: func() {
				fmt.Fprint(a.out, ">> ")
				a.out.Flush()
			}}
			a.query(st, "", in) // errors have been shown; the session goes on
			if a.conn.broken != nil {
				return exitFailed
			}
		}
	}
}

// backslash runs one backslash command.
func (a *app) backslash(line string) error {
	f := strings.Fields(strings.TrimSuffix(strings.TrimSpace(line), ";"))
	if len(f) == 0 {
		return errors.New(`invalid command \: try \? for help`)
	}
	arg := ""
	if len(f) > 1 {
		arg = f[1]
	}
	switch f[0] {
	case `\q`:
		return errQuit
	case `\?`, `\h`:
		_, err := io.WriteString(a.out, help)
		return err
	case `\timing`:
		return a.toggle(&a.timing, arg, "Timing is %s.\n")
	case `\x`:
		return a.toggle(&a.expanded, arg, "Expanded display is %s.\n")
	case `\i`:
		if arg == "" || arg == "-" {
			return errors.New(`\i: missing required argument`)
		}
		return a.runFile(arg)
	case `\dt`:
		return a.query(listTables, "", &streamSource{r: strings.NewReader("")})
	case `\locks`:
		return a.query(listLocks, "", &streamSource{r: strings.NewReader("")})
	case `\d`:
		if arg == "" {
			return a.query(listTables, "", &streamSource{r: strings.NewReader("")})
		}
		return a.query(describeTable(arg), "", &streamSource{r: strings.NewReader("")})
	}
	return fmt.Errorf(`invalid command %s: try \? for help`, f[0])
}

func (a *app) toggle(v *bool, arg, text string) error {
	switch strings.ToLower(arg) {
	case "":
		*v = !*v
	case "on", "true", "1":
		*v = true
	case "off", "false", "0":
		*v = false
	default:
		return fmt.Errorf("unrecognized value %q: on or off expected", arg)
	}
	s := "off"
	if *v {
		s = "on"
	}
	_, err := fmt.Fprintf(a.out, text, s)
	return err
}

const listTables = `SELECT table_schema AS "Schema", table_name AS "Name", table_type AS "Type" ` +
	`FROM information_schema.tables WHERE table_schema NOT IN ('pg_catalog', 'information_schema', 'spand') ORDER BY 1, 2`

const listLocks = `SELECT path AS "Lock", mode AS "Mode", generation AS "Generation", client AS "Client", since AS "Since", now() - since AS "Held for", ` +
	`waiters AS "Waiting", delayed_until AS "Delayed until" FROM spand.locks ORDER BY path, hold`

// describeTable asks for a table's columns. The name is folded as an unquoted
// identifier is, and may have a schema.
func describeTable(name string) string {
	schema, table, ok := strings.Cut(name, ".")
	if !ok {
		schema, table = "public", name
	}
	fold := func(s string) string {
		if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
			s = strings.ReplaceAll(s[1:len(s)-1], `""`, `"`)
		} else {
			s = strings.ToLower(s)
		}
		return "'" + strings.ReplaceAll(s, "'", "''") + "'"
	}
	return `SELECT column_name AS "Column", data_type AS "Type", is_nullable AS "Nullable", column_default AS "Default" ` +
		`FROM information_schema.columns WHERE table_schema = ` + fold(schema) + ` AND table_name = ` + fold(table) + ` ORDER BY ordinal_position`
}
