// Package lift turns what the TiDB grammar read, together with respell's notes,
// into pgast trees.
//
// It is the inverse of respell: a call whose name starts with NUL is a carrier
// and becomes the node its note describes, a name with a NUL in it has a note
// behind it, a variable @n is slot n, and the statements behind the first are
// its parts. The parenthesis that respell puts around every operator is where
// the operator's source position is found again.
//
// A node that respell cannot have produced is an internal error (XX000), never
// a guess. A Lifter is used once, by one goroutine; the trees it returns share
// nothing with the parser's nodes.
package lift
