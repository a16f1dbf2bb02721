// Package sim runs a whole cluster in virtual time, under faults that one seed
// decides, and judges what its clients saw. It is a test tool: nothing of it is
// in the binary.
//
// # What is simulated
//
// A world is a testing/synctest bubble with a few nodes of internal/node, from
// truetime to pgwire, in simulated surroundings (node.Surroundings): a [Network] that
// carries both paxosgroup's frames and txn's calls and drops, delays, duplicates,
// reorders, cuts (one way or both) and stalls them; storage.MemFS disks that are slow, fill
// up, and lose at a crash what was not synced, sector by sector; truetime.Manual clocks
// that err, drift and step within ε, in one plan of ten beyond it; connections of SQL clients
// in memory. Nodes crash, one or all, are shut down cleanly, stopped, or die of a failed
// sync, and come back on the same disk; leaders are transferred, tablets split, checkpoints
// taken and old versions collected in the middle of it all. OpenCluster gives the same
// without plan and clients: package integration's virtual mode.
//
// Faults come first, for a stretch of virtual time; then everything heals and must
// converge: every tablet gets a leader, no lock and no prepared, decided or staged
// transaction is left, all replicas are equal at a common applied index, state
// machine and versions alike.
//
// Clients of the lock service (package workload's Locks) use package lockservice over gRPC, in
// two seeds of three: holders whose machines stand still, are cut off or die, whose clocks run
// a little fast or slow, who commit to SQL under their sequencers, keep locks and take them over, and go on
// trying when they have lost them. The first cell's leader is then the victim of half of the faults that
// look for one, and crashes in the middle of calls and beats (Ambush).
//
// Clients on all nodes transfer between accounts, audit them, read and write
// registers, insert unique rows, and run transactions of reads, scans, writes and
// deletes at random, small and staged; those of package workload speak SQL over pgx. Each records what it asked, when, and what
// it was told. The true order of events is the order in which they happen in the
// bubble, which no clock of the system under test can touch.
//
// # What is judged
//
// At the end the versions in the stores are the truth to which the clients'
// records are held (check.go): X1 (whoever began after an acknowledgement, or after
// a read that showed it, lies above it), X2 (a transaction committed at s read
// exactly what was there below s: no lost update, no write skew, no phantom), X3
// (all of a transaction or nothing, at one timestamp), X4 (a read at t sees exactly
// what was committed up to t), X5 (nothing committed twice, nothing that was
// reported aborted is there, an outcome asked for afterwards is the truth), R1
// (everything acknowledged is there). Registers are judged a second time by
// porcupine (linearizability), accounts by their total. R4 and B1 are judged by
// comparing the replicas, R2 besides by looking, every few milliseconds, at who serves.
// Versions that were collected are put back for the judgement, after a look at whether
// they might be. Lock clients are judged by package check: L1, L2, and Chubby's sections 2.4
// to 2.8 (C2.4 and so on). Cells are groups like tablets: led, level and equal in the end; no
// session, hold or ephemeral file of an ended client may be left.
//
// An unknown outcome is what it is: either is right, but one of the two.
//
// # Reproducing
//
//	go test ./integration -run TestSimulation$ -sim.seed=123
//
// runs the schedule of one seed; a failure prints this line, and leaves the trace
// of faults and operations in a file whose name it prints. -sim.seeds=N runs N
// seeds, -sim.log adds the rooms' own log lines to the trace.
//
// The schedule of faults, the nodes' settings, and what each client does are drawn
// from the seed alone. What can differ from run to run is the order of what happens at
// one and the same instant of virtual time (Go's scheduler, select and map
// iteration): who of two transactions gets a lock, a timestamp or a place in a batch
// first. To keep that rare every link delivers in nanoseconds of its own, a message's
// fate follows from what it says and when, jitter is drawn from seeds and the virtual
// clock, and in half of the seeds hosts run one worker (in the others three: one of them may
// write the log while the others go on). In half of either a goroutine of the network does the work
// of each of Raft's messages, as the reader of internal/rpc's lane does, and may wait for the disk. Traces are the same for the first hundreds of
// operations, then drift apart; the faults stay the same to the end. A violation
// therefore often, but not always, shows again at once: -sim.repeat=N tries N times,
// GOMAXPROCS=1 helps.
//
// # Negative controls
//
// A build with the tag spandbreak has switches that break one invariant each (the
// break_off.go of the rooms say what). TestNegativeControls builds it and requires that
// each is found, by its consequences, within a stated number of seeds, and that the seed
// which shows it is clean without the switch. docs/verification.md lists them.
//
// # What is not
//
// Real sockets, gRPC between nodes, a process stopped between two instructions (its clock stands
// still and all that goes in or out waits, but what it has begun to compute goes on), damage on
// disk, changes of membership. bbolt's own file survives crashes as its last commit left it. A
// lost disk is a test of its own (docs/verification.md says why).
//
// # Goroutines
//
// The world's nemesis and one goroutine per client end before Run judges; links
// end with Network.Close, handlers and what works on Raft's messages with their Endpoint; what a node starts ends
// with its life. No mutex of this package is held across a wait.
package sim
