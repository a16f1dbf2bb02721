// Package rpc connects the nodes of a cluster: frames for paxosgroup (best
// effort, one queue per class) and calls for txn (request and response), both
// over long-lived gRPC streams, because a unary call costs three times as much.
//
// A Network owns one connection per peer and, on it, one stream per class of
// frames and one for calls; each stream this node opened has a sending goroutine
// that packs whatever has queued up into one message. Each stream of frames that a
// peer opened is read by its gRPC handler's goroutine; one of calls has a goroutine
// for either half, and its handler returns when one of them is over. They end when Close
// is called or, streams, when they break; a broken one is reopened with bounded backoff.
//
// Every stream states format version, cluster, sender and intended receiver, the
// sender's incarnation, and which versions of the cluster it can run; a mismatch
// is refused with a clear error and nothing is delivered. Every call has a deadline and
// bears its caller's trace context, and a peer's calls have a budget. Until
// there are certificates, peers beyond loopback are refused unless the operator
// said --insecure (ServerOptions).
//
// Lock order: Network.mu, then peer or queue mutexes; none is held across I/O.
// netPeer.turns are semaphores, held while the handler has a frame, under nothing.
package rpc
