// The rest of the package comment: how it is laid out and what it relies on.
//
// A bound expression is a tree of small nodes. bind.go and its neighbours make
// it: resolve.go chooses operators and functions among candidates as PostgreSQL's
// parse_oper.c and parse_func.c do, cast.go has the matrix of pg_cast, oper*.go
// and func*.go are tables of what exists. Nodes of the hot kinds (comparison and
// arithmetic over integers, text comparison) are types of their own; everything
// else is a node that calls a function over datums.
//
// Rules:
//
//   - Constants and parameters are read at execution from EvalContext, by slot and
//     number: a bound tree holds no value of the statement it was bound from, but
//     what ConstValues was asked for at binding (ConstClass).
//   - A tree is immutable and shared by executions that run at the same time.
//     What one execution remembers (converted constants, compiled patterns, hashed
//     IN lists, results of uncorrelated subqueries, row-independent subtrees) is in
//     its EvalContext, which belongs to one goroutine.
//   - NULL: a call node whose function is strict answers NULL for a NULL argument
//     without calling it; AND, OR, NOT and the IS tests are three-valued and
//     evaluate from left to right, stopping as soon as the answer is known.
//   - Errors are *sqlstate.Error. Those found while binding carry a position;
//     those of evaluation do not, because a tree outlives the text it came from.
//
// The package starts no goroutines and has no locks but the one around the cache
// of compiled regular expressions.
package expr
