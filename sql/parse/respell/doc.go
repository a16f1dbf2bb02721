// Package respell turns PostgreSQL's spelling of a statement into text that
// the TiDB grammar reads with the same meaning.
//
// A clause walker follows PostgreSQL's statements and a precedence climber its
// expressions; what comes out is fully parenthesised, with every identifier
// in backquotes, so that neither MySQL's reserved words, nor its built-in
// functions, nor its precedences matter any more. What the two grammars do not
// share travels as a carrier: a call `\0n`(a, b) whose name is NUL and the
// index of a note (clients cannot send NUL, so no name of theirs collides).
// The note says what the carrier means; package lift puts both together.
//
// Constants become slots, written @n (parameters @pn), or the number 2^63+…
// where the TiDB grammar only takes a number. Never an anonymous marker: that
// binds by order, and respelling moves clauses. Slots are numbered by the order
// of the literals in the source, so that two texts with the same tokens but
// different literals have the same tree. A literal that the tree does depend
// on (a type's length, an ORDER BY ordinal) is pinned: its value belongs to
// the statement's shape.
//
// Clauses the TiDB statement has no place for (RETURNING, WITH before INSERT,
// a conflict target, DML in a CTE) are written as statements of their own
// behind the first one, separated by semicolons: parts.
//
// The output is a linked list of pieces until the end, so that wrapping a left
// operand or moving a clause costs nothing. Every piece knows the source
// offset it stands for; Result.Pos maps back.
//
// A Parser is used by one goroutine at a time. Errors travel as panics of an
// internal type within the package and its sibling utility and never leave
// them. Nesting is bounded by MaxDepth (54001), so no input exhausts the stack.
package respell
