// Package utility parses the statements that the TiDB grammar should not see:
// transaction control, SET and SHOW, COPY, cursors, prepared statements,
// maintenance, DROP, TRUNCATE, and those PostgreSQL statements that spand
// recognises but does not run.
//
// It is strict: every token is accounted for by PostgreSQL's own grammar, so
// that a mistyped statement fails here with PostgreSQL's message and not later
// with another. Queries and expressions inside (EXPLAIN, COPY (query), EXECUTE's
// arguments) go through respell and the TiDB grammar like any other.
//
// It works on a respell.Parser and keeps no state; errors are raised with
// Parser.Fail and caught by respell.Run.
package utility
