// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Governed} from "./Governed.sol";
import {Money} from "./Money.sol";
import {Runs} from "./Runs.sol";
import {Shares} from "./Shares.sol";

/// @title Paid inference: one deposit, then signed cumulative vouchers off the chain.
/// @notice A voucher says how much its payer has spent in the channel in all. Only the amount beyond what was redeemed
/// is paid, so a voucher cannot be used twice, whatever its signature looks like. The run's royalty of each redemption
/// gathers here until somebody passes it on to the holders of its shares. A provider serves no channel that is closing
/// (`closesAt` is set): once its delay is over, the payer can close it before a voucher arrives.
contract Vouchers is EIP712, Governed, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    bytes32 private constant VOUCHER_TYPE = keccak256("Voucher(bytes32 channel,uint128 cumulative)");

    struct Channel {
        address payer;
        uint48 closesAt; // 0 until the payer asks to close
        uint16 royalty; // the run's when the channel was opened
        address provider;
        uint96 due; // royalties not yet passed on
        IERC20 token;
        uint96 deposit;
        uint128 redeemed;
        bytes32 run;
    }

    Runs public immutable runs;
    uint256 public immutable closeDelay; // seconds in which a provider can still redeem

    uint256 public opened; // channels ever
    mapping(bytes32 id => Channel) private _channels;
    /// @notice Royalties of closed channels that are not yet passed on.
    mapping(bytes32 run => uint256) public royalties;

    event Opened(bytes32 indexed id, bytes32 indexed run, address indexed payer, address provider, uint128 amount);
    event ToppedUp(bytes32 indexed id, uint128 amount);
    event Redeemed(bytes32 indexed id, uint128 amount, uint128 royalty, uint128 cumulative);
    event Closing(bytes32 indexed id, uint48 closesAt);
    event Closed(bytes32 indexed id, uint128 returned);
    event Flushed(bytes32 indexed run, uint256 amount);

    error RunUnknown();
    error ZeroAmount();
    error NoChannel();
    error NotPayer();
    error BadSignature();
    error NothingToRedeem();
    error OverDeposit();
    error TooEarly();
    error NothingToFlush();
    error WrongRun();

    constructor(address governor_, address guardian_, Runs runs_, uint256 closeDelay_)
        EIP712("Shoal Vouchers", "1")
        Governed(governor_, guardian_)
    {
        runs = runs_;
        closeDelay = closeDelay_;
    }

    function open(bytes32 run, address provider, uint96 amount)
        external
        whenNotPaused
        nonReentrant
        returns (bytes32 id)
    {
        Runs.Run memory r = runs.get(run);
        if (r.sponsor == address(0)) revert RunUnknown();
        if (amount == 0) revert ZeroAmount();
        id = keccak256(abi.encode(run, msg.sender, provider, ++opened));
        _channels[id] = Channel(msg.sender, 0, r.royalty, provider, 0, r.token, amount, 0, run);
        emit Opened(id, run, msg.sender, provider, amount);
        Money.take(r.token, msg.sender, amount);
    }

    function topUp(bytes32 id, uint96 amount) external whenNotPaused nonReentrant {
        Channel storage c = _channel(id);
        if (amount == 0) revert ZeroAmount();
        c.deposit += amount;
        emit ToppedUp(id, amount);
        Money.take(c.token, msg.sender, amount);
    }

    /// @notice Pays the provider what `cumulative` adds, less the royalty. Anyone may call.
    function redeem(bytes32 id, uint128 cumulative, bytes calldata signature) external nonReentrant {
        Channel storage c = _channel(id);
        if (cumulative <= c.redeemed) revert NothingToRedeem();
        if (cumulative > c.deposit) revert OverDeposit();
        bytes32 h = _hashTypedDataV4(keccak256(abi.encode(VOUCHER_TYPE, id, cumulative)));
        address payer = c.payer;
        (address who, ECDSA.RecoverError err,) = ECDSA.tryRecoverCalldata(h, signature);
        if (
            (err != ECDSA.RecoverError.NoError || who != payer)
                && !SignatureChecker.isValidERC1271SignatureNowCalldata(payer, h, signature)
        ) revert BadSignature();
        uint128 amount = cumulative - c.redeemed;
        c.redeemed = cumulative;
        uint128 royalty = uint128((uint256(amount) * c.royalty) / 10_000);
        if (royalty > 0) c.due += uint96(royalty);
        emit Redeemed(id, amount, royalty, cumulative);
        if (amount > royalty) c.token.safeTransfer(c.provider, amount - royalty);
    }

    function requestClose(bytes32 id) external {
        Channel storage c = _channel(id);
        if (msg.sender != c.payer) revert NotPayer();
        if (c.closesAt == 0) c.closesAt = uint48(block.timestamp + closeDelay);
        emit Closing(id, c.closesAt);
    }

    /// @notice Returns what is left to the payer: at the provider's word at once, otherwise after the delay.
    function close(bytes32 id) external nonReentrant {
        Channel storage c = _channel(id);
        if (msg.sender != c.provider && (c.closesAt == 0 || block.timestamp <= c.closesAt)) revert TooEarly();
        uint128 rest = c.deposit - c.redeemed;
        address payer = c.payer;
        IERC20 token = c.token;
        if (c.due > 0) royalties[c.run] += c.due;
        delete _channels[id];
        emit Closed(id, rest);
        if (rest > 0) token.safeTransfer(payer, rest);
    }

    /// @notice Passes a run's royalties on to the holders of its shares: those of closed channels, and of `ids`. Anyone
    /// may call.
    function flush(bytes32 run, bytes32[] calldata ids) external nonReentrant {
        uint256 amount = royalties[run];
        royalties[run] = 0;
        for (uint256 i; i < ids.length; ++i) {
            Channel storage c = _channel(ids[i]);
            if (c.run != run) revert WrongRun();
            amount += c.due;
            c.due = 0;
        }
        if (amount == 0) revert NothingToFlush();
        Shares shares = runs.get(run).shares;
        IERC20 token = shares.token();
        emit Flushed(run, amount);
        token.forceApprove(address(shares), amount);
        shares.distribute(amount);
    }

    function get(bytes32 id) external view returns (Channel memory) {
        return _channels[id];
    }

    function domainSeparator() external view returns (bytes32) {
        return _domainSeparatorV4();
    }

    function _channel(bytes32 id) private view returns (Channel storage c) {
        c = _channels[id];
        if (c.payer == address(0)) revert NoChannel();
    }
}
