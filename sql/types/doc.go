// Package types holds SQL's values and their text and binary forms, as
// PostgreSQL 15 reads and prints them: a Datum is a value, a Type is a type with
// its modifier, and the functions here turn one into the other's text (what
// people and COPY see) and binary form (what drivers send), compare and hash
// them, and spell the types' names. It knows no expressions, no plans and no
// storage; the stored forms are sql/rowcodec's.
//
// Rules that hold everywhere:
//
//   - A Datum does not know its SQL type; every function takes the Type. For one
//     Type a non-null Datum always has the Kind that KindOf(Type.OID) names.
//   - Numeric values are canonical decimal text with their display scale, so that
//     text output copies; 1.0 and 1.00 are different Datums and equal values
//     (Compare, Hash). See numeric.go.
//   - Text is compared byte by byte (the C collation, which for UTF-8 is the order
//     of code points), so the order of stored keys (sql/rowcodec) is Compare's.
//   - The Append functions and the parsers of fixed-size types do not allocate
//     beyond the destination they grow: the wire calls them once per value.
//   - Input is hostile (F1): every parser returns an error with PostgreSQL's
//     SQLSTATE and message, never panics, and bounds its recursion.
//
// Everything here is a pure function of its arguments and safe for concurrent
// use; the package starts no goroutines and has no locks (time zones that were
// read are kept in a sync.Map).
package types
