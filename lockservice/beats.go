package lockservice

import (
	"math"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/spandb/spand/lockservice/lockpb"
)

const (
	codeExpired = codes.Unauthenticated
	minDuration = math.MinInt64 / 2
)

// beats is a session's side of KeepAlive: what it has sent and seen. Guarded by the session's
// mutex.
type beats struct {
	number      uint64 // of the last beat
	sent        []sentBeat
	epoch       uint64
	lastSeen    uint64 // events up to this revision, of every subscription
	listed      uint64 // beat that last listed the subscriptions
	answered    uint64 // highest number of a beat that was answered
	invalidated uint64
	subscribe   bool // the next beat lists the subscriptions
	granted     time.Duration
	queued      bool // the keeper will send one
	urgent      bool // the next one is to be answered at once
}

type sentBeat struct {
	number uint64
	at     time.Duration
}

// restart forgets what was sent on an earlier stream, and lists the subscriptions anew.
func (s *Session) restart() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.beats.sent, s.beats.subscribe, s.beats.queued = nil, true, true
	s.beats.urgent = s.remaining() < s.beats.granted*3/4
	s.events.restartLocked(s.beats.answered)
}

// early is the part of a lease that is left when the client asks for it to be renewed at once. A
// server holds a beat for a third of the lease, and the answer to the next one, held as long,
// would come with a third left: too little to find another leader in, should this one be silent.
func (b *beats) early() time.Duration { return b.granted * 9 / 20 }

// beat makes the next beat; nil when the session has ended.
func (s *Session) beat() *lockpb.Beat {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := &s.beats
	b.queued = false
	if s.state == Expired {
		return nil
	}
	b.number++
	// The clock is read before the beat is sent: the server receives it later than this.
	b.sent = append(b.sent, sentBeat{b.number, s.cell.c.clock.Now()})
	beat := &lockpb.Beat{Session: s.id, Number: b.number, Epoch: b.epoch, Invalidated: b.invalidated}
	if b.urgent {
		b.urgent, beat.Epoch = false, 0
		s.cell.keeper.hurriesLocked()
	}
	if b.subscribe {
		beat.Subscriptions, b.subscribe = s.events.wireLocked(b.number)
		if b.subscribe {
			s.cell.keeper.requestLocked(s)
		}
		// What a subscription asks for again is not seen, though later events of others are.
		b.listed = b.number
		for _, w := range beat.Subscriptions.List {
			if w.After != 0 {
				b.lastSeen = min(b.lastSeen, w.After)
			}
		}
	}
	beat.Seen = b.lastSeen
	return beat
}

// leased takes the answer to a beat, and reports whether to send the next one now.
func (s *Session) leased(l *lockpb.Lease) (next bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := &s.beats
	if s.state == Expired {
		return false
	}
	if l.TtlNs <= 0 {
		s.endLocked(&Error{Code: codeExpired, Reason: "SESSION_EXPIRED", Message: "session expired: the cell has ended it"})
		return false
	}
	if l.Epoch != b.epoch {
		// Another leader: who caches what is not known to it, nor what it invalidated.
		b.epoch, b.invalidated, b.subscribe, next = l.Epoch, 0, true, true
		s.events.failedOverLocked()
		if s.cache != nil {
			s.cache.drop()
		}
	}
	// Before the lease: what is invalid must be forgotten while it does not matter yet. Also when a
	// later number was seen: to forget once more costs a read.
	if s.cache != nil {
		s.cache.invalidate(l.Invalidate)
	}
	if l.Invalidation > b.invalidated {
		b.invalidated, next = l.Invalidation, true
	}
	b.answered = max(b.answered, l.Number)
	for i, sent := range b.sent {
		if sent.number == l.Number {
			if granted := time.Duration(l.TtlNs); granted != b.granted {
				s.cell.keeper.regrantLocked(s, granted)
			}
			s.renewLocked(sent.at + conservative(b.granted))
			b.sent = b.sent[i+1:]
			break
		}
	}
	if s.state == Expired {
		return false
	}
	if l.Refused != nil && l.Number >= b.listed {
		s.events.refusedLocked(errorOfFailure(l.Refused))
	}
	for _, e := range l.Events {
		next = true
		if l.Number >= b.listed { // else it may be later than what is sent again
			b.lastSeen = max(b.lastSeen, e.Revision)
		}
		s.events.deliverLocked(e, l.Number)
	}
	return (next || len(b.sent) == 0) && !b.queued
}
