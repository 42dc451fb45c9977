// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";
import {ERC20Votes} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Votes.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Nonces} from "@openzeppelin/contracts/utils/Nonces.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Money} from "./Money.sol";

interface IClaimed {
    function claimed(bytes32 run, address account) external view returns (uint128);
}

/// @title Ownership of one run's model.
/// @notice One share for each unit of reward that its owner has claimed: nothing else mints. Revenue (inference fees)
/// is split pro rata of the shares at the moment it arrives, by a cumulative amount per share.
contract Shares is ERC20, ERC20Permit, ERC20Votes, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    uint256 private constant SCALE = 1 << 96; // of perShare

    bytes32 public immutable run;
    IERC20 public immutable token; // of the revenue
    IClaimed public immutable runs;

    /// @notice Revenue in the contract: owed to holders, waiting for a first holder, or dust below one unit.
    uint256 public held;
    /// @notice Revenue that came before there was a share; the next distribution takes it along.
    uint256 public waiting;
    uint256 public perShare; // cumulative revenue of one share, times SCALE
    uint256 private _rest; // revenue times SCALE that did not divide; less than the supply
    mapping(address holder => uint256) public minted;
    mapping(address holder => uint256) private _seen; // perShare up to which _owed is right
    mapping(address holder => uint256) private _owed;

    event Distributed(address indexed from, uint256 amount);
    event Collected(address indexed holder, uint256 amount);

    error NothingToMint();
    error NothingToCollect();
    error ZeroAmount();

    constructor(bytes32 run_, IERC20 token_, IClaimed runs_, string memory name_, string memory symbol_)
        ERC20(name_, symbol_)
        ERC20Permit(name_)
    {
        run = run_;
        token = token_;
        runs = runs_;
    }

    /// @notice Mints the shares of what `account` has claimed since the last time. Anyone may call.
    function mint(address account) external nonReentrant returns (uint256 amount) {
        uint256 earned = runs.claimed(run, account);
        amount = earned - minted[account];
        if (amount == 0) revert NothingToMint();
        minted[account] = earned;
        _mint(account, amount);
    }

    function distribute(uint256 amount) external nonReentrant {
        if (amount == 0) revert ZeroAmount();
        Money.take(token, msg.sender, amount);
        held += amount;
        waiting += amount;
        emit Distributed(msg.sender, amount);
        uint256 supply = totalSupply();
        if (supply == 0) return;
        uint256 x = waiting * SCALE + _rest;
        waiting = 0;
        perShare += x / supply;
        _rest = x % supply;
    }

    /// @notice Pays `holder` what its shares have earned. Anyone may call.
    function collect(address holder) external nonReentrant returns (uint256 amount) {
        _settle(holder);
        amount = _owed[holder];
        if (amount == 0) revert NothingToCollect();
        _owed[holder] = 0;
        held -= amount;
        emit Collected(holder, amount);
        token.safeTransfer(holder, amount);
    }

    function owed(address holder) external view returns (uint256) {
        return _owed[holder] + (balanceOf(holder) * (perShare - _seen[holder])) / SCALE;
    }

    function _settle(address holder) private {
        uint256 p = perShare;
        uint256 seen = _seen[holder];
        if (seen == p) return;
        _seen[holder] = p;
        _owed[holder] += (balanceOf(holder) * (p - seen)) / SCALE;
    }

    function _update(address from, address to, uint256 value) internal override(ERC20, ERC20Votes) {
        if (from != address(0)) _settle(from);
        if (to != address(0)) _settle(to);
        super._update(from, to, value);
    }

    function nonces(address owner) public view override(ERC20Permit, Nonces) returns (uint256) {
        return super.nonces(owner);
    }

    function clock() public view override returns (uint48) {
        return uint48(block.timestamp);
    }

    // solhint-disable-next-line func-name-mixedcase
    function CLOCK_MODE() public pure override returns (string memory) {
        return "mode=timestamp";
    }
}

/// @title Makes the share token of a run; apart because of its size.
contract ShareFactory {
    IClaimed public immutable runs;

    error NotRuns();

    constructor(IClaimed runs_) {
        runs = runs_;
    }

    function create(bytes32 run, IERC20 token, string calldata symbol) external returns (Shares) {
        if (msg.sender != address(runs)) revert NotRuns();
        return new Shares(run, token, runs, string.concat("Shoal run ", symbol), symbol);
    }
}
