// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Governed} from "./Governed.sol";
import {Money} from "./Money.sol";
import {Runs} from "./Runs.sol";
import {Staking} from "./Staking.sol";
import {Token} from "./Token.sol";

/// @dev What a validator says came out of one epoch of a run. Rewards are cumulative over all epochs.
struct Epoch {
    bytes32 run;
    uint64 number;
    bytes32 commit; // sha2-256 of the final commit's CID
    bytes32 rewards; // Merkle root of Reward leaves
    bytes32 receipts; // Merkle root of receipt leaves
    uint64 accounts; // number of Reward leaves
    uint64 count; // number of receipt leaves
    uint128 trainers; // this epoch's amounts, by role
    uint128 workers;
    uint128 validators;
    uint128 sponsor;
    uint128 total; // cumulative, this epoch's amounts included: the sum over the Reward leaves
}

/// @title Epoch roots: proposed with a bond, and finalized by two thirds of the validators' stake at once or by
/// nobody's objection in time. Who proposes often keeps bonds here, so that a proposal moves no tokens.
contract Settlement is EIP712, Governed, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    bytes32 private constant EPOCH_TYPE = keccak256(
        "Epoch(bytes32 run,uint64 number,bytes32 commit,bytes32 rewards,bytes32 receipts,uint64 accounts,uint64 count,uint128 trainers,uint128 workers,uint128 validators,uint128 sponsor,uint128 total)"
    );

    enum Status {
        None,
        Proposed,
        Finalized,
        Rejected
    }

    struct Proposal {
        bytes32 hash; // of the Epoch
        address proposer;
        uint48 deadline; // for challenges, seconds
        uint24 serial; // counts the run's proposals
        uint16 open; // challenges without an answer
        Status status;
    }

    /// @dev Seconds, and parts per 10,000.
    struct Params {
        uint32 challengeWindow;
        uint32 answerWindow;
        uint32 commitWindow;
        uint32 revealWindow;
        uint32 appealWindow;
        uint32 rulingWindow;
        uint16 slashBps; // of a convicted proposer's stake
        uint16 challengerBps; // of what is slashed or forfeited, to who was right; the rest is burned
        uint16 absentBps; // of the stake of who commits a vote and does not reveal it
    }

    Token public immutable token;
    Runs public immutable runs;
    Staking public immutable staking;
    address public immutable disputes;
    uint128 public immutable bond; // of a proposer

    Params private _params;
    /// @notice Every bond here: free ones and those of live proposals.
    uint256 public held;
    /// @notice Bonds that are free, by who put them in.
    mapping(address account => uint256) public bonds;
    mapping(bytes32 run => Proposal) private _proposals;

    event Proposed(bytes32 indexed run, uint64 indexed number, address indexed proposer, uint24 serial, Epoch epoch);
    event Finalized(bytes32 indexed run, uint64 indexed number, bytes32 rewards, uint128 total, bool fast);
    event Rejected(bytes32 indexed run, uint24 serial, address indexed proposer, address indexed challenger, bool slashed);
    event BondDeposited(address indexed account, uint256 amount);
    event BondWithdrawn(address indexed account, uint256 amount);
    event ParamsSet(Params params);

    error BadParams();
    error AlreadyProposed();
    error WrongTotal();
    error EmptyTree();
    error NotValidator();
    error NotProposed();
    error WrongHash();
    error TooEarly();
    error Challenged();
    error BadSignature();
    error TooFewVotes();
    error NoBond();
    error ZeroAmount();
    error NotDisputes();

    constructor(
        Token token_,
        address governor_,
        address guardian_,
        Runs runs_,
        Staking staking_,
        address disputes_,
        uint128 bond_,
        Params memory params_
    ) EIP712("Shoal Settlement", "1") Governed(governor_, guardian_) {
        token = token_;
        runs = runs_;
        staking = staking_;
        disputes = disputes_;
        bond = bond_;
        _setParams(params_);
    }

    modifier onlyDisputes() {
        if (msg.sender != disputes) revert NotDisputes();
        _;
    }

    function depositBond(uint128 amount) external whenNotPaused nonReentrant {
        if (amount == 0) revert ZeroAmount();
        Money.take(token, msg.sender, amount);
        held += amount;
        bonds[msg.sender] += amount;
        emit BondDeposited(msg.sender, amount);
    }

    function withdrawBond(uint128 amount) external nonReentrant {
        if (amount == 0) revert ZeroAmount();
        if (amount > bonds[msg.sender]) revert NoBond();
        bonds[msg.sender] -= amount;
        held -= amount;
        emit BondWithdrawn(msg.sender, amount);
        IERC20(token).safeTransfer(msg.sender, amount);
    }

    /// @notice Proposes what came out of an epoch that is over. The caller, or the owner of the hot key that calls, has
    /// staked as a validator since before the epoch began; the caller has a free bond here and gets it back.
    function propose(Epoch calldata e) external whenNotPaused {
        Proposal storage p = _proposals[e.run];
        if (p.status == Status.Proposed) revert AlreadyProposed();
        if (e.accounts == 0 || e.count == 0) revert EmptyTree();
        (uint256 begin, uint128 total) =
            runs.check(e.run, e.number, [e.trainers, e.workers, e.validators, e.sponsor]);
        if (e.total != total + e.trainers + e.workers + e.validators + e.sponsor) revert WrongTotal();
        (uint256 weight, uint256 least) = staking.standing(msg.sender, begin);
        if (weight == 0 || weight < least) revert NotValidator();
        uint256 free = bonds[msg.sender];
        if (free < bond) revert NoBond();
        bonds[msg.sender] = free - bond;
        uint24 serial = p.serial + 1;
        _proposals[e.run] = Proposal(
            hashOf(e), msg.sender, uint48(block.timestamp + _params.challengeWindow), serial, 0, Status.Proposed
        );
        emit Proposed(e.run, e.number, msg.sender, serial, e);
    }

    /// @notice Finalizes at once, by signatures of hot keys whose owners hold two thirds of the validators' stake at
    /// the epoch's beginning. Signatures are in ascending order of the owners.
    function finalizeFast(Epoch calldata e, bytes[] calldata signatures) external {
        Proposal storage p = _live(e);
        bytes32 digest = _hashTypedDataV4(p.hash);
        address[] memory signers = new address[](signatures.length);
        for (uint256 i; i < signatures.length; ++i) {
            ECDSA.RecoverError err;
            (signers[i], err,) = ECDSA.tryRecoverCalldata(digest, signatures[i]);
            if (err != ECDSA.RecoverError.NoError) revert BadSignature();
        }
        (uint256 begin,) = runs.span(e.run, e.number);
        (uint256 sum, uint256 total) = staking.tally(signers, begin);
        if (total == 0 || sum * 3 < total * 2) revert TooFewVotes();
        _finalize(e, p, true);
    }

    /// @notice Finalizes what nobody has objected to in time, or whose challenges have all been answered.
    function finalize(Epoch calldata e) external {
        Proposal storage p = _live(e);
        if (block.timestamp <= p.deadline) revert TooEarly();
        _finalize(e, p, false);
    }

    // What the disputes do.

    function open(bytes32 run) external onlyDisputes {
        _proposals[run].open += 1;
    }

    function close(bytes32 run) external onlyDisputes {
        _proposals[run].open -= 1;
    }

    /// @notice Ends a proposal. With `guilty` its bond and a part of its stake are lost, part of that to `challenger`;
    /// without, the bond goes back.
    function reject(bytes32 run, address challenger, bool guilty) external onlyDisputes nonReentrant {
        Proposal storage p = _proposals[run];
        if (p.status != Status.Proposed) revert NotProposed();
        p.status = Status.Rejected;
        emit Rejected(run, p.serial, p.proposer, challenger, guilty);
        if (!guilty) {
            bonds[p.proposer] += bond;
            return;
        }
        held -= bond;
        uint256 reward = (uint256(bond) * _params.challengerBps) / 10_000;
        if (reward > 0) IERC20(token).safeTransfer(challenger, reward);
        if (bond > reward) token.burn(bond - reward);
        address account = staking.accountOf(p.proposer);
        uint256 amount = (staking.slashable(account, 1) * _params.slashBps) / 10_000;
        staking.slash(account, 1, amount, challenger, _params.challengerBps);
    }

    function setParams(Params calldata p) external onlyGovernor {
        _setParams(p);
    }

    // What others read.

    function params() external view returns (Params memory) {
        return _params;
    }

    function proposalOf(bytes32 run) external view returns (Proposal memory) {
        return _proposals[run];
    }

    function live(bytes32 run) external view returns (bool) {
        return _proposals[run].status == Status.Proposed;
    }

    function hashOf(Epoch calldata e) public pure returns (bytes32) {
        return keccak256(abi.encode(EPOCH_TYPE, e));
    }

    function domainSeparator() external view returns (bytes32) {
        return _domainSeparatorV4();
    }

    function _live(Epoch calldata e) private view returns (Proposal storage p) {
        p = _proposals[e.run];
        if (p.status != Status.Proposed) revert NotProposed();
        if (p.hash != hashOf(e)) revert WrongHash();
        if (p.open != 0) revert Challenged();
    }

    function _finalize(Epoch calldata e, Proposal storage p, bool fast) private {
        p.status = Status.Finalized;
        bonds[p.proposer] += bond;
        emit Finalized(e.run, e.number, e.rewards, e.total, fast);
        runs.settle(e.run, e.number, e.rewards, e.trainers + e.workers + e.validators + e.sponsor);
    }

    function _setParams(Params memory p) private {
        uint256 sum = uint256(p.challengeWindow) + p.answerWindow + p.commitWindow + p.revealWindow + p.appealWindow
            + p.rulingWindow;
        if (
            p.challengeWindow == 0 || p.answerWindow == 0 || p.commitWindow == 0 || p.revealWindow == 0
                || p.slashBps > 10_000 || p.challengerBps > 5_000 || p.absentBps > 1_000 || sum >= staking.unbondDelay()
        ) revert BadParams();
        _params = p;
        emit ParamsSet(p);
    }
}
