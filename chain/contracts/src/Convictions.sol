// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Money} from "./Money.sol";
import {Runs} from "./Runs.sol";
import {Settlement} from "./Settlement.sol";
import {Staking} from "./Staking.sol";
import {Token} from "./Token.sol";

/// @dev What the validators of a run say of one of its peers, once the run's final commits have convicted it.
struct Conviction {
    bytes32 run;
    address key; // the peer's
    bytes32 subject; // sha2-256 of the CID of the work that was wrong
    bytes32 evidence; // sha2-256 of the CID of what anybody can run again
    uint16 bps; // parts per 10,000 of each of the account's stakes
}

/// @title Slashing for what only a replay can show: wrong work, withheld audit material, false verdicts.
/// @notice Two thirds of the validators' stake sign; the accused may appeal to governance; then anyone carries it out.
/// Part of what is slashed goes to the pool of the run that was harmed, the rest is burned. Nobody who judges gets any.
contract Convictions is EIP712, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    uint16 public constant MAX_BPS = 5_000;
    uint256 public constant POOL_BPS = 5_000; // of what is slashed
    bytes32 private constant CONVICTION_TYPE =
        keccak256("Conviction(bytes32 run,address key,bytes32 subject,bytes32 evidence,uint16 bps)");

    enum Phase {
        None,
        Reported,
        UnderAppeal,
        Dismissed,
        Punished
    }

    struct Sentence {
        bytes32 run;
        address account; // whose stake answers for the key
        uint48 deadline; // of the time to appeal, then of the time to rule
        uint16 bps;
        Phase phase;
        address appellant;
    }

    Token public immutable token;
    Settlement public immutable settlement;
    Runs public immutable runs;
    Staking public immutable staking;
    uint128 public immutable bond; // of an appeal

    /// @notice Bonds of appeals.
    uint256 public held;
    mapping(bytes32 id => Sentence) private _sentences;

    event Reported(bytes32 indexed run, bytes32 indexed id, address indexed account, Conviction conviction, uint48 deadline);
    event Appealed(bytes32 indexed run, bytes32 indexed id, address indexed account, uint48 deadline);
    event Closed(bytes32 indexed run, bytes32 indexed id, address indexed account, bool guilty, uint256 taken);

    error AlreadyConvicted();
    error BadConviction();
    error BadSignature();
    error TooFewVotes();
    error TooEarly();
    error TooLate();
    error WrongPhase();
    error NotAccused();
    error NotGovernor();

    constructor(Token token_, Settlement settlement_, Runs runs_, Staking staking_, uint128 bond_)
        EIP712("Shoal Convictions", "1")
    {
        token = token_;
        settlement = settlement_;
        runs = runs_;
        staking = staking_;
        bond = bond_;
    }

    /// @notice Names an offence: a run, a key and a subject. It is punished once, whatever the evidence.
    function idOf(Conviction calldata c) public pure returns (bytes32) {
        return keccak256(abi.encode(c.run, c.key, c.subject));
    }

    /// @notice Reports a conviction. `signatures` are by hot keys of validators, ascending by the keys' owners. Stakes
    /// count as they were when the run's present epoch began, against the total of then or of now, whichever is higher:
    /// neither who has staked just now nor who once was nearly alone may convict.
    function convict(Conviction calldata c, bytes[] calldata signatures) external {
        bytes32 id = idOf(c);
        if (_sentences[id].phase != Phase.None) revert AlreadyConvicted();
        if (c.bps == 0 || c.bps > MAX_BPS) revert BadConviction();
        _count(c, signatures);
        address account = staking.answerable(c.key);
        uint48 deadline = uint48(block.timestamp + settlement.params().appealWindow);
        _sentences[id] = Sentence(c.run, account, deadline, c.bps, Phase.Reported, address(0));
        emit Reported(c.run, id, account, c, deadline);
    }

    /// @notice Takes a conviction to governance, by the accused, for a bond that is lost if the conviction stands.
    function appeal(bytes32 id) external nonReentrant {
        Sentence storage s = _sentences[id];
        if (s.phase != Phase.Reported) revert WrongPhase();
        if (block.timestamp > s.deadline) revert TooLate();
        if (staking.accountOf(msg.sender) != s.account) revert NotAccused();
        (s.phase, s.appellant) = (Phase.UnderAppeal, msg.sender);
        s.deadline = uint48(block.timestamp + settlement.params().rulingWindow);
        held += bond;
        emit Appealed(s.run, id, s.account, s.deadline);
        Money.take(token, msg.sender, bond);
    }

    /// @notice Governance's word on an appeal.
    function rule(bytes32 id, bool guilty) external nonReentrant {
        if (msg.sender != settlement.governor()) revert NotGovernor();
        Sentence storage s = _sentences[id];
        if (s.phase != Phase.UnderAppeal) revert WrongPhase();
        if (block.timestamp > s.deadline) revert TooLate();
        if (guilty) {
            _punish(id, s);
            return;
        }
        s.phase = Phase.Dismissed;
        held -= bond;
        emit Closed(s.run, id, s.account, false, 0);
        IERC20(token).safeTransfer(s.appellant, bond);
    }

    /// @notice Carries out a conviction that was not appealed, or not ruled on, in time.
    function execute(bytes32 id) external nonReentrant {
        Sentence storage s = _sentences[id];
        if (s.phase != Phase.Reported && s.phase != Phase.UnderAppeal) revert WrongPhase();
        if (block.timestamp <= s.deadline) revert TooEarly();
        _punish(id, s);
    }

    // What others read.

    function sentenceOf(bytes32 id) external view returns (Sentence memory) {
        return _sentences[id];
    }

    function digestOf(Conviction calldata c) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(CONVICTION_TYPE, c)));
    }

    function domainSeparator() external view returns (bytes32) {
        return _domainSeparatorV4();
    }

    function _count(Conviction calldata c, bytes[] calldata signatures) private view {
        uint64 number = runs.epochAt(c.run, block.timestamp);
        if (number == 0) revert TooEarly();
        (uint256 begin,) = runs.span(c.run, number);
        bytes32 digest = digestOf(c);
        address[] memory signers = new address[](signatures.length);
        for (uint256 i; i < signatures.length; ++i) {
            (address who, ECDSA.RecoverError err,) = ECDSA.tryRecoverCalldata(digest, signatures[i]);
            if (err != ECDSA.RecoverError.NoError) revert BadSignature();
            signers[i] = who;
        }
        (uint256 sum, uint256 total) = staking.tally(signers, begin);
        uint256 present = staking.totalOf(1);
        if (present > total) total = present;
        if (total == 0 || sum * 3 < total * 2) revert TooFewVotes();
    }

    function _punish(bytes32 id, Sentence storage s) private {
        if (s.phase == Phase.UnderAppeal) {
            held -= bond;
            token.burn(bond);
        }
        s.phase = Phase.Punished;
        uint256 taken;
        uint256 part;
        for (uint8 role; role < 2; ++role) {
            uint256 amount = (staking.slashable(s.account, role) * s.bps) / 10_000;
            if (amount == 0) continue;
            taken += staking.slash(s.account, role, amount, address(this), POOL_BPS);
            part += (amount * POOL_BPS) / 10_000;
        }
        if (part > 0) {
            Runs.Run memory r = runs.get(s.run);
            if (r.ended == 0 && !r.paused && !runs.paused() && address(r.token) == address(token)) {
                token.approve(address(runs), part);
                runs.fund(s.run, uint128(part));
            } else {
                token.burn(part);
            }
        }
        emit Closed(s.run, id, s.account, true, taken);
    }
}
