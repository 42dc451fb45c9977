package chain

// An Action is what an account asks of the ledger: one call of one contract.
// The comment of each names the function that it is.
type Action interface{ Target() Contract }

// Roles in which an account stakes.
const (
	Trainer   uint8 = 0
	Validator uint8 = 1
)

// A Side names one of an epoch's two trees.
type Side uint8

// The trees of an epoch.
const (
	OfRewards Side = iota
	OfReceipts
)

// Money that moves between accounts.
type (
	// Approve is Token.approve: Spender may take Amount.
	Approve struct {
		Spender Contract
		Amount  Amount
	}
	// Transfer is Token.transfer.
	Transfer struct {
		To     Address
		Amount Amount
	}
)

// Stakes and keys: Staking.
type (
	// Stake is Staking.stake; the staking contract must be approved.
	Stake struct {
		Role   uint8
		Amount Amount
	}
	// Unbond is Staking.unbond.
	Unbond struct {
		Role   uint8
		Amount Amount
	}
	// Withdraw is Staking.withdraw.
	Withdraw struct{ Role uint8 }
	// RegisterKey is Staking.registerKey; Sig is by Key over Book.KeyDigest.
	RegisterKey struct {
		Key      Address
		Deadline uint64
		Sig      []byte
	}
	// RevokeKey is Staking.revokeKey.
	RevokeKey struct{ Key Address }
)

// Runs and their pools: Runs.
type (
	// Publish is Runs.publish. Its result's ID is the run's.
	Publish struct {
		Manifest Hash
		Start    uint64 // of epoch 1, seconds; not in the past
		Length   uint64 // of an epoch, seconds
		Royalty  uint16 // parts per 10,000 of paid inference that go to the holders of shares
		Shares   bool
		Rate     Rate
	}
	// SetRate is Runs.setRate, from the next epoch on.
	SetRate struct {
		Run  Hash
		Rate Rate
	}
	// Fund is Runs.fund; the runs contract must be approved.
	Fund struct {
		Run    Hash
		Amount Amount
	}
	// PauseRun is Runs.setPaused.
	PauseRun struct {
		Run    Hash
		Paused bool
	}
	// EndRun is Runs.end.
	EndRun struct{ Run Hash }
	// Refund is Runs.refund.
	Refund struct{ Run Hash }
)

// Epochs: Settlement.
type (
	// DepositBond is Settlement.depositBond; the settlement contract must be
	// approved.
	DepositBond struct{ Amount Amount }
	// WithdrawBond is Settlement.withdrawBond.
	WithdrawBond struct{ Amount Amount }
	// Propose is Settlement.propose; it takes one bond of those put in.
	Propose struct{ Epoch Epoch }
	// FinalizeFast is Settlement.finalizeFast; Sigs are by hot keys over
	// Book.EpochDigest, ascending by the keys' owners.
	FinalizeFast struct {
		Epoch Epoch
		Sigs  [][]byte
	}
	// Finalize is Settlement.finalize.
	Finalize struct{ Epoch Epoch }
	// Claim is Runs.claim.
	Claim struct {
		Run    Hash
		Reward Reward
		Proof  []Hash
	}
)

// Disputes: Disputes, which must be approved for bonds.
type (
	// ProveReceipt is Disputes.proveReceipt.
	ProveReceipt struct {
		Epoch Epoch
		Entry Entry
		Proof []Hash
	}
	// ProveDuplicate is Disputes.proveDuplicate.
	ProveDuplicate struct {
		Epoch          Epoch
		A, B           Entry
		ProofA, ProofB []Hash
	}
	// ProveRewards is Disputes.proveRewards.
	ProveRewards struct {
		Epoch          Epoch
		A, B           Reward
		ProofA, ProofB []Hash
	}
	// ProveDecrease is Disputes.proveDecrease.
	ProveDecrease struct {
		Epoch              Epoch
		Was, Now           Reward
		ProofWas, ProofNow []Hash
	}
	// Demand is Disputes.demand.
	Demand struct {
		Epoch Epoch
		Side  Side
		Index uint64
	}
	// AnswerReward is Disputes.answerReward.
	AnswerReward struct {
		Epoch  Epoch
		Reward Reward
		Proof  []Hash
	}
	// AnswerReceipt is Disputes.answerReceipt.
	AnswerReceipt struct {
		Epoch Epoch
		Entry Entry
		Proof []Hash
	}
	// Expire is Disputes.expire.
	Expire struct {
		Epoch Epoch
		Side  Side
		Index uint64
	}
	// Reclaim is Disputes.reclaim.
	Reclaim struct {
		Run    Hash
		Serial uint64
		Side   Side
		Index  uint64
	}
	// Dispute is Disputes.dispute.
	Dispute struct {
		Epoch    Epoch
		Evidence Hash // digest of the CID of the challenger's case
	}
	// CommitVote is Disputes.commitVote; Hash is Book.VoteHash.
	CommitVote struct{ Run, Hash Hash }
	// RevealVote is Disputes.revealVote.
	RevealVote struct {
		Run    Hash
		Guilty bool
		Salt   Hash
	}
	// Decide is Disputes.decide.
	Decide struct{ Run Hash }
	// Appeal is Disputes.appeal.
	Appeal struct{ Run Hash }
	// Rule is Disputes.rule, for the governor.
	Rule struct {
		Run    Hash
		Serial uint64
		Guilty bool
	}
	// Execute is Disputes.execute.
	Execute struct{ Run Hash }
	// PunishAbsent is Disputes.punishAbsent.
	PunishAbsent struct {
		Run   Hash
		Voter Address
	}
	// Abandon is Disputes.abandon.
	Abandon struct{ Run Hash }
	// Report is Equivocation.report.
	Report struct {
		Kind  uint8 // wire.KindDelta, wire.KindVote or wire.KindAttest
		Run   []byte
		BodyA []byte
		SigA  []byte
		BodyB []byte
		SigB  []byte
	}
)

