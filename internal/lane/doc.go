// Package lane sends frames over a TCP connection for which somebody waits: Raft's between nodes
// (internal/rpc), calls and their answers between a lock client and a node (lockservice,
// lockservice/server). Whoever sends a frame writes it to the socket himself, in a call that never
// waits, and so nothing stands between him and the other end's reader but the kernel; over a gRPC
// stream a frame passes through three goroutines more, which on an idle machine are three threads to
// be woken.
//
// A lane is opened at a node's RPC port, where it is told from gRPC by its first byte: eight bytes
// that say what it is for (RaftHello, CallsHello), then what its users agree on. Frames follow, each
// after its length.
//
// A Sender has one end of a connection to write to. At any moment one of nobody, a sender or the
// goroutine in Run writes (Sender.writer), so that frames stay whole and in order; what others send
// meanwhile is queued and goes with it. The connection is its users': they read it and close it.
//
// Sender.mu is a leaf, and not held across I/O.
package lane
