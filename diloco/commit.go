package diloco

import "github.com/shoalnet/shoal/p2p/wire"

// A Commit is one link of the chain: which work went into the state of its
// round, and by whose votes. It is a pure function of its parent, its set of
// votes and the state that the outer step made of them; its block is
// canonical DAG-CBOR and its CID is what peers attest to.
//
// The genesis commit (round 0) holds only Version, Run and State. Round 0
// trains nothing: its votes form the first roster, so C_1 has the weights of C_0.
type Commit struct {
	Version    uint64        `cbor:"version" json:"version"` // 1
	Run        wire.CID      `cbor:"run" json:"run"`         // the manifest
	Round      uint64        `cbor:"round" json:"round"`
	Parent     wire.CID      `cbor:"parent" json:"parent"`       // undefined at genesis
	Votes      []wire.Signed `cbor:"votes" json:"votes"`         // ascending by From
	Deltas     []wire.Signed `cbor:"deltas" json:"deltas"`       // those that are in, ascending by block CID
	Joins      []wire.Signed `cbor:"joins" json:"joins"`         // those that are in, ascending by From
	Verdicts   []wire.Signed `cbor:"verdicts" json:"verdicts"`   // those that are in, ascending by ID
	Cases      []Case        `cbor:"cases" json:"cases"`         // open accusations after this commit, ascending by Subject, then Segment
	Convicted  []Conviction  `cbor:"convicted" json:"convicted"` // by this commit, ascending by Peer
	Unstaked   []wire.PeerID `cbor:"unstaked" json:"unstaked"`   // whom this commit removes for want of stake, ascending: they may join anew; and the accused in no roster who have none
	Roster     []Member      `cbor:"roster" json:"roster"`       // ascending by Peer; who votes on the next commit
	Voters     []Voter       `cbor:"voters" json:"voters"`       // ascending by Peer; what justifies the next commit
	Changed    uint64        `cbor:"changed" json:"changed"`     // the round whose commit last exchanged Voters
	Final      wire.CID      `cbor:"final" json:"final"`         // the last final commit by the word of its votes
	FinalRound uint64        `cbor:"finalRound" json:"finalRound"`
	State      wire.CID      `cbor:"state" json:"state"`   // S_round, a UnixFS directory
	Cursor     uint64        `cbor:"cursor" json:"cursor"` // data windows handed out before the next round
	Weak       bool          `cbor:"weak" json:"weak"`     // fewer than 2/3 of the roster's weight voted
}

// A Member is one peer of the roster.
type Member struct {
	Peer    wire.PeerID `cbor:"peer" json:"peer"`
	Address [20]byte    `cbor:"address" json:"address"`
	Role    string      `cbor:"role" json:"role"`
	Weight  uint64      `cbor:"weight" json:"weight"`
	Since   uint64      `cbor:"since" json:"since"`   // the round that it entered
	Silent  uint64      `cbor:"silent" json:"silent"` // commits in a row without a vote of its
	Banned  bool        `cbor:"banned" json:"banned"` // convicted: no vote, no return
	Coin    [32]byte    `cbor:"coin" json:"-"`        // of a validator: its coin's secret of the round Shown; of others zero
	Shown   uint64      `cbor:"shown" json:"-"`       // the round that its Join, or the last of its votes to show its coin, did
	Missed  uint64      `cbor:"missed" json:"missed"` // what it has not answered of the audits that it owed, as audit.Miss counts
}

// A Case is an open accusation: some validator found a piece of work Wrong or
// Withheld, and the others look again. It is closed by 2/3 of the validators'
// weight either way, never by fewer than two of them, or when it has been open for an audit window.
//
//   - Wrong at 2/3: Peer is convicted, and so are the validators that said Pass.
//   - Pass at 2/3: those that said Wrong are. (Withheld may have been true when it was said.) An accused
//     validator counts: its verdict was its word.
//   - Wrong and Withheld together at 2/3: Peer is, once it has voted for some rounds in a row with the case open; or, at
//     the end, if it has voted as often, or has left the roster and its stake was withdrawn since.
type Case struct {
	Subject  wire.CID      `cbor:"subject" json:"subject"`
	Peer     wire.PeerID   `cbor:"peer" json:"peer"`   // the accused
	Round    uint64        `cbor:"round" json:"round"` // of the delta audited
	Segment  uint64        `cbor:"segment" json:"segment"`
	Opened   uint64        `cbor:"opened" json:"opened"`     // the round of the commit that opened it
	Evidence wire.CID      `cbor:"evidence" json:"evidence"` // of the first accuser
	Pass     []wire.PeerID `cbor:"pass" json:"pass"`         // validators, ascending
	Wrong    []wire.PeerID `cbor:"wrong" json:"wrong"`
	Withheld []wire.PeerID `cbor:"withheld" json:"withheld"`
}

// A Conviction says whom a commit bans, and for what.
type Conviction struct {
	Peer     wire.PeerID `cbor:"peer" json:"peer"`
	Why      string      `cbor:"why" json:"why"`         // "equivocation", "wrong work", "withheld", "false verdict", "silent"
	Subject  wire.CID    `cbor:"subject" json:"subject"` // of the case, or the last audit missed; undefined for equivocation, and where a coin was not shown
	Segment  uint64      `cbor:"segment" json:"segment"`
	Evidence wire.CID    `cbor:"evidence" json:"evidence"`
}

// A Voter's weight counts for finality. It changes only when a commit becomes
// final, and leaks while nothing does. Two sets count at a time, the present
// one and the one before, and a commit is justified by 2/3 of each: so two
// branches that disagree about one change still share a set, and cannot both
// become final unless a third of its weight contradicts itself. A change must
// be final before the next one (Commit.Changed).
type Voter struct {
	Peer   wire.PeerID `cbor:"peer" json:"peer"`
	Weight uint64      `cbor:"weight" json:"weight"`
	Before uint64      `cbor:"before" json:"before"`
}
