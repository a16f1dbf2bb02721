// Package server is the lock service's face: spand.lock.v1.LockService over the replicas of
// cells on this node.
//
// Every call is one request to one cell's leader (Server.Do). Where this node leads, it is
// carried out here. Where another does, unary calls that do not wait are forwarded over
// the calls between nodes; Acquire, and everything on the streams KeepAlive and Do, is
// refused with a NotLeader that says where to go, because what waits must wait at the
// leader, where its end is noticed at once.
//
// # Bounds
//
// Who does not read slows and loses nobody but himself: a stream's answers stand in a
// queue of its own. While a stream has much unread, no more of its beats or calls are
// taken; a KeepAlive stream whose queue is full all the same is ended, while a Do stream's answers, to
// what has been carried out, are kept. A Do stream has at most maxCalls calls
// under way, and maxReads of those whose answers are large; more are refused with OVERLOADED rather than left unread, because what would
// let the waiting ones go on (a Release, a cancel) comes over the same stream. Forwarded
// calls end after forwardTimeout at the latest.
//
// # Lanes
//
// What a Do stream carries may come over a lane (ServeLane, package internal/lane): it has the same
// bounds, and no metadata. While few calls are under way an answer is written to the socket by whoever
// has it, in a call that never waits, though it may hold the cell's mutex; else it goes through the
// outbox.
//
// # Goroutines
//
// Per stream: its handler (gRPC's), one that sends, for which the handler waits, at a
// shutdown for partingPatience at most; and one that receives, which ends when the
// handler returns. An Acquire or Release on a Do stream is begun by the one that receives and as a
// rule needs no other (Cell.Begin): whoever knows its outcome puts the answer into the outbox, but for one
// that sends the client elsewhere. Every other call, and one that the cell does not begin, has a goroutine while it is under way, and some of
// these stay for the next calls until the stream ends. A lane has its reader, who called ServeLane, one
// that sends what is in the outbox, one that writes what the kernel would not take at once, and one that
// parts from the client at a shutdown. A handler waits for its calls and their
// goroutines. Shutdown ends all streams and calls that wait.
//
// # Locks
//
// outbox.mu, doStream.mu and lane.Sender's are leaves. A cell takes them, possibly with locks of its own held,
// when it answers a beat or a call that it began; so no cell is called with one held. Nothing
// waits with one held.
package server
