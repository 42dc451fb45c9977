// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {Checkpoints} from "@openzeppelin/contracts/utils/structs/Checkpoints.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Strings} from "@openzeppelin/contracts/utils/Strings.sol";
import {Governed} from "./Governed.sol";
import {Money} from "./Money.sol";
import {ShareFactory, Shares} from "./Shares.sol";

/// @dev One leaf of the tree of rewards. `before` is the sum of the amounts of the leaves with lower indices, so that
/// a wrong sum shows in two leaves.
struct Reward {
    uint64 index;
    address account;
    uint128 amount; // cumulative over all epochs
    uint128 before;
}

interface ILive {
    function live(bytes32 run) external view returns (bool);
}

/// @title Training runs and their money.
/// @notice A run's pool pays for its epochs. An epoch's rates are those set before it began, so nobody's work is
/// repriced. What a finalized epoch allots leaves the pool and waits, without a deadline, for its workers.
contract Runs is Governed, ReentrancyGuardTransient {
    using Checkpoints for Checkpoints.Trace208;
    using SafeERC20 for IERC20;

    /// @dev What one epoch may cost at most, and how that divides, in parts per 10,000: trainers, rollout workers,
    /// validators, sponsor.
    struct Rate {
        uint128 budget;
        uint16[4] split;
    }

    struct Run {
        address sponsor;
        uint48 start; // of epoch 1, seconds
        bool paused;
        IERC20 token;
        uint96 unclaimed;
        uint128 pool;
        uint128 total; // of all finalized epochs
        uint48 ended; // 0 while it goes on
        uint32 length; // of an epoch, seconds
        uint16 royalty; // of paid inference, to the share holders, parts per 10,000
        uint64 epoch; // the last that was finalized
        bytes32 rewards; // its root of Reward leaves
        Shares shares; // 0: the run has none
        bytes32 manifest; // sha2-256 of the manifest's CID
    }

    struct Terms {
        IERC20 token;
        bytes32 manifest;
        uint48 start;
        uint32 length;
        uint16 royalty;
        bool shares;
        Rate rate;
    }

    uint32 public constant MIN_LENGTH = 10;
    uint32 public constant MAX_LENGTH = 30 days;

    address public immutable settlement;
    ShareFactory public immutable factory;
    uint256 public immutable claimWindow; // seconds after the end in which epochs can still be settled

    mapping(bytes32 id => Run) private _runs;
    mapping(bytes32 id => Checkpoints.Trace208) private _rates;
    mapping(bytes32 id => mapping(address account => uint128)) public claimed;

    event Published(bytes32 indexed run, bytes32 indexed manifest, address indexed sponsor, IERC20 token, Shares shares);
    event RateSet(bytes32 indexed run, uint64 fromEpoch, uint128 budget, uint16[4] split);
    event Funded(bytes32 indexed run, address indexed from, uint256 amount);
    event PausedSet(bytes32 indexed run, bool paused);
    event Ended(bytes32 indexed run, uint48 time);
    event Refunded(bytes32 indexed run, uint256 amount);
    event Claimed(bytes32 indexed run, address indexed account, uint128 amount, uint128 cumulative);

    error RunExists();
    error RunUnknown();
    error BadTerms();
    error NotSponsor();
    error RunPaused();
    error RunEnded();
    error RunLive();
    error TooEarly();
    error ZeroAmount();
    error NotSettlement();
    error OverBudget();
    error WrongEpoch();
    error BadProof();
    error NothingToClaim();
    error NothingToRefund();

    constructor(address governor_, address guardian_, address settlement_, ShareFactory factory_, uint256 claimWindow_)
        Governed(governor_, guardian_)
    {
        settlement = settlement_;
        factory = factory_;
        claimWindow = claimWindow_;
    }

    modifier onlySponsor(bytes32 id) {
        if (_runs[id].sponsor != msg.sender) revert NotSponsor();
        _;
    }

    /// @notice A run's ID names its manifest and its sponsor: nobody can take another's name.
    function idOf(bytes32 manifest, address sponsor) public pure returns (bytes32) {
        return keccak256(abi.encode(manifest, sponsor));
    }

    function publish(Terms calldata t) external whenNotPaused nonReentrant returns (bytes32 id) {
        id = idOf(t.manifest, msg.sender);
        if (_runs[id].sponsor != address(0)) revert RunExists();
        if (
            address(t.token).code.length == 0 || t.start < block.timestamp || t.start > block.timestamp + 365 days
                || t.length < MIN_LENGTH || t.length > MAX_LENGTH || t.royalty > 10_000
        ) revert BadTerms();
        Run storage r = _runs[id];
        r.sponsor = msg.sender;
        r.start = t.start;
        r.length = t.length;
        r.token = t.token;
        r.royalty = t.shares ? t.royalty : 0;
        r.manifest = t.manifest;
        r.rewards = keccak256(abi.encode(id)); // no tree's root; the slot is paid for here and not by the first epoch
        if (t.shares) r.shares = factory.create(id, t.token, _symbol(id));
        emit Published(id, t.manifest, msg.sender, t.token, r.shares);
        _setRate(id, 1, t.rate);
    }

    /// @notice Changes the rate from the next epoch on.
    function setRate(bytes32 id, Rate calldata rate) external onlySponsor(id) {
        if (_runs[id].ended != 0) revert RunEnded();
        _setRate(id, epochAt(id, block.timestamp) + 1, rate);
    }

    /// @notice Adds to the pool; anyone may. It is a gift: what is left over goes to the sponsor.
    function fund(bytes32 id, uint128 amount) public whenNotPaused nonReentrant {
        Run storage r = _runs[id];
        if (r.sponsor == address(0)) revert RunUnknown();
        if (r.ended != 0) revert RunEnded();
        if (r.paused) revert RunPaused();
        if (amount == 0) revert ZeroAmount();
        Money.take(r.token, msg.sender, amount);
        r.pool += amount;
        emit Funded(id, msg.sender, amount);
    }

    function fundWithPermit(bytes32 id, uint128 amount, uint256 deadline, uint8 v, bytes32 r, bytes32 s) external {
        IERC20 token = _runs[id].token;
        if (address(token) == address(0)) revert RunUnknown();
        Money.permit(token, amount, deadline, v, r, s);
        fund(id, amount);
    }

    /// @notice Stops deposits and proposals until it is taken back, at the latest by the run's end.
    function setPaused(bytes32 id, bool paused_) external onlySponsor(id) {
        if (_runs[id].ended != 0) revert RunEnded();
        _runs[id].paused = paused_;
        emit PausedSet(id, paused_);
    }

    /// @notice No epoch begins after this. Those that have begun can be settled for a while, whatever the sponsor wants:
    /// a pause ends here, or the pool would come back to who has not paid.
    function end(bytes32 id) external onlySponsor(id) {
        if (_runs[id].ended != 0) revert RunEnded();
        _runs[id].ended = uint48(block.timestamp);
        _runs[id].paused = false;
        emit Ended(id, uint48(block.timestamp));
    }

    /// @notice Returns the pool to the sponsor once no epoch can be settled any more.
    function refund(bytes32 id) external nonReentrant {
        Run storage r = _runs[id];
        if (r.sponsor == address(0)) revert RunUnknown();
        if (r.ended == 0 || block.timestamp <= r.ended + r.length + claimWindow) revert TooEarly();
        if (ILive(settlement).live(id)) revert RunLive();
        uint128 amount = r.pool;
        if (amount == 0) revert NothingToRefund();
        r.pool = 0;
        emit Refunded(id, amount);
        r.token.safeTransfer(r.sponsor, amount);
    }

    /// @notice Pays `account` what its leaf in the last finalized tree says beyond what it has had. Anyone may call.
    function claim(bytes32 id, Reward calldata w, bytes32[] calldata proof) external nonReentrant {
        Run storage r = _runs[id];
        if (!MerkleProof.verifyCalldata(proof, r.rewards, leafOf(id, w))) revert BadProof();
        uint128 had = claimed[id][w.account];
        if (w.amount <= had) revert NothingToClaim();
        uint128 due = w.amount - had;
        (IERC20 token, uint96 unclaimed) = (r.token, r.unclaimed);
        if (due > unclaimed) revert OverBudget();
        claimed[id][w.account] = w.amount;
        r.unclaimed = unclaimed - uint96(due);
        emit Claimed(id, w.account, due, w.amount);
        token.safeTransfer(w.account, due);
    }

    /// @notice Takes over what the settlement has finalized: `amount` leaves the pool and waits for its workers.
    function settle(bytes32 id, uint64 epoch, bytes32 rewards, uint128 amount) external {
        if (msg.sender != settlement) revert NotSettlement();
        Run storage r = _runs[id];
        (r.pool, r.total) = (r.pool - amount, r.total + amount);
        r.unclaimed += uint96(amount); // check has looked that it fits
        r.epoch = epoch;
        r.rewards = rewards;
    }

    // What others read.

    function get(bytes32 id) external view returns (Run memory) {
        return _runs[id];
    }

    /// @notice The epoch that runs at `time`; 0 before the first.
    function epochAt(bytes32 id, uint256 time) public view returns (uint64) {
        Run storage r = _runs[id];
        if (r.sponsor == address(0)) revert RunUnknown();
        return time < r.start ? 0 : uint64((time - r.start) / r.length + 1);
    }

    function rateAt(bytes32 id, uint64 epoch) public view returns (Rate memory rate) {
        uint208 x = _rates[id].upperLookupRecent(uint48(epoch));
        rate.budget = uint128(x);
        for (uint256 i; i < 4; ++i) rate.split[i] = uint16(x >> (128 + 16 * i));
    }

    /// @notice When epoch `number` began, and the total up to now, once a proposal of these amounts is in order.
    function check(bytes32 id, uint64 number, uint128[4] calldata amounts)
        external
        view
        returns (uint256 begin, uint128 total)
    {
        Run storage r = _runs[id];
        if (r.sponsor == address(0)) revert RunUnknown();
        if (number <= r.epoch || number > type(uint48).max) revert WrongEpoch();
        if (r.paused) revert RunPaused();
        if (paused()) revert EnforcedPause();
        (uint256 ended, uint256 length) = (r.ended, r.length);
        begin = r.start + uint256(number - 1) * length;
        if (block.timestamp < begin + length) revert TooEarly();
        if (ended != 0 && (begin >= ended || block.timestamp > ended + length + claimWindow)) revert RunEnded();
        Rate memory rate = rateAt(id, number);
        uint256 sum;
        for (uint256 i; i < 4; ++i) {
            if (amounts[i] > (uint256(rate.budget) * rate.split[i]) / 10_000) revert OverBudget();
            sum += amounts[i];
        }
        if (sum > r.pool || sum + r.unclaimed > type(uint96).max) revert OverBudget();
        total = r.total;
    }

    function rewardsOf(bytes32 id) external view returns (bytes32) {
        return _runs[id].rewards;
    }

    function leafOf(bytes32 id, Reward calldata w) public pure returns (bytes32) {
        return keccak256(bytes.concat(keccak256(abi.encode(id, w))));
    }

    /// @notice Epoch `number`, from 1, covers [begin, finish).
    function span(bytes32 id, uint64 number) public view returns (uint256 begin, uint256 finish) {
        Run storage r = _runs[id];
        if (number == 0 || number > type(uint48).max) revert WrongEpoch();
        begin = r.start + uint256(number - 1) * r.length;
        finish = begin + r.length;
    }

    function _setRate(bytes32 id, uint64 epoch, Rate calldata rate) private {
        uint256 sum;
        uint208 x = rate.budget;
        for (uint256 i; i < 4; ++i) {
            sum += rate.split[i];
            x |= uint208(rate.split[i]) << uint208(128 + 16 * i);
        }
        if (sum != 10_000) revert BadTerms();
        _rates[id].push(uint48(epoch), x);
        emit RateSet(id, epoch, rate.budget, rate.split);
    }

    function _symbol(bytes32 id) private pure returns (string memory) {
        return Strings.toHexString(uint32(bytes4(id)), 4);
    }
}
