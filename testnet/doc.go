// Package testnet starts a swarm of real processes on this machine, lets what
// a configuration says befall it, and checks that the invariants of the
// protocol held: it is the tier of tests that runs the very program that
// people run.
//
// # Processes
//
// Every peer is `shoal join` with a data directory of its own, started,
// signalled and waited for by its process ID. Everything known about a peer
// comes from outside it: its control socket, its history file, its exit. No
// peer outlives the testnet: on Linux the kernel kills the children of a
// testnet that was itself killed.
//
// # Lines
//
// Where the configuration limits lines or partitions the swarm, each peer
// listens on a loopback address of its own, 127.77.x.y, announces instead a
// proxy in front of it, and speaks TCP only. libp2p dials from the address
// that it listens on, so a proxy knows who calls: whoever it cannot tell, it
// refuses. Each connection is delayed and paced by the lines of both its
// ends. While a partition lasts no byte is moved in either direction
// between its sides, neither of connections that exist nor of new ones; they
// stand still, as they would behind a dead cable, and go on when it heals.
//
// # Cheats and money
//
// A configuration may let peers lie (package cheat) and give the swarm a ledger:
// an embedded chain as a process of its own, on which every peer stakes and is paid, all
// by commands that a person could type. Cheats are held to a bound that follows from
// the audit rate, see odds; RunZoo tries all of them.
//
// # Record and report
//
// What was observed is kept as record.json; report.json and report.html
// follow from it and from the peers' histories alone, so that a report can be
// rebuilt at any time.
package testnet
