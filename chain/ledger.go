package chain

import (
	"context"
	"fmt"
)

// A Refusal is the ledger's own reason for refusing an action, under the name
// that the contract gives it.
type Refusal struct {
	Reason string // the Solidity error's name
}

func (r *Refusal) Error() string {
	if why, ok := reasons[r.Reason]; ok {
		return fmt.Sprintf("the ledger refuses: %s (%s)", why, r.Reason)
	}
	return "the ledger refuses: " + r.Reason
}

func refuse(reason string) error { return &Refusal{reason} }

// reasons says in words what a person can do something about.
var reasons = map[string]string{
	"NotAccused":                        "only the accused may appeal",
	"WrongPhase":                        "the conviction is not at that stage",
	"BadConviction":                     "a conviction takes between 1 and 5,000 parts of 10,000",
	"AlreadyChallenging":                "you already have a challenge open against this proposal",
	"AlreadyDemanded":                   "this leaf has already been asked for",
	"AlreadyProposed":                   "an epoch of this run is proposed and not settled yet",
	"BadProof":                          "the proof does not lead to the root; the tree may be of another epoch",
	"BadSignature":                      "the signature is not the one wanted",
	"BadTerms":                          "the run's terms are out of bounds",
	"Challenged":                        "a challenge is open and must be answered first",
	"ERC20InsufficientAllowance":        "the contract is not approved for this amount",
	"ERC20InsufficientBalance":          "the balance is too low",
	"EnforcedPause":                     "governance has paused deposits and proposals",
	"Expired":                           "the deadline has passed",
	"Innocent":                          "the proof shows nothing wrong",
	"KeyTaken":                          "this key has been registered or has staked before: make another (`shoal key new`)",
	"NoConflict":                        "one peer may have signed both: nothing is proven",
	"SameMessage":                       "it is one message twice",
	"OtherParent":                       "the messages are about different parents",
	"AlreadyConvicted":                  "this has been punished already",
	"BadReveal":                         "this is not the vote that was committed to",
	"AlreadyVoted":                      "this account has committed to a vote already",
	"NotVoter":                          "the account had no validator stake when the epoch began, or has it no more",
	"WrongStage":                        "the case is not at that stage",
	"CaseOpen":                          "this proposal has been brought before the validators already",
	"NotAbsent":                         "the account has no vote that it committed to and hid, or the case was never counted",
	"NoDemand":                          "nobody asks for this leaf, or not any more",
	"NoChannel":                         "the ledger knows no such channel; it may be closed",
	"NotPayer":                          "only the channel's payer may",
	"NothingToRedeem":                   "this voucher adds nothing to what was redeemed before",
	"NothingToFlush":                    "no royalties wait to be passed on",
	"NothingToRefund":                   "the pool is empty",
	"NotGovernor":                       "only governance may",
	"GovernorInsufficientProposerVotes": "too few votes are delegated to the proposer",
	"GovernorUnexpectedProposalState":   "the motion is not at that stage",
	"GovernorAlreadyCastVote":           "this account has voted already",
	"TimelockUnexpectedOperationState":  "the timelock's delay is not over, or the motion was carried out already",
	"KeyUnknown":                        "this key is not registered, or not any more",
	"NoBond":                            "no free bond is left at the settlement: deposit one",
	"NoShares":                          "the run has no shares",
	"NotEnoughStake":                    "the active stake is lower than that",
	"NotProposed":                       "no epoch of this run is proposed now",
	"NotSponsor":                        "only the run's sponsor may",
	"NotValidator":                      "the account had no validator stake, or too little, when the epoch began",
	"NothingMatured":                    "nothing has finished unbonding yet",
	"NothingToClaim":                    "this reward has been claimed already",
	"NothingToCollect":                  "the shares have earned nothing since the last time",
	"NothingToMint":                     "all shares of what was claimed are minted",
	"OverBudget":                        "more than the epoch's budget, its split or the run's pool allows",
	"OverDeposit":                       "the voucher is over the channel's deposit",
	"RunEnded":                          "the run has ended",
	"RunExists":                         "this sponsor has published this manifest already",
	"RunPaused":                         "the run's sponsor has paused it",
	"RunUnknown":                        "the ledger knows no such run",
	"TooEarly":                          "it is too early",
	"TooFewVotes":                       "less than two thirds of the validators' stake has signed",
	"TooLate":                           "it is too late",
	"WrongEpoch":                        "the epoch is not after the last finalized one",
	"WrongHash":                         "another epoch was proposed than this one",
	"BadBody":                           "a message's body cannot be read",
	"BadKind":                           "only deltas, votes and attestations convict",
	"BadRun":                            "the run's name is too long",
	"ShortTransfer":                     "the token keeps a part of what is transferred: it is not supported",
	"StillLive":                         "the proposal is still open",
	"ZeroAmount":                        "the amount is zero",
	"BadRole":                           "there are two roles, trainer and validator",
	"TooManyUnbondings":                 "ten parts are leaving already",
	"EmptyTree":                         "an epoch without receipts is not proposed",
	"BadParams":                         "the parameters are out of bounds, or disputes would outlast unbonding",
	"BadIndex":                          "the tree has no such leaf",
	"WrongRun":                          "the channel is of another run",
	"RunLive":                           "an epoch of the run is proposed",
	"Unordered":                         "the signatures are not in the order of their owners",
	"WrongTotal":                        "the total is not the last total and this epoch's amounts",
}

