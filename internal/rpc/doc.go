// Package rpc connects the nodes of a cluster: frames for paxosgroup (best
// effort, one queue per class) and calls for txn (request and response). Raft's
// frames, for which every commit waits, go over a lane, a TCP connection to the
// same port; all else over long-lived gRPC streams, because a unary call costs three
// times as much.
//
// A Network owns one gRPC connection per peer and, on it, one stream per class of
// frames but Raft's and one for calls; each stream this node opened has a sending goroutine
// that packs whatever has queued up into one message. Each stream of frames that a
// peer opened is read by its gRPC handler's goroutine; one of calls has a goroutine
// for either half, and its handler returns when one of them is over. They end when Close
// is called or, streams, when they break; a broken one is reopened with bounded backoff.
//
// A lane that this node opened (package lane has its sending half) has two goroutines: one opens it,
// pings, and writes what senders could not write themselves without waiting; one reads the peer's pongs,
// and breaks the lane when they fail to come. What a broken lane had not sent is lost, as is what it sent
// and the peer had not delivered. A lane that a peer opened is told from gRPC by its first byte (doorman)
// and has one goroutine, which reads and delivers, and, when it has read what was there, does for
// paxosgroup what the frames ask for (shift). In that it may wait for the disk; if it does so for long another goroutine reads on, and
// the first ends when it is done. The lane ends with the connection, with a later lane of the same
// peer, which waits for none of this, or with Close, which waits for all of them.
//
// Lock clients open lanes too, and say what for (lane.CallsMethod); whoever HandleClients names has them, on a
// goroutine of the network's, until he returns.
//
// Every stream and lane states format version, cluster, sender and intended receiver, the
// sender's incarnation, and which versions of the cluster it can run; a mismatch
// is refused with a clear error and nothing is delivered. Every call has a deadline and
// bears its caller's trace context, and a peer's calls have a budget. Until
// there are certificates, peers beyond loopback are refused unless the operator
// said --insecure (ServerOptions): lanes before their hello is read.
//
// Lock order: Network.mu, then peer, queue or lane.Sender mutexes; none is held across I/O.
// netPeer.turns are semaphores, held while the receiver has a frame, but not while it works, under
// nothing.
package rpc
