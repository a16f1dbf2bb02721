// Spansql is a client for spand's SQL port with psql's manners, for people
// without psql.
//
//	spansql [URL] [-c SQL]… [-f FILE]…
//
// The URL, or a libpq connection string, defaults to
// postgres://root@127.0.0.1:15432/spand. -c runs a query string, -f the
// statements of a file ("-" is standard input), in the order given; without
// either, statements come from standard input, with prompts on a terminal.
// Rows are printed as psql's aligned tables and errors go to standard error.
//
// The exit code is 0 when all went well, 1 when something failed (the first
// error ends the run; in an interactive session it does not), 2 for a wrong
// command line.
//
// It speaks the simple query protocol through pgx's pgproto3 itself, so that a
// COPY needs no special command: whoever sends COPY … FROM STDIN supplies its
// data, for -c from standard input, in a script from the lines behind the
// statement up to "\.".
//
// One goroutine runs everything. While a query runs, an interrupt (Ctrl-C)
// sends a cancel request from another one.
package main
