// Package rowcodec turns rows into stored keys and values and back.
//
// Keys (keycodec.go, key.go). A key is
//
//	prefix byte | database id | table id | index id | column … | terminator
//
// with keys.TablePrefix or keys.SystemPrefix in front. Ids and columns are
// self-delimiting, so no stored key is a prefix of another (internal/keys), and
// comparing keys byte by byte is comparing columns with types.Compare, each in its
// own direction. The terminator 0x00 is below every column's first byte: room is
// left behind a row's columns for the keys of interleaved children.
//
// Values (rowcodec.go). A value is a format version byte and the row's non-null
// columns in ascending order of their ids, each a tag (distance of ids and a wire
// class) and a payload whose length the class tells, so that a reader skips what
// it does not need, columns can be dropped and added without rewriting rows, and
// NULLs cost nothing.
//
// Keys do not hold everything: values that compare equal share a key although
// they differ to look at (numeric 1.0 and 1.00). Lossless says of which types a
// key column may be read back from the key alone.
//
// Everything is a pure function of its arguments; codecs are immutable and safe for
// concurrent use. Decoders are fed from disk and network: damaged input is an
// error with SQLSTATE XX001, never a panic (F1, D1).
package rowcodec
