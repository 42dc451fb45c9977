// Package diloco decides what one peer of a training run says and does: the
// commit chain as a pure state machine.
//
// A Machine is told what happened (Event) and answers with what is to be done
// (Effect). It starts no goroutine, reads no clock, does no I/O, never depends
// on the order of a map and decides nothing with floating point, so that the
// same events give the same effects everywhere: in a node, in a simulator of
// hundreds of peers, and in a replay years later.
//
// # The round
//
// At head C_r every active trainer trains from the state S_r and says Delta.
// When all deltas are held, or at a deadline taken from the observed pace, each
// member says Vote: which deltas it holds, has checked and can serve. The next
// commit is a pure function of C_r and a set of votes: a delta is in if at least
// half of the set's weight names it. Nobody sends commits around; each peer
// derives C_r+1 from the votes that it holds, runs the outer step, and says
// Attest. Who hears an Attest for a commit that it cannot derive fetches it.
//
// # Agreement
//
// Different peers can derive siblings when votes come late. Fork choice is
// LMD-GHOST (Sompolinsky and Zohar 2015; Buterin et al. 2020, "Combining GHOST
// and Casper"), finality is Casper FFG (Buterin and Griffith 2017) over the
// same attestations. The weights that finality counts change only by commits
// that are final themselves, and leak away from peers that are gone.
//
// # What the shell owes the machine
//
//   - After Sign: sign, journal, fsync, hand the message back as Heard, publish.
//     A commit holds signatures, so the machine counts its own message once it
//     has it back.
//   - Effects in order; each outcome once, at any later time.
//   - Messages() to every peer that newly connects, and theirs into Heard.
//   - After a crash, Restore with the journal's chain and own messages.
package diloco
