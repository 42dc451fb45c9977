// Package wire defines what peers say to one another: identities, content
// identifiers, canonical bytes and signed envelopes.
//
// It is pure and imports nothing of ours. Everything that arrives is hostile:
// every decoder here is bounded before it allocates, refuses whatever is not
// in canonical form, and never panics.
//
// # Bytes
//
// All structures are DAG-CBOR: definite lengths, shortest integers, map keys
// sorted by length and then by bytes, CIDs as tag 42. A decoded value that
// does not encode to the very same bytes is refused, so a message has one
// form, one ID and one signature.
//
// A message on the wire is a Signed:
//
//	{"body": bytes, "from": bytes(33), "kind": uint, "run": CID, "sig": bytes(65)}
//
// The signature covers
//
//	inner  = keccak256("shoal/1" ‖ kind ‖ len(run) ‖ run ‖ body)
//	digest = keccak256("\x19Ethereum Signed Message:\n32" ‖ inner)
//
// and is r ‖ s ‖ v with low s and v in {27, 28}, so that a contract can recover
// the signer's address with ecrecover (EIP-191) and evidence needs no second
// signature. The signer is also the libp2p peer: one secp256k1 key is both.
package wire

// Version is the wire protocol's version. Peers of different versions do not
// talk: it is part of every protocol ID and topic name.
//
//	1  2026-11-22  first
const Version = 1

// Kind says which body a Signed carries.
type Kind uint8

// The kinds of message. The bodies are defined by package diloco, except
// those of KindAnnounce and KindManifest, which are package node's.
const (
	KindJoin Kind = iota + 1
	KindDelta
	KindVote
	KindAttest
	KindEvidence
	KindAnnounce // a run, on the runs topic
	KindManifest // never sent: what a sponsor signs, see node/manifest
	KindVerdict  // of a validator, about a delta or about another verdict
	KindTally    // a validator's signature for an epoch, on the topic of the run's settlement
)

var kindNames = [...]string{"invalid", "join", "delta", "vote", "attest", "evidence", "announce", "manifest", "verdict", "tally"}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "unknown"
}

// MaxBody bounds the body of one message, in bytes.
const MaxBody = 128 << 10

// MaxMessage bounds one encoded Signed, in bytes.
const MaxMessage = MaxBody + 512

// A Judgement is what a topic's judge says of a message before it is relayed.
type Judgement int

// Accept relays. Ignore drops without blame (old, duplicate, not ours to judge).
// Reject drops and counts against the peer that sent it.
const (
	Accept Judgement = iota
	Ignore
	Reject
)

func (j Judgement) String() string { return [...]string{"accept", "ignore", "reject"}[j] }
