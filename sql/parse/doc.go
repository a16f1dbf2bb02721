// Package parse is the door from SQL text to trees: PostgreSQL's dialect in,
// pgast out, with the TiDB grammar doing the grammar work between.
//
//	text -> pglex -> respell -> TiDB parser (tidbdrv) -> lift -> pgast
//	                    └-> utility (statements the grammar should not see)
//
// A statement's literals become slots, so that statements which differ in their
// constants only have one shape: one tree, which is immutable and shared, and a
// list of values of their own. Cache keeps trees by shape; a hit lexes the text
// and copies the values and does neither respell nor parse. A tree that depends
// on a literal's value (ORDER BY 1, numeric(10,2)) has that value in its shape:
// equal Statement.Shape always means the same tree.
//
// Rules that others may rely on:
//
//   - Parse returns one Statement per non-empty statement of the text, each with
//     its own SQL; one syntax error refuses the whole text, as in PostgreSQL.
//   - Every error is an *sqlstate.Error: 42601 in PostgreSQL's words with the
//     position in the whole text, 0A000 for what PostgreSQL has and spand's tree
//     has not, 54001 for nesting beyond respell.MaxDepth, 22021 for bad UTF-8.
//   - No input panics, and work and memory are linear in the text but for the
//     grammar's own tables (F1). Recursion is bounded everywhere.
//   - Nothing here knows a catalog, resolves a name or computes with a value.
//
// Parse is safe for concurrent use, a Cache is too. The package starts no
// goroutine. Locks: one mutex per cache shard, held for map operations only.
package parse