// Shares and revenue: Shares, of each run.
type (
	// MintShares is Shares.mint.
	MintShares struct {
		Run     Hash
		Account Address
	}
	// TransferShares is Shares.transfer.
	TransferShares struct {
		Run    Hash
		To     Address
		Amount Amount
	}
	// Collect is Shares.collect.
	Collect struct {
		Run    Hash
		Holder Address
	}
)

// Paid inference: Vouchers, which must be approved for deposits.
type (
	// OpenChannel is Vouchers.open. Its result's ID is the channel's.
	OpenChannel struct {
		Run      Hash
		Provider Address
		Amount   Amount
	}
	// TopUp is Vouchers.topUp.
	TopUp struct {
		Channel Hash
		Amount  Amount
	}
	// Redeem is Vouchers.redeem; Sig is by the payer over Book.VoucherDigest.
	Redeem struct {
		Channel    Hash
		Cumulative Amount
		Sig        []byte
	}
	// RequestClose is Vouchers.requestClose.
	RequestClose struct{ Channel Hash }
	// CloseChannel is Vouchers.close.
	CloseChannel struct{ Channel Hash }
	// Flush is Vouchers.flush: royalties of the run's closed channels, and of
	// those named.
	Flush struct {
		Run      Hash
		Channels []Hash
	}
)

// Governance.
type (
	// Pause is Governed.pause of Staking, Runs, Settlement or Vouchers.
	Pause struct{ Contract Contract }
	// Unpause is Governed.unpause.
	Unpause struct{ Contract Contract }
	// SetParams is Settlement.setParams.
	SetParams struct{ Params Params }
	// SetGuardian is Governed.setGuardian of the contracts that Pause names.
	SetGuardian struct {
		Contract Contract
		Guardian Address
	}
	// SetMinimum is Staking.setMinimum.
	SetMinimum struct{ Minimum Amount }
)

// Target returns the contract that the action calls.
func (Approve) Target() Contract        { return Token }
func (Transfer) Target() Contract       { return Token }
func (Stake) Target() Contract          { return Staking }
func (Unbond) Target() Contract         { return Staking }
func (Withdraw) Target() Contract       { return Staking }
func (RegisterKey) Target() Contract    { return Staking }
func (RevokeKey) Target() Contract      { return Staking }
func (SetMinimum) Target() Contract     { return Staking }
func (Publish) Target() Contract        { return Runs }
func (SetRate) Target() Contract        { return Runs }
func (Fund) Target() Contract           { return Runs }
func (PauseRun) Target() Contract       { return Runs }
func (EndRun) Target() Contract         { return Runs }
func (Refund) Target() Contract         { return Runs }
func (Propose) Target() Contract        { return Settlement }
func (FinalizeFast) Target() Contract   { return Settlement }
func (Finalize) Target() Contract       { return Settlement }
func (Claim) Target() Contract          { return Runs }
func (DepositBond) Target() Contract    { return Settlement }
func (WithdrawBond) Target() Contract   { return Settlement }
func (SetParams) Target() Contract      { return Settlement }
func (ProveReceipt) Target() Contract   { return Disputes }
func (ProveDuplicate) Target() Contract { return Disputes }
func (ProveRewards) Target() Contract   { return Disputes }
func (ProveDecrease) Target() Contract  { return Disputes }
func (Demand) Target() Contract         { return Disputes }
func (AnswerReward) Target() Contract   { return Disputes }
func (AnswerReceipt) Target() Contract  { return Disputes }
func (Expire) Target() Contract         { return Disputes }
func (Reclaim) Target() Contract        { return Disputes }
func (Dispute) Target() Contract        { return Disputes }
func (CommitVote) Target() Contract     { return Disputes }
func (RevealVote) Target() Contract     { return Disputes }
func (Decide) Target() Contract         { return Disputes }
func (Appeal) Target() Contract         { return Disputes }
func (Rule) Target() Contract           { return Disputes }
func (Execute) Target() Contract        { return Disputes }
func (PunishAbsent) Target() Contract   { return Disputes }
func (Abandon) Target() Contract        { return Disputes }
func (Report) Target() Contract         { return Equivocation }
func (OpenChannel) Target() Contract    { return Vouchers }
func (TopUp) Target() Contract          { return Vouchers }
func (Redeem) Target() Contract         { return Vouchers }
func (RequestClose) Target() Contract   { return Vouchers }
func (CloseChannel) Target() Contract   { return Vouchers }
func (Flush) Target() Contract          { return Vouchers }
func (p Pause) Target() Contract        { return p.Contract }
func (p Unpause) Target() Contract      { return p.Contract }
func (p SetGuardian) Target() Contract  { return p.Contract }

// Target is empty for what calls the share contract of a run.
func (MintShares) Target() Contract     { return "" }
func (TransferShares) Target() Contract { return "" }
func (Collect) Target() Contract        { return "" }
