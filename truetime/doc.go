// Package truetime is the clock of the Spanner paper (OSDI'12, section 3): an
// instant is not a number but an interval that contains true time, and its
// half width ε is a first-class, visible and injectable quantity.
//
// [System] reads the operating system's clock and vouches for a bound that the
// operator states; [Kernel] takes the bound from the kernel's own discipline
// (adjtimex); [Adjustable] adds error to either while it runs; [Manual] and [Skewed],
// which can lie, are for tests, simulations and demonstrations. All of them serve T1: Now's interval contains true
// time, or Now answers [earliest, Max], so that every rule that needs an upper
// bound refuses by itself; Earliest never retreats, whatever the clock below does.
//
// # What a broken clock costs (T2)
//
// Nothing here can prove that a clock is right; the checks find some that are
// provably wrong. What is at stake is recency, and reads at leaseholders; never
// committed data or the agreement of replicas, which rest on Raft alone.
//
//   - The wall clock is stepped (clock_settime, a leap second, an NTP step) by
//     more than the bound plus a small allowance. Found at the next Now, by
//     comparison with the monotonic clock, which is slewed with the wall clock but
//     never stepped. [System] and [Kernel] fail for good ([StepError]): intervals
//     handed out before or after the step were wrong, and it cannot be told which.
//     The node stops serving; a restart checks the clock against what is stored.
//     Steps below the allowance go unseen: at risk are reads within that distance.
//   - The machine slept, or a virtual machine was moved: the monotonic clock stood
//     still, the wall clock was set from a coarse hardware clock. The same as a step.
//   - A single-node store ([Options.Isolated]) has one clock, which cannot disagree
//     with another one: a step forward is followed, a step backward is ridden out on
//     the monotonic clock. Timestamps stay in order; they may lie ahead of the wall
//     clock by the step until the node restarts.
//   - The clock runs fast or slow by more than NTP corrects, without steps, beyond ε.
//     Not seen locally. Peers see it once the intervals no longer overlap beyond what
//     the round trip allows ([CheckPeer]); which one lies cannot be told from one
//     pair. The node that disagrees with a majority of the cluster stops vouching for
//     good ([OutvotedError], [Adjustable.Distrust]); between two clocks that disagree no
//     promise counts, so where no majority is to be had neither serves. Until then: a
//     fast leader ends its lease early (harmless) and assigns timestamps ahead, whose
//     readers elsewhere may miss a commit acknowledged less than the gap ago; a slow
//     leader serves reads past its lease, which can be stale by the gap.
//   - The clock lies behind at start (dead battery, restored image): timestamps
//     stored by earlier lives lie ahead by more than honest clocks can explain
//     ([CheckStart]); the node refuses to start and states the gap. A small gap may
//     be waited out.
//   - A peer's clock leaps ahead, and its timestamps arrive here. They are refused on
//     receipt ([CheckReceived]) before they enter a log: one that got in would push
//     the group's floor, and commit wait with it, far into the future, for ever.
//   - The kernel says unsynchronised (no NTP daemon, or it lost its sources and the
//     maximum error grew past 16 s). [NewKernel] refuses; a running [Kernel] stops
//     vouching ([UnsynchronizedError]) and recovers by itself when the kernel vouches
//     again: nothing wrong was ever promised meanwhile.
//   - The NTP daemon's own bound is wrong (an asymmetric path, a lying server). Not
//     seen, except by peers with other sources.
//   - The process stops (SIGSTOP, a paused virtual machine): an interval read before
//     is stale after. Callers must compare with a deadline after the last effect, not
//     before it; leases are checked again when answers go out.
//
// # Goroutines
//
// [Kernel] owns one, which samples the kernel about once a second and ends with
// Close. Waiting uses one timer per call and holds no lock. No lock of this
// package is held while another one is taken.
package truetime
