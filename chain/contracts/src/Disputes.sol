// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Money} from "./Money.sol";
import {Reward, Runs} from "./Runs.sol";
import {Epoch, Settlement} from "./Settlement.sol";
import {Staking} from "./Staking.sol";
import {Token} from "./Token.sol";

/// @dev A worker's signed word for one piece of work.
struct Receipt {
    bytes32 run;
    uint64 epoch;
    address worker; // a hot key
    uint8 kind; // 0 training, 1 rollout, 2 validation
    bytes32 subject; // sha2-256 of the CID of what was made or checked
    uint64 units;
}

/// @dev One leaf of the tree of receipts.
struct Entry {
    uint64 index;
    Receipt receipt;
    bytes signature;
}

/// @title Disputes about a proposed epoch, cheapest first.
/// @notice What a proof on the chain can show convicts at once. Data that is not published is asked for, leaf by leaf.
/// What only recomputation shows, a committee of validators judges by commit and reveal, with appeal to governance.
/// A part of what the loser forfeits goes to who was right and the rest is burned; the judges get nothing.
contract Disputes is EIP712, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    bytes32 private constant RECEIPT_TYPE =
        keccak256("Receipt(bytes32 run,uint64 epoch,address worker,uint8 kind,bytes32 subject,uint64 units)");

    enum Tree {
        Rewards,
        Receipts
    }

    struct Demand {
        address challenger;
        uint48 deadline;
        bool done; // answered, expired or reclaimed
    }

    enum Stage {
        None,
        Voting,
        Decided,
        Appealed,
        Closed
    }

    enum Verdict {
        Undecided,
        Guilty,
        Innocent
    }

    /// @dev One subjective case, about proposal `serial` of a run.
    struct Case {
        address challenger;
        uint48 commitEnd;
        uint48 revealEnd;
        uint24 serial;
        Stage stage;
        Verdict verdict;
        address appellant;
        uint48 stageEnd; // of the time to appeal, then of the time to rule
        uint48 begin; // of the epoch: whose stakes count
        uint128 guilty; // revealed stake
        uint128 innocent;
        bytes32 evidence;
    }

    Token public immutable token;
    Settlement public immutable settlement;
    Runs public immutable runs;
    Staking public immutable staking;
    uint128 public immutable bond; // of a challenger; an appeal costs twice as much

    /// @notice Bonds of challenges.
    uint256 public held;
    mapping(bytes32 id => Demand) public demands;
    mapping(bytes32 run => Case) private _cases;
    /// @dev The serial of the proposal that an account has challenged: one open challenge each.
    mapping(bytes32 run => mapping(address account => uint24)) public challenging;
    mapping(bytes32 caseId => mapping(address voter => bytes32)) public commits;

    event Convicted(bytes32 indexed run, uint24 serial, address indexed challenger, string reason);
    event Demanded(bytes32 indexed run, uint24 serial, Tree tree, uint64 index, address indexed challenger);
    event Answered(bytes32 indexed run, uint24 serial, Tree tree, uint64 index, address indexed by, bytes data);
    event CaseOpened(bytes32 indexed run, uint24 serial, address indexed challenger, bytes32 evidence);
    event VoteCommitted(bytes32 indexed run, uint24 serial, address indexed voter);
    event VoteRevealed(bytes32 indexed run, uint24 serial, address indexed voter, bool guilty, uint256 weight);
    event CaseDecided(bytes32 indexed run, uint24 serial, Verdict verdict);
    event CaseAppealed(bytes32 indexed run, uint24 serial, address indexed appellant);
    event CaseClosed(bytes32 indexed run, uint24 serial, Verdict verdict);
    event AbsentPunished(bytes32 indexed run, uint24 serial, address indexed voter);

    error NotProposed();
    error WrongHash();
    error BadProof();
    error Innocent();
    error TooLate();
    error TooEarly();
    error BadIndex();
    error AlreadyChallenging();
    error AlreadyDemanded();
    error NoDemand();
    error StillLive();
    error CaseOpen();
    error WrongStage();
    error NotVoter();
    error AlreadyVoted();
    error BadReveal();
    error NotGovernor();
    error NotAbsent();

    constructor(Token token_, Settlement settlement_, Runs runs_, Staking staking_, uint128 bond_)
        EIP712("Shoal Disputes", "1")
    {
        token = token_;
        settlement = settlement_;
        runs = runs_;
        staking = staking_;
        bond = bond_;
    }

    // Objective: one proof convicts.

    /// @notice A receipt in the tree that is not one: of another run or epoch, for nothing, out of place, not signed by
    /// its worker, or by a key that did not serve in the epoch.
    function proveReceipt(Epoch calldata e, Entry calldata a, bytes32[] calldata proof) external nonReentrant {
        _check(e);
        if (!MerkleProof.verifyCalldata(proof, e.receipts, entryLeaf(a))) revert BadProof();
        (uint256 begin, uint256 finish) = runs.span(e.run, e.number);
        Receipt calldata r = a.receipt;
        bool fine = r.run == e.run && r.epoch == e.number && r.kind <= 2 && r.units != 0 && a.index < e.count;
        if (fine) {
            (address who, ECDSA.RecoverError err,) = ECDSA.tryRecoverCalldata(receiptDigest(r), a.signature);
            fine = err == ECDSA.RecoverError.NoError && who == r.worker && staking.served(r.worker, begin, finish);
        }
        if (fine) revert Innocent();
        _convict(e.run, "receipt");
    }

    /// @notice Two entries for one piece of work, or one index.
    function proveDuplicate(
        Epoch calldata e,
        Entry calldata a,
        bytes32[] calldata proofA,
        Entry calldata b,
        bytes32[] calldata proofB
    ) external nonReentrant {
        _check(e);
        bytes32 la = entryLeaf(a);
        bytes32 lb = entryLeaf(b);
        if (!MerkleProof.verifyCalldata(proofA, e.receipts, la)) revert BadProof();
        if (!MerkleProof.verifyCalldata(proofB, e.receipts, lb)) revert BadProof();
        bool same = a.receipt.worker == b.receipt.worker && a.receipt.kind == b.receipt.kind
            && a.receipt.subject == b.receipt.subject;
        bool guilty = a.index == b.index ? la != lb : same;
        if (!guilty) revert Innocent();
        _convict(e.run, "duplicate");
    }

    /// @notice Two leaves of rewards that contradict each other or the total; the same leaf twice where one is enough.
    function proveRewards(
        Epoch calldata e,
        Reward calldata a,
        bytes32[] calldata proofA,
        Reward calldata b,
        bytes32[] calldata proofB
    ) external nonReentrant {
        _check(e);
        if (!MerkleProof.verifyCalldata(proofA, e.rewards, runs.leafOf(e.run, a))) revert BadProof();
        if (!MerkleProof.verifyCalldata(proofB, e.rewards, runs.leafOf(e.run, b))) revert BadProof();
        uint256 sum = uint256(a.before) + a.amount;
        bool guilty = a.index >= e.accounts || (a.index == 0 && a.before != 0) || sum > e.total
            || (a.index == e.accounts - 1 && sum != e.total);
        if (a.index == b.index) {
            guilty = guilty || a.account != b.account || a.amount != b.amount || a.before != b.before;
        } else {
            guilty = guilty || a.account == b.account || (b.index == uint256(a.index) + 1 && b.before != sum);
        }
        if (!guilty) revert Innocent();
        _convict(e.run, "rewards");
    }

    /// @notice An account whose cumulative reward is lower than in the last finalized tree.
    function proveDecrease(
        Epoch calldata e,
        Reward calldata was,
        bytes32[] calldata proofWas,
        Reward calldata now_,
        bytes32[] calldata proofNow
    ) external nonReentrant {
        _check(e);
        bytes32 root = runs.rewardsOf(e.run);
        if (!MerkleProof.verifyCalldata(proofWas, root, runs.leafOf(e.run, was))) revert BadProof();
        if (!MerkleProof.verifyCalldata(proofNow, e.rewards, runs.leafOf(e.run, now_))) revert BadProof();
        if (was.account != now_.account || now_.amount >= was.amount) revert Innocent();
        _convict(e.run, "decrease");
    }

    // Withheld data: a leaf that is asked for is shown, or the bond is lost.

    function demand(Epoch calldata e, Tree tree, uint64 index) external nonReentrant {
        Settlement.Proposal memory p = _check(e);
        if (block.timestamp > p.deadline) revert TooLate();
        if (index >= (tree == Tree.Rewards ? e.accounts : e.count)) revert BadIndex();
        bytes32 id = demandId(e.run, p.serial, tree, index);
        if (demands[id].challenger != address(0)) revert AlreadyDemanded();
        _enter(e.run, p.serial);
        demands[id] = Demand(msg.sender, uint48(block.timestamp + settlement.params().answerWindow), false);
        emit Demanded(e.run, p.serial, tree, index, msg.sender);
    }

    function answerReward(Epoch calldata e, Reward calldata r, bytes32[] calldata proof) external nonReentrant {
        Settlement.Proposal memory p = _check(e);
        if (!MerkleProof.verifyCalldata(proof, e.rewards, runs.leafOf(e.run, r))) revert BadProof();
        _answer(e.run, p.serial, Tree.Rewards, r.index, abi.encode(r));
    }

    function answerReceipt(Epoch calldata e, Entry calldata a, bytes32[] calldata proof) external nonReentrant {
        Settlement.Proposal memory p = _check(e);
        if (!MerkleProof.verifyCalldata(proof, e.receipts, entryLeaf(a))) revert BadProof();
        _answer(e.run, p.serial, Tree.Receipts, a.index, abi.encode(a));
    }

    /// @notice Convicts who has not shown a leaf in time.
    function expire(Epoch calldata e, Tree tree, uint64 index) external nonReentrant {
        Settlement.Proposal memory p = _check(e);
        Demand storage d = demands[demandId(e.run, p.serial, tree, index)];
        if (d.challenger == address(0) || d.done) revert NoDemand();
        if (block.timestamp <= d.deadline) revert TooEarly();
        d.done = true;
        emit Convicted(e.run, p.serial, d.challenger, "withheld");
        _release(d.challenger, bond);
        settlement.reject(e.run, d.challenger, true);
    }

    /// @notice Returns the bond of a demand whose proposal was rejected for another reason.
    function reclaim(bytes32 run, uint24 serial, Tree tree, uint64 index) external nonReentrant {
        Settlement.Proposal memory p = settlement.proposalOf(run);
        Demand storage d = demands[demandId(run, serial, tree, index)];
        if (d.challenger == address(0) || d.done) revert NoDemand();
        if (p.serial == serial && p.status == Settlement.Status.Proposed) revert StillLive();
        d.done = true;
        _release(d.challenger, bond);
    }

    // Subjective: a committee of validators.

    /// @notice Asks the validators to recompute. `evidence` is the sha2-256 of the CID of the challenger's case.
    function dispute(Epoch calldata e, bytes32 evidence) external nonReentrant {
        Settlement.Proposal memory p = _check(e);
        if (block.timestamp > p.deadline) revert TooLate();
        Case storage c = _cases[e.run];
        if (c.stage != Stage.None && c.stage != Stage.Closed) {
            if (c.serial == p.serial) revert CaseOpen();
            _abandon(e.run, c);
        } else if (c.stage == Stage.Closed && c.serial == p.serial) {
            revert CaseOpen(); // judged already
        }
        _enter(e.run, p.serial);
        Settlement.Params memory q = settlement.params();
        (uint256 begin,) = runs.span(e.run, e.number);
        _cases[e.run] = Case({
            challenger: msg.sender,
            commitEnd: uint48(block.timestamp + q.commitWindow),
            revealEnd: uint48(block.timestamp + q.commitWindow + q.revealWindow),
            serial: p.serial,
            stage: Stage.Voting,
            verdict: Verdict.Undecided,
            appellant: address(0),
            stageEnd: 0,
            begin: uint48(begin),
            guilty: 0,
            innocent: 0,
            evidence: evidence
        });
        emit CaseOpened(e.run, p.serial, msg.sender, evidence);
    }

    /// @notice Commits to a vote. The hash names its voter, so a copy of it is worth nothing to another.
    function commitVote(bytes32 run, bytes32 hash) external {
        Case storage c = _voting(run);
        if (block.timestamp > c.commitEnd) revert TooLate();
        address voter = staking.actorOf(msg.sender);
        if (staking.weightAt(voter, c.begin) == 0) revert NotVoter();
        bytes32 id = caseId(run, c.serial);
        if (commits[id][voter] != 0) revert AlreadyVoted();
        commits[id][voter] = hash;
        emit VoteCommitted(run, c.serial, voter);
    }

    function revealVote(bytes32 run, bool guilty, bytes32 salt) external {
        Case storage c = _voting(run);
        if (block.timestamp <= c.commitEnd) revert TooEarly();
        if (block.timestamp > c.revealEnd) revert TooLate();
        address voter = staking.actorOf(msg.sender);
        bytes32 id = caseId(run, c.serial);
        if (commits[id][voter] == 0 || commits[id][voter] != voteHash(run, c.serial, voter, guilty, salt)) {
            revert BadReveal();
        }
        delete commits[id][voter];
        uint256 w = staking.weightAt(voter, c.begin);
        if (guilty) c.guilty += uint128(w);
        else c.innocent += uint128(w);
        emit VoteRevealed(run, c.serial, voter, guilty, w);
    }

    /// @notice Counts. Two thirds of all validators' stake decide; less leaves the case to governance.
    function decide(bytes32 run) external {
        Case storage c = _voting(run);
        if (block.timestamp <= c.revealEnd) revert TooEarly();
        uint256 total = staking.totalAt(1, c.begin);
        if (total > 0 && uint256(c.guilty) * 3 >= total * 2) c.verdict = Verdict.Guilty;
        else if (total > 0 && uint256(c.innocent) * 3 >= total * 2) c.verdict = Verdict.Innocent;
        Settlement.Params memory q = settlement.params();
        bool clear = c.verdict != Verdict.Undecided;
        c.stage = clear ? Stage.Decided : Stage.Appealed;
        c.stageEnd = uint48(block.timestamp + (clear ? q.appealWindow : q.rulingWindow));
        emit CaseDecided(run, c.serial, c.verdict);
    }

    /// @notice Takes a verdict to governance, for twice a challenger's bond, which is lost if the verdict stands.
    function appeal(bytes32 run) external nonReentrant {
        Case storage c = _cases[run];
        if (c.stage != Stage.Decided || !_current(run, c)) revert WrongStage();
        if (block.timestamp > c.stageEnd) revert TooLate();
        c.stage = Stage.Appealed;
        c.appellant = msg.sender;
        c.stageEnd = uint48(block.timestamp + settlement.params().rulingWindow);
        held += 2 * bond;
        emit CaseAppealed(run, c.serial, msg.sender);
        Money.take(token, msg.sender, 2 * bond);
    }

    /// @notice Governance's word on an appeal.
    function rule(bytes32 run, uint24 serial, bool guilty) external nonReentrant {
        if (msg.sender != settlement.governor()) revert NotGovernor();
        Case storage c = _cases[run];
        if (c.stage != Stage.Appealed || c.serial != serial || !_current(run, c)) revert WrongStage();
        if (block.timestamp > c.stageEnd) revert TooLate();
        Verdict v = guilty ? Verdict.Guilty : Verdict.Innocent;
        bool changed = v != c.verdict;
        c.verdict = v;
        _close(run, c, changed);
    }

    /// @notice Carries out a verdict that was not appealed in time, or not ruled on in time. A case that nobody decided
    /// voids the proposal without blame; its challenger then forfeits half of the bond.
    function execute(bytes32 run) external nonReentrant {
        Case storage c = _cases[run];
        if ((c.stage != Stage.Decided && c.stage != Stage.Appealed) || !_current(run, c)) revert WrongStage();
        if (block.timestamp <= c.stageEnd) revert TooEarly();
        _close(run, c, false);
    }

    /// @notice Slashes a little of who committed a vote and did not reveal it. Only in a case that was counted: in one
    /// that a proof has overtaken, nobody could reveal.
    function punishAbsent(bytes32 run, address voter) external nonReentrant {
        Case storage c = _cases[run];
        bytes32 id = caseId(run, c.serial);
        if (c.stageEnd == 0 || commits[id][voter] == 0) revert NotAbsent();
        delete commits[id][voter];
        Settlement.Params memory q = settlement.params();
        emit AbsentPunished(run, c.serial, voter);
        uint256 amount = (staking.slashable(voter, 1) * q.absentBps) / 10_000;
        staking.slash(voter, 1, amount, msg.sender, q.challengerBps);
    }

    /// @notice Returns the bonds of a case whose proposal was rejected for another reason.
    function abandon(bytes32 run) external nonReentrant {
        Case storage c = _cases[run];
        if (c.stage == Stage.None || c.stage == Stage.Closed || _current(run, c)) revert WrongStage();
        _abandon(run, c);
    }

    // What others read.

    function caseOf(bytes32 run) external view returns (Case memory) {
        return _cases[run];
    }

    function receiptDigest(Receipt calldata r) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(RECEIPT_TYPE, r)));
    }

    function entryLeaf(Entry calldata a) public view returns (bytes32) {
        return keccak256(bytes.concat(keccak256(abi.encode(a.index, receiptDigest(a.receipt), keccak256(a.signature)))));
    }

    function demandId(bytes32 run, uint24 serial, Tree tree, uint64 index) public pure returns (bytes32) {
        return keccak256(abi.encode(run, serial, tree, index));
    }

    function caseId(bytes32 run, uint24 serial) public pure returns (bytes32) {
        return keccak256(abi.encode(run, serial));
    }

    function voteHash(bytes32 run, uint24 serial, address voter, bool guilty, bytes32 salt)
        public
        view
        returns (bytes32)
    {
        return keccak256(abi.encode(block.chainid, address(this), run, serial, voter, guilty, salt));
    }

    function domainSeparator() external view returns (bytes32) {
        return _domainSeparatorV4();
    }

    function _check(Epoch calldata e) private view returns (Settlement.Proposal memory p) {
        p = settlement.proposalOf(e.run);
        if (p.status != Settlement.Status.Proposed) revert NotProposed();
        if (p.hash != settlement.hashOf(e)) revert WrongHash();
    }

    function _current(bytes32 run, Case storage c) private view returns (bool) {
        Settlement.Proposal memory p = settlement.proposalOf(run);
        return p.serial == c.serial && p.status == Settlement.Status.Proposed;
    }

    function _voting(bytes32 run) private view returns (Case storage c) {
        c = _cases[run];
        if (c.stage != Stage.Voting || !_current(run, c)) revert WrongStage();
    }

    function _convict(bytes32 run, string memory reason) private {
        Settlement.Proposal memory p = settlement.proposalOf(run);
        emit Convicted(run, p.serial, msg.sender, reason);
        settlement.reject(run, msg.sender, true);
    }

    function _enter(bytes32 run, uint24 serial) private {
        if (challenging[run][msg.sender] == serial) revert AlreadyChallenging();
        challenging[run][msg.sender] = serial;
        held += bond;
        settlement.open(run);
        Money.take(token, msg.sender, bond);
    }

    function _release(address to, uint256 amount) private {
        held -= amount;
        IERC20(token).safeTransfer(to, amount);
    }

    function _answer(bytes32 run, uint24 serial, Tree tree, uint64 index, bytes memory data) private {
        Demand storage d = demands[demandId(run, serial, tree, index)];
        if (d.challenger == address(0) || d.done) revert NoDemand();
        d.done = true;
        challenging[run][d.challenger] = 0;
        emit Answered(run, serial, tree, index, msg.sender, data);
        settlement.close(run);
        _release(msg.sender, bond);
    }

    /// @dev `to` gets its part of a forfeited bond and the rest is burned.
    function _forfeit(address to, uint256 amount) private {
        uint256 reward = (amount * settlement.params().challengerBps) / 10_000;
        held -= amount;
        if (reward > 0) IERC20(token).safeTransfer(to, reward);
        if (amount > reward) token.burn(amount - reward);
    }

    function _close(bytes32 run, Case storage c, bool overturned) private {
        c.stage = Stage.Closed;
        challenging[run][c.challenger] = 0;
        emit CaseClosed(run, c.serial, c.verdict);
        if (c.appellant != address(0)) {
            if (overturned) {
                _release(c.appellant, 2 * bond);
            } else {
                held -= 2 * bond;
                token.burn(2 * bond);
            }
        }
        if (c.verdict == Verdict.Guilty) {
            _release(c.challenger, bond);
            settlement.reject(run, c.challenger, true);
        } else if (c.verdict == Verdict.Innocent) {
            settlement.close(run);
            _forfeit(settlement.proposalOf(run).proposer, bond);
        } else {
            uint256 half = bond / 2;
            held -= bond - half;
            token.burn(bond - half);
            _release(c.challenger, half);
            settlement.reject(run, c.challenger, false);
        }
    }

    function _abandon(bytes32 run, Case storage c) private {
        c.stage = Stage.Closed;
        emit CaseClosed(run, c.serial, Verdict.Undecided);
        _release(c.challenger, bond);
        if (c.appellant != address(0)) _release(c.appellant, 2 * bond);
    }
}
