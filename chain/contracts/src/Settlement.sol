// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
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

/// @dev One leaf of the tree of rewards. `before` is the sum of the amounts of the leaves with lower indices, so that
/// a wrong sum shows in two leaves.
struct Reward {
    uint64 index;
    address account;
    uint128 amount; // cumulative
    uint128 before;
}

/// @title Epoch roots: proposed with a bond, finalized by two thirds of the validators' stake at once or by nobody's
/// objection in time, and claimed from by Merkle proof.
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

    struct Final {
        bytes32 rewards;
        uint128 total;
        uint64 epoch;
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
    /// @notice Bonds of live proposals.
    uint256 public held;
    mapping(bytes32 run => Proposal) private _proposals;
    mapping(bytes32 run => Final) private _finals;
    mapping(bytes32 run => mapping(address account => uint128)) public claimed;

    event Proposed(bytes32 indexed run, uint64 indexed number, address indexed proposer, uint24 serial, Epoch epoch);
    event Finalized(bytes32 indexed run, uint64 indexed number, bytes32 rewards, uint128 total, bool fast);
    event Rejected(bytes32 indexed run, uint24 serial, address indexed proposer, address indexed challenger, bool slashed);
    event Claimed(bytes32 indexed run, address indexed account, uint128 amount, uint128 cumulative);
    event ParamsSet(Params params);

    error BadParams();
    error AlreadyProposed();
    error WrongEpoch();
    error WrongTotal();
    error EmptyTree();
    error NotValidator();
    error NotProposed();
    error WrongHash();
    error TooEarly();
    error Challenged();
    error BadSignature();
    error TooFewVotes();
    error BadProof();
    error NothingToClaim();
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

    /// @notice Proposes what came out of an epoch that is over. The caller, or the owner of the hot key that calls, has
    /// staked as a validator since before the epoch began; the caller pays the bond and gets it back.
    function propose(Epoch calldata e) external whenNotPaused nonReentrant {
        Proposal storage p = _proposals[e.run];
        if (p.status == Status.Proposed) revert AlreadyProposed();
        uint128 total = _finals[e.run].total;
        if (e.number <= _finals[e.run].epoch) revert WrongEpoch();
        if (e.accounts == 0 || e.count == 0) revert EmptyTree();
        (uint256 begin,) = runs.check(e.run, e.number, [e.trainers, e.workers, e.validators, e.sponsor]);
        if (e.total != total + e.trainers + e.workers + e.validators + e.sponsor) revert WrongTotal();
        uint256 weight = staking.weightAt(staking.accountOf(msg.sender), begin);
        if (weight == 0 || weight < staking.minimum()) revert NotValidator();
        p.hash = hashOf(e);
        p.proposer = msg.sender;
        p.deadline = uint48(block.timestamp + _params.challengeWindow);
        p.serial += 1;
        p.open = 0;
        p.status = Status.Proposed;
        held += bond;
        emit Proposed(e.run, e.number, msg.sender, p.serial, e);
        Money.take(token, msg.sender, bond);
    }

    /// @notice Finalizes at once, by signatures of hot keys whose owners hold two thirds of the validators' stake at
    /// the epoch's beginning. Signatures are in ascending order of the owners.
    function finalizeFast(Epoch calldata e, bytes[] calldata signatures) external nonReentrant {
        _live(e);
        bytes32 digest = _hashTypedDataV4(hashOf(e));
        address[] memory signers = new address[](signatures.length);
        for (uint256 i; i < signatures.length; ++i) {
            ECDSA.RecoverError err;
            (signers[i], err,) = ECDSA.tryRecoverCalldata(digest, signatures[i]);
            if (err != ECDSA.RecoverError.NoError) revert BadSignature();
        }
        (uint256 begin,) = runs.span(e.run, e.number);
        (uint256 sum, uint256 total) = staking.tally(signers, begin);
        if (total == 0 || sum * 3 < total * 2) revert TooFewVotes();
        _finalize(e, true);
    }

    /// @notice Finalizes what nobody has objected to in time, or whose challenges have all been answered.
    function finalize(Epoch calldata e) external nonReentrant {
        Proposal storage p = _live(e);
        if (block.timestamp <= p.deadline) revert TooEarly();
        _finalize(e, false);
    }

    /// @notice Pays `account` what its leaf in the last finalized tree says beyond what it has had. Anyone may call.
    function claim(bytes32 run, Reward calldata r, bytes32[] calldata proof) external nonReentrant {
        if (!MerkleProof.verifyCalldata(proof, _finals[run].rewards, leafOf(run, r))) revert BadProof();
        uint128 had = claimed[run][r.account];
        if (r.amount <= had) revert NothingToClaim();
        claimed[run][r.account] = r.amount;
        emit Claimed(run, r.account, r.amount - had, r.amount);
        runs.pay(run, r.account, r.amount - had);
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
        held -= bond;
        emit Rejected(run, p.serial, p.proposer, challenger, guilty);
        if (!guilty) {
            IERC20(token).safeTransfer(p.proposer, bond);
            return;
        }
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

    function finalOf(bytes32 run) external view returns (Final memory) {
        return _finals[run];
    }

    function live(bytes32 run) external view returns (bool) {
        return _proposals[run].status == Status.Proposed;
    }

    function hashOf(Epoch calldata e) public pure returns (bytes32) {
        return keccak256(abi.encode(EPOCH_TYPE, e));
    }

    function leafOf(bytes32 run, Reward calldata r) public pure returns (bytes32) {
        return keccak256(bytes.concat(keccak256(abi.encode(run, r))));
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

    function _finalize(Epoch calldata e, bool fast) private {
        Proposal storage p = _proposals[e.run];
        p.status = Status.Finalized;
        _finals[e.run] = Final(e.rewards, e.total, e.number);
        held -= bond;
        emit Finalized(e.run, e.number, e.rewards, e.total, fast);
        runs.allot(e.run, e.trainers + e.workers + e.validators + e.sponsor);
        IERC20(token).safeTransfer(p.proposer, bond);
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
