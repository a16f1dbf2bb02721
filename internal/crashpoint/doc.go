// Package crashpoint names the steps of a two-phase commit, so that a test can
// have a real process die at one of them:
//
//	SPAND_CRASH_AT=decide-applied:3 spand start …
//
// kills the process with SIGKILL the third time that it passes the point, counted
// from SIGUSR1 on (so that starting and catching up pass unharmed). Only a build
// with the tag spandbreak knows the variable; in any other one Pass and Hold are
// empty and vanish.
package crashpoint

// Point is a step at which a process can be made to die.
type Point string

// At the gateway (txn/twophase.go).
const (
	GatewayBegun        Point = "gateway-begun"         // no prepare is sent
	GatewaySomePrepared Point = "gateway-some-prepared" // one participant has answered, others have not been heard
	GatewayPrepared     Point = "gateway-prepared"      // all have, the coordinator has not been asked
	GatewayDecided      Point = "gateway-decided"       // the coordinator has answered, commit wait begins
	GatewayVisible      Point = "gateway-visible"       // commit wait is over, the client knows nothing
)

// At a participant (tablet/participant.go, tablet/apply.go). What is committed is
// passed by every replica, the rest by the leader.
const (
	PrepareReceived  Point = "prepare-received"  // locks are held, nothing is proposed
	PrepareProposed  Point = "prepare-proposed"  // it has its timestamp and is on its way to the log
	PrepareCommitted Point = "prepare-committed" // a majority has it, it is not applied
	PrepareApplied   Point = "prepare-applied"   // the gateway knows nothing
	ResolveReceived  Point = "resolve-received"
	ResolveCommitted Point = "resolve-committed"
	ResolveApplied   Point = "resolve-applied" // the coordinator has no acknowledgement
)

// At the coordinator (tablet/commit.go, tablet/apply.go, txn/recovery.go).
const (
	DecideReceived   Point = "decide-received"
	DecideProposed   Point = "decide-proposed"
	DecideCommitted  Point = "decide-committed"
	DecideApplied    Point = "decide-applied" // the gateway knows nothing
	InquireCommitted Point = "inquire-committed"
	Deliver          Point = "deliver"        // the participants know nothing
	DeliveredSome    Point = "delivered-some" // one of them has acknowledged
	DeliveredAll     Point = "delivered-all"  // the coordinator has not forgotten
	ForgetCommitted  Point = "forget-committed"
	OutcomeHeard     Point = "outcome-heard" // a participant in doubt has asked, and has not resolved
)

// At any replica (paxosgroup/scheduler.go).
const LogSynced Point = "log-synced" // entries are durable here; who else has them is not known

// Points are all of them.
var Points = []Point{
	GatewayBegun, GatewaySomePrepared, GatewayPrepared, GatewayDecided, GatewayVisible,
	PrepareReceived, PrepareProposed, PrepareCommitted, PrepareApplied, ResolveReceived, ResolveCommitted, ResolveApplied,
	DecideReceived, DecideProposed, DecideCommitted, DecideApplied, InquireCommitted,
	Deliver, DeliveredSome, DeliveredAll, ForgetCommitted, OutcomeHeard,
	LogSynced,
}
