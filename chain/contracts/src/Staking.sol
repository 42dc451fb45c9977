// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {Checkpoints} from "@openzeppelin/contracts/utils/structs/Checkpoints.sol";
import {Nonces} from "@openzeppelin/contracts/utils/Nonces.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Governed} from "./Governed.sol";
import {Money} from "./Money.sol";
import {Token} from "./Token.sol";

/// @title Stakes of trainers and validators, and the hot keys that act for them.
/// @notice Stake is checkpointed in seconds, so that votes count what was there when an epoch began. Leaving takes
/// `unbondDelay`, which is longer than any dispute, and slashing reaches what is on its way out.
contract Staking is EIP712, Nonces, Governed, ReentrancyGuardTransient {
    using Checkpoints for Checkpoints.Trace208;
    using SafeERC20 for IERC20;

    uint8 public constant TRAINER = 0;
    uint8 public constant VALIDATOR = 1;
    uint256 public constant MAX_UNBONDINGS = 10;
    bytes32 private constant KEY_TYPE =
        keccak256("KeyRegistration(address owner,address key,uint256 nonce,uint256 deadline)");

    struct Unbonding {
        uint128 amount;
        uint48 matures; // seconds
    }

    /// @dev A key serves once: from its registration to its revocation, never again after it.
    struct Key {
        address owner;
        uint48 from;
        uint48 until; // 0 while it serves
    }

    Token public immutable token;
    address public immutable settlement;
    address public immutable disputes;
    address public immutable equivocation;
    address public immutable convictions;
    uint256 public immutable unbondDelay; // seconds
    uint128 public minimum; // of a validator's stake, to propose

    /// @notice Every token held for somebody: active stakes and unbondings.
    uint256 public held;
    mapping(address key => Key) public keys;

    mapping(address account => Checkpoints.Trace208[2]) private _stake;
    mapping(address account => Unbonding[][2]) private _leaving;
    Checkpoints.Trace208[2] private _total;

    event Staked(address indexed account, uint8 role, uint256 amount);
    event Unbonded(address indexed account, uint8 role, uint256 amount, uint48 matures);
    event Withdrawn(address indexed account, uint8 role, uint256 amount);
    event Slashed(address indexed account, uint8 role, uint256 amount, address indexed to, uint256 reward);
    event KeyRegistered(address indexed owner, address indexed key);
    event KeyRevoked(address indexed owner, address indexed key);
    event MinimumSet(uint128 minimum);

    error BadRole();
    error ZeroAmount();
    error NotEnoughStake();
    error TooManyUnbondings();
    error NothingMatured();
    error KeyTaken();
    error KeyUnknown();
    error BadSignature();
    error Expired();
    error NotSlasher();
    error Unordered();

    constructor(
        Token token_,
        address governor_,
        address guardian_,
        address settlement_,
        address disputes_,
        address equivocation_,
        address convictions_,
        uint256 unbondDelay_,
        uint128 minimum_
    ) EIP712("Shoal Staking", "1") Governed(governor_, guardian_) {
        token = token_;
        settlement = settlement_;
        disputes = disputes_;
        equivocation = equivocation_;
        convictions = convictions_;
        unbondDelay = unbondDelay_;
        minimum = minimum_;
    }

    modifier known(uint8 role) {
        if (role > VALIDATOR) revert BadRole();
        _;
    }

    function stake(uint8 role, uint128 amount) public known(role) whenNotPaused nonReentrant {
        if (amount == 0) revert ZeroAmount();
        address owner = keys[msg.sender].owner;
        if (owner != address(0) && owner != msg.sender) revert KeyTaken(); // its deeds are its owner's, so its stake would be safe
        Money.take(token, msg.sender, amount);
        held += amount;
        _add(msg.sender, role, amount);
        emit Staked(msg.sender, role, amount);
    }

    function stakeWithPermit(uint8 role, uint128 amount, uint256 deadline, uint8 v, bytes32 r, bytes32 s) external {
        Money.permit(token, amount, deadline, v, r, s);
        stake(role, amount);
    }

    /// @notice Starts to leave. The amount counts for no vote any more, and can still be slashed.
    function unbond(uint8 role, uint128 amount) external known(role) nonReentrant {
        if (amount == 0) revert ZeroAmount();
        if (_stake[msg.sender][role].latest() < amount) revert NotEnoughStake();
        Unbonding[] storage q = _leaving[msg.sender][role];
        if (q.length >= MAX_UNBONDINGS) revert TooManyUnbondings();
        _sub(msg.sender, role, amount);
        uint48 matures = uint48(block.timestamp + unbondDelay);
        q.push(Unbonding(amount, matures));
        emit Unbonded(msg.sender, role, amount, matures);
    }

    /// @notice Pays out every unbonding that has matured.
    function withdraw(uint8 role) external known(role) nonReentrant {
        Unbonding[] storage q = _leaving[msg.sender][role];
        uint256 n = q.length;
        uint256 kept;
        uint256 out;
        for (uint256 i; i < n; ++i) {
            Unbonding memory u = q[i];
            if (u.matures <= block.timestamp) {
                out += u.amount;
            } else {
                q[kept++] = u;
            }
        }
        if (kept == n) revert NothingMatured();
        for (; n > kept; --n) q.pop();
        held -= out;
        emit Withdrawn(msg.sender, role, out);
        IERC20(token).safeTransfer(msg.sender, out);
    }

    /// @notice Lets `key` sign receipts, roots and verdicts for the caller. It can never move stake. An account that
    /// keeps no second key may register itself. The key consents
    /// by its own signature, which is bound to this chain, this contract and the caller's nonce. An account that has
    /// ever staked becomes nobody else's key: it could hand what it answers for to another.
    function registerKey(address key, uint256 deadline, bytes calldata signature) external {
        if (block.timestamp > deadline) revert Expired();
        if (keys[key].owner != address(0)) revert KeyTaken();
        if (key != msg.sender && _stake[key][TRAINER].length() + _stake[key][VALIDATOR].length() != 0) revert KeyTaken();
        bytes32 h = _hashTypedDataV4(keccak256(abi.encode(KEY_TYPE, msg.sender, key, _useNonce(msg.sender), deadline)));
        (address who, ECDSA.RecoverError err, ) = ECDSA.tryRecoverCalldata(h, signature);
        if (err != ECDSA.RecoverError.NoError || who != key) revert BadSignature();
        keys[key] = Key(msg.sender, uint48(block.timestamp), 0);
        emit KeyRegistered(msg.sender, key);
    }

    function revokeKey(address key) external {
        Key storage k = keys[key];
        if (k.owner != msg.sender || k.until != 0) revert KeyUnknown();
        k.until = uint48(block.timestamp);
        emit KeyRevoked(msg.sender, key);
    }

    /// @notice Takes `amount`, or what there is, from active stake and then from what is leaving. `to` gets `rewardBps`
    /// of it and the rest is burned, so that nobody who judges is paid by a verdict.
    function slash(address account, uint8 role, uint256 amount, address to, uint256 rewardBps)
        external
        nonReentrant
        returns (uint256 taken)
    {
        if (
            msg.sender != settlement && msg.sender != disputes && msg.sender != equivocation && msg.sender != convictions
        ) revert NotSlasher();
        uint256 active = _stake[account][role].latest();
        taken = amount < active ? amount : active;
        if (taken > 0) _sub(account, role, uint128(taken));
        Unbonding[] storage q = _leaving[account][role];
        for (uint256 i; i < q.length && taken < amount; ++i) {
            uint256 part = q[i].amount;
            if (part > amount - taken) part = amount - taken;
            q[i].amount -= uint128(part);
            taken += part;
        }
        uint256 reward = (taken * rewardBps) / 10_000;
        held -= taken;
        emit Slashed(account, role, taken, to, reward);
        if (reward > 0) IERC20(token).safeTransfer(to, reward);
        if (taken > reward) token.burn(taken - reward);
    }

    function setMinimum(uint128 minimum_) external onlyGovernor {
        minimum = minimum_;
        emit MinimumSet(minimum_);
    }

    // What others read.

    /// @notice For whom `who` acts: its owner, where it is or was a hot key, and itself otherwise.
    function accountOf(address who) public view returns (address) {
        address owner = keys[who].owner;
        return owner == address(0) ? who : owner;
    }

    /// @notice For whom `who` may act now: as accountOf, but never by a key that was revoked.
    function actorOf(address who) public view returns (address) {
        Key memory k = keys[who];
        if (k.owner == address(0) || k.owner == who) return who;
        if (k.until != 0) revert KeyUnknown();
        return k.owner;
    }

    /// @notice Who answers for what `key` has signed. For a revoked key that ends with the unbonding delay: a message
    /// has no date that the chain could know, and who finds an old key must not have its owner in hand for ever.
    function answerable(address key) external view returns (address) {
        Key memory k = keys[key];
        if (k.owner == address(0) || k.owner == key) return key;
        if (k.until != 0 && block.timestamp > k.until + unbondDelay) revert KeyUnknown();
        return k.owner;
    }

    /// @notice Whether `key` served at some time in [from, to).
    function served(address key, uint256 from, uint256 to) external view returns (bool) {
        Key memory k = keys[key];
        return k.owner != address(0) && k.from < to && (k.until == 0 || k.until > from);
    }

    function stakeOf(address account, uint8 role) public view returns (uint256) {
        return _stake[account][role].latest();
    }

    function stakeAt(address account, uint8 role, uint256 time) public view returns (uint256) {
        return _stake[account][role].upperLookupRecent(uint48(time));
    }

    function totalAt(uint8 role, uint256 time) public view returns (uint256) {
        return _total[role].upperLookupRecent(uint48(time));
    }

    function totalOf(uint8 role) external view returns (uint256) {
        return _total[role].latest();
    }

    /// @notice What a slash can still reach: active and leaving.
    function slashable(address account, uint8 role) public view returns (uint256 sum) {
        sum = _stake[account][role].latest();
        Unbonding[] storage q = _leaving[account][role];
        for (uint256 i; i < q.length; ++i) sum += q[i].amount;
    }

    /// @notice A validator's weight in an epoch that began at `time`: its stake then, as far as it can still be lost.
    function weightAt(address account, uint256 time) public view returns (uint256 w) {
        w = stakeAt(account, VALIDATOR, time);
        uint256 s = slashable(account, VALIDATOR);
        if (s < w) w = s;
    }

    /// @notice With what whom `who` acts for may propose, and the least that lets it: its stake at `time` that is still
    /// active. What is leaving may be gone before the dispute is over, what leaves later is not.
    function standing(address who, uint256 time) external view returns (uint256 weight, uint256 least) {
        address account = actorOf(who);
        weight = stakeAt(account, VALIDATOR, time);
        uint256 active = stakeOf(account, VALIDATOR);
        if (active < weight) weight = active;
        least = minimum;
    }

    /// @notice Adds up the weights at `time` of the owners of `signers`, and all validators' stake then. Owners must
    /// ascend, so none counts twice; only keys that serve now count.
    function tally(address[] calldata signers, uint256 time) external view returns (uint256 sum, uint256 total) {
        address last;
        for (uint256 i; i < signers.length; ++i) {
            Key memory k = keys[signers[i]];
            if (k.owner == address(0) || k.until != 0) revert KeyUnknown();
            if (k.owner <= last) revert Unordered();
            last = k.owner;
            sum += weightAt(k.owner, time);
        }
        total = totalAt(VALIDATOR, time);
    }

    function unbondings(address account, uint8 role) external view returns (Unbonding[] memory) {
        return _leaving[account][role];
    }

    function domainSeparator() external view returns (bytes32) {
        return _domainSeparatorV4();
    }

    function _add(address account, uint8 role, uint128 amount) private {
        _stake[account][role].push(uint48(block.timestamp), uint208(_stake[account][role].latest() + amount));
        _total[role].push(uint48(block.timestamp), uint208(_total[role].latest() + amount));
    }

    function _sub(address account, uint8 role, uint128 amount) private {
        _stake[account][role].push(uint48(block.timestamp), uint208(_stake[account][role].latest() - amount));
        _total[role].push(uint48(block.timestamp), uint208(_total[role].latest() - amount));
    }
}
