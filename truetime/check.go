package truetime

import (
	"fmt"
	"strings"
	"time"
)

// PeerError says that two clocks cannot both contain true time (T2).
type PeerError struct {
	Peer string
	// Gap by which the intervals miss each other: positive when the peer is ahead.
	Gap       time.Duration
	RoundTrip time.Duration
}

func (e *PeerError) Error() string {
	way, gap := "ahead of", e.Gap
	if gap < 0 {
		way, gap = "behind", -gap
	}
	return fmt.Sprintf("truetime: the clock of %s is %s ours by %v more than both error bounds and a round trip of %v allow", e.Peer, way, gap, e.RoundTrip)
}

// OutvotedError says that a clock disagrees with those of a majority of the cluster,
// so that it is this one that is wrong, unless a majority is (T2).
type OutvotedError struct {
	Peers   []*PeerError // who disagrees, and by how much
	Members int          // of the cluster, this node included
}

func (e *OutvotedError) Error() string {
	return fmt.Sprintf("truetime: this clock disagrees with those of %s, a majority of %d nodes: %s; restart the node once the clock is right",
		e.Names(), e.Members, e.Gaps())
}

// Names lists the peers.
func (e *OutvotedError) Names() string {
	names := make([]string, len(e.Peers))
	for i, p := range e.Peers {
		names[i] = p.Peer
	}
	return strings.Join(names, " and ")
}

// Gaps tells the distances to the single peers' clocks.
func (e *OutvotedError) Gaps() string {
	gaps := make([]string, len(e.Peers))
	for i, p := range e.Peers {
		way, gap := "ahead of", -p.Gap
		if gap < 0 {
			way, gap = "behind", -gap
		}
		gaps[i] = fmt.Sprintf("it is %s %s's by %v", way, p.Peer, gap.Round(time.Microsecond))
	}
	return strings.Join(gaps, ", ") + " more than both error bounds and the round trip allow"
}

// CheckPeer compares a peer's interval, read between our sending a request at
// sent and our receiving its answer at received, with ours. True time at that
// reading lay in [sent.Earliest, received.Latest] by our clock, and in remote by
// the peer's. No common instant means that one of the two clocks is wrong, and a
// *PeerError; which one, a single pair cannot tell.
//
// For a message that was not asked for, sent is the zero Interval: only a
// peer that is ahead is found.
func CheckPeer(peer string, sent, received, remote Interval) error {
	rtt := received.Latest.Sub(sent.Latest)
	if sent == (Interval{}) {
		rtt = 0
	}
	switch {
	case remote.Earliest > received.Latest:
		return &PeerError{Peer: peer, Gap: remote.Earliest.Sub(received.Latest), RoundTrip: rtt}
	case remote.Latest < sent.Earliest:
		return &PeerError{Peer: peer, Gap: remote.Latest.Sub(sent.Earliest), RoundTrip: rtt}
	}
	return nil
}

// StartError says that the clock lies behind what earlier lives of the store
// have written (T2).
type StartError struct {
	Stored Timestamp
	Now    Interval
	Gap    time.Duration // by how much beyond 2ε
}

func (e *StartError) Error() string {
	return fmt.Sprintf("truetime: the clock says %v ± %v, but the store holds timestamps up to %v, %v later than any right clock explains; correct the clock",
		e.Now.Earliest.Add(e.Now.Epsilon()).Time().Format(time.RFC3339Nano), e.Now.Epsilon(), e.Stored.Time().Format(time.RFC3339Nano), e.Gap)
}

// CheckStart compares the clock with the highest timestamp found in the store.
// A right clock assigned at most true time + 2ε then, and true time now is at
// most Now().Latest; what lies further ahead was written by a clock that was
// wrong, or is read by one that is: a *StartError. A caller may wait out a small
// Gap with AwaitAfter instead of refusing to start.
func CheckStart(c Clock, stored Timestamp) error {
	if err := c.Err(); err != nil {
		return err
	}
	now := c.Now()
	if limit := now.Latest.Add(2 * now.Epsilon()); stored > limit {
		return &StartError{Stored: stored, Now: now, Gap: stored.Sub(limit)}
	}
	return nil
}

// FutureError refuses a timestamp from elsewhere that lies too far ahead (T2).
type FutureError struct {
	Received Timestamp
	Ahead    time.Duration // of Now().Latest
	Limit    time.Duration
}

func (e *FutureError) Error() string {
	return fmt.Sprintf("truetime: received a timestamp %v ahead of our clock, more than the %v allowed; one of the clocks is wrong", e.Ahead, e.Limit)
}

// CheckReceived refuses timestamps further than tolerance beyond Now().Latest,
// so that another node's forward step does not poison our log. A clock that
// does not vouch refuses everything.
func CheckReceived(c Clock, ts Timestamp, tolerance time.Duration) error {
	now := c.Now()
	if now.Latest == Max {
		if err := c.Err(); err != nil {
			return err
		}
	}
	if ts > now.Latest.Add(tolerance) {
		return &FutureError{Received: ts, Ahead: ts.Sub(now.Latest), Limit: tolerance}
	}
	return nil
}
