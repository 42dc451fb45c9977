// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";

/// @title What governance may do to a contract of the core.
/// @notice `governor` is a timelock: it changes parameters within bounds, unpauses and names the `guardian`, who may only
/// pause: one that does so without need, again and again, is replaced.
/// Pausing stops deposits and proposals. It never stops a withdrawal, a claim or a dispute.
abstract contract Governed is Pausable {
    address public immutable governor;
    address public guardian;

    event GuardianSet(address guardian);

    error NotGovernor();

    constructor(address governor_, address guardian_) {
        governor = governor_;
        guardian = guardian_;
    }

    modifier onlyGovernor() {
        if (msg.sender != governor) revert NotGovernor();
        _;
    }

    function pause() external {
        if (msg.sender != governor && msg.sender != guardian) revert NotGovernor();
        _pause();
    }

    function unpause() external onlyGovernor {
        _unpause();
    }

    function setGuardian(address guardian_) external onlyGovernor {
        guardian = guardian_;
        emit GuardianSet(guardian_);
    }
}
