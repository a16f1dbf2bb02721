package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/internal/rpc"
	"github.com/spandb/spand/paxosgroup"
	"github.com/spandb/spand/tablet"
	"github.com/spandb/spand/txn"
)

// Calls between nodes: txn's methods, and from here on the node's own, whose answer
// is an error's text or nothing.
const (
	callRevokeSchema  byte = iota + 0x80 // let go of the schema lease (B2)
	callAcceptVersion                    // note that the cluster may have a version
	callLearnVersion                     // the cluster's version has risen
	callLocks                            // a forwarded call of the lock service, answered in its own way
)

func (n *Node) handleCall(ctx context.Context, from keys.NodeID, method byte, payload []byte) []byte {
	var err error
	switch method {
	case callLocks:
		return n.locks.HandleCall(ctx, payload)
	case callRevokeSchema:
		err = n.engine.HandleRevoke(ctx)
	case callAcceptVersion:
		err = n.acceptVersion(payload)
	case callLearnVersion:
		n.versionIsTold()
	default:
		began := time.Now()
		answer := txn.Serve(ctx, n.replicas, method, payload)
		n.noteCall(ctx, from, method, time.Since(began), answer)
		return answer
	}
	if err != nil {
		return []byte(err.Error())
	}
	return nil
}

// slowCall is how long a peer's request may take before the log says so, which it
// does once a second at most: where one waits for a lock, many do.
const slowCall = time.Second

// noteCall logs what an operator would look for when a statement at another node was
// slow or failed: the lines bear the statement's trace id.
func (n *Node) noteCall(ctx context.Context, from keys.NodeID, method byte, took time.Duration, answer []byte) {
	if cause, ok := tablet.Unexpected(answer); ok {
		n.log.ErrorContext(ctx, "a request of a peer failed", "from", n.nameOf(from), "method", method, "err", cause)
	}
	if took < slowCall {
		return
	}
	now := time.Now().UnixNano()
	if last := n.slowSaid.Load(); now-last > int64(time.Second) && n.slowSaid.CompareAndSwap(last, now) {
		n.log.InfoContext(ctx, "a request of a peer was slow", "from", n.nameOf(from), "method", method, "took", took)
	}
}

// askPeers makes a call of the node's own to every other member and returns one
// error per node that did not do what was asked.
func (n *Node) askPeers(ctx context.Context, method byte, payload []byte) []error {
	answers := make(chan error)
	asked := 0
	for _, m := range n.members {
		if m.ID == n.self {
			continue
		}
		asked++
		go func() {
			answer, err := n.net.Call(ctx, m.ID, method, payload)
			if err == nil && len(answer) > 0 {
				err = errors.New(string(answer))
			}
			if err != nil {
				err = fmt.Errorf("%s: %w", m.Name, err)
			}
			answers <- err
		}()
	}
	var errs []error
	for range asked {
		if err := <-answers; err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// schemaPeers asks the other nodes to let go of their schema leases (B2).
type schemaPeers struct{ n *Node }

// RevokeSchema returns one error per node that did not acknowledge.
func (s schemaPeers) RevokeSchema(ctx context.Context, version uint64) []error {
	return s.n.askPeers(ctx, callRevokeSchema, nil)
}

// unavailable reports that an operation failed because nobody leads or answers.
func unavailable(err error) bool {
	var notLeader *paxosgroup.NotLeaderError
	var unreachable *rpc.UnreachableError
	return errors.As(err, &notLeader) || errors.As(err, &unreachable)
}
