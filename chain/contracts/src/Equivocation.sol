// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";
import {Staking} from "./Staking.sol";

/// @title Finds one field of a message body: a map in canonical DAG-CBOR.
library Cbor {
    error BadBody();

    /// @dev Returns [start, end) of the value under the text key `key` of the map that `b` is.
    function field(bytes calldata b, bytes memory key) internal pure returns (uint256 start, uint256 end) {
        (uint256 major, uint256 pairs, uint256 pos) = head(b, 0);
        if (major != 5) revert BadBody();
        bytes32 want = keccak256(key);
        for (; pairs > 0; --pairs) {
            (uint256 m, uint256 n, uint256 text) = head(b, pos);
            if (m != 3 || n > b.length - text) revert BadBody();
            pos = skip(b, text + n);
            if (keccak256(b[text:text + n]) == want) return (text + n, pos);
        }
        revert BadBody();
    }

    /// @dev The unsigned integer under `key`.
    function number(bytes calldata b, bytes memory key) internal pure returns (uint256 n) {
        (uint256 start,) = field(b, key);
        uint256 major;
        (major, n,) = head(b, start);
        if (major != 0) revert BadBody();
    }

    /// @dev Major type and argument of the item at `pos`, and where its content begins.
    function head(bytes calldata b, uint256 pos) internal pure returns (uint256 major, uint256 arg, uint256 next) {
        if (pos >= b.length) revert BadBody();
        uint8 x = uint8(b[pos]);
        major = x >> 5;
        arg = x & 31;
        next = pos + 1;
        if (arg < 24) return (major, arg, next);
        if (arg > 27) revert BadBody();
        uint256 n = 1 << (arg - 24);
        if (next + n > b.length) revert BadBody();
        arg = 0;
        for (uint256 i; i < n; ++i) arg = (arg << 8) | uint8(b[next + i]);
        next += n;
    }

    /// @dev Where the item at `pos` ends. Nothing recurses: open containers only raise the number of items to come.
    function skip(bytes calldata b, uint256 pos) internal pure returns (uint256) {
        for (uint256 todo = 1; todo > 0; --todo) {
            (uint256 major, uint256 n, uint256 next) = head(b, pos);
            pos = next;
            if (major == 2 || major == 3) {
                if (n > b.length - pos) revert BadBody();
                pos += n;
            } else if (major == 4 || major == 5) {
                if (n > b.length) revert BadBody();
                todo += major == 4 ? n : 2 * n;
            } else if (major == 6) {
                todo += 1;
            }
        }
        return pos;
    }
}

/// @title Evidence that convicts by itself: two deltas or two votes of one peer for one parent, two attestations for one
/// round, or one that surrounds another (Casper FFG, Buterin and Griffith 2017, conditions I and II).
/// @notice The signatures are those of the swarm's own messages (EIP-191 over keccak256("shoal/1" ‖ kind ‖ len(run) ‖
/// run ‖ body)), so what a peer said to its neighbours is the evidence.
contract Equivocation {
    uint8 public constant DELTA = 2;
    uint8 public constant VOTE = 3;
    uint8 public constant ATTEST = 4;
    uint256 public constant SLASH_BPS = 5_000; // of each of the account's stakes
    uint256 public constant REPORTER_BPS = 2_000; // of what is slashed; the rest is burned

    Staking public immutable staking;
    /// @notice One conviction for a key, kind, run and place, whatever the number of messages: see Equivocated.
    mapping(bytes32 offence => bool) public convicted;

    /// @dev `place` is the keccak256 of the parent as the bodies have it, or the later of the attestations' rounds.
    event Equivocated(address indexed key, address indexed account, uint8 kind, bytes32 place, address indexed reporter);

    error BadKind();
    error BadRun();
    error BadSignature();
    error SameMessage();
    error OtherParent();
    error NoConflict();
    error KeyUnknown();
    error AlreadyConvicted();

    constructor(Staking staking_) {
        staking = staking_;
    }

    /// @dev Two messages of one kind about one run, with their signatures.
    struct Evidence {
        uint8 kind;
        bytes run; // the CID
        bytes bodyA;
        bytes sigA;
        bytes bodyB;
        bytes sigB;
    }

    function report(Evidence calldata v) external {
        if (v.kind < DELTA || v.kind > ATTEST) revert BadKind();
        if (v.run.length > 64) revert BadRun();
        if (keccak256(v.bodyA) == keccak256(v.bodyB)) revert SameMessage();
        address key = _signer(v.kind, v.run, v.bodyA, v.sigA);
        if (key != _signer(v.kind, v.run, v.bodyB, v.sigB)) revert BadSignature();
        bytes32 place = v.kind == ATTEST ? _conflict(v.bodyA, v.bodyB) : _parent(v.bodyA);
        if (v.kind != ATTEST && place != _parent(v.bodyB)) revert OtherParent();
        address account = staking.answerable(key);
        uint256[2] memory stakes = [staking.slashable(account, 0), staking.slashable(account, 1)];
        if (account == key && stakes[0] + stakes[1] == 0) revert KeyUnknown();
        bytes32 offence = keccak256(abi.encode(key, v.kind, keccak256(v.run), place));
        if (convicted[offence]) revert AlreadyConvicted();
        convicted[offence] = true;
        emit Equivocated(key, account, v.kind, place, msg.sender);
        for (uint8 role; role < 2; ++role) {
            uint256 amount = (stakes[role] * SLASH_BPS) / 10_000;
            if (amount > 0) staking.slash(account, role, amount, msg.sender, REPORTER_BPS);
        }
    }

    function _signer(uint8 kind, bytes calldata run, bytes calldata body, bytes calldata sig)
        private
        pure
        returns (address who)
    {
        bytes32 inner = keccak256(abi.encodePacked("shoal/1", kind, uint8(run.length), run, body));
        ECDSA.RecoverError err;
        (who, err,) = ECDSA.tryRecoverCalldata(MessageHashUtils.toEthSignedMessageHash(inner), sig);
        if (err != ECDSA.RecoverError.NoError) revert BadSignature();
    }

    /// @dev The later round of two attestations that one peer must not both have signed.
    function _conflict(bytes calldata a, bytes calldata b) private pure returns (bytes32) {
        (uint256 roundA, uint256 sourceA) = (Cbor.number(a, "round"), Cbor.number(a, "sourceRound"));
        (uint256 roundB, uint256 sourceB) = (Cbor.number(b, "round"), Cbor.number(b, "sourceRound"));
        bool guilty = roundA == roundB || (sourceA < sourceB && roundB < roundA) || (sourceB < sourceA && roundA < roundB);
        if (!guilty) revert NoConflict();
        return bytes32(roundA > roundB ? roundA : roundB);
    }

    function _parent(bytes calldata body) private pure returns (bytes32) {
        (uint256 start, uint256 end) = Cbor.field(body, "parent");
        return keccak256(body[start:end]);
    }
}