// Status of a run's latest proposal.
type Status uint8

// Statuses as Settlement.Status numbers them.
const (
	None Status = iota
	Proposed
	Finalized
	Rejected
)

func (s Status) String() string {
	if s > Rejected {
		return "unknown"
	}
	return [...]string{"none", "proposed", "finalized", "rejected"}[s]
}

// Params are what governance may change at the settlement: seconds, and parts
// per 10,000.
type Params struct {
	ChallengeWindow uint32 `json:"challengeWindow"` // after a proposal
	AnswerWindow    uint32 `json:"answerWindow"`    // after a demand
	CommitWindow    uint32 `json:"commitWindow"`    // of a committee's votes
	RevealWindow    uint32 `json:"revealWindow"`
	AppealWindow    uint32 `json:"appealWindow"`  // after a verdict
	RulingWindow    uint32 `json:"rulingWindow"`  // for governance, after an appeal
	SlashBps        uint16 `json:"slashBps"`      // of a convicted proposer's stake
	ChallengerBps   uint16 `json:"challengerBps"` // of what is lost, to who was right; at most 5,000, the rest is burned
	AbsentBps       uint16 `json:"absentBps"`     // of the stake of who commits and does not reveal
}

// What a ledger tells about itself.
type (
	// A Run is the state of a published run.
	Run struct {
		Sponsor   Address `json:"sponsor"`
		Start     uint64  `json:"start"`
		Length    uint64  `json:"length"`
		Paused    bool    `json:"paused"`
		Ended     uint64  `json:"ended"` // 0 while it goes on
		Royalty   uint16  `json:"royalty"`
		Pool      Amount  `json:"pool"`
		Unclaimed Amount  `json:"unclaimed"`
		Shares    bool    `json:"shares"`
		Manifest  Hash    `json:"manifest"`
	}
	// A Proposal is a run's latest.
	Proposal struct {
		Hash     Hash    `json:"hash"`
		Proposer Address `json:"proposer"`
		Deadline uint64  `json:"deadline"`
		Serial   uint64  `json:"serial"`
		Open     uint64  `json:"open"` // challenges without an answer
		Status   Status  `json:"status"`
	}
	// A Final is what a run's last finalized epoch left.
	Final struct {
		Rewards Hash   `json:"rewards"`
		Total   Amount `json:"total"`
		Epoch   uint64 `json:"epoch"`
	}
	// An Unbonding is stake on its way out.
	Unbonding struct {
		Amount  Amount `json:"amount"`
		Matures uint64 `json:"matures"`
	}
	// A StakeInfo is one account's stake in one role.
	StakeInfo struct {
		Active  Amount      `json:"active"`
		Leaving []Unbonding `json:"leaving"`
	}
	// A KeyInfo is a hot key's registration.
	KeyInfo struct {
		Owner Address `json:"owner"`
		From  uint64  `json:"from"`
		Until uint64  `json:"until"` // 0 while it serves
	}
	// A Case is a run's latest subjective dispute.
	Case struct {
		Challenger Address `json:"challenger"`
		CommitEnd  uint64  `json:"commitEnd"`
		RevealEnd  uint64  `json:"revealEnd"`
		Serial     uint64  `json:"serial"`
		Stage      Stage   `json:"stage"`
		Verdict    Verdict `json:"verdict"`
		Appellant  Address `json:"appellant"`
		StageEnd   uint64  `json:"stageEnd"`
		Begin      uint64  `json:"begin"`
		Guilty     Amount  `json:"guilty"`
		Innocent   Amount  `json:"innocent"`
		Evidence   Hash    `json:"evidence"`
	}
	// A ShareInfo is one account's part of one run.
	ShareInfo struct {
		Balance Amount `json:"balance"`
		Supply  Amount `json:"supply"`
		Minted  Amount `json:"minted"` // shares that the account ever earned and minted
		Owed    Amount `json:"owed"`   // revenue to collect
	}
	// A Channel is one deposit for paid inference.
	Channel struct {
		Payer    Address `json:"payer"`
		ClosesAt uint64  `json:"closesAt"`
		Royalty  uint16  `json:"royalty"`
		Provider Address `json:"provider"`
		Run      Hash    `json:"run"`
		Deposit  Amount  `json:"deposit"`
		Redeemed Amount  `json:"redeemed"`
		Due      Amount  `json:"due"` // royalties not yet passed on
	}
	// A Line of the books compares what a contract has with what it owes.
	Line struct {
		Contract string `json:"contract"`
		Has      Amount `json:"has"`  // its token balance
		Owes     Amount `json:"owes"` // stakes, bonds, pools, unclaimed rewards, deposits, revenue
	}
)

