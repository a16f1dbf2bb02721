// Package pglex is PostgreSQL's lexer: the rules of its scan.l, with
// standard_conforming_strings on, over UTF-8 text.
//
// It yields tokens, drops white space and comments (which nest), folds
// identifiers to lower case (ASCII only) and cuts them to 63 bytes, decodes
// every kind of string, and trims operators as PostgreSQL does, so that
// "a*-1" is four tokens and "a@-1" is three.
//
// A Scanner does not allocate for text in its plain form: token texts are
// substrings of the source unless an escape, a doubled quote or an upper-case
// letter forces a copy. It has no state beyond its position, starts no
// goroutine and is not safe for concurrent use.
//
// Any input gives tokens or an *sqlstate.Error; none panics (F1).
package pglex
