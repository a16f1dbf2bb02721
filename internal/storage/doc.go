// Package storage is the engine of a node: one append-only log, shared by all
// Raft groups, which is the durability; and one ordered keyspace, an in-memory
// table of applied writes over a bbolt file, which is the checkpointed state
// behind it. A restart opens bbolt and hands out the log's tail to be applied again.
//
// Nothing that acknowledges waits for bbolt: [Store.Append] costs one fdatasync,
// shared by everybody who appended at that moment, and [Store.Apply] touches
// memory only. Background checkpoints move the table into bbolt in key order, in
// small paced commits, and recycle the log's segments behind it.
//
// # Invariants
//
//   - R1: an Append is acknowledged after its fdatasync. A failed write or sync of
//     the log, or of bbolt, is fatal and never retried; running out of space before
//     anything was written is not a failed write: it waits, and Full reports it.
//   - D1: log batches and stored values carry CRC32C. In the log it covers a random
//     salt of the segment, the segment's number and the batch's position, so recycled
//     or planted bytes never look valid. Every batch was written after its
//     predecessors were synced; so an invalid batch with a valid one behind it, or
//     before the position that a checkpoint recorded, is damage (CorruptError), and
//     one with nothing behind it a torn tail, which is cut. A value's checksum covers
//     its key. A panic of bbolt or a page fault in its map is damage too, and fatal.
//   - A crash at any point leaves: bbolt at its last commit, the log up to its last
//     sync. Puts of versioned data may be in bbolt ahead of the applied index that it
//     records, and are written again by replay. Deletes never are: each goes into the
//     one transaction that also records an applied index at or above the command
//     which made it, because replay may still read what was deleted.
//   - The entries of a group that Open returns follow its checkpoint: an entry behind
//     the applied index with a lower term than it is a leftover of a log that was
//     overwritten or replaced by a snapshot, and is dropped with all that follows it.
//   - A replica id never comes back: its tombstone is durable before its data goes.
//   - Opening needs no space on the disk: a node whose disk is full comes up and
//     serves reads. The number of its life is written in place.
//   - A newer format, of a file or of any record, is refused as such (FormatError),
//     as is a program that cannot run the version that the cluster may have.
//   - A half installed snapshot is marked before its first byte is written and the
//     mark goes with the commit that completes it; Open wipes what is marked and
//     keeps term and vote.
//
// # Goroutines
//
// Whose turn it is to write the log owns the active segment and calls the callbacks of
// Append, in order: the log writer, or a goroutine that [Store.WriteQueued] has borrowed.
// Only the writer goes on to the next segment, which may have to wait for space, gathers, and
// seals the log. It ends in Close, after the queue is written. The segment preparer keeps
// the next segment ready off the path; it ends in Close. The checkpointer (from
// Start on) and the space watcher end in Close.
//
// # Locks
//
// Order, outermost first: the checkpoint semaphore (one checkpoint, clear or
// wipe at a time; held across I/O), the bbolt write semaphore (held across I/O),
// then, as leaves that never nest and never wait: Store.mu (table), log.mu
// (queue), log.segMu (segments), readPool.mu. The semaphores are channels, so that
// waiting for one is visible to testing/synctest. No callback runs under any of them.
package storage