// A Stage of a case.
type Stage uint8

// Stages as Disputes.Stage numbers them.
const (
	NoCase Stage = iota
	Voting
	Decided
	Appealed
	Closed
)

// A Verdict on a case.
type Verdict uint8

// Verdicts as Disputes.Verdict numbers them.
const (
	Undecided Verdict = iota
	Guilty
	Innocent
)

// An Event is something that happened on the ledger. Only the fields that its
// Name calls for are set.
type Event struct {
	Name    string  // Proposed, Finalized, Rejected, Claimed, Demanded, Answered, CaseOpened, CaseDecided, Slashed, Funded, Published, KeyRegistered, KeyRevoked, Equivocated, Convicted, ConvictionAppealed, ConvictionClosed
	Run     Hash    // of all but Slashed, KeyRegistered, KeyRevoked and Equivocated
	Account Address // proposer, claimant, challenger, answerer, slashed, funder, sponsor or owner
	Key     Address // of KeyRegistered, KeyRevoked, Equivocated and Convicted
	Number  uint64  // epoch of Proposed and Finalized
	Serial  uint64  // of the proposal
	Epoch   *Epoch  // of Proposed
	Amount  Amount  // paid, funded or slashed
	Side    Side    // of Demanded and Answered
	Index   uint64
	Verdict Verdict // of CaseDecided
	Hash    Hash    // root of Finalized, evidence of CaseOpened, manifest of Published, Conviction.ID
	Fast    bool    // Finalized by signatures
	Guilty  bool    // Rejected with a slash, ConvictionClosed with one
}

// A Cursor is a place in a ledger's history: the last block that was read, by
// number and by hash, so that a history that has changed is noticed.
type Cursor struct {
	Block uint64 `json:"block"`
	Hash  Hash   `json:"hash"`
}

// A Result is what an action left, beyond the state.
type Result struct {
	ID  Hash   `json:"id,omitempty"` // of the run or channel that it made
	Tx  Hash   `json:"tx,omitempty"` // on an EVM
	Gas uint64 `json:"gas,omitempty"`
}

// A Ledger is the chain as the rest of Shoal sees it. Reads show what is safe:
// on an EVM, blocks that a reorganization will not take back. All methods may
// be called at once by several goroutines.
type Ledger interface {
	// Book says where this is; every signature is bound to it.
	Book() Book
	// Now is the time of the newest block.
	Now(context.Context) (uint64, error)
	// Do carries out a as from and returns once that is safe. A *Refusal says
	// that the ledger's rules forbid it; other errors that it is not known
	// to have happened.
	Do(ctx context.Context, from Address, a Action) (Result, error)
	// Events returns what happened after c, oldest first, and the new cursor;
	// the zero Cursor is the beginning. ErrRewritten says that c is not part
	// of the history any more.
	Events(ctx context.Context, c Cursor) ([]Event, Cursor, error)

	Run(ctx context.Context, id Hash) (Run, error)
	RateAt(ctx context.Context, run Hash, epoch uint64) (Rate, error)
	Proposal(ctx context.Context, run Hash) (Proposal, error)
	Final(ctx context.Context, run Hash) (Final, error)
	Claimed(ctx context.Context, run Hash, account Address) (Amount, error)
	// Bonds is what an account has at the settlement, free for proposals.
	Bonds(ctx context.Context, account Address) (Amount, error)
	Balance(ctx context.Context, account Address) (Amount, error)
	StakeOf(ctx context.Context, account Address, role uint8) (StakeInfo, error)
	TotalStake(ctx context.Context, role uint8) (Amount, error)
	// Weight is a validator's weight in an epoch that began at a time, which
	// is past, and the stake of all validators then.
	Weight(ctx context.Context, account Address, begin uint64) (weight, total Amount, err error)
	Key(ctx context.Context, key Address) (KeyInfo, error)
	KeyNonce(ctx context.Context, owner Address) (uint64, error)
	Case(ctx context.Context, run Hash) (Case, error)
	// Committed is the hash that a validator has committed to in the run's
	// latest case and not revealed yet; zero if there is none.
	Committed(ctx context.Context, run Hash, voter Address) (Hash, error)
	// Sentence is where a conviction stands; id is Conviction.ID.
	Sentence(ctx context.Context, id Hash) (Sentence, error)
	SharesOf(ctx context.Context, run Hash, account Address) (ShareInfo, error)
	Channel(ctx context.Context, id Hash) (Channel, error)
	Params(ctx context.Context) (Params, error)
	// Books lists what every contract has and owes, the share contracts of
	// runs included. Has equals Owes unless somebody sent tokens unasked.
	Books(ctx context.Context, runs ...Hash) ([]Line, error)
}

// ErrRewritten is returned for a cursor that a reorganization has removed: read
// again from the beginning, or from an older cursor.
var ErrRewritten = fmt.Errorf("the ledger's history has changed under the cursor")
