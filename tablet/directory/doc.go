// Package directory knows which tablet holds a key. Its records live in a
// tablet of their own (group 1, keys below keys.DirectoryEnd), which never
// splits and whose descriptor is known from bootstrap, so that a look-up never
// needs another look-up. A record stands under the escaped end key of its
// tablet's span; the tablet that holds k is the first record above k.
//
// Records are hints with a version: the tablets themselves partition the
// keyspace (B1), and a request with a stale map is refused by the tablet with the
// newer descriptors. So a record may lag behind a split (Publish runs after it)
// without anybody reading a wrong answer. Along the history of any one key the
// generation of the descriptor that covers it only grows (a child of a split
// starts at its parent's new generation); hence, of two descriptors that overlap,
// the one with the higher generation is the newer. Publish and Cache both rest on
// that rule.
//
// Directory reads and writes the records, through Replica, a narrow view of a
// tablet's replica: look-ups are reads at Now().Latest, changes are short
// read-modify-write transactions that commit in one phase. Cache is the router
// of a gateway: an immutable ordered array behind an atomic pointer, so that a
// look-up that hits takes no lock; concurrent misses of one key share one
// look-up. Publisher drives the publication of splits until it is done.
//
// Goroutines: Publisher owns one, started by NewPublisher and ended by Close.
// A look-up that several callers wait for runs in a goroutine of its own, bounded by
// Config.Timeout. Lock order: Cache.mu is a leaf; nothing is called under it.
package directory
